"""Conformance of an executor: the facts on which the run loop relies, wherever segments run.

Subclass `ExecutorConformance`, give it `make`, and pytest does the rest. Needs pytest.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from frugalbo.budget.amounts import Cost
from frugalbo.errors import ExecutorError
from frugalbo.events import Ended, Failure, Outcome, Reported, Started, event_from_json, event_to_json
from frugalbo.executors.base import Executor, Segment
from frugalbo.problem import Fidelity, Minimize, Problem
from frugalbo.space import Float, Space

STEPS = 7


def a_problem(job: str) -> Problem:
    """The problem whose job is `frugalbo.testing.jobs:<job>`."""
    return Problem(
        name=job,
        space=Space({"x": Float(0.0, 1.0)}),
        job=f"frugalbo.testing.jobs:{job}",
        objective=Minimize("loss"),
        fidelity=Fidelity("steps", 1, STEPS),
    )


def drain(executor: Executor, *, ends: int = 1, timeout_s: float = 20.0) -> list[Reported | Ended]:
    """The events up to and including so many ends.

    Raises:
        TimeoutError: If they do not come.
    """
    events: list[Reported | Ended] = []
    give_up = time.monotonic() + timeout_s
    while sum(isinstance(event, Ended) for event in events) < ends:
        if time.monotonic() > give_up:
            raise TimeoutError(f"no end within {timeout_s} s; so far {events}")
        events += executor.wait(0.5)
    return events


class ExecutorConformance:
    """What every executor must do; a subclass says how to make one with at least two slots.

    Attributes:
        grace_s: How long after its cap a segment may still cost.
        stops_running_jobs: Whether a job can be cancelled once it runs.
        keeps_logs: Whether what a job prints is kept.
    """

    grace_s: float = 1.0
    stops_running_jobs: bool = True
    keeps_logs: bool = True

    def make(self, problem: Problem) -> Executor:
        """An executor for this problem; override it."""
        raise NotImplementedError

    @pytest.fixture
    def executor(self, request: pytest.FixtureRequest) -> Iterator[Executor]:
        """An executor of the job that the test names."""
        with self.make(a_problem(getattr(request, "param", "train"))) as executor:
            yield executor

    @pytest.fixture
    def segment(self, executor: Executor, tmp_path: Path) -> Segment:
        """A whole trial, on the first slot."""
        return Segment(
            trial=3,
            number=0,
            params={"x": 0.5},
            seed=11,
            start=0,
            until=STEPS,
            planned=STEPS,
            slot=executor.slots[0],
            cap_s=20.0,
            memory_bytes=None,
            folder=tmp_path / "trial-3",
        )

    def test_a_segment_reports_its_steps_in_order_and_then_ends_once(
        self, executor: Executor, segment: Segment
    ) -> None:
        """Nothing comes after the end, and all that comes can be stored."""
        before = executor.now()
        executor.submit(segment)
        events = drain(executor)
        *reports, ended = events
        assert [event.step for event in reports if isinstance(event, Reported)] == list(range(1, STEPS + 1))
        assert [report.metrics["loss"] for report in reports if isinstance(report, Reported)] == [
            pytest.approx(1 / step) for step in range(1, STEPS + 1)
        ]
        assert isinstance(ended, Ended)
        assert (ended.outcome, ended.failure, ended.checkpoint) == (Outcome.COMPLETED, None, STEPS)
        assert {(event.trial, event.segment) for event in events} == {(3, 0)}
        assert [event_from_json(event_to_json(event)) for event in events] == events
        assert all(before - 1 <= event.at <= executor.now() + 1 for event in events)
        assert executor.wait(0.2) == []

    def test_what_happened_while_nobody_looked_comes_in_its_order(self, executor: Executor, segment: Segment) -> None:
        """The end last, though it is there as soon as the reports."""
        executor.submit(segment)
        time.sleep(0.7)
        *reports, ended = drain(executor)
        assert [event.step for event in reports if isinstance(event, Reported)] == list(range(1, STEPS + 1))
        assert isinstance(ended, Ended)

    def test_a_slot_is_busy_until_its_segment_has_ended(self, executor: Executor, segment: Segment) -> None:
        """And a second segment is refused there, without harm to the first."""
        assert list(executor.free_slots()) == list(executor.slots)
        executor.submit(segment)
        assert list(executor.free_slots()) == list(executor.slots[1:])
        with pytest.raises(ExecutorError, match="not free"):
            executor.submit(replace(segment, trial=4, folder=segment.folder.parent / "trial-4"))
        ended = drain(executor)[-1]
        assert isinstance(ended, Ended)
        assert (ended.trial, ended.outcome) == (3, Outcome.COMPLETED)
        assert list(executor.free_slots()) == list(executor.slots)

    def test_segments_on_different_slots_do_not_mix(self, executor: Executor, segment: Segment) -> None:
        """Each trial has its own events, all before its own end."""
        other = replace(segment, trial=4, slot=executor.slots[1], until=5, folder=segment.folder.parent / "trial-4")
        executor.submit(segment)
        executor.submit(other)
        events = drain(executor, ends=2)
        for trial, until in ((3, STEPS), (4, 5)):
            own = [event for event in events if event.trial == trial]
            assert [event.step for event in own if isinstance(event, Reported)] == list(range(1, until + 1))
            assert isinstance(own[-1], Ended)

    def test_a_paused_trial_goes_on_from_its_checkpoint(self, executor: Executor, segment: Segment) -> None:
        """The sum over all steps is that of a trial that was never paused."""
        executor.submit(replace(segment, until=3))
        paused = drain(executor)[-1]
        assert isinstance(paused, Ended)
        assert (paused.outcome, paused.checkpoint) == (Outcome.PAUSED, 3)
        assert paused.used.evaluations == 1
        executor.submit(replace(segment, number=1, start=3, slot=executor.slots[1]))
        *reports, ended = drain(executor)
        assert [report.step for report in reports if isinstance(report, Reported)] == [4, 5, 6, 7]
        assert isinstance(reports[-1], Reported)
        assert reports[-1].metrics["total"] == 1 + 2 + 3 + 4 + 5 + 6 + 7
        assert isinstance(ended, Ended)
        assert (ended.outcome, ended.segment, ended.used.evaluations) == (Outcome.COMPLETED, 1, 0)

    @pytest.mark.parametrize("executor", ["returns_a_number"], indirect=True)
    def test_a_returned_number_is_the_result(self, executor: Executor, segment: Segment) -> None:
        """For the last step that was granted."""
        executor.submit(segment)
        report, ended = drain(executor)
        assert isinstance(report, Reported)
        assert (report.step, report.metrics) == (STEPS, {"loss": 0.125})  # 0.25 * 0.5
        assert isinstance(ended, Ended)
        assert ended.outcome == Outcome.COMPLETED

    @pytest.mark.parametrize("executor", ["fails"], indirect=True)
    def test_a_job_that_raises_has_failed_with_its_reason(self, executor: Executor, segment: Segment) -> None:
        """What it had reported stays, and the end of its log comes along."""
        executor.submit(segment)
        report, ended = drain(executor)
        assert isinstance(report, Reported)
        assert isinstance(ended, Ended)
        assert (ended.outcome, ended.failure) == (Outcome.FAILED, Failure.ERROR)
        assert "ValueError: the learning rate is cursed" in ended.message
        if self.keeps_logs:
            assert "so far so good" in ended.log_tail
            assert "ValueError" in ended.log_tail
        assert list(executor.free_slots()) == list(executor.slots)

    @pytest.mark.parametrize(
        ("executor", "failure"), [("diverges", "diverged"), ("says_nothing", "no result")], indirect=["executor"]
    )
    def test_a_job_without_a_finite_result_has_failed(self, executor: Executor, segment: Segment, failure: str) -> None:
        """NaN is not a result, and neither is nothing."""
        executor.submit(segment)
        ended = drain(executor)[-1]
        assert isinstance(ended, Ended)
        assert (ended.outcome, ended.failure) == (Outcome.FAILED, failure)
        assert "loss" in ended.message

    @pytest.mark.parametrize("executor", ["outlives_its_cap"], indirect=True)
    def test_a_segment_costs_no_more_than_its_cap_and_the_grace(self, executor: Executor, segment: Segment) -> None:
        """Whatever it would have needed."""
        executor.submit(replace(segment, until=10_000, planned=10_000, cap_s=0.5))
        ended = drain(executor)[-1]
        assert isinstance(ended, Ended)
        assert (ended.outcome, ended.failure) == (Outcome.FAILED, Failure.TIMEOUT)
        assert 0.4 <= ended.used.device_seconds <= 0.5 + self.grace_s

    @pytest.mark.parametrize("outcome", [Outcome.STOPPED, Outcome.INTERRUPTED])
    @pytest.mark.parametrize("executor", ["sleeps"], indirect=True)
    def test_a_cancelled_trial_ends_as_it_was_asked_to(
        self, executor: Executor, segment: Segment, outcome: Outcome
    ) -> None:
        """Asked twice, it ends once; its slot is free for another; asked again, nothing happens."""
        executor.submit(segment)
        if self.stops_running_jobs:
            events: Sequence[Reported | Ended] = []
            while not events:
                events = executor.wait(5.0)
            assert isinstance(events[0], Reported)
        executor.cancel(segment.trial, outcome)
        executor.cancel(segment.trial, outcome)
        ended = drain(executor)[-1]
        assert isinstance(ended, Ended)
        assert (ended.outcome, ended.failure) == (outcome, None)
        assert list(executor.free_slots()) == list(executor.slots)
        executor.cancel(segment.trial, outcome)
        assert executor.wait(0.2) == []

    def test_cancelling_what_does_not_run_does_nothing(self, executor: Executor, segment: Segment) -> None:
        """Neither a trial that never was nor one that has ended."""
        executor.cancel(99)
        executor.submit(segment)
        drain(executor)
        executor.cancel(segment.trial)
        executor.submit(replace(segment, trial=4, folder=segment.folder.parent / "trial-4"))
        ended = drain(executor)[-1]
        assert isinstance(ended, Ended)
        assert (ended.trial, ended.outcome) == (4, Outcome.COMPLETED)

    def test_waiting_for_nothing_returns(self, executor: Executor) -> None:
        """At the latest when the time is over."""
        began = time.monotonic()
        assert executor.wait(0.1) == []
        assert time.monotonic() - began < 2

    def test_a_segment_that_left_nothing_is_recovered_as_interrupted(self, executor: Executor, tmp_path: Path) -> None:
        """Where not even its run's folder is to be seen: charged the time since it started, at most what it held."""
        started = Started(
            trial=5,
            segment=0,
            params={"x": 0.5},
            start=0,
            until=STEPS,
            planned=STEPS,
            held=Cost(device_seconds=13.0, evaluations=1),
            slot=executor.slots[0].name,
            at=executor.now() - 600,
        )
        [ended] = executor.recover(started, tmp_path / "away" / "trial-5")
        assert isinstance(ended, Ended)
        assert (ended.trial, ended.segment, ended.outcome) == (5, 0, Outcome.INTERRUPTED)
        assert (ended.used.device_seconds, ended.used.evaluations) == (13.0, 1)
