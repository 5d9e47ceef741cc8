"""Which weights of a model FRUGAL may project, by module type and name; knows no model library."""

from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor, nn

_HEAD_NAMES = frozenset(
    {"lm_head", "head", "heads", "classifier", "cls", "logits", "score", "embed_out", "output_layer", "qa_outputs"}
)
_ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def param_groups(
    model: nn.Module,
    *,
    head: Collection[str] | None = None,
    projectable: Callable[[str], bool] | None = None,
    weight_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Split a model into the linear weights that `Frugal` projects and the rest, always state-full.

    Source: FRUGAL, arXiv:2411.07837, section 4 and its released code: embeddings, norms and the output
    layer keep full state. Projectable is the weight of every `nn.Linear` (and the input projections of
    `nn.MultiheadAttention`) in the order of `model.named_modules()`, unless it belongs to the head, is
    shared with an embedding, or `projectable` says no.

    The head is, in this order: what `head` names; what `model.get_output_embeddings()` returns, where a
    model has that method, and every module with a usual name of a head in its path (`lm_head`, `head`,
    `classifier`, `score`, ..., or a module called `output` at the top); failing all, the last `nn.Linear`.
    Deviation: the released code asks instead whether a path contains one of the usual names of attention
    and MLP weights, which finds nothing in a model that is named otherwise.

    Args:
        model: Any module made of linear layers. Nothing in it is changed.
        head: Names of modules whose linear layers, and those below them, are state-full: full dotted
            names, or single parts of one. Empty for a model without a head.
        projectable: Takes a module's dotted name and says whether its weight may be projected. Heads and
            shared weights stay state-full whatever it says.
        weight_decay: If given, written into the groups: zero for tensors of fewer than two dimensions
            (biases, norms), which then form a third group, and this for all others.

    Returns:
        Parameter groups, the projectable one first. Parameters that do not require a gradient are
        included, so that they can be unfrozen later.

    Raises:
        ValueError: If no weight is projectable, or a name in `head` fits no module.
    """
    in_head = _head_test(model, head)
    embedded = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
    chosen: dict[int, Tensor] = {}
    for name, module in model.named_modules():
        if in_head(name, module) or (projectable is not None and not projectable(name)):
            continue
        for weight in _linear_weights(module):
            if id(weight) not in embedded:
                chosen[id(weight)] = weight
    if not chosen:
        raise ValueError(f"found no projectable nn.Linear in {type(model).__name__}: all are head or excluded")
    rest = [param for param in model.parameters() if id(param) not in chosen]
    groups: list[dict[str, Any]] = [{"params": list(chosen.values()), "projectable": True}]
    if weight_decay is None:
        groups.append({"params": rest, "projectable": False})
    else:
        groups[0]["weight_decay"] = weight_decay
        matrices = [param for param in rest if param.dim() >= 2]
        vectors = [param for param in rest if param.dim() < 2]
        groups.append({"params": matrices, "projectable": False, "weight_decay": weight_decay})
        groups.append({"params": vectors, "projectable": False, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


def _linear_weights(module: nn.Module) -> list[Tensor]:
    if isinstance(module, nn.Linear):
        return [module.weight]
    if isinstance(module, nn.MultiheadAttention):
        weights = (getattr(module, name, None) for name in _ATTENTION_WEIGHTS)
        return [weight for weight in weights if weight is not None]
    return []


def _head_test(model: nn.Module, head: Collection[str] | None) -> Callable[[str, nn.Module], bool]:
    names = [name for name, _ in model.named_modules()]
    if head is not None:
        wanted = frozenset([head] if isinstance(head, str) else head)
        for want in wanted:
            if not any(_is_under(name, frozenset({want})) for name in names):
                raise ValueError(f"expected head to name modules of the model, found none called {want!r}")
        return lambda name, _: _is_under(name, wanted)
    linears = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    output = getattr(model, "get_output_embeddings", lambda: None)()
    usual = [
        module
        for name, module in linears
        if module is output or _is_under(name, _HEAD_NAMES) or name.split(".")[0] == "output"
    ]
    found = {id(module) for module in usual or [module for _, module in linears[-1:]]}
    return lambda _, module: id(module) in found


def _is_under(name: str, wanted: frozenset[str]) -> bool:
    """Tell whether the module `name` is one of `wanted`, or below it."""
    parts = name.split(".")
    return not wanted.isdisjoint(parts) or any(".".join(parts[: i + 1]) in wanted for i in range(len(parts)))
