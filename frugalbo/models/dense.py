"""An exact Gaussian process with any kernel, answered and fitted by dense algebra.

| symbol | meaning | shape |
|---|---|---|
| K | kernel matrix of the training points plus noise, K = L L' | n x n |
| m | constant mean, at its optimum for the hyperparameters: `1'K^-1 y / 1'K^-1 1` | |
| a | `K^-1 (y - m)` | n |

GPyTorch answers the same questions (a test compares them); for hundreds of points its generic
machinery takes several times as long, and its fantasies extend caches of the size of the training
set for each fantasy. Here a fantasy is a Schur complement of the size of what was fantasised
(`ConditionedGP`), which is what makes lookahead acquisitions affordable.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import botorch
import numpy as np
import torch
from botorch.acquisition.objective import PosteriorTransform
from botorch.models import SingleTaskGP
from botorch.models.model import FantasizeMixin, Model
from botorch.posteriors import GPyTorchPosterior
from botorch.posteriors.fully_bayesian import GaussianMixturePosterior
from botorch.posteriors.posterior import Posterior
from gpytorch.constraints import GreaterThan
from gpytorch.distributions import MultivariateNormal
from gpytorch.kernels import Kernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.means import ConstantMean
from gpytorch.module import Module
from gpytorch.priors import LogNormalPrior
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from torch import Tensor

from frugalbo.errors import FrugalWarning, ModelError
from frugalbo.models.map_fit import NOISE_BOUNDS, NOISE_PRIOR

Moments = tuple[Tensor, Tensor]  # a mean ... x q and a covariance ... x q x q
_JITTER = 1e-8
_FAILED = 1e29
_COARSE = 100  # points of the first fit where there are more


class LogConstraint(GreaterThan):
    """A lower bound under which the logarithm is what an optimiser moves."""

    def __init__(self, lower: float) -> None:
        super().__init__(lower, transform=torch.exp, inv_transform=torch.log)  # type: ignore[arg-type]


def checked(X: ArrayLike, losses: ArrayLike, what: str = "a surrogate") -> tuple[NDArray[np.float64], NDArray]:
    """Points (n x d) and losses (n) as arrays of floats.

    Raises:
        ModelError: If there are none, their numbers differ, or any of them is not finite.
    """
    points, y = np.array(X, dtype=np.float64, ndmin=2), np.asarray(losses, dtype=np.float64)
    if y.ndim != 1 or points.ndim != 2 or len(points) != len(y) or len(y) == 0:
        raise ModelError(
            f"expected points n x d and losses n, n at least 1, for {what}; got shapes {points.shape} and {y.shape}"
        )
    for name, values in (("losses", y), ("points", points)):
        bad = np.unique(np.nonzero(~np.isfinite(values))[0])
        if len(bad):
            raise ModelError(
                f"expected finite {name} for {what}, got {values[bad[0]]} in row {bad[0]}"
                f" ({len(bad)} such rows); a run that diverged has no loss: leave it out and report it as failed"
            )
    return np.ascontiguousarray(points), y


def posterior_of(
    model: Gaussian,
    X: Tensor,
    output_indices: list[int] | None = None,
    observation_noise: bool | Tensor = False,
    posterior_transform: PosteriorTransform | None = None,
) -> Posterior:
    """A model's `posterior`: the joint one at `X` (... x q x d), from its moments; a mixture for an ensemble."""
    if output_indices not in (None, [0]):
        raise NotImplementedError(f"expected one output, 0, got a question about outputs {output_indices}")
    mean, covariance = model.moments(X)
    if observation_noise is not False:
        if isinstance(observation_noise, Tensor):
            noise = observation_noise.squeeze(-1).expand(mean.shape)
        else:
            noise = model.noise_variance(X).expand(mean.shape)
        covariance = covariance + torch.diag_embed(noise)
    kind = GaussianMixturePosterior if getattr(model, "_is_ensemble", False) else GPyTorchPosterior
    posterior = kind(MultivariateNormal(mean, covariance))
    return posterior if posterior_transform is None else posterior_transform(posterior)


def forward_of(model: Gaussian, X: Tensor) -> MultivariateNormal:
    """A model's `forward`: the distribution of the function at `X`, as a GPyTorch model gives it."""
    return MultivariateNormal(*model.moments(X))


class DenseGP(SingleTaskGP):
    """A `SingleTaskGP` with a kept Cholesky factor.

    Args:
        train_X: Points, n x d.
        train_Y: Standardised outcomes, n x 1.
        kernel: The covariance of the function; its `forward` must broadcast over leading dimensions.
    """

    covar_module: Any
    mean_module: ConstantMean
    likelihood: GaussianLikelihood  # type: ignore[assignment]
    train_targets: Tensor

    def __init__(self, train_X: Tensor, train_Y: Tensor, kernel: Kernel) -> None:
        likelihood = GaussianLikelihood(
            noise_prior=LogNormalPrior(*NOISE_PRIOR), noise_constraint=LogConstraint(NOISE_BOUNDS[0] / 2)
        )
        # Indices of tasks are not in the unit cube; outcomes of several tasks have no common scale of 1.
        with botorch.settings.validate_input_scaling(False):
            super().__init__(
                train_X,
                train_Y,
                likelihood=likelihood,
                covar_module=kernel,
                mean_module=ConstantMean(),
                outcome_transform=None,
            )
        self.to(train_X)
        self.likelihood.noise = torch.tensor([0.02]).to(train_X)
        self._factor: tuple[Tensor, Tensor] | None = None

    @property
    def level(self) -> Tensor:
        """The prior's constant mean."""
        return self.mean_module.constant  # type: ignore[return-value]

    def negated(self) -> DenseGP:
        """The model of the negative of the outcomes, for what can only maximise; it shares the kernel."""
        return self._same(self.train_inputs[0], -self.train_targets, -float(self.level))

    def with_data(self, X: Tensor, y: Tensor) -> DenseGP:
        """The model with further observations `y` (m) at `X` (m x d), under the same hyperparameters."""
        inputs = torch.cat([self.train_inputs[0], X.to(self.train_targets)])
        return self._same(inputs, torch.cat([self.train_targets, y]), float(self.level))

    def _same(self, X: Tensor, y: Tensor, level: float) -> DenseGP:
        model = DenseGP(X, y.unsqueeze(-1), self.covar_module)
        model.likelihood.noise = self.likelihood.noise.detach()
        model.level.data.fill_(level)
        return model.freeze()

    def freeze(self) -> DenseGP:
        """Say that the hyperparameters are final."""
        self._factor = None
        self.requires_grad_(False)
        self.eval()
        return self

    def factor(self) -> tuple[Tensor, Tensor]:
        """L and a of the notation above."""
        if self._factor is None:
            X = self.train_inputs[0]
            K = self.covar_module.forward(X, X)
            L = torch.linalg.cholesky(K + torch.diag_embed(self.noise_variance(X)))
            residual = (self.train_targets - self.level).unsqueeze(-1)
            self._factor = (L, torch.cholesky_solve(residual, L).squeeze(-1))
        return self._factor

    def mean(self, X: Tensor) -> Tensor:
        """The posterior mean at `X` (... x q x d); ... x q."""
        return self.level + self._cross(X) @ self.factor()[1]

    def covariance(self, A: Tensor, B: Tensor) -> Tensor:
        """The posterior covariance of the function at `A` (... x m x d) and `B` (... x k x d); ... x m x k."""
        L, _ = self.factor()
        half_A = torch.linalg.solve_triangular(L, self._cross(A).transpose(-1, -2), upper=False)
        half_B = torch.linalg.solve_triangular(L, self._cross(B).transpose(-1, -2), upper=False)
        return self.covar_module.forward(A, B) - half_A.transpose(-1, -2) @ half_B

    def variance(self, X: Tensor) -> Tensor:
        """The posterior variance of the function at `X` (... x q x d), point by point; ... x q."""
        half = self._half(X)
        return (self.covar_module.forward(X, X, diag=True) - (half * half).sum(-2)).clamp_min(1e-10)

    def moments(self, X: Tensor) -> Moments:
        """Mean and covariance of the function at `X` (... x q x d), jointly in q."""
        if X.shape[-2] == 1:
            return self.mean(X), self.variance(X).unsqueeze(-1)
        half = self._half(X)
        covariance = self.covar_module.forward(X, X) - half.transpose(-1, -2) @ half
        return self.mean(X), covariance + _JITTER * torch.eye(X.shape[-2], dtype=X.dtype)

    def noise_variance(self, X: Tensor) -> Tensor:
        """The variance of an observation's noise at `X` (... x q x d); ... x q."""
        return self.likelihood.noise.expand(X.shape[:-1])

    posterior = posterior_of  # pyright: ignore[reportAssignmentType]

    def __call__(self, *args: Any, **kwargs: Any) -> MultivariateNormal:  # noqa: ANN401 - GPyTorch's
        """As for any GPyTorch model: the prior in training, the posterior in evaluation."""
        if self.training:
            return super().__call__(*args, **kwargs)
        return MultivariateNormal(*self.moments(args[0]))

    def train(self, mode: bool = True) -> DenseGP:
        """As for any module; what is kept is dropped."""
        if mode:
            self._factor = None
        return super().train(mode)

    def condition_on_observations(self, X: Tensor, Y: Tensor, **kwargs: Any) -> ConditionedGP:  # type: ignore[override] # noqa: ANN401
        """The model with more observations, `X` ... x q x d and `Y` ... x q x 1."""
        return ConditionedGP(self, X, Y, kwargs.get("noise"))

    def _cross(self, X: Tensor) -> Tensor:
        flat = self.covar_module.forward(X.reshape(-1, X.shape[-1]), self.train_inputs[0])
        return flat.reshape(*X.shape[:-1], -1)  # ... x q x n

    def _half(self, X: Tensor) -> Tensor:
        """L^-1 k(train, X), ... x n x q."""
        flat = self.covar_module.forward(X.reshape(-1, X.shape[-1]), self.train_inputs[0])
        half = torch.linalg.solve_triangular(self.factor()[0], flat.T, upper=False)
        return half.T.reshape(*X.shape[:-1], -1).transpose(-1, -2)


class Gaussian(Protocol):
    """What the free functions here ask of a model."""

    def moments(self, X: Tensor) -> Moments: ...  # noqa: D102 - as DenseGP's
    def noise_variance(self, X: Tensor) -> Tensor: ...  # noqa: D102


class ConditionedGP(Model, FantasizeMixin):  # pyright: ignore[reportIncompatibleMethodOverride]
    """A Gaussian model with more observations, by the Schur complement of their covariance.

    Args:
        base: The model before them; a `DenseGP`, a view, or another of these.
        X: Where they were made, ... x q x d.
        Y: What they were, ... x q x 1; their batch may have more leading dimensions than that of `X`.
        noise: The variances of their noise, broadcastable to `Y`; the base model's own by default.
    """

    def __init__(self, base: Any, X: Tensor, Y: Tensor, noise: Tensor | None = None) -> None:  # noqa: ANN401 - Gaussian & Model
        super().__init__()
        self.base = base
        self._is_ensemble = getattr(base, "_is_ensemble", False)
        self._X, self._Y = X, Y.squeeze(-1)
        variance = base.noise_variance(X) if noise is None else noise.squeeze(-1).expand(X.shape[:-1])
        mean, covariance = base.moments(X)
        self._L = torch.linalg.cholesky(covariance + torch.diag_embed(variance.clamp_min(_JITTER)))
        residual = (self._Y - mean).unsqueeze(-1)
        self._slope = torch.cholesky_solve(residual, self._L.expand(*residual.shape[:-2], *self._L.shape[-2:]))

    @property
    def num_outputs(self) -> int:
        """One."""
        return 1

    @property
    def batch_shape(self) -> torch.Size:
        """That of the observations."""
        return self._Y.shape[:-1]

    @property
    def likelihood(self) -> Any:  # noqa: ANN401 - GPyTorch's
        """The base model's."""
        return self.base.likelihood

    def moments(self, X: Tensor) -> Moments:
        """Mean and covariance of the function at `X` (... x q' x d), jointly in q'."""
        q = X.shape[-2]
        batch = torch.broadcast_shapes(X.shape[:-2], self._X.shape[:-2])
        both = torch.cat([X.expand(*batch, *X.shape[-2:]), self._X.expand(*batch, *self._X.shape[-2:])], dim=-2)
        mean, covariance = self.base.moments(both)
        cross = covariance[..., q:, :q]  # ... x q x q'
        half = torch.linalg.solve_triangular(self._L, cross, upper=False)
        mean = mean[..., :q] + (cross.transpose(-1, -2) @ self._slope).squeeze(-1)
        left = covariance[..., :q, :q] - half.transpose(-1, -2) @ half
        if q == 1:
            left = left.clamp_min(1e-10)
        return mean, left.expand(*mean.shape, q)

    def noise_variance(self, X: Tensor) -> Tensor:
        """The variance of an observation's noise at `X` (... x q x d); ... x q."""
        return self.base.noise_variance(X)

    posterior = posterior_of  # pyright: ignore[reportAssignmentType]

    forward = forward_of  # pyright: ignore[reportAssignmentType]

    def condition_on_observations(self, X: Tensor, Y: Tensor, **kwargs: Any) -> ConditionedGP:  # noqa: ANN401
        """The model with still more observations."""
        return ConditionedGP(self, X, Y, kwargs.get("noise"))


def fit_dense(model: DenseGP, starts: Sequence[Callable[[], None]], max_iterations: int = 60) -> float:
    """Set the hyperparameters to those of the highest posterior density found, and return its logarithm.

    The mean is the optimal one for each choice of the others, as in `map_fit`.

    Args:
        model: If its kernel has a method `plan(X)`, that does once what does not depend on hyperparameters, and
            gives the kernel matrix as a function of the present ones.
        starts: Functions that set the hyperparameters to where a descent begins.
        max_iterations: Of each descent.

    Warns:
        FrugalWarning: If no choice has a finite likelihood; then those of the first start stay.
    """
    parameters = [p for p in [*model.covar_module.parameters(), *model.likelihood.parameters()] if p.requires_grad]
    value = _posterior_density(model, slice(None))
    n = len(model.train_targets)
    if n > _COARSE:
        # The best fit of some points starts the fit of all, which then needs few steps.
        some = torch.linspace(0, n - 1, _COARSE, dtype=torch.float64).long()
        rows = model.train_targets.argsort(stable=True)[some]
        _, problem = maximise(_posterior_density(model, rows), parameters, starts, max_iterations)
        if not problem:
            coarse = [p.detach().clone() for p in parameters]
            starts, max_iterations = [lambda: restore(parameters, coarse)], max_iterations // 3
    best, problem = maximise(value, parameters, starts, max_iterations)
    with torch.no_grad():
        model.level.data.fill_(value()[1])
    if problem:
        warnings.warn(f"{problem}; the model keeps its prior hyperparameters", FrugalWarning, stacklevel=3)
    model.freeze()
    return best


def _posterior_density(model: DenseGP, rows: slice | Tensor) -> Callable[[], tuple[Tensor, float]]:
    """Log likelihood of some of the observations plus log priors, and the optimal mean, as they presently are."""
    X, y = model.train_inputs[0][rows], model.train_targets[rows]
    plan = getattr(model.covar_module, "plan", None)
    covariance = plan(X) if plan is not None else lambda: model.covar_module.forward(X, X)
    identity = torch.eye(len(y), dtype=X.dtype)

    def value() -> tuple[Tensor, float]:
        K = covariance() + model.likelihood.noise * identity
        log_likelihood, mean = concentrated(K, y, torch.ones_like(y))
        return log_likelihood + log_priors(model), mean

    return value


def restore(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Set parameters to values that they had."""
    for p, v in zip(parameters, values, strict=True):
        p.data.copy_(v)


def concentrated(K: Tensor, y: Tensor, design: Tensor) -> tuple[Tensor, float]:
    """The log density of `y` under mean `m design` and covariance `K` at the optimal `m`, and that `m`."""
    L, info = torch.linalg.cholesky_ex(K)
    if int(info) != 0:
        return torch.full((), -math.inf, dtype=K.dtype), 0.0
    solved = torch.cholesky_solve(torch.stack([y, design], dim=-1), L)  # n x 2
    mean = (design @ solved[:, 0]) / (design @ solved[:, 1]).clamp_min(1e-300)
    residual = y - mean * design
    square = residual @ (solved[:, 0] - mean * solved[:, 1])
    log_det = 2 * torch.diagonal(L).log().sum()
    return -0.5 * (square + log_det + len(y) * math.log(2 * math.pi)), float(mean.detach())


def log_density(K: Tensor, residual: Tensor) -> Tensor:
    """The log density of a Gaussian vector of covariance `K`; minus infinity where that has no Cholesky factor."""
    L, info = torch.linalg.cholesky_ex(K)
    if int(info) != 0:
        return torch.full((), -math.inf, dtype=K.dtype)
    half = torch.linalg.solve_triangular(L, residual.unsqueeze(-1), upper=False)
    log_det = 2 * torch.diagonal(L).log().sum()
    return -0.5 * ((half * half).sum() + log_det + len(residual) * math.log(2 * math.pi))


def log_priors(module: Module) -> Tensor:
    """The sum of the log densities of the priors that a module and its parts carry."""
    total = torch.zeros((), dtype=torch.float64)
    for _, owner, prior, closure, _ in module.named_priors():
        total = total + prior.log_prob(closure(owner)).sum()  # type: ignore[operator]
    return total


def maximise(
    value: Callable[[], tuple[Tensor, float]],
    parameters: Sequence[Tensor],
    starts: Sequence[Callable[[], None]],
    max_iterations: int,
) -> tuple[float, str]:
    """Ascend a function of parameters from some starts; they stay at the best. Returns its value, and a problem."""
    sizes = [p.numel() for p in parameters]

    def put(theta: NDArray[np.float64]) -> None:
        for p, part in zip(parameters, torch.from_numpy(theta.copy()).split(sizes), strict=True):
            p.data.copy_(part.reshape(p.shape))

    def get() -> NDArray[np.float64]:
        return torch.cat([p.detach().reshape(-1) for p in parameters]).double().numpy().copy()

    def negative(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        put(theta)
        result, _ = value()
        if not bool(torch.isfinite(result)):
            return 10 * _FAILED, np.zeros_like(theta)
        gradients = torch.autograd.grad(-result, list(parameters), allow_unused=True)
        flat = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
        return -float(result.detach()), torch.cat([g.reshape(-1) for g in flat]).double().numpy()

    found: list[tuple[float, NDArray[np.float64]]] = []
    options = {"maxiter": max_iterations, "maxfun": 2 * max_iterations, "ftol": 1e-6, "gtol": 1e-3}
    for start in starts:
        start()
        begin = get()
        # All parameters are logarithms or nearly so; no hyperparameter of standardised data is beyond e^12.
        result = minimize(
            negative, begin, jac=True, method="L-BFGS-B", bounds=[(-12.0, 12.0)] * len(begin), options=options
        )
        found.append((float(result.fun), result.x if np.isfinite(result.fun) else begin))
    best = min(found, key=lambda pair: pair[0])
    if best[0] >= _FAILED:
        starts[0]()
        return -math.inf, "no hyperparameters have a finite likelihood"
    put(best[1])
    return -best[0], ""
