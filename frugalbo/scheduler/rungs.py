"""Rungs: the steps at which configurations are compared, and who stands on which.

| symbol | meaning |
|---|---|
| r, R | the fewest steps worth running and the steps of a full trial: the fidelity's `low` and `high` |
| eta | of how many configurations one goes on from a rung to the next |
| rung k | the k-th of the levels `R eta^(k - K)`, k = 0..K; its *level* is in steps |
| entrant | a configuration, named by the number of its first trial |
| bracket | a set of entrants that are compared with each other on the same levels |

Where `R / r` is no power of eta, levels are counted down from R, as Hyperband does (Li et al. 2018,
algorithm 1: `r_i = R eta^(i - s)`), rounded to whole steps; ASHA (Li et al. 2020) counts up from r, and
the two agree where it is a power.

A trial that fails has arrived at the rung that it was sent to, with an infinite loss. What a job reports
at other steps than a rung's counts by its last report at or before it. So does one that has not settled since it was
resumed (`frugalbo.settling`).

With a fidelity that is `"replanned"` a run for fewer steps is another run than the beginning of a longer
one, so an entrant has a trial of its own for each rung, planned for that rung's level, and going on
means to start again from scratch; `why["promoted_from"]` names the trial before.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from weakref import ref

from frugalbo.errors import FrugalError
from frugalbo.events import Outcome
from frugalbo.study import Status, Study, Trial

PROMOTED_FROM = "promoted_from"


class SchedulerError(FrugalError, ValueError):
    """A scheduler that does not exist, or a setting that makes no sense for one."""


def check_eta(eta: int, name: str = "eta") -> int:
    """`eta`, if it can be one.

    Raises:
        SchedulerError: If it is no whole number of at least 2.
    """
    if isinstance(eta, bool) or not isinstance(eta, int) or eta < 2:
        raise SchedulerError(f"{name} must be a whole number of at least 2, got {eta!r}")
    return eta


def rung_levels(low: int, high: int, eta: int) -> tuple[int, ...]:
    """The steps of the rungs, the last of which is `high`; as many as there are from `low` on."""
    depth = 0
    while low * eta ** (depth + 1) <= high:
        depth += 1
    return tuple(math.floor(high / eta**k + 0.5) for k in range(depth, -1, -1))


def levels_of(study: Study, eta: int) -> tuple[int, ...]:
    """The rungs of a study's problem; one, where it has no fidelity."""
    fidelity = study.problem.fidelity
    return rung_levels(fidelity.low, fidelity.high, eta) if fidelity else (1,)


@dataclass(slots=True)
class Rung:
    """Who arrived at one rung of one bracket, as (loss, entrant), the best first; ties go to the earlier.

    Args:
        level: In steps.
        arrived: All who did, for good.
        waiting: Those of them that could go on and were not sent on.
    """

    level: int
    arrived: list[tuple[float, int]] = field(default_factory=list)
    waiting: list[tuple[float, int]] = field(default_factory=list)

    @property
    def finite(self) -> int:
        """How many arrived with a value."""
        return bisect_left(self.arrived, (math.inf,))

    def best_waiting(self, n: int) -> Iterator[int]:
        """Those who wait among the best `n` that arrived, the best first."""
        for entry in self.waiting:
            if bisect_left(self.arrived, entry) >= n:
                return
            yield entry[1]


@dataclass(slots=True)
class _Entrant:
    bracket: int
    trial: int  # the latest
    sent_to: int = 0  # the highest rung
    arrived_at: int = -1
    loss: float = math.inf  # there


BracketOf = Callable[[Study, int], tuple[int, Sequence[int]]]


class Standings:
    """Where every configuration stands: a fold of a study, kept up to date by what changed in it.

    Args:
        bracket_of: From a study and the position of an entrant among all of them, from 0, to the number
            of its bracket and that bracket's levels.

    Attributes:
        brackets: The rungs of each, by number.
        unfinished: The numbers of those that nobody has struck off; for the scheduler's use.
        interrupted: The trials that were sent to a level and did not get there, with that level.
    """

    def __init__(self, bracket_of: BracketOf) -> None:
        self._bracket_of = bracket_of
        self._study: ref[Study] | None = None
        self._clear()

    def _clear(self) -> None:
        self._revision = 0
        self._set_aside = 0  # reports after a resume
        self._known = 0  # trials that have a place
        self._entrants: dict[int, _Entrant] = {}
        self._entrant_of: dict[int, int] = {}  # by trial
        self.brackets: dict[int, list[Rung]] = {}
        self.unfinished: list[int] = []
        self.interrupted: dict[int, int] = {}

    def __len__(self) -> int:
        """How many entrants there are."""
        return len(self._entrants)

    def follow(self, study: Study) -> None:
        """Take in what happened since the last call; all of it, if this is another study."""
        is_other = self._study is None or self._study() is not study or study.revision < self._revision
        if is_other or study.settling.reports != self._set_aside:
            self._study = ref(study)
            self._clear()
            self._set_aside = study.settling.reports
        changed = study.changed(self._revision)
        self._revision = study.revision
        for number in range(self._known, len(study.trials)):
            self._enter(study, study.trials[number])
        self._known = len(study.trials)
        for trial in sorted(changed, key=lambda trial: trial.number):
            self._move(study, trial)

    def trial_of(self, entrant: int) -> int:
        """The latest trial of an entrant."""
        return self._entrants[entrant].trial

    def _enter(self, study: Study, trial: Trial) -> None:
        entrant = self._entrant_of.get(trial.why.get(PROMOTED_FROM, -1))
        if entrant is None:
            entrant = trial.number
            bracket, levels = self._bracket_of(study, len(self._entrants))
            self._entrants[entrant] = _Entrant(bracket, entrant)
            if bracket not in self.brackets:
                self.brackets[bracket] = [Rung(level) for level in levels]
                self.unfinished.append(bracket)
        self._entrant_of[trial.number] = entrant
        self._entrants[entrant].trial = trial.number

    def _move(self, study: Study, trial: Trial) -> None:
        number = self._entrant_of[trial.number]
        entrant = self._entrants[number]
        rungs = self.brackets[entrant.bracket]
        until = trial.starts[-1].until
        target = min(bisect_left(rungs, until, key=lambda rung: rung.level), len(rungs) - 1)
        self.interrupted.pop(trial.number, None)
        if target > entrant.sent_to:
            _leave(rungs[entrant.sent_to].waiting, (entrant.loss, number))
            entrant.sent_to = target
        for k in range(entrant.arrived_at + 1, target + 1):
            loss = _loss(study, trial, rungs[k].level, is_target=k == target)
            if loss is None:
                break
            entrant.arrived_at, entrant.loss = k, loss
            insort(rungs[k].arrived, (loss, number))
            if k == entrant.sent_to and k < len(rungs) - 1 and loss < math.inf and trial.status != Status.FAILED:
                insort(rungs[k].waiting, (loss, number))
        if trial.status == Status.PAUSED and entrant.arrived_at < target:
            self.interrupted[trial.number] = until


def _leave(waiting: list[tuple[float, int]], entry: tuple[float, int]) -> None:
    place = bisect_left(waiting, entry)
    if place < len(waiting) and waiting[place] == entry:
        del waiting[place]


def _loss(study: Study, trial: Trial, level: int, *, is_target: bool) -> float | None:
    """The loss with which a trial arrived at a level; None if it is still to arrive."""
    if is_target and trial.status == Status.RUNNING:
        return None
    value = study.value_by(trial, level)
    if value is not None:
        return study.problem.objective.to_loss(value)
    return None if is_target and trial.ends[-1].outcome == Outcome.INTERRUPTED else math.inf
