"""Does what was held for a trial last, and how much more is held than it takes?

    python benchmarks/cost_bound.py [--tables ...] [--seeds 20] [--out benchmarks/results/cost_bound.jsonl]
    python benchmarks/cost_bound.py --table

On each table of `benchmarks.tables`: `n` configurations drawn at random and their seconds are told to the
cost model, which then predicts ten others (fresh ones for each seed). For n = 1, 2, 3, 5, 10 and 20, with
nothing stated and with each of `STATED`:

* `covered`: the share of the others that took at most the predicted upper cost (nominally 99.5 %).
* `sharp`: the median of upper cost over actual seconds: how much is held in vain.
* `error`: the median of |log(predicted median / actual)|, as a factor.
* `likelihood`: the mean log density that was predicted for the log of the actual seconds; more is better.

Each line of the results is a (table, statement, n), with the model's digest as its version.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import zlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from numpy.typing import NDArray

import frugalbo
from benchmarks.tables import NAMES, SUITES, Table, load
from frugalbo.budget.amounts import Cost
from frugalbo.budget.cost import LearnedCost, fit_cost
from frugalbo.budget.cost_mixture import FittedCost
from frugalbo.events import Ended, Outcome, Started
from frugalbo.problem import Problem
from frugalbo.study import Study

Array = NDArray[np.float64]

RESULTS = Path(__file__).parent / "results" / "cost_bound.jsonl"
KNOWN = (1, 2, 3, 5, 10, 20, 50)
OTHERS = 10
CONFIDENCE = 0.995
PARTS = ("cost", "cost_process", "cost_mixture", "cost_features", "shape")

# What somebody who knows such jobs, but not these measurements, would say of each suite: what grows, the
# work as a formula, and a statement that is wrong.
STATED: dict[str, dict[str, str]] = {
    "HPOBench": {
        "grows": "grows with depth, width",
        "like": "like depth * width",
        "wrong": "like 1 / (depth * width)",
    },
    "HPOlib": {
        "grows": "grows with n_units_1, n_units_2",
        "like": "like (n_units_1 + n_units_2) / batch_size",
        "wrong": "like batch_size / (n_units_1 + n_units_2)",
    },
    "NAS-Bench-201": {
        "like": "like 1 + "
        + " + ".join(f"2 * (Op{i} == 'nor_conv_3x3') + (Op{i} == 'nor_conv_1x1')" for i in range(6)),
    },
}


def measure(table: Table, stated: str | None, n: int, seeds: int) -> dict[str, Any]:
    """Coverage, sharpness and error over `seeds` draws of `n` known configurations."""
    problem = replace(table.problem(), cost=stated)
    ratios, errors, densities = [], [], []
    for seed in range(seeds):
        study, others = known(table, problem, n, seed)
        predict, fitted = LearnedCost(CONFIDENCE).predictor(study), fit_cost(study)
        assert fitted is not None
        for params, seconds in others:
            found = predict(params, 0, 1)
            assert found is not None
            ratios.append(found.upper_s / seconds)
            errors.append(abs(math.log(found.median_s / seconds)))
            densities.append(log_density(fitted, table.space.encode(params), seconds))
    return {
        "covered": round(float(np.mean(np.array(ratios) >= 1)), 4),
        "sharp": round(float(np.median(ratios)), 3),
        "error": round(math.exp(float(np.median(errors))), 3),
        "likelihood": round(float(np.mean(densities)), 3),
    }


def log_density(fitted: FittedCost, u: Array, seconds: float) -> float:
    """Of the log of the seconds of a segment of one step at the unit point `u`."""
    mean, variance = (m[0] for m in fitted.moments(fitted.features(u[None])))
    rest = seconds - fitted.startup_s
    part = rest > 0
    log_rest = np.log(rest[part])
    misfit = (log_rest - mean[part]) ** 2 / variance[part] + np.log(2 * math.pi * variance[part])
    return float(np.logaddexp.reduce(np.log(fitted.weight[part]) + math.log(seconds) - log_rest - 0.5 * misfit))


def known(table: Table, problem: Problem, n: int, seed: int) -> tuple[Study, list[tuple[dict[str, Any], float]]]:
    """A study of `n` configurations that have ended, and `OTHERS` with their seconds; these are the same for all n."""
    rng = np.random.default_rng([seed, zlib.crc32(table.name.encode())])
    others = [table.space.sample(rng) for _ in range(OTHERS)]
    study = Study(problem)
    for i in range(n):
        params = table.space.sample(rng)
        study.apply(Started(i, 0, params, 0, 1, 1, Cost(), "s", 0.0))
        study.apply(Ended(i, 0, Outcome.COMPLETED, Cost(device_seconds=table.observe(params, seed)[1]), 0.0))
    return study, [(params, table.observe(params, seed)[1]) for params in others]


def version() -> str:
    """A digest of the code that predicts."""
    folder = Path(frugalbo.__file__).parent / "budget"
    return hashlib.sha256(b"".join((folder / f"{name}.py").read_bytes() for name in PARTS)).hexdigest()[:12]


def markdown(records: Sequence[dict[str, Any]]) -> str:
    """A table for each suite: rows are statements, columns the numbers of known segments."""
    lines = [
        "| suite | stated | " + " | ".join(f"n = {n}" for n in KNOWN) + " |",
        "|---|---" + "|---" * len(KNOWN) + "|",
    ]
    newest = {(r["table"], r["stated"], r["n"]): r for r in records}
    for suite in SUITES:
        for name in dict.fromkeys(r["stated"] for r in newest.values() if r["suite"] == suite.name):
            cells = []
            for n in KNOWN:
                found = [r for r in newest.values() if (r["suite"], r["stated"], r["n"]) == (suite.name, name, n)]
                covered = [r["covered"] for r in found]
                sharp, error = (float(np.median([r[key] for r in found])) for key in ("sharp", "error"))
                likelihood = np.mean([r["likelihood"] for r in found])
                cells.append(
                    f"{np.mean(covered):.3f} ({min(covered):.2f}), x{sharp:.3g}, {error:.2f}, {likelihood:.2f}"
                )
            lines.append(f"| {suite.name} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, or print the table of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", default=list(NAMES), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print what is on file")
    asked = parser.parse_args()
    if asked.table:
        print(markdown([json.loads(line) for line in asked.out.read_text().splitlines()]))
        return
    records = []
    for name in asked.tables:
        table = load(name)
        for label, stated in {"nothing": None, **STATED[table.suite.name]}.items():
            for n in KNOWN:
                found = measure(table, stated, n, asked.seeds)
                where = {"table": name, "suite": table.suite.name, "stated": label, "n": n, "seeds": asked.seeds}
                record = where | found | {"version": version(), "at": datetime.now(UTC).isoformat(timespec="seconds")}
                records.append(record)
                with asked.out.open("a") as file:
                    file.write(json.dumps(record) + "\n")
    print(markdown(records))


if __name__ == "__main__":
    main()
