"""What must come true for a trial to count at all, each with a probability.

That it runs (`models.feasibility`), that it meets an outcome constraint (`models.constraint`), that the
budget lasts (`acquisition.hard_budget`). An improvement is worth its expected value times all of them,
which count as independent. Source: Gardner et al., Bayesian Optimization with Inequality Constraints,
ICML 2014; Gelbart, Snoek, Adams, arXiv:1403.5607.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor


class Chance(Protocol):
    """Something that must come true."""

    def log_probability(self, X: Tensor) -> Tensor:
        """The log of its probability at points one by one, with gradients: ... x 1 x d to ... ."""
        ...


def log_chances(chances: Iterable[Chance], X: Tensor) -> Tensor:
    """The log of the probability that all come true at points one by one, ... x 1 x d to ...; 0 of none."""
    total = torch.zeros_like(X[..., 0, 0])
    for chance in chances:
        total = total + chance.log_probability(X)
    return total
