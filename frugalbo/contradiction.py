"""Whether known constraints contradict each other, told by intervals and not by trying points.

Each formula is computed with intervals in the place of numbers: what it can be anywhere in a box of
parameters. A box in which some formula cannot hold is dropped, another is cut in two; if none is left,
nothing satisfies all formulas. Intervals may be too wide, never too narrow, so that a contradiction that
is told is one; where `_BOXES` boxes do not settle the question, nothing is told.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence

from frugalbo.errors import SpaceError
from frugalbo.expression import Expression
from frugalbo.parameter import Choice, Fixed, Int, Parameter

Interval = tuple[float, float]
Values = frozenset  # of texts, truths or numbers: finitely many that are possible
Range = Interval | Values
Truth = tuple[bool, bool]  # whether it may be true, and whether it may be false

_ANY: Interval = (-math.inf, math.inf)
_BOTH: Truth = (True, True)
_BOXES = 256
_SLACK = 1e-9  # of the size of two numbers before one of them is surely the larger, for rounding


def is_contradiction(formulas: Sequence[Expression], parameters: Mapping[str, Parameter]) -> bool:
    """Whether it is certain that no values of `parameters` make all formulas true.

    Formulas with parameters that may be absent are passed over, since they need not apply.
    """
    always = {name: _range(p) for name, p in parameters.items() if not getattr(p, "only_if", None)}
    asked = [formula for formula in formulas if formula.names <= set(always)]
    names = sorted(set().union(*(formula.names for formula in asked)))
    whole = {name for name in names if isinstance(parameters[name], Int)}
    boxes, looked_at = [{name: always[name] for name in names}], 0
    while boxes:
        box = boxes.pop()
        if not all(_truth(_value(formula.tree, box))[0] for formula in asked):
            continue
        looked_at += 1
        widest = max(names, key=lambda name: _width(box[name], always[name]), default=None)
        halves = _halves(box[widest], widest in whole) if widest is not None else []
        if not halves and all(_is_point(box[name]) for name in names):
            point = {name: _only(box[name], name in whole) for name in names}
            if all(_holds(formula, point) for formula in asked):
                return False
        elif looked_at > _BOXES or not halves:
            return False
        boxes += [{**box, widest: half} for half in halves]  # type: ignore[dict-item]
    return True


def _range(p: Parameter) -> Range:
    if isinstance(p, Fixed):
        return frozenset([p.value])
    return frozenset(p.values) if isinstance(p, Choice) else (float(p.lower), float(p.upper))


def _width(here: Range, everywhere: Range) -> float:
    if isinstance(here, frozenset):
        return 0.0 if len(here) == 1 else len(here) / len(everywhere)
    low, high = everywhere  # type: ignore[misc]
    return (here[1] - here[0]) / (high - low) if high > low else 0.0


def _halves(here: Range, is_whole: bool) -> list[Range]:
    """Two parts that make up `here`; none if it is a single value."""
    if isinstance(here, frozenset):
        values = sorted(here, key=repr)
        middle = len(values) // 2
        return [frozenset(values[:middle]), frozenset(values[middle:])] if middle else []
    low, high = here
    middle = 0.5 * low + 0.5 * high
    if is_whole:
        return [(low, math.floor(middle)), (math.floor(middle) + 1.0, high)] if high > low else []
    return [(low, middle), (middle, high)] if low < middle < high else []


def _is_point(here: Range) -> bool:
    return len(here) == 1 if isinstance(here, frozenset) else here[0] == here[1]


def _only(here: Range, is_whole: bool) -> object:
    value = next(iter(here))
    return int(value) if is_whole and not isinstance(here, frozenset) else value


def _holds(formula: Expression, point: Mapping[str, object]) -> bool:
    try:
        value = formula(point)
    except SpaceError:
        return True  # a formula that cannot be computed is refused where it is
    return bool(value) and value == value


def _value(node: ast.AST, box: Mapping[str, Range]) -> Range | Truth | list[Range]:
    """What a part of a formula can be in `box`: numbers, values, a truth, or a list."""
    match node:
        case ast.Constant():
            return frozenset([node.value])
        case ast.Name():
            return box[node.id]
        case ast.Tuple() | ast.List():
            return [_plain(_value(part, box)) for part in node.elts]
        case ast.UnaryOp(op=ast.Not()):
            true, false = _truth(_value(node.operand, box))
            return _Truth((false, true))
        case ast.UnaryOp():
            low, high = _interval(_value(node.operand, box))
            return (-high, -low) if isinstance(node.op, ast.USub) else (low, high)
        case ast.BinOp():
            return _binary(node.op, _interval(_value(node.left, box)), _interval(_value(node.right, box)))
        case ast.BoolOp():
            truths = [_truth(_value(part, box)) for part in node.values]
            one, other = (all, any) if isinstance(node.op, ast.And) else (any, all)
            return _Truth((one(true for true, _ in truths), other(false for _, false in truths)))
        case ast.IfExp():
            true, false = _truth(_value(node.test, box))
            parts = [_value(part, box) for part, may in ((node.body, true), (node.orelse, false)) if may]
            return parts[0] if len(parts) == 1 else _union(parts)
        case ast.Call():
            return _call(node.func.id, [_value(part, box) for part in node.args])  # type: ignore[attr-defined]
        case ast.Compare():
            values = [_value(part, box) for part in (node.left, *node.comparators)]
            truths = [_compare(op, a, b) for op, a, b in zip(node.ops, values, values[1:], strict=False)]
            return _Truth((all(true for true, _ in truths), any(false for _, false in truths)))
    return _ANY


class _Truth(tuple):
    """A `Truth`, told from an interval by its type."""

    __slots__ = ()


def _truth(value: object) -> Truth:
    if isinstance(value, _Truth):
        return value[0], value[1]
    if isinstance(value, frozenset):
        return any(bool(v) for v in value), any(not v for v in value)
    if isinstance(value, tuple):
        return value != (0.0, 0.0), value[0] <= 0 <= value[1]
    return _BOTH


def _interval(value: object) -> Interval:
    """The numbers that a value can be; any where it may be something else."""
    if isinstance(value, frozenset):
        if all(isinstance(v, (int, float)) for v in value):
            try:
                return float(min(value)), float(max(value))
            except OverflowError:
                return _ANY
        return _ANY
    return value if isinstance(value, tuple) and not isinstance(value, _Truth) else _ANY  # type: ignore[return-value]


def _plain(value: object) -> Range:
    return value if isinstance(value, frozenset) else _interval(value)


def _union(parts: Sequence[object]) -> Range:
    if not parts or any(isinstance(part, (list, _Truth)) for part in parts):
        return _ANY
    if all(isinstance(part, frozenset) for part in parts):
        return frozenset().union(*parts)  # type: ignore[arg-type]
    ends = [_interval(part) for part in parts]
    return min(low for low, _ in ends), max(high for _, high in ends)


def _hull(compute: Callable[[float, float], float], a: Interval, b: Interval) -> Interval:
    """All values of something that is monotone in each of two numbers, from its corners."""
    try:
        corners = [compute(x, y) for x in a for y in b]
    except (OverflowError, ZeroDivisionError, ValueError):
        return _ANY
    if any(isinstance(v, complex) or math.isnan(v) for v in corners):
        return _ANY
    return min(corners), max(corners)


def _binary(op: ast.operator, a: Interval, b: Interval) -> Interval:
    match op:
        case ast.Add():
            return _hull(lambda x, y: x + y, a, b)
        case ast.Sub():
            return _hull(lambda x, y: x - y, a, b)
        case ast.Mult():
            return _hull(lambda x, y: x * y, a, b)
        case ast.Div() if b[0] > 0 or b[1] < 0:
            return _hull(lambda x, y: x / y, a, b)
        case ast.Pow() if a[0] > 0:
            return _hull(lambda x, y: x**y, a, b)
        case ast.Pow() if b[0] == b[1] and b[0] > 0 and b[0].is_integer():
            low, high = _hull(lambda x, y: x**y, a, b)
            return (0.0, high) if b[0] % 2 == 0 and a[0] <= 0 <= a[1] else (low, high)
    return _ANY


def _call(name: str, args: Sequence[object]) -> Interval:
    if any(isinstance(arg, (list, _Truth)) for arg in args):
        return _ANY
    ends = [_interval(arg) for arg in args]
    if name in ("min", "max") and len(ends) > 1:
        pick = min if name == "min" else max
        return pick(low for low, _ in ends), pick(high for _, high in ends)
    if len(ends) != 1:
        return _ANY
    low, high = ends[0]
    if name == "abs":
        return (0.0 if low <= 0 <= high else min(abs(low), abs(high))), max(abs(low), abs(high))
    if name in ("log", "sqrt"):
        if high < 0:
            return _ANY
        root = math.sqrt if name == "sqrt" else lambda x: math.log(x) if x > 0 else -math.inf
        return root(max(0.0, low)), root(high)
    if name == "exp":
        return (_exp(low), _exp(high))
    return (low - 1, high + 1) if name in ("floor", "ceil") else _ANY


def _exp(x: float) -> float:
    return math.exp(x) if x < 709 else math.inf


def _compare(op: ast.cmpop, left: object, right: object) -> Truth:
    if isinstance(op, (ast.In, ast.NotIn)):
        if not isinstance(right, list):
            return _BOTH
        truths = [_equal(left, one) for one in right]
        true, false = any(true for true, _ in truths), all(false for _, false in truths)
        return (true, false) if isinstance(op, ast.In) else (false, true)
    if isinstance(op, (ast.Eq, ast.NotEq)):
        true, false = _equal(left, right)
        return (true, false) if isinstance(op, ast.Eq) else (false, true)
    (a, b), (c, d) = _interval(left), _interval(right)
    if isinstance(op, (ast.Gt, ast.GtE)):
        a, b, c, d = c, d, a, b
    # left < right, or <=: with some slack, as numbers were rounded on the way.
    slack = _SLACK * max((abs(v) for v in (a, b, c, d) if math.isfinite(v)), default=0.0)
    strict = isinstance(op, (ast.Lt, ast.Gt))
    true = a < d + slack or (not strict and a <= d + slack)
    return true, b > c - slack or (strict and b >= c - slack)


def _equal(left: object, right: object) -> Truth:
    if isinstance(left, frozenset) and isinstance(right, frozenset):
        return bool(left & right), len(left) > 1 or left != right
    if isinstance(left, (list, _Truth)) or isinstance(right, (list, _Truth)):
        return _BOTH
    (a, b), (c, d) = _interval(left), _interval(right)
    slack = _SLACK * max((abs(v) for v in (a, b, c, d) if math.isfinite(v)), default=0.0)
    return a <= d + slack and c <= b + slack, not (a == b == c == d)
