"""The search for the best arm in a dozen or two pulls, by a policy that was trained against an adversary.

Source: Zhang, Jain and Jamieson, Learning to Actively Learn: A Robust Approach, arXiv:2010.15382. Bounds on the error
of derived searches, such as sequential halving, hold up to constants, and with so few pulls the constants are what
counts. The training is in `frugalbo.metabo.minimax`; here is what needs numpy alone.

The policy is a small network that treats all arms alike, so that it answers for any number of arms:

| symbol | meaning | shape |
|---|---|---|
| `sums`, `counts` | what each arm brought, and how often it was pulled | ... x K |
| `facts` | what is told of each arm | ... x K x 6 |
| `weights` | three layers: of each arm, of each arm with the mean over arms, and the logit of each arm | |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import ArrayLike, NDArray

from frugalbo.bandits.contract import Array, MixedBandit, require_count
from frugalbo.bandits.stochastic import CountingBandit
from frugalbo.errors import BanditError

FACTS = 6
SHIPPED = files("frugalbo.bandits") / "minimax.npz"


@dataclass(eq=False)
class MinimaxSearch(CountingBandit, MixedBandit):
    """Finds the best of a few arms with a fixed number of pulls.

    The weights that ship were trained on coins, for 5 arms and 20 pulls; other numbers are not what they know, and
    `docs/bandits.md` says what they are worth there. Arms are recommended by the posterior mean under a uniform prior.

    Args:
        pulls: How many there are.

    Raises:
        BanditError: If that is no whole number of at least 1.
    """

    pulls: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("pulls", self.pulls)

    @property
    def is_over(self) -> bool:
        """Whether all pulls are done."""
        return int(self.counts.sum()) >= self.pulls

    def probabilities(self) -> Array:
        """Those of the network."""
        if self.is_over:
            raise BanditError(f"all {self.pulls} pulls are done; `recommend` says which arm is best")
        return chances(logits(shipped(), facts(self.sums, self.counts, self.pulls)))

    def recommend(self) -> int:
        """The arm of the largest posterior mean, the first of equals."""
        super().recommend()
        return int(posterior_means(self.sums, self.counts).argmax())


def posterior_means(sums: ArrayLike, counts: ArrayLike) -> Array:
    """Of coins with a uniform prior; shape of `sums`."""
    return (np.asarray(sums) + 1.0) / (np.asarray(counts) + 2.0)


def facts(sums: ArrayLike, counts: ArrayLike, pulls: int) -> Array:
    """What is told of each arm when some of all `pulls` are done; ... x K x 6."""
    n = np.asarray(counts, dtype=np.float64)
    mean = posterior_means(sums, counts)
    behind = mean.max(-1, keepdims=True) - mean
    deviation = np.sqrt(mean * (1 - mean) / (n + 3))
    left = np.broadcast_to(1 - n.sum(-1, keepdims=True) / pulls, n.shape)
    share = n * n.shape[-1] / pulls
    return np.stack([mean, behind, 4 * deviation, 1 / np.sqrt(n + 1), share, left], axis=-1)


def logits(weights: Sequence[Array], told: Array) -> Array:
    """Of taking each arm next; ... x K."""
    a, b, c, d, e, f = weights
    own = np.maximum(told @ a + b, 0)
    everyone = np.broadcast_to(own.mean(-2, keepdims=True), own.shape)
    return (np.maximum(np.concatenate([own, everyone], axis=-1) @ c + d, 0) @ e + f)[..., 0]


def chances(values: Array) -> Array:
    """The softmax over arms; ... x K."""
    large = np.exp(values - values.max(-1, keepdims=True))
    return large / large.sum(-1, keepdims=True)


@cache
def shipped() -> tuple[NDArray[np.float64], ...]:
    """The weights that come with the package."""
    with SHIPPED.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return tuple(arrays[f"w{i}"].astype(np.float64) for i in range(6))
