"""Advantages within groups of different sizes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def group_advantages(
    prompt_ids: ArrayLike, rewards: ArrayLike, *, clip: float = 5.0, by_std: bool = True
) -> NDArray[np.float64]:
    """Each reward less its group's mean, over its group's standard deviation.

    `(r - mean) / (std + 1e-6)` with the unbiased `std`, cut at plus and minus `clip`, as in the released
    code of Knapsack RL (arXiv:2509.25849). A group is all rewards of one prompt, in any order. Where
    all are equal the advantages are 0. Deviation: so they are in a group of one, where the released code
    takes the reward itself.

    Args:
        prompt_ids: The prompt of each rollout, shape r.
        rewards: Any numbers, shape r.
        clip: The largest advantage.
        by_std: Whether to divide by the standard deviation; Dr. GRPO (arXiv:2503.20783) does not.

    Returns:
        Shape r.
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    _, group = np.unique(np.asarray(prompt_ids), return_inverse=True)
    n = np.bincount(group)
    centred = rewards - (np.bincount(group, weights=rewards) / n)[group]
    if not by_std:
        return np.clip(centred, -clip, clip)
    std = np.sqrt(np.bincount(group, weights=centred**2) / np.maximum(n - 1, 1))
    return np.clip(centred / (std[group] + 1e-6), -clip, clip)
