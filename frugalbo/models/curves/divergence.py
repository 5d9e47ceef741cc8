"""Will a trial diverge before the end, given that it has lived so long?

Proportional hazards with a kernel in the place of a regression. `T(t)` is the share of all hazard that lies
before progress t (Nelson and Aalen's estimate of the cumulative hazard, drawn towards the square root of t:
most runs that diverge do so early); trial j has been exposed to `e_j = T(t_j)` of it. With a Gamma prior
around the rate of all, the rate at x has the posterior mean, and the chance follows from it::

    r(x) = (A r_0 + sum_j k(x, x_j) failed_j) / (A + sum_j k(x, x_j) e_j)
    P(diverges before the end | lives at t) = 1 - exp(-r(x) (1 - T(t)))

so it falls the longer a trial lives. k is the Matern-5/2 correlation that was fitted to the losses, so a knob counts
here as much as it does there. What a curve looks like is not used, only how long it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from frugalbo.models.curves.curve import Array, PartialCurve
from frugalbo.models.curves.process import Hyperparameters

_BELIEF = 1.0  # A: the prior is worth one full run
_PRIOR_FAILED, _PRIOR_EXPOSED = 0.1, 2.0


class Divergence:
    """The model, for trials and for configurations that have not begun.

    Args:
        curves: All trials, n.
        ends: Their progress so far, as a share of the horizon's; n.
        hyper: Whose kernel is used.
    """

    def __init__(self, curves: Sequence[PartialCurve], ends: Array, hyper: Hyperparameters) -> None:
        self._hyper = hyper
        self._X = torch.from_numpy(np.stack([curve.x for curve in curves]))
        self._failed = np.array([curve.failed for curve in curves], dtype=np.float64)
        at_risk = (ends[None, :] >= ends[:, None]).sum(axis=1)
        self._steps = np.sort(ends[self._failed > 0])
        order = np.argsort(ends[self._failed > 0], kind="stable")
        self._mass = np.append(0.0, np.cumsum((1 / at_risk)[self._failed > 0][order]))
        self._exposed = self.before(ends)
        self._rate = (self._failed.sum() + _PRIOR_FAILED) / (self._exposed.sum() + _PRIOR_EXPOSED)

    def before(self, t: Array) -> Array:
        """`T(t)`: 0 at the start, 1 at the horizon."""
        prior = 1 / (1 + len(self._steps))
        total = self._mass[-1] or 1.0
        return prior * np.sqrt(t) + (1 - prior) * self._mass[np.searchsorted(self._steps, t, side="right")] / total

    def probability(self, X: Array, t: Array) -> Array:
        """That one at x which lives at progress t (0 if it has not begun) diverges before the horizon; (m,)."""
        correlation = self._hyper.correlation(torch.from_numpy(X), self._X).numpy()
        rate = (_BELIEF * self._rate + correlation @ self._failed) / (_BELIEF + correlation @ self._exposed)
        return -np.expm1(-rate * (1 - self.before(t)))
