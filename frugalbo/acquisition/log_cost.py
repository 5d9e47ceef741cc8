"""Cost models of `frugalbo.budget.cost` as BoTorch models of the logarithm of seconds."""

from __future__ import annotations

import math

import numpy as np
import torch
from botorch.models.deterministic import GenericDeterministicModel
from numpy.typing import NDArray
from torch import Tensor

from frugalbo.budget.cost import Features, FittedCost
from frugalbo.space import Space

Array = NDArray[np.float64]

_RIDGE = 1e-3
_LEAST_MISSED = 0.02


def learned_log_cost(fitted: FittedCost, steps: float) -> GenericDeterministicModel:
    """The log of the median seconds of a segment of `steps` steps, averaged over the model's mixture."""
    weight = torch.tensor([c.weight for c in fitted.components], dtype=torch.float64)  # C
    startup = torch.tensor([c.startup_s for c in fitted.components], dtype=torch.float64)  # C
    means = torch.as_tensor(np.stack([c.mean for c in fitted.components], axis=1))  # p x C
    features = fitted.features

    def log_seconds(X: Tensor) -> Tensor:
        rest = feature_tensor(features, X) @ means + math.log(steps)  # ... x C
        # log(s + exp(r)); s = 0 gives r itself.
        return (torch.logaddexp(rest, startup.log()) @ weight).unsqueeze(-1)

    return GenericDeterministicModel(log_seconds)


def learned_log_mean_cost(fitted: FittedCost, steps: float, level: float = 0.0) -> GenericDeterministicModel:
    """The log of the expected seconds of a segment of `steps` steps, less `level`.

    Of a log-normal component with median `exp(mu)` and spread `sd` that is `exp(mu + sd^2 / 2)`.
    """
    log_weight = torch.tensor([math.log(c.weight) for c in fitted.components], dtype=torch.float64)  # C
    startup = torch.tensor([c.startup_s for c in fitted.components], dtype=torch.float64)  # C
    means = torch.as_tensor(np.stack([c.mean for c in fitted.components], axis=1))  # p x C
    moments = MixtureSpread(fitted)
    features = fitted.features

    def log_mean(X: Tensor) -> Tensor:
        phi = feature_tensor(features, X)  # ... x p
        rest = phi @ means + math.log(steps) + 0.5 * moments(phi)  # ... x C
        return torch.logsumexp(log_weight + torch.logaddexp(rest, startup.log()), dim=-1, keepdim=True) - level

    return GenericDeterministicModel(log_mean)


class MixtureSpread:
    """The variance of the log seconds after start-up in each component: from features ... x p to ... x C."""

    def __init__(self, fitted: FittedCost) -> None:
        parts = fitted.components
        self._basis = torch.as_tensor(np.stack([c.basis for c in parts]))  # C x p x p
        self._variance = torch.as_tensor(np.stack([c.variance for c in parts])).unsqueeze(-2)  # C x 1 x p
        self._sigma2 = torch.tensor([c.sigma**2 for c in parts], dtype=torch.float64)  # C

    def __call__(self, phi: Tensor) -> Tensor:
        """The variances, noise included."""
        flat = phi.reshape(-1, phi.shape[-1])  # b x p
        spread = ((flat @ self._basis) ** 2 * self._variance).sum(-1).T  # b x C
        return (spread + self._sigma2).reshape(*phi.shape[:-1], -1)


def regressed_cost(space: Space, U: Array, seconds: Array) -> FittedCost:
    """A cost function of parameters, seen through the features of the learned model, for trials of one step.

    It has gradients, and costs nothing to evaluate; the function itself may have neither virtue.
    What the features miss of it is the regression's own uncertainty.

    Args:
        space: What the unit points are points of.
        U: Unit points (m x d) at which to look.
        seconds: What the function says there, m.
    """
    features = Features(space)
    phi = features(U)
    y = np.log(seconds)
    level = float(y.mean())
    weights: Array = np.linalg.solve(phi.T @ phi + _RIDGE * len(U) * np.eye(phi.shape[1]), phi.T @ (y - level)).astype(
        np.float64
    )
    weights[0] += level
    missed = float(np.sqrt(np.mean((y - phi @ weights) ** 2)))
    return FittedCost.regression(features, weights, max(_LEAST_MISSED, missed), len(U))


def feature_tensor(features: Features, X: Tensor) -> Tensor:
    """`Features.__call__` on tensors of shape ... x d."""
    x = X[..., list(features.ordered)] - 0.5
    one_hot = [((X[..., [i]] - torch.as_tensor(levels)).abs() < 1e-9).to(X) for i, levels in features.levels.items()]
    shape = [] if features.shape is None else [features.shape.log(X, torch).unsqueeze(-1) - features.centre]
    return torch.cat([torch.ones_like(X[..., :1]), x, 4 * (x * x - 1 / 12), *one_hot, *shape], dim=-1)
