"""Segments on this machine: each in processes of its own, forked from a warm template.

    controller -> template -> supervisor (one a segment) -> job -> what the job starts

| who is killed | what happens |
|---|---|
| the job | its supervisor sees how, ends what it left, says so |
| a supervisor | the system kills its job; the template adopts what is left; the controller ends that |
| the template | supervisors go on; the controller starts another one for the next segment |
| the controller | every supervisor asks its job to save and end, then makes it; `recover` reads the receipts |
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import time
import uuid
import warnings
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from frugalbo.errors import ExecutorError, FrugalWarning, StudyError
from frugalbo.events import Ended, Event, Outcome, Reported, Started, event_from_json
from frugalbo.executors import processes
from frugalbo.executors.admission import refuse_running, refuse_unfit
from frugalbo.executors.base import Segment
from frugalbo.executors.devices import assign_cores, gpus_of, local_slots, visible_devices
from frugalbo.executors.processes import Identity
from frugalbo.executors.recovery import end_left_over, end_unseen, recover_segment
from frugalbo.executors.segments import Orders, ReportReader, SegmentFolder, absolute, cost_of, wake
from frugalbo.executors.template import WarmProcess
from frugalbo.executors.warm import LOADING
from frugalbo.problem import IN_MEMORY, Problem, active_words, job_address
from frugalbo.slot import Slot

# A supervisor that has said nothing so long after the cap is broken, and killed.
_PATIENCE_S = 35.0
_EXIT_S = 5.0  # what supervisors may need above the grace to end their jobs, when the executor is left
_LOOK_S = 1.0  # how often supervisors are looked at while nothing happens

_open: weakref.WeakSet[LocalExecutor] = weakref.WeakSet()


@dataclass(slots=True)
class _Running:
    segment: Segment
    orders: Orders
    files: SegmentFolder
    reports: ReportReader
    control: socket.socket
    supervisor: int
    began: float
    asked: Outcome | None = None
    said: bytes = field(default=b"", repr=False)


class LocalExecutor:
    """Runs the segments of one problem on slots of this machine.

    Args:
        slots: The visible GPUs, or else the cores, if not given.
        grace_s: What a job may take from being asked to end until it is killed; at the cap it is
            asked before, at most a tenth of the cap, and killed at the cap.
        preload: Modules that are loaded once for all segments, where they are installed.
        pin: Whether each CPU slot keeps to cores of its own; not where other executors share the machine.

    Raises:
        ExecutorError: If slots have the same name or share a core. On entering, if the job cannot
            be loaded.
    """

    def __init__(
        self,
        problem: Problem,
        slots: Sequence[Slot] | None = None,
        *,
        grace_s: float = 1.5,
        preload: Sequence[str] = ("torch",),
        pin: bool = True,
    ) -> None:
        self._problem = problem
        self._slots = tuple(local_slots() if slots is None else slots)
        if not self._slots or len({slot.name for slot in self._slots}) < len(self._slots):
            raise ExecutorError(f"expected slots with different names, got {[slot.name for slot in self._slots]}")
        if not grace_s >= 0:
            raise ExecutorError(f"expected a grace of at least 0 s, got {grace_s!r}")
        self._cores = assign_cores(self._slots) if pin else {slot.name: None for slot in self._slots}
        self._visible = visible_devices() if any(slot.kind == "cuda" for slot in self._slots) else []
        self._grace_s = grace_s
        self._preload = tuple(preload)
        self._epoch = time.time() - time.monotonic()
        self._run = ""
        self._template: WarmProcess | None = None
        self._wake: tuple[int, int] | None = None
        self._is_woken = False
        self._running: dict[str, _Running] = {}  # by slot
        self._events: list[Reported | Ended] = []

    @property
    def slots(self) -> Sequence[Slot]:
        """All slots."""
        return self._slots

    @property
    def grace_s(self) -> float:
        """What a job may take from being asked to end until it is killed."""
        return self._grace_s

    def free_slots(self) -> Sequence[Slot]:
        """The slots on which nothing runs, in a fixed order."""
        return [slot for slot in self._slots if slot.name not in self._running]

    def now(self) -> float:
        """Seconds since 1970 in UTC, by a clock that is set once, so that it never jumps."""
        return self._epoch + time.monotonic()

    def __enter__(self) -> Self:
        if self._wake is not None:
            raise ExecutorError("this executor is entered already")
        if loading := os.environ.get(LOADING):
            raise ExecutorError(
                f"the job {loading!r} starts a run when its file is imported; put that under if __name__ == '__main__':"
            )
        self._check_command()
        if self._is_forked_beside_threads() and any(slot.threads > 1 for slot in self._slots):
            message = "a job that only this process has runs on one thread here; move the function to a file for more"
            warnings.warn(message, FrugalWarning, stacklevel=2)
        self._run = uuid.uuid4().hex
        self._wake = os.pipe()
        for fd in self._wake:
            os.set_blocking(fd, False)
        _open.add(self)
        try:
            self._start_template()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        """End all that runs; what became of it can still be had from `wait`."""
        try:
            for running in self._running.values():
                self._ask(running, Outcome.INTERRUPTED)
            give_up = time.monotonic() + self._grace_s + _EXIT_S
            self._collect()
            while self._running and time.monotonic() < give_up:
                self._sleep(give_up - time.monotonic())
                self._collect()
            for running in self._running.values():
                processes.send(running.supervisor, signal.SIGKILL)
            for running in list(self._running.values()):
                self._bury(running)
        finally:
            self._close()

    def submit(self, segment: Segment) -> None:
        """Start a segment on its slot, which must be free.

        Raises:
            ExecutorError: If the slot is not free or the segment cannot be started.
        """
        if self._wake is None:
            raise ExecutorError("an executor runs segments in a with statement only")
        refuse_unfit(segment, self._slots, self._segments())
        segment = absolute(segment)
        files = SegmentFolder(segment.folder, segment.number)
        for is_last in (False, True):
            template = self._template
            if template is None or not template.is_alive:
                template = self._start_template()
            try:
                orders = self._orders(segment, template.identity)
                files.create()
                path = files.write_orders(orders)
            except (OSError, TypeError) as error:
                raise ExecutorError(f"cannot write the orders of a segment to {files.path}: {error}") from error
            ours, theirs = socket.socketpair()
            try:
                began = time.monotonic()
                supervisor = template.start_segment(path, theirs)
            except (ConnectionError, BrokenPipeError) as error:  # it died, with or without having forked
                ours.close()
                template.close()
                end_left_over(files, orders)
                if is_last:
                    raise ExecutorError(f"the process that starts segments died twice: {error}") from error
                continue
            finally:
                theirs.close()
            ours.setblocking(False)
            reports = ReportReader(files, segment.trial, segment.start, segment.until)
            self._running[segment.slot.name] = _Running(segment, orders, files, reports, ours, supervisor, began)
            return

    def cancel(self, trial: int, outcome: Outcome = Outcome.STOPPED) -> None:
        """Ask a running trial to end; one that reached its end meanwhile is still `COMPLETED` or `PAUSED`."""
        for running in list(self._running.values()):  # also from another thread than the one that waits
            if running.segment.trial == trial:
                self._ask(running, outcome)

    def wait(self, timeout_s: float) -> Sequence[Reported | Ended]:
        """The events since the last call; waits for the first of them, at most `timeout_s`."""
        give_up = time.monotonic() + timeout_s
        self._collect()
        while self._wake is not None and not (self._events or self._is_woken) and time.monotonic() < give_up:
            self._sleep(give_up - time.monotonic())
            self._collect()
        self._is_woken = False
        events, self._events = self._events, []
        return events

    def wake(self) -> None:
        """Have `wait` return at once, with what there is; from any thread."""
        self._is_woken = True
        if self._wake is not None:
            wake(self._wake[1])

    def recover(self, started: Started, folder: Path) -> Sequence[Event]:
        """What became of a segment whose controller died; nothing of it is alive after this.

        Raises:
            ExecutorError: If the segment is running here.
        """
        refuse_running(started, self._segments())
        objective = self._problem.objective.metric
        return recover_segment(started, folder, objective=objective, slots=self._slots, now=self.now())

    def _segments(self) -> dict[str, Segment]:
        return {slot: running.segment for slot, running in self._running.items()}

    def _check_command(self) -> None:
        words = job_address(self._problem.job)
        if isinstance(words, tuple) and "{" not in words[0]:
            program, root = words[0], Path(self._problem.root)
            found = (root / program).exists() if "/" in program else shutil.which(program)
            if not root.is_dir() or not found:
                raise ExecutorError(f"expected a program to run in {root}, got {program!r}, which is not there")

    def _orders(self, segment: Segment, template: Identity) -> Orders:
        words = job_address(self._problem.job)
        if self._is_forked_beside_threads():
            segment = replace(segment, slot=replace(segment.slot, threads=1))
        slot = segment.slot
        visible = self._visible[slot.index : gpus_of(slot).stop] if slot.kind == "cuda" else []
        return Orders(
            segment=segment,
            run=self._run,
            machine=processes.machine(),
            controller=processes.identify(os.getpid()) or Identity(os.getpid(), -1),
            template=template,
            objective=self._problem.objective.metric,
            words=None if isinstance(words, str) else tuple(active_words(words, self._problem.space, segment.params)),
            root=str(Path(self._problem.root).resolve()),
            cores=self._cores[slot.name],
            visible=",".join(visible),
            grace_s=self._grace_s,
        )

    def _is_forked_beside_threads(self) -> bool:
        """Whether jobs are copies of this process, which has used threads that they would wait for in vain."""
        return "torch" in sys.modules and job_address(self._problem.job) == IN_MEMORY

    def _start_template(self) -> WarmProcess:
        assert self._wake is not None
        if self._template is not None:
            self._template.close()
            self._template = None
        self._template = WarmProcess(
            self._problem,
            self._run,
            self._wake[1],
            preload=self._preload,
            threads=max(slot.threads for slot in self._slots),
            own_fds=[fd for executor in _open for fd in executor._fds()],
        )
        return self._template

    def _fds(self) -> list[int]:
        fds = [running.control.fileno() for running in self._running.values()]
        fds += [self._template.fileno()] if self._template else []
        return fds + ([self._wake[0]] if self._wake else [])

    def _ask(self, running: _Running, outcome: Outcome) -> None:
        if running.asked is None:
            running.asked = outcome
            with contextlib.suppress(OSError):  # it is about to be found dead
                running.control.send(b"interrupt\n" if outcome == Outcome.INTERRUPTED else b"cancel\n")

    def _sleep(self, timeout_s: float) -> None:
        """Until something happens."""
        assert self._wake is not None
        poll = select.poll()
        poll.register(self._wake[0], select.POLLIN)
        for running in self._running.values():
            poll.register(running.control, select.POLLIN)
        poll.poll(1000 * max(0.0, min(timeout_s, _LOOK_S)))
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake[0], 2**16)

    def _collect(self) -> None:
        """Take in what all segments have reported, and which have ended."""
        for running in list(self._running.values()):
            ended = self._hear(running)
            self._events += running.reports.read()
            if ended is not None:
                self._events.append(ended)
                self._forget(running)

    def _hear(self, running: _Running) -> Ended | None:
        """The segment's end, if it has come."""
        try:
            while piece := running.control.recv(2**16):
                running.said += piece
        except BlockingIOError:
            self._check_supervisor(running)
            return None
        except OSError:  # as good as its end
            pass
        try:
            event = event_from_json(json.loads(running.said))
        except (ValueError, StudyError):
            return self._post_mortem(running)
        assert isinstance(event, Ended)
        return event

    def _check_supervisor(self, running: _Running) -> None:
        """End a supervisor that cannot do its work."""
        overdue = time.monotonic() > running.began + running.segment.cap_s + _PATIENCE_S
        process = processes.look(running.supervisor)
        if overdue or (process is not None and process.state in "Tt"):  # stopped, and its job is not
            processes.send(running.supervisor, signal.SIGKILL)

    def _bury(self, running: _Running) -> None:
        ended = self._post_mortem(running)
        self._events += [*running.reports.read(), ended]
        self._forget(running)

    def _post_mortem(self, running: _Running) -> Ended:
        """End what a silent supervisor left, and say what can be said."""
        segment, files = running.segment, running.files
        processes.kill_until_gone(lambda: self._left_of(running), timeout_s=_EXIT_S)
        seconds = time.monotonic() - running.began
        if (receipt := files.read_receipt()) is not None:
            return receipt
        used, cancelled = cost_of(segment, seconds), running.asked == Outcome.STOPPED
        objective = self._problem.objective.metric
        return end_unseen(segment, files, objective, used=used, at=self.now(), cancelled=cancelled)

    def _left_of(self, running: _Running) -> set[int]:
        dead = running.supervisor
        left = processes.members(dead) | processes.descendants(dead)
        noted = {who.pid for who in running.files.read_processes()[2] if processes.is_alive(who)}
        left |= noted | {below for pid in noted for below in processes.descendants(pid)}
        # Twice, as one whose parent ends while the tree is walked is missed in it.
        return left | (self._strays(dead) & self._strays(dead))

    def _strays(self, dead: int) -> set[int]:
        """What carries our mark and belongs to no living segment."""
        marked = processes.marked(self._run)
        roots = {running.supervisor for running in self._running.values()} - {dead}
        strays = set()
        if self._template is not None:
            strays = self._template.strays(roots | {dead})
            roots |= {self._template.pid}
        return (marked - roots - {below for root in roots for below in processes.descendants(root)}) | strays

    def _forget(self, running: _Running) -> None:
        running.control.close()
        del self._running[running.segment.slot.name]

    def _close(self) -> None:
        """Leave nothing: whatever still runs hears that its controller is gone, and what does not listen is killed."""
        for running in list(self._running.values()):
            self._forget(running)
        if self._template is not None:
            self._template.close()
            self._template = None
        if self._run:
            processes.kill_until_gone(lambda: processes.marked(self._run), timeout_s=_EXIT_S)
        if self._wake is not None:
            for fd in self._wake:
                os.close(fd)
            self._wake = None
        _open.discard(self)
