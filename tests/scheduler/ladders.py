"""A problem whose curves are drawn from its parameters, and runs on it under a virtual clock."""

from pathlib import Path

import numpy as np

from frugalbo.budget.amounts import Budget
from frugalbo.budget.cost import KnownCost
from frugalbo.events import Failure
from frugalbo.executors.simulated import Curve, SimulatedExecutor
from frugalbo.problem import Fidelity, Minimize, Problem
from frugalbo.propose.base import Suggestion
from frugalbo.run import RunLoop
from frugalbo.session import OpenStudy
from frugalbo.slot import Slot
from frugalbo.space import Float, Space

COST = KnownCost(lambda params, start, until: float(until - start))


def make_problem(high=27, low=1, schedule="truncated"):
    """One knob, and a second for each step."""
    fidelity = Fidelity("steps", low, high, schedule)
    return Problem("ladders", Space({"x": Float(0.0, 1.0)}), "m:f", Minimize("loss"), fidelity)


class Numbered:
    """Proposes x = 0, 1/997, 2/997 ..., each once, as long as there are any of the first `n`."""

    def __init__(self, n=997):
        self.n = n

    def propose(self, study, n):
        tried = {trial.params["x"] for trial in study.trials.values()}
        left = (x for i in range(self.n) if (x := i / 997) not in tried)
        return [Suggestion({"x": x}, {"method": "numbered"}) for x, _ in zip(left, range(n), strict=False)]


def losses(x, steps, seed=0):
    """A random curve of its own for each x, down a way and with noise."""
    rng = np.random.default_rng([seed, round(x * 997)])
    return rng.random() / np.arange(1, steps + 1) ** 0.3 + rng.random() + 0.05 * rng.random(steps)


def simulate_with(seed=0, failing=0.0):
    """For `SimulatedExecutor`; a share of the configurations fails somewhere on its way."""

    def simulate(params, planned, _seed):
        rng = np.random.default_rng([seed, round(params["x"] * 997), 1])
        n = planned if rng.random() >= failing else int(rng.integers(0, planned))
        values = losses(params["x"], planned, seed)[:n]
        return Curve(
            range(1, n + 1),
            [float(i) for i in range(1, n + 1)],
            [{"loss": float(v)} for v in values],
            None if n == planned else Failure.ERROR,
            "it broke",
        )

    return simulate


def play(scheduler, problem, *, budget, n_slots=1, simulate=None, study=None, **settings):
    """A run to its end; returns the study and why it ended."""
    study = study or OpenStudy(problem, Budget.of(budget))
    slots = [Slot(f"cpu:{i}", "cpu", i) for i in range(n_slots)]
    executor = SimulatedExecutor(problem, slots, simulate or simulate_with(), **settings)
    reason = RunLoop(study, scheduler, executor, scheduler.cost_model or COST, Path("unused")).run()
    return study, reason


def sent_to(study):
    """By level, the configurations that a segment was granted to it, in the order of their starts."""
    granted = sorted((s.at, s.trial, s.until) for t in study.trials.values() for s in t.starts)
    levels = {}
    for _, trial, until in granted:
        levels.setdefault(until, []).append(round(study.trials[trial].params["x"] * 997))
    return levels
