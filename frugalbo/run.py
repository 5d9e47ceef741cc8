"""`tune`: the only loop. It joins those who decide with those who execute, and pays.

    decide -> quote -> hold -> journal -> submit -> events -> journal -> settle -> decide ...

Decisions come from a `Scheduler`, events from an `Executor`; neither knows of the other. Nothing
starts before its cost is held, and nothing counts before it is in the journal, so that a run that
is killed at any instant goes on with `resume` as if it had only paused.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from frugalbo.budget.afford import Refusal, quote
from frugalbo.budget.amounts import Cost
from frugalbo.budget.cost import CostModel
from frugalbo.budget.ledger import Balance
from frugalbo.budget.stated import CostPrior
from frugalbo.executors.base import Executor, Segment
from frugalbo.scheduler.base import Finish, Preparing, Resume, Scheduler, Start, Stop
from frugalbo.session import OpenStudy
from frugalbo.slot import Slot
from frugalbo.space import Params
from frugalbo.study import Ended, Event, Failure, Outcome, Reported, Started, Status, Study

# How often the loop looks up when nothing happens: for the live view, and to renew the lease.
_TICK_S = 0.25
# So long after the last decision there is time to prepare the next, once: of shorter jobs, that
# would take more of the processor than it is worth.
_CALM_S = 2.0
_LOOK_S = 0.01  # how often preparing looks whether something has happened
# Failures in a row after which a run is a mistake, not bad luck: so many if nothing ever succeeded
# and the jobs raise or die, twice as many where they succeeded before, diverge or hit their caps.
_CRASH_LOOP = 5
INTERRUPTED = "interrupted by the user"
TOO_SMALL = "the budget is smaller than one trial"

Observer = Callable[[Study, Balance, Sequence[Event]], None]


@dataclass(slots=True)
class RunLoop:
    """One controller's pass over a run.

    Args:
        folder: Where trials keep checkpoints and logs.
        trial_cap_s: The most seconds that any segment may take on its slot, whatever is left.
        observe: Called after every change and some times a second, with the events since the last call.
    """

    study: OpenStudy
    scheduler: Scheduler
    executor: Executor
    cost_model: CostModel
    folder: Path
    seed: int = 0
    trial_cap_s: float | None = None
    observe: Observer | None = None
    _refused: str = field(default="", init=False)
    _fresh: list[Event] = field(default_factory=list, init=False)
    _began: float = field(default=-math.inf, init=False)
    _calm_at: float = field(default=math.inf, init=False)
    _waiting: list[Event] = field(default_factory=list, init=False)

    def run(self) -> str:
        """Spend the budget; returns why it ended, in a sentence.

        An interrupt (Ctrl-C) ends the running segments so that they can go on one day.
        """
        with self.executor:
            self.study.use_clock(self.executor.now)
            try:
                self._recover()
                self._began = self.executor.now()
                return self._loop()
            except KeyboardInterrupt:
                self._interrupt()
                return INTERRUPTED

    def _loop(self) -> str:
        settled = True
        while True:
            reason = _crash_loop(self.study, self._began)
            if settled and reason is None:
                self._dispatch()
                self._calm_at = time.monotonic() + _CALM_S
            self._show()
            if not self.study.with_status(Status.RUNNING):
                return (
                    _too_cheap(self.study)
                    or reason
                    or _too_small(self.study)
                    or self._refused
                    or "the scheduler has nothing more to try"
                )
            settled = self._wait()
            if not settled:
                self._prepare()

    def _wait(self) -> bool:
        """Take in what happened; returns whether a segment ended."""
        if not self._waiting:
            self._waiting += self.executor.wait(_TICK_S)
        events, self._waiting = self._waiting, []
        self._record(*events)
        if not events:
            self.study.renew()
        return any(isinstance(event, Ended) for event in events)

    def _prepare(self) -> None:
        """If it is calm, once after each dispatch: let the scheduler get ready for the next, until a segment ends."""
        if time.monotonic() < self._calm_at or self._refused or not isinstance(self.scheduler, Preparing):
            return
        self._calm_at = math.inf
        looked = time.monotonic()

        def is_over() -> bool:
            nonlocal looked
            if time.monotonic() - looked > _LOOK_S:
                self._waiting += self.executor.wait(0.0)
                looked = time.monotonic()
            return any(isinstance(event, Ended) for event in self._waiting)

        self.scheduler.prepare(self.study, is_over)

    def _dispatch(self) -> None:
        """Ask for decisions and carry them out, until no slot is free or nothing more is affordable."""
        self._refused = ""
        slots = list(self.executor.free_slots())
        if not slots or self._is_spent():
            return
        decisions = self.scheduler.decide(self.study, self.study.balance(), slots)
        starting = [d for d in decisions if isinstance(d, (Start, Resume))]
        for decision in decisions:
            if isinstance(decision, Stop):
                self.executor.cancel(decision.trial, Outcome.STOPPED)
            elif isinstance(decision, Finish):
                self._refused = decision.reason
            else:
                self._begin(decision, sharers=len(starting) - starting.index(decision))

    def _begin(self, decision: Start | Resume, *, sharers: int) -> None:
        if isinstance(decision, Start):
            trial, segment, start = len(self.study.trials), 0, 0
            params, planned, why = decision.params, decision.planned, decision.why
        else:
            paused = self.study.trials[decision.trial]
            trial, segment, start = paused.number, len(paused.starts), paused.checkpoint
            params, planned, why = paused.params, paused.planned, {"resumed": f"from step {start}"}
        slot = decision.slot
        quote = self._quote(params, start, decision.until, slot, first=segment == 0, sharers=sharers)
        if quote is None:
            return
        cap_s, held = quote
        now = self.executor.now()
        self._record(Started(trial, segment, params, start, decision.until, planned, held, slot.name, now, why))
        memory = int(held.memory_bytes) or None
        self.executor.submit(
            Segment(
                trial,
                segment,
                params,
                self.seed,
                start,
                decision.until,
                planned,
                slot,
                cap_s,
                memory,
                trial_folder(self.folder, trial),
            )
        )

    def _quote(
        self, params: Params, start: int, until: int, slot: Slot, *, first: bool, sharers: int
    ) -> tuple[float, Cost] | None:
        """The cap in seconds of a segment and what to hold for it; None if it is not affordable."""
        balance = self.study.balance()
        found = quote(
            balance,
            slot,
            self.cost_model.predict(self.study, params, start, until),
            first=first,
            sharers=sharers,
            trial_cap_s=self.trial_cap_s,
            memory_bytes=balance["memory_bytes"].total / len(self.executor.slots),
        )
        if isinstance(found, Refusal):
            self._refused = found.reason
            return None
        return found.cap_s, found.held

    def _record(self, *events: Event) -> None:
        self.study.record(*events)
        self._fresh += events

    def _show(self) -> None:
        fresh, self._fresh = self._fresh, []
        if self.observe is not None:
            self.observe(self.study, self.study.balance(), fresh)

    def _is_spent(self) -> bool:
        spent = [name for name, a in self.study.balance().limited.items() if a.free <= 0 and name != "memory_bytes"]
        if spent:
            self._refused = f"the budget of {spent[0].replace('_', ' ')} is spent"
        return bool(spent)

    def _recover(self) -> None:
        """Settle what an earlier controller left running."""
        for trial in self.study.with_status(Status.RUNNING):
            left = self.executor.recover(trial.starts[-1], trial_folder(self.folder, trial.number))
            # The executor does not know which reports reached the journal before the crash.
            self._record(*(e for e in left if not isinstance(e, Reported) or e.step > trial.reached[-1]))

    def _interrupt(self) -> None:
        for trial in self.study.with_status(Status.RUNNING):
            self.executor.cancel(trial.number, Outcome.INTERRUPTED)
        while self.study.with_status(Status.RUNNING):
            self._wait()
        self._show()


def trial_folder(folder: Path, trial: int) -> Path:
    """Where a trial keeps its checkpoints and logs."""
    return folder / f"trial-{trial:05d}"


def _too_small(study: Study) -> str | None:
    """What to say if the budget went into trials none of which was done in time."""
    failures = {trial.failure for trial in study.trials.values()}
    if failures != {Failure.TIMEOUT}:
        return None
    longest = max(trial.used("device_seconds") for trial in study.trials.values())
    return (
        f"{TOO_SMALL}: none was done within what it was granted, "
        f"{longest:.3g} device-seconds at most; raise the budget or the cap on trials, or use fewer devices"
    )


def _too_cheap(study: Study) -> str | None:
    """What to say if the cost that the user stated for certain let no trial live to its end."""
    stated = study.problem.cost
    if stated is None or isinstance(stated, CostPrior):
        return None
    if {trial.failure for trial in study.trials.values()} != {Failure.TIMEOUT}:
        return None
    longest = max(trial.used("device_seconds") for trial in study.trials.values())
    return (
        f"the stated cost is too low: every trial ran into the cap that it gave, {longest:.3g} device-seconds at "
        f"most; state more, or only its shape with 'like'"
    )


def _crash_loop(study: Study, since: float) -> str | None:
    """Why to stop, if the jobs fail by themselves rather than by their configuration.

    What failed before `since` does not count: a user who mends the job resumes the run.
    """
    over = [trial for trial in study.trials.values() if trial.ends and trial.status != Status.PAUSED]
    ended = sorted((t for t in over if t.ends[-1].at >= since), key=lambda trial: trial.ends[-1].at)
    failed = list(itertools.takewhile(lambda trial: trial.status == Status.FAILED, reversed(ended)))
    is_code = all(trial.failure in (Failure.ERROR, Failure.KILLED, Failure.NO_RESULT) for trial in failed)
    allowed = _CRASH_LOOP if len(failed) == len(ended) and is_code else 2 * _CRASH_LOOP
    if len(failed) < allowed:
        return None
    last = ended[-1].ends[-1]
    return f"the last {len(failed)} trials all failed, so the job itself seems broken; the last one: {last.message}"
