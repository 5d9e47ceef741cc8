"""Segments in the calling process: for tests, and for functions that need no isolation.

A segment runs when `wait` is called, to its end; so nothing can be cancelled once it runs. Caps are
looked at when the job reports, and memory not at all. A job that hangs hangs the run, one that
kills its process kills the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from frugalbo.errors import ExecutorError
from frugalbo.events import Ended, Event, Outcome, Reported, Started
from frugalbo.executors import runner
from frugalbo.executors.base import Segment
from frugalbo.executors.recovery import recover_segment
from frugalbo.executors.segments import ReportReader, ReportWriter, SegmentFolder, absolute, cost_of, goes_on_from
from frugalbo.executors.verdict import Seen, blame, judge
from frugalbo.executors.warm import load_function
from frugalbo.problem import IN_MEMORY, Problem, job_address
from frugalbo.slot import Slot


class _CapReached(BaseException):
    """Ends a job at a report; not an `Exception`, which jobs catch."""


class InlineExecutor:
    """Runs segments one after the other, here.

    Args:
        slots: One CPU slot, if not given.

    Raises:
        ExecutorError: If the job is a command, or, on entering, cannot be loaded.
    """

    def __init__(self, problem: Problem, slots: Sequence[Slot] | None = None) -> None:
        self._problem = problem
        self._slots = tuple(slots or (Slot("cpu:0", "cpu", 0),))
        self._function: Callable[..., Any] | None = None
        # By trial, in the order of submission: the segment and how it is to end, if it is not to run.
        self._queue: dict[int, tuple[Segment, Outcome | None]] = {}
        self._spent_s: dict[int, float] = {}  # by trial, on what the user interrupted
        if isinstance(job_address(problem.job), tuple):
            raise ExecutorError("expected a function to run in this process, got a command; use the local executor")

    @property
    def slots(self) -> Sequence[Slot]:
        """All slots."""
        return self._slots

    def free_slots(self) -> Sequence[Slot]:
        """The slots on which nothing waits to run, in a fixed order."""
        busy = {segment.slot.name for segment, _ in self._queue.values()}
        return [slot for slot in self._slots if slot.name not in busy]

    def now(self) -> float:
        """Seconds since 1970 in UTC."""
        return time.time()

    def __enter__(self) -> Self:
        job = self._problem.job
        address = job_address(job)
        if callable(job):
            self._function = job
        elif isinstance(address, str) and address != IN_MEMORY:
            try:
                self._function = load_function(address, Path(self._problem.root))
            except Exception as error:
                raise ExecutorError(f"cannot load the job {address!r}: {type(error).__name__}: {error}") from error
        return self

    def __exit__(self, *exc: object) -> None:
        """What has not run yet ends as interrupted."""
        self._function = None
        self._queue = {trial: (segment, Outcome.INTERRUPTED) for trial, (segment, _) in self._queue.items()}

    def submit(self, segment: Segment) -> None:
        """Have a segment run at the next `wait`.

        Raises:
            ExecutorError: If its slot is not free.
        """
        if self._function is None:
            raise ExecutorError("an executor runs segments in a with statement only")
        if segment.slot not in self.free_slots():
            raise ExecutorError(f"slot {segment.slot.name!r} is not free, or none of {[s.name for s in self._slots]}")
        if segment.trial in self._queue:
            raise ExecutorError(f"trial {segment.trial} is running already")
        segment = absolute(segment)
        SegmentFolder(segment.folder, segment.number).create()
        self._queue[segment.trial] = segment, None

    def cancel(self, trial: int, outcome: Outcome = Outcome.STOPPED) -> None:
        """Drop a trial that has not run yet."""
        if trial in self._queue and self._queue[trial][1] is None:
            self._queue[trial] = self._queue[trial][0], outcome

    def wait(self, timeout_s: float) -> Sequence[Reported | Ended]:
        """Run the next segment; returns all its events. Takes as long as the job does.

        A `KeyboardInterrupt` passes; the segment ends as interrupted at the next call.
        """
        if not self._queue:
            return []
        trial, (segment, asked) = next(iter(self._queue.items()))
        began = time.monotonic()
        try:
            events = self._run(segment, asked)
        except KeyboardInterrupt:
            self._queue[trial] = segment, Outcome.INTERRUPTED
            self._spent_s[trial] = time.monotonic() - began
            raise
        del self._queue[trial]
        return events

    def recover(self, started: Started, folder: Path) -> Sequence[Event]:
        """What became of a segment whose process died; its reports are kept in its folder."""
        objective = self._problem.objective.metric
        return recover_segment(started, folder, objective=objective, slots=self._slots, now=self.now())

    def _run(self, segment: Segment, asked: Outcome | None) -> list[Reported | Ended]:
        files = SegmentFolder(segment.folder, segment.number)
        objective = self._problem.objective.metric
        began = time.monotonic()
        seen = Seen(exit_code=0, asked="cancel" if asked == Outcome.STOPPED else "interrupt")
        if asked is None:
            seen = self._call(segment, ReportWriter(files.reports), began)
        seconds = time.monotonic() - began + self._spent_s.pop(segment.trial, 0.0)
        reports = ReportReader(files, segment.trial, segment.start, segment.until).read()
        outcome, failure, message = judge(segment, objective, reports, seen)
        ended = Ended(
            trial=segment.trial,
            segment=segment.number,
            outcome=outcome,
            used=cost_of(segment, seconds),
            at=self.now(),
            checkpoint=goes_on_from(files, segment, outcome, reports, objective),
            failure=failure,
            message=message,
            cause=blame(outcome, failure, seen),
        )
        files.write_receipt(ended)
        return [*reports, ended]

    def _call(self, segment: Segment, writer: ReportWriter, began: float) -> Seen:
        assert self._function is not None
        context = runner.make_context(segment, self._problem.objective.metric, writer)
        write = context.sink

        def sink(record: dict[str, Any]) -> None:
            write(record)
            if time.monotonic() - began > segment.cap_s and record["step"] < segment.until:
                raise _CapReached

        context.sink = sink
        try:
            # An interrupt is the user's, for the run and not for the job.
            result = runner.call(self._function, context, let_through=(_CapReached, KeyboardInterrupt))
        except _CapReached:
            return Seen(exit_code=None, asked="timeout")
        finally:
            writer.close()
        return Seen(exit_code=0 if result.get("ok") else 1, result=result)
