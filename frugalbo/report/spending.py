"""Where money and device time went over time, by pool: pure functions over a `Study`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from frugalbo.budget.amounts import Resource
from frugalbo.study import Study

WHOLE = ""  # the name of the account of the whole run


@dataclass(frozen=True, slots=True)
class Spending:
    """One resource in one pool, or in all of the run, after each start and end of a segment.

    Args:
        times: When something changed, ascending, each once.
        spent: By then.
        held: By those that ran then.
        budget: Of this pool, or of the whole; None where there is no limit.
    """

    times: tuple[float, ...]
    spent: tuple[float, ...]
    held: tuple[float, ...]
    budget: float | None

    @property
    def is_used(self) -> bool:
        """Whether any was ever spent or held."""
        return any(self.spent) or any(self.held)

    def at(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Spent and held at other times, of shape (n,)."""
        places = np.searchsorted(np.asarray(self.times), times, side="right")
        return np.array((0.0, *self.spent))[places], np.array((0.0, *self.held))[places]


def spending(study: Study, resource: Resource) -> dict[str, Spending]:
    """By pool, the first to start anything first; the whole run is `WHOLE`, and there before them.

    What was charged at ends is as the ledger charges it: held when a segment starts, settled when it ends.
    """
    changes: dict[str, list[tuple[float, float, float, int]]] = {WHOLE: []}  # (when, more spent, held, holders)
    for started, end in sorted(
        ((s, trial.ends[i] if i < len(trial.ends) else None)
         for trial in study.trials.values() for i, s in enumerate(trial.starts)),
        key=lambda pair: (pair[0].at, pair[0].trial),
    ):  # fmt: skip
        held = getattr(started.held, resource)
        for name in dict.fromkeys((WHOLE, started.pool)):
            own = changes.setdefault(name, [])
            own.append((started.at, 0.0, held, 1))
            if end is not None:
                own.append((end.at, getattr(end.used, resource), -held, -1))
    return {name: _added_up(own, _budget(study, name, resource)) for name, own in changes.items()}


def _budget(study: Study, pool: str, resource: Resource) -> float | None:
    if study.ledger is None:
        return None
    whole = study.ledger.balance()
    balance = whole if pool == WHOLE else whole.pools.get(pool)
    total = math.inf if balance is None else balance[resource].total
    return total if math.isfinite(total) else None


def _added_up(changes: list[tuple[float, float, float, int]], budget: float | None) -> Spending:
    times, by_time = np.unique([when for when, *_ in changes], return_inverse=True)
    amounts = np.zeros((len(times), 3))
    np.add.at(amounts, by_time, np.array([change[1:] for change in changes]).reshape(-1, 3))
    spent, held, holders = amounts.cumsum(axis=0).T
    # What comes and goes leaves crumbs of rounding, until nobody holds anything.
    held = np.where(holders > 0, np.maximum(held, 0.0), 0.0)
    return Spending(tuple(times.tolist()), tuple(spent.tolist()), tuple(held.tolist()), budget)
