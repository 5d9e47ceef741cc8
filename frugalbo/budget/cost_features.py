"""What the cost of a configuration may depend on: `phi`, features of a regression, and `psi`, of what it leaves over.

| symbol | meaning | shape |
|---|---|---|
| phi(x) | 1; each ordered dimension (centred) and its square; one indicator for each categorical value; a shape | p |
| k(x, z) | Matern-5/2 of `|x - z| / l`, where another categorical value is as far away as the opposite end | |
| Z | points that were seen, at most 48 of them, spread | r |
| psi(x) | `L^-1 k(Z, x)`, with `L L' = k(Z, Z)` | r |

With weights `v ~ N(0, I)`, the sum `v' psi(x)` is the projection of a Gaussian process of covariance `k` onto its
values at Z, and `1 - |psi(x)|^2` is the variance of what the projection leaves out. Where Z are all the
points that were seen, a regression on psi with that variance added is the process, exactly; of more, it is
the projected process (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, section 8.3.4).
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from frugalbo.budget.shape import Shape
from frugalbo.space import Space

Array = NDArray[np.float64]

_SQUARES: Final = 0.5  # squares matter less than slopes
_FULL_DIMS: Final = 4
_LISTED: Final = 24  # values of a choice that have a feature each, seen or not
_CENTRING: Final = 256  # points over which a stated shape is centred
_MOST: Final = 48  # points of Z
_JITTER: Final = 1e-6
_NEAREST: Final = 1e-12  # squared distances below it are rounding


class Features:
    """`phi`: from unit points (m x d) to features (m x p), the first of which is 1.

    Args:
        space: What the points are points of.
        shape: A formula that cost may follow; its logarithm is the last feature.
        seen: The points that the model learns from, if they are known: of a choice with many values, those that
            were never seen share one feature. As a priori they are alike, no prediction changes by that.
    """

    def __init__(self, space: Space, shape: Shape | None = None, seen: Array | None = None) -> None:
        levels = space.levels
        self.categorical = tuple(i for i in space.categorical_dims if levels[i] != 1)
        self.ordered = tuple(i for i in range(space.dim) if levels[i] != 1 and i not in self.categorical)
        self.levels = {i: (np.arange(levels[i] or 0) + 0.5) / (levels[i] or 1) for i in self.categorical}
        self.shared = () if seen is None else tuple(i for i, units in self.levels.items() if len(units) > _LISTED)
        for i in self.shared:
            assert seen is not None
            self.levels[i] = self.levels[i][(np.abs(seen[:, [i]] - self.levels[i]) < 1e-9).any(axis=0)]
        self.shape = shape
        # Centred, so that it does not shift the intercept.
        points = np.random.default_rng(0).random((_CENTRING, space.dim))
        self.centre = 0.0 if shape is None else float(np.mean(shape.log(np.stack([space.snap(u) for u in points]))))
        one_hots = sum(map(len, self.levels.values())) + len(self.shared)
        d, dims = len(self.ordered), len(self.ordered) + len(self.categorical)
        self.size = 1 + 2 * d + one_hots + (shape is not None)
        # Where a point lies, for distances whose squares are at most 1 over the whole space.
        self.coordinates = [*range(1, 1 + d), *range(1 + 2 * d, 1 + 2 * d + one_hots)]
        self.coordinate_scale = np.repeat([1.0, math.sqrt(0.5)], [d, one_hots]) / math.sqrt(max(1, dims))

    def __call__(self, U: Array) -> Array:
        """The features of unit points."""
        x = U[:, self.ordered] - 0.5
        one_hot = [(np.abs(U[:, [i]] - self.levels[i]) < 1e-9).astype(np.float64) for i in self.categorical]
        one_hot += [1 - one_hot[self.categorical.index(i)].sum(axis=1, keepdims=True) for i in self.shared]
        shape = [] if self.shape is None else [self.shape.log(U)[:, None] - self.centre]
        # A square's mean over the cube is taken off, so that it does not shift the intercept.
        return np.hstack([np.ones((len(U), 1)), x, 4 * (x**2 - 1 / 12), *one_hot, *shape])

    def prior_sd(self) -> Array:
        """The standard deviation of each weight but the first and the shape's, in units of tau; shape (q,)."""
        d, one_hots = len(self.ordered), sum(map(len, self.levels.values())) + len(self.shared)
        sd = np.concatenate([np.ones(d), np.full(d, _SQUARES / 4), np.full(one_hots, 0.5)])
        # In many dimensions each matters less: the range over the whole cube stays about exp(tau).
        return sd * math.sqrt(min(1.0, _FULL_DIMS / max(1, d + len(self.levels))))


class Residual:
    """`psi`: from features (m x p) to those of a Gaussian process over the points that they are of (m x r).

    Args:
        features: What made the features.
        phi: Of the points that were seen, n x p.
        lengthscale: The `l` above, as a share of the diagonal of the space.
    """

    def __init__(self, features: Features, phi: Array, lengthscale: float) -> None:
        self._columns = features.coordinates
        self._scale = features.coordinate_scale / lengthscale
        Z = _spread(np.unique(phi[:, self._columns], axis=0) * self._scale, _MOST)
        self.Z: Array = Z
        self.size = len(Z)
        L = np.linalg.cholesky(_matern(Z, Z, np) + _JITTER * np.eye(len(Z)))
        self._root: Array = np.linalg.inv(L).T  # r x r

    def __call__(self, phi: Any, xp: ModuleType = np) -> Any:  # noqa: ANN401 - an array of numpy or of torch
        """The features psi at features ... x p, arrays of `xp` (numpy or torch)."""
        x = phi[..., self._columns] * xp.asarray(self._scale)
        return _matern(x, xp.asarray(self.Z), xp) @ xp.asarray(self._root)

    def missing(self, psi: Any) -> Any:  # noqa: ANN401 - an array of numpy or of torch
        """The variance that the projection leaves out, ... ."""
        return (1 - (psi * psi).sum(-1)).clip(0.0)

    def covariance(self, phi: Any, xp: ModuleType = np) -> Any:  # noqa: ANN401 - an array of numpy or of torch
        """The prior covariance of the process between points with features ... q x p; ... q x q."""
        x = phi[..., self._columns] * xp.asarray(self._scale)
        return _matern(x, x, xp)


def _matern(x: Any, z: Any, xp: ModuleType) -> Any:  # noqa: ANN401 - arrays
    """The Matern-5/2 correlation of points ... m x c and ... r x c; ... m x r."""
    squares = (x * x).sum(-1)[..., None] + (z * z).sum(-1)[..., None, :] - 2 * x @ xp.swapaxes(z, -1, -2)
    r = xp.sqrt(5 * xp.clip(squares, _NEAREST, None))
    return (1 + r + r * r / 3) * xp.exp(-r)


def _spread(points: Array, most: int) -> Array:
    """At most so many of the points (n x c): each the one farthest from those before it."""
    if len(points) <= most:
        return points
    chosen = [0]
    distance = np.full(len(points), np.inf)
    while len(chosen) < most:
        distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
        chosen.append(int(distance.argmax()))
    return points[chosen]
