"""A formula over parameters as the logarithm of a cost, at many unit points at once, in numpy or torch.

`Expression` computes one configuration at a time, in plain Python. An acquisition looks at thousands of
points and wants gradients in the continuous ones, so here the same formula is computed on arrays:
real parameters as the smooth functions of their coordinate that they are, whole ones and choices as
`Space.decode` settles them. At settled points of the space both agree; a test says so.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from functools import reduce
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frugalbo.expression import Expression
from frugalbo.space import Choice, Fixed, Float, Int, Parameter, Space

Array = NDArray[np.float64]

_LEAST = 1e-300  # a formula that is 0 or less somewhere has no logarithm there
_TRUTHS = (ast.Compare, ast.BoolOp)
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
}


class Shape:
    """The logarithm of a formula as a function of unit points.

    Args:
        formula: Over parameters of the space and `constants`.
        space: What the unit points are points of.
        constants: Values of further names in the formula.
    """

    def __init__(self, formula: Expression, space: Space, constants: Mapping[str, float] | None = None) -> None:
        self.formula = formula
        self._constants = dict(constants or {})
        self._parameters: dict[str, tuple[int | None, Parameter]] = {}
        for name in formula.names & set(space.parameters):
            p = space.parameters[name]
            self._parameters[name] = (None if isinstance(p, Fixed) else space.names.index(name), p)

    def log(self, U: Any, xp: ModuleType = np) -> Any:  # noqa: ANN401 - an array of numpy or of torch
        """At unit points ... x d, arrays of `xp` (numpy or torch); shape ... ."""
        values: dict[str, Any] = {k: xp.asarray(float(v), dtype=xp.float64) for k, v in self._constants.items()}
        for name, (i, p) in self._parameters.items():
            values[name] = _constant(p.value, xp) if isinstance(p, Fixed) else _values(p, U[..., i], xp)
        with np.errstate(all="ignore"):
            total = _Arrays(values, xp).number(self.formula.tree)
            return xp.log(xp.clip(total + 0.0 * U[..., 0], _LEAST, None))


def _values(p: Parameter, u: Any, xp: ModuleType) -> Any:  # noqa: ANN401 - an array
    """The values of a parameter at coordinates `u`; texts come as an array of objects of numpy."""
    if isinstance(p, Choice):
        index = np.minimum(len(p.values) - 1, (_plain(u) * len(p.values)).astype(int))
        if any(isinstance(v, str) for v in p.values):
            return np.array(p.values, dtype=object)[index]
        return xp.asarray(np.array(p.values, dtype=np.float64)[index])
    assert isinstance(p, (Float, Int))
    if p.levels == 1:
        return xp.asarray(float(p.lower), dtype=xp.float64) + 0 * u
    half = 0.5 if isinstance(p, Int) else 0.0
    low, high = (math.log(v) if p.log else v for v in (p.lower - half, p.upper + half))
    x = low + (high - low) * u
    x = xp.exp(x) if p.log else x
    return xp.clip(xp.floor(x + 0.5), p.lower, p.upper) if half else x


def _constant(value: object, xp: ModuleType) -> Any:  # noqa: ANN401 - an array
    if isinstance(value, str):
        return np.array(value, dtype=object)
    return xp.asarray(float(value), dtype=xp.float64)  # type: ignore[arg-type]


def _plain(u: Any) -> Array:  # noqa: ANN401 - an array
    return u if isinstance(u, np.ndarray) else u.detach().numpy()


class _Arrays:
    """A formula computed on arrays; `Expression` has checked that it only has what is known here."""

    def __init__(self, values: Mapping[str, Any], xp: ModuleType) -> None:
        self.values = values
        self.xp = xp

    def number(self, node: ast.expr) -> Any:  # noqa: ANN401 - an array
        """Where a number is wanted, a truth counts as 0 or 1."""
        found = self.value(node)
        return self.xp.where(found, 1.0, 0.0) if _is_truth(node) else found

    def truth(self, node: ast.expr) -> Any:  # noqa: ANN401 - an array
        found = self.value(node)
        return found if _is_truth(node) else found != 0

    def value(self, node: ast.expr) -> Any:  # noqa: ANN401 - an array
        match node:
            case ast.Constant():
                return _constant(node.value, self.xp)
            case ast.Name():
                return self.values[node.id]
            case ast.UnaryOp(op=ast.Not()):
                return ~self.truth(node.operand)
            case ast.UnaryOp():
                return -self.number(node.operand) if isinstance(node.op, ast.USub) else self.number(node.operand)
            case ast.BinOp():
                return self._binary(node.op, self.number(node.left), self.number(node.right))
            case ast.BoolOp(op=ast.And()):
                return reduce(lambda a, b: a & b, map(self.truth, node.values))
            case ast.BoolOp():
                return reduce(lambda a, b: a | b, map(self.truth, node.values))
            case ast.IfExp():
                return self.xp.where(self.truth(node.test), self.number(node.body), self.number(node.orelse))
            case ast.Compare():
                sides = [node.left, *node.comparators]
                pairs = zip(node.ops, sides, sides[1:], strict=False)
                return reduce(lambda a, b: a & b, (self._compare(op, a, b) for op, a, b in pairs))
            case ast.Call():
                return self._call(node.func.id, [self.number(part) for part in node.args])  # type: ignore[attr-defined]
        raise AssertionError(f"unchecked node {ast.dump(node)}")

    def _binary(self, op: ast.operator, a: Any, b: Any) -> Any:  # noqa: ANN401
        match op:
            case ast.Add():
                return a + b
            case ast.Sub():
                return a - b
            case ast.Mult():
                return a * b
            case ast.Div():
                return a / b
            case ast.FloorDiv():
                return self.xp.floor(a / b)
            case ast.Mod():
                return a - b * self.xp.floor(a / b)
        return a**b

    def _compare(self, op: ast.cmpop, left: ast.expr, right: ast.expr) -> Any:  # noqa: ANN401
        if isinstance(op, (ast.In, ast.NotIn)) and isinstance(right, (ast.Tuple, ast.List)):
            found = reduce(lambda a, b: a | b, (self._compare(ast.Eq(), left, part) for part in right.elts))
            return found if isinstance(op, ast.In) else ~found
        a, b = self.value(left), self.value(right)
        if any(isinstance(side, np.ndarray) and side.dtype == object for side in (a, b)):
            a, b = (side if isinstance(side, np.ndarray) else _plain(side) for side in (a, b))
            return self.xp.asarray(np.asarray(_COMPARISONS[type(op)](a, b), dtype=bool))
        return _COMPARISONS[type(op)](a, b)

    def _call(self, name: str, parts: list[Any]) -> Any:  # noqa: ANN401
        if name in ("min", "max"):
            return reduce(self.xp.minimum if name == "min" else self.xp.maximum, parts)
        return getattr(self.xp, name)(*parts)


def _is_truth(node: ast.expr) -> bool:
    return isinstance(node, _TRUTHS) or (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not))
