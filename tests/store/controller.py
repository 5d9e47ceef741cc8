"""A controller to be killed or stopped: `controller.py URL FOLDER begin|standby`. Says its pid and why it ended.

After three of its jobs the others wait for a file named "go".
"""

import os
import sys
from pathlib import Path

from frugalbo.api import resume, tune
from frugalbo.errors import FrugalError
from frugalbo.executors.local import LocalExecutor
from frugalbo.problem import Minimize, Problem
from frugalbo.slot import Slot
from frugalbo.space import Float, Space

TRIALS = 23
JOB = """
import time
from pathlib import Path

HERE = Path(__file__).parent

def train(job):
    while len(list(HERE.glob("done-*"))) >= 3 and not (HERE / "go").exists():
        time.sleep(0.02)
    (HERE / f"done-{job.params['x']}").touch()
    return (job.params["x"] - 0.3) ** 2
"""


def problem_in(folder):
    if not (folder / "job.py").exists():
        (folder / "job.py").write_text(JOB)
    return Problem("stood", Space({"x": Float(0.0, 1.0)}), f"{folder}/job.py:train", Minimize("loss"), root=str(folder))


def main(url, folder, how):
    os.chdir(folder)
    problem = problem_in(Path(folder))
    slots = [Slot("cpu:0", "cpu", 0), Slot("cpu:1", "cpu", 1)]
    executor = LocalExecutor(problem, slots, preload=(), pin=False)
    print(os.getpid(), flush=True)
    try:
        if how == "begin":
            report = tune(problem, budget=f"{TRIALS} trials", method="random", storage=url, executor=executor)
        else:
            report = resume("stood-1", storage=url, executor=executor, standby=how == "standby")
    except FrugalError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return
    print(f"ended: {report.stop_reason}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
