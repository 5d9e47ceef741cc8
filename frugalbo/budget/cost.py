"""What a segment will cost: a small Bayesian model of seconds, in numpy alone.

The model of a segment of `m` steps at the configuration `x`:

    seconds = s + m exp(w' phi(x) + noise),      w ~ N(0, tau^2 V),      noise ~ N(0, sigma^2)

| symbol | meaning |
|---|---|
| s | start-up cost of any segment |
| phi(x) | 1; each ordered dimension (centred) and its square; one indicator for each categorical value |
| tau | how much the configuration may matter: over the whole space seconds change by about exp(tau) |
| sigma | what the configuration does not explain |

Nothing is fitted: `s`, `tau` and `sigma` take each value of a small grid, weighted by its marginal
likelihood, and the answer is the mixture. So the bound is wide after one segment and narrows as
data come; and as long as all segments had the same length, which cannot tell start-up from steps,
both explanations stay, and a segment of another length gets the wider bound.

What a user states (`frugalbo.budget.stated.CostPrior`) is one more setting of the grid, believed at
90 %; the rest is for "the statement is wrong", which is the model without it:

* `like`: phi gets the logarithm of the formula (centred), whose weight is 1 give or take 0.3; the
  other weights have smaller tau, as the formula is to explain most.
* `grows_with`: the slope of the parameter has the mean 0.9 tau and the deviation 0.45 tau in the place
  of 0 and tau: the same size, and positive at 98 %.
* `startup_s`, `typical_s`: the value of s; a prior of the intercept, which is else the data's median.

With `typical_s` there is a prediction before any segment has ended.

A segment that ran into its cap says that it costs at least that: it stands at what the model
expects beyond that bound (the EM step of a Tobit regression, Tobin 1958, Econometrica 26), which
is recomputed a few times.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from frugalbo.budget.shape import Shape
from frugalbo.budget.stated import CostPrior, FormulaSeconds, growth, is_address, segment_constants, step_formula
from frugalbo.errors import BudgetError
from frugalbo.problem import Problem, load_function
from frugalbo.space import Params, Space
from frugalbo.study import Ended, Failure, Outcome, Started, Study

Array = NDArray[np.float64]

_TAU: Final = (0.3, 1.0, 2.0, 4.0)
_TAU_PRIOR: Final = (1.0, 2.0, 3.0, 1.5)
_SIGMA: Final = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
_SIGMA_PRIOR: Final = (1.0, 2.0, 3.0, 3.0, 2.0, 1.0)
# Start-up as a share of the cheapest segment seen; it is usually small.
_STARTUP: Final = (0.0, 0.3, 0.6, 0.8, 0.9, 0.95)
_STARTUP_PRIOR: Final = (6.0, 2.0, 1.0, 0.5, 0.3, 0.2)
_SQUARES: Final = 0.5  # squares matter less than slopes
_FULL_DIMS: Final = 4
_EM_ROUNDS: Final = 4
_SHORTEST_S: Final = 1e-6  # clocks: a segment never costs nothing
_INTERCEPT_SD: Final = 3.0  # about the data's own median
_NEGLIGIBLE: Final = 1e-4  # weights below this share of the largest are dropped
_LISTED: Final = 24  # values of a choice that have a feature each, seen or not
_LARGEST_LOG: Final = 700.0  # exp of more overflows
_BELIEF: Final = 0.9  # in what is stated
_LIKE_SD: Final = 0.3  # of the exponent of a stated shape
_LIKE_TAU: Final = (0.1, 0.3, 1.0, 2.0)  # for what the shape leaves over
_LIKE_TAU_PRIOR: Final = (1.0, 3.0, 2.0, 1.0)
_GROWTH: Final = (0.9, 0.45)  # mean and deviation of a slope that is stated to be positive, in units of tau
_TYPICAL_SD: Final = 1.0
_EXACT_SIGMA: Final = 1e-3  # of a formula that is taken as it is
_UNUSED_SD: Final = 1e-9  # of a weight that a setting does without
_CENTRING: Final = 256  # points over which a stated shape is centred


@dataclass(frozen=True, slots=True)
class CostPrediction:
    """What a segment is expected to cost.

    Args:
        median_s: Device-seconds that it exceeds half of the time, on devices of speed 1.
        upper_s: Device-seconds that it hardly ever exceeds, on devices of speed 1.
        n: The ended segments that this rests on; 0 for what is stated.
        is_certain: Whether it is a cost function of the user's, to be taken as it is.
    """

    median_s: float
    upper_s: float
    n: int
    is_certain: bool = False


Predictor = Callable[[Params, int, int], CostPrediction | None]


class CostModel(Protocol):
    """Predicts what a segment will cost."""

    def predict(self, study: Study, params: Params, start: int, until: int) -> CostPrediction | None:
        """The cost of running `params` from step `start` to step `until`; None where nothing is known."""
        ...


@dataclass(frozen=True, slots=True)
class KnownCost:
    """A cost function of the user's, taken as it is.

    Args:
        seconds: From parameters, `start` and `until` to device-seconds.
        margin: The upper bound as a multiple of it.
    """

    seconds: Callable[[Params, int, int], float]
    margin: float = 1.0

    def fitted(self, problem: Problem) -> FittedCost | None:
        """The seconds of a full trial as a model of trials of one step, exactly; None unless it is a formula."""
        if not isinstance(self.seconds, FormulaSeconds):
            return None
        shape = Shape(self.seconds.formula, problem.space, segment_constants(problem.space, 0, problem.steps))
        features = Features(problem.space, shape)
        weights = np.zeros(features.size)
        weights[[0, -1]] = features.centre, 1.0
        return FittedCost.regression(features, weights, _EXACT_SIGMA, 0)

    def predict(self, study: Study, params: Params, start: int, until: int) -> CostPrediction:
        """What the function says.

        Raises:
            BudgetError: If that is not a number of seconds above 0.
        """
        found = self.seconds(params, start, until)
        try:
            seconds = float(found)
        except (TypeError, ValueError):
            seconds = math.nan
        if not (math.isfinite(seconds) and seconds > 0):
            raise BudgetError(f"expected the cost function to give seconds above 0, got {found!r} at {params}")
        return CostPrediction(seconds, self.margin * seconds, 0, is_certain=True)


@dataclass(frozen=True, slots=True)
class LearnedCost:
    """Learns from the segments that have ended, and from what the problem states of its cost.

    Args:
        confidence: The probability that `upper_s` is not exceeded.
    """

    confidence: float = 0.98

    def __post_init__(self) -> None:
        if not 0.5 < self.confidence < 1:
            raise ValueError(f"a confidence lies between 1/2 and 1, got {self.confidence!r}")

    def predict(self, study: Study, params: Params, start: int, until: int) -> CostPrediction | None:
        """The cost of running `params` from `start` to `until`; None before any segment has ended."""
        return self.predictor(study)(params, start, until)

    def predictor(self, study: Study) -> Predictor:
        """`predict` for many configurations of the same study, which is fitted once."""
        fitted = fit_cost(study)

        def predict(params: Params, start: int, until: int) -> CostPrediction | None:
            if fitted is None:
                return None
            u, steps = study.problem.space.encode(params)[None], until - start
            return CostPrediction(fitted.quantile(u, steps, 0.5), fitted.quantile(u, steps, self.confidence), fitted.n)

        return predict


def cost_model(problem: Problem, confidence: float) -> CostModel:
    """The model of what a problem states of its cost: a function that is known, else one that learns.

    Args:
        problem: Its `cost` is looked at.
        confidence: The probability that a learned upper bound is not exceeded.

    Raises:
        ProblemError: If the problem names a function that cannot be loaded.
    """
    cost = problem.cost
    if cost is None or isinstance(cost, CostPrior):
        return LearnedCost(confidence)
    if not isinstance(cost, str):
        return KnownCost(cost)
    if is_address(cost):
        return KnownCost(load_function(cost, problem.root))
    return KnownCost(FormulaSeconds(cost, problem.space))


def predictor(model: CostModel, study: Study) -> Predictor:
    """`model.predict` for many configurations of one study."""
    if isinstance(model, LearnedCost):
        return model.predictor(study)
    return lambda params, start, until: model.predict(study, params, start, until)


@dataclass(frozen=True, slots=True)
class _Segments:
    """Ended segments: unit points `U` (n x d), `steps` (n,), `seconds` (n,), and which are lower bounds."""

    U: Array
    steps: Array
    seconds: Array
    at_least: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Component:
    """One setting of the grid: its weight and the posterior `w ~ N(mean, B diag(variance) B')` of its regression."""

    weight: float
    startup_s: float
    sigma: float
    mean: Array  # p
    basis: Array  # p x p, the B above
    variance: Array  # p

    def log_rest(self, phi: Array, steps: float | Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the logarithm of the seconds after start-up, at features (m x p)."""
        spread = (phi @ self.basis) ** 2 @ self.variance
        return phi @ self.mean + np.log(steps), np.sqrt(self.sigma**2 + spread)


class FittedCost:
    """A mixture of regressions on the logarithm of seconds per step."""

    def __init__(self, features: Features, components: list[Component], n: int) -> None:
        self.features = features
        self.components = components
        self.n = n

    @classmethod
    def regression(cls, features: Features, weights: Array, sigma: float, n: int) -> FittedCost:
        """A single regression with known weights: log seconds per step are `weights' phi(x)`, give or take `sigma`."""
        p = len(weights)
        return cls(features, [Component(1.0, 0.0, sigma, weights, np.eye(p), np.zeros(p))], n)

    def quantile(self, u: Array, steps: float, q: float) -> float:
        """The seconds that a segment of `steps` steps at the unit point `u` (1 x d) stays below with probability q."""
        phi = self.features(u)
        parts = [
            (c.weight, c.startup_s, float(mean[0]), float(sd[0]))
            for c in self.components
            for mean, sd in [c.log_rest(phi, steps)]
        ]
        # Bisection between the extreme quantiles of the parts.
        z = 8.0
        low = min(s + math.exp(min(_LARGEST_LOG, m - z * sd)) for _, s, m, sd in parts)
        high = max(s + math.exp(min(_LARGEST_LOG, m + z * sd)) for _, s, m, sd in parts)
        a, b = math.log(low), math.log(high)
        while b - a > 1e-9:
            middle = 0.5 * (a + b)
            a, b = (middle, b) if _mixture_cdf(parts, math.exp(middle)) < q else (a, middle)
        return math.exp(b)

    def log_seconds(self, U: Array, steps: float) -> Array:
        """The mean over the mixture of the logarithm of the median seconds at unit points `U` (m x d); shape (m,)."""
        phi = self.features(U)
        total = np.zeros(len(U))
        for c in self.components:
            total += c.weight * np.log(c.startup_s + np.exp(np.minimum(_LARGEST_LOG, math.log(steps) + phi @ c.mean)))
        return total


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
        self.size = 1 + 2 * len(self.ordered) + one_hots + (shape is not None)

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


@dataclass(frozen=True, slots=True)
class _Setting:
    """A prior of the regression, `w ~ N(mean, diag(sd)^2)`, its weight, and the intercept's level if it is stated."""

    weight: float
    mean: Array  # p
    sd: Array  # p
    level: float | None = None


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
    taus, weights = (_TAU, _TAU_PRIOR) if stated.like is None else (_LIKE_TAU, _LIKE_TAU_PRIOR)
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
        found.append(_Setting(_BELIEF * weight / sum(weights), mean, sd, level))
    return found


def fit_cost(study: Study) -> FittedCost | None:
    """The cost model of all ended segments and what the problem states; None if there is nothing to learn from."""
    problem, data = study.problem, _segments(study)
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
        data = _Segments(data.U, data.steps, 2 * data.seconds, np.zeros(len(data.steps), dtype=bool))
    phi = features(data.U)
    seconds = data.seconds.copy()
    components = _posterior(settings, startup_s, phi, data.steps, seconds)
    for _ in range(_EM_ROUNDS if data.at_least.any() else 0):
        seconds[data.at_least] = _beyond(components, phi, data)
        components = _posterior(settings, startup_s, phi, data.steps, seconds)
    return FittedCost(features, components, len(data.steps))


def _segments(study: Study) -> _Segments | None:
    """What the ended segments say of seconds."""
    rows: list[tuple[Array, float, float, bool]] = []
    for trial in study.trials.values():
        u = study.problem.space.encode(trial.params)
        for started, ended, reached in zip(trial.starts, trial.ends, trial.reached, strict=False):
            seconds = max(_SHORTEST_S, ended.used.device_seconds * started.speed)
            if ended.outcome in (Outcome.COMPLETED, Outcome.PAUSED):
                rows.append((u, started.until - started.start, seconds, False))
            elif ended.used.device_seconds > 0 and (row := _unfinished(started, ended, reached)) is not None:
                rows.append((u, *row))
    if not rows:
        return None
    U, steps, seconds, at_least = zip(*rows, strict=True)
    return _Segments(np.array(U), np.array(steps, float), np.array(seconds), np.array(at_least))


def _unfinished(started: Started, ended: Ended, reached: int) -> tuple[float, float, bool] | None:
    """Steps and seconds of a segment that did not reach its end, and whether they are only a lower bound.

    With `k` steps reported it was cut somewhere between `k` and `k + 1`, so it stands at the
    middle. With none, one that reached its cap says that the whole costs at least this, and any
    other says nothing: a job that raises at once is not a cheap one, and the charge of one that
    died with its controller may be for time in which nobody was alive to see it.
    """
    seconds = max(_SHORTEST_S, ended.used.device_seconds * started.speed)
    wanted = started.until - started.start
    if reached == started.start:
        return (wanted, seconds, True) if ended.failure == Failure.TIMEOUT else None
    return min(wanted, reached - started.start + 0.5), seconds, False


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


def _posterior(
    settings: list[_Setting], startup_s: float | None, phi: Array, steps: Array, seconds: Array
) -> list[Component]:
    """The grid of priors, start-up and sigma, with the weight and the regression of each."""
    n = len(phi)
    scored: list[tuple[float, Component]] = []
    for setting in settings:
        scaled = phi * setting.sd  # n x p
        values, vectors = np.linalg.eigh(scaled.T @ scaled)  # p, p x p
        values = np.maximum(values, 0.0)
        basis = setting.sd[:, None] * vectors
        for startup, startup_prior, jacobian in _startups(startup_s, float(seconds.min())):
            rest = seconds - startup
            y = np.log(rest / steps) - phi @ setting.mean
            level = float(np.median(y)) if setting.level is None else setting.level
            y = y - level
            z = vectors.T @ (scaled.T @ y)  # p
            # A change of variables from log rest to seconds.
            log_prior = jacobian - float(np.log(rest / seconds).sum()) + math.log(setting.weight * startup_prior)
            for sigma, sigma_prior in zip(_SIGMA, _SIGMA_PRIOR, strict=True):
                posterior = 1 / (values + sigma**2)  # p
                mean = setting.mean + basis @ (posterior * z)
                misfit = (y @ y - z @ (posterior * z)) / sigma**2
                log_det = float(np.log1p(values / sigma**2).sum()) + 2 * n * math.log(sigma)
                score = log_prior - 0.5 * (misfit + log_det) + math.log(sigma_prior)
                mean[0] += level
                variance = sigma**2 * posterior
                scored.append((float(score), Component(0.0, startup, sigma, mean, basis, variance)))
    best = max(score for score, _ in scored)
    kept = [(w, c) for score, c in scored if (w := math.exp(score - best)) > _NEGLIGIBLE]
    total = sum(w for w, _ in kept)
    return [replace(c, weight=w / total) for w, c in kept]


def _beyond(components: list[Component], phi: Array, data: _Segments) -> Array:
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


def _mixture_cdf(parts: list[tuple[float, float, float, float]], seconds: float) -> float:
    total = 0.0
    for weight, startup_s, mean, sd in parts:
        if seconds > startup_s:
            total += weight * 0.5 * math.erfc((mean - math.log(seconds - startup_s)) / sd / math.sqrt(2))
    return total
