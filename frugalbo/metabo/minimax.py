"""The adversarial training of `frugalbo.bandits.MinimaxSearch`.

Source: Zhang, Jain and Jamieson, Learning to Actively Learn: A Robust Approach, arXiv:2010.15382. Instances are coins
with means theta in [0, 1]^K; how hard one is says `C(theta) = sum over the other arms of 1 / (best - theta_a)^2`,
which the lower bounds rest on. With classes `C <= r_1 < r_2 < ...`:

1. for each class, a policy whose largest error over the class is small, each begun with that of the class before;
2. one policy whose largest error over a class is nowhere much larger than that of the class's own:
   `min over policies of max over classes of (largest error in the class - that of its own policy)`.

Policy and adversary move at once: the policy by the score-function gradient of its error, the adversary holds some
instances of each class, moves them by the gradient of the error by their means and weighs them by a softmax whose
logits go up with what they gain. Deviations: a step of an instance out of its class is not taken (the source has a
log barrier); the error is the chance to recommend another arm than the best; weights go by exponential averages.

| symbol | meaning | shape |
|---|---|---|
| `theta` | instances that the adversary holds | N x K |
| M | episodes on each instance | |
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from frugalbo.bandits.minimax import FACTS, chances, facts, logits, posterior_means
from frugalbo.errors import WeightsError
from frugalbo.metabo.settings import refuse_unknown, require_positive

Array = NDArray[np.float64]

_MOVE = 0.02  # of an instance in a step, at most about
_SHARPNESS = 2.0  # by how much an error of one raises an instance's logit in a step
_EDGE = 0.02  # means stay so far from 0 and 1
_SLOW = 0.05  # of the averages of errors


@dataclass(frozen=True, slots=True)
class MinimaxTraining:
    """How a policy is made.

    Args:
        n_arms: K.
        pulls: Of an episode.
        classes: The largest C of each, ascending.
        instances: That the adversary holds of each class.
        episodes: On each instance in an update.
        updates: For each class, and twice as many for all.
        width: Of the network.
        lr: Of its optimizer.
        seed: Of all.

    Raises:
        WeightsError: If a number is not above 0, or the classes do not ascend.
    """

    n_arms: int = 5
    pulls: int = 20
    classes: tuple[float, ...] = (20.0, 60.0, 200.0, 600.0)
    instances: int = 16
    episodes: int = 16
    updates: int = 150
    width: int = 24
    lr: float = 3e-3
    seed: int = 0

    def __post_init__(self) -> None:
        require_positive(self, ("n_arms", "pulls", "instances", "episodes", "updates", "width", "lr"))
        object.__setattr__(self, "classes", tuple(self.classes))
        if not self.classes or any(a >= b for a, b in zip((0.0, *self.classes), self.classes, strict=False)):
            raise WeightsError(f"expected ascending classes above 0, got {self.classes}")
        if self.classes[0] <= self.n_arms - 1:
            raise WeightsError(f"expected classes above {self.n_arms - 1}, the least of any, got {self.classes[0]}")

    @classmethod
    def of(cls, record: dict[str, Any]) -> MinimaxTraining:
        """From plain types, or a file of TOML.

        Raises:
            WeightsError: If it has settings that there are not.
        """
        refuse_unknown(cls, record)
        return cls(**record)


def difficulty(theta: Array) -> Array:
    """C of instances ... x K; infinite where two arms are best."""
    ranked = np.sort(theta, axis=-1)
    with np.errstate(divide="ignore"):
        return ((ranked[..., -1:] - ranked[..., :-1]) ** -2.0).sum(-1)


def train_minimax(
    training: MinimaxTraining, out: str | Path, observe: Callable[[dict[str, Any]], None] = lambda _: None
) -> tuple[Array, ...]:
    """Train a policy and write its weights, with how they were made, to `out` as a NumPy archive.

    Args:
        training: How.
        out: Where to.
        observe: Told of each class, and of all, how it went.
    """
    started, rng = time.process_time(), np.random.default_rng(training.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        network = _Network(training.width)
    adversaries = [_Adversary(bound, training, rng) for bound in training.classes]
    for adversary in adversaries:
        _play(network, [adversary], training, training.updates, rng)
        adversary.reference = adversary.largest()
        observe({"class": adversary.bound, "largest_error": round(adversary.reference, 3)})
    _play(network, adversaries, training, 2 * training.updates, rng)
    gaps = [adversary.largest() - adversary.reference for adversary in adversaries]
    seconds = round(time.process_time() - started, 1)
    observe({"class": "all", "largest_gap": round(max(gaps), 3), "seconds": seconds})
    weights = network.weights()
    arrays: dict[str, Any] = {f"w{i}": array.astype(np.float32) for i, array in enumerate(weights)}
    made = json.dumps({"training": asdict(training), "cpu_seconds": seconds, "torch": torch.__version__})
    with Path(out).open("wb") as file:
        np.savez_compressed(file, made=np.array(made), **arrays)
    return weights


def errors_of(weights: Sequence[Array], theta: Array, pulls: int, episodes: int, seed: int) -> Array:
    """The share of `episodes` on each instance (N x K) whose recommendation is not the best arm; N."""
    rng = np.random.default_rng(seed)
    return _episodes(weights, theta, pulls, episodes, rng).wrong.mean(1)


@dataclass(frozen=True, slots=True)
class _Episodes:
    """N instances with M episodes each, T pulls long."""

    told: Array  # T x N x M x K x facts
    action: NDArray[np.intp]  # T x N x M
    sums: Array  # N x M x K
    counts: Array  # N x M x K
    wrong: Array  # N x M


def _episodes(weights: Sequence[Array], theta: Array, pulls: int, episodes: int, rng: np.random.Generator) -> _Episodes:
    shape = (len(theta), episodes, theta.shape[1])
    sums, counts, told, actions = np.zeros(shape), np.zeros(shape), [], []
    for _ in range(pulls):
        told.append(facts(sums, counts, pulls))
        below = chances(logits(weights, told[-1])).cumsum(-1)
        action = (below < rng.random((*shape[:2], 1)) * below[..., -1:]).sum(-1)
        taken = action[..., None] == np.arange(shape[2])
        counts = counts + taken
        sums = sums + taken * (rng.random((*shape[:2], 1)) < theta[:, None])
        actions.append(action)
    # Ties are broken at random: by less than what tells two means apart.
    means = posterior_means(sums, counts) + 1e-9 * rng.random(shape)
    wrong = means.argmax(-1) != theta.argmax(-1)[:, None]
    return _Episodes(np.stack(told), np.stack(actions), sums, counts, wrong.astype(np.float64))


class _Adversary:
    """Instances of one class."""

    def __init__(self, bound: float, training: MinimaxTraining, rng: np.random.Generator) -> None:
        self.bound, self.reference = bound, 0.0
        theta = np.empty((0, training.n_arms))
        while len(theta) < training.instances:
            drawn = rng.uniform(_EDGE, 1 - _EDGE, (4096, training.n_arms))
            theta = np.concatenate([theta, drawn[difficulty(drawn) <= bound]])
        self.theta = theta[: training.instances]
        self.logit, self.error = np.zeros(len(self.theta)), np.full(len(self.theta), 0.5)

    def largest(self) -> float:
        """The largest error over the instances, as averaged of late."""
        return float(self.error.max())

    def ascend(self, found: _Episodes) -> None:
        """Move the instances, and their logits, towards larger errors."""
        self.error += _SLOW * (found.wrong.mean(1) - self.error)
        self.logit += _SHARPNESS * (found.wrong.mean(1) - self.reference)
        theta = self.theta[:, None]
        score = found.sums / theta - (found.counts - found.sums) / (1 - theta)  # of the rewards, by the means
        surprise = found.wrong - found.wrong.mean(1, keepdims=True)
        slope = (surprise[..., None] * score).mean(1)
        moved = np.clip(self.theta + _MOVE * np.tanh(slope), _EDGE, 1 - _EDGE)
        inside = (difficulty(moved) <= self.bound) & (moved.argmax(-1) == self.theta.argmax(-1))
        self.theta = np.where(inside[:, None], moved, self.theta)


class _Network(nn.Module):
    """The policy of `frugalbo.bandits.minimax`, to be trained."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.own, self.both, self.last = nn.Linear(FACTS, width), nn.Linear(2 * width, width), nn.Linear(width, 1)

    def forward(self, told: Tensor) -> Tensor:
        own = torch.relu(self.own(told))
        everyone = own.mean(-2, keepdim=True).expand_as(own)
        return self.last(torch.relu(self.both(torch.cat([own, everyone], dim=-1)))).squeeze(-1)

    def weights(self) -> tuple[Array, ...]:
        """As `frugalbo.bandits.minimax.logits` takes them."""
        parts = [part.detach().numpy() for m in (self.own, self.both, self.last) for part in (m.weight, m.bias)]
        return tuple(part.T.astype(np.float64) for part in parts)


def _play(
    network: _Network,
    adversaries: Sequence[_Adversary],
    training: MinimaxTraining,
    updates: int,
    rng: np.random.Generator,
) -> None:
    """Let the policy and the adversaries of some classes move against each other."""
    optimizer = torch.optim.Adam(network.parameters(), lr=training.lr)
    for adversary in adversaries:
        adversary.logit[:] = 0
    for _ in range(updates):
        weights = network.weights()
        theta = np.concatenate([adversary.theta for adversary in adversaries])
        found = _episodes(weights, theta, training.pulls, training.episodes, rng)
        heavy = chances(np.concatenate([adversary.logit for adversary in adversaries]))
        surprise = found.wrong - found.wrong.mean(1, keepdims=True)
        log_p = network(torch.from_numpy(found.told).float()).log_softmax(-1)  # T x N x M x K
        taken = log_p.gather(-1, torch.from_numpy(found.action).unsqueeze(-1)).squeeze(-1).sum(0)  # N x M
        worth = torch.from_numpy(heavy[:, None] * surprise / training.episodes).float()
        optimizer.zero_grad()
        (worth * taken).sum().backward()
        optimizer.step()
        for i, adversary in enumerate(adversaries):
            part = slice(i * training.instances, (i + 1) * training.instances)
            some = _Episodes(
                found.told[:, part], found.action[:, part], found.sums[part], found.counts[part], found.wrong[part]
            )
            adversary.ascend(some)
