"""FRUGAL: AdamW in a small subspace of the weights, a state-free rule in all the rest.

The class here decides which rule each tensor is due and keeps the state; the arithmetic is in
`frugalbo.optim.rules` and the subspaces are in `frugalbo.optim.projections`.
"""

from collections.abc import Callable, Iterable
from typing import Any, get_args

import torch
from torch.optim import Optimizer

from frugalbo.optim.projections import (
    BASIS,
    BlockOrder,
    Projection,
    block_size,
    draw_block,
)
from frugalbo.optim.rules import (
    Hyper,
    Row,
    StateFree,
    StateFull,
    step_free,
    step_projected,
    step_whole,
)
from frugalbo.optim.states import refresh, row, start, trainable

_CHOICES = {
    "projection": get_args(Projection),
    "block_order": get_args(BlockOrder),
    "state_full": get_args(StateFull),
    "state_free": get_args(StateFree),
}
_BETAS = {"adamw": (0.9, 0.999), "lion": (0.9, 0.99), "sgd": (0.0, 0.0)}


class Frugal(Optimizer):
    """Full-rank training with optimizer state for a share `density` of the linear weights.

    Source: FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable Training,
    arXiv:2411.07837, Algorithm 1 and its released code. For a projectable weight w with gradient g,
    subspace P, and k steps since the last reset::

        every T steps, the first included:  draw P; m = v = 0; k = 0
        w <- (1 - lr * weight_decay) w
        k <- k + 1;  gd = P g
        m <- beta1 m + (1 - beta1) gd;  v <- beta2 v + (1 - beta2) gd^2
        w <- w - lr_full P^T (m / (1 - beta1^k)) / (sqrt(v / (1 - beta2^k)) + eps)
               - lr_free sign(g - P^T gd)

    with T `update_gap`, lr_full = lr * `projectable_lr_scale` and lr_free = lr_full *
    `state_free_lr_scale`. All other weights get plain AdamW (or Lion, or SGD) with group `lr`.
    A schedule that sets `group["lr"]` therefore drives every rate.

    Example::

        optimizer = Frugal(param_groups(model), lr=1e-3, density=0.25, update_gap=200)

    All arguments after `params` are defaults that a parameter group may override, and each group
    says with `"projectable"` which of the two rules above it follows (`param_groups` does this).

    * GaLore's update (arXiv:2403.03507): `projection="svd", state_free="none", reset_state=False`,
      with GaLore's scale as `projectable_lr_scale`.
    * BAdam's (arXiv:2404.02827), by tensors: `projection="blockwise", state_free="none"`.
    * `density=0` is signSGD on the projectable weights, without any state tensor. `density=1` is
      AdamW that restarts every T steps (for `svd` and `random_orthogonal`: in a rotated basis).

    Args:
        params: Parameter groups; see `frugalbo.optim.param_groups`.
        lr: Learning rate, for state-full and state-free updates alike.
        betas: Of AdamW or Lion. By default (0.9, 0.999) for AdamW and (0.9, 0.99) for Lion.
        momentum: Of `state_full="sgd"`, in torch's convention: buffer = momentum * buffer + g.
        weight_decay: Decoupled, for every rule, and scaled by `lr` alone.
        density: Share rho of each group's projectable weights that has state: of tensors
            (`blockwise`), of rows, columns or entries (`randk`) of each tensor, or of the rank of
            each tensor's shorter side (`svd`, `random_orthogonal`).
        update_gap: T, counted in optimizer steps of the group.
        block_order: In which order `blockwise` goes through the tensors of a group that require a
            gradient. The released README says `random`, all its pre-training scripts `descending`.
        state_free_lr_scale: 1 for pre-training; the paper's fine-tuning uses 0.1.
        reset_state: Whether a new subspace starts from empty state. If not, blockwise, rows, columns
            and randk hand state over as Algorithm 1 says (lift, then project: a coordinate that stays
            keeps its moments, a new one starts from zero), while svd and random_orthogonal keep the
            moments as they are in the new coordinates, as GaLore does.
        seed: Of the subspace draws. The global random state is neither read nor advanced.

    Deviations from the released code:

    * SGD's buffer starts from zero; there, for some variants, it starts from the weight itself.
    * Sizes by floor tolerate rounding (see `subspace_size`). The mirror order is our reading.
    * With `reset_state=False`, coordinate projections follow the paper's Algorithm 1; there the old
      moments stay in place and so change their coordinates.
    * A tensor without a gradient at a refresh draws its subspace when its next gradient comes.
    * A blockwise tensor that does not require a gradient is never chosen, and does not count.
    * With a square basis the state-free step is left out, as its residual would be rounding noise.
    * The basis of a gradient whose rank is below the subspace's leaves such noise as well, of which
      signSGD makes full steps, here as there.

    State takes the type of its parameter. The paper keeps float32 weights and state, with bfloat16
    in autocast only; bfloat16 parameters work, with bfloat16 moments. Non-tensor state (step and draw
    counters, the list of active tensors) is kept as Python numbers.

    `state_dict` holds all that is needed to go on bit for bit, in the middle of a gap too. As with
    every torch optimizer the saved group options replace those given to the constructor, except that a
    dict saved under another projection, state-full rule or split of groups is refused. A changed
    `group["density"]` or `group["update_gap"]` counts from the next refresh.

    Raises:
        ValueError: For an option or parameter it cannot work with, or if no group says whether it is
            projectable.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] | None = None,
        *,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        density: float = 0.25,
        update_gap: int = 200,
        projection: Projection = "blockwise",
        block_order: BlockOrder = "random",
        state_full: StateFull = "adamw",
        state_free: StateFree = "signsgd",
        state_free_lr_scale: float = 1.0,
        projectable_lr_scale: float = 1.0,
        reset_state: bool = True,
        seed: int = 0,
    ) -> None:
        groups = list(params)
        if groups and not any(isinstance(group, dict) and "projectable" in group for group in groups):
            raise ValueError(
                "expected parameter groups of which some say whether they are 'projectable', got none: "
                "make them by frugalbo.optim.param_groups(model), or give "
                "{'params': ..., 'projectable': True} yourself"
            )
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "density": density,
            "update_gap": update_gap,
            "projection": projection,
            "block_order": block_order,
            "state_full": state_full,
            "state_free": state_free,
            "state_free_lr_scale": state_free_lr_scale,
            "projectable_lr_scale": projectable_lr_scale,
            "reset_state": reset_state,
            "seed": seed,
            "projectable": False,
        }
        super().__init__(groups, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, which is not projectable unless it says so; `param_group` itself stays as it is."""
        # torch writes into the dict that it is given, and so would carry our options and counters
        # into the next optimizer made of the same groups.
        super().add_param_group(dict(param_group))
        group = self.param_groups[-1]
        try:
            _check_options(group)
            _check_params(group)
        except ValueError:
            self.param_groups.pop()
            raise
        if group["betas"] is None:
            group["betas"] = _BETAS[group["state_full"]]
        # Steps taken, number of the current subspace, and blockwise's active positions: kept in
        # the group, so that state_dict carries them.
        group.update({"step": 0, "draw": -1, "active": []})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; refuse one whose tensors another projection or rule has laid out."""
        saved_groups = state_dict["param_groups"]
        for i, (group, saved) in enumerate(zip(self.param_groups, saved_groups, strict=False)):
            keys = ("projectable", "state_full") + (("projection",) if group["projectable"] else ())
            for key in keys:
                if saved.get(key) != group[key]:
                    raise ValueError(
                        f"cannot load group {i}: expected {key}={group[key]!r}, the state dict has {saved.get(key)!r}"
                    )
        super().load_state_dict(state_dict)
        # torch casts every tensor of the state to its parameter's type, indices as well.
        for group, saved in zip(self.param_groups, saved_groups, strict=True):
            for param, key in zip(group["params"], saved["params"], strict=True):
                projector = state_dict["state"].get(key, {}).get("projector")
                if projector is not None and not projector.is_floating_point():
                    self.state[param]["projector"] = projector.to(param.device)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step, and draw new subspaces where a gap has ended.

        Raises:
            RuntimeError: If a gradient is sparse; no parameter has been changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None and param.grad.is_sparse:
                    raise RuntimeError(
                        f"Frugal expects dense gradients, got a sparse one for a parameter of shape "
                        f"{tuple(param.shape)}: make its embedding with sparse=False"
                    )
        for i, group in enumerate(self.param_groups):
            if group["projectable"]:
                self._step_projectable(group, i)
            else:
                step_whole(self._regular_rows(group), _hyper(group, projectable=False))
        return loss

    def _regular_rows(self, group: dict[str, Any]) -> list[Row]:
        rows = []
        for param in group["params"]:
            if param.grad is not None:
                state = self.state[param]
                if not state:
                    start(state, group, param.shape, param)
                rows.append(row(param, state, group))
        return rows

    def _step_projectable(self, group: dict[str, Any], group_index: int) -> None:
        if group["step"] % group["update_gap"] == 0:
            group["draw"] += 1
            if group["projection"] == "blockwise":
                self._choose_block(group, group_index)
        group["step"] += 1
        whole: list[Row] = []
        projected: list[Row] = []
        free: list[Row] = []
        for position, param in enumerate(group["params"]):
            if param.grad is None:
                continue
            state = self.state[param]
            if state.get("draw") != group["draw"]:
                refresh(state, group, param, group_index, position)
            if "projector" in state:
                projected.append(row(param, state, group))
            elif "step" in state:
                whole.append(row(param, state, group))
            else:
                free.append(((param, param.grad), 0))
        hyper = _hyper(group, projectable=True)
        step_whole(whole, hyper)
        step_projected(projected, group["projection"], hyper)
        step_free(free, hyper)

    def _choose_block(self, group: dict[str, Any], group_index: int) -> None:
        """Choose the active tensors, and free the state of all that are no longer active."""
        positions = trainable(group)
        size = block_size(len(positions), group["density"])
        chosen = draw_block(
            len(positions),
            size,
            group["block_order"],
            draw=group["draw"],
            group=group_index,
            seed=group["seed"],
        )
        group["active"] = [positions[j] for j in chosen]
        for position in set(range(len(group["params"]))).difference(group["active"]):
            self.state.pop(group["params"][position], None)


def _hyper(group: dict[str, Any], *, projectable: bool) -> Hyper:
    lr = float(group["lr"])
    lr_full = lr * group["projectable_lr_scale"] if projectable else lr
    return Hyper(
        lr=lr,
        lr_full=lr_full,
        lr_free=lr_full * group["state_free_lr_scale"],
        betas=group["betas"],
        eps=group["eps"],
        momentum=group["momentum"],
        weight_decay=group["weight_decay"],
        state_full=group["state_full"],
        state_free=group["state_free"],
    )


def _check_options(group: dict[str, Any]) -> None:
    for key, choices in _CHOICES.items():
        if group[key] not in choices:
            raise ValueError(f"expected {key} to be one of {', '.join(choices)}, got {group[key]!r}")
    for key in ("lr", "eps", "weight_decay", "state_free_lr_scale", "projectable_lr_scale"):
        if not 0 <= group[key] < float("inf"):
            raise ValueError(f"expected {key} >= 0, got {group[key]}")
    if not 0 <= group["density"] <= 1:
        raise ValueError(f"expected density in [0, 1], got {group['density']}")
    if not isinstance(group["update_gap"], int) or group["update_gap"] < 1:
        raise ValueError(f"expected update_gap to be a positive whole number, got {group['update_gap']!r}")
    betas = (0.0, 0.0) if group["betas"] is None else group["betas"]
    for key, value in (("momentum", group["momentum"]), ("betas", betas[0]), ("betas", betas[1])):
        if not 0 <= value < 1:
            raise ValueError(f"expected {key} in [0, 1), got {value}")


def _check_params(group: dict[str, Any]) -> None:
    matrices_only: tuple[Projection, ...] = ("columns", "rows", *BASIS)  # randk takes any shape
    for param in group["params"]:
        if not param.is_floating_point():
            raise ValueError(f"expected real floating-point parameters, got {param.dtype}")
        if group["projectable"] and group["projection"] in matrices_only and param.dim() != 2:
            raise ValueError(
                f"projection={group['projection']!r} expects matrices, got a parameter of shape "
                f"{tuple(param.shape)}; use 'blockwise' or 'randk', or a group that is not projectable"
            )
    if group["projectable"] and group["projection"] == "blockwise":
        count = len(trainable(group))
        draw_block(count, block_size(count, group["density"]), group["block_order"], draw=0)
