"""Search spaces: parameters, conditions and known constraints, to and from the unit cube.

A `Space` maps between *parameters* (a dict that the job sees) and *unit points* (an array in
[0, 1]^d that models and samplers see). It knows nothing of objectives, models or torch.

How a parameter takes its place in the cube:

* `Float` and `Int`: linear, or linear in the logarithm. Each integer owns an equal share of the
  interval (of the logarithmic interval from `lower - 1/2` to `upper + 1/2` on a log scale), and
  is encoded as the centre of its share, so that `decode` never favours the ends.
* `Choice`: value `i` of `n` owns `[i/n, (i+1)/n)`. Unordered choices are listed in
  `categorical_dims`: distances along them mean nothing.
* `Fixed`: no dimension.
* A parameter whose condition does not hold is absent from the dict and stands at 1/2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from frugalbo.errors import SpaceError
from frugalbo.expression import Expression

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


def _is_same(one: object, other: object) -> bool:
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
            if _is_same(v, value):
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


@dataclass(frozen=True)
class Space:
    """A search space: named parameters, their conditions, and the constraints known in advance.

    Args:
        parameters: Name to `Float`, `Int`, `Choice` or `Fixed`; a bare value means `Fixed`.
        constraints: Conditions as text in the parameters' names, such as
            `"width * depth <= 4096"`; arithmetic, comparisons, `and`/`or`/`not`, `min`, `max`,
            `abs`, `log`, `exp`, `sqrt`, and `x if c else y`. A constraint that names an absent
            (inactive) parameter does not apply.

    Raises:
        SpaceError: If names, conditions or constraints do not fit together.
    """

    parameters: Mapping[str, Parameter]
    constraints: Sequence[str] = ()
    _compiled: tuple[Expression, ...] = field(init=False, repr=False, compare=False)
    _order: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.parameters, Mapping):
            raise SpaceError(f"expected a mapping of names to parameters, got {self.parameters!r}")
        if isinstance(self.constraints, str):
            raise SpaceError(f"expected a list of formulas, got {self.constraints!r}")
        fixed = {k: v if isinstance(v, (Float, Int, Choice, Fixed)) else Fixed(v) for k, v in self.parameters.items()}
        object.__setattr__(self, "parameters", fixed)
        object.__setattr__(self, "constraints", tuple(self.constraints))
        if not self.names:
            raise SpaceError("a space needs at least one parameter that is not fixed")
        for name in fixed:
            if not isinstance(name, str) or not name.isidentifier():
                raise SpaceError(f"parameter names must be identifiers, got {name!r}")
        object.__setattr__(self, "_order", _condition_order(fixed))
        _check_conditions(fixed)
        object.__setattr__(self, "_compiled", tuple(Expression(text, fixed) for text in self.constraints))

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that have a dimension, in the order of the unit cube."""
        return tuple(k for k, p in self.parameters.items() if not isinstance(p, Fixed))

    @property
    def dim(self) -> int:
        """The dimension of the unit cube."""
        return len(self.names)

    @property
    def categorical_dims(self) -> tuple[int, ...]:
        """The dimensions along which distance means nothing."""
        return tuple(
            i
            for i, name in enumerate(self.names)
            if isinstance(p := self.parameters[name], Choice) and not p.ordered and len(p.values) > 2
        )

    @property
    def levels(self) -> tuple[int | None, ...]:
        """For each dimension the number of its values; None for a continuum."""
        return tuple(self.parameters[name].levels for name in self.names)  # type: ignore[union-attr]

    @property
    def is_conditional(self) -> bool:
        """Whether any parameter has a condition."""
        return any(p.only_if for p in self.parameters.values())

    def encode(self, params: Mapping[str, Any]) -> NDArray[np.float64]:
        """The unit point of `params`, of shape `(d,)`.

        Raises:
            SpaceError: If a parameter is missing, unknown, absent by its condition, or out of bounds.
        """
        self.check(params)
        u = np.full(self.dim, 0.5)
        for i, name in enumerate(self.names):
            if name in params:
                u[i] = self._unit(name, params[name])
        return u

    def decode(self, u: ArrayLike) -> Params:
        """The parameters at a unit point of shape `(d,)`; inactive ones are left out."""
        point = np.asarray(u, dtype=np.float64)
        if point.shape != (self.dim,) or not np.isfinite(point).all():
            raise SpaceError(f"expected {self.dim} finite coordinates, got {point!r}")
        coordinate = dict(zip(self.names, np.clip(point, 0.0, 1.0), strict=True))
        found: Params = {}
        for name in self._order:
            p = self.parameters[name]
            if isinstance(p, Fixed):
                found[name] = p.value
            elif _holds(p.only_if, found):
                found[name] = p.from_unit(float(coordinate[name]))
        return {name: found[name] for name in self.parameters if name in found}

    def snap(self, u: ArrayLike) -> NDArray[np.float64]:
        """The unit point that `decode` and `encode` lead to: discrete and inactive dimensions settled."""
        return self.encode(self.decode(u))

    def check(self, params: Mapping[str, Any]) -> None:
        """Refuse parameters that are not a point of this space; known constraints are not looked at."""
        if unknown := set(params) - set(self.parameters):
            raise SpaceError(f"unknown parameter {min(unknown)!r}; this space has {', '.join(self.parameters)}")
        for name, p in self.parameters.items():
            active = _holds(p.only_if, params)
            if active and name not in params:
                raise SpaceError(f"parameter {name!r} is missing")
            if not active and name in params:
                raise SpaceError(f"parameter {name!r} exists only if {dict(p.only_if or {})}")
            if isinstance(p, Fixed) and not _is_same(params[name], p.value):
                raise SpaceError(f"parameter {name!r} is fixed at {p.value!r}, got {params[name]!r}")
            if active and not isinstance(p, Fixed):
                self._unit(name, params[name])

    def is_feasible(self, params: Mapping[str, Any]) -> bool:
        """Whether all known constraints hold at `params`."""
        return all(not c.names <= set(params) or _is_true(c(params)) for c in self._compiled)

    def complete(self, params: Mapping[str, Any]) -> Params:
        """`params` with fixed values filled in and inactive parameters dropped."""
        filled = {k: p.value for k, p in self.parameters.items() if isinstance(p, Fixed)} | dict(params)
        kept: Params = {}
        for name in self._order:
            if name in filled and _holds(self.parameters[name].only_if, kept):
                kept[name] = filled[name]
        unknown = {k: v for k, v in filled.items() if k not in self.parameters}
        return {k: kept[k] for k in self.parameters if k in kept} | unknown

    def sample(self, rng: np.random.Generator, *, tries: int = 10_000) -> Params:
        """A feasible configuration, uniform over the unit cube cut by the known constraints.

        Raises:
            SpaceError: If none of `tries` points satisfies the constraints.
        """
        for _ in range(tries):
            params = self.decode(rng.random(self.dim))
            if self.is_feasible(params):
                return params
        raise SpaceError(f"none of {tries} points satisfies the constraints {list(self.constraints)}")

    def to_json(self) -> dict[str, Any]:
        """This space as plain JSON types."""
        return {
            "parameters": {k: _parameter_to_json(p) for k, p in self.parameters.items()},
            "constraints": list(self.constraints),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Space:
        """The space that `to_json` wrote.

        Raises:
            SpaceError: If the record is not such a space.
        """
        try:
            parameters = {k: _parameter_from_json(v) for k, v in record["parameters"].items()}
            return cls(parameters, tuple(record["constraints"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise SpaceError(f"expected a space as written by to_json, got {record!r}") from error

    def _unit(self, name: str, value: object) -> float:
        try:
            return self.parameters[name].to_unit(value)  # type: ignore[union-attr]
        except SpaceError as error:
            raise SpaceError(f"parameter {name!r}: {error}") from None


def _parameter_to_json(p: Parameter) -> dict[str, Any]:
    record = {"kind": type(p).__name__.lower(), **asdict(p)}
    if isinstance(p, Choice):
        record["values"] = list(p.values)
    return record


def _parameter_from_json(record: Mapping[str, Any]) -> Parameter:
    fields = dict(record)
    kind = fields.pop("kind")
    if kind not in _KINDS:
        raise SpaceError(f"expected one of the parameter kinds {', '.join(_KINDS)}, got {kind!r}")
    return _KINDS[kind](**fields)


def _is_true(value: object) -> bool:
    """A formula that came out as not a number does not hold."""
    return bool(value) and value == value


def _maybe_log(x: float, log: bool) -> float:
    return math.log(x) if log else x


def _holds(only_if: Mapping[str, Any] | None, params: Mapping[str, Any]) -> bool:
    return all(
        name in params and any(_is_same(params[name], value) for value in _as_list(wanted))
        for name, wanted in (only_if or {}).items()
    )


def _as_list(wanted: object) -> list[Any]:
    return wanted if isinstance(wanted, list) else [wanted]


def _check_conditions(parameters: Mapping[str, Parameter]) -> None:
    """Refuse conditions that can never hold: a typing error would hide a parameter in silence."""
    for name, p in parameters.items():
        for other, wanted in (p.only_if or {}).items():
            if not _as_list(wanted):
                raise SpaceError(f"parameter {name!r}: its condition can never hold, as {other!r} may be nothing")
            for value in _as_list(wanted):
                if not _may_be(parameters[other], value):
                    raise SpaceError(f"parameter {name!r}: its condition cannot hold, {other!r} can never be {value!r}")


def _may_be(p: Parameter, value: object) -> bool:
    if isinstance(p, Fixed):
        return _is_same(p.value, value)
    try:
        p.to_unit(value)
    except SpaceError:
        return False
    return True


def _condition_order(parameters: Mapping[str, Parameter]) -> tuple[str, ...]:
    """Names with every condition's parameter before the parameters that depend on it."""
    order: list[str] = []
    rest = dict(parameters)
    while rest:
        ready = [k for k, p in rest.items() if all(other in order for other in (p.only_if or {}))]
        if not ready:
            name, p = next(iter(rest.items()))
            unknown = [k for k in (p.only_if or {}) if k not in parameters]
            why = f"names {unknown[0]!r}, which is not a parameter" if unknown else "goes round in a circle"
            raise SpaceError(f"parameter {name!r}: its condition {why}")
        order += ready
        for name in ready:
            del rest[name]
    return tuple(order)
