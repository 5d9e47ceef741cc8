from __future__ import annotations

from pathlib import Path

import pytest

from frugalbo.executors import processes
from frugalbo.executors.base import Segment
from frugalbo.executors.local import LocalExecutor
from frugalbo.problem import Fidelity, Minimize, Problem
from frugalbo.slot import Slot
from frugalbo.space import Float, Space
from frugalbo.study import Ended
from frugalbo.testing.executors import drain

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


@pytest.fixture
def run(tmp_path):
    """Run one segment of a job to its end; returns its reports and its end."""

    def run(job, *, grace_s=0.3, preload=(), **changes):
        problem = local_problem(job) if isinstance(job, str) or callable(job) else job
        with LocalExecutor(problem, SLOTS, grace_s=grace_s, preload=preload) as executor:
            executor.submit(a_segment(tmp_path, **changes))
            *reports, ended = drain(executor)
            assert isinstance(ended, Ended)
            assert left_of(executor) == set()
            return reports, ended

    return run


def left_of(executor):
    """What an executor keeps besides its template."""
    template = executor._template
    return processes.marked(executor._run) - ({template.pid} if template else set())


def read_pids(folder, *names):
    return {name: int((folder / "checkpoints" / name).read_text()) for name in names}


def is_alive(pid):
    process = processes.look(pid)
    return process is not None and not process.is_zombie
