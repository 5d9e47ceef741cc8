"""What does it bring to share one budget among several problems, in the place of splitting it?

    python benchmarks/sharing.py [--seeds 10] [--sets NAME ...] [--rules NAME ...] [--method random] [--out FILE]
    python benchmarks/sharing.py --table [--out FILE]

Sets of tables of `benchmarks.tables`, tuned under a virtual clock with one budget: ten mean
costs of each of them. A unit of loss is worth 1 / (median - best) of its table, which all rules know. Rules:

* `index`: `tune_together`, each next trial where it is expected to bring most for its price.
* `bandit`: the same, with `frugalbo.bandits.UCBBwK` in the place of the index: rewards are what results improved.
* `even`: every problem alone, with as much of the budget as any other.
* `alike`: every problem alone, with ten of its own mean costs, which nobody knows beforehand.
* `first`: all for the first problem; the others are at their median.

What counts is the mean over the problems of (mean loss of the best over seeds - best) /
(median - best), at most 1. The seconds that a problem
was charged are `shares` of the budget.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

import frugalbo as fb
from benchmarks import tables
from benchmarks.tables import Table
from frugalbo import together
from frugalbo.bandits import UCBBwK
from frugalbo.budget.ledger import Balance
from frugalbo.study import Study

RESULTS = Path(__file__).parent / "results" / "sharing.jsonl"
SETS = {
    "hpolib": ("naval_propulsion", "parkinsons_telemonitoring", "protein_structure", "slice_localization"),
    "hpobench": ("car", "phoneme", "vehicle", "australian"),
    "nas": ("cifar10", "cifar100", "imagenet"),
}
RULES = ("index", "bandit", "even", "alike", "first")
MEAN_COSTS = 10


def executor(table: Table) -> fb.SimulatedExecutor:
    """One device for a table's problem."""
    return fb.SimulatedExecutor(table.problem(), [fb.Slot("sim:0", "cpu", 0)], table.simulate)


def play(found: Mapping[str, Table], rule: str, method: str, seed: int) -> dict[str, Study]:
    """One race; the study of each problem that was tuned."""
    costs = {name: MEAN_COSTS * table.mean_cost_s for name, table in found.items()}
    budget = sum(costs.values())
    if rule in ("index", "bandit"):
        worth = {name: 1 / (table.median - table.best) for name, table in found.items()}
        problems = {name: table.problem() for name, table in found.items()}
        executors = {name: executor(table) for name, table in found.items()}
        with nullcontext() if rule == "index" else patch.object(together, "following", by_bandit):
            shared = fb.tune_together(
                problems, budget=budget, worth=worth, seed=seed, method=method, executors=executors
            )
        return {name: report.study for name, report in shared.reports.items()}
    first = next(iter(found))
    own = {"even": dict.fromkeys(found, budget / len(found)), "alike": costs, "first": {first: budget}}[rule]
    return {
        name: fb.tune(
            found[name].problem(), budget=amount, seed=seed, method=method, executor=executor(found[name])
        ).study
        for name, amount in own.items()
    }


def by_bandit(
    studies: Mapping[str, Study], balance: Balance, worth: Mapping[str, float] | None, closed: Iterable[str] = ()
) -> str | None:
    """As `together.following`, by a bandit that learns from all results in their order."""
    names = [name for name in studies if name not in set(closed)]
    if not names:
        return None
    assert worth is not None
    ends = [
        (trial.number, name, study.value(trial), trial.used("device_seconds"))
        for name, study in studies.items() for trial in study.trials.values() if trial.ends
    ]  # fmt: skip
    total, arms = balance["device_seconds"].total, list(studies)
    if not ends or {name for _, name, _, _ in ends} != set(arms):
        tried = {name for _, name, _, _ in ends}
        return next((name for name in names if name not in tried), names[0])
    dearest = {name: max(cost for _, other, _, cost in ends if other == name) for name in arms}
    horizon = max(len(ends) + 1, int(total / np.mean([cost for *_, cost in ends])))
    bandit = UCBBwK(len(arms), horizon=horizon, budgets=[total], caps=[[dearest[name]] for name in arms])
    best: dict[str, float] = {}
    for _, name, value, cost in sorted(ends, key=lambda end: end[:2]):
        reward = 0.0
        if value is not None:
            reward = max(0.0, best.get(name, value) - value) * worth[name]
            best[name] = min(value, best.get(name, value))
        bandit.update(arms.index(name), min(1.0, reward), [cost])
    if bandit.is_over:
        return names[0]
    chances = bandit.probabilities()
    return max(names, key=lambda name: chances[arms.index(name)])


def record(group: str, rule: str, method: str, seed: int) -> dict[str, Any]:
    """One race as a record."""
    found = {name: tables.load(name) for name in SETS[group]}
    studies = play(found, rule, method, seed)
    budget = sum(MEAN_COSTS * table.mean_cost_s for table in found.values())
    regrets, shares = {}, {}
    for name, table in found.items():
        best = studies[name].best() if name in studies else None
        regrets[name] = 1.0 if best is None else table.regret(best.params)
        trials = studies[name].trials.values() if name in studies else ()
        shares[name] = sum(trial.used("device_seconds") for trial in trials) / budget
    assert sum(shares.values()) <= 1 + 1e-9
    return {
        "set": group,
        "rule": rule,
        "method": method,
        "seed": seed,
        "regret": round(float(np.mean(list(regrets.values()))), 6),
        "regrets": {name: round(regret, 6) for name, regret in regrets.items()},
        "shares": {name: round(share, 4) for name, share in shares.items()},
        "trials": {name: len(study.trials) for name, study in studies.items()},
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def table_of(records: list[dict[str, Any]]) -> str:
    """Mean regrets over seeds, and by how much each rule is behind the index, with twice the standard error."""
    lines = ["| set, method | rule | seeds | regret | behind the index by | shares of the budget |", "|---" * 6 + "|"]
    keys = dict.fromkeys((r["set"], r["method"]) for r in records)
    for (group, method), rule in itertools.product(keys, RULES):
        cell = {r["seed"]: r for r in records if (r["set"], r["method"], r["rule"]) == (group, method, rule)}
        ours = {r["seed"]: r for r in records if (r["set"], r["method"], r["rule"]) == (group, method, "index")}
        seeds = sorted(set(cell) & set(ours))
        if not seeds:
            continue
        behind = np.array([cell[s]["regret"] - ours[s]["regret"] for s in seeds])
        gap = "" if rule == "index" else f"{behind.mean():.3f} ± {2 * behind.std() / len(seeds) ** 0.5:.3f}"
        shares = [np.mean([cell[s]["shares"][name] for s in seeds]) for name in SETS[group]]
        lines.append(
            f"| {group}, {method} | {rule} | {len(seeds)} | {np.mean([cell[s]['regret'] for s in seeds]):.3f} | {gap} "
            f"| {', '.join(f'{share:.2f}' for share in shares)} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, or show what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--rules", nargs="*", default=list(RULES), choices=RULES)
    parser.add_argument("--method", default="random")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    records = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    if args.table:
        print(table_of(records))
        return
    done = {(r["set"], r["rule"], r["method"], r["seed"]) for r in records}
    wanted = list(itertools.product(args.sets, args.rules))
    for seed, (group, rule) in itertools.product(range(args.seeds), wanted):
        if (group, rule, args.method, seed) not in done:
            found = record(group, rule, args.method, seed)
            with args.out.open("a") as out:
                out.write(json.dumps(found) + "\n")
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
