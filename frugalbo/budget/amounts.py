"""Amounts of what a run may spend, from numbers or from text.

| resource | unit | how it is spent |
|---|---|---|
| `device_seconds` | s | seconds of a segment times the devices it holds |
| `dollars` | USD | device-seconds times the price of the device |
| `evaluations` | 1 | one for each trial that starts |
| `wall_seconds` | s | passes by itself while the run's controller lives |
| `memory_bytes` | B | lent to a segment while it runs, then returned |

The first three are used up, wall time passes, memory comes back; the `Ledger` knows the difference.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any, Literal, get_args

from frugalbo.errors import BudgetError

Resource = Literal["device_seconds", "dollars", "evaluations", "wall_seconds", "memory_bytes"]
RESOURCES: tuple[Resource, ...] = get_args(Resource)

_SECONDS = {
    "s": 1, "sec": 1, "secs": 1, "second": 1, "seconds": 1,
    "m": 60, "min": 60, "mins": 60, "minute": 60, "minutes": 60,
    "h": 3600, "hr": 3600, "hrs": 3600, "hour": 3600, "hours": 3600,
    "d": 86400, "day": 86400, "days": 86400,
}  # fmt: skip
_BYTES = {"b": 1, "byte": 1, "bytes": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("kmgtp", start=1)
    for suffix, base in (("b", 1000), ("ib", 1024))
}
_DOLLARS = ("usd", "$", "dollar", "dollars")
_COUNTS = ("evaluation", "evaluations", "evals", "eval", "trial", "trials")
_PART = re.compile(
    r"\s*(?P<dollar>\$)?\s*(?P<number>\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+)\s*(?P<unit>[a-z$][a-z$ -]*)?", re.I
)
_EXAMPLES = "'10min', '2.5 GPU-hours', '1h 30min wall', '20 USD', '50 trials' or '4 GiB'"


@dataclass(frozen=True, slots=True)
class Cost:
    """What a segment of a trial holds or has used; unlisted resources are zero."""

    device_seconds: float = 0.0
    dollars: float = 0.0
    evaluations: float = 0.0
    wall_seconds: float = 0.0
    memory_bytes: float = 0.0

    def __post_init__(self) -> None:
        for name, amount in self.items():
            number = _number(amount)
            if not 0 <= number < math.inf:
                raise BudgetError(f"a cost must be finite and at least 0, got {name} = {amount!r}")
            object.__setattr__(self, name, number)

    def items(self) -> Iterator[tuple[Resource, float]]:
        """Each resource with its amount."""
        return ((name, getattr(self, name)) for name in RESOURCES)

    def to_json(self) -> dict[str, float]:
        """The amounts that are not zero."""
        return {name: amount for name, amount in self.items() if amount}


@dataclass(frozen=True, slots=True)
class Budget:
    """What a run may spend; a resource that is None is not limited.

    Raises:
        BudgetError: If no resource is limited, or an amount is not a number above 0.
    """

    device_seconds: float | None = None
    dollars: float | None = None
    evaluations: float | None = None
    wall_seconds: float | None = None
    memory_bytes: float | None = None

    def __post_init__(self) -> None:
        for name, amount in self.limits().items():
            number = _number(amount)
            if not 0 < number < math.inf:
                raise BudgetError(f"a budget must be finite and above 0, got {name} = {amount!r}")
            object.__setattr__(self, name, number)
        if not set(self.limits()) - {"memory_bytes"}:
            raise BudgetError(f"a budget needs a limit on time, money or evaluations, such as {_EXAMPLES}")

    def limits(self) -> dict[Resource, float]:
        """The limited resources."""
        return {name: amount for name in RESOURCES if (amount := getattr(self, name)) is not None}

    def to_json(self) -> dict[str, float]:
        """The limited resources, for `Budget(**record)`."""
        return dict(self.limits())  # type: ignore[arg-type]

    @classmethod
    def of(cls, amount: Budget | str | float | Mapping[str, Any]) -> Budget:
        """A budget from a `Budget`, a number of device-seconds, a mapping, or text.

        A text holds one or several amounts, parted by commas, semicolons or `and`, each a number
        with a unit: a time (`"10min"`, `"1h 30min"`, `"2.5 GPU-hours"`) counts device-seconds, or
        wall time if it says `wall`; `USD` or `$` money; `trials` evaluations; `GiB` or `GB` memory.

        Raises:
            BudgetError: If it cannot be read; says what can.
        """
        if isinstance(amount, Budget):
            return amount
        if isinstance(amount, Mapping):
            if unknown := set(amount) - {f.name for f in fields(cls)}:
                raise BudgetError(f"unknown resource {min(unknown)!r}; expected {', '.join(RESOURCES)}")
            return cls(**{str(k): v for k, v in amount.items()})
        if isinstance(amount, str):
            return cls(**_parse(amount))
        return cls(device_seconds=amount)


def parse_amount(text: str) -> tuple[Resource, float]:
    """One amount with its resource, in the units of the module's table.

    Raises:
        BudgetError: If the text cannot be read.
    """
    total: float = 0.0
    found: set[Resource] = set()
    position = 0
    while position < len(text.rstrip()):
        part = _PART.match(text, position)
        if part is None:
            raise BudgetError(f"cannot read the amount {text!r}; expected something like {_EXAMPLES}")
        unit = (part["unit"] or "").strip().lower()
        if part["dollar"]:
            if unit not in ("", *_DOLLARS):
                raise BudgetError(f"cannot read the amount {text!r}; expected something like {_EXAMPLES}")
            unit = "$"
        resource, factor = _unit(unit, text)
        found.add(resource)
        total += float(part["number"]) * factor
        position = part.end()
    if (
        len(found - {"device_seconds"}) > 1
        or not found
        or (found & {"dollars", "evaluations", "memory_bytes"} and len(found) > 1)
    ):
        raise BudgetError(f"cannot read the amount {text!r}; expected something like {_EXAMPLES}")
    return ("wall_seconds" if "wall_seconds" in found else found.pop()), total


def _number(amount: object) -> float:
    """`amount` as a float, numpy's numbers included; NaN if it is none."""
    try:
        return math.nan if isinstance(amount, bool) or not isinstance(amount, Real) else float(amount)
    except OverflowError:
        return math.inf


def _parse(text: str) -> dict[str, float]:
    amounts: dict[str, float] = {}
    for part in re.split(r"[,;]|\band\b", text):
        resource, amount = parse_amount(part)
        if resource in amounts:
            raise BudgetError(f"the budget {text!r} limits {resource.replace('_', ' ')} twice")
        amounts[resource] = amount
    return amounts


def _unit(unit: str, text: str) -> tuple[Resource, float]:
    words = [w for w in re.split(r"[\s-]+", unit) if w]
    wall = "wall" in words
    words = [w for w in words if w not in ("wall", "clock", "gpu", "cpu", "device", "of")]
    word = words[0] if len(words) == 1 else ""
    if word in _SECONDS:
        return ("wall_seconds" if wall else "device_seconds"), _SECONDS[word]
    if word in _DOLLARS and not wall:
        return "dollars", 1
    if word in _COUNTS and not wall:
        return "evaluations", 1
    if word in _BYTES and not wall:
        return "memory_bytes", _BYTES[word]
    if not unit:
        raise BudgetError(f"the amount {text.strip()!r} has no unit; expected something like {_EXAMPLES}")
    raise BudgetError(f"the unit {unit!r} is not known; expected something like {_EXAMPLES}")
