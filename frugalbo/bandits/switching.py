"""Bandits for arms that cost something to change: a job has to be paused, and another one loaded.

An adversary can make any bandit that sees only what it takes lose at the order of `K^(1/3) T^(2/3)` where a switch
costs a unit, so `BatchedExp3` switches at most so often. Seeing all arms now and then, as when stored checkpoints of
all trials are validated, removes that: with B observations in all, `ShrinkingDartboard` loses of the order of
`T sqrt(K / B)` and switches about `sqrt(B / K)` times.

Sources: Cheng, Zhou and Ji, arXiv:2306.09588 (the rates); Arora, Dekel and Tewari, arXiv:1206.6400 (batches);
Geulen, Vöcking and Winkler, COLT 2010 (the dartboard).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from frugalbo.bandits.adversarial import Exp3, entropy_weights
from frugalbo.bandits.contract import Array, MixedBandit, require_count, require_positive
from frugalbo.errors import BanditError


@dataclass(eq=False)
class BatchedExp3(Exp3):
    """Exp3 that keeps an arm for a batch of rounds and learns from the batch's mean.

    With `N = (T sqrt(K) / (2 c))^(2/3)` batches, which minimises `T sqrt(K / N) + c N`: what is lost by learning
    from N batches, and by as many switches.

    Args:
        horizon: T, the rounds that are planned; going on beyond them is allowed.
        switch_cost: c, of one change of arms, in units of reward.
    """

    horizon: int
    switch_cost: float = 1.0
    arm: int = field(init=False)
    step: int = field(init=False)
    total: float = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("horizon", self.horizon)
        require_positive("switch_cost", self.switch_cost)
        self.arm, self.step, self.total = -1, 0, 0.0

    @property
    def batch(self) -> int:
        """The rounds of a batch."""
        batches = (self.horizon * math.sqrt(self.n_arms) / (2 * self.switch_cost)) ** (2 / 3)
        return min(self.horizon, max(1, round(self.horizon / batches)))

    def probabilities(self) -> Array:
        """Those of Exp3 where a batch begins; within it, one for its arm."""
        return _only(self.arm, self.n_arms) if self.step else super().probabilities()

    def _learn(self, arm: int, reward: float, probability: float | None = None) -> None:
        if arm != self.arm or not self.step:  # an arm that was not selected begins a batch of its own
            self.arm, self.step, self.total = arm, 0, 0.0
        self.step += 1
        self.total += reward
        if self.step >= self.batch:
            self.step = 0  # before the probabilities, which are those with which the batch began
            super()._learn(arm, self.total / self.batch, probability)


@dataclass(eq=False)
class ShrinkingDartboard(MixedBandit):
    """Exponential weights that see all arms once in a batch, and change arms as rarely as those weights allow.

    Where a batch begins, the arm is kept with probability `w_b(a) / w_(b-1)(a)`, and drawn from the new weights
    else: so each arm is held as often as if it were drawn anew each time. Once in each batch, at a round drawn
    uniformly, `wants_look` is true: then tell `look` what each arm would bring now. Nothing is learned from what
    the arm held brings.

        arm = bandit.select(rng)
        if bandit.wants_look(rng):
            bandit.look(rewards_of_all_arms)
        bandit.update(arm, reward)

    Deviation: weights are rescaled at each look so that the best arm's does not shrink. That changes no
    probability of the weights, and makes changes rarer still.

    Args:
        horizon: T, the rounds that are planned.
        observations: B, the looks at single arms that there may be in all, at least `n_arms`.

    Raises:
        BanditError: If there are too few observations for one look.
    """

    horizon: int
    observations: int
    arm: int = field(init=False)
    step: int = field(init=False)
    has_looked: bool = field(init=False)
    losses: Array = field(init=False)
    shrunk: Array = field(init=False)
    seen: Array = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("horizon", self.horizon)
        require_count("observations", self.observations)
        if self.observations < self.n_arms:
            raise BanditError(f"expected observations for a look at {self.n_arms} arms, got {self.observations}")
        self.arm, self.step, self.has_looked = -1, 0, False
        self.losses = np.zeros(self.n_arms)
        self.shrunk = np.zeros(self.n_arms)  # by what the weights shrank where this batch began, as losses
        self.seen = np.zeros(self.n_arms)  # the look of this batch

    @property
    def batches(self) -> int:
        """N = B / K, but no more than there are rounds."""
        return min(self.horizon, self.observations // self.n_arms)

    @property
    def batch(self) -> int:
        """The rounds of a batch."""
        return math.ceil(self.horizon / self.batches)

    @property
    def rate(self) -> float:
        """`sqrt(2 ln K / N)`."""
        return math.sqrt(2 * math.log(self.n_arms) / self.batches)

    def weights(self) -> Array:
        """Proportional to `exp(-eta L)`: the share of batches in which an arm is held, on average."""
        return entropy_weights(self.losses, self.rate)

    def keep(self, arm: int) -> float:
        """The probability that an arm is kept where this batch begins, not counting that it is drawn again."""
        return math.exp(-self.rate * self.shrunk[arm])

    def probabilities(self) -> Array:
        """Within a batch, one for its arm; where it begins, the arm is kept or drawn anew."""
        if self.arm < 0:
            return self.weights()
        held = _only(self.arm, self.n_arms)
        if self.step:
            return held
        keep = self.keep(self.arm)
        return keep * held + (1 - keep) * self.weights()

    def wants_look(self, rng: np.random.Generator) -> bool:
        """Whether this is the round of the batch to look at all arms: each is, with the same probability."""
        return not self.has_looked and rng.random() * (self.batch - self.step) < 1

    def look(self, rewards: Sequence[float]) -> None:
        """Learn what each arm would bring now.

        Raises:
            BanditError: If they are not as many as arms, or one is out of range; nothing is learned.
        """
        if len(rewards) != self.n_arms:
            raise BanditError(f"expected the rewards of {self.n_arms} arms, got {len(rewards)}")
        self.seen = self.seen + 1.0 - np.array([self._checked_reward(reward) for reward in rewards])
        self.has_looked = True

    def _learn(self, arm: int, reward: float) -> None:
        self.arm = arm
        self.step += 1
        if self.step == self.batch:
            self.losses = self.losses + self.seen
            self.shrunk = self.seen - self.seen.min()
            self.seen = np.zeros(self.n_arms)
            self.step, self.has_looked = 0, False


def _only(arm: int, n_arms: int) -> Array:
    one = np.zeros(n_arms)
    one[arm] = 1.0
    return one
