"""What a segment may take, and whether that is enough: the one rule by which configurations are affordable.

A segment is affordable if it is more likely than not to end within what is free: if the median of
its predicted cost fits. It is granted what it hardly ever exceeds, or all that is free if that is
less; while little is known, not more than a share of it. Where no seconds are limited, none need be
held, and a job is not ended for taking longer than those before it. The run loop quotes before it
starts anything, the scheduler before it proposes to; the proposer has `seconds_left`, which is the
same rule seen from where slots are not known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from frugalbo.budget.amounts import Cost
from frugalbo.budget.cost import CostPrediction
from frugalbo.budget.ledger import Balance
from frugalbo.slot import Slot
from frugalbo.study import Study

# The share of its cap that a job has for its work; the rest may go to its last words.
_USABLE = 0.9
# From fewer segments than this the upper cost is little more than a guess, and can be all that is left.
# Until then one segment may take that share of what is free, or so many medians if that is more: a
# configuration that is dearer than the whole budget then costs a part of it and not all.
_FEW = 4
_MEDIANS = 2.5


@dataclass(frozen=True, slots=True)
class Quote:
    """A segment that can be paid for: its cap in seconds on the slot, and what to hold for it."""

    cap_s: float
    held: Cost


@dataclass(frozen=True, slots=True)
class Refusal:
    """A segment that cannot be paid for, and why, in a sentence.

    Args:
        hopeless: Whether no segment could be, whatever its configuration.
    """

    reason: str
    hopeless: bool


def quote(
    balance: Balance,
    slot: Slot,
    predicted: CostPrediction | None,
    *,
    first: bool = True,
    sharers: int = 1,
    trial_cap_s: float | None = None,
    memory_bytes: float = 0.0,
) -> Quote | Refusal:
    """What a segment on `slot` may take of what is free.

    While nothing is known of what trials cost, the free budget is shared out evenly among the
    slots that want some. A slot in a pool has what is free there, at most.

    Args:
        balance: What is free.
        slot: Where the segment would run.
        predicted: In device-seconds of a device of speed 1; None where nothing is known.
        first: Whether it is the first segment of its trial, which counts as one evaluation.
        sharers: The slots that are waiting, this one included.
        trial_cap_s: The most seconds that any segment may take on its slot, whatever is left.
        memory_bytes: What is lent to it while it runs, if memory is limited.
    """
    balance = balance.within(slot.pool)
    rate = slot.devices * slot.dollars_per_hour / 3600
    limits = {
        "device seconds": balance["device_seconds"].free / slot.devices,
        "dollars": balance["dollars"].free / rate if rate else math.inf,
    }
    if predicted is None:
        limits = {name: limit / sharers for name, limit in limits.items()}
    limits["wall seconds"] = balance["wall_seconds"].free
    scarce = min(limits, key=lambda name: limits[name])
    seconds = limits[scarce]
    cap_s = min(seconds, trial_cap_s or math.inf)
    if predicted is not None:
        pace = slot.devices * slot.speed
        median_s = predicted.median_s / pace
        if median_s > seconds:
            return Refusal(
                f"what is left does not pay for another trial: the next would take about {median_s:.3g} s, "
                f"and the {scarce} left allow {seconds:.3g} s",
                hopeless=seconds <= 0,
            )
        upper_s = predicted.upper_s / pace / _USABLE
        if predicted.n < _FEW and not predicted.is_certain:
            upper_s = min(upper_s, max(_MEDIANS * median_s, seconds / _FEW))
        if predicted.is_certain or math.isfinite(seconds):
            cap_s = min(cap_s, upper_s)
    limited = balance.limited
    held = Cost(
        device_seconds=cap_s * slot.devices if "device_seconds" in limited else 0.0,
        dollars=cap_s * rate if "dollars" in limited else 0.0,
        evaluations=1.0 if first else 0.0,
        memory_bytes=memory_bytes if "memory_bytes" in limited else 0.0,
    )
    if lacking := balance.lacks(held):
        return Refusal(f"the budget of {lacking.replace('_', ' ')} is spent", hopeless=True)
    return Quote(cap_s, held)


def seconds_left(study: Study) -> float:
    """The device-seconds that one more trial may take, as far as the study alone tells; infinite without a limit.

    Of devices of speed 1, in the pool where most is left. Dollars and wall time become device-seconds at
    the rate at which they were so far: the price of a device-second is what was charged for the past ones,
    and a second on the clock is worth as many device-seconds as the segments so far took in one. Where
    nothing was charged yet, such a limit does not count.
    """
    if study.ledger is None:
        return math.inf
    whole = study.ledger.balance()
    wall = whole["wall_seconds"].free
    on_the_clock = wall * _device_seconds_per_second(study) if math.isfinite(wall) else math.inf
    speeds = dict.fromkeys(whole.pools or ("",), 1.0) | study.speeds
    return max(speed * min(on_the_clock, _left_in(pool, whole)) for pool, speed in speeds.items())


def _left_in(pool: str, whole: Balance) -> float:
    """Device-seconds that are free in a pool, by those of the whole and its own, and by their price there."""
    balance, past = whole.within(pool), whole.pools.get(pool, whole)
    left, spent, dollars = balance["device_seconds"].free, past["device_seconds"].spent, past["dollars"].spent
    return min(left, balance["dollars"].free / dollars * spent) if dollars > 0 and spent > 0 else left


def _device_seconds_per_second(study: Study) -> float:
    """What a second on the clock was worth in segments that have ended; infinite where none tells."""
    seconds = used = 0.0
    for trial in study.trials.values():
        for started, ended in zip(trial.starts, trial.ends, strict=False):
            if ended.used.device_seconds > 0 and ended.at > started.at:
                seconds += ended.at - started.at
                used += ended.used.device_seconds
    return used / seconds if seconds else math.inf
