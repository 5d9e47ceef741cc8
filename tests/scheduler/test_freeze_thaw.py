import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ladders import COST, Numbered, make_problem, play, sent_to, simulate_with
from scipy.integrate import quad
from scipy.stats import norm

from frugalbo.budget.amounts import Budget, Cost
from frugalbo.budget.cost import KnownCost
from frugalbo.budget.ledger import Ledger
from frugalbo.events import Ended, Failure, Outcome, Reported, Started
from frugalbo.problem import Fidelity, Minimize, Problem
from frugalbo.propose.standings import standings
from frugalbo.scheduler import SchedulerError, make_scheduler
from frugalbo.scheduler.asha import AshaScheduler
from frugalbo.scheduler.base import Resume, Start
from frugalbo.scheduler.freeze_thaw import FreezeThawScheduler, improvement, one_in
from frugalbo.slot import Slot
from frugalbo.space import Choice, Space
from frugalbo.study import Study

SLOT = Slot("cpu:0", "cpu", 0)
LEVELS = (1, 3, 9, 27)


def study_of(*curves, budget=1000.0, spent=0.0, wall_seconds=None):
    """Trial i was held at the first `len(curves[i])` of the levels, with these losses; nan fails."""
    study = Study(make_problem(27), Ledger(Budget(device_seconds=budget, wall_seconds=wall_seconds)))
    for i, curve in enumerate(curves):
        start = 0
        for segment, (level, loss) in enumerate(zip(LEVELS, curve, strict=False)):
            used = Cost(device_seconds=spent) if i == segment == 0 else Cost()
            study.apply(Started(i, segment, {"x": i / 997}, start, level, 27, used, "cpu:0", 0.0))
            if math.isnan(loss):
                study.apply(Ended(i, segment, Outcome.FAILED, used, 1.0, 0, Failure.DIVERGED))
                break
            study.apply(Reported(i, segment, level, {"loss": loss}, 1.0))
            outcome = Outcome.COMPLETED if level == 27 else Outcome.PAUSED
            study.apply(Ended(i, segment, outcome, used, 1.0, level))
            start = level
    return study


def decide(study, slots=(SLOT,), **settings):
    scheduler = FreezeThawScheduler(Numbered(), COST, **settings)
    return scheduler.decide(study, study.ledger.balance(), slots)


def segments(study):
    return sorted((s.at, t.number, s.start, s.until) for t in study.trials.values() for s in t.starts)


@pytest.mark.parametrize(("eta", "seed"), [(3, 0), (4, 1)])
def test_with_one_factor_for_both_it_is_asha_until_the_last_part(eta, seed):
    budget, ours, asha = 400, [], []
    for into, make in ((ours, FreezeThawScheduler), (asha, AshaScheduler)):
        settings = {"keep": eta} if make is FreezeThawScheduler else {}
        scheduler = make(Numbered(), COST, eta=eta, **settings)
        into += segments(play(scheduler, make_problem(27), budget=budget, simulate=simulate_with(seed, 0.1))[0])
    whole = [entry for entry in asha if budget - entry[0] >= 27]
    assert ours[: len(whole)] == whole
    assert len(whole) > 50
    assert ours != asha  # the last part is another


def test_of_four_that_arrived_one_goes_on():
    assert isinstance(decide(study_of([1.0], [2.0], [3.0]))[0], Start)
    assert decide(study_of([4.0], [2.0], [1.0], [3.0]))[0] == Resume(SLOT, 2, 3)


def test_nothing_starts_that_could_not_be_paid_to_its_end():
    curves = [4.0], [2.0], [1.0, 0.9], [3.0]
    # The 24 steps that the third lacks are granted 26.67.
    assert isinstance(decide(study_of(*curves, budget=100, spent=72.3))[0], Start)
    (decision,) = decide(study_of(*curves, budget=100, spent=73.5))
    assert (decision.trial, decision.until) == (2, 27)  # in one segment
    assert "what was left paid for no whole trial more" in decision.why["because"]


def test_who_cannot_be_paid_to_the_end_makes_way_for_who_can():
    # 20 are left: from level 9 it takes 18 to the end, from level 3 24.
    (decision,) = decide(study_of([4.0, 3.0, 2.0], [1.0, 0.5], [5.0], [6.0], budget=100, spent=80.0))
    assert (decision.trial, decision.until) == (0, 27)


def test_what_is_left_beside_the_way_of_the_first_is_spent_before_it_goes():
    # 25 are left, and the first's 18 steps to the end are granted 20.
    curves = [4.0, 3.0, 2.0], [5.0], [6.0], [7.0]
    decisions = decide(study_of(*curves, budget=100, spent=75.0), slots=(SLOT, Slot("cpu:1", "cpu", 1)))
    assert [(type(decision), decision.until) for decision in decisions] == [(Start, 1), (Start, 1)]
    (decision,) = decide(study_of(*curves, budget=100, spent=79.5))  # where that pays for nothing
    assert (decision.trial, decision.until) == (0, 27)
    (decision,) = decide(study_of(*curves, budget=100, spent=75.0, wall_seconds=1e6))  # where time runs out as well
    assert (decision.trial, decision.until) == (0, 27)


def test_what_pays_for_nobodys_end_goes_into_segments():
    (decision,) = decide(study_of([4.0], [2.0], [1.0], [3.0], budget=100, spent=90.0))
    assert decision == Resume(SLOT, 2, 3)
    (decision,) = decide(study_of([4.0], [2.0], [1.0], [3.0], budget=100, spent=99.0))
    assert isinstance(decision, Start)


def test_what_runs_is_awaited_before_the_rest_is_spent():
    study = study_of([4.0], [2.0], [1.0], [3.0], budget=100, spent=64.0)
    study.apply(Started(2, 1, {"x": 2 / 997}, 1, 27, 27, Cost(device_seconds=26.0), "cpu:1", 2.0))
    assert decide(study) == []


def test_the_last_part_goes_by_improvement_per_cost():
    study = study_of([1.0, 1.0, 1.0, 1.0], [1.1, 1.1, 1.1], [1.2, 0.2], [2.0, 2.0], [9.0], budget=100, spent=75.0)
    score = standings(study)
    best, steps = score[0].final_mean, {1: 18, 2: 24, 3: 24, 4: 26}
    index = {
        i: improvement(score[i].final_mean, math.sqrt(score[i].variance), best) / cost
        for i, cost in steps.items() if cost <= 25
    }  # fmt: skip
    (decision,) = decide(study)
    assert (decision.trial, decision.until) == (max(index, key=index.get), 27)


@settings(deadline=None, max_examples=30)
@given(st.floats(-3, 3), st.floats(0.1, 2), st.floats(-3, 3))
def test_the_improvement_is_an_integral(mean, sd, best):
    found = quad(lambda y: (best - y) * norm.pdf(y, mean, sd), min(best, mean) - 12 * sd, best)[0]
    assert improvement(mean, sd, best) == pytest.approx(found, abs=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.integers(28, 200), st.integers(0, 9), st.sampled_from([1, 2, 16]))
def test_a_budget_for_one_whole_trial_has_one_to_show(budget, seed, n_slots):
    budget += 2 * (n_slots - 1)  # at first all slots start one, before anything is known
    scheduler = make_scheduler("freeze-thaw", Numbered(), COST)
    study, _ = play(scheduler, make_problem(27), budget=budget, simulate=simulate_with(seed), n_slots=n_slots)
    finished = sent_to(study)[27]
    assert study.compared_at() == 27
    last = next(t for t in study.trials.values() if round(t.params["x"] * 997) == finished[-1])
    assert ("because" not in last.starts[-1].why) or "this promised most" in study.explain(last)


def test_one_in_k_goes_on_where_that_takes_the_budget():
    assert one_in([8.0, 8.0], 12.0, 3) == pytest.approx(2.0)  # 8 + 8 / 2
    assert one_in([8.0, 8.0, 16.0], 16.0, 3) == pytest.approx(2.0)  # 8 + 8 / 2 + 16 / 4
    assert one_in([8.0, 8.0], 99.0, 3) == pytest.approx(1.0)  # all go on
    assert one_in([9.0, 9.0], 11.9, 3) is None  # 9 + 9 / 3 = 12
    assert one_in([9.0, 9.0], math.inf, 3) is None


def of_31(budget, seed=0, n_slots=1):
    """A run on 31 configurations, whose rungs are 1, 2, 6 and 18 s apart."""
    space = Space({"x": Choice([i / 997 for i in range(31)])})
    problem = Problem("ladders", space, "m:f", Minimize("loss"), Fidelity("steps", 1, 27))
    scheduler = FreezeThawScheduler(Numbered(31), COST)
    return play(scheduler, problem, budget=budget, simulate=simulate_with(seed), n_slots=n_slots)[0]


@pytest.mark.parametrize("seed", range(3))
def test_a_budget_for_a_ladder_of_all_configurations_is_spent_on_it(seed):
    # 31 (1 + 2 / 2 + 6 / 4 + 18 / 8) = 178.25, so one in two goes on.
    study = of_31(178.5, seed)
    begins = sorted((s.at, t.number) for t in study.trials.values() for s in t.starts)[:31]
    assert [number for _, number in begins] == list(range(31))
    at_first = sorted(study.trials, key=lambda n: study.value_by(study.trials[n], 1))
    granted = sorted((s.at, t.number, s.until) for t in study.trials.values() for s in t.starts)
    assert [n for _, n, until in granted if until == 3][:15] == at_first[:15]
    last_part = [s.at for t in study.trials.values() for s in t.starts if "because" in s.why]
    earned = [(at, until) for at, _, until in granted if at < min(last_part, default=math.inf)]
    assert [sum(until == level for _, until in earned) for level in LEVELS] == [31, 15, 7, 3]


def test_a_budget_too_small_for_all_is_spent_as_if_there_were_no_end_of_them():
    # 31 (1 + 2 / 3 + 6 / 9 + 18 / 27) = 93
    study = of_31(92.5)
    firsts = [t.starts[0].at for t in study.trials.values()]
    assert min(t.starts[1].at for t in study.trials.values() if len(t.starts) > 1) < max(firsts)


def test_a_budget_that_takes_fewer_than_three_to_the_end_is_not_spread_over_all():
    # One in k from 4 rungs leaves 31 / k^3 >= 3: k <= 2.178, at which all take 31 (1 + .918 + 1.265 + 1.742) = 152.7.
    for budget, is_swept in (152.0, False), (154.0, True):
        study = of_31(budget)
        resumed = min(t.starts[1].at for t in study.trials.values() if t.starts[1:])
        assert (resumed > max(t.starts[0].at for t in study.trials.values())) == is_swept


def test_a_budget_that_the_dearest_would_exceed_is_not_spread_over_all():
    space = Space({"x": Choice([i / 997 for i in range(31)])})
    problem = Problem("ladders", space, "m:f", Minimize("loss"), Fidelity("steps", 1, 27))
    dear = KnownCost(lambda params, start, until: (until - start) * (2.0 if params["x"] == 15 / 997 else 1.0))
    for cost, is_swept in (COST, True), (dear, False):
        scheduler = FreezeThawScheduler(Numbered(31), cost)
        study, _ = play(scheduler, problem, budget=178.5, simulate=simulate_with(0))
        resumed = min(t.starts[1].at for t in study.trials.values() if t.starts[1:])
        assert (resumed > max(t.starts[0].at for t in study.trials.values())) == is_swept


def test_slots_do_not_stand_idle_while_all_configurations_are_tried():
    study = of_31(178.5, n_slots=5)
    assert study.compared_at() == 27
    ends = [end.at for t in study.trials.values() for end in t.ends]
    assert max(ends) < 178.5 / 5 + 27


@pytest.mark.parametrize(("wall_seconds", "running", "sent"), [(None, 0, 3), (None, 2, 1), (None, 3, 0), (500.0, 2, 8)])
def test_slots_are_left_idle_for_the_way_to_the_end_where_time_is_not_limited(wall_seconds, running, sent):
    """Two of eight have earned to go on, and did; more there are none."""
    curves = [[1.0, 0.5], [2.0, 0.6], *([loss] for loss in range(3, 9))]
    study = study_of(*curves, wall_seconds=wall_seconds)
    for i in range(8, 8 + running):
        study.apply(Started(i, 0, {"x": i / 997}, 0, 1, 27, Cost(), f"cpu:{i}", 1.0))
    slots = [Slot(f"cpu:{i}", "cpu", i) for i in range(8)]
    scheduler = FreezeThawScheduler(Numbered(8 + running), COST)
    decisions = scheduler.decide(study, study.ledger.balance(), slots)
    assert [type(decision) for decision in decisions] == [Resume] * sent
    assert [decision.trial for decision in decisions] == list(range(sent))


def test_failed_trials_are_counted_among_those_that_arrived():
    nan = math.nan
    assert isinstance(decide(study_of([1.0], [nan], [nan]))[0], Start)
    assert decide(study_of([1.0], [nan], [nan], [nan]))[0] == Resume(SLOT, 0, 3)


def test_a_replanned_run_has_no_last_part():
    problem = make_problem(9, schedule="replanned")
    runs = [
        segments(play(scheduler, problem, budget=100)[0])
        for scheduler in (FreezeThawScheduler(Numbered(), COST), AshaScheduler(Numbered(), COST, keep=4))
    ]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("keep", [1, 2.5, True])
def test_keep_is_a_whole_number(keep):
    with pytest.raises(SchedulerError, match="keep must be a whole number of at least 2"):
        FreezeThawScheduler(Numbered(), COST, keep=keep)
