"""Tasks with costs and budgets, and episodes of a policy on them.

A task is a finite set of points of `frugalbo.metabo.priors`, with known costs, a few paid random results, and a budget:

| drawn | how |
|---|---|
| log cost | linear and quadratic in one to three dimensions, plus a tenth of chance |
| dear or cheap optimum | one task in two: the rank of the outcome joins in, in either direction |
| spread of costs | one task in four: none; else up to two decades between the 5 % and the 95 % quantile |
| results at first | 2 to 5, at random |
| left after these | log-uniform from 2 to 25 mean costs |

An episode buys one point after the other until none fits. A job that the budget cuts gives no result, and costs are
known, so what does not fit is never bought. What counts is the regret at the end, `(best bought - best) / (median -
best)` over the points of the task, at most 1.

| symbol | meaning |
|---|---|
| B | episodes |
| N | candidates |
| S | states: of all episodes and steps |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from frugalbo.metabo.policy import Outlook, Purse, Reference
from frugalbo.metabo.priors import Prior
from frugalbo.metabo.universal import Universal
from frugalbo.models.outcome import Outcome

# What judges candidates, B x N, the larger the better: a `BudgetPolicy`, or a rule to compare it with.
Scores = Callable[[Outlook, Purse, Reference], Tensor]

ALONG = (-1.0, 0.0, 0.0, 1.0)
_SPREAD = math.log(10) / 3.29  # 3.29 standard deviations lie between the 5 % and the 95 % quantile


@dataclass(frozen=True, slots=True)
class Purchases:
    """A batch of tasks, in float64; smaller outcomes are better.

    Args:
        X: The candidates, unit points, B x N x d.
        y: Their outcomes, B x N.
        log_cost: Theirs, in mean costs of the task; B x N.
        categorical: Which dimensions are, d.
        initial: Which candidates are paid already, B x n.
        left: What the budget has beside, in mean costs; B.
    """

    X: Tensor
    y: Tensor
    log_cost: Tensor
    categorical: Tensor
    initial: Tensor
    left: Tensor

    def repeated(self, times: int) -> Purchases:
        """Each task so many times, one after the other."""
        parts = (self.X, self.y, self.log_cost, self.initial, self.left)
        X, y, log_cost, initial, left = (part.repeat_interleave(times, 0) for part in parts)
        return Purchases(X, y, log_cost, self.categorical, initial, left)

    def regret(self, best: Tensor) -> Tensor:
        """Of the best outcome that was bought, B."""
        least, median = self.y.amin(1), self.y.median(1).values
        return ((best - least) / (median - least).clamp_min(1e-12)).clamp(0, 1)


def draw(prior: Prior, seed: int, i: int, candidates: int, along: Sequence[float] = ALONG) -> Purchases:
    """Batch number `i`; each task draws from `along` how the rank of outcomes counts in costs: at -1 good is dear."""
    X, y, categorical = prior.finite(seed, i, candidates)
    rng = np.random.default_rng([seed, i, 4])
    count, _, d = X.shape
    matters = np.argsort(rng.random((count, d)), axis=1) < rng.integers(1, 4, (count, 1))
    linear, bent = (torch.from_numpy(matters * rng.standard_normal((count, d))) for _ in range(2))
    h = _standard((X @ linear.unsqueeze(-1) + ((X - 0.5) ** 2 * 2) @ bent.unsqueeze(-1)).squeeze(-1))
    rank = y.argsort(1).argsort(1).double() / candidates
    ranked = rng.choice(along, count) * rng.uniform(0.3, 1.5, count)
    h = h + torch.from_numpy(ranked).unsqueeze(-1) * _standard(rank)
    h = _standard(h + 0.1 * torch.from_numpy(rng.standard_normal((count, candidates))))
    decades = rng.uniform(0, 2, count) * (rng.random(count) < 0.75)
    log_cost = _SPREAD * torch.from_numpy(decades).unsqueeze(-1) * h
    log_cost = log_cost - (log_cost.logsumexp(1, keepdim=True) - math.log(candidates))
    paid = rng.integers(2, 6)
    initial = torch.from_numpy(np.argsort(rng.random((count, candidates)), axis=1)[:, :paid].copy())
    left = torch.from_numpy(np.exp(rng.uniform(math.log(2), math.log(25), count)))
    return Purchases(X, y, log_cost, categorical, initial, left)


@dataclass(frozen=True, slots=True)
class States:
    """What a policy stood before, and what it did.

    Args:
        outlook: S x N.
        purse: S x N.
        allowed: What could be taken, S x N.
        action: What was taken, S.
        log_p: Of the action, S.
        episode: Which one, S.
        regret: At this time, S.
    """

    outlook: Outlook
    purse: Purse
    allowed: Tensor
    action: Tensor
    log_p: Tensor
    episode: Tensor
    regret: Tensor


@torch.no_grad()
def spend(
    network: Universal,
    scores: Scores,
    tasks: Purchases,
    most_seen: int,
    temperature: float,
    g: torch.Generator,
) -> tuple[list[States], Tensor]:
    """Spend the budgets of all tasks.

    Args:
        network: That predicts.
        scores: That decide.
        tasks: B of them.
        most_seen: At so many results an episode ends, whatever is left.
        temperature: Chances are the softmax of the scores divided by it; at 0 the largest is taken.
        g: Of the draws.

    Returns:
        The states step by step, and the regret of each episode at its end, B.
    """
    count, n = tasks.initial.shape
    taken = torch.zeros_like(tasks.y, dtype=torch.bool).scatter(1, tasks.initial, True)
    spent = tasks.log_cost.exp().gather(1, tasks.initial).sum(1)
    left, total, order = tasks.left.clone(), tasks.left + spent, tasks.initial
    best = tasks.y.gather(1, order).amin(1)
    alive, steps = torch.arange(count), []
    while n < most_seen:
        allowed = (tasks.log_cost <= left.log().unsqueeze(-1)) & ~taken
        alive = alive[allowed[alive].any(1)]
        if not len(alive):
            break
        allowed = allowed[alive]
        said = outlook(network, tasks, alive, order[alive])
        seen = torch.full((len(alive),), float(n), dtype=left.dtype)
        purse = Purse(tasks.log_cost[alive], left[alive].log(), left[alive] / total[alive], seen)
        logits = scores(said, purse, Reference.of(said, purse, allowed)).masked_fill(~allowed, -math.inf)
        if temperature:
            log_p = (logits / temperature).log_softmax(-1)
            action = torch.multinomial(log_p.exp(), 1, generator=g)[:, 0]
        else:
            log_p, action = torch.zeros_like(logits), logits.argmax(-1)
        log_p = log_p.gather(1, action.unsqueeze(-1))[:, 0]
        steps.append(States(said, purse, allowed, action, log_p, alive, tasks.regret(best)[alive]))
        left[alive] -= tasks.log_cost[alive, action].exp()
        left.clamp_min_(1e-12)
        taken[alive, action] = True
        best[alive] = torch.minimum(best[alive], tasks.y[alive, action])
        following = torch.zeros(count, 1, dtype=order.dtype)
        following[alive, 0] = action
        order, n = torch.cat([order, following], dim=1), n + 1
    return steps, tasks.regret(best)


def outlook(network: Universal, tasks: Purchases, which: Tensor, order: Tensor) -> Outlook:
    """What the network says of all candidates of the tasks `which`, after the results `order` (S x n)."""
    X, y = tasks.X[which], tasks.y[which].gather(1, order)
    seen = torch.from_numpy(np.stack([Outcome.of(row)(row) for row in y.numpy()]))
    told = X.gather(1, order.unsqueeze(-1).expand(-1, -1, X.shape[-1]))
    said = network(told, seen, tasks.categorical, X, observed=False)
    return Outlook.of(said, seen.amin(1))


def _standard(h: Tensor) -> Tensor:
    return (h - h.mean(1, keepdim=True)) / h.std(1, keepdim=True).clamp_min(1e-9)
