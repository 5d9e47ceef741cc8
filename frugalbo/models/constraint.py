"""The model of an outcome constraint: a Gaussian process of by how much a metric is beyond its bound.

The excess `e` (above 0 where the constraint is violated) is seen through

    t(e) = sign(e) log(1 + |e| / s), but at most 4 in size,      z = (t - mean) / sd

`t` is 0 at the bound exactly, rises everywhere, and is steepest there: who wants to know on which side a
configuration falls needs the values near the bound in true proportion, and no more of the rest than that
it is far. `frugalbo.models.outcome` would print a bound among the bad halves in ever smaller letters. The
scale `s` is the median of `|e|`, unless the better part of the values is much nearer: then ten times their
lower quartile, so that a metric that explodes in most trials does not hide the bound. As `t` rises,

    P(constraint holds at x) = P(z(x) <= -mean / sd)

Source of the logarithm on both sides of the bound: Eriksson, Poloczek, Scalable Constrained Bayesian
Optimization, arXiv:2002.08526, section 3 (there with `s = 1` and no largest value); of a process for each
constraint and of the probability as a factor: Gelbart, Snoek, Adams, arXiv:1403.5607. Constraints on different
metrics are independent given the data. Two bounds on one metric, `a <= m` and `m <= b`, are one model, of the excess
over `b`, with `s` at least `b - a`, so that both bounds are where the transform is steep:

    P(both hold at x) = P(t(a - b) <= z(x) <= t(0))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from botorch.utils.probability.utils import log_prob_normal_in
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.special import log_ndtr

from frugalbo.constraint import OutcomeConstraint
from frugalbo.models.objective import Objective, fit_objective

_FARTHEST = 4.0
_HUGE = 1e300  # differences of larger numbers overflow
_ALL_EQUAL = 0.25  # where all are the same, the bound is this part's inverse in deviations away


@dataclass(frozen=True, slots=True)
class Excess:
    """The transform that was derived from some excesses, increasing up to its plateaus."""

    scale: float
    mean: float
    std: float

    @classmethod
    def of(cls, excess: ArrayLike, least_scale: float = 0.0) -> Excess:
        """The transform for these excesses, of which there must be at least one, all finite."""
        e = np.clip(np.asarray(excess, dtype=np.float64), -_HUGE, _HUGE)
        size = np.sort(np.abs(e[e != 0]))
        scale = 1.0
        if len(size):
            quartile = float(size[min(len(size) - 1, max(1, len(size) // 4))])
            scale = max(min(float(size[len(size) // 2]), 10 * quartile), 1 / _HUGE)
        scale = max(scale, least_scale)
        t = cls(scale, 0.0, 1.0)(e)
        mean, std = float(t.mean()), float(t.std(ddof=1)) if len(t) > 1 else 0.0
        return cls(scale, mean, std if std > 1e-9 else _ALL_EQUAL * abs(mean) or 1.0)

    def __call__(self, excess: ArrayLike) -> NDArray[np.float64]:
        """What the model sees of `excess`."""
        e = np.clip(np.asarray(excess, dtype=np.float64), -_HUGE, _HUGE)
        with np.errstate(over="ignore"):
            t = np.sign(e) * np.minimum(np.log1p(np.abs(e) / self.scale), _FARTHEST)
        return (t - self.mean) / self.std

    def inverse(self, t: float) -> float:
        """The excess that the model sees as `t`; beyond a plateau, where the plateau begins."""
        raw = t * self.std + self.mean
        return math.copysign(math.expm1(min(abs(raw), _FARTHEST)) * self.scale, raw)

    @property
    def bound(self) -> float:
        """As what the model sees the bound itself."""
        return -self.mean / self.std


@dataclass(frozen=True, slots=True)
class ConstraintModel:
    """A constraint with the fitted model of its excess; a `frugalbo.acquisition.chances.Chance`.

    Args:
        constraint: The bound whose excess is modelled.
        excess: The model.
        bound: As what the model sees the bound.
        other: The bound on the other side of the same metric, if it has two, and
        lower: as what the model sees that.
    """

    constraint: OutcomeConstraint
    excess: Objective
    bound: float
    other: OutcomeConstraint | None = None
    lower: float = -math.inf

    @property
    def constraints(self) -> tuple[OutcomeConstraint, ...]:
        """The one bound, or both."""
        return (self.constraint,) if self.other is None else (self.constraint, self.other)

    def log_probability(self, X: Tensor) -> Tensor:
        """`log P(it holds)`, or both do, of the metric without noise, at points one by one: ... x 1 x d to ... ."""
        posterior = self.excess.model.posterior(X)
        mean, sd = posterior.mean[..., 0, 0], posterior.variance[..., 0, 0].sqrt()
        if self.other is None:
            return log_ndtr((self.bound - mean) / sd)
        return log_prob_normal_in((self.lower - mean) / sd, (self.bound - mean) / sd)

    def holds(self, excess: Tensor) -> Tensor:
        """Whether it holds, or both do, where the model's values are these."""
        return (excess >= self.lower) & (excess <= self.bound)

    def is_likely(self, X: Tensor) -> Tensor:
        """At which points (... x 1 x d) each bound is at least as likely to hold as not; shape ... ."""
        return self.holds(self.excess.model.posterior(X).mean[..., 0, 0])

    def predicted(self, X: Tensor) -> float:
        """The metric's median at one point (1 x 1 x d), in its own units."""
        excess = self.excess.outcome.inverse(float(self.excess.model.posterior(X).mean))
        return self.constraint.bound + (excess if self.constraint.sense == "<=" else -excess)

    def believing(self, X: ArrayLike) -> ConstraintModel:
        """The model as if the metric had come out at the posterior means at `X` (m x d)."""
        return replace(self, excess=self.excess.believing(X))


def fit_constraint(
    constraint: OutcomeConstraint,
    X: ArrayLike,
    values: ArrayLike,
    categorical: Sequence[int],
    searched: int | None = None,
    *,
    other: OutcomeConstraint | None = None,
) -> ConstraintModel:
    """The model of a constraint, fitted to measured values of its metric.

    Args:
        constraint: What must hold.
        X: Unit points, n x d.
        values: Of the metric, finite, n.
        categorical: The dimensions along which only equality counts.
        searched: The dimensions that can vary; all by default.
        other: A bound on the other side of the same metric, at a distance, which must hold as well.
    """
    width = 0.0 if other is None else min(_HUGE, abs(constraint.bound - other.bound))
    excess = [max(-_HUGE, min(_HUGE, constraint.excess(float(v)))) for v in np.asarray(values, dtype=np.float64)]
    outcome = Excess.of(excess, width)
    model = fit_objective(X, excess, categorical, searched, outcome=outcome)
    lower = -math.inf if other is None else float(outcome(-width))
    return ConstraintModel(constraint, model, outcome.bound, other, lower)
