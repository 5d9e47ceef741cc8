"""What would a budget buy? The same loop on recorded trials, under the virtual clock, many times over.

`simulate` spends a budget as `tune` would, once for each seed, among the configurations of a `Recording`: nothing is
interpolated. What comes out is what the budget would have bought among these.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from frugalbo.api import CONFIDENCE
from frugalbo.budget.amounts import Budget, Cost, Resource
from frugalbo.budget.cost import cost_model
from frugalbo.budget.ledger import Balance
from frugalbo.errors import ExecutorError, ProblemError
from frugalbo.executors.devices import simulated_slots
from frugalbo.executors.simulated import Curve, Hazards, SimulatedExecutor
from frugalbo.pool import Pool, read_pools
from frugalbo.propose import make_proposer
from frugalbo.propose.base import Proposer, Suggestion, Tried, key_of
from frugalbo.recording import Recording
from frugalbo.run import RunLoop
from frugalbo.scheduler import make_scheduler
from frugalbo.session import OpenStudy
from frugalbo.space import Params
from frugalbo.study import Status, Study

SHARES = (0.125, 0.25, 0.5, 1.0)
_INTERVAL = (0.1, 0.9)
_SHOWN: tuple[Resource, ...] = ("device_seconds", "dollars")


class RecordedProposer:
    """Chooses among recorded configurations only.

    Args:
        inner: Suggests; the nearest untried one in the unit cube takes the place of each suggestion. None to
            choose at random.
    """

    def __init__(self, recording: Recording, *, seed: int, inner: Proposer | None = None) -> None:
        self._params = [params for params, _ in recording.curves]
        self._order = np.random.default_rng([seed]).permutation(len(self._params)).tolist()
        self._inner = inner
        self._units = np.array([recording.problem.space.encode(params) for params in self._params])

    def propose(self, study: Study, n: int) -> Sequence[Suggestion]:
        """The next `n`; fewer if there are no more."""
        tried = Tried(study)
        left = [i for i in self._order if self._params[i] not in tried]
        if self._inner is None or not left:
            return [Suggestion(dict(self._params[i]), {"method": "recorded"}) for i in left[:n]]
        found = []
        for suggestion in self._inner.propose(study, min(n, len(left))):
            u = study.problem.space.encode(suggestion.params)
            nearest = left.pop(int(np.argmin(((self._units[left] - u) ** 2).sum(axis=1))))
            found.append(Suggestion(dict(self._params[nearest]), suggestion.why, suggestion.not_worth))
        return found


@dataclass(frozen=True, slots=True)
class Purchase:
    """What a budget bought, over the seeds.

    Args:
        values: The best value of each seed; NaN where no trial had one.
        trials: The trials started, on average.
        completed: The trials that went to their end, on average.
        wall_s: Seconds on the clock, on average.
        spent: By pool, device-seconds and dollars, on average.
        exhausted: The share of seeds in which every recorded configuration was tried.
        partial: Of each seed in which no trial ran to its end, the step at which its trials are compared and the best
            value there; None for the others, and where nothing is known.
    """

    budget: Budget
    values: tuple[float, ...]
    trials: float
    completed: float
    wall_s: float
    spent: Mapping[str, Cost]
    exhausted: float
    partial: tuple[tuple[int, float] | None, ...] = ()

    @property
    def known(self) -> list[float]:
        """The values that are there."""
        return [value for value in self.values if not math.isnan(value)]

    @property
    def expected(self) -> float:
        """The mean of the best values."""
        return statistics.fmean(self.known) if self.known else math.nan

    @property
    def short(self) -> tuple[int, float, int] | None:
        """Short of the end: the step that most seeds came to, the furthest of equals; the mean there; how many seeds.

        None where no seed has such a result: each has one at the end, or none at all.
        """
        steps = Counter(found[0] for found in self.partial if found)
        if not steps:
            return None
        step = max(steps, key=lambda step: (steps[step], step))
        values = [found[1] for found in self.partial if found and found[0] == step]
        return step, statistics.fmean(values), len(values)

    @property
    def interval(self) -> tuple[float, float]:
        """Where the best values of four seeds in five lie."""
        if not self.known:
            return math.nan, math.nan
        low, high = np.quantile(self.known, _INTERVAL)
        return float(low), float(high)


def simulate(
    recording: Recording,
    *,
    budget: Budget | str | float | Mapping[str, Any],
    scheduler: str = "auto",
    method: str = "random",
    pools: Sequence[Pool | Mapping[str, Any]] | str | Path | None = None,
    devices: int = 1,
    dollars_per_hour: float = 0.0,
    seeds: int = 20,
    shares: Sequence[float] = SHARES,
    start_up_s: float = 0.0,
    reload_s: float = 0.0,
    hazards: Hazards | None = None,
) -> list[Purchase]:
    """What a budget, and shares of it, would buy on recorded trials.

    Args:
        recording: What may be chosen.
        budget: As for `tune`; each share of it is a run of its own, with that share of the pools' budgets too.
        scheduler: As for `tune`.
        method: As for `tune`; what it suggests is replaced by the nearest recorded configuration.
        pools: As for `tune`; the devices may be numbers.
        devices: How many there are, if there are no pools.
        dollars_per_hour: The price of one, if there are no pools.
        seeds: How many times each is played.
        shares: Of the budget.
        start_up_s: What each segment costs before its first step, beside what is recorded.
        reload_s: What a resumed segment costs on top.
        hazards: What goes wrong by itself; its seed is added to that of each run.

    Raises:
        FrugalError: If these do not make sense.
    """
    found = read_pools(pools) if pools is not None else (Pool("devices", devices, dollars_per_hour),)
    if seeds < 1 or not shares or not all(0 < share <= 1 for share in shares):
        raise ProblemError(f"expected at least one seed and shares of the budget in (0, 1], got {seeds} and {shares}")
    whole, slots = Budget.of(budget), simulated_slots(found)
    hazards = hazards or Hazards()
    curves = {key_of(params): curve for params, curve in recording.curves}
    problem = recording.problem

    def recorded(params: Params, planned: int, seed: int) -> Curve:
        if planned != problem.steps:
            text = f"the recorded trials were planned for {problem.steps} steps"
            raise ExecutorError(f"{text}, so nothing is known of one that is planned for {planned}")
        return curves[key_of(params)]

    def play(share: float, seed: int) -> _Played:
        inner = None if method == "random" else make_proposer(method, problem, seed=seed)
        proposer = RecordedProposer(recording, seed=seed, inner=inner)
        limits = {pool.name: _part(pool.limit, share) for pool in found if pool.limit is not None}
        study = OpenStudy(problem, _part(whole, share), pools=limits, clock=lambda: 0.0)
        ills = replace(hazards, seed=hazards.seed + seed)
        executor = SimulatedExecutor(problem, slots, recorded, start_up_s=start_up_s, reload_s=reload_s, hazards=ills)
        costs = cost_model(problem, CONFIDENCE)
        RunLoop(study, make_scheduler(scheduler, proposer, costs), executor, costs, Path("unused"), seed).run()
        return _Played(study, executor.now(), not proposer.propose(study, 1))

    return [_purchase(_part(whole, share), [play(share, seed) for seed in range(seeds)]) for share in shares]


@dataclass(frozen=True, slots=True)
class _Played:
    study: OpenStudy
    wall_s: float
    is_exhausted: bool


def _purchase(budget: Budget, played: Sequence[_Played]) -> Purchase:
    found = [p.study.best() for p in played]
    values = [None if best is None else p.study.value(best) for p, best in zip(played, found, strict=True)]
    balances = [p.study.balance() for p in played]
    names = dict.fromkeys(name for balance in balances for name in balance.pools)
    used = {name: [b.pools[name] for b in balances if name in b.pools] for name in names}
    spent = {name: Cost(*(_mean_spent(own, r, len(played)) for r in _SHOWN)) for name, own in used.items()}
    return Purchase(
        budget,
        tuple(math.nan if value is None else value for value in values),
        statistics.fmean(len(p.study.trials) for p in played),
        statistics.fmean(p.study.count(Status.COMPLETED) for p in played),
        statistics.fmean(p.wall_s for p in played),
        spent,
        statistics.fmean(p.is_exhausted for p in played),
        tuple(_short(p.study) if value is None else None for p, value in zip(played, values, strict=True)),
    )


def _short(study: Study) -> tuple[int, float] | None:
    """The step at which the trials of a study are compared, and the best value there."""
    step, value = study.compared_at(), study.best_value()
    return None if step is None or value is None else (step, value)


def _mean_spent(balances: Sequence[Balance], resource: Resource, n: int) -> float:
    return math.fsum(balance[resource].spent for balance in balances) / n


def _part(budget: Budget, share: float) -> Budget:
    """A share of a budget; memory is lent and not shared out, and of trials there is one at least."""
    limits = {name: amount * share for name, amount in budget.limits().items() if name != "memory_bytes"}
    if "evaluations" in limits:
        limits["evaluations"] = max(1.0, math.floor(limits["evaluations"]))
    return Budget(**limits, memory_bytes=budget.memory_bytes)
