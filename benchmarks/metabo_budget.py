"""Does a policy that knows cost and budget spend money better than expected improvement on the same predictions?

    python benchmarks/metabo_budget.py --policy FILE [--only prior tables] [--methods ...] [--tasks 384] [--seeds 5]
    python benchmarks/metabo_budget.py --table

Finite pools with known costs; budgets of 5, 10 and 20 mean costs of the pool, of which three random results that take
no more than a tenth of the budget each are paid first. Points are bought until none fits any more, or 64 results are
there, the most that the network was trained for. What counts is the regret at the end, `(best bought - best) /
(median - best)` of the pool, at most 1.

* `prior`: tasks of the training's kind that it has not seen, 96 points each.
* `tables`: the 15 tables of `benchmarks/tables.py`, 128 random rows for each seed, mean losses and training seconds.

The methods of the engine's process are run on the tables alone, for the first `--process-seeds` seeds.

| method | predictions | takes the largest |
|---|---|---|
| `ei` | network | log EI |
| `per-cost` | network | log EI - log cost, what an untrained policy is |
| `cooled` | network | log EI - share of the budget left x log cost, as `bo` and `metabo` do |
| `policy` | network | score of the trained policy |
| `gp-ei`, `gp-cooled`, `gp-pbgi` | process | log EI; the same cooled; the Gittins index |
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch
sys.path.insert(0, str(Path(__file__).parents[1]))

import frugalbo.models  # isort: skip  # noqa: F401 - first: it imports linear_operator without its warning

import numpy as np
import torch
from botorch.models.deterministic import GenericDeterministicModel
from torch import Tensor

from benchmarks.records import Record, asked_of, command_line, keep
from benchmarks.tables import NAMES, SUITES, load
from frugalbo.acquisition.gittins import GittinsIndex, decayed_lambda
from frugalbo.acquisition.log_ei_per_cost import LogEIPerCost
from frugalbo.metabo.policy import digest, load_policy
from frugalbo.metabo.priors import Prior
from frugalbo.metabo.purchases import Purchases, Scores, draw, spend
from frugalbo.metabo.weights import shipped
from frugalbo.models.objective import fit_objective
from frugalbo.parameter import Choice

RESULTS = Path(__file__).parent / "results" / "metabo_budget.jsonl"
BUDGETS = (5, 10, 20)
INITIAL, POOL, MOST = 3, 128, 64
_HELD_OUT = 10_007  # the seed of tasks that no training has seen
PROCESS = ("gp-ei", "gp-cooled", "gp-pbgi")


def rules(policy: Path | None, name: str) -> dict[str, Scores]:
    """What judges the network's predictions; a policy by the name that it is to have."""
    found: dict[str, Scores] = {
        "ei": lambda o, p, r: o.log_improvement,
        "per-cost": lambda o, p, r: o.log_improvement - p.log_cost,
        "cooled": lambda o, p, r: o.log_improvement - p.share.unsqueeze(-1) * p.log_cost,
    }
    return found if policy is None else {**found, name: load_policy(policy).policy}


def begun(X: Tensor, y: Tensor, log_cost: Tensor, categorical: Tensor, budget: float, seed: int) -> Purchases:
    """Pools (B x N x d) with their first results, which are random among what takes a tenth of the budget at most."""
    rng = np.random.default_rng([seed, 7])
    log_cost = log_cost - (log_cost.logsumexp(1, keepdim=True) - math.log(log_cost.shape[1]))
    order = torch.from_numpy(rng.random(y.shape)) + (log_cost > math.log(budget / 10))
    initial = order.argsort(1)[:, :INITIAL]
    left = budget - log_cost.exp().gather(1, initial).sum(1)
    return Purchases(X, y, log_cost, categorical, initial, left)


def of_prior(tasks: int, budget: float) -> Iterator[tuple[str, Purchases]]:
    """Tasks of the training's kind."""
    prior = Prior(most_dims=10, batch=16)
    for i in range(tasks // prior.batch):
        drawn = draw(prior, _HELD_OUT, i, 96)
        yield f"prior/{i}", begun(drawn.X, drawn.y, drawn.log_cost, drawn.categorical, budget, i)


def of_tables(seeds: int, budget: float) -> Iterator[tuple[str, Purchases]]:
    """Rows of real tables, other ones for each seed."""
    for name in NAMES:
        table = load(name).averaged()
        places = np.argwhere(table.row_of >= 0)
        pools = [np.random.default_rng([seed, 11]).choice(len(places), POOL, replace=False) for seed in range(seeds)]
        names = [k for k, p in table.space.parameters.items() if isinstance(p, Choice)]
        X, rows = [], []
        for pool in pools:
            at = [
                {k: table.space.parameters[k].values[i] for k, i in zip(names, places[j], strict=True)}  # type: ignore[attr-defined]
                for j in pool
            ]
            X.append(np.stack([table.space.encode(params) for params in at]))
            rows.append(table.row_of[tuple(places[pool].T)])
        U, row = torch.from_numpy(np.stack(X)), np.stack(rows)
        varies = (U.flatten(0, 1).amax(0) > U.flatten(0, 1).amin(0)).nonzero().flatten()
        categorical = torch.zeros(U.shape[-1], dtype=torch.bool)
        categorical[list(table.space.categorical_dims)] = True
        y, log_cost = torch.from_numpy(table.mean_losses[row]), torch.from_numpy(np.log(table.seconds[row, 0]))
        yield name, begun(U[..., varies], y, log_cost, categorical[varies], budget, 0)


def spend_by_process(tasks: Purchases, method: str, count: int) -> tuple[Tensor, list[int]]:
    """As `spend`, one episode after the other, with the engine's process; regrets and results of the first `count`."""
    best, bought = tasks.y.amin(1), []
    for b in range(count):
        X, y, log_cost = tasks.X[b], tasks.y[b], tasks.log_cost[b]
        order, left = tasks.initial[b].tolist(), float(tasks.left[b])
        total = left + float(log_cost[order].exp().sum())
        while len(order) < MOST:
            open_ = log_cost <= math.log(max(left, 1e-12))
            open_[order] = False
            if not open_.any():
                break
            value = _worth(X, y, log_cost, order, method, left / total, tasks.categorical)
            order.append(int(value.masked_fill(~open_, -math.inf).argmax()))
            left -= float(log_cost[order[-1]].exp())
        best[b] = y[order].min()
        bought.append(len(order))
    return tasks.regret(best)[:count], bought


def _worth(
    X: Tensor, y: Tensor, log_cost: Tensor, order: list[int], method: str, share: float, categorical: Tensor
) -> Tensor:
    fitted = fit_objective(
        X[order].numpy(), y[order].numpy(), tuple(int(i) for i in categorical.nonzero().flatten()), X.shape[1]
    )
    model = fitted.model
    with torch.no_grad():
        best, U = float(model.marginals(model.seen).mean.min()), X.unsqueeze(-2)
        log_ei = LogEIPerCost(model, best, maximize=False)(U)
        if method == "gp-ei":
            return log_ei
        if method == "gp-cooled":
            return log_ei - share * log_cost
        relative = log_cost - log_cost.median()
        cost = GenericDeterministicModel(lambda _: relative.reshape(-1, 1, 1))  # asked of the whole pool at once
        price = decayed_lambda(math.exp(min(700.0, float((log_ei - relative).max()))))
        return GittinsIndex(model, cost, price, maximize=False)(U)


def run(asked: argparse.Namespace) -> None:
    """What was asked for."""
    network, judges = shipped(), rules(asked.policy, asked.name)
    made = {"network": digest(network)}
    if asked.policy is not None:
        made["policy"] = hashlib.sha256(asked.policy.read_bytes()).hexdigest()[:8]
    for suite in asked.only:
        for budget in BUDGETS:
            pools = of_prior(asked.tasks, budget) if suite == "prior" else of_tables(asked.seeds, budget)
            for name, tasks in pools:
                at = {"suite": suite, "task": name, "budget": budget}
                for method in asked.methods or (*judges, *PROCESS):
                    if method in judges:
                        steps, regret = spend(network, judges[method], tasks, MOST, 0.0, torch.Generator())
                        bought = INITIAL + sum(len(s.action) for s in steps) / len(regret)
                        of = made if method == asked.name else {"network": made["network"]}
                    elif suite == "tables":
                        (regret, results), of = spend_by_process(tasks, method, asked.process_seeds), {}
                        bought = float(np.mean(results))
                    else:
                        continue
                    said = {"regret": [round(float(r), 6) for r in regret], "bought": round(bought, 2)}
                    when = datetime.now(UTC).isoformat(timespec="seconds")
                    keep({**at, "method": method, **of, **said, "at": when}, asked.out)


def markdown(records: list[Record]) -> str:
    """Mean regret of each method, and how far the policy is below it (standard error); the newest of each cell.

    The pairs are of the seeds that both have. Seeds of a table are no independent tasks, so errors are over tables.
    """
    cells = {(r["suite"], r["budget"], r["method"], r["task"]): r for r in records}
    lines = ["| pools | budget | method | results | regret | policy is below by (s. e.) | pairs |", "|" + "---|" * 7]
    for suite in dict.fromkeys(r["suite"] for r in records):
        for budget in BUDGETS:
            for method in ("policy", "policy-dear", "per-cost", "cooled", "ei", *PROCESS):
                tasks = [t for s, b, m, t in cells if (s, b, m) == (suite, budget, method)]
                if not tasks:
                    continue
                found = [cells[suite, budget, method, t] for t in tasks]
                gain, error, pairs = _below(cells, suite, budget, method, tasks)
                below = "" if method == "policy" else f"{gain:+.4f} ({error:.4f})"
                bought, regret = (np.mean([np.mean(r[k]) for r in found]) for k in ("bought", "regret"))
                lines.append(f"| {suite} | {budget} | {method} | {bought:.1f} | {regret:.4f} | {below} | {pairs} |")
    lines += [
        "",
        f"| tables | {' | '.join(f'below cooled at {b}' for b in BUDGETS)} |",
        "|" + "---|" * (len(BUDGETS) + 1),
    ]
    for suite in SUITES:
        gains = [_below(cells, "tables", budget, "cooled", suite.tables)[0] for budget in BUDGETS]
        lines.append(f"| {suite.name} | {' | '.join(f'{gain:+.4f}' for gain in gains)} |")
    return "\n".join(lines)


def _below(
    cells: dict[tuple[str, int, str, str], Record], suite: str, budget: int, method: str, tasks: Sequence[str]
) -> tuple[float, float, int]:
    """How far the policy is below a method: mean, standard error, pairs."""
    gains = []
    for task in tasks:
        theirs, mine = (cells[suite, budget, name, task]["regret"] for name in (method, "policy"))
        gains.append(np.subtract(theirs, mine[: len(theirs)]))
    units = np.array([gain.mean() for gain in gains]) if suite == "tables" else np.concatenate(gains)
    return float(units.mean()), float(units.std(ddof=1) / math.sqrt(len(units))), sum(map(len, gains))


def main() -> None:
    """Run, or tabulate."""
    parser = command_line(__doc__, RESULTS)
    parser.add_argument("--policy", type=Path, help="the weights of `policy`")
    parser.add_argument("--name", default="policy", help="what these are called; policy-dear for those of README.md")
    parser.add_argument("--only", nargs="*", default=["prior", "tables"])
    parser.add_argument("--methods", nargs="*", help="by default all")
    parser.add_argument("--tasks", type=int, default=384)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--process-seeds", type=int, default=2)
    if (asked := asked_of(parser, markdown)) is None:
        return
    if asked.policy is None and (not asked.methods or asked.name in asked.methods):
        parser.error(f"{asked.name} needs the weights that --policy names")
    run(asked)


if __name__ == "__main__":
    main()
