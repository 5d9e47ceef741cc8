"""The knowledge gradient where what is observed is not what counts.

We look at `f(x, s)`, a short run or one seed, and want the best `g(a)`, the full run or the mean
over seeds. With the posterior mean `m` of g on a set A, and a look at z = (x, s),

    KG(z) = (E_Z[max_a m(a) + c(a; z) Z] - max_a m(a)) / cost(z),
    c(a; z) = Cov(g(a), f(z)) / sqrt(Var f(z) + noise)

`x` itself is in A for its own look. Sources: Wu, Toscano-Palmerin, Frazier, Wilson, Practical
Multi-fidelity Bayesian Optimization for Hyperparameter Tuning, arXiv:1903.04703 (fidelities);
Toscano-Palmerin, Frazier, Bayesian Optimization with Expensive Integrands, arXiv:1803.08661
(environments). Deviations: the maximum is over a set, not a continuum, which gives a closed form
that any search can use, mixed spaces included; the expectation is a trapezoidal sum, to 8 standard
deviations
(right to some percent where the value is a thousandth of one).
"""

from __future__ import annotations

import torch
from botorch.acquisition import AcquisitionFunction
from botorch.models.model import Model
from botorch.utils.transforms import t_batch_mode_transform
from torch import Tensor

from frugalbo.models.dense import DenseGP
from frugalbo.models.view import LinearView

_NODES = 65
_FARTHEST = 8.0


class CrossKnowledgeGradient(AcquisitionFunction):
    """The logarithm of the formula above, for one look at a time.

    Args:
        target: The view of `f` whose best value counts, of a `DenseGP`.
        A: The points whose means count, m x d.
        log_cost: A model over (x, s) whose posterior mean is the log of the cost; any unit will do. None where all
            looks cost the same.
        maximize: Whether larger values of g are better.
    """

    def __init__(self, target: LinearView, A: Tensor, log_cost: Model | None = None, *, maximize: bool = True) -> None:
        super().__init__(model=target)
        if not isinstance(target.base, DenseGP):
            raise TypeError(f"expected a view of a DenseGP, got one of a {type(target.base).__name__}")
        self.target = target if maximize else target.negated()
        self.base: DenseGP = target.base
        self.log_cost = log_cost
        self.A = A
        with torch.no_grad():
            self._mean_A = self.target.moments(A.unsqueeze(-2))[0].squeeze(-1)  # m
        self._z = torch.linspace(-_FARTHEST, _FARTHEST, _NODES, dtype=A.dtype)
        density = torch.exp(-0.5 * self._z**2)
        self._w = density / density.sum()

    @t_batch_mode_transform(expected_q=1)  # type: ignore[arg-type]
    def forward(self, X: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Evaluate at looks `X` of shape b x 1 x (d + k); returns shape b."""
        value = self.improvement(X).clamp_min(1e-300).log()
        if self.log_cost is not None:
            value = value - self.log_cost.posterior(X).mean[..., 0, 0]  # type: ignore[attr-defined]
        return value

    def improvement(self, X: Tensor) -> Tensor:
        """The numerator of the formula at `X` (b x 1 x (d + k)); b."""
        z = X.squeeze(-2)  # b x (d + k)
        x = z[..., : self.A.shape[-1]]
        scale = (self.base.variance(z) + self.base.noise_variance(z)).sqrt()  # b
        slopes = self.target.covariance_with(self.A, z).T / scale.unsqueeze(-1)  # b x m
        own_mean = self.target.moments(x.unsqueeze(-2))[0]  # b x 1
        own = self.target.extended(x.unsqueeze(-2))  # b x w x (d + k)
        own_slope = (self.base.covariance(own, z.unsqueeze(-2)).squeeze(-1) * self.target.weights_at(x)).sum(-1) / scale
        slopes = torch.cat([slopes, own_slope.unsqueeze(-1)], dim=-1)  # b x (m + 1)
        means = torch.cat([self._mean_A.expand(len(z), -1), own_mean], dim=-1)
        # Over the line that is best now, whose own expectation is its mean: no two large numbers are subtracted.
        best = means.argmax(dim=-1, keepdim=True)
        means = means - means.gather(-1, best)
        slopes = slopes - slopes.gather(-1, best)
        lines = means.unsqueeze(-1) + slopes.unsqueeze(-1) * self._z  # b x (m + 1) x nodes
        return lines.max(dim=-2).values @ self._w
