"""A controller to be killed: submits the segments that it is told to, says so, and waits."""

import os
import signal
import sys
import time
from pathlib import Path

from frugalbo.executors.base import Segment
from frugalbo.executors.local import LocalExecutor
from frugalbo.problem import Fidelity, Minimize, Problem
from frugalbo.slot import Slot
from frugalbo.space import Float, Space

STEPS = 20_000  # minutes of work
GRACE_S = {"steps_for_ever": 30.0}  # it ends soon after it was asked, and is to have the time on a busy machine


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process of a shell ignores it
    job, folder, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    problem = Problem(
        name="killed",
        space=Space({"x": Float(0.0, 1.0)}),
        job=job if ":" in job else f"local_jobs.py:{job}",
        objective=Minimize("loss"),
        fidelity=Fidelity("steps", 1, STEPS),
        root=str(Path(__file__).parent),
    )
    slots = [Slot(f"cpu:{i}", "cpu", i) for i in range(count)]
    with LocalExecutor(problem, slots, preload=(), grace_s=GRACE_S.get(job, 1.0)) as executor:
        print("warm", flush=True)
        for trial in range(count):
            executor.submit(
                Segment(trial, 0, {"x": 1.0}, 7, 0, STEPS, STEPS, slots[trial], 60.0, None, folder / f"trial-{trial}")
            )
        if "--fork" in sys.argv:
            (folder / "children").mkdir()
            if (pid := os.fork()) == 0:
                time.sleep(60)
                os._exit(0)
            (folder / "children" / str(pid)).touch()
        print("submitted", flush=True)
        while True:
            executor.wait(0.1)
