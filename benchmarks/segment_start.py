"""How long a segment takes to start once its executor is warm: from `submit` to the job's first line.

    python benchmarks/segment_start.py --out benchmarks/results/segment_start.jsonl

Runs no-op segments one after the other on one CPU slot, with torch loaded in the template, and
appends one record. The load of the machine is recorded too: on one that is busy, forks wait.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from frugalbo.events import Ended, Reported
from frugalbo.executors.base import Segment
from frugalbo.executors.devices import local_slots
from frugalbo.executors.local import LocalExecutor
from frugalbo.job import JobContext
from frugalbo.problem import Minimize, Problem
from frugalbo.space import Float, Space


def noop(ctx: JobContext) -> None:
    """Report the time at which the job began, and whether torch was there."""
    began = time.time()
    import sys

    ctx.report(1, began=began, warm=float("torch" in sys.modules))


def measure(segments: int, preload: tuple[str, ...]) -> dict[str, Any]:
    """Start so many segments; returns the record."""
    problem = Problem(
        name="segment start",
        space=Space({"x": Float(0.0, 1.0)}),
        job=f"{Path(__file__).resolve()}:noop",
        objective=Minimize("began"),
    )
    starts, turnarounds, charges = [], [], []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, LocalExecutor(problem, local_slots("cpu:1"), preload=preload) as pool:
        warm_s = time.monotonic() - began
        for trial in range(segments + 3):  # the first three are not counted
            segment = Segment(
                trial, 0, {"x": 0.5}, 0, 0, 1, 1, pool.slots[0], 60.0, None, Path(folder) / str(trial)
            )  # fmt: skip
            submitted = time.time()
            pool.submit(segment)
            while not pool.free_slots():
                for event in pool.wait(1.0):
                    if isinstance(event, Reported) and trial >= 3:
                        assert event.metrics["warm"] == float("torch" in preload)
                        starts.append(event.metrics["began"] - submitted)
                    elif isinstance(event, Ended) and trial >= 3:
                        turnarounds.append(time.time() - submitted)
                        charges.append(event.used.device_seconds)
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "load_1min": round(os.getloadavg()[0], 2),
        "segments": segments,
        "preload": list(preload),
        "template_s": round(warm_s, 3),
        "start_ms": _quantiles(starts),
        "turnaround_ms": _quantiles(turnarounds),
        "charged_ms": _quantiles(charges),
    }


def _quantiles(seconds: list[float]) -> dict[str, float]:
    tenths = statistics.quantiles(seconds, n=10)
    found = {"min": min(seconds), "median": statistics.median(seconds), "p90": tenths[8], "max": max(seconds)}
    return {name: round(1000 * value, 2) for name, value in found.items()}


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return done.stdout.strip() or "unknown"


def main() -> None:
    """Measure, print and append a record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="append the record to this file")
    parser.add_argument("--segments", type=int, default=100)
    parser.add_argument("--preload", nargs="*", default=["torch"])
    arguments = parser.parse_args()
    record = measure(arguments.segments, tuple(arguments.preload))
    print(json.dumps(record, indent=1))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        with arguments.out.open("a") as file:
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
