"""A controller to be hurt: `python -m benchmarks.chaos.controller HOME begin|resume|standby`; says why it ended."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.chaos.job import STEPS
from frugalbo.api import resume, tune
from frugalbo.errors import FrugalError
from frugalbo.executors.base import Executor
from frugalbo.executors.local import LocalExecutor
from frugalbo.problem import Fidelity, Minimize, Problem
from frugalbo.slot import Slot
from frugalbo.space import Float, Space

GRACE_S = 0.5
SLOTS = 2


def problem_in(home: Path) -> Problem:
    """What is tuned."""
    space, fidelity = Space({"x": Float(0.0, 1.0)}), Fidelity("steps", 1, STEPS)
    return Problem("chaos", space, f"{home}/job.py:train", Minimize("loss"), fidelity=fidelity, root=str(home))


def executor_of(backend: str, problem: Problem) -> Executor:
    """Two slots of one core each."""
    if backend == "ray":
        from frugalbo.executors.ray import RayExecutor

        return RayExecutor(problem, devices=f"cpu:{SLOTS}", grace_s=GRACE_S, preload=())
    if backend == "slurm":
        from frugalbo.executors.slurm import SlurmExecutor

        return SlurmExecutor(problem, devices=f"cpu:{SLOTS}", grace_s=GRACE_S)
    slots = [Slot(f"cpu:{i}", "cpu", i) for i in range(SLOTS)]
    return LocalExecutor(problem, slots, grace_s=GRACE_S, preload=(), pin=False)


def main(home: Path, how: str) -> None:
    """Begin a run or go on with it."""
    plan = json.loads((home / "plan.json").read_text())
    problem = problem_in(home)
    executor = executor_of(plan["backend"], problem)
    try:
        if how == "begin":
            report = tune(
                problem, budget=plan["budget"], seed=plan["seed"], method="random", scheduler="asha",
                trial_cap=plan["cap_s"], storage=plan["storage"], executor=executor,
            )  # fmt: skip
        else:
            report = resume("chaos-1", storage=plan["storage"], executor=executor, standby=how == "standby")
    except FrugalError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        sys.exit(1)
    print(f"ended: {report.stop_reason}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
