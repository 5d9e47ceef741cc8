"""Fits the process of learning curves: by how well it foretells what is known.

The hyperparameters maximise the log density of the last report of each curve, given the first quarter,
half and three quarters of it (all curves cut at once), and given none of it but all of the other curves; plus
a log prior. The predictions are Student t distributions, of which the degrees of freedom and the scale are
fitted with the rest, so intervals are calibrated on what has happened. The marginal likelihood, which the
literature maximises, is mostly about the first steps of curves, and what explains these best extrapolates
them wildly (`docs/curves.md`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from frugalbo.models.curves.curve import Array, PartialCurve, Progress, Temper, dimension
from frugalbo.models.curves.posterior import CurvePosterior, shares
from frugalbo.models.curves.process import DTYPE, Batch, Hyperparameters, Levels

_SHARES = (0.25, 0.5, 0.75)
_SHARES_OF_FEW = tuple(i / 10 for i in range(2, 10))
_SHORTEST = 3  # reports of a curve that is cut
_FEW = 8  # curves of which more is made
# The three predictions of one report are not three independent observations.
_CUT_WEIGHT = 2 / 3


@dataclass(frozen=True, slots=True)
class CurveModel:
    """Settings of the fit.

    Args:
        most_trials: So many curves, drawn at random, determine the hyperparameters; all are conditioned on.
        most_reports: So many reports of each.
        iterations: Of L-BFGS.
    """

    most_trials: int = 80
    most_reports: int = 14
    iterations: int = 30

    def fit(
        self, curves: Sequence[PartialCurve], horizon: float, *, progress: Progress | None = None
    ) -> CurvePosterior:
        """Fit to all curves of a study; the same curves in another order give the same, but for rounding.

        Args:
            curves: Partial or complete, of runs that were planned for this horizon: one that was planned for
                fewer steps is not the beginning of a longer one where the job replans its schedule.
            horizon: The step at which configurations are compared.
            progress: What steps are worth, if that is known: increasing and positive, in any unit; `schedule_progress`
                makes one of a learning-rate schedule. By default a step is a step.

        Raises:
            ModelError: If curves do not fit together, or progress is not as it should be.
        """
        d = dimension(curves, horizon)
        ordered = sorted(curves, key=lambda c: (*c.x, len(c.steps), *c.losses))
        live = [curve for curve in ordered if len(curve.steps) and not curve.failed]
        temper = _temper(live)
        start, sd = Hyperparameters.prior(d)
        vector = start
        if live:
            chosen = np.sort(np.random.default_rng(0).permutation(len(live))[: self.most_trials])
            task = _Task.of([live[i] for i in chosen], horizon, progress, temper, self.most_reports)
            vector = self._maximise(task, start, sd)
        hyper = Hyperparameters(torch.from_numpy(vector))
        return CurvePosterior(curves, horizon, progress, temper, hyper)

    def _maximise(self, task: _Task, start: Array, sd: Array) -> Array:
        mean, scale = torch.from_numpy(start), torch.from_numpy(sd)

        def cost(vector: Array) -> tuple[float, Array]:
            at = torch.tensor(vector, requires_grad=True)
            try:
                value = 0.5 * ((at - mean) / scale).square().sum() - task.log_density(Hyperparameters(at))
            except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
                value = torch.tensor(math.nan)
            if not torch.isfinite(value):
                return 1e10, np.zeros_like(vector)
            (gradient,) = torch.autograd.grad(value, at)
            return value.item(), gradient.numpy()

        bounds = list(zip(start - 4 * sd, start + 4 * sd, strict=True))
        found = minimize(cost, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": self.iterations})
        return found.x


def _temper(live: Sequence[PartialCurve]) -> Temper:
    """Of the last reports; too few to say what a large difference is are joined by the later half of all reports."""
    if len(live) >= _FEW:
        return Temper.of([curve.losses[-1] for curve in live])
    return Temper.of(np.concatenate([np.zeros(0), *(curve.losses[len(curve.losses) // 2 :] for curve in live)]))


@dataclass(frozen=True, slots=True)
class _Task:
    """What is to be foretold, and from what."""

    X: Tensor  # n x d
    whole: Batch
    cut: tuple[Batch, ...]
    long: Tensor  # n: the curves that are cut
    t: Tensor  # n, progress at the last report
    z: Tensor  # n, the last report

    @classmethod
    def of(
        cls, curves: list[PartialCurve], horizon: float, progress: Progress | None, temper: Temper, most: int
    ) -> _Task:
        reports = shares(curves, horizon, progress)
        last = np.cumsum([len(curve.steps) for curve in curves]) - 1
        cuts = _SHARES if len(curves) >= _FEW else _SHARES_OF_FEW
        return cls(
            torch.from_numpy(np.stack([curve.x for curve in curves])),
            Batch.of(curves, reports, temper, most),
            tuple(Batch.of(curves, reports, temper, most, share) for share in cuts),
            torch.tensor([len(curve.steps) >= _SHORTEST for curve in curves]),
            torch.from_numpy(reports[last]),
            torch.from_numpy(temper([curve.losses[-1] for curve in curves])),
        )

    def log_density(self, hyper: Hyperparameters) -> Tensor:
        """Of the last reports, given what came before, and given the other curves."""
        every = torch.arange(len(self.X))
        total = torch.zeros((), dtype=DTYPE)
        for batch in self.cut if bool(self.long.any()) else ():
            levels = Levels(batch, self.X, hyper)
            mean, variance = levels.marginal()
            G, c, E = levels.rest(every, self.t[:, None])
            G, c, E = G[:, 0], c[:, 0], E[:, 0, 0]
            density = self._student(G * mean + c, E.clamp_min(1e-9) + G * G * variance, hyper)
            total = total + _CUT_WEIGHT * torch.where(self.long, density, 0.0).sum()
        levels = Levels(self.whole, self.X, hyper)
        mean, variance = levels.marginal()
        # Without a curve's own reports (its cavity), and with the scale of a trial that has not begun.
        precision = (1 / variance - levels.H).clamp_min(1e-4)
        q = hyper.clock(self.t)
        new = hyper.own2 + hyper.volatility * (hyper.kappa + hyper.motion(q, q) + hyper.noise)
        variance, mean = 1 / precision - levels.own2 + new, (mean / variance - levels.h) / precision
        return total + self._student(mean, variance.clamp_min(1e-9), hyper).sum()

    def _student(self, mean: Tensor, variance: Tensor, hyper: Hyperparameters) -> Tensor:
        scale, freedom = variance.sqrt() * hyper.scale, hyper.freedom
        square = ((self.z - mean) / scale).square()
        constant = torch.lgamma((freedom + 1) / 2) - torch.lgamma(freedom / 2) - 0.5 * torch.log(freedom)
        return constant - torch.log(scale) - (freedom + 1) / 2 * torch.log1p(square / freedom)
