"""A Gaussian process of the log of a segment's seconds, in numpy alone.

The model of a segment of `m` steps at the configuration `x`:

    seconds = s + m exp(w' phi(x) + f(x) + noise),      w ~ N(mu, V),      f ~ GP(0, a^2 k),      noise ~ N(0, sigma^2)

| symbol | meaning |
|---|---|
| s | start-up cost of any segment |
| phi, k | features of the configuration, and a Matern-5/2 kernel over it (`frugalbo.budget.cost_features`) |
| mu, V | 0 and tau^2 on the diagonal: over the whole space `w' phi` changes seconds by about exp(tau) |
| a | 1, or 0: what the configuration may matter beyond that, by interactions, bends and cliffs |
| sigma | what the configuration does not explain |

Nothing is fitted: `s`, `tau`, `a`, the lengthscale of `k` and `sigma` take each value of a small grid, weighted
by its marginal likelihood, and the answer is the mixture. So the bound is wide after one segment and narrows as
data come; and as long as all segments had the same length, which cannot tell start-up from steps, both
explanations stay, and a segment of another length gets the wider bound. Without `f` (`a = 0`, one setting of the grid)
it is a Bayesian linear regression; the evidence weighs the two.

What a user states (`frugalbo.budget.stated.CostPrior`) is one more setting of the grid, believed at
90 %; the rest is for "the statement is wrong", which is the model without it:

* `like`: phi gets the logarithm of the formula (centred), whose weight is 1 give or take 0.3; the
  other weights have smaller tau, as the formula is to explain most.
* `grows_with`: the slope of the parameter has the mean 0.9 tau and the deviation 0.45 tau in the place
  of 0 and tau: the same size, and positive at 98 %.
* `startup_s`, `typical_s`: the value of s; a prior of the intercept, which is else the data's median.

With `typical_s` there is a prediction before any segment has ended.

A segment that is known to cost at least so much stands at what the model expects beyond that bound (the EM step
of a Tobit regression, Tobin 1958, Econometrica 26), which is recomputed a few times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from frugalbo.budget.cost_features import Features, Residual
from frugalbo.budget.cost_mixture import Component, FittedCost
from frugalbo.budget.shape import Shape
from frugalbo.budget.stated import CostPrior, growth, step_formula
from frugalbo.problem import Problem

Array = NDArray[np.float64]

_TAU: Final = (0.3, 1.0, 2.0, 4.0)
_TAU_PRIOR: Final = (1.0, 2.0, 3.0, 1.5)
# Of what the regression leaves over: its lengthscale as a share of the space's diagonal, None for nothing.
_LENGTHSCALE: Final = (None, 0.2, 0.4)
_LENGTHSCALE_PRIOR: Final = (2.0, 1.0, 1.0)
_AMPLITUDE: Final = 1.0
_LIKE_AMPLITUDE: Final = 0.3
_SIGMA: Final = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
_SIGMA_PRIOR: Final = (1.0, 2.0, 3.0, 3.0, 2.0, 1.0)
# Start-up as a share of the cheapest segment seen; it is usually small.
_STARTUP: Final = (0.0, 0.3, 0.6, 0.8, 0.9, 0.95)
_STARTUP_PRIOR: Final = (6.0, 2.0, 1.0, 0.5, 0.3, 0.2)
_EM_ROUNDS: Final = 4
_SHORTEST_S: Final = 1e-6  # clocks: a segment never costs nothing
_INTERCEPT_SD: Final = 3.0  # about the data's own median
_NEGLIGIBLE: Final = 1e-3  # weights below this share of the largest are dropped
_LARGEST_LOG: Final = 700.0  # exp of more overflows
_BELIEF: Final = 0.9  # in what is stated
_LIKE_SD: Final = 0.3  # of the exponent of a stated shape
_LIKE_TAU: Final = (0.1, 0.3, 1.0, 2.0)  # for what the shape leaves over
_LIKE_TAU_PRIOR: Final = (1.0, 3.0, 2.0, 1.0)
_GROWTH: Final = (0.9, 0.45)  # mean and deviation of a slope that is stated to be positive, in units of tau
_TYPICAL_SD: Final = 1.0
_UNUSED_SD: Final = 1e-9  # of a weight that a setting does without


class Segments(NamedTuple):
    """Ended segments: unit points (n x d), steps and seconds (n each).

    Args:
        at_least: Which seconds are lower bounds, n.
        goes_on: Which do not begin at step 0, n.
    """

    U: Array
    steps: Array
    seconds: Array
    at_least: NDArray[np.bool_]
    goes_on: NDArray[np.bool_]

    def rows(self, mask: NDArray[np.bool_]) -> Segments:
        """Some of them."""
        return Segments(self.U[mask], self.steps[mask], self.seconds[mask], self.at_least[mask], self.goes_on[mask])


@dataclass(frozen=True, slots=True)
class _Setting:
    """A prior of the regression, `w ~ N(mean, diag(sd)^2)`, its weight, and the intercept's level if it is stated.

    The amplitude is that of what the regression leaves over, if anything.
    """

    weight: float
    mean: Array  # p
    sd: Array  # p
    amplitude: float = _AMPLITUDE
    level: float | None = None


def fit_process(problem: Problem, data: Segments | None) -> FittedCost | None:
    """The process of what has ended and what the problem states; None if that is nothing.

    Args:
        problem: Its space, steps and `cost` are looked at.
        data: At least one segment; None for none.
    """
    stated = problem.cost if isinstance(problem.cost, CostPrior) else None
    if data is None and (stated is None or stated.typical_s is None):
        return None
    like = None if stated is None or stated.like is None else step_formula(stated.like, problem.space)
    shape = None if like is None else Shape(like, problem.space)
    features = Features(problem.space, shape, None if data is None else data.U)
    settings = _settings(features, problem)
    startup_s = None if stated is None else stated.startup_s
    if data is None:
        return FittedCost(features, _prior(settings, startup_s or 0.0), 0)
    if data.at_least.all():
        # Lower bounds alone have no upper side; the longest of them is still the best that is known.
        data = data._replace(seconds=2 * data.seconds, at_least=np.zeros(len(data.steps), dtype=bool))
    phi = features(data.U)
    families = _families(settings, features, phi)
    seconds = data.seconds.copy()
    components = _posterior(families, startup_s, data.steps, seconds)
    for _ in range(_EM_ROUNDS if data.at_least.any() else 0):
        seconds[data.at_least] = _beyond(components, phi, data)
        components = _posterior(families, startup_s, data.steps, seconds)
    return FittedCost(features, components, len(data.steps))


def _settings(features: Features, problem: Problem) -> list[_Setting]:
    """The priors of the grid: for each tau without what is stated, and for each tau with it."""
    stated = problem.cost if isinstance(problem.cost, CostPrior) else None
    space, unscaled = problem.space, features.prior_sd()
    nothing = np.zeros(features.size)
    shape_sd = [] if features.shape is None else [_UNUSED_SD]
    doubt = 1.0 if stated is None else 1.0 - _BELIEF
    found = [
        _Setting(doubt * weight / sum(_TAU_PRIOR), nothing, np.concatenate([[_INTERCEPT_SD], tau * unscaled, shape_sd]))
        for tau, weight in zip(_TAU, _TAU_PRIOR, strict=True)
    ]
    if stated is None:
        return found
    taus, weights, amplitude = _TAU, _TAU_PRIOR, _AMPLITUDE
    if stated.like is not None:
        taus, weights, amplitude = _LIKE_TAU, _LIKE_TAU_PRIOR, _LIKE_AMPLITUDE
    typical = stated.typical_s is not None
    rest = (stated.typical_s or 0.0) - (stated.startup_s or 0.0)
    level = math.log(max(rest, 0.05 * (stated.typical_s or 0.0)) / problem.steps) if typical else None
    for tau, weight in zip(taus, weights, strict=True):
        mean = np.zeros(features.size)
        sd = np.concatenate([[_TYPICAL_SD if typical else _INTERCEPT_SD], tau * unscaled, shape_sd])
        for name in stated.grows_with:
            if (sign := growth(space, name)) and (dim := space.names.index(name)) in features.ordered:
                column = 1 + features.ordered.index(dim)
                mean[column], sd[column] = sign * _GROWTH[0] * tau, _GROWTH[1] * tau
        if stated.like is not None:
            mean[-1], sd[-1] = 1.0, _LIKE_SD
        found.append(_Setting(_BELIEF * weight / sum(weights), mean, sd, amplitude, level))
    return found


def _prior(settings: list[_Setting], startup_s: float) -> list[Component]:
    """The components before any segment has ended: those of which the level is stated."""
    found = []
    for setting in settings:
        if setting.level is not None:
            mean = setting.mean.copy()
            mean[0] += setting.level
            found += [
                Component(setting.weight * weight, startup_s, sigma, mean, np.eye(len(mean)), setting.sd**2)
                for sigma, weight in zip(_SIGMA, _SIGMA_PRIOR, strict=True)
            ]
    total = sum(c.weight for c in found)
    return [replace(c, weight=c.weight / total) for c in found]


def _startups(stated_s: float | None, shortest: float) -> list[tuple[float, float, float]]:
    """Start-up costs in seconds, their prior weights, and what the change of variables adds for each."""
    total = sum(_STARTUP_PRIOR)
    doubt = 1.0 if stated_s is None else 1.0 - _BELIEF
    # One segment's worth of the change of variables is used up by the start-up cost itself, which is
    # measured in shares of the cheapest segment.
    found = [
        (share * shortest, doubt * weight / total, math.log(1 - share))
        for share, weight in zip(_STARTUP, _STARTUP_PRIOR, strict=True)
    ]
    if stated_s is not None:
        # More than the cheapest segment took altogether cannot be; data win.
        found.append((min(stated_s, _STARTUP[-1] * shortest), _BELIEF, 0.0))
    return found


class _Family(NamedTuple):
    """A setting with a residual or none, and what of its regression does not depend on seconds."""

    setting: _Setting
    weight: float
    residual: Residual | None
    fixed: Array  # what the setting's mean says of the segments, n
    rotated: Array  # the features scaled by the prior, in their eigenbasis, n x (p + r)
    values: Array  # eigenvalues of the scaled features' inner products, p + r
    basis: Array  # (p + r) x (p + r)


def _families(settings: list[_Setting], features: Features, phi: Array) -> list[_Family]:
    """Each setting with each residual."""
    found = []
    kinds = list(zip(_LENGTHSCALE, _LENGTHSCALE_PRIOR, strict=True)) if features.coordinates else [(None, 1.0)]
    total = sum(prior for _, prior in kinds)
    for lengthscale, prior in kinds:
        residual = None if lengthscale is None else Residual(features, phi, lengthscale)
        psi = np.empty((len(phi), 0)) if residual is None else residual(phi)
        for setting in settings:
            scaled = np.hstack([phi * setting.sd, setting.amplitude * psi])  # n x (p + r)
            values, vectors = np.linalg.eigh(scaled.T @ scaled)
            basis = np.concatenate([setting.sd, np.full(psi.shape[1], setting.amplitude)])[:, None] * vectors
            fixed = phi @ setting.mean
            weight = setting.weight * prior / total
            found.append(_Family(setting, weight, residual, fixed, scaled @ vectors, np.maximum(values, 0.0), basis))
    return found


def _posterior(families: list[_Family], startup_s: float | None, steps: Array, seconds: Array) -> list[Component]:
    """The grid of priors, start-up and sigma, with the weight and the regression of each."""
    sigma2 = np.square(_SIGMA)  # S
    startups = _startups(startup_s, float(seconds.min()))
    rest = seconds - np.array([startup for startup, _, _ in startups])[:, None]  # T x n
    log_rest = np.log(rest / steps)
    # A change of variables from log rest to seconds.
    log_prior = np.array([math.log(prior) + jacobian for _, prior, jacobian in startups])
    log_prior = log_prior - np.log(rest / seconds).sum(axis=1)  # T
    targets: dict[int, tuple[Array, Array]] = {}  # by setting: what its regression is to explain, T x n, and the levels
    scored = []
    for family in families:
        setting = family.setting
        if id(setting) not in targets:
            Y = log_rest - family.fixed
            levels = np.median(Y, axis=1) if setting.level is None else np.full(len(Y), setting.level)
            targets[id(setting)] = Y - levels[:, None], levels
        Y, levels = targets[id(setting)]
        Z = Y @ family.rotated  # T x (p + r)
        precision = 1 / (family.values + sigma2[:, None])  # S x (p + r)
        log_det = np.log1p(family.values / sigma2[:, None]).sum(axis=1) + len(steps) * np.log(sigma2)
        misfit = ((Y * Y).sum(axis=1)[:, None] - (Z * Z) @ precision.T) / sigma2  # T x S
        prior = log_prior[:, None] + math.log(family.weight) + np.log(_SIGMA_PRIOR)
        scored.append((prior - 0.5 * (misfit + log_det), family, Z, precision, levels))
    best = max(scores.max() for scores, *_ in scored)
    total = sum(float(np.exp(s - best)[s - best > math.log(_NEGLIGIBLE)].sum()) for s, *_ in scored)
    found = []
    for scores, family, Z, precision, levels in scored:
        setting = family.setting
        for t, k in np.argwhere(scores - best > math.log(_NEGLIGIBLE)).tolist():
            mean = family.basis @ (precision[k] * Z[t])
            mean[: len(setting.mean)] += setting.mean
            mean[0] += levels[t]
            weight, variance = math.exp(scores[t, k] - best) / total, _SIGMA[k] ** 2 * precision[k]
            found.append(
                Component(
                    weight, startups[t][0], _SIGMA[k], mean, family.basis, variance, family.residual, setting.amplitude
                )
            )
    return found


def _beyond(components: list[Component], phi: Array, data: Segments) -> Array:
    """The seconds expected of the segments that are known to cost at least `data.seconds`."""
    rows, bounds, steps = phi[data.at_least], data.seconds[data.at_least], data.steps[data.at_least]
    expected = np.zeros(len(rows))
    for c in components:
        mean, sd = c.log_rest(rows, steps)
        z = (np.log(np.maximum(_SHORTEST_S, bounds - c.startup_s)) - mean) / sd
        expected += c.weight * (mean + sd * np.array([_mills(x) for x in z]))
    return np.maximum(bounds, np.exp(np.minimum(_LARGEST_LOG, expected)))


def _mills(z: float) -> float:
    """`E[Z | Z > z]` of a standard normal Z."""
    if z > 5:  # the quotient loses its digits; the series is right to 1 in 1000 here
        return z + 1 / z - 2 / z**3
    return math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi) / (0.5 * math.erfc(z / math.sqrt(2)))
