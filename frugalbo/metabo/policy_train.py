"""The training of the budget policy by reinforcement; the network that predicts is frozen.

Source: Schulman et al., Proximal policy optimization, arXiv:1707.06347, eq. 7 (`frugalbo.metabo.ppo.clipped_loss`). A
few episodes on the same task are the baseline of each other, as in Shao et al., DeepSeekMath, arXiv:2402.03300.
Deviations: not divided by their deviation; and what the state explains of the return is taken off too, by least squares
on the regret so far, the share of the budget that is left, and the mean return of the task's other episodes.

The return of an episode is `-log(regret at its end + 0.01)`. Logarithms, because to halve what is left of the regret is
then worth the same on easy and on hard tasks; linear regret would be learned from the unlucky episodes alone. A
hundredth of the way to the median is good enough, so nothing is learned from which of the best points is the very best.

The network's answers are computed once in an episode, and an update is on facts (S x N x 8), so passes over the same
episodes cost next to nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from frugalbo.errors import WeightsError
from frugalbo.metabo import checkpoint
from frugalbo.metabo.policy import BudgetPolicy, PolicyShape, Reference, digest, facts, save_policy
from frugalbo.metabo.ppo import clipped_loss, log_chances
from frugalbo.metabo.priors import Prior
from frugalbo.metabo.purchases import ALONG, Purchases, States, draw, spend
from frugalbo.metabo.settings import refuse_unknown, require_positive
from frugalbo.metabo.universal import Universal
from frugalbo.metabo.weights import known

_FLOOR = 0.01  # of regret
_CLIP_NORM = 1.0
_PRIOR = Prior(most_dims=10, batch=16)


@dataclass(frozen=True, slots=True)
class PolicyTraining:
    """How a policy is made.

    Args:
        iterations: Batches of tasks; the prior says how many are in one.
        seed: Of weights, tasks and actions.
        lr: At first; it falls to 0 along a cosine.
        rollouts: Episodes on each task.
        candidates: Points of each task.
        most_seen: Results after which an episode ends.
        temperature: Of actions in training.
        passes: Over the states of a batch.
        minibatch: States of a step.
        clip: Of the ratio of chances.
        every: Iterations between checkpoints, and between lines of the log.
        along: How costs go along with outcomes, see `frugalbo.metabo.purchases.draw`.
        start: A file of weights with the network that predicts; by default the one that comes with the package.
        policy: Its sizes.
        prior: Of the functions.

    Raises:
        WeightsError: If a number is not above 0, or episodes have no others to be compared with.
    """

    iterations: int
    seed: int = 0
    lr: float = 3e-3
    rollouts: int = 8
    candidates: int = 96
    most_seen: int = 40
    temperature: float = 0.25
    passes: int = 3
    minibatch: int = 512
    clip: float = 0.2
    every: int = 10
    along: tuple[float, ...] = ALONG
    start: str = ""
    policy: PolicyShape = field(default_factory=PolicyShape)
    prior: Prior = field(default_factory=lambda: _PRIOR)

    def __post_init__(self) -> None:
        counts = ("iterations", "candidates", "most_seen", "passes", "minibatch", "every")
        require_positive(self, (*counts, "lr", "temperature", "clip"))
        if self.rollouts < 2:
            raise WeightsError(f"expected at least 2 rollouts of each task, got {self.rollouts!r}")

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> PolicyTraining:
        """From plain types, as `to_json` gives them, or a file of TOML.

        Raises:
            WeightsError: If it has settings that there are not, or lacks `iterations`.
        """
        parts = {**record, **{k: dict(record.get(k, {})) for k in ("policy", "prior")}}
        for kind, given in ((cls, parts), (PolicyShape, parts["policy"]), (Prior, parts["prior"])):
            refuse_unknown(kind, given)
        if "iterations" not in parts:
            raise WeightsError("expected iterations, how many batches to train for, got none")
        prior = Prior(**{**asdict(_PRIOR), **parts["prior"]})
        parts |= {"policy": PolicyShape(**parts["policy"]), "prior": prior, "along": tuple(record.get("along", ALONG))}
        return cls(**parts)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)


def train_policy(
    training: PolicyTraining, out: str | Path, observe: Callable[[dict[str, Any]], None] = lambda _: None
) -> BudgetPolicy:
    """Train, or go on with a training that was interrupted, and write the weights to `out`.

    Its checkpoint lies beside, as `out` with `.checkpoint` at its end, and stays there.

    Args:
        training: How.
        out: Where to.
        observe: Told each `every` iterations how it goes: mean final regret, mean return, states.

    Raises:
        WeightsError: If the checkpoint is of another training.
    """
    out, network = Path(out), known(training.start).network
    beside, settings = checkpoint.beside(out), {**training.to_json(), "network": digest(network)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        policy = BudgetPolicy(training.policy)
    optimizer = torch.optim.Adam(policy.parameters(), lr=training.lr)
    first, before_s, started = 0, 0.0, time.monotonic()
    if beside.exists():
        first, before_s = checkpoint.restore(beside, settings, policy, optimizer)
    lines: list[dict[str, float]] = []
    for i in range(first, training.iterations):
        for group in optimizer.param_groups:
            group["lr"] = training.lr * 0.5 * (1 + math.cos(math.pi * i / training.iterations))
        tasks = draw(training.prior, training.seed, i, training.candidates, training.along)
        lines.append(iterate(network, policy, optimizer, training, tasks, i))
        if (i + 1) % training.every == 0 or i + 1 == training.iterations:
            seconds = before_s + time.monotonic() - started
            checkpoint.keep(beside, settings, policy, optimizer, i + 1, seconds)
            means = {name: round(sum(line[name] for line in lines) / len(lines), 4) for name in lines[0]}
            observe({"iteration": i + 1, **means, "seconds": round(seconds, 1)})
            lines = []
    seconds = before_s + time.monotonic() - started
    save_policy(out, policy, {"training": settings, "seconds": round(seconds, 1), "torch": torch.__version__})
    return policy


def iterate(
    network: Universal,
    policy: BudgetPolicy,
    optimizer: torch.optim.Optimizer,
    training: PolicyTraining,
    tasks: Purchases,
    i: int,
) -> dict[str, float]:
    """Gather episodes and learn from all of their states a few times; what to say of it."""
    g = torch.Generator().manual_seed(1_000_003 * training.seed + i)
    repeated = tasks.repeated(training.rollouts)
    steps, regret = spend(network, policy, repeated, training.most_seen, training.temperature, g)
    returns = -(regret + _FLOOR).log()
    gained = advantages(steps, returns, training.rollouts)
    told, log_improvement, log_cost, allowed, action, before = _learnt_from(steps)
    for _ in range(training.passes):
        for which in torch.randperm(len(gained), generator=g).split(training.minibatch):
            score = policy.score(log_improvement[which], log_cost[which], told[which])
            log_p = log_chances(score / training.temperature, allowed[which])
            log_p = log_p.gather(1, action[which].unsqueeze(-1))[:, 0]
            loss = clipped_loss(log_p, before[which], gained[which], training.clip)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), _CLIP_NORM)
            optimizer.step()
    said = {"regret": regret.mean(), "return": returns.mean(), "theta": policy.theta.detach()}
    return {**{name: value.item() for name, value in said.items()}, "states": float(len(gained))}


def advantages(steps: list[States], returns: Tensor, rollouts: int) -> Tensor:
    """How much better an episode ended than its state and the other episodes on its task say; S, standardised."""
    others = returns.reshape(-1, rollouts)
    others = ((others.sum(1, keepdim=True) - others) / (rollouts - 1)).flatten()
    rows, ends = [], []
    for at in steps:
        so_far, share = -(at.regret + _FLOOR).log(), at.purse.share
        mean = others[at.episode]
        rows.append(torch.stack([torch.ones_like(share), so_far, share, so_far * share, mean, mean * share], dim=-1))
        ends.append(returns[at.episode])
    A, b = torch.cat(rows), torch.cat(ends)
    ridge = 1e-3 * len(b) * torch.eye(A.shape[1], dtype=A.dtype)
    gained = b - A @ torch.linalg.solve(A.T @ A + ridge, A.T @ b)
    return ((gained - gained.mean()) / gained.std(correction=0).clamp_min(1e-9)).float()


def _learnt_from(steps: list[States]) -> tuple[Tensor, ...]:
    """Facts, log improvements and relative log costs, what was allowed, what was taken and with what log chance."""
    parts = []
    for at in steps:
        reference = Reference.of(at.outlook, at.purse, at.allowed)
        relative = at.purse.log_cost - reference.log_cost.unsqueeze(-1)
        told = facts(at.outlook, at.purse, reference)
        parts.append(
            (told.float(), at.outlook.log_improvement.float(), relative.float(), at.allowed, at.action, at.log_p)
        )
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))
