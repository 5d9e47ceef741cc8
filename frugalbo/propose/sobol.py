"""A design that fills the space evenly: the defaults, then a scrambled Sobol sequence.

Every proposal walks the same sequence from its beginning and takes the first points that are
feasible and new. So it does not matter who proposed the trials that are there already, and two
calls for one configuration give the same as one call for two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from frugalbo.propose.base import Suggestion, Tried, first_configuration, nearby, no_feasible_point, untried
from frugalbo.space import Params
from frugalbo.study import Study

# The length of the walk: enough to pass what was tried, and to find one point in a thousand.
_TRIES = 8192


class SobolProposer:
    """The defaults (else the centre) as the first trial, then scrambled Sobol points."""

    def __init__(self, *, seed: int) -> None:
        self.seed = seed

    def propose(self, study: Study, n: int) -> Sequence[Suggestion]:
        """The next `n` configurations; fewer if the space is exhausted."""
        if n < 1:
            return []
        tried, found = Tried(study), []
        if not study.trials and (first := first_configuration(study)) is not None:
            params, which = first
            tried.add(params)
            found.append(Suggestion(params, {"method": "sobol", "point": which}))
        for params in self._walk(study, tried):
            if len(found) >= n:
                break
            tried.add(params)
            found.append(Suggestion(params, {"method": "sobol"}))
        return found

    def _walk(self, study: Study, tried: Tried) -> Iterator[Params]:
        """Feasible and untried configurations; `tried` may grow meanwhile."""
        space = study.problem.space
        was_feasible = False
        for u in _sobol(space.dim, self.seed, _TRIES + 2 * len(tried)):
            params = space.decode(u)
            if space.is_feasible(params):
                was_feasible = True
                if params not in tried:
                    yield params
        rest = untried(space, tried)
        if rest is None:
            if not was_feasible and not len(tried):
                raise no_feasible_point(space, _TRIES)
            yield from nearby(study, tried, self.seed)
            return
        left = list(rest)
        while left := [params for params in left if params not in tried]:
            yield left[np.random.default_rng([self.seed, len(tried)]).integers(len(left))]


def _sobol(dim: int, seed: int, count: int) -> Iterator[NDArray[np.float64]]:
    from scipy.stats import qmc  # half a second that `import frugalbo` should not pay

    engine = qmc.Sobol(dim, scramble=True, rng=np.random.default_rng([seed, dim]))
    done = 0
    while done < count:
        block = engine.random(64)  # a power of two keeps the sequence balanced
        yield from block
        done += len(block)
