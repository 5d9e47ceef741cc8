"""A Matern-5/2 kernel over mixed inputs, and the prior of its lengthscales.

    k(x, z) = (1 + sqrt(5) r + 5/3 r^2) exp(-sqrt(5) r),
    r^2 = sum over ordered i of ((x_i - z_i) / l_i)^2 + sum over categorical j of [x_j != z_j] / l_j^2

The categorical part is the squared distance of one-hot vectors (over two), so `k` is a Matern
kernel after an embedding and hence positive definite. Inactive dimensions stand at 1/2 in both
points or in one; in the second case the condition's own dimension differs, too, and sets the
points apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from gpytorch.constraints import GreaterThan
from gpytorch.kernels import Kernel
from gpytorch.priors import LogNormalPrior
from torch import Tensor

SMALLEST_LENGTHSCALE = 0.025
_SQRT5 = math.sqrt(5.0)
_SAME = 1e-9  # coordinates of one categorical value differ by rounding only


def lengthscale_prior(d: int) -> tuple[float, float]:
    """Location and scale of the log-normal prior of each lengthscale in `d` searched dimensions.

    Source: Hvarfner, Hellsten, Nardi, Vanilla Bayesian Optimization Performs Great in High
    Dimensions, arXiv:2402.02229: LogNormal(sqrt(2) + log(d) / 2, sqrt(3)).
    """
    return math.sqrt(2) + 0.5 * math.log(d), math.sqrt(3)


class MixedMatern(Kernel):
    """The kernel above; without categorical dimensions, `MaternKernel(nu=2.5)`.

    Args:
        categorical: The dimensions along which only equality counts.
        prior: Location and scale of the lengthscales' log-normal prior.
    """

    has_lengthscale = True
    categorical: Tensor

    def __init__(self, d: int, categorical: Sequence[int], prior: tuple[float, float]) -> None:
        super().__init__(
            ard_num_dims=d,
            lengthscale_prior=LogNormalPrior(*prior),
            lengthscale_constraint=GreaterThan(SMALLEST_LENGTHSCALE, transform=None),  # type: ignore[arg-type],
        )
        mask = torch.zeros(d, dtype=torch.bool)
        mask[list(categorical)] = True
        self.register_buffer("categorical", mask)

    def forward(
        self, x1: Tensor, x2: Tensor, diag: bool = False, last_dim_is_batch: bool = False, **params: object
    ) -> Tensor:
        """The covariance of `x1` (... x n x d) and `x2` (... x m x d), of shape ... x n x m, or ... x n if `diag`."""
        if last_dim_is_batch:
            raise NotImplementedError("MixedMatern has no batch of one-dimensional kernels")
        scale: Tensor = self.lengthscale  # type: ignore[assignment]
        if diag:
            return torch.ones(x1.shape[:-1], dtype=x1.dtype)
        if not bool(self.categorical.any()):
            return matern52(_square_distance(x1 / scale, x2 / scale))
        ordered = ~self.categorical
        square = _square_distance((x1 / scale)[..., ordered], (x2 / scale)[..., ordered])
        a, b = x1[..., self.categorical], x2[..., self.categorical]
        differ = (a.unsqueeze(-2) - b.unsqueeze(-3)).abs() > _SAME  # ... x n x m x c
        return matern52(square + (differ.to(x1) / scale[..., self.categorical].unsqueeze(-2) ** 2).sum(-1))


def matern52(square_distance: Tensor) -> Tensor:
    """The Matern-5/2 correlation as a function of the squared distance."""
    # sqrt has no gradient at 0, where the correlation's own gradient in r^2 is finite.
    r = _SQRT5 * square_distance.clamp_min(1e-20).sqrt()
    return (1 + r + r * r / 3) * (-r).exp()


def _square_distance(a: Tensor, b: Tensor) -> Tensor:
    """Pairwise squared distances, ... x n x m; by differences, as near points need all digits."""
    if a.shape[-1] * a.shape[-2] * b.shape[-2] <= 4_000_000:
        return ((a.unsqueeze(-2) - b.unsqueeze(-3)) ** 2).sum(-1)
    centre = b.mean(dim=-2, keepdim=True)
    a, b = a - centre, b - centre
    inner = a @ b.transpose(-1, -2)
    return ((a * a).sum(-1, keepdim=True) - 2 * inner + (b * b).sum(-1).unsqueeze(-2)).clamp_min(0)
