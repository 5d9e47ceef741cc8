"""What do the bandits of `frugalbo.bandits` lose, and what does a choice cost?

    python benchmarks/bandits.py [--seeds 10] [--out benchmarks/results/bandits.jsonl]
    python benchmarks/bandits.py --table

Four games on coins, the same draws for each bandit: arms that do not change, that cost something to change, that have
to warm up, and that draw on two budgets; and the CPU time of a `select` with its `update`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from frugalbo.bandits import (
    KLUCB,
    UCB1,
    Bandit,
    BatchedExp3,
    BetaThompson,
    EpsilonGreedy,
    Exp3,
    Exp3IX,
    GaussianThompson,
    LagrangeBwK,
    LogBarrier,
    ShrinkingDartboard,
    SuccessiveElimination,
    TsallisINF,
    UCBBwK,
    WarmupElimination,
)
from frugalbo.testing.bandit_games import Coins, Shop, WarmingArms, play

RESULTS: Final = Path(__file__).parent / "results" / "bandits.jsonl"
Makers = Mapping[str, Callable[[], Bandit]]
Row = dict[str, float | str]

STILL: Final = [0.5, 0.5, 0.4, 0.6, 0.5]
MEMORY: Final = 100


def plain(horizon: int) -> Makers:
    """Those that need no more than arms and rounds."""
    return {
        "UCB1": lambda: UCB1(5),
        "KLUCB": lambda: KLUCB(5),
        "EpsilonGreedy": lambda: EpsilonGreedy(5),
        "SuccessiveElimination": lambda: SuccessiveElimination(5, horizon),
        "BetaThompson": lambda: BetaThompson(5),
        "GaussianThompson": lambda: GaussianThompson(5),
        "Exp3": lambda: Exp3(5),
        "Exp3IX": lambda: Exp3IX(5),
        "TsallisINF": lambda: TsallisINF(5),
        "LogBarrier": lambda: LogBarrier(5),
        "LogBarrier(baseline=0.5)": lambda: LogBarrier(5, baseline=0.5),
    }


def still(seeds: int, T: int = 8000) -> list[Row]:
    """Arms that do not change: regret at T, and its slope on log-log scales over the last factor of eight."""
    rows: list[Row] = []
    for name, make in plain(T).items():
        lost = np.empty((seeds, 2))
        begun = time.process_time()
        for seed in range(seeds):
            game = Coins(STILL, T, seed)
            arms = play(make(), game, T, seed).arms
            lost[seed] = game.regret(arms[: T // 8]), game.regret(arms)
        us = (time.process_time() - begun) / (seeds * T) * 1e6
        slope = math.log(lost[:, 1].mean() / lost[:, 0].mean()) / math.log(8)
        rows.append({"bandit": name, "regret": lost[:, 1].mean(), "se": _se(lost[:, 1]), "slope": slope, "us": us})
    return rows


def switching(seeds: int, T: int = 20_000) -> list[Row]:
    """Arms that cost something to change, by the number of looks: regret, and changes of arms."""
    makers: dict[str, Callable[[], Bandit]] = {
        f"ShrinkingDartboard, B = {B}": lambda B=B: ShrinkingDartboard(5, T, B)
        for B in (500, 2000, 8000, 32_000, 100_000)
    }
    makers |= {"BatchedExp3": lambda: BatchedExp3(5, T), "Exp3": lambda: Exp3(5)}
    rows: list[Row] = []
    for name, make in makers.items():
        games = [Coins(STILL, T, seed) for seed in range(seeds)]
        runs = [play(make(), game, T, seed) for seed, game in enumerate(games)]
        lost = np.array([game.regret(run.arms) for game, run in zip(games, runs, strict=True)])
        changes = float(np.mean([run.switches for run in runs]))
        rows.append({"bandit": name, "regret": lost.mean(), "se": _se(lost), "switches": changes})
    return rows


def warming(seeds: int, T: int = 8000) -> list[Row]:
    """Arms that have to be taken a hundred times running: complete policy regret, and how often the best is missed."""
    sweep = (0, MEMORY // 2, MEMORY, 2 * MEMORY, 4 * MEMORY)
    makers: dict[str, Callable[[], Bandit]] = {
        f"WarmupElimination, M = {M}": lambda M=M: WarmupElimination(3, M, T) for M in sweep
    }
    makers |= {"UCB1": lambda: UCB1(3), "SuccessiveElimination": lambda: SuccessiveElimination(3, T)}
    rows: list[Row] = []
    for name, make in makers.items():
        lost, missed = np.empty(seeds), 0
        for seed in range(seeds):
            game = WarmingArms([0.0, 0.6, 0.5], [1.0, 0.6, 0.5], MEMORY, seed)
            arms = play(make(), game, T, seed).arms
            lost[seed] = game.lost
            missed += arms[-T // 10 :].count(0) < T // 20
        rows.append({"bandit": name, "regret": lost.mean(), "se": _se(lost), "missed": missed / seeds})
    return rows


def knapsack(seeds: int, T: int = 2000) -> list[Row]:
    """Two budgets of T / 2: reward as a share of the best mixture's, 0.7 T; the best arm's is 0.45 T."""
    budgets, caps = [T / 2, T / 2], [1.0, 1.0]
    makers: Makers = {
        "UCBBwK": lambda: UCBBwK(3, T, budgets, caps),
        "UCBBwK(confidence=1.0)": lambda: UCBBwK(3, T, budgets, caps, confidence=1.0),
        "LagrangeBwK": lambda: LagrangeBwK(3, T, budgets, caps),
    }
    rows: list[Row] = [{"bandit": "the best arm", "share": 0.45 / 0.7, "se": 0.0, "us": 0.0}]
    for name, make in makers.items():
        shares, begun, pulls = np.empty(seeds), time.process_time(), 0
        for seed in range(seeds):
            game = Shop([0.9, 0.7, 0.7], [[1, 1], [1, 0], [0, 1]], seed)
            run = play(make(), game, T, seed)
            shares[seed] = sum(run.rewards) / (0.7 * T)
            pulls += len(run.arms)
        us = (time.process_time() - begun) / pulls * 1e6
        rows.append({"bandit": name, "share": shares.mean(), "se": _se(shares), "us": us})
    return rows


def _se(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def table(record: Mapping[str, list[Row]]) -> str:
    """The record as Markdown."""
    parts = []
    for name in ("still", "switching", "warming", "knapsack"):
        rows = record[name]
        head = list(rows[0])
        lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        lines += [f"| {' | '.join(_cell(key, row[key]) for key in head)} |" for row in rows]
        parts.append("\n".join([f"{name}\n", *lines]))
    return "\n\n".join(parts)


def _cell(key: str, value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.{0 if key in ('regret', 'switches', 'us') else 1 if key == 'se' and value > 1 else 2}f}"


def main() -> None:
    """Measure, print tables, append a record; or print those of the last record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", action="store_true", help="print the last record")
    args = parser.parse_args()
    if args.table:
        print(table(json.loads((args.out or RESULTS).read_text().splitlines()[-1])))
        return
    games = {f.__name__: f(args.seeds) for f in (still, switching, warming, knapsack)}
    print(table(games))
    if args.out:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        record = {
            "benchmark": "bandits",
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": commit.stdout.strip(),
            "seeds": args.seeds,
        }
        with args.out.open("a") as file:
            file.write(json.dumps(record | games) + "\n")


if __name__ == "__main__":
    main()
