"""When to stop: whether the model leaves room for anything much better than what is known.

A run that states the regret it can live with (`stop_regret`) stops as soon as

    min over known x of UCB(x)  -  min over all x of LCB(x)  <=  stop_regret,      UCB, LCB = mean +- sqrt(beta) sd

of losses, in the objective's own units: the left side bounds the regret of the best known configuration as far as the
model's confidence bounds hold. Source: Makarova et al., Automatic Termination for Hyperparameter Optimization, AutoML
2022, arXiv:2104.08166, equation 4, with the beta of Srinivas et al., arXiv:0912.3995, divided by 5 as in their
experiments: `beta = 2/5 log(d n^2 pi^2 / (6 delta))`, `delta = 0.1`, of `n` results in `d` dimensions.

Deviations: theirs compares with the error of cross-validation where that is known; here the user states the threshold.
Known are results that are likely to meet the outcome constraints; the least LCB is over the whole space, whether it
meets them or not, so that the bound is rather too large. Trials under way are not believed: the bound is on what
has been seen. As with a price (`frugalbo.propose.worth`) the rule is not asked before there are twice as many
results as initial trials, and where all results are equal nothing says that the objective varies at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from botorch.acquisition.analytic import UpperConfidenceBound
from numpy.typing import NDArray

from frugalbo.acquisition.registry import Situation
from frugalbo.propose.maximise import maximise
from frugalbo.propose.points import Points
from frugalbo.propose.worth import LEAST
from frugalbo.study import Study

Array = NDArray[np.float64]

_DELTA = 0.1


@dataclass(frozen=True, slots=True)
class RegretBound:
    """The rule, for one state of a study.

    Args:
        threshold: The regret at which to stop, in the objective's units.
        metric: The objective's name, for people.
        varies: Whether any two results differ.
    """

    threshold: float
    metric: str
    varies: bool

    @classmethod
    def of(cls, threshold: float | None, study: Study, losses: Array, initial: int) -> RegretBound | None:
        """The rule for a study with these losses; None where it does not apply (yet)."""
        if threshold is None or len(losses) < LEAST * initial:
            return None
        return cls(threshold, study.problem.objective.metric, bool(np.ptp(losses) > 0))

    def missing(self, situation: Situation, points: Points, known: Array, distance: Array) -> str:
        """Why nothing much better is to be had, in a sentence; empty where something may be.

        Args:
            situation: With the pool, which is searched first.
            points: The space.
            known: Points that the search passes over, n x d, and
            distance: how far from each of them a continuous coordinate must be, n.
        """
        objective = situation.unbelieving
        seen = objective.model.seen
        incumbents = seen[situation.is_likely(seen)]
        if not len(incumbents):  # nothing meets the constraints yet
            return ""
        regret = 0.0
        if self.varies:
            n, d = seen.shape
            beta = 0.4 * math.log(max(1, d) * n**2 * math.pi**2 / (6 * _DELTA))
            value = UpperConfidenceBound(objective.model.negated(), beta=beta)  # -LCB of the loss
            with torch.no_grad():
                at = objective.model.marginals(incumbents)
                upper = objective.outcome.inverse(float((at.mean + math.sqrt(beta) * at.variance.sqrt()).min()))
                tops = [value(X.unsqueeze(-2)).max() for X in (seen, situation.pool) if len(X)]
            lower = objective.outcome.inverse(-float(max(tops)))
            if upper - lower <= self.threshold:  # mostly something in the pool shows that there is more
                found = maximise(value, points, situation.pool.numpy(), known, distance)
                lower = lower if found is None else min(lower, objective.outcome.inverse(-found.value))
            regret = max(0.0, upper - lower)
        if not regret <= self.threshold:
            return ""
        return (
            f"the bound on regret is reached: at most {regret:.2g} of {self.metric} is left to be gained, "
            f"and {self.threshold:g} was asked for"
        )
