"""Which acquisition, by what is at stake: the rule of `method="auto"`.

| at stake | and | choice | as |
|---|---|---|---|
| costs that differ over the space | | `pbgi` | what a cheap answer leaves is worth something |
| else | results are mostly noise | `nei` | the best of them is likely a lucky one |
| | four or more trials are pending | `qei` | any of them may become the best, which belief forgets |
| | the budget pays for two or three more | `bmsei` | what each of them tells the next can be counted out |
| | neither | `ei` | a trial is a trial |

What a trial is charged is its device-seconds and, where trials are limited too, the price of one of them
(`frugalbo.budget.price`): where they run out first, costs do not count. The first row that applies decides. "Noise"
is the share of the results' variance that the model does not explain by the configuration. Over fidelities and
environments the row chooses the point, and `frugalbo.acquisition.conditions` under which of them to look there: `kg`
and `mes`, which value both at once, were not shown to be better where shorter runs may be looked at
(`benchmarks/fidelities.py`), and take twice the time.

Where costs differ, `pbgi` stays what it is at the end of a budget and in batches: the chance that what is left pays for
a trial is a part of every index, and those that average over what is pending are blind to cost. What is picked for
batches of equal trials is measured in `benchmarks/batches.py`, the rest in `benchmarks/race.py`, where `ours` is this
and `ours:NAME` each of them by itself; `bmsei` for the last trials is by argument.
"""

from __future__ import annotations

import math

import torch

from frugalbo.acquisition.log_cost import learned_log_cost
from frugalbo.acquisition.registry import Situation

_NOISY = 0.3
_SAME_COST = 0.1  # standard deviation of the log of what a trial is charged, over the pool
_MANY = 4  # trials pending
_FEW = 3  # trials that the budget still pays for


def pick(situation: Situation) -> tuple[str, str]:
    """The name of an acquisition, and why it was picked, as an end of a sentence that begins with "because"."""
    if situation.best() is None:
        return "ei", "nothing that is known meets the constraints, and until then all methods are the same"
    left, pending = situation.trials_left, len(situation.pending)
    if situation.cost is None or situation.log_charge is None:
        costs = "nothing is known of costs or they do not count"
    else:
        X = situation.pool.unsqueeze(-2)
        with torch.no_grad():
            if situation.hard_budget is not None:
                typical_s = float(learned_log_cost(*situation.cost)(X).median().exp())
                left = min(left, situation.hard_budget.left_s / typical_s)
            spread = float(situation.log_charge(X).std(correction=0))
        if spread > _SAME_COST:
            differ = f"what trials are charged differs by a factor of about {math.exp(2 * spread):.2g} over the space"
            near = f", and what is left pays for {left:.1f} of the typical ones, which is a part of each index"
            return "pbgi", differ + (near if left < _FEW + 1 else "")
        costs = "what trials are charged hardly differs"
    noise = float(situation.objective.model.noise)
    if noise > _NOISY:
        return "nei", f"{costs}, and noise is {noise:.0%} of the variance of the results"
    if pending >= _MANY:
        return "qei", f"{costs}, and {pending} trials are pending, any of which may become the best"
    if 2 <= left < _FEW + 1:
        return "bmsei", f"{costs}, and what is left pays for {int(left)} more trials"
    return "ei", costs
