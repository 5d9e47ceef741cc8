"""The races of `race_metabo.py` but for HPO-B (`hpob.py`), as Markdown: regrets, and whether a policy explores.

Greedy is the share of choices that lie nearest to the best result known then; a suffix failure is a race whose second
half never came back to the region of the best of its first half (`frugalbo.report.exploration`). Both are of the first
`AUDITED` choices; in brackets what a choice at random among the regions would give.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import hpob
from benchmarks.metabo_pools import FUNCTIONS
from frugalbo.report.exploration import of_points

Array = NDArray[np.float64]
Record = dict[str, Any]

METHODS = ("metabo", "past", "network", "ei", "random")
INITIAL = 5
AUDITED = 20
_TRIALS = (5, 10, 15, 25)
_AUDIT = ("greedy", "greedy_by_chance", "gave_up", "gave_up_by_chance")


def audit(X: Array, losses: Array, tried: Sequence[int]) -> dict[str, float]:
    """Of one race, from the rows of its pool in the order in which they were tried; empty if it is too short."""
    rows = list(tried[: INITIAL + AUDITED])
    found = of_points(X[rows], losses[rows], range(INITIAL, len(rows)))
    if found.reason:
        return {}
    shares = found.greedy / found.choices, found.greedy_by_chance / found.choices
    return dict(zip(_AUDIT, (*shares, float(found.gave_up), found.gave_up_by_chance), strict=True))


def table(records: Sequence[Record]) -> str:
    """Mean regrets, the gain on `ei` with 95 % intervals by resampling tasks, and races ahead of it and behind."""
    races = {(r["task"], r["seed"], r["method"]): r for r in records if r["kind"] == "race"}
    heads = "5 trials | 10 | 15 | 25 | gain on ei at 10 | ahead, behind | at 25 | ahead, behind"
    lines = [f"| tasks | races | method | {heads} |", "|" + "---|" * 11]
    suites = {suite: f"{suite}/" for suite in ("nap", "taskset")} | {name: name for name in FUNCTIONS}
    for suite, begins in suites.items():
        by_method, cells = _whole({c: r for c, r in races.items() if c[0].startswith(begins)})
        for method, curves in by_method.items():
            reached = np.array([[r["regret"][t - INITIAL] for t in _TRIALS] for r in curves])
            apart = np.array([[r["regret"][t - INITIAL] for t in _TRIALS] for r in by_method["ei"]]) - reached
            tasks = [r["task"] for r in curves]
            gains = " | | |" if method == "ei" else f"{_gain(tasks, apart[:, 1])} | {_gain(tasks, apart[:, 3])} |"
            means = " | ".join(f"{x:.3f}" for x in reached.mean(0))
            lines.append(f"| {suite} | {cells} | {method} | {means} | {gains}")
    weights = [
        w for (task, _, m), r in races.items() if m == "metabo" and not task.startswith("hpob/") for w in r["network"]
    ]
    return "\n".join([*lines, "", f"The network's weight: mean {np.mean(weights):.2f}." if weights else ""])


def _gain(tasks: Sequence[str], apart: Array) -> str:
    """The mean, its interval over tasks where there are several, and how many races were ahead and behind."""
    of_task = np.array([apart[[t == task for t in tasks]].mean() for task in dict.fromkeys(tasks)])
    low, high = hpob.interval(of_task)
    between = f" [{low:+.3f}, {high:+.3f}]" if len(of_task) > 1 else ""
    return f"{apart.mean():+.3f}{between} | {(apart > 0).sum()}, {(apart < 0).sum()}"


def audits(records: Sequence[Record]) -> str:
    """Whether each method explores, by suite."""
    audited = [r for r in records if r["kind"] == "race" and r.get("audit") and r["task"] not in hpob.OTHERS]
    races = {(r["task"], r["seed"], r["method"]): r for r in audited}
    lines = ["| tasks | races | method | greedy (by chance) | suffix failures (by chance) |", "|---|---|---|---|---|"]
    for suite in ("nap", "taskset", "hpob", "function"):
        by_method, cells = _whole({c: r for c, r in races.items() if c[0].startswith(f"{suite}/")})
        for method, found in by_method.items():
            greedy, by_chance, gave_up, likely = (np.mean([r["audit"][key] for r in found]) for key in _AUDIT)
            shares = f"{greedy:.2f} ({by_chance:.2f}) | {gave_up:.2f} ({likely:.2f})"
            lines.append(f"| {suite} | {cells} | {method} | {shares} |")
    return "\n".join(lines)


def _whole(races: dict[tuple[str, int, str], Record]) -> tuple[dict[str, list[Record]], int]:
    """By method, the races that all methods of these tasks have run; and how many these are."""
    methods = [m for m in METHODS if any(method == m for _, _, method in races)]
    cells = sorted({c[:2] for c in races if all((*c[:2], m) in races for m in methods)})
    return {m: [races[*c, m] for c in cells] for m in methods if cells}, len(cells)
