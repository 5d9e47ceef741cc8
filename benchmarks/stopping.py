"""What does stopping before the budget is spent save, and what does it cost?

    python benchmarks/stopping.py [--seeds 10] [--only NAME ...] [--rules price regret] [--out FILE]
    python benchmarks/stopping.py --table [--out FILE]

Functions of `benchmarks.engine` and one that is flat but for a thousandth, whose trials take from 10 to
100 s, dearer in their first knob. The budget is 40 mean costs. Each run goes through `tune` on a virtual
clock, once to the end of its budget and once with each rule at each of its settings:

* `price`: `min_gain` of 1/10, 1/100 and 1/1000 of (median - best) for a mean cost. What counts is the cost-adjusted
  regret of arXiv:2507.12453,

      (loss of the best - best) + price * device-seconds spent,     over (median - best)

  beside that of the same run stopped at the best moment, in hindsight.
* `regret`: `stop_regret` of the same shares of (median - best). What counts is what was not spent, beside the
  regret that was given up, and whether that at the end is what was asked for.

A record is a line of JSON for each function, seed, rule and share. One that is there is not measured again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Iterable, Sequence
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
SHARES = (0.1, 0.01, 0.001)  # of (median - best); as a price, for a mean cost
RULES = ("price", "regret")
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


def run(race: Race, seed: int, min_gain: str | None = None, stop_regret: float | None = None) -> Study:
    """One run to its end."""

    def simulate(params: Params, planned: int, seed: int) -> Curve:
        return Curve([1], [seconds_of(race, params)], [{"loss": race.f(params)}])

    problem = race.problem()
    executor = SimulatedExecutor(problem, [Slot("cpu:0", "cpu", 0)], simulate)
    budget = MEAN_COSTS * _MEAN_S
    report = fb.tune(problem, budget=budget, seed=seed, min_gain=min_gain, stop_regret=stop_regret, executor=executor)
    return report.study


def records(race: Race, seed: int, missing: Sequence[tuple[str, float]]) -> Iterable[dict[str, Any]]:
    """One for each rule and share."""
    unit = race.median - race.best
    whole = trajectory(race, run(race, seed)) if missing else []
    for rule, share in missing:
        price = f"{share * unit:.12g} per {_MEAN_S:.12g}s" if rule == "price" else None
        stopped = trajectory(race, run(race, seed, price, None if price else share * unit))
        adjusted = [regret + share * spent / _MEAN_S for regret, spent in whole]
        yield {
            "function": race.name,
            "seed": seed,
            "rule": rule,
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
    """The records as two tables: medians over seeds, of the price and of the bound on regret."""
    rows = read(path)
    prices = [
        "| function | price: share of (median - best) for a mean cost | trials, with and without | "
        "mean costs spent | regret | cost-adjusted regret, with, without, best in hindsight |",
        "|---|---|---|---|---|---|",
    ]
    bounds = [
        "| function | `stop_regret`: share of (median - best) | seeds | budget saved, median (least, most) | "
        "regret at the stop, median (most) | regret without | runs within what was asked for |",
        "|---|---|---|---|---|---|---|",
    ]
    for function, rule, share in dict.fromkeys((row["function"], row["rule"], row["share"]) for row in rows):
        cell = [row for row in rows if (row["function"], row["rule"], row["share"]) == (function, rule, share)]

        def column(name: str, i: int, cell: list[dict[str, Any]] = cell) -> list[float]:
            return [row[name][i] for row in cell]

        def median(name: str, i: int, column: Any = column) -> float:
            return float(np.median(column(name, i)))

        if rule == "price":
            adjusted = [median("adjusted", i) for i in range(3)]
            prices.append(
                f"| {function} | {share:g} | {median('trials', 0):g}, {median('trials', 1):g} "
                f"| {median('spent', 0):.1f}, {median('spent', 1):.1f} "
                f"| {median('regret', 0):.2g}, {median('regret', 1):.2g} "
                f"| {adjusted[0]:.3f}, {adjusted[1]:.3f}, {adjusted[2]:.3f} |"
            )
        else:
            saved = [100 * (1 - spent / MEAN_COSTS) for spent in column("spent", 0)]
            within = sum(regret <= share for regret in column("regret", 0))
            bounds.append(
                f"| {function} | {share:g} | {len(cell)} "
                f"| {np.median(saved):.0f} % ({min(saved):.0f}, {max(saved):.0f}) "
                f"| {median('regret', 0):.2g} ({max(column('regret', 0)):.2g}) | {median('regret', 1):.2g} "
                f"| {within} of {len(cell)} |"
            )
    return "\n".join([*prices, "", *bounds])


def read(path: Path) -> list[dict[str, Any]]:
    """The records; those from before there were two rules are of prices."""
    return [{"rule": "price", **json.loads(line)} for line in path.read_text().splitlines()] if path.exists() else []


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--rules", nargs="*", default=list(RULES), choices=RULES)
    parser.add_argument("--out", type=Path, default=_OUT)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        print(table(args.out))
        return
    done = {(row["function"], row["seed"], row["rule"], row["share"]) for row in read(args.out)}
    wanted = [race for race in races() if args.only is None or race.name in args.only]
    for seed, race in itertools.product(range(args.seeds), wanted):
        missing = [key for key in itertools.product(args.rules, SHARES) if (race.name, seed, *key) not in done]
        for record in records(race, seed, missing):
            record = {**record, "at": datetime.now(UTC).isoformat(timespec="seconds")}
            with args.out.open("a") as out:
                out.write(json.dumps(record) + "\n")
            print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
