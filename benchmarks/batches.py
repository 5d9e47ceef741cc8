"""Which acquisition for batches of equal trials?

    python benchmarks/batches.py [--seeds 5] [--methods auto ei qei] [--only TABLE ...] [--out FILE]
    python benchmarks/batches.py --table

The tables of `tables.CHOSEN_ON` with the price taken off: eight jobs at a time, all of which take as long, and a budget
of 32 trials. Regret as in `race.py`, after each batch. Each cell (table, method, seed) is a line of JSON; one that is
there for the same version of the code that decides is not run again.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from benchmarks.race import jobs_of, own_seed, version
from benchmarks.records import asked_of, command_line, read
from benchmarks.tables import CHOSEN_ON, load
from frugalbo.api import tune
from frugalbo.budget.amounts import Budget
from frugalbo.executors.simulated import SimulatedExecutor
from frugalbo.slot import Slot

RESULTS = Path(__file__).parent / "results" / "batches.jsonl"
BATCH, BATCHES = 8, 4


def run_cell(name: str, method: str, seed: int) -> dict[str, Any]:
    """One race as a record; `regret` after each batch."""
    table = load(name).averaged()
    table = replace(table, seconds=np.ones_like(table.seconds))
    problem = table.problem()
    slots = [Slot(f"sim:{i}", "cpu", i) for i in range(BATCH)]
    executor = SimulatedExecutor(problem, slots, table.simulate)
    budget = Budget(evaluations=BATCH * BATCHES)
    report = tune(problem, budget=budget, seed=own_seed(name, seed), method=method, executor=executor)
    jobs = jobs_of(report.study)
    regret, best, reached = [], np.inf, 1.0
    for job in jobs:
        if job.loss is not None and job.loss < best:
            best, reached = job.loss, table.regret(job.params)
        regret.append(round(reached, 6))
    picked = [t.why.get("method", "") for t in report.study.trials.values()]
    return {
        "table": name,
        "method": method,
        "seed": seed,
        "version": version("ours"),
        "regret": regret[BATCH - 1 :: BATCH],
        "picked": {m: picked.count(m) for m in dict.fromkeys(picked)},
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def markdown(records: list[dict[str, Any]]) -> str:
    """Means over tables and seeds, and in how many cells a method ended below and above `ei`."""
    of: dict[str, dict[tuple[str, int], list[float]]] = defaultdict(dict)
    for r in records:
        of[r["method"]][r["table"], r["seed"]] = r["regret"]
    head = " | ".join(f"{BATCH * (i + 1)} trials" for i in range(BATCHES))
    lines = [f"| method | races | {head} | better than ei | worse |", "|---|---|" + "---|" * (BATCHES + 2)]
    for method, cells in sorted(of.items()):
        means = " | ".join(f"{m:.4f}" for m in np.mean(list(cells.values()), axis=0))
        both = [(cells[c][-1], of["ei"][c][-1]) for c in cells if c in of["ei"]]
        better, worse = sum(a < b for a, b in both), sum(a > b for a, b in both)
        lines.append(f"| {method} | {len(cells)} | {means} | {better} | {worse} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, or tabulate."""
    parser = command_line(__doc__, RESULTS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="*", default=["auto", "ei", "qei"])
    parser.add_argument("--only", nargs="*", default=list(CHOSEN_ON))
    if (asked := asked_of(parser, markdown)) is None:
        return
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    done = {(r["table"], r["method"], r["seed"], r["version"]) for r in read(asked.out)}
    for seed in range(asked.seeds):
        for name in asked.only:
            for method in asked.methods:
                if (name, method, seed, version("ours")) in done:
                    continue
                record = run_cell(name, method, seed)
                with asked.out.open("a") as file:
                    file.write(json.dumps(record) + "\n")
                print(f"{name:20} {method:5} seed {seed}  {record['regret']}  {record['picked']}", flush=True)


if __name__ == "__main__":
    main()
