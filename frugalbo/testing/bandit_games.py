"""Games for bandits: where rewards come from, and the loop that plays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from frugalbo.bandits.contract import Bandit
from frugalbo.bandits.switching import ShrinkingDartboard


class Game(Protocol):
    """What brings rewards, and takes costs."""

    def pull(self, t: int, arm: int) -> float:
        """The reward of taking `arm` in round `t`."""
        ...


class Coins:
    """Arms that bring 1 with their own probability, else 0; drawn ahead, so that bandits are compared in pairs.

    Args:
        means: Probability by arm, `(K,)`; or by round and arm, `(T, K)`, where they change.
        rounds: T.
        seed: Of the draws.
    """

    def __init__(self, means: ArrayLike, rounds: int, seed: int) -> None:
        self.means = np.broadcast_to(np.asarray(means, float), (rounds, np.shape(means)[-1]))
        self.rewards = (np.random.default_rng([seed, 1]).random(self.means.shape) < self.means).astype(float)
        self._rows = self.rewards.tolist()

    def pull(self, t: int, arm: int) -> float:
        """1 or 0."""
        return self._rows[t][arm]

    def regret(self, arms: Sequence[int]) -> float:
        """What the best single arm would bring more than these do, on average over the draws."""
        played = self.means[: len(arms)]
        return float(played.sum(axis=0).max() - played[np.arange(len(arms)), arms].sum())


class WarmingArms:
    """Arms that bring 1 with probability `warm` once they were taken `memory` rounds running, `cold` before; else 0.

    A weighted tallying bandit with equal weights, `h_x(y) = warm_x if y = 1 else cold_x`.
    """

    def __init__(self, cold: Sequence[float], warm: Sequence[float], memory: int, seed: int) -> None:
        self.cold, self.warm, self.memory = cold, warm, memory
        self.lost = 0.0
        self._arm, self._run = -1, 0
        self._rng = np.random.default_rng([seed, 1])

    def pull(self, t: int, arm: int) -> float:
        """1 or 0; adds to `lost` what the best arm would bring more on average if it were taken for ever."""
        self._run = self._run + 1 if arm == self._arm else 1
        self._arm = arm
        mean = self.warm[arm] if self._run >= self.memory else self.cold[arm]
        self.lost += max(self.warm) - mean
        return float(self._rng.random() < mean)


class Shop:
    """Arms that bring 1 and cost a unit of each resource with probabilities of their own, else 0.

    Args:
        means: Of the rewards, `(K,)`.
        costs: Of the costs, `(K, d)`.
        seed: Of the draws.
    """

    def __init__(self, means: ArrayLike, costs: ArrayLike, seed: int) -> None:
        self.means, self.costs = np.asarray(means, float), np.asarray(costs, float)
        self._rng = np.random.default_rng([seed, 1])

    def pull(self, t: int, arm: int) -> float:
        """1 or 0."""
        return float(self._rng.random() < self.means[arm])

    def cost(self, arm: int) -> list[float]:
        """1 or 0 of each resource."""
        return (self._rng.random(self.costs.shape[1]) < self.costs[arm]).astype(float).tolist()


@dataclass
class Played:
    """What became of a game: the arms and rewards in their order, and how often all arms were looked at."""

    arms: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    looks: int = 0

    @property
    def switches(self) -> int:
        """How often the arm changed."""
        return int(np.count_nonzero(np.diff(self.arms)))


def play(bandit: Bandit, game: Game, rounds: int, seed: int) -> Played:
    """Play until the bandit is over, at most so many rounds; `seed` is the bandit's own."""
    rng = np.random.default_rng([seed, 2])
    played = Played()
    for t in range(rounds):
        if bandit.is_over:
            break
        arm = bandit.select(rng)
        reward = game.pull(t, arm)
        if isinstance(bandit, ShrinkingDartboard) and isinstance(game, Coins) and bandit.wants_look(rng):
            bandit.look(game.rewards[t].tolist())
            played.looks += 1
        bandit.update(arm, reward, game.cost(arm) if isinstance(game, Shop) else None)
        played.arms.append(arm)
        played.rewards.append(reward)
    return played
