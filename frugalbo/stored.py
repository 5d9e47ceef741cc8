"""Runs as they are stored: how each is carried out, where its files are, and how it stands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frugalbo.budget.amounts import Budget
from frugalbo.budget.cost import CostModel
from frugalbo.budget.ledger import Ledger
from frugalbo.budget.worth import MinGain
from frugalbo.errors import BudgetError, PoolError
from frugalbo.pool import Pool, budgets_of, read_pools
from frugalbo.problem import Problem
from frugalbo.propose import Proposer, make_proposer
from frugalbo.scheduler import make_scheduler
from frugalbo.scheduler.base import Scheduler
from frugalbo.store import RunRecord, Store
from frugalbo.study import Study

DEFAULT_STORAGE = ".frugalbo/runs.db"


@dataclass(frozen=True, slots=True)
class Settings:
    """How a run is carried out; stored with it, so that `resume` needs no arguments.

    Args:
        method: How configurations are chosen; one of `frugalbo.propose.METHODS`.
        scheduler: How long each is run; one of `frugalbo.scheduler.SCHEDULERS`.
        devices: Slots as text, such as `"cuda:0,1"` or `"cpu:2x4"`; None for all that are found.
        dollars_per_hour: The price of one device.
        trial_cap_s: The most seconds that any segment may take.
        min_gain: As for `tune`.
        stop_regret: As for `tune`.
        pools: In the place of `devices` and their price.
        backend: The engine that runs segments, as read by `executors.backends.read_backend`; None for this machine.
    """

    method: str = "auto"
    scheduler: str = "auto"
    devices: str | None = None
    dollars_per_hour: float = 0.0
    trial_cap_s: float | None = None
    min_gain: str | None = None
    pools: tuple[Pool, ...] | None = None
    stop_regret: float | None = None
    backend: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.pools is not None:
            object.__setattr__(self, "pools", read_pools(self.pools))
            if self.devices is not None or self.dollars_per_hour:
                raise PoolError("expected either pools or devices with a price, got both")
        if not 0 <= self.dollars_per_hour < math.inf:
            raise BudgetError(f"a price per device-hour must be at least 0, got {self.dollars_per_hour!r}")
        if self.trial_cap_s is not None and not 0 < self.trial_cap_s < math.inf:
            raise BudgetError(f"a cap on trials must be above 0 seconds, got {self.trial_cap_s!r}")
        if self.min_gain is not None:
            MinGain.of(self.min_gain)  # refuses what cannot be read
        is_number = isinstance(self.stop_regret, (int, float)) and not isinstance(self.stop_regret, bool)
        if self.stop_regret is not None and not (is_number and 0 < self.stop_regret < math.inf):
            raise BudgetError(f"expected stop_regret above 0, in units of the objective, got {self.stop_regret!r}")

    def proposer(self, problem: Problem, seed: int) -> Proposer:
        """What answers to `method`, with its price.

        Raises:
            MethodError: If there is no such method, or it cannot have a price.
        """
        price = None if self.min_gain is None else MinGain.of(self.min_gain)
        return make_proposer(self.method, problem, seed=seed, min_gain=price, stop_regret=self.stop_regret)

    def make_scheduler(self, proposer: Proposer, costs: CostModel | None) -> Scheduler:
        """What answers to `scheduler`.

        Raises:
            SchedulerError: If there is none of that name.
        """
        # What is worth its price is known of whole trials only.
        name = "fixed" if self.scheduler == "auto" and self.min_gain is not None else self.scheduler
        return make_scheduler(name, proposer, costs, trial_cap_s=self.trial_cap_s)

    @property
    def is_priced(self) -> bool:
        """Whether any device costs money."""
        return any(pool.dollars_per_hour for pool in self.pools or ()) or self.dollars_per_hour > 0

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types, for `Settings(**record)`."""
        record = {name: getattr(self, name) for name in self.__slots__}
        return {**record, "pools": None if self.pools is None else [pool.to_json() for pool in self.pools]}


def spec_of(problem: Problem, budget: Budget, seed: int, settings: Settings) -> dict[str, Any]:
    """What a run is stored under."""
    return {
        "problem": problem.to_json(),
        "budget": budget.to_json(),
        "seed": seed,
        "settings": settings.to_json(),
    }


def stored_problem(record: RunRecord) -> Problem:
    """The problem of a stored run."""
    return Problem.from_json(record.spec["problem"])


def folder_of(storage: str | Path, run_id: str) -> Path:
    """Where a stored run keeps checkpoints, logs and its report: beside a file, else in `.frugalbo`."""
    text = str(storage).removeprefix("sqlite:///")
    return (Path(DEFAULT_STORAGE) if "://" in text else Path(text)).absolute().parent / run_id


def read_study(store: Store, run_id: str) -> Study:
    """A stored run as it stands, to look at."""
    record = store.run(run_id)
    pools = Settings(**record.spec.get("settings", {})).pools
    ledger = Ledger(Budget.of(record.spec["budget"]), budgets_of(pools))
    study = Study(stored_problem(record), ledger).replay(event for _, event in store.read(run_id))
    ledger.pass_time(store.wall_seconds(run_id))
    return study
