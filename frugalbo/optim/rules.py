"""The update rules of FRUGAL as functions of lists of tensors, in place, by foreach kernels.

Source: FRUGAL, arXiv:2411.07837, Algorithm 1 and its released code. Nothing here chooses subspaces
(see `frugalbo.optim.projections`) or knows parameter groups (see `frugalbo.optim.frugal`).

| symbol      | here                 | meaning                                                        |
|-------------|----------------------|----------------------------------------------------------------|
| g           | `grads`              | gradients, in full or in the subspace's coordinates            |
| m, v        | `moments`            | state of the state-full rule: 2 of AdamW, 1 of Lion and of SGD |
| k           | `steps`              | steps since the state was last reset, this one included        |
| lr_full     | `Hyper.lr_full`      | `lr * projectable_lr_scale`                                    |
| lr_free     | `Hyper.lr_free`      | `lr_full * state_free_lr_scale`                                |
| u_full      | `num / den * scales` | direction of the state-full rule, before `-lr_full`            |

Deviation, in rounding only: AdamW's `(m / c1) / (sqrt(v) / c2 + eps)`, with `c1 = 1 - beta1^k` and
`c2 = sqrt(1 - beta2^k)`, is computed as `(c2 / c1) * m / (sqrt(v) + c2 * eps)`, one pass fewer.
"""

# The foreach kernels have an underscore, but are what torch.optim itself is written with.
# pyright: reportPrivateImportUsage=false

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from frugalbo.optim.projections import COORDINATE, Projection, add_lifted_, overwrite_, project

StateFull = Literal["adamw", "lion", "sgd"]
StateFree = Literal["signsgd", "sgd", "none"]

MOMENTS: dict[StateFull, tuple[str, ...]] = {
    "adamw": ("exp_avg", "exp_avg_sq"),
    "lion": ("exp_avg",),
    "sgd": ("momentum_buffer",),
}

# Elements worked on at once. On a CPU a piece stays in cache from the first pass to the last; on an
# accelerator it keeps the kernels busy while temporaries stay small beside the weights.
_PIECE_CPU = 2**18
_PIECE_ACCELERATOR = 2**24

Row = tuple[tuple[Tensor, ...], int]  # (parameter, gradient, ...), step


@dataclass(frozen=True, slots=True)
class Hyper:
    """What the rules of one parameter group need to know in one step."""

    lr: float
    lr_full: float
    lr_free: float
    betas: tuple[float, float]
    eps: float
    momentum: float
    weight_decay: float
    state_full: StateFull
    state_free: StateFree


def step_whole(rows: Iterable[Row], hyper: Hyper) -> None:
    """Take a state-full step on whole tensors; a row is `(parameter, gradient, *moments), k`."""
    for piece, steps in _pieces(rows, split=True):
        params, grads, *moments = piece
        _decay_(params, hyper)
        num, den, scales = _direction(grads, moments, steps, hyper)
        if den is None:
            torch._foreach_add_(params, num, alpha=-hyper.lr_full)
        else:
            torch._foreach_addcdiv_(params, num, den, [-hyper.lr_full * scale for scale in scales])


def step_free(rows: Iterable[Row], hyper: Hyper) -> None:
    """Take a state-free step on whole tensors; a row is `(parameter, gradient), 0`."""
    for (params, grads), _ in _pieces(rows, split=True):
        _decay_(params, hyper)
        if hyper.state_free == "signsgd":
            grads = torch._foreach_sign(grads)
        if hyper.state_free != "none":
            torch._foreach_add_(params, grads, alpha=-hyper.lr_free)


def step_projected(rows: Iterable[Row], projection: Projection, hyper: Hyper) -> None:
    """Take a state-full step inside each tensor's subspace and a state-free one outside of it.

    A row is `(parameter, gradient, projector, *moments), k`.
    """
    for piece, steps in _pieces(rows, split=False):
        params, grads, projectors, *moments = piece
        _decay_(params, hyper)
        inside = [project(g, p, projection) for g, p in zip(grads, projectors, strict=True)]
        num, den, scales = _direction(inside, moments, steps, hyper)
        updates = num if den is None else _scaled(torch._foreach_div(num, den), scales)
        if hyper.state_free == "none" or hyper.lr_free == 0:
            for param, update, projector in zip(params, updates, projectors, strict=True):
                add_lifted_(param, update, projector, projection, -hyper.lr_full)
        elif projection in COORDINATE:
            _apply_coordinates_(params, grads, updates, projectors, projection, hyper)
        else:
            _apply_bases_(params, grads, inside, updates, projectors, projection, hyper)


def _apply_coordinates_(
    params: list[Tensor],
    grads: list[Tensor],
    updates: list[Tensor],
    projectors: list[Tensor],
    projection: Projection,
    hyper: Hyper,
) -> None:
    # The residual of chosen coordinates is zero and that of the others is g itself: take the
    # state-free direction everywhere and put the state-full one over it, no residual needed.
    if hyper.state_free == "signsgd":
        directions = [grad.sign().contiguous() for grad in grads]
    else:
        directions = [grad.clone(memory_format=torch.contiguous_format) for grad in grads]
    ratio = hyper.lr_full / hyper.lr_free
    if ratio != 1:
        updates = torch._foreach_mul(updates, ratio)  # pyright: ignore[reportAssignmentType]
    for direction, update, projector in zip(directions, updates, projectors, strict=True):
        overwrite_(direction, update, projector, projection)
    torch._foreach_add_(params, directions, alpha=-hyper.lr_free)


def _apply_bases_(
    params: list[Tensor],
    grads: list[Tensor],
    inside: list[Tensor],
    updates: list[Tensor],
    projectors: list[Tensor],
    projection: Projection,
    hyper: Hyper,
) -> None:
    for param, grad, low, update, projector in zip(params, grads, inside, updates, projectors, strict=True):
        # With a square basis the residual is zero but for rounding, of which signSGD would make
        # steps of full length.
        if projector.shape[0] != projector.shape[1]:
            residual = grad.clone()
            add_lifted_(residual, low, projector, projection, -1.0)  # g - P^T P g
            if hyper.state_free == "signsgd":
                residual.sign_()
            param.add_(residual, alpha=-hyper.lr_free)
        add_lifted_(param, update, projector, projection, -hyper.lr_full)


def _direction(
    grads: list[Tensor], moments: list[list[Tensor]], steps: list[int], hyper: Hyper
) -> tuple[list[Tensor], list[Tensor] | None, list[float]]:
    """Update the moments and return `num`, `den` and `scales` of `u_full = scales * num / den`.

    `num` may be a moment itself: read it, never write to it.
    """
    beta1, beta2 = hyper.betas
    if hyper.state_full == "adamw":
        exp_avgs, exp_avg_sqs = moments
        torch._foreach_lerp_(exp_avgs, grads, 1 - beta1)
        torch._foreach_mul_(exp_avg_sqs, beta2)
        torch._foreach_addcmul_(exp_avg_sqs, grads, grads, 1 - beta2)
        c2 = [(1 - beta2**step) ** 0.5 for step in steps]
        den = list(torch._foreach_sqrt(exp_avg_sqs))
        torch._foreach_add_(den, [hyper.eps * c for c in c2])
        return exp_avgs, den, [c / (1 - beta1**step) for c, step in zip(c2, steps, strict=True)]
    ones = [1.0] * len(grads)
    (buffers,) = moments
    if hyper.state_full == "lion":  # arXiv:2302.06675, Algorithm 2
        num = list(torch._foreach_lerp(buffers, grads, 1 - beta1))
        torch._foreach_sign_(num)
        torch._foreach_lerp_(buffers, grads, 1 - beta2)
        return num, None, ones
    torch._foreach_mul_(buffers, hyper.momentum)
    torch._foreach_add_(buffers, grads)
    return buffers, None, ones


def _scaled(tensors: tuple[Tensor, ...] | list[Tensor], scales: list[float]) -> list[Tensor]:
    torch._foreach_mul_(tensors, scales)
    return list(tensors)


def _decay_(params: list[Tensor], hyper: Hyper) -> None:
    # Decoupled, before the update, and by the group's own rate: neither scale applies.
    if hyper.weight_decay:
        torch._foreach_mul_(params, 1 - hyper.lr * hyper.weight_decay)


def _pieces(rows: Iterable[Row], *, split: bool) -> Iterator[tuple[list[list[Tensor]], list[int]]]:
    """Yield rows transposed (all parameters, all gradients, ...) in pieces that suit their device.

    With `split`, for rules that work entry by entry, a contiguous tensor larger than a piece is cut.
    """
    held: list[Row] = []
    held_numel = 0
    for tensors, step in rows:
        param = tensors[0]
        limit = _PIECE_CPU if param.device.type == "cpu" else _PIECE_ACCELERATOR
        if held:
            first = held[0][0][0]
            if held_numel + param.numel() > limit or param.device != first.device or param.dtype != first.dtype:
                yield _transposed(held)
                held, held_numel = [], 0
        if split and param.numel() > limit and all(t.is_contiguous() for t in tensors):
            for parts in zip(*(t.view(-1).split(limit) for t in tensors), strict=True):
                yield _transposed([(parts, step)])
        else:
            held.append((tensors, step))
            held_numel += param.numel()
    if held:
        yield _transposed(held)


def _transposed(rows: list[Row]) -> tuple[list[list[Tensor]], list[int]]:
    return [list(column) for column in zip(*(tensors for tensors, _ in rows), strict=True)], [step for _, step in rows]
