"""Which knobs mattered, and which only together: shares of the objective's variance, from a surrogate of the results.

| symbol | meaning | shape |
|---|---|---|
| `U` | unit points of the trials with a result | n x d |
| `y` | their objectives, standardised | n |
| `R` | correlations of the Gaussian process | n x n |
| `theta` | logarithms of the d length scales and of the noise over the signal variance | d + 1 |
| `f` | the posterior mean as a function on the unit cube, inactive knobs at 1/2 | |
| `S_i`, `T_i` | first-order and total Sobol index of knob i | d |
| `J_ij` | share of all terms of the functional ANOVA that have both i and j | pairs |

Sources: Jones et al. 1998 for the concentrated likelihood; Saltelli et al., Comput. Phys. Commun.
181 (2010) 259, for the estimators: `S_i` by its equation (b) of table 2, `T_i` by (f) (Jansen). `J_ij` is the superset
importance of Liu and Owen, J. Am. Stat. Assoc. 101 (2006) 712: the mean square of
`f(x) - f(x_i') - f(x_j') + f(x_i', x_j')` over `4 V`, never negative, and 0 if and only if `f` is the sum of a function
without i and one without j.
Deviations: the likelihood is multiplied by BoTorch's default prior of length scales, so that few
trials do not make sharp claims; indices are of the posterior mean, not averaged over the
posterior, and each is clipped to [0, 1], `S_i` also to at most `T_i`; known constraints of
the space are not looked at, so the average runs over infeasible corners too.

The numbers speak of the whole space, not of the neighbourhood of the best, and they are only as
good as the surrogate: `r2` says how good that is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from frugalbo.propose.points import Points
from frugalbo.study import Study

Array = NDArray[np.float64]

_MOST_TRIALS: Final = 150  # spread evenly over the run; more sharpen the shares little and cost n^3
_SAMPLES: Final = 2048
_MOST_TOGETHER: Final = 6  # knobs of which pairs are looked at
_LEAST_TOGETHER: Final = 0.02  # of a knob's share with others, for any of its pairs to be looked at
_SCALES: Final = (math.log(0.03), math.log(30.0))
_NOISES: Final = (math.log(1e-6), math.log(10.0))


@dataclass(frozen=True, slots=True)
class Importance:
    """The share of the variance that each knob explains.

    Args:
        first: By itself, `S_i`.
        total: Together with others, `T_i`.
        pairs: `J_ij` by the names of two knobs, the largest first; no `J_ij` is more than what either of the
            two has with others, `T_i - S_i`, and pairs of which that says little are not in here.
        r2: The leave-one-out R^2 of the surrogate at the trials; below 0 it is worse than the mean.
        trials: The trials with a result; the model may use fewer.
        reason: Why nothing can be said; empty if something can. The shares are empty then.
    """

    names: tuple[str, ...]
    first: tuple[float, ...]
    total: tuple[float, ...]
    r2: float | None
    trials: int
    reason: str = ""
    pairs: tuple[tuple[str, str, float], ...] = ()

    def ranked(self) -> list[tuple[str, float, float]]:
        """`(name, first, total)`, the largest total first."""
        rows = zip(self.names, self.first, self.total, strict=True) if not self.reason else []
        return sorted(rows, key=lambda row: -row[2])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        knobs = {name: {"first": first, "total": total} for name, first, total in self.ranked()}
        pairs = [{"knobs": [one, other], "share": share} for one, other, share in self.pairs]
        return {"r2": self.r2, "trials": self.trials, "reason": self.reason, "knobs": knobs, "pairs": pairs}


def importance(study: Study) -> Importance:
    """The importance of each knob of a study; deterministic.

    Needs `2 d + 2` trials with a result, and results that differ.
    """
    space = study.problem.space
    known = [(trial.params, value) for trial in study.trials.values() if (value := study.value(trial)) is not None]
    needed = 2 * space.dim + 2
    if len(known) < needed:
        reason = f"too few trials to say: {len(known)} have a result, {needed} are needed for {space.dim} knobs"
        return Importance(space.names, (), (), None, len(known), reason)
    values = np.array([value for _, value in known])
    # Shares of variance know no scale; squares of 1e300 and of 1e-300 are no numbers.
    values = values / (float(np.abs(values).max()) or 1.0)
    if np.ptp(values) <= 1e-12:
        return Importance(space.names, (), (), None, len(known), "all results are equal")
    kept = np.unique(np.linspace(0, len(known) - 1, min(len(known), _MOST_TRIALS)).round().astype(int))
    U = np.stack([space.encode(known[i][0]) for i in kept])  # n x d
    model = GaussianProcess(U, values[kept], space.categorical_dims)
    points = Points(space)

    def mean(X: Array) -> Array:
        return model.mean(points.snap(X))  # the configurations that the space really has

    first, total = sobol_indices(mean, space.dim)
    shared = np.subtract(total, first)
    apart = sorted(i for i in np.argsort(-shared, kind="stable")[:_MOST_TOGETHER] if shared[i] >= _LEAST_TOGETHER)
    pairs = list(itertools.combinations(map(int, apart), 2))
    shares = zip(pairs, pair_shares(mean, space.dim, pairs), strict=True)
    named = sorted(((space.names[i], space.names[j], share) for (i, j), share in shares), key=lambda row: -row[2])
    return Importance(space.names, tuple(first), tuple(total), model.leave_one_out_r2(), len(known), pairs=tuple(named))


def sobol_indices(
    f: Callable[[Array], Array], dim: int, *, samples: int = _SAMPLES, seed: int = 0
) -> tuple[list[float], list[float]]:
    """First-order and total indices of `f` (N x d -> N) over the uniform unit cube, by pick and freeze.

    Points are a Sobol sequence moved by one random shift modulo 1, which is deterministic and keeps
    its evenness. A function without variance has indices 0.
    """
    A, B = _two_samples(dim, samples, seed)
    fA, fB = f(A), f(B)
    centre = float(np.mean(np.concatenate([fA, fB])))
    fA, fB = fA - centre, fB - centre
    variance = float(np.var(np.concatenate([fA, fB])))
    if variance <= 1e-24 * max(1.0, centre**2):
        return [0.0] * dim, [0.0] * dim
    first, total = [], []
    for i in range(dim):
        fM = f(_mixed(A, B, [i])) - centre
        T = float(np.mean((fA - fM) ** 2)) / (2 * variance)
        S = float(np.mean(fB * (fM - fA))) / variance
        total.append(min(1.0, max(0.0, T)))
        first.append(min(total[-1], max(0.0, S)))
    return first, total


def pair_shares(
    f: Callable[[Array], Array], dim: int, pairs: Sequence[tuple[int, int]], *, samples: int = _SAMPLES, seed: int = 0
) -> list[float]:
    """`J_ij` of `f` (N x d -> N) over the uniform unit cube for each pair, at the points of `sobol_indices`.

    A function without variance has shares 0.
    """
    A, B = _two_samples(dim, samples, seed)
    fA, fB = f(A), f(B)
    variance = float(np.var(np.concatenate([fA, fB])))
    if variance <= 1e-24 * max(1.0, float(np.mean(fA)) ** 2):
        return [0.0] * len(pairs)
    alone = {i: f(_mixed(A, B, [i])) for i in sorted({i for pair in pairs for i in pair})}
    both = (fA - alone[i] - alone[j] + f(_mixed(A, B, [i, j])) for i, j in pairs)
    return [min(1.0, float(np.mean(square**2)) / (4 * variance)) for square in both]


def _two_samples(dim: int, samples: int, seed: int) -> tuple[Array, Array]:
    """Two sets of points of the unit cube, each N x d, together evenly spread over its square."""
    from scipy.stats import qmc

    shift = np.random.default_rng(seed).random(2 * dim)
    AB = (qmc.Sobol(2 * dim, scramble=False).random(samples) + shift) % 1.0  # N x 2d
    return AB[:, :dim], AB[:, dim:]


def _mixed(A: Array, B: Array, columns: Sequence[int]) -> Array:
    """`A` with some columns of `B`."""
    mixed = A.copy()
    mixed[:, columns] = B[:, columns]
    return mixed


class GaussianProcess:
    """A zero-mean process with squared-exponential correlations, fitted to standardised values.

    Unordered choices correlate by whether they are equal, everything else by distance.

    Args:
        U: Unit points, n x d.
        values: Their values, n; not all equal.
    """

    def __init__(self, U: Array, values: Array, categorical_dims: tuple[int, ...] = ()) -> None:
        from scipy.optimize import minimize

        self._U = U
        self._categorical = categorical_dims
        self._centre, self._scale = float(np.mean(values)), float(np.std(values))
        self._y = (values - self._centre) / self._scale
        self._D = self._distances(U, U)  # d x n x n
        d = U.shape[1]
        starts = [np.append(np.full(d, math.log(scale)), math.log(noise)) for scale, noise in _STARTS]
        bounds = [_SCALES] * d + [_NOISES]
        fits = [
            minimize(self.loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 60})
            for start in starts
        ]
        self.theta: Array = min(fits, key=lambda fit: float(fit.fun)).x
        K = self._correlations(self.theta, self._D) + np.exp(self.theta[-1]) * np.eye(len(values))
        self._inverse = np.linalg.inv(K)
        self._weights = self._inverse @ self._y

    def mean(self, X: Array) -> Array:
        """The posterior mean at unit points, N x d -> N."""
        blocks = np.array_split(X, max(1, len(X) * len(self._U) // 1_000_000))
        parts = [self._correlations(self.theta, self._distances(b, self._U)) @ self._weights for b in blocks]
        return self._centre + self._scale * np.concatenate(parts)

    def leave_one_out_r2(self) -> float:
        """1 - (error left when each trial is predicted from the others) / variance; parameters stay as fitted."""
        errors = self._weights / np.diag(self._inverse)  # Rasmussen & Williams (5.12)
        return 1.0 - float(np.sum(errors**2) / np.sum(self._y**2))

    def _distances(self, X: Array, Z: Array) -> Array:
        """Squared distances along each dimension, d x N x n."""
        D = (X.T[:, :, None] - Z.T[:, None, :]) ** 2
        for i in self._categorical:
            D[i] = D[i] > 0
        return D

    def _correlations(self, theta: Array, D: Array) -> Array:
        return np.exp(-0.5 * np.tensordot(np.exp(-2.0 * theta[:-1]), D, axes=1))

    def loss(self, theta: Array) -> tuple[float, Array]:
        """Minus the log posterior of `theta` with the signal variance at its optimum, and its gradient."""
        n, d = self._U.shape
        R = self._correlations(theta, self._D)
        noise = float(np.exp(theta[-1]))
        try:
            L = np.linalg.cholesky(R + (noise + 1e-9) * np.eye(n))
        except np.linalg.LinAlgError:
            return 1e10, np.zeros(d + 1)
        inverse_L = np.linalg.inv(L)
        inverse = inverse_L.T @ inverse_L
        alpha = inverse @ self._y
        fit = float(self._y @ alpha)
        prior_mean, prior_var = math.sqrt(2.0) + 0.5 * math.log(d), 3.0
        off = theta[:-1] - prior_mean
        # Both in the noise's favour and against a signal that explains nothing: noise ~ 1 % a priori.
        off_noise = theta[-1] - math.log(1e-2)
        loss = 0.5 * n * math.log(fit / n) + float(np.sum(np.log(np.diag(L))))
        loss += float(off @ off) / (2 * prior_var) + off_noise**2 / 32.0
        G = 0.5 * inverse - 0.5 * n / fit * np.outer(alpha, alpha)  # d loss / d K
        GR = G * R
        by_scale = np.array([float(np.sum(GR * self._D[i])) for i in range(d)]) * np.exp(-2.0 * theta[:-1])
        return loss, np.append(by_scale + off / prior_var, noise * np.trace(G) + off_noise / 16.0)


_STARTS: Final = ((0.4, 1e-3), (2.0, 0.1))
