"""What the model sees of a loss: the good half as it is, the bad half in ever smaller print.

With `y_1 <= ... <= y_n`, pivot `p` and spread `s = p - y_1`:

    t(y) = (y - p) / s               for y <= p
           log(1 + (y - p) / s)      for y > p, but at most 4

The pivot is the median, unless the better half itself holds a gap (a value more than 100 times
farther from the best than the one before it): then the value before the first such gap, not
counting the best eighth nor the best two, which may be close together because they are good. Thus
a loss 50 spreads worse than the pivot, 1e18 or 1e300, are the same thing, "bad", while
improvements are seen in true proportion: where expected improvement is computed, `t` is linear.
Then the values are centred and divided by their standard deviation.

(The idea is Vizier's half-rank warping, arXiv:2408.11527; a logarithm in the place of ranks keeps
the distances between moderately bad values.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_WORST = 4.0
_GAP = 100.0
_HUGE = 1e300  # differences of larger numbers overflow


@dataclass(frozen=True, slots=True)
class Outcome:
    """The transform that was derived from some losses, increasing up to its plateau."""

    pivot: float
    spread: float
    mean: float
    std: float

    @classmethod
    def of(cls, losses: ArrayLike) -> Outcome:
        """The transform for these losses, of which there must be at least one, all finite."""
        y = np.sort(np.asarray(losses, dtype=np.float64))
        y = np.clip(y, -_HUGE, _HUGE)
        pivot = _pivot(y)
        spread = float(y[pivot] - y[0])
        if spread <= 0 or not np.isfinite(1 / spread):
            # All of the better half are equal; without any other value the scale does not matter.
            above = y[y > y[0]]
            spread = float(above[0] - y[0]) if len(above) else 1.0
        rough = cls(float(y[pivot]), spread, 0.0, 1.0)
        t = rough(y)
        std = float(t.std(ddof=1)) if len(t) > 1 else 0.0
        return cls(rough.pivot, rough.spread, float(t.mean()), std if std > 1e-9 else 1.0)

    @classmethod
    def linear(cls, losses: ArrayLike) -> Outcome:
        """As `of`, but with all losses in true proportion, for what has no heavy tail."""
        found, y = cls.of(losses), np.asarray(losses, dtype=np.float64)
        rough = cls(float(y.max()), found.spread, 0.0, 1.0)
        t = rough(y)
        std = float(t.std(ddof=1)) if len(t) > 1 else 0.0
        return cls(rough.pivot, rough.spread, float(t.mean()), std if std > 1e-9 else 1.0)

    def __call__(self, losses: ArrayLike) -> NDArray[np.float64]:
        """What the model sees of `losses`."""
        y = np.clip(np.asarray(losses, dtype=np.float64), -_HUGE, _HUGE)
        with np.errstate(over="ignore"):
            t = (y - self.pivot) / self.spread
        t = np.where(t > 0, np.minimum(np.log1p(np.maximum(t, 0)), _WORST), t)
        return (t - self.mean) / self.std

    def slope(self, losses: ArrayLike) -> NDArray[np.float64]:
        """The derivative of what the model sees by the loss: 0 on the plateau."""
        y = np.clip(np.asarray(losses, dtype=np.float64), -_HUGE, _HUGE)
        with np.errstate(over="ignore"):
            t = np.maximum((y - self.pivot) / self.spread, 0)
        return np.where(np.log1p(t) < _WORST, 1 / (1 + t), 0.0) / (self.spread * self.std)

    def inverse(self, t: float) -> float:
        """The loss that the model sees as `t`; above the plateau, where the plateau begins."""
        raw = t * self.std + self.mean
        raw = raw if raw <= 0 else float(np.expm1(min(raw, _WORST)))
        return self.pivot + raw * self.spread


def _pivot(y: NDArray[np.float64]) -> int:
    """The index of the pivot among the sorted losses."""
    median = len(y) // 2
    for k in range(max(2, len(y) // 8), median):
        if 0 < _GAP * (y[k] - y[0]) < y[k + 1] - y[0]:
            return k
    return median
