"""The job's own process: what happens between its fork and its first line, and after its last.

Nothing here returns: a forked copy must not run on into its parent's code.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import faulthandler
import io
import json
import math
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import numpy as np

from frugalbo.events import Failure
from frugalbo.executors import processes
from frugalbo.executors.base import Segment
from frugalbo.executors.segments import Orders, ReportWriter, SegmentFolder
from frugalbo.job import DivergedError, JobContext
from frugalbo.problem import fill_command

# What a process may allocate above what it is granted to keep: stacks, arenas, what is never touched.
_DATA_MARGIN = 2**30
_OOM_SCORE = "800"  # the system short of memory is to take the job, not those who watch it
_MESSAGE_CHARS = 1000  # fits into one write to a pipe


@dataclass(frozen=True, slots=True)
class JobEnds:
    """The job's ends of its pipes: it is told what to do by `orders`, and says how it ended by `result`."""

    orders: int
    stdout: int
    stderr: int
    result: int

    def close(self) -> None:
        """Leave them to the job."""
        for fd in (self.orders, self.stdout, self.stderr, self.result):
            os.close(fd)


def be_job(function: Callable[..., Any] | None, parent: int, ends: JobEnds, wake: int) -> NoReturn:
    """Wait for orders, then run the function, or else the command that they hold."""
    try:
        os.setpgid(0, 0)
        processes.die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)
        for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        path = os.read(ends.orders, 2**16)
        if not path:
            os._exit(0)
        processes.set_name("frugalbo-job")
        orders = Orders.read(Path(os.fsdecode(path)))
        null = os.open(os.devnull, os.O_RDONLY)
        stderr = ends.stderr if function is None else ends.stdout  # of a function in the order of printing
        for source, target in ((null, 0), (ends.stdout, 1), (stderr, 2)):
            os.dup2(source, target)
        os.environ.update(_environment(orders))
        _limit(orders)
        if function is not None:
            run_function(function, orders, ends.result, wake)
        run_command(orders, ends.result)
    finally:
        os._exit(1)


def run_function(function: Callable[..., Any], orders: Orders, result: int, wake: int) -> NoReturn:
    """Call the job and say how it ended; `result` takes one JSON line.

    The handlers that the job registers with `atexit` run after that, those of its parents do not:
    they would delete the parents' temporary folders.
    """
    status = 1
    try:
        atexit._clear()
        _open_streams()
        with contextlib.suppress(OSError, ValueError):
            faulthandler.enable(sys.stderr)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        segment = orders.segment
        writer = ReportWriter(SegmentFolder(segment.folder, segment.number).reports, wake)
        context = make_context(segment, orders.objective, writer)

        def stop(_number: int, _frame: FrameType | None) -> None:
            context.stop_requested = True

        signal.signal(signal.SIGTERM, stop)
        set_threads(segment.slot.threads)
        seed_globals(segment.seed, segment.trial, segment.number)
        outcome = call(function, context)
        status = 0 if outcome.get("ok") else 1
        _flush()
        os.write(result, json.dumps(outcome).encode() + b"\n")
        atexit._run_exitfuncs()
        _flush()
    except BaseException:  # noqa: BLE001 - never into the parent's code
        os.write(2, traceback.format_exc().encode("utf-8", "replace"))
    finally:
        os._exit(status)


def run_command(orders: Orders, result: int) -> NoReturn:
    """Become the command; `result` takes one JSON line if it cannot be started."""
    try:
        segment = orders.segment
        known = command_values(segment)
        os.environ.update(
            {f"FRUGALBO_{name.upper()}": str(value) for name, value in known.items()},
            FRUGALBO_PARAMS=json.dumps(segment.params),
            FRUGALBO_OBJECTIVE=orders.objective,
            FRUGALBO_DEVICE=device_of(segment),
        )
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        words = fill_command(orders.words or (), {**known, **segment.params})
        try:
            os.chdir(orders.root)
            os.execvp(words[0], words)
        except (OSError, ValueError) as error:
            message = f"cannot start {words[0]!r} in {orders.root}: {getattr(error, 'strerror', None) or error}"
            line = {"failure": Failure.ERROR, "message": message[:_MESSAGE_CHARS]}
            os.write(result, json.dumps(line).encode() + b"\n")
    finally:
        os._exit(127)


def make_context(segment: Segment, objective: str, writer: ReportWriter) -> JobContext:
    """What the job sees."""
    folder = SegmentFolder(segment.folder, segment.number)
    return JobContext(
        params=dict(segment.params),
        start=segment.start,
        until=segment.until,
        planned=segment.planned,
        seed=segment.seed,
        device=device_of(segment),
        threads=segment.slot.threads,
        checkpoint_dir=folder.checkpoint_dir,
        objective=objective,
        devices=devices_of(segment),
        sink=lambda record: writer.write(record["step"], record["metrics"], time.time()),
    )


def call(
    function: Callable[..., Any], context: JobContext, *, let_through: tuple[type[BaseException], ...] = ()
) -> dict[str, Any]:
    """Call the job; returns `{"ok": True}`, or its failure and a message.

    A number or a mapping of metrics that it returns is reported for the last granted step.
    """
    last_reported = 0
    sink = context.sink

    def note(record: dict[str, Any]) -> None:
        nonlocal last_reported
        last_reported = record["step"]
        sink(record)

    context.sink = note
    try:
        value = function(context)
        if value is not None and last_reported < context.until and not context.stop_requested:
            context.report(context.until, **_metrics(value, context.objective))
    except let_through:
        raise
    except DivergedError as error:
        return {"failure": Failure.DIVERGED, "message": str(error)[:_MESSAGE_CHARS]}
    except SystemExit as error:
        if error.code is None or error.code == 0:
            return {"ok": True}
        return {"failure": Failure.ERROR, "message": f"it exited with status {error.code}"[:_MESSAGE_CHARS]}
    except BaseException as error:  # noqa: BLE001 - a job's failure becomes an event, with its reason
        traceback.print_exc()
        kind = Failure.MEMORY if _is_out_of_memory(error) else Failure.ERROR
        return {"failure": kind, "message": _last_line(error)}
    return {"ok": True}


def command_values(segment: Segment) -> dict[str, object]:
    """What a command may ask for besides the parameters."""
    return {
        "seed": segment.seed,
        "start": segment.start,
        "until": segment.until,
        "planned": segment.planned,
        "threads": segment.slot.threads,
        "devices": devices_of(segment),
        "checkpoint_dir": SegmentFolder(segment.folder, segment.number).checkpoint_dir,
    }


def device_of(segment: Segment) -> str:
    """The device as torch calls it; the slot's own is the only one that the job sees."""
    return segment.slot.kind


def devices_of(segment: Segment) -> int:
    """How many of them it sees."""
    return math.ceil(segment.slot.devices)


def seed_globals(*entropy: int) -> None:
    """Part the global random streams of processes that were forked from one; a job's own come from its seed."""
    words = np.random.SeedSequence(entropy).generate_state(2)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))  # noqa: NPY002 - the global stream is the point
    if torch := sys.modules.get("torch"):
        torch.manual_seed(int(words[0]))


def set_threads(threads: int) -> None:
    """Let numeric libraries that are loaded already use so many threads; others read the environment."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)


def _environment(orders: Orders) -> Mapping[str, str]:
    threads = str(orders.segment.slot.threads)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return dict.fromkeys(names, threads) | {
        "CUDA_VISIBLE_DEVICES": orders.visible,
        "FRUGALBO_SEGMENT": f"{orders.run}/{orders.segment.trial}/{orders.segment.number}",
        "PYTHONUNBUFFERED": "1",
    }


def _limit(orders: Orders) -> None:
    segment = orders.segment
    if processes.LINUX:
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
            file.write(_OOM_SCORE)
    if orders.cores is not None and hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):  # a core was taken offline meanwhile
            os.sched_setaffinity(0, orders.cores)
    if segment.memory_bytes is not None and segment.slot.kind == "cpu" and processes.LINUX:
        # CUDA reserves far more than it uses, so on a GPU only what is kept is watched, not what is allocated.
        limit = _data_bytes() + segment.memory_bytes + _DATA_MARGIN
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if hard == resource.RLIM_INFINITY or limit < hard:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _data_bytes() -> int:
    with open("/proc/self/status") as file:  # noqa: PTH123
        return next((int(line.split()[1]) * 1024 for line in file if line.startswith("VmData:")), 0)


def line_buffer() -> None:
    """Print at once, whatever the text."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)


def _open_streams() -> None:
    """Replace streams that go elsewhere, as a notebook's or a test's do; loggers hold on to the others."""
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for the life of the process
    for name, fd in (("stdout", 1), ("stderr", 2)):
        old = getattr(sys, name)
        if not isinstance(old, io.TextIOWrapper) or _number_of(old) != fd or not old.line_buffering:
            stream = open(fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def _number_of(stream: io.TextIOWrapper) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


def _flush() -> None:
    """Also what C code printed."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    ctypes.CDLL(None).fflush(None)


def _metrics(value: object, objective: str) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {str(name): metric for name, metric in value.items()}
    try:
        return {objective: float(value)}  # type: ignore[arg-type]
    except (TypeError, ValueError):
        expected = "expected the job to return nothing, a number or a mapping of metrics"
        raise TypeError(f"{expected}, got {type(value).__name__}") from None


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, (RuntimeError, OSError)) and any(
        words in text
        for words in ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")
    )


def _last_line(error: BaseException) -> str:
    text = "".join(traceback.format_exception_only(error)).strip()
    lines = [line for line in text.splitlines() if line.strip()] or [type(error).__name__]
    message = lines[0] if len(lines) == 1 else lines[-1]
    where = traceback.extract_tb(error.__traceback__)
    if where:
        message += f" ({where[-1].filename.rpartition('/')[2]}:{where[-1].lineno})"
    return message[:_MESSAGE_CHARS]
