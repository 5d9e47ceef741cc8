"""Freeze-thaw: many begin, few go on, and at the end what is left is for those who can still finish.

Trials are held at rungs as in ASHA, but of those that arrive at one fewer go on than the rungs are apart: rungs
are a factor of `eta` = 3 apart, and one in `keep` = 4 goes on. So more of the budget goes into looking at
configurations, which from a model that learns from the ranks of all that were held (`frugalbo.propose.standings`) get
better from one to the next.

Where the space is finite and the budget pays for a ladder of all that is in it, with one in `eta` going on and three
getting to the end, there is nothing to look for elsewhere, and what is not spent on going on is lost. So all begin
first; then, from the lowest rung up, one in `k` goes on, with the `k` for which the ladder of all N configurations
takes the whole budget:

    N sum_j c_j k^-j = budget,    c_j: the most that the way from rung j - 1 to rung j costs

When all of a finite space has begun, those who have earned to go on may be fewer than the slots. Where wall time is
not limited, others go on only while fewer than three run: a slot that is left idle costs nothing, and what would be
spent on the second best of a low rung is worth more on the way to the end.

The answer is the trial that is best at its end, so the budget has a last part, which begins when what is left no
longer pays for a whole trial. Then those that are held and can be paid to their ends are ranked: first, if nobody is
at its end, the one that is expected to be the best there; then in the order of

    index = E[improvement of the final score on the best at its end] / cost of the way to the end

with the final score normal as a `Standing` has it. What the way of the first would cost is set aside, and what is left
beside it is spent as before: with many slots the last part begins early, while little is known of who is first. When
nothing more can be paid for so and nothing runs, or at once where wall time is limited, they go to their ends in this
order, in one segment each. Before the last part, while nobody is at its end, the way of the best on the highest rung
is set aside in the same manner. So a budget that pays for a whole trial beside what all slots start at first has one
to show. What is left when nobody can be paid to an end goes into segments as in ASHA.

Source: Swersky, Snoek, Adams, Freeze-Thaw Bayesian Optimization, arXiv:1406.3896, for the actions and for their value
in what the *final* answer becomes. Deviations: as long as whole trials can be paid for, ranks decide who is resumed,
and not the improvement that a joint model of all curves expects. With a `"replanned"` fidelity nobody can be
resumed to an end, and there is no last part.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from itertools import pairwise, takewhile
from statistics import NormalDist
from typing import Final

from frugalbo.budget.afford import seconds_left
from frugalbo.budget.cost import CostModel
from frugalbo.propose.base import Proposer
from frugalbo.scheduler.asha import AshaScheduler
from frugalbo.scheduler.promoting import is_replanned, waiting
from frugalbo.scheduler.purse import Purse
from frugalbo.scheduler.rungs import levels_of
from frugalbo.study import Status, Study, Trial

_LATEST: Final = 8  # trials by which the cost of the next one is judged
_SEVERAL: Final = 16  # trials by which the cost of all is judged
_HALVINGS: Final = 40
_FINISHERS: Final = 3  # of all configurations: fewer leave too much to chance
_NEARLY: Final = 1e-9  # of a trial
_NORMAL: Final = NormalDist()
_LAST_PART: Final = "what was left paid for no whole trial more, and of those that it could finish this promised most"


class FreezeThawScheduler(AshaScheduler):
    """ASHA that keeps fewer, and spends the end of the budget on those who can finish."""

    def __init__(
        self,
        proposer: Proposer,
        cost_model: CostModel | None = None,
        *,
        trial_cap_s: float | None = None,
        eta: int = 3,
        keep: int = 4,
    ) -> None:
        super().__init__(proposer, cost_model, trial_cap_s=trial_cap_s, eta=eta, keep=keep)

    def _go_on(self, study: Study, purse: Purse) -> None:
        if is_replanned(study):
            super()._go_on(study, purse)
            return
        is_last = not _pays_for_another(study, purse)
        if not is_last and (k := self._one_in(study, purse)) is not None:
            self._sweep(study, purse, k)
            return
        ranked = self._ranked(study, purse) if is_last else []
        first = (ranked[0] if ranked else None) if is_last else self._nearest(study)
        if first is not None and math.isinf(purse.balance["wall_seconds"].free):
            rest = purse.setting_aside(first.params, first.checkpoint, study.problem.steps)
            super()._go_on(study, rest)
            purse.decisions += rest.decisions
            if rest.decisions or study.count(Status.RUNNING):
                return
            ranked = ranked or self._ranked(study, purse)
        for trial in ranked:
            if purse.is_open:
                purse.resume(trial, study.problem.steps, {"because": _LAST_PART})
        if purse.is_open and not purse.decisions and not (is_last and study.count(Status.RUNNING)):
            super()._go_on(study, purse)

    def _ranked(self, study: Study, purse: Purse) -> list[Trial]:
        """Those who are held and can be paid to their ends, the one with the highest index first."""
        steps = study.problem.steps
        held = [self._standings.trial_of(entrant) for entrant, _ in waiting(self._standings.brackets.values())]
        can = [t for n in held if purse.affords((t := study.trials[n]).params, t.checkpoint, steps)]
        return _by_index(study, purse, can)

    def _nearest(self, study: Study) -> Trial | None:
        """While nobody is at its end or on the way there, the best of those who are held on the highest rung."""
        brackets = self._standings.brackets.values()
        steps = study.problem.steps
        if any(rungs[-1].finite for rungs in brackets):
            return None
        if any(trial.starts[-1].until == steps for trial in study.with_status(Status.RUNNING)):
            return None
        return next((study.trials[self._standings.trial_of(entrant)] for entrant, _ in waiting(brackets)), None)

    def _one_in(self, study: Study, purse: Purse) -> float | None:
        """Of how many one goes on where the whole space is tried; None where it is not."""
        n = math.prod(levels if levels is not None else math.inf for levels in study.problem.space.levels)
        if not study.trials or math.isinf(n):
            return None
        every = math.ceil(len(study.trials) / _SEVERAL)
        some = [study.trials[number].params for number in range(0, len(study.trials), every)]
        way = list(pairwise((0, *levels_of(study, self.eta))))
        seconds = [[s for params in some if (s := purse.seconds(params, *part)) is not None] for part in way]
        if n <= _FINISHERS or len(way) == 1 or not all(seconds):
            return None
        most = min(float(self.eta), (n / _FINISHERS) ** (1 / (len(way) - 1)))
        return one_in([max(row) for row in seconds], _budget_s(study) / n, most)

    def _sweep(self, study: Study, purse: Purse, k: float) -> None:
        """Let all begin, then one in `k` go on, from the lowest rung up; then the best of those who wait."""
        if not purse.is_open or not self._start(study, purse):
            return
        brackets = self._standings.brackets
        earned = [
            (entrant, above.level)
            for rungs in brackets.values() for rung, above in pairwise(rungs)
            for entrant in rung.best_waiting(math.floor(len(rung.arrived) / k + _NEARLY))
        ]  # fmt: skip
        seen = self._send_on(purse, study, earned)
        self._send_on(purse, study, self._rest(purse, study, seen))

    def _rest(self, purse: Purse, study: Study, seen: AbstractSet[int]) -> Iterator[tuple[int, int]]:
        rest = super()._rest(purse, study, seen)
        if math.isfinite(purse.balance["wall_seconds"].free):
            return rest
        running = study.count(Status.RUNNING)
        return takewhile(lambda _: running + len(purse.decisions) < _FINISHERS, rest)


def one_in(costs: Sequence[float], budget: float, most: float) -> float | None:
    """Of how many one goes on from rung to rung, so that the budget is spent on all; None if that is above `most`.

    Args:
        costs: From each rung to the next, of a configuration.
        budget: For each configuration, in the same unit.
        most: Above 1.
    """

    def takes(k: float) -> float:
        return sum(cost * k**-j for j, cost in enumerate(costs))

    if math.isinf(budget) or takes(most) > budget:
        return None
    low, high = 1.0, most
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if takes(middle) <= budget else (middle, high)
    return high


def improvement(mean: float, sd: float, best: float) -> float:
    """By how much a normal quantity is expected to fall below `best`."""
    z = (best - mean) / sd
    return sd * (_NORMAL.pdf(z) + z * _NORMAL.cdf(z))


def _pays_for_another(study: Study, purse: Purse) -> bool:
    """Whether what is left pays for a whole trial like one of the latest."""
    latest = range(max(0, len(study.trials) - _LATEST), len(study.trials))
    return not latest or any(purse.affords(study.trials[n].params, 0, study.problem.steps) for n in latest)


def _budget_s(study: Study) -> float:
    """The device-seconds of the whole run, by what one can tell now; infinite without a limit."""
    if study.ledger is None:
        return math.inf
    account = study.ledger.balance()["device_seconds"]
    return seconds_left(study) + account.spent + account.held


def _by_index(study: Study, purse: Purse, trials: Sequence[Trial]) -> list[Trial]:
    """Held trials, the one with the highest index first."""
    if len(trials) < 2:
        return list(trials)
    from frugalbo.propose.standings import standings  # scipy, some tenths of a second

    steps = study.problem.steps
    standing = standings(study) or {}
    best = min((s.final_mean for s in standing.values() if s.step == steps), default=None)

    def index(trial: Trial) -> float:
        its = standing[trial.number]
        if best is None:
            return -its.final_mean
        seconds = purse.seconds(trial.params, trial.checkpoint, steps)
        return improvement(its.final_mean, math.sqrt(its.variance), best) / (seconds or 1.0)

    return sorted(trials, key=index, reverse=True)
