"""Where shorter runs may be looked at, which acquisition gives the best answer for a budget?

    python benchmarks/fidelities.py [--only PROBLEM ...] [--methods ...] [--seeds 10]
    python benchmarks/fidelities.py --table

`frugalbo.acquisition.conditions.choose_at` over a ninth, a third and the whole of a run, each from scratch and paid
by its length, with the model of `frugalbo.models.multi_fidelity`. All begin with the same four random points (looked at
at all three lengths; `full` at the whole alone) and have 12 full runs in all. The answer is the point looked at whose
full run is predicted best; its regret, `(loss - best) / (median - best)` in [1e-3, 1], is read when half and all of
the budget are burned, and its logarithm to the base 10 is averaged.

| problem | shorter runs |
|---|---|
| branin, hartmann | BoTorch's augmented functions, at fidelities of 1/9, 1/3 and 1 |
| gp-near, gp-far | a Matern sample, plus .2 or 1 times another one at a ninth, and half of that at a third |
| four tasks of TaskSet | the recorded loss at that share of the steps |

A method is a name of `tune(method=...)`, `auto`, or `full`: expected improvement with full runs alone. Runs that
diverged are seen, and counted, as the worst finite loss. Each cell is a line of JSON; one that is there is not run
again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from botorch.test_functions.multi_fidelity import AugmentedBranin, AugmentedHartmann
from numpy.typing import NDArray

from benchmarks import race
from benchmarks.budgeted import matern_sample
from benchmarks.curve_tables import TASKSET
from benchmarks.curve_tables import load as load_curves
from frugalbo.acquisition.conditions import at_fidelities, choose_at
from frugalbo.models.multi_fidelity import MultiFidelity, fit_multi_fidelity

Array = NDArray[np.float64]
SHARES = (1 / 9, 1 / 3, 1.0)
METHODS = ("full", "ei", "kg", "mes", "auto")
RESULTS = Path(__file__).parent / "results" / "fidelities.jsonl"
FULL_RUNS = 12.0
LEAST_REGRET = 1e-3  # pools have 500 to 1,000 points: below that it is chance who has the very best
_FIRST = 4
_POOL = 500


@dataclass(frozen=True)
class Task:
    """A problem of which a point can be looked at for a share of a run.

    Args:
        pool: Unit points that may be tried, m x d.
        losses: Of each at each of `SHARES`, m x 3.
        best: The least loss of a full run anywhere.
        median: Of full runs.
    """

    pool: Array
    losses: Array
    best: float
    median: float

    def regret(self, i: int) -> float:
        """Of the point's full run."""
        return float(np.clip((self.losses[i, -1] - self.best) / (self.median - self.best), LEAST_REGRET, 1))


@lru_cache(maxsize=4)
def task(name: str, seed: int) -> Task:
    """The problem of that name, with what is drawn for that seed."""
    rng = np.random.default_rng([seed, sorted(PROBLEMS).index(name)])
    return PROBLEMS[name](rng, seed)


def function_task(rng: np.random.Generator, d: int, losses: Callable[[Array], Array]) -> Task:
    """A function of unit points, from m x d to m x 3; the pool is a sample, and its best is the best."""
    U = rng.random((_POOL, d))
    L = losses(U)
    return Task(U, L, float(L[:, -1].min()), float(np.median(L[:, -1])))


def augmented(function: Any) -> Callable[[Array], Array]:
    """One of BoTorch's functions whose last dimension is a fidelity."""
    low, high = function.bounds[:, :-1].numpy()

    def losses(U: Array) -> Array:
        X = torch.from_numpy(low + (high - low) * U)
        at = [torch.cat([X, torch.full((len(X), 1), s, dtype=X.dtype)], -1) for s in SHARES]
        return torch.stack([function.evaluate_true(Z) for Z in at], -1).numpy()

    return losses


def gp_task(rng: np.random.Generator, apart: float) -> Task:
    """A sample on the unit square, and one that is added to shorter runs."""
    f, g = matern_sample(rng, 2, 0.25), matern_sample(rng, 2, 0.25)
    scale = apart * np.array([1.0, 0.5, 0.0])
    return function_task(rng, 2, lambda U: f(U)[:, None] + scale * g(U)[:, None])


def taskset(name: str, seed: int) -> Task:
    """A task of TaskSet: the recorded losses at three lengths."""
    table = load_curves(f"taskset/{name}", seed)
    U = np.array([table.problem.space.encode(c) for c in table.configurations])
    L = table.losses[:, [max(0, round(s * table.steps) - 1) for s in SHARES]]
    L = np.where(np.isfinite(L), L, L[np.isfinite(L)].max())
    return Task(U, L, float(L[:, -1].min()), float(np.median(L[:, -1])))


PROBLEMS: dict[str, Callable[[np.random.Generator, int], Task]] = {
    "branin": lambda rng, _: function_task(rng, 2, augmented(AugmentedBranin(dtype=torch.float64))),
    "hartmann": lambda rng, _: function_task(rng, 6, augmented(AugmentedHartmann(dtype=torch.float64))),
    "gp-near": lambda rng, _: gp_task(rng, 0.2),
    "gp-far": lambda rng, _: gp_task(rng, 1.0),
    **{name: (lambda _, seed, name=name: taskset(name, seed)) for name in TASKSET[::2]},
}


def run(name: str, method: str, seed: int) -> dict[str, Any]:
    """One cell."""
    t, rng = task(name, seed), np.random.default_rng([seed, 1])
    offered = SHARES[-1:] if method == "full" else SHARES
    points = rng.choice(len(t.pool), _FIRST, replace=False)
    looks = [(int(i), s) for i in points for s in offered]
    read: list[float] = []
    started, marks = time.process_time(), [FULL_RUNS / 2, FULL_RUNS]
    while len(read) < len(marks):
        runs = fit(t, looks)
        left = FULL_RUNS - sum(s for _, s in looks)
        affordable = [s for s in offered if s <= left + 1e-9]
        while len(read) < len(marks) and (FULL_RUNS - left >= marks[len(read)] - 1e-9 or not affordable):
            read.append(t.regret(answer(t, looks, runs)))
        if not affordable:
            break
        acquisition = "ei" if method == "full" else method
        look = choose_at(acquisition, at_fidelities(runs, affordable), t.pool, seed=len(looks), trials_left=left)
        i = int(np.abs(t.pool - look.x.numpy()).sum(-1).argmin())
        looks.append((i, float(look.at)))  # pyright: ignore[reportArgumentType] - a share
    counts = [sum(s == share for _, s in looks) for share in SHARES]
    return {"regret": read, "looks": counts, "cpu_s": round(time.process_time() - started, 1)}


def fit(t: Task, looks: Sequence[tuple[int, float]]) -> MultiFidelity:
    """The model of all looks."""
    return fit_multi_fidelity(
        t.pool[[i for i, _ in looks]], [s for _, s in looks], [t.losses[i, SHARES.index(s)] for i, s in looks]
    )


def answer(t: Task, looks: Sequence[tuple[int, float]], runs: MultiFidelity) -> int:
    """The point looked at whose full run is predicted best."""
    seen = sorted({i for i, _ in looks})
    with torch.no_grad():
        mean = runs.target.moments(torch.from_numpy(t.pool[seen]).unsqueeze(-2))[0].flatten()
    return seen[int(mean.argmin())]


def print_table(records: Sequence[dict[str, Any]]) -> None:
    """Mean log10 regret with its standard error, by problem and method."""
    names = [n for n in PROBLEMS if any(r["problem"] == n for r in records)]
    methods = [m for m in METHODS if any(r["method"] == m for r in records)]
    print("| problem | seeds | " + " | ".join(methods) + " |\n" + "| --- " * (len(methods) + 2) + "|")
    for name in [*names, "all"]:
        cells, seeds = [], set()
        for method in methods:
            rows = [r for r in records if r["method"] == method and name in (r["problem"], "all")]
            logs = np.log10(np.maximum([r["regret"] for r in rows], LEAST_REGRET))
            seeds |= {r["seed"] for r in rows}
            error = logs[:, 1].std(ddof=1) / len(rows) ** 0.5 if len(rows) > 1 else np.nan
            cells.append(f"{logs[:, 0].mean():.2f} / {logs[:, 1].mean():.2f} ± {error:.2f}")
        print(f"| {name} | {len(seeds)} | " + " | ".join(cells) + " |")


def main() -> None:
    """Run what is asked for and not there yet, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    records = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    if args.table:
        print_table(records)
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    done = {(r["problem"], r["method"], r["seed"]) for r in records}
    for seed in range(args.seeds):
        for name in args.only:
            for method in args.methods:
                if (name, method, seed) in done:
                    continue
                record = {"problem": name, "method": method, "seed": seed, **run(name, method, seed)}
                record |= {"version": race.version("ours"), "at": datetime.now(UTC).isoformat(timespec="seconds")}
                with args.out.open("a") as file:
                    file.write(json.dumps(record) + "\n")
                print(record, flush=True)


if __name__ == "__main__":
    main()
