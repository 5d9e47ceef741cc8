"""When to stop: whether any configuration is expected to be worth its price.

A run that has a price `lambda` (`frugalbo.budget.worth.MinGain`) stops as soon as

    max over x of  E[gain of x] / E[cost of x]  <=  lambda,     E[gain] = EI(x) P(success) P(budget lasts)

which is to say that no Gittins index at the price `lambda` exceeds the best value (a test holds it
against `frugalbo.acquisition.gittins.should_stop`). Source: Xie, Scully, Terenin, Frazier et al.,
arXiv:2507.12453, who call it the stopping rule of PBGI and log EI per cost.

* EI is over the best posterior mean, not the best noisy result, in the objective's own units: the
  outcomes are scaled as they are just below the best.
* The cost is that of a whole trial: expected device-seconds, or these at what was charged for the
  past ones, or 1. A run that was charged nothing does not stop.
* Trials under way are believed. So nothing new starts while what they may show is awaited, and if that
  changes the picture the run goes on.

Deviations: the rule is not asked before there are twice as many results as initial trials, as a model of
fewer knows little of how much the objective varies. And where all results are equal, nothing says that
it varies at all; from then on nothing is expected to be gained.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frugalbo.acquisition.log_cost import learned_log_mean_cost
from frugalbo.acquisition.log_ei_per_cost import LogEIPerCost
from frugalbo.acquisition.registry import Situation
from frugalbo.budget.worth import MinGain
from frugalbo.propose.maximise import maximise
from frugalbo.propose.points import Points
from frugalbo.study import Study

Array = NDArray[np.float64]

LEAST = 2.0  # times the initial trials


@dataclass(frozen=True, slots=True)
class Worth:
    """The rule, for one state of a study.

    Args:
        min_gain: The price.
        metric: The objective's name, for people.
        unit_s: The device-seconds of a unit of the price's resource; None where it is a trial, infinite
            where none was charged.
        varies: Whether any two results differ.
    """

    min_gain: MinGain
    metric: str
    unit_s: float | None
    varies: bool

    @classmethod
    def of(cls, min_gain: MinGain | None, study: Study, losses: Array, initial: int) -> Worth | None:
        """The rule for a study with these losses; None where it does not apply (yet)."""
        if min_gain is None or len(losses) < LEAST * initial:
            return None
        unit_s = None
        if min_gain.resource == "device_seconds":
            unit_s = 1.0
        elif min_gain.resource == "dollars":
            dollars, seconds = (
                sum(trial.used(name) for trial in study.trials.values()) for name in ("dollars", "device_seconds")
            )
            unit_s = seconds / dollars if dollars > 0 else math.inf
        return cls(min_gain, study.problem.objective.metric, unit_s, bool(np.ptp(losses) > 0))

    def missing(self, situation: Situation, points: Points, known: Array, distance: Array) -> str:
        """Why nothing is worth its price, in a sentence; empty where something is.

        Args:
            situation: With the pool, which is searched first.
            points: The space.
            known: Points that cannot be suggested, n x d, and
            distance: how far from each of them a continuous coordinate must be, n.
        """
        if self.unit_s is not None and (situation.cost is None or math.isinf(self.unit_s)):
            return ""
        best_known = situation.best()
        if best_known is None:  # nothing meets the constraints yet, so the first that does is worth anything
            return ""
        price = self.min_gain.price
        best = 0.0
        if self.varies:
            value, pool = self.log_ratio(situation, best_known), situation.pool.numpy()
            with torch.no_grad():
                # Mostly something in the pool is worth it, and a search for the best is not.
                if float(value(situation.pool.unsqueeze(-2)).max()) > math.log(price):
                    return ""
            found = maximise(value, points, pool, known, distance)
            best = 0.0 if found is None else math.exp(min(700.0, found.value))
        if best > price:
            return ""
        per = self.min_gain.per
        amount = {
            "device_seconds": f"{per:g} device-seconds",
            "dollars": f"{per:g} USD",
            "evaluations": f"{per:g} trial{'s' * (per != 1)}",
        }
        return (
            f"nothing left is expected to be worth its price: at most {best * per:.2g} of {self.metric} "
            f"for {amount[self.min_gain.resource]}, and {self.min_gain.gain:g} was asked for"
        )

    def log_ratio(self, situation: Situation, best: float) -> LogRatio:
        """The log of gain over `best` over cost, in the objective's units for one of the price's resource."""
        objective = situation.objective
        scale = objective.outcome.inverse(best) - objective.outcome.inverse(best - 1)
        cost = None
        if self.unit_s is not None and situation.cost is not None:
            cost = learned_log_mean_cost(*situation.cost, level=math.log(self.unit_s))
        value = LogEIPerCost(objective.model, best, cost, 1.0, chances=situation.chances, maximize=False)
        return LogRatio(value, math.log(max(scale, 1e-300)))


@dataclass(frozen=True, slots=True)
class LogRatio:
    """An acquisition (b x 1 x d to b) with a constant added."""

    value: LogEIPerCost
    shift: float

    def __call__(self, X: Tensor) -> Tensor:
        """Evaluate."""
        return self.value(X) + self.shift
