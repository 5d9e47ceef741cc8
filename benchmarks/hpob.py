"""HPO-B-v3 as `race_metabo.py` races on it: pools, what is published, what other data sets say, and the table.

The pools are in the wheel of `bocode` 1.0.1, unpacked in the folder that `BOCODE` names; nothing of it needs to be
installed. Of the six spaces on which NAP is published these five have their pools there.

Regrets are means over the seeds of a data set, then over the data sets of a space, then over spaces, as published.
Gains on `ei` are means over data sets, with intervals of 95 % by resampling data sets; one race is one seed of one.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Mapping, Sequence
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
Record = dict[str, Any]


def _named(tasks: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"hpob/{space}_{task}" for space, names in tasks.items() for task in names.split())


TASKS = _named(
    {
        "4796": "23 3549 3918 9903",
        "5527": "10101 145804 146064 146065 31 9914",
        "5859": "125923 31 37 3902 9977 9983",
        "5889": "3918 9971",
        "5906": "3918 9971",
    }
)
# Two data sets of each of the other spaces, where what is known of a space may be looked at and chosen.
OTHERS = _named(
    {
        "5636": "10101 145804",
        "5891": "3492 3891",
        "5965": "10101 145836",
        "5970": "14951 34536",
        "5971": "10093 34536",
        "6766": "10101 145804",
        "6767": "145804 146064",
        "6794": "10101 145804",
        "7607": "145976 3896",
        "7609": "125923 145853",
    }
)
METHODS = ("past", "metabo", "ei", "random")
PUBLISHED = ("NAP", "FSBO2", "OptFormer", "GP", "Random")
STEPS = (0, 10, 25, 50, 100)
_PAST_ROWS = 150
_RESAMPLES = 4000
_NONE: Record = {"regret": ()}


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
    space = task.partition("_")[0]
    return past_of({key: pool_of(key) for key in sorted(pools()) if key.startswith(f"{space}_") and key != task})


def past_of(tables: Mapping[str, tuple[Array, Array]]) -> Past:
    """What some tables of one space say: the process that is fitted to `_PAST_ROWS` random rows of each."""
    found = []
    for name, (X, losses) in tables.items():
        cube = Space({f"x{i}": Float(0, 1) for i in range(X.shape[1])})
        rows = np.random.default_rng(0).permutation(len(X))[:_PAST_ROWS]
        found.append(PastStudies.of_model(name, cube, fit_objective(X[rows], losses[rows], ())))
    past = Past.of(found, found[0].space)
    assert past is not None
    return past


def table(records: Sequence[Record], tasks: Sequence[str] = TASKS, among: Sequence[str] = METHODS) -> str:
    """Regrets and gains on `ei`, for all races of 25 steps, and those of 50 and of 100 where these are fewer."""
    races = {(r["task"], r["seed"], r["method"]): r for r in records if r["kind"] == "race" and r["task"] in tasks}
    methods = [m for m in among if any(m == method for _, _, method in races)]
    lengths: dict[tuple[tuple[str, int], ...], int] = {}  # of which cells, how far all methods have gone
    for most in STEPS[2:]:
        whole = (c[:2] for c in races if all(len(races.get((*c[:2], m), _NONE)["regret"]) > most for m in methods))
        lengths[tuple(sorted(set(whole)))] = most
    return "\n\n".join(_of(races, methods, cells, most) for cells, most in lengths.items() if cells)


def _of(
    races: Mapping[tuple[str, int, str], Record], methods: Sequence[str], cells: Sequence[tuple[str, int]], most: int
) -> str:
    steps = [s for s in STEPS if s <= most]
    spaces = list(dict.fromkeys(space_of(task) for task, _ in cells))
    lines = [f"| space | data sets, races | method | {' | '.join(f'{s} steps' for s in steps)} |"]
    gains = [f"| space | method | {' | '.join(f'gain at {s} | ahead, tied, behind' for s in steps[1:])} |"]
    lines.append("|" + "---|" * (3 + len(steps)))
    gains.append("|" + "---|" * 2 * len(steps))
    for some in (spaces, *([space] for space in spaces)):
        of = [c for c in cells if space_of(c[0]) in some]
        tasks = list(dict.fromkeys(task for task, _ in of))
        name = "all" if some is spaces else some[0]
        counted = f"| {name} | {len(tasks)}, {len(of)} |"
        reached = {m: np.array([[races[*c, m]["regret"][s] for s in steps] for c in of]) for m in methods}
        for m in methods:
            by_task = {t: reached[m][[c[0] == t for c in of]].mean(0) for t in tasks}
            lines.append(f"{counted} {m} | {_text(by_task)} |")
            if m != "ei":
                apart = (reached["ei"] - reached[m])[:, 1:]
                of_task = np.array([apart[[c[0] == t for c in of]].mean(0) for t in tasks])
                versus = " | ".join(map(_versus, of_task.T, apart.T))
                gains.append(f"| {name} | {m} | {versus} |")
        known = PUBLISHED if (data_folder() / "hpob_published").is_dir() and {*tasks} <= {*TASKS} else ()
        by_method = {m: {t: published(m, t)[steps] for t in tasks} for m in known}
        lines += [f"{counted} {m}, published | {_text(by_task)} |" for m, by_task in by_method.items()]
    return "\n".join([*lines, "", *gains])


def _versus(of_task: Array, of_race: Array) -> str:
    low, high = interval(of_task)
    counts = ", ".join(str(int(n.sum())) for n in (of_race > 0, of_race == 0, of_race < 0))
    return f"{of_task.mean():+.3f} [{low:+.3f}, {high:+.3f}] | {counts}"


def interval(of_task: Array) -> tuple[float, float]:
    """Of 95 % for the mean over tasks, by resampling these."""
    picks = np.random.default_rng(0).integers(len(of_task), size=(_RESAMPLES, len(of_task)))
    low, high = np.quantile(of_task[picks].mean(1), [0.025, 0.975])
    return float(low), float(high)


def space_of(task: str) -> str:
    """Of `hpob/<space>_<data set>`."""
    return task.removeprefix("hpob/").partition("_")[0]


def _text(by_task: dict[str, Array]) -> str:
    """Means over the data sets of a space, then over spaces."""
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
