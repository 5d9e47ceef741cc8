"""Recorded learning curves as problems: what a trial reports, step by step, and what each step costs.

| suite | tables | configurations | steps | cost of a step | objective |
|---|---|---|---|---|---|
| `taskset` | 8 text models | 1,000 settings of an optimizer | 51 | one second | validation loss |
| `algoperf` | 5 workloads | 55 or 65 arms | 58 to 124 | as recorded, on 8 GPUs | the workload's own |
| `lcdb` | 10 data sets | 20 learners | 16 to 24 | training seconds | validation log loss |

A step of `algoperf` is the time from one evaluation to the next. A trial *is* a recorded run: nothing is
interpolated. A run whose value is not finite has diverged there. AlgoPerf's runs end when they reach
their workload's targets: what is left of such a run costs a second a step and repeats its last value. One
that ended before without reaching them has crashed. The run of a configuration that a race sees is that of
study `seed mod 5`, the same study for all configurations.

A step of `lcdb` is a training set of the next size, on which a learner is trained from scratch. Its costs differ by a
factor of a thousand from learner to learner, and are known. The run is that of the outer split `seed mod 5` and the
inner split 0. The data sets are those on which all learners were trained at all sizes and splits, and of
these the ten with the most sizes, but for 959, where half of the learners are as good as the best.

The curves of `lcdb` come with the package of that name (`pip install lcdb`); the others are read from
`../shared/data`, or from the folder that `FRUGALBO_DATA` names.
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.tables import only_simulated
from frugalbo.errors import ProblemError
from frugalbo.events import Failure
from frugalbo.executors.simulated import Curve
from frugalbo.problem import Fidelity, Maximize, Minimize, Objective, Problem
from frugalbo.propose.base import Suggestion
from frugalbo.space import Choice, Float, Params, Space, Value
from frugalbo.study import Study

Array = NDArray[np.float64]
TASKSET = (
    "imdb_patch128_LSTM128_avg_bs64", "imdb_patch128_LSTM128_embed128_bs64", "imdb_patch32_GRU128_bs128",
    "imdb_patch32_IRNN64_relu_avg_bs128", "imdb_patch32_IRNN64_relu_last_bs128", "imdb_patch32_LSTM128_bs128",
    "imdb_patch32_VRNN128_tanh_bs128", "imdb_patch32_VRNN64_tanh_avg_bs128",
)  # fmt: skip
ALGOPERF = ("criteo1tb", "fastmri", "imagenet_resnet", "ogbg", "wmt")
LCDB = ("901", "823", "722", "735", "761", "847", "41142", "720", "728", "1042")  # by their numbers at OpenML
SUITES = {"taskset": TASKSET, "algoperf": ALGOPERF, "lcdb": LCDB}
_STUDIES = 5
_NEARLY = 0.95  # of the longest time: from here a run counts as one to the end


@dataclass(frozen=True)
class CurveTable:
    """The curves of all configurations of one task, as one race sees them.

    Args:
        losses: n x steps, smaller is better; NaN where there is none.
        seconds: n x steps, from the beginning to the end of each step.
        lengths: The steps that each run reports; fewer than all if it crashed.
        step_s: What a step is expected to take; known to all who race.
    """

    name: str
    problem: Problem
    configurations: tuple[Params, ...]
    losses: Array
    seconds: Array
    lengths: NDArray[np.intp]
    step_s: float

    @property
    def steps(self) -> int:
        """The steps of a full run."""
        return self.losses.shape[1]

    @property
    def full_cost_s(self) -> float:
        """The mean seconds of a full run."""
        return float(self.seconds[self.lengths == self.steps, -1].mean())

    @cached_property
    def finals(self) -> Array:
        """The loss of each configuration at the end; infinite where it does not get there with a finite one."""
        return np.where(np.isfinite(self.losses).all(axis=1), self.losses[:, -1], np.inf)

    @cached_property
    def rows(self) -> dict[tuple[Value, ...], int]:
        """Where a configuration stands, by its values."""
        return {tuple(params.values()): row for row, params in enumerate(self.configurations)}

    def row(self, params: Params) -> int:
        """Where a configuration stands."""
        return self.rows[tuple(params[name] for name in self.configurations[0])]

    def regret(self, params: Params | None) -> float:
        """`(final - best) / (median - best)` of the configuration's loss at the end, in [0, 1].

        1 where it diverges, crashes or is worse than the median, and where there is no configuration. A
        run that diverges counts as infinite in the median, or as the worst finite one if half of all do.
        """
        final = np.inf if params is None else self.finals[self.row(params)]
        finite = self.finals[np.isfinite(self.finals)]
        median = min(float(np.median(self.finals)), float(finite.max()))
        return float(min(1.0, (final - finite.min()) / (median - finite.min())))

    def simulate(self, params: Params, planned: int, seed: int) -> Curve:
        """For `SimulatedExecutor`."""
        row = self.row(params)
        n, metric = int(self.lengths[row]), self.problem.objective.metric
        return Curve(
            range(1, n + 1),
            self.seconds[row, :n].tolist(),
            [{metric: self.problem.objective.to_loss(loss)} for loss in self.losses[row, :n].tolist()],
            None if n == self.steps else Failure.ERROR,
            "" if n == self.steps else "the recorded run crashed",
        )


class Pool:
    """Proposes the configurations of a table, each once, in the order of `seed`: what random search is on a table."""

    def __init__(self, table: CurveTable, seed: int) -> None:
        self.table = table
        self.order = np.random.default_rng(seed).permutation(len(table.configurations))

    def propose(self, study: Study, n: int) -> Sequence[Suggestion]:
        """The next `n` that are not in the study."""
        tried = {self.table.row(trial.params) for trial in study.trials.values()}
        left = (int(row) for row in self.order if row not in tried)
        return [Suggestion(self.table.configurations[row], {"method": "random"}) for row in itertools.islice(left, n)]


def is_there(suite: str) -> bool:
    """Whether the data of a suite are."""
    if suite == "lcdb":
        return importlib.util.find_spec("lcdb") is not None
    return (data_folder() / suite).is_dir()


def data_folder() -> Path:
    """Where the recorded curves are."""
    return Path(os.environ.get("FRUGALBO_DATA") or Path(__file__).parents[2] / "shared" / "data")


def load(name: str, seed: int = 0) -> CurveTable:
    """The table `"suite/task"`, as the race of this seed sees it.

    Raises:
        ProblemError: If there is none of that name, or its data are not there.
    """
    suite, _, task = name.partition("/")
    if task not in SUITES.get(suite, ()):
        raise ProblemError(f"no table {name!r}; expected one of {', '.join(names())}")
    if not is_there(suite):
        how = "pip install lcdb" if suite == "lcdb" else f"none in {data_folder()}; set FRUGALBO_DATA to their folder"
        raise ProblemError(f"no recorded curves of {suite}: {how}")
    if suite == "taskset":
        return _taskset(task)
    return _algoperf(task, seed % _STUDIES) if suite == "algoperf" else _lcdb(task, seed % _STUDIES)


def names() -> list[str]:
    """All tables."""
    return [f"{suite}/{task}" for suite, tasks in SUITES.items() for task in tasks]


@cache
def _taskset(task: str) -> CurveTable:
    with np.load(data_folder() / "taskset" / "taskset_text_rnn.npz") as data:
        losses = data[f"{task}/valid"].astype(float)
        settings, columns = data["hyperparameters"].astype(float), [str(name) for name in data["names"]]
    for j, column in enumerate(columns):
        if column.startswith("beta"):  # drawn on a logarithmic scale of their distance to 1
            settings[:, j], columns[j] = 1 - settings[:, j], f"one_minus_{column}"
    space = Space({c: Float(settings[:, j].min(), settings[:, j].max(), log=True) for j, c in enumerate(columns)})
    configurations = tuple(dict[str, Value](zip(columns, map(float, row), strict=True)) for row in settings)
    n, steps = losses.shape
    return CurveTable(
        name=f"taskset/{task}",
        problem=_problem(task, space, Minimize("loss"), steps, 1.0),
        configurations=configurations,
        losses=losses,
        seconds=np.tile(np.arange(1.0, steps + 1), (n, 1)),
        lengths=np.full(n, steps, dtype=np.intp),
        step_s=1.0,
    )


@cache
def _algoperf(workload: str, study: int) -> CurveTable:
    runs = [run for run in _trials() if run["workload"] == workload and int(run["study"]) == study]
    runs.sort(key=_arm)
    curves = _evaluations()
    longest, period = float(runs[0]["wl_max_allowed_runtime_sec"]), float(runs[0]["wl_eval_period_time_sec"])
    steps = int(longest / period) + 1
    metric = runs[0]["wl_target_metric_name"]
    objective = Minimize(metric) if metric in ("loss", "wer") else Maximize(metric)
    goal = objective.to_loss(float(runs[0]["wl_validation_target_value"]))
    losses = np.full((len(runs), steps), np.nan)
    seconds = np.zeros((len(runs), steps))
    lengths = np.zeros(len(runs), dtype=np.intp)
    for row, run in enumerate(runs):
        curve = curves.get(run["trial_id"], [])[:steps]
        n = lengths[row] = len(curve)
        if not n:
            continue
        seconds[row, :n], values = np.array(curve).T
        losses[row, :n] = objective.to_loss(1.0) * values
        if np.nanmin(losses[row, :n], initial=np.inf) <= goal or seconds[row, n - 1] >= _NEARLY * longest:
            losses[row, n:] = losses[row, n - 1]
            seconds[row, n:] = seconds[row, n - 1] + np.arange(1.0, steps - n + 1)
            lengths[row] = steps
    space = Space({"arm": Choice([_arm(run) for run in runs])})
    return CurveTable(
        name=f"algoperf/{workload}",
        problem=_problem(workload, space, objective, steps, period),
        configurations=tuple({"arm": _arm(run)} for run in runs),
        losses=losses,
        seconds=seconds,
        lengths=lengths,
        step_s=period,
    )


@cache
def _lcdb(dataset: str, split: int) -> CurveTable:
    runs = _trainings()[dataset, split]
    learners = sorted({learner for learner, _ in runs})
    sizes = sorted({size for _, size in runs})
    found = np.array([[runs[learner, size] for size in sizes] for learner in learners])
    seconds = found[..., 0].cumsum(axis=1)
    configurations = tuple[Params, ...]({"learner": learner} for learner in learners)
    at = dict(zip(learners, np.pad(seconds, ((0, 0), (1, 0))).tolist(), strict=True))

    def cost(params: Params, start: int, until: int) -> float:
        return at[str(params["learner"])][until] - at[str(params["learner"])][start]

    fidelity = Fidelity("sizes", 1, len(sizes))
    space = Space({"learner": Choice(learners)})
    return CurveTable(
        name=f"lcdb/{dataset}",
        problem=Problem(f"lcdb {dataset}", space, only_simulated, Minimize("log_loss"), fidelity, cost=cost),
        configurations=configurations,
        losses=found[..., 1],
        seconds=seconds,
        lengths=np.full(len(learners), len(sizes), dtype=np.intp),
        step_s=float(seconds[:, -1].mean() / len(sizes)),
    )


@cache
def _trainings() -> dict[tuple[str, int], dict[tuple[str, int], tuple[float, float]]]:
    """By data set and outer split, and then by learner and size: seconds and validation log loss."""
    (folder,) = importlib.util.find_spec("lcdb").submodule_search_locations  # pyright: ignore
    found: dict[tuple[str, int], dict[tuple[str, int], tuple[float, float]]] = {}
    with (Path(folder) / "database-logloss.csv").open() as file:
        for row in csv.DictReader(file):
            if row["openmlid"] in LCDB and row["inner_seed"] == "0":
                runs = found.setdefault((row["openmlid"], int(row["outer_seed"])), {})
                runs[row["learner"], int(row["size_train"])] = float(row["traintime"]), float(row["score_valid"])
    return found


def _problem(name: str, space: Space, objective: Objective, steps: int, step_s: float) -> Problem:
    def cost(params: Params, start: int, until: int) -> float:
        return step_s * (until - start)

    return Problem(name, space, only_simulated, objective, Fidelity("steps", 1, steps), cost=cost)


def _arm(run: Mapping[str, str]) -> str:
    return f"{run['version'].removeprefix('algoperf_')}/{run['submission']}/{run['trial']}"


@cache
def _trials() -> list[dict[str, str]]:
    """The runs of submissions whose settings were fixed before; those that tune themselves had another budget."""
    with gzip.open(data_folder() / "algoperf" / "trials.csv.gz", "rt") as file:
        return [run for run in csv.DictReader(file) if run["ruleset"] == "external_tuning"]


@cache
def _evaluations() -> dict[str, list[tuple[float, float]]]:
    """By run: seconds and value of each evaluation that gave one, the latest of those at the same time."""
    found: dict[str, dict[float, float]] = {}
    with gzip.open(data_folder() / "algoperf" / "eval_curves.csv.gz", "rt") as file:
        for row in csv.DictReader(file):
            if row["validation_target"] and row["accumulated_submission_time"]:
                at = float(row["accumulated_submission_time"])
                found.setdefault(row["trial_id"], {})[at] = float(row["validation_target"])
    return {run: sorted(curve.items()) for run, curve in found.items()}
