"""Should costs count where the trials run out before the seconds?

    python benchmarks/two_limits.py [--seeds 5] [--only TABLE ...]
    python benchmarks/two_limits.py --table

The tables of `tables.CHOSEN_ON`, one worker, under two limits at once: `TRIALS` trials, and so many times the seconds
that as many of the mean configurations take. `priced` is `auto`, by which a trial is charged its seconds and the price
of being one of so many; `seconds` charges its seconds alone. Regret as in `race.py`, at the end. Each cell (table,
factor, rule, seed) is a line of JSON; one that is there for the same version of the code that decides is not run again.
"""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
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
from frugalbo.propose import fit
from frugalbo.slot import Slot

RESULTS = Path(__file__).parent / "results" / "two_limits.jsonl"
TRIALS = 25
FACTORS = (0.5, 1.0, 3.0)
RULES = {"priced": fit.besides_s, "seconds": lambda study: 0.0}


def run_cell(name: str, factor: float, rule: str, seed: int) -> dict[str, Any]:
    """One run as a record."""
    table = load(name).averaged()
    executor = SimulatedExecutor(table.problem(), [Slot("sim:0", "cpu", 0)], table.simulate)
    seconds = factor * TRIALS * float(np.mean(table.seconds))
    budget = Budget(device_seconds=seconds, evaluations=TRIALS)
    fit.besides_s = RULES[rule]
    study = tune(table.problem(), budget=budget, seed=own_seed(name, seed), executor=executor).study
    best = study.best()
    return {
        "table": name,
        "factor": factor,
        "rule": rule,
        "seed": seed,
        "version": version("ours"),
        "regret": 1.0 if best is None else round(table.regret(best.params), 6),
        "trials": len(study.trials),
        "seconds_used": round(sum(job.ended - job.began for job in jobs_of(study)) / seconds, 4),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def markdown(records: list[dict[str, Any]]) -> str:
    """By factor: mean regrets, their difference cell by cell with two standard errors, and what was used."""
    cells: dict[float, dict[str, dict[tuple[str, int], dict[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for r in records:
        cells[r["factor"]][r["rule"]][r["table"], r["seed"]] = r
    lines = [
        "| seconds for | runs | seconds | priced | less by | trials | of the seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for factor, by_rule in sorted(cells.items()):
        both = sorted(by_rule["priced"].keys() & by_rule["seconds"].keys())
        old, new = ([by_rule[rule][cell] for cell in both] for rule in ("seconds", "priced"))
        less = np.array([a["regret"] - b["regret"] for a, b in zip(old, new, strict=True)])
        means = [np.mean([r["regret"] for r in rows]) for rows in (old, new)]
        error = 2 * less.std(ddof=1) / np.sqrt(len(less)) if len(less) > 1 else np.nan
        trials = " / ".join(f"{np.mean([r['trials'] for r in rows]):.1f}" for rows in (old, new))
        used = " / ".join(f"{np.mean([r['seconds_used'] for r in rows]):.0%}" for rows in (old, new))
        lines.append(
            f"| {factor:g} x {TRIALS} trials | {len(both)} | {means[0]:.3f} | {means[1]:.3f} "
            f"| {less.mean():.3f} ± {error:.3f} | {trials} | {used} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, or tabulate."""
    parser = command_line(__doc__, RESULTS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=list(CHOSEN_ON))
    if (asked := asked_of(parser, markdown)) is None:
        return
    done = {(r["table"], r["factor"], r["rule"], r["seed"], r["version"]) for r in read(asked.out)}
    wanted = [(n, f, r, s) for s in range(asked.seeds) for n in asked.only for f in FACTORS for r in RULES]
    for cell in wanted:
        if (*cell, version("ours")) not in done:
            record = run_cell(*cell)
            with asked.out.open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(*cell, record["regret"], record["trials"], flush=True)


if __name__ == "__main__":
    main()
