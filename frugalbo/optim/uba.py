"""The budget-aware learning-rate schedule (UBA), as a function and as a torch scheduler."""

import math
from typing import Literal

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

Angle = Literal["midpoint", "endpoint"]


def uba_factor(
    step: int,
    total_steps: int,
    phi: float,
    *,
    warmup_steps: int = 0,
    floor_ratio: float = 0.0,
    angle: Angle = "midpoint",
) -> float:
    """Return the learning rate of the step with index `step`, from 0, as a share of the peak.

    Source: Stepsize anything: A unified learning rate schedule for budgeted-iteration training,
    arXiv:2505.24452. With theta going from 0 to pi over the D = `total_steps - warmup_steps` steps of the
    decay and f from 1 to 0::

        f = 2 (1 + cos theta) / (2 phi + (2 - phi) (1 + cos theta))
        factor = floor_ratio + (1 - floor_ratio) f

    We compute the same with half-angles, `2 c^2 / (phi s^2 + 2 c^2)`, c = cos(theta / 2), s = sin(theta / 2),
    which subtracts nothing. `phi = 2` is the cosine schedule; the larger phi, the earlier the decay;
    `phi = 0` is the limit, a constant 1 until the end. For gradient descent on curvatures in [l, u],
    `phi = 2 u / l` and `floor_ratio = l / u` with `angle="midpoint"` are Chebyshev's optimal steps.

    The form is established; the following are not in the source, as far as we know it: the discrete
    angle, one single phase, and the warm-up.

    Args:
        step: Optimizer steps taken before this one.
        total_steps: The budget in optimizer steps, warm-up included.
        phi: How badly conditioned the problem is taken to be; see above.
        warmup_steps: Steps of a linear rise 1/W, 2/W, ..., 1, which are part of `total_steps`. The rise is
            from zero, not from the floor.
        floor_ratio: Where the decay ends, as a share of the peak. Every step from `total_steps` on is there.
        angle: `midpoint` has theta = (2t - 1) pi / 2D for t = 1..D, and so takes neither the peak nor the
            floor; `endpoint` has (t - 1) pi / D, starts at the peak and comes to the floor at
            `step = total_steps`, as torch's `CosineAnnealingLR` does.

    Raises:
        ValueError: If an argument is out of range.
    """
    _check(total_steps, phi, warmup_steps, floor_ratio, angle)
    if step < 0:
        raise ValueError(f"expected step >= 0, got {step}")
    return _factor(step, total_steps, phi, warmup_steps, floor_ratio, angle)


class UBA(LRScheduler):
    """`lr = initial_lr * uba_factor(step, ...)`, for every parameter group.

    Each step multiplies the current rate by the ratio of two factors, so it chains with other schedulers
    in `ChainedScheduler`; it follows another one in `SequentialLR`, its step 0 being the milestone. A
    rate of zero stays zero: with `floor_ratio=0` a chain ends there. `state_dict` and `load_state_dict`
    resume bit for bit, together with the optimizer's; as in torch the saved arguments replace those given.

    Args:
        optimizer: Its groups' `lr` are the peaks.
        total_steps: The budget in optimizer steps, warm-up included. Call `step` once after each.
        phi: See `uba_factor`. The source's recommended values are not known to us; 0.25 to 1 has been used
            with AdamW, larger ones for SGD, and the default is no more than the middle of that.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        phi: float = 1.0,
        *,
        warmup_steps: int = 0,
        floor_ratio: float = 0.0,
        angle: Angle = "midpoint",
        last_epoch: int = -1,
    ) -> None:
        _check(total_steps, phi, warmup_steps, floor_ratio, angle)
        self.total_steps = total_steps
        self.phi = phi
        self.warmup_steps = warmup_steps
        self.floor_ratio = floor_ratio
        self.angle: Angle = angle
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """Return the rates of the current step from those of the step before."""
        before = self._at(self.last_epoch - 1) if self.last_epoch > 0 else 1.0
        ratio = self._at(self.last_epoch) / before if before else 1.0
        return [group["lr"] * ratio for group in self.optimizer.param_groups]

    def _get_closed_form_lr(self) -> list[float | Tensor]:
        # torch calls this by name, at the milestones of SequentialLR.
        return [base * self._at(self.last_epoch) for base in self.base_lrs]

    def _at(self, step: int) -> float:
        return _factor(step, self.total_steps, self.phi, self.warmup_steps, self.floor_ratio, self.angle)


def _factor(step: int, total_steps: int, phi: float, warmup_steps: int, floor_ratio: float, angle: Angle) -> float:
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if step >= total_steps:
        return floor_ratio
    t = step - warmup_steps + (0.5 if angle == "midpoint" else 0.0)
    half_angle = 0.5 * math.pi * t / (total_steps - warmup_steps)
    up = 2 * math.cos(half_angle) ** 2  # 1 + cos theta
    f = up / (phi * math.sin(half_angle) ** 2 + up)
    return floor_ratio + (1 - floor_ratio) * f


def _check(total_steps: int, phi: float, warmup_steps: int, floor_ratio: float, angle: Angle) -> None:
    if not isinstance(total_steps, int) or total_steps < 1:
        raise ValueError(f"expected total_steps to be a positive whole number, got {total_steps!r}")
    if not 0 <= phi < math.inf:
        raise ValueError(f"expected phi to be finite and >= 0, got {phi}")
    if not isinstance(warmup_steps, int) or not 0 <= warmup_steps < total_steps:
        raise ValueError(f"expected warmup_steps in [0, total_steps={total_steps}), got {warmup_steps!r}")
    if not 0 <= floor_ratio <= 1:
        raise ValueError(f"expected floor_ratio in [0, 1], got {floor_ratio}")
    if angle not in ("midpoint", "endpoint"):
        raise ValueError(f"expected angle to be 'midpoint' or 'endpoint', got {angle!r}")
