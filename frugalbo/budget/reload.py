"""What it costs to go on from a checkpoint, beyond what as many steps cost from the beginning.

The model of `frugalbo.budget.cost_process` is fitted to the segments that begin at step 0; what the others took beyond
what these rarely exceed is their reload cost. As long as all that began had one length, nothing tells start-up from
steps, so what can be explained by steps is no reload. It is taken from the segments before all together are fitted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from frugalbo.budget.cost_process import Segments, fit_process
from frugalbo.problem import Problem

_RARELY: Final = 0.9
_MOST: Final = 32  # segments that go on which are looked at, evenly chosen


@dataclass(frozen=True, slots=True)
class Reload:
    """The reload cost in seconds, never below 0: its median, and the most that was seen.

    Args:
        n: The segments that it rests on.
    """

    n: int = 0
    median_s: float = 0.0
    most_s: float = 0.0


def fit_reload(problem: Problem, data: Segments) -> tuple[Reload, Segments]:
    """The reload cost, and the segments without it; nothing, where all or none of them go on.

    One that ran into its cap before its first report counts with twice what it took.
    """
    late = data.goes_on
    begun = None if late.all() or not late.any() else fit_process(problem, data.rows(~late))
    if begun is None:
        return Reload(), data
    rows = np.flatnonzero(late)
    rows = rows[np.linspace(0, len(rows) - 1, min(_MOST, len(rows))).astype(int)]
    usual = np.array([begun.quantile(data.U[i, None], float(data.steps[i]), _RARELY) for i in rows])
    took = data.seconds[rows] * np.where(data.at_least[rows], 2.0, 1.0)
    excess = np.maximum(0.0, took - usual)
    found = Reload(len(excess), float(np.median(excess)), float(excess.max()))
    # A segment keeps a tenth of its seconds, whatever the median says.
    seconds = np.where(late, np.maximum(0.1 * data.seconds, data.seconds - found.median_s), data.seconds)
    return found, data._replace(seconds=seconds)
