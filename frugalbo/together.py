"""Several problems share one budget: each has a run of its own, and they take turns.

While a problem has its turn, what the others have spent counts in its ledger as spent. So the accounts are joint, and
are kept by the rules by which one run keeps to its budget. Nothing is stored but the runs, each with the name of its
group in its spec: whose turn is next follows from their journals (`docs/sharing.md`).
"""

from __future__ import annotations

import itertools
import math
import tempfile
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self, cast

import numpy as np

from frugalbo.api import executor_of, seconds, take_turn
from frugalbo.budget.amounts import Budget, Cost, Resource
from frugalbo.budget.ledger import Account, Balance
from frugalbo.budget.price import Market
from frugalbo.errors import BudgetError, ProblemError, StorageError
from frugalbo.executors.base import Executor
from frugalbo.problem import Problem, load_problem
from frugalbo.report import Report, wording
from frugalbo.run import INTERRUPTED, PAUSED, Observer
from frugalbo.session import OpenStudy
from frugalbo.store import RunRecord, Store
from frugalbo.stored import DEFAULT_STORAGE, Settings, read_study, spec_of, stored_problem
from frugalbo.study import Status, Study

LEAST: Final = 4  # results before a problem is compared with others
_BEST: Final = 0.2  # the share of results that tell the tail
TURN_OVER: Final = "another problem's turn"
SPENT: Final = "the shared budget is spent"

Where = Mapping[str, Executor]


@dataclass(frozen=True, slots=True)
class Turn:
    """A stretch in which one problem had the devices.

    Args:
        name: The problem's.
        from_s: When its first segment started, in the seconds of the events.
        until_s: When its last one ended; None while it runs.
        segments: How many started.
    """

    name: str
    from_s: float
    until_s: float | None
    segments: int


@dataclass(frozen=True, slots=True)
class Together:
    """What came of problems that shared a budget.

    Args:
        reports: By the problem's name.
        budget: Of all together.
        stop_reason: Why nothing more was started, for people.
    """

    reports: Mapping[str, Report]
    budget: Budget
    stop_reason: str

    def spent(self, resource: Resource) -> dict[str, float]:
        """What each problem was charged of a resource."""
        return {name: _spent(report.study, resource) for name, report in self.reports.items()}

    def turns(self) -> list[Turn]:
        """Who had the devices when, from the journals."""
        started = sorted(
            (start.at, name, end.at if end else None)
            for name, report in self.reports.items()
            for trial in report.study.trials.values()
            for start, end in itertools.zip_longest(trial.starts, trial.ends)
        )
        found = []
        for name, group in itertools.groupby(started, key=lambda start: start[1]):
            segments = list(group)
            ends = [end for _, _, end in segments]
            until = None if None in ends else max(end for end in ends if end is not None)
            found.append(Turn(name, segments[0][0], until, len(segments)))
        return found

    def summary(self) -> str:
        """What each problem reached, and how the budget was shared out, as plain text."""
        limits = self.budget.limits()
        limits.pop("memory_bytes", None)
        lines = [f"{len(self.reports)} problems, {len(self.turns())} turns: {self.stop_reason}", ""]
        for name, report in self.reports.items():
            lines.append(f"{name} ({report.run_id}): {wording.headline(report.study)}")
        for resource, total in limits.items():
            spent = self.spent(resource)
            parts = [f"{name} {wording.amount(resource, s)} ({wording.share(s, total)})" for name, s in spent.items()]
            left = max(0.0, total - math.fsum(spent.values()))
            lines += [
                "",
                f"{wording.amount(resource, total)} shared out: {', '.join(parts)}, {wording.share(left, total)} left",
            ]
        return "\n".join(lines)


def tune_together(
    problems: Mapping[str, Problem | str | Path],
    *,
    budget: Budget | str | float | Mapping[str, Any],
    worth: Mapping[str, float] | None = None,
    seed: int = 0,
    method: str = "auto",
    scheduler: str = "auto",
    devices: str | None = None,
    dollars_per_hour: float = 0.0,
    trial_cap: str | float | None = None,
    storage: str | Path | None = None,
    executors: Where | None = None,
    observe: Observer | None = None,
) -> Together:
    """Tune several problems with one budget, each next trial where it is expected to bring most for its price.

    Args:
        problems: By name; the name is also that of the run.
        budget: Of all together, as for `tune`.
        worth: What a unit of each objective is worth, above 0, in any common unit; by default each problem's unit is
            the distance from the median of its results to the best.
        seed: As for `tune`.
        method: The same.
        scheduler: The same.
        devices: The same.
        dollars_per_hour: The same.
        trial_cap: The same, for one trial of any of them.
        storage: The same; they are runs in it like others.
        executors: Where the trials of each problem run, if not on this machine's devices; all of them.
        observe: As for `tune`; the balance is that of all problems together.

    Raises:
        FrugalError: If the problems, their worth, the budget or the devices do not make sense.
    """
    loaded = {name: p if isinstance(p, Problem) else load_problem(p) for name, p in problems.items()}
    if len(loaded) < 2:
        raise ProblemError(f"expected two problems or more to share a budget, got {len(loaded)}")
    _check_worth(worth, loaded)
    _check_executors(executors, loaded)
    amount = Budget.of(budget)
    settings = Settings(method, scheduler, devices, dollars_per_hour, seconds(trial_cap))
    if amount.dollars is not None and not settings.is_priced and executors is None:
        raise BudgetError("a budget of money needs the price of a device: expected dollars_per_hour above 0, got 0")
    group = {"id": uuid.uuid4().hex, "worth": None if worth is None else dict(worth)}
    with ExitStack() as stack:
        if storage is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="frugalbo-", ignore_cleanup_errors=True))
            storage = Path(folder) / "runs.db"
        with Store(storage) as store:
            for name, problem in loaded.items():
                spec = {**spec_of(problem, amount, seed, settings), "together": {**group, "name": name}}
                store.create_run(spec, name=name)
        return _Turns(storage, group["id"], loaded, executors, observe).take()


def resume_together(
    *,
    storage: str | Path = DEFAULT_STORAGE,
    problems: Mapping[str, Problem] | None = None,
    budget: Budget | str | float | Mapping[str, Any] | None = None,
    executors: Where | None = None,
    observe: Observer | None = None,
) -> Together:
    """Go on with the newest problems that share a budget: after a crash, an interrupt, or with a larger budget.

    Args:
        storage: Where they are stored.
        problems: Needed of those whose job is a function that only lived in memory.
        budget: A new one for all together, including what is already spent.
        executors: As for `tune_together`.
        observe: As for `tune_together`.

    Raises:
        StorageError: If there are none.
    """
    with Store(storage) as store:
        found = [record for record in store.runs() if "together" in record.spec]
        if not found:
            raise StorageError(f"there are no runs in {store} that share a budget")
    group = found[-1].spec["together"]["id"]
    turns = _Turns(storage, group, problems or {}, executors, observe)
    turns.amount = None if budget is None else Budget.of(budget)
    return turns.take()


@dataclass(slots=True)
class _Turns:
    """One controller's pass over the runs of a group."""

    storage: str | Path
    group: str
    problems: Mapping[str, Problem]
    executors: Where | None
    observe: Observer | None
    amount: Budget | None = None
    _open: dict[str, Executor] = field(default_factory=dict, init=False)

    def take(self) -> Together:
        """Let problems take turns until the budget is spent or nobody has anything more to try."""
        with ExitStack() as stack:
            return self._take(stack)

    def _take(self, stack: ExitStack) -> Together:
        closed: dict[str, str] = {}
        reason = ""
        while True:
            with Store(self.storage) as store:
                records = self._records(store)
                studies = {name: read_study(store, record.id) for name, record in records.items()}
            first = next(iter(records.values()))
            budget = self.amount or Budget.of(first.spec["budget"])
            _check_executors(self.executors, studies)
            if reason in (INTERRUPTED, PAUSED):
                break
            balance = joint(studies.values(), budget)
            left_behind = [name for name, study in studies.items() if study.count(Status.RUNNING)]
            worth = first.spec["together"]["worth"]
            name = left_behind[0] if left_behind else following(studies, balance, worth, closed)
            if not left_behind and (balance.exhausted(to_go_on=True) or name is None):
                reason = SPENT if balance.exhausted(to_go_on=True) else _endings(closed)
                break
            assert name is not None
            if name not in self._open:
                self._open[name] = stack.enter_context(self._executor(name, records[name]))
            reason = self._turn(name, records, studies, budget, closed)
            if reason not in (TURN_OVER, INTERRUPTED, PAUSED):
                closed[name] = reason
        reports = {
            name: Report(study, run_id=records[name].id, stop_reason=closed.get(name, reason))
            for name, study in studies.items()
        }
        return Together(reports, budget, reason)

    def _executor(self, name: str, record: RunRecord) -> Executor:
        if self.executors is not None:
            return self.executors[name]
        problem = self.problems.get(name) or stored_problem(record)
        return executor_of(problem, Settings(**record.spec["settings"]))

    def _records(self, store: Store) -> dict[str, RunRecord]:
        runs = [run for run in store.runs() if run.spec.get("together", {}).get("id") == self.group]
        return {run.spec["together"]["name"]: run for run in runs}

    def _turn(
        self, name: str, records: Mapping[str, RunRecord], studies: Mapping[str, Study], budget: Budget,
        closed: Mapping[str, str],
    ) -> str:  # fmt: skip
        """One turn of a problem; returns why it ended."""
        others = {other: study for other, study in studies.items() if other != name}
        worth = records[name].spec["together"]["worth"]

        def over(study: OpenStudy) -> str | None:
            if len(study.settled) == len(studies[name].settled):
                return None  # at least one segment in a turn
            now = {other: study if other == name else studies[other] for other in studies}
            return None if following(now, study.balance(), worth, closed) == name else TURN_OVER

        return take_turn(
            records[name].id,
            self.storage,
            self.problems.get(name),
            budget,
            elsewhere=spent_elsewhere(others.values()),
            over=over,
            executor=cast("Executor", _Borrowed(self._open[name])),
            observe=self.observe,
        )


class _Borrowed:
    """An executor that stays open when a run loop is done with it: to start one anew takes seconds."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever an executor has
        return getattr(self._executor, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Nothing: whoever opened it closes it."""


def joint(studies: Iterable[Study], budget: Budget) -> Balance:
    """The accounts of all studies together."""
    limits, balances = budget.limits(), [study.ledger.balance() for study in studies if study.ledger]
    return Balance({
        name: Account(
            limits.get(name, math.inf),
            math.fsum(balance[name].spent for balance in balances),
            math.fsum(balance[name].held for balance in balances),
        )
        for name in balances[0].accounts
    })  # fmt: skip


def spent_elsewhere(studies: Iterable[Study]) -> Cost:
    """What these studies have spent, with what is held for segments that a controller has left behind."""
    accounts = [study.ledger.balance().accounts for study in studies if study.ledger]
    names: tuple[Resource, ...] = ("device_seconds", "dollars", "evaluations", "wall_seconds")
    return Cost(**{name: math.fsum(a[name].spent + a[name].held for a in accounts) for name in names})


def following(
    studies: Mapping[str, Study], balance: Balance, worth: Mapping[str, float] | None, closed: Iterable[str] = ()
) -> str | None:
    """Whose turn it is: None if all are closed. The first of those that are equal."""
    open_ = {name: study for name, study in studies.items() if name not in set(closed)}
    if not open_:
        return None
    results = {name: len(_losses(study)) for name, study in open_.items()}
    if few := [name for name in open_ if results[name] < LEAST]:
        return min(few, key=results.__getitem__)
    market = Market.of(balance)
    return max(open_, key=lambda name: index(open_[name], market, (worth or {}).get(name)))


def index(study: Study, market: Market, worth: float | None = None) -> float:
    """What the next result is expected to improve, by worth, over what a result is charged; infinite if nothing."""
    losses = _losses(study)
    unit = 1 / worth if worth else float(np.median(losses) - min(losses))
    gain = expected_gain(losses) / unit if unit > 0 else 0.0
    spent = {name: _used(study, name) for name in market.whole.budgets}
    charge = market.whole.charge(spent) / len(losses)
    return gain / charge if charge > 0 else math.inf


def expected_gain(losses: Sequence[float]) -> float:
    """By how much the next of n + 1 equal draws is expected to fall below the least of n; at least two.

    It is a record with chance 1 / (n + 1), and then by the scale of the tail, which the m least tell: the next one
    above them less their mean. That is exact in expectation where the tail is exponential, as then
    k (y_(k + 1) - y_(k)) are independent and exponential with that scale (Renyi), and their mean over k is this.
    """
    ordered = np.sort(np.asarray(losses, float))
    m = min(len(ordered) - 1, max(2, math.ceil(_BEST * len(ordered))))
    return float(ordered[m] - ordered[:m].mean()) / (len(ordered) + 1)


def _losses(study: Study) -> list[float]:
    """At the furthest step to which enough trials were sent and got; at that with the most, where there is none."""
    most: list[float] = []
    for step in sorted({start.until for trial in study.trials.values() for start in trial.starts}, reverse=True):
        values = (study.value_by(trial, step) for trial in study.trials.values())
        losses = [study.problem.objective.to_loss(value) for value in values if value is not None]
        if len(losses) >= LEAST:
            return losses
        most = max(most, losses, key=len)
    return most


def _spent(study: Study, resource: str) -> float:
    return 0.0 if study.ledger is None else study.ledger.balance().accounts[resource].spent  # type: ignore[index]


def _used(study: Study, resource: str) -> float:
    """What its segments were charged; of wall time, how long they were on their slots."""
    trials = study.trials.values()
    if resource == "wall_seconds":
        return math.fsum(e.at - s.at for t in trials for s, e in zip(t.starts, t.ends, strict=False))
    return math.fsum(trial.used(resource) for trial in trials)


def _endings(closed: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in closed.items())


def _check_worth(worth: Mapping[str, float] | None, problems: Iterable[str]) -> None:
    if worth is None:
        return
    if set(worth) != set(problems):
        raise ProblemError(f"expected the worth of a unit of each of {sorted(problems)}, got {sorted(worth)}")
    for name, amount in worth.items():
        if isinstance(amount, bool) or not isinstance(amount, (int, float)) or not 0 < amount < math.inf:
            raise ProblemError(f"expected the worth of a unit of {name!r} above 0, got {amount!r}")


def _check_executors(executors: Where | None, problems: Iterable[str]) -> None:
    if executors is not None and set(executors) != set(problems):
        raise ProblemError(f"expected an executor for each of {sorted(problems)}, got {sorted(executors)}")
