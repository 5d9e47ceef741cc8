"""Which acquisition, by what is at stake: the rule of `method="auto"`.

| costs over the space | and | choice | as |
|---|---|---|---|
| hardly differ, or do not count | results are mostly noise | `nei` | the best of them is likely a lucky one |
| | else | `ei` | a trial is a trial |
| differ | | `pbgi` | what a cheap answer leaves is worth something |

"Noise" is the share of the results' variance that the model does not explain by the configuration.
Measured in `benchmarks/race.py`, where `ours` is this and `ours:NAME` each of them by itself. What is left of
the budget has no say here: with a hard budget `pbgi` knows well enough when a trial is the last. Nor have
the size of a batch and the fidelity.
"""

from __future__ import annotations

import math

import torch

from frugalbo.acquisition.log_cost import learned_log_cost
from frugalbo.acquisition.registry import Situation

_NOISY = 0.3
_SAME_COST = 0.1  # standard deviation of the log of the predicted cost over the pool


def pick(situation: Situation) -> tuple[str, str]:
    """The name of an acquisition, and why it was picked, as an end of a sentence that begins with "because"."""
    if situation.best() is None:
        return "ei", "nothing that is known meets the constraints, and until then all methods are the same"
    if situation.cost is None:
        costs = "nothing is known of costs or they do not count"
    else:
        with torch.no_grad():
            spread = float(learned_log_cost(*situation.cost)(situation.pool.unsqueeze(-2)).std(correction=0))
        if spread > _SAME_COST:
            return "pbgi", f"predicted costs differ by a factor of about {math.exp(2 * spread):.2g} over the space"
        costs = "costs hardly differ"
    noise = float(situation.objective.model.noise)
    if noise > _NOISY:
        return "nei", f"{costs}, and noise is {noise:.0%} of the variance of the results"
    return "ei", costs
