"""Weighted sums of a function over some of its inputs, as BoTorch models of what remains.

    g(x) = sum_i p_i f(x, w_i)

If `f` is Gaussian so is `g`, exactly. With one row `w` and weight 1 this is the target task, the
target fidelity, the one condition that counts; with several it is a mean over environments; with
weight -1 it is what an acquisition that maximises wants of a loss.
"""

from __future__ import annotations

from typing import Any

import torch
from botorch.models.model import FantasizeMixin, Model
from torch import Tensor

from frugalbo.models.dense import ConditionedGP, DenseGP, Moments, forward_of, posterior_of


class LinearView(Model, FantasizeMixin):  # pyright: ignore[reportIncompatibleMethodOverride]
    """The model of `g` above, given a model of `f`.

    An observation of `g` at `x` (in a fantasy, or in `condition_on_observations`) is one of all the
    `f(x, w_i)` at once, each with its own noise: its noise has the variance `sum p_i^2 sigma_i^2`.

    Args:
        base: A model of one output over d + k inputs, of which the last k are fixed here.
        features: The rows `w_i`, m x k.
        weights: The `p_i`, m; any real numbers. By default 1 / m each.
    """

    features: Tensor
    weights: Tensor

    def __init__(self, base: Model, features: Tensor, weights: Tensor | None = None) -> None:
        super().__init__()
        if features.ndim != 2 or len(features) == 0:
            raise ValueError(f"expected features m x k with m at least 1, got shape {tuple(features.shape)}")
        if weights is None:
            weights = torch.full((len(features),), 1 / len(features), dtype=features.dtype)
        if weights.shape != features.shape[:1]:
            raise ValueError(f"expected {len(features)} weights, got shape {tuple(weights.shape)}")
        self.base = base
        self.register_buffer("features", features)
        self.register_buffer("weights", weights.to(features))

    @property
    def num_outputs(self) -> int:
        """One."""
        return 1

    @property
    def batch_shape(self) -> torch.Size:
        """The base model's."""
        return self.base.batch_shape

    @property
    def likelihood(self) -> Any:  # noqa: ANN401 - GPyTorch's
        """The base model's."""
        return self.base.likelihood

    def negated(self) -> LinearView:
        """The view of the negative, for what can only maximise."""
        return LinearView(self.base, self.features, -self.weights)

    def extended(self, X: Tensor) -> Tensor:
        """The points at which `f` is asked: ... x q x d to ... x (q m) x (d + k), `w` running fastest."""
        m, k = self.features.shape
        X = X.unsqueeze(-2).expand(*X.shape[:-1], m, X.shape[-1])  # ... x q x m x d
        W = self.features.expand(*X.shape[:-1], k)
        return torch.cat([X, W], dim=-1).flatten(-3, -2)

    def moments(self, X: Tensor) -> Moments:
        """Mean and covariance of `g` at `X` (... x q x d), jointly in q."""
        if isinstance(self.base, DenseGP) or hasattr(self.base, "moments"):
            mean, covariance = self.base.moments(self.extended(X))  # type: ignore[operator]
        else:
            joint = self.base.posterior(self.extended(X)).distribution  # type: ignore[attr-defined]
            mean, covariance = joint.mean, joint.covariance_matrix
        q, m = X.shape[-2], len(self.weights)
        mean = mean.unflatten(-1, (q, m)) @ self.weights
        blocks = covariance.unflatten(-1, (q, m)).unflatten(-3, (q, m))  # ... x q x m x q x m
        return mean, torch.einsum("...iajb,a,b->...ij", blocks, self.weights, self.weights)

    def noise_variance(self, X: Tensor) -> Tensor:
        """The variance of the noise of an observation of `g` at `X` (... x q x d); ... x q."""
        points = self.extended(X)
        if hasattr(self.base, "noise_variance"):
            noise = self.base.noise_variance(points)  # type: ignore[operator]
        else:
            noisy, bare = (self.base.posterior(points, observation_noise=on) for on in (True, False))
            noise = (noisy.variance - bare.variance).squeeze(-1)  # type: ignore[attr-defined]
        return noise.unflatten(-1, (X.shape[-2], len(self.weights))) @ self.weights**2

    def covariance_with(self, A: Tensor, Z: Tensor) -> Tensor:
        """The posterior covariance of `g` at `A` (m x d) and `f` at `Z` (b x (d + k)); m x b. For a `DenseGP` base."""
        cross = self.base.covariance(self.extended(A), Z)  # type: ignore[operator]
        return torch.einsum("iab,ia->ib", cross.unflatten(-2, (len(A), len(self.weights))), self.weights_at(A))

    def weights_at(self, X: Tensor) -> Tensor:
        """The weights of the sum at `X` (b x d), the same everywhere; b x m."""
        return self.weights.expand(len(X), -1)

    posterior = posterior_of  # pyright: ignore[reportAssignmentType]

    forward = forward_of  # pyright: ignore[reportAssignmentType]

    def condition_on_observations(self, X: Tensor, Y: Tensor, **kwargs: Any) -> ConditionedGP:  # noqa: ANN401
        """The view with observations of `g`: `X` ... x q x d and `Y` ... x q x 1."""
        return ConditionedGP(self, X, Y, kwargs.get("noise"))
