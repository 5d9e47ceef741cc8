"""The contract of a proposer, and what all proposers share: what was tried, and what is left.

A proposer answers one question: which configuration next? It is pure: the same study and seed
give the same suggestions. Anything random in the suggestion for trial `i` comes from a stream of
its own, `default_rng([seed, i])`, so a resumed run suggests what the uninterrupted one would have.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import numpy as np

from frugalbo.errors import SpaceError
from frugalbo.space import Params, Space
from frugalbo.study import Study

# Spaces with at most so many configurations are listed when sampling finds nothing new.
_LISTABLE = 100_000
_NEARBY_TRIES = 10_000

_Key = tuple[tuple[str, str, Any], ...]
_SEEN: WeakKeyDictionary[Study, tuple[int, set[_Key]]] = WeakKeyDictionary()  # up to which revision


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A configuration to try, and why.

    Args:
        why: Plain JSON types: `method` always; what a method knows of the point besides.
        not_worth: Why neither this nor any other configuration is expected to be worth its price, in
            a sentence; empty where one is, or where there is no price.
    """

    params: Params
    why: dict[str, Any] = field(default_factory=dict)
    not_worth: str = ""


class Proposer(Protocol):
    """Says which configurations to try next."""

    def propose(self, study: Study, n: int) -> Sequence[Suggestion]:
        """The next `n` configurations, none of which was tried; trials that run or are paused count as tried.

        Fewer than `n`, even none, mean that the space is exhausted: every configuration that
        satisfies the known constraints is in the study or in the answer.

        Raises:
            SpaceError: If no configuration satisfies the known constraints.
        """
        ...


@runtime_checkable
class Preparing(Protocol):
    """A proposer that can use the time in which nothing can start."""

    def prepare(self, study: Study, is_over: Callable[[], bool]) -> None:
        """Get ready for the next call of `propose`, whose answer that must not change.

        Args:
            study: As it stands; not to be changed.
            is_over: To be asked often; once it is true, leave off.
        """
        ...


class Tried:
    """The configurations that must not be suggested again."""

    def __init__(self, study: Study) -> None:
        self._known = _keys_of(study)
        self._own: set[_Key] = set()

    def __contains__(self, params: Params) -> bool:
        key = key_of(params)
        return key in self._known or key in self._own

    def __len__(self) -> int:
        return len(self._known) + len(self._own)

    def add(self, params: Params) -> None:
        """From now on, `params` is tried."""
        if params not in self:
            self._own.add(key_of(params))


def first_configuration(study: Study) -> tuple[Params, str] | None:
    """The problem's defaults, else the centre of its space, and which of them it is; None if not feasible.

    A space of mostly unordered choices has no centre.
    """
    if study.problem.defaults is not None:
        return dict(study.problem.defaults), "defaults"
    space = study.problem.space
    if 2 * len(space.categorical_dims) > sum(levels != 1 for levels in space.levels):
        return None
    centre = space.decode(np.full(space.dim, 0.5))
    return (centre, "centre") if space.is_feasible(centre) else None


def untried(space: Space, tried: Tried) -> Iterator[Params] | None:
    """All feasible configurations that were not tried, in the order of the space; None if too many to list.

    Raises:
        SpaceError: If no configuration at all is feasible.
    """
    if not is_listable(space):
        return None
    feasible = [params for params in _configurations(space) if space.is_feasible(params)]
    if not feasible:
        raise SpaceError(f"no configuration satisfies the constraints {list(space.constraints)}")
    return (params for params in feasible if params not in tried)


def nearby(study: Study, tried: Tried, seed: int) -> Iterator[Params]:
    """Feasible and untried configurations near those that the study knows to be feasible; endless while it finds any.

    For where points of the whole cube do not hit what is left: a tiny part that the known constraints
    leave, or a knob that exists under many conditions. Each is a known one with one coordinate drawn
    anew, or all of them moved by a share of the range from a tenth down to a billionth.
    """
    space = study.problem.space
    known = [trial.params for trial in study.trials.values()]
    known += [study.problem.defaults] if study.problem.defaults else []
    known = [params for params in known if space.is_feasible(params)]
    rng = np.random.default_rng([seed, len(tried)])
    for number in itertools.count():
        if not known or number >= _NEARBY_TRIES:
            return
        params = known[rng.integers(len(known))]
        u = space.encode(params)
        if number % 2:
            u[rng.choice([i for i, name in enumerate(space.names) if name in params])] = rng.random()
        else:
            u = u + 10.0 ** -rng.uniform(1, 9) * rng.standard_normal(space.dim)
        params = space.decode(u)
        if space.is_feasible(params) and params not in tried:
            known.append(params)
            yield params


def is_listable(space: Space) -> bool:
    """Whether the space is discrete and small enough that its configurations can be listed."""
    levels = [n for n in space.levels if n is not None]
    return len(levels) == space.dim and math.prod(levels) <= _LISTABLE


def no_feasible_point(space: Space, tries: int) -> SpaceError:
    """The error for constraints that nothing seems to satisfy."""
    constraints = ", ".join(repr(c) for c in space.constraints)
    return SpaceError(
        f"none of {tries} points satisfies the constraints {constraints}; do they contradict each other? If not, give "
        f"the problem defaults that satisfy them: the search goes on from there"
    )


def _configurations(space: Space) -> Iterator[Params]:
    # The centre of each share of [0, 1]: where conditions make coordinates idle, repeats are dropped.
    axes = [_unit_levels(space, i) for i in range(space.dim)]
    seen = set()
    for u in itertools.product(*axes):
        params = space.decode(np.array(u))
        if (key := key_of(params)) not in seen:
            seen.add(key)
            yield params


def _unit_levels(space: Space, i: int) -> list[float]:
    p = space.parameters[space.names[i]]
    values = getattr(p, "values", None)
    if values is None:
        values = range(int(p.lower), int(p.upper) + 1) if p.lower != p.upper else [p.lower]  # type: ignore[union-attr]
    return [p.to_unit(v) for v in values]  # type: ignore[union-attr]


def _keys_of(study: Study) -> set[_Key]:
    """Of the study's trials; kept with the study, as it may have a hundred thousand of them."""
    if not isinstance(study, Study):  # a look-alike without a history, with trials that have not started
        return {key_of(trial.params) for trial in study.trials.values()}
    since, keys = _SEEN.get(study, (0, set()))
    keys.update(key_of(trial.params) for trial in study.changed(since))
    _SEEN[study] = study.revision, keys
    return keys


def key_of(params: Params) -> _Key:
    """What two configurations have in common if and only if they are the same."""
    # True is not 1 here, but 1 and 1.0 are the same number.
    return tuple(sorted((k, "b" if isinstance(v, bool) else "", v) for k, v in params.items()))
