"""The state that FRUGAL keeps for one tensor: starting it, moving it to a new subspace, reading it.

A tensor's state is a plain dict, so that `state_dict` of torch can carry it:

| key              | meaning                                                | kept for                |
|------------------|--------------------------------------------------------|-------------------------|
| `draw`           | number of the subspace that this state belongs to      | projectable tensors     |
| `step`           | steps since the state was last reset                   | tensors with moments    |
| `MOMENTS[rule]`  | moments, in the subspace's coordinates                 | tensors with moments    |
| `projector`      | indices or basis; absent if the subspace is everything | subspaces of one tensor |

A tensor that is state-free keeps no tensor at all.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from frugalbo.optim.projections import (
    COORDINATE,
    Projection,
    coordinate_shape,
    draw_projector,
    is_everything,
    project,
    subspace_size,
)
from frugalbo.optim.rules import MOMENTS, Row


def trainable(group: dict[str, Any]) -> list[int]:
    """Return the positions of the parameters of `group` that require a gradient."""
    return [i for i, param in enumerate(group["params"]) if param.requires_grad]


def refresh(state: dict[str, Any], group: dict[str, Any], param: Tensor, group_index: int, position: int) -> None:
    """Bring the state of one tensor into the group's current subspace."""
    projection: Projection = group["projection"]
    grad = param.grad
    assert grad is not None
    carried = {} if group["reset_state"] else dict(state)
    state.clear()
    state["draw"] = group["draw"]
    if projection == "blockwise":
        if position in group["active"]:
            start(state, group, param.shape, param, carried)
        return
    size = subspace_size(param.shape, projection, group["density"])
    if size == 0:
        return
    if projection in COORDINATE and is_everything(param.shape, projection, size):
        # No indices needed, and every coordinate stays where it was.
        start(state, group, param.shape, param, carried if "projector" not in carried else {})
        return
    key = (group["seed"], group["draw"], group_index, position)
    state["projector"] = draw_projector(grad, projection, size, *key)
    shape = coordinate_shape(param.shape, projection, size)
    if projection in COORDINATE and "projector" in carried:
        for name in MOMENTS[group["state_full"]]:
            carried[name] = _handed_over(carried[name], carried["projector"], state["projector"], param, projection)
    start(state, group, shape, param, carried)


def start(
    state: dict[str, Any],
    group: dict[str, Any],
    shape: Iterable[int],
    param: Tensor,
    carried: dict[str, Any] | None = None,
) -> None:
    """Give `state` its step and moments: those `carried` if they fit, or else zeros."""
    shape = tuple(shape)
    names = MOMENTS[group["state_full"]]
    if carried and all(name in carried and carried[name].shape == shape for name in names):
        state["step"] = carried["step"]
        state.update({name: carried[name] for name in names})
        return
    state["step"] = 0
    for name in names:
        if shape == param.shape:
            state[name] = torch.zeros_like(param, memory_format=torch.preserve_format)
        else:
            state[name] = torch.zeros(shape, dtype=param.dtype, device=param.device)


def row(param: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Row:
    """Count a step, and return what the rules in `frugalbo.optim.rules` need of one tensor."""
    assert param.grad is not None
    state["step"] += 1
    projector = (state["projector"],) if "projector" in state else ()
    moments = tuple(state[name] for name in MOMENTS[group["state_full"]])
    return (param, param.grad, *projector, *moments), state["step"]


def _handed_over(moment: Tensor, old: Tensor, new: Tensor, param: Tensor, projection: Projection) -> Tensor:
    """Lift a moment out of the old coordinates and project it into the new ones."""
    lifted = torch.zeros_like(param, memory_format=torch.contiguous_format)
    if projection == "randk":
        lifted.view(-1).index_copy_(0, old.long(), moment)
    else:
        lifted.index_copy_(0 if projection == "rows" else 1, old.long(), moment)
    return project(lifted, new, projection)
