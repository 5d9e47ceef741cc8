"""The network as a BoTorch `Model`, for every acquisition that takes one.

What is exact: each point's mean and variance, which are those of the network's buckets. What is approximate:
the posterior is a normal one with these moments, where the network's is not (skewed, with tails); and
between points the network says nothing, as candidates do not see each other, so their correlations are those of its
kernels' mixture. `frugalbo.metabo.acquisition` takes expected improvement on the buckets themselves.
"""

from __future__ import annotations

import frugalbo.models  # isort: skip  # noqa: F401 - first: it imports linear_operator without its warning

from collections.abc import Sequence

import torch
from botorch.acquisition.objective import PosteriorTransform
from botorch.models.model import Model
from botorch.posteriors import GPyTorchPosterior, Posterior
from gpytorch.distributions import MultivariateNormal
from torch import Tensor

from frugalbo.errors import ModelError
from frugalbo.metabo.universal import Fit, Universal, correlations
from frugalbo.metabo.weights import shipped

_LEAST_SD = 1e-12


class MetaModel(Model):
    """What the network says of a task, given its results.

    Outcomes are standardised by their mean and standard deviation. The network is trained on losses, which are
    bad without bound and good with one, so it must be told which way is good.

    Args:
        train_X: Unit points, n x d with n of at least 2 and d of at most 20.
        train_Y: Outcomes, n x 1.
        categorical: The dimensions along which only equality counts.
        maximize: Whether larger outcomes are better, as BoTorch's acquisitions have it.
        network: By default the one that comes with the package.
        train_Yvar: The variance of each outcome's noise, n x 1, if it is known.

    Raises:
        ModelError: If there are less results or more dimensions.
    """

    def __init__(
        self,
        train_X: Tensor,
        train_Y: Tensor,
        categorical: Sequence[int] = (),
        *,
        maximize: bool = True,
        network: Universal | None = None,
        train_Yvar: Tensor | None = None,
    ) -> None:
        super().__init__()
        if train_X.ndim != 2 or train_Y.shape != (len(train_X), 1):
            shapes = f"{tuple(train_X.shape)} and {tuple(train_Y.shape)}"
            raise ModelError(f"expected points n x d and outcomes n x 1, got {shapes}")
        self.train_inputs, self.train_targets = (train_X,), train_Y.squeeze(-1)
        self.categorical, self.maximize = tuple(categorical), maximize
        # In a tuple it is no part of this module: analytic acquisitions would cast it to the dtype of X.
        self._network = (network or shipped(),)
        sd = float(self.train_targets.std()) if len(train_Y) > 1 else 0.0
        self._sd = sd if sd > _LEAST_SD else 1.0
        self._mean = float(self.train_targets.mean())
        y = (self.train_targets - self._mean) / (-self._sd if maximize else self._sd)
        flags = torch.zeros(train_X.shape[-1], dtype=torch.bool)
        flags[list(self.categorical)] = True
        if train_Yvar is not None and (train_Yvar.shape != train_Y.shape or not bool((train_Yvar >= 0).all())):
            raise ModelError(f"expected variances n x 1 of at least 0, got shape {tuple(train_Yvar.shape)}")
        self.train_Yvar = train_Yvar
        known = None if train_Yvar is None else train_Yvar.T / self._sd**2
        with torch.no_grad():
            self._fit: Fit = self.network.read(train_X[None], y[None], flags, known)

    @property
    def network(self) -> Universal:
        """The network that is asked."""
        return self._network[0]

    @property
    def num_outputs(self) -> int:
        """One."""
        return 1

    @property
    def batch_shape(self) -> torch.Size:
        """None: one task."""
        return torch.Size()

    def posterior(
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
    ) -> Posterior:
        """The posterior at `X`, ... x q x d, of the function or of what a trial would show."""
        if output_indices not in (None, [0]) or isinstance(observation_noise, Tensor):
            raise ModelError("expected the only output, and noise or none, got other outputs or given noise")
        Q = X.reshape(1, -1, X.shape[-1])
        mean, variance = self.network.answer(self._fit, Q, observation_noise).moments()
        sign = -1.0 if self.maximize else 1.0
        mean = self._mean + sign * self._sd * mean.reshape(X.shape[:-1]).to(X)
        sd = self._sd * variance.reshape(X.shape[:-1]).to(X).sqrt()
        covariance = (sd * sd).unsqueeze(-1)
        if X.shape[-2] > 1:
            C = torch.cat([correlations(self._fit, block[None]) for block in X.reshape(-1, *X.shape[-2:])])
            covariance = sd.unsqueeze(-1) * C.reshape(*X.shape[:-1], -1).to(X) * sd.unsqueeze(-2)
        posterior = GPyTorchPosterior(MultivariateNormal(mean, covariance))
        return posterior if posterior_transform is None else posterior_transform(posterior)

    def condition_on_observations(self, X: Tensor, Y: Tensor, noise: Tensor | None = None, **_: object) -> MetaModel:
        """The model with more results, `X` (m x d) and `Y` (m x 1), with noise as known as that of the others.

        Args:
            X: Their points.
            Y: Their outcomes.
            noise: The variances of their noise, m x 1; where others' is known, by default the mean of that.
        """
        points = torch.cat([self.train_inputs[0], X])
        outcomes = torch.cat([self.train_targets.unsqueeze(-1), Y])
        known = self.train_Yvar
        if known is not None:
            known = torch.cat([known, known.mean().expand_as(Y) if noise is None else noise])
        return MetaModel(
            points, outcomes, self.categorical, maximize=self.maximize, network=self.network, train_Yvar=known
        )
