"""Search spaces: parameters, conditions and known constraints, to and from the unit cube.

A `Space` maps between *parameters* (a dict that the job sees) and *unit points* (an array in
[0, 1]^d that models and samplers see); each parameter's place in the cube is its own business, see
`frugalbo.parameter`. A parameter whose condition does not hold is absent from the dict and stands
at 1/2. A space knows nothing of objectives, models or torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from frugalbo.contradiction import is_contradiction
from frugalbo.errors import SpaceError
from frugalbo.expression import Expression
from frugalbo.parameter import (
    Choice,
    Fixed,
    Float,
    Int,
    Parameter,
    Params,
    Value,
    is_same,
    parameter_from_json,
    parameter_to_json,
)

__all__ = ["Choice", "Fixed", "Float", "Int", "Parameter", "Params", "Space", "Value"]

# So many points are remembered: of any study, at little more than 100 bytes and a few numbers each.
_ENCODED_MOST = 20_000
_EASY = 32  # points to be tried before a contradiction is looked for


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
    _encoded: dict[Any, NDArray[np.float64]] = field(default_factory=dict, init=False, repr=False, compare=False)

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
        if self.constraints and not self._has_easy_point() and is_contradiction(self._compiled, fixed):
            raise SpaceError(
                f"no configuration satisfies the constraints {list(self.constraints)}: they contradict each other, or "
                f"the parameters' bounds"
            )

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
    def repeated_dims(self) -> tuple[tuple[int, ...], ...]:
        """Groups of the categorical dimensions: those that choose among the same values in the same order."""
        found: dict[tuple[tuple[bool, Value], ...], list[int]] = {}
        for i in self.categorical_dims:
            p = self.parameters[self.names[i]]
            assert isinstance(p, Choice)
            found.setdefault(tuple((isinstance(v, bool), v) for v in p.values), []).append(i)
        return tuple(tuple(dims) for dims in found.values() if len(dims) > 1)

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
        # A study's trials are encoded again for each suggestion. 1, 1.0 and True are equal but not the same.
        key = (tuple(params.items()), tuple(map(type, params.values())))
        try:
            known = self._encoded.get(key)
        except TypeError:  # a value without a hash, such as a list
            return self._encode(params)
        if known is None:
            known = self._encode(params)
            if len(self._encoded) >= _ENCODED_MOST:
                self._encoded.clear()
            self._encoded[key] = known
        return known.copy()

    def _encode(self, params: Mapping[str, Any]) -> NDArray[np.float64]:
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
            if isinstance(p, Fixed) and not is_same(params[name], p.value):
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

    def _has_easy_point(self) -> bool:
        """Whether one of a few points satisfies the known constraints."""
        try:
            self.sample(np.random.default_rng(0), tries=_EASY)
        except SpaceError:
            return False
        return True

    def to_json(self) -> dict[str, Any]:
        """This space as plain JSON types."""
        return {
            "parameters": {k: parameter_to_json(p) for k, p in self.parameters.items()},
            "constraints": list(self.constraints),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Space:
        """The space that `to_json` wrote.

        Raises:
            SpaceError: If the record is not such a space.
        """
        try:
            parameters = {k: parameter_from_json(v) for k, v in record["parameters"].items()}
            return cls(parameters, tuple(record["constraints"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise SpaceError(f"expected a space as written by to_json, got {record!r}") from error

    def _unit(self, name: str, value: object) -> float:
        try:
            return self.parameters[name].to_unit(value)  # type: ignore[union-attr]
        except SpaceError as error:
            raise SpaceError(f"parameter {name!r}: {error}") from None


def _is_true(value: object) -> bool:
    """A formula that came out as not a number does not hold."""
    return bool(value) and value == value


def _holds(only_if: Mapping[str, Any] | None, params: Mapping[str, Any]) -> bool:
    return all(
        name in params and any(is_same(params[name], value) for value in _as_list(wanted))
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
        return is_same(p.value, value)
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
