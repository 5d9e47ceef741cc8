"""Cost models of `frugalbo.budget.cost` as BoTorch models of the logarithm of seconds."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from botorch.models.deterministic import GenericDeterministicModel
from numpy.typing import NDArray
from torch import Tensor

from frugalbo.budget.cost import Features, FittedCost
from frugalbo.space import Space

Array = NDArray[np.float64]

_RIDGE = 1e-3


def learned_log_cost(fitted: FittedCost, steps: float) -> GenericDeterministicModel:
    """The log of the median seconds of a segment of `steps` steps, averaged over the model's mixture."""
    weight = torch.tensor([c.weight for c in fitted.components], dtype=torch.float64)  # C
    startup = torch.tensor([c.startup_s for c in fitted.components], dtype=torch.float64)  # C
    means = torch.as_tensor(np.stack([c.mean for c in fitted.components], axis=1))  # p x C
    features = fitted.features

    def log_seconds(X: Tensor) -> Tensor:
        rest = _features(features, X) @ means + math.log(steps)  # ... x C
        # log(s + exp(r)); s = 0 gives r itself.
        return (torch.logaddexp(rest, startup.log()) @ weight).unsqueeze(-1)

    return GenericDeterministicModel(log_seconds)


def regressed_log_cost(space: Space, U: Array, seconds: Callable[[Array], Array]) -> GenericDeterministicModel:
    """A cost function of parameters, seen through the features of the learned model.

    It has gradients, and costs nothing to evaluate; the function itself may have neither virtue.

    Args:
        space: What the unit points are points of.
        U: Unit points (m x d) at which to look.
        seconds: From unit points to seconds, m.
    """
    features = Features(space)
    phi = features(U)
    y = np.log(seconds(U))
    level = float(y.mean())
    weights = np.linalg.solve(phi.T @ phi + _RIDGE * len(U) * np.eye(phi.shape[1]), phi.T @ (y - level))
    weights[0] += level
    w = torch.as_tensor(weights).unsqueeze(-1)
    return GenericDeterministicModel(lambda X: _features(features, X) @ w)


def _features(features: Features, X: Tensor) -> Tensor:
    """`Features.__call__` on tensors of shape ... x d."""
    x = X[..., list(features.ordered)] - 0.5
    one_hot = [((X[..., [i]] - torch.as_tensor(levels)).abs() < 1e-9).to(X) for i, levels in features.levels.items()]
    return torch.cat([torch.ones_like(X[..., :1]), x, 4 * (x * x - 1 / 12), *one_hot], dim=-1)
