"""A study: trials, as a fold over an append-only sequence of events.

| word | meaning |
|---|---|
| trial | one configuration, with the steps planned for it |
| segment | one stretch of a trial on one device, from `start` to `until` |
| event | `Started`, `Reported`, `Ended` (`frugalbo.events`): the only things ever stored |

Two studies that were given the same events are equal. Nothing here reads clocks or files.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from frugalbo.budget.ledger import Ledger
from frugalbo.errors import StudyError
from frugalbo.events import Ended, Event, Failure, Outcome, Reported, Started
from frugalbo.explanation import explained
from frugalbo.problem import Problem
from frugalbo.settling import Settling
from frugalbo.space import Params
from frugalbo.table import report_table, to_frame, trial_table

if TYPE_CHECKING:
    import pandas as pd


class Status(StrEnum):
    """Where a trial stands."""

    RUNNING = "running"
    PAUSED = "paused"  # may be resumed, whether it was paused or interrupted
    COMPLETED = "completed"
    STOPPED = "stopped"
    FAILED = "failed"


_AFTER = {
    Outcome.COMPLETED: Status.COMPLETED,
    Outcome.PAUSED: Status.PAUSED,
    Outcome.INTERRUPTED: Status.PAUSED,
    Outcome.STOPPED: Status.STOPPED,
    Outcome.FAILED: Status.FAILED,
}
_ARRIVED = (Outcome.COMPLETED, Outcome.PAUSED)


@dataclass(slots=True)
class Trial:
    """One configuration and all that happened to it.

    Args:
        reached: The last step that each segment reported, its start if it reported none.
        reports: The metrics by step, in the order of steps.
        times: When each of these reports came.
        since_resume: The place of a report among those after a resume, by step, from 1; only of the first few.
    """

    number: int
    params: Params
    planned: int
    why: Mapping[str, Any]
    status: Status = Status.RUNNING
    starts: list[Started] = field(default_factory=list)
    ends: list[Ended] = field(default_factory=list)
    reached: list[int] = field(default_factory=list)
    reports: dict[int, Mapping[str, float]] = field(default_factory=dict)
    times: dict[int, float] = field(default_factory=dict)
    since_resume: dict[int, int] = field(default_factory=dict)

    @property
    def last_step(self) -> int:
        """The last step that was reported."""
        return next(reversed(self.reports), 0)  # they are in the order of steps

    @property
    def checkpoint(self) -> int:
        """The step from which the trial could go on."""
        return self.ends[-1].checkpoint if self.ends else 0

    @property
    def failure(self) -> Failure | None:
        """Why it failed; None if it did not."""
        return self.ends[-1].failure if self.ends else None

    def used(self, resource: str) -> float:
        """What its ended segments were charged of one resource."""
        return math.fsum(getattr(end.used, resource) for end in self.ends)

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """The (step, value) pairs of one metric, by step."""
        return [(step, values[metric]) for step, values in sorted(self.reports.items()) if metric in values]


class Study:
    """The trials of one problem, and their accounts.

    Args:
        ledger: Follows the events too, if given: it holds at `Started` and settles at `Ended`.

    Who decides often need not look at all trials each time: `changed` says which ones events were about since
    a `revision`, and `with_status` knows its trials without a search. `speeds` are those of the pools in which
    segments have started. `settled` names the segments that have ended, in their order, by trial and number;
    `taken` says how many of them were interrupted in each pool, and for how many seconds segments ran there.
    `settling` says how many reports after a resume are set aside where trials are compared short of their ends.
    `held_back` are the paused trials that may not go on yet (`frugalbo.retry`), as the run loop last said.
    """

    def __init__(self, problem: Problem, ledger: Ledger | None = None) -> None:
        self.problem = problem
        self.ledger = ledger
        self.trials: dict[int, Trial] = {}
        self.speeds: dict[str, float] = {}
        self.settled: list[tuple[int, int]] = []
        self.taken: dict[str, tuple[int, float]] = {}
        self.settling = Settling(problem)
        self.held_back: Collection[int] = ()
        self.revision = 0  # the events so far
        self._last_change: dict[int, int] = {}  # trial -> revision, the latest change at the end
        self._by_status: dict[Status, dict[int, Trial]] = {status: {} for status in Status}

    def apply(self, event: Event) -> None:
        """Take in one event.

        A report for a step that was already reported is dropped: a resumed job repeats the steps
        since its checkpoint. So is one for a step that was not granted: it cannot be true.

        Raises:
            StudyError: If the event cannot follow those before it; nothing has changed then.
            BudgetError: If the ledger refuses the hold; nothing has changed then.
        """
        self.check(event)
        match event:
            case Started():
                self._start(event)
            case Reported():
                trial = self.trials[event.trial]
                if trial.reached[-1] < event.step <= trial.starts[-1].until:
                    trial.reached[-1] = event.step
                    place = self.settling.note(event.trial, event.step, event.metrics)
                    if event.step > trial.last_step:
                        if place is not None:
                            trial.since_resume[event.step] = place
                        trial.reports[event.step] = dict(event.metrics)
                        trial.times[event.step] = event.at
            case Ended():
                trial = self.trials[event.trial]
                if self.ledger:
                    self.ledger.settle((event.trial, event.segment), event.used)
                trial.ends.append(event)
                self.settling.end(event.trial)
                self.settled.append((event.trial, event.segment))
                self._note_taken(trial.starts[-1], event)
                self._set_status(trial, _AFTER[event.outcome])
        self.revision += 1
        self._last_change.pop(event.trial, None)
        self._last_change[event.trial] = self.revision

    def check(self, event: Event) -> None:
        """Refuse an event that cannot come next; changes nothing.

        Raises:
            StudyError: If it cannot follow the events so far.
            BudgetError: If it holds more than is free.
        """
        trial = self.trials.get(event.trial)
        if isinstance(event, Started):
            self._check_start(event, trial)
            if self.ledger:
                self.ledger.check((event.trial, event.segment), event.held, event.pool)
        elif trial is None or trial.status != Status.RUNNING or event.segment != len(trial.starts) - 1:
            state = "unknown" if trial is None else f"{trial.status}, segment {len(trial.starts) - 1}"
            raise StudyError(f"segment {event.segment} of trial {event.trial} is not running ({state})")

    def _check_start(self, event: Started, trial: Trial | None) -> None:
        if trial is None:
            if event.trial != len(self.trials) or event.segment != 0:
                raise StudyError(f"expected trial {len(self.trials)} to start next, got {event}")
        elif (trial.status, len(trial.starts), trial.params, trial.planned) != (
            Status.PAUSED, event.segment, event.params, event.planned,
        ):  # fmt: skip
            raise StudyError(f"trial {trial.number} is {trial.status}, it cannot be resumed by {event}")
        if not 0 <= event.start < event.until <= event.planned:
            raise StudyError(f"expected 0 <= start < until <= planned, got {event}")
        if event.start > (trial.checkpoint if trial else 0):
            raise StudyError(f"trial {event.trial} has no checkpoint of step {event.start} to go on from")

    def _start(self, event: Started) -> None:
        if self.ledger:
            self.ledger.hold((event.trial, event.segment), event.held, event.pool)
        trial = self.trials.get(event.trial)
        if trial is None:
            trial = Trial(event.trial, dict(event.params), event.planned, event.why)
            self.trials[event.trial] = trial
        self.speeds[event.pool] = event.speed
        if event.start > 0:
            self.settling.begin(event.trial, trial.reports)
        trial.starts.append(event)
        trial.reached.append(event.start)
        self._set_status(trial, Status.RUNNING)

    def _note_taken(self, started: Started, ended: Ended) -> None:
        n, seconds = self.taken.get(started.pool, (0, 0.0))
        is_taken = ended.outcome == Outcome.INTERRUPTED
        self.taken[started.pool] = n + is_taken, seconds + max(0.0, ended.at - started.at)

    def _set_status(self, trial: Trial, status: Status) -> None:
        self._by_status[trial.status].pop(trial.number, None)
        self._by_status[status][trial.number] = trial
        trial.status = status

    def replay(self, events: Iterable[Event]) -> Study:
        """Apply all events; returns this study."""
        for event in events:
            self.apply(event)
        return self

    def with_status(self, *statuses: Status) -> list[Trial]:
        """The trials with one of these statuses, by number."""
        return [
            self.trials[number] for number in sorted(n for status in set(statuses) for n in self._by_status[status])
        ]

    def count(self, *statuses: Status) -> int:
        """How many trials have one of these statuses."""
        return sum(len(self._by_status[status]) for status in set(statuses))

    def changed(self, since: int = 0) -> list[Trial]:
        """The trials that events were about after the first `since` of them, the latest change first."""
        recent = itertools.takewhile(lambda change: change[1] > since, reversed(self._last_change.items()))
        return [self.trials[number] for number, _ in recent]

    def value(self, trial: Trial, *, at: int | None = None) -> float | None:
        """The objective of `trial` at step `at` (the full number of steps by default), if it is known and finite.

        A trial counts by what it reported even if it was stopped, paused or is still running.
        """
        return self.measured(trial, self.problem.objective.metric, at=at)

    def measured(self, trial: Trial, metric: str, *, at: int | None = None) -> float | None:
        """As `value`, for any metric."""
        value = trial.reports.get(self.problem.steps if at is None else at, {}).get(metric)
        return value if value is not None and math.isfinite(value) else None

    def value_by(self, trial: Trial, step: int) -> float | None:
        """The objective in the last report at or before `step`, of a trial that got there, if it is finite.

        A trial got there if it reported that step or a later one, or if a segment that was granted it has ended as
        it should: a job need not report at the very steps at which trials are compared. Reports right after a resume
        are set aside (`is_settled`).
        """
        return self.measured_by(trial, self.problem.objective.metric, step)

    def measured_by(self, trial: Trial, metric: str, step: int) -> float | None:
        """As `value_by`, for any metric."""
        ended = zip(trial.starts, trial.ends, strict=False)
        if trial.last_step < step and not any(s.until >= step and e.outcome in _ARRIVED for s, e in ended):
            return None
        found = ((at, m[metric]) for at, m in reversed(trial.reports.items()) if at <= step and metric in m)
        value = next((value for at, value in found if self.is_settled(trial, at)), math.nan)
        return value if math.isfinite(value) else None

    def is_settled(self, trial: Trial, step: int) -> bool:
        """Whether the report of `step` tells of the trial: not so right after a resume, see `frugalbo.settling`.

        At the end of its plan a trial is what it is, and counts as it was reported.
        """
        return trial.since_resume.get(step, math.inf) > self.settling.reports or step >= trial.planned

    def violations(self, trial: Trial, *, by: int | None = None) -> dict[str, float]:
        """The outcome constraints that `trial` does not meet, and by how much, in the metric's units.

        As measured, in the report of the objective's value, or by the step `by`. A metric that was not reported
        there, or is not finite, is beyond its bound by infinity.
        """
        excess = {str(c): c.excess(self._bounded(trial, c.metric, by)) for c in self.problem.bounds}
        return {text: beyond for text, beyond in excess.items() if beyond > 0}

    def violation(self, trial: Trial, *, by: int | None = None) -> float:
        """How far `trial` is from meeting all outcome constraints: 0 where it does.

        The sum over constraints of what is beyond the bound, as a share of the bound's size (as it is,
        for a bound of 0).
        """
        return math.fsum(c.share(self._bounded(trial, c.metric, by)) for c in self.problem.bounds)

    def _bounded(self, trial: Trial, metric: str, by: int | None) -> float | None:
        return self.measured(trial, metric) if by is None else self.measured_by(trial, metric, by)

    def is_feasible(self, trial: Trial, *, by: int | None = None) -> bool:
        """Whether `trial` has a value and meets all outcome constraints, as measured; by the step `by`, if given."""
        value = self.value(trial) if by is None else self.value_by(trial, by)
        return value is not None and not self.violations(trial, by=by)

    def best(self) -> Trial | None:
        """The trial with the best objective at the full number of steps; the earliest of equals.

        While no trial has a value there, the best of those that got to `compared_at` and have not failed since.

        Only those count that meet the outcome constraints; while none does, the one that violates them
        least (`violation`) is the best, which `is_feasible` tells.
        """
        by = self._short_of_the_end()
        values = (
            (t, self.value(t) if by is None else self.value_by(t, by))
            for t in self.trials.values()
            if by is None or t.status != Status.FAILED
        )
        to_loss = self.problem.objective.to_loss
        known = [(self.violation(t, by=by), to_loss(value), t.number) for t, value in values if value is not None]
        return self.trials[min(known)[-1]] if known else None

    def best_value(self) -> float | None:
        """The objective of the best trial, by `compared_at`."""
        best, by = self.best(), self._short_of_the_end()
        return None if best is None else self.value(best) if by is None else self.value_by(best, by)

    def best_is_feasible(self) -> bool:
        """Whether the best trial meets all outcome constraints, by `compared_at`; False if there is none."""
        best = self.best()
        return best is not None and self.is_feasible(best, by=self._short_of_the_end())

    def _short_of_the_end(self) -> int | None:
        """`compared_at` where that is short of the full number of steps."""
        at = self.compared_at()
        return None if at == self.problem.steps else at

    def compared_at(self) -> int | None:
        """The step at which `best` compares trials: the full number of steps, if any trial has a value there.

        Otherwise the furthest step at which a trial that has not failed since was paused as it had been granted, or
        stopped, with a value; None where there is none. What a segment reports on its way to a later step is
        not compared, as no other trial need have been stopped there.
        """
        if any(self.value(trial) is not None for trial in self.trials.values()):
            return self.problem.steps
        ends = {
            step
            for trial in self.trials.values()
            if trial.status != Status.FAILED
            for started, ended, reached in zip(trial.starts, trial.ends, trial.reached, strict=False)
            if ended.outcome in (*_ARRIVED, Outcome.STOPPED)
            and self.value_by(trial, step := started.until if ended.outcome in _ARRIVED else reached) is not None
        }
        return max(ends, default=None)

    def to_dataframe(self, *, reports: bool = False) -> pd.DataFrame:
        """The trials as a pandas data frame, a row each; or their reports, so that curves are columns by step.

        Raises:
            MissingExtra: If pandas is not installed.
        """
        return to_frame(report_table(self) if reports else trial_table(self))

    def explain(self, trial: Trial | int) -> str:
        """Why a trial's configuration was chosen, and what came of it, in sentences.

        Raises:
            StudyError: If there is no such trial.
        """
        number = trial if isinstance(trial, int) else trial.number
        if number not in self.trials:
            raise StudyError(f"there is no trial {number}, but {len(self.trials)}, counted from 0")
        return explained(self, self.trials[number])
