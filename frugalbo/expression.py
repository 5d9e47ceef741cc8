"""Small formulas in the names of parameters, such as a known memory limit, read without `eval`.

Only arithmetic, comparisons, `and` / `or` / `not`, `x if c else y` and a few functions are
understood, so that a formula from a stored study can do nothing but compute.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from frugalbo.errors import SpaceError

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "log": math.log,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "ceil": math.ceil,
    "floor": math.floor,
}


class Expression:
    """A formula over named values.

    Args:
        text: For example `"4 * (width + rho * depth) <= 2e9"`.
        known: The names that may occur.

    Raises:
        SpaceError: If the text cannot be read, or uses an unknown name or a construct that is
            not arithmetic.
    """

    def __init__(self, text: str, known: Iterable[str]) -> None:
        self.text = text
        try:
            self._tree = ast.parse(text, mode="eval").body
        except (SyntaxError, ValueError) as error:
            raise SpaceError(f"cannot read the formula {text!r}: {error}") from None
        self.names = frozenset(
            node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name) and node.id not in _FUNCTIONS
        )
        known = list(known)
        if unknown := self.names - set(known):
            raise SpaceError(f"the formula {text!r} names {min(unknown)!r}; known are {', '.join(known)}")
        self._check(self._tree)

    def __call__(self, values: Mapping[str, Any]) -> Any:  # noqa: ANN401 - a number, a text or a truth
        """The formula's value; a division by zero or a domain error counts as not a number."""
        try:
            return self._value(self._tree, values)
        except (ZeroDivisionError, OverflowError, ValueError):
            return math.nan

    def _check(self, node: ast.AST) -> None:
        allowed = (
            ast.Constant, ast.Name, ast.Load, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Call,
            ast.And, ast.Or, ast.In, ast.NotIn, ast.Tuple, ast.List, *_BINARY, *_UNARY, *_COMPARE,
        )  # fmt: skip
        for part in ast.walk(node):
            named_call = not isinstance(part, ast.Call) or (
                isinstance(part.func, ast.Name) and part.func.id in _FUNCTIONS and not part.keywords
            )
            if not isinstance(part, allowed) or not named_call:
                raise SpaceError(f"the formula {self.text!r} may only compute, got {ast.unparse(part)!r}")

    def _value(self, node: ast.AST, values: Mapping[str, Any]) -> Any:  # noqa: ANN401, C901
        def value(part: ast.AST) -> Any:  # noqa: ANN401
            return self._value(part, values)

        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                return values[node.id]
            case ast.Tuple() | ast.List():
                return [value(part) for part in node.elts]
            case ast.UnaryOp():
                return _UNARY[type(node.op)](value(node.operand))
            case ast.BinOp():
                return _BINARY[type(node.op)](value(node.left), value(node.right))
            case ast.BoolOp():
                parts = (value(part) for part in node.values)
                return all(parts) if isinstance(node.op, ast.And) else any(parts)
            case ast.IfExp():
                return value(node.body) if value(node.test) else value(node.orelse)
            case ast.Call():
                return _FUNCTIONS[node.func.id](*(value(part) for part in node.args))  # type: ignore[attr-defined]
            case ast.Compare():
                left = value(node.left)
                for op, right_node in zip(node.ops, node.comparators, strict=True):
                    right = value(right_node)
                    if not _compare(op, left, right):
                        return False
                    left = right
                return True
        raise AssertionError(f"unchecked node {ast.dump(node)}")


def _compare(op: ast.cmpop, left: Any, right: Any) -> bool:  # noqa: ANN401
    if isinstance(op, (ast.In, ast.NotIn)):
        return (left in right) == isinstance(op, ast.In)
    return _COMPARE[type(op)](left, right)
