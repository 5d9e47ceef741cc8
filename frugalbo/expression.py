"""Small formulas in the names of parameters, such as a known memory limit, read without `eval`.

Only arithmetic, comparisons, `and` / `or` / `not`, `x if c else y` and a few functions are
understood, so that a formula from a stored study can do nothing but compute.
"""

from __future__ import annotations

import ast
import math
import operator
import warnings
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
    ast.Pow: lambda base, exponent: _power(base, exponent),
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
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
_MAX_DEPTH = 150  # of nesting; `_value` takes two frames of Python's stack for each
_MAX_BITS = 4096  # of a whole power; a formula must not be able to fill the memory


class Expression:
    """A formula over named values.

    Attributes:
        tree: As parsed, checked to compute only.
        names: The names that occur.

    Args:
        text: For example `"4 * (width + rho * depth) <= 2e9"`.
        known: The names that may occur.

    Raises:
        SpaceError: If the text cannot be read, or uses an unknown name or a construct that is
            not arithmetic.
    """

    def __init__(self, text: str, known: Iterable[str]) -> None:
        if not isinstance(text, str):
            raise SpaceError(f"cannot read the formula {text!r}: expected a text")
        self.text = text
        self._shown = repr(text if len(text) <= 200 else text[:197] + "...")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # such as `1if a else 2`, which Python will refuse one day
                self.tree = ast.parse(text, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise SpaceError(f"cannot read the formula {self._shown}: {error}") from None
        if _depth(self.tree) > _MAX_DEPTH:
            raise SpaceError(f"cannot read the formula {self._shown}: it is nested too deeply")
        called = {id(node.func) for node in ast.walk(self.tree) if isinstance(node, ast.Call)}
        self.names = frozenset(
            node.id
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Name) and not (id(node) in called and node.id in _FUNCTIONS)
        )
        known = list(known)
        if unknown := self.names - set(known):
            raise SpaceError(f"the formula {self._shown} names {min(unknown)!r}; known are {', '.join(known)}")
        self._check(self.tree)

    def __call__(self, values: Mapping[str, Any]) -> Any:  # noqa: ANN401 - a number, a text or a truth
        """The formula's value; a division by zero, an overflow or a domain error makes all of it not a number.

        Raises:
            SpaceError: If it computes with texts or lists, or calls a function wrongly.
        """
        try:
            return self._value(self.tree, values)
        except (ZeroDivisionError, OverflowError, ValueError):
            return math.nan
        except TypeError as error:
            raise SpaceError(f"cannot compute the formula {self._shown}: {error}") from None

    def _check(self, node: ast.AST) -> None:
        allowed = (
            ast.Constant, ast.Name, ast.Load, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Call,
            ast.And, ast.Or, ast.In, ast.NotIn, ast.Tuple, ast.List, ast.Not, *_BINARY, *_UNARY, *_COMPARE,
        )  # fmt: skip
        for part in ast.walk(node):
            named_call = not isinstance(part, ast.Call) or (
                isinstance(part.func, ast.Name) and part.func.id in _FUNCTIONS and not part.keywords
            )
            odd_constant = isinstance(part, ast.Constant) and not isinstance(part.value, (int, float, str))
            if not isinstance(part, allowed) or not named_call or odd_constant:
                raise SpaceError(f"the formula {self._shown} may only compute, got {ast.unparse(part)!r}")

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
            case ast.UnaryOp(op=ast.Not()):
                return not value(node.operand)
            case ast.UnaryOp():
                return _UNARY[type(node.op)](_number(value(node.operand)))
            case ast.BinOp():
                return _valid(_BINARY[type(node.op)](_number(value(node.left)), _number(value(node.right))))
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


def _depth(tree: ast.AST) -> int:
    depth, layer = 0, [tree]
    while layer and depth <= _MAX_DEPTH:
        depth, layer = depth + 1, [child for node in layer for child in ast.iter_child_nodes(node)]
    return depth


def _number(value: Any) -> Any:  # noqa: ANN401
    # Python would multiply texts and lists, into all of the memory if asked.
    if isinstance(value, (str, list, tuple)):
        raise TypeError(f"expected a number, got {value!r}")
    return value


def _valid(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, complex) or value != value:
        raise ValueError("not a real number")
    return value


def _power(base: Any, exponent: Any) -> Any:  # noqa: ANN401
    whole = isinstance(base, int) and isinstance(exponent, int)
    if whole and exponent > 0 and (abs(base) > 1) and base.bit_length() * exponent > _MAX_BITS:
        raise OverflowError("too large a power")
    return base**exponent


def _compare(op: ast.cmpop, left: Any, right: Any) -> bool:  # noqa: ANN401
    if isinstance(op, (ast.In, ast.NotIn)):
        return (left in right) == isinstance(op, ast.In)
    return _COMPARE[type(op)](left, right)
