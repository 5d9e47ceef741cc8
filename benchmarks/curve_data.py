"""Recorded learning curves, as `benchmarks/curves.py` reads them: all in losses, smaller is better.

| suite | curves | a configuration |
|---|---|---|
| `taskset` | 8 tasks of TaskSet, 1,000 each, 51 validation losses | 8 optimizer hyperparameters |
| `algoperf` | 5 workloads, runs with 20 evaluations or more, as shares of their own length | arm, 6 hyperparameters |
| `lcdb` | 40 data sets of LCDB, 11 to 20 learners, mean error by training-set size | the learner: a mere number |

The first two are looked for in `FRUGALBO_DATA`, by default `../shared/data`; the last in the PyPI package `lcdb`, whose
file is read without importing it.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from frugalbo.models.curves import PartialCurve

Array = NDArray[np.float64]
ROOT = Path(os.environ.get("FRUGALBO_DATA", Path(__file__).parents[2] / "shared" / "data"))
SUITES = ("taskset", "algoperf", "lcdb")
_LCDB_SETS = 40


@dataclass(frozen=True, slots=True)
class Run:
    """A whole run: finite losses, up to the horizon 1,000 unless it failed."""

    x: Array
    steps: Array
    losses: Array
    failed: bool

    def cut(self, step: float) -> PartialCurve:
        """What is known of it after `step`."""
        k = int(np.searchsorted(self.steps, step, side="right"))
        failed = self.failed and k == len(self.steps)
        return PartialCurve(self.x, self.steps[:k], self.losses[:k], failed)


def load(suite: str) -> dict[str, list[Run]]:
    """The runs of each task; none where the data is absent."""
    found = {"taskset": _taskset, "algoperf": _algoperf, "lcdb": _lcdb}[suite]
    return found()


def _run(x: Array, steps: Array, losses: Array) -> Run:
    bad = ~np.isfinite(losses)
    end = int(np.argmax(bad)) if bad.any() else len(losses)
    return Run(x, steps[:end], losses[:end], bool(bad.any()))


def _taskset() -> dict[str, list[Run]]:
    path = ROOT / "taskset" / "taskset_text_rnn.npz"
    if not path.exists():
        return {}
    table = np.load(path)
    h = table["hyperparameters"].astype(np.float64)
    betas = np.array([str(name).startswith("beta") for name in table["names"]])
    X = _scaled(np.where(betas, np.log10(np.maximum(1 - h, 1e-9)), np.log10(np.maximum(h, 1e-30))))
    steps = np.linspace(0, 1000, 52)[1:]
    tasks = sorted(name.removesuffix("/valid") for name in table.files if name.endswith("/valid"))
    return {
        t: [_run(x, steps, y) for x, y in zip(X, table[f"{t}/valid"].astype(np.float64), strict=True)] for t in tasks
    }


def _algoperf() -> dict[str, list[Run]]:
    path = ROOT / "algoperf"
    if not path.exists():
        return {}
    trials: Any = pd.read_csv(path / "trials.csv.gz").set_index("trial_id")
    curves: Any = pd.read_csv(path / "eval_curves.csv.gz").groupby("trial_id")
    knobs = trials[
        ["hp_learning_rate", "hp_weight_decay", "hp_one_minus_beta1", "hp_dropout_rate", "hp_label_smoothing"]
    ]
    knobs = knobs.assign(hp_beta2=1 - trials["hp_beta2"])
    for name in ("hp_learning_rate", "hp_weight_decay", "hp_one_minus_beta1", "hp_beta2"):
        knobs[name] = np.log10(knobs[name].clip(lower=1e-8))
    arm = trials["submission"].astype("category").cat.codes
    X = _scaled(np.column_stack([knobs.fillna(knobs.median()).to_numpy(np.float64), arm.to_numpy(np.float64)]))
    found: dict[str, list[Run]] = {}
    for row, (number, trial) in enumerate(trials.iterrows()):
        if number not in curves.groups or len(curve := curves.get_group(number)) < 20:
            continue
        curve = curve.drop_duplicates("global_step").sort_values("global_step")
        steps, target = curve["global_step"].to_numpy(np.float64), curve["validation_target"].to_numpy(np.float64)
        down = trial["wl_target_metric_name"] in ("loss", "wer")
        found.setdefault(str(trial["workload"]), []).append(
            _run(X[row], 1000 * steps / steps[-1], target if down else -target)
        )
    return found


def _lcdb() -> dict[str, list[Run]]:
    spec = importlib.util.find_spec("lcdb")
    if spec is None or not spec.submodule_search_locations:
        return {}
    path = Path(spec.submodule_search_locations[0]) / "database-accuracy.csv"
    table: Any = pd.read_csv(path, usecols=["openmlid", "learner", "size_train", "score_valid"])
    mean = 1 - table.groupby(["openmlid", "learner", "size_train"])["score_valid"].mean()
    learners = sorted(table["learner"].unique())
    found: dict[str, list[Run]] = {}
    for data, errors in mean.groupby(level=0):
        wide = errors.droplevel(0).unstack().dropna(axis=0)
        if len(wide) > 10 and wide.shape[1] > 14:
            steps = 1000 * wide.columns.to_numpy(np.float64) / wide.columns[-1]
            found[str(data)] = [
                _run(np.array([(learners.index(name) + 0.5) / len(learners)]), steps, row.to_numpy(np.float64))
                for name, row in wide.iterrows()
            ]
    return dict(sorted(found.items())[:_LCDB_SETS])


def _scaled(X: Array) -> Array:
    low, high = X.min(axis=0), X.max(axis=0)
    return (X - low) / np.where(high > low, high - low, 1.0)
