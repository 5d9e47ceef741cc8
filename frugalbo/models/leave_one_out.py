"""What the objective's model says of each result if it is not told of it.

Source: Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), section 5.4.2, as
BoTorch's `efficient_loo_cv` has it: with K the covariance of the observations, noise included,

    mean_i = y_i - [K^-1 (y - m)]_i / [K^-1]_ii,      variance_i = 1 / [K^-1]_ii

which is of an observation, not of the function. Deviation (theirs too): the length scales, the noise and
the scale of the outcomes are those that were fitted to all results, so with few it flatters the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import frugalbo.models  # isort: skip  # noqa: F401 - first: it imports linear_operator without its warning

import numpy as np
import torch
from botorch.cross_validation import efficient_loo_cv
from botorch.posteriors import GPyTorchPosterior
from numpy.typing import ArrayLike, NDArray

from frugalbo.models.objective import Objective, fit_objective

_Z95 = 1.959964


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Predictions of losses, each without its own: the median and the 95 % interval of an observation, n each."""

    median: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def leave_one_out(
    X: ArrayLike,
    losses: ArrayLike,
    categorical: Sequence[int],
    searched: int | None = None,
    noise: ArrayLike | None = None,
) -> LeftOut | None:
    """Fit the objective's model to all results and predict each from the others; None if the fit fails.

    Args:
        X: Unit points, n x d.
        losses: Finite, n.
        categorical: The dimensions along which only equality counts.
        searched: The dimensions that can vary; all by default.
        noise: The variance of each loss's noise, n, if it is known.
    """
    objective = fit_objective(X, losses, categorical, searched, noise=noise)
    return None if objective.fit.problem else left_out(objective)


def left_out(objective: Objective) -> LeftOut:
    """The predictions of a model that was fitted."""
    with torch.no_grad():
        posterior = efficient_loo_cv(objective.model, observation_noise=True).posterior
        assert isinstance(posterior, GPyTorchPosterior)
        mean = posterior.mean.reshape(-1).numpy()
        sd = posterior.variance.sqrt().reshape(-1).numpy()
    objective.model.eval()
    inverse = np.vectorize(objective.outcome.inverse, otypes=[float])
    return LeftOut(inverse(mean), inverse(mean - _Z95 * sd), inverse(mean + _Z95 * sd))
