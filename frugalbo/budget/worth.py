"""What a unit of cost must be expected to gain: the price at which a run stops before its budget is spent.

    "0.001 per 60s"       an improvement of the objective by 0.001 for each 60 device-seconds
    "0.5 per GPU-hour"    for each device-hour
    "0.01 per 1 USD"      for each dollar that is charged
    "1e-4 per trial"      for each trial, whatever it costs

Here is only what the text says; what is expected, and whether it is enough, is for a proposer to say.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from frugalbo.budget.amounts import Resource, parse_amount
from frugalbo.errors import BudgetError

_EXAMPLES = "'0.001 per 60s', '0.5 per GPU-hour', '0.01 per 1 USD' or '1e-4 per trial'"
_TEXT = re.compile(r"\s*(?P<gain>[0-9.]+(?:e[+-]?[0-9]+)?)\s*(?:per|/)\s*(?P<amount>.+)", re.I)


@dataclass(frozen=True, slots=True)
class MinGain:
    """The least improvement of the objective that an amount of a resource must be expected to bring.

    Args:
        gain: In units of the objective, above 0.
        per: Of the resource, in the units of `frugalbo.budget.amounts`.
        resource: `"device_seconds"`, `"dollars"` or `"evaluations"`.
        text: What the user wrote.

    Raises:
        BudgetError: If an amount is not a number above 0.
    """

    gain: float
    per: float
    resource: Resource
    text: str

    def __post_init__(self) -> None:
        for name in ("gain", "per"):
            if not 0 < getattr(self, name) < math.inf:
                raise BudgetError(f"expected a {name} above 0 in min_gain, such as {_EXAMPLES}; got {self.text!r}")

    @property
    def price(self) -> float:
        """The gain for one unit of the resource."""
        return self.gain / self.per

    @classmethod
    def of(cls, text: str) -> MinGain:
        """What a text as in the module's list says.

        Raises:
            BudgetError: If it cannot be read, or its resource is none that a trial is charged for.
        """
        found = _TEXT.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise BudgetError(f"cannot read min_gain {text!r}; expected {_EXAMPLES}")
        amount = found["amount"]
        try:
            resource, per = parse_amount(amount if any(c.isdigit() for c in amount) else f"1 {amount}")
            gain = float(found["gain"])
        except ValueError as error:
            raise BudgetError(f"cannot read min_gain {text!r}; expected {_EXAMPLES} ({error})") from None
        if resource not in ("device_seconds", "dollars", "evaluations"):
            raise BudgetError(
                f"a trial is worth its device-seconds, dollars or itself, such as {_EXAMPLES}; "
                f"got {resource.replace('_', ' ')} in min_gain {text!r}"
            )
        return cls(gain, per, resource, text)
