"""The job of the tormented runs: it sleeps, saves, reports, and keeps a diary of its own, which the audit believes.

It is copied into the home of a run, so that it finds its orders and its diary beside itself on any machine.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

HOME = Path(__file__).parent
STEPS = 9


def loss_of(x: float, step: int) -> float:
    """What is reported: the audit computes it again."""
    return (x - 0.3) ** 2 + 1 / step


def train(job: Any) -> None:
    """One segment."""
    _, trial, segment = os.environ["FRUGALBO_SEGMENT"].split("/")
    step_s = json.loads((HOME / "plan.json").read_text())["step_s"]

    def note(what: str, step: int) -> None:
        line = {"trial": int(trial), "segment": int(segment), "what": what, "step": step, "t": time.monotonic()}
        with (HOME / "diary.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    saved = job.resume()
    note("begin", 0 if saved is None else int(saved.read_text()))
    try:
        (HOME / "mute").rename(HOME / "muted")
    except OSError:
        pass
    else:
        note("mute", job.start)
        while True:
            time.sleep(3600)
    for step in range(job.start + 1, job.until + 1):
        time.sleep(step_s)
        note("alive", step)
        job.save(step, lambda path, step=step: path.write_text(str(step)))
        job.report(step, loss=loss_of(job.params["x"], step))
        note("reported", step)
        if job.should_stop:
            return
