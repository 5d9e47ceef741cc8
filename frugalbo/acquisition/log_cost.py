"""Cost models of `frugalbo.budget.cost` as BoTorch models of the logarithm of seconds."""

from __future__ import annotations

import math

import numpy as np
import torch
from botorch.acquisition.objective import PosteriorTransform
from botorch.models.deterministic import GenericDeterministicModel
from botorch.models.model import Model
from botorch.posteriors import GPyTorchPosterior
from gpytorch.distributions import MultivariateNormal
from linear_operator.operators import DenseLinearOperator
from numpy.typing import NDArray
from torch import Tensor

from frugalbo.budget.cost_features import Features
from frugalbo.budget.cost_mixture import FittedCost
from frugalbo.space import Space

Array = NDArray[np.float64]

_RIDGE = 1e-3
_LEAST_MISSED = 0.02


def learned_log_cost(fitted: FittedCost, steps: float, besides_s: float = 0.0) -> GenericDeterministicModel:
    """The log of the median seconds of a segment of `steps` steps, averaged over the model's mixture.

    With so many seconds more for all that it is charged besides.
    """
    weight, log_startup = mixture(fitted, besides_s)

    def log_seconds(X: Tensor) -> Tensor:
        rest = fitted.log_rest(feature_tensor(fitted.features, X), torch) + math.log(steps)  # ... x C
        # log(s + exp(r)); s = 0 gives r itself.
        return (torch.logaddexp(rest, log_startup) @ weight).unsqueeze(-1)

    return GenericDeterministicModel(log_seconds)


def learned_log_mean_cost(
    fitted: FittedCost, steps: float, besides_s: float = 0.0, *, level: float = 0.0
) -> GenericDeterministicModel:
    """The log of the expected seconds of a segment of `steps` steps, and of `besides_s` more, less `level`.

    Of a log-normal component with median `exp(mu)` and spread `sd` that is `exp(mu + sd^2 / 2)`.
    """
    weight, log_startup = mixture(fitted, besides_s)

    def log_mean(X: Tensor) -> Tensor:
        mean, variance = fitted.moments(feature_tensor(fitted.features, X), torch)  # ... x C
        rest = mean + math.log(steps) + 0.5 * variance
        return torch.logsumexp(weight.log() + torch.logaddexp(rest, log_startup), dim=-1, keepdim=True) - level

    return GenericDeterministicModel(log_mean)


def mixture(fitted: FittedCost, besides_s: float = 0.0) -> tuple[Tensor, Tensor]:
    """The weights of the components, and the logarithms of their start-up costs and `besides_s`, C each."""
    return torch.from_numpy(fitted.weight), (torch.from_numpy(fitted.startup_s) + besides_s).log()


class JointLogCost(Model):
    """The log of the seconds of segments of `steps` steps at several points, jointly normal.

    The mixture's first two moments: with `r` the log of the seconds after start-up and `g` their
    share in the whole, a component `w, s` has the mean `log(s + exp(E r))` and, to first order in `r`,
    the covariance `g(x) g(z) Cov(r(x), r(z))`; to these the mixture adds the covariance of the means.
    So one segment that is dearer than expected makes those near it dearer, too.

    Args:
        fitted: The model of cost.
        steps: Of each segment.
    """

    def __init__(self, fitted: FittedCost, steps: float) -> None:
        super().__init__()
        self._fitted = fitted
        self._log_steps = math.log(steps)
        self._weight, self._log_startup = mixture(fitted)
        # |root' features|^2 is the variance that is due to the weights of the features.
        self._roots = [
            torch.as_tensor(np.stack([c.basis * np.sqrt(c.variance) for c in group.components]))
            for group in fitted.groups
        ]  # each C x (p + r) x (p + r)

    @property
    def num_outputs(self) -> int:
        """One: the log of seconds."""
        return 1

    def posterior(
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
    ) -> GPyTorchPosterior:
        """The joint posterior at `X` of shape ... x q x d; with `observation_noise`, of what clocks would show."""
        if posterior_transform is not None or isinstance(observation_noise, Tensor):
            raise NotImplementedError("JointLogCost has neither posterior transforms nor given noise")
        phi = feature_tensor(self._fitted.features, X)  # ... q x p
        rest = self._fitted.log_rest(phi, torch) + self._log_steps  # ... q x C
        means = torch.logaddexp(rest, self._log_startup)  # ... q x C
        share = (rest - means).exp()  # ... q x C
        mean = means @ self._weight  # ... q
        root_weight = self._weight.sqrt()
        factors = [root_weight * (means - mean.unsqueeze(-1))]  # each ... q x some number
        left_out = torch.zeros_like(X[..., :1])
        at = 0
        for group, roots in zip(self._fitted.groups, self._roots, strict=True):
            features = group.features(phi, torch)
            moved = (share * root_weight)[..., at : at + len(roots)]  # ... q x C, of this group
            factors.append((moved.unsqueeze(-1) * torch.einsum("...p,cpr->...cr", features, roots)).flatten(-2))
            if group.residual is not None:
                psi = group.psi(features)
                unseen = group.residual.covariance(phi, torch) - psi @ psi.transpose(-1, -2)  # ... q x q
                amplitude2 = torch.from_numpy(group.amplitude2)
                left_out = left_out + unseen * ((moved * amplitude2) @ moved.transpose(-1, -2))
            at += len(roots)
        factor = torch.cat(factors, dim=-1)
        covariance = factor @ factor.transpose(-1, -2) + left_out  # ... q x q
        if observation_noise:
            covariance = covariance + torch.diag_embed(
                share.square() @ (self._weight * torch.from_numpy(self._fitted.sigma2))
            )
        return GPyTorchPosterior(MultivariateNormal(mean, DenseLinearOperator(covariance)))


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
    one_hot += [1 - one_hot[features.categorical.index(i)].sum(-1, keepdim=True) for i in features.shared]
    shape = [] if features.shape is None else [features.shape.log(X, torch).unsqueeze(-1) - features.centre]
    return torch.cat([torch.ones_like(X[..., :1]), x, 4 * (x * x - 1 / 12), *one_hot, *shape], dim=-1)
