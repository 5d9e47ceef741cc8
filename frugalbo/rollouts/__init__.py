"""How many rollouts each prompt gets: the knapsack of reinforcement learning with verifiable rewards.

`RolloutAllocator` is what a training loop calls; torch is not needed.
"""

from frugalbo.rollouts.allocator import RULES, RolloutAllocator, Rule
from frugalbo.rollouts.groups import group_advantages
from frugalbo.rollouts.sampler import RolloutSampler

__all__ = ["RULES", "RolloutAllocator", "RolloutSampler", "Rule", "group_advantages"]
