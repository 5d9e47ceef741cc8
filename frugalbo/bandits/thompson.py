"""Thompson sampling: draw each arm's mean from its posterior, and take the arm of the largest draw.

It has no closed form of its probabilities, does well where several slots ask before any has an answer (each draws
anew), and has a regret of the order of UCB1's. Source: Slivkins, Introduction to Multi-Armed Bandits, arXiv:1904.07272,
chapter 3; Agrawal and Goyal, arXiv:1209.3353.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from frugalbo.bandits.contract import Array, require_positive
from frugalbo.bandits.stochastic import CountingBandit
from frugalbo.errors import BanditError


@dataclass(eq=False)
class Thompson(CountingBandit):
    """The arm of the largest draw; a subclass says from what."""

    @abstractmethod
    def draws(self, rng: np.random.Generator) -> Array:
        """One draw of each arm's mean, shape `(n_arms,)`."""

    def select(self, rng: np.random.Generator) -> int:
        """The arm of the largest draw; ties have probability 0."""
        return int(self.draws(rng).argmax())


@dataclass(eq=False)
class BetaThompson(Thompson):
    """For rewards in [0, 1]: a uniform prior, and `Beta(1 + sum, 1 + n - sum)` after `n` rewards.

    Exact for rewards of 0 and 1. Deviation: for rewards between them, Agrawal and Goyal toss a coin; we take the
    fraction for what the coin would be on average, so that `update` needs no randomness.
    """

    def draws(self, rng: np.random.Generator) -> Array:
        """From the Beta posteriors."""
        return rng.beta(1 + self.sums, 1 + self.counts - self.sums)


@dataclass(eq=False)
class GaussianThompson(Thompson):
    """For rewards of any size, with normal noise and a normal prior of the means.

    Args:
        noise_sd: Standard deviation of a reward about its arm's mean; 1/2 is safe for rewards in [0, 1].
        prior_mean: What a mean is expected to be.
        prior_sd: And how far it may be from that.
    """

    noise_sd: float = 0.5
    prior_mean: float = 0.5
    prior_sd: float = 0.5

    lowest_reward: ClassVar[float] = -math.inf
    highest_reward: ClassVar[float] = math.inf

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("noise_sd", self.noise_sd)
        require_positive("prior_sd", self.prior_sd)
        if not math.isfinite(self.prior_mean):
            raise BanditError(f"expected a finite prior_mean, got {self.prior_mean!r}")

    def posterior(self) -> tuple[Array, Array]:
        """Mean and standard deviation of each arm's mean, both `(n_arms,)`."""
        precision = self.prior_sd**-2 + self.counts * self.noise_sd**-2
        mean = (self.prior_mean * self.prior_sd**-2 + self.sums * self.noise_sd**-2) / precision
        return mean, np.sqrt(1 / precision)

    def draws(self, rng: np.random.Generator) -> Array:
        """From the normal posteriors."""
        return rng.normal(*self.posterior())
