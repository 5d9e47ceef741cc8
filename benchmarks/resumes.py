"""What does it bring to set aside the first reports after a resume?

    python benchmarks/resumes.py [--seeds 10] [--cases NAME ...] [--methods NAME ...] [--only TABLE ...] [--out FILE]
    python benchmarks/resumes.py --table [--out FILE]

Runs on the eight TaskSet tables of `benchmarks.curve_tables`, for 20 full runs, on four slots that are taken away. The
case says how often, and what a job reports too much of when it goes on: so much at its first step, less and less,
nothing after some steps, with an exponential factor of each resume's own, in units of (median - best) of the final
losses.

| case | taken away, of a full run of 51 steps | disturbed by | for |
|---|---|---|---|
| `calm` | every 17 steps | nothing | |
| `short` | every 17 steps | 1 | 3 steps |
| `long` | every 17 steps | 1 | 8 steps |
| `rare` | never: only who is held goes on | 1 | 3 steps |

Reports are set aside in three ways: none (`off`), as many as the journal shows to be disturbed (`learned`), or as
many as there are (`stated`). What counts is the regret of the answer's loss at the end of its undisturbed curve, as
in `race_curves.py`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from benchmarks import curve_tables, race
from benchmarks.curve_tables import TASKSET, CurveTable, Pool
from frugalbo.budget.amounts import Budget
from frugalbo.budget.cost import cost_model
from frugalbo.executors.simulated import Disturbance, Hazards, SimulatedExecutor
from frugalbo.problem import Fidelity
from frugalbo.run import RunLoop
from frugalbo.scheduler import make_scheduler
from frugalbo.session import OpenStudy
from frugalbo.slot import Slot

RESULTS = Path(__file__).parent / "results" / "resumes.jsonl"
RUNS, WORKERS = 20, 4
# How often a slot is taken away, in steps; the size of what disturbs, and for how many steps.
CASES = {"calm": (17.0, 0.0, 1), "short": (17.0, 1.0, 3), "long": (17.0, 1.0, 8), "rare": (np.inf, 1.0, 3)}
RULES = ("off", "learned", "stated")
METHODS = ("asha", "asha-stop", "freeze-thaw")


def play(table: CurveTable, case: str, rule: str, method: str, seed: int) -> OpenStudy:
    """One run to its end."""
    every, size, steps = CASES[case]
    settle = {"off": 0, "learned": None, "stated": steps if size else 0}[rule]
    assert isinstance(table.problem.fidelity, Fidelity)
    problem = replace(table.problem, fidelity=replace(table.problem.fidelity, settle=settle))
    finals = table.finals[np.isfinite(table.finals)]
    study = OpenStudy(problem, Budget(device_seconds=RUNS * table.full_cost_s))
    costs = cost_model(problem, 0.995)
    hazards = Hazards(preemptions_per_hour=3600 / (every * table.step_s), seed=seed)
    executor = SimulatedExecutor(
        problem,
        [Slot(f"sim:{i}", "cpu", i, preemptible=True) for i in range(WORKERS)],
        table.simulate,
        hazards=hazards,
        disturbance=Disturbance(size * float(np.median(finals) - finals.min()), steps, seed),
    )
    RunLoop(study, make_scheduler(method, Pool(table, seed), costs), executor, costs, Path("unused"), seed).run()
    return study


def record(name: str, case: str, rule: str, method: str, seed: int) -> dict[str, Any]:
    """One run as a record."""
    table = curve_tables.load(name, seed)
    study = play(table, case, rule, method, race.own_seed(name, seed))
    best = study.best()
    return {
        "table": name,
        "case": case,
        "rule": rule,
        "method": method,
        "seed": seed,
        "regret": round(table.regret(None if best is None else best.params), 6),
        "set_aside": study.settling.reports,
        "resumes": sum(len(trial.starts) - 1 for trial in study.trials.values()),
        "trials": len(study.trials),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def table_of(records: list[dict[str, Any]]) -> str:
    """Mean regrets over tables and seeds, and the differences with twice their standard error."""
    lines = [
        "| case, method | runs | resumes | off | learned | stated | off less learned | set aside |",
        "|---" * 8 + "|",
    ]
    for case, method in itertools.product(CASES, METHODS):
        by_rule = {
            rule: {
                (r["table"], r["seed"]): r
                for r in records
                if (r["case"], r["rule"], r["method"]) == (case, rule, method)
            }
            for rule in RULES
        }
        keys = sorted(set.intersection(*(set(cells) for cells in by_rule.values())))
        if not keys:
            continue
        regret = {rule: np.array([cells[key]["regret"] for key in keys]) for rule, cells in by_rule.items()}
        gain = regret["off"] - regret["learned"]
        aside = [by_rule["learned"][key]["set_aside"] for key in keys]
        resumes = np.mean([by_rule["off"][key]["resumes"] for key in keys])
        lines.append(
            f"| {case}, {method} | {len(keys)} | {resumes:.0f} | "
            + " | ".join(f"{regret[rule].mean():.3f}" for rule in RULES)
            + f" | {gain.mean():.3f} ± {2 * gain.std() / len(keys) ** 0.5:.3f} | {np.mean(aside):.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, or show what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--only", nargs="*", default=[f"taskset/{name}" for name in TASKSET])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    records = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    if args.table:
        print(table_of(records))
        return
    done = {(r["table"], r["case"], r["rule"], r["method"], r["seed"]) for r in records}
    wanted = itertools.product(args.cases, args.only, args.methods, RULES)
    for seed, (case, name, method, rule) in itertools.product(range(args.seeds), wanted):
        if (name, case, rule, method, seed) not in done:
            found = record(name, case, rule, method, seed)
            with args.out.open("a") as out:
                out.write(json.dumps(found) + "\n")
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
