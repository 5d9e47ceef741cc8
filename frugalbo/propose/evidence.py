"""What a study tells a model: losses and where they are, failures, and points whose value is not known yet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from frugalbo.propose.points import Points
from frugalbo.space import Params
from frugalbo.study import Failure, Status, Study, Trial

Array = NDArray[np.float64]


class Evidence:
    """A study as arrays of unit points.

    Args:
        also_pending: Configurations that are about to start.
    """

    def __init__(self, study: Study, also_pending: Sequence[Params] = ()) -> None:
        space, objective = study.problem.space, study.problem.objective
        self.points = Points(space)
        rows = [(trial, space.encode(trial.params), study.value(trial)) for trial in study.trials.values()]
        empty = np.empty((0, space.dim))
        self.losses = np.array([objective.to_loss(v) for _, _, v in rows if v is not None])
        self.X = np.array([u for _, u, v in rows if v is not None]).reshape(-1, space.dim)
        waiting = [u for t, u, v in rows if v is None and t.status != Status.FAILED]
        waiting += [space.encode(params) for params in also_pending]
        self.pending = np.array(waiting) if waiting else empty
        tried = [u for _, u, _ in rows] + [space.encode(params) for params in also_pending]
        self.tried = np.array(tried) if tried else empty
        ran = [(u, ran) for t, u, v in rows if (ran := _ran(t, v)) is not None]
        self.ran_at = np.array([u for u, _ in ran]).reshape(-1, space.dim)
        self.ran = [ran for _, ran in ran]

    def best(self, count: int) -> Array:
        """The points with the smallest losses, best first."""
        return self.X[np.argsort(self.losses, kind="stable")[:count]]


def _ran(trial: Trial, value: float | None) -> bool | None:
    """Whether a trial speaks for success (True), for failure (False), or for neither."""
    if trial.status == Status.FAILED:
        # A cap on time is the cost model's business.
        return None if trial.ends[-1].failure == Failure.TIMEOUT else False
    return True if value is not None or (trial.reports and trial.status != Status.RUNNING) else None
