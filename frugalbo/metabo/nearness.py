"""How near points are: distances in each dimension, and the Matern-5/2 kernels on them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

_SAME = 1e-9


@dataclass(frozen=True, slots=True)
class Pairs:
    """Each pair of different points of a set once, and so half of the work on a symmetric matrix.

    Args:
        S: Squared distances in each dimension, ... x d x P; of `differences`.
        first: Of each pair, P.
        second: The other, P.
        places: Where in a row of pairs, with a 1 behind it, each entry of a matrix is found, n * n.
    """

    S: Tensor
    first: Tensor
    second: Tensor
    places: Tensor

    @classmethod
    def of(cls, X: Tensor, categorical: Tensor) -> Pairs:
        """Those of the points ... x n x d."""
        n = X.shape[-2]
        first, second = torch.tril_indices(n, n, -1, device=X.device)
        places = torch.full((n, n), len(first), device=X.device)
        places[first, second] = places[second, first] = torch.arange(len(first), device=X.device)
        X = X.transpose(-1, -2).contiguous()
        apart = _take(X, first) - _take(X, second)
        return cls(_squares(apart, categorical.unsqueeze(-1)), first, second, places.flatten())

    def matrix(self, values: Tensor) -> Tensor:
        """The symmetric ... x n x n with `values` (... x P), and 1 on its diagonal."""
        n = math.isqrt(len(self.places))
        return _take(pad(values, (0, 1), value=1.0), self.places).unflatten(-1, (n, n))

    def values(self, matrix: Tensor) -> Tensor:
        """Of a symmetric ... x n x n those of the pairs, ... x P."""
        return _take(matrix.flatten(-2), self.first * matrix.shape[-1] + self.second)


def differences(A: Tensor, B: Tensor, categorical: Tensor) -> Tensor:
    """Squared distances in each dimension, ... x a x b x d; between values of a categorical one, 1."""
    return _squares(A.unsqueeze(-2) - B.unsqueeze(-3), categorical)


def _take(values: Tensor, places: Tensor) -> Tensor:
    """`values[..., places]`, many times as fast."""
    return values.gather(-1, places.expand(*values.shape[:-1], -1))


def _squares(apart: Tensor, categorical: Tensor) -> Tensor:
    square = apart * apart
    if not bool(categorical.any()):
        return square
    return torch.where(categorical.to(apart.device), (apart.abs() > _SAME).to(apart), square)


def matern(A: Tensor, B: Tensor, relevance: Tensor, categorical: Tensor) -> Tensor:
    """Matern 5/2 between points ... x a x d and ... x b x d, by inverse lengthscales ... x d; ... x a x b.

    Without the distances of each dimension in memory, but for those of categorical ones.
    """
    scale = math.sqrt(5) * relevance.unsqueeze(-2)
    if not bool(categorical.any()):
        return _matern_at(_apart(A * scale, B * scale))
    counts, named = ~categorical, categorical
    equal = differences(A[..., named], B[..., named], named[named])
    square = (equal * (scale[..., named] ** 2).unsqueeze(-2)).sum(-1)
    if bool(counts.any()):
        square = square + _apart((A * scale)[..., counts], (B * scale)[..., counts]) ** 2
    return _matern_at((square + 1e-12).sqrt())


def matern_of(r: Tensor, decay: Tensor) -> Tensor:
    """Matern 5/2 at distances times sqrt(5), `(1 + r + r^2 / 3) exp(-r)`; `decay` is `exp(-r)`."""
    return (1 + r).addcmul_(r, r, value=1 / 3).mul_(decay)


def _matern_at(r: Tensor) -> Tensor:
    """`matern_of` of distances that nobody else needs: in their place, but where a gradient does."""
    near = (1 + r).addcmul_(r, r, value=1 / 3)
    decay = torch.neg(r) if r.requires_grad else r.neg_()
    return near.mul_(decay.exp_())


def _apart(A: Tensor, B: Tensor) -> Tensor:
    """Distances from differences: from products, near points could not be told apart."""
    return torch.cdist(A, B, compute_mode="donot_use_mm_for_euclid_dist")
