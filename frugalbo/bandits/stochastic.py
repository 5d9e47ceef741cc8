"""Bandits for arms whose rewards are independent draws: an arm today is what it was yesterday.

| symbol | meaning |
|---|---|
| K, T | arms; rounds in all |
| n_a, mu_a | pulls of arm a; the mean of what they brought |
| t | pulls of all arms so far |
| Delta_a | by how much the mean of arm a is below the best one |

Source: Slivkins, Introduction to Multi-Armed Bandits, arXiv:1904.07272, chapters 1 and 3.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from frugalbo.bandits.contract import Array, Bandit, MixedBandit, first_of, require_count, uniform
from frugalbo.errors import BanditError


@dataclass(eq=False)
class CountingBandit(Bandit):
    """One that remembers of each arm how often it was pulled and the sum of what it brought."""

    counts: NDArray[np.int64] = field(init=False)
    sums: Array = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.counts = np.zeros(self.n_arms, np.int64)
        self.sums = np.zeros(self.n_arms)

    @property
    def means(self) -> Array:
        """The mean reward of each arm; 0 where there is none."""
        return self.sums / np.maximum(self.counts, 1)

    def recommend(self) -> int:
        """The arm of the largest mean: what to keep when the pulling ends. The first of equals.

        Raises:
            BanditError: If no arm was pulled yet.
        """
        if not self.counts.any():
            raise BanditError("expected at least one pull before an arm is recommended, got none")
        return int(np.where(self.counts > 0, self.means, -np.inf).argmax())

    def _learn(self, arm: int, reward: float) -> None:
        self.counts[arm] += 1
        self.sums[arm] += reward


@dataclass(eq=False)
class IndexBandit(CountingBandit, MixedBandit):
    """One that pulls each arm once, then the arm of the largest index."""

    def probabilities(self) -> Array:
        """Equal for the arms not pulled yet; then for those of the largest index."""
        new = self.counts == 0
        return uniform(new) if new.any() else first_of(self.indices())

    @abstractmethod
    def indices(self) -> Array:
        """How attractive each arm is, shape `(n_arms,)`; each was pulled at least once."""


@dataclass(eq=False)
class UCB1(IndexBandit):
    """Optimism: the upper end of a confidence interval, `mu_a + sqrt(2 log t / n_a)`.

    Regret of the order of `sum_a log T / Delta_a`, and `sqrt(K T log T)` whatever the gaps. Source: Auer,
    Cesa-Bianchi and Fischer, Machine Learning 47, 2002; Slivkins' form has the number of rounds T in the place
    of t, which has to be known then.
    """

    def indices(self) -> Array:
        """`mu_a + sqrt(2 log t / n_a)`."""
        return self.means + np.sqrt(2 * math.log(self.counts.sum()) / self.counts)


@dataclass(eq=False)
class KLUCB(IndexBandit):
    """Optimism with the interval that fits rewards in [0, 1] best, above all where means are near 0 or 1.

    The index is the largest `q` with `n_a kl(mu_a, q) <= log t`, with kl of Bernoulli variables. Source: Garivier
    and Cappé, The KL-UCB Algorithm, arXiv:1102.2490, with their c = 0, which they recommend in practice.
    """

    def indices(self) -> Array:
        """The largest such q, to 1e-6 of the interval in which Pinsker's inequality puts it."""
        level = math.log(self.counts.sum()) / self.counts
        low = np.clip(self.means, 1e-12, 1 - 1e-12)
        high = np.minimum(1 - 1e-12, low + np.sqrt(level / 2))  # Pinsker: kl(p, q) >= 2 (p - q)^2
        p = low
        own = p * np.log(p) + (1 - p) * np.log1p(-p)
        for _ in range(20):
            q = (low + high) / 2
            is_inside = own - p * np.log(q) - (1 - p) * np.log1p(-q) <= level
            low, high = np.where(is_inside, q, low), np.where(is_inside, high, q)
        return low


@dataclass(eq=False)
class EpsilonGreedy(CountingBandit, MixedBandit):
    """The best mean so far, but any arm with probability `min(1, (K log t / t)^(1/3))`.

    Regret of the order of `T^(2/3) (K log T)^(1/3)`. For comparison, and where exploration has to be seen and spread
    evenly. Source: Slivkins, section 1.2.
    """

    def probabilities(self) -> Array:
        """The mixture of the best means so far and of all arms."""
        t = int(self.counts.sum()) + 1
        # log t is at least 1 here, so that the first rounds explore.
        epsilon = min(1.0, (self.n_arms * max(1.0, math.log(t)) / t) ** (1 / 3))
        return (1 - epsilon) * first_of(self.means) + epsilon / self.n_arms


@dataclass(eq=False)
class SuccessiveElimination(CountingBandit, MixedBandit):
    """All arms in turns; those that are surely worse than another are never pulled again.

    An arm is out when `mu_a + r_a < mu_b - r_b` for another that is in, with `r = sqrt(2 log T / n)`. With
    probability `1 - 2/T^2` or so the best arm stays, so what is left is the answer of a search for the best arm.
    Source: Slivkins, section 1.3.

    Args:
        horizon: T, the rounds for which the intervals are to hold. Going on beyond them is allowed.
    """

    horizon: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("horizon", self.horizon)

    @property
    def remaining(self) -> NDArray[np.bool_]:
        """Which arms are in."""
        radius = np.sqrt(2 * math.log(self.horizon) / np.maximum(self.counts, 1))
        low = np.where(self.counts > 0, self.means - radius, -np.inf)
        return (self.counts == 0) | (self.means + radius >= low.max())

    def probabilities(self) -> Array:
        """Equal for those of the remaining arms that were pulled least."""
        return first_of(np.where(self.remaining, -self.counts, -np.inf))


@dataclass(eq=False)
class SequentialHalving(CountingBandit, MixedBandit):
    """Finds the best arm with a fixed number of pulls: each round halves the arms that are left.

    In each of `ceil(log2 K)` rounds, each arm that is left is pulled `floor(pulls / (left ceil(log2 K)))` times, and
    the better half stays. It errs with probability of the order `log K exp(-pulls / (H log K))` where H is the largest
    `rank / Delta_rank^2`. Source: Karnin, Koren and Somekh, ICML 2013. Deviation: means are of all pulls of
    an arm and not of the round's alone.

    Args:
        pulls: How many there are, at least `K ceil(log2 K)`. What the rounds leave over is not used.

    Raises:
        BanditError: If there are too few pulls for the first round.
    """

    pulls: int
    is_left: NDArray[np.bool_] = field(init=False)
    todo: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("pulls", self.pulls)
        least = self.n_arms * self._rounds
        if self.pulls < least:
            raise BanditError(f"expected at least {least} pulls to halve {self.n_arms} arms, got {self.pulls}")
        self.is_left = np.ones(self.n_arms, bool)
        self.todo = self._round()

    @property
    def _rounds(self) -> int:
        return max(1, math.ceil(math.log2(self.n_arms)))

    def _round(self) -> NDArray[np.int64]:
        """How often each arm is pulled in the round that begins."""
        each = self.pulls // (int(self.is_left.sum()) * self._rounds)
        return np.where(self.is_left, each, 0)

    @property
    def is_over(self) -> bool:
        """Whether all rounds are done."""
        return not self.todo.any()

    def probabilities(self) -> Array:
        """Equal for the arms of the round that have the most pulls to go."""
        if self.is_over:
            raise BanditError(f"all rounds of {self.pulls} pulls are done; `recommend` says which arm is best")
        return first_of(self.todo.astype(float))

    def recommend(self) -> int:
        """The arm that is left; before the end, the best mean of those that are left."""
        super().recommend()
        return int(np.where(self.is_left & (self.counts > 0), self.means, -np.inf).argmax())

    def _learn(self, arm: int, reward: float) -> None:
        super()._learn(arm, reward)
        if not self.todo[arm]:  # what somebody else learned of it
            return
        self.todo[arm] -= 1
        if not self.todo.any() and self.is_left.sum() > 1:
            keep = math.ceil(self.is_left.sum() / 2)
            ranked = np.argsort(np.where(self.is_left, -self.means, np.inf), kind="stable")
            self.is_left = np.isin(np.arange(self.n_arms), ranked[:keep])
            if keep > 1:
                self.todo = self._round()
