import math
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ladders import COST, Numbered, losses, make_problem, play

from frugalbo.budget.amounts import Cost
from frugalbo.events import Ended, Outcome, Reported, Started
from frugalbo.scheduler.base import Stop
from frugalbo.scheduler.stopping import AshaStoppingScheduler, MedianScheduler
from frugalbo.study import Study


def _run(study, number, values, *, at=0.0, ends=False, first=1):
    """Start a trial that reports these values at steps 1, 2, ... at times `at` + step."""
    if number not in study.trials:
        study.apply(Started(number, 0, {"x": number / 997}, 0, 9, 9, Cost(), "cpu:0", at))
    for step, value in enumerate(values, first):
        study.apply(Reported(number, 0, step, {"loss": value}, at + step))
    if ends:
        study.apply(Ended(number, 0, Outcome.COMPLETED, Cost(), at + 9, 9))


def test_a_rung_lets_go_on_who_is_in_the_top_share_of_those_before():
    study, scheduler = Study(make_problem(9)), AshaStoppingScheduler(Numbered(), eta=3)
    _run(study, 0, [5.0])
    _run(study, 1, [6.0], at=1)
    assert scheduler.watch(study) == []  # fewer than three
    _run(study, 2, [5.5], at=2)
    assert scheduler.watch(study) == [Stop(2)]  # second of three, of whom one goes on
    _run(study, 3, [4.0], at=3)
    assert scheduler.watch(study) == [Stop(2)]
    assert AshaStoppingScheduler(Numbered(), eta=3).watch(study) == [Stop(2)]  # 0 was the first when it came


def test_those_of_one_instant_count_for_each_other_in_any_order():
    for order in ((0, 1, 2), (2, 1, 0)):
        study, scheduler = Study(make_problem(9)), AshaStoppingScheduler(Numbered(), eta=3)
        for number in range(3):
            _run(study, number, [])
        for number in order:
            _run(study, number, [float(number)])
        assert scheduler.watch(study) == [Stop(1), Stop(2)]


def test_a_report_between_two_rungs_brings_the_value_of_the_last_one_before():
    study, scheduler = Study(make_problem(9)), AshaStoppingScheduler(Numbered(), eta=3)
    for number, value in ((0, 1.0), (1, 2.0), (2, 3.0)):
        study.apply(Started(number, 0, {"x": number / 997}, 0, 9, 9, Cost(), "cpu:0", 0.0))
        study.apply(Reported(number, 0, 2, {"loss": value}, number + 2.0))
    assert scheduler.watch(study) == []  # nothing was known at step 1, and step 3 has not come
    for number in range(3):
        study.apply(Reported(number, 0, 4, {"loss": -float(number)}, number + 4.0))
    assert scheduler.watch(study) == [Stop(2)]  # by 3.0, reported at step 2


def test_what_was_interrupted_after_it_fell_behind_is_not_resumed():
    study, scheduler = Study(make_problem(9)), AshaStoppingScheduler(Numbered(), COST, eta=3)
    for number in range(3):
        _run(study, number, [float(number)], at=number)
    for number in (0, 2):
        study.apply(Ended(number, 0, Outcome.INTERRUPTED, Cost(), 9.0))
    assert scheduler._goes_on(study, study.trials[0])
    assert not scheduler._goes_on(study, study.trials[2])


def reference(n, levels, eta, budget):
    """The stopping form on one worker, from its description: for each configuration, the step at which it ends."""
    rungs, found, left = [[] for _ in levels], [], budget
    for i in range(n):
        curve, end = losses(i / 997, levels[-1]), levels[-1]
        if left < levels[-1]:
            break
        for level, seen in zip(levels[:-1], rungs, strict=False):
            seen.append(curve[level - 1])
            if len(seen) >= eta and sorted(seen).index(curve[level - 1]) >= len(seen) // eta:
                end = level
                break
        left -= end
        found.append(end)
    return found


@pytest.mark.parametrize(("high", "eta", "levels"), [(27, 3, (1, 3, 9, 27)), (51, 3, (2, 6, 17, 51))])
def test_one_worker_stops_whom_the_rule_stops(high, eta, levels):
    study, _ = play(AshaStoppingScheduler(Numbered(), COST, eta=eta), make_problem(high), budget=20 * high)
    expected = reference(997, levels, eta, 20 * high)
    assert [trial.last_step for trial in study.trials.values()][: len(expected)] == expected
    assert {t.status for t in study.trials.values()} == {"completed", "stopped"}


def test_the_median_rule_by_hand():
    study, scheduler = Study(make_problem(9)), MedianScheduler(Numbered())
    _run(study, 0, [8, 6, 4, 4, 4, 4, 4, 4, 4], ends=True)  # on average up to step 3: 6
    _run(study, 1, [5, 4, 3, 3, 3, 3, 3, 3, 3], ends=True)  # 4
    _run(study, 2, [9, 9, 9, 9, 9, 9, 9, 9, 9], ends=True)  # 9
    _run(study, 3, [7, 6.1, 8])
    _run(study, 4, [7, 6.0, 8])  # the best so far is at the median of 6, not strictly worse
    assert scheduler.watch(study) == [Stop(3)]
    _run(study, 5, [5, 5, 5, 5, 5, 5, 5, 5, 5], ends=True)
    assert scheduler.watch(study) == [Stop(3), Stop(4)]  # of 4, 5, 6 and 9 the median is 5.5


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_the_median_rule_kept_up_to_date_is_the_rule(data):
    study, kept = Study(make_problem(9)), MedianScheduler(Numbered())
    values = st.lists(st.integers(0, 9).map(float), min_size=9, max_size=9)
    for number in range(data.draw(st.integers(1, 8))):
        curve = data.draw(values)
        if data.draw(st.booleans()):
            _run(study, number, curve, ends=True)
        else:
            _run(study, number, curve[: data.draw(st.integers(1, 8))])
        if data.draw(st.booleans()):
            kept.watch(study)
    expected = []
    done = [t for t in study.trials.values() if t.status == "completed"]
    for trial in study.trials.values():
        if trial.status == "running" and done:
            s = trial.last_step
            middle = median(math.fsum(t.reports[i]["loss"] for i in range(1, s + 1)) / s for t in done)
            if min(r["loss"] for r in trial.reports.values()) > middle + 1e-12:
                expected.append(Stop(trial.number))
    assert kept.watch(study) == expected
