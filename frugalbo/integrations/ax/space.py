"""Ax's search spaces as ours, and ours as Ax's.

| Ax | here |
|---|---|
| `RangeParameter`, linear or log | `Float`, `Int` |
| `ChoiceParameter` | `Choice` |
| `FixedParameter` | `Fixed` |
| `dependents` of a choice | `only_if` |
| a linear `ParameterConstraint` | a known constraint, as text |
| `DerivedParameter` | nothing: computed when a configuration is handed to Ax |

Ax knows conditions on one value of one choice. A parameter under any other one is unconditional there, and its value
where it is inactive means nothing.

A name that is no identifier, such as `optimizer.lr`, becomes one here. Fidelity and task parameters are refused:
steps are the problem's `Fidelity`, and a task is a matter of the model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ax.core.parameter import (
    MAX_VALUES_CHOICE_PARAM,
    ChoiceParameter,
    DerivedParameter,
    FixedParameter,
    ParameterType,
    RangeParameter,
)
from ax.core.parameter import Parameter as AxParameter
from ax.core.parameter_constraint import ParameterConstraint, validate_constraint_parameters
from ax.core.search_space import SearchSpace
from ax.core.types import TParameterization
from ax.exceptions.core import AxError

from frugalbo.errors import SpaceError
from frugalbo.space import Choice, Fixed, Float, Int, Parameter, Params, Space, Value

_TYPES = {bool: ParameterType.BOOL, int: ParameterType.INT, float: ParameterType.FLOAT, str: ParameterType.STRING}


@dataclass(frozen=True, slots=True)
class Translation:
    """A search space of Ax's and the same as one of ours.

    Args:
        names: Our name of each parameter to Ax's.
    """

    ax: SearchSpace
    space: Space
    names: Mapping[str, str]

    def to_ax(self, params: Params) -> TParameterization:
        """A configuration of ours as Ax writes it, with derived parameters."""
        found: dict[str, Any] = {self.names[k]: self.ax[self.names[k]].cast(v) for k, v in params.items()}
        conditional = _children(self.ax)
        for ours, name in self.names.items():
            # Inactive here, but under a condition that Ax cannot have: at the middle of its range, for Ax.
            if name not in found and name not in conditional:
                found[name] = self.ax[name].cast(self.space.parameters[ours].from_unit(0.5))  # type: ignore[union-attr]
        for name, parameter in self.ax.parameters.items():
            if isinstance(parameter, DerivedParameter):
                found[name] = parameter.compute(parameters=found)
        return found

    def from_ax(self, parameters: Mapping[str, Any]) -> Params:
        """A configuration of Ax's as ours.

        Raises:
            SpaceError: If it is not a point of the space.
        """
        params = self.space.complete({ours: _plain(parameters[k]) for ours, k in self.names.items() if k in parameters})
        self.space.check(params)
        return params

    def some_from_ax(self, parameters: Mapping[str, Any]) -> Params:
        """Some parameters of Ax's as ours, without those that are fixed anyway; values are not checked.

        Raises:
            SpaceError: If one is not a parameter of the space, or is fixed to another value.
        """
        ours = {name: k for k, name in self.names.items()}
        if unknown := [name for name in parameters if name not in ours]:
            raise SpaceError(f"expected fixed parameters out of {list(ours)}, got {unknown}")
        given = {ours[name]: _plain(value) for name, value in parameters.items()}
        for name, value in given.items():
            p = self.space.parameters[name]
            if isinstance(p, Fixed) and p.value != value:
                raise SpaceError(f"parameter {name!r} is fixed to {p.value!r} in the space, got {value!r}")
        return {name: value for name, value in given.items() if name in self.space.names}


def from_search_space(search_space: SearchSpace) -> Translation:
    """Our view of a search space of Ax's.

    Raises:
        SpaceError: If it has something that ours cannot have.
    """
    names = _names([name for name, p in search_space.parameters.items() if not isinstance(p, DerivedParameter)])
    ours = {name: k for k, name in names.items()}
    conditions: dict[str, dict[str, Any]] = {}
    for name, parameter in search_space.parameters.items():
        if isinstance(parameter, (ChoiceParameter, FixedParameter)) and parameter.is_hierarchical:
            for value, children in parameter.dependents.items():
                for child in children:
                    conditions.setdefault(child, {}).setdefault(ours[name], []).append(_plain(value))
    parameters = {k: _from_parameter(search_space[name], conditions.get(name)) for k, name in names.items()}
    constraints = [_from_constraint(constraint, ours) for constraint in search_space.parameter_constraints]
    return Translation(search_space, Space(parameters, constraints), names)


def to_search_space(space: Space) -> tuple[SearchSpace, list[str]]:
    """Ax's view of a space of ours, and what of it Ax cannot hold, a sentence each.

    Raises:
        SpaceError: If a choice has values of several types, or more than Ax takes.
    """
    parents = _parents(space)
    dependents: dict[str, dict[Any, list[str]]] = {}
    for name, (parent, value) in parents.items():
        dependents.setdefault(parent, {}).setdefault(value, []).append(name)
    parameters = [_to_parameter(name, p, dependents.get(name)) for name, p in space.parameters.items()]
    by_name = {p.name: p for p in parameters}
    linear = {text: _to_constraint(text, by_name) for text in space.constraints}
    constraints = [constraint for constraint in linear.values() if constraint is not None]
    lost = [
        f"the known constraint {text!r} is not linear on linear scales, so Ax may suggest what violates it"
        for text, found in linear.items()
        if found is None
    ]
    lost += [
        f"the condition of {name!r}: Ax knows conditions on one value of one choice, so it is unconditional there"
        for name, p in space.parameters.items()
        if p.only_if and name not in parents
    ]
    return SearchSpace(parameters, constraints), lost


def _names(theirs: list[str]) -> dict[str, str]:
    """Our name, an identifier, to Ax's."""
    found: dict[str, str] = {}
    for name in theirs:
        ours = name if name.isidentifier() else re.sub(r"\W", "_", f"_{name}" if name[:1].isdigit() else name)
        while ours in found or (ours != name and ours in theirs):
            ours += "_"
        found[ours] = name
    return found


def _from_parameter(p: AxParameter, only_if: dict[str, Any] | None) -> Parameter:
    if p.is_fidelity or getattr(p, "is_task", False):
        kind = "fidelity" if p.is_fidelity else "task"
        raise SpaceError(f"parameter {p.name!r} is a {kind}, which no space of ours has; give steps as progressions")
    match p:
        case RangeParameter(parameter_type=ParameterType.INT):
            return Int(int(p.lower), int(p.upper), log=p.log_scale, only_if=only_if)
        case RangeParameter():
            return Float(float(p.lower), float(p.upper), log=p.log_scale, only_if=only_if)
        case ChoiceParameter():
            return Choice([_plain(v) for v in p.values], ordered=p.is_ordered, only_if=only_if)
        case FixedParameter() if only_if is None:
            return Fixed(_plain(p.value))
        case FixedParameter():
            return Choice([_plain(p.value)], only_if=only_if)
    raise SpaceError(f"parameter {p.name!r} is a {type(p).__name__}, of which nothing is known here")


def _from_constraint(constraint: ParameterConstraint, ours: Mapping[str, str]) -> str:
    if constraint.is_equality:
        raise SpaceError(f"the constraint {constraint} is an equality, which no sampled point meets")
    terms = " + ".join(f"{float(w)!r} * {ours[name]}" for name, w in constraint.constraint_dict.items())
    return f"{terms} <= {float(constraint.bound)!r}"


def _parents(space: Space) -> dict[str, tuple[str, Value]]:
    """The conditions that Ax can have: parameter to its parent and the value under which it exists."""
    found: dict[str, tuple[str, Value]] = {}
    known = {name for name, p in space.parameters.items() if not p.only_if}
    while True:
        before = len(found)
        for name, p in space.parameters.items():
            if name in found or not p.only_if or len(p.only_if) > 1:
                continue
            ((parent, wanted),) = p.only_if.items()
            wanted = wanted if isinstance(wanted, list) else [wanted]
            # A child of a parameter that is unconditional in Ax, and not here, must be so too.
            if len(wanted) == 1 and parent in known and isinstance(space.parameters[parent], (Choice, Fixed)):
                found[name] = parent, wanted[0]
                known.add(name)
        if len(found) == before:
            return found


def _children(search_space: SearchSpace) -> set[str]:
    parents = [p for p in search_space.parameters.values() if p.is_hierarchical]
    return {child for p in parents for children in p.dependents.values() for child in children}  # type: ignore[attr-defined]


def _to_parameter(name: str, p: Parameter, dependents: dict[Any, list[str]] | None) -> AxParameter:
    match p:
        case Fixed():
            return FixedParameter(name, _TYPES[type(p.value)], p.value, dependents=dependents)
        case Float() | Int() if p.lower == p.upper:
            return FixedParameter(name, _type_of(p), p.lower)
        case Float() | Int():
            return RangeParameter(name, _type_of(p), p.lower, p.upper, log_scale=p.log)
        case Choice() if len(p.values) == 1:
            return FixedParameter(name, _TYPES[type(p.values[0])], p.values[0], dependents=dependents)
        case Choice() if len(p.values) > MAX_VALUES_CHOICE_PARAM:
            raise SpaceError(f"parameter {name!r}: Ax takes at most {MAX_VALUES_CHOICE_PARAM} values, not {p.levels}")
        case Choice():
            kind = _common_type(name, p)
            # Ax wants ordered numbers sorted; an order of another kind it has not.
            is_number = kind in (ParameterType.INT, ParameterType.FLOAT)
            is_sorted = is_number and list(p.values) == sorted(p.values)  # type: ignore[type-var]
            return ChoiceParameter(
                name,
                kind,
                list(p.values),
                is_ordered=(p.ordered and (is_sorted or not is_number)) or len(p.values) == 2,
                sort_values=is_sorted or (is_number and len(p.values) == 2),
                log_scale=False,
                dependents=dependents,
            )


def _type_of(p: Float | Int) -> ParameterType:
    return ParameterType.INT if isinstance(p, Int) else ParameterType.FLOAT


def _common_type(name: str, p: Choice) -> ParameterType:
    kinds = {type(value) for value in p.values}
    if kinds == {int, float}:
        return ParameterType.FLOAT
    if len(kinds) > 1:
        raise SpaceError(f"parameter {name!r}: Ax wants values of one type, got {list(p.values)}")
    return _TYPES[kinds.pop()]


def _to_constraint(text: str, parameters: Mapping[str, AxParameter]) -> ParameterConstraint | None:
    """None where Ax cannot hold it: it is not linear, or on a log scale."""
    try:
        constraint = ParameterConstraint(inequality=text)
        validate_constraint_parameters([parameters[name] for name in constraint.constraint_dict])
    except (AxError, ValueError, TypeError, KeyError, AttributeError, SyntaxError):
        return None
    return constraint


def _plain(value: Any) -> Any:  # noqa: ANN401 - numpy's numbers, too
    return value.item() if hasattr(value, "item") else value
