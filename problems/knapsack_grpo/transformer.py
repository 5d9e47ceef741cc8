"""A small causal transformer over characters, which also generates, with a cache of keys and values.

Pre-norm blocks, learned positions, an untied head. Nothing here knows of tasks, rewards or optimizers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Cache = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, b x heads x length x d, filled up to where generation is."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a model: `length` is the most tokens, prompt and response together."""

    hidden: int
    layers: int
    heads: int
    length: int
    vocab: int


class Block(nn.Module):
    """Attention, then a GELU network four times as wide."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        h = shape.hidden
        self.heads = shape.heads
        self.attn_norm = nn.RMSNorm(h, eps=1e-6)
        self.q_proj = nn.Linear(h, h, bias=False)
        self.k_proj = nn.Linear(h, h, bias=False)
        self.v_proj = nn.Linear(h, h, bias=False)
        self.o_proj = nn.Linear(h, h, bias=False)
        self.mlp_norm = nn.RMSNorm(h, eps=1e-6)
        self.up_proj = nn.Linear(h, 4 * h, bias=False)
        self.down_proj = nn.Linear(4 * h, h, bias=False)

    def forward(self, x: Tensor, cache: tuple[Tensor, Tensor] | None, start: int) -> Tensor:
        """Transform `x` (b x t x h), whose first position is number `start`; with a cache, write and read it."""
        normed = self.attn_norm(x)
        q, k, v = (
            proj(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )  # b x heads x t x d
        if cache is not None:
            end = start + x.shape[1]
            cache[0][:, :, start:end], cache[1][:, :, start:end] = k, v
            k, v = cache[0][:, :, :end], cache[1][:, :, :end]
        # One new token sees all there is; several at once begin at the first position.
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=x.shape[1] > 1)
        x = x + self.o_proj(mixed.transpose(1, 2).flatten(2))
        return x + self.down_proj(F.gelu(self.up_proj(self.mlp_norm(x))))


class Transformer(nn.Module):
    """A decoder. Make it with `build`, or on the meta device for its shapes."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocab, shape.hidden)
        self.positions = nn.Embedding(shape.length, shape.hidden)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, eps=1e-6)
        self.lm_head = nn.Linear(shape.hidden, shape.vocab, bias=False)

    def forward(self, tokens: Tensor, cache: Cache | None = None, start: int = 0) -> Tensor:
        """Return the logits (b x t x vocab) of the token after each of `tokens` (b x t), from position `start` on.

        With a cache and `start` above 0, `tokens` is one token for each row (t = 1).
        """
        places = torch.arange(start, start + tokens.shape[1], device=tokens.device)
        x = self.embedding(tokens) + self.positions(places)
        for i, layer in enumerate(self.layers):
            x = layer(x, None if cache is None else cache[i], start)
        return self.lm_head(self.norm(x))

    def new_cache(self, rows: int) -> Cache:
        """Room for keys and values of `rows` sequences."""
        s, weight = self.shape, self.lm_head.weight
        size = (rows, s.heads, s.length, s.hidden // s.heads)
        return [(weight.new_empty(size), weight.new_empty(size)) for _ in range(s.layers)]


@torch.no_grad()
def build(shape: Shape, seed: int, device: str) -> Transformer:
    """Return a model with N(0, 1 / inputs) linear weights and N(0, 0.02^2) embeddings, the same on all devices."""
    with torch.device("meta"):  # nothing is drawn from the global random state
        model = Transformer(shape)
    model.to_empty(device="cpu")
    stream = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.fill_(1.0)
        else:
            embeds = name in ("embedding.weight", "positions.weight")
            parameter.normal_(0.0, 0.02 if embeds else parameter.shape[1] ** -0.5, generator=stream)
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.div_((2 * shape.layers) ** 0.5)
    return model.to(device)


@torch.no_grad()
def generate(
    model: Transformer,
    prompts: Tensor,
    limits: Tensor,
    temperature: float,
    end: int,
    stream: torch.Generator,
) -> Tensor:
    """Sample a response for each row.

    A row is done after its `end` token or after `limits` tokens, and is `end` from there on. Draw i of all rows
    is uniform numbers for each, turned into tokens by the inverse of the distribution function: so a row's
    response depends on the model, its prompt and its own numbers alone.

    Args:
        model: Is asked for one token of all rows at a time.
        prompts: Shape b x p.
        limits: The most tokens of each row, shape b.
        temperature: Of the softmax; 0 takes the likeliest token.
        end: The token that ends a response.
        stream: On the CPU.

    Returns:
        Tokens of shape b x max(limits).
    """
    rows, width = prompts.shape
    longest = int(limits.max())
    uniform = torch.rand(longest, rows, generator=stream).to(prompts.device)
    responses = torch.full((rows, longest), end, device=prompts.device)
    is_done = limits <= 0
    cache = model.new_cache(rows)
    logits = model(prompts, cache)[:, -1]
    for i in range(longest):
        if temperature > 0:
            sums = (logits.float() / temperature).softmax(-1).cumsum(-1)
            token = torch.searchsorted(sums, uniform[i][:, None] * sums[:, -1:], right=True)[:, 0]
            token = token.clamp_max(model.shape.vocab - 1)
        else:
            token = logits.argmax(-1)
        responses[:, i] = torch.where(is_done, end, token)
        is_done = is_done | (responses[:, i] == end) | (limits <= i + 1)
        if i + 1 == longest or bool(is_done.all()):
            break
        logits = model(responses[:, i : i + 1], cache, width + i)[:, -1]
    return responses


def lengths(responses: Tensor, limits: Tensor, end: int) -> Tensor:
    """How many tokens each row took, shape b: up to and including its first `end`, or its limit."""
    first = (responses == end).int().argmax(-1) + 1
    has_end = (responses == end).any(-1)
    return torch.minimum(torch.where(has_end, first, responses.shape[1]), limits)
