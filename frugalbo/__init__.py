"""frugalbo: the best configuration that a budget can buy.

The public names are imported when they are first used, so that `import frugalbo` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "frugalbo.api": ("open_study", "pause", "resume", "tune"),
    "frugalbo.budget.amounts": ("Budget", "Cost"),
    "frugalbo.budget.ledger": ("Balance", "Ledger"),
    "frugalbo.budget.stated": ("CostPrior",),
    "frugalbo.constraint": ("OutcomeConstraint",),
    "frugalbo.errors": (
        "BudgetError", "ExecutorError", "FrugalError", "FrugalWarning", "LeaseError", "PoolError", "ProblemError",
        "SpaceError", "StorageError", "StudyError",
    ),
    "frugalbo.events": ("Ended", "Reported", "Started"),
    "frugalbo.executors.simulated": ("Curve", "Disturbance", "Hazards", "SimulatedExecutor"),
    "frugalbo.job": ("DivergedError", "JobContext"),
    "frugalbo.pool": ("Pool",),
    "frugalbo.problem": ("Fidelity", "Maximize", "Minimize", "Problem", "command_problem", "load_problem"),
    "frugalbo.recording": ("Recording",),
    "frugalbo.replay": ("simulate",),
    "frugalbo.report": ("Report",),
    "frugalbo.script": ("by_hand",),
    "frugalbo.slot": ("Slot",),
    "frugalbo.space": ("Choice", "Fixed", "Float", "Int", "Space"),
    "frugalbo.together": ("resume_together", "tune_together"),
    "frugalbo.study": ("Status", "Study", "Trial"),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}

__all__ = sorted(_MODULE_OF)  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from frugalbo.api import open_study, pause, resume, tune
    from frugalbo.budget.amounts import Budget, Cost
    from frugalbo.budget.ledger import Balance, Ledger
    from frugalbo.budget.stated import CostPrior
    from frugalbo.constraint import OutcomeConstraint
    from frugalbo.errors import (
        BudgetError,
        ExecutorError,
        FrugalError,
        FrugalWarning,
        LeaseError,
        PoolError,
        ProblemError,
        SpaceError,
        StorageError,
        StudyError,
    )
    from frugalbo.events import Ended, Reported, Started
    from frugalbo.executors.simulated import Curve, Disturbance, Hazards, SimulatedExecutor
    from frugalbo.job import DivergedError, JobContext
    from frugalbo.pool import Pool
    from frugalbo.problem import Fidelity, Maximize, Minimize, Problem, command_problem, load_problem
    from frugalbo.recording import Recording
    from frugalbo.replay import simulate
    from frugalbo.report import Report
    from frugalbo.script import by_hand
    from frugalbo.slot import Slot
    from frugalbo.space import Choice, Fixed, Float, Int, Space
    from frugalbo.study import Status, Study, Trial
    from frugalbo.together import resume_together, tune_together


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public name
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'frugalbo' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
