"""The main job over several seeds: does tuning beat the defaults, and is every second accounted for?

    python benchmarks/demo.py --seeds 0 1 2 3 4 --out benchmarks/results/demo.jsonl

For each seed: `tune` on tiny_llama under the budget, then the best configuration and the defaults
again at the same number of steps, on job seeds that the run has never seen (the best of a run was
chosen on its seed, so its value there flatters it). The confirmation is paid outside the budget.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import frugalbo as fb
from frugalbo.events import Ended, Reported
from frugalbo.executors.base import Segment
from frugalbo.executors.devices import local_slots
from frugalbo.executors.local import LocalExecutor
from frugalbo.live import LogView
from frugalbo.report.findings import utilisation
from frugalbo.space import Params

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Run all seeds and append a record for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problem", default=str(ROOT / "problems" / "tiny_llama"))
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--budget", default="2min")
    parser.add_argument("--method", default="auto")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--confirmations", type=int, default=3)
    parser.add_argument("--devices")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    problem = fb.load_problem(args.problem, dict(pair.split("=", 1) for pair in args.set))
    wins = 0
    for seed in args.seeds:
        record = one_run(problem, args.budget, seed, args.method, args.devices, args.confirmations)
        wins += record["best"] < record["defaults"]
        print(json.dumps(record))
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            with args.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
    print(f"better than the defaults on the run's own seed: {wins} of {len(args.seeds)}")


def one_run(
    problem: fb.Problem, budget: str, seed: int, method: str, devices: str | None, confirmations: int
) -> dict[str, Any]:
    """Tune once and confirm; returns the record."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="frugalbo-demo-") as folder:
        report = fb.tune(
            problem,
            budget=budget,
            seed=seed,
            method=method,
            devices=devices,
            storage=Path(folder) / "runs.db",
            observe=LogView(),
        )
    took = time.monotonic() - began
    study, best = report.study, report.best
    assert best is not None
    assert problem.defaults is not None
    assert study.ledger is not None
    account = study.ledger.balance()["device_seconds"]
    segments = math.fsum(end.used.device_seconds for trial in study.trials.values() for end in trial.ends)
    fresh = [1000 * (seed + 1) + i for i in range(confirmations)]
    confirmed = {
        name: evaluate(problem, params, fresh, devices)
        for name, params in (("best", best.params), ("defaults", problem.defaults))
    }
    return {
        "benchmark": "demo",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "problem": problem.name,
        "steps": problem.steps,
        "budget": budget,
        "method": method,
        "seed": seed,
        "trials": len(study.trials),
        "statuses": {str(s): len(study.with_status(s)) for s in fb.Status if study.with_status(s)},
        "best": report.best_value,
        "defaults": report.default_value,
        "best_params": best.params,
        "confirmed_best": confirmed["best"],
        "confirmed_defaults": confirmed["defaults"],
        "confirmed_gain": statistics.fmean(confirmed["defaults"]) - statistics.fmean(confirmed["best"]),
        "charged_s": account.spent,
        "sum_of_segments_s": segments,
        "utilisation": utilisation(study),
        "took_s": took,
        "stop_reason": report.stop_reason,
    }


def evaluate(problem: fb.Problem, params: Params, seeds: Sequence[int], devices: str | None) -> list[float]:
    """The objective of one configuration at the full number of steps, for each job seed."""
    values: dict[int, float] = {}
    waiting = list(enumerate(seeds))
    with (
        tempfile.TemporaryDirectory(prefix="frugalbo-confirm-") as folder,
        LocalExecutor(problem, local_slots(devices)) as executor,
    ):
        ended = 0
        while ended < len(seeds):
            for slot in executor.free_slots()[: len(waiting)]:
                number, seed = waiting.pop(0)
                executor.submit(
                    Segment(
                        number,
                        0,
                        params,
                        seed,
                        0,
                        problem.steps,
                        problem.steps,
                        slot,
                        3600.0,
                        None,
                        Path(folder) / f"{number}",
                    )
                )
            for event in executor.wait(1.0):
                if isinstance(event, Reported) and event.step == problem.steps:
                    values[event.trial] = event.metrics[problem.objective.metric]
                ended += isinstance(event, Ended)
    return [values.get(number, math.inf) for number in range(len(seeds))]


if __name__ == "__main__":
    main()
