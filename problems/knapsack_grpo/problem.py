"""GRPO on arithmetic with FRUGAL and UBA, its rollouts shared out by a rule: the space, the objective, the fidelity.

Light: the job itself, with model and tasks, is in `train.py` and is not imported here.
"""

from __future__ import annotations

from pathlib import Path

from frugalbo.errors import ProblemError
from frugalbo.problem import Fidelity, Maximize, Problem
from frugalbo.space import Choice, Fixed, Float, Int, Space

# Updates of a full trial. The names and numbers are those of `warm_start.SIZES`; a test keeps them together.
UPDATES = {"toy": 24, "mini": 60, "85M": 1000}
SHARED_OUT = ["filtering", "knapsack", "posterior", "signal"]


def problem(size: str = "mini", updates: int | None = None) -> Problem:
    """Return the problem at one size.

    The defaults are those of a plain GRPO: eight rollouts for each prompt, no divergence term, temperature 1;
    FRUGAL's density of 0.25 and a cosine (phi = 2).

    Args:
        size: `"mini"` for a CPU core, `"toy"` for a look in seconds, `"85M"` for a GPU.
        updates: Of a full trial; its token budget is in proportion.

    Raises:
        ProblemError: If there is no such size, or a trial has no updates.
    """
    if size not in UPDATES:
        raise ProblemError(f"expected size to be one of {', '.join(UPDATES)}, got {size!r}")
    high = UPDATES[size] if updates is None else updates
    return Problem(
        name="knapsack_grpo",
        description=f"GRPO on arithmetic ({size}) with FRUGAL, UBA and shared-out rollouts",
        space=Space(
            {
                "lr": Float(3e-5, 1e-2, log=True),
                "density": Float(0.0, 1.0),
                "phi": Float(0.1, 20.0, log=True),
                "rollouts": Int(4, 32, log=True),
                "allocation": Choice(["uniform", *SHARED_OUT]),
                "lower": Int(1, 4, only_if={"allocation": SHARED_OUT}),
                "upper": Int(32, 128, log=True, only_if={"allocation": SHARED_OUT}),
                "group_batch": Int(8, 128, log=True),
                "kl": Choice([0.0, 0.001, 0.01, 0.1], ordered=True),
                "temperature": Float(0.6, 1.4),
                "size": Fixed(size),
            }
        ),
        job="train.py:main",
        objective=Maximize("pass_at_1", sem="pass_at_1_sem"),
        fidelity=Fidelity("updates", max(1, high // 4), high, schedule="replanned"),
        defaults={
            "lr": 3e-4,
            "density": 0.25,
            "phi": 2.0,
            "rollouts": 8,
            "allocation": "uniform",
            "group_batch": 32,
            "kl": 0.0,
            "temperature": 1.0,
        },
        root=str(Path(__file__).resolve().parent),
    )
