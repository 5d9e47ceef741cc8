"""Elimination for arms that have to warm up: what an arm brings depends on how much it was taken lately.

A job that resumes needs a while until its metric tells of it again: optimizer state, normalisation statistics,
learning-rate re-warm-up, caches. In a weighted tallying bandit the loss of arm x is `h_x(y)` on average, with
`y = sum_(j < m) w_j [x was taken j rounds ago]`. If some arm, taken for ever, ends no worse than anything
else (repeated exposure is optimal), arms must be judged by long runs, and by what comes after the first m rounds of
each.

Source: Malik et al., Weighted Tallying Bandits, arXiv:2305.02955.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from frugalbo.bandits.contract import Array, MixedBandit, require_count, uniform


@dataclass(eq=False)
class WarmupElimination(MixedBandit):
    """Successive elimination that takes each arm in one long run and discards the first rewards of it.

    In epoch e, each arm that remains is taken `M + n_e` times running; the first M rewards are discarded, and an arm
    is out if the mean of the others plus its radius is below another's less its radius, `sqrt(log(2 K T) / (2 n_e))`.
    Complete policy regret is of the order of `sqrt(K T) + (m + M) K` up to logarithms. The longer of too small an M
    is a wrong elimination; of too large an M, `(M - m) K` wasted rounds in each of a few epochs.

    An arm that somebody takes in between is cold afterwards: its next M rewards are discarded again. Deviations:
    the arm that is warm where an epoch begins comes first in it, and discards nothing; n_e begins at `2 log(2 K T)`,
    the first length after which any arm can be out, and doubles.

    Args:
        warmup: M, at least the memory m of the arms; 0 for arms without.
        horizon: T, the rounds for which the intervals are to hold.
    """

    warmup: int
    horizon: int
    remaining: NDArray[np.bool_] = field(init=False)
    counts: NDArray[np.int64] = field(init=False)
    sums: Array = field(init=False)
    epoch: int = field(init=False)
    arm: int = field(init=False)
    run: int = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("horizon", self.horizon)
        if self.warmup != 0:
            require_count("warmup", self.warmup)
        self.remaining = np.ones(self.n_arms, bool)
        self.epoch = 0
        self.arm, self.run = -1, 0  # which arm is being taken, and for how many rounds
        self._begin()

    def _begin(self) -> None:
        self.counts = np.zeros(self.n_arms, np.int64)
        self.sums = np.zeros(self.n_arms)

    @property
    def _log(self) -> float:
        return math.log(2 * self.n_arms * self.horizon)

    @property
    def length(self) -> int:
        """n_e, the rewards of an arm that count in this epoch."""
        return math.ceil(2 * self._log) * 2**self.epoch

    def probabilities(self) -> Array:
        """One for the arm whose run is not over; where none is, equal for the arms to come in this epoch."""
        todo = self.remaining & (self.counts < self.length)
        if self.arm >= 0 and todo[self.arm]:
            todo = np.arange(self.n_arms) == self.arm
        return uniform(todo)

    def recommend(self) -> int:
        """The arm that remains; while there are several, the best mean of this epoch, else the first of them."""
        means = np.where(self.counts > 0, self.sums / np.maximum(self.counts, 1), 0.0)
        return int(np.where(self.remaining, means, -1.0).argmax())

    def _learn(self, arm: int, reward: float) -> None:
        self.run = self.run + 1 if arm == self.arm else 1
        self.arm = arm
        if self.run > self.warmup and self.remaining[arm]:
            self.counts[arm] += 1
            self.sums[arm] += reward
        if (self.counts[self.remaining] >= self.length).all():
            self._end()

    def _end(self) -> None:
        means = self.sums / np.maximum(self.counts, 1)
        radius = math.sqrt(self._log / (2 * self.length))
        self.remaining = self.remaining & (means + radius >= (means - radius)[self.remaining].max())
        self.epoch += 1
        self._begin()
