"""The pools of `race_metabo.py`: points, losses, regrets, and what other tasks of the same space say.

| suite | tasks | points | knobs | regret |
|---|---|---|---|---|
| `nap` | 14 | 1,000 | 6 | `(best - reached) / (best - worst)` |
| `hpob`, `hpob-others` | 20 and 20, see `hpob.py` | 254 to 74,531 | 2 to 18 | the same |
| `taskset` | 8 | 1,000 | 8 | `(best - reached) / (best - median)`, at most 1 |
| `function` | 5 | 500 | 2 to 6 | the same |

The loss of `taskset` is that at the end of a run (`curve_tables.py`); one that diverges has the worst finite one of its
task, which all models see as no more than bad (`frugalbo.models.outcome`).
"""

from __future__ import annotations

from functools import cache

import frugalbo.models  # isort: skip  # noqa: F401 - first: it imports linear_operator without its warning

import numpy as np
import torch
from botorch.test_functions import Branin, Hartmann, Rosenbrock
from numpy.typing import NDArray

from benchmarks import curve_tables, hpob
from frugalbo.metabo.past import Past

Array = NDArray[np.float64]

NAP = tuple(f"nap/{i}" for i in range(20, 34))
TASKSET = tuple(f"taskset/{task}" for task in curve_tables.TASKSET)
FUNCTIONS = ("function/branin", "function/hartmann6", "function/rosenbrock4", "function/slope2", "function/needle3")


def pool_of(name: str) -> tuple[Array, Array]:
    """Unit points (n x d) and losses (n)."""
    suite, _, task = name.partition("/")
    if suite == "nap":
        tables = np.load(curve_tables.data_folder() / "nap_xgb" / "xgb_tables.npz")
        X = tables[f"{task}/X"].astype(float)
        X = np.where(X.max(0) > 1e3 * X.min(0), np.log(np.maximum(X, 1e-12)), X)
        low, high = X.min(0), X.max(0)
        return (X - low) / np.where(high > low, high - low, 1), -tables[f"{task}/accuracy"].astype(float)
    if suite == "hpob":
        return hpob.pool_of(task)
    if suite == "taskset":
        return _taskset(name)
    rng = np.random.default_rng(7)
    if task == "slope2":
        X = rng.random((500, 2))
        return X, np.log1p(np.exp(3 * X[:, 0] - 1)) + 0.2 * X[:, 1]
    if task == "needle3":
        X = rng.random((500, 3))
        return X, -np.exp(-200 * ((X - 0.35) ** 2).sum(1)) + 0.001 * np.sin(50 * X[:, 0])
    function = {"branin": Branin(), "hartmann6": Hartmann(6), "rosenbrock4": Rosenbrock(4)}[task]
    X = rng.random((500, function.dim))
    low, high = function.bounds.double()
    return X, function(low + (high - low) * torch.from_numpy(X)).numpy()


@cache
def _taskset(name: str) -> tuple[Array, Array]:
    table = curve_tables.load(name)
    X = np.stack([table.problem.space.encode(params) for params in table.configurations])
    worst = table.finals[np.isfinite(table.finals)].max()
    return X, np.minimum(table.finals, worst)


def regret_of(name: str, losses: Array, reached: Array) -> Array:
    """As the module says, of each of the losses that were reached."""
    worst = losses.max() if name.startswith(("nap/", "hpob/")) else np.median(losses)
    return np.minimum(1.0, (reached - losses.min()) / (worst - losses.min()))


@cache
def past_of(name: str) -> Past | None:
    """What the other tasks of the same space say, this one left out; None where there are none."""
    if name.startswith("hpob/"):
        return hpob.others(name.partition("/")[2])
    if name in TASKSET:
        return hpob.past_of({other: pool_of(other) for other in TASKSET if other != name})
    return None
