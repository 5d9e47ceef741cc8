"""Pre-train a small LLaMA with FRUGAL and UBA: the space, the objective, the fidelity.

Light: the job itself, with model and data, is in `train.py` and is not imported here.
"""

from __future__ import annotations

from dataclasses import dataclass
from glob import has_magic
from pathlib import Path

from frugalbo.errors import ProblemError
from frugalbo.expression import Expression
from frugalbo.problem import Fidelity, Minimize, Problem
from frugalbo.space import Fixed, Float, Int, Space


@dataclass(frozen=True, slots=True)
class Scale:
    """What depends on how long a trial of some size is, and its shape.

    Args:
        hidden: Width; of a layer's linear weights four are hidden x hidden,
        ffn: and three hidden x ffn, at least as large.
        low: The fewest steps at which a loss says anything about the full trial.
        steps: The steps of a full trial, unless the user says otherwise.
        update_gap: Where to start: a few rounds through all blocks of weights fit into a trial.
    """

    hidden: int
    ffn: int
    layers: int
    low: int
    steps: int
    update_gap: int


# The names are those of `train.SIZES`; a test keeps them together.
SCALES = {
    "mini": Scale(64, 176, 2, low=64, steps=512, update_gap=20),
    "60M": Scale(512, 1376, 8, low=250, steps=2000, update_gap=200),
    "130M": Scale(768, 2048, 12, low=250, steps=2000, update_gap=200),
}


def state_bytes(size: str, data: str | None = None) -> str:
    """The bytes of optimizer state at their peak, as a formula of `density`.

    Two float32 moments for embedding, norms and head, and for the active ones of the linear weights: the largest
    that any k successive tensors of the layers (four of hidden x hidden, then three of hidden x ffn) have together.
    Where `density` is halfway between two numbers of tensors it is the larger, and for text that is not the default
    the vocabulary is taken to be that of tokens; so it may be too much, never too little.
    """
    scale = SCALES[size]
    h, f, tensors = scale.hidden, scale.ffn, 7 * scale.layers
    regular = 2 * (256 if _located(data) == "stdlib" else 32_000) * h + (2 * scale.layers + 1) * h
    k = f"floor({tensors} * density + 0.5)"
    layers, most = f"{4 * h * h + 3 * h * f} * ({k} // 7)", f"{h * f} * min({k} % 7, 3)"
    return f"8 * ({regular} + {layers} + {most} + {h * h} * max({k} % 7 - 3, 0))"


def problem(
    size: str = "mini", data: str | None = None, steps: int | None = None, state_limit: int | None = None
) -> Problem:
    """Return the problem at one size, on one text.

    The defaults are those of FRUGAL's pre-training (arXiv:2411.07837): lr 1e-3, density 0.25, a
    cosine (phi = 2), 10 % warm-up, no weight decay, the state-free update at the full rate.
    Deviation: the miniature's update gap is shortened with its run.

    Args:
        size: `"mini"` for a CPU core; `"60M"` and `"130M"`, the paper's shapes, for a GPU.
        data: A folder or glob of text files, or `.npy` / `.bin` files of uint16 tokens; by default
            the source of Python's standard library.
        steps: The steps of a full trial.
        state_limit: The most bytes of optimizer state, which are known before a trial runs: no trial has more. The
            default density is the largest that keeps to it, up to 0.25.

    Raises:
        ProblemError: If there is no such size, no such data, a trial too short to say anything, or a limit on the
            state that no density keeps to.
    """
    if size not in SCALES:
        raise ProblemError(f"expected size to be one of {', '.join(SCALES)}, got {size!r}")
    scale = SCALES[size]
    high = scale.steps if steps is None else steps
    low = min(scale.low, high)
    density, constraints = 0.25, ()
    if state_limit is not None:
        constraints = (f"{state_bytes(size, data)} <= {state_limit}",)
        bytes_of = Expression(state_bytes(size, data), ["density"])
        known = [0.25, *(k / (7 * scale.layers) for k in range(7 * scale.layers // 4, -1, -1))]
        density = next((d for d in known if bytes_of({"density": d}) <= state_limit), -1.0)
        if density < 0:
            least = bytes_of({"density": 0.0})
            raise ProblemError(f"expected a state_limit of at least {least:,} bytes for {size}, got {state_limit!r}")
    return Problem(
        name="tiny_llama",
        description=f"Pre-train a LLaMA ({size}) with FRUGAL under a UBA schedule",
        space=Space(
            {
                "lr": Float(1e-4, 3e-2, log=True),
                "density": Float(0.0, 1.0),
                "phi": Float(0.1, 20.0, log=True),
                "warmup": Float(0.0, 0.4),
                "state_free_lr_scale": Float(0.01, 3.0, log=True),
                "update_gap": Int(max(1, scale.update_gap // 10), scale.update_gap * 10, log=True),
                "weight_decay": Float(0.0, 1.0),
                "size": Fixed(size),
                "data": Fixed(_located(data)),
            },
            constraints=constraints,
        ),
        job="train.py:main",
        objective=Minimize("val_loss"),
        fidelity=Fidelity("steps", low, high, schedule="replanned"),
        defaults={
            "lr": 1e-3,
            "density": density,
            "phi": 2.0,
            "warmup": 0.1,
            "state_free_lr_scale": 1.0,
            "update_gap": scale.update_gap,
            "weight_decay": 0.0,
        },
        root=str(Path(__file__).resolve().parent),
    )


def _located(data: str | None) -> str:
    """`data` as jobs will find it, wherever they run."""
    if data is None or data == "stdlib":
        return "stdlib"
    path = Path(data).expanduser().absolute()
    if not has_magic(data) and not path.exists():
        raise ProblemError(f"data {data!r}: there is no such file or folder")
    return str(path)
