"""Bar distributions: a density as a histogram of many buckets, with half-normal tails.

Source: Mueller et al., Transformers Can Do Bayesian Inference, arXiv:2112.10510, the "Riemann
distribution" with full support, and Mueller et al., PFNs4BO, arXiv:2305.17535, for expected improvement on
it. Deviation: the improvement is computed in logarithms, so that it has a gradient where it underflows.

| symbol | meaning | shape |
|---|---|---|
| `edges` | of the buckets, ascending | K + 1 |
| `logits` | unnormalised log probabilities of the buckets | ... x K |
| `z` | where the density is asked for | ... |

Inside a bucket the density is constant, but in the two outermost: these are half-normals that begin at
their inner edge, half of whose mass lies before their outer edge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import frugalbo.models  # isort: skip  # noqa: F401 - first: it imports linear_operator without its warning

import torch
from torch import Tensor, nn
from torch.special import ndtr

from frugalbo.acquisition.log_ei_per_cost import log_h

_MEDIAN = 0.6744897501960817  # of the half-normal with scale 1
_MEAN = math.sqrt(2 / math.pi)  # of the same
_TINY = 1e-30


class Bars(nn.Module):
    """The buckets; probabilities are passed in as logits.

    Args:
        edges: Of the buckets, at least four, ascending.

    Raises:
        ValueError: If they are not.
    """

    edges: Tensor

    def __init__(self, edges: Tensor) -> None:
        super().__init__()
        if edges.ndim != 1 or len(edges) < 4 or not bool((edges[1:] > edges[:-1]).all()):
            raise ValueError(f"expected at least four ascending edges, got {edges.tolist()!r}")
        self.register_buffer("edges", edges)

    @property
    def count(self) -> int:
        """How many buckets there are."""
        return len(self.edges) - 1

    def normal_logits(self) -> Tensor:
        """The log masses that a standard normal has in the buckets, the tails included; shape K."""
        inner = self.edges[1:-1]
        low = torch.cat([inner.new_tensor([-math.inf]), inner])
        high = torch.cat([inner, inner.new_tensor([math.inf])])
        return (ndtr(high) - ndtr(low)).clamp_min(_TINY).log()

    def log_density(self, logits: Tensor, z: Tensor) -> Tensor:
        """The log density at `z`; shape ... ."""
        inner, (left, right) = self.edges[1:-1], self._tails()
        bucket = torch.searchsorted(inner, z.contiguous())
        log_p = logits.log_softmax(-1).gather(-1, bucket.unsqueeze(-1)).squeeze(-1)
        within = -(self.edges[1:] - self.edges[:-1]).log()[bucket]
        below = _log_half_normal((inner[0] - z) / left) - left.log()
        above = _log_half_normal((z - inner[-1]) / right) - right.log()
        return log_p + torch.where(bucket == 0, below, torch.where(bucket == self.count - 1, above, within))

    def cdf(self, logits: Tensor, z: Tensor) -> Tensor:
        """The probability of what is below `z`; shape ... ."""
        inner, (left, right) = self.edges[1:-1], self._tails()
        low, high = self.edges[:-1], self.edges[1:]
        share = ((z.unsqueeze(-1) - low) / (high - low)).clamp(0, 1)
        first = 2 * ndtr(((z - inner[0]) / left).clamp_max(0))
        last = 2 * ndtr(((z - inner[-1]) / right).clamp_min(0)) - 1
        share = torch.cat([first.unsqueeze(-1), share[..., 1:-1], last.unsqueeze(-1)], dim=-1)
        return (logits.softmax(-1) * share).sum(-1)

    def moments(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance; shape ... each."""
        inner, (left, right) = self.edges[1:-1], self._tails()
        middle, width = (inner[1:] + inner[:-1]) / 2, inner[1:] - inner[:-1]
        first = torch.cat([(inner[0] - _MEAN * left)[None], middle, (inner[-1] + _MEAN * right)[None]])
        spread = torch.cat([left[None] ** 2 * (1 - _MEAN**2), width**2 / 12, right[None] ** 2 * (1 - _MEAN**2)])
        p = logits.softmax(-1)
        mean = (p * first).sum(-1)
        return mean, (p * (spread + (first - mean.unsqueeze(-1)) ** 2)).sum(-1)

    def log_improvement(self, logits: Tensor, best: Tensor) -> Tensor:
        """`log E[max(0, best - z)]`; shape ... .

        Of a bucket [l, r] the expected improvement is 0 up to l, then (best - l)^2 / 2 (r - l), beyond r it is
        best - (l + r) / 2. Of the lower tail it is twice that of the normal below its edge.
        """
        inner, (left, right) = self.edges[1:-1], self._tails()
        b = best.unsqueeze(-1)
        low, high = inner[:-1], inner[1:]
        over, width = b - low, high - low
        part = over.clamp_min(0).minimum(width)
        within = part * (over - part / 2) / width
        log_within = within.clamp_min(_TINY).log().masked_fill(over <= 0, -math.inf)
        u = (b - inner[0]) / left
        lower = torch.where(u < 0, math.log(2) + log_h(u.clamp_max(0)), (u.clamp_min(0) + _MEAN).log())
        upper = _log_upper((b - inner[-1]) / right)
        improvement = torch.cat([lower + left.log(), log_within, upper + right.log()], dim=-1)
        return torch.logsumexp(logits.log_softmax(-1) + improvement, dim=-1)

    def _tails(self) -> tuple[Tensor, Tensor]:
        """The scales of the half-normals."""
        return (self.edges[1] - self.edges[0]) / _MEDIAN, (self.edges[-1] - self.edges[-2]) / _MEDIAN


def _log_upper(u: Tensor) -> Tensor:
    """The log of the expected improvement on a half-normal above 0, `u (2 Phi(u) - 1) + 2 phi(u) - 2 phi(0)`."""
    v = u.clamp_min(1e-3)
    value = v * (2 * ndtr(v) - 1) + _MEAN * ((-0.5 * v * v).exp() - 1)
    return torch.where(u > 1e-3, value.clamp_min(_TINY).log(), -math.inf)


def _log_half_normal(u: Tensor) -> Tensor:
    return math.log(_MEAN) - 0.5 * u * u


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a network says of points: `location + scale * z`, with z in buckets.

    Args:
        bars: The buckets of z.
        logits: ... x K.
        location: ... .
        scale: Above 0, ... .
    """

    bars: Bars
    logits: Tensor
    location: Tensor
    scale: Tensor

    def log_density(self, y: Tensor) -> Tensor:
        """At outcomes `y`, one for each point; shape ... ."""
        return self.bars.log_density(self.logits, (y - self.location) / self.scale) - self.scale.log()

    def cdf(self, y: Tensor) -> Tensor:
        """The probability of less than `y`; shape ... ."""
        return self.bars.cdf(self.logits, (y - self.location) / self.scale)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance; shape ... each."""
        mean, variance = self.bars.moments(self.logits)
        return self.location + self.scale * mean, self.scale**2 * variance

    def log_improvement(self, best: float | Tensor) -> Tensor:
        """`log E[max(0, best - y)]`, in closed form; shape ... ."""
        return self.bars.log_improvement(self.logits, (best - self.location) / self.scale) + self.scale.log()
