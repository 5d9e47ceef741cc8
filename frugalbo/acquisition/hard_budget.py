"""The hard budget: the probability that what is left pays for a trial at all.

A trial that the budget cuts short gives no result, so near its end an improvement is worth its
expected value times `P(cost <= what is left)`. With the mixture of `frugalbo.budget.cost`,

    P(cost(x) <= b) = sum over c of w_c Phi((log((b - s_c) / m) - mu_c(x)) / sd_c(x))

for trials of `m` steps. Source: as a factor, the cost constraint of Astudillo et al., Multi-Step
Budgeted Bayesian Optimization, arXiv:2111.06537 (their value of a point is 0 where its cost exceeds
the budget). Deviation: one step, in logarithms, and for a mixture.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.special import log_ndtr

from frugalbo.acquisition.log_cost import feature_tensor, mixture
from frugalbo.budget.cost_mixture import FittedCost

# A component whose start-up alone costs all that is left keeps a little room, for a finite gradient.
_ROOM = 1e-9


class HardBudget:
    """`log P(cost(x) <= left)`, differentiable in `x`.

    Args:
        fitted: The model of cost.
        steps: Of the trial.
        left_s: Device-seconds that it may take; infinity makes the probability 1, exactly.

    Raises:
        ValueError: If `left_s` is not above 0.
    """

    def __init__(self, fitted: FittedCost, steps: float, left_s: float) -> None:
        if not left_s > 0:
            raise ValueError(f"expected seconds above 0 to be left, got {left_s!r}")
        self.left_s = left_s
        self._fitted = fitted
        weight, log_startup = mixture(fitted)
        self._log_weight = weight.log()
        room = (left_s - log_startup.exp()).clamp_min(_ROOM * min(left_s, 1e300))  # C
        self._log_room = (room / steps).log()

    def log_probability(self, X: Tensor) -> Tensor:
        """At points one by one: ... x 1 x d to ... ."""
        if math.isinf(self.left_s):
            return torch.zeros_like(X[..., 0, 0])
        phi = feature_tensor(self._fitted.features, X[..., 0, :])  # ... x p
        mean, variance = self._fitted.moments(phi, torch)  # ... x C
        z = (self._log_room - mean) / variance.sqrt()
        return torch.logsumexp(self._log_weight + log_ndtr(z), dim=-1).clamp_max(0.0)

    def allows(self, U: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which unit points (m x d) are more likely than not to be affordable."""
        with torch.no_grad():
            return (self.log_probability(torch.from_numpy(U).unsqueeze(-2)) >= -math.log(2)).numpy()
