"""How many rollouts each prompt of a batch gets, for a loop of reinforcement learning with verifiable rewards.

    allocator = RolloutAllocator(n_prompts=len(dataset))
    ...
    rollouts = allocator.allocate(prompt_ids, budget=2048)        # one number for each prompt
    rewards = generate_and_score(np.repeat(prompt_ids, rollouts)) # yours
    allocator.update(np.repeat(prompt_ids, rollouts), rewards)

See `docs/rollouts.md` for the rules and for loops of TRL and verl.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from frugalbo.errors import BudgetError
from frugalbo.rollouts import rules
from frugalbo.rollouts.estimate import BetaPosterior, RecentRewards
from frugalbo.rollouts.value import expected_gains, signal_gains

Ints = NDArray[np.int64]

Rule = Literal["uniform", "filtering", "knapsack", "knapsack-as-released", "posterior", "signal"]
RULES: tuple[Rule, ...] = get_args(Rule)


class RolloutAllocator:
    """Shares out each batch's rollouts by what past rewards say of its prompts.

    Args:
        n_prompts: Of the data set; prompts are numbers from 0 to `n_prompts - 1`.
        rule: `"uniform"`; `"filtering"`: few for those whose last group was all alike; `"knapsack"`: as
            published; `"knapsack-as-released"`: with the quirk of the released recurrence
            (`frugalbo.rollouts.value.published_gains`); `"posterior"`: the same value expected over what is not
            known of success rates, for losses that are means over groups; `"signal"`: the expected value
            for losses that are means over tokens. See `frugalbo.rollouts.value`.
        lower: The fewest rollouts of a prompt, at least 1; a group of one has no gradient.
        upper: The most.
        success_above: What reward counts as success: any above this. None if rewards are 0 and 1, or -1
            and 1 (-1 counts as 0, as published); others are refused then.
        memory: For the last two, how much older rewards still count at a prompt's next visit, in [0, 1].

    Raises:
        BudgetError: If a bound, the number of prompts or the memory is not as above.
    """

    def __init__(
        self,
        n_prompts: int,
        *,
        rule: Rule = "signal",
        lower: int = 2,
        upper: int = 128,
        success_above: float | None = None,
        memory: float = 0.75,
    ) -> None:
        if rule not in RULES:
            raise BudgetError(f"unknown rule {rule!r}; expected one of {', '.join(RULES)}")
        if not (n_prompts >= 1 and 1 <= lower <= upper and 0 <= memory <= 1):
            raise BudgetError(
                "expected n_prompts >= 1, 1 <= lower <= upper and a memory from 0 to 1, "
                f"got {n_prompts}, {lower}, {upper} and {memory!r}"
            )
        self.n_prompts = n_prompts
        self.rule: Rule = rule
        self.lower = lower
        self.upper = upper
        self.success_above = success_above
        self.recent = RecentRewards(n_prompts)
        self.posterior = BetaPosterior(n_prompts, memory)

    def allocate(self, prompt_ids: ArrayLike, budget: float, costs: ArrayLike | None = None) -> Ints:
        """The rollouts of each prompt, shape m, in the order given.

        Args:
            prompt_ids: The prompts of the batch, each once, shape m.
            budget: How many rollouts; they add up to it exactly.
            costs: What one rollout of each prompt costs, shape m, such as its mean number of tokens so
                far; the budget is in the same unit then, and kept to less than one rollout. Only for
                the rules `"posterior"` and `"signal"`.

        Raises:
            BudgetError: If prompts are unknown or repeated, or the budget does not go with the bounds.
        """
        ids = self._prompts(prompt_ids)
        if np.unique(ids).size != ids.size or ids.size == 0:
            raise BudgetError(f"expected each prompt once, got {ids.size} of which {np.unique(ids).size} differ")
        if self.rule in ("posterior", "signal"):
            gain = (expected_gains if self.rule == "posterior" else signal_gains)(*self.posterior.of(ids))
            return rules.by_value(gain, ids.size, budget, self.lower, self.upper, 1.0 if costs is None else costs)
        if costs is not None or budget != int(budget):
            raise BudgetError(f"expected a whole number of rollouts and no costs for the rule {self.rule!r}")
        if self.rule == "uniform":
            return rules.uniform(ids.size, int(budget))
        if self.rule == "filtering":
            n, s = self.posterior.last_rollouts[ids], self.posterior.last_successes[ids]
            return rules.filtering((n > 0) & ((s == 0) | (s == n)), int(budget), self.lower, self.upper)
        rate, is_known = self.recent.of(ids)
        as_released = self.rule == "knapsack-as-released"
        return rules.knapsack(rate, is_known, int(budget), self.lower, self.upper, as_released=as_released)

    def update(self, prompt_ids: ArrayLike, rewards: ArrayLike) -> None:
        """Takes the rewards of one batch: a prompt for each rollout, and its reward, in any order (both shape r).

        Raises:
            BudgetError: If a reward is none that `success_above` allows, or shapes differ.
        """
        ids = self._prompts(prompt_ids)
        successes = self._successes(np.asarray(rewards, dtype=np.float64))
        if successes.shape != ids.shape:
            raise BudgetError(f"expected one prompt for each reward, got {ids.size} and {successes.size}")
        self.recent.update(ids, successes)
        self.posterior.update(ids, successes)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """All that was learned, as copies of plain arrays, for `numpy.savez` or a checkpoint."""
        return {name: array.copy() for name, array in self._arrays().items()}

    def load_state_dict(self, state: Mapping[str, ArrayLike]) -> None:
        """Goes on from what `state_dict` gave, whatever the rule.

        Raises:
            BudgetError: If an array is missing or of another shape.
        """
        arrays = self._arrays()
        if set(state) != set(arrays):
            raise BudgetError(f"expected the arrays {', '.join(arrays)}, got {', '.join(state)}")
        for name, array in arrays.items():
            if np.shape(state[name]) != array.shape:
                raise BudgetError(f"expected {name} of shape {array.shape}, got {np.shape(state[name])}")
        for name, array in arrays.items():
            array[...] = state[name]

    def _arrays(self) -> dict[str, NDArray[Any]]:
        parts = {"recent": self.recent, "posterior": self.posterior}
        return {
            f"{part}.{name}": array
            for part, owner in parts.items()
            for name, array in vars(owner).items()
            if isinstance(array, np.ndarray)
        }

    def _prompts(self, prompt_ids: ArrayLike) -> Ints:
        ids = np.asarray(prompt_ids)
        if ids.ndim != 1 or (ids.size and (ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= self.n_prompts)):
            raise BudgetError(f"expected a list of prompts from 0 to {self.n_prompts - 1}, got {prompt_ids!r}")
        return ids.astype(np.int64)

    def _successes(self, rewards: NDArray[np.float64]) -> NDArray[np.bool_]:
        if self.success_above is not None:
            if np.isnan(rewards).any():
                raise BudgetError("expected rewards that are numbers, got nan")
            return rewards > self.success_above
        if wrong := rewards[~np.isin(rewards, (-1, 0, 1))].tolist():
            raise BudgetError(f"expected rewards of 0 or 1 (or -1), got {wrong[0]!r}; give success_above= for others")
        return rewards == 1
