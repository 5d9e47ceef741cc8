"""Ax's service loop with money: a thin client around `Client`.

    client.configure_experiment(...); client.configure_optimization("-loss")
    paying = BudgetedClient(client, "2 GPU-hours", file="run.json")
    while (asked := paying.ask()) is not None:
        paying.tell(asked.trial_index, {"loss": train(asked.parameters)}, cost="93s")

Nothing starts before its upper cost is held; what it cost is a tracking metric, so Ax's own analyses show it. All
state is in the Ax experiment (`record`), so there is no second store that could disagree: whatever saves the
experiment saves the accounts. With `file`, or a client with a database, that is done before each call returns.

After a crash, `BudgetedClient.load(...)` goes on: what had been asked for and not told is `pending()`, still held and
still believed; evaluate it again, or `fail` it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ax.api.client import Client
from ax.core.experiment import Experiment
from ax.core.observation import ObservationFeatures
from ax.core.trial import Trial as AxTrial
from ax.core.trial_status import TrialStatus
from ax.core.types import TParameterization
from ax.exceptions.core import OptimizationComplete
from ax.version import version as ax_version

from frugalbo.budget.afford import Refusal
from frugalbo.budget.amounts import Budget, Cost, parse_amount
from frugalbo.budget.ledger import Balance
from frugalbo.errors import BudgetError, StudyError
from frugalbo.events import Ended, Event, Failure, Outcome, Reported, Started
from frugalbo.integrations.ax.best import Best, best_point
from frugalbo.integrations.ax.convert import COST_METRIC, experiment_of, name_of, problem_of
from frugalbo.integrations.ax.node import FrugalNode, check_budget, generation_strategy
from frugalbo.integrations.ax.record import KEY, SLOT, Terms, explanation, record, recorded
from frugalbo.integrations.ax.storage import load, load_sqlite, save
from frugalbo.study import Study

Data = Mapping[str, float | tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Asked:
    """A trial to evaluate.

    Args:
        cap_s: The device-seconds that are held for it: end it then. Infinite where they are not limited.
    """

    trial_index: int
    parameters: TParameterization
    cap_s: float
    why: Mapping[str, Any] = field(default_factory=dict)


class BudgetedClient:
    """Asks, holds, is told with a cost, and refuses what does not fit.

    Args:
        client: With an experiment and an objective. Its own generation strategy stays if it has one, else it
            gets ours (`method`, `seed`, `min_gain`, `cost`).
        budget: Of device-seconds, dollars or trials, as for `fb.tune`. None to go on with the experiment's.
        cost_metric: The tracking metric of device-seconds, added if it is not there.
        dollars_per_hour: The price of a device.
        steps: Of a full trial, where results come with progressions.
        file: A JSON snapshot, written at each change.

    Raises:
        BudgetError: If the budget cannot be kept, or is less than what was spent.
        StudyError: If the client has no experiment, or no budget is known.
        ProblemError: If its objective or constraints are of a kind that ours are not.
        SpaceError: If its search space is.
    """

    def __init__(
        self,
        client: Client,
        budget: Budget | str | float | Mapping[str, Any] | None = None,
        *,
        method: str = "auto",
        seed: int = 0,
        min_gain: str | None = None,
        cost: str | None = None,
        cost_metric: str | None = None,
        dollars_per_hour: float | None = None,
        steps: int | None = None,
        file: str | Path | None = None,
    ) -> None:
        experiment = experiment_of(client)
        known = {COST_METRIC: COST_METRIC, **experiment._properties.get(KEY, {})}
        if budget is None and "budget" not in known:
            raise StudyError(f"{name_of(experiment)} was given no budget yet: expected one, such as '2 GPU-hours'")
        amount = Budget.of(known["budget"] if budget is None else budget)
        terms = {
            "cost_metric": cost_metric or known.get("cost_metric", COST_METRIC),
            "dollars_per_hour": known.get("dollars_per_hour", 0.0) if dollars_per_hour is None else dollars_per_hour,
            "cost": cost or known.get("cost"),
            "steps": steps or known.get("steps"),
        }
        check_budget(amount, terms["dollars_per_hour"])
        self.client = client
        self.file = None if file is None else Path(file)
        strategy = client._maybe_generation_strategy
        if strategy is None:
            strategy = generation_strategy(method=method, budget=amount, seed=seed, min_gain=min_gain, **terms)
        # One node does the sums, whoever suggests.
        self._node = FrugalNode(budget=amount.to_json(), **terms)
        if budget is not None:
            _check_covers(self._node, experiment)
        for node in strategy._nodes:
            if isinstance(node, FrugalNode):
                node.budget = amount.to_json()
        experiment._properties[KEY] = {
            **experiment._properties.get(KEY, {}), "ax": ax_version, "budget": amount.to_json(), **terms,
        }  # fmt: skip
        if terms["cost_metric"] not in experiment.metrics:
            client.configure_tracking_metrics([terms["cost_metric"]])
        client._save_experiment_to_db_if_possible(experiment)
        client.set_generation_strategy(strategy)
        self._complete_what_was_told()
        self._save()

    @classmethod
    def load(
        cls,
        where: str | Path,
        *,
        name: str | None = None,
        budget: Budget | str | float | Mapping[str, Any] | None = None,
    ) -> Self:
        """Go on with a stored experiment.

        Args:
            where: The JSON file, or with `name` an SQLite database.
            name: The experiment's, in a database.
            budget: A new one for the whole experiment, what is spent included.

        Raises:
            StorageError: If there is nothing that can be read.
        """
        if name is not None:
            return cls(load_sqlite(where, name), budget)
        return cls(load(where), budget, file=where)

    @property
    def experiment(self) -> Experiment:
        """Ax's."""
        return experiment_of(self.client)

    def study(self) -> Study:
        """The experiment as a study, with its accounts."""
        return self._node.study_of(self.experiment)

    def balance(self) -> Balance:
        """What there was, is spent, and is held."""
        return _balance(self.study())

    def best(self) -> Best | None:
        """The best point by our rule; see `best_point`."""
        return best_point(self.experiment, self.study())

    def pending(self) -> list[Asked]:
        """What was asked for and not told, the earliest first."""
        found = [t for t in self.experiment.trials.values() if t.status == TrialStatus.RUNNING]
        return [self._asked(trial) for trial in found if isinstance(trial, AxTrial)]

    def ask(self, *, sharers: int = 1, fixed_parameters: TParameterization | None = None) -> Asked | None:
        """The next trial, whose upper cost is now held; None when the budget does not pay for another one.

        Args:
            sharers: How many trials you are about to run at once; while nothing is known of costs, they share evenly.
            fixed_parameters: Values that it must have.

        Raises:
            SpaceError: If no configuration has these values.
        """
        self.reason = ""
        fixed = None if fixed_parameters is None else ObservationFeatures(parameters=dict(fixed_parameters))
        try:
            run = self.client._generation_strategy.gen_single_trial(self.experiment, fixed_features=fixed)
        except OptimizationComplete as error:
            self.reason = str(error)
            return None
        study = self.study()
        _, translation = problem_of(self.experiment)
        params = translation.from_ax(run.arms[0].parameters)
        found = self._node.affordable(study, params, sharers=sharers)
        assert found is not None
        if isinstance(found, Refusal):
            self.reason = found.reason
            return None
        trial = self.experiment.new_trial(generator_run=run)
        steps = study.problem.steps
        started = Started(trial.index, 0, params, 0, steps, steps, found.held, SLOT, time.time(), explanation(trial))
        record(trial, started)
        trial.mark_running(no_runner_required=True)
        self.client._save_or_update_trials_in_db_if_possible(self.experiment, [trial])
        self.client._save_generation_strategy_to_db_if_possible(self.client._generation_strategy)
        self._save()
        return self._asked(trial)

    reason: str = ""  # why the last `ask` gave nothing, in a sentence

    def report(self, trial_index: int, step: int, data: Data) -> None:
        """Tell of a running trial after `step` steps; the last step is told with `tell`.

        Raises:
            StudyError: If nothing can be told of that trial, or a metric is unknown or no number.
        """
        trial = self._running(trial_index)
        values = self._values(trial_index, data)
        steps = recorded(trial)[0].planned if recorded(trial) else 1  # type: ignore[union-attr]
        if not 1 <= step < steps:
            raise StudyError(f"trial {trial_index}: expected a step from 1 to {steps - 1}, got {step!r}")
        record(trial, Reported(trial_index, 0, step, values, time.time()))
        self.client.attach_data(trial_index, dict(data), progression=step)
        self._save()

    def tell(self, trial_index: int, data: Data, *, cost: str | float | None = None) -> None:
        """Say what came out of a trial and what it cost; an objective that is not finite is a failure.

        Args:
            trial_index: As it was asked.
            data: The objective, the metrics of the constraints, and any other that the experiment has; with
                standard errors or without.
            cost: Text such as `"93s"`, or a number of device-seconds. Needed where the budget is of these or of money.

        Raises:
            StudyError: If the trial is not running, or a metric is missing, unknown, or no number.
            BudgetError: If the cost is missing or cannot be read.
        """
        trial = self._running(trial_index)
        problem, _ = problem_of(self.experiment)
        metric = problem.objective.metric
        values = self._values(trial_index, data)
        for needed in (metric, *(c.metric for c in problem.bounds)):
            if needed not in values:
                raise StudyError(
                    f"trial {trial_index}: expected a value of {needed!r}, got {', '.join(values) or 'none'}"
                )
        seconds = self._seconds(trial_index, cost)
        if not math.isfinite(values[metric]):
            self._end(trial, seconds, values, Outcome.FAILED, Failure.DIVERGED, f"{metric} is {values[metric]}")
            return
        self._end(trial, seconds, values, Outcome.COMPLETED, None, "", told=data)

    def fail(self, trial_index: int, reason: str, *, cost: str | float | None = None) -> None:
        """Say that a trial failed, and what it cost.

        Raises:
            StudyError: If the trial is not running.
            BudgetError: If the cost is missing or cannot be read.
        """
        trial = self._running(trial_index)
        self._end(trial, self._seconds(trial_index, cost), {}, Outcome.FAILED, Failure.ERROR, reason)

    def stop(self, trial_index: int, reason: str = "", *, cost: str | float | None = None) -> None:
        """Say that a trial was stopped early; what it reported so far counts for what it is.

        Raises:
            StudyError: If the trial is not running.
            BudgetError: If the cost is missing or cannot be read.
        """
        trial = self._running(trial_index)
        self._end(trial, self._seconds(trial_index, cost), {}, Outcome.STOPPED, None, reason)

    def _end(
        self,
        trial: AxTrial,
        seconds: float,
        values: Mapping[str, float],
        outcome: Outcome,
        failure: Failure | None,
        message: str,
        told: Data | None = None,
    ) -> None:
        """Write down first, then tell Ax: what stands in the record is completed by `load` after a crash."""
        now, terms = time.time(), self._terms()
        events: list[Event] = []
        if not recorded(trial):  # asked for by other means
            params = problem_of(self.experiment)[1].from_ax(trial.arms[0].parameters)
            steps, held = terms.steps, Cost(evaluations=1.0)
            events = [Started(trial.index, 0, params, 0, steps, steps, held, SLOT, now, explanation(trial))]
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        if finite:
            events.append(Reported(trial.index, 0, terms.steps, finite, now))
        events.append(Ended(trial.index, 0, outcome, terms.cost(seconds), now, 0, failure, message))
        record(trial, *events)
        steps = terms.steps if terms.steps > 1 else None
        data = dict(told or {}) | {terms.cost_metric: seconds}
        self.client.attach_data(trial.index, data, progression=steps)
        self._mark(trial, outcome, message)
        self._save()

    def _mark(self, trial: AxTrial, outcome: Outcome, message: str) -> None:
        match outcome:
            case Outcome.COMPLETED:
                self.client.complete_trial(trial.index)
            case Outcome.STOPPED:
                self.client.mark_trial_early_stopped(trial.index)
            case _:
                self.client.mark_trial_failed(trial.index, failed_reason=message)

    def _complete_what_was_told(self) -> None:
        """Tell Ax what the record knows, and Ax does not, as a crash came between the two."""
        for trial in list(self.experiment.trials.values()):
            if trial.status == TrialStatus.RUNNING and isinstance(trial, AxTrial) and (own := recorded(trial)):
                last = own[-1]
                if isinstance(last, Ended):
                    self._mark(trial, last.outcome, last.message)

    def _running(self, trial_index: int) -> AxTrial:
        trial = self.experiment.trials.get(trial_index)
        if not isinstance(trial, AxTrial) or trial.status != TrialStatus.RUNNING:
            state = "was never asked for" if trial is None else f"is already {trial.status.name}"
            raise StudyError(f"trial {trial_index} {state}, so nothing can be told of it")
        return trial

    def _values(self, trial_index: int, data: Data) -> dict[str, float]:
        metrics = self.experiment.metrics
        found: dict[str, float] = {}
        for name, given in data.items():
            if name not in metrics:
                raise StudyError(
                    f"trial {trial_index}: unknown metric {name!r}; the experiment has {', '.join(metrics)}"
                )
            if name == self._node.cost_metric:
                raise StudyError(f"trial {trial_index}: {name!r} is what the trial cost; give it as cost=...")
            value = given[0] if isinstance(given, tuple) else given
            if isinstance(value, (str, bytes, bool)) or not hasattr(value, "__float__"):
                raise StudyError(f"trial {trial_index}: expected a number for {name!r}, got {given!r}")
            found[name] = float(value)
        return found

    def _seconds(self, trial_index: int, cost: str | float | None) -> float:
        if cost is None:
            budget = self._node.budget or {}
            if {"device_seconds", "dollars"} & set(budget):
                raise BudgetError(f"trial {trial_index}: expected what it cost, such as cost='93s', got none")
            return 0.0
        resource, seconds = parse_amount(cost) if isinstance(cost, str) else ("device_seconds", float(cost))
        if resource != "device_seconds" or not 0 <= seconds < math.inf:
            raise BudgetError(f"trial {trial_index}: expected a cost in device-seconds, such as '93s', got {cost!r}")
        return seconds

    def _terms(self) -> Terms:
        problem = self.study().problem
        node = self._node
        return Terms(problem.steps, problem.objective.metric, node.cost_metric, node.dollars_per_hour)

    def _asked(self, trial: AxTrial) -> Asked:
        own = recorded(trial)
        held = own[0].held if own and isinstance(own[0], Started) else Cost()
        cap_s = math.inf
        if {"device_seconds", "dollars"} & set(self._node.budget or {}):
            rate = self._node.dollars_per_hour / 3600
            cap_s = held.device_seconds or (held.dollars / rate if rate else 0.0)
        return Asked(trial.index, dict(trial.arms[0].parameters), cap_s, explanation(trial))

    def _save(self) -> None:
        if self.file is not None:
            save(self.client, self.file)


def _balance(study: Study) -> Balance:
    assert study.ledger is not None
    return study.ledger.balance()


def _check_covers(node: FrugalNode, experiment: Experiment) -> None:
    try:
        accounts = _balance(node.study_of(experiment)).limited
    except BudgetError as error:
        raise BudgetError(f"the budget does not cover what {name_of(experiment)} holds: {error}") from None
    for name, account in accounts.items():
        if account.overrun > 0:
            spent = f"{account.spent:.6g} {name.replace('_', ' ')}"
            raise BudgetError(f"the budget of {account.total:.6g} does not cover the {spent} that are spent already")
