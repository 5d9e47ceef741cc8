"""Pools: like devices, with a price, a speed, and perhaps a budget of their own.

In a file, each is a table of TOML:

    [[pool]]
    name = "spot"
    devices = "cuda:2,3"      # or a number, for a simulation
    dollars_per_hour = 0.9    # of one device; 0 by default
    speed = 1.5               # relative to what costs are stated and predicted for; 1 by default
    preemptible = true        # false by default
    budget = "10 USD"         # of time, money or trials; by default no other limit than the whole budget

What a run spends in a pool counts against the pool's budget and against that of the whole run.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from frugalbo.budget.amounts import Budget
from frugalbo.errors import BudgetError, PoolError
from frugalbo.slot import Slot

_NAME = re.compile(r"[A-Za-z][\w.-]*")
_NOT_BY_POOL = ("wall_seconds", "memory_bytes")


@dataclass(frozen=True, slots=True)
class Pool:
    """Like devices.

    Args:
        name: A letter, then letters, digits, `_`, `.` and `-`.
        devices: How many, in a simulation; on this machine a text such as `"cuda:0,1"` or `"cpu:2x4"`.
        dollars_per_hour: The price of one device.
        speed: How many seconds' worth of work on a device of speed 1 one of them does in a second.
        preemptible: Whether a segment may be taken away from its device at any moment.
        budget: What may be spent here, as for `tune`; None for no other limit than that of the whole.

    Raises:
        PoolError: If these do not make sense.
    """

    name: str
    devices: int | str
    dollars_per_hour: float = 0.0
    speed: float = 1.0
    preemptible: bool = False
    budget: Budget | str | float | Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise PoolError(f"expected the name of a pool to be a word, got {self.name!r}")
        is_count = isinstance(self.devices, int) and not isinstance(self.devices, bool)
        if not (self.devices >= 1 if is_count else isinstance(self.devices, str) and self.devices):  # pyright: ignore[reportOperatorIssue]
            raise PoolError(f"pool {self.name!r}: expected at least one device, got {self.devices!r}")
        if not _is_number(self.dollars_per_hour) or not 0 <= self.dollars_per_hour < math.inf:
            raise PoolError(f"pool {self.name!r}: expected a price of at least 0, got {self.dollars_per_hour!r}")
        if not _is_number(self.speed) or not 0 < self.speed < math.inf:
            raise PoolError(f"pool {self.name!r}: expected a speed above 0, got {self.speed!r}")
        if not isinstance(self.preemptible, bool):
            raise PoolError(f"pool {self.name!r}: expected preemptible to be true or false, got {self.preemptible!r}")
        if self.budget is not None:
            object.__setattr__(self, "budget", self._read_budget())

    @property
    def limit(self) -> Budget | None:
        """The budget, as it was read."""
        return self.budget  # type: ignore[return-value]

    def holding(self, slot: Slot) -> Slot:
        """A slot as one of this pool."""
        return replace(
            slot,
            name=f"{self.name}/{slot.name}",
            pool=self.name,
            dollars_per_hour=float(self.dollars_per_hour),
            speed=float(self.speed),
            preemptible=self.preemptible,
        )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types, for `Pool(**record)`."""
        record = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**record, "budget": self.limit and self.limit.to_json()}

    def _read_budget(self) -> Budget:
        try:
            budget = Budget.of(self.budget)  # type: ignore[arg-type]
        except BudgetError as error:
            raise PoolError(f"pool {self.name!r}: {error}") from None
        if other := [name for name in _NOT_BY_POOL if name in budget.limits()]:
            text = f"expected a budget of time on devices, money or trials, got one of {other[0].replace('_', ' ')}"
            raise PoolError(f"pool {self.name!r}: {text}")
        if budget.dollars is not None and not self.dollars_per_hour:
            raise PoolError(f"pool {self.name!r}: a budget of money needs a price, expected dollars_per_hour above 0")
        return budget


def read_pools(pools: Sequence[Pool | Mapping[str, Any]] | str | Path) -> tuple[Pool, ...]:
    """Pools from a file of TOML, or one by one.

    Raises:
        PoolError: If there are none, two have the same name, or one makes no sense.
    """
    records = _from_file(Path(pools)) if isinstance(pools, (str, Path)) else pools
    found = tuple(pool if isinstance(pool, Pool) else _pool(pool) for pool in records)
    if not found:
        raise PoolError("expected at least one pool, got none")
    if twice := [name for name, n in Counter(pool.name for pool in found).items() if n > 1]:
        raise PoolError(f"expected pools of different names, got {twice[0]!r} twice")
    return found


def budgets_of(pools: Sequence[Pool] | None) -> dict[str, Budget]:
    """The budgets of those pools that have one, by name."""
    return {pool.name: pool.limit for pool in pools or () if pool.limit is not None}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _from_file(path: Path) -> Sequence[Mapping[str, Any]]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PoolError(f"cannot read the pools in {path}: {error.strerror}") from None
    except ValueError as error:  # not TOML, or not text
        raise PoolError(f"cannot read the pools in {path}: {error}") from None
    pools = content.pop("pool", [])
    if content or not isinstance(pools, list):
        unknown = next(iter(content), "pool")
        raise PoolError(f"expected tables [[pool]] in {path}, got {unknown!r}")
    return pools


def _pool(record: Mapping[str, Any]) -> Pool:
    known = [f.name for f in fields(Pool)]
    name = f"pool {record.get('name')!r}"
    if unknown := set(record) - set(known):
        raise PoolError(f"{name}: unknown key {min(unknown)!r}; known are {', '.join(known)}")
    if missing := {"name", "devices"} - set(record):
        raise PoolError(f"{name}: expected {min(missing)!r}, which is missing")
    return Pool(**record)
