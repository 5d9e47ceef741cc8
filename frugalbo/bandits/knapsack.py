"""Bandits with knapsacks: each pull costs something of several resources, and there is only so much of each.

| symbol | meaning |
|---|---|
| K, d, T | arms; resources; the most pulls there may be |
| B_i, M_i | the budget of resource i; the largest cap on what one pull takes of it |
| rho_i | `B_i / (M_i T)`, what a pull may take on average, as a share of M_i |

What is compared with is the best *mixture* of arms, which can be worth twice the best arm. The budgets are hard: an
arm is taken only if its cap fits into what is left, so nothing is overspent as long as no pull costs more than its
cap. Where several pulls run at a time, `hold` sets the cap of each aside until its update.

Source: Slivkins, Introduction to Multi-Armed Bandits, arXiv:1904.07272, chapter 10. Deviations, in both: there is no
arm that does nothing, as the budgets are all that waiting could save; and the last pulls are of the arms that are
still affordable, where the source stops when the first resource is used up.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from frugalbo.bandits.adversarial import barrier_weights, entropy_weights
from frugalbo.bandits.contract import Array, MixedBandit, require_count, require_positive, uniform
from frugalbo.bandits.linear_program import best_mixture
from frugalbo.errors import BanditError

# Sums of floats drift by some units in the last place; the last pull that fits exactly must not be refused.
_ROUNDING: Final = 1e-9


@dataclass(eq=False)
class KnapsackBandit(MixedBandit):
    """One with budgets; a subclass says how affordable arms are mixed.

    Args:
        horizon: T; if the budgets alone limit the pulls, any number that they cannot pay for.
        budgets: Of each resource, above 0, shape `(d,)`.
        caps: The most that a pull can cost, above 0 in each resource for some arm, shape `(K, d)`, or `(d,)` if it is
            the same for all arms.

    Raises:
        BanditError: If something has another shape or sign.
    """

    horizon: int
    budgets: Sequence[float]
    caps: Sequence[Sequence[float]] | Sequence[float]
    t: int = field(init=False)
    spent: Array = field(init=False)
    held: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("horizon", self.horizon)
        self._budgets = _amounts("budgets", self.budgets)
        d = self._budgets.shape
        if len(d) != 1 or not d[0] or not (self._budgets > 0).all():
            raise BanditError(f"expected budgets above 0, one for each resource, got {self.budgets!r}")
        caps = _amounts("caps", self.caps)
        if caps.shape not in (d, (self.n_arms, *d)):
            raise BanditError(f"expected caps of shape {(self.n_arms, *d)} or {d}, got {caps.shape}")
        self._caps = np.broadcast_to(caps, (self.n_arms, *d))
        self._unit = self._caps.max(axis=0)  # M_i
        if not (self._unit > 0).all():
            raise BanditError(f"expected for each resource an arm whose cap is above 0, got {self.caps!r}")
        self.budgets, self.caps = self._budgets.tolist(), caps.tolist()
        self.t = 0
        self.spent = np.zeros(d)
        self.held = np.zeros(self.n_arms, np.int64)

    @property
    def left(self) -> Array:
        """What is neither spent nor held, of each resource, `(d,)`; below 0 if pulls cost more than their caps."""
        return self._budgets - self.spent - self.held @ self._caps

    @property
    def affordable(self) -> NDArray[np.bool_]:
        """The arms whose caps fit into what is left, `(K,)`."""
        return np.all(self._caps <= self.left + _ROUNDING * self._budgets, axis=1)

    @property
    def is_over(self) -> bool:
        """Whether no arm is affordable, or as many pulls were made, or are held, as there may be."""
        return self.t + int(self.held.sum()) >= self.horizon or not self.affordable.any()

    def hold(self, arm: int) -> None:
        """Set the cap of `arm` aside until its next update.

        Raises:
            BanditError: If there is no such arm, or it is not affordable.
        """
        arm, _ = self._checked(arm, 0.0)
        if not self.affordable[arm]:
            raise BanditError(f"cannot hold {self._caps[arm].tolist()} for arm {arm}, {self.left.tolist()} is left")
        self.held[arm] += 1

    def update(self, arm: int, reward: float, cost: Sequence[float] | None = None) -> None:
        """Learn what `arm` brought and cost. A cost above its cap is charged as it is: the money is gone.

        Raises:
            BanditError: If there is no such arm, the reward is out of range, or the cost is not one amount of 0 or more
                for each resource; the state is as it was.
        """
        arm, reward = self._checked(arm, reward)
        amounts = _amounts("the cost", [] if cost is None else cost)
        if amounts.shape != self._budgets.shape:
            raise BanditError(f"expected a cost of {len(self._budgets)} amounts, got {cost!r}")
        self._learn_pull(arm, reward, np.minimum(amounts / self._unit, 1.0))
        self.spent = self.spent + amounts
        self._learn(arm, reward)

    def _learn(self, arm: int, reward: float) -> None:
        self.t += 1
        self.held[arm] = max(0, self.held[arm] - 1)

    @abstractmethod
    def _learn_pull(self, arm: int, reward: float, cost: Array) -> None:
        """Learn of a pull before it is charged and counted; the cost is in units of the largest cap, `(d,)`."""

    def probabilities(self) -> Array:
        """The mixture of the affordable arms."""
        if self.is_over:
            raise BanditError(f"nothing is affordable: {self.left.tolist()} is left after {self.t} pulls")
        mixture = np.zeros(self.n_arms)
        arms = np.flatnonzero(self.affordable)
        mixture[arms] = self._mixture(arms)
        return mixture

    @abstractmethod
    def _mixture(self, arms: NDArray[np.int64]) -> Array:
        """The probabilities of these arms, which are the affordable ones."""


@dataclass(eq=False)
class UCBBwK(KnapsackBandit):
    """Optimism: the best mixture if rewards were as high, and costs as low, as they may well be.

    Solves `max_p sum_a p_a UCB_a` subject to `sum_a p_a LCB_(a, i) <= what may be spent a pull`, with the
    radius `sqrt(c v / n) + c / n` of a mean v after n pulls and `c = confidence log(K (d + 1) T)`. Source: also
    Agrawal and Devanur, arXiv:1402.5758. Deviation: what may be spent a pull is what is left by the pulls that are
    left, where the source has B / T throughout; so early misfortune is made good.

    Args:
        confidence: Scales the intervals; proofs have at least 1, and a tenth of that does better where pulls are few.
    """

    confidence: float = 0.1
    counts: NDArray[np.int64] = field(init=False)
    rewards: Array = field(init=False)
    costs: Array = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("confidence", self.confidence)
        self.counts = np.zeros(self.n_arms, np.int64)
        self.rewards = np.zeros(self.n_arms)
        self.costs = np.zeros(self._caps.shape)

    def _learn_pull(self, arm: int, reward: float, cost: Array) -> None:
        self.counts[arm] += 1
        self.rewards[arm] += reward
        self.costs[arm] += cost

    def _mixture(self, arms: NDArray[np.int64]) -> Array:
        new = self.counts[arms] == 0
        if new.any():
            return uniform(new)
        n = self.counts[arms, None]
        values = (self.rewards[arms, None] / n)[:, 0]
        costs = self.costs[arms] / n
        rates = np.maximum(self.left / self._unit, 0.0) / (self.horizon - self.t)
        p = best_mixture(values + self.radius(values, n[:, 0]), np.maximum(costs - self.radius(costs, n), 0.0).T, rates)
        return p / p.sum() if p.any() else uniform(np.ones(len(arms), bool))

    def radius(self, means: Array, n: NDArray[np.int64]) -> Array:
        """Half of the interval of means in [0, 1] after n pulls each; shapes that broadcast."""
        c = self.confidence * math.log(self.n_arms * (len(self.spent) + 1) * self.horizon)
        return np.sqrt(c * means / n) + c / n


@dataclass(eq=False)
class LagrangeBwK(KnapsackBandit):
    """A game of two learners: one chooses arms, the other one prices for the resources.

    The payoff is `r + 1 - sum_i lambda_i c_i / rho` where lambda is the mixture of the priced resources, among which
    time costs `rho` each pull, and resources are rescaled so that each has the same `rho = min rho_i`. Arms are chosen
    by Tsallis-INF, prices by exponential weights: both keep up with arms that change, and there is no interval to
    be scaled. Source: also Immorlica et al., arXiv:1811.11881.
    """

    losses: Array = field(init=False)
    used: Array = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.losses = np.zeros(self.n_arms)
        self.used = np.zeros(len(self._budgets) + 1)  # time last, always rho
        self._rates = self._budgets / (self._unit * self.horizon)
        self._rho = min(1.0, float(self._rates.min()))

    @property
    def prices(self) -> Array:
        """lambda: how much each resource, and time, counts at present; shape `(d + 1,)`, sums to one."""
        return entropy_weights(-self.used, math.sqrt(8 * math.log(len(self.used)) / self.horizon))

    def _learn_pull(self, arm: int, reward: float, cost: Array) -> None:
        costs = np.append(cost * self._rho / self._rates, self._rho)
        payoff = reward + 1 - float(self.prices @ costs) / self._rho  # in [1 - 1 / rho, 2]
        # A pull that was held may be of an arm that is not affordable now; it counts as if it were certain.
        p = 1.0 if self.is_over else self.probabilities()[arm] or 1.0
        self.losses[arm] += (2 - payoff) / (1 + 1 / self._rho) / p
        self.used = self.used + costs

    def _mixture(self, arms: NDArray[np.int64]) -> Array:
        return barrier_weights(self.losses[arms], 2 / math.sqrt(self.t + 1), power=2)


def _amounts(name: str, values: object) -> Array:
    """Finite numbers of 0 or more, as an array of whatever shape they have.

    Raises:
        BanditError: If they are something else.
    """
    try:
        amounts = np.array(values, float)
    except (TypeError, ValueError):
        amounts = np.array(math.nan)
    if not (np.isfinite(amounts) & (amounts >= 0)).all():
        raise BanditError(f"expected {name} to be finite numbers of 0 or more, got {values!r}")
    return amounts
