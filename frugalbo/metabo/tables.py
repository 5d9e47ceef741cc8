"""Tables of recorded configurations: what networks learn from beside the prior, and what they are judged on.

A file is a NumPy archive with, for each task, `<task>/X` (n x d) and `<task>/accuracy` or `<task>/loss`
(n). A column of positive numbers that spans a factor of thirty with its median in the lowest seventh of its range is
taken by its logarithm; then each column goes from 0 to 1 within its table.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from frugalbo.errors import ProblemError
from frugalbo.metabo.priors import Tasks
from frugalbo.models.outcome import Outcome
from frugalbo.parameter import Float
from frugalbo.space import Space

Array = NDArray[np.float64]

_SPAN = 30.0
_LOW = 1 / 7
_LEAST = 8  # rows of a table
_VIEW = 512  # rows that one history is drawn from


@dataclass(frozen=True, slots=True)
class Table:
    """All recorded configurations of one task.

    Args:
        X: As they were recorded, n x d.
        losses: Smaller is better, n.
        low: Of each column, by its logarithm where `log` says so; d.
        high: d.
        log: d.
    """

    X: Array
    losses: Array
    low: Array
    high: Array
    log: NDArray[np.bool_]

    @classmethod
    def of(cls, X: Array, losses: Array) -> Table:
        """A table with the scales of its own columns."""
        low, high = X.min(0), X.max(0)
        place = (np.median(X, axis=0) - low) / np.where(high > low, high - low, 1)
        log = (low > 0) & (high > _SPAN * low) & (place < _LOW)
        low, high = (np.where(log, np.log(np.where(log, bound, 1)), bound) for bound in (low, high))
        return cls(X, losses, low, high, log)

    @property
    def U(self) -> Array:
        """The configurations as points of the unit cube, n x d."""
        V = np.where(self.log, np.log(np.where(self.log, self.X, 1)), self.X)
        return (V - self.low) / np.where(self.high > self.low, self.high - self.low, 1)

    @property
    def space(self) -> Space:
        """The columns as numbers `x1`, `x2` ... between the least and the largest."""
        ends = zip(self.X.min(0).tolist(), self.X.max(0).tolist(), self.log.tolist(), strict=True)
        return Space({f"x{i}": Float(low, high, log=log) for i, (low, high, log) in enumerate(ends, 1)})

    def regret(self, losses: Array) -> Array:
        """`(loss - best) / (worst - best)` of some losses, as published for these tables."""
        return (losses - self.losses.min()) / (self.losses.max() - self.losses.min())


def read_tables(path: str | Path) -> dict[str, Table]:
    """The tables of a file, by the names of their tasks.

    Raises:
        ProblemError: If the file is not that.
    """
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise ProblemError(f"expected an archive (.npz) of tables in {str(path)!r}, got a single array")
        with file:
            arrays = {key: file[key] for key in file.files}
    except ProblemError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ProblemError(f"cannot read tables from {str(path)!r}: {error}") from error
    names = [key.removesuffix("/X") for key in arrays if key.endswith("/X")]
    if not names:
        found = ", ".join(sorted(arrays)[:4]) or "nothing"
        raise ProblemError(f"expected '<task>/X' and '<task>/accuracy' or '<task>/loss' in {str(path)!r}, got {found}")
    return {name: _table(str(path), name, arrays) for name in names}


def _table(path: str, name: str, arrays: Mapping[str, NDArray[np.generic]]) -> Table:
    sign, key = (-1.0, f"{name}/accuracy") if f"{name}/accuracy" in arrays else (1.0, f"{name}/loss")
    if key not in arrays:
        raise ProblemError(f"expected '{name}/accuracy' or '{name}/loss' beside '{name}/X' in {path!r}, got neither")
    try:
        X, y = arrays[f"{name}/X"].astype(np.float64), arrays[key].astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ProblemError(f"expected numbers for {name!r} in {path!r}: {error}") from error
    if X.ndim != 2 or X.shape[1] < 1 or y.shape != X.shape[:1]:
        raise ProblemError(f"expected '{name}/X' n x d and '{key}' n in {path!r}, got shapes {X.shape} and {y.shape}")
    if len(X) < _LEAST or not np.isfinite(X).all() or not np.isfinite(y).all():
        what = f"{len(X)} rows" if len(X) < _LEAST else "some that are not finite"
        raise ProblemError(f"expected at least {_LEAST} rows of finite numbers for {name!r} in {path!r}, got {what}")
    if y.max() == y.min():
        raise ProblemError(f"expected configurations of {name!r} in {path!r} to differ in '{key}', got one value")
    return Table.of(X, sign * y)


class Recorded:
    """Tasks of tables: a batch is one table, looked at again and again as a tuner might.

    Each history is drawn from some hundred rows of the table: some of them anywhere, up to two thirds among the better
    ones. Half of what is asked is anywhere, half among the better.
    """

    def __init__(self, tables: Mapping[str, Table], most_dims: int, most_seen: int, asked: int, batch: int) -> None:
        self.tables = [t for t in tables.values() if t.X.shape[1] <= most_dims]
        if not self.tables:
            raise ProblemError(f"expected tables of at most {most_dims} dimensions, got none")
        self.most_seen, self.asked, self.batch = most_seen, asked, batch

    def draw(self, seed: int, i: int, device: torch.device | None = None) -> Tasks:
        """Batch number `i`, from a stream of its own."""
        rng = np.random.default_rng([seed, i, 1])
        table = self.tables[rng.integers(len(self.tables))]
        n = round(np.exp(rng.uniform(np.log(2), np.log(min(self.most_seen, len(table.X) - 2)))))
        m = min(self.asked, len(table.X) - n)
        near = int(rng.uniform(0, 0.67) * n) if n > 4 else 0
        rows = np.stack([_rows(table.losses, n, near, m, rng) for _ in range(self.batch)])
        # Which column is which, and in what direction, means nothing; a table can lack some of them.
        U, kept = table.U, rng.random(table.X.shape[1]) < rng.choice([1.0, 1.0, 0.7])
        U = U[:, kept] if kept.any() else U
        losses = table.losses if rng.random() < 0.9 else -table.losses
        y = np.stack([Outcome.of(losses[row[:n]])(losses[row]) for row in rows])
        X = torch.from_numpy(U[rows])
        no = torch.zeros(X.shape[-1], dtype=torch.bool)
        found = (X[:, :n], torch.from_numpy(y[:, :n]), no, X[:, n:], torch.from_numpy(y[:, n:]))
        return Tasks(*(t.to(device) for t in found), observed=bool(rng.random() < 0.5))


def _rows(losses: Array, n: int, near: int, m: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Of a history of `n` and then of `m` questions, all different."""
    view = rng.permutation(len(losses))[: max(_VIEW, n + m)]
    # A rank with noise: the best are not always known, and the first of them not always best.
    order = view[np.argsort(np.argsort(losses[view]) + rng.normal(0, len(view) * 0.1, len(view)))]
    better = order[: near + (m // 2)]
    better = better[rng.permutation(len(better))]
    rest = rng.permutation(np.setdiff1d(view, better))
    seen = np.concatenate([better[:near], rest[: n - near]])
    return np.concatenate([seen, better[near:], rest[n - near : n - near + m - m // 2]])
