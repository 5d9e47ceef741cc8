"""A LLaMA-style decoder: RMSNorm, rotary positions, SwiGLU, untied head; and the sizes of it.

Source: LLaMA, arXiv:2302.13971; shapes and initialisation of FRUGAL's experiments, arXiv:2411.07837.
Nothing here knows of data or optimizers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Size:
    """A model, and the batches that it is trained on.

    Args:
        batch: Sequences in a step; `micro_batch` of them are in memory at once.
        val_sequences: Sequences in the validation loss.
        text_bytes: How much of the standard library's source is read.
        vocab: Of token files; text is bytes and has 256.
        steps: Of a run by hand, if not given.
    """

    hidden: int
    ffn: int
    layers: int
    heads: int
    sequence: int
    batch: int
    micro_batch: int
    val_sequences: int
    text_bytes: int
    steps: int
    vocab: int = 32_000


SIZES = {
    "mini": Size(64, 176, 2, 2, 96, 4, 4, 192, 4_000_000, 512),
    "60M": Size(512, 1376, 8, 8, 256, 512, 64, 2048, 100_000_000, 2000),
    "130M": Size(768, 2048, 12, 12, 256, 512, 32, 2048, 100_000_000, 2000),
}


def rotate(x: Tensor, rotations: Tensor) -> Tensor:
    """Turn each pair of neighbouring channels of `x` (b x t x heads x d) by its position's angles.

    Rotary positions (arXiv:2104.09864) as complex products: one kernel instead of five on a CPU.
    """
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))  # b x t x heads x d/2
    return torch.view_as_real(pairs * rotations).flatten(-2)


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(hidden, hidden, bias=False)
        self.k_proj = nn.Linear(hidden, hidden, bias=False)
        self.v_proj = nn.Linear(hidden, hidden, bias=False)
        self.o_proj = nn.Linear(hidden, hidden, bias=False)

    def forward(self, x: Tensor, rotations: Tensor) -> Tensor:
        """Mix positions of `x` (b x t x h)."""
        q, k, v = (p(x).unflatten(-1, (self.heads, -1)) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotate(q, rotations).to(v.dtype), rotate(k, rotations).to(v.dtype)
        mixed = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))  # b x heads x t x d -> b x t x h


class MLP(nn.Module):
    """SwiGLU (arXiv:2002.05202)."""

    def __init__(self, hidden: int, ffn: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, ffn, bias=False)
        self.up_proj = nn.Linear(hidden, ffn, bias=False)
        self.down_proj = nn.Linear(ffn, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each position of `x` (b x t x h)."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """A pre-norm layer."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.attn_norm = nn.RMSNorm(size.hidden, eps=1e-6)
        self.attn = Attention(size.hidden, size.heads)
        self.mlp_norm = nn.RMSNorm(size.hidden, eps=1e-6)
        self.mlp = MLP(size.hidden, size.ffn)

    def forward(self, x: Tensor, rotations: Tensor) -> Tensor:
        """Add attention's and the MLP's view of `x` (b x t x h) to it."""
        x = x + self.attn(self.attn_norm(x), rotations)
        return x + self.mlp(self.mlp_norm(x))


class Llama(nn.Module):
    """A decoder with an untied head. Make it with `build`, or on the meta device for its shapes."""

    rotations: Tensor

    def __init__(self, size: Size, vocab: int) -> None:
        super().__init__()
        self.size = size
        self.embedding = nn.Embedding(vocab, size.hidden)
        self.layers = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm = nn.RMSNorm(size.hidden, eps=1e-6)
        self.lm_head = nn.Linear(size.hidden, vocab, bias=False)
        d = size.hidden // size.heads
        rotations = torch.empty(size.sequence, 1, d // 2, dtype=torch.complex64)
        self.register_buffer("rotations", rotations, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits (b x t x vocab) of the token after each of `tokens` (b x t)."""
        x = self.embedding(tokens)
        rotations = self.rotations[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x, rotations)
        return self.lm_head(self.norm(x))

    def loss(self, windows: Tensor) -> Tensor:
        """Return the mean loss, in nats, of all tokens of `windows` (b x (t+1)) but the first."""
        return F.cross_entropy(self(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())


@torch.no_grad()
def build(size: Size, vocab: int, seed: int, device: str) -> Llama:
    """Return a model with N(0, 0.02^2) matrices, as in FRUGAL's experiments; the same on all devices."""
    with torch.device("meta"):  # nothing is drawn from the global random state
        model = Llama(size, vocab)
    model.to_empty(device="cpu")
    stream = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.normal_(0.0, 0.02, generator=stream)
        else:
            parameter.fill_(1.0)
    d = size.hidden // size.heads
    frequencies = 10_000.0 ** (-torch.arange(0, d, 2) / d)
    angles = torch.outer(torch.arange(size.sequence), frequencies)  # t x d/2
    model.rotations = torch.polar(torch.ones_like(angles), angles)[:, None]
    return model.to(device)
