"""Transformers over sets of points, and the neural acquisition process as published.

Source: Maraval et al., End-to-End Meta-Bayesian Optimisation with Transformer Neural Processes
(NAP), arXiv:2305.15930, with the sizes, the heads and the initial weights of the authors' code. There is no
position: what was seen is a set. Each token looks at the filled history and at itself, nothing else, so
the order of the history does not matter, and candidates do not see each other. What this looks like in the
published code, a mask over one long sequence, is here two paths, as candidates are never looked at by
others: the work for `m` candidates and `n` results grows with `m n`, not with `(m + n)^2`, and what was seen
needs to be computed once.

| symbol | meaning | shape |
|---|---|---|
| `seen` | tokens of the history | B x n x W |
| `asked` | tokens of the candidates | B x m x W |
| `bias` | added to the logits of attention; -inf where not to look | B x heads x (n or m) x n |
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from frugalbo.metabo.bars import Bars

_TEMPERATURE = 0.1  # of the policy


class Block(nn.Module):
    """A post-norm transformer layer in which nothing looks at what is asked but itself.

    Args:
        width: Of tokens; a multiple of `heads`.
        heads: Of attention.
        hidden: Width of the feed-forward part.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.wide = nn.Linear(width, hidden)
        self.narrow = nn.Linear(hidden, width)
        self.after_attention = nn.LayerNorm(width)
        self.after_feed = nn.LayerNorm(width)

    def read(self, seen: Tensor, bias: Tensor | None = None) -> Tensor:
        """The next tokens of the history; each looks at all of it, as far as `bias` (B x heads x n x n) lets it."""
        q, k, v = self._heads(seen)
        return self._rest(seen, _logits(q, k, bias).softmax(-1) @ v)

    def answer(self, asked: Tensor, seen: Tensor, bias: Tensor | None = None) -> Tensor:
        """The next tokens of candidates; each looks at the history (before its own step) and at itself."""
        q, own_k, own_v = self._heads(asked)
        _, k, v = self._heads(seen)
        own = (q * own_k).sum(-1, keepdim=True)
        weights = torch.cat([_logits(q, k, bias), own], dim=-1).softmax(-1)  # B x heads x m x (n + 1)
        return self._rest(asked, weights[..., :-1] @ v + weights[..., -1:] * own_v)

    def _heads(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = self.project(tokens).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0)
        q, k, v = parts.transpose(-2, -3)  # each B x heads x n x width / heads
        return q / math.sqrt(q.shape[-1]), k, v  # of the queries there are fewest numbers to be scaled

    def _rest(self, tokens: Tensor, looked: Tensor) -> Tensor:
        tokens = self.after_attention(tokens + self.out(looked.transpose(-2, -3).flatten(-2)))
        return self.after_feed(tokens + self.narrow(gelu(self.wide(tokens))))


def _logits(q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
    """Of scaled queries for keys, B x heads x m x n, in one pass with the bias."""
    if bias is None:
        return q @ k.transpose(-1, -2)
    bias = bias.expand(*q.shape[:-1], k.shape[-2])
    return torch.baddbmm(bias.flatten(0, 1), q.flatten(0, 1), k.flatten(0, 1).transpose(-1, -2)).view(bias.shape)


@dataclass(frozen=True, slots=True)
class NAPShape:
    """Sizes, and the standard deviation of initial weights, of which narrow networks need more; as published."""

    width: int = 512
    heads: int = 4
    layers: int = 6
    hidden: int = 1024
    buckets: int = 1000
    policy: int = 200
    initial: float = 0.01


@dataclass(frozen=True, slots=True)
class NAPAnswer:
    """What the network says.

    Args:
        bars: Logits of the buckets of each candidate's outcome, B x m x K.
        policy: Logits of which candidate to take, B x m.
        value: Of the state, B.
    """

    bars: Tensor
    policy: Tensor
    value: Tensor


class NAP(nn.Module):
    """The neural acquisition process, for one space of `dims` dimensions, as published.

    Outcomes are scaled to [0, 1], larger is better. Deviation: the first and the last of the buckets have
    half-normal tails, so that no outcome has the density 0.
    """

    def __init__(self, dims: int, shape: NAPShape | None = None) -> None:
        super().__init__()
        self.shape = s = shape or NAPShape()
        self.bars = Bars(torch.linspace(-0.1, 1.1, s.buckets + 1))
        self.point = nn.Linear(dims, s.width)
        self.outcome = nn.Linear(1, s.width)
        self.blocks = nn.ModuleList(Block(s.width, s.heads, s.hidden) for _ in range(s.layers))
        self.predict = nn.Sequential(nn.Linear(s.width, s.hidden), nn.GELU(), nn.Linear(s.hidden, s.buckets))
        wide = s.buckets + s.width + 2
        self.choose = nn.Sequential(
            *(nn.Linear(wide, s.policy), nn.ReLU(), nn.Linear(s.policy, s.policy), nn.ReLU()),
            *(nn.Linear(s.policy, s.policy), nn.ReLU(), nn.Linear(s.policy, 1)),
        )
        self.judge = nn.Sequential(nn.Linear(2, s.hidden // 2), nn.Tanh(), nn.Linear(s.hidden // 2, 1))
        self._begin()

    def forward(
        self, X: Tensor, y: Tensor, filled: Tensor, candidates: Tensor, best: Tensor, time: Tensor
    ) -> NAPAnswer:
        """What to make of the candidates.

        Args:
            X: The history's points, B x n x d.
            y: Their outcomes, B x n.
            filled: Which of them there are; the others are placeholders, B x n.
            candidates: B x m x d.
            best: The best outcome so far, B.
            time: The share of the trials that are done, B.
        """
        embedded = self.point(candidates)
        seen, asked = self.point(X) + self.outcome(y.unsqueeze(-1)), embedded
        itself = torch.eye(X.shape[1], dtype=torch.bool, device=X.device)
        nowhere = torch.zeros_like(y)[:, None, None, :].masked_fill(~filled[:, None, None, :], -math.inf)
        elsewhere = torch.where(itself, 0.0, nowhere)  # a placeholder looks at itself alone
        for block in self.blocks:
            asked, seen = block.answer(asked, seen, nowhere), block.read(seen, elsewhere)  # type: ignore[operator]
        bars = self.predict(asked)
        state = torch.stack([best, time], dim=-1)  # B x 2
        wide = [bars.softmax(-1), embedded, state.unsqueeze(1).expand(-1, asked.shape[1], -1)]
        policy = self.choose(torch.cat(wide, dim=-1)).squeeze(-1) / _TEMPERATURE
        return NAPAnswer(bars, policy, self.judge(state).squeeze(-1))

    def _begin(self) -> None:
        """Weights as the authors' code has them: normal and small, but for those of attention."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=self.shape.initial)
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, Block):
                nn.init.xavier_uniform_(module.project.weight)
                nn.init.kaiming_uniform_(module.out.weight, a=math.sqrt(5))
