"""Ax experiments as studies of ours, and studies as Ax experiments.

    study = from_ax(client)            # or its experiment
    experiment = to_ax(study)          # client.set_experiment(experiment): Ax's analyses work on it
    losses(study), losses(experiment)  # what the other side has no place for

What both sides have is kept: parameters, conditions, linear constraints, objective, outcome constraints, every
metric at every step, statuses, times. What only we have is in the trials' `run_metadata` and the experiment's
`properties`, where Ax's stores keep it, so that `from_ax(to_ax(study))` is the study; Ax's own methods do not see it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import pandas as pd
from ax.api.client import Client
from ax.core.arm import Arm
from ax.core.batch_trial import BatchTrial
from ax.core.data import Data
from ax.core.experiment import Experiment
from ax.core.map_metric import MapMetric
from ax.core.metric import Metric
from ax.core.objective import Objective as AxObjective
from ax.core.optimization_config import OptimizationConfig
from ax.core.outcome_constraint import OutcomeConstraint as AxConstraint
from ax.core.trial import Trial as AxTrial
from ax.core.trial_status import TrialStatus
from ax.core.types import ComparisonOp
from ax.version import version as ax_version

from frugalbo.budget.amounts import Budget, Cost
from frugalbo.budget.ledger import Ledger
from frugalbo.budget.stated import StatedCost
from frugalbo.constraint import OutcomeConstraint
from frugalbo.errors import BudgetError, ProblemError, SpaceError, StudyError
from frugalbo.events import Ended, Reported, Started
from frugalbo.integrations.ax.record import KEY, Terms, events_of, record, rows_of
from frugalbo.integrations.ax.space import Translation, from_search_space, to_search_space
from frugalbo.problem import IN_MEMORY, Fidelity, Maximize, Minimize, Problem, job_address
from frugalbo.study import Status, Study, Trial

COST_METRIC = "device_seconds"
NO_JOB = "nowhere:train"  # Ax does not know what it runs
_UNCOUNTED = ("wall_seconds", "memory_bytes")


def from_ax(
    experiment: Experiment | Client,
    *,
    budget: Budget | str | float | Mapping[str, Any] | None = None,
    cost_metric: str = COST_METRIC,
    dollars_per_hour: float = 0.0,
    cost: StatedCost | None = None,
    steps: int | None = None,
) -> Study:
    """An Ax experiment as a study, whose trials have the numbers that they have there.

    Args:
        experiment: Or the client that has it.
        budget: What the study's ledger counts against; by default the one that the experiment was given by us, if any.
        cost_metric: The tracking metric with each trial's device-seconds.
        dollars_per_hour: The price of a device.
        cost: What is known of a trial's cost, as for `fb.tune`.
        steps: Of a full trial; by default the largest progression of a completed one, 1 without any.

    Raises:
        StudyError: If it has batches, or a trial that cannot be read.
        ProblemError: If it has no single objective, or constraints of a kind that ours are not.
        SpaceError: If its search space is of a kind that ours is not.
    """
    experiment = experiment_of(experiment)
    rows = rows_of(experiment.lookup_data())
    problem, translation = problem_of(experiment, _steps(experiment, rows) if steps is None else steps)
    if cost is not None:
        problem = replace(problem, cost=cost)
    terms = Terms(problem.steps, problem.objective.metric, cost_metric, dollars_per_hour)
    study = Study(problem)
    for index, trial in sorted(experiment.trials.items()):
        if isinstance(trial, BatchTrial) or not isinstance(trial, AxTrial) or trial.arm is None:
            raise StudyError(
                f"trial {index} of {name_of(experiment)} is a batch; a study has one configuration a trial: give "
                f"each of its arms a trial of its own"
            )
        try:
            params = translation.from_ax(trial.arm.parameters)
        except SpaceError as error:
            raise StudyError(
                f"trial {index} of {name_of(experiment)} is no point of its search space: {error}"
            ) from None
        study.replay(events_of(trial, params, rows.get(index, {}), terms))
    stored = experiment._properties.get(KEY, {}).get("budget")
    if budget is not None or stored:
        study.ledger = ledger_of(study, Budget.of(stored if budget is None else budget))
    return study


def to_ax(study: Study) -> Experiment:
    """A study as an Ax experiment; `losses(study)` says what of it Ax does not see.

    Raises:
        SpaceError: If its space has choices that Ax cannot have.
    """
    problem = study.problem
    search_space, _ = to_search_space(problem.space)
    objective, metric_class = problem.objective, MapMetric if problem.steps > 1 else Metric
    decisive = [objective.metric, *dict.fromkeys(c.metric for c in problem.bounds)]
    names = {name: name for name in decisive}
    config = OptimizationConfig(
        AxObjective(
            expression=f"{'-' if objective.sign > 0 else ''}{objective.metric}",
            metric_name_to_signature={objective.metric: objective.metric},
            _parsed=([objective.metric], [[(objective.metric, -1.0 * objective.sign)]]),
        ),
        outcome_constraints=[AxConstraint(expression=str(c), metric_name_to_signature=names) for c in problem.bounds],
    )
    reported = {name for trial in study.trials.values() for report in trial.reports.values() for name in report}
    costs = [name for name in (COST_METRIC, "dollars") if any(t.used(name) for t in study.trials.values())]
    tracked = [*sorted(reported - set(decisive) - set(costs)), *costs]
    experiment = Experiment(
        search_space,
        name=problem.name,
        optimization_config=config,
        metrics=[metric_class(name) for name in (*decisive, *tracked)],
        description=problem.description or None,
        properties={KEY: _properties(study)},
    )
    translation = Translation(search_space, problem.space, {name: name for name in problem.space.parameters})
    rows: list[dict[str, Any]] = []
    made: list[AxTrial] = []
    for trial in study.trials.values():
        found = experiment.new_trial().add_arm(Arm(parameters=translation.to_ax(trial.params)))
        made.append(found)
        record(found, *_events(trial))
        rows += _rows(trial, found, problem.steps, costs)
    if rows:
        experiment.attach_data(Data(df=pd.DataFrame(rows)))
    for trial, found in zip(study.trials.values(), made, strict=True):
        _set_status(trial, found)
    return experiment


def losses(of: Study | Experiment | Client) -> list[str]:
    """What the other side has no place for, a sentence each; empty where nothing is lost."""
    return _lost_in_ax(of) if isinstance(of, Study) else _lost_here(experiment_of(of))


def experiment_of(experiment: Experiment | Client) -> Experiment:
    """The experiment itself.

    Raises:
        StudyError: If a client has none yet.
    """
    if isinstance(experiment, Experiment):
        return experiment
    if experiment._maybe_experiment is None:
        raise StudyError("this client has no experiment yet: call configure_experiment, or load one")
    return experiment._maybe_experiment


def name_of(experiment: Experiment) -> str:
    """What to call an experiment in a sentence."""
    return repr(experiment._name) if experiment._name else "the experiment"


def problem_of(experiment: Experiment, steps: int = 1) -> tuple[Problem, Translation]:
    """What an experiment tunes, and its space in both languages.

    Raises:
        ProblemError: If it has no single objective, or constraints of a kind that ours are not.
        SpaceError: If its search space is of a kind that ours is not.
    """
    translation = from_search_space(experiment.search_space)
    if own := experiment._properties.get(KEY, {}).get("problem"):
        problem = Problem.from_json(own)
        return problem, replace(translation, space=problem.space)
    metric, minimize = single_metric(experiment)
    config = experiment.optimization_config
    assert config is not None  # or there is no single metric
    problem = Problem(
        name=experiment._name or "ax",
        space=translation.space,
        job=NO_JOB,
        objective=Minimize(metric) if minimize else Maximize(metric),
        fidelity=None if steps == 1 else Fidelity("steps", 1, steps),
        description=experiment.description or "",
        constraints=[_from_constraint(constraint) for constraint in config.outcome_constraints],
    )
    return problem, translation


def single_metric(experiment: Experiment) -> tuple[str, bool]:
    """The objective's metric, and whether less of it is better.

    Raises:
        ProblemError: If there is no objective, or it is not a single metric.
    """
    config = experiment.optimization_config
    if config is None:
        raise ProblemError(f"{name_of(experiment)} has no objective: call configure_optimization")
    objective = config.objective
    if not objective.is_single_objective:
        found = f"{name_of(experiment)} has the objective {objective.expression!r}, not a single metric"
        if objective.is_scalarized_objective:
            raise ProblemError(f"{found}: report that sum as a metric of its own, and make it the objective")
        first, *others = objective.metric_names
        bounds = " and ".join(f"'{name} <= ...'" for name in others)
        raise ProblemError(
            f"{found}; there is no Pareto front here: keep one, such as {first!r}, and bound the others by outcome "
            f"constraints, {bounds}, or tune a weighted sum that you report as a metric"
        )
    (metric,) = objective.metric_names
    return metric, objective.minimize


def ledger_of(study: Study, budget: Budget) -> Ledger:
    """The accounts of a study whose holds and settlements are known, whatever their order was.

    Raises:
        BudgetError: If the budget limits what an Ax experiment does not count, or less than what is held.
    """
    check_counted(budget)
    ledger = Ledger(budget)
    # Holds first: each fitted when it was made, and what was spent since may exceed what is left for it.
    for trial in study.with_status(Status.RUNNING):
        ledger.hold((trial.number, len(trial.starts) - 1), trial.starts[-1].held)
    for trial in study.trials.values():
        for ended in trial.ends:
            ledger.hold((trial.number, ended.segment), Cost())
            ledger.settle((trial.number, ended.segment), ended.used)
    return ledger


def check_counted(budget: Budget) -> None:
    """Refuse a budget of what an Ax experiment does not count.

    Raises:
        BudgetError: If it limits wall time or memory.
    """
    for resource in _UNCOUNTED:
        if getattr(budget, resource) is not None:
            raise BudgetError(
                f"an Ax experiment does not count {resource.replace('_', ' ')}; limit device-seconds, dollars or trials"
            )


def _properties(study: Study) -> dict[str, Any]:
    problem = study.problem
    if job_address(problem.job) == IN_MEMORY:
        problem = replace(problem, job=NO_JOB)
    found: dict[str, Any] = {"ax": ax_version, "problem": problem.to_json()}
    return found if study.ledger is None else found | {"budget": study.ledger.budget.to_json()}


def _steps(experiment: Experiment, rows: Mapping[int, Mapping[float | None, object]]) -> int:
    completed = [i for i, trial in experiment.trials.items() if trial.status == TrialStatus.COMPLETED]
    return max((int(step) for i in completed for step in rows.get(i, {}) if step is not None and step >= 1), default=1)


def _from_constraint(constraint: AxConstraint) -> OutcomeConstraint:
    if constraint.relative:
        raise ProblemError(f"the constraint {constraint.expression!r} is relative to a baseline; give it a number")
    if len(constraint.metric_weights) != 1:
        raise ProblemError(f"the constraint {constraint.expression!r} is on several metrics, not on one")
    ((_, weight),) = constraint.metric_weights
    upper = (constraint.op == ComparisonOp.LEQ) == (weight > 0)
    return OutcomeConstraint(constraint.metric_names[0], "<=" if upper else ">=", constraint.bound / weight)


def _events(trial: Trial) -> list[Started | Reported | Ended]:
    """A trial's events, from what a study keeps of them; each report in the segment that was granted its step."""
    events: list[Started | Reported | Ended] = []
    steps = sorted(trial.reports)
    for i, started in enumerate(trial.starts):
        events.append(started)
        fresh = [step for step in steps if started.start < step <= trial.reached[i]]
        events += [
            Reported(trial.number, started.segment, step, trial.reports[step], trial.times[step]) for step in fresh
        ]
        steps = [step for step in steps if step not in fresh]
        events += trial.ends[i : i + 1]
    return events


def _rows(trial: Trial, found: AxTrial, full: int, costs: list[str]) -> list[dict[str, Any]]:
    assert found.arm is not None
    at: list[tuple[int | None, str, float]] = [
        (step if full > 1 else None, name, value)
        for step, metrics in sorted(trial.reports.items())
        for name, value in metrics.items()
    ]
    if trial.ends:
        last = trial.last_step or 1
        at += [(last if full > 1 else None, name, trial.used(name)) for name in costs]
    common = {"trial_index": trial.number, "arm_name": found.arm.name, "sem": float("nan")}
    return [
        common
        | {"metric_name": name, "metric_signature": name, "mean": value}
        | ({} if step is None else {"step": float(step)})
        for step, name, value in at
    ]


def _set_status(trial: Trial, found: AxTrial) -> None:
    """As Ax calls it, with the times that we know."""
    if trial.status == Status.PAUSED:
        found.mark_staged()
    else:
        found.mark_running(no_runner_required=True)
    message = trial.ends[-1].message if trial.ends else ""
    match trial.status:
        case Status.COMPLETED:
            found.mark_completed()
        case Status.FAILED:
            found.mark_failed(reason=message or str(trial.failure))
        case Status.STOPPED if trial.reports:
            found.mark_early_stopped(reason=message or None)
        case Status.STOPPED:  # Ax wants data of what it calls stopped early
            found.mark_abandoned(reason=message or "stopped before its first report")
    began, ended = (trial.starts[0].at, trial.ends[-1].at if trial.ends else None)
    found._time_created = found._time_run_started = datetime.fromtimestamp(began)  # noqa: DTZ006 - as Ax does
    if ended is not None and found.status.is_terminal:
        found._time_completed = datetime.fromtimestamp(ended)  # noqa: DTZ006


def _lost_in_ax(study: Study) -> list[str]:
    said = []
    said += to_search_space(study.problem.space)[1]
    if paused := study.with_status(Status.PAUSED):
        said.append(f"{_some(paused)} paused: STAGED in Ax, which has no such state and cannot resume it")
    if stopped := [t for t in study.with_status(Status.STOPPED) if not t.reports]:
        said.append(f"{_some(stopped)} stopped without a report: ABANDONED in Ax")
    if stopped := [t for t in study.trials.values() if t.status != Status.COMPLETED and study.value(t) is not None]:
        said.append(f"{_some(stopped)} not completed but at the last step: Ax's best point does not look there")
    if segments := [t for t in study.trials.values() if len(t.starts) > 1]:
        said.append(f"{_some(segments)} run in segments: Ax sees the first start and the last end")
    if study.ledger is not None:
        said.append("the budget and what is held: Ax sees the costs alone, as tracking metrics")
    if any(t.why for t in study.trials.values()):
        said.append("why each configuration was chosen")
    return said


def _lost_here(experiment: Experiment) -> list[str]:
    said = []
    frame = experiment.lookup_data().full_df
    if not frame.empty and bool((frame["sem"].fillna(0) > 0).any()):
        said.append("standard errors of observations: the noise is estimated instead")
    steps = frame["step"].dropna() if "step" in frame else frame["mean"].iloc[:0]
    if bool(((steps < 1) | (steps % 1 != 0)).any()):
        said.append("progressions that are no whole steps from 1 are rounded down or dropped")
    for name, p in experiment.search_space.parameters.items():
        if getattr(p, "logit_scale", False):
            said.append(f"the logit scale of parameter {name!r}: it is linear here")
        if getattr(p, "digits", None) is not None:
            said.append(f"the rounding of parameter {name!r} to {p.digits} digits: only Ax rounds")  # type: ignore[attr-defined]
    if experiment.status_quo is not None:
        said.append("the status quo: the trial is there, but not as one to compare with")
    if experiment.runner is not None:
        said.append("the runner")
    for status in (TrialStatus.ABANDONED, TrialStatus.STALE):
        if some := [t.index for t in experiment.trials.values() if t.status == status]:
            kept = "failed" if status == TrialStatus.ABANDONED else "stopped"
            said.append(f"{status.name} of trials {some}: {kept} here")
    return said


def _some(trials: list[Trial]) -> str:
    numbers = ", ".join(str(t.number) for t in trials)
    return f"trial {numbers} is" if len(trials) == 1 else f"trials {numbers} are"
