"""Conformance of a scheduler: the facts on which the run loop relies, whatever it decides by.

Subclass `SchedulerConformance`, give it `make`, and pytest does the rest. Needs pytest and hypothesis. Whole runs
are played under a virtual clock, with failures and pre-emptions, so what hangs is found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from frugalbo.budget.amounts import Budget
from frugalbo.budget.cost import CostModel, KnownCost
from frugalbo.budget.ledger import Balance, Ledger
from frugalbo.events import Ended, Event, Failure, Outcome, Reported
from frugalbo.executors.base import Segment
from frugalbo.executors.simulated import Curve, SimulatedExecutor
from frugalbo.problem import Fidelity, Minimize, Problem
from frugalbo.propose.base import Proposer
from frugalbo.propose.random import RandomProposer
from frugalbo.run import RunLoop
from frugalbo.scheduler.base import Decision, Resume, Scheduler, Start, Stop, Watching
from frugalbo.session import OpenStudy
from frugalbo.slot import Slot
from frugalbo.space import Choice, Float, Space
from frugalbo.study import Status, Study


@dataclass(frozen=True, slots=True)
class Situation:
    """A run to be played.

    Args:
        high: Steps of a full trial, each of which takes a second.
        budget: Seconds.
        configurations: How many there are; None for no end of them.
        failing: The share of configurations that fail on their way.
        preemptions: How many segments are interrupted.
        ties: Whether losses are whole numbers.
    """

    high: int = 27
    budget: float = 200.0
    slots: int = 3
    configurations: int | None = None
    failing: float = 0.0
    preemptions: int = 0
    replanned: bool = False
    ties: bool = False
    seed: int = 0

    def problem(self) -> Problem:
        """What is tuned."""
        n = self.configurations
        space = Space({"x": Float(0.0, 1.0)} if n is None else {"x": Choice([i / n for i in range(n)])})
        fidelity = Fidelity("steps", 1, self.high, "replanned" if self.replanned else "truncated")
        return Problem("conformance", space, "nothing:here", Minimize("loss"), fidelity)

    def simulate(self, params: dict[str, float], planned: int, seed: int) -> Curve:
        """A curve that depends on all of its arguments."""
        del seed
        rng = np.random.default_rng([self.seed, planned if self.replanned else 0, int(params["x"] * 2**30)])
        losses = rng.random() / np.arange(1, self.high + 1) ** 0.5 + rng.random()
        fails = rng.random() < self.failing
        n = int(rng.integers(0, planned)) if fails else planned
        reported = [{"loss": float(round(2 * loss) if self.ties else loss)} for loss in losses[:n]]
        steps = range(1, n + 1)
        return Curve(steps, [float(i) for i in steps], reported, Failure.KILLED if fails else None, "it broke")


SITUATIONS = st.builds(
    Situation,
    high=st.sampled_from([1, 2, 9, 17, 27]),
    budget=st.floats(0.5, 150),
    slots=st.sampled_from([1, 2, 7]),
    configurations=st.sampled_from([None, 1, 5, 31]),
    failing=st.sampled_from([0.0, 0.2]),
    preemptions=st.sampled_from([0, 3, 11]),
    replanned=st.booleans(),
    ties=st.booleans(),
    seed=st.integers(0, 99),
)
_LOOK_AGAIN = 5  # every so many decisions are compared with those of one that was resumed: that takes time
_CHECKS = [HealthCheck.differing_executors, HealthCheck.too_slow]
_COST = KnownCost(lambda params, start, until: float(until - start))


class _Study(OpenStudy):
    """Remembers its events."""

    def __init__(self, problem: Problem, budget: Budget) -> None:
        super().__init__(problem, budget)
        self.events: list[Event] = []

    def record(self, *events: Event) -> None:
        super().record(*events)
        self.events += events


class _Preempting(SimulatedExecutor):
    """Takes some of its segments away."""

    def __init__(self, problem: Problem, slots: Sequence[Slot], situation: Situation) -> None:
        super().__init__(problem, slots, situation.simulate)  # type: ignore[arg-type]
        self._left = situation.preemptions
        self._rng = np.random.default_rng([situation.seed, 1])
        self._trials: list[int] = []

    def submit(self, segment: Segment) -> None:
        super().submit(segment)
        self._trials.append(segment.trial)

    def wait(self, timeout_s: float = float("inf")) -> Sequence[Reported | Ended]:
        if self._left and self._trials and self._rng.random() < 0.3:
            self._left -= 1
            self.cancel(int(self._rng.choice(self._trials)), Outcome.INTERRUPTED)
        events = super().wait(timeout_s)
        for event in events:
            if isinstance(event, Ended):
                self._trials.remove(event.trial)
        return events


class _Checked:
    """A scheduler that is asked twice, and once more in the place of one that was resumed from the journal."""

    def __init__(self, study: _Study, make: Callable[[], Scheduler]) -> None:
        self._study, self._make, self._inner = study, make, make()
        self._asked = 0

    def decide(self, study: Study, balance: Balance, slots: Sequence[Slot]) -> Sequence[Decision]:
        decisions = list(self._inner.decide(study, balance, slots))
        assert decisions == list(self._inner.decide(study, balance, slots)), "asked twice, it decides otherwise"
        self._asked += 1
        if self._asked % _LOOK_AGAIN == 0:
            resumed = list(self._make().decide(self._replayed(), balance, slots))
            assert decisions == resumed, "resumed from the journal, it decides otherwise"
        _check(study, decisions, slots)
        return decisions

    def watch(self, study: Study) -> Sequence[Stop]:
        if not isinstance(self._inner, Watching):
            return ()
        stops = list(self._inner.watch(study))
        self._asked += 1
        resumed = self._make()
        if self._asked % _LOOK_AGAIN == 0 and isinstance(resumed, Watching):
            assert stops == list(resumed.watch(self._replayed())), "resumed from the journal, it stops others"
        assert all(study.trials[stop.trial].status == Status.RUNNING for stop in stops)
        return stops

    def _replayed(self) -> Study:
        return Study(self._study.problem, Ledger(self._study.ledger.budget)).replay(self._study.events)


def _check(study: Study, decisions: Sequence[Decision], slots: Sequence[Slot]) -> None:
    begun = [d for d in decisions if isinstance(d, (Start, Resume))]
    assert len({d.slot.name for d in begun}) == len(begun), "two segments on a slot"
    assert {d.slot for d in begun} <= set(slots), "a slot that is not free"
    resumed = [d for d in begun if isinstance(d, Resume)]
    assert len({d.trial for d in resumed}) == len(resumed), "a trial is resumed twice"
    for decision in resumed:
        trial = study.trials[decision.trial]
        assert trial.status == Status.PAUSED, "what is not paused is resumed"
        assert trial.checkpoint < decision.until <= trial.planned, "nothing is left to run"
    for decision in begun:
        if isinstance(decision, Start):
            assert 1 <= decision.until <= decision.planned <= study.problem.steps


def play(situation: Situation, make: Callable[[Proposer, CostModel], Scheduler]) -> tuple[OpenStudy, str]:
    """A run to its end, checked at each decision; the study, and why it ended."""
    problem = situation.problem()
    study = _Study(problem, Budget(device_seconds=situation.budget))
    slots = [Slot(f"sim:{i}", "cpu", i) for i in range(situation.slots)]
    scheduler = _Checked(study, lambda: make(RandomProposer(seed=situation.seed), _COST))
    executor = _Preempting(problem, slots, situation)
    reason = RunLoop(study, scheduler, executor, _COST, Path("unused")).run()
    return study, reason


class SchedulerConformance:
    """What every scheduler must do; a subclass says how to make one.

    Attributes:
        first_steps: From a problem to the steps of the shortest first segment that it gives.
    """

    def first_steps(self, problem: Problem) -> int:
        """The steps of the shortest first segment."""
        return problem.steps

    def make(self, proposer: Proposer, cost_model: CostModel) -> Scheduler:
        """The scheduler to be tested."""
        raise NotImplementedError

    @settings(max_examples=8, deadline=None, suppress_health_check=_CHECKS)
    @given(situation=SITUATIONS)
    @example(situation=Situation(high=9, budget=5.0, slots=2, configurations=5))
    def test_a_run_ends_with_nothing_undone_that_could_be_paid_for(self, situation: Situation) -> None:
        """No run hangs, none overspends, and none ends while slots are free and there is something left to do."""
        self.check_run(situation)

    def check_run(self, situation: Situation) -> None:
        """Play one run and look at its end.

        Raises:
            AssertionError: If something was left undone.
        """
        study, reason = play(situation, self.make)
        account = study.balance()["device_seconds"]
        assert account.held == 0
        assert account.spent <= account.total * (1 + 1e-9)
        assert not study.with_status(Status.RUNNING)
        if "all failed" in reason:
            return
        tried = {trial.params["x"] for trial in study.trials.values()}
        if situation.configurations is None or len(tried) < situation.configurations:
            assert account.free < self.first_steps(study.problem), f"something could have begun, but {reason}"
        for trial in study.with_status(Status.PAUSED):
            wanted = trial.starts[-1].until - trial.checkpoint
            if trial.last_step < trial.starts[-1].until:
                assert account.free < wanted, f"trial {trial.number} was interrupted and left there, {reason}"

    @settings(max_examples=3, deadline=None, suppress_health_check=_CHECKS)
    @given(situation=SITUATIONS)
    def test_with_money_for_all_nothing_is_left_waiting(self, situation: Situation) -> None:
        """Of few configurations and a budget for all of them, at least one gets to the end, and nobody is left out."""
        situation = replace(situation, budget=1e6, configurations=5, failing=0.0)
        study, _ = play(situation, self.make)
        assert len({trial.params["x"] for trial in study.trials.values()}) == 5
        assert study.compared_at() == study.problem.steps
        if not situation.replanned:
            assert not study.with_status(Status.PAUSED)

    def test_without_free_slots_nothing_begins(self) -> None:
        """There is nothing to decide."""
        study = Study(Situation().problem(), Ledger(Budget(device_seconds=100)))
        assert study.ledger is not None
        found = self.make(RandomProposer(seed=0), _COST).decide(study, study.ledger.balance(), [])
        assert not [d for d in found if isinstance(d, (Start, Resume))]
