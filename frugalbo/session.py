"""A study that is open for writing: the fold, its journal, its clock and its proposer.

`OpenStudy` is what `fb.open_study` gives to users who own the loop (`ask` / `tell`), and what the
run loop itself writes through. Every event is durable before it counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

from frugalbo.budget.amounts import Budget, Cost, parse_amount
from frugalbo.budget.ledger import Balance, Ledger
from frugalbo.errors import BudgetError, SpaceError, StudyError
from frugalbo.events import Ended, Event, Failure, Outcome, Reported, Started
from frugalbo.problem import Problem
from frugalbo.propose.base import Proposer, Suggestion
from frugalbo.study import Status, Study, Trial

if TYPE_CHECKING:
    from frugalbo.store import Lease

OWN_LOOP = "own loop"


class OpenStudy(Study):
    """A study with a journal behind it.

    Args:
        lease: The right to write to a stored run; None keeps the study in memory.
        proposer: Where `ask` gets its configurations from.
        wall_before: Seconds that earlier sessions of the run lived.
        pools: The budgets of pools of devices that have one.
        clock: Seconds since 1970 in UTC; by default one that is set once, here, so that it never jumps.
    """

    ledger: Ledger

    def __init__(
        self,
        problem: Problem,
        budget: Budget,
        *,
        lease: Lease | None = None,
        proposer: Proposer | None = None,
        wall_before: float = 0.0,
        pools: Mapping[str, Budget] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        super().__init__(problem, Ledger(budget, pools))
        self.proposer = proposer
        self._lease = lease
        self._clock = clock or _steady_clock()
        self._wall_before = wall_before
        self._opened = self._clock()
        self._on_close: list[Callable[[], None]] = []

    def record(self, *events: Event) -> None:
        """Write events down, then count them.

        Raises:
            StudyError: If one cannot follow those before it; nothing was written.
            BudgetError: If a hold does not fit; nothing was written.
            StorageError: If they could not be written; nothing was counted.
        """
        for event in events:
            self.check(event)
        if self._lease and events:
            self._lease.append(*events)
        for event in events:
            self.apply(event)

    def use_clock(self, clock: Callable[[], float]) -> None:
        """Take the time from `clock` from now on, such as an executor's virtual one."""
        self._wall_before += self._clock() - self._opened
        self._clock, self._opened = clock, clock()

    def renew(self) -> None:
        """Say that this controller is alive.

        Raises:
            LeaseError: If another controller has taken the run over.
        """
        if self._lease:
            self._lease.renew()

    @property
    def is_asked_to_pause(self) -> bool:
        """Whether the user wants this controller to end with all trials paused, see `frugalbo.pause`."""
        return self._lease is not None and self._lease.is_asked_to_pause

    def balance(self) -> Balance:
        """The accounts as of now."""
        self.ledger.pass_time(self._wall_before + max(0.0, self._clock() - self._opened))
        return self.ledger.balance()

    def ask(self, params: Mapping[str, Any] | None = None, *, hold: str | float | Cost | None = None) -> Trial:
        """The next configuration to try; it is pending until you `tell` of it.

        Args:
            params: A configuration of your own to be tried next, which may have been tried before; by
                default it is chosen by the study's method.
            hold: What to set aside for it, such as `"30s"`; by default nothing but one
                evaluation, so that only what you tell of is charged.

        Raises:
            BudgetError: If that is no longer free: the budget is spent. Or if nothing is expected to be worth
                its price; what is pending may change that.
            StudyError: If the space has no untried configuration left.
            SpaceError: If `params` is not a point of the space, or violates a known constraint.
        """
        own = None if params is None else self._own(params)
        if self.proposer is None and own is None:
            raise StudyError("this study was opened without a proposer, so it cannot be asked")
        held = _cost(hold, evaluations=1.0)
        balance = self.balance()
        spent = [name for name, account in balance.limited.items() if account.free <= 0]
        if lacking := balance.lacks(held) or (spent and spent[0]):
            raise BudgetError(f"the budget has no {str(lacking).replace('_', ' ')} left for another trial")
        suggestions = [own] if own is not None or self.proposer is None else self.proposer.propose(self, 1)
        if not suggestions or suggestions[0] is None:
            raise StudyError("every configuration of the space has been tried")
        number, steps = len(self.trials), self.problem.steps
        suggestion = suggestions[0]
        if suggestion.not_worth:
            raise BudgetError(suggestion.not_worth)
        self.record(
            Started(number, 0, suggestion.params, 0, steps, steps, held, OWN_LOOP, self._clock(), suggestion.why)
        )
        return self.trials[number]

    def _own(self, params: Mapping[str, Any]) -> Suggestion:
        space = self.problem.space
        whole = space.complete(params)
        space.check(whole)
        if not space.is_feasible(whole):
            raise SpaceError(f"{whole!r} violates one of the known constraints {list(space.constraints)}")
        return Suggestion(whole, {"method": "own"})

    def tell(
        self,
        trial: Trial | int,
        value: float | Mapping[str, float] | None = None,
        *,
        cost: str | float | Cost | None = None,
        failed: str | None = None,
    ) -> None:
        """Say what came out of a trial.

        Args:
            trial: The trial that `ask` gave, or its number.
            value: The objective, or a mapping of metrics that has it and those of the problem's constraints.
            cost: What it cost: text such as `"12s"`, or a number of device-seconds.
            failed: If it failed, why, in a sentence; a value that is not finite is a failure too.

        Raises:
            StudyError: If the trial is not pending, or there is neither a value nor a failure.
        """
        number = trial if isinstance(trial, int) else trial.number
        known = self.trials.get(number)
        if known is None or known.status != Status.RUNNING:
            state = "was never asked for" if known is None else f"is already {known.status}"
            raise StudyError(f"trial {number} {state}, so nothing can be told of it")
        metric = self.problem.objective.metric
        metrics = dict(value) if isinstance(value, Mapping) else {} if value is None else {metric: value}
        if failed is None and metric not in metrics:
            raise StudyError(f"trial {number}: expected a value of {metric!r} or failed='the reason', got {value!r}")
        for constraint in self.problem.bounds:
            if failed is None and constraint.metric not in metrics:
                needed = (
                    f"a value of {constraint.metric!r} too, for the constraint '{constraint}' (nan if there is none)"
                )
                raise StudyError(f"trial {number}: expected {needed}, got {value!r}")
        for name, number_ in metrics.items():
            if isinstance(number_, (str, bytes)) or not hasattr(number_, "__float__"):
                raise StudyError(f"trial {number}: expected a number for {name!r}, got {number_!r}")
        metrics = {name: float(v) for name, v in metrics.items()}
        used = _cost(cost, evaluations=1.0)
        segment, now, failure = len(known.starts) - 1, self._clock(), None
        if failed is not None:
            failure = Failure.ERROR
        elif not math.isfinite(metrics[metric]):
            failure, failed = Failure.DIVERGED, f"{metric} is {metrics[metric]}"
        outcome = Outcome.FAILED if failure else Outcome.COMPLETED
        events: list[Event] = [Reported(number, segment, known.planned, metrics, now)] if metrics else []
        events.append(Ended(number, segment, outcome, used, now, 0, failure, failed or ""))
        self.record(*events)

    def on_close(self, call: Callable[[], None]) -> None:
        """Have `call` called by `close`."""
        self._on_close.append(call)

    def close(self) -> None:
        """Let another controller write to the run."""
        self._lease = None
        while self._on_close:
            self._on_close.pop()()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _steady_clock() -> Callable[[], float]:
    epoch = time.time() - time.monotonic()
    return lambda: epoch + time.monotonic()


def _cost(amount: str | float | Cost | None, *, evaluations: float) -> Cost:
    if isinstance(amount, Cost):
        return amount
    fields: dict[str, Any] = {"evaluations": evaluations}
    if isinstance(amount, str):
        resource, number = parse_amount(amount)
        fields[resource] = number
    elif amount is not None:
        fields["device_seconds"] = float(amount)
    return Cost(**fields)
