import math
from dataclasses import replace

import pytest

from frugalbo.executors.base import Segment
from frugalbo.executors.simulated import Curve, SimulatedExecutor
from frugalbo.problem import Problem
from frugalbo.slot import Slot
from frugalbo.study import Ended, Failure, Outcome
from frugalbo.testing.executors import STEPS, ExecutorConformance, a_problem

SLOTS = [Slot("cpu:0", "cpu", 0), Slot("cpu:1", "cpu", 1, devices=3, dollars_per_hour=60.0)]


def simulate(job):
    """The jobs of the conformance suite as curves; a step takes 0.01 s."""

    def curve(params, planned, seed):
        steps = range(1, planned + 1)
        seconds = [0.01 * step for step in steps]
        match job.rpartition(":")[2]:
            case "train" | "outlives_its_cap":
                totals = [step * (step + 1) / 2 for step in steps]
                metrics = [{"loss": 1 / step, "total": total} for step, total in zip(steps, totals, strict=True)]
                return Curve(steps, seconds, metrics)
            case "returns_a_number":
                return Curve([planned], [0.1], [{"loss": 0.25 * params["x"]}])
            case "fails":
                message = "ValueError: the learning rate is cursed"
                return Curve([1], [0.01], [{"loss": 1.0}], failure=Failure.ERROR, message=message)
            case "diverges":
                return Curve([1], [0.01], [{"loss": math.nan}])
            case "says_nothing":
                return Curve([], [], [])
            case "sleeps":
                return Curve([1, planned], [0.01, 1e9], [{"loss": 1.0}] * 2)
        raise AssertionError(job)

    return curve


class TestSimulated(ExecutorConformance):
    keeps_logs = False
    grace_s = 0.0

    def make(self, problem: Problem) -> SimulatedExecutor:
        return SimulatedExecutor(problem, SLOTS, simulate(problem.job), now=1000.0)


@pytest.fixture
def segment(tmp_path):
    return Segment(
        trial=0, number=0, params={"x": 0.5}, seed=0, start=0, until=STEPS, planned=STEPS, slot=SLOTS[1],
        cap_s=9.0, memory_bytes=None, folder=tmp_path,
    )  # fmt: skip


def make(job="train", **overheads):
    return SimulatedExecutor(a_problem(job), SLOTS, simulate(job), **overheads)


def test_seconds_count_each_device_and_its_price(segment):
    executor = make(start_up_s=0.5)
    executor.submit(segment)
    *_, ended = [event for _ in range(STEPS) for event in executor.wait(0.0)]
    # 0.5 s and 7 steps of 0.01 s, on three devices, at a dollar a minute for each.
    assert ended.used.device_seconds == pytest.approx(3 * 0.57)
    assert ended.used.dollars == pytest.approx(3 * 0.57 / 60)
    assert executor.now() == pytest.approx(0.57)


def test_a_resumed_segment_pays_for_reloading_but_not_for_the_steps_before(segment):
    executor = make(start_up_s=0.5, reload_s=0.25)
    executor.submit(replace(segment, number=1, start=5))
    *reports, ended = [event for _ in range(2) for event in executor.wait(0.0)]
    assert [report.step for report in reports] == [6, 7]
    assert ended.used.device_seconds == pytest.approx(3 * (0.5 + 0.25 + 0.02))


def test_events_of_one_instant_come_together(segment):
    executor = make()
    executor.submit(segment)
    executor.submit(replace(segment, trial=1, slot=SLOTS[0]))
    for step in range(1, STEPS + 1):
        events = executor.wait(0.0)
        reported = [(event.trial, event.step) for event in events if not isinstance(event, Ended)]
        assert reported == [(0, step), (1, step)]
    assert [(e.trial, e.outcome) for e in events if isinstance(e, Ended)] == [
        (0, Outcome.COMPLETED),
        (1, Outcome.COMPLETED),
    ]


def test_events_come_in_the_order_of_time_whoever_was_first_submitted(segment):
    def simulate(params, planned, seed):
        return Curve([planned], [params["x"]], [{"loss": 0.0}])

    executor = SimulatedExecutor(a_problem("train"), SLOTS, simulate)
    executor.submit(replace(segment, params={"x": 5.0}))
    executor.submit(replace(segment, trial=1, slot=SLOTS[0], params={"x": 2.0}))
    stamps = [(event.trial, event.at) for _ in range(2) for event in executor.wait(0.0)]
    assert stamps == [(1, 2.0), (1, 2.0), (0, 5.0), (0, 5.0)]
    assert executor.now() == 5.0
