"""The objective's model with its hyperparameters' uncertainty in it: several models, over which acquisitions average.

    few = fit_ensemble(X, losses, categorical=())      # 16 members by slice sampling, in a second for 50 points
    few.model.posterior(points).mixture_mean           # an ordinary BoTorch model, as its fully Bayesian ones are
    many = fit_nuts(X, losses)                         # NUTS; needs pip install "frugalbo[nuts]"

With few observations the best hyperparameters are one guess of many: their model is too sure of
itself. Here members are drawn from the posterior of the hyperparameters,

    p(theta | y) ~ N(y; m, K(theta)) p(theta),      theta = log lengthscales, log noise

which `map_fit.log_posterior` has in closed form, with the mean `m` at its optimum. The sampler is
elliptical slice sampling (Murray, Adams, MacKay, arXiv:1001.0175) about Laplace's approximation in the
place of the prior (as Nishihara, Murray, Adams, arXiv:1210.7477, do about another fit): it has no steps
to tune and always moves.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from botorch.models.model import Model
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from frugalbo.errors import MissingExtra, ModelError
from frugalbo.models.dense import Moments, checked, forward_of, posterior_of
from frugalbo.models.kernel import SMALLEST_LENGTHSCALE, MixedMatern, lengthscale_prior
from frugalbo.models.map_fit import NOISE_BOUNDS, fit_map, log_posterior
from frugalbo.models.outcome import Outcome

Array = NDArray[np.float64]
_LONGEST = 1e3
_SWEEPS = 12  # moves from one member to the next
_WIDEN = 1.5  # of Laplace's standard deviations: tails too light make slice sampling stick


class EnsembleGP(Model):
    """Gaussian processes that differ in their hyperparameters, with equal weights, as one BoTorch model.

    Its posterior at ... x q points is a `GaussianMixturePosterior` with a dimension of members before q.

    Args:
        X: Unit points, n x d.
        y: Standardised outcomes, n.
        lengthscales: Of each member, s x d.
        noise: Of each member, s.
        means: The prior's mean of each member, s.
        categorical: The dimensions along which only equality counts.
    """

    _is_ensemble = True
    X: Tensor
    noise: Tensor
    means: Tensor
    L: Tensor
    a: Tensor

    def __init__(
        self, X: Tensor, y: Tensor, lengthscales: Tensor, noise: Tensor, means: Tensor, categorical: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.kernel: Any = MixedMatern(X.shape[-1], categorical, (0.0, 1.0)).to(X)
        self.kernel.raw_lengthscale = torch.nn.Parameter(lengthscales.unsqueeze(-2), requires_grad=False)  # s x 1 x d
        self.requires_grad_(False)
        for name, value in (("X", X), ("y", y), ("noise", noise), ("means", means)):
            self.register_buffer(name, value)
        K = self.kernel.forward(X, X) + noise[:, None, None] * torch.eye(len(X), dtype=X.dtype)  # s x n x n
        self.register_buffer("L", torch.linalg.cholesky(K))
        residual = (y - means.unsqueeze(-1)).unsqueeze(-1)
        self.register_buffer("a", torch.cholesky_solve(residual, self.L).squeeze(-1))  # s x n

    @property
    def num_outputs(self) -> int:
        """One."""
        return 1

    @property
    def batch_shape(self) -> torch.Size:
        """The number of members."""
        return self.noise.shape

    def negated(self) -> EnsembleGP:
        """The model of the negative of the outcomes, for what can only maximise."""
        categorical = self.kernel.categorical.nonzero().reshape(-1).tolist()
        lengthscales = self.kernel.raw_lengthscale.squeeze(-2)
        return EnsembleGP(self.X, -self.y, lengthscales, self.noise, -self.means, categorical)  # type: ignore[arg-type]

    def moments(self, X: Tensor) -> Moments:
        """Mean (... x s x q) and covariance (... x s x q x q) of each member at `X` (... x q x d)."""
        batch, q = X.shape[:-2], X.shape[-2]
        s, n = len(self.noise), len(self.X)
        k = self.kernel.forward(X.reshape(-1, X.shape[-1]), self.X)  # s x bq x n
        half = torch.linalg.solve_triangular(self.L, k.transpose(-1, -2), upper=False)  # s x n x bq
        mean = self.means.unsqueeze(-1) + (k @ self.a.unsqueeze(-1)).squeeze(-1)  # s x bq
        mean = mean.reshape(s, -1, q).transpose(0, 1).reshape(*batch, s, q)
        half = half.transpose(-1, -2).reshape(s, -1, q, n).transpose(0, 1)  # b x s x q x n
        points = X.reshape(-1, 1, q, X.shape[-1])
        covariance = self.kernel.forward(points, points) - half @ half.transpose(-1, -2)
        covariance = covariance.clamp_min(1e-10) if q == 1 else covariance + 1e-8 * torch.eye(q, dtype=X.dtype)
        return mean, covariance.reshape(*batch, s, q, q)

    def noise_variance(self, X: Tensor) -> Tensor:
        """The variance of an observation's noise at `X` (... x q x d) for each member; ... x s x q."""
        return self.noise.unsqueeze(-1).expand(*X.shape[:-2], -1, X.shape[-2])

    posterior = posterior_of  # pyright: ignore[reportAssignmentType]

    forward = forward_of  # pyright: ignore[reportAssignmentType]


@dataclass(frozen=True, slots=True)
class Ensemble:
    """A fitted ensemble with the transform of its outcomes; smaller outcomes are better."""

    model: Any
    outcome: Outcome

    def best(self) -> float:
        """The smallest mean of the mixture at any point that the model knows. Of `fit_ensemble`'s model."""
        with torch.no_grad():
            mean = self.model.posterior(self.model.X.unsqueeze(-2)).mixture_mean
        return float(mean.min())


def fit_ensemble(
    X: ArrayLike,
    losses: ArrayLike,
    categorical: Sequence[int] = (),
    searched: int | None = None,
    members: int = 16,
    seed: int = 0,
) -> Ensemble:
    """An ensemble drawn from the posterior of the hyperparameters.

    Args:
        X: Unit points, n x d.
        losses: Finite, n; any scale, heavy tails included.
        categorical: The dimensions along which only equality counts.
        searched: The dimensions that can vary; all by default.
        members: How many; the time of an acquisition is proportional to it.
        seed: Of the draws.

    Raises:
        ModelError: If the observations cannot be used, or `members` is less than 1.
    """
    points, y = checked(X, losses, "an ensemble")
    if members < 1:
        raise ModelError(f"expected at least 1 member, got {members}")
    outcome = Outcome.of(y)
    seen = outcome(y)
    prior = lengthscale_prior(max(1, points.shape[1] if searched is None else searched))
    thetas, means = draw_hyperparameters(points, seen, tuple(categorical), prior, members, np.random.default_rng(seed))
    model = EnsembleGP(
        torch.from_numpy(points),
        torch.from_numpy(seen),
        torch.from_numpy(np.exp(thetas[:, :-1])),
        torch.from_numpy(np.exp(thetas[:, -1])),
        torch.from_numpy(means),
        categorical,
    )
    return Ensemble(model, outcome)


def draw_hyperparameters(
    X: Array,
    y: Array,
    categorical: tuple[int, ...],
    prior: tuple[float, float],
    count: int,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """Draws of theta from its posterior, and the optimal mean of each.

    Args:
        X: Unit points, n x d.
        y: Standardised outcomes, n.
        categorical: The dimensions along which only equality counts.
        prior: Location and scale of the lengthscales' log-normal prior.
        count: How many draws.
        rng: Their source.

    Returns:
        count x (d + 1) and count.
    """
    lower = np.log(np.array([*[SMALLEST_LENGTHSCALE] * X.shape[1], NOISE_BOUNDS[0]]))
    upper = np.log(np.array([*[_LONGEST] * X.shape[1], NOISE_BOUNDS[1]]))

    def density(theta: Array) -> tuple[float, Array]:
        """Of theta, not of its exponential: the priors' Jacobian is taken back."""
        if (theta < lower).any() or (theta > upper).any():
            return -math.inf, np.zeros_like(theta)
        value, gradient, _ = log_posterior(X, y, categorical, prior, theta)
        return value + float(theta.sum()), gradient + 1

    found = fit_map(X, y, categorical, prior)
    theta = np.clip(np.log(np.array([*found.lengthscales, found.noise])), lower + 1e-6, upper - 1e-6)
    draws = elliptical_slices(density, theta, _laplace_root(density, theta, prior[1]), count, rng)
    means = np.array([log_posterior(X, y, categorical, prior, draw)[2] for draw in draws])
    return draws, means


def elliptical_slices(
    density: Callable[[Array], tuple[float, Array]], centre: Array, root: Array, count: int, rng: np.random.Generator
) -> Array:
    """Draws from a density by elliptical slice sampling about a Gaussian.

    Args:
        density: Log density up to a constant (and its gradient, which is not used).
        centre: Of the Gaussian, p; the chain starts there.
        root: A square root of its covariance, p x p.
        count: How many draws, twelve moves apart.
        rng: Of all that is random.

    Returns:
        count x p.
    """
    inverse = np.linalg.inv(root)

    def residual(z: Array) -> float:
        """What the density is beyond the Gaussian, at centre + z."""
        white = inverse @ z
        return density(centre + z)[0] + 0.5 * float(white @ white)

    z: Array = np.zeros_like(centre)
    level, draws = residual(z), []
    for _ in range(count):
        for _ in range(_SWEEPS):
            nu = root @ rng.standard_normal(len(centre))
            threshold = level + math.log(rng.random())
            angle = rng.uniform(0, 2 * math.pi)
            low, high = angle - 2 * math.pi, angle
            while True:
                proposal = z * math.cos(angle) + nu * math.sin(angle)
                reached = residual(proposal)
                if reached > threshold:
                    z, level = proposal, reached
                    break
                # The bracket shrinks towards where we are, which is on the slice: this ends.
                low, high = (angle, high) if angle < 0 else (low, angle)
                angle = rng.uniform(low, high)
                if high - low < 1e-9:
                    break
        draws.append(centre + z)
    return np.array(draws)


def _laplace_root(density: Callable[[Array], tuple[float, Array]], theta: Array, widest: float) -> Array:
    """A root of the covariance of Laplace's approximation, no wider than the prior, somewhat widened."""
    step, p = 1e-3, len(theta)
    H = np.empty((p, p))
    for i in range(p):
        e = np.zeros(p)
        e[i] = step
        above, below = density(theta + e)[1], density(theta - e)[1]
        H[i] = (below - above) / (2 * step)
    values, vectors = np.linalg.eigh((H + H.T) / 2)
    deviation = np.clip(1 / np.sqrt(np.maximum(values, 1e-12)), 1e-3, widest)
    return _WIDEN * vectors * deviation


def fit_nuts(
    X: ArrayLike,
    losses: ArrayLike,
    *,
    prior: Literal["dimension-scaled", "saas"] = "saas",
    warmup: int = 256,
    samples: int = 128,
    thinning: int = 8,
    seed: int = 0,
) -> Ensemble:
    """BoTorch's fully Bayesian models, by the No-U-Turn sampler; minutes rather than seconds.

    Args:
        X: Unit points, n x d, all of whose dimensions are ordered.
        losses: Finite, n; any scale, heavy tails included.
        prior: "saas" holds most dimensions to be of no account (Eriksson, Jankowiak, arXiv:2103.00349);
            "dimension-scaled" is BoTorch's `FullyBayesianSingleTaskGP`.
        warmup: Moves before the first draw.
        samples: Moves after it.
        thinning: Of those, one in so many is kept.
        seed: Of the chain.

    Raises:
        MissingExtra: If NumPyro is not installed.
        ModelError: If the observations cannot be used.
    """
    points, y = checked(X, losses, "a fully Bayesian model")
    if prior not in ("saas", "dimension-scaled"):
        raise ModelError(f"expected the prior saas or dimension-scaled, got {prior!r}")
    if importlib.util.find_spec("numpyro") is None or importlib.util.find_spec("jax") is None:
        raise MissingExtra(
            "a fully Bayesian model needs NumPyro and JAX, which are not installed; expected the extra nuts:"
            ' pip install "frugalbo[nuts]". fit_ensemble needs nothing more'
        )
    from botorch.fit import fit_fully_bayesian_model_nuts
    from botorch.models.fully_bayesian import FullyBayesianSingleTaskGP, SaasFullyBayesianSingleTaskGP

    outcome = Outcome.of(y)
    family = SaasFullyBayesianSingleTaskGP if prior == "saas" else FullyBayesianSingleTaskGP
    model = family(torch.from_numpy(points), torch.from_numpy(outcome(y)).unsqueeze(-1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fit_fully_bayesian_model_nuts(
            model, warmup_steps=warmup, num_samples=samples, thinning=thinning, disable_progbar=True
        )
    return Ensemble(model.requires_grad_(False), outcome)
