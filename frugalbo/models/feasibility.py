"""Will it run at all? A Gaussian process classifier of failures, as a BoTorch model of its latent function.

    P(success | x) = Phi(f(x)),     f ~ GP(m, k),     k = 9 Matern(l) + 3 linear

Nothing is fitted but the posterior (Laplace's approximation: Rasmussen and Williams, Gaussian
Processes for Machine Learning, 2006, algorithms 3.1 and 3.2, with the probit likelihood): a handful
of failures cannot determine a kernel. The mean `m` is the rate of success, with a prior of 1.8
successes in 2. The lengthscale is short, so an isolated failure stays a local matter; the linear
part lets failures on one side of a knob (a learning rate too high) speak for that side. The
variances are large, so that where several have failed the factor may fall to a hundredth: where a
loss falls towards a cliff, expected improvement beyond it is that much larger.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import torch
from botorch.acquisition.objective import PosteriorTransform
from botorch.models.model import Model
from botorch.posteriors import GPyTorchPosterior
from botorch.posteriors.posterior import Posterior
from gpytorch.distributions import MultivariateNormal
from numpy.typing import ArrayLike
from torch import Tensor
from torch.special import log_ndtr

from frugalbo.models.kernel import MixedMatern

_LOCAL_VARIANCE = 9.0
_LINEAR_VARIANCE = 3.0
_LENGTHSCALE = 0.3  # times the square root of the searched dimensions
_PRIOR_SUCCESSES, _PRIOR_TRIALS = 1.8, 2.0
_NEWTON_STEPS = 50


class FeasibilityGP(Model):
    """The latent function of a probit classifier, given successes and failures.

    Args:
        X: Unit points, n x d, at least one.
        success: Whether each ran.
        categorical: The dimensions along which only equality counts.
        searched: The number of dimensions that vary; all by default.
    """

    X: Tensor
    slope: Tensor
    root_w: Tensor
    chol: Tensor

    def __init__(
        self, X: ArrayLike, success: Sequence[bool], categorical: Sequence[int], searched: int | None = None
    ) -> None:
        super().__init__()
        points = torch.as_tensor(np.asarray(X, dtype=np.float64))
        n, d = points.shape
        self.searched = max(1, d if searched is None else searched)
        self.kernel = MixedMatern(d, categorical, (0.0, 1.0)).to(points)
        self.kernel.lengthscale = _LENGTHSCALE * math.sqrt(self.searched)  # type: ignore[misc]
        self.requires_grad_(False)
        rate = (sum(success) + _PRIOR_SUCCESSES) / (n + _PRIOR_TRIALS)
        self.mean = NormalDist().inv_cdf(rate) * math.sqrt(1 + _LOCAL_VARIANCE + _LINEAR_VARIANCE)
        self.register_buffer("X", points)
        slope, root_w, chol = _laplace(self._covariance(points, points), np.asarray(success), self.mean)
        self.register_buffer("slope", slope)  # n: the gradient of the log likelihood at the mode
        self.register_buffer("root_w", root_w)  # n
        self.register_buffer("chol", chol)  # n x n: of B = I + W^1/2 K W^1/2

    @property
    def num_outputs(self) -> int:
        """One latent function."""
        return 1

    @property
    def batch_shape(self) -> torch.Size:
        """No batches."""
        return torch.Size([])

    def posterior(
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
    ) -> Posterior:
        """The latent function at `X` (... x q x d), jointly; observations are not Gaussian and have no posterior."""
        if observation_noise is not False or output_indices not in (None, [0]):
            raise NotImplementedError("the classifier has one latent function and no observation noise")
        k = self._covariance(X, self.X)  # ... x q x n
        mean = self.mean + k @ self.slope
        half = torch.linalg.solve_triangular(self.chol, (k * self.root_w).transpose(-1, -2), upper=False)
        covariance = self._covariance(X, X) - half.transpose(-1, -2) @ half
        covariance = covariance + 1e-8 * torch.eye(X.shape[-2], dtype=X.dtype)
        posterior = GPyTorchPosterior(MultivariateNormal(mean, covariance))
        return posterior if posterior_transform is None else posterior_transform(posterior)

    def log_probability(self, X: Tensor) -> Tensor:
        """`log P(success)` at points one by one: ... x 1 x d to ...; with the latent function's uncertainty in it."""
        posterior: GPyTorchPosterior = self.posterior(X)  # type: ignore[assignment]
        mean, variance = posterior.mean[..., 0, 0], posterior.variance[..., 0, 0]
        return log_ndtr(mean / (1 + variance).sqrt())

    def _covariance(self, a: Tensor, b: Tensor) -> Tensor:
        ordered = ~self.kernel.categorical
        # 12 / d makes the linear part's mean variance over the cube 1.
        linear = (a[..., ordered] - 0.5) @ (b[..., ordered] - 0.5).transpose(-1, -2) * (12 / self.searched)
        return _LOCAL_VARIANCE * self.kernel.forward(a, b) + _LINEAR_VARIANCE * linear


def _laplace(K: Tensor, success: np.ndarray, mean: float) -> tuple[Tensor, Tensor, Tensor]:
    """Newton's method for the mode; the gradient and root curvature of the likelihood there, and chol(B)."""
    sign = torch.as_tensor(np.where(success, 1.0, -1.0))
    identity = torch.eye(len(sign), dtype=K.dtype)
    f = torch.full_like(sign, mean)
    for _ in range(_NEWTON_STEPS):
        gradient, root_w, chol = _curvature(K, sign, f, identity)
        b = root_w**2 * (f - mean) + gradient
        inner = torch.cholesky_solve((root_w * (K @ b)).unsqueeze(-1), chol).squeeze(-1)
        step = mean + K @ (b - root_w * inner) - f
        f = f + step
        if float(step.abs().max()) < 1e-9:
            break
    return _curvature(K, sign, f, identity)


def _curvature(K: Tensor, sign: Tensor, f: Tensor, identity: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    z = sign * f
    # phi / Phi, by logarithms: both underflow where a failure surprises.
    ratio = (-0.5 * z * z - 0.5 * math.log(2 * math.pi) - log_ndtr(z)).exp()
    root_w = (ratio * (ratio + z)).clamp_min(1e-12).sqrt()
    B = identity + root_w.unsqueeze(-1) * K * root_w
    return sign * ratio, root_w, torch.linalg.cholesky(B)
