"""A surrogate that also learns from derivatives of the loss, where some knobs are differentiable.

    slopes = fit_with_gradients(X, losses, gradients)   # gradients n x d of losses by unit knobs; NaN where unknown
    slopes.model.posterior(points)                      # of the loss alone, for any acquisition
    slopes.model.gradient(points)                       # the mean of its derivatives

The joint covariance of values and derivatives is GPyTorch's `Matern52KernelGrad` or `RBFKernelGrad`
(Wu, Poloczek, Wilson, Frazier, Bayesian Optimization with Gradients, arXiv:1703.04389, eq. 2), of
which the rows that were observed are kept. Categorical dimensions have no derivatives; the kernel is
then the product of theirs and of that of the ordered ones.

Losses are transformed affinely, as what curves them would bend their derivatives, too. Heavy tails are
the exception, of which a warning tells: gradients are then multiplied with the transform's slope at each
loss, and those on its plateau are left out.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from botorch.models.model import FantasizeMixin, Model
from gpytorch.kernels import Matern52KernelGrad, RBFKernelGrad
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.module import Module
from gpytorch.priors import LogNormalPrior
from numpy.typing import ArrayLike
from torch import Tensor

from frugalbo.errors import FrugalWarning, ModelError
from frugalbo.models.affine import affine_outcome
from frugalbo.models.dense import (
    ConditionedGP,
    LogConstraint,
    Moments,
    checked,
    concentrated,
    forward_of,
    log_priors,
    maximise,
    posterior_of,
    restore,
)
from frugalbo.models.kernel import SMALLEST_LENGTHSCALE, lengthscale_prior, matern52
from frugalbo.models.map_fit import NOISE_BOUNDS, NOISE_PRIOR
from frugalbo.models.outcome import Outcome

_SQRT5 = math.sqrt(5.0)
_SAME = 1e-9
_COARSE = 100  # values and derivatives of the first fit where there are more


class GradientGP(Model, FantasizeMixin):  # pyright: ignore[reportIncompatibleMethodOverride]
    """A Gaussian process given values and some of their derivatives; what it answers are values.

    Args:
        X: Unit points, n x d.
        y: Standardised outcomes, n.
        gradients: Their derivatives by the coordinates, n x d; NaN where unknown.
        categorical: The dimensions along which only equality counts.
        searched: The number of dimensions that vary, which scales the prior of the lengthscales.
        kernel: "matern52" or "rbf".
    """

    X: Tensor
    targets: Tensor
    seen: Tensor
    ordered: Tensor

    def __init__(
        self,
        X: Tensor,
        y: Tensor,
        gradients: Tensor,
        categorical: Sequence[int] = (),
        searched: int | None = None,
        kernel: Literal["matern52", "rbf"] = "matern52",
    ) -> None:
        super().__init__()
        d = X.shape[-1]
        ordered = [i for i in range(d) if i not in set(categorical)]
        prior = lengthscale_prior(max(1, d if searched is None else searched))
        family = {"matern52": Matern52KernelGrad, "rbf": RBFKernelGrad}[kernel]
        self.family = kernel
        lengths: dict[str, Any] = {
            "lengthscale_prior": LogNormalPrior(*prior),
            "lengthscale_constraint": LogConstraint(SMALLEST_LENGTHSCALE),
        }
        self.kernel = family(ard_num_dims=max(1, len(ordered)), **lengths)
        self.matches: Any = _Matches(list(categorical), prior)
        self.likelihood = _noise_likelihood()
        self.gradient_likelihood = _noise_likelihood()
        self.register_buffer("X", X)
        self.register_buffer("ordered", torch.tensor(ordered, dtype=torch.long))
        rows = torch.cat([y.unsqueeze(-1), gradients[:, ordered]], dim=-1).reshape(-1)  # n (o + 1): value, derivatives
        self.register_buffer("seen", (~rows.isnan()).nonzero().squeeze(-1))
        self.register_buffer("targets", rows[self.seen])
        self.level = 0.0
        self.to(X)
        self._factor: tuple[Tensor, Tensor] | None = None

    @property
    def num_outputs(self) -> int:
        """One: the value."""
        return 1

    @property
    def batch_shape(self) -> torch.Size:
        """No batches."""
        return torch.Size([])

    @property
    def is_value(self) -> Tensor:
        """Which of what was seen are values, not derivatives."""
        return self.seen % (len(self.ordered) + 1) == 0

    def negated(self) -> GradientGP:
        """The model of the negative, for what can only maximise; it shares the hyperparameters."""
        return self._like(self.X, self.seen, -self.targets, -self.level)

    def _like(self, X: Tensor, seen: Tensor, targets: Tensor, level: float) -> GradientGP:
        """A model with the same hyperparameters, which it shares, and other data."""
        model = GradientGP.__new__(GradientGP)
        Model.__init__(model)
        for name in ("kernel", "matches", "likelihood", "gradient_likelihood"):
            setattr(model, name, getattr(self, name))
        for name, value in (("X", X), ("seen", seen), ("targets", targets), ("ordered", self.ordered)):
            model.register_buffer(name, value)
        model.family, model.level, model._factor = self.family, level, None
        return model

    def some(self, most: int) -> GradientGP:
        """The model with at most `most` values and derivatives, of points whose values are evenly spread."""
        rows = torch.bincount(self.seen // (len(self.ordered) + 1), minlength=len(self.X))
        count = max(2, int(most / max(1.0, float(rows.double().mean()))))
        if count >= len(self.X):
            return self
        order = self.targets[self.is_value].argsort(stable=True)
        keep = order[torch.linspace(0, len(self.X) - 1, count, dtype=torch.float64).long()].sort().values
        o = len(self.ordered) + 1
        grid = torch.full((len(self.X) * o,), torch.nan, dtype=self.targets.dtype)
        grid[self.seen] = self.targets
        grid = grid.reshape(-1, o)[keep].reshape(-1)
        seen = (~grid.isnan()).nonzero().squeeze(-1)
        return self._like(self.X[keep], seen, grid[seen], self.level)

    def covariance(self) -> Tensor:
        """Of what was seen, with noise, as the hyperparameters presently are."""
        o = len(self.ordered) + 1
        points = self.X[:, self.ordered]
        K = self.kernel.forward(points, points) if o > 1 else torch.ones(len(points), len(points), dtype=points.dtype)
        same = self.matches(self.X, self.X).repeat_interleave(o, 0).repeat_interleave(o, 1)
        K = (K * same)[self.seen][:, self.seen]
        noise = torch.where(self.is_value, self.likelihood.noise, self._gradient_noise())
        return K + torch.diag_embed(noise)

    def factor(self) -> tuple[Tensor, Tensor]:
        """The Cholesky factor of the covariance of what was seen, and its solution of the residuals."""
        if self._factor is None:
            L = torch.linalg.cholesky(self.covariance())
            residual = (self.targets - self.level * self.is_value).unsqueeze(-1)
            self._factor = (L, torch.cholesky_solve(residual, L).squeeze(-1))
        return self._factor

    def moments(self, X: Tensor) -> Moments:
        """Mean and covariance of the value at `X` (... x q x d), jointly in q."""
        L, a = self.factor()
        k = self._cross(X.reshape(-1, X.shape[-1]))  # b x r
        half = torch.linalg.solve_triangular(L, k.T, upper=False)
        mean = (self.level + k @ a).reshape(X.shape[:-1])
        half = half.T.reshape(*X.shape[:-1], -1)  # ... x q x r
        if X.shape[-2] == 1:
            return mean, (1 - (half * half).sum(-1)).clamp_min(1e-10).unsqueeze(-1)
        covariance = self._values(X, X) - half @ half.transpose(-1, -2)
        return mean, covariance + 1e-8 * torch.eye(X.shape[-2], dtype=X.dtype)

    def noise_variance(self, X: Tensor) -> Tensor:
        """The variance of the noise of an observed value at `X` (... x q x d); ... x q."""
        return self.likelihood.noise.expand(X.shape[:-1])

    def gradient(self, X: Tensor) -> Tensor:
        """The posterior mean of the derivatives at points `X` (m x d); m x d, NaN in categorical dimensions."""
        o = len(self.ordered) + 1
        found = torch.full_like(X, torch.nan)
        if o > 1:
            K = self.kernel.forward(X[:, self.ordered].contiguous(), self.X[:, self.ordered])
            same = self.matches(X, self.X).repeat_interleave(o, 0).repeat_interleave(o, 1)
            predicted = (K * same)[:, self.seen] @ self.factor()[1]
            found[:, self.ordered] = predicted.reshape(-1, o)[:, 1:]
        return found

    posterior = posterior_of  # pyright: ignore[reportAssignmentType]

    forward = forward_of  # pyright: ignore[reportAssignmentType]

    def condition_on_observations(self, X: Tensor, Y: Tensor, **kwargs: Any) -> ConditionedGP:  # noqa: ANN401
        """The model with more values observed: `X` ... x q x d and `Y` ... x q x 1."""
        return ConditionedGP(self, X, Y, kwargs.get("noise"))

    def _gradient_noise(self) -> Tensor:
        """In units of what a derivative typically is, which a short lengthscale makes large."""
        scale = self.kernel.lengthscale.detach().min() ** -2 if len(self.ordered) else torch.ones(())
        return self.gradient_likelihood.noise * scale

    def _square(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled differences (... x m x n x o, over l^2) and squared distances (... x m x n), ordered dimensions."""
        difference = A[..., self.ordered].unsqueeze(-2) - B[..., self.ordered].unsqueeze(-3)
        scaled = difference / self.kernel.lengthscale.reshape(-1) ** 2 if len(self.ordered) else difference
        return scaled, (difference * scaled).sum(-1)

    def _correlation(self, square: Tensor) -> Tensor:
        return matern52(square) if self.family == "matern52" else (-0.5 * square).exp()

    def _values(self, A: Tensor, B: Tensor) -> Tensor:
        """The prior covariance of values, ... x m x n."""
        return self._correlation(self._square(A, B)[1]) * self.matches(A, B)

    def _cross(self, A: Tensor) -> Tensor:
        """The prior covariance of values at `A` (m x d) with what was seen, m x r.

        The first rows of GPyTorch's matrix, without the others: d k / d z_i = s(r) (x_i - z_i) / l_i^2.
        """
        scaled, square = self._square(A, self.X)
        if self.family == "matern52":
            r = _SQRT5 * square.clamp_min(1e-20).sqrt()
            slope = (5 / 3) * (1 + r) * (-r).exp()
        else:
            slope = (-0.5 * square).exp()
        blocks = torch.cat([self._correlation(square).unsqueeze(-1), slope.unsqueeze(-1) * scaled], dim=-1)
        blocks = blocks * self.matches(A, self.X).unsqueeze(-1)  # m x n x (o + 1)
        return blocks.flatten(-2)[:, self.seen]


class _Matches(Module):
    """`matern52` of the weighted number of categorical dimensions that differ; 1 where there are none."""

    def __init__(self, categorical: list[int], prior: tuple[float, float]) -> None:
        super().__init__()
        self.categorical = categorical
        if categorical:
            self.register_parameter("raw_lengthscale", torch.nn.Parameter(torch.zeros(len(categorical))))
            self.register_constraint("raw_lengthscale", LogConstraint(SMALLEST_LENGTHSCALE))
            self.register_prior("lengthscale_prior", LogNormalPrior(*prior), lambda m: m.lengthscale)

    @property
    def lengthscale(self) -> Tensor:
        return self.raw_lengthscale_constraint.transform(self.raw_lengthscale)  # type: ignore[operator]

    def forward(self, A: Tensor, B: Tensor) -> Tensor:
        if not self.categorical:
            return torch.ones(*A.shape[:-1], B.shape[-2], dtype=A.dtype)
        differ = (A[..., self.categorical].unsqueeze(-2) - B[..., self.categorical].unsqueeze(-3)).abs() > _SAME
        return matern52((differ.to(A) / self.lengthscale**2).sum(-1))


@dataclass(frozen=True, slots=True)
class Slopes:
    """A fitted model with the transform of its outcomes; smaller outcomes are better.

    Args:
        model: Of outcomes.
        outcome: The transform of losses to outcomes.
        unused: The number of known derivatives on the transform's plateau, which the model was not given.
    """

    model: GradientGP
    outcome: Outcome
    unused: int

    def best(self) -> float:
        """The smallest posterior mean at any point that the model knows."""
        with torch.no_grad():
            return float(self.model.moments(self.model.X.unsqueeze(-2))[0].min())


def fit_with_gradients(
    X: ArrayLike,
    losses: ArrayLike,
    gradients: ArrayLike,
    categorical: Sequence[int] = (),
    searched: int | None = None,
    kernel: Literal["matern52", "rbf"] = "matern52",
) -> Slopes:
    """The objective's model, fitted to losses and to such of their derivatives as are known.

    Time grows with the cube of the number of values and derivatives together; give fewer of these for
    more than some hundred points.

    Args:
        X: Unit points, n x d.
        losses: Finite, n.
        gradients: Of losses by unit coordinates (not by parameters in units of their own), n x d; NaN where unknown.
        categorical: The dimensions along which only equality counts; NaN in `gradients`.
        searched: The dimensions that can vary; all by default.
        kernel: "rbf" where losses are smooth beyond doubt.

    Raises:
        ModelError: If the observations cannot be used; it says which.

    Warns:
        FrugalWarning: If no hyperparameters have a finite likelihood.
    """
    points, y = checked(X, losses, "a model with gradients")
    slopes = np.array(gradients, dtype=np.float64)
    if slopes.shape != points.shape:
        raise ModelError(
            f"expected gradients of the points' shape, {points.shape}, NaN where unknown; got {slopes.shape}"
        )
    if np.isinf(slopes).any():
        raise ModelError(f"expected finite gradients, or NaN, got {slopes[np.isinf(slopes)][0]}")
    if len(list(categorical)) and not np.isnan(slopes[:, list(categorical)]).all():
        raise ModelError(f"expected no derivatives by the categorical dimensions {list(categorical)}, got some")
    if kernel not in ("matern52", "rbf"):
        raise ModelError(f"expected the kernel matern52 or rbf, got {kernel!r}")
    outcome = affine_outcome(y, "losses are transformed, and their gradients with them")
    rate = outcome.slope(y)
    known = ~np.isnan(slopes)
    flat = rate == 0
    slopes[flat] = np.nan
    model = GradientGP(
        torch.from_numpy(points),
        torch.from_numpy(outcome(y)),
        torch.from_numpy(slopes * rate[:, None]),
        categorical,
        searched,
        kernel,
    )
    _fit(model, points.shape[1] if searched is None else max(1, searched))
    return Slopes(model, outcome, int(known[flat].sum()))


def _fit(model: GradientGP, searched: int) -> None:
    parameters = [p for p in model.parameters() if p.requires_grad]

    def start(lengthscale: float, noise: float) -> None:
        model.kernel.lengthscale = lengthscale  # type: ignore[misc]
        if model.matches.categorical:
            model.matches.raw_lengthscale.data.fill_(math.log(lengthscale))  # type: ignore[union-attr]
        for likelihood in (model.likelihood, model.gradient_likelihood):
            likelihood.noise = torch.tensor([noise]).to(model.X)

    median, short = math.exp(lengthscale_prior(searched)[0]), 0.3 * math.sqrt(searched)
    starts, iterations = [lambda: start(median, 0.02), lambda: start(short, 0.005)], 40
    some = model.some(_COARSE)
    if some is not model and not maximise(_density(some), parameters, starts, iterations)[1]:
        # The best fit of some points starts the fit of all, which then needs few steps.
        found = [p.detach().clone() for p in parameters]
        starts, iterations = [lambda: restore(parameters, found)], iterations // 4
    _, problem = maximise(_density(model), parameters, starts, iterations)
    if problem:
        warnings.warn(f"{problem}; the model keeps its prior hyperparameters", FrugalWarning, stacklevel=3)
    with torch.no_grad():
        model.level = _density(model)()[1]
    model.requires_grad_(False)
    model._factor = None


def _density(model: GradientGP) -> Callable[[], tuple[Tensor, float]]:
    design = model.is_value.to(model.targets)

    def value() -> tuple[Tensor, float]:
        log_likelihood, mean = concentrated(model.covariance(), model.targets, design)
        return log_likelihood + log_priors(model.kernel) + _other_priors(model), mean

    return value


def _other_priors(model: GradientGP) -> Tensor:
    return log_priors(model.matches) + log_priors(model.likelihood) + log_priors(model.gradient_likelihood)


def _noise_likelihood() -> GaussianLikelihood:
    return GaussianLikelihood(
        noise_prior=LogNormalPrior(*NOISE_PRIOR), noise_constraint=LogConstraint(NOISE_BOUNDS[0] / 2)
    )
