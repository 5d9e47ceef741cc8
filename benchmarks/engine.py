"""The default engine on functions with known optima.

    python benchmarks/engine.py [--only NAME ...] [--methods ...] [--seeds N] [--out FILE]

Races on `hartmann6`, `branin`, `levy4` and `ridge` with a budget of 30 evaluations, where nothing
has a price; races under a budget of seconds are in `race.py`, timings in `speed.py`. Regret is
`(loss - best) / (median - best)` of the best configuration so far, at 10, 30 and 100 % of the
budget, 1 while there is none.

A record is a JSON object in a line: settings, versions, and for each race and method the regret of
every seed. Records from before `race.py` was there also hold races on eight tables.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from benchmarks.peers import Peer, make_peer
from frugalbo.budget.amounts import Budget, Cost
from frugalbo.budget.ledger import Ledger
from frugalbo.events import Ended, Outcome, Reported, Started
from frugalbo.problem import Minimize, Problem
from frugalbo.propose import METHODS, Proposer, Suggestion, make_proposer
from frugalbo.space import Choice, Float, Int, Params, Space
from frugalbo.study import Study

SHARES = (0.1, 0.3, 1.0)
EVALUATIONS = 30


@dataclass(frozen=True)
class Race:
    """A problem with its truth.

    Args:
        f: From parameters to the loss.
        median: Over the space.
    """

    name: str
    space: Space
    f: Callable[[Params], float]
    best: float
    median: float

    def problem(self) -> Problem:
        """What the proposers see; there are no defaults, so the first trial is the centre."""
        return Problem(self.name, self.space, "benchmarks.engine:none", Minimize("loss"))


def run(race: Race, proposer: Proposer) -> tuple[list[float], float]:
    """One sequential run: regrets at `SHARES` of the budget, and seconds spent on suggesting."""
    study = Study(race.problem(), Ledger(Budget(evaluations=EVALUATIONS)))
    best, thinking = np.inf, 0.0
    regrets: list[float] = []
    for _ in range(EVALUATIONS):
        began = time.perf_counter()
        (suggestion,) = proposer.propose(study, 1)
        thinking += time.perf_counter() - began
        loss = race.f(suggestion.params)
        _record(study, suggestion.params, suggestion.why, loss, seconds=1.0)
        best = min(best, loss)
        regrets.append(min(1.0, (best - race.best) / (race.median - race.best)))
    return [regrets[round(share * EVALUATIONS) - 1] for share in SHARES], thinking


def _record(study: Study, params: Params, why: dict[str, Any], loss: float, *, seconds: float) -> None:
    number = len(study.trials)
    study.apply(Started(number, 0, params, 0, 1, 1, Cost(evaluations=1.0), "bench", 0.0, why))
    study.apply(Reported(number, 0, 1, {"loss": loss}, 0.0))
    study.apply(Ended(number, 0, Outcome.COMPLETED, Cost(evaluations=1.0, device_seconds=seconds), 0.0))


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
        races.append(Race(name, space, f, best, median))
    return races


# --- methods -----------------------------------------------------------------------------------


@dataclass
class FromPeer:
    """A peer behind our contract; it sees results when it is asked."""

    peer: Peer
    _keys: dict[int, Any] = field(default_factory=dict)

    def propose(self, study: Study, n: int) -> list[Suggestion]:
        """The next configuration."""
        assert n == 1
        for number in [number for number in self._keys if study.trials[number].ends]:
            value = study.value(study.trials[number])
            assert value is not None
            self.peer.tell(self._keys.pop(number), value)
        asked = self.peer.ask()
        assert asked is not None
        key, params = asked
        self._keys[len(study.trials)] = key
        return [Suggestion(params, {"method": "peer"})]


def proposer(method: str, problem: Problem, seed: int) -> Proposer:
    """One of ours by its name, or a peer of `benchmarks.peers`."""
    if method in METHODS:
        return make_proposer(method, problem, seed=seed)
    return FromPeer(make_peer(method, problem.space, seed))


def main() -> None:
    """Run the races that were asked for, print a table, append a record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="names of races")
    parser.add_argument("--methods", nargs="*", default=["random", "sobol", "bo"])
    parser.add_argument("--ax", action="store_true", help="Ax's default, too; slow")
    parser.add_argument("--seeds", type=int, default=10)
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
    record["regret_at"] = SHARES
    record["races"] = _race_all(args.only, methods, args.seeds)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with args.out.open("a") as file:
            file.write(json.dumps(record) + "\n")


def _race_all(only: list[str] | None, methods: list[str], seeds: int) -> dict[str, Any]:
    names = {race.name: race for race in functions()}
    results: dict[str, Any] = {}
    for name in only or names:
        race = names[name]
        results[name] = {}
        for method in methods:
            runs = [run(race, proposer(method, race.problem(), seed)) for seed in range(seeds)]
            regrets = np.array([r for r, _ in runs])
            per_trial = sum(t for _, t in runs) / (EVALUATIONS * len(runs))
            results[name][method] = {
                "regret": np.round(regrets, 5).tolist(),
                "seconds_per_suggestion": round(per_trial, 4),
            }
            median, mean = np.median(regrets, axis=0), regrets.mean(axis=0)
            print(
                f"{name:20}{method:8} median {np.round(median, 4)} mean {np.round(mean, 4)} {1000 * per_trial:.0f} ms",
                flush=True,
            )
    return results


if __name__ == "__main__":
    main()
