"""Joint entropy search: how much a look is expected to tell of the optimum, of where it is and how high.

For samples `(x*, f*)` of the optimum,

    JES(x) = H[y | D] - mean over samples of H[y | D, f(x*) = f*, f(x) <= f*]

Source: Hvarfner, Hutter, Nardi, Joint Entropy Search for Maximally-Informed Bayesian Optimization,
arXiv:2206.04771, eq. 10: the conditioned and truncated variable counts as a normal one of its variance.

With a likelihood whose noise is 1e-4 it has the values of BoTorch's `qJointEntropySearch(estimation_type="LB")`
for one point (a test compares them). With more noise theirs conditions the mean on a noisy `f*`, the
variance on one of noise 1e-4; and it builds a conditioned model for each sample, which takes half a
minute for a search at 300 observations. One more observation changes a posterior by a term of rank one:

    m'(x) = m(x) + k(x, x*) / k(x*, x*) (f* - m(x*)),     v'(x) = v(x) - k(x, x*)^2 / k(x*, x*)
"""

from __future__ import annotations

import math

from botorch.acquisition import AcquisitionFunction
from botorch.utils.transforms import t_batch_mode_transform
from torch import Tensor
from torch.special import log_ndtr

from frugalbo.models.target import PointModel

_LEAST_VARIANCE = 1e-8  # of what is left at a sampled optimum itself


class JointEntropySearch(AcquisitionFunction):
    """The formula above, for one point at a time, when maximising.

    Args:
        model: The objective's model.
        optima: Sampled places of the optimum, s x d.
        values: Its values there, s.
        noise: The variance of the noise of these values; of an optimum it is 0.
    """

    def __init__(self, model: PointModel, optima: Tensor, values: Tensor, noise: float = 0.0) -> None:
        super().__init__(model=model)
        self._optima, self._values = model.marginals(optima), values
        self._variance = self._optima.variance.clamp_min(_LEAST_VARIANCE) + noise  # s

    @t_batch_mode_transform(expected_q=1)  # type: ignore[arg-type]
    def forward(self, X: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Evaluate at points `X` of shape b x 1 x d; returns shape b."""
        model: PointModel = self.model  # type: ignore[assignment]
        at, noise = model.marginals(X.squeeze(-2)), model.noise
        variance = at.variance.clamp_min(_LEAST_VARIANCE).unsqueeze(-1)  # b x 1
        cross = model.covariance(at, self._optima)  # b x s
        mean = at.mean.unsqueeze(-1) + cross / self._variance * (self._values - self._optima.mean)  # b x s
        left = (variance - cross**2 / self._variance).clamp_min(_LEAST_VARIANCE)  # b x s
        beta = (self._values - mean) / left.sqrt()
        # phi / Phi by logarithms, as both underflow.
        ratio = (-0.5 * beta**2 - 0.5 * math.log(2 * math.pi) - log_ndtr(beta)).exp()
        truncated = left * (1 - beta * ratio - ratio**2).clamp_min(1e-10)
        return 0.5 * ((variance + noise).log() - (truncated + noise).log()).mean(-1)
