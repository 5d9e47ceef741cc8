"""The contract of all bandits: `select` an arm, `update` with what it brought.

    rng = np.random.default_rng(7)
    while not bandit.is_over:
        arm = bandit.select(rng)           # changes nothing
        bandit.update(arm, reward, cost)   # changes the state

Rewards are in [0, 1] unless a class says otherwise. The state is a fold of the updates alone: `select` only
reads it, so the same state and the same generator give the same arm, and a run that was stored with `to_json`
goes on as if nothing had been. Ties are broken at random, so no arm is favoured by its number.

Updates need not come in the order of the selections, nor does an arm have to have been selected to be updated:
what somebody else learned of it counts. What late or foreign updates mean for a guarantee is said with the class.
"""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from frugalbo.errors import BanditError

Array = NDArray[np.float64]


@dataclass(eq=False)
class Bandit(ABC):
    """Chooses among `n_arms` arms, again and again.

    A subclass is a dataclass of its settings and its state. Fields that the constructor takes are settings;
    those with `init=False` are state, set in `__post_init__`. `to_json` and `from_json` work by that.

    Raises:
        BanditError: If there is no arm.
    """

    n_arms: int

    lowest_reward: ClassVar[float] = 0.0
    highest_reward: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        _require(_is_count(self.n_arms), f"expected at least one arm, got n_arms={self.n_arms!r}")

    @property
    def is_over(self) -> bool:
        """Whether no arm can be taken any more; `select` then raises."""
        return False

    @abstractmethod
    def select(self, rng: np.random.Generator) -> int:
        """The next arm, in `range(n_arms)`; changes nothing but the generator.

        Raises:
            BanditError: If the bandit is over.
        """

    def update(self, arm: int, reward: float, cost: Sequence[float] | None = None) -> None:
        """Learn what `arm` brought. A bandit without budgets of its own does not look at `cost`.

        Raises:
            BanditError: If there is no such arm, or the reward is out of range; the state is as it was.
        """
        self._learn(*self._checked(arm, reward))

    @abstractmethod
    def _learn(self, arm: int, reward: float) -> None:
        """Change the state; both are known to be right."""

    def _checked(self, arm: int, reward: float) -> tuple[int, float]:
        try:
            index = -1 if isinstance(arm, bool) else operator.index(arm)
        except TypeError:
            index = -1
        _require(0 <= index < self.n_arms, f"expected an arm in 0..{self.n_arms - 1}, got {arm!r}")
        return index, self._checked_reward(reward)

    def _checked_reward(self, reward: float) -> float:
        low, high = self.lowest_reward, self.highest_reward
        value = float(reward) if isinstance(reward, Real) else math.nan
        # nan compares as false
        _require(low <= value <= high and math.isfinite(value), f"expected a reward in [{low}, {high}], got {reward!r}")
        return value

    def to_json(self) -> dict[str, Any]:
        """Settings and state in what JSON has."""
        return {"kind": type(self).__name__, **{f.name: _plain(getattr(self, f.name)) for f in fields(self)}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The bandit that `to_json` told of.

        Raises:
            BanditError: If it is of another kind, or something is missing, unknown or of another shape.
        """
        names = {"kind": False} | {f.name: f.init for f in fields(cls)}
        _require(
            data.get("kind") == cls.__name__ and set(data) == set(names),
            f"expected a {cls.__name__} with {sorted(names)}, got {data.get('kind')!r} with {sorted(data)}",
        )
        bandit = cls(**{name: data[name] for name, is_setting in names.items() if is_setting})
        for f in fields(cls):
            if not f.init:
                setattr(bandit, f.name, _like(getattr(bandit, f.name), data[f.name], f"{cls.__name__}.{f.name}"))
        return bandit


@dataclass(eq=False)
class MixedBandit(Bandit):
    """A bandit that can say with which probability it takes each arm."""

    @abstractmethod
    def probabilities(self) -> Array:
        """With which the next `select` takes each arm, shape `(n_arms,)`; they sum to one.

        Raises:
            BanditError: If the bandit is over.
        """

    def select(self, rng: np.random.Generator) -> int:
        """An arm drawn from `probabilities`."""
        return draw(self.probabilities(), rng)


def draw(probabilities: Array, rng: np.random.Generator) -> int:
    """An index with its probability, by one uniform number."""
    sums = probabilities.cumsum()
    # Times the last sum, which may miss 1 by rounding; never an index of probability 0.
    return int(sums.searchsorted(rng.random() * sums[-1], side="right"))


def uniform(mask: NDArray[np.bool_]) -> Array:
    """Equal probabilities for the arms of a mask that has at least one."""
    return mask / mask.sum()


def first_of(values: Array) -> Array:
    """Equal probabilities for the arms of the largest value."""
    return uniform(values == values.max())


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise BanditError(message)


def _is_count(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value >= 1)


def require_count(name: str, value: object) -> None:
    """Refuse what is not a whole number of at least 1."""
    _require(_is_count(value), f"expected {name} to be a whole number of at least 1, got {value!r}")


def require_positive(name: str, value: float) -> None:
    """Refuse what is not a finite number above 0."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    _require(is_number and 0 < float(value) < math.inf, f"expected {name} to be a number above 0, got {value!r}")


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _like(now: ArrayLike, stored: object, name: str) -> object:
    """What was stored, as an array or number such as there is now.

    Raises:
        BanditError: If it is of another shape, or not made of such numbers.
    """
    try:
        value = np.asarray(stored).astype(np.asarray(now).dtype, casting="same_kind")
    except (TypeError, ValueError):
        value = np.empty(0)
    fits = value.shape == np.shape(now) and bool(np.isfinite(value).all())
    _require(fits, f"expected {name} of shape {np.shape(now)}, got {stored!r}")
    return value if isinstance(now, np.ndarray) else value.item()
