import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ladders import make_problem

from frugalbo.budget.amounts import Cost
from frugalbo.events import Ended, Failure, Outcome, Reported, Started
from frugalbo.propose.random import RandomProposer
from frugalbo.scheduler import SCHEDULERS, SchedulerError, make_scheduler
from frugalbo.scheduler.asha import AshaScheduler
from frugalbo.scheduler.hyperband import HyperbandScheduler, SuccessiveHalvingScheduler
from frugalbo.scheduler.rungs import Standings, rung_levels
from frugalbo.study import Study


@pytest.mark.parametrize(
    ("low", "high", "eta", "levels"),
    [
        (1, 81, 3, (1, 3, 9, 27, 81)),  # Hyperband's table 1
        (1, 9, 3, (1, 3, 9)),  # ASHA's figure 1
        (1, 243, 3, (1, 3, 9, 27, 81, 243)),  # log(243) / log(3) is 4.999... in floats
        (1, 256, 4, (1, 4, 16, 64, 256)),
        (1, 51, 3, (2, 6, 17, 51)),  # 51 / 27 = 1.89, 51 / 9 = 5.67, 51 / 3 = 17
        (2, 100, 3, (4, 11, 33, 100)),  # 100 / 27 = 3.70; another 3 would be below 2
        (4, 100, 3, (11, 33, 100)),  # 3.70 is below 4
        (5, 5, 3, (5,)),
        (1, 2, 3, (2,)),
        (1, 1, 2, (1,)),
    ],
)
def test_rungs_are_counted_down_from_the_full_number_of_steps(low, high, eta, levels):
    assert rung_levels(low, high, eta) == levels


@given(low=st.integers(1, 50), more=st.integers(0, 5000), eta=st.integers(2, 7))
def test_rungs_rise_by_about_eta_from_low_to_high(low, more, eta):
    levels = rung_levels(low, low + more, eta)
    assert levels[-1] == low + more
    assert levels[0] >= low
    assert levels[0] < low * eta + 0.5  # another rung would not fit below
    assert all(a < b for a, b in itertools.pairwise(levels))
    assert all(abs(b / eta**k - a) <= 0.5 for k, a in enumerate(levels[::-1]) for b in [levels[-1]])


@pytest.mark.parametrize("eta", [1, 0, 2.5, True, "3"])
def test_an_eta_that_makes_no_sense_is_refused(eta):
    with pytest.raises(SchedulerError, match="whole number of at least 2"):
        AshaScheduler(RandomProposer(seed=0), eta=eta)


def test_an_unknown_scheduler_is_refused_by_naming_those_that_are_known():
    with pytest.raises(SchedulerError, match="unknown scheduler 'ashes'; expected one of auto, fixed"):
        make_scheduler("ashes", RandomProposer(seed=0))
    assert all(make_scheduler(name, RandomProposer(seed=0)) for name in SCHEDULERS)


def _sizes(scheduler, levels, entrants):
    """By bracket: its lowest level and how many begin in it."""
    found = {}
    for i in range(entrants):
        bracket, own = scheduler._bracket_of(levels, i)
        assert bracket not in found or found[bracket][0] == own[0]
        found[bracket] = own[0], found.get(bracket, (0, 0))[1] + 1
    return [found[b] for b in sorted(found)]


def test_hyperbands_brackets_are_those_of_its_table():
    # Li et al. 2018, table 1, R = 81 and eta = 3: (n, r) of s = 4 ... 0 is (81, 1), (34, 3), (15, 9),
    # (8, 27), (5, 81), where n = ceil(5 / (s + 1) * 3^s): 81, 33.75, 15, 7.5, 5. (The JMLR table prints 27, 9,
    # 6, 5 for the later ones, from an earlier rule; its algorithm 1 says ceil.)
    scheduler = HyperbandScheduler(RandomProposer(seed=0))
    one_round = [(1, 81), (3, 34), (9, 15), (27, 8), (81, 5)]
    assert _sizes(scheduler, rung_levels(1, 81, 3), 2 * 143) == 2 * one_round


def test_successive_halving_repeats_hyperbands_first_bracket():
    scheduler = SuccessiveHalvingScheduler(RandomProposer(seed=0))
    assert _sizes(scheduler, rung_levels(1, 81, 3), 3 * 81) == 3 * [(1, 81)]


# --- standings --------------------------------------------------------------------------------------


LEVELS = (1, 3, 9)
ENDS = (Outcome.PAUSED, Outcome.INTERRUPTED, Outcome.FAILED)


def _step(study, draw):
    """Let something happen to a study: a segment to the next level, and how it ends."""
    paused = [t for t in study.trials.values() if t.status == "paused" and t.checkpoint < 9]
    trial = draw(st.sampled_from([None, *paused]))
    number = len(study.trials) if trial is None else trial.number
    start = 0 if trial is None else trial.checkpoint
    until = next(level for level in LEVELS if level > start)
    segment = 0 if trial is None else len(trial.starts)
    params = {"x": number / 997} if trial is None else trial.params
    study.apply(Started(number, segment, params, start, until, 9, Cost(), "cpu:0", 0.0))
    outcome = draw(st.sampled_from(ENDS))
    last = until if outcome == Outcome.PAUSED else draw(st.integers(start, until))
    for step in range(start + 1, last + 1):
        study.apply(Reported(number, segment, step, {"loss": draw(st.integers(0, 5)) / 2}, 0.0))
    if outcome == Outcome.PAUSED and until == 9:
        outcome = Outcome.COMPLETED
    failure = Failure.ERROR if outcome == Outcome.FAILED else None
    study.apply(Ended(number, segment, outcome, Cost(), 0.0, last if last < 9 or not failure else 0, failure))


def _state(standings):
    brackets = {b: [(r.level, r.arrived, r.waiting) for r in rungs] for b, rungs in standings.brackets.items()}
    return brackets, standings.interrupted, len(standings)


@given(data=st.data())
def test_standings_kept_up_to_date_are_those_of_a_fresh_look(data):
    study = Study(make_problem(9))
    kept = Standings(lambda _, i: (i // 4, LEVELS))
    for _ in range(data.draw(st.integers(1, 30))):
        _step(study, data.draw)
        if data.draw(st.booleans()):
            kept.follow(study)
    kept.follow(study)
    fresh = Standings(lambda _, i: (i // 4, LEVELS))
    fresh.follow(study)
    assert _state(kept) == _state(fresh)
    for rungs in fresh.brackets.values():
        for below, rung in itertools.pairwise(rungs):
            assert {e for _, e in rung.arrived} <= {e for _, e in below.arrived}
        for rung in rungs:
            assert rung.arrived == sorted(rung.arrived)
            assert set(rung.waiting) <= set(rung.arrived)
            assert all(loss < math.inf for loss, _ in rung.waiting)


def test_a_study_of_its_own_begins_anew():
    standings = Standings(lambda _, i: (0, LEVELS))
    for n in (3, 2):
        study = Study(make_problem(9))
        for number in range(n):
            study.apply(Started(number, 0, {"x": number / 997}, 0, 1, 9, Cost(), "cpu:0", 0.0))
        standings.follow(study)
        assert len(standings) == n
