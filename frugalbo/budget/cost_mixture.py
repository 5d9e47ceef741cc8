"""What a fitted model of cost answers: a mixture of Gaussian processes of the log of seconds, on features.

A segment of `m` steps takes `s + m exp(r)` seconds, with `r` normal in each component given the features
phi and psi of `frugalbo.budget.cost_features`. What is asked of `r` is answered on arrays of numpy and,
with gradients, on tensors of torch: `xp` is the one module or the other.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from frugalbo.budget.cost_features import Features, Residual

Array = NDArray[np.float64]

_LARGEST_LOG: Final = 700.0  # exp of more overflows
_NOTHING: Final = 1e-300  # seconds; has a logarithm
_erfc = np.frompyfunc(math.erfc, 1, 1)


@dataclass(frozen=True, slots=True)
class Component:
    """One setting of the grid: its weight and the posterior `N(mean, B diag(variance) B')` of its regression's weights.

    Those of phi come first, then those of psi, if there is a residual.
    """

    weight: float
    startup_s: float
    sigma: float
    mean: Array  # p + r
    basis: Array  # (p + r) x (p + r), the B above
    variance: Array  # p + r
    residual: Residual | None = None
    amplitude: float = 0.0  # of the residual

    def log_rest(self, phi: Array, steps: float | Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the logarithm of the seconds after start-up, at features (m x p)."""
        missing = 0.0
        if self.residual is not None:
            psi = self.residual(phi)
            missing, phi = self.amplitude**2 * self.residual.missing(psi), np.hstack([phi, psi])
        spread = (phi @ self.basis) ** 2 @ self.variance
        return phi @ self.mean + np.log(steps), np.sqrt(self.sigma**2 + spread + missing)


class Group:
    """Components of the same residual as arrays, so that its features are computed once.

    Args:
        components: C of them.
    """

    def __init__(self, components: list[Component]) -> None:
        self.residual = components[0].residual
        self.components = components
        self.means: Array = np.stack([c.mean for c in components], axis=1)  # (p + r) x C
        self.amplitude2 = np.array([c.amplitude**2 for c in components])  # C
        # Those of one setting stand in a row and share their basis.
        families = [list(family) for _, family in itertools.groupby(components, key=lambda c: id(c.basis))]
        self.bases: list[Array] = [family[0].basis for family in families]
        self.variances: list[Array] = [np.stack([c.variance for c in family], axis=1) for family in families]

    def features(self, phi: Any, xp: ModuleType) -> Any:  # noqa: ANN401 - an array of numpy or of torch
        """All features, ... x (p + r), from phi, ... x p."""
        return phi if self.residual is None else xp.concatenate([phi, self.residual(phi, xp)], -1)

    def psi(self, features: Any) -> Any:  # noqa: ANN401 - an array of numpy or of torch
        """The residual's part of the features; there must be one."""
        assert self.residual is not None
        return features[..., -self.residual.size :]

    def spread(self, features: Any, xp: ModuleType) -> Any:  # noqa: ANN401 - an array of numpy or of torch
        """The variance without noise, ... x C."""
        spreads = [
            (features @ xp.asarray(B)) ** 2 @ xp.asarray(V) for B, V in zip(self.bases, self.variances, strict=True)
        ]
        total = xp.concatenate(spreads, -1)
        if self.residual is None:
            return total
        return total + self.residual.missing(self.psi(features))[..., None] * xp.asarray(self.amplitude2)


class FittedCost:
    """A mixture of Gaussian processes of the logarithm of seconds per step.

    Args:
        components: Their weights sum to 1.
        n: The segments that it rests on.
    """

    def __init__(self, features: Features, components: list[Component], n: int) -> None:
        self.features = features
        self.n = n
        residuals = dict.fromkeys(c.residual for c in components)
        self.groups = [Group([c for c in components if c.residual is residual]) for residual in residuals]
        self.components = [c for group in self.groups for c in group.components]
        self.weight = np.array([c.weight for c in self.components])  # C
        self.startup_s = np.array([c.startup_s for c in self.components])  # C
        self.sigma2 = np.array([c.sigma**2 for c in self.components])  # C

    @classmethod
    def regression(cls, features: Features, weights: Array, sigma: float, n: int) -> FittedCost:
        """A single regression with known weights: log seconds per step are `weights' phi(x)`, give or take `sigma`."""
        p = len(weights)
        return cls(features, [Component(1.0, 0.0, sigma, weights, np.eye(p), np.zeros(p))], n)

    def log_rest(self, phi: Any, xp: ModuleType = np) -> Any:  # noqa: ANN401 - an array of numpy or of torch
        """The mean of the log of the seconds per step after start-up, from phi (... x p) to ... x C."""
        return xp.concatenate([group.features(phi, xp) @ xp.asarray(group.means) for group in self.groups], -1)

    def moments(self, phi: Any, xp: ModuleType = np) -> tuple[Any, Any]:  # noqa: ANN401 - the same
        """Mean and variance, noise included, of the same; ... x C each."""
        parts = [(group, group.features(phi, xp)) for group in self.groups]
        mean = xp.concatenate([features @ xp.asarray(group.means) for group, features in parts], -1)
        spread = xp.concatenate([group.spread(features, xp) for group, features in parts], -1)
        return mean, spread + xp.asarray(self.sigma2)

    def quantile(self, u: Array, steps: float, q: float) -> float:
        """The seconds that a segment of `steps` steps at the unit point `u` (1 x d) stays below with probability q."""
        mean, variance = (m[0] for m in self.moments(self.features(u)))
        mean, sd = mean + math.log(steps), np.sqrt(variance)
        # Bisection between the extreme quantiles of the parts.
        ends = [self.startup_s + np.exp(np.minimum(_LARGEST_LOG, mean + z * sd)) for z in (-8.0, 8.0)]
        a, b = math.log(ends[0].min()), math.log(ends[1].max())
        while b - a > 1e-9:
            middle = 0.5 * (a + b)
            rest = math.exp(middle) - self.startup_s
            z = (np.log(np.maximum(_NOTHING, rest)) - mean) / sd
            a, b = (middle, b) if self.weight @ _normal_cdf(z) < q else (a, middle)
        return math.exp(b)

    def log_seconds(self, U: Array, steps: float) -> Array:
        """The mean over the mixture of the logarithm of the median seconds at unit points `U` (m x d); shape (m,)."""
        rest = np.minimum(_LARGEST_LOG, self.log_rest(self.features(U)) + math.log(steps))
        return np.log(self.startup_s + np.exp(rest)) @ self.weight


def _normal_cdf(z: Array) -> Array:
    return np.asarray(0.5 * _erfc(-z * math.sqrt(0.5)), dtype=np.float64)
