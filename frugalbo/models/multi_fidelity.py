"""Surrogates of cheaper looks at the same loss: shorter runs, subsets, lower resolutions, other sources.

    runs = fit_multi_fidelity(X, fidelity, losses, categorical=())   # fidelity in (0, 1], 1 is the full run
    runs.target.posterior(points)          # the loss of full runs, given runs of every length
    kg = multi_fidelity_kg(runs, log_cost) # frugalbo.acquisition.multi_fidelity: what to run next, and how long

    sources = fit_sources(X, source, losses, target="full data")     # any labels
    sources.target.posterior(points)

The kernel is that of `frugalbo.models.deviation`. One `Outcome` is derived from all the losses, as
they are looks at one quantity (of related problems with scales of their own, see `multi_task`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from frugalbo.errors import ModelError
from frugalbo.models.dense import DenseGP, checked, fit_dense
from frugalbo.models.deviation import Axis, DeviationKernel, ShorterRuns, Sources
from frugalbo.models.kernel import lengthscale_prior
from frugalbo.models.outcome import Outcome
from frugalbo.models.view import LinearView

Label = TypeVar("Label", bound=Hashable)


@dataclass(frozen=True, slots=True)
class MultiFidelity:
    """A fitted model of losses at all fidelities, and what was derived from it; smaller outcomes are better.

    Args:
        model: Over points and fidelities, n x (d + k), the fidelities last.
        outcome: The transform of losses to what the model sees.
        target_features: The fidelities of what is wanted, k: ones, or the index 0 of a source.
        labels: The names of the sources by index, the target first; empty for fidelities.
    """

    model: DenseGP
    outcome: Outcome
    target_features: tuple[float, ...]
    labels: tuple[Hashable, ...] = ()

    @property
    def target(self) -> LinearView:
        """The model of the loss at the target, over points alone: ... x q x d."""
        return LinearView(self.model, self._features())

    @property
    def d(self) -> int:
        """The dimensions of a point without its fidelities."""
        return self.model.train_inputs[0].shape[-1] - len(self.target_features)

    def project(self, X: Tensor) -> Tensor:
        """Points of any fidelity (... x (d + k)) at the target; the shape stays."""
        features = self._features().to(X).expand(*X.shape[:-1], len(self.target_features))
        return torch.cat([X[..., : self.d], features], dim=-1)

    def source(self, label: Hashable) -> float:
        """The feature of a source, by its name.

        Raises:
            ModelError: If there is no such source.
        """
        if label not in self.labels:
            raise ModelError(f"expected a source out of {list(self.labels)}, got {label!r}")
        return float(self.labels.index(label))

    def best(self) -> float:
        """The smallest posterior mean at the target among the points seen at any fidelity."""
        X = self.model.train_inputs[0][:, : self.d].unique(dim=0)
        with torch.no_grad():
            return float(self.target.moments(X.unsqueeze(-2))[0].min())

    def _features(self) -> Tensor:
        return torch.tensor([self.target_features], dtype=torch.float64)


def fit_multi_fidelity(
    X: ArrayLike,
    fidelity: ArrayLike,
    losses: ArrayLike,
    categorical: Sequence[int] = (),
    searched: int | None = None,
) -> MultiFidelity:
    """A model of the loss of full runs, from runs of all lengths.

    Args:
        X: Unit points, n x d.
        fidelity: The share in (0, 1] of what a full run has of steps, data or resolution, n; or
            of several such, n x k. A point may come at many fidelities, as the parts of its curve.
        losses: Finite, n; any scale, heavy tails included.
        categorical: The dimensions of X along which only equality counts.
        searched: The dimensions that can vary; all by default.

    Raises:
        ModelError: If the observations cannot be used; it says which.
    """
    points, y = checked(X, losses, "a multi-fidelity model")
    shares = np.asarray(fidelity, dtype=np.float64)
    shares = shares[:, None] if shares.ndim == 1 else shares
    if shares.ndim != 2 or len(shares) != len(points) or shares.shape[1] == 0:
        raise ModelError(f"expected fidelities n or n x k for {len(points)} points, got shape {np.shape(fidelity)}")
    if not (np.isfinite(shares).all() and (shares > 0).all() and (shares <= 1 + 1e-9).all()):
        raise ModelError(
            f"expected fidelities as shares of the full run, in (0, 1], got {shares.min()} to {shares.max()};"
            " divide steps by the steps of a full run"
        )
    shares = np.minimum(shares, 1.0)
    axis = ShorterRuns(torch.from_numpy(shares.min(axis=0)))
    model, outcome = _fit(points, shares, y, categorical, searched, axis)
    return MultiFidelity(model, outcome, (1.0,) * shares.shape[1])


def fit_sources(
    X: ArrayLike,
    source: Sequence[Label],
    losses: ArrayLike,
    target: Label,
    categorical: Sequence[int] = (),
    searched: int | None = None,
) -> MultiFidelity:
    """A model of the loss at a target, from looks at it and at approximations of it.

    Args:
        X: Unit points, n x d.
        source: Which source each look was at, n labels.
        losses: Finite, n, all of the same quantity; a source may be off by a function of x.
        target: The source that counts. It need not have been looked at.
        categorical: The dimensions of X along which only equality counts.
        searched: The dimensions that can vary; all by default.

    Raises:
        ModelError: If the observations cannot be used; it says which.
    """
    points, y = checked(X, losses, "a model of information sources")
    if len(source) != len(points):
        raise ModelError(f"expected a source for each of {len(points)} points, got {len(source)}")
    labels: tuple[Hashable, ...] = (target, *(label for label in dict.fromkeys(source) if label != target))
    indices = np.array([[float(labels.index(label))] for label in source])
    model, outcome = _fit(points, indices, y, categorical, searched, Sources(len(labels) - 1))
    return MultiFidelity(model, outcome, (0.0,), labels)


def _fit(
    points: NDArray[np.float64],
    features: NDArray[np.float64],
    losses: NDArray[np.float64],
    categorical: Sequence[int],
    searched: int | None,
    axis: Axis,
) -> tuple[DenseGP, Outcome]:
    outcome = Outcome.of(losses)
    inputs = torch.from_numpy(np.hstack([points, features]))
    return fit_deviation(inputs, torch.from_numpy(outcome(losses)), categorical, searched, axis), outcome


def fit_deviation(inputs: Tensor, y: Tensor, categorical: Sequence[int], searched: int | None, axis: Axis) -> DenseGP:
    """A `DenseGP` with the kernel of `frugalbo.models.deviation`, fitted.

    Args:
        inputs: Unit points and conditions, n x (d + axis.dims).
        y: Standardised outcomes, n.
        categorical: The dimensions of the points along which only equality counts.
        searched: The dimensions of the points that vary; all by default.
        axis: What a condition is.
    """
    d = inputs.shape[-1] - axis.dims
    searched = max(1, d if searched is None else searched)
    kernel = DeviationKernel(d, categorical, searched, axis)
    model = DenseGP(inputs, y.unsqueeze(-1), kernel)
    median, short = float(np.exp(lengthscale_prior(searched)[0])), 0.3 * searched**0.5

    def start(lengthscale: float, noise: float) -> None:
        kernel.begin(lengthscale)
        model.likelihood.noise = torch.tensor([noise]).to(inputs)

    fit_dense(model, [lambda: start(median, 0.02), lambda: start(short, 0.005)])
    return model
