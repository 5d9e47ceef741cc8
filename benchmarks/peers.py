"""The other tools, each behind one small contract, and the loop that pays for their trials.

| name | what it is |
|---|---|
| `random` | uniformly random configurations |
| `optuna-tpe`, `optuna-gp` | Optuna's `TPESampler` and `GPSampler` |
| `ax` | Ax's default strategy, through `ax.api.client.Client` |
| `smac` | SMAC3's `HyperparameterOptimizationFacade` |

All are used as they come, but for the seed. Ordered numbers are shown to each tool as an ordered
thing of its own, so nobody searches them as unrelated categories. SMAC sizes its initial design by
the number of trials it expects, which a budget of seconds does not tell: it gets its own default
of 100.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from frugalbo.space import Choice, Fixed, Float, Int, Params, Space

# Part of every version: another number where adapters, loop or seeds change what comes out.
REVISION = 2


class Peer(Protocol):
    """Asks and tells; the loss is to be minimised."""

    def ask(self) -> tuple[Hashable, Params] | None:
        """The next configuration with a key for `tell`; None if it wants to see a result first."""
        ...

    def tell(self, key: Any, loss: float) -> None:
        """What came out of one that was asked for, in any order."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """One trial as it was paid for: from `began` to `ended` on the clock; no loss if it was cut."""

    params: Params
    began: float
    ended: float
    loss: float | None


@dataclass(slots=True)
class Stopwatch:
    """Seconds spent on suggesting, by the clock and by the processor."""

    wall_s: float = 0.0
    cpu_s: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Counts the time of its block."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.wall_s += time.perf_counter() - wall
            self.cpu_s += time.process_time() - cpu


@dataclass(slots=True)
class _Running:
    ends: float
    order: int
    began: float
    key: Hashable
    params: Params
    loss: float


def drive(
    peer: Peer,
    observe: Callable[[Params], tuple[float, float]],
    *,
    budget_s: float,
    workers: int,
    watch: Stopwatch | None = None,
) -> list[Job]:
    """Spend `budget_s` device-seconds on a virtual clock; the jobs in the order in which they ended.

    Whatever runs burns the same purse. When it is empty, all that still runs is cut: it was paid
    for, and gives no result. Suggesting takes no time of this clock.

    Args:
        peer: Is asked whenever a worker is free.
        observe: From parameters to loss and seconds.
        budget_s: Of all workers together.
        workers: How many jobs run at a time.
        watch: Counts what suggesting takes.
    """
    watch = watch or Stopwatch()
    now, left, jobs = 0.0, budget_s, list[Job]()
    running: list[_Running] = []
    numbers = itertools.count()
    while left > 1e-9 * budget_s:
        while len(running) < workers:
            with watch.running():
                asked = peer.ask()
            if asked is None:
                break
            key, params = asked
            loss, seconds = observe(params)
            running.append(_Running(now + seconds, next(numbers), now, key, params, loss))
        if not running:
            break
        first = min(running, key=lambda run: (run.ends, run.order))
        burned = (first.ends - now) * len(running)
        if burned > left * (1 + 1e-9):
            now += left / len(running)
            break
        left -= burned
        now = first.ends
        running.remove(first)
        jobs.append(Job(first.params, first.began, now, first.loss))
        with watch.running():
            peer.tell(first.key, first.loss)
    return jobs + [Job(run.params, run.began, now, None) for run in running]


def make_peer(name: str, space: Space, seed: int) -> Peer:
    """The peer of that name.

    Raises:
        ValueError: If there is none.
    """
    if name == "random":
        return RandomPeer(space, seed)
    if name in ("optuna-tpe", "optuna-gp"):
        return OptunaPeer(space, seed, name.removeprefix("optuna-"))
    if name == "ax":
        return AxPeer(space, seed)
    if name == "smac":
        return SmacPeer(space, seed)
    raise ValueError(f"unknown peer {name!r}; expected one of {', '.join(PEERS)}")


# The package that each needs.
PEERS = {"random": None, "optuna-tpe": "optuna", "optuna-gp": "optuna", "ax": "ax-platform", "smac": "smac"}


def is_installed(name: str) -> bool:
    """Whether a peer can be made here."""
    package = PEERS[name]
    return package is None or importlib.util.find_spec("ax" if package == "ax-platform" else package) is not None


def version(name: str) -> str:
    """What a record of a peer's race is valid for."""
    package = PEERS[name]
    return f"{package} {importlib.metadata.version(package)}, r{REVISION}" if package else f"r{REVISION}"


class RandomPeer:
    """Uniformly random; may repeat itself."""

    def __init__(self, space: Space, seed: int) -> None:
        self._space = space
        self._rng = np.random.default_rng([seed, 7])

    def ask(self) -> tuple[Hashable, Params]:
        """The next configuration."""
        return None, self._space.decode(self._rng.random(self._space.dim))

    def tell(self, key: Any, loss: float) -> None:
        """Nothing is learnt."""


class OptunaPeer:
    """Optuna's ask and tell; ordered choices are whole numbers to it."""

    def __init__(self, space: Space, seed: int, sampler: str) -> None:
        import optuna  # pyright: ignore[reportMissingImports]
        from optuna.distributions import (  # pyright: ignore[reportMissingImports]
            BaseDistribution,
            CategoricalDistribution,
            FloatDistribution,
            IntDistribution,
        )

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space
        self._distributions: dict[str, BaseDistribution] = {}
        for name in space.names:
            p = space.parameters[name]
            if isinstance(p, Float):
                self._distributions[name] = FloatDistribution(p.lower, p.upper, log=p.log)
            elif isinstance(p, Int):
                self._distributions[name] = IntDistribution(p.lower, p.upper, log=p.log)
            elif isinstance(p, Choice) and p.ordered:
                self._distributions[name] = IntDistribution(0, len(p.values) - 1)
            elif isinstance(p, Choice):
                self._distributions[name] = CategoricalDistribution(list(p.values))
        samplers = {"tpe": optuna.samplers.TPESampler, "gp": optuna.samplers.GPSampler}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a sampler is experimental
            self._study = optuna.create_study(sampler=samplers[sampler](seed=seed))

    def ask(self) -> tuple[Hashable, Params]:
        """The next configuration."""
        trial = self._study.ask(self._distributions)
        return trial.number, _valued(self._space, trial.params)

    def tell(self, key: Any, loss: float) -> None:
        """Pass a result on."""
        self._study.tell(key, loss)

    def attach(self, params: Params, loss: float) -> None:
        """A result that it did not ask for."""
        from optuna.trial import create_trial  # pyright: ignore[reportMissingImports]

        seen = {
            name: p.values.index(params[name]) if isinstance(p, Choice) and p.ordered else params[name]
            for name in self._distributions
            for p in [self._space.parameters[name]]
        }
        self._study.add_trial(create_trial(params=seen, distributions=self._distributions, value=loss))


class AxPeer:
    """Ax's service loop with its own choice of strategy."""

    def __init__(self, space: Space, seed: int) -> None:
        logging.disable(logging.INFO)  # its loggers set their own levels
        from ax.api.client import Client
        from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig

        configs: list[Any] = []
        for name, p in space.parameters.items():
            if isinstance(p, Choice):
                kind = "str" if isinstance(p.values[0], str) else "int" if isinstance(p.values[0], int) else "float"
                values: Any = list(p.values)
                ordered = p.ordered or len(p.values) == 2
                config = ChoiceParameterConfig(name=name, values=values, parameter_type=kind, is_ordered=ordered)
            else:
                assert not isinstance(p, Fixed)
                kind = "int" if isinstance(p, Int) else "float"
                bounds, scaling = (p.lower, p.upper), "log" if p.log else "linear"
                config = RangeParameterConfig(name=name, bounds=bounds, parameter_type=kind, scaling=scaling)
            configs.append(config)
        self._client = Client(random_seed=seed)
        self._client.configure_experiment(parameters=configs)
        self._client.configure_optimization(objective="-loss")

    def ask(self) -> tuple[Hashable, Params] | None:
        """The next configuration; Ax gives none while it waits for its first results."""
        found = self._client.get_next_trials(1)
        return next(((index, dict(params)) for index, params in found.items()), None)  # type: ignore[arg-type]

    def tell(self, key: Any, loss: float) -> None:
        """Pass a result on."""
        self._client.complete_trial(key, raw_data={"loss": loss})

    def attach(self, params: Params, loss: float) -> None:
        """A result that it did not ask for."""
        self.tell(self._client.attach_trial(params), loss)


@dataclass(slots=True)
class SmacPeer:
    """SMAC3's ask and tell; ordered choices are whole numbers to it."""

    space: Space
    seed: int
    _facade: Any = field(init=False)
    _folder: Any = field(init=False)
    _numbers: Any = field(init=False)

    def __post_init__(self) -> None:
        from ConfigSpace import CategoricalHyperparameter, ConfigurationSpace  # pyright: ignore[reportMissingImports]
        from ConfigSpace import UniformFloatHyperparameter as Real  # pyright: ignore[reportMissingImports]
        from ConfigSpace import UniformIntegerHyperparameter as Whole  # pyright: ignore[reportMissingImports]
        from smac import HyperparameterOptimizationFacade, Scenario  # pyright: ignore[reportMissingImports]

        space = ConfigurationSpace(seed=self.seed)
        for name in self.space.names:
            p = self.space.parameters[name]
            if isinstance(p, Float):
                space.add(Real(name, p.lower, p.upper, log=p.log))
            elif isinstance(p, Int):
                space.add(Whole(name, p.lower, p.upper, log=p.log))
            elif isinstance(p, Choice) and p.ordered:
                space.add(Whole(name, 0, len(p.values) - 1))
            elif isinstance(p, Choice):
                space.add(CategoricalHyperparameter(name, list(p.values)))
        self._folder = tempfile.TemporaryDirectory(prefix="race-smac-")
        scenario = Scenario(
            space, deterministic=True, n_trials=100, seed=self.seed, output_directory=Path(self._folder.name)
        )
        logging.disable(logging.INFO)
        self._facade = HyperparameterOptimizationFacade(
            scenario, lambda config, seed=0: 0.0, overwrite=True, logging_level=False
        )

    def ask(self) -> tuple[Hashable, Params] | None:
        """The next configuration; none once it believes that it has spent its trials."""
        info = self._facade.ask()
        return info, _valued(self.space, dict(info.config))

    def tell(self, key: Any, loss: float) -> None:
        """Pass a result on."""
        from smac.runhistory.dataclasses import TrialValue  # pyright: ignore[reportMissingImports]

        self._facade.tell(key, TrialValue(cost=loss), save=False)


def _valued(space: Space, found: dict[str, Any]) -> Params:
    """Parameters in which ordered choices, which the tool saw as positions, have their values again."""
    params: Params = {}
    for name, value in found.items():
        p = space.parameters[name]
        if isinstance(p, Choice):
            params[name] = p.values[int(value)] if p.ordered else p.values[p.index(_plain(value))]
        else:
            params[name] = _plain(value)
    return params


def _plain(value: Any) -> Any:
    """A number or text of numpy's as Python's own."""
    return value.item() if hasattr(value, "item") else value
