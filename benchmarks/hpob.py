"""HPO-B-v3 as `race_metabo.py` races on it: pools, what is published, what other data sets say, and the table.

The pools are in the wheel of `bocode` 1.0.1, unpacked in the folder that `BOCODE` names; nothing of it needs to be
installed. Of the six spaces on which NAP is published these five have their pools there.
"""

from __future__ import annotations

import gzip
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.curve_tables import data_folder
from benchmarks.metabo_tables import POOLS
from frugalbo.metabo.past import Past, PastStudies
from frugalbo.models.objective import fit_objective
from frugalbo.parameter import Float
from frugalbo.space import Space

Array = NDArray[np.float64]

TASKS = tuple(
    f"hpob/{space}_{task}"
    for space, tasks in {
        "4796": "23 3549 3918 9903",
        "5527": "10101 145804 146064 146065 31 9914",
        "5859": "125923 31 37 3902 9977 9983",
        "5889": "3918 9971",
        "5906": "3918 9971",
    }.items()
    for task in tasks.split()
)
METHODS = ("past", "metabo", "network", "ei")
PUBLISHED = ("NAP", "FSBO2", "OptFormer", "GP", "Random")
_PAST_ROWS = 150


def pool_of(task: str) -> tuple[Array, Array]:
    """Unit points (n x d) and losses (n)."""
    rows = pools()[task].astype(float)
    return rows[:, :-1], -rows[:, -1]


@cache
def pools() -> dict[str, NDArray[np.float32]]:
    """Of HPO-B, by space and data set."""
    with np.load(Path(os.environ["BOCODE"]) / POOLS / "hpob_data.npz") as file:
        return {key: file[key] for key in file.files}


@cache
def others(task: str) -> Past:
    """What the other data sets of its space say."""
    space, found = task.partition("_")[0], []
    cube = Space({f"x{i}": Float(0, 1) for i in range(pools()[task].shape[1] - 1)})
    for key in sorted(k for k in pools() if k.startswith(f"{space}_") and k != task):
        rows = np.random.default_rng(0).permutation(len(pools()[key]))[:_PAST_ROWS]
        X, losses = (a[rows] for a in pool_of(key))
        found.append(PastStudies.of_model(key, cube, fit_objective(X, losses, ())))
    past = Past.of(found, cube)
    assert past is not None
    return past


def table(records: list[dict[str, Any]]) -> str:
    """Means over the seeds of a data set, then over the data sets of a space, then over spaces."""
    cells = {(r["task"], r["seed"], r["method"]): r for r in records if r["kind"] == "race" and r["task"] in TASKS}
    methods = [m for m in METHODS if m in {method for _, _, method in cells}]
    whole = sorted({c[:2] for c in cells if all((*c[:2], m) in cells for m in methods)})
    if not whole:
        return ""
    last = min(len(cells[*c, m]["regret"]) for c in whole for m in methods) - 1
    steps = [s for s in (0, 10, 25, 50, 100) if s <= last]
    heads = " | ".join(f"{s} steps" for s in steps)
    lines = [f"| space | data sets, races | method | {heads} | better than ei, worse |"]
    lines.append("|" + "---|" * (4 + len(steps)))
    spaces = list(dict.fromkeys(space_of(task) for task, _ in whole))
    for some in (spaces, *([space] for space in spaces)):
        of = [c for c in whole if space_of(c[0]) in some]
        tasks = list(dict.fromkeys(task for task, _ in of))
        counted = f"| {some[0] if len(some) == 1 else 'all'} | {len(tasks)}, {len(of)} |"
        reached = {(m, c): np.array(cells[*c, m]["regret"])[steps] for m in methods for c in of}
        for method in methods:
            by_task = {t: np.mean([reached[method, c] for c in of if c[0] == t], axis=0) for t in tasks}
            apart = np.array([reached[method, c] - reached["ei", c] for c in of])
            counts = ", ".join(f"{(a < 0).sum()}:{(a > 0).sum()}" for a in apart.T)
            lines.append(f"{counted} {method} | {_text(by_task)} | {counts if method != 'ei' else ''} |")
        known = PUBLISHED if (data_folder() / "hpob_published").is_dir() else ()
        by_method = {m: {t: published(m, t)[steps] for t in tasks} for m in known}
        lines += [f"{counted} {m}, published | {_text(by_task)} | |" for m, by_task in by_method.items()]
    return "\n".join(lines)


def space_of(task: str) -> str:
    """Of `hpob/<space>_<data set>`."""
    return task.removeprefix("hpob/").partition("_")[0]


def _text(by_task: dict[str, Array]) -> str:
    spaces = dict.fromkeys(map(space_of, by_task))
    means = [np.mean([v for t, v in by_task.items() if space_of(t) == s], axis=0) for s in spaces]
    return " | ".join(f"{x:.3f}" for x in np.mean(means, axis=0))


@cache
def published(method: str, name: str) -> Array:
    """The mean regret over the five published runs, after 0 to 100 steps."""
    space, _, task = name.removeprefix("hpob/").partition("_")
    with gzip.open(data_folder() / "hpob_published" / f"{method}.json.gz", "rt") as file:
        runs = json.load(file)[space][task]
    return 1 - np.array(list(runs.values())).mean(0)
