"""A learning curve as far as it is known, and the losses as the model sees them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from frugalbo.errors import ModelError
from frugalbo.events import Failure
from frugalbo.models.outcome import Outcome
from frugalbo.study import Study

Array = NDArray[np.float64]
Progress = Callable[[Array], Array]

_LOG = 3.0  # where the logarithm of a bad loss begins to be taken once more
_LARGEST = 1e300


@dataclass(frozen=True, slots=True, eq=False)
class PartialCurve:
    """What one trial has reported so far.

    Args:
        x: Its configuration, encoded in the unit cube; shape (d,).
        steps: Where it reported, increasing, above 0; shape (k,), and k may be 0.
        losses: What it reported, finite, smaller is better; shape (k,).
        failed: Whether it diverged, after the last of these reports. It has no final value then.

    Raises:
        ModelError: If that is not a curve.
    """

    x: Array
    steps: Array
    losses: Array
    failed: bool = False

    def __post_init__(self) -> None:
        for name in ("x", "steps", "losses"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        if not (self.x.ndim == self.steps.ndim == self.losses.ndim == 1) or len(self.steps) != len(self.losses):
            shapes = f"{self.x.shape}, {self.steps.shape}, {self.losses.shape}"
            raise ModelError(f"a curve has x (d,), steps (k,) and losses (k,), got shapes {shapes}")
        if not (np.isfinite(self.x).all() and np.isfinite(self.losses).all()):
            raise ModelError("the x and losses of a curve are finite; one that diverges ends before, with failed=True")
        if len(self.steps) and not (self.steps[0] > 0 and (np.diff(self.steps) > 0).all()):
            raise ModelError(f"the steps of a curve increase from above 0, got {self.steps.tolist()[:8]}")


def curves_of(study: Study) -> dict[int, PartialCurve]:
    """The curve of each trial of a study, by its number, for the horizon `study.problem.steps`.

    A curve ends before its first loss that is not finite; it, and one whose trial ended as diverged, has failed.
    Where the schedule is `"replanned"`, a trial that was planned for fewer steps is on another curve than
    the first steps of a full one, and is left out.
    """
    problem = study.problem
    replanned = problem.fidelity is not None and problem.fidelity.schedule == "replanned"
    found = {}
    for number, trial in study.trials.items():
        if replanned and trial.planned != problem.steps:
            continue
        curve = [(step, problem.objective.to_loss(value)) for step, value in trial.curve(problem.objective.metric)]
        end = next((k for k, (_, loss) in enumerate(curve) if not math.isfinite(loss)), len(curve))
        steps, losses = [step for step, _ in curve[:end]], [loss for _, loss in curve[:end]]
        failed = end < len(curve) or trial.failure == Failure.DIVERGED
        found[number] = PartialCurve(problem.space.encode(trial.params), np.array(steps), np.array(losses), failed)
    return found


def dimension(curves: Sequence[PartialCurve], horizon: float) -> int:
    """The dimension of the configurations.

    Raises:
        ModelError: If there is no curve, dimensions differ, or a curve goes beyond the horizon.
    """
    dims = {len(curve.x) for curve in curves}
    if len(dims) != 1:
        raise ModelError(f"expected curves of configurations of one dimension, got {sorted(dims) or 'no curves'}")
    last = max((curve.steps[-1] for curve in curves if len(curve.steps)), default=0.0)
    if not 0 < horizon < math.inf or last > horizon:
        raise ModelError(f"expected a horizon that no curve goes beyond, got {horizon}, and a curve up to {last:g}")
    return dims.pop()


def thin(steps: Array, most: int) -> NDArray[np.intp]:
    """Indices of at most `most` of the reports: all of few; of many, evenly by rank, the last one among them."""
    k = len(steps)
    return np.arange(k) if k <= most else np.unique(np.linspace(0, k - 1, most).round().astype(np.intp))


@dataclass(frozen=True, slots=True)
class Temper:
    """Losses as the model sees them: the better half in proportion, the worse half in ever smaller print.

    With the pivot `p` and spread `s` of `frugalbo.models.outcome`, `u = (y - p) / s`, `v = log(1 + u)`::

        t(y) = u  for u <= 0,    v  for 0 < v <= 3,    3 + log(1 + v - 3)  beyond

    and then centred and divided by a standard deviation. Deviation from `Outcome`: no plateau, because a final
    loss that is known must come back as it was; 1e18 is still no more than about 3 + log 40.
    `loss = p + s u` of a tempered value is a *tempered loss*: the loss itself up to the pivot, less than it beyond.
    """

    pivot: float
    spread: float
    mean: float
    std: float

    @classmethod
    def of(cls, losses: ArrayLike) -> Temper:
        """For these losses; of none, any."""
        if not np.size(losses):
            return cls(0.0, 1.0, 0.0, 1.0)
        outcome = Outcome.of(losses)
        raw = cls(outcome.pivot, outcome.spread, 0.0, 1.0)
        t = raw(losses)
        std = float(t.std())
        return cls(raw.pivot, raw.spread, float(t.mean()), std if std > 1e-9 else 1.0)

    def __call__(self, losses: ArrayLike) -> Array:
        """Losses in the model's units."""
        y = np.clip(np.asarray(losses, dtype=np.float64), -_LARGEST, _LARGEST)
        u = np.clip(y / self.spread - self.pivot / self.spread, -_LARGEST, _LARGEST)
        v = np.log1p(np.maximum(u, 0))
        v = np.where(v > _LOG, _LOG + np.log1p(np.maximum(v - _LOG, 0)), v)
        return (np.where(u > 0, v, u) - self.mean) / self.std

    def tempered(self, t: ArrayLike) -> Array:
        """Tempered losses of the model's values."""
        return self.pivot + self.spread * (np.asarray(t) * self.std + self.mean)

    def untempered(self, tempered: ArrayLike) -> Array:
        """Losses of tempered losses; finite for finite ones."""
        u = (np.asarray(tempered, dtype=np.float64) - self.pivot) / self.spread
        v = np.where(u > _LOG, _LOG + np.expm1(np.clip(u - _LOG, 0, 6.5)), u)
        above = self.pivot + self.spread * np.expm1(np.clip(v, 0, 600))
        return np.where(np.isposinf(u), np.inf, np.where(u > 0, np.minimum(above, _LARGEST), tempered))

    @property
    def unit(self) -> float:
        """What one of the model's units is, in tempered losses."""
        return self.spread * self.std
