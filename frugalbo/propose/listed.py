"""Configurations from a list, each once: where only these were recorded, or only these can be had."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from frugalbo.propose.base import Suggestion, Tried
from frugalbo.space import Params
from frugalbo.study import Study

Array = NDArray[np.float64]


class Listed:
    """Proposes the configurations of a list in a random order.

    Args:
        configurations: All there are.
    """

    def __init__(self, configurations: Sequence[Params], *, seed: int) -> None:
        order = np.random.default_rng(seed).permutation(len(configurations))
        self._params = [configurations[i] for i in order]
        self._units: Array | None = None

    def propose(self, study: Study, n: int) -> Sequence[Suggestion]:
        """The next `n`; fewer if there are no more."""
        tried = Tried(study)
        found: list[Suggestion] = []
        for params in self._params:
            if len(found) >= n:
                break
            if params not in tried:
                found.append(Suggestion(dict(params), {"method": "random"}))
        return found

    def left(self, study: Study) -> Array:
        """Those that are not in the study as unit points, m x d."""
        tried = Tried(study)
        return self._encoded(study)[[params not in tried for params in self._params]]

    def at(self, study: Study, u: Array) -> Params:
        """The configuration of a unit point, as it was listed."""
        return dict(self._params[int(np.argmin(((self._encoded(study) - u) ** 2).sum(axis=1)))])

    def _encoded(self, study: Study) -> Array:
        if self._units is None:
            self._units = np.array([study.problem.space.encode(params) for params in self._params])
        return self._units
