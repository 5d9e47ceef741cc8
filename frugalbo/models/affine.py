"""An outcome transform that is affine, where means and derivatives of losses must stay what they are."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from frugalbo.errors import FrugalWarning
from frugalbo.models.outcome import Outcome

_TAIL = 30.0  # standard deviations of the better half that a loss may be from the median


def affine_outcome(losses: NDArray[np.float64], what: str) -> Outcome:
    """Losses less their mean over their standard deviation, in the form of an `Outcome`.

    Where one of them is farther than 30 standard deviations of the better half from the median, an affine
    transform would leave no digits for what matters; then it is `Outcome.of`.

    Args:
        losses: Finite, n, at least one.
        what: What is then no longer exact, for the warning.

    Warns:
        FrugalWarning: If the transform is not affine.
    """
    y, median = losses, float(np.median(losses))
    robust = Outcome.of(y)
    scale = float(np.std(y[y <= median])) or robust.spread
    with np.errstate(over="ignore", invalid="ignore"):
        farthest = float(np.abs(y - median).max())
    if not (np.isfinite(farthest) and farthest <= _TAIL * scale) and len(y) > 2:
        warnings.warn(
            f"losses from {y.min():.3g} to {y.max():.3g} leave no digits for the better half, around {median:.3g}:"
            f" {what}. Give bounded losses, their logarithms say, to avoid this",
            FrugalWarning,
            stacklevel=3,
        )
        return robust
    top = float(y.max())  # with the pivot at the largest loss, an outcome is linear throughout
    spread = float(y.std(ddof=1)) if len(y) > 1 else 0.0
    spread = spread if spread > 1e-12 * max(1.0, abs(top)) else 1.0
    return Outcome(top, spread, float((y - top).mean()) / spread, 1.0)
