"""What a resource buys: the best results for at most so much of it, such as of memory.

The resource is a metric that trials report together with the objective, or a formula of the knobs where it is known
without running anything. Nothing here draws or formats.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import Any, Final

from frugalbo.expression import Expression
from frugalbo.study import Study, Trial

_MEMORY: Final = re.compile(r"(^|_)(bytes|[kmg]i?b)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Point:
    """A result, and the amount of the resource that it takes."""

    amount: float
    value: float
    trial: int


@dataclass(frozen=True, slots=True)
class Front:
    """All results beside a resource.

    Args:
        against: The metric or the formula; empty if nothing of the kind was reported.
        points: By amount, of equal amounts the best first.
        best: Those that are better than all that take no more: rising amounts, better and better values.
    """

    against: str
    points: tuple[Point, ...]
    best: tuple[Point, ...]

    @property
    def is_bytes(self) -> bool:
        """Whether the amounts are of bytes, as the metric's name says."""
        return self.against.lower().endswith("bytes")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types: the front, and what it is against."""
        return {"against": self.against, "points": len(self.points), "front": [asdict(point) for point in self.best]}


def pareto(study: Study, against: str | None = None) -> Front:
    """The Pareto front of the objective and a resource of which less is better.

    Only trials count that meet the outcome constraints, but for those on the resource itself.

    Args:
        study: Any.
        against: A metric, or a formula such as `"8 * (4e4 + density * 1e5)"` in the names of the knobs; by default the
            first metric that an outcome constraint bounds from above, else the first that is named by a unit of
            memory, such as `state_bytes` or `peak_gib`.

    Raises:
        SpaceError: If it is neither a metric that was reported nor a formula of the knobs.
    """
    reported = {name: None for trial in study.trials.values() for report in trial.reports.values() for name in report}
    if against is None:
        bounded = [c.metric for c in study.problem.bounds if c.sense == "<=" and c.metric in reported]
        against = next(iter([*bounded, *filter(_MEMORY.search, reported)]), "")
    formula = None
    if against and against not in reported:
        formula = Expression(against, study.problem.space.parameters)
    others = [c for c in study.problem.bounds if c.metric != against]
    points = []
    for trial in study.trials.values():
        value = study.value(trial)
        amount = study.measured(trial, against) if formula is None else _computed(formula, trial)
        meets = all(c.excess(study.measured(trial, c.metric)) <= 0 for c in others)
        if value is not None and amount is not None and meets:
            points.append(Point(amount, value, trial.number))
    to_loss = study.problem.objective.to_loss
    points.sort(key=lambda p: (p.amount, to_loss(p.value), p.trial))
    best: list[Point] = []
    for point in points:
        if not best or to_loss(point.value) < to_loss(best[-1].value):
            best.append(point)
    return Front(against, tuple(points), tuple(best))


def _computed(formula: Expression, trial: Trial) -> float | None:
    """What the formula gives; None where a knob that it names is inactive."""
    amount = float(formula(trial.params)) if formula.names <= set(trial.params) else math.nan
    return amount if math.isfinite(amount) else None
