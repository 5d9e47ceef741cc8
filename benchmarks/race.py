"""Which tool finds the best configuration for the seconds that a budget can buy?

    python benchmarks/race.py [--only TABLE|SUITE ...] [--methods ...] [--seeds 5] [--workers 1 4] [--over runs] ...
    python benchmarks/race.py --table [--methods ...] [--over ...] [--revision N]

Races on the tables of `benchmarks.tables`, ours through the real run loop, the peers of
`benchmarks.peers` through a plain one, both on a virtual clock: a job takes the seconds that it
took when the table was made, suggesting takes none (it is measured apart).

* A trial sees its configuration's mean over the table's seeds, or with `--over runs` one of these
  seeds and its noise. Published figures for these tables seem to be of the first kind.
* The budget is the sum of all workers' device-seconds. A job that it cuts gives no result.
* With `--over failing` a quarter of the configurations break down on their way, see `tables`; for ours only.
* Regret is that of the configuration with the best loss seen so far, at its mean over the table's
  seeds, `(loss - best) / (median - best)`, at most 1, and 1 while there is no result.
* It is read when 10, 30 and 100 % of the budget have been burned by all jobs together.

Methods: a peer's name; `ours` (what `tune` does by default); `ours:NAME` for `tune(method=NAME)`;
and ours with a part switched off, see `SWITCHED_OFF`. Settings of ours may be chosen on the tables
of `tables.CHOSEN_ON` only.

Each cell (table, method, workers, seed) is a line of JSON, appended when it is done; a cell that is
there for the same version of its method is not run again. Ours has as version a digest of the code
that decides, peers that of their package.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.metadata
import json
import os
import sys
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

import frugalbo
from benchmarks import peers, standings
from benchmarks.peers import Job, Stopwatch
from benchmarks.records import read
from benchmarks.tables import NAMES, SUITES, Table, load
from frugalbo.api import tune
from frugalbo.budget.amounts import Budget
from frugalbo.budget.cost import LearnedCost
from frugalbo.executors.simulated import SimulatedExecutor
from frugalbo.problem import Problem
from frugalbo.propose import Proposer, preload
from frugalbo.run import RunLoop
from frugalbo.scheduler.fixed import FixedScheduler
from frugalbo.session import OpenStudy
from frugalbo.slot import Slot
from frugalbo.study import Study

SHARES = standings.SHARES
RESULTS = Path(__file__).parent / "results" / "race.jsonl"
# The code that decides what is tried and what is granted.
_DECIDING = ("acquisition", "budget", "models", "propose", "scheduler")
_DECIDING_FILES = (
    "api.py", "events.py", "run.py", "session.py", "space.py", "stored.py", "study.py", "executors/simulated.py"
)  # fmt: skip


# Ours with a part switched off: settings of `BayesianProposer`. The run loop quotes and holds in all
# of them. That of feasibility makes a difference over `failing` only.
SWITCHED_OFF: dict[str, dict[str, Any]] = {
    "ours-no-cost": {"method": "ei", "hard_budget": False},  # blind to cost
    "ours-no-price": {"method": "ei"},  # cheap or dear, but not beyond what is left
    "ours-no-hard-budget": {"hard_budget": False},  # what is left does not count
    "ours-no-feasibility": {"feasibility": False},  # what failed is known for its cost only
}


def race(table: Table, method: str, workers: int, seed: int) -> tuple[list[Job], Stopwatch]:
    """One race: its jobs, and the seconds that went into suggesting (for ours, into the whole run loop)."""
    watch, seed = Stopwatch(), own_seed(table.name, seed)
    if method in peers.PEERS:
        peer = peers.make_peer(method, table.space, seed)
        jobs = peers.drive(
            peer, lambda p: table.observe(p, seed), budget_s=table.budget_s, workers=workers, watch=watch
        )
        return jobs, watch
    problem = table.problem()
    slots = [Slot(f"sim:{i}", "cpu", i) for i in range(workers)]
    executor = SimulatedExecutor(problem, slots, table.simulate)
    budget = Budget(device_seconds=table.budget_s)
    with watch.running():
        if method in SWITCHED_OFF:
            study = run_with(switched_off(method, seed), problem, budget, executor, seed)
        else:
            named = method.removeprefix("ours").removeprefix(":") or "auto"
            study = tune(problem, budget=budget, seed=seed, method=named, executor=executor).study
    return jobs_of(study), watch


def own_seed(table: str, seed: int) -> int:
    """The seed of a race: tables of one space must not all get the same first configurations."""
    return int(np.random.SeedSequence([zlib.crc32(table.encode()), seed]).generate_state(1)[0] >> 1)


def switched_off(method: str, seed: int) -> Proposer:
    """The proposer of `tune`, with the settings of `SWITCHED_OFF`."""
    from frugalbo.propose.bo import BayesianProposer

    return BayesianProposer(seed=seed, **SWITCHED_OFF[method])


def run_with(proposer: Proposer, problem: Problem, budget: Budget, executor: SimulatedExecutor, seed: int) -> Study:
    """What `tune` does, with a proposer that has no name. A test holds it against `tune`."""
    study = OpenStudy(problem, budget, proposer=proposer)
    costs = LearnedCost(confidence=0.995)
    RunLoop(study, FixedScheduler(proposer, costs), executor, costs, Path("unused"), seed=seed).run()
    return study


def jobs_of(study: Study) -> list[Job]:
    """The trials of a study that ran each in one segment, in the order in which they ended."""
    jobs: list[Job] = []
    for trial in study.trials.values():
        (started,), (ended,) = trial.starts, trial.ends
        value = study.value(trial)
        loss = None if value is None else study.problem.objective.to_loss(value)
        jobs.append(Job(trial.params, started.at, ended.at, loss))
    return sorted(jobs, key=lambda job: job.ended)


def burned(jobs: Sequence[Job], at: float) -> float:
    """The device-seconds that all jobs together have taken by the time `at`."""
    return sum(max(0.0, min(job.ended, at) - job.began) for job in jobs)


def trace(table: Table, jobs: Sequence[Job]) -> list[tuple[float, float]]:
    """Share of the budget and regret, whenever another configuration becomes the best one seen."""
    best, found = np.inf, []
    for job in sorted(jobs, key=lambda job: job.ended):
        if job.loss is not None and job.loss < best:
            best = job.loss
            found.append((burned(jobs, job.ended) / table.budget_s, table.regret(job.params)))
    return found


def regrets(of: Iterable[tuple[float, float]], shares: Sequence[float] = SHARES) -> list[float]:
    """A trace read at shares of the budget."""
    points = list(of)
    return [next((r for when, r in reversed(points) if when <= share * (1 + 1e-9)), 1.0) for share in shares]


def run_cell(name: str, method: str, workers: int, seed: int, over: str) -> dict[str, Any]:
    """One race as a record."""
    if not method.startswith(("random", "optuna-tpe", "smac")):
        import torch

        torch.set_num_threads(1)
        preload()  # seconds of imports are not seconds of suggesting
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", module=r"(optuna|ax|smac|botorch|gpytorch|linear_operator|sklearn)\b.*")
    table = {"runs": load, "means": lambda n: load(n).averaged(), "failing": lambda n: load(n).failing()}[over](name)
    jobs, watch = race(table, method, workers, seed)
    path = trace(table, jobs)
    return {
        "table": name,
        "suite": table.suite.name,
        "method": method,
        "workers": workers,
        "seed": seed,
        "over": over,
        "version": version(method),
        "regret": [round(r, 6) for r in regrets(path)],
        "trace": [[round(when, 5), round(r, 6)] for when, r in path],
        "trials": len(jobs),
        "cut": sum(job.loss is None for job in jobs),
        "spent": round(burned(jobs, np.inf) / table.budget_s, 6),
        "wall_s": round(watch.wall_s, 3),
        "cpu_s": round(watch.cpu_s, 3),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def version(method: str) -> str:
    """What a record is valid for; comments and layout of our code do not count."""
    if method in peers.PEERS:
        return peers.version(method)
    root = Path(frugalbo.__file__).parent
    files = [file for folder in _DECIDING for file in sorted((root / folder).rglob("*.py"))]
    digest = hashlib.sha256()
    for file in [*files, *(root / name for name in _DECIDING_FILES)]:
        digest.update(ast.dump(ast.parse(file.read_text())).encode())
    return f"{importlib.metadata.version('frugalbo')} {digest.hexdigest()[:8]}, r{peers.REVISION}"


def cells(
    names: Sequence[str], methods: Sequence[str], workers: Sequence[int], seeds: int, over: str
) -> Iterator[standings.Cell]:
    """All races that were asked for, so ordered that what is there at any time is balanced."""
    for w in workers:
        for seed in range(seeds):
            for name in names:
                for method in methods:
                    yield name, method, w, seed, over


def run_missing(wanted: Iterable[standings.Cell], jobs: int, out: Path) -> None:
    """Run what is not recorded for this version, each record appended as soon as it is there."""
    done = {(*standings.cell(r), r["version"]) for r in read(out)}
    missing = [cell for cell in wanted if (*cell, version(cell[1])) not in done]
    print(f"{len(missing)} races to go", flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a") as file:
        for record in _run_all(missing, jobs):
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
            print(
                f"{record['table']:24} {record['method']:16} x{record['workers']} seed {record['seed']}  "
                f"{record['regret']}  {record['trials']} trials  {record['wall_s']} s",
                flush=True,
            )


def _run_all(missing: Sequence[standings.Cell], jobs: int) -> Iterator[dict[str, Any]]:
    if jobs == 1:
        yield from (run_cell(*cell) for cell in missing)
        return
    with ProcessPoolExecutor(jobs) as pool:
        for future in as_completed([pool.submit(run_cell, *cell) for cell in missing]):
            yield future.result()


def main() -> None:
    """Run or tabulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="tables or suites; all by default")
    parser.add_argument("--methods", nargs="*", help="random, optuna-tpe and ours by default; for --table all")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", nargs="*", type=int, default=[1, 4])
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time, one thread each")
    parser.add_argument(
        "--over", choices=["means", "runs", "failing"], default="means", help="what a trial sees of its table"
    )
    parser.add_argument("--table", action="store_true", help="print the summary as Markdown, run nothing")
    parser.add_argument("--revision", type=int, help="for --table: only records of this revision of the race")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    if asked.table:
        records = read(asked.out)
        if asked.revision is not None:
            records = [r for r in records if r["version"].endswith(f"r{asked.revision}")]
        records = [r for r in records if standings.over(r) == asked.over]
        print(standings.markdown(records, asked.methods))
        return
    members = {suite.name: suite.tables for suite in SUITES} | {name: (name,) for name in NAMES}
    if unknown := [name for name in asked.only if name not in members]:
        parser.error(f"no table or suite {unknown[0]!r}; expected some of {', '.join(members)}")
    names = [table for name in asked.only or [s.name for s in SUITES] for table in members[name]]
    methods = asked.methods or ["random", "optuna-tpe", "ours"]
    if absent := [m for m in methods if m in peers.PEERS and not peers.is_installed(m)]:
        parser.error(f"{absent[0]} is not installed: pip install {peers.PEERS[absent[0]]}")
    if asked.over == "failing" and (unfit := [m for m in methods if m in peers.PEERS]):
        parser.error(f"{unfit[0]} is not told of failures here; for random use ours:random")
    run_missing(cells(names, methods, asked.workers, asked.seeds, asked.over), asked.jobs, asked.out)


if __name__ == "__main__":
    main()
