"""The model of the objective: a Gaussian process, fitted fast, that is an ordinary BoTorch model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from botorch.acquisition.objective import PosteriorTransform
from botorch.models import SingleTaskGP
from botorch.posteriors import GPyTorchPosterior, TransformedPosterior
from gpytorch.constraints import GreaterThan
from gpytorch.distributions import MultivariateNormal
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood, GaussianLikelihood
from gpytorch.means import ConstantMean
from gpytorch.priors import LogNormalPrior
from linear_operator.operators import DenseLinearOperator
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from frugalbo.errors import ModelError
from frugalbo.models.kernel import Family, Group, MixedMatern, lengthscale_prior
from frugalbo.models.map_fit import NOISE_BOUNDS, NOISE_PRIOR, Hyperparameters, fit_map
from frugalbo.models.outcome import Outcome

_LEAST_NOISE = 1e-6  # a variance of standardised outcomes; GPyTorch takes no less
_MOST_NOISE = 1e6
LEAST_VARIANCE = 1e-10


@dataclass(frozen=True, slots=True)
class Marginals:
    """What a Gaussian process says of points one by one, and what the covariances between them are made of.

    Args:
        X: The points, b x d.
        mean: b.
        variance: b, at least `LEAST_VARIANCE`.
        half: `L^-1 k(seen, X)`, n x b: the covariance of x and z is `k(x, z) - half(x)' half(z)`.
        weights: For a `frugalbo.models.target.TargetGP`, of the conditions that it sums over, b x m.
    """

    X: Tensor
    mean: Tensor
    variance: Tensor
    half: Tensor
    weights: Tensor | None = None


class ObjectiveGP(SingleTaskGP):
    """A `SingleTaskGP` with a mixed Matern kernel and a short way to the posterior of single points.

    Where `SingleTaskGP.posterior` is asked for many points one by one (shape b x 1 x d), as an
    analytic acquisition does, this one solves against a Cholesky factor that it keeps, with the same
    result (a test compares them) in a fraction of the time. All other questions go the usual way.

    Args:
        train_X: Unit points, n x d.
        train_Y: Standardised outcomes, n x 1.
        categorical: The dimensions along which only equality counts.
        searched: The number of dimensions that vary, which scales the prior of the lengthscales.
        groups: Categorical dimensions that share their values.
        kernel: The kernel's family.
        noise: The variance of each outcome's noise, n, if it is known.
    """

    covar_module: MixedMatern  # type: ignore[assignment]
    mean_module: ConstantMean
    likelihood: GaussianLikelihood | FixedNoiseGaussianLikelihood  # type: ignore[assignment]
    train_targets: Tensor

    def __init__(
        self,
        train_X: Tensor,
        train_Y: Tensor,
        categorical: Sequence[int],
        searched: int,
        groups: Sequence[Group] = (),
        kernel: Family = "matern52",
        noise: Tensor | None = None,
    ) -> None:
        d = train_X.shape[-1]
        if noise is None:
            bound = GreaterThan(NOISE_BOUNDS[0] / 2, transform=None, initial_value=0.01)  # type: ignore[arg-type]
            likelihood = GaussianLikelihood(noise_prior=LogNormalPrior(*NOISE_PRIOR), noise_constraint=bound)
        else:
            likelihood = FixedNoiseGaussianLikelihood(noise)
        super().__init__(
            train_X,
            train_Y,
            likelihood=likelihood,
            covar_module=MixedMatern(d, categorical, lengthscale_prior(max(1, searched)), groups, kernel),
            mean_module=ConstantMean(),
            outcome_transform=None,
        )
        self.to(train_X)
        self._factor: tuple[Tensor, Tensor, Tensor] | None = None

    def set_hyperparameters(self, found: Hyperparameters) -> None:
        """Take over what `fit_map` found."""
        self.covar_module.lengthscale = torch.as_tensor(found.lengthscales).to(self.train_targets)
        if found.counts is not None:
            self.covar_module.set_counts(*found.counts)
        if isinstance(self.likelihood, GaussianLikelihood):
            self.likelihood.noise = torch.tensor([found.noise]).to(self.train_targets)
        self.level.data.fill_(found.mean)
        self._factor = None
        self.requires_grad_(False)
        self.eval()

    def negated(self) -> ObjectiveGP:
        """The model of the negative of the outcomes, for what can only maximise."""
        return self.with_data(self.train_inputs[0], -self.train_targets, level=-float(self.level))

    def with_data(self, X: Tensor, y: Tensor, *, level: float | None = None) -> ObjectiveGP:
        """A model with the same hyperparameters of other data: points n x d, standardised outcomes n.

        Where noise is given, the first of them keep theirs, and any further have its mean.
        """
        kernel = self.covar_module
        categorical = [int(i) for i in kernel.categorical.nonzero().reshape(-1)]
        noise = None
        if isinstance(self.likelihood, FixedNoiseGaussianLikelihood):
            known = self.likelihood.noise
            noise = torch.cat([known, known.mean().expand(len(X) - len(known))])
        model = ObjectiveGP(X, y.unsqueeze(-1), categorical, 1, kernel.groups, kernel.family, noise)
        found = Hyperparameters(
            kernel.lengthscale.detach().reshape(-1).numpy(),
            float(self.likelihood.noise.mean()),
            float(self.level) if level is None else level,
            value=0.0,
            evaluations=0,
            counts=(float(kernel.counts_weight), float(kernel.counts_lengthscale)),
        )
        model.set_hyperparameters(found)
        return model

    @property
    def level(self) -> Tensor:
        """The prior's constant mean."""
        return self.mean_module.constant  # type: ignore[return-value]

    def train(self, mode: bool = True) -> ObjectiveGP:
        """As for any module; what is kept for the short way is dropped."""
        if mode:
            self._factor = None
        return super().train(mode)

    def posterior(
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
    ) -> GPyTorchPosterior | TransformedPosterior:
        """The joint posterior at `X` of shape ... x q x d."""
        short = X.shape[-2] == 1 and output_indices is None and observation_noise is False
        if not short or posterior_transform is not None or self.train_targets.ndim != 1:
            return super().posterior(X, output_indices, observation_noise, posterior_transform)
        self.eval()
        mean, variance = self.moments(X)
        covariance = DenseLinearOperator(variance.reshape(*X.shape[:-1], 1))
        return GPyTorchPosterior(MultivariateNormal(mean.reshape(X.shape[:-1]), covariance))

    def moments(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance at single points, ... x 1 x d, each of shape ...; `posterior` without its wrapping."""
        there = self.marginals(X.reshape(-1, X.shape[-1]))
        return there.mean.reshape(X.shape[:-2]), there.variance.reshape(X.shape[:-2])

    def marginals(self, X: Tensor) -> Marginals:
        """What is known of `X` (b x d), point by point."""
        L, a = self.factor()
        k = self.covar_module.forward(X, self.train_inputs[0])  # b x n
        half = torch.linalg.solve_triangular(L, k.transpose(-1, -2), upper=False)  # n x b
        return Marginals(X, self.level + k @ a, (1 - (half * half).sum(0)).clamp_min(LEAST_VARIANCE), half)

    def covariance(self, a: Marginals, b: Marginals) -> Tensor:
        """The posterior covariance of the function at the points of `a` (m) and of `b` (k); m x k."""
        return self.covar_module.forward(a.X, b.X) - a.half.T @ b.half

    @property
    def seen(self) -> Tensor:
        """Where there are outcomes, n x d."""
        return self.train_inputs[0]

    @property
    def noise(self) -> Tensor:
        """The variance of an outcome's noise, without dimensions; the mean where each has its own."""
        return self.likelihood.noise.mean()

    def condition_on_observations(self, X: Tensor, Y: Tensor, **kwargs: Any) -> ObjectiveGP:  # noqa: ANN401 - GPyTorch's
        """The model with more observations."""
        if self.prediction_strategy is None:
            # GPyTorch extends the caches of an earlier answer; the short way leaves none.
            super().posterior(self.train_inputs[0][:1])
        return super().condition_on_observations(X, Y, **kwargs)  # type: ignore[return-value]

    def factor(self) -> tuple[Tensor, Tensor]:
        """The factor of the training covariance and its solution of the residuals, kept for the same data."""
        X = self.train_inputs[0]
        if self._factor is None or self._factor[0] is not X:
            K = self.covar_module.forward(X, X)
            K = K + torch.diag_embed(self.likelihood.noise.expand(len(X)))
            L = torch.linalg.cholesky(K)
            residual = (self.train_targets - self.level).unsqueeze(-1)
            self._factor = (X, L, torch.cholesky_solve(residual, L).squeeze(-1))
        return self._factor[1], self._factor[2]


class Transform(Protocol):
    """What a model sees of outcomes, and back."""

    def __call__(self, losses: ArrayLike, /) -> NDArray[np.float64]:
        """Standardised, n to n; rising, but for plateaus at the ends."""
        ...

    def inverse(self, t: float) -> float:
        """The outcome that the model sees as `t`."""
        ...


@dataclass(frozen=True, slots=True)
class Objective:
    """A fitted model with the transform of its outcomes; smaller outcomes are better."""

    model: ObjectiveGP
    outcome: Transform
    fit: Hyperparameters

    def best(self) -> float:
        """The smallest posterior mean at any point that the model knows."""
        with torch.no_grad():
            return float(self.model.posterior(self.model.train_inputs[0].unsqueeze(-2)).mean.min())

    def believing(self, X: ArrayLike) -> Objective:
        """The model as if the points `X` (m x d) had come out at their posterior means.

        Source: Ginsbourger, Le Riche, Carraro, Kriging is well-suited to parallelize optimization
        (2010): the Kriging believer.
        """
        points = torch.as_tensor(np.asarray(X), dtype=torch.float64)
        with torch.no_grad():
            believed = self.model.posterior(points.unsqueeze(-2)).mean.reshape(-1)
        old = self.model
        model = old.with_data(torch.cat([old.train_inputs[0], points]), torch.cat([old.train_targets, believed]))
        return Objective(model, self.outcome, self.fit)


def fit_objective(
    X: ArrayLike,
    losses: ArrayLike,
    categorical: Sequence[int],
    searched: int | None = None,
    groups: Sequence[Group] = (),
    *,
    kernel: Family = "matern52",
    outcome: Transform | None = None,
    noise: ArrayLike | None = None,
    more_noise: bool = False,
    start: Hyperparameters | None = None,
    check: Callable[[], None] = lambda: None,
) -> Objective:
    """The objective's model, fitted by maximum a posteriori to losses (smaller is better).

    Args:
        X: Unit points, n x d.
        losses: Finite, n; any scale, heavy tails included.
        categorical: The dimensions along which only equality counts.
        searched: The dimensions that can vary; all by default.
        groups: Those of the categorical dimensions that share their values.
        kernel: "rbf" for losses that are smooth beyond doubt.
        outcome: What the model sees of the losses; by default `Outcome.of(losses)`.
        noise: The variance of the noise of each loss, n, or of all, if it is known; else it is fitted. The model sees
            it through the slope of the outcome's transform, and as at least a millionth of the variance of all.
        more_noise: Whether the noise that is known is only a part of it, and the rest is fitted too.
        start: The `fit` of an earlier model of the same space, from which to go on; see `fit_map`.
        check: Called often during the fit; what it raises ends it.

    Raises:
        ModelError: If the noise is not one variance or n of them, or has a transform without a slope.
    """
    points = np.ascontiguousarray(np.asarray(X, dtype=np.float64))
    outcome = outcome or Outcome.of(losses)
    y = outcome(losses)
    dims = max(1, points.shape[1] if searched is None else searched)
    prior, seen = lengthscale_prior(dims), None if noise is None else _seen_noise(noise, losses, outcome)
    found = fit_map(
        points, y, tuple(categorical), prior, groups,
        kernel=kernel, noise=seen, more_noise=more_noise, start=start, check=check,
    )  # fmt: skip
    train_X, train_Y = torch.from_numpy(points), torch.from_numpy(y).unsqueeze(-1)
    given = None if seen is None else torch.from_numpy(seen + found.noise if more_noise else seen)
    model = ObjectiveGP(train_X, train_Y, categorical, dims, groups, kernel, given)
    model.set_hyperparameters(found)
    return Objective(model, outcome, found)


def _seen_noise(noise: ArrayLike, losses: ArrayLike, outcome: Transform) -> NDArray[np.float64]:
    """The variances that the model sees, by the delta method."""
    variance, y = np.asarray(noise, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    if variance.shape not in ((), y.shape) or not (np.isfinite(variance) & (variance >= 0)).all():
        raise ModelError(f"expected one variance of noise or {len(y)}, finite and at least 0, got {noise!r}")
    if not isinstance(outcome, Outcome):
        raise ModelError(f"expected noise with the transform Outcome, which has a slope, got {type(outcome).__name__}")
    with np.errstate(over="ignore"):
        seen = np.broadcast_to(variance, y.shape) * outcome.slope(y) ** 2
    return np.clip(seen, _LEAST_NOISE, _MOST_NOISE)
