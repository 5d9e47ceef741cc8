"""How near points are: distances in each dimension, and the Matern-5/2 kernels on them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_SAME = 1e-9


def differences(A: Tensor, B: Tensor, categorical: Tensor) -> Tensor:
    """Squared distances in each dimension, ... x a x b x d; between values of a categorical one, 1."""
    apart = A.unsqueeze(-2) - B.unsqueeze(-3)
    square = apart * apart
    if not bool(categorical.any()):
        return square
    return torch.where(categorical.to(A.device), (apart.abs() > _SAME).to(A), square)


def matern(A: Tensor, B: Tensor, relevance: Tensor, categorical: Tensor) -> Tensor:
    """Matern 5/2 between points ... x a x d and ... x b x d, by inverse lengthscales ... x d; ... x a x b.

    Without the distances of each dimension in memory, but for those of categorical ones.
    """
    scale = math.sqrt(5) * relevance.unsqueeze(-2)
    if not bool(categorical.any()):
        r = _apart(A * scale, B * scale)
        return matern_of(r, torch.neg(r).exp_())
    counts, named = ~categorical, categorical
    equal = differences(A[..., named], B[..., named], named[named])
    square = (equal * (scale[..., named] ** 2).unsqueeze(-2)).sum(-1)
    if bool(counts.any()):
        square = square + _apart((A * scale)[..., counts], (B * scale)[..., counts]) ** 2
    r = (square + 1e-12).sqrt()
    return matern_of(r, torch.neg(r).exp_())


def matern_of(r: Tensor, decay: Tensor) -> Tensor:
    """Matern 5/2 at distances times sqrt(5), `(1 + r + r^2 / 3) exp(-r)`; `decay` is `exp(-r)`."""
    return (1 + r).addcmul_(r, r, value=1 / 3) * decay


def _apart(A: Tensor, B: Tensor) -> Tensor:
    """Distances from differences: from products, near points could not be told apart."""
    return torch.cdist(A, B, compute_mode="donot_use_mm_for_euclid_dist")
