"""What a study tells a model: losses, constrained metrics, failures, and points whose value is not known yet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from frugalbo.constraint import OutcomeConstraint
from frugalbo.events import Failure
from frugalbo.propose.points import Points
from frugalbo.propose.standings import standings
from frugalbo.space import Params
from frugalbo.study import Status, Study, Trial

Array = NDArray[np.float64]


class Evidence:
    """A study as arrays of unit points.

    Args:
        also_pending: Configurations that are about to start.
        ranked: Whether losses are to be the scores of `frugalbo.propose.standings` where trials were held on
            their way, with the variances of these as the least `noise`. Not where outcomes are constrained, which is
            known of full trials only.

    Attributes:
        steps: The steps that a new trial is started for.
        is_ranked: Whether losses are scores.
        held: How many of them are of trials that have not run to the end.
    """

    def __init__(self, study: Study, also_pending: Sequence[Params] = (), *, ranked: bool = False) -> None:
        space, objective = study.problem.space, study.problem.objective
        self.points = Points(space)
        standing = standings(study) if ranked and not study.problem.bounds else None
        values = [study.value(trial) for trial in study.trials.values()]
        if standing is not None:
            values = [None if (s := standing.get(n)) is None else objective.to_loss(s.score) for n in study.trials]
        rows = [(t, space.encode(t.params), v) for t, v in zip(study.trials.values(), values, strict=True)]
        empty = np.empty((0, space.dim))
        self.losses = np.array([objective.to_loss(v) for _, _, v in rows if v is not None])
        known = [trial for trial, _, v in rows if v is not None]
        self.noise = _noise(study, known)
        self.steps, self.held, self.is_ranked = study.problem.steps, 0, standing is not None
        if standing is not None:
            self.noise = np.array([standing[trial.number].variance for trial in known])
            self.steps = min(trial.starts[0].until for trial in study.trials.values())
            self.held = sum(standing[trial.number].step < study.problem.steps for trial in known)
        self.X = np.array([u for _, u, v in rows if v is not None]).reshape(-1, space.dim)
        waiting = [u for t, u, v in rows if v is None and t.status != Status.FAILED]
        waiting += [space.encode(params) for params in also_pending]
        self.pending = np.array(waiting) if waiting else empty
        tried = [u for _, u, _ in rows] + [space.encode(params) for params in also_pending]
        self.tried = np.array(tried) if tried else empty
        self.violations = np.array([study.violation(trial) if standing is None else 0.0 for trial in known])
        self.measured = {c: _measured(study, c, rows) for c in study.problem.bounds}
        reported = [c.metric for c, (_, values) in self.measured.items() if len(values)]
        # Among ranks a failure is the last of them.
        ran = [(u, ran) for t, u, v in rows if not self.is_ranked and (ran := _ran(study, t, v, reported)) is not None]
        self.ran_at = np.array([u for u, _ in ran]).reshape(-1, space.dim)
        self.ran = [ran for _, ran in ran]

    def best(self, count: int) -> Array:
        """The points with the least violation of constraints, and of these the smallest losses, best first."""
        return self.X[np.lexsort((self.losses, self.violations))[:count]]


def _measured(
    study: Study, constraint: OutcomeConstraint, rows: Sequence[tuple[Trial, Array, float | None]]
) -> tuple[Array, Array]:
    """Where the metric of a constraint is known, n x d, and what it is, n; a trial without an objective may have it."""
    found = [(u, study.measured(trial, constraint.metric)) for trial, u, _ in rows]
    known = [(u, value) for u, value in found if value is not None]
    X = np.array([u for u, _ in known]).reshape(-1, study.problem.space.dim)
    return X, np.array([value for _, value in known])


def _noise(study: Study, trials: Sequence[Trial]) -> Array | None:
    """The variances that trials report of their values; None unless all do."""
    sem = study.problem.objective.sem
    found = [None if sem is None else study.measured(trial, sem) for trial in trials]
    return np.square([v for v in found if v is not None]) if found and None not in found else None


def _ran(study: Study, trial: Trial, value: float | None, reported: Sequence[str]) -> bool | None:
    """Whether a trial speaks for success (True), for failure (False), or for neither.

    One that has a value but lacks a constrained metric that others reported can never count, so it failed.
    """
    if value is not None and any(study.measured(trial, metric) is None for metric in reported):
        return False
    if trial.status == Status.FAILED:
        # A cap on time is the cost model's business.
        return None if trial.ends[-1].failure == Failure.TIMEOUT else False
    return True if value is not None or (trial.reports and trial.status != Status.RUNNING) else None
