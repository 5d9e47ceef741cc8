"""The initial design of a model-based method: the defaults and a few Sobol points, none of them too dear.

Such points are chosen blindly, so one that takes a large part of the budget is rarely worth it. Where
costs are known, stated or learned from what has run, a Sobol point that would take more than a tenth of what
is left gives way to the next of the sequence that would not, or to the cheapest of the next few.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from frugalbo.budget.afford import seconds_left
from frugalbo.budget.cost import CostModel, cost_model, predictor
from frugalbo.problem import Problem
from frugalbo.propose.base import Suggestion
from frugalbo.propose.sobol import SobolProposer
from frugalbo.study import Study

_SHARE = 0.1  # of what is left
_SPARE = 8  # points of the sequence that may take the place of a dear one
_CONFIDENCE = 0.98  # of the upper bound, which nobody asks for here


class InitialDesign:
    """Proposes as `SobolProposer` does, but for what is dear.

    Args:
        cost: What is known of costs; by default what the problem states, else learned.
    """

    def __init__(self, *, seed: int, cost: CostModel | None = None) -> None:
        self._sobol = SobolProposer(seed=seed)
        self._cost = cost

    def propose(self, study: Study, n: int) -> Sequence[Suggestion]:
        """The next `n` configurations; fewer if the space is exhausted."""
        most_s = _SHARE * seconds_left(study)
        if n < 1 or math.isinf(most_s):
            return self._sobol.propose(study, n)
        predict = predictor(self._cost or cost_model(study.problem, _CONFIDENCE), study)
        costs: list[tuple[bool, float, int]] = []
        found = self._sobol.propose(study, n + _SPARE)
        for place, suggestion in enumerate(found):
            predicted = predict(suggestion.params, 0, study.problem.steps)
            if predicted is None:
                return found[:n]
            is_dear = predicted.median_s > most_s and "point" not in suggestion.why
            costs.append((is_dear, predicted.median_s if is_dear else 0.0, place))
        return [found[place] for _, _, place in sorted(costs)[:n]]


def initial_trials(problem: Problem) -> int:
    """How many trials start before the model is asked.

    Few, as such points are chosen blindly. A point tells a model about what is near it; along unordered
    choices nothing is, so these need some more.
    """
    levels, unordered = problem.space.levels, len(problem.space.categorical_dims)
    return min(8, 3 + unordered // 3 + sum(n != 1 for n in levels) // 12)
