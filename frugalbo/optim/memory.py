"""What an optimizer's state takes: predicted before training, and measured.

The bytes are those of the tensors in `optimizer.state`. Of FRUGAL's, moments are what the paper counts,
and projectors (indices or bases) are what it does not. Step counters are Python numbers and count as
nothing. Temporaries of a step are not state, and are not in here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from frugalbo.optim.frugal import Frugal
from frugalbo.optim.projections import (
    COORDINATE,
    BlockOrder,
    Projection,
    block_size,
    coordinate_shape,
    draw_block,
    is_everything,
    projector_bytes,
    subspace_size,
)
from frugalbo.optim.rules import MOMENTS, StateFull
from frugalbo.optim.states import trainable


@dataclass(frozen=True, slots=True)
class StateBytes:
    """Bytes of optimizer state: of moments, and of projectors beside them."""

    moments: int
    projectors: int = 0

    @property
    def total(self) -> int:
        """Moments and projectors."""
        return self.moments + self.projectors

    @property
    def moments_gib(self) -> float:
        """The moments in GiB, the unit of the paper's tables."""
        return self.moments / 2**30

    def __add__(self, other: "StateBytes") -> "StateBytes":
        return StateBytes(self.moments + other.moments, self.projectors + other.projectors)


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """The shapes of a LLaMA with untied embeddings and as many key as query heads.

    Symbols of `paper_state_bytes`: h is `hidden`, f is `ffn`, L is `layers`.
    """

    hidden: int
    ffn: int
    layers: int
    vocab: int = 32_000

    @property
    def projectable(self) -> list[tuple[int, int]]:
        """Linear weights by layer: q, k, v, o, gate, up, down; 4h^2 + 3hf each."""
        h, f = self.hidden, self.ffn
        return [(h, h), (h, h), (h, h), (h, h), (f, h), (f, h), (h, f)] * self.layers

    @property
    def regular(self) -> list[tuple[int, ...]]:
        """Embedding, norms and head; 2 * vocab * h + (2L + 1) h in all."""
        matrix = (self.vocab, self.hidden)
        return [matrix, *[(self.hidden,)] * (2 * self.layers + 1), matrix]


# The models of FRUGAL's pre-training experiments, from its released configurations.
LLAMA: dict[str, LlamaShape] = {
    "60M": LlamaShape(512, 1376, 8),
    "130M": LlamaShape(768, 2048, 12),
    "350M": LlamaShape(1024, 2736, 24),
    "1B": LlamaShape(2048, 5461, 24),
    "7B": LlamaShape(4096, 11008, 32),
}


def paper_state_bytes(llama: LlamaShape, density: float) -> float:
    """Return the memory of the paper's tables: `4 B * 2 * (N_regular + rho * N_linear)`.

    Source: FRUGAL, arXiv:2411.07837; the formula is derived, and gives the two decimals of its memory
    column. It counts float32 AdamW moments alone, and is an average over draws where the active tensors
    of a draw are not just a share rho of the weights: `predict_state_bytes` says what a run allocates.
    """
    n_linear = sum(m * n for m, n in llama.projectable)
    n_regular = sum(torch.Size(shape).numel() for shape in llama.regular)
    return 4 * 2 * (n_regular + density * n_linear)


def measure_state_bytes(optimizer: Optimizer) -> StateBytes:
    """Return the bytes of the tensors that `optimizer` holds now.

    For other optimizers than `Frugal`, all tensors count as moments: torch's AdamW keeps its step count
    as a tensor of 4 bytes a parameter.
    """
    moments = projectors = 0
    for state in optimizer.state.values():
        for key, value in state.items():
            if isinstance(value, torch.Tensor):
                n_bytes = value.numel() * value.element_size()
                if key == "projector":
                    projectors += n_bytes
                else:
                    moments += n_bytes
    return StateBytes(moments, projectors)


def predict_state_bytes(optimizer: Frugal, *, draw: int | None = None) -> StateBytes:
    """Return exactly what the state will take once every trainable parameter has had a gradient.

    Making a `Frugal` allocates nothing, not even for a model on the `meta` device, so this is a prediction
    before training: `predict_state_bytes(Frugal(param_groups(model), density=0.25))`.

    Args:
        optimizer: Before or after any number of steps; only its groups are read.
        draw: Number of the subspace, from 0, that blockwise tensors of different sizes are counted for.
            By default the one that takes most: what a run needs at its peak.
    """
    total = StateBytes(0)
    for i, group in enumerate(optimizer.param_groups):
        params = [group["params"][position] for position in trainable(group)]
        if not group["projectable"]:
            total += _whole_bytes(params, group)
        elif group["projection"] == "blockwise":
            total += _block_bytes(params, group, i, draw)
        else:
            for param in params:
                total += _projected_bytes(param, group)
    return total


def predict_state_bytes_from_shapes(
    projectable: Iterable[Sequence[int]],
    regular: Iterable[Sequence[int]],
    *,
    density: float = 0.25,
    projection: Projection = "blockwise",
    block_order: BlockOrder = "random",
    state_full: StateFull = "adamw",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    draw: int | None = None,
) -> StateBytes:
    """Return `predict_state_bytes` of a model that has only shapes yet."""

    def group(shapes: Iterable[Sequence[int]], *, is_projectable: bool) -> dict[str, Any]:
        params = [torch.empty(tuple(shape), dtype=dtype, device="meta", requires_grad=True) for shape in shapes]
        return {"params": params, "projectable": is_projectable}

    optimizer = Frugal(
        [group(projectable, is_projectable=True), group(regular, is_projectable=False)],
        density=density,
        projection=projection,
        block_order=block_order,
        state_full=state_full,
        seed=seed,
    )
    return predict_state_bytes(optimizer, draw=draw)


def _whole_bytes(params: Iterable[torch.Tensor], group: dict[str, Any]) -> StateBytes:
    count = len(MOMENTS[group["state_full"]])
    return StateBytes(sum(count * param.numel() * param.element_size() for param in params))


def _block_bytes(params: list[torch.Tensor], group: dict[str, Any], group_index: int, draw: int | None) -> StateBytes:
    size = block_size(len(params), group["density"])
    if draw is None and group["block_order"] == "random":
        by_bytes = sorted(params, key=lambda param: -param.numel() * param.element_size())
        return _whole_bytes(by_bytes[:size], group)
    # The other orders repeat after at most one draw for each tensor.
    draws = range(len(params)) if draw is None else (draw,)
    blocks = (
        draw_block(len(params), size, group["block_order"], draw=i, group=group_index, seed=group["seed"])
        for i in draws
    )
    sizes = [_whole_bytes([params[position] for position in block], group) for block in blocks]
    return max(sizes, key=lambda bytes_: bytes_.total, default=StateBytes(0))


def _projected_bytes(param: torch.Tensor, group: dict[str, Any]) -> StateBytes:
    projection: Projection = group["projection"]
    size = subspace_size(param.shape, projection, group["density"])
    if size == 0:
        return StateBytes(0)
    if projection in COORDINATE and is_everything(param.shape, projection, size):
        return _whole_bytes([param], group)
    shape = torch.Size(coordinate_shape(param.shape, projection, size))
    moments = len(MOMENTS[group["state_full"]]) * shape.numel() * param.element_size()
    return StateBytes(moments, projector_bytes(param.shape, projection, size, param.element_size()))
