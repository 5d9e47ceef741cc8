"""NePS on recorded curves: it decides what runs next and how far, and is told the loss there.

| name | what it is |
|---|---|
| `neps-asha` | NePS's `asha` |
| `neps-hyperband` | NePS's `hyperband`, its own choice for a space with a fidelity and without priors |

With its own settings (`eta` 3). It goes on with what is paused, so a step that was paid for is not paid for again.
Whatever configuration it draws stands for the next one of the table in the order that all who race have.
"""

from __future__ import annotations

import heapq
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from benchmarks.curve_peers import Ran
    from benchmarks.curve_tables import CurveTable

NAMES = {"neps-asha": "asha", "neps-hyperband": "hyperband"}


def drive(name: str, table: CurveTable, order: Sequence[int], *, budget_s: float, workers: int, seed: int) -> list[Ran]:
    """Spend `budget_s` device-seconds of all workers on a virtual clock; the trials by number.

    A segment is begun only if it can be paid to its end, as each step costs what the table says; after the first that
    cannot, or that would need another configuration than the table has, none begins any more.
    """
    from benchmarks.curve_peers import Ran

    tool = _tool(NAMES[name], table.steps, seed)
    now, left, is_open = 0.0, budget_s, True
    trials: list[Ran] = []
    numbers: dict[str, int] = {}  # by NePS's name of a configuration
    running: list[tuple[float, int, int, bool, str]] = []  # end, step then, whose, whether it breaks down, NePS's name
    while True:
        while is_open and len(running) < workers:
            asked = tool.ask()
            number = numbers.setdefault(asked.id.partition("_")[0], len(trials))
            if number == len(order):
                is_open = False
            else:
                if number == len(trials):
                    trials.append(Ran(int(order[number])))
                step, seconds, breaks = _segment(table, trials[number], round(asked.config["step"]))
                is_open = seconds <= left * (1 + 1e-9)
                if is_open:
                    left -= seconds
                    heapq.heappush(running, (now + seconds, step, number, breaks, asked.id))
        if not running:
            return [ran for ran in trials if ran.step or ran.failed]
        now, step, number, breaks, told = heapq.heappop(running)
        ran = trials[number]
        ran.step, ran.failed = step, breaks
        if breaks:
            tool.tell(told, RuntimeError("the run broke down"))
        else:
            ran.loss = float(table.losses[ran.row, step - 1])
            tool.tell(told, {"objective_to_minimize": ran.loss})


def _tool(algorithm: str, steps: int, seed: int) -> Any:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about what it imports
        import neps  # pyright: ignore[reportMissingImports]

    class Space(neps.PipelineSpace):
        x = neps.Float(0, 1)
        step = neps.IntegerFidelity(1, steps)

    np.random.seed(seed % 2**32)  # noqa: NPY002 - what it draws from
    torch.manual_seed(seed)
    return neps.AskAndTell(getattr(neps.algorithms, algorithm)(Space()))


def _segment(table: CurveTable, ran: Ran, until: int) -> tuple[int, float, bool]:
    """Where a run that is to go on until a step ends, in how many seconds, and whether it breaks down there."""
    is_finite = np.isfinite(table.losses[ran.row, : min(until, int(table.lengths[ran.row]))])
    step = len(is_finite) if is_finite.all() else int(is_finite.argmin()) + 1
    at = np.concatenate([[0.0], table.seconds[ran.row]])
    return step, float(at[step] - at[ran.step]), step < until or not is_finite.all()
