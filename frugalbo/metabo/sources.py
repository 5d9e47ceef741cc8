"""Tasks for the neural acquisition process: draws of Gaussian processes that were fitted to recorded tables.

Source: Maraval et al., arXiv:2305.15930, and the authors' code: a Gaussian process for each table of one search
space; an episode takes the next of them, rows of its table with replacement, moves each by up to 0.05 in each
dimension, spreads each dimension over [0, 1] again, and draws one outcome for all of them jointly from the
posterior predictive. Outcomes then go from 0, the worst, to 1, the best.

Deviations: the process is the engine's (`frugalbo.models.objective`), with plainly standardised outcomes; it is
fitted to at most `rows` rows, each drawn with a chance that is inverse to how often its outcome occurs (the
authors' limit is three times the number of different outcomes); all dimensions are numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import frugalbo.models  # isort: skip  # noqa: F401 - first: it imports linear_operator without its warning

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from frugalbo.errors import ProblemError
from frugalbo.metabo.tables import Table
from frugalbo.models.objective import ObjectiveGP, fit_objective

Array = NDArray[np.float64]

_MOVE = 0.05
_JITTER = 1e-6
_LEAST_SPREAD = 1e-3  # of a table's outcomes; with less there is nothing to learn


@dataclass(frozen=True, slots=True)
class Episodes:
    """Tasks with a finite number of candidates; larger outcomes are better.

    Args:
        X: The candidates, unit points, B x N x d.
        y: Their outcomes in [0, 1], of which both ends occur in each task; B x N.
    """

    X: Tensor
    y: Tensor


class Tasks(Protocol):
    """What a policy learns from."""

    dims: int

    def draw(self, seed: int, i: int, count: int) -> Episodes:
        """`count` tasks, number `i count` and following, from a stream of their own; float32."""
        ...


class Sources:
    """Gaussian processes of some tables of one space, to draw tasks from.

    Args:
        tables: With the same number of columns; those whose outcomes hardly differ are left out.
        candidates: In each task.
        rows: That each process is fitted to, at most.

    Raises:
        ProblemError: If there are no such tables, or they differ in their number of columns.
    """

    def __init__(self, tables: Sequence[Table], candidates: int, rows: int) -> None:
        tables = [t for t in tables if t.losses.std() >= _LEAST_SPREAD]
        widths = sorted({t.X.shape[1] for t in tables})
        if len(widths) != 1:
            raise ProblemError(f"expected tables of one space, got {len(tables)} with columns {widths}")
        self.dims, self.candidates = widths[0], candidates
        self.models = [_model(t, rows) for t in tables]
        self.points = [t.U for t in tables]

    def draw(self, seed: int, i: int, count: int) -> Episodes:
        """As `Tasks` says."""
        rng = np.random.default_rng([seed, i, 3])
        found = [self._one((i * count + k) % len(self.models), rng) for k in range(count)]
        X, y = (np.stack(part) for part in zip(*found, strict=True))
        return Episodes(torch.from_numpy(X).float(), torch.from_numpy(y).float())

    def _one(self, source: int, rng: np.random.Generator) -> tuple[Array, Array]:
        U = self.points[source]
        X = U[rng.integers(len(U), size=self.candidates)]
        X = X + rng.uniform(-_MOVE, _MOVE, X.shape)
        X = _spread(X)
        model = self.models[source]
        with torch.no_grad():
            at = model.marginals(torch.from_numpy(X))
            K = model.covariance(at, at) + (model.noise + _JITTER) * torch.eye(len(X), dtype=torch.float64)
            values = at.mean + torch.linalg.cholesky(K) @ torch.from_numpy(rng.standard_normal(len(X)))
        return X, _spread(-values.numpy())


def _model(table: Table, rows: int) -> ObjectiveGP:
    _, which, often = np.unique(table.losses, return_inverse=True, return_counts=True)
    rare = 1 / often[which]
    count = min(rows, len(table.losses))
    picked = np.random.default_rng(0).choice(len(table.losses), count, replace=False, p=rare / rare.sum())
    losses = table.losses[picked]
    return fit_objective(
        table.U[picked], losses, (), outcome=_Standard(float(losses.mean()), float(losses.std()))
    ).model


@dataclass(frozen=True, slots=True)
class _Standard:
    """Outcomes by their mean and standard deviation, without any bend."""

    mean: float
    std: float

    def __call__(self, losses: ArrayLike, /) -> Array:
        return (np.asarray(losses, dtype=np.float64) - self.mean) / self.std

    def inverse(self, t: float) -> float:
        return self.mean + self.std * t


def _spread(values: Array) -> Array:
    """From 0 to 1 along the first axis; what does not vary is 0."""
    low, high = values.min(0), values.max(0)
    return (values - low) / np.where(high > low, high - low, 1)
