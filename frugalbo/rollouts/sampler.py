"""The order in which a data loader visits prompts, each as often as it is allocated rollouts.

A torch `DataLoader` takes any iterable of indices as its `sampler`, so this needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from frugalbo.errors import BudgetError
from frugalbo.rollouts.allocator import RolloutAllocator


class RolloutSampler:
    """Indices of one epoch: random batches of prompts, each repeated by its allocation, in random order.

    Every `budget` indices are one step. A step is allocated when its first index is asked for, so
    the loader must not read ahead of `allocator.update` (`num_workers=0`). Prompts that do not fill a
    batch are left out of the epoch.

    Args:
        allocator: Of as many prompts as the data set has rows.
        batch_prompts: Prompts of a step.
        budget: Rollouts of a step.
        seed: Of the order; epoch i has a stream of its own.

    Raises:
        BudgetError: If there are fewer prompts than a batch has.
    """

    def __init__(self, allocator: RolloutAllocator, batch_prompts: int, budget: int, seed: int = 0) -> None:
        if not 1 <= batch_prompts <= allocator.n_prompts:
            raise BudgetError(f"expected batches of 1 to {allocator.n_prompts} prompts, got {batch_prompts}")
        self.allocator = allocator
        self.batch_prompts = batch_prompts
        self.budget = budget
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.allocator.n_prompts // self.batch_prompts * self.budget

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        self.epoch += 1
        order = rng.permutation(self.allocator.n_prompts)
        for step in range(order.size // self.batch_prompts):
            prompts = order[step * self.batch_prompts :][: self.batch_prompts]
            rollouts = self.allocator.allocate(prompts, self.budget)
            yield from rng.permutation(np.repeat(prompts, rollouts)).tolist()
