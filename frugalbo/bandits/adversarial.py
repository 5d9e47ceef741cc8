"""Bandits that assume nothing of the rewards but their range: arms may change, or be made to deceive.

Follow the regularised leader: with `L_a` the sum of the estimated losses of arm a,

    p = argmin_p  <p, L> + Psi(p) / eta_t,      an estimate is  loss / p_a  for the arm taken, 0 for the others

| class | Psi(p) | eta_t | regret at most |
|---|---|---|---|
| `Exp3` | sum p ln p | sqrt(ln K / (K t)) | 2 sqrt(K T ln K) |
| `Exp3IX` | sum p ln p | sqrt(2 ln K / (K t)) | the same order, with high probability |
| `TsallisINF` | -4 sum sqrt(p) | 2 / sqrt(t) | 4 sqrt(K T) + 1; of order log T if the arms do not change |
| `LogBarrier` | sum ln(1/p) | sqrt(K ln(t + 1) / t) | order sqrt(K T ln T), also where losses are below 0 |

Sources: Auer et al., SIAM J. Comput. 32, 2002 (Exp3); Neu, arXiv:1506.03271 (IX); Zimmert and Seldin,
arXiv:1807.07623 (Tsallis-INF, IW estimator); Dai et al., arXiv:2301.12942 (log barrier). All with learning rates that
need no horizon: the first and last have those of a known T in their sources, with T in the place of t.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from frugalbo.bandits.contract import Array, MixedBandit
from frugalbo.errors import BanditError

_NEWTON_STEPS: Final = 60
_LEAST: Final = 1e-300


def entropy_weights(L: Array, eta: float) -> Array:
    """`p_a` proportional to `exp(-eta L_a)`, shape `(K,)` as `L`."""
    w = np.exp(-eta * (L - L.min()))
    return w / w.sum()


def barrier_weights(L: Array, eta: float, power: int) -> Array:
    """`p_a = (power / (eta (L_a - min L + x)))^power` with x such that they sum to one, shape `(K,)` as `L`.

    Power 1 is the log barrier, power 2 Tsallis entropy of 1/2. The sum is convex and falls in x, and is at least
    one at `x = power / eta`, so Newton's method from there goes up to the solution and never past it.
    """
    gaps = eta * (L - L.min()) / power
    x = 1.0
    for _ in range(_NEWTON_STEPS):
        p = (gaps + x) ** -power
        step = (p.sum() - 1) / (power * (p / (gaps + x)).sum())
        x += step
        if step < 1e-12 * x:
            break
    p = (gaps + x) ** -power
    return p / p.sum()


@dataclass(eq=False)
class Leader(MixedBandit):
    """Follows the regularised leader; a subclass says by which regulariser and how fast.

    Of feedback that comes late, say with which `probability` the arm had been taken, so that estimates stay unbiased;
    of an arm that was tried for reasons of somebody else's, that of these reasons, 1 if it is always tried.
    """

    t: int = field(init=False)
    losses: Array = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.t = 0
        self.losses = np.zeros(self.n_arms)

    @abstractmethod
    def rate(self) -> float:
        """The learning rate of the next round, t + 1."""

    @abstractmethod
    def weights(self, losses: Array, rate: float) -> Array:
        """The distribution that these estimated losses lead to."""

    def estimate(self, reward: float, probability: float) -> float:
        """The estimated loss of an arm that was taken with this probability."""
        return (1 - reward) / probability

    def probabilities(self) -> Array:
        """`argmin <p, L> + Psi(p) / eta`."""
        return self.weights(self.losses, self.rate())

    def update(
        self, arm: int, reward: float, cost: Sequence[float] | None = None, *, probability: float | None = None
    ) -> None:
        """Learn what `arm` brought, which had been taken with `probability`; by default that of this moment.

        Raises:
            BanditError: If there is no such arm, or the reward or probability is out of range.
        """
        arm, reward = self._checked(arm, reward)
        if probability is not None and not 0 < probability <= 1:
            raise BanditError(f"expected a probability above 0 and at most 1, got {probability!r}")
        self._learn(arm, reward, probability)

    def _learn(self, arm: int, reward: float, probability: float | None = None) -> None:
        p = self.probabilities()[arm] if probability is None else probability
        # An arm may be told of that would never have been taken; 1e-300 keeps its estimate a number.
        self.losses[arm] += self.estimate(reward, max(float(p), _LEAST))
        self.t += 1


@dataclass(eq=False)
class Exp3(Leader):
    """Exponential weights: `p_a` proportional to `exp(-eta L_a)`."""

    def rate(self) -> float:
        """`sqrt(ln K / (K t))`."""
        return math.sqrt(math.log(max(self.n_arms, 2)) / (self.n_arms * (self.t + 1)))

    def weights(self, losses: Array, rate: float) -> Array:
        """Proportional to `exp(-eta L)`."""
        return entropy_weights(losses, rate)


@dataclass(eq=False)
class Exp3IX(Exp3):
    """Exp3 with implicit exploration: an estimate is `loss / (p + eta / 2)`, a little too small.

    So no estimate is huge, and the bound holds with high probability and not only on average.
    """

    def rate(self) -> float:
        """`sqrt(2 ln K / (K t))`."""
        return math.sqrt(2) * super().rate()

    def estimate(self, reward: float, probability: float) -> float:
        """`loss / (p + eta / 2)`."""
        return (1 - reward) / (probability + self.rate() / 2)


@dataclass(eq=False)
class TsallisINF(Leader):
    """Tsallis entropy of 1/2: the best rate against an adversary, and UCB's rate where arms do not change.

    What to take if nothing speaks for another one.
    """

    def rate(self) -> float:
        """`2 / sqrt(t)`."""
        return 2 / math.sqrt(self.t + 1)

    def weights(self, losses: Array, rate: float) -> Array:
        """`4 / (eta (L - x))^2`."""
        return barrier_weights(losses, rate, power=2)


@dataclass(eq=False)
class LogBarrier(Leader):
    """The log barrier, for which losses may have any sign: a baseline may be subtracted from the rewards.

    A loss is `baseline - reward`. With the reward of what one would have done anyway as a baseline, most losses
    are near 0 and so are their estimates, which is what the regret grows with; but some are below 0, and
    an estimate of -1/p lets the weights of `Exp3` jump to one arm, while here they change by a bounded factor.

    Args:
        baseline: In [0, 1]; at 1 losses are as in the other classes.
    """

    baseline: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.baseline <= 1:
            raise BanditError(f"expected a baseline in [0, 1], got {self.baseline!r}")

    def rate(self) -> float:
        """`sqrt(K ln(t + 1) / t)`, at most 1/2."""
        t = self.t + 1
        return min(0.5, math.sqrt(self.n_arms * math.log(t + 1) / t))

    def estimate(self, reward: float, probability: float) -> float:
        """`(baseline - reward) / p`."""
        return (self.baseline - reward) / probability

    def weights(self, losses: Array, rate: float) -> Array:
        """`1 / (eta (L + x))`."""
        return barrier_weights(losses, rate, power=1)
