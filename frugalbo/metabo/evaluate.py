"""How good what the weights propose is, on tables of recorded configurations, beside the Gaussian process and random.

A race begins at a few random rows, the same for all methods; then each step takes the row that a method values most
among those that are left (of more than `CANDIDATES`, among so many drawn anew each step). Regret is
`(best of the table - reached) / (best - worst)`.

| method | what it is |
|---|---|
| `metabo` | as in `fb.tune`: network, process and what is known of earlier studies of such a space, by evidence |
| `network` | the network alone |
| `nap` | a neural acquisition process of this space (`frugalbo.metabo.nap`); it is told the table's best and worst |
| `gp` | our Gaussian process with log expected improvement |
| `random` | the mean over random orders |

Intervals are of 95 %, by resampling tasks (their seeds together), or seeds where there is a single task.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import frugalbo.models  # isort: skip  # noqa: F401 - first: it imports linear_operator without its warning

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frugalbo.acquisition.registry import Situation, choose
from frugalbo.errors import ProblemError, WeightsError
from frugalbo.metabo.acquisition import choose_metabo
from frugalbo.metabo.nap import NAPWeights, load_nap, worths
from frugalbo.metabo.network import NAP
from frugalbo.metabo.past import Past
from frugalbo.metabo.tables import Table, read_tables
from frugalbo.metabo.weights import Knowledge, known
from frugalbo.models.objective import ObjectiveGP, fit_objective

Array = NDArray[np.float64]

METHODS = ("metabo", "network", "nap", "gp", "random")
CANDIDATES = 5000
_SHUFFLES = 500  # of a random order
_RESAMPLES = 4000


@dataclass(frozen=True, slots=True)
class Race:
    """One race.

    Args:
        task: Of the table.
        method: One of `METHODS`.
        seed: Of the initial rows and of candidates.
        regret: After the initial rows, then after each step.
        past: How much the past counted at each step, where it did.
        tried: The rows in order, the initial ones first; none of random orders.
    """

    task: str
    method: str
    seed: int
    regret: tuple[float, ...]
    past: tuple[float, ...] = ()
    tried: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Setting:
    """How races are run.

    Args:
        initial: Random rows at the beginning, at least 2.
        steps: Rows that a method chooses after these.
        weights: A file of weights; by default those that come with the package.
        nap: A file of weights of a neural acquisition process, for the method `nap`.
    """

    initial: int = 5
    steps: int = 50
    weights: str = ""
    nap: str = ""

    def __post_init__(self) -> None:
        for name, least in (("initial", 2), ("steps", 1)):
            if getattr(self, name) < least:
                raise ProblemError(f"expected {name} of at least {least}, got {getattr(self, name)}")


def evaluate(
    path: str | Path,
    setting: Setting,
    *,
    seeds: int = 5,
    methods: Sequence[str] = ("metabo", "network", "gp", "random"),
    jobs: int = 1,
    observe: Callable[[int, int], None] = lambda done, of: None,
) -> list[Race]:
    """All races on all tables of a file.

    Args:
        path: Of tables, see `frugalbo.metabo.tables`.
        setting: How they are run.
        seeds: Races of each method on each table.
        methods: Some of `METHODS`.
        jobs: Processes; each takes one core.
        observe: Told how many races are done, of how many.

    Raises:
        ProblemError: If the file holds no such tables, or these have too few rows.
        WeightsError: If the weights are none.
    """
    tables = read_tables(path)
    known(setting.weights)  # refuse wrong ones before anything is run
    if "nap" in methods:
        _refuse_other_spaces(known_nap(setting.nap).network, tables)
    if seeds < 1 or jobs < 1:
        raise ProblemError(f"expected at least one seed and one job, got {seeds} and {jobs}")
    if unknown := set(methods) - set(METHODS):
        raise ProblemError(f"expected methods among {', '.join(METHODS)}; got {min(unknown)!r}")
    for name, table in tables.items():
        if len(table.losses) < setting.initial + 1:
            least = setting.initial + 1
            raise ProblemError(f"expected at least {least} rows for {name!r}, got {len(table.losses)}")
    cells = [(name, method, seed) for seed in range(seeds) for name in tables for method in methods]
    found: list[Race] = []
    if jobs == 1:
        for name, method, seed in cells:
            found.append(run(name, tables[name], method, seed, setting))
            observe(len(found), len(cells))
        return found
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        waiting = [pool.submit(run, name, tables[name], method, seed, setting) for name, method, seed in cells]
        for future in as_completed(waiting):
            found.append(future.result())
            observe(len(found), len(cells))
    return sorted(found, key=lambda r: cells.index((r.task, r.method, r.seed)))


def run(name: str, table: Table, method: str, seed: int, setting: Setting) -> Race:
    """One race on one table; it ends early when all rows are tried."""
    if method == "random":
        return Race(name, method, seed, tuple(_random(table, seed, setting)))
    held, points = known(setting.weights), table.U
    past = Past.of(held.past, table.space)
    order = np.random.default_rng([seed, 99]).permutation(len(points))
    tried, counted = [int(i) for i in order[: setting.initial]], []
    while len(tried) < min(len(points), setting.initial + setting.steps):
        left = np.setdiff1d(np.arange(len(points)), tried)
        if len(left) > CANDIDATES:
            left = np.random.default_rng([seed, len(tried), 98]).choice(left, CANDIDATES, replace=False)
        if method == "nap":
            values = _nap_values(table, tried, left, setting)
        else:
            values, weight = _values(method, points[tried], table.losses[tried], points[left], held, past, seed)
            counted += [] if weight is None else [weight]
        tried.append(int(left[int(values.argmax())]))
    reached = np.minimum.accumulate(table.losses[tried])[setting.initial - 1 :]
    return Race(name, method, seed, tuple(table.regret(reached).round(6).tolist()), tuple(counted), tuple(tried))


def _values(
    method: str, X: Array, losses: Array, asked: Array, held: Knowledge, past: Past | None, seed: int
) -> tuple[Tensor, float | None]:
    """What each point is worth, and how much the past counted."""
    objective, pool = fit_objective(X, losses, ()), torch.from_numpy(asked)
    situation = Situation(objective, objective, pool[:0], pool, None, 0.0, None, None, seed)
    with torch.no_grad():
        if (
            method == "network"
            and len(X) <= held.network.shape.most_seen
            and X.shape[1] <= held.network.shape.most_dims
        ):
            return network_values(situation, held), None
        metabo = method == "metabo"
        chosen = choose_metabo(situation, held.network, past) if metabo else choose("ei", situation)
        return chosen.value(pool.unsqueeze(-2)), chosen.why.get("past")


def network_values(situation: Situation, held: Knowledge) -> Tensor:
    """The log expected improvement of the pool to the network alone."""
    model, best = situation.unbelieving.model, situation.best()
    assert isinstance(model, ObjectiveGP)
    assert best is not None
    no = torch.zeros(situation.pool.shape[1], dtype=torch.bool)
    said = held.network(model.seen[None], model.train_targets[None], no, situation.pool[None], False)
    return said.log_improvement(best)[0]


@cache
def known_nap(path: str) -> NAPWeights:
    """What a file of a neural acquisition process holds, read once."""
    if not path:
        raise WeightsError("expected a file of weights for the method 'nap', got none")
    return load_nap(path)


def _refuse_other_spaces(network: NAP, tables: Mapping[str, Table]) -> None:
    for name, table in tables.items():
        if table.X.shape[1] != network.point.in_features:
            expected = network.point.in_features
            raise WeightsError(f"expected tables of {expected} columns for 'nap', got {table.X.shape[1]} in {name!r}")


def _nap_values(table: Table, tried: Sequence[int], left: NDArray[np.intp], setting: Setting) -> Tensor:
    held, points = known_nap(setting.nap), torch.from_numpy(table.U)
    outcomes = torch.from_numpy(1 - table.regret(table.losses))
    done = (len(tried) - setting.initial) / setting.steps
    return worths(held.network, held.policy, points[list(tried)], outcomes[list(tried)], points[left], done)


def _random(table: Table, seed: int, setting: Setting) -> Iterable[float]:
    """The mean over random orders after the same initial rows."""
    first = np.random.default_rng([seed, 99]).permutation(len(table.losses))[: setting.initial]
    rest, rng = np.setdiff1d(np.arange(len(table.losses)), first), np.random.default_rng(0)
    steps = min(setting.steps, len(rest))
    drawn = np.stack([rng.choice(rest, steps, replace=False) for _ in range(_SHUFFLES)])
    start = np.full((_SHUFFLES, 1), table.losses[first].min())
    best = np.minimum.accumulate(np.concatenate([start, table.losses[drawn]], axis=1), axis=1)
    return table.regret(best).mean(0).round(6).tolist()


@dataclass(frozen=True, slots=True)
class Line:
    """Mean regret of a method at a step, and its difference to the process.

    Args:
        low: The lower end of its interval.
        high: The upper one.
        better: Races in which it was ahead of `gp`; worse: behind.
        gain: The mean of `gp` less that of the method, with the interval of the difference.
    """

    method: str
    step: int
    regret: float
    low: float
    high: float
    better: int
    worse: int
    gain: float
    gain_low: float
    gain_high: float


def summary(races: Sequence[Race], steps: Sequence[int]) -> list[Line]:
    """A line for each method and step; where a race ended early, its last regret counts."""
    at = {(r.method, r.task, r.seed): r.regret for r in races}
    methods, tasks = list(dict.fromkeys(r.method for r in races)), list(dict.fromkeys(r.task for r in races))
    seeds = sorted({r.seed for r in races})

    def table(method: str, step: int) -> Array:
        return np.array([[at[method, t, s][min(step, len(at[method, t, s]) - 1)] for s in seeds] for t in tasks])

    lines = []
    for method in methods:
        for step in steps:
            mine = table(method, step)
            theirs = table("gp", step) if "gp" in methods else np.full_like(mine, math.nan)
            low, high = _interval(mine)
            gain_low, gain_high = _interval(theirs - mine)
            better, worse = int((mine < theirs - 1e-9).sum()), int((mine > theirs + 1e-9).sum())
            gain = float((theirs - mine).mean())
            lines.append(Line(method, step, float(mine.mean()), low, high, better, worse, gain, gain_low, gain_high))
    return lines


def _interval(values: Array) -> tuple[float, float]:
    """Of the mean of tasks x seeds."""
    units = values.mean(1) if len(values) > 1 else values[0]
    picks = np.random.default_rng(0).integers(len(units), size=(_RESAMPLES, len(units)))
    low, high = np.quantile(units[picks].mean(1), [0.025, 0.975])
    return float(low), float(high)


def to_json(races: Sequence[Race], steps: Sequence[int], setting: Setting) -> dict[str, Any]:
    """All of it as JSON types; what cannot be compared is null."""
    lines = [{k: None if v != v else v for k, v in asdict(line).items()} for line in summary(races, steps)]
    return {"setting": asdict(setting), "summary": lines, "races": [asdict(race) for race in races]}


def as_text(races: Sequence[Race], steps: Sequence[int], setting: Setting) -> str:
    """The table that is printed."""
    tasks, seeds = len({r.task for r in races}), len({r.seed for r in races})
    lines = [
        f"{tasks} tables, {seeds} seeds, {setting.initial} random rows first; mean normalised regret [95 % interval]",
        "after further steps; gain: the regret of gp less that of the method, and races ahead of gp and behind it",
        "",
        f"{'method':9} {'steps':>5}  {'regret':>7}  {'interval':17}  {'gain':>7}  {'interval':17}  ahead  behind",
    ]
    for line in summary(races, steps):
        text = f"{line.method:9} {line.step:5d}  {line.regret:7.4f}  [{line.low:.4f}, {line.high:.4f}]  "
        if line.gain == line.gain and line.method != "gp":
            text += (
                f" {line.gain:+7.4f}  [{line.gain_low:+.4f}, {line.gain_high:+.4f}]  {line.better:4d}  {line.worse:6d}"
            )
        lines.append(text.rstrip())
    counted = [w for r in races for w in r.past]
    if counted:
        matched = len({r.task for r in races if r.past})
        lines += [
            "",
            f"earlier studies of the same columns are known for {matched} tables; weight {np.mean(counted):.2f}",
        ]
    return "\n".join(lines)


def _one_thread() -> None:
    torch.set_num_threads(1)
