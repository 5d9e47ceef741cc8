"""Which attempts deserve another one; a study of one trial whose every attempt is told by hand."""

from __future__ import annotations

import pytest

from frugalbo.budget.amounts import Cost
from frugalbo.events import Cause, Ended, Failure, Outcome, Started, event_from_json, event_to_json
from frugalbo.problem import Fidelity, Minimize, Problem
from frugalbo.retry import due_at, fruitless, judged
from frugalbo.space import Float, Space
from frugalbo.study import Study

PROBLEM = Problem(
    name="one", space=Space({"x": Float(0, 1)}), job="nowhere:job", objective=Minimize("loss"),
    fidelity=Fidelity("steps", 1, 9),
)  # fmt: skip


def attempts(*ends, held=10.0):
    """A study after attempts (cause, seconds used, checkpoint), each 100 s after the one before; the last as judged."""
    study, checkpoint, ended = Study(PROBLEM), 0, None
    for segment, (cause, used, reached) in enumerate(ends):
        at = 100.0 * segment
        study.apply(Started(0, segment, {"x": 0.5}, checkpoint, 9, 9, Cost(device_seconds=held), "a", at))
        ended = Ended(
            0, segment, Outcome.INTERRUPTED, Cost(device_seconds=used), at + 50, reached, message="it died", cause=cause
        )
        ended = judged(study, ended)
        checkpoint = reached
        study.apply(ended)
    return study.trials[0], ended


def test_the_second_attempt_comes_at_once_and_those_after_it_wait_twice_as_long_each():
    # The attempts end at 50, 150, 250, 350 s; from the second fruitless one on the wait is 2, 4, 8 s.
    waits = [due_at(attempts(*[(Cause.PREEMPTED, 1.0, 0)] * n)[0], 400.0) for n in (1, 2, 3, 4)]
    assert waits == [0.0, 152.0, 254.0, 358.0]


def test_the_wait_is_bounded():
    assert due_at(attempts(*[(Cause.PREEMPTED, 1.0, 0)] * 40)[0], 4000.0) == 39 * 100 + 50 + 300


def test_a_clock_that_was_set_back_holds_nobody_up():
    trial, _ = attempts(*[(Cause.PREEMPTED, 1.0, 0)] * 3)
    assert due_at(trial, 251.0) == 254.0
    assert due_at(trial, 250.0 - 3600) == 0.0


def test_progress_makes_up_for_what_went_before():
    trial, _ = attempts((Cause.INFRASTRUCTURE, 4.0, 0), (Cause.INFRASTRUCTURE, 4.0, 3), (Cause.INFRASTRUCTURE, 4.0, 3))
    assert [ended.segment for _, ended in fruitless(trial)] == [2]
    assert due_at(trial, 400.0) == 0.0


def test_an_end_by_the_user_is_no_fruitless_attempt():
    trial, _ = attempts((Cause.INFRASTRUCTURE, 1.0, 0), (Cause.USER, 1.0, 0))
    assert fruitless(trial) == []


@pytest.mark.parametrize(("used", "given_up_at"), [(6.0, 2), (4.0, 3), (2.6, 4), (0.0, 8)])
def test_what_crashes_on_and_on_is_stopped_when_that_has_cost_what_was_held(used, given_up_at):
    # Held are 10 s: 2 * 6, 3 * 4 and 4 * 2.6 are more; of what costs nothing eight are enough.
    for n in range(1, given_up_at + 1):
        _, ended = attempts(*[(Cause.INFRASTRUCTURE, used, 0)] * n)
        assert ended is not None
        assert (ended.outcome == Outcome.STOPPED) == (n == given_up_at)
    assert f"given up after {given_up_at} attempts" in ended.message
    assert "it died" in ended.message


def test_what_is_pre_empted_or_gets_on_is_never_given_up():
    assert attempts(*[(Cause.PREEMPTED, 9.0, 0)] * 30)[1].outcome == Outcome.INTERRUPTED
    assert attempts(*[(Cause.INFRASTRUCTURE, 90.0, n + 1) for n in range(8)])[1].outcome == Outcome.INTERRUPTED


@pytest.mark.parametrize(
    ("failure", "cause"),
    [
        (Failure.ERROR, Cause.BUG), (Failure.NO_RESULT, Cause.BUG), (Failure.KILLED, Cause.USER),
        (Failure.DIVERGED, Cause.DIVERGED), (Failure.TIMEOUT, Cause.TIMEOUT), (Failure.MEMORY, Cause.MEMORY),
    ],
)  # fmt: skip
def test_a_journal_from_before_there_were_causes_is_read_with_those_that_its_failures_suggest(failure, cause):
    record = event_to_json(Ended(0, 0, Outcome.FAILED, Cost(), 1.0, failure=failure))
    del record["cause"]
    event = event_from_json(record)
    assert isinstance(event, Ended)
    assert event.cause == cause
    assert event_from_json(event_to_json(event)) == event


def test_a_cause_that_was_said_is_kept():
    ended = Ended(0, 0, Outcome.FAILED, Cost(), 1.0, failure=Failure.KILLED, cause=Cause.INFRASTRUCTURE)
    assert event_from_json(event_to_json(ended)) == ended
