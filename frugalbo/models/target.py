"""What counts of a function seen under conditions, as a model over points alone that closed forms can ask.

    g(x) = rho(f(x, w_1), ..., f(x, w_m))

`f` is a Gaussian process over points and conditions (fidelities, sources, environments). Where `rho` is a weighted
sum, the target fidelity alone included, `g` is one, too, and what is said here of it is exact. A measure of risk is
replaced by its statistical linearisation,

    g(x) ~ E[rho] + sum_i q_i(x) (f(x, w_i) - E f(x, w_i)),     q_i(x) = E[d rho / d f(x, w_i)]

whose covariance with any value of `f` is that of `rho` itself (Stein's lemma), and whose variance is the part of the
variance of `rho` that this explains. The expectations are means over quasi-random draws, the same at every point.

| symbol | meaning | shape |
|---|---|---|
| b, m | points, conditions that count | |
| n | looks that the model of f knows | |
| q | the weights above; of a sum the weights themselves | b x m |
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from botorch.utils.sampling import draw_sobol_normal_samples
from torch import Tensor

from frugalbo.models.dense import DenseGP, Moments
from frugalbo.models.environments import WeightedRisk
from frugalbo.models.objective import LEAST_VARIANCE, Marginals, ObjectiveGP, Transform
from frugalbo.models.view import LinearView

_DRAWS = 128
_JITTER = 1e-8
_AT_ONCE = 4_000_000  # values of the kernel


class TargetGP(LinearView):
    """The model of `g` above; where an `ObjectiveGP` is asked about points, this one can be.

    A look at `g` has the noise of looks under all conditions at once.

    Args:
        base: The model of `f`.
        features: The conditions that count, m x k.
        weights: Of the sum, m; for a risk the probabilities.
        risk: The measure of losses; None for the sum.
        sign: -1 for the model of `-g`.
    """

    base: DenseGP

    def __init__(
        self,
        base: DenseGP,
        features: Tensor,
        weights: Tensor | None = None,
        risk: WeightedRisk | None = None,
        sign: float = 1.0,
    ) -> None:
        super().__init__(base, features, weights)
        self.risk, self.sign = risk, sign
        self._draws = torch.zeros(0, len(features), dtype=features.dtype)
        if risk is not None:
            self._draws = draw_sobol_normal_samples(len(features), _DRAWS, dtype=features.dtype, seed=0)  # s x m

    @property
    def seen(self) -> Tensor:
        """Where there are looks under any condition, without repetitions."""
        return self.base.train_inputs[0][:, : -self.features.shape[-1]].unique(dim=0)

    @property
    def noise(self) -> Tensor:
        """The variance of the noise of a look, without dimensions."""
        return self.base.likelihood.noise.mean() * self.weights.square().sum()

    def negated(self) -> TargetGP:
        """The model of `-g`, for what can only maximise."""
        return TargetGP(self.base, self.features, self.weights, self.risk, -self.sign)

    def with_looks(self, Z: Tensor, y: Tensor) -> TargetGP:
        """The model with further looks at `f`: `y` (m) at `Z` (m x (d + k))."""
        return TargetGP(self.base.with_data(Z, y), self.features, self.weights, self.risk, self.sign)

    def marginals(self, X: Tensor) -> Marginals:
        """What is known of `g` at `X` (b x d), point by point."""
        b, m = len(X), len(self.weights)
        L, a = self.base.factor()
        k = self.base.covar_module.forward(self.extended(X), self.base.train_inputs[0])  # (b m) x n
        means = (self.base.level + k @ a).reshape(b, m)
        Z = self.extended(X.unsqueeze(-2))  # b x m x (d + k)
        prior = self.base.covar_module.forward(Z, Z)  # b x m x m
        if self.risk is None:
            q = (self.sign * self.weights).expand(b, m)
            mean = (q * means).sum(-1)
        else:
            halves = torch.linalg.solve_triangular(L, k.T, upper=False).reshape(k.shape[-1], b, m)  # n x b x m
            mean, q = self._linearised(means, prior - torch.einsum("nbi,nbj->bij", halves, halves))
        half = torch.linalg.solve_triangular(
            L, torch.einsum("bmn,bm->nb", k.reshape(b, m, k.shape[-1]), q), upper=False
        )
        variance = torch.einsum("bij,bi,bj->b", prior, q, q) - (half * half).sum(0)
        return Marginals(X, mean, variance.clamp_min(LEAST_VARIANCE), half, q)

    def covariance(self, a: Marginals, b: Marginals) -> Tensor:
        """The posterior covariance of `g` at the points of `a` (i of them) and of `b` (j); i x j."""
        assert a.weights is not None and b.weights is not None  # noqa: PT018 - they come from `marginals`
        m, Z = len(self.weights), self.extended(b.X)
        rows = max(1, _AT_ONCE // max(1, m * len(Z)))
        blocks = [
            torch.einsum(
                "iujv,iu,jv->ij",
                self.base.covar_module.forward(self.extended(X), Z).reshape(len(X), m, len(b.X), m),
                q,
                b.weights,
            )
            for X, q in zip(a.X.split(rows), a.weights.split(rows), strict=True)
        ]
        return torch.cat(blocks) - a.half.T @ b.half

    def moments(self, X: Tensor) -> Moments:
        """Mean and covariance of `g` at `X` (... x q x d), jointly in q."""
        at, shape = self.marginals(X.reshape(-1, X.shape[-1])), X.shape[:-1]
        mean, q = at.mean.reshape(shape), shape[-1]
        if q == 1:
            return mean, at.variance.reshape(*shape, 1)
        if X.ndim == 2:
            covariance = self.covariance(at, at)
        else:
            Z, m = self.extended(X), len(self.weights)  # ... x (q m) x (d + k)
            prior = self.base.covar_module.forward(Z, Z).unflatten(-1, (q, m)).unflatten(-3, (q, m))
            assert at.weights is not None
            w = at.weights.reshape(*shape, m)
            half = at.half.reshape(len(at.half), *shape).movedim(0, -2)  # ... x n x q
            covariance = torch.einsum("...iujv,...iu,...jv->...ij", prior, w, w) - half.transpose(-1, -2) @ half
        return mean, covariance + _JITTER * torch.eye(q, dtype=X.dtype)

    def weights_at(self, X: Tensor) -> Tensor:
        """The weights q at `X` (b x d); b x m."""
        at = self.marginals(X)
        assert at.weights is not None
        return at.weights

    def _linearised(self, means: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """`E[rho]`, b, and the weights q, b x m, of values with these means (b x m) and covariances (b x m x m)."""
        assert self.risk is not None
        root = torch.linalg.cholesky(covariance + _JITTER * torch.eye(means.shape[-1], dtype=means.dtype))
        values = means + torch.einsum("bij,sj->sbi", root, self._draws)  # s x b x m
        with torch.enable_grad():
            free = values.detach().requires_grad_(True)
            (slopes,) = torch.autograd.grad(self._measured(free).sum(), free)
        return self.sign * self._measured(values).mean(0), self.sign * slopes.mean(0)

    def _measured(self, values: Tensor) -> Tensor:
        """The risk of losses ... x b x m; ... x b. The objective of BoTorch's kind is to be maximised."""
        assert self.risk is not None
        return -self.risk(values.flatten(-2).unsqueeze(-1))


@dataclass(frozen=True, slots=True)
class Target:
    """The model of what counts, with the transform of its outcomes; smaller outcomes are better."""

    model: TargetGP
    outcome: Transform


PointModel = ObjectiveGP | TargetGP  # what the acquisitions of `frugalbo.acquisition.registry` can ask
