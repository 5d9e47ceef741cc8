"""The search for an acquisition's best point in mixed, conditional and constrained spaces.

1. A pool: uniform points, points near the anchors (the best configurations known), and the
   anchors' discrete neighbours; settled, cut by the known constraints, evaluated in one batch.
2. From the best few that lie apart: in turn the best discrete neighbour, and L-BFGS-B over the
   active continuous dimensions, all starts in one batch.
3. Of all that were seen, the best that is feasible and new.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from frugalbo.propose.deadline import Check, OutOfTime, unlimited
from frugalbo.propose.points import Points

Array = NDArray[np.float64]
Acquisition = Callable[[Tensor], Tensor]
Allowed = Callable[[Array], NDArray[np.bool_]]

_UNIFORM_MOST = 1024
_BLOCK = 2048  # of points at once: what acquisitions keep of each adds up
_NEAR = 32  # points near each anchor and scale
_SCALES = (0.2, 0.05, 0.01)
_STARTS = 4
_APART = 0.1  # of a start from better ones, in some coordinate
_SWEEPS = 3
_ITERATIONS = 30
_CONSTRAINED_TRIES = 20


@dataclass(frozen=True, slots=True)
class Found:
    """The best point, its value, and a problem of the search in words, if there was one."""

    u: Array
    value: float
    problem: str = ""


def maximise(
    acquisition: Acquisition,
    points: Points,
    pool: Array,
    tried: Array,
    distance: Array,
    allowed: Allowed | None = None,
    check: Check = unlimited,
) -> Found | None:
    """The feasible and new point where `acquisition` is largest; None if no such point was found.

    If `check` raises `OutOfTime`, the best point so far is the answer, and its `problem` says so.

    Args:
        acquisition: From b x 1 x d to b.
        points: The space.
        pool: Where to start, as from `make_pool`.
        tried: Points that must not come out again, n x d.
        distance: For each of them, how far a continuous coordinate must be from it to be new, n.
        allowed: Which of some points (m x d) may come out; all by default.
        check: Called before each evaluation but the pool's.

    Raises:
        OutOfTime: If `check` says so before the pool has values.
    """
    if not len(pool):
        return None
    check()
    seen, values = [pool], [evaluate(acquisition, pool)]
    starts = _starts(points, pool, values[0])
    problem = "" if len(starts) else "the acquisition is not a number anywhere in the pool"

    def checked(X: Tensor) -> Tensor:
        check()
        return acquisition(X)

    try:
        for _ in range(_SWEEPS if len(starts) else 0):
            starts, moved = _sweep(checked, points, starts, seen, values)
            if len(points.continuous):
                starts, complaint = _climb(checked, points, starts, seen, values)
                problem = problem or complaint
            if not moved:
                break
    except OutOfTime:
        problem = "it ran out of time; the best point so far took the place of the best"
    return best_new(points, np.concatenate(seen), np.concatenate(values), tried, distance, allowed, problem)


def best_new(
    points: Points,
    U: Array,
    value: Array,
    tried: Array,
    distance: Array,
    allowed: Allowed | None = None,
    problem: str = "",
) -> Found | None:
    """Of points `U` (m x d) the one with the largest finite `value` (m) that is new and allowed; see `maximise`."""
    # Only the best few are worth the comparison with everything tried.
    order = np.argsort(np.where(np.isfinite(value), -value, np.inf), kind="stable")
    for block in np.array_split(order, max(1, len(order) // 32)):
        good = np.isfinite(value[block]) & points.new(U[block], tried, distance)
        if allowed is not None:
            good &= allowed(U[block])
        if good.any():
            best = block[np.argmax(good)]
            return Found(U[best], float(value[best]), problem)
    return None


def make_pool(points: Points, anchors: Array, rng: np.random.Generator) -> Array:
    """Snapped feasible points in a random order, m x d: uniform ones, and ones near the anchors (k x d, snapped)."""
    d = points.space.dim
    count = min(_UNIFORM_MOST, 256 + 64 * points.searched)
    uniform = points.snap(rng.random((count, d)))
    parts = [uniform[points.feasible(uniform)]]
    for _ in range(_CONSTRAINED_TRIES):
        if sum(map(len, parts)) >= count // 8:
            break
        more = points.snap(rng.random((count, d)))
        parts.append(more[points.feasible(more)])
    for u in anchors:
        near = [u + scale * rng.standard_normal((_NEAR, d)) for scale in _SCALES]
        for block in near:
            # Half of them move in a few coordinates only, which is what matters in many dimensions.
            keep = rng.random(block.shape) > min(1.0, 3 / max(1, points.searched))
            keep[::2] = False
            block[keep] = np.broadcast_to(u, block.shape)[keep]
        close = np.concatenate([points.snap(np.concatenate(near)), points.neighbours(u)])
        parts.append(close[points.feasible(close)])
    return rng.permutation(np.unique(np.concatenate(parts), axis=0))


def evaluate(acquisition: Acquisition, U: Array) -> Array:
    """The values of an acquisition at points, m x d; shape m."""
    with torch.no_grad():
        blocks = torch.from_numpy(U).unsqueeze(-2).split(_BLOCK)
        return torch.cat([acquisition(block) for block in blocks]).numpy()


def _starts(points: Points, pool: Array, values: Array) -> Array:
    """The best points of the pool that lie apart from each other."""
    chosen: list[int] = []
    for i in np.argsort(np.where(np.isfinite(values), -values, np.inf), kind="stable")[:500]:
        if not np.isfinite(values[i]) or len(chosen) == _STARTS:
            break
        if all((np.abs(pool[i] - pool[j]) > _APART).any() for j in chosen):
            chosen.append(int(i))
    return pool[chosen]


def _sweep(
    acquisition: Acquisition, points: Points, starts: Array, seen: list[Array], values: list[Array]
) -> tuple[Array, bool]:
    """Each start moved to its best feasible discrete neighbour, if that is better; and whether any moved."""
    if not points.discrete:
        return starts, False
    groups = []
    for u in starts:
        others = points.neighbours(u)
        groups.append(np.concatenate([u[None], others[points.feasible(others)]]))
    U = np.concatenate(groups)
    value = evaluate(acquisition, U)
    seen.append(U)
    values.append(value)
    best, first = [], 0
    for group in groups:
        best.append(first + int(np.nanargmax(value[first : first + len(group)])))
        first += len(group)
    moved = U[best]
    return np.unique(moved, axis=0), not np.array_equal(moved, starts)


def _climb(
    acquisition: Acquisition, points: Points, starts: Array, seen: list[Array], values: list[Array]
) -> tuple[Array, str]:
    """L-BFGS-B over the active continuous coordinates of all starts at once."""
    free = np.zeros(starts.shape, dtype=bool)
    free[:, points.continuous] = True
    free &= np.array([points.active(u) for u in starts])
    if not free.any():
        return starts, ""
    base, mask = torch.from_numpy(starts), torch.from_numpy(free)
    problem = ""

    def negative(x: Array) -> tuple[float, Array]:
        nonlocal problem
        moving = torch.from_numpy(x.copy()).requires_grad_(True)
        X = base.masked_scatter(mask, moving)
        total = acquisition(X.unsqueeze(-2)).sum()
        (gradient,) = torch.autograd.grad(total, moving)
        if not bool(torch.isfinite(total)) or not bool(torch.isfinite(gradient).all()):
            problem = "the acquisition has no finite gradient; points of the pool took the place of refined ones"
            return 0.0, np.zeros_like(x)
        return -float(total.detach()), -gradient.numpy()

    options = {"maxiter": _ITERATIONS, "ftol": 1e-7, "gtol": 1e-4}
    result = minimize(
        negative, starts[free], jac=True, method="L-BFGS-B", bounds=[(0.0, 1.0)] * int(free.sum()), options=options
    )
    ends = starts.copy()
    ends[free] = result.x
    # With known constraints the end may be out of bounds, where half of the way is not.
    ways = (1.0, 0.75, 0.5, 0.25) if points.space.constraints else (1.0,)
    U = np.concatenate([points.snap(starts + way * (ends - starts)) for way in ways])
    U = U[points.feasible(U)]
    if len(U):
        seen.append(U)
        values.append(evaluate(acquisition, U))
    reached = points.snap(ends)
    ok = points.feasible(reached)
    return np.where(ok[:, None], reached, starts), problem
