"""What a user can state about cost, before anything has run: all of it, its shape, or what makes it grow.

| stated as | what it means |
|---|---|
| `"2 + 0.001 * width * steps"` | a segment's device-seconds, taken as they are |
| `"module:function"`, `"file.py:function"` or a function | the same, computed by `function(params, start, until)` |
| `CostPrior(like="width * depth")`, `"like width * depth"` | a step takes in proportion to that |
| `CostPrior(grows_with=("width",))`, `"grows with width"` | more of it is dearer; how much is learned |
| `CostPrior(startup_s=20)`, `"startup 20s"` | what any segment costs before its first step |
| `CostPrior(typical_s=600)`, `"typical 10min"` | a full trial in the middle of the space, within x3 or so |

Of the last four several can be stated at once, parted by `;` in a text. They are priors: data that speak
against them win. How they enter the model is in `frugalbo.budget.cost`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from frugalbo.budget.amounts import parse_amount
from frugalbo.errors import BudgetError, ProblemError, SpaceError
from frugalbo.expression import Expression
from frugalbo.space import Choice, Fixed, Params, Space

SegmentSeconds = Callable[[Params, int, int], float]

# Names in a formula of a segment's seconds besides the parameters, which come first.
SEGMENT_NAMES: Final = ("steps", "start", "until")
_CLAUSE = re.compile(r"(like|grows with|startup|typical)\b\s*(.*)", re.DOTALL)
_ADDRESS = re.compile(r"[^\s:]+(\.py)?:[A-Za-z_][\w.]*")
_CORNERS: Final = 64
_POINTS: Final = 64


@dataclass(frozen=True, slots=True)
class CostPrior:
    """What is known of costs, give or take.

    Args:
        like: A formula in the parameters that the seconds of a step are proportional to.
        grows_with: Parameters, more of which is dearer.
        startup_s: Device-seconds that a segment costs before its first step.
        typical_s: Device-seconds of a full trial in the middle of the space.

    Raises:
        BudgetError: If nothing is stated, or a time is not one.
    """

    like: str | None = None
    grows_with: Sequence[str] = ()
    startup_s: float | None = None
    typical_s: float | None = None

    def __post_init__(self) -> None:
        names = (self.grows_with,) if isinstance(self.grows_with, str) else tuple(self.grows_with)
        object.__setattr__(self, "grows_with", names)
        if not names and self.like is None and self.startup_s is None and self.typical_s is None:
            raise BudgetError("a CostPrior says at least one of like, grows_with, startup_s and typical_s, got none")
        for name, seconds, least in (("startup_s", self.startup_s, "at least"), ("typical_s", self.typical_s, "above")):
            if seconds is None:
                continue
            number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and math.isfinite(seconds)
            if not number or seconds < 0 or (least == "above" and seconds == 0):
                raise BudgetError(f"{name}: expected seconds {least} 0, got {seconds!r}")

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types, for `CostPrior(**record)`."""
        return {
            "like": self.like,
            "grows_with": list(self.grows_with),
            "startup_s": self.startup_s,
            "typical_s": self.typical_s,
        }

    @classmethod
    def of(cls, text: str) -> CostPrior:
        """From a text such as `"like width * depth; startup 20s"`.

        Raises:
            BudgetError: If a part of it is none of the four.
        """
        stated: dict[str, Any] = {}
        for clause in filter(None, (part.strip() for part in text.split(";"))):
            match = _CLAUSE.fullmatch(clause)
            key = match[1].replace(" ", "_") if match else ""
            if match is None or not match[2]:
                expected = "'like FORMULA', 'grows with NAME, NAME', 'startup TIME' or 'typical TIME'"
                raise BudgetError(f"expected {expected}, got {clause!r}")
            if key in stated or f"{key}_s" in stated:
                raise BudgetError(f"{match[1]!r} is stated twice in {text!r}")
            if key == "like":
                stated["like"] = match[2]
            elif key == "grows_with":
                stated["grows_with"] = tuple(name.strip() for name in match[2].split(","))
            else:
                stated[f"{key}_s"] = _seconds(match[2])
        return cls(**stated)


StatedCost = str | CostPrior | SegmentSeconds


def read_cost(cost: StatedCost, space: Space, steps: int) -> StatedCost:
    """The statement in its normal form: a `CostPrior`, a formula, `"module:function"` or a function.

    Args:
        cost: As a user may state it.
        space: Whose parameters it names.
        steps: Of a full trial.

    Raises:
        ProblemError: If it does not fit the space: unknown names, a parameter without an order that
            cost is to grow with, a formula that is not above 0 at some configuration.
        BudgetError: If a text is not a statement.
    """
    if isinstance(cost, str):
        text = cost.strip()
        if _CLAUSE.match(text) and not _is_formula(text, space):
            cost = CostPrior.of(text)
        elif _ADDRESS.fullmatch(text):
            return text
        else:
            _check(segment_formula(text, space), space, _segment_values(0, steps), "the cost")
            return text
    if isinstance(cost, CostPrior):
        for name in cost.grows_with:
            growth(space, name)
        if cost.like is not None:
            _check(step_formula(cost.like, space), space, {}, "the shape of the cost")
        return cost
    if not callable(cost):
        expected = "a formula, a CostPrior, 'module:function' or a function of params, start and until"
        raise ProblemError(f"expected the cost to be {expected}, got {cost!r}")
    return cost


def is_address(cost: StatedCost) -> bool:
    """Whether it is `"module:function"`."""
    return isinstance(cost, str) and _ADDRESS.fullmatch(cost) is not None


def step_formula(text: str, space: Space) -> Expression:
    """A formula of the seconds of a step, up to a factor.

    Raises:
        ProblemError: If it cannot be read.
    """
    try:
        return Expression(text, space.parameters)
    except SpaceError as error:
        hint = ""
        if "'steps'" in str(error):
            hint = "; it is about one step, so the number of steps does not belong into it"
        raise ProblemError(f"the shape of the cost: {error}{hint}") from None


def segment_formula(text: str, space: Space) -> Expression:
    """A formula of the seconds of a segment, in parameters, `steps`, `start` and `until`.

    Raises:
        ProblemError: If it cannot be read.
    """
    try:
        return Expression(text, [*space.parameters, *(n for n in SEGMENT_NAMES if n not in space.parameters)])
    except SpaceError as error:
        raise ProblemError(f"the cost: {error}") from None


class FormulaSeconds:
    """A formula as a function of a segment: `(params, start, until)` to device-seconds.

    Args:
        text: In the names of parameters, `steps` (of the segment), `start` and `until`. A parameter that
            has one of these names is meant where it occurs.
    """

    def __init__(self, text: str, space: Space) -> None:
        self.formula = segment_formula(text, space)

    def __call__(self, params: Params, start: int, until: int) -> float:
        """The device-seconds; see `compute` for what is refused."""
        return compute(self.formula, params, _segment_values(start, until), "the cost")


def segment_constants(space: Space, start: int, until: int) -> dict[str, float]:
    """The values of the names of a segment formula that are not parameters."""
    return {k: v for k, v in _segment_values(start, until).items() if k not in space.parameters}


def compute(formula: Expression, params: Params, further: Mapping[str, float], what: str) -> float:
    """The value of a formula of a cost at `params`.

    Raises:
        ProblemError: If it is not a number above 0, or names a parameter that is inactive there.
    """
    try:
        value = formula({**further, **params})
    except KeyError as error:
        raise ProblemError(
            f"{what}, {formula.text!r}, needs {error.args[0]!r}, which is inactive at {params}; "
            f"say what it costs there with 'x if condition else y'"
        ) from None
    except SpaceError as error:
        raise ProblemError(f"{what}: {error}") from None
    if isinstance(value, str) or not (math.isfinite(value) and value > 0):
        raise ProblemError(f"{what}, {formula.text!r}, must be a number above 0, got {value!r} at {params}")
    return float(value)


def growth(space: Space, name: str) -> int:
    """1 where more of a parameter is further up in the unit cube, -1 where it is further down, 0 if it is fixed.

    Raises:
        ProblemError: If there is no such parameter, or none of which there can be more.
    """
    if name not in space.parameters:
        known = ", ".join(space.parameters)
        raise ProblemError(f"the cost grows with {name!r}, which is no parameter; known are {known}")
    p = space.parameters[name]
    if isinstance(p, Fixed):
        return 0
    if isinstance(p, Choice):
        numbers = [v for v in p.values if not isinstance(v, str)]
        steps = {b > a for a, b in itertools.pairwise(numbers)}
        if p.ordered and not numbers:
            return 1
        dimension = space.names.index(name)
        if len(numbers) < len(p.values) or len(steps) > 1 or dimension in space.categorical_dims:
            raise ProblemError(
                f"the cost grows with {name!r}, whose values {list(p.values)} have no order: "
                f"say ordered=True, or state a formula with 'x if {name} == ... else y'"
            )
        return -1 if steps == {False} else 1
    return 1


def _is_formula(text: str, space: Space) -> bool:
    """Whether a text that begins like a statement is a formula in a parameter of such a name."""
    try:
        segment_formula(text, space)
    except ProblemError:
        return False
    return True


def _segment_values(start: int, until: int) -> dict[str, float]:
    return {"steps": until - start, "start": start, "until": until}


def _check(formula: Expression, space: Space, further: Mapping[str, float], what: str) -> None:
    """Compute the formula at corners and inner points of the space; known constraints cut them."""
    for params in _probes(space):
        compute(formula, params, further, what)


def _probes(space: Space) -> Iterable[Params]:
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 2, (_CORNERS, space.dim)).astype(float)
    ends = np.stack([np.zeros(space.dim), np.ones(space.dim)])
    U = np.concatenate([ends, corners, rng.random((_POINTS, space.dim))])
    return (params for params in map(space.decode, np.unique(U, axis=0)) if space.is_feasible(params))


def _seconds(text: str) -> float:
    resource, number = parse_amount(text)
    if resource not in ("device_seconds", "wall_seconds"):
        raise BudgetError(f"expected a time such as '30s', got {text!r}")
    return number
