"""What does stopping before the budget is spent save, and what does it cost?

    python benchmarks/stopping.py [--seeds 5] [--only NAME ...] [--out FILE]
    python benchmarks/stopping.py --table [--out FILE]

Functions of `benchmarks.engine` and one that is flat but for a thousandth, whose trials take from 10 to
100 s, dearer in their first knob. The budget is 40 mean costs. Each run goes through `tune` on a virtual
clock, once without a price and once at each of the prices: a gain of 1/10, 1/100 and 1/1000 of (median -
best) for a mean cost. What counts is the cost-adjusted regret of arXiv:2507.12453,

    (loss of the best - best) + price * device-seconds spent,     over (median - best)

beside that of the same run stopped at the best moment, in hindsight.

A record is a line of JSON for each function, seed and price.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

import frugalbo as fb
from benchmarks.engine import Race, functions
from frugalbo.executors.simulated import Curve, SimulatedExecutor
from frugalbo.slot import Slot
from frugalbo.space import Params
from frugalbo.study import Study

MEAN_COSTS = 40
SHARES = (0.1, 0.01, 0.001)  # of (median - best), for a mean cost
_CHEAPEST_S, _DEAREST_S = 10.0, 100.0
_MEAN_S = (_DEAREST_S - _CHEAPEST_S) / np.log(_DEAREST_S / _CHEAPEST_S)
_OUT = Path(__file__).parent / "results" / "stopping.jsonl"


def races() -> list[Race]:
    """The functions."""
    space = fb.Space({"x": fb.Float(0, 1), "y": fb.Float(0, 1), "z": fb.Float(0, 1)})
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((3, 50)) * 300

    def flat(p: Params) -> float:
        # Nothing that a model could learn; a gain is measured in units of a loss of about 1.
        return 1.0 + 1e-3 * float(np.sin(np.array([p["x"], p["y"], p["z"]], dtype=float) @ weights).mean())

    known = [race for race in functions() if race.name in ("branin", "hartmann6", "ridge")]
    return [*known, Race("flat", space, flat, 0.999, 1.999)]


def seconds_of(race: Race, params: Params) -> float:
    """The cost of a trial: from 10 to 100 s with the first knob's place in its range."""
    share = float(race.space.encode(params)[0])
    return _CHEAPEST_S * (_DEAREST_S / _CHEAPEST_S) ** share


def run(race: Race, seed: int, min_gain: str | None) -> Study:
    """One run to its end."""

    def simulate(params: Params, planned: int, seed: int) -> Curve:
        return Curve([1], [seconds_of(race, params)], [{"loss": race.f(params)}])

    problem = race.problem()
    executor = SimulatedExecutor(problem, [Slot("cpu:0", "cpu", 0)], simulate)
    budget = MEAN_COSTS * _MEAN_S
    return fb.tune(problem, budget=budget, seed=seed, min_gain=min_gain, executor=executor).study


def records(race: Race, seed: int) -> Iterable[dict[str, Any]]:
    """One for each price."""
    unit = race.median - race.best
    whole = trajectory(race, run(race, seed, None))
    for share in SHARES:
        stopped = trajectory(race, run(race, seed, f"{share * unit:.12g} per {_MEAN_S:.12g}s"))
        adjusted = [regret + share * spent / _MEAN_S for regret, spent in whole]
        yield {
            "function": race.name,
            "seed": seed,
            "share": share,
            "trials": [len(stopped), len(whole)],
            "spent": [stopped[-1][1] / _MEAN_S, whole[-1][1] / _MEAN_S],
            "regret": [stopped[-1][0], whole[-1][0]],
            "adjusted": [stopped[-1][0] + share * stopped[-1][1] / _MEAN_S, adjusted[-1], min(adjusted)],
        }


def trajectory(race: Race, study: Study) -> list[tuple[float, float]]:
    """After each trial, the regret (over median - best) and the device-seconds spent."""
    losses = [study.value(trial) for trial in study.trials.values()]
    best = itertools.accumulate((np.inf if v is None else v for v in losses), min)
    spent = itertools.accumulate(trial.used("device_seconds") for trial in study.trials.values())
    return [((b - race.best) / (race.median - race.best), s) for b, s in zip(best, spent, strict=True)]


def table(path: Path) -> str:
    """The records as a table, medians over seeds."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [
        "| function | price: share of (median - best) for a mean cost | trials, with and without | "
        "mean costs spent | regret | cost-adjusted regret, with, without, best in hindsight |",
        "|---|---|---|---|---|---|",
    ]
    keys = dict.fromkeys((row["function"], row["share"]) for row in rows)
    for function, share in keys:
        cell = [row for row in rows if (row["function"], row["share"]) == (function, share)]

        def median(name: str, i: int, cell: list[dict[str, Any]] = cell) -> float:
            return float(np.median([row[name][i] for row in cell]))

        adjusted = [median("adjusted", i) for i in range(3)]
        lines.append(
            f"| {function} | {share:g} | {median('trials', 0):g}, {median('trials', 1):g} "
            f"| {median('spent', 0):.1f}, {median('spent', 1):.1f} "
            f"| {median('regret', 0):.2g}, {median('regret', 1):.2g} "
            f"| {adjusted[0]:.3f}, {adjusted[1]:.3f}, {adjusted[2]:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--out", type=Path, default=_OUT)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        print(table(args.out))
        return
    for race in races():
        for seed in range(args.seeds if args.only is None or race.name in args.only else 0):
            for record in records(race, seed):
                record = {**record, "at": datetime.now(UTC).isoformat(timespec="seconds")}
                with args.out.open("a") as out:
                    out.write(json.dumps(record) + "\n")
                print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
