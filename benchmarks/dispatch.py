"""What it takes to hand out work: no-op trials on the local backend, on Ray, and by Ray Tune itself, in one run.

    python benchmarks/dispatch.py --out benchmarks/results/dispatch.jsonl
    python benchmarks/dispatch.py --table benchmarks/results/dispatch.jsonl

Needs Ray with Tune (`pip install "ray[tune]"`). All have two slots of one core each. A trial reports one
number and ends.

- *Latency* is from the decision to the job's first line, of trials that are run one at a time: for our
  backends from `submit`, for Ray Tune from the searcher's `suggest`, to the first line of the trainable.
- *Turnaround* is from the same moment to the controller's knowledge of the end.
- *Once warm*: trials per second of our executors on both slots, after what they start first.
- *A run, all in*: the seconds of a whole run on both slots, `frugalbo.tune` with its journal in SQLite or
  `Tuner.fit`, with the processes that it starts, but without starting Ray.

For Ray Tune the trials of one run are told by a searcher of our own, which notes
when it was asked and when it was told of the end; Ray, its object store and its loggers are those of the run beside it.
Ray Tune's `per_second` counts what it starts first, so it is not comparable with ours and not in the table.
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
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from frugalbo.events import Ended, Reported
from frugalbo.executors.base import Executor, Segment
from frugalbo.executors.devices import local_slots
from frugalbo.executors.local import LocalExecutor
from frugalbo.executors.ray import RayExecutor
from frugalbo.executors.ray_cluster import Cluster
from frugalbo.job import JobContext
from frugalbo.problem import Minimize, Problem
from frugalbo.space import Float, Space

SLOTS = 2


def noop(ctx: JobContext) -> None:
    """Report the time at which the job began."""
    ctx.report(1, began=time.time())


PROBLEM = Problem(
    name="dispatch",
    space=Space({"x": Float(0.0, 1.0)}),
    job=f"{Path(__file__).resolve()}:noop",
    objective=Minimize("began"),
)


def measure_ours(executor: Executor, trials: int, folder: Path) -> dict[str, Any]:
    """One trial after the other, then as many at once as there are slots."""
    began = time.monotonic()
    with executor:
        start_s = time.monotonic() - began
        latencies, turnarounds = [], []
        for trial in range(trials + 3):  # the first three are not counted
            asked = time.time()
            executor.submit(_segment(trial, executor, folder))
            events = _until_end(executor)
            if trial >= 3:
                first = next(event for event in events if isinstance(event, Reported))
                latencies.append(first.metrics["began"] - asked)
                turnarounds.append(time.time() - asked)
        began, done, trial = time.monotonic(), 0, trials + 3
        last = trial + 2 * trials
        while done < 2 * trials:
            for slot in executor.free_slots():
                if trial < last:
                    executor.submit(_segment(trial, executor, folder, place=list(executor.slots).index(slot)))
                    trial += 1
            done += sum(isinstance(event, Ended) for event in executor.wait(1.0))
        rate = 2 * trials / (time.monotonic() - began)
    return {
        "start_s": round(start_s, 2),
        "latency_ms": _quantiles(latencies),
        "turnaround_ms": _quantiles(turnarounds),
        "per_second": round(rate, 2),
    }


def measure_tune(backend: str, trials: int, folder: Path) -> dict[str, Any]:
    """A whole run by `frugalbo.tune`, its journal in SQLite and its report included."""
    import frugalbo as fb

    began = time.monotonic()
    fb.tune(
        PROBLEM, budget=f"{trials} trials", method="random", scheduler="fixed", backend=backend,
        devices=f"cpu:{SLOTS}", storage=folder / "runs.db",
    )  # fmt: skip
    return {"run_s": round(time.monotonic() - began, 2), "trials": trials}


def measure_ray_tune(trials: int, folder: Path, *, reuse: bool) -> dict[str, Any]:
    """The same by Ray Tune: a run of one trial at a time, then one with as many at once as there are slots.

    With `reuse` the process of a trial runs the next one, too, which is an option of Ray Tune's; ours never do.
    """
    from ray import tune
    from ray.tune.search import Searcher

    class Noted(Searcher):
        """Suggests anything, and notes when it was asked and told."""

        def __init__(self) -> None:
            super().__init__(metric="began", mode="min")
            self.asked: dict[str, float] = {}
            self.began: dict[str, float] = {}
            self.told: dict[str, float] = {}

        def suggest(self, trial_id: str) -> dict[str, Any]:
            self.asked[trial_id] = time.time()
            return {"x": 0.5}

        def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
            self.began[trial_id] = result["began"]

        def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
            del error
            self.told[trial_id] = time.time()
            if result and "began" in result:
                self.began.setdefault(trial_id, result["began"])

    def trainable(config: dict[str, Any]) -> None:
        import time

        from ray import tune

        tune.report({"began": time.time(), "x": config["x"]})

    def run(count: int, at_once: int) -> tuple[Noted, float]:
        searcher = Noted()
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),
            tune_config=tune.TuneConfig(
                search_alg=searcher, num_samples=count, max_concurrent_trials=at_once, reuse_actors=reuse
            ),
            run_config=tune.RunConfig(storage_path=str(folder), verbose=0),
        )
        began = time.monotonic()
        tuner.fit()
        return searcher, time.monotonic() - began

    one, _ = run(trials + 3, 1)
    counted = list(one.asked)[3:]
    both, run_s = run(2 * trials, SLOTS)
    first, last = min(both.asked.values()), max(both.told.values())
    return {
        "latency_ms": _quantiles([one.began[trial] - one.asked[trial] for trial in counted if trial in one.began]),
        "turnaround_ms": _quantiles([one.told[trial] - one.asked[trial] for trial in counted if trial in one.told]),
        "per_second": round(2 * trials / (last - first), 2),
        "run_s": round(run_s, 2),
        "trials": 2 * trials,
    }


def measure(trials: int) -> dict[str, Any]:
    """All of them, one after the other on the same machine; returns the record."""
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        local = measure_ours(LocalExecutor(PROBLEM, local_slots(f"cpu:{SLOTS}")), trials, folder / "local")
        local["tune"] = measure_tune("local", 2 * trials, folder / "local")
        began = time.monotonic()
        cluster = Cluster(cpus=SLOTS)  # one for both, without what it takes to start it
        ray_start_s = time.monotonic() - began
        try:
            ours = measure_ours(RayExecutor(PROBLEM, devices=f"cpu:{SLOTS}"), trials, folder / "ray")
            ours["tune"] = measure_tune("ray", 2 * trials, folder / "ray")
            reusing = measure_ray_tune(trials, folder / "reusing", reuse=True)
            theirs = measure_ray_tune(trials, folder / "tune", reuse=False)
        finally:
            cluster.close()
    import ray

    return {
        **circumstances(trials),
        "ray": ray.__version__,
        "ray_start_s": round(ray_start_s, 1),
        "local": local,
        "frugalbo on Ray": ours,
        "Ray Tune, reusing actors": reusing,
        "Ray Tune": theirs,
    }


def circumstances(trials: int) -> dict[str, Any]:
    """When, where and of what something is measured."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "load_1min": round(os.getloadavg()[0], 2),
        "trials": trials,
    }


def table(records: Sequence[dict[str, Any]]) -> str:
    """The last record as a table."""
    record = records[-1]
    lines = [
        f"{record['at']}, {record['machine']}, load {record['load_1min']}, Ray {record['ray']}",
        "",
        "| engine | latency, median (p90) | turnaround, median (p90) | once warm | a run of two slots, all in |",
        "|---|---|---|---|---|",
    ]
    for name in ("local", "frugalbo on Ray", "Ray Tune, reusing actors", "Ray Tune"):
        found = record[name]
        cells = [f"{found[key]['median']:.0f} ms ({found[key]['p90']:.0f})" for key in ("latency_ms", "turnaround_ms")]
        run = found.get("tune", found)
        warm = f"{found['per_second']:.1f} trials/s" if "tune" in found else ""
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | {warm} | {run['run_s']:.0f} s for {run['trials']} trials |")
    return "\n".join(lines)


def _segment(trial: int, executor: Executor, folder: Path, *, place: int = 0) -> Segment:
    return Segment(trial, 0, {"x": 0.5}, 0, 0, 1, 1, executor.slots[place], 60.0, None, folder / str(trial))


def _until_end(executor: Executor) -> list[Any]:
    events: list[Any] = []
    while not any(isinstance(event, Ended) for event in events):
        events += executor.wait(5.0)
    return events


def _quantiles(seconds: Sequence[float]) -> dict[str, float]:
    tenths = statistics.quantiles(seconds, n=10)
    found = {"min": min(seconds), "median": statistics.median(seconds), "p90": tenths[8], "max": max(seconds)}
    return {name: round(1000 * value, 2) for name, value in found.items()}


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return done.stdout.strip() or "unknown"


def run(
    measure: Callable[[int], dict[str, Any]],
    table: Callable[[Sequence[dict[str, Any]]], str],
    doc: str | None,
    trials: int,
) -> None:
    """Measure, print and append a record; or show the last one."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="append the record to this file")
    parser.add_argument("--table", type=Path, help="show the last record of this file")
    parser.add_argument("--trials", type=int, default=trials)
    arguments = parser.parse_args()
    if arguments.table:
        print(table([json.loads(line) for line in arguments.table.read_text().splitlines()]))
        return
    record = measure(arguments.trials)
    print(table([record]))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        with arguments.out.open("a") as file:
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    run(measure, table, __doc__, trials=30)
