"""Subspaces for FRUGAL: how large, how drawn, and how to move a gradient in and out of one.

Source: FRUGAL, arXiv:2411.07837, section 3 and its released code. Nothing here knows of moments
or learning rates; the update rules are in `frugalbo.optim.rules`.

| symbol  | argument     | meaning                                        | shape                        |
|---------|--------------|------------------------------------------------|------------------------------|
| rho     | `density`    | share of a weight that keeps optimizer state   | scalar in [0, 1]             |
| k       | `size`       | size of the subspace of one tensor             | scalar                       |
| P       | `projector`  | indices (int32), or an orthonormal basis       | `k`, or `min(m, n) x k`      |
| P g     | `project`    | gradient in the subspace's coordinates         | see `coordinate_shape`       |
| P^T s   | `add_lifted_`| a vector of the subspace as a full tensor      | `m x n`                      |

Every draw has a random stream of its own, keyed by `(seed, draw, group, position)`, so that a
resumed run draws what the uninterrupted one would have drawn. Index draws of blockwise, rows and
columns are the same on all devices; those of `randk` and `random_orthogonal` are made on the
parameter's own device, and differ between CPU and CUDA.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Projection = Literal["blockwise", "columns", "rows", "randk", "svd", "random_orthogonal"]
BlockOrder = Literal["random", "ascending", "descending", "mirror"]

COORDINATE: tuple[Projection, ...] = ("columns", "rows", "randk")
BASIS: tuple[Projection, ...] = ("svd", "random_orthogonal")

_DIM = {"rows": 0, "columns": 1}


def generator(device: torch.device | str, *key: int) -> torch.Generator:
    """Return the random stream that belongs to `key` alone."""
    digest = hashlib.blake2b(",".join(map(str, key)).encode(), digest_size=8).digest()
    # 63 bits: every back end takes a non-negative int64 seed.
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest, "big") >> 1)


def subspace_size(shape: Sequence[int], projection: Projection, density: float) -> int:
    """Return k for one tensor: entries, rows, columns or basis vectors, by `projection`.

    Coordinates are counted with floor, basis vectors with round, as in the released code.
    Deviation: 1e-9 is added before the floor, so that a density of 0.29 of 100 columns is 29
    and not 28 for want of the last binary digit.
    """
    if projection == "randk":
        return math.floor(density * math.prod(shape) + 1e-9)
    if projection in BASIS:
        return round(density * min(shape))
    return math.floor(density * shape[_DIM[projection]] + 1e-9)


def is_everything(shape: Sequence[int], projection: Projection, size: int) -> bool:
    """Tell whether a subspace of this `size` is the whole space."""
    return size == subspace_size(shape, projection, 1.0)


def coordinate_shape(shape: Sequence[int], projection: Projection, size: int) -> tuple[int, ...]:
    """Return the shape of P g, which is the shape of each moment."""
    if projection == "randk":
        return (size,)
    rows, columns = shape
    if projection == "columns" or (projection in BASIS and rows >= columns):
        return rows, size
    return size, columns


def projector_bytes(shape: Sequence[int], projection: Projection, size: int, element_size: int) -> int:
    """Return what P itself takes: int32 indices, or a basis in the parameter's type."""
    if projection in BASIS:
        return min(shape) * size * element_size
    return size * torch.int32.itemsize


def block_size(count: int, density: float) -> int:
    """Return how many of `count` tensors are active: `round(rho * count)`, as the released code."""
    return round(density * count)


def draw_block(count: int, size: int, order: BlockOrder, *, draw: int, group: int = 0, seed: int = 0) -> list[int]:
    """Return the sorted positions of the `size` tensors that subspace number `draw` makes active.

    `ascending` and `descending` slide a window of `size` over the tensors from the first or the last
    one, and wrap. `mirror` slides a window of pairs (j-th, j-th from the end) inwards: half of the
    active tensors come from each end. The source only says that its mirror order takes half from each
    end and needs an even count; that it goes inwards by whole pairs is our reading.

    Raises:
        ValueError: If `order` is `mirror` and `count` or `size` is odd.
    """
    if order == "random":
        stream = generator("cpu", seed, draw, group)
        return sorted(torch.randperm(count, generator=stream, device="cpu")[:size].tolist())
    if order == "mirror":
        if count % 2 or size % 2:
            raise ValueError(
                "block_order='mirror' expects an even number of tensors and an even number of active ones, "
                f"got {size} active of {count}"
            )
        near = [(draw * size // 2 + j) % (count // 2) for j in range(size // 2)]
        return sorted(near + [count - 1 - j for j in near])
    window = [(draw * size + j) % count for j in range(size)]
    return sorted(window if order == "ascending" else [count - 1 - j for j in window])


def draw_projector(grad: Tensor, projection: Projection, size: int, *key: int) -> Tensor:
    """Draw P for a tensor with gradient `grad` from the stream of `key`.

    Indices come sorted: the subset is as uniform as before, and memory is walked in one direction.
    The bases are computed in float32 at least. `svd` takes singular vectors of `grad` for its
    shorter side, the right ones if it has as many rows as columns (GaLore, arXiv:2403.03507).
    """
    if projection == "randk":
        order = torch.randperm(grad.numel(), generator=generator(grad.device, *key), device=grad.device)
        return order[:size].sort().values.int()
    if projection in COORDINATE:
        order = torch.randperm(grad.shape[_DIM[projection]], generator=generator("cpu", *key), device="cpu")
        return order[:size].sort().values.int().to(grad.device)
    wide = torch.promote_types(grad.dtype, torch.float32)
    if projection == "svd":
        left, _, right = torch.linalg.svd(grad.to(wide), full_matrices=False)
        basis = right[:size].mT if _is_tall(grad) else left[:, :size]
    else:
        normal = torch.randn(
            min(grad.shape), size, dtype=wide, device=grad.device, generator=generator(grad.device, *key)
        )
        basis, upper = torch.linalg.qr(normal)
        basis = basis * upper.diagonal().sign()  # without this the basis is not uniform (Haar)
    return basis.to(grad.dtype, memory_format=torch.contiguous_format, copy=True)


def project(grad: Tensor, projector: Tensor, projection: Projection) -> Tensor:
    """Return P g."""
    if projection == "randk":
        return grad.reshape(-1).index_select(0, projector)
    if projection in COORDINATE:
        return grad.index_select(_DIM[projection], projector)
    return grad @ projector if _is_tall(grad) else projector.mT @ grad


def add_lifted_(target: Tensor, values: Tensor, projector: Tensor, projection: Projection, scale: float) -> None:
    """Add `scale * P^T values` to `target`."""
    if projection == "randk":
        flat = target.contiguous().view(-1)
        flat.index_add_(0, projector, values, alpha=scale)
        if not target.is_contiguous():
            target.copy_(flat.view_as(target))
    elif projection in COORDINATE:
        target.index_add_(_DIM[projection], projector, values, alpha=scale)
    elif _is_tall(target):
        target.addmm_(values, projector.mT, alpha=scale)
    else:
        target.addmm_(projector, values, alpha=scale)


def overwrite_(target: Tensor, values: Tensor, projector: Tensor, projection: Projection) -> None:
    """Put `values` at the chosen coordinates of the contiguous `target`."""
    index = projector.long()  # index_copy_ takes no int32
    if projection == "randk":
        target.view(-1).index_copy_(0, index, values)
    else:
        target.index_copy_(_DIM[projection], index, values)


def _is_tall(matrix: Tensor) -> bool:
    return matrix.shape[0] >= matrix.shape[1]
