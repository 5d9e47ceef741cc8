import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frugalbo.budget.amounts import Budget, Cost
from frugalbo.budget.ledger import Ledger
from frugalbo.errors import BudgetError, StudyError
from frugalbo.events import Ended, Failure, Outcome, Reported, Started, event_from_json, event_to_json
from frugalbo.problem import Fidelity, Maximize, Minimize, Problem
from frugalbo.space import Float, Space
from frugalbo.study import Status, Study
from frugalbo.testing.stores import PROBLEM, histories

TOY = Problem("toy", Space({"x": Float(0, 1)}), "m:f", Minimize("loss"), Fidelity("steps", 1, 5))


def started(trial=0, segment=0, start=0, until=5, *, held=7.0, x=0.5, planned=5):
    return Started(trial, segment, {"x": x}, start, until, planned, Cost(device_seconds=held), "cpu:0", 0.0)


def reported(trial=0, step=5, loss=1.0, segment=0):
    return Reported(trial, segment, step, {"loss": loss}, 1.0)


def ended(trial=0, outcome=Outcome.COMPLETED, *, segment=0, used=3.0, checkpoint=0, failure=None):
    return Ended(trial, segment, outcome, Cost(device_seconds=used), 2.0, checkpoint, failure)


def text(study):
    """All there is to a study; as text, since NaN differs from itself."""
    return repr((study.trials, study.ledger and study.ledger.balance()))


def ledger(total=1000.0):
    return Ledger(Budget(device_seconds=total))


@settings(max_examples=30)
@given(histories())
def test_events_survive_json(events):
    again = [event_from_json(json.loads(json.dumps(event_to_json(e), allow_nan=False))) for e in events]
    assert repr(again) == repr(events)


@settings(max_examples=30)
@given(histories(), st.integers(0, 25))
def test_a_study_is_the_fold_of_its_events(events, cut):
    whole = Study(PROBLEM, ledger()).replay(events)
    parts = Study(PROBLEM, ledger()).replay(events[:cut])
    assert text(parts.replay(events[cut:])) == text(whole)
    assert list(whole.trials) == list(range(len(whole.trials)))
    balance = whole.ledger.balance()["device_seconds"]
    assert balance.spent == pytest.approx(math.fsum(t.used("device_seconds") for t in whole.trials.values()))
    running = whole.with_status(Status.RUNNING)
    assert balance.held == pytest.approx(math.fsum(t.starts[-1].held.device_seconds for t in running))
    assert all(len(t.starts) - len(t.ends) == (t.status == Status.RUNNING) for t in whole.trials.values())


@settings(max_examples=30)
@given(histories(), st.integers(0, 25))
def test_a_study_knows_what_changed_and_who_stands_where(events, since):
    study = Study(PROBLEM, ledger()).replay(events)
    assert study.revision == len(events)
    latest = {event.trial: place for place, event in enumerate(events)}
    expected = sorted((t for t, place in latest.items() if place >= since), key=lambda t: -latest[t])
    assert [trial.number for trial in study.changed(since)] == expected
    for status in Status:
        assert study.with_status(status) == [t for t in study.trials.values() if t.status == status]
    assert study.with_status(*Status) == list(study.trials.values())


@settings(max_examples=30)
@given(histories(), st.data())
def test_an_event_out_of_place_is_refused_and_changes_nothing(events, data):
    study = Study(PROBLEM, ledger()).replay(events)
    before = text(study)
    event = data.draw(
        st.sampled_from(
            [
                started(len(study.trials) + 1),
                started(len(study.trials), segment=1),
                reported(len(study.trials)),
                ended(len(study.trials)),
                replace(started(len(study.trials)), held=Cost(device_seconds=1e9)),
                *(reported(t.number, segment=len(t.starts)) for t in study.trials.values()),
                *(ended(t.number, segment=len(t.starts)) for t in study.trials.values()),
                *(ended(t.number, segment=len(t.starts) - 1) for t in study.trials.values() if t.status != "running"),
                *(replace(t.starts[-1], segment=len(t.starts)) for t in study.with_status(Status.RUNNING)),
                *(
                    replace(t.starts[-1], segment=len(t.starts))
                    for t in study.with_status(Status.COMPLETED, Status.FAILED, Status.STOPPED)
                ),
            ]
        )
    )
    with pytest.raises((StudyError, BudgetError)):
        study.apply(event)
    assert text(study) == before


PAUSED = [started(until=3), ended(outcome=Outcome.PAUSED, checkpoint=2)]


@pytest.mark.parametrize(
    ("before", "event", "message"),
    [
        ([], started(1), "expected trial 0 to start next"),
        ([], started(0, 1), "expected trial 0 to start next"),
        ([], started(until=0), "expected 0 <= start < until <= planned"),
        ([], started(until=6), "expected 0 <= start < until <= planned"),
        ([], started(start=-1), "expected 0 <= start"),
        ([], started(start=3), "no checkpoint of step 3"),
        ([], reported(), "segment 0 of trial 0 is not running .unknown"),
        ([started()], started(), "trial 0 is running, it cannot be resumed"),
        ([started()], ended(segment=1), "segment 1 of trial 0 is not running .running, segment 0"),
        ([started(), ended()], ended(), "segment 0 of trial 0 is not running .completed"),
        ([started(), ended()], reported(), "is not running"),
        ([started(), ended()], started(0, 1), "trial 0 is completed, it cannot be resumed"),
        (PAUSED, started(0, 2, 2), "trial 0 is paused, it cannot be resumed"),
        (PAUSED, started(0, 0, 2), "trial 0 is paused, it cannot be resumed"),
        (PAUSED, started(0, 1, 2, x=0.25), "trial 0 is paused, it cannot be resumed"),
        (PAUSED, started(0, 1, 2, until=4, planned=4), "trial 0 is paused, it cannot be resumed"),
        (PAUSED, started(0, 1, 3), "no checkpoint of step 3"),
        (PAUSED, reported(), "is not running .paused"),
    ],
)
def test_what_cannot_follow_is_refused_with_the_reason(before, event, message):
    study = Study(TOY, ledger()).replay(before)
    state = text(study)
    with pytest.raises(StudyError, match=message):
        study.apply(event)
    assert text(study) == state


def test_a_hold_that_the_ledger_refuses_starts_nothing():
    study = Study(TOY, ledger(10)).replay([started(held=7)])
    state = text(study)
    with pytest.raises(BudgetError, match="cannot hold 4 device seconds"):
        study.apply(started(1, held=4))
    assert text(study) == state


def test_a_trial_goes_on_from_its_checkpoint_and_repeats_are_dropped():
    study = Study(TOY, ledger()).replay(
        [
            started(until=3),
            reported(step=1, loss=0.9),
            reported(step=3, loss=0.7),
            ended(outcome=Outcome.INTERRUPTED, checkpoint=2),
        ]
    )
    trial = study.trials[0]
    assert (trial.status, trial.checkpoint, trial.last_step) == (Status.PAUSED, 2, 3)
    study.replay([started(segment=1, start=2), reported(step=3, loss=5.0, segment=1)])
    assert trial.curve("loss") == [(1, 0.9), (3, 0.7)]
    study.replay([reported(step=4, loss=0.6, segment=1), ended(segment=1, used=4.5)])
    assert trial.curve("loss") == [(1, 0.9), (3, 0.7), (4, 0.6)]
    assert (trial.status, trial.used("device_seconds"), trial.planned) == (Status.COMPLETED, 7.5, 5)
    assert study.ledger.balance()["device_seconds"].held == 0


def test_a_trial_without_a_checkpoint_starts_from_scratch():
    study = Study(TOY).replay([started(until=3), ended(outcome=Outcome.INTERRUPTED), started(segment=1)])
    assert study.trials[0].status == Status.RUNNING


@pytest.mark.parametrize("step", [-1, 0, 2, 5, 10**9])
def test_a_report_of_a_step_that_was_not_granted_is_not_believed(step):
    study = Study(TOY).replay([*PAUSED, started(segment=1, start=2, until=4)])
    study.apply(reported(step=step, loss=-9.0, segment=1))
    assert study.trials[0].reports == {}
    study.apply(reported(step=4, segment=1))
    assert study.trials[0].last_step == 4


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Outcome.COMPLETED, Status.COMPLETED),
        (Outcome.PAUSED, Status.PAUSED),
        (Outcome.INTERRUPTED, Status.PAUSED),
        (Outcome.STOPPED, Status.STOPPED),
        (Outcome.FAILED, Status.FAILED),
    ],
)
def test_each_outcome_has_its_status(outcome, status):
    study = Study(TOY).replay([started(), ended(outcome=outcome)])
    assert study.trials[0].status == status
    assert study.with_status(status) == [study.trials[0]]


def finals(problem, *losses, outcome=Outcome.COMPLETED):
    study = Study(problem)
    for number, loss in enumerate(losses):
        study.replay([started(number), reported(number, loss=loss), ended(number, outcome)])
    return study


@pytest.mark.parametrize(
    ("losses", "smallest", "largest"),
    [
        ([3.0, 1.0, 2.0], 1, 0),
        ([2.0, 1.0, 1.0, 2.0], 1, 0),  # the earliest of equals
        ([math.nan, 2.0, math.inf, -math.inf, 3.0], 1, 4),
        ([-1.0, 0.0], 0, 1),
        ([math.nan], None, None),
        ([], None, None),
    ],
)
def test_the_best_trial_is_the_first_with_the_best_finite_value(losses, smallest, largest):
    number = [t and t.number for t in (finals(TOY, *losses).best(),
              finals(replace(TOY, objective=Maximize("loss")), *losses).best())]  # fmt: skip
    assert number == [smallest, largest]


def test_a_stopped_or_running_trial_counts_by_its_final_report():
    study = finals(TOY, 3.0, 1.0, outcome=Outcome.STOPPED)
    assert study.best().number == 1
    study.replay([started(2), reported(2, loss=0.5)])
    assert study.best().number == 2


def test_a_value_before_the_full_steps_does_not_compete():
    study = Study(TOY).replay([started(), reported(step=4, loss=0.1), started(1), reported(1, loss=0.9)])
    assert study.best().number == 1
    assert study.value(study.trials[0]) is None
    assert study.value(study.trials[0], at=4) == 0.1


def test_a_trial_that_never_reported_the_objective_does_not_compete():
    study = Study(TOY).replay([started(), Reported(0, 0, 5, {"accuracy": 0.5}, 1.0)])
    assert study.best() is None
    assert study.trials[0].curve("loss") == []


def test_numbers_that_json_lacks_survive_it():
    metrics = {"loss": math.nan, "a": math.inf, "b": -math.inf, "c": np.float32(0.5), "d": np.int64(3)}
    record = json.loads(json.dumps(event_to_json(Reported(0, 0, 5, metrics, 1.0)), allow_nan=False))
    found = event_from_json(record).metrics
    assert math.isnan(found["loss"])
    assert [found[k] for k in "abcd"] == [math.inf, -math.inf, 0.5, 3.0]


def test_an_explanation_may_hold_what_models_return():
    why = {"ei": -math.inf, "mean": np.float64(0.5), "n": np.int64(3), "path": (1, 2), "u": np.array([0.5, 1.0])}
    event = replace(started(), why=why, params={"x": np.float64(0.5)})
    record = json.loads(json.dumps(event_to_json(event), allow_nan=False))
    assert record["why"] == {"ei": "-inf", "mean": 0.5, "n": 3, "path": [1, 2], "u": [0.5, 1.0]}
    assert event_from_json(record).params == {"x": 0.5}


def test_an_event_that_is_not_json_is_refused():
    with pytest.raises(StudyError, match="cannot be stored"):
        event_to_json(replace(started(), why={"what": object()}))


def test_a_failure_survives_json():
    event = ended(outcome=Outcome.FAILED, failure=Failure.MEMORY)
    assert event_from_json(json.loads(json.dumps(event_to_json(event)))) == event


RECORD = event_to_json(ended())


@pytest.mark.parametrize(
    "record",
    [
        None,
        3,
        "ended",
        [],
        {},
        {"kind": "finished"},
        {"kind": "ended"},
        RECORD | {"extra": 1},
        RECORD | {"outcome": "lost"},
        RECORD | {"failure": "laziness"},
        RECORD | {"used": {"euros": 3}},
        RECORD | {"used": {"dollars": -3}},
        RECORD | {"used": 3},
        RECORD | {"trial": "0"},
        RECORD | {"trial": 0.5},
        RECORD | {"at": None},
        event_to_json(reported()) | {"metrics": {"loss": "low"}},
        event_to_json(reported()) | {"metrics": 3},
        event_to_json(reported()) | {"step": None},
        event_to_json(started()) | {"params": 3},
    ],
)
def test_a_record_that_is_no_event_is_refused(record):
    with pytest.raises(StudyError, match="expected an event as written by event_to_json"):
        event_from_json(record)


def test_a_study_does_not_share_what_it_was_given():
    params, metrics = {"x": 0.5}, {"loss": 1.0}
    study = Study(TOY)
    study.apply(replace(started(), params=params))
    study.apply(Reported(0, 0, 5, metrics, 1.0))
    before = copy.deepcopy((study.trials[0].params, study.trials[0].reports))
    params["x"], metrics["loss"] = 9, 9
    assert (study.trials[0].params, study.trials[0].reports) == before
