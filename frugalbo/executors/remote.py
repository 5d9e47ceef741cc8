"""What executors have in common whose slots are on other machines, and come and go while a run is under way.

Here is the life of such an executor, its clock, and how events are waited for. Where slots come from and what is said
to them is in `frugalbo.executors.http` and `frugalbo.executors.ray`.
"""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from frugalbo.errors import ExecutorError
from frugalbo.events import Ended, Event, Reported, Started
from frugalbo.executors.admission import refuse_in_memory, refuse_running, refuse_unfit
from frugalbo.executors.base import Segment
from frugalbo.executors.lost import Lost
from frugalbo.problem import Problem
from frugalbo.slot import Slot


class Remote(ABC):
    """Runs the segments of one problem on slots that may be away for a while.

    Args:
        patience_s: How long to wait for slots, at first, and whenever none is left.
        grace_s: As for `LocalExecutor`.
        preload: As for `LocalExecutor`.

    Raises:
        ProblemError: If the job is a function that only this process has.
    """

    def __init__(self, problem: Problem, *, patience_s: float, grace_s: float, preload: Sequence[str]) -> None:
        refuse_in_memory(problem)
        self._problem = problem
        self._patience_s, self._grace_s, self._preload = patience_s, grace_s, list(preload)
        self._epoch = time.time() - time.monotonic()
        self._run = uuid.uuid4().hex
        self._is_open = False
        self._events: list[Reported | Ended] = []
        self._finders = ThreadPoolExecutor(max_workers=8, thread_name_prefix="frugalbo-lost")

    @property
    @abstractmethod
    def slots(self) -> Sequence[Slot]:
        """The slots that are there, or may still come back."""

    @abstractmethod
    def free_slots(self) -> Sequence[Slot]:
        """The slots that are there, and on which nothing runs, in a fixed order."""

    @property
    def grace_s(self) -> float:
        """What a job may take from being asked to end until it is killed."""
        return self._grace_s

    def now(self) -> float:
        """Seconds since 1970 in UTC, by the controller's clock, set once, so that it never jumps."""
        return self._epoch + time.monotonic()

    def __enter__(self) -> Self:
        if self._is_open:
            raise ExecutorError("this executor is entered already")
        self._is_open = True
        try:
            self._begin()
            self._gather()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        """End all that runs; what became of it can still be had from `wait`."""
        try:
            self._end()
        finally:
            self._leave()

    def wait(self, timeout_s: float) -> Sequence[Reported | Ended]:
        """The events since the last call; waits for the first of them, at most `timeout_s`.

        Raises:
            ExecutorError: If there is no slot left, and none was to be had for `patience_s`.
        """
        if self._is_open:
            give_up = time.monotonic() + timeout_s
            free = len(self.free_slots())
            self._collect(0.0)
            while not self._events and (left := give_up - time.monotonic()) > 0 and len(self.free_slots()) <= free:
                self._collect(left)
            if not self._events and not self.slots:
                raise ExecutorError(self._none_left())
        events, self._events = self._events, []
        return events

    def recover(self, started: Started, folder: Path) -> Sequence[Event]:
        """What became of a segment whose controller died; nothing of it is alive after this.

        Raises:
            ExecutorError: If the segment is running here.
        """
        refuse_running(started, self._segments())
        slot = next((slot for slot in self._known() if slot.name == started.slot), Slot(started.slot, "cpu", 0))
        return self._find_out(Lost(started, folder.resolve(), slot, self._problem.objective.metric, self._grace_s))

    def _admit(self, segment: Segment) -> None:
        """Refuse what cannot be submitted now."""
        if not self._is_open:
            raise ExecutorError("an executor runs segments in a with statement only")
        refuse_unfit(segment, self.slots, self._segments())

    def _leave(self) -> None:
        self._close()
        self._is_open = False

    @abstractmethod
    def _begin(self) -> None:
        """On entering: ask for slots."""

    @abstractmethod
    def _gather(self) -> None:
        """Wait until there are enough of them."""

    @abstractmethod
    def _end(self) -> None:
        """On leaving: end what runs."""

    @abstractmethod
    def _close(self) -> None:
        """Leave nothing; also after a `_begin` that failed."""

    @abstractmethod
    def _collect(self, timeout_s: float) -> None:
        """Take in what there is to hear; waits for the first word."""

    @abstractmethod
    def _known(self) -> Sequence[Slot]:
        """All slots, and those that are given up."""

    @abstractmethod
    def _segments(self) -> Mapping[str, Segment]:
        """What runs, by slot."""

    @abstractmethod
    def _find_out(self, lost: Lost) -> list[Event]:
        """What became of a segment of another controller."""

    @abstractmethod
    def _none_left(self) -> str:
        """What to say where no slot is left."""
