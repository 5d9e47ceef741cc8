"""The Pandora's-box Gittins index: the value at which one would be as glad to be paid as to look.

A configuration is a box: opening it costs `lambda c(x)` and shows `f(x)`. Its index is the `g` with

    EI(x; g) = lambda c(x),       EI(x; g) = E[max(f(x) - g, 0)]          (when maximising)

Where boxes are independent, to open the one of the highest index, and to stop when none exceeds the
best value seen, is optimal (Weitzman 1979, Econometrica 47). Source for correlated ones: Xie,
Astudillo, Frazier, Scully, Terenin, arXiv:2406.20062; the stopping rule: Xie et al., arXiv:2507.12453.

With `f(x) ~ N(m, s^2)`, `EI = s h(u)` for `u = (m - g) / s` and `h(u) = phi(u) + u Phi(u)`, so

    g = m - s u,      log h(u) = log lambda + log c(x) - log s

and `u` depends on the right side alone. It is found by Newton's method, and its gradient by the implicit
function theorem, `du = d(right side) / (log h)'(u)`, with `(log h)' = Phi / h`. `log h` is concave
and rises, so that from the left of the root the steps come nearer and never pass it. (The source
bisects. That takes 100 evaluations; this takes 3 to 8.)

| cost | what stands for c(x) |
|---|---|
| known | c(x) |
| unknown, log-normal | `E[c(x)] = exp(mu + sigma^2 / 2)` of the model of log c(x), as published |

`lambda` is what a unit of cost is worth in units of the objective. `decayed_lambda` follows PBGI-D,
which halves it from 0.1 whenever the stopping rule fires. Deviation: theirs never rises again; ours
is a function of the present model alone, so that a resumed run goes on as it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from botorch.acquisition.analytic import AnalyticAcquisitionFunction
from botorch.models.model import Model
from botorch.utils.transforms import t_batch_mode_transform
from torch import Tensor

from frugalbo.acquisition.chances import Chance, log_chances
from frugalbo.acquisition.log_ei_per_cost import inverse_slope, log_h, moments

LAMBDA_START = 0.1  # as published for PBGI-D, with a prior of variance 1 and costs of about 1
LAMBDA_LEAST = 1e-9
_NEWTON_STEPS = 30
_LARGEST = 690.0  # of log h: exp of a little more overflows
_DEAREST = 30.0  # of the log of a price in standard deviations


class GittinsIndex(AnalyticAcquisitionFunction):
    """The Pandora's-box Gittins index, for one point at a time; when minimising, its negative.

    Args:
        model: The objective's model.
        log_cost: A model of `log c(x)`. Its posterior's variance counts as in the table above if it
            has one; a deterministic model has none. None where all cost 1.
        price: The `lambda` above.
        chances: What must come true for the value to count. A box that may be empty is opened at the
            same cost for `P` times the improvement, so the logs are subtracted from that of the cost.

    Raises:
        ValueError: If `price` is not above 0.
    """

    def __init__(
        self,
        model: Model,
        log_cost: Model | None = None,
        price: float = LAMBDA_START,
        *,
        chances: Sequence[Chance] = (),
        maximize: bool = True,
    ) -> None:
        if not (math.isfinite(price) and price > 0):
            raise ValueError(f"expected a price above 0, got {price!r}")
        super().__init__(model=model)
        self.log_cost = log_cost
        self.price = price
        self.chances = tuple(chances)
        self.maximize = maximize

    @t_batch_mode_transform(expected_q=1)  # type: ignore[arg-type]
    def forward(self, X: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Evaluate at points `X` of shape b x 1 x d; returns shape b, in the units of the objective."""
        mean, sd = moments(self, X) or self._mean_and_sigma(X)  # each ... x 1
        assert sd is not None
        mean, sd = mean.squeeze(-1), sd.squeeze(-1)  # ... x 1 -> ...
        u = inverse_log_h(_tempered(math.log(self.price) + self.log_expected_cost(X) - sd.log()))
        return (mean if self.maximize else -mean) - sd * u

    def log_expected_cost(self, X: Tensor) -> Tensor:
        """The log of the expected cost for each expected success, at `X` (b x 1 x d); shape b."""
        total = -log_chances(self.chances, X)
        if self.log_cost is not None:
            posterior = self.log_cost.posterior(X)
            total = total + posterior.mean[..., 0, 0] + 0.5 * posterior.variance[..., 0, 0]  # type: ignore[attr-defined]
        return total


class _InverseLogH(torch.autograd.Function):
    """`u` with `log h(u) = y`; `h(u) = phi(u) + u Phi(u)` rises from 0 to infinity."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, y: Tensor) -> Tensor:
        # From the left: log h(u) <= log phi(u) for u < 0, and h(u) <= u + phi(0) for u > 0.
        y = y.clamp(max=_LARGEST)
        u = torch.maximum(-(2 * (-y).clamp_min(0.0)).sqrt() - 1.0, y.exp() - 0.4)
        for _ in range(_NEWTON_STEPS):
            h = log_h(u)
            step = (y - h) * inverse_slope(u, h)
            u = u + step
            if bool((step.abs() <= 1e-13 * u.abs().clamp_min(1.0)).all()):
                break
        ctx.save_for_backward(u, y)
        return u

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        u, y = ctx.saved_tensors  # type: ignore[attr-defined]
        return grads[0] * inverse_slope(u, y)


def inverse_log_h(y: Tensor) -> Tensor:
    """The `u` at which `log(phi(u) + u Phi(u))` is `y`, with its gradient."""
    return _InverseLogH.apply(y)  # type: ignore[return-value]


def _tempered(y: Tensor) -> Tensor:
    """`y` as it is up to 30, and beyond in ever smaller print: `u` is about `exp(y)` there.

    A point that meets its constraints with probability `exp(-2000)` has an index below all others'
    either way, and so one that is finite, with a gradient that leads out of there.
    """
    return torch.where(y > _DEAREST, _DEAREST + (y - _DEAREST).clamp_min(0.0).log1p(), y)


def decayed_lambda(best_ratio: float) -> float:
    """The largest of 0.1, 0.05, 0.025 ... at which something is still worth its price.

    Args:
        best_ratio: The largest `EI(x; best) / c(x)` of any `x`, `best` being the best value seen.
            The stopping rule fires, that is, no index exceeds `best`, where `lambda` is not below it.
    """
    price = LAMBDA_START
    while price >= best_ratio and price > LAMBDA_LEAST:
        price /= 2
    return price


def should_stop(index: float, best: float, *, maximize: bool = True) -> bool:
    """The stopping rule: whether the highest index (as `GittinsIndex` gives it) does not exceed the best value seen."""
    return index <= (best if maximize else -best)
