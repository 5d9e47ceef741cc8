"""Progress under a known learning-rate schedule: what a step is worth.

Losses fall while the rate decays, faster than steps explain. Two facts that laws of loss curves under schedules
rest on (Luo et al., A Multi-Power Law for Loss Curve Prediction, arXiv:2503.12811; Tissue, Wang, Wang,
Scaling Law with Learning Rate Annealing, arXiv:2408.11029): the loss is a power of the area under the rate, and it
is lower for a lower rate. We put both into one measure of progress, along which a curve goes on as it
would under a constant rate::

    u(s) = S(s) (peak / lr(s))^(1/2),      S(s) = sum of the rates of the first s steps / peak

where `lr(s)` is a mean of the rate over the last 2 % of the area so far, since the loss needs some steps to settle.
Deviations: neither law is fitted, so that no run has to be complete; u never falls, so a rate that rises again
brings no progress until it is where it was. The exponent and the 2 % were chosen on recorded runs of language models
with 25 million parameters (`benchmarks/curves.py --schedules` has them, and the larger ones).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from frugalbo.errors import ModelError
from frugalbo.models.curves.curve import Array, Progress

_EXPONENT = 0.5
_SETTLING = 0.02


def schedule_progress(rates: ArrayLike) -> Progress:
    """The progress that a job makes whose learning rate at step i (from 1) is `rates[i - 1]`, in any unit.

    Raises:
        ModelError: If there is no rate, one is negative or not finite, or the first is 0.
    """
    lr = np.asarray(rates, dtype=np.float64)
    if lr.ndim != 1 or not len(lr) or not np.isfinite(lr).all() or (lr < 0).any() or lr[0] == 0:
        raise ModelError("expected the learning rate of each step: finite, not negative, the first above 0")
    lr = lr / lr.max()
    area = np.cumsum(lr)
    settled, mean = np.empty_like(lr), lr[0]
    for i, (rate, total) in enumerate(zip(lr.tolist(), area.tolist(), strict=True)):
        mean += min(1.0, rate / (_SETTLING * total)) * (rate - mean)
        settled[i] = mean
    progress = np.maximum.accumulate(area / np.maximum(settled, 1e-12) ** _EXPONENT)
    at = np.arange(1.0, len(lr) + 1)

    def u(steps: Array) -> Array:
        return np.interp(steps, at, progress)

    return u
