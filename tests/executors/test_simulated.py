import math
from dataclasses import replace

import pytest

from frugalbo.errors import ExecutorError
from frugalbo.events import Ended, Failure, Outcome
from frugalbo.executors.base import Segment
from frugalbo.executors.simulated import Curve, Hazards, SimulatedExecutor
from frugalbo.problem import Problem
from frugalbo.slot import Slot
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


def steady(step_s, **rest):
    """A step takes so many seconds."""

    def curve(params, planned, seed):
        steps = range(1, planned + 1)
        return Curve(steps, [step_s * step for step in steps], [{"loss": 1.0}] * planned, **rest)

    return curve


def ends_of(executor, segment):
    executor.submit(segment)
    events = []
    while not events or not isinstance(events[-1], Ended):
        events += executor.wait()
    return events


def test_a_slot_of_speed_two_takes_half_the_seconds(segment):
    fast = replace(SLOTS[1], name="fast", speed=2.0)
    executor = SimulatedExecutor(a_problem("train"), [fast], steady(3.0), start_up_s=1.0)
    *reports, ended = ends_of(executor, replace(segment, slot=fast, cap_s=99.0))
    assert [report.at for report in reports] == [0.5 + 1.5 * step for step in range(1, STEPS + 1)]
    assert ended.used.device_seconds == 3 * (0.5 + 1.5 * STEPS)


def test_nothing_is_charged_beyond_its_cap_whatever_it_does(segment):
    # It fails by itself at 5 s, after a start-up of 2 s; granted are 4 s, on three devices.
    def fails(params, planned, seed):
        return Curve([], [], [], failure=Failure.ERROR, failure_s=5.0)

    executor = SimulatedExecutor(a_problem("fails"), SLOTS, fails, start_up_s=2.0)
    (ended,) = ends_of(executor, replace(segment, cap_s=4.0))
    assert (ended.failure, ended.used.device_seconds) == (Failure.TIMEOUT, 12.0)
    (ended,) = ends_of(executor, replace(segment, cap_s=8.0))
    assert (ended.failure, ended.used.device_seconds) == (Failure.ERROR, 21.0)


SPOT = Slot("spot", "cpu", 0, devices=3, preemptible=True)


def test_a_slot_that_is_taken_away_interrupts_its_segment_and_comes_back(segment):
    hazards = Hazards(preemptions_per_hour=3600.0, away_s=9.0, checkpoint_every=3)
    executor = SimulatedExecutor(a_problem("train"), [SPOT], steady(0.01), hazards=hazards)
    seen = set()
    for trial in range(400):
        began = executor.now()
        *reports, ended = ends_of(executor, replace(segment, trial=trial, slot=SPOT))
        assert ended.used.device_seconds == pytest.approx(3 * (executor.now() - began))
        if ended.outcome == Outcome.INTERRUPTED:
            assert ended.checkpoint == max(0, len(reports)) // 3 * 3
            assert not executor.free_slots()
            assert executor.wait() == []  # it is back
            assert executor.now() == pytest.approx(ended.at + 9.0)
        assert list(executor.free_slots()) == [SPOT]
        seen.add((ended.outcome, ended.checkpoint))
    # A segment of 0.07 s lives with exp(-0.07) = 93 %: 28 of 400 do not, give or take 5.
    assert {outcome for outcome, _ in seen} == {Outcome.COMPLETED, Outcome.INTERRUPTED}


@pytest.mark.parametrize("slot", [SPOT, replace(SPOT, preemptible=False)])
def test_devices_fail_and_are_taken_away_as_often_as_stated(slot, segment):
    # In 1 s, three devices fail with 1 - exp(-0.6) = 45 %, and a preemptible slot is taken with 1 - exp(-0.5) = 39 %.
    hazards = Hazards(failures_per_hour=720.0, preemptions_per_hour=1800.0, seed=5)
    executor = SimulatedExecutor(a_problem("train"), [slot], steady(1 / STEPS), hazards=hazards)
    ends = [ends_of(executor, replace(segment, trial=trial, slot=slot))[-1] for trial in range(1000)]
    counts = [sum(end.outcome == outcome for end in ends) for outcome in (Outcome.FAILED, Outcome.INTERRUPTED)]
    # Whichever comes first: of 1 - exp(-1.1) = 66.7 %, 0.6 / 1.1 and 0.5 / 1.1. Four deviations of 16 are allowed.
    assert counts == pytest.approx([364, 303] if slot.preemptible else [451, 0], abs=64)
    assert all(end.failure == Failure.KILLED for end in ends if end.outcome == Outcome.FAILED)


def test_accidents_belong_to_the_segment_and_not_to_the_order_of_submission(segment):
    def ends(trials):
        hazards = Hazards(failures_per_hour=1200.0)
        executor = SimulatedExecutor(a_problem("train"), [SPOT], steady(1 / STEPS), hazards=hazards)
        found = {t: ends_of(executor, replace(segment, trial=t, slot=SPOT))[-1] for t in trials}
        return {t: (end.outcome, round(end.used.device_seconds, 9)) for t, end in found.items()}

    assert ends(range(20)) == ends(reversed(range(20)))


def test_free_slots_keep_their_order_however_they_come_back(segment):
    slots = [Slot(f"cpu:{i}", "cpu", i) for i in range(11)]
    executor = SimulatedExecutor(
        a_problem("train"), slots, lambda params, planned, seed: Curve([planned], [params["x"]], [{"loss": 0.0}])
    )
    for i, slot in enumerate(slots):
        executor.submit(replace(segment, trial=i, slot=slot, params={"x": float(7 * i % 11)}))
    free = set()
    while len(free) < 11:
        free |= {event.trial for event in executor.wait() if isinstance(event, Ended)}
        assert [slot.index for slot in executor.free_slots()] == sorted(free)


@pytest.mark.parametrize(
    ("steps", "seconds", "metrics", "said"),
    [
        ([1, 2], [1.0], [{}, {}], "as many"),
        ([2, 2], [1.0, 2.0], [{}, {}], "steps of a curve to increase"),
        ([0, 1], [1.0, 2.0], [{}, {}], "increase from 1"),
        ([1, 2], [2.0, 1.0], [{}, {}], "never to go back"),
        ([1, 2], [1.0, math.nan], [{}, {}], "never to go back"),
    ],
)
def test_curves_that_go_backwards_are_refused(steps, seconds, metrics, said):
    with pytest.raises(ExecutorError, match=said):
        Curve(steps, seconds, metrics)


def test_hazards_are_not_negative():
    with pytest.raises(ExecutorError, match="expected failures_per_hour of at least 0, got -1"):
        Hazards(failures_per_hour=-1.0)
    with pytest.raises(ExecutorError, match="at least one step between checkpoints, got 0"):
        Hazards(checkpoint_every=0)
