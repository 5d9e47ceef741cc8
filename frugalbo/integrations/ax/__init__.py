"""Ax with our methods, our budget and our devices; see docs/ax.md.

| what | name |
|---|---|
| our methods in a client | `generation_strategy(method=..., budget=...)` |
| a client that pays | `BudgetedClient(client, budget)`: `ask`, `tell`, `fail`, `balance`, `best` |
| our devices in Ax's orchestrator | `ExecutorRunner`, `ReportedMetric` |
| an experiment as a study, and back | `from_ax`, `to_ax`, `losses` |
| snapshots and databases | `save`, `load`, `sqlite`, `load_sqlite` |
| the best point, early-stopped trials too | `best_point` |
| acquisitions of ours in Ax's own generator | `modular_strategy`; over fidelities, `multi_fidelity_strategy` |

Importing this package takes some seconds, as Ax does, and registers what is ours with Ax's stores.
"""

from __future__ import annotations

import frugalbo.models  # isort: skip  # noqa: F401 - first: it imports linear_operator without its warning

from frugalbo.errors import MissingExtra

try:
    import ax  # noqa: F401
except ImportError as error:
    raise MissingExtra("the integration with Ax needs ax-platform: pip install 'frugalbo[ax]'") from error

from ax.storage.botorch_modular_registry import register_acquisition_function

from frugalbo.integrations.ax.acquisition import MODULAR, FrugalAcquisition, modular_strategy
from frugalbo.integrations.ax.best import Best, best_point
from frugalbo.integrations.ax.convert import from_ax, losses, to_ax
from frugalbo.integrations.ax.execute import ExecutorRunner, ReportedMetric, problem_from_ax
from frugalbo.integrations.ax.multi_fidelity import KnowledgeGradientPerCost, multi_fidelity_strategy
from frugalbo.integrations.ax.node import FrugalNode, generation_strategy
from frugalbo.integrations.ax.service import Asked, BudgetedClient
from frugalbo.integrations.ax.storage import (
    load,
    load_sqlite,
    register_metric,
    register_node,
    register_runner,
    save,
    sqlite,
)

__all__ = [
    "MODULAR",
    "Asked",
    "Best",
    "BudgetedClient",
    "ExecutorRunner",
    "FrugalAcquisition",
    "FrugalNode",
    "KnowledgeGradientPerCost",
    "ReportedMetric",
    "best_point",
    "from_ax",
    "generation_strategy",
    "load",
    "load_sqlite",
    "losses",
    "modular_strategy",
    "multi_fidelity_strategy",
    "problem_from_ax",
    "save",
    "sqlite",
    "to_ax",
]

register_node()
register_runner(ExecutorRunner)
register_metric(ReportedMetric)
register_acquisition_function(FrugalAcquisition)
register_acquisition_function(KnowledgeGradientPerCost)
