"""The process that watches one segment: its time, its memory, its output, its descendants, its controller.

It is the parent of the job and adopts whatever the job leaves behind. So when it says that the
segment has ended, nothing of it is alive; and when it dies itself, the system kills the job.
Before it says anything it writes a receipt, for a later controller.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from frugalbo.events import Ended, Failure, event_to_json
from frugalbo.executors import processes, runner
from frugalbo.executors.output import ReportParser
from frugalbo.executors.segments import (
    BEAT_S,
    BoundedLog,
    Orders,
    ReportReader,
    ReportWriter,
    SegmentFolder,
    cost_of,
    goes_on_from,
)
from frugalbo.executors.verdict import Reason, Seen, blame, judge

NAME = "frugalbo-watch"
SPARE = "frugalbo-spare"  # until the orders come

_POLL_S = 0.05  # how often memory is looked at, if there is a cap
_GRACE_OF_CAP = 0.1  # the share of its cap that a job may lose to the grace
_READ_BYTES = 2**16
# What does not die of SIGKILL in this time hangs in a driver; waiting longer would hang the run as well.
_GIVE_UP_S = 30.0


def supervise(function: Callable[..., Any] | None, source: socket.socket, wake: int) -> NoReturn:
    """Fork the job, wait for orders, run the segment; for a process that was forked for it.

    All that takes long is done before the orders come.

    Args:
        function: The job; None for a command.
        source: Gives when the segment began, the path of its orders, and a socket to the
            controller. If it ends without, so does this process.
        wake: A pipe to the controller that says: look at the reports.
    """
    status = 1
    try:
        os.setsid()
        processes.set_name(SPARE)
        processes.adopt_orphans()
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        job = Job(function, source, wake)
        text, fds, _, _ = socket.recv_fds(source, 2**16, 1)
        if text and fds:
            os.set_inheritable(fds[0], False)
            source.close()
            began, path = text.split(b" ", 1)
            processes.set_name(NAME)
            Supervisor(job, Path(os.fsdecode(path)), socket.socket(fileno=fds[0]), wake, float(began)).run()
        status = 0
    except BaseException:  # noqa: BLE001 - the controller sees the silence; the template's log gets the reason
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


class Job:
    """A forked job that waits for its orders, and the supervisor's ends of its pipes."""

    def __init__(self, function: Callable[..., Any] | None, source: socket.socket, wake: int) -> None:
        orders_r, self._orders = os.pipe()
        self.stdout, out_w = os.pipe()
        self.stderr, err_w = os.pipe()
        self.result, result_w = os.pipe()
        ends = runner.JobEnds(orders_r, out_w, err_w, result_w)
        self.is_function = function is not None
        supervisor = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            source.close()
            for fd in (self._orders, self.stdout, self.stderr, self.result):
                os.close(fd)
            runner.be_job(function, supervisor, ends, wake)
        with contextlib.suppress(OSError):
            os.setpgid(self.pid, self.pid)  # here too, as it may be signalled before it gets there
        ends.close()

    def start(self, orders: Path) -> None:
        """Have it begin."""
        with contextlib.suppress(BrokenPipeError):  # it is dead already, which is noticed anyway
            os.write(self._orders, os.fsencode(orders))
        os.close(self._orders)


class Supervisor:
    """One segment under watch.

    Args:
        orders: Their path.
        control: Takes `cancel` and `interrupt`, a line each, and is given the `Ended`. Its end is
            the controller's end.
        wake: A pipe to the controller that says: look at the reports.
        began: When the segment began to hold its slot, on the monotonic clock.
    """

    def __init__(self, job: Job, orders: Path, control: socket.socket, wake: int, began: float) -> None:
        self._job, self._path = job, orders
        self._orders = Orders.read(orders)
        self._segment = segment = self._orders.segment
        self._control, self._wake = control, wake
        self._folder = SegmentFolder(segment.folder, segment.number)
        self._began = began
        self._cap_at = began + segment.cap_s
        self._grace_s = min(self._orders.grace_s, segment.cap_s * _GRACE_OF_CAP)
        self._kill_at = math.inf
        self._asked: Reason | None = None
        self._exit_code: int | None = None
        self._is_over = False
        self._result = b""
        self._log: BoundedLog | None = None
        self._parser: ReportParser | None = None
        self._noted: set[int] = set()
        self._peak_bytes = 0
        self._next_poll = began
        self._ooms = _oom_kills()
        self._outputs: dict[int, Callable[[bytes], None]] = {}
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Run the segment to its end."""
        try:
            if self._listen_to_all():
                self._note({self._job.pid})  # before it can do anything
                self._job.start(self._path)
                self._watch()
            else:
                self._asked = "orphaned"
        except OSError as error:  # such as a full disk
            message = f"it could not be watched: {error}"
            self._result = json.dumps({"failure": Failure.ERROR, "message": message}).encode()
        finally:
            stubborn = self._end_all()
        self._finish(stubborn)

    def _listen_to_all(self) -> bool:
        """Hear of signals, children, the controller and the job; whether there is a controller still."""
        signal.signal(signal.SIGTERM, lambda *_: self._ask("orphaned"))
        signal.signal(signal.SIGCHLD, lambda *_: None)  # so that the next line hears of it
        self._signals, writer = socket.socketpair()
        self._signals.setblocking(False)
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
        self._listen(self._signals.fileno(), self._drain_signals)
        self._listen(self._control.fileno(), self._obey)
        with contextlib.suppress(OSError):
            self._log = BoundedLog(self._folder.log)
        if not self._job.is_function:
            writes = ReportWriter(self._folder.reports, self._wake)
            self._parser = ReportParser(
                self._orders.objective,
                self._segment.start,
                self._segment.until,
                lambda step, metrics: writes.write(step, metrics, time.time()),
            )
        job = self._job
        self._outputs = {job.stdout: self._take_stdout, job.stderr: self._take_log, job.result: self._take_result}
        for fd in self._outputs:
            self._listen(fd, partial(self._read, fd))
        try:
            death = processes.death_of(self._orders.controller)
        except ProcessLookupError:
            return False
        if death is not None:
            self._listen(death, lambda: self._lose_controller(death))
        return True

    def _watch(self) -> None:
        """Until the job itself is over, or is to be killed."""
        while not self._is_over:
            now = time.monotonic()
            until = min(self._kill_at, self._cap_at, self._next_poll)
            if self._asked is None:
                until = min(until, self._cap_at - self._grace_s)
            for key, _ in self._selector.select(max(0.0, min(until - now, 1.0))):
                key.data()
            self._reap()
            if not self._is_over:
                self._keep_limits()

    def _keep_limits(self) -> None:
        now = time.monotonic()
        if self._asked is None and now >= self._cap_at - self._grace_s:
            self._ask("timeout", kill_at=self._cap_at)
        if self._parser is not None and self._parser.diverged:
            self._ask("diverged", kill_at=now)
        if now >= self._next_poll:
            self._look_at_processes()
        if time.monotonic() >= min(self._kill_at, self._cap_at):
            self._asked = self._asked or ("timeout" if now >= self._cap_at else None)
            self._is_over = True

    def _note(self, pids: set[int]) -> None:
        """Leave word of who is alive, for a controller that finds us all killed."""
        self._noted = pids
        supervisor, job = processes.identify(os.getpid()), processes.identify(self._job.pid)
        others = [who for pid in pids if pid != self._job.pid and (who := processes.identify(pid))]
        with contextlib.suppress(OSError):
            self._folder.write_processes(supervisor, job, others)

    def _look_at_processes(self) -> None:
        cap = self._segment.memory_bytes
        self._next_poll = time.monotonic() + (BEAT_S if cap is None else _POLL_S)
        self._folder.beat()
        pids = processes.descendants(os.getpid())
        if pids != self._noted:
            self._note(pids)
        kept = processes.resident_bytes(pids)
        if cap is not None and kept > cap:
            # A forked job shares pages with the template, which do not count for each process.
            kept = processes.proportional_bytes(pids)
            if kept > cap:
                self._ask("memory", kill_at=time.monotonic())
        self._peak_bytes = max(self._peak_bytes, kept)

    def _ask(self, reason: Reason, *, kill_at: float | None = None) -> None:
        """Have the job end: at `kill_at` by force, until then by its own will."""
        now = time.monotonic()
        if self._asked is None:
            self._asked = reason
            if kill_at is None or kill_at > now:
                self._terminate()
        self._kill_at = min(self._kill_at, now + self._orders.grace_s if kill_at is None else kill_at)

    def _terminate(self) -> None:
        # Workers of a function are left to it, as it may need them to save; a command may be a
        # shell or a launcher that passes nothing on.
        end = processes.send if self._job.is_function else processes.send_group
        end(self._job.pid, signal.SIGTERM)

    def _kill(self) -> None:
        processes.send_group(self._job.pid, signal.SIGKILL)
        processes.kill_all(lambda: processes.descendants(os.getpid()))

    def _end_all(self) -> bool:
        """Kill and reap all that is left; whether something would not die."""
        give_up = time.monotonic() + _GIVE_UP_S
        pause = 0.0005
        while self._reap():
            self._kill()
            if time.monotonic() > give_up:
                return True
            time.sleep(pause)
            pause = min(pause * 2, 0.02)
        return False

    def _reap(self) -> bool:
        """Take in who ended; whether there are children still."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return True
                if pid == self._job.pid:
                    self._exit_code = os.waitstatus_to_exitcode(status)
                    self._is_over = True
        except ChildProcessError:
            return False

    def _finish(self, stubborn: bool) -> None:
        seconds = time.monotonic() - self._began
        self._drain_output()
        if self._parser is not None:
            with contextlib.suppress(OSError):
                self._parser.finish(well=self._exit_code == 0)
        if self._log is not None:
            self._log.close()
        ended = self._ended(seconds, stubborn)
        with contextlib.suppress(OSError):  # a full disk: the controller hears it all the same
            self._folder.write_receipt(ended)
        with contextlib.suppress(OSError):  # it is gone
            self._control.setblocking(True)
            self._control.sendall(json.dumps(event_to_json(ended)).encode() + b"\n")

    def _ended(self, seconds: float, stubborn: bool) -> Ended:
        segment = self._segment
        reports = ReportReader(self._folder, segment.trial, segment.start, segment.until).read()
        seen = Seen(
            exit_code=self._exit_code,
            asked=self._asked,
            result=_parse_result(self._result),
            oom=_oom_kills() > self._ooms,
            refused=self._parser.refused if self._parser else "",
        )
        outcome, failure, message = judge(segment, self._orders.objective, reports, seen)
        if stubborn:
            message = f"{message}; some of its processes hang in the system and do not die".lstrip("; ")
        return Ended(
            trial=segment.trial,
            segment=segment.number,
            outcome=outcome,
            used=cost_of(segment, seconds, self._peak_bytes),
            at=time.time(),
            checkpoint=goes_on_from(self._folder, segment, outcome, reports, self._orders.objective),
            failure=failure,
            message=message,
            log_tail=self._folder.log_tail(),
            cause=blame(outcome, failure, seen),
        )

    def _listen(self, fd: int, call: Callable[[], object]) -> None:
        os.set_blocking(fd, False)
        self._selector.register(fd, selectors.EVENT_READ, call)

    def _ignore(self, fd: int) -> None:
        self._selector.unregister(fd)
        os.close(fd)

    def _drain_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._signals.recv(4096)

    def _obey(self) -> None:
        try:
            text = self._control.recv(4096)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            text = b""
        if b"cancel" in text:
            self._ask("cancel")
        if b"interrupt" in text:
            self._ask("interrupt")
        if not text:
            self._ask("orphaned")
            self._selector.unregister(self._control.fileno())

    def _lose_controller(self, death: int) -> None:
        self._ignore(death)
        self._ask("orphaned")

    def _read(self, fd: int) -> bool:
        """Take in what the job wrote, a piece of it; whether there may be more."""
        try:
            text = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            text = b""
        if not text:
            self._ignore(fd)
            del self._outputs[fd]
            return False
        self._outputs[fd](text)
        return True

    def _drain_output(self) -> None:
        for fd in list(self._outputs):
            for _ in range(1000):  # a process that does not die may print for ever
                if not self._read(fd):
                    break

    def _take_log(self, text: bytes) -> None:
        if self._log is not None:
            self._log.write(text)

    def _take_stdout(self, text: bytes) -> None:
        self._take_log(text)
        if self._parser is not None:
            with contextlib.suppress(OSError):  # a full disk; the report is missed in the end
                self._parser.feed(text)

    def _take_result(self, text: bytes) -> None:
        self._result = (self._result + text)[:_READ_BYTES]
        # It is done. What its exit handlers do is bounded, as the slot is paid for.
        self._kill_at = min(self._kill_at, time.monotonic() + self._orders.grace_s)


def _parse_result(text: bytes) -> Mapping[str, object] | None:
    try:
        record = json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _oom_kills() -> int:
    """How often this system has killed for want of memory."""
    try:
        with open("/proc/vmstat") as file:  # noqa: PTH123
            return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0
