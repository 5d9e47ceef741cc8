"""Which search finds the best of a few arms in a dozen or two pulls?

    python benchmarks/minimax.py [--instances 50] [--episodes 4] [--out FILE]
    python benchmarks/minimax.py --table

Coins; the error is the share of games in which another arm than the best is recommended, with its standard error over
games. `MinimaxSearch` (`frugalbo.metabo.minimax`) was trained for 5 arms and 20 pulls; 4 arms and 12 pulls are not what
it knows. Beside it stand sequential halving, equal pulls, UCB1 and Thompson sampling, which recommend the best mean.

| instances | which |
|---|---|
| `C <= r` | means uniform in [0, 1], with `C`, the sum of `1 / gap^2`, between this class and the one before |
| `one good` | one of 0.4 + gap among others of 0.4, where halving is optimal but for constants and logarithms |

All games are audited (`frugalbo.report.exploration.of_pulls`).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from numpy.typing import NDArray

from benchmarks.records import read
from frugalbo.bandits import UCB1, BetaThompson, MinimaxSearch, SequentialHalving
from frugalbo.bandits.stochastic import CountingBandit
from frugalbo.metabo.minimax import difficulty
from frugalbo.report.exploration import of_pulls

Array = NDArray[np.float64]

RESULTS = Path(__file__).parent / "results" / "minimax.jsonl"
SIZES = ((5, 20), (4, 12))
CLASSES = (20.0, 60.0, 200.0, 600.0)
GAPS = (0.3, 0.5)
SEARCHES: dict[str, Callable[[int, int], CountingBandit]] = {
    "minimax": MinimaxSearch,
    "halving": SequentialHalving,
    "equal": lambda n_arms, pulls: Equal(n_arms),
    "ucb1": lambda n_arms, pulls: UCB1(n_arms),
    "thompson": lambda n_arms, pulls: BetaThompson(n_arms),
}


class Equal(UCB1):
    """The arm that was pulled least."""

    def indices(self) -> Array:
        """The fewer pulls, the better."""
        return -self.counts.astype(float)


def instances(n_arms: int, count: int) -> dict[str, Array]:
    """Of each kind, N x K; which arm is best is at random."""
    rng, found, low = np.random.default_rng(n_arms), {}, 0.0
    drawn = rng.random((200_000, n_arms))
    hard = difficulty(drawn)
    for bound in CLASSES:
        found[f"C <= {bound:.0f}"] = drawn[(hard > low) & (hard <= bound)][:count]
        low = bound
    for gap in GAPS:
        theta = np.full((count, n_arms), 0.4)
        theta[np.arange(count), np.arange(count) % n_arms] += gap
        found[f"one good, {gap}"] = theta
    return found


def play(search: str, theta: Array, pulls: int, seed: list[int]) -> tuple[bool, list[int], list[float]]:
    """Whether the recommendation is wrong, and what was pulled and brought."""
    rng, bandit = np.random.default_rng(seed), SEARCHES[search](len(theta), pulls)
    arms, rewards = [], []
    while len(arms) < pulls and not bandit.is_over:
        arms.append(bandit.select(rng))
        rewards.append(float(rng.random() < theta[arms[-1]]))
        bandit.update(arms[-1], rewards[-1])
    return bandit.recommend() != int(theta.argmax()), arms, rewards


def run(n_arms: int, pulls: int, kind: str, thetas: Array, episodes: int, search: str) -> dict[str, Any]:
    """All games of a search on instances of a kind, as a record."""
    games = [
        (play(search, theta, pulls, [n_arms, i, e]), int(theta.argmax()))
        for i, theta in enumerate(thetas)
        for e in range(episodes)
    ]
    wrong = np.array([game[0] for game, _ in games], dtype=float)
    arms, rewards = ([game[k] for game, _ in games] for k in (1, 2))
    audit = of_pulls(arms, rewards, n_arms, [best for _, best in games])
    error = {"error": wrong.mean(), "standard_error": wrong.std() / np.sqrt(len(wrong))}
    audited = {"greedy": audit.greedy, "suffix_failure": audit.suffix_failure, "least_share": audit.least_share}
    found = {name: round(float(value), 4) for name, value in (error | audited).items()}
    return {"arms": n_arms, "pulls": pulls, "kind": kind, "search": search, "games": len(games), **found}


def markdown(records: list[dict[str, Any]]) -> str:
    """Errors by kind of instance, then the audit."""
    newest = {(r["arms"], r["pulls"], r["kind"], r["search"]): r for r in records}
    searches = [s for s in SEARCHES if any(key[3] == s for key in newest)]
    lines = [f"| arms, pulls | instances | games | {' | '.join(searches)} |", "|" + "---|" * (3 + len(searches))]
    for arms, pulls, kind in dict.fromkeys(key[:3] for key in newest):
        row = [newest[arms, pulls, kind, s] for s in searches]
        cells = " | ".join(f"{r['error']:.3f} ({r['standard_error']:.3f})" for r in row)
        lines.append(f"| {arms}, {pulls} | {kind} | {row[0]['games']} | {cells} |")
    lines += ["", "| search | greedy | suffix failure | least share |", "|---|---|---|---|"]
    for search in searches:
        of = [r for r in newest.values() if r["search"] == search]
        cells = " | ".join(f"{np.mean([r[k] for r in of]):.2f}" for k in ("greedy", "suffix_failure", "least_share"))
        lines.append(f"| {search} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    """Play, or tabulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=50, help="of each kind")
    parser.add_argument("--episodes", type=int, default=4, help="on each instance")
    parser.add_argument("--table", action="store_true", help="print the summary as Markdown, run nothing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    if asked.table:
        print(markdown(read(asked.out)))
        return
    for n_arms, pulls in SIZES:
        for kind, thetas in instances(n_arms, asked.instances).items():
            for search in SEARCHES:
                record = run(n_arms, pulls, kind, thetas, asked.episodes, search)
                with asked.out.open("a") as file:
                    file.write(json.dumps({**record, "at": datetime.now(UTC).isoformat(timespec="seconds")}) + "\n")
                print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
