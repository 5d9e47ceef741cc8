"""Problems and segments for the tests of the local executor."""

from __future__ import annotations

import time
from pathlib import Path

from frugalbo.events import Reported
from frugalbo.executors import processes
from frugalbo.executors.base import Segment
from frugalbo.executors.segments import SegmentFolder
from frugalbo.problem import Fidelity, Minimize, Problem
from frugalbo.slot import Slot
from frugalbo.space import Float, Space

HERE = Path(__file__).parent
SLOTS = (Slot("cpu:0", "cpu", 0), Slot("cpu:1", "cpu", 1))


def local_problem(job, *, steps=5, root=HERE):
    return Problem(
        name="local",
        space=Space({"x": Float(0.0, 1.0)}),
        job=f"local_jobs.py:{job}" if isinstance(job, str) and ":" not in job else job,
        objective=Minimize("loss"),
        fidelity=Fidelity("steps", 1, steps),
        root=str(root),
    )


def a_segment(folder, **changes):
    fields = {
        "trial": 0, "number": 0, "params": {"x": 0.5}, "seed": 7, "start": 0, "until": 5, "planned": 5,
        "slot": SLOTS[0], "cap_s": 30.0, "memory_bytes": None, "folder": folder,
    }  # fmt: skip
    return Segment(**(fields | changes))


def left_of(executor):
    """What is alive of an executor besides its template and the supervisor that waits there."""
    waiting = {"frugalbo-warm", "frugalbo-spare"} if executor._template else set()
    alive = (processes.look(pid) for pid in processes.marked(executor._run))
    return {process.pid for process in alive if process is not None and process.name not in waiting}


def read_pids(folder, *names):
    return {name: int((folder / "checkpoints" / name).read_text()) for name in names}


def is_alive(pid):
    process = processes.look(pid)
    return process is not None and not process.is_zombie


def lived_between(events, folder, trial=0):
    """The least and the most seconds that a trial's first segment can have lived: by its reports, and until now."""
    at = [event.at for event in events if isinstance(event, Reported) and event.trial == trial]
    handed_out = (SegmentFolder(folder / f"trial-{trial}", 0).path / "orders.json").stat().st_mtime
    return at[-1] - at[0], time.time() - handed_out
