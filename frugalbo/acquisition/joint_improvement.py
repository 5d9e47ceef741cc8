"""What one more point adds to the expected improvement of all that is pending: q-EI, one point at a time.

With pending points P, the best value `b` (when maximising) and `J` the expected improvement of a set,

    J(P and x) - J(P) = E over f_P of E[max(f(x) - max(b, f_P), 0) | f_P]

where the inner expectation is that of a normal variable and so closed. The outer one is a mean over
quasi-random draws of `f_P`. Each draw moves the mean at `x` and the value to exceed; the variance
is the same for all. To maximise it for one member after the other is the greedy maximisation of
q-EI (Wilson, Hutter, Deisenroth, arXiv:1805.10196); as an integral over what is pending it is that
of Snoek, Larochelle, Adams, arXiv:1206.2944, sec. 3.2. It is computed in logarithms (Ament et al.,
arXiv:2310.20708). Without anything pending it is log EI, exactly.

Why not BoTorch's `qLogExpectedImprovement`: its value is that of all points together, of which the
new one's part is a small difference. With one pending point and 64 draws, smoothing and sampling gave
a copy of that point, which adds nothing, a larger value than many points that add something.
"""

from __future__ import annotations

import math

import torch
from botorch.acquisition import AcquisitionFunction
from botorch.acquisition.analytic import _log_ei_helper
from botorch.utils.sampling import draw_sobol_normal_samples
from botorch.utils.transforms import t_batch_mode_transform
from torch import Tensor

from frugalbo.models.objective import LEAST_VARIANCE
from frugalbo.models.target import PointModel

_JITTER = 1e-8


class LogImprovementAdded(AcquisitionFunction):
    """The logarithm of the formula above, for one point at a time, when maximising.

    Args:
        model: The objective's model, which knows nothing of the pending points.
        best_f: The value to improve upon.
        pending: m x d; there may be none.
        draws: Of what the pending points may show.
        seed: Of these.
    """

    def __init__(self, model: PointModel, best_f: float, pending: Tensor, *, draws: int = 64, seed: int = 0) -> None:
        super().__init__(model=model)
        m = len(pending)
        self._pending = model.marginals(pending)
        cov = model.covariance(self._pending, self._pending)
        self._chol = torch.linalg.cholesky(cov + _JITTER * torch.eye(m, dtype=cov.dtype))  # m x m
        self._best = torch.full((1,), best_f, dtype=cov.dtype)
        self._z = torch.zeros(1, 0, dtype=cov.dtype)
        if m:
            self._z = draw_sobol_normal_samples(m, draws, dtype=cov.dtype, seed=seed)  # s x m
            shown = self._pending.mean + self._z @ self._chol.T  # s x m
            self._best = shown.max(dim=-1).values.clamp_min(best_f)  # s

    @t_batch_mode_transform(expected_q=1)  # type: ignore[arg-type]
    def forward(self, X: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Evaluate at points `X` of shape b x 1 x d; returns shape b."""
        model: PointModel = self.model  # type: ignore[assignment]
        at = model.marginals(X.squeeze(-2))  # of b points
        cross = model.covariance(at, self._pending)  # b x m
        v = torch.linalg.solve_triangular(self._chol, cross.T, upper=False)  # m x b
        # f_P = mean + chol z, so that chol^-1 (f_P - mean) is z itself.
        mean = at.mean.unsqueeze(-1) + v.T @ self._z.T  # b x s
        variance = (at.variance - (v * v).sum(0)).clamp_min(LEAST_VARIANCE)  # b
        sd = variance.sqrt().unsqueeze(-1)
        log_ei = _log_ei_helper((mean - self._best) / sd) + sd.log()  # b x s
        return torch.logsumexp(log_ei, dim=-1) - math.log(len(self._best))
