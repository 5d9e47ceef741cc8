"""Outcome constraints: a bound on a metric that the job reports, such as `"peak_gib <= 8"`.

What is known of parameters in advance belongs to `Space.constraints` instead, which cuts the space exactly.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from frugalbo.errors import ProblemError

_METRIC = r"[^\W\d][\w./:@-]*"
_SHAPE = re.compile(rf"\s*({_METRIC})\s*(<=|>=)\s*([^\s<>=]+)\s*")


@dataclass(frozen=True, slots=True)
class OutcomeConstraint:
    """A bound on one reported metric, which holds for a configuration or does not.

    Args:
        metric: As the job reports it, in the same report as the objective's value.
        sense: On which side of the bound it must be; the bound itself will do.
        bound: In the metric's units.

    Raises:
        ProblemError: If the metric has no name that a formula could hold, or the bound is not finite.
    """

    metric: str
    sense: Literal["<=", ">="]
    bound: float

    def __post_init__(self) -> None:
        if not isinstance(self.metric, str) or not re.fullmatch(_METRIC, self.metric):
            raise ProblemError(f"a constraint needs the name of a metric, such as 'peak_gib', got {self.metric!r}")
        if self.sense not in ("<=", ">="):
            raise ProblemError(f"a constraint on {self.metric!r} is '<=' or '>=', got {self.sense!r}")
        is_number = isinstance(self.bound, (int, float)) and not isinstance(self.bound, bool)
        if not is_number or not math.isfinite(self.bound):
            raise ProblemError(f"a constraint on {self.metric!r} needs a finite number, got {self.bound!r}")
        object.__setattr__(self, "bound", float(self.bound))

    @classmethod
    def parse(cls, text: str) -> OutcomeConstraint:
        """The constraint in a text: one metric, `<=` or `>=`, one number, in this order.

        Raises:
            ProblemError: If the text is anything else.
        """
        found = _SHAPE.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise ProblemError(
                f"expected a constraint such as 'peak_gib <= 8' (a metric, <= or >=, a number): {text!r}"
            )
        metric, sense, number = found.groups()
        try:
            bound = float(number)
        except ValueError:
            reason = f"expected a plain number after {metric} {sense}, got {number!r}"
            raise ProblemError(f"the constraint {text!r} cannot be read: {reason}") from None
        return cls(metric, sense, bound)  # type: ignore[arg-type]

    def __str__(self) -> str:
        """The text that `parse` reads back."""
        short = f"{self.bound:g}"
        return f"{self.metric} {self.sense} {short if float(short) == self.bound else repr(self.bound)}"

    def excess(self, value: float | None) -> float:
        """By how much `value` is beyond the bound, in the metric's units; infinite if there is no finite value.

        At most 0 where the constraint holds.
        """
        if value is None or not math.isfinite(value):
            return math.inf
        return value - self.bound if self.sense == "<=" else self.bound - value

    def share(self, value: float | None) -> float:
        """The part of `excess` above 0, over the size of the bound (itself, where the bound is 0)."""
        return max(0.0, self.excess(value)) / (abs(self.bound) or 1.0)


def read_constraints(given: Iterable[str | OutcomeConstraint], objective: str) -> tuple[OutcomeConstraint, ...]:
    """The constraints of a problem whose objective is the metric `objective`.

    Raises:
        ProblemError: If one cannot be read, bounds the objective, is there twice, or contradicts another.
    """
    if isinstance(given, str):
        raise ProblemError(f"expected a list of constraints, got the text {given!r}")
    found: dict[tuple[str, str], OutcomeConstraint] = {}
    for one in given:
        constraint = one if isinstance(one, OutcomeConstraint) else OutcomeConstraint.parse(one)
        metric, key = constraint.metric, (constraint.metric, constraint.sense)
        if metric == objective:
            raise ProblemError(
                f"the constraint '{constraint}' is on the objective, which is made as good as can be anyway"
            )
        if key in found:
            raise ProblemError(
                f"the constraints '{found[key]}' and '{constraint}' say the same of {metric!r}; keep one"
            )
        found[key] = constraint
    for (metric, sense), constraint in found.items():
        other = found.get((metric, ">="))
        if sense == "<=" and other is not None and other.bound > constraint.bound:
            raise ProblemError(f"the constraints '{constraint}' and '{other}' contradict each other")
    return tuple(found.values())
