"""Max-value entropy search under outcome constraints: what a look tells of the best feasible value.

With samples `f*` of the largest feasible value, `-infinity` where a sample has nothing feasible,

    CMES(x) = - mean over samples of log(1 - Z(x)),     Z(x) = P(f(x) >= f*) * product over c of P(c holds at x)

Source: Takeno, Tamura, Shitara, Karasuyama, Sequential and Parallel Constrained Max-value Entropy Search
via Information Lower Bound, ICML 2022, arXiv:2102.09788, eq. 7 (CMES-IBO), for independent models and one
point. The unconstrained bound times the probability will not do: at a point better than any feasible
value its first factor has no upper limit, so what is sure to be infeasible is searched for ever.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from botorch.acquisition import AcquisitionFunction
from botorch.models.model import Model
from botorch.utils.transforms import t_batch_mode_transform
from torch import Tensor
from torch.special import log_ndtr

from frugalbo.acquisition.chances import Chance, log_chances

_NEAREST = 1e-12  # of Z to 1


class ConstrainedMaxValueEntropy(AcquisitionFunction):
    """The formula above, for one point at a time, when maximising.

    Args:
        model: The objective's model.
        constraints: The chances that constraints are met.
        best: Samples of the largest feasible value, s; may be `-infinity`.
    """

    def __init__(self, model: Model, constraints: Sequence[Chance], best: Tensor) -> None:
        super().__init__(model=model)
        self.constraints = tuple(constraints)
        self.best = best

    @t_batch_mode_transform(expected_q=1)  # type: ignore[arg-type]
    def forward(self, X: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Evaluate at points `X` of shape b x 1 x d; returns shape b."""
        posterior = self.model.posterior(X)
        mean, sd = posterior.mean[..., 0], posterior.variance[..., 0].sqrt()  # type: ignore[attr-defined]  # b x 1
        none = torch.isinf(self.best)
        z = (mean - torch.where(none, 0.0, self.best)) / sd  # b x s
        log_better = torch.where(none, 0.0, log_ndtr(z))
        log_z = log_better + log_chances(self.constraints, X).unsqueeze(-1)
        return -torch.log1p(-log_z.exp().clamp_max(1 - _NEAREST)).mean(-1)
