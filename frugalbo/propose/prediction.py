"""What was predicted of a configuration when it was chosen, as `why` tells it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from frugalbo.acquisition.log_cost import learned_log_cost
from frugalbo.acquisition.registry import Situation
from frugalbo.study import Study

Array = NDArray[np.float64]

_Z95 = 1.959964


def predicted(study: Study, situation: Situation, u: Array, *, ranked: bool = False) -> dict[str, Any]:
    """What was predicted at the chosen point, in the objective's own units; nothing of a ranked objective."""
    sense, outcome = study.problem.objective, situation.objective.outcome
    X = torch.from_numpy(u).reshape(1, 1, -1)
    with torch.no_grad():
        at = situation.objective.model.marginals(X[0])
        # Of an observation: the function's own uncertainty and the noise of a trial.
        mean = float(at.mean)
        sd = float((at.variance + situation.objective.model.noise).sqrt())
        chances = [
            1.0 if chance is None else math.exp(float(chance.log_probability(X)))
            for chance in (situation.feasibility, situation.hard_budget)
        ]
        log_c = None if situation.cost is None else float(learned_log_cost(*situation.cost)(X))
        constraints = {
            str(bound): {"predicted": c.predicted(X), "probability": math.exp(float(c.log_probability(X)))}
            for c in situation.constraints
            for bound in c.constraints  # of two on one metric, the probability that both hold
        }
        best = situation.best()
    of_objective: dict[str, Any] = {
        "predicted": sense.to_loss(outcome.inverse(mean)),
        "predicted_95": sorted(sense.to_loss(outcome.inverse(t)) for t in (mean - _Z95 * sd, mean + _Z95 * sd)),
    }
    if best is not None:
        of_objective["best"] = sense.to_loss(outcome.inverse(best))
    why: dict[str, Any] = {
        **({} if ranked else of_objective),
        "success": chances[0],
        "predicted_cost_s": None if log_c is None else math.exp(log_c),
        **_cost_interval(situation, u),
        "within_budget": chances[1],
    }
    if study.problem.bounds:
        why["constraints"] = constraints
        why["unmeasured"] = [str(c) for c in study.problem.bounds if str(c) not in constraints]
    return why


def _cost_interval(situation: Situation, u: Array) -> dict[str, list[float]]:
    """The 95 % interval of a trial's seconds; none for a formula that is taken as it is."""
    if situation.cost is None or situation.cost[0].n == 0:
        return {}
    fitted, steps = situation.cost
    return {"predicted_cost_95": [fitted.quantile(u[None], steps, q) for q in (0.025, 0.975)]}
