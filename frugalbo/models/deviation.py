"""A kernel for one function seen under several conditions: a common part, and what a condition adds.

    f(x, s) = g(x) + sum_j phi_j(s) (h_j(x) + b_j)

    k((x, s), (z, t)) = tau^2 k_g(x, z) + sum_j A_j(s, t) (sigma_j^2 k_h(x, z) + c_j^2)

`k_g` and `k_h` are `MixedMatern` over x, with lengthscales of their own. The axis says what `A` is:

| axis | condition s | A_j(s, t) |
|---|---|---|
| `ShorterRuns` | shares in (0, 1], one a column | `e(s_j) e(t_j)`, `e(s) = (s^-a_j - 1) / a_j`, lowest: 1 |
| `Sources` | an index, 0 the target | `[s = t = j]` |
| `Exchangeable` | an index, as of seeds | `[s = t]` |
| `Described` | descriptors in the unit cube, as of data sets | Matern-5/2 |

At the target (`s = 1`, or source 0) the deviations vanish and `f = g`. Sources: the sum of a target
and independent deviations is the model of Poloczek, Wang, Frazier, Multi-Information Source
Optimization (2017), eq. 2; a product of decaying errors is that of Swersky, Snoek, Adams,
arXiv:1406.3896, and of BoTorch's `LinearTruncatedFidelityKernel` (Wu et al., arXiv:1903.04703).
Deviation: the error is a power law with a learned exponent, of which `1 - s` (a = -1) and `-log s`
(a = 0) are members, since what training loses to shortness falls as a power of its length; and all
deviations share one `k_h`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from gpytorch.constraints import Interval
from gpytorch.kernels import Kernel
from gpytorch.module import Module
from gpytorch.priors import LogNormalPrior, NormalPrior
from torch import Tensor

from frugalbo.models.dense import LogConstraint
from frugalbo.models.kernel import SMALLEST_LENGTHSCALE, MixedMatern, lengthscale_prior, matern52

_SAME = 1e-9


class DeviationKernel(Kernel):
    """The kernel above over inputs (x, s), of which the last `axis.dims` columns are s.

    Args:
        d: The number of columns of x.
        categorical: Those of x along which only equality counts.
        searched: The dimensions of x that vary, which scales the prior of the lengthscales.
        axis: What a condition is.
    """

    def __init__(self, d: int, categorical: Sequence[int], searched: int, axis: Axis) -> None:
        super().__init__()
        self.d = d
        self.axis: Any = axis
        prior = lengthscale_prior(max(1, searched))
        self.common = log_lengthscales(MixedMatern(d, categorical, prior))
        self.deviation = log_lengthscales(MixedMatern(d, categorical, prior))
        for name, size, median in (
            ("common_variance", 1, 1.0),
            ("variance", axis.count, 0.1),
            ("level", axis.count, 0.3),
        ):
            self.register_parameter(f"raw_{name}", torch.nn.Parameter(torch.full((size,), math.log(median))))
            self.register_constraint(f"raw_{name}", LogConstraint(1e-6))
            self.register_prior(
                f"{name}_prior", LogNormalPrior(math.log(median), 1.5), lambda m, name=name: m.scale(name)
            )

    def scale(self, name: str) -> Tensor:
        """A variance of the formula: `common_variance` is tau^2, `variance` the sigma_j^2, `level` the c_j^2."""
        return getattr(self, f"raw_{name}_constraint").transform(getattr(self, f"raw_{name}"))

    def begin(self, lengthscale: float) -> None:
        """Set all that is learned to where a fit may begin."""
        for kernel in (self.common, self.deviation):
            kernel.lengthscale = lengthscale  # type: ignore[misc]
        for name, median in (("common_variance", 1.0), ("variance", 0.1), ("level", 0.3)):
            getattr(self, f"raw_{name}").data.fill_(math.log(median))
        self.axis.begin()

    def forward(
        self, x1: Tensor, x2: Tensor, diag: bool = False, last_dim_is_batch: bool = False, **params: object
    ) -> Tensor:
        """The covariance of `x1` (... x n x D) and `x2` (... x m x D), of shape ... x n x m, or ... x n if `diag`."""
        if last_dim_is_batch:
            raise NotImplementedError("DeviationKernel has no batch of one-dimensional kernels")
        if diag:
            return self.forward(x1.unsqueeze(-2), x2.unsqueeze(-2))[..., 0, 0]
        a, b = x1[..., : self.d], x2[..., : self.d]
        shares = self.axis(x1[..., self.d :], x2[..., self.d :])
        return self._sum(self.common.forward(a, b), self.deviation.forward(a, b), shares)

    def plan(self, X: Tensor) -> Callable[[], Tensor]:
        """The kernel matrix of `X` (n x D) as a function of the hyperparameters; distances are taken once."""
        x, s = X[:, : self.d], X[:, self.d :]
        common, deviation = matern_plan(self.common, x), matern_plan(self.deviation, x)
        return lambda: self._sum(common(), deviation(), self.axis(s, s))

    def _sum(self, common: Tensor, deviation: Tensor, shares: Tensor) -> Tensor:
        errors = (shares @ self.scale("variance")) * deviation + shares @ self.scale("level")
        return self.scale("common_variance") * common + errors


class Axis(Module):
    """What a condition is: `forward` gives the `A_j` of ... x n x dims and ... x m x dims, as ... x n x m x count."""

    dims: int = 1
    count: int = 1

    def begin(self) -> None:
        """Set what is learned to where a fit may begin."""

    def forward(self, s: Tensor, t: Tensor) -> Tensor:
        """The table above."""
        raise NotImplementedError


class ShorterRuns(Axis):
    """Fidelities, each a share in (0, 1] of the full length, subset or resolution.

    Args:
        lowest: The lowest fidelity seen in each column, k; where all are full, any number below 1.
    """

    lowest: Tensor

    def __init__(self, lowest: Tensor) -> None:
        super().__init__()
        self.dims = self.count = len(lowest)
        self.register_buffer("lowest", torch.where(lowest < 1 - 1e-6, lowest, torch.full_like(lowest, 0.1)))
        self.register_parameter("raw_exponent", torch.nn.Parameter(torch.zeros(len(lowest))))
        self.register_constraint("raw_exponent", Interval(-1.0, 2.0))
        self.register_prior("exponent_prior", NormalPrior(0.5, 0.5), lambda m: m.exponent)
        self.begin()

    @property
    def exponent(self) -> Tensor:
        """The a_j, k."""
        return self.raw_exponent_constraint.transform(self.raw_exponent)  # type: ignore[operator]

    def begin(self) -> None:
        """Exponents of 1/2."""
        self.raw_exponent.data.fill_(0.0)  # type: ignore[union-attr]

    def error(self, s: Tensor) -> Tensor:
        """The e(s) of ... x k, in units of that at the lowest."""
        a = self.exponent
        # At a = 0 the limit is -log s; within 1e-6 of it the formula has no digits.
        a = torch.where(a.abs() < 1e-6, torch.full_like(a, 1e-6), a)
        return torch.expm1(-a * s.log()) / torch.expm1(-a * self.lowest.log())

    def forward(self, s: Tensor, t: Tensor) -> Tensor:
        """Products of errors."""
        return self.error(s).unsqueeze(-2) * self.error(t).unsqueeze(-3)


class Sources(Axis):
    """Indices of information sources, in one column; 0 is the target.

    Args:
        count: How many there are beside the target.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = max(1, count)

    def forward(self, s: Tensor, t: Tensor) -> Tensor:
        """Whether both are the same source, for each."""
        j = torch.arange(1, self.count + 1, dtype=s.dtype)
        return ((s - j).abs() < 0.5).to(s).unsqueeze(-2) * ((t - j).abs() < 0.5).to(t).unsqueeze(-3)


class Exchangeable(Axis):
    """Indices of conditions of which none is like another, as seeds are, in one column."""

    def forward(self, s: Tensor, t: Tensor) -> Tensor:
        """Whether both are the same."""
        return ((s.unsqueeze(-2) - t.unsqueeze(-3)).abs() < 0.5).to(s)


class Described(Axis):
    """Conditions with descriptors in the unit cube, in k columns: alike where these are close.

    Args:
        k: How many columns.
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        self.dims = k
        self.kernel = log_lengthscales(MixedMatern(k, (), lengthscale_prior(k)))

    def begin(self) -> None:
        """Lengthscales of 1."""
        self.kernel.lengthscale = 1.0  # type: ignore[misc]

    def forward(self, s: Tensor, t: Tensor) -> Tensor:
        """Matern-5/2."""
        return self.kernel.forward(s, t).unsqueeze(-1)


def log_lengthscales(kernel: MixedMatern) -> MixedMatern:
    """The kernel with lengthscales that an optimiser moves by their logarithms."""
    kernel.register_constraint("raw_lengthscale", LogConstraint(SMALLEST_LENGTHSCALE), replace=True)
    kernel.lengthscale = 1.0  # type: ignore[misc]
    return kernel


def matern_plan(kernel: MixedMatern, X: Tensor) -> Callable[[], Tensor]:
    """The kernel matrix of `X` (n x d) as a function of the present lengthscales; distances are taken once."""
    n, d = X.shape
    difference = (X.unsqueeze(-2) - X.unsqueeze(-3)).reshape(n * n, d)
    D = torch.where(kernel.categorical, (difference.abs() > _SAME).to(X), difference**2)  # n^2 x d
    return lambda: matern52((D @ kernel.lengthscale.reshape(-1) ** -2).reshape(n, n))  # type: ignore[union-attr]
