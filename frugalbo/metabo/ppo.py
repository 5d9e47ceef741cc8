"""Reinforcement of the neural acquisition process: episodes, advantages and the clipped loss.

Source: Schulman et al., Proximal policy optimization, arXiv:1707.06347, eq. 7, with the advantages of Schulman et
al., arXiv:1506.02438, eq. 16; the decision process is that of Maraval et al., arXiv:2305.15930, and the authors'
code: the state is what was tried and the share of the steps that is done, the action is one of the candidates
that were not tried, and each step is rewarded with `-log10(best of the task - best so far)`, 20 when it is found.

While episodes are gathered, only the few candidates of the largest logits can be taken. The chances before and
after an update are both over those (our reading: the source does not say).

| symbol | meaning |
|---|---|
| B | episodes |
| T | steps of each |
| N | candidates |
| S | states: some of the B T |
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from frugalbo.metabo.network import NAP, NAPAnswer
from frugalbo.metabo.sources import Episodes

_FOUND = 1e-20  # what the best is missed by at least


@dataclass(frozen=True, slots=True)
class Rollout:
    """Episodes as they went.

    Args:
        tasks: B of them.
        action: Which candidate was taken, B x T.
        best: The best outcome before each step, 0 at the first; B x T.
        allowed: Which candidates could be taken, B x T x N.
        log_p: Of the action, B x T.
        value: Of the state, B x T.
        reward: B x T.
    """

    tasks: Episodes
    action: Tensor
    best: Tensor
    allowed: Tensor
    log_p: Tensor
    value: Tensor
    reward: Tensor

    def answers(self, network: NAP, which: Tensor) -> NAPAnswer:
        """What a network says of the states `which` (S), numbered episode by episode."""
        horizon = self.action.shape[1]
        episode, step = which // horizon, which % horizon
        X, y = _tried(self.tasks, self.action)
        filled = torch.arange(horizon, device=which.device) < step.unsqueeze(-1)
        time = step / horizon
        best = self.best[episode, step]
        return network(X[episode], y[episode], filled, self.tasks.X[episode], best, time)


@torch.no_grad()
def roll_out(network: NAP, tasks: Episodes, horizon: int, top: int, g: torch.Generator) -> Rollout:
    """Play an episode of `horizon` steps on each task, with actions drawn from the policy.

    Args:
        network: Whose policy.
        tasks: B of them with more than `horizon` candidates.
        horizon: T.
        top: Of how many candidates to draw one.
        g: On the processor, wherever the tasks are.
    """
    count, n = tasks.y.shape
    best, free = tasks.y.new_zeros(count), torch.ones_like(tasks.y, dtype=torch.bool)
    actions = torch.zeros(count, 0, dtype=torch.long, device=tasks.y.device)
    told: dict[str, list[Tensor]] = {k: [] for k in ("best", "allowed", "log_p", "value", "reward")}
    for step in range(horizon):
        X, y = _tried(tasks, actions)
        time = torch.full_like(best, step / horizon)
        said = network(X, y, torch.ones_like(y, dtype=torch.bool), tasks.X, best, time)
        logits = said.policy.masked_fill(~free, -math.inf)
        kept = logits.topk(min(top, n - step), dim=-1).indices
        allowed = torch.zeros_like(free).scatter(1, kept, True)
        log_p = log_chances(logits, allowed)
        action = torch.multinomial(log_p.exp().cpu(), 1, generator=g).to(actions)
        told["best"].append(best)
        best = torch.maximum(best, tasks.y.gather(1, action)[:, 0])
        free, actions = free.scatter(1, action, False), torch.cat([actions, action], dim=1)
        told["allowed"].append(allowed)
        told["log_p"].append(log_p.gather(1, action)[:, 0])
        told["value"].append(said.value)
        told["reward"].append(-(1 - best).double().clamp_min(_FOUND).log10().to(best))
    stacked = {name: torch.stack(parts, dim=1) for name, parts in told.items()}
    return Rollout(tasks, actions, **stacked)


def log_chances(logits: Tensor, allowed: Tensor) -> Tensor:
    """Of each candidate, -inf where it is not allowed; S x N."""
    return logits.masked_fill(~allowed, -math.inf).log_softmax(-1)


def advantages(reward: Tensor, value: Tensor, discount: float, decay: float) -> tuple[Tensor, Tensor]:
    """Generalised advantages of episodes that end after their last step, and the returns they say; B x T each."""
    found, running, after = [], torch.zeros_like(reward[:, 0]), torch.zeros_like(reward[:, 0])
    for step in reversed(range(reward.shape[1])):
        surprise = reward[:, step] + discount * after - value[:, step]
        running = surprise + discount * decay * running
        after = value[:, step]
        found.append(running)
    gained = torch.stack(found[::-1], dim=1)
    return gained, gained + value


def clipped_loss(log_p: Tensor, before: Tensor, gained: Tensor, clip: float) -> Tensor:
    """Less is better; a ratio of chances beyond `1 +- clip` gains nothing more. Shapes S, to one number."""
    ratio = (log_p - before).exp()
    return -torch.minimum(ratio * gained, ratio.clamp(1 - clip, 1 + clip) * gained).mean()


def _tried(tasks: Episodes, action: Tensor) -> tuple[Tensor, Tensor]:
    """Points and outcomes in the order in which they were taken; B x t x d and B x t."""
    X = tasks.X.gather(1, action.unsqueeze(-1).expand(-1, -1, tasks.X.shape[-1]))
    return X, tasks.y.gather(1, action)
