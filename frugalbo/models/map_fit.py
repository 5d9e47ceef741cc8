"""The maximum a posteriori fit of the objective's Gaussian process, in closed form.

GPyTorch's generic machinery takes some milliseconds for each gradient, whatever the size; for the
few dozen points of a tuning run, that is nearly all of the time. Here is the same function, the
log marginal likelihood plus the log priors, with its gradient, in numpy and LAPACK. A test holds
it against GPyTorch's.

| symbol | meaning | shape |
|---|---|---|
| D | squared differences (or inequality, where categorical) of each dimension | d x n^2 |
| C | squared distances of the counts of groups of dimensions, if there are groups | n^2 |
| theta | log lengthscales; with groups, log l_c and the logit of w; log noise variance | d + 1 or d + 3 |
| K | kernel matrix plus noise | n x n |
| m | constant mean, at its optimum for the theta: `1'K^-1 y / 1'K^-1 1` | |
| a | `K^-1 (y - m)` | n |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack  # its routines are made at import, so type checkers see none
from scipy.optimize import minimize

from frugalbo.models.kernel import SMALLEST_LENGTHSCALE, Family, Group

Array = NDArray[np.float64]

# Noise variance in units of the outcomes' variance. Prior: Hvarfner et al., as in BoTorch.
NOISE_PRIOR = (-4.0, 1.0)
NOISE_BOUNDS = (1e-4, 2.0)
_LONGEST = 1e3
# Normal priors of log l_c and of the logit of w: of what is not known to help, a half.
_COUNTS_PRIOR = ((0.0, 1.0), (0.0, 1.0))
_COUNTS_BOUNDS = ((math.log(0.1), math.log(_LONGEST)), (-6.0, 6.0))
_COARSE = 80  # points of the first fit where there are more


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """What was fitted, and how the fit went."""

    lengthscales: Array
    noise: float
    mean: float
    value: float
    evaluations: int
    problem: str = ""
    counts: tuple[float, float] | None = None  # weight and lengthscale of the kernel of counts


@dataclass(frozen=True, slots=True)
class _Task:
    """The function to be minimised, apart from theta."""

    D: Array
    C: Array | None
    alone: NDArray[np.bool_]  # the dimensions that are in no group
    y: Array
    prior: tuple[float, float]
    searched: NDArray[np.bool_]
    family: Family
    noise: Array | None  # variances, n, if they are given
    fits_noise: bool  # whether theta's last entry has a say: the noise, or what is added to a given one


def fit_map(
    X: Array,
    y: Array,
    categorical: tuple[int, ...],
    prior: tuple[float, float],
    groups: Sequence[Group] = (),
    *,
    max_iterations: int = 40,
    kernel: Family = "matern52",
    noise: Array | None = None,
    more_noise: bool = False,
    start: Hyperparameters | None = None,
    check: Callable[[], None] = lambda: None,
) -> Hyperparameters:
    """The hyperparameters that maximise likelihood times prior, from fixed starts or a given one.

    Dimensions in which all points agree keep a lengthscale at the mode of the prior.

    Args:
        X: Unit points, n x d.
        y: Standardised outcomes, n.
        categorical: The dimensions along which only equality counts.
        prior: Location and scale of the log-normal prior of the lengthscales.
        groups: Categorical dimensions that share their values.
        max_iterations: Of each descent.
        kernel: The kernel's family.
        noise: Variance of each outcome's noise, n, if it is known; else one for all is fitted.
        more_noise: Whether a known noise is only a part of it, and the rest, one for all, is fitted too.
        start: What an earlier fit found, to go on from: one short descent. Where few points are known, fixed starts are
            the surer way, as the likelihood has several maxima.
        check: Called before each evaluation; what it raises ends the fit.
    """
    rows = _coarse_rows(y)
    d = X.shape[1]
    if start is not None:
        task = _task(X, y, categorical, prior, groups, kernel, noise, more_noise)
        return _found(task, [_descend(task, _theta(start), max_iterations // 2, check)])
    median, short = prior[0], math.log(0.3 * math.sqrt(d))
    extra = [location for location, _ in _COUNTS_PRIOR] if groups else []
    starts = [np.array([*[level] * d, *extra, math.log(noise)]) for level, noise in ((median, 0.02), (short, 0.005))]
    coarse = None if noise is None else noise[rows]
    task = _task(X[rows], y[rows], categorical, prior, groups, kernel, coarse, more_noise)
    fits = [_descend(task, start, max_iterations, check) for start in starts]
    if len(rows) < len(y):
        # The best fit of some points starts the fit of all, which then needs few steps.
        task = _task(X, y, categorical, prior, groups, kernel, noise, more_noise)
        best = min(fits, key=lambda fit: fit[0])
        fits = [_descend(task, best[1], max_iterations // 3, check)]
    return _found(task, fits)


def _theta(found: Hyperparameters) -> Array:
    """The argument of the function that is minimised; it is within its bounds."""
    counts = (
        [] if found.counts is None else [math.log(found.counts[1]), math.log(found.counts[0] / (1 - found.counts[0]))]
    )
    return np.array([*np.log(found.lengthscales), *counts, math.log(found.noise)])


def _found(task: _Task, fits: list[tuple[float, Array, int, str]]) -> Hyperparameters:
    """The best of some descents, of which the last was of this task."""
    value, theta, evaluations, problem = min(fits, key=lambda fit: fit[0])
    d = len(task.D)
    _, _, mean = _negative_log_posterior(theta, task)
    # Unsearched dimensions have no say; they stay where the prior is highest.
    lengthscales = np.where(task.searched, np.exp(theta[:d]), math.exp(task.prior[0]))
    total = evaluations + sum(fit[2] for fit in fits if fit[1] is not theta)
    counts = None if task.C is None else (_sigmoid(float(theta[d + 1])), math.exp(theta[d]))
    given = 0.0 if task.noise is None else float(task.noise.mean())
    fitted_noise = math.exp(theta[-1]) if task.fits_noise else given
    return Hyperparameters(lengthscales, fitted_noise, mean, -value, total, problem, counts)


def log_posterior(
    X: Array,
    y: Array,
    categorical: tuple[int, ...],
    prior: tuple[float, float],
    theta: Array,
    groups: Sequence[Group] = (),
    kernel: Family = "matern52",
    noise: Array | None = None,
    more_noise: bool = False,
) -> tuple[float, Array, float]:
    """Log likelihood plus log priors (up to constants of theta), its gradient, and the optimal mean."""
    task = _task(X, y, categorical, prior, groups, kernel, noise, more_noise)
    value, gradient, mean = _negative_log_posterior(theta, task)
    return -value, -gradient, mean


def _coarse_rows(y: Array) -> NDArray[np.intp]:
    """All rows if there are few; else the best quarter of `_COARSE` and others at even distances."""
    if len(y) <= _COARSE:
        return np.arange(len(y))
    order = np.argsort(y, kind="stable")
    best = order[: _COARSE // 4]
    rest = np.sort(order[_COARSE // 4 :])
    return np.concatenate([best, rest[np.linspace(0, len(rest) - 1, _COARSE - len(best)).astype(int)]])


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def _task(
    X: Array,
    y: Array,
    categorical: tuple[int, ...],
    prior: tuple[float, float],
    groups: Sequence[Group],
    kernel: Family,
    noise: Array | None,
    more_noise: bool,
) -> _Task:
    n, d = X.shape
    D = np.empty((d, n * n))
    for i in range(d):
        difference = X[:, None, i] - X[None, :, i]
        D[i] = ((np.abs(difference) > 1e-9) if i in categorical else difference**2).ravel()
    C, alone = None, np.ones(d, dtype=bool)
    if groups:
        c = np.concatenate([group.counts(torch.from_numpy(X)).numpy() for group in groups], axis=1)
        C = ((c[:, None] - c[None]) ** 2).sum(-1).ravel()
        alone[[i for group in groups for i in group.dims]] = False
    fits_noise = noise is None or more_noise
    return _Task(D, C, alone, y, prior, np.asarray(D.any(axis=1)), kernel, noise, fits_noise)


def _descend(
    task: _Task, start: Array, max_iterations: int, check: Callable[[], None]
) -> tuple[float, Array, int, str]:
    noise = tuple(math.log(v) for v in NOISE_BOUNDS) if task.fits_noise else (start[-1], start[-1])
    extra = _COUNTS_BOUNDS if task.C is not None else ()
    bounds = [*[(math.log(SMALLEST_LENGTHSCALE), math.log(_LONGEST))] * len(task.D), *extra, noise]

    def function(theta: Array) -> tuple[float, Array]:
        check()
        return _negative_log_posterior(theta, task)[:2]

    # The rest of the search is about digits that a suggestion cannot feel.
    result = minimize(
        function,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": max_iterations, "maxfun": 2 * max_iterations, "ftol": 1e-5, "gtol": 1e-3},
    )
    failed = "" if np.isfinite(result.fun) and result.fun < 1e29 else "no lengthscales have a finite likelihood"
    return float(result.fun), result.x, int(result.nfev), failed


def _negative_log_posterior(theta: Array, task: _Task) -> tuple[float, Array, float]:
    n, d = len(task.y), len(task.D)
    noise = (math.exp(theta[-1]) if task.fits_noise else 0.0) + (0.0 if task.noise is None else task.noise)
    flat, pull_back = _covariance(theta, task)
    flat[:: n + 1] += noise
    K = flat.reshape(n, n).T  # symmetric; in the order that LAPACK takes without a copy
    L, info = lapack.dpotrf(K, lower=1, clean=1, overwrite_a=1)  # type: ignore[attr-defined]
    if info != 0:
        return 1e30, np.zeros_like(theta), 0.0
    log_det = 2 * float(np.log(np.diag(L)).sum())
    solved, _ = lapack.dpotrs(L, np.stack([task.y, np.ones(n)], axis=1), lower=1)  # type: ignore[attr-defined]
    mean = float(solved[:, 0].sum() / solved[:, 1].sum())
    residual = task.y - mean
    a = solved[:, 0] - mean * solved[:, 1]
    value = 0.5 * (float(residual @ a) + log_det + n * math.log(2 * math.pi))
    inverse, _ = lapack.dpotri(L, lower=1, overwrite_c=1)  # type: ignore[attr-defined]
    # dL = 1/2 tr((a a' - K^-1) dK). Of the inverse there is the lower half; as dK is symmetric and, but
    # for the noise, has a diagonal of zeros, that counts twice.
    trace = float(a @ a) - float(np.trace(inverse))
    inverse *= -2
    inverse += np.outer(a, a)
    by_noise = math.exp(theta[-1]) * trace if task.fits_noise else 0.0
    gradient = -0.5 * np.append(pull_back(inverse.ravel(order="K")), by_noise)
    # Log-normal priors of lengthscales and noise, as densities of the values, not of their logarithms.
    fitted = [(slice(0, d), task.prior)] + ([(slice(-1, None), NOISE_PRIOR)] if task.fits_noise else [])
    for at, (location, scale) in fitted:
        z = (theta[at] - location) / scale
        value += float((0.5 * z * z + theta[at]).sum())
        gradient[at] += z / scale + 1
    for i in range(d, len(theta) - 1):
        location, scale = _COUNTS_PRIOR[i - d]
        value += 0.5 * ((theta[i] - location) / scale) ** 2
        gradient[i] += (theta[i] - location) / scale**2
    return value, gradient, mean


def _covariance(theta: Array, task: _Task) -> tuple[Array, Callable[[Array], Array]]:
    """The kernel matrix without noise, n^2, and what makes tr(W dK / d theta) of a W (n^2), noise left out."""
    d = len(task.D)
    inverse_squares = np.exp(-2 * theta[:d])
    plain, slope = _correlation(inverse_squares @ task.D, task.family)

    def pull_back(W: Array) -> Array:
        return inverse_squares * (task.D @ (W * slope))

    if task.C is None:
        return plain, pull_back
    weight, alone = _sigmoid(float(theta[d + 1])), task.alone
    distance = task.C * math.exp(-2 * theta[d])
    by_counts, counts_slope = _correlation(inverse_squares[alone] @ task.D[alone] + distance, task.family)
    difference = by_counts - plain

    def pull_back_both(W: Array) -> Array:
        weighted = W * counts_slope * weight
        by_lengthscales = (1 - weight) * pull_back(W)
        by_lengthscales[alone] += inverse_squares[alone] * (task.D[alone] @ weighted)
        return np.append(by_lengthscales, [distance @ weighted, weight * (1 - weight) * (difference @ W)])

    return plain + weight * difference, pull_back_both


def _correlation(square_distance: Array, family: Family) -> tuple[Array, Array]:
    """The correlation, and minus twice its derivative by the squared distance; takes its argument over."""
    if family == "rbf":
        square_distance *= -0.5
        np.exp(square_distance, out=square_distance)
        return square_distance, square_distance.copy()
    square_distance *= 5
    slope = np.sqrt(square_distance)
    decay = np.exp(-slope)
    slope += 1
    slope *= decay  # (1 + r) exp(-r)
    square_distance *= decay
    square_distance *= 1 / 3
    square_distance += slope
    slope *= 5 / 3
    return square_distance, slope
