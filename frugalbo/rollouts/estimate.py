"""What past rewards say of each prompt's success rate: as published, and as a posterior.

Prompts are numbers from 0 to `n_prompts - 1`; a *visit* is one batch in which a prompt has rollouts.
All state is plain arrays of the size of the data set, public by name, for checkpoints.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_WINDOW = 16  # as published: the rewards that an estimate rests on if one visit has fewer
_ENOUGH = 8  # as published: with fewer recorded there is no estimate


class RecentRewards:
    """The published estimate: the mean of a prompt's last visit, or of its last 16 rewards if that had fewer.

    Source: Knapsack RL, arXiv:2509.25849, and its released code. It is a visit old when it is used.
    Deviation: they keep all rewards for ever; we keep the last 16, which is all that is looked at.
    """

    def __init__(self, n_prompts: int) -> None:
        self.rewards = np.full((n_prompts, _WINDOW), -1, dtype=np.int8)  # the newest first; -1 where there is none
        self.recorded = np.zeros(n_prompts, dtype=np.int64)
        self.rate = np.zeros(n_prompts)

    def update(self, prompt_ids: Ints, successes: NDArray[np.bool_]) -> None:
        """Takes one visit: a prompt and whether it succeeded, for each rollout (both shape r)."""
        order = np.argsort(prompt_ids, kind="stable")
        prompts, first = np.unique(prompt_ids[order], return_index=True)
        for prompt, visit in zip(prompts, np.split(successes[order], first[1:]), strict=True):
            window = np.concatenate([visit[::-1], self.rewards[prompt]])[:_WINDOW]
            self.rewards[prompt] = window
            self.recorded[prompt] += visit.size
            self.rate[prompt] = (visit if visit.size >= _WINDOW else window[window >= 0]).mean()

    def of(self, prompt_ids: Ints) -> tuple[Floats, NDArray[np.bool_]]:
        """The rates, 0 where nothing is recorded, and whether they count as known; both shape m."""
        return self.rate[prompt_ids], self.recorded[prompt_ids] >= _ENOUGH


class BetaPosterior:
    """A Beta distribution of each prompt's success rate, whose prior is that of the data set as it is now.

    The rate of a prompt drifts while the policy learns, so at each new visit what was counted before
    counts for `memory` times as much:

        p ~ Beta(a0 + memory s, b0 + memory f),        (s, f) <- memory (s, f) + (successes, failures)

    The prior (a0, b0) is fitted to the last visits of all prompts that have had one, by the moments of
    the beta-binomial (Kleinman 1973, JASA 68): with rates `r_i` of `n_i` rollouts, mean m and variance S,

        rho = (S / (m (1 - m)) - mean(1 / n_i)) / (1 - mean(1 / n_i)),     a0 + b0 = 1 / rho - 1

    So a prompt that was never seen is taken to be like the others, and one that was last seen long ago
    is not trusted to be as it was. Before any visit the prior is uniform.
    """

    def __init__(self, n_prompts: int, memory: float) -> None:
        self.memory = memory
        self.successes = np.zeros(n_prompts)
        self.failures = np.zeros(n_prompts)
        self.last_successes = np.zeros(n_prompts, dtype=np.int64)
        self.last_rollouts = np.zeros(n_prompts, dtype=np.int64)

    def update(self, prompt_ids: Ints, successes: NDArray[np.bool_]) -> None:
        """Takes one visit: a prompt and whether it succeeded, for each rollout (both shape r)."""
        prompts, where = np.unique(prompt_ids, return_inverse=True)
        n = np.bincount(where)
        s = np.bincount(where, weights=successes)
        self.successes[prompts] = self.memory * self.successes[prompts] + s
        self.failures[prompts] = self.memory * self.failures[prompts] + n - s
        self.last_successes[prompts] = s
        self.last_rollouts[prompts] = n

    def of(self, prompt_ids: Ints) -> tuple[Floats, Floats]:
        """The parameters a and b of each prompt's Beta distribution at its next visit, each of shape m."""
        a, b = self.prior()
        return a + self.memory * self.successes[prompt_ids], b + self.memory * self.failures[prompt_ids]

    def prior(self) -> tuple[float, float]:
        """The parameters of a prompt of which nothing is known."""
        seen = self.last_rollouts > 1
        if seen.sum() < 2:
            return 1.0, 1.0
        n = self.last_rollouts[seen]
        rates = self.last_successes[seen] / n
        # As if one more prompt had been seen, of a rate of one half: all alike is no proof that all will be.
        mean = float((rates.sum() + 0.5) / (rates.size + 1))
        alone = float((1 / n).mean())  # the variance of rates that differ by chance alone, over m (1 - m)
        rho = (float(((rates - mean) ** 2).mean()) / (mean * (1 - mean)) - alone) / (1 - alone)
        total = 1 / min(max(rho, 0.01), 0.99) - 1
        return mean * total, (1 - mean) * total
