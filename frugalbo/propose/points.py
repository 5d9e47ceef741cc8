"""Many unit points at once: settling discrete and inactive coordinates, neighbours, known constraints.

`Space` does these one point at a time, in tens of microseconds; an acquisition is searched over
thousands. A test holds `Points.snap` against `Space.snap`.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frugalbo.space import Choice, Fixed, Float, Int, Space

Array = NDArray[np.float64]

_TABLE = 4096  # longer integer ranges are computed
_FEW = 24  # dimensions with at most so many values have all of them as neighbours
_SAME = 1e-9
_BLOCK = 512  # of tried points that are compared at once


class Points:
    """A space, seen many points at a time; arrays are m x d."""

    def __init__(self, space: Space) -> None:
        self.space = space
        levels = space.levels
        self.continuous = np.array([i for i, n in enumerate(levels) if n is None], dtype=int)
        self.discrete = tuple(i for i, n in enumerate(levels) if n is not None and n > 1)
        self.searched = len(self.continuous) + len(self.discrete)
        self._index = {name: i for i, name in enumerate(space.names)}
        self._tables = {i: table for i in self.discrete if (table := self._table(i)) is not None}

    def snap(self, U: Array) -> Array:
        """The points that decoding and encoding lead to."""
        V = np.clip(U, 0.0, 1.0)
        for i, name in enumerate(self.space.names):
            p = self.space.parameters[name]
            if p.levels == 1:  # type: ignore[union-attr]
                V[:, i] = 0.5
            elif i in self._tables:
                units, edges = self._tables[i]
                V[:, i] = units[np.searchsorted(edges, V[:, i], side="right")]
            elif isinstance(p, Int):
                V[:, i] = _settled(p, V[:, i])
            elif not isinstance(p, Float):
                V[:, i] = [p.to_unit(p.from_unit(u)) for u in V[:, i].tolist()]  # type: ignore[union-attr]
        for name, active in self._active(V).items():
            V[~active, self._index[name]] = 0.5
        return V

    def active(self, u: Array) -> NDArray[np.bool_]:
        """For each dimension, whether it exists at the snapped point `u` (d,)."""
        flags = np.ones(len(u), dtype=bool)
        for name, active in self._active(u[None]).items():
            flags[self._index[name]] = active[0]
        return flags

    def feasible(self, U: Array) -> NDArray[np.bool_]:
        """Which points satisfy the known constraints."""
        if not self.space.constraints:
            return np.ones(len(U), dtype=bool)
        return np.array([self.space.is_feasible(self.space.decode(u)) for u in U], dtype=bool)

    def neighbours(self, u: Array) -> Array:
        """The points that differ from `u` (d,) in one discrete dimension, snapped; k x d."""
        found = []
        for i in self.discrete:
            for unit in self._other_units(i, float(u[i])):
                v = u.copy()
                v[i] = unit
                found.append(v)
        return self.snap(np.array(found)) if found else np.empty((0, len(u)))

    def new(self, U: Array, tried: Array, distance: Array) -> NDArray[np.bool_]:
        """Which points differ from each of `tried` (n x d) in a discrete value, or by its `distance` (n) elsewhere."""
        free = np.zeros(U.shape[1], dtype=bool)
        free[self.continuous] = True
        fresh = np.ones(len(U), dtype=bool)
        for first in range(0, len(tried), _BLOCK):
            block = slice(first, first + _BLOCK)
            tolerance = np.where(free, distance[block, None], _SAME)  # t x d
            far = np.any(np.abs(U[:, None] - tried[block]) > tolerance, axis=2)  # m x t
            fresh &= np.all(far, axis=1)
        return fresh

    def _other_units(self, i: int, unit: float) -> list[float]:
        p = self.space.parameters[self.space.names[i]]
        n = p.levels or 0  # type: ignore[union-attr]
        values = p.values if isinstance(p, Choice) else None
        here = p.index(p.from_unit(unit)) if isinstance(p, Choice) else p.from_unit(unit) - p.lower  # type: ignore
        if n <= _FEW:
            others = [j for j in range(n) if j != here]
        else:
            jumps = [s * 2**k for k in range(n.bit_length()) for s in (-1, 1)]
            others = [here + jump for jump in jumps if 0 <= here + jump < n]
        return [p.to_unit(values[j] if values else p.lower + j) for j in others]  # type: ignore[union-attr]

    def _table(self, i: int) -> tuple[Array, Array] | None:
        """The unit of each value in a discrete dimension, and the edges between their shares."""
        p = self.space.parameters[self.space.names[i]]
        assert isinstance(p, (Int, Choice))
        n = p.levels or 0
        if n > _TABLE:
            return None
        if isinstance(p, Choice):
            return (np.arange(n) + 0.5) / n, np.arange(1, n) / n
        edges = np.arange(p.lower, p.upper) + 0.5
        low, high = p.lower - 0.5, p.upper + 0.5
        if p.log:
            edges, low, high = np.log(edges), np.log(low), np.log(high)
        units = np.array([p.to_unit(v) for v in range(p.lower, p.upper + 1)])
        return units, np.asarray((edges - low) / (high - low), dtype=np.float64)

    @cached_property
    def _conditional(self) -> tuple[str, ...]:
        return tuple(name for name in self.space.names if self.space.parameters[name].only_if)

    def _active(self, V: Array) -> dict[str, NDArray[np.bool_]]:
        """For each conditional name, at which of the points (discrete coordinates settled) it exists."""
        found: dict[str, NDArray[np.bool_]] = {}

        def exists(name: str) -> NDArray[np.bool_]:
            if name not in found:
                flags = np.ones(len(V), dtype=bool)
                for other, wanted in (self.space.parameters[name].only_if or {}).items():
                    flags &= exists(other) & self._has(V, other, wanted)
                found[name] = flags
            return found[name]

        return {name: exists(name) for name in self._conditional}

    def _has(self, V: Array, name: str, wanted: Any) -> NDArray[np.bool_]:  # noqa: ANN401 - a value or a list of them
        allowed = wanted if isinstance(wanted, (list, tuple, set, frozenset)) else (wanted,)
        p = self.space.parameters[name]
        if isinstance(p, Fixed):
            return np.full(len(V), p.value in allowed)
        column = V[:, self._index[name]]
        if isinstance(p, Choice):
            values = np.array([v in allowed for v in p.values], dtype=bool)
            return values[np.minimum(len(values) - 1, (column * len(values)).astype(int))]
        return np.array([p.from_unit(u) in allowed for u in column.tolist()], dtype=bool)


def _settled(p: Int, u: Array) -> Array:
    """`p.to_unit(p.from_unit(u))` of many coordinates."""
    low, high = p.lower - 0.5, p.upper + 0.5
    a, b = (math.log(low), math.log(high)) if p.log else (low, high)
    x = a + (b - a) * u
    n = np.clip(np.floor((np.exp(x) if p.log else x) + 0.5), p.lower, p.upper)
    left, right = (np.log(n - 0.5), np.log(n + 0.5)) if p.log else (n - 0.5, n + 0.5)
    return np.clip((0.5 * (left + right) - a) / (b - a), 0.0, 1.0)
