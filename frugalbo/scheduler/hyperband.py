"""Successive halving and Hyperband: a rung is decided when all of it has arrived.

Source: Li et al., Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization, JMLR 2018
(arXiv:1603.06560), algorithm 1. With `s_max = floor(log_eta(R / r))`, bracket s = s_max, ..., 0 starts
`n = ceil((s_max + 1) / (s + 1) * eta^s)` configurations at `R eta^-s` steps, and of its rung i the best
`floor(n eta^-(i + 1))` go on; then it all begins again. Successive halving is its bracket s_max alone,
again and again.

In parallel, a slot for which no bracket has anything to do begins the next bracket, as in Li et al. 2020,
section 3.1. Failed configurations count as arrived, so a rung never waits for them, and do not go on.
Other deviations: those of `PromotingScheduler`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil

from frugalbo.scheduler.promoting import PromotingScheduler, climb
from frugalbo.scheduler.rungs import Rung, Standings


class HyperbandScheduler(PromotingScheduler):
    """All brackets in turn, from the one with the most and shortest trials to the one with full trials only."""

    def _depths(self, s_max: int) -> Sequence[int]:
        """The brackets of one round, by the number of times that they halve."""
        return range(s_max, -1, -1)

    def _size(self, s: int, s_max: int) -> int:
        """The configurations that the bracket begins with."""
        return ceil((s_max + 1) * self.eta**s / (s + 1))

    def _bracket_of(self, levels: Sequence[int], index: int) -> tuple[int, Sequence[int]]:
        s_max = len(levels) - 1
        depths = self._depths(s_max)
        a_round, left = divmod(index, sum(self._size(s, s_max) for s in depths))
        for place, s in enumerate(depths):
            if (size := self._size(s, s_max)) > left:
                return a_round * len(depths) + place, levels[s_max - s :]
            left -= size
        raise AssertionError("an index within a round is in one of its brackets")

    def _earned(self, standings: Standings) -> Iterable[tuple[int, int]]:
        s_max = max((len(rungs) for rungs in standings.brackets.values()), default=1) - 1
        for bracket in list(standings.unfinished):
            rungs = standings.brackets[bracket]
            n = self._size(len(rungs) - 1, s_max)
            complete = self._complete(rungs, n)
            if complete == len(rungs):
                standings.unfinished.remove(bracket)
            for k, rung, to in climb(rungs):
                if k < complete:
                    yield from ((entrant, to) for entrant in rung.best_waiting(n // self.eta ** (k + 1)))

    def _complete(self, rungs: Sequence[Rung], n: int) -> int:
        """How many rungs, from the lowest, all have arrived at who will."""
        expected = n
        for k, rung in enumerate(rungs):
            if len(rung.arrived) < expected:
                return k
            expected = min(n // self.eta ** (k + 1), rung.finite)
        return len(rungs)


class SuccessiveHalvingScheduler(HyperbandScheduler):
    """Hyperband's first bracket again and again: of `eta^s_max` configurations one runs to the end."""

    def _depths(self, s_max: int) -> Sequence[int]:
        return (s_max,)
