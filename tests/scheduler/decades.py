"""A simulated table whose costs range over three decades, and runs on it."""

from pathlib import Path

from frugalbo.budget.amounts import Budget
from frugalbo.budget.cost import LearnedCost
from frugalbo.executors.simulated import Curve, SimulatedExecutor
from frugalbo.problem import Minimize, Problem
from frugalbo.run import RunLoop
from frugalbo.scheduler.fixed import FixedScheduler
from frugalbo.session import OpenStudy
from frugalbo.slot import Slot
from frugalbo.space import Float, Space

PROBLEM = Problem(
    "decades", Space({"width": Float(1, 1000, log=True), "lr": Float(1e-4, 1, log=True)}), "m:f", Minimize("loss")
)
# The mean of 1000^u over u in [0, 1] is 999 / log(1000) = 144.6.
MEAN_S = 144.6


def curve(params, planned, seed, best=(0.35, 0.6)):
    """Costs the width in seconds."""
    u, v = PROBLEM.space.encode(params)
    return Curve([1], [params["width"]], [{"loss": (u - best[0]) ** 2 + (v - best[1]) ** 2}])


def run_on_decades(proposer, *, budget, cost_model=None, n_slots=1, seed=0, passes_over=True, simulate=curve):
    """A run to its end; returns the study and why it ended."""
    study = OpenStudy(PROBLEM, budget if isinstance(budget, Budget) else Budget(device_seconds=budget))
    cost_model = cost_model or LearnedCost(confidence=0.995)
    slots = [Slot(f"cpu:{i}", "cpu", i, dollars_per_hour=36.0) for i in range(n_slots)]
    reason = RunLoop(
        study=study,
        scheduler=FixedScheduler(proposer, cost_model if passes_over else None),
        executor=SimulatedExecutor(PROBLEM, slots, simulate),
        cost_model=cost_model,
        folder=Path("unused"),
        seed=seed,
    ).run()
    return study, reason


def loss_of(study):
    """The best loss; that of the worst corner if there is none."""
    return 1.0 if study.best() is None else study.value(study.best())
