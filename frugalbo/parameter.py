"""Parameters: what a value may be, and its place in [0, 1].

* `Float` and `Int`: linear, or linear in the logarithm. Each integer owns an equal share of the
  interval (of the logarithmic interval from `lower - 1/2` to `upper + 1/2` on a log scale), and
  is encoded as the centre of its share, so that `decode` never favours the ends.
* `Choice`: value `i` of `n` owns `[i/n, (i+1)/n)`.
* `Fixed`: no dimension.

A parameter may have a condition, `only_if`; what holds it together with others is `frugalbo.space`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from frugalbo.errors import SpaceError

Value = float | int | str | bool
Params = dict[str, Value]


# Beyond it the shares of neighbouring integers on a log scale are too small for a float to tell apart.
_MAX_INT = 10**12


def _check_bounds(kind: str, lower: float, upper: float, log: bool) -> None:
    if not (_is_finite(lower) and _is_finite(upper)):
        raise SpaceError(f"{kind}: bounds must be finite numbers, got {lower!r} and {upper!r}")
    if lower > upper:
        raise SpaceError(f"{kind}: lower must not exceed upper, got {lower!r} and {upper!r}")
    if not math.isfinite(upper - lower):
        raise SpaceError(f"{kind}: the bounds are too far apart, got {lower!r} and {upper!r}")
    if log and lower <= 0:
        raise SpaceError(f"{kind}: a log scale needs a lower bound above 0, got {lower!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _is_finite(value: object) -> bool:
    try:
        return _is_number(value) and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:  # a whole number that no float can hold
        return False


def _is_value(value: object) -> bool:
    return isinstance(value, (str, bool)) or _is_number(value)


def is_same(one: object, other: object) -> bool:
    """Equal, where `True` is not `1`."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _condition(only_if: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The condition in JSON types, so that it survives being stored."""
    if only_if is None:
        return None
    if not isinstance(only_if, Mapping):
        raise SpaceError(f"expected a condition {{other: value or list of values}}, got {only_if!r}")
    many = (list, tuple, set, frozenset)
    return {k: sorted(v, key=repr) if isinstance(v, (set, frozenset)) else list(v) if isinstance(v, many) else v
            for k, v in only_if.items()}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Float:
    """A real number in [lower, upper].

    Args:
        only_if: Conditions `{other: value or list of values}`; the parameter exists only where
            all of them hold.
    """

    lower: float
    upper: float
    log: bool = False
    only_if: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        _check_bounds("Float", self.lower, self.upper, self.log)
        object.__setattr__(self, "only_if", _condition(self.only_if))

    def to_unit(self, value: object) -> float:
        """The place of `value` in [0, 1]."""
        if not _is_number(value) or not self.lower <= float(value) <= self.upper:  # type: ignore[arg-type]
            raise SpaceError(f"expected a number in [{self.lower}, {self.upper}], got {value!r}")
        x, a, b = (_maybe_log(float(v), self.log) for v in (value, self.lower, self.upper))  # type: ignore[arg-type]
        if a == b:
            return 0.5
        return min(1.0, max(0.0, (x - a) / (b - a)))

    def from_unit(self, u: float) -> float:
        """The number at `u` in [0, 1]."""
        a, b = _maybe_log(self.lower, self.log), _maybe_log(self.upper, self.log)
        x = a + (b - a) * u
        return float(min(self.upper, max(self.lower, math.exp(x) if self.log else x)))

    @property
    def levels(self) -> int | None:
        """How many values there are; None for a continuum."""
        return 1 if self.lower == self.upper else None


@dataclass(frozen=True, slots=True)
class Int:
    """A whole number in [lower, upper], both included."""

    lower: int
    upper: int
    log: bool = False
    only_if: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        _check_bounds("Int", self.lower, self.upper, self.log)
        if self.lower != int(self.lower) or self.upper != int(self.upper):
            raise SpaceError(f"Int: bounds must be whole, got {self.lower!r} and {self.upper!r}")
        if max(abs(self.lower), abs(self.upper)) > _MAX_INT:
            raise SpaceError(f"Int: bounds must be at most {_MAX_INT:.0e} in size, got {self.lower!r}, {self.upper!r}")
        object.__setattr__(self, "only_if", _condition(self.only_if))

    def to_unit(self, value: object) -> float:
        """The centre of the share of [0, 1] that `value` owns."""
        if not _is_finite(value) or value != int(value) or not self.lower <= value <= self.upper:  # type: ignore[operator,call-overload]
            raise SpaceError(f"expected a whole number in [{self.lower}, {self.upper}], got {value!r}")
        a, b = self._ends()
        left, right = (_maybe_log(int(value) + d, self.log) for d in (-0.5, 0.5))  # type: ignore[call-overload]
        return (0.5 * (left + right) - a) / (b - a)

    def from_unit(self, u: float) -> int:
        """The number that owns `u`."""
        a, b = self._ends()
        x = a + (b - a) * u
        nearest = math.floor((math.exp(x) if self.log else x) + 0.5)
        return int(min(self.upper, max(self.lower, nearest)))

    def _ends(self) -> tuple[float, float]:
        return _maybe_log(self.lower - 0.5, self.log), _maybe_log(self.upper + 0.5, self.log)

    @property
    def levels(self) -> int | None:
        """How many values there are."""
        return int(self.upper) - int(self.lower) + 1


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values (numbers, texts or booleans), in a meaningful order or in none."""

    values: Sequence[Value]
    ordered: bool = False
    only_if: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.values, (str, bytes)) or not isinstance(self.values, Iterable):
            raise SpaceError(f"Choice: expected a sequence of values, got {self.values!r}")
        object.__setattr__(self, "values", tuple(self.values))
        object.__setattr__(self, "only_if", _condition(self.only_if))
        if not self.values:
            raise SpaceError("Choice: expected at least one value, got none")
        if not all(_is_value(v) for v in self.values):
            raise SpaceError(f"Choice: values must be numbers, texts or booleans, got {self.values!r}")
        if any(_is_number(v) and not _is_finite(v) for v in self.values):
            raise SpaceError(f"Choice: numbers must be finite, got {self.values!r}")
        if len({(isinstance(v, bool), v) for v in self.values}) < len(self.values):
            raise SpaceError(f"Choice: values must differ, got {self.values!r}")

    def to_unit(self, value: object) -> float:
        """The centre of the share of [0, 1] that `value` owns."""
        return (self.index(value) + 0.5) / len(self.values)

    def from_unit(self, u: float) -> Value:
        """The value that owns `u`."""
        return self.values[min(len(self.values) - 1, int(u * len(self.values)))]

    def index(self, value: object) -> int:
        """The position of `value`; `True` is not `1` here."""
        for i, v in enumerate(self.values):
            if is_same(v, value):
                return i
        raise SpaceError(f"expected one of {list(self.values)}, got {value!r}")

    @property
    def levels(self) -> int | None:
        """How many values there are."""
        return len(self.values)


@dataclass(frozen=True, slots=True)
class Fixed:
    """A value that every configuration has and that is not searched."""

    value: Value

    def __post_init__(self) -> None:
        if not _is_value(self.value):
            hint = "; for several values use Choice" if isinstance(self.value, (list, tuple)) else ""
            raise SpaceError(f"a fixed value must be a number, a text or a boolean, got {self.value!r}{hint}")
        if _is_number(self.value) and not _is_finite(self.value):
            raise SpaceError(f"a fixed value must be finite, got {self.value!r}")

    @property
    def only_if(self) -> None:
        """A fixed value has no condition."""
        return None


Parameter = Float | Int | Choice | Fixed
_KINDS: dict[str, Callable[..., Parameter]] = {"float": Float, "int": Int, "choice": Choice, "fixed": Fixed}


def parameter_to_json(p: Parameter) -> dict[str, Any]:
    """A parameter as plain JSON types."""
    record = {"kind": type(p).__name__.lower(), **asdict(p)}
    if isinstance(p, Choice):
        record["values"] = list(p.values)
    return record


def parameter_from_json(record: Mapping[str, Any]) -> Parameter:
    """The parameter that `parameter_to_json` wrote; raises `SpaceError` or what `Space.from_json` makes one of."""
    fields = dict(record)
    kind = fields.pop("kind")
    if kind not in _KINDS:
        raise SpaceError(f"expected one of the parameter kinds {', '.join(_KINDS)}, got {kind!r}")
    return _KINDS[kind](**fields)


def _maybe_log(x: float, log: bool) -> float:
    return math.log(x) if log else x
