"""Surrogates of losses that depend on conditions nobody chooses: seeds, data sets, machines.

    env = fit_environments(X, environment, losses)             # a label for each observation
    env.mean.posterior(points)                                 # of sum_w p(w) f(x, w), exactly; over points alone
    env.next_environment(x)                                    # where a look at x tells most of that mean
    qLogNoisyExpectedImprovement(env.spread, X_baseline, objective=env.risk("cvar"))     # the bad cases

Sources: Frazier, A Tutorial on Bayesian Optimization, arXiv:1807.02811, section 5.6 (random
environmental conditions); Toscano-Palmerin and Frazier, arXiv:1803.08661; Cakmak et al., Bayesian
Optimization of Risk Measures, arXiv:2007.05554.

The kernel is that of `frugalbo.models.deviation`. Losses are transformed affinely, so that a mean over
environments is a mean of losses; heavy tails are the exception, of which a warning tells.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from botorch.acquisition.objective import PosteriorTransform
from botorch.acquisition.risk_measures import RiskMeasureMCObjective
from botorch.posteriors.posterior import Posterior
from numpy.typing import ArrayLike
from torch import Tensor

from frugalbo.errors import ModelError
from frugalbo.models.affine import affine_outcome
from frugalbo.models.dense import DenseGP, checked
from frugalbo.models.deviation import Described, Exchangeable
from frugalbo.models.multi_fidelity import fit_deviation
from frugalbo.models.outcome import Outcome
from frugalbo.models.view import LinearView

Label = TypeVar("Label", bound=Hashable)
Risk = Literal["mean", "mean-variance", "value-at-risk", "cvar", "worst"]


@dataclass(frozen=True, slots=True)
class Environments:
    """A fitted model of losses in all environments, and what was derived from it; smaller outcomes are better.

    Args:
        model: Over points and the features of environments, n x (d + k), the features last.
        outcome: The transform of losses to what the model sees.
        features: Of each environment: its index, or its descriptors.
        weights: The probability of each environment, summing to 1.
    """

    model: DenseGP
    outcome: Outcome
    features: Mapping[Hashable, tuple[float, ...]]
    weights: Mapping[Hashable, float]

    @property
    def mean(self) -> LinearView:
        """The model of the mean over environments, over points alone: ... x q x d."""
        return LinearView(self.model, self._rows(), self._weights())

    @property
    def spread(self) -> Spread:
        """The model of each point's losses in all environments, for objectives of risk."""
        return Spread(self.mean)

    def risk(self, kind: Risk, alpha: float = 0.8, aversion: float = 1.0) -> WeightedRisk:
        """An objective of samples from `spread`, larger where losses are less risky.

        Args:
            kind: "cvar" is the mean over the worst of the environments, those beyond the value at risk, which is
                exceeded with probability 1 - alpha; "mean-variance" adds `aversion` times the variance.
            alpha: In (0, 1].
            aversion: At least 0.

        Raises:
            ModelError: If it is none of these, or `alpha` or `aversion` are out of bounds.
        """
        return WeightedRisk(kind, self._weights(), alpha, aversion)

    def look(self, x: ArrayLike, label: Hashable) -> Tensor:
        """The model's input for points `x` (... x d) in an environment; ... x (d + k).

        Raises:
            ModelError: If there is no such environment.
        """
        if label not in self.features:
            raise ModelError(f"expected an environment out of {list(self.features)}, got {label!r}")
        points = torch.as_tensor(np.asarray(x, dtype=np.float64))
        row = torch.tensor(self.features[label], dtype=torch.float64)
        return torch.cat([points, row.expand(*points.shape[:-1], -1)], dim=-1)

    def variance_reductions(self, x: ArrayLike) -> dict[Hashable, float]:
        """How much a look at `x` (d) in each environment reduces the variance of the mean at `x`.

        In closed form: `Cov(g(x), f(x, w))^2 / (Var f(x, w) + noise)`, which no outcome of the look changes.
        """
        point = torch.as_tensor(np.asarray(x, dtype=np.float64)).reshape(1, -1)
        labels = list(self.features)
        Z = torch.cat([self.look(point, label) for label in labels])  # e x (d + k)
        with torch.no_grad():
            cross = self.mean.covariance_with(point, Z)[0]  # e
            gain = cross**2 / (self.model.variance(Z) + self.model.noise_variance(Z))
        return dict(zip(labels, gain.tolist(), strict=True))

    def next_environment(self, x: ArrayLike, cost: Mapping[Hashable, float] | None = None) -> Hashable:
        """The environment in which a look at `x` (d) most reduces the variance of the mean, per cost.

        Args:
            x: A point.
            cost: Of a look in each environment, positive; all the same by default.
        """
        gains = self.variance_reductions(x)
        if cost is not None:
            missing = [label for label in gains if not cost.get(label, 0.0) > 0]
            if missing:
                raise ModelError(f"expected a positive cost for each environment, got none for {missing}")
            gains = {label: gain / cost[label] for label, gain in gains.items()}
        return max(gains, key=gains.__getitem__)

    def _rows(self) -> Tensor:
        return torch.tensor([self.features[w] for w in self.weights], dtype=torch.float64)

    def _weights(self) -> Tensor:
        return torch.tensor(list(self.weights.values()), dtype=torch.float64)


class Spread(DenseGP):
    """Each point's losses in all environments: the posterior at q points has q m outputs, environments fastest.

    This is what `AppendFeatures` makes of a model in BoTorch, and what its risk measures expect. Noisy
    expected improvement takes such models only with `cache_root=True`.

    Args:
        mean: The view that knows the environments.
    """

    def __init__(self, mean: LinearView) -> None:
        base: DenseGP = mean.base  # type: ignore[assignment]
        super().__init__(base.train_inputs[0], base.train_targets.unsqueeze(-1), base.covar_module)
        self.likelihood.noise = base.likelihood.noise.detach()
        self.level.data.copy_(base.level)
        self.view = mean
        self.freeze()

    def posterior(
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
    ) -> Posterior:
        """The joint posterior of ... x (q m) losses at `X` of shape ... x q x d."""
        return super().posterior(self.view.extended(X), output_indices, observation_noise, posterior_transform)


class WeightedRisk(RiskMeasureMCObjective):
    """A risk measure of samples of losses, over environments with probabilities; to be maximised.

    With equal weights these are BoTorch's `Expectation`, `VaR`, `CVaR` and `WorstCase` of minus the losses
    (a test compares them). As there, the CVaR is the mean over all environments not better than the
    value at risk, whose own atom counts whole.

    Args:
        kind: See `Environments.risk`.
        weights: Probabilities, m.
        alpha: The level of "value-at-risk" and "cvar".
        aversion: The weight of the variance in "mean-variance".
    """

    weights: Tensor

    def __init__(self, kind: Risk, weights: Tensor, alpha: float = 0.8, aversion: float = 1.0) -> None:
        if kind not in ("mean", "mean-variance", "value-at-risk", "cvar", "worst"):
            raise ModelError(f"expected a risk out of mean, mean-variance, value-at-risk, cvar and worst, got {kind!r}")
        if not 0 < alpha <= 1:
            raise ModelError(f"expected alpha in (0, 1], got {alpha!r}")
        if not aversion >= 0:
            raise ModelError(f"expected an aversion to variance of at least 0, got {aversion!r}")
        super().__init__(n_w=len(weights), preprocessing_function=lambda Y: -Y.squeeze(-1))
        self.kind, self.alpha, self.aversion = kind, alpha, aversion
        self.register_buffer("weights", weights)

    def forward(self, samples: Tensor, X: Tensor | None = None) -> Tensor:
        """From samples ... x (q m) x 1 to ... x q."""
        values = self._prepare_samples(samples)  # ... x q x m, larger is better
        if self.kind == "worst":
            return values.masked_fill(self.weights <= 0, torch.inf).min(dim=-1).values
        mean = values @ self.weights
        if self.kind == "mean":
            return mean
        if self.kind == "mean-variance":
            return mean - self.aversion * ((values - mean.unsqueeze(-1)) ** 2 @ self.weights)
        ordered, order = values.sort(dim=-1, descending=True)
        p = self.weights[order]
        at = (p.cumsum(-1) < self.alpha - 1e-9).sum(-1, keepdim=True).clamp_max(self.n_w - 1)
        if self.kind == "value-at-risk":
            return ordered.gather(-1, at).squeeze(-1)
        tail = p * (torch.arange(self.n_w) >= at)
        return (ordered * tail).sum(-1) / tail.sum(-1)


def fit_environments(
    X: ArrayLike,
    environment: Sequence[Label],
    losses: ArrayLike,
    weights: Mapping[Label, float] | None = None,
    descriptors: Mapping[Label, Sequence[float]] | None = None,
    categorical: Sequence[int] = (),
    searched: int | None = None,
) -> Environments:
    """A model of losses in environments, of which any part of the points may have been seen in any.

    Args:
        X: Unit points, n x d.
        environment: Of each observation, n labels.
        losses: Finite, n.
        weights: The probability of each environment that counts, to be divided by their sum; those not seen may be
            among them, those not named count 0. By default all that were seen count the same.
        descriptors: What is known of each environment, in the unit cube, all of one length: environments with
            similar ones are taken to be alike. By default none is like another.
        categorical: The dimensions of X along which only equality counts.
        searched: The dimensions of X that can vary; all by default.

    Raises:
        ModelError: If the observations cannot be used; it says which.

    Warns:
        FrugalWarning: If the losses have such tails that means of them mean nothing, and are transformed first.
    """
    points, y = checked(X, losses, "a model of environments")
    if len(environment) != len(points):
        raise ModelError(f"expected an environment for each of {len(points)} points, got {len(environment)}")
    seen = list(dict.fromkeys(environment))
    p = _probabilities(dict.fromkeys(seen, 1.0) if weights is None else weights)
    labels = [*p, *(label for label in seen if label not in p)]
    features, axis = _features(labels, descriptors)
    rows = np.array([features[label] for label in environment])
    outcome = affine_outcome(y, "means and risks over environments are of transformed losses")
    inputs = torch.from_numpy(np.hstack([points, rows]))
    model = fit_deviation(inputs, torch.from_numpy(outcome(y)), categorical, searched, axis)
    return Environments(model, outcome, features, p)


def _probabilities(weights: Mapping[Any, float]) -> dict[Hashable, float]:
    total = float(sum(weights.values())) if weights else 0.0
    if not (np.isfinite(total) and total > 0 and min(weights.values()) >= 0):
        raise ModelError(f"expected weights of at least 0 that do not all vanish, got {weights}")
    return {label: w / total for label, w in weights.items() if w > 0}


def _features(
    labels: Sequence[Hashable], descriptors: Mapping[Label, Sequence[float]] | None
) -> tuple[dict[Hashable, tuple[float, ...]], Exchangeable | Described]:
    if descriptors is None:
        return {label: (float(i),) for i, label in enumerate(labels)}, Exchangeable()
    known: dict[Hashable, tuple[float, ...]] = {w: tuple(float(v) for v in row) for w, row in descriptors.items()}
    missing = [label for label in labels if label not in known]
    if missing:
        raise ModelError(f"expected descriptors of each environment, got none of {missing}")
    sizes = {len(row) for row in known.values()}
    if len(sizes) != 1 or 0 in sizes:
        raise ModelError(f"expected descriptors of one length, got lengths {sorted(sizes)}")
    values = np.array([known[label] for label in labels])
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise ModelError(f"expected descriptors in [0, 1], got {values.min()} to {values.max()}")
    return {label: known[label] for label in labels}, Described(sizes.pop())
