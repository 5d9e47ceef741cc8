"""Which point to buy with what is left of a budget: a small policy on what the frozen network predicts.

The score of a candidate is

    log EI - theta log cost + g(facts)

with `theta` from 1 and a two-layer perceptron `g` whose last layer is zero at first. So an untrained policy *is* log EI
per cost, and training says how the budget bends that. Its facts of a candidate have no units and no place in a list:

| fact | of |
|---|---|
| log EI; the same less the best affordable candidate's | candidate |
| `(best - mean) / sd` | candidate |
| log sd, less the candidates' mean of it | candidate |
| log cost, less that of what is left; less the candidates' median | candidate |
| share of the budget that is left; log of the number of results | state |

Means, deviations and improvements are in standard deviations of the outcomes as the network sees them. So the policy
does not change with the units of cost and budget, nor with the order of the candidates. What does not fit is masked by
whoever asks, so it is not told whether a candidate fits.

Source: a head apart from the backbone, with gradients of the policy in the head alone, is that of Huang et al., POLAR,
arXiv:2606.25197. Deviations: facts in closed form in the place of the last layer's features, as there are minutes for
training; cost and budget among them; the network that predicts was trained before and learns nothing meanwhile.

| symbol | meaning |
|---|---|
| B | states |
| N | candidates |
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from frugalbo.errors import WeightsError
from frugalbo.metabo.bars import Prediction
from frugalbo.metabo.universal import Universal
from frugalbo.metabo.weights import Knowledge, all_numbers, known, read, write

FORMAT = "frugalbo.metabo.policy/1"
FACTS = 8


@dataclass(frozen=True, slots=True)
class Purse:
    """What candidates cost, and what there is to pay with; in any one unit.

    Args:
        log_cost: Of each candidate, B x N.
        log_left: Of what is left of the budget, B.
        share: Of the budget that is left, in [0, 1]; B.
        seen: The number of results, B.
    """

    log_cost: Tensor
    log_left: Tensor
    share: Tensor
    seen: Tensor


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is predicted of candidates, B x N each; in standard deviations of the outcomes.

    Args:
        log_improvement: The log of the expected improvement.
        gain: How far the mean is below the best.
        log_sd: Of the prediction.
    """

    log_improvement: Tensor
    gain: Tensor
    log_sd: Tensor

    @classmethod
    def of(cls, said: Prediction, best: Tensor) -> Outlook:
        """What the network said of candidates, with the best outcome so far (B); detached."""
        mean, variance = said.moments()
        best = best.to(mean).unsqueeze(-1)
        log_improvement = said.log_improvement(best.expand_as(mean))
        return cls(log_improvement, best - mean, 0.5 * variance.log())


@dataclass(frozen=True, slots=True)
class Reference:
    """What the candidates are like as a whole, by which each is judged; B each."""

    top: Tensor
    log_sd: Tensor
    log_cost: Tensor

    @classmethod
    def of(cls, outlook: Outlook, purse: Purse, open_: Tensor) -> Reference:
        """Of all candidates, and of those that may be taken (`open_`, B x N) the best improvement."""
        top = outlook.log_improvement.masked_fill(~open_, -math.inf).amax(-1)
        top = torch.where(top > -math.inf, top, 0.0)  # where none may be taken, nothing is scored
        return cls(top, outlook.log_sd.mean(-1), purse.log_cost.median(-1).values)


@dataclass(frozen=True, slots=True)
class PolicyShape:
    """Sizes.

    Args:
        width: Of the hidden layer.
    """

    width: int = 24


class BudgetPolicy(nn.Module):
    """Scores of candidates; the largest affordable is bought."""

    def __init__(self, shape: PolicyShape | None = None) -> None:
        super().__init__()
        self.shape = shape or PolicyShape()
        self.theta = nn.Parameter(torch.ones(()))
        self.hidden = nn.Linear(FACTS, self.shape.width)
        self.correct = nn.Linear(self.shape.width, 1)
        nn.init.zeros_(self.correct.weight)
        nn.init.zeros_(self.correct.bias)

    def forward(self, outlook: Outlook, purse: Purse, reference: Reference) -> Tensor:
        """Of candidates that may be others than those that `reference` is of; B x N."""
        told = facts(outlook, purse, reference).to(self.theta)
        relative = (purse.log_cost - reference.log_cost.unsqueeze(-1)).to(self.theta)
        return self.score(outlook.log_improvement.to(self.theta), relative, told)

    def score(self, log_improvement: Tensor, log_cost: Tensor, told: Tensor) -> Tensor:
        """From facts (B x N x 8), improvement and log cost less any constant of the state (B x N)."""
        correction = self.correct(torch.tanh(self.hidden(told))).squeeze(-1)
        return log_improvement - self.theta * log_cost + correction


def facts(outlook: Outlook, purse: Purse, reference: Reference) -> Tensor:
    """What the policy is told, each about in [-3, 3]; B x N x 8."""
    like = torch.zeros_like(outlook.gain)
    top, log_sd, log_cost = (of.unsqueeze(-1) for of in (reference.top, reference.log_sd, reference.log_cost))
    told = [
        outlook.log_improvement.clamp(-12, 3) / 4,
        (outlook.log_improvement - top).clamp(-12, 1) / 4,
        (outlook.gain / outlook.log_sd.exp()).clamp(-6, 6) / 2,
        (outlook.log_sd - log_sd).clamp(-3, 3),
        (purse.log_cost - purse.log_left.unsqueeze(-1)).clamp(-6, 1) / 2,
        (purse.log_cost - log_cost).clamp(-5, 5) / 2,
        2 * purse.share.unsqueeze(-1) - 1 + like,
        purse.seen.unsqueeze(-1).log() / 2 - 1 + like,
    ]
    return torch.stack([fact.to(like) for fact in told], dim=-1)


@dataclass(frozen=True, slots=True)
class PolicyWeights:
    """What a file holds.

    Args:
        policy: Ready to score.
        made: How it was made, as JSON types.
    """

    policy: BudgetPolicy
    made: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Spending:
    """The policy in one situation: scores of single points, which may lie beside the pool that they are judged by.

    Args:
        policy: Whose scores.
        log_left: The log of what is left of the budget.
        share: Of the budget that is left.
        seen: The number of results.
        best: The best outcome.
        reference: What the pool is like; see `beside`.
    """

    policy: BudgetPolicy
    log_left: float
    share: float
    seen: int
    best: float
    reference: Reference | None = None

    def beside(self, said: Prediction, log_improvement: Tensor, log_cost: Tensor, allowed: Tensor) -> Spending:
        """The same among the candidates of a pool, m each."""
        reference = Reference.of(*self._state(said, log_improvement, log_cost), allowed.unsqueeze(0))
        return replace(self, reference=reference)

    def __call__(self, said: Prediction, log_improvement: Tensor, log_cost: Tensor) -> Tensor:
        """Of points, b each.

        Args:
            said: Of them, 1 x b.
            log_improvement: In whose place this expected improvement counts.
            log_cost: In the unit of `log_left`.
        """
        assert self.reference is not None  # `beside` comes first
        return self.policy(*self._state(said, log_improvement, log_cost), self.reference)[0].to(log_improvement)

    def _state(self, said: Prediction, log_improvement: Tensor, log_cost: Tensor) -> tuple[Outlook, Purse]:
        outlook = Outlook.of(said, said.location.new_tensor([self.best]))
        state = (log_cost.new_tensor([number]) for number in (self.log_left, self.share, self.seen))
        return replace(outlook, log_improvement=log_improvement.unsqueeze(0)), Purse(log_cost.unsqueeze(0), *state)


@cache
def proposing(path: str = "") -> tuple[Knowledge, BudgetPolicy | None]:
    """What a file for `metabo` holds, read once: a network and a past; or a policy, for those that ship.

    Raises:
        WeightsError: If there is no such file, it holds neither, or a policy that was trained on another network.
    """
    if not path:
        return known(), None
    try:
        read(path, FORMAT)
    except WeightsError:
        return known(path), None
    held, trained_on = load_policy(path), digest(known().network)
    if (came := held.made.get("training", {}).get("network")) != trained_on:
        raise WeightsError(f"expected in {path!r} a policy for the network {trained_on} that ships, got one for {came}")
    return known(), held.policy


def digest(network: Universal) -> str:
    """What tells one network that predicts from another."""
    found = hashlib.sha256()
    for tensor in network.state_dict().values():
        found.update(tensor.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def save_policy(path: str | Path, policy: BudgetPolicy, made: Mapping[str, Any]) -> None:
    """Write weights, how they were made beside them."""
    state = {name: tensor.detach().cpu() for name, tensor in policy.state_dict().items()}
    write(path, {"format": FORMAT, "shape": json.dumps(asdict(policy.shape)), "made": json.dumps(made), "state": state})


@cache
def load_policy(path: str | Path) -> PolicyWeights:
    """What a file of weights holds, read once.

    Raises:
        WeightsError: If there is no such file, or it holds no weights of a policy.
    """
    record = read(path, FORMAT)
    try:
        policy = BudgetPolicy(PolicyShape(**json.loads(record["shape"])))
        policy.load_state_dict(record["state"])
        made = json.loads(record["made"])
    except (RuntimeError, TypeError, KeyError, ValueError) as error:
        raise WeightsError(f"the weights in {str(path)!r} do not fit their policy: {error}") from error
    if not all_numbers(policy):
        raise WeightsError(f"the weights in {str(path)!r} are not all numbers")
    return PolicyWeights(policy.eval().requires_grad_(False), made)
