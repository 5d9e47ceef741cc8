"""How well the surrogate's predictions held: what was predicted against what came out.

Two kinds. *As they were made*: each trial that a model chose has in its `why` what was predicted before
it ran, of its result and of its cost; nothing is computed anew, so this is what the decisions rested on.
The points are those that the search went for, not the space at large. *Left out*: what the model that is
fitted to all results would say of each without it (`frugalbo.models.leave_one_out`).

An interval is right if it holds 95 % of the observations; that many of n successes are a binomial, whose
95 % range says which counts are no surprise. (Predictions of one run depend on each other, so the true
range is somewhat wider.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from frugalbo.events import Failure, Outcome
from frugalbo.study import Study, Trial

Kind = Literal["made", "left_out", "cost"]

FEWEST: Final = 5  # predictions; of fewer nothing can be said
_LEVEL: Final = 0.95
_ROUNDING: Final = 1e-9  # a table of exact costs is not outside of its own interval


@dataclass(frozen=True, slots=True)
class Prediction:
    """What was predicted of a trial, its 95 % interval, and what came out.

    Args:
        is_bound: Whether it took at least `observed`, and was cut there, outside of the interval.
    """

    trial: int
    predicted: float
    low: float
    high: float
    observed: float
    is_bound: bool = False

    @property
    def is_inside(self) -> bool:
        """Whether the interval holds what came out."""
        room = _ROUNDING * max(abs(self.low), abs(self.high))
        return not self.is_bound and self.low - room <= self.observed <= self.high + room


@dataclass(frozen=True, slots=True)
class Coverage:
    """Predictions of one kind.

    Args:
        reason: Why nothing can be said; empty if something can. `predictions` are empty then.
    """

    kind: Kind
    predictions: tuple[Prediction, ...]
    reason: str = ""

    @property
    def inside(self) -> int:
        """How many fell within their interval."""
        return sum(p.is_inside for p in self.predictions)

    @property
    def expected(self) -> tuple[int, int]:
        """The counts that a right model would give 95 times of 100."""
        return binomial_range(len(self.predictions), _LEVEL)

    @property
    def verdict(self) -> Literal["as it should be", "too sure", "too unsure"]:
        """Whether the count is within what a right model would give."""
        low, high = self.expected
        return "too sure" if self.inside < low else "too unsure" if self.inside > high else "as it should be"

    @property
    def typical_error(self) -> float:
        """The median of |observed - predicted|, for costs as a factor: exp of that of the logarithms."""
        seen = [p for p in self.predictions if not p.is_bound]
        if not seen:
            return math.nan
        if self.kind == "cost":
            return math.exp(float(np.median([abs(math.log(p.observed / p.predicted)) for p in seen])))
        return float(np.median([abs(p.observed - p.predicted) for p in seen]))

    def in_words(self) -> str:
        """One sentence, such as `of 23 predictions 21 fell within their 95 % interval`."""
        if self.reason:
            return self.reason
        what = {"made": "predictions", "left_out": "results left out", "cost": "predicted costs"}[self.kind]
        n, (low, high) = len(self.predictions), self.expected
        range_ = f"{low} to {high}" if low < high else f"{low}"
        text = f"Of {n} {what} {self.inside} fell within their 95 % interval"
        if self.verdict == "as it should be":
            return f"{text}, as they should ({range_} would be no surprise)."
        return f"{text}, where {range_} would be no surprise: the model was {self.verdict} of itself."

    def to_json(self) -> dict[str, Any]:
        """Strict JSON types."""
        if self.reason:
            return {"predictions": 0, "reason": self.reason}
        error = self.typical_error
        return {
            "predictions": len(self.predictions),
            "inside": self.inside,
            "expected": list(self.expected),
            "verdict": self.verdict,
            "typical_error": error if math.isfinite(error) else None,
            "trials": [
                {"trial": p.trial, "predicted": p.predicted, "low": p.low, "high": p.high, "observed": p.observed}
                | ({"is_bound": True} if p.is_bound else {})
                for p in self.predictions
            ],
        }


@dataclass(frozen=True, slots=True)
class Calibration:
    """The coverage of results as predicted, of results left out, and of costs as predicted."""

    made: Coverage
    left_out: Coverage
    cost: Coverage

    @property
    def kinds(self) -> tuple[Coverage, ...]:
        """Those of which something can be said."""
        return tuple(c for c in (self.made, self.left_out, self.cost) if not c.reason)

    def to_json(self) -> dict[str, Any]:
        """Strict JSON types."""
        return {"made": self.made.to_json(), "left_out": self.left_out.to_json(), "cost": self.cost.to_json()}


def calibration(study: Study, *, leave_one_out: bool = True) -> Calibration:
    """How the predictions of a study held; deterministic.

    Args:
        study: Any.
        leave_one_out: Whether to fit the model once more, which imports torch.
    """
    made = _coverage("made", [p for t in study.trials.values() if (p := _of_result(study, t)) is not None])
    cost = _coverage("cost", [p for t in study.trials.values() if (p := _of_cost(t)) is not None])
    if not any("predicted" in trial.why for trial in study.trials.values()):
        return Calibration(made, Coverage("left_out", (), "No model took part in this run."), cost)
    if not leave_one_out:
        return Calibration(made, Coverage("left_out", (), "It was not asked for."), cost)
    return Calibration(made, _left_out(study), cost)


def binomial_range(n: int, p: float, level: float = 0.95) -> tuple[int, int]:
    """The counts of n successes between which at least `level` lies, as many in each tail outside at most."""
    counts = np.arange(n + 1)
    log_choose = np.array([math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in counts])
    chances = np.exp(log_choose + counts * math.log(p) + (n - counts) * math.log1p(-p))
    below = np.cumsum(chances)
    tail = 0.5 * (1 - level)
    return int(np.argmax(below > tail)), int(np.argmax(below >= 1 - tail - 1e-12))


def _of_result(study: Study, trial: Trial) -> Prediction | None:
    interval = _interval(trial.why, "predicted", "predicted_95")
    value = study.value(trial)
    return None if interval is None or value is None else Prediction(trial.number, *interval, value)


def _of_cost(trial: Trial) -> Prediction | None:
    """Of its first segment, on a device of speed 1: all of a trial, or what came before it was held.

    A trial that was cut at its cap counts where it had taken more than the interval; else nobody knows.
    """
    interval = _interval(trial.why, "predicted_cost_s", "predicted_cost_95")
    if interval is None or not trial.ends:
        return None
    used = trial.ends[0].used.device_seconds * trial.starts[0].speed
    as_predicted = Outcome.PAUSED if "held" in trial.why else Outcome.COMPLETED
    if trial.ends[0].outcome == as_predicted and used > 0:
        return Prediction(trial.number, *interval, used)
    if trial.failure == Failure.TIMEOUT and used > interval[2]:
        return Prediction(trial.number, *interval, used, is_bound=True)
    return None


def _interval(why: Mapping[str, Any], median: str, interval: str) -> tuple[float, float, float] | None:
    """The median and the ends of what was predicted, if all three are finite numbers."""
    ends = why.get(interval)
    if why.get(median) is None or not isinstance(ends, Sequence) or len(ends) != 2:
        return None
    numbers = (float(why[median]), float(ends[0]), float(ends[1]))
    return numbers if all(map(math.isfinite, numbers)) else None


def _left_out(study: Study) -> Coverage:
    from frugalbo.models.leave_one_out import leave_one_out
    from frugalbo.propose.evidence import Evidence

    known = [t.number for t in study.trials.values() if study.value(t) is not None]
    if len(known) < FEWEST:
        return _coverage("left_out", [], len(known))
    evidence, objective = Evidence(study), study.problem.objective
    space = study.problem.space
    found = leave_one_out(evidence.X, evidence.losses, space.categorical_dims, evidence.points.searched, evidence.noise)
    if found is None:
        return Coverage("left_out", (), "The model could not be fitted to the results.")
    turn: Callable[[float], float] = objective.to_loss
    predictions = []
    for i, number in enumerate(known):
        low, high = sorted((turn(float(found.low[i])), turn(float(found.high[i]))))
        median, observed = turn(float(found.median[i])), turn(float(evidence.losses[i]))
        predictions.append(Prediction(number, median, low, high, observed))
    return _coverage("left_out", predictions)


def _coverage(kind: Kind, found: Sequence[Prediction], n: int | None = None) -> Coverage:
    n = len(found) if n is None else n
    if n < FEWEST:
        what = {"made": "predicted results", "left_out": "results", "cost": "predicted costs"}[kind]
        return Coverage(kind, (), f"Too few to say: {n} {what}, {FEWEST} are needed.")
    return Coverage(kind, tuple(found))
