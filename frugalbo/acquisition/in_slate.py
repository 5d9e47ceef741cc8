"""In-slate Thompson sampling: a batch from one draw for each of its members.

Source: Eide, Leslie, Frigessi, arXiv:2104.15046. Each of `q` draws ranks all items; the slate is the
first `q` distinct ones of "rank 1 of draw 1 ... q, rank 2 of draw 1 ... q, ...". To take the best `q` of
one draw instead gives items that are all good for the same reason.
"""

from __future__ import annotations

import torch
from torch import Tensor


def in_slate(values: Tensor) -> Tensor:
    """The slate: for `q` draws of the values of `m` items, `q` distinct indices of items, best first.

    Args:
        values: q x m; larger is better, and minus infinity is as good as any.

    Raises:
        ValueError: If there are fewer items than draws.
    """
    if values.ndim != 2 or values.shape[-1] < values.shape[0]:
        raise ValueError(f"expected draws x items, and no fewer items than draws; got {tuple(values.shape)}")
    return priorities(values)[: len(values)]


def priorities(values: Tensor) -> Tensor:
    """All `m` items in the order in which the slate is filled, m; there may be fewer than draws."""
    ranked = values.argsort(dim=-1, descending=True, stable=True)  # q x m
    listed = ranked.T.reshape(-1)  # rank by rank
    first = torch.full((values.shape[-1],), len(listed))
    first.scatter_reduce_(0, listed, torch.arange(len(listed)), "amin")
    return first.argsort()
