"""Which tool gives the best answer for a budget, on recorded learning curves?

    python benchmarks/race_curves.py [--only TABLE|SUITE ...] [--methods ...] [--seeds 10] [--workers 1 4 16]
        [--budgets 5 20 50] [--jobs 1]
    python benchmarks/race_curves.py --table [--methods ...]

Races on the tables of `benchmarks.curve_tables`, ours through the real run loop on a virtual clock. All methods
draw their configurations from the table at random, in the same order for the same seed, so they differ
by what they do with time alone; but for those whose name ends in `+bo`, which choose them by expected improvement.

* The budget is so many mean costs of a full run, in device-seconds of all workers together. What a
  segment costs is known to all: the table's seconds a step.
* The answer is what the tool recommends at the end (ours: `Study.best`), and counts by its loss at the
  *end of its curve*, which the tool may not have seen: regret `(final - best) / (median - best)`, at most 1,
  and 1 if it diverges or there is no answer. Medians and best are of all configurations of the table.

Methods: the schedulers of `frugalbo.scheduler` by name, with `random` for `fixed`, some of them with `+bo`, and
the peers of `benchmarks.curve_peers` where they are installed.

Each cell (table, method, budget, workers, seed) is a line of JSON, appended when it is done; a cell that
is there for the same version of its method is not run again. Ours has as version a digest of the
code that decides, peers that of their package.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from benchmarks import curve_peers, curve_tables, race
from benchmarks.curve_tables import CurveTable, Pool
from benchmarks.peers import Stopwatch
from benchmarks.records import read
from frugalbo.budget.amounts import Budget
from frugalbo.budget.cost import cost_model
from frugalbo.executors.simulated import SimulatedExecutor
from frugalbo.propose import Proposer
from frugalbo.run import RunLoop
from frugalbo.scheduler import SCHEDULERS, make_scheduler
from frugalbo.session import OpenStudy
from frugalbo.slot import Slot

RESULTS = Path(__file__).parent / "results" / "race_curves.jsonl"
BUDGETS = (5, 20, 50)
WORKERS = (1, 4, 16)
OURS = {"random": "fixed"} | {name: name for name in SCHEDULERS if name not in ("auto", "fixed")}
OURS |= {f"{name}+bo": name for name in ("asha", "freeze-thaw")}
Cell = tuple[str, str, int, int, int]  # table, method, budget in full runs, workers, seed


def run_ours(
    table: CurveTable, scheduler: str, budget_s: float, workers: int, seed: int, *, is_modelled: bool = False
) -> OpenStudy:
    """A run of one of our schedulers to its end, with random configurations or those of a model."""
    study = OpenStudy(table.problem, Budget(device_seconds=budget_s))
    costs = cost_model(table.problem, 0.995)
    slots = [Slot(f"sim:{i}", "cpu", i) for i in range(workers)]
    executor = SimulatedExecutor(table.problem, slots, table.simulate)
    proposer: Proposer = Pool(table, seed)
    if is_modelled:
        from frugalbo.propose.bo import BayesianProposer

        proposer = BayesianProposer(seed=seed, method="ei", among=table.configurations, cost=costs)
    RunLoop(study, make_scheduler(scheduler, proposer, costs), executor, costs, Path("unused"), seed).run()
    return study


def run_cell(name: str, method: str, budget: int, workers: int, seed: int) -> dict[str, Any]:
    """One race as a record."""
    table, watch = curve_tables.load(name, seed), Stopwatch()
    budget_s, own_seed = budget * table.full_cost_s, race.own_seed(name, seed)
    with watch.running():
        if method in OURS:
            modelled = method.endswith("+bo")
            study = run_ours(table, OURS[method], budget_s, workers, own_seed, is_modelled=modelled)
            best, at_step = study.best(), study.compared_at()
            found = None if best is None else best.params
            trials = len(study.trials)
            full = sum(study.value(trial) is not None for trial in study.trials.values())
        else:
            order = Pool(table, own_seed).order.tolist()
            ran = curve_peers.race(method, table, order, budget_s=budget_s, workers=workers, seed=own_seed)
            found, trials = curve_peers.answer(table, ran), len(ran)
            at_step = max((r.step for r in ran if not r.failed), default=None)
            full = sum(r.step == table.steps and not r.failed for r in ran)
    return {
        "table": name,
        "method": method,
        "budget": budget,
        "workers": workers,
        "seed": seed,
        "version": version(method),
        "regret": round(table.regret(found), 6),
        "at_step": at_step,
        "trials": trials,
        "full": full,
        "cpu_s": round(watch.cpu_s, 3),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def version(method: str) -> str:
    """What a record is valid for."""
    return race.version(f"ours:{method}") if method in OURS else curve_peers.version(method)


def cell(record: Mapping[str, Any]) -> Cell:
    """Which race a record is of."""
    return record["table"], record["method"], record["budget"], record["workers"], record["seed"]


def run_missing(wanted: Iterable[Cell], jobs: int, out: Path) -> None:
    """Run what is not recorded for this version, each record appended as soon as it is there."""
    done = {(*cell(r), r["version"]) for r in read(out)}
    missing = [c for c in wanted if (*c, version(c[1])) not in done]
    print(f"{len(missing)} races to go", flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a") as file:
        for n, record in enumerate(_run_all(missing, jobs), 1):
            file.write(json.dumps(record) + "\n")
            file.flush()
            if n % 100 == 0:
                print(f"{n} of {len(missing)}", flush=True)


def _run_all(missing: Sequence[Cell], jobs: int) -> Iterator[dict[str, Any]]:
    if jobs == 1:
        yield from (run_cell(*c) for c in missing)
        return
    with ProcessPoolExecutor(jobs) as pool:
        for future in as_completed([pool.submit(run_cell, *c) for c in missing]):
            yield future.result()


def markdown(records: Sequence[Mapping[str, Any]], methods: Sequence[str] | None = None) -> str:
    """Mean regrets by suite, of the newest record of each cell; with twice the standard error over seeds and tables."""
    newest = {cell(r): r for r in records}
    grouped: dict[tuple[str, str, int, int], list[float]] = defaultdict(list)
    for (table, method, budget, workers, _), record in newest.items():
        grouped[table.partition("/")[0], method, budget, workers].append(record["regret"])
    lines: list[str] = []
    for suite in sorted({key[0] for key in grouped}):
        budgets = sorted({key[2] for key in grouped if key[0] == suite})
        workers = sorted({key[3] for key in grouped if key[0] == suite})
        columns = [(w, b) for w in workers for b in budgets]
        lines += [
            f"\n{suite}: mean regret (± twice its standard error), by workers x full runs\n",
            "| method | " + " | ".join(f"{w} x {b}" for w, b in columns) + " |",
            "| --- |" + " --- |" * len(columns),
        ]
        for method in sorted({key[1] for key in list(grouped) if key[0] == suite}):
            if methods is None or method in methods:
                cells = [_mean(grouped[suite, method, budget, n]) for n, budget in columns]
                lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _mean(values: Sequence[float]) -> str:
    if not values:
        return ""
    error = 2 * float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{np.mean(values):.3f} ± {error:.3f} ({len(values)})"


def main() -> None:
    """Run or tabulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    there = [suite for suite in curve_tables.SUITES if curve_tables.is_there(suite)]
    parser.add_argument("--only", nargs="*", default=there, help="tables or suites; by default all that are there")
    parser.add_argument("--methods", nargs="*", help="all of ours by default; for --table all that were run")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers", nargs="*", type=int, default=list(WORKERS))
    parser.add_argument("--budgets", nargs="*", type=int, default=list(BUDGETS))
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time, one thread each")
    parser.add_argument("--table", action="store_true", help="print the summary as Markdown, run nothing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    if asked.table:
        print(markdown(read(asked.out), asked.methods))
        return
    methods = asked.methods or [name for name in OURS if not name.endswith("+bo")]
    if unknown := [method for method in methods if method not in OURS and method not in curve_peers.PACKAGES]:
        parser.error(f"no method {unknown[0]!r}; expected some of {', '.join([*OURS, *curve_peers.PACKAGES])}")
    if absent := [m for m in methods if m in curve_peers.PACKAGES and not curve_peers.is_installed(m)]:
        parser.error(f"{absent[0]} is not installed: pip install {curve_peers.PACKAGES[absent[0]]}")
    names = [name for name in curve_tables.names() if name in asked.only or name.partition("/")[0] in asked.only]
    if not names:
        parser.error(f"no table among {asked.only}; expected some of {', '.join(curve_tables.names())}")
    wanted = [
        (name, method, budget, workers, seed)
        for workers in asked.workers for budget in asked.budgets for seed in range(asked.seeds)
        for name in names for method in methods
    ]  # fmt: skip
    run_missing(wanted, asked.jobs, asked.out)


if __name__ == "__main__":
    main()
