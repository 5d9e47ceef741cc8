"""What a segment will cost, learned or known: the models that the loop, the schedulers and the proposers ask.

What is learned is a Gaussian process of the log of seconds (`frugalbo.budget.cost_process`). Here is what it
learns from: the segments that have ended. A segment that ran into its cap says that it costs at
least that.

A fit takes some milliseconds, and a run on a thousand devices asks a thousand times as often. So the model is
fitted to each of the first segments, then each time there are a twentieth more of them, and at once when
one ran into its cap, which says that the model was wrong. In between it is that of the segments until then. Of many
segments it sees some, evenly chosen from all. When it is fitted, and to what, is a function of the study alone.
Budgets do not depend on it: they are kept by holds and caps.

A trial that goes on has to load its checkpoint, which nothing tells as long as none has gone on. So the first few to do
so are quoted as the first trials of a run are, and what they then took beyond what the model of all others
says is the reload cost: half of the time its median, hardly ever more than its largest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from frugalbo.budget.cost_features import Features
from frugalbo.budget.cost_mixture import FittedCost
from frugalbo.budget.cost_process import Segments, fit_process
from frugalbo.budget.reload import Reload, fit_reload
from frugalbo.budget.shape import Shape
from frugalbo.budget.stated import CostPrior, FormulaSeconds, is_address, segment_constants
from frugalbo.errors import BudgetError
from frugalbo.events import Ended, Failure, Outcome, Started
from frugalbo.problem import Problem, load_function
from frugalbo.space import Params
from frugalbo.study import Study

Array = NDArray[np.float64]

_SHORTEST_S: Final = 1e-6  # clocks: a segment never costs nothing
_EXACT_SIGMA: Final = 1e-3  # of a formula that is taken as it is
_EACH: Final = 40  # segments to each of which the model is fitted
_MORE: Final = 1.05  # then to so many times as many
_MOST: Final = 400  # segments that it sees
_FEW_RELOADS: Final = 4  # of fewer nothing is concluded


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
        fitted, reload = fit_cost(study), _reload(study)

        def predict(params: Params, start: int, until: int) -> CostPrediction | None:
            if fitted is None:
                return None
            u, steps = study.problem.space.encode(params)[None], until - start
            median_s, upper_s = (fitted.quantile(u, steps, p) for p in (0.5, self.confidence))
            if start == 0:
                return CostPrediction(median_s, upper_s, fitted.n)
            if reload.n < _FEW_RELOADS:
                return CostPrediction(median_s + reload.median_s, math.inf, reload.n)
            return CostPrediction(median_s + reload.median_s, upper_s + reload.most_s, reload.n)

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


@dataclass(slots=True)
class _Fit:
    """The model of a study's first segments.

    Args:
        looked: How many of the segments that have ended were looked at.
        upto: How many of them it is fitted to, or chosen from.
    """

    looked: int = 0
    upto: int = -1
    model: FittedCost | None = None
    reload: Reload = field(default_factory=Reload)


_fitted: WeakKeyDictionary[Study, _Fit] = WeakKeyDictionary()


def fit_cost(study: Study) -> FittedCost | None:
    """The cost model of ended segments and what the problem states; None if there is nothing to learn from.

    Who asks again before the next fit is due gets the same model.
    """
    fit = _fitted.setdefault(study, _Fit())
    due = max(0, fit.upto)
    for n in range(fit.looked + 1, len(study.settled) + 1):
        if _is_due(n, study):
            due = n
    fit.looked = len(study.settled)
    if due > fit.upto:
        data = _segments(study, due)
        fit.upto, fit.reload = due, Reload()
        if data is not None:
            fit.reload, data = fit_reload(study.problem, data)
        fit.model = fit_process(study.problem, data)
    return fit.model


def _reload(study: Study) -> Reload:
    """The reload cost that goes with the model."""
    fit_cost(study)
    return _fitted[study].reload


def _is_due(n: int, study: Study) -> bool:
    """Whether the model is fitted to the first `n` segments that have ended."""
    if n <= _EACH or int(math.log(n) / math.log(_MORE)) > int(math.log(n - 1) / math.log(_MORE)):
        return True
    trial, segment = study.settled[n - 1]
    return study.trials[trial].ends[segment].failure == Failure.TIMEOUT


def _segments(study: Study, n: int) -> Segments | None:
    """What the first `n` segments that have ended say of seconds; of many of them, some."""
    chosen = range(n) if n <= _MOST else np.linspace(0, n - 1, _MOST).astype(int).tolist()
    rows: list[tuple[Array, bool, float, float, bool]] = []
    for trial, segment in sorted(study.settled[i] for i in chosen):
        found = study.trials[trial]
        u = study.problem.space.encode(found.params)
        started, ended, reached = found.starts[segment], found.ends[segment], found.reached[segment]
        seconds = max(_SHORTEST_S, ended.used.device_seconds * started.speed)
        if ended.outcome in (Outcome.COMPLETED, Outcome.PAUSED):
            rows.append((u, started.start > 0, started.until - started.start, seconds, False))
        elif ended.used.device_seconds > 0 and (row := _unfinished(started, ended, reached)) is not None:
            rows.append((u, started.start > 0, *row))
    if not rows:
        return None
    U, goes_on, steps, seconds, at_least = zip(*rows, strict=True)
    return Segments(np.array(U), np.array(steps, float), np.array(seconds), np.array(at_least), np.array(goes_on))


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
