"""Uniformly random configurations: the baseline that everything else must beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from frugalbo.propose.base import Suggestion, Tried, nearby, no_feasible_point, untried
from frugalbo.study import Study

_TRIES = 10_000


class RandomProposer:
    """Draws uniformly from the unit cube, cut by the known constraints; no defaults, no memory but of repeats."""

    def __init__(self, *, seed: int) -> None:
        self.seed = seed

    def propose(self, study: Study, n: int) -> Sequence[Suggestion]:
        """The next `n` configurations; fewer if the space is exhausted."""
        tried, found = Tried(study), []
        for number in range(len(study.trials), len(study.trials) + n):
            suggestion = self._draw(study, number, tried)
            if suggestion is None:
                break
            tried.add(suggestion.params)
            found.append(suggestion)
        return found

    def _draw(self, study: Study, number: int, tried: Tried) -> Suggestion | None:
        space = study.problem.space
        rng = np.random.default_rng([self.seed, number])
        was_feasible = False
        for _ in range(_TRIES):
            params = space.decode(rng.random(space.dim))
            if space.is_feasible(params):
                was_feasible = True
                if params not in tried:
                    return Suggestion(params, {"method": "random"})
        rest = untried(space, tried)
        if rest is None:
            params = next(nearby(study, tried, self.seed), None)
            if params is None and not was_feasible and not len(tried):
                raise no_feasible_point(space, _TRIES)
            return None if params is None else Suggestion(params, {"method": "random"})
        left = list(rest)
        return Suggestion(left[rng.integers(len(left))], {"method": "random"}) if left else None
