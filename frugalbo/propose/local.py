"""A subset of many observations that a model of the next suggestion can do with.

An exact Gaussian process takes time that grows with the cube of its observations: 6 s for a
suggestion at 2,000. Where the next point lies is decided near the best configurations known; the
rest of the space only has to be known for what it is worth. So of more than `most` observations
the model is of

* half: those nearest to the best few, in units of lengthscales that were fitted to 80 of them,
* a quarter: the best of the rest,
* a quarter: what lies farthest from all that was chosen before, one after the other.

This is a subset of data (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006,
section 8.3.1), chosen as trust-region methods choose theirs (TuRBO, Eriksson et al., arXiv:1910.01739),
but with the space as a whole still in view: nothing bounds the search. It is a function of the
observations alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Rows = NDArray[np.intp]

CENTRES = 8  # the best points, around which the nearest are chosen


def subset(X: Array, losses: Array, scale: Array, categorical: tuple[int, ...], most: int) -> Rows:
    """The rows of `most` observations, in ascending order; all of them if there are no more.

    Args:
        X: Unit points, n x d.
        losses: Smaller is better, n.
        scale: The length along each dimension that counts as one, d.
        categorical: The dimensions along which only equality counts.
        most: At least 4.
    """
    if len(X) <= most:
        return np.arange(len(X))
    order = np.argsort(losses, kind="stable")
    Z = X / scale
    centres = Z[order[: min(CENTRES, most // 4)]]
    nearest = np.min([_square_distances(Z, z, scale, categorical) for z in centres], axis=0)
    chosen = np.zeros(len(X), dtype=bool)
    chosen[np.argsort(nearest, kind="stable")[: most // 2]] = True
    chosen[[i for i in order if not chosen[i]][: most // 4]] = True
    return np.flatnonzero(_with_spread(Z, chosen, scale, categorical, most))


def nearest_and_spread(X: Array, centres: Array, most: int) -> Rows:
    """The rows of `most` points, in ascending order: half nearest to `centres` (k x d, k > 0), half spread out."""
    if len(X) <= most:
        return np.arange(len(X))
    unit = np.ones(X.shape[1])
    nearest = np.min([_square_distances(X, z, unit, ()) for z in centres], axis=0)
    chosen = np.zeros(len(X), dtype=bool)
    chosen[np.argsort(nearest, kind="stable")[: most // 2]] = True
    return np.flatnonzero(_with_spread(X, chosen, unit, (), most))


def _with_spread(
    Z: Array, chosen: NDArray[np.bool_], scale: Array, categorical: tuple[int, ...], most: int
) -> NDArray[np.bool_]:
    """`chosen` and, until they are `most`, the one that is farthest from all of them."""
    chosen = chosen.copy()
    distance = np.full(len(Z), np.inf)
    for i in np.flatnonzero(chosen):
        np.minimum(distance, _square_distances(Z, Z[i], scale, categorical), out=distance)
    for _ in range(most - int(chosen.sum())):
        i = int(np.argmax(np.where(chosen, -1.0, distance)))
        chosen[i] = True
        np.minimum(distance, _square_distances(Z, Z[i], scale, categorical), out=distance)
    return chosen


def _square_distances(Z: Array, z: Array, scale: Array, categorical: tuple[int, ...]) -> Array:
    difference = Z - z
    for i in categorical:
        difference[:, i] = (np.abs(difference[:, i]) > 1e-9) / scale[i]
    return np.einsum("nd,nd->n", difference, difference)
