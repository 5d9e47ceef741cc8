"""`tune`: the only loop. It joins those who decide with those who execute, and pays.

    decide -> quote -> hold -> journal -> submit -> events -> journal -> settle -> decide ...

Decisions come from a `Scheduler`, events from an `Executor`; neither knows of the other. Nothing
starts before its cost is held, and nothing counts before it is in the journal, so that a run that
is killed at any instant goes on with `resume` as if it had only paused.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from frugalbo.budget.afford import Refusal, quote
from frugalbo.budget.amounts import Cost
from frugalbo.budget.cost import CostModel, CostPrediction, Predictor, predictor
from frugalbo.budget.ledger import Balance
from frugalbo.budget.stated import CostPrior
from frugalbo.events import Cause, Ended, Event, Failure, Outcome, Reported, Started
from frugalbo.executors.base import Executor, Segment
from frugalbo.retry import due_at, judged
from frugalbo.scheduler.base import Finish, Preparing, Resume, Scheduler, Start, Stop, Watching
from frugalbo.session import OpenStudy
from frugalbo.slot import Slot
from frugalbo.study import Status, Study

# How often the loop looks up when nothing happens: for the live view, and to renew the lease.
_TICK_S = 0.25
# So long after the last decision there is time to prepare the next, once: of shorter jobs, that
# would take more of the processor than it is worth.
_CALM_S = 2.0
_LOOK_S = 0.01  # how often preparing looks whether something has happened
# Failures in a row after which a run is a mistake, not bad luck: so many if nothing ever succeeded
# and the jobs raise or die, twice as many where they succeeded before, diverge or hit their caps.
_CRASH_LOOP = 5
# So many are enough if nothing ever succeeded and they have cost this share of what there was to spend.
_DEAR, _DEAR_SHARE = 2, 0.25
INTERRUPTED = "interrupted by the user"
PAUSED = "paused by the user"
TOO_SMALL = "the budget is smaller than one trial"

Observer = Callable[[Study, Balance, Sequence[Event]], None]


@dataclass(slots=True)
class RunLoop:
    """One controller's pass over a run.

    Args:
        folder: Where trials keep checkpoints and logs.
        trial_cap_s: The most seconds that any segment may take on its slot, whatever is left.
        observe: Called after every change and some times a second, with the events since the last call.
        over: Asked before anything starts: why nothing more does, in a sentence; None if something may.
    """

    study: OpenStudy
    scheduler: Scheduler
    executor: Executor
    cost_model: CostModel
    folder: Path
    seed: int = 0
    trial_cap_s: float | None = None
    observe: Observer | None = None
    over: Callable[[OpenStudy], str | None] | None = None
    _refused: str = field(default="", init=False)
    _is_finished: bool = field(default=False, init=False)
    _fresh: list[Event] = field(default_factory=list, init=False)
    _luck: _Luck = field(default_factory=lambda: _Luck(), init=False)
    _calm_at: float = field(default=math.inf, init=False)
    _waiting: list[Event] = field(default_factory=list, init=False)
    _held_back: dict[int, float] = field(default_factory=dict, init=False)  # trial -> when it may go on
    _is_waiting: bool = field(default=False, init=False)  # for one of these

    def run(self) -> str:
        """Spend the budget; returns why it ended, in a sentence.

        An interrupt (Ctrl-C) ends the running segments so that they can go on one day.
        """
        with self.executor:
            self.study.use_clock(self.executor.now)
            try:
                self._recover()
                self._luck = _Luck()
                return self._loop()
            except KeyboardInterrupt:
                self._interrupt()
                return INTERRUPTED

    def _loop(self) -> str:
        settled = True
        while True:
            reason = self._luck.reason(self.study.balance()) or (self.over(self.study) if self.over else None)
            if settled and reason is None:
                self._dispatch()
                self._calm_at = time.monotonic() + _CALM_S
            self._show()
            free = len(self.executor.free_slots())
            if not self.study.count(Status.RUNNING) and (reason or self._is_idle()):
                return (
                    _too_cheap(self.study)
                    or reason
                    or _too_small(self.study)
                    or (f"{self._refused}; {saved(self.study.balance())}" if self._is_finished else self._refused)
                    or "the scheduler has nothing more to try"
                )
            ended = self._wait()
            if self.study.is_asked_to_pause:
                self._interrupt()
                return PAUSED
            self._watch()
            # A slot that was taken away comes back without a word.
            settled = ended or len(self.executor.free_slots()) > free or self._is_one_due()
            if not settled:
                self._prepare()

    def _is_idle(self) -> bool:
        """Whether nothing is to be waited for: all is spent, or each slot that is away has a free one like it."""
        if self.study.balance().exhausted(to_go_on=self.study.count(Status.PAUSED) > 0):
            return True
        free = {slot.likeness for slot in self.executor.free_slots()}
        return not self._is_waiting and all(slot.likeness in free for slot in self.executor.slots)

    def _is_one_due(self) -> bool:
        return any(due <= self.executor.now() for due in self._held_back.values())

    def _wait(self) -> bool:
        """Take in what happened; returns whether a segment ended."""
        if not self._waiting:
            self._waiting += self.executor.wait(_TICK_S)
        events, self._waiting = self._waiting, []
        self._record(*(self._judged(event) for event in events))
        if not events:
            self.study.renew()
        return any(isinstance(event, Ended) for event in events)

    def _watch(self) -> None:
        """Give up what the scheduler does not want to run on."""
        if isinstance(self.scheduler, Watching):
            for stop in self.scheduler.watch(self.study):
                self.executor.cancel(stop.trial, Outcome.STOPPED)

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
        self._refused, self._is_finished, self._is_waiting = "", False, False
        now = self.executor.now()
        self._held_back = {number: due for number, due in self._held_back.items() if due > now}
        self.study.held_back = self._held_back.keys()
        slots = self._open_slots()
        if not slots:
            return
        decisions = self.scheduler.decide(self.study, self.study.balance(), slots)
        sharers = sum(isinstance(decision, (Start, Resume)) for decision in decisions)
        predict = predictor(self.cost_model, self.study)
        for decision in decisions:
            if isinstance(decision, Stop):
                self.executor.cancel(decision.trial, Outcome.STOPPED)
            elif isinstance(decision, Finish):
                self._refused = decision.reason
                self._is_finished = True
            else:
                self._begin(decision, predict, sharers=sharers)
                sharers -= 1
        self._is_waiting = bool(self._held_back) and not self._is_finished

    def _open_slots(self) -> list[Slot]:
        """The free slots for which something is left to spend."""
        balance, to_go_on = self.study.balance(), self.study.count(Status.PAUSED) > 0
        if spent := balance.exhausted(to_go_on=to_go_on):
            self._refused = f"the budget of {spent.replace('_', ' ')} is spent"
            return []
        closed = {name: spent for name, pool in balance.pools.items() if (spent := pool.exhausted(to_go_on=to_go_on))}
        slots = [slot for slot in self.executor.free_slots() if slot.pool not in closed]
        if closed and not slots:
            pool, spent = next(iter(closed.items()))
            self._refused = f"the budget of {spent.replace('_', ' ')} in the pool {pool!r} is spent"
        return slots

    def _begin(self, decision: Start | Resume, predict: Predictor, *, sharers: int) -> None:
        if isinstance(decision, Start):
            trial, segment, start = len(self.study.trials), 0, 0
            params, planned, why = decision.params, decision.planned, decision.why
        else:
            paused = self.study.trials[decision.trial]
            trial, segment, start = paused.number, len(paused.starts), paused.checkpoint
            params, planned, why = paused.params, paused.planned, {**decision.why, "resumed": f"from step {start}"}
        slot, until = decision.slot, decision.until
        quote = self._quote(predict(params, start, until), slot, first=segment == 0, sharers=sharers)
        if quote is None:
            return
        cap_s, held = quote
        started = Started(
            trial, segment, params, start, until, planned, held, slot.name, self.executor.now(), why,
            pool=slot.pool, speed=slot.speed,
        )  # fmt: skip
        self._record(started)
        memory = int(held.memory_bytes) or None
        folder = trial_folder(self.folder, trial)
        self.study.renew()  # a controller that was stopped here for long must not start what it no longer holds
        self.executor.submit(
            Segment(trial, segment, params, self.seed, start, until, planned, slot, cap_s, memory, folder)
        )

    def _quote(
        self, predicted: CostPrediction | None, slot: Slot, *, first: bool, sharers: int
    ) -> tuple[float, Cost] | None:
        """The cap in seconds of a segment and what to hold for it; None if it is not affordable."""
        balance = self.study.balance()
        found = quote(
            balance,
            slot,
            predicted,
            first=first,
            sharers=sharers,
            trial_cap_s=self.trial_cap_s,
            memory_bytes=balance["memory_bytes"].total / len(self.executor.slots),
        )
        if isinstance(found, Refusal):
            self._refused = found.reason
            return None
        return found.cap_s, found.held

    def _judged(self, event: Event) -> Event:
        """An event as it is recorded.

        It is stamped between its segment's start and now, whatever its node's clock says. What the job printed
        stays in its file, if it did not fail: the journal would grow by 2 kB a segment.
        """
        started_at = self.study.trials[event.trial].starts[-1].at
        at = max(started_at, min(event.at, self.executor.now()))
        event = event if at == event.at else replace(event, at=at)
        if not isinstance(event, Ended):
            return event
        event = event if event.failure else replace(event, log_tail="")
        return judged(self.study, event)

    def _record(self, *events: Event) -> None:
        self.study.record(*events)
        if self.observe is not None:
            self._fresh += events
        for event in events:
            if isinstance(event, Ended):
                self._luck.note(event)
                if due := due_at(self.study.trials[event.trial], self.executor.now()):
                    self._held_back[event.trial] = due

    def _show(self) -> None:
        fresh, self._fresh = self._fresh, []
        if self.observe is not None:
            self.observe(self.study, self.study.balance(), fresh)

    def _recover(self) -> None:
        """Settle what an earlier controller left running, and let those wait who must."""
        now, paused = self.executor.now(), self.study.with_status(Status.PAUSED)
        self._held_back = {trial.number: due_at(trial, now) for trial in paused}
        for trial in self.study.with_status(Status.RUNNING):
            left = self.executor.recover(trial.starts[-1], trial_folder(self.folder, trial.number))
            # The executor does not know which reports reached the journal before the crash.
            late = (e for e in left if not isinstance(e, Reported) or e.step > trial.reached[-1])
            self._record(*(self._judged(event) for event in late))

    def _interrupt(self) -> None:
        for trial in self.study.with_status(Status.RUNNING):
            self.executor.cancel(trial.number, Outcome.INTERRUPTED)
        while self.study.with_status(Status.RUNNING):
            self._wait()
        self._show()


def trial_folder(folder: Path, trial: int) -> Path:
    """Where a trial keeps its checkpoints and logs."""
    return folder / f"trial-{trial:05d}"


def saved(balance: Balance) -> str:
    """What of the budget a run that ends now has not spent, in words."""
    units = {"device_seconds": "device-seconds", "dollars": "USD", "evaluations": "trials"}
    kept = [f"{a.free:.4g} of {a.total:.4g} {units[name]}" for name, a in balance.limited.items() if name in units]
    return f"saved {' and '.join(kept)}" if kept else "the rest of the time is saved"


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


@dataclass(slots=True)
class _Luck:
    """Whether the jobs fail by themselves rather than by their configuration, by the ends of one controller's life.

    What failed before does not count: a user who mends the job resumes the run.
    """

    done: int = 0  # segments that ended by themselves or as decided
    failed: list[Ended] = field(default_factory=list)  # the last of them, in a row

    def note(self, event: Ended) -> None:
        """Count an end: a trial that paused at its rung went well; one that was interrupted tells nothing."""
        if event.outcome == Outcome.INTERRUPTED:
            return
        if event.outcome == Outcome.FAILED:
            self.failed.append(event)
        else:
            self.failed.clear()
        self.done += 1

    def reason(self, balance: Balance) -> str | None:
        """Why to stop, if there were too many failures, or they were too dear."""
        n = len(self.failed)
        is_code = n == self.done and all(event.cause in (Cause.BUG, Cause.USER) for event in self.failed)
        is_dear = is_code and n >= _DEAR and self._share(balance) > _DEAR_SHARE
        if not is_dear and n < (_CRASH_LOOP if is_code else 2 * _CRASH_LOOP):
            return None
        last = self.failed[-1].message
        return f"the last {n} trials all failed, so the job itself seems broken; the last one: {last}"

    def _share(self, balance: Balance) -> float:
        """The largest share that the failures have cost of what there was to spend of anything."""
        return max(
            (
                sum(getattr(event.used, name) for event in self.failed) / account.total
                for name, account in balance.limited.items()
                if name in ("device_seconds", "dollars")
            ),
            default=0.0,
        )
