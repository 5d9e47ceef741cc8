"""What a run amounts to: every figure against one computed by hand, and the books of made-up runs."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import qmc

from frugalbo.budget.amounts import Budget, Cost
from frugalbo.budget.ledger import Ledger
from frugalbo.events import Ended, Failure, Outcome, Reported, Started
from frugalbo.problem import Fidelity, Maximize, Minimize, Problem
from frugalbo.report import (
    Report,
    accounts,
    against_defaults,
    best_so_far,
    gantt,
    results,
    shown_resources,
    trial_table,
    utilisation,
    wording,
)
from frugalbo.report.findings import longest_pause, peak_held, time_in_use
from frugalbo.report.importance import GaussianProcess, Importance, importance, pair_shares, sobol_indices
from frugalbo.space import Choice, Float, Space
from frugalbo.study import Study
from frugalbo.testing.studies import RECIPES, Recipe, make_events, make_study

SPACE = Space({"lr": Float(0.0, 1.0), "status": Choice(("a", "b", "c"))})
STEPS = 4


def problem(objective=None, *, space=SPACE, defaults=None):
    return Problem(
        "by hand", space, "nothing:here", objective or Minimize("loss"), Fidelity("steps", 1, STEPS), defaults
    )


class Script:
    """Writes events with little ado; one device, device-seconds as told."""

    def __init__(self, study):
        self.study = study

    def start(self, trial, at, slot, *, held=0.0, until=STEPS, begin=0, params=None, memory=0.0):
        params = params or {"lr": 0.5, "status": "a"}
        segment = len(self.study.trials[trial].starts) if trial in self.study.trials else 0
        cost = Cost(device_seconds=held, memory_bytes=memory)
        self.study.apply(Started(trial, segment, params, begin, until, STEPS, cost, slot, at))
        return self

    def report(self, trial, step, value, metric="loss"):
        segment = len(self.study.trials[trial].starts) - 1
        self.study.apply(Reported(trial, segment, step, {metric: value}, 0.0))
        return self

    def end(self, trial, at, outcome, used, checkpoint=0, failure=None, message="", log_tail=""):
        segment = len(self.study.trials[trial].starts) - 1
        event = Ended(trial, segment, outcome, Cost(used), at, checkpoint, failure, message, log_tail)
        self.study.apply(event)
        return self


@pytest.fixture
def by_hand():
    """Two slots, six trials; all amounts are exact in binary.

    a: trial 0 [0, 10] loss 3, trial 1 again [10, 16] loss 2, trial 4 [16, 18] loss 2.5, trial 5 [18, ...
    b: trial 1 [0, 5] paused, trial 2 [5, 9] timeout, nothing, trial 3 [12, 14] interrupted
    """
    defaults = {"lr": 0.25, "status": "a"}
    study = Study(problem(defaults=defaults), Ledger(Budget(device_seconds=100)))
    s = Script(study)
    s.start(0, 0.0, "a", held=20, params=defaults).start(1, 0.0, "b", held=10, until=2)
    s.report(1, 2, 2.75).end(1, 5.0, Outcome.PAUSED, 5.0, checkpoint=2)
    s.start(2, 5.0, "b", held=4).end(2, 9.0, Outcome.FAILED, 4.0, failure=Failure.TIMEOUT, message="too\x1b[31m slow")
    s.report(0, 4, 3.0).end(0, 10.0, Outcome.COMPLETED, 10.0, checkpoint=4)
    s.start(1, 10.0, "a", held=6, begin=2).start(3, 12.0, "b", held=8)
    s.end(3, 14.0, Outcome.INTERRUPTED, 2.0, checkpoint=1)
    s.report(1, 4, 2.0).end(1, 16.0, Outcome.COMPLETED, 6.0, checkpoint=4)
    s.start(4, 16.0, "a", held=2).report(4, 4, 2.5).end(4, 18.0, Outcome.COMPLETED, 2.0, checkpoint=4)
    s.start(5, 18.0, "a", held=7)
    return study


def test_best_so_far_is_placed_at_what_all_trials_had_spent(by_hand):
    # Ends in order: 5 (trial 1 paused), 4 (timeout) and 10 make 19 at trial 0's end; 2 and 6 make 27 at trial 1's.
    # Trial 4 at 29 is no improvement; trial 1's 2.75 at half the steps does not count.
    assert best_so_far(by_hand) == [(19.0, 3.0, 0), (27.0, 2.0, 1)]
    assert [(r.spent, r.value, r.trial) for r in results(by_hand)] == [(19.0, 3.0, 0), (27.0, 2.0, 1), (29.0, 2.5, 4)]


def test_a_result_of_a_running_segment_stands_at_all_that_is_spent(by_hand):
    Script(by_hand).report(5, 4, 1.5)
    assert best_so_far(by_hand)[-1] == (29.0, 1.5, 5)


def test_a_result_belongs_to_the_segment_that_went_the_whole_way():
    s = Script(Study(problem()))
    s.start(0, 0, "a").end(0, 1, Outcome.INTERRUPTED, 1.0)  # was granted all steps, reached none
    s.start(0, 1, "a").report(0, 4, 3.0).end(0, 3, Outcome.COMPLETED, 2.0)
    assert best_so_far(s.study) == [(3.0, 3.0, 0)]


def test_losses_turn_round_where_more_is_better():
    s = Script(Study(problem(Maximize("acc"))))
    for i, value in enumerate((0.5, 0.75, 0.25)):
        s.start(i, i, "a").report(i, 4, value, "acc").end(i, i + 1, Outcome.COMPLETED, 1.0)
    assert best_so_far(s.study) == [(1.0, -0.5, 0), (2.0, -0.75, 1)]


def test_wall_time_counts_once_what_ran_side_by_side(by_hand):
    # Something ran all the time from 0 to 18; by trial 0's end 10 seconds, by trial 1's 16.
    assert [r.spent for r in results(by_hand, "wall_seconds")] == [10.0, 16.0, 18.0]
    assert time_in_use(gantt(by_hand)) == 18.0


def test_the_accounts_add_up_to_the_budget(by_hand):
    book = accounts(by_hand)
    assert [(e.label, e.amount, e.segments) for e in book.entries] == [
        ("completed", 18.0, 3),
        ("paused", 5.0, 1),
        ("interrupted", 2.0, 1),
        ("failed: timeout", 4.0, 1),
        ("held now", 7.0, 1),
        ("unspent", 64.0, 0),
    ]
    assert (book.total, book.spent, book.held, book.sum) == (100.0, 29.0, 7.0, 100.0)


def test_an_overrun_is_its_own_negative_line():
    s = Script(Study(problem(), Ledger(Budget(device_seconds=8))))
    s.start(0, 0, "a", held=8).end(0, 9, Outcome.FAILED, 9.0, failure=Failure.TIMEOUT)
    book = accounts(s.study)
    assert [(e.kind, e.amount) for e in book.entries] == [("failed", 9.0), ("unspent", 0.0), ("overrun", -1.0)]
    assert book.sum == book.total == 8.0


def test_what_others_charged_to_the_ledger_is_shown():
    ledger = Ledger(Budget(device_seconds=8))
    ledger.hold("somebody", Cost(3.0))
    s = Script(Study(problem(), ledger)).start(0, 0, "a", held=2).end(0, 2, Outcome.COMPLETED, 2.0)
    entries = {e.kind: e.amount for e in accounts(s.study).entries}
    assert entries == {"completed": 2.0, "elsewhere": 3.0, "unspent": 3.0}


def test_without_a_ledger_the_accounts_add_up_to_what_was_used():
    s = Script(Study(problem())).start(0, 0, "a", held=2).end(0, 2, Outcome.STOPPED, 2.0).start(1, 2, "a", held=5)
    book = accounts(s.study)
    assert (book.total, book.sum, book.spent, book.held) == (None, 7.0, 2.0, 5.0)


def test_utilisation_is_busy_time_over_slots_times_wall(by_hand):
    # a is busy 18 s of 18, b 5 + 4 + 2 = 11 of 18
    assert utilisation(by_hand) == 29 / 36
    assert longest_pause(by_hand) == 0.0
    assert utilisation(Study(problem())) is None


def test_utilisation_without_pauses_leaves_out_only_what_nobody_used():
    s = Script(Study(problem()))
    s.start(0, 0, "a").end(0, 4, Outcome.INTERRUPTED, 4.0).start(1, 0, "b").end(1, 2, Outcome.COMPLETED, 2.0)
    s.start(0, 104, "a").end(0, 108, Outcome.COMPLETED, 4.0)
    # 10 s busy of 2 x 108, or of 2 x 8 when the 100 s in which nothing ran are left out
    assert utilisation(s.study) == 10 / 216
    assert utilisation(s.study, without_pauses=True) == 10 / 16
    assert longest_pause(s.study) == 100.0


def test_a_shared_slot_is_busy_once():
    s = Script(Study(problem())).start(0, 0, "a").start(1, 1, "a")
    s.end(0, 3, Outcome.COMPLETED, 3.0).end(1, 4, Outcome.COMPLETED, 3.0)
    assert utilisation(s.study) == 1.0


def test_segments_that_take_no_time_have_no_utilisation():
    s = Script(Study(problem())).start(0, 5, "a").end(0, 5, Outcome.FAILED, 0.0, failure=Failure.ERROR)
    s.start(1, 9, "a").end(1, 9, Outcome.FAILED, 0.0, failure=Failure.ERROR)
    assert utilisation(s.study) == 0.0
    assert utilisation(s.study, without_pauses=True) is None


def test_gantt_rows_are_by_slot_in_the_order_people_count():
    s = Script(Study(problem())).start(0, 0, "cuda:10").start(1, 0, "cuda:2").end(1, 3, Outcome.STOPPED, 3.0)
    s.start(2, 3, "cuda:2")
    rows = [(r.slot, r.trial, r.start_s, r.end_s, r.outcome) for r in gantt(s.study)]
    assert rows == [
        ("cuda:2", 1, 0, 3, Outcome.STOPPED),
        ("cuda:2", 2, 3, None, None),
        ("cuda:10", 0, 0, None, None),
    ]


def test_peak_memory_counts_what_was_lent_together():
    s = Script(Study(problem())).start(0, 0, "a", memory=4.0).start(1, 1, "b", memory=3.0)
    s.end(0, 2, Outcome.COMPLETED, 2.0).start(2, 2, "a", memory=2.0)  # 7, then 5
    assert peak_held(s.study, "memory_bytes") == 7.0


def test_the_best_against_the_defaults(by_hand):
    found = against_defaults(by_hand)
    assert (found.default.number, found.default_value, found.best.number, found.best_value) == (0, 3.0, 1, 2.0)
    assert (found.gain, found.relative) == (1.0, 1 / 3)
    assert found.changes == (("lr", 0.25, 0.5), ("status", "a", "a"))
    assert wording.gain(by_hand) == "1 (33.3 %) lower than the defaults, 3"
    assert wording.headline(by_hand) == "Best loss 2 after 29 of 100 device-seconds; defaults 3"
    assert against_defaults(Study(problem())) is None


def test_the_report_names_best_and_default_value(by_hand):
    report = Report(by_hand, "run-1", "the budget is spent")
    assert (report.best.number, report.best_value, report.default_value) == (1, 2.0, 3.0)


def test_trial_table_is_flat_and_keeps_parameters_apart_from_columns(by_hand):
    rows = trial_table(by_hand)
    assert [row["status"] for row in rows] == ["completed", "completed", "failed", "paused", "completed", "running"]
    assert [row["params.status"] for row in rows] == ["a"] * 6  # the space has a parameter `status`
    assert rows[0]["lr"] == 0.25
    assert [row["device_seconds"] for row in rows] == [10.0, 11.0, 4.0, 2.0, 2.0, 0.0]
    assert [row["trial"] for row in rows if row["is_best"]] == [1]
    assert [row["trial"] for row in rows if row["is_default"]] == [0]
    assert rows[2]["failure"] == "timeout"


def test_the_summary_says_what_matters(by_hand):
    report = Report(by_hand, "run-1", "the budget is spent")
    text = report.summary()
    assert repr(report) == text
    for fact in (
        "Best loss 2 after 29 of 100 device-seconds; defaults 3",
        "by hand, run run-1: the budget is spent",
        "6 trials: 1 running, 1 paused, 3 completed, 1 failed",
        "2 slots busy 81 % of 18 s",
        "1 failure: 1 timeout",
        "trial 2, timeout: too□[31m slow",
        "lr      0.5  (default 0.25)",
    ):
        assert fact in text
    lines = [line.split() for line in text.splitlines()]
    assert ["unspent", "64.00", "64", "%"] in lines
    assert ["total", "100.00", "100", "%"] in lines


@pytest.mark.parametrize("name", RECIPES)
def test_reports_of_all_kinds_of_runs_are_strict_json_and_printable(name):
    report = Report(make_study(RECIPES[name]), "r", "why")
    assert report.summary().replace("\n", "").isprintable()
    record = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert record["best"] is None or record["best"]["trial"] == report.best.number
    assert len(record["trials"]) == len(report.study.trials)


recipes = st.builds(
    Recipe,
    seed=st.integers(0, 99),
    trials=st.integers(0, 23),
    slots=st.integers(1, 5),
    devices=st.sampled_from([1, 3]),
    budget=st.sampled_from([None, 13, 67, "0.3 USD", "11 trials", "40 s wall", "50 s, 7 trials and 30 s wall"]),
    space=st.sampled_from(["float", "mixed", "conditional", "wide"]),
    maximize=st.booleans(),
    steps=st.sampled_from([None, 2, 7, 40]),
    defaults=st.booleans(),
    failing=st.sampled_from([0.0, 0.2, 1.0]),
    pausing=st.sampled_from([0.0, 0.5]),
    crashes=st.integers(0, 2),
    left_running=st.integers(0, 3),
    hostile=st.booleans(),
)


@settings(deadline=None, max_examples=60)
@given(recipe=recipes)
def test_every_second_of_any_run_is_accounted_for(recipe):
    study = make_study(recipe)
    segments = [row for row in gantt(study) if row.used is not None]
    for resource in shown_resources(study):
        book = accounts(study, resource)
        assert book.sum == pytest.approx(book.spent + book.held if book.total is None else book.total, abs=1e-9)
        assert all(entry.kind != "elsewhere" for entry in book.entries)
        if study.ledger and resource != "wall_seconds":
            charged = math.fsum(getattr(row.used, resource) for row in segments)
            assert charged == pytest.approx(study.ledger.balance()[resource].spent, rel=1e-12, abs=1e-12)
            assert sum(entry.segments for entry in book.entries) == len(gantt(study))


@settings(deadline=None, max_examples=60)
@given(recipe=recipes)
def test_best_so_far_ends_at_the_best_and_never_gets_worse(recipe):
    study = make_study(recipe)
    for resource in shown_resources(study):
        path = best_so_far(study, resource)
        assert [loss for _, loss, _ in path] == sorted({loss for _, loss, _ in path}, reverse=True)
        assert [spent for spent, _, _ in path] == sorted(spent for spent, _, _ in path)
        best = study.best()
        if best is not None and study.value(best) is None:
            assert not path  # it is the best short of the end
        else:
            assert (path[-1][2] if path else None) == (best.number if best else None)
    shares = [utilisation(study), utilisation(study, without_pauses=True)]
    assert all(share is None or 0 <= share <= 1 + 1e-9 for share in shares)


def test_the_same_recipe_plays_the_same_events():
    assert make_events(RECIPES["typical"]) == make_events(RECIPES["typical"])
    assert make_events(RECIPES["typical"]) != make_events(Recipe(trials=60, budget=120, seed=1))


def test_made_up_runs_have_all_that_they_promise():
    failures = {row["failure"] for row in trial_table(make_study(RECIPES["hostile"]))}
    assert failures >= {str(failure) for failure in Failure}
    outcomes = {row.outcome for row in gantt(make_study(RECIPES["resumed"]))}
    assert outcomes >= {Outcome.COMPLETED, Outcome.PAUSED, Outcome.STOPPED, Outcome.FAILED, Outcome.INTERRUPTED}
    assert len(make_study(RECIPES["many"]).trials) == 300
    assert sum(row.outcome is None for row in gantt(make_study(RECIPES["running"]))) == 3


def ishigami(U):
    x = (2 * U - 1) * np.pi
    return np.sin(x[:, 0]) + 7 * np.sin(x[:, 1]) ** 2 + 0.1 * x[:, 2] ** 4 * np.sin(x[:, 0])


# a = 7, b = 0.1: V = a^2/8 + b pi^4/5 + b^2 pi^8/18 + 1/2 = 13.84459; V1 = (1 + b pi^4/5)^2 / 2 = 4.34589,
# V2 = a^2/8 = 6.125, V13 = b^2 pi^8 (1/18 - 1/50) = 3.37371
ISHIGAMI_FIRST = (0.3139, 0.4424, 0.0)
ISHIGAMI_TOTAL = (0.5576, 0.4424, 0.2437)


def test_sobol_indices_match_the_closed_form_of_ishigami():
    first, total = sobol_indices(ishigami, 3, samples=8192)
    assert first == pytest.approx(ISHIGAMI_FIRST, abs=0.01)
    assert total == pytest.approx(ISHIGAMI_TOTAL, abs=0.01)


def test_sobol_indices_of_a_sum_are_its_shares():
    # Var(u0 + 2 u1) = 1/12 + 4/12, nothing together
    first, total = sobol_indices(lambda U: U[:, 0] + 2 * U[:, 1] + 1000.0, 3)
    assert first == pytest.approx([0.2, 0.8, 0.0], abs=0.01)
    assert total == pytest.approx([0.2, 0.8, 0.0], abs=0.01)
    assert sobol_indices(lambda U: np.full(len(U), 3.0), 2) == ([0.0, 0.0], [0.0, 0.0])


def test_the_surrogate_finds_the_indices_of_ishigami_from_127_points():
    U = qmc.Sobol(3, scramble=False).random(128)[1:]
    model = GaussianProcess(U, ishigami(U))
    first, total = sobol_indices(model.mean, 3)
    assert first == pytest.approx(ISHIGAMI_FIRST, abs=0.05)
    assert total == pytest.approx(ISHIGAMI_TOTAL, abs=0.06)


def study_of(f, n, space, seed=0):
    """A study of `n` random configurations, with the objective `f(params)`."""
    s = Script(Study(problem(space=space)))
    for i in range(n):
        params = space.sample(np.random.default_rng([seed, i]))
        s.start(i, i, "a", params=params).report(i, STEPS, f(params)).end(i, i + 1, Outcome.COMPLETED, 1.0)
    return s.study


CUBE = Space({"x": Float(-1, 1), "y": Float(1e-3, 1e3, log=True), "z": Float(0, 5)})


def test_importance_of_a_study_finds_the_shares_of_an_additive_objective():
    # In unit coordinates x = 2 u - 1 and log10 y = 6 u - 3: 3 x + log10(y) / 2 has slopes 6 and 3, so 36/45 and 9/45.
    found = importance(study_of(lambda p: 3 * p["x"] + 0.5 * math.log10(p["y"]), 31, CUBE))
    assert {name: total for name, _, total in found.ranked()} == pytest.approx({"x": 0.8, "y": 0.2, "z": 0}, abs=0.02)
    assert found.ranked()[0][0] == "x"
    assert found.r2 > 0.99


def test_importance_is_deterministic():
    study = study_of(lambda p: p["x"] * p["z"], 23, CUBE)
    assert importance(study) == importance(study)


def test_importance_of_an_interaction_is_in_the_total_alone():
    # x z with x in [-1, 1] and z in [0, 5]: E = 0, V = 1/3 * 25/3 = 25/9; V_x = (5/2)^2 / 3 = 25/12, V_z = 0
    found = importance(study_of(lambda p: p["x"] * p["z"], 61, CUBE))
    shares = {name: (first, total) for name, first, total in found.ranked()}
    assert shares["x"] == pytest.approx((0.75, 1.0), abs=0.04)
    assert shares["z"] == pytest.approx((0.0, 0.25), abs=0.04)


def test_pair_shares_match_closed_forms():
    # x y on the unit square: E x^2 y^2 - 1/16 = 1/9 - 1/16 = 7/144, of which (x - 1/2)(y - 1/2) has 1/144.
    pairs = [(0, 1), (0, 2), (1, 2)]
    assert pair_shares(lambda U: U[:, 0] * U[:, 1], 3, pairs) == pytest.approx([1 / 7, 0, 0], abs=0.003)
    # Of Ishigami's three terms only 0.1 z^4 sin(x) does not add up, and z does nothing by itself.
    found = pair_shares(ishigami, 3, pairs, samples=8192)
    assert found == pytest.approx([0, ISHIGAMI_TOTAL[2], 0], abs=0.002)
    assert pair_shares(lambda U: U.sum(1) ** 2, 3, [(2, 0)]) == pair_shares(lambda U: U.sum(1) ** 2, 3, [(0, 2)])
    assert pair_shares(lambda U: np.full(len(U), 7.0), 3, pairs) == [0.0, 0.0, 0.0]


def test_a_pair_counts_all_terms_that_have_both():
    # (x - 1/2)(y - 1/2)(z - 1/2) is one term of all three, which every pair has.
    def f(U):
        return np.prod(U - 0.5, axis=1)

    assert pair_shares(f, 3, [(0, 1), (1, 2)], samples=8192) == pytest.approx([1, 1], abs=0.03)


def test_knobs_that_act_together_are_found_and_named_in_words():
    # (u + v)^2 = u^2 + v^2 + 2uv with u, v uniform on [-1/2, 1/2]: V(u^2) = V(v^2) = 1/180 and V(2uv) = 4/144, so that
    # 5/7 takes both. What y adds is of almost no variance.
    study = study_of(lambda p: (p["x"] / 2 + p["z"] / 5 - 0.5) ** 2 + 0.005 * math.log10(p["y"]), 41, CUBE)
    found = importance(study)
    assert found.pairs[0] == ("x", "z", pytest.approx(5 / 7, abs=0.03))
    assert wording.acting_together(found) == [found.pairs[0]]
    said = wording.together_text(found)
    assert said == "Must move together, as what one does depends on the other: x and z (71 % of the variance)"
    assert said in Report(study).summary()
    assert found.to_json()["pairs"][0] == {"knobs": ["x", "z"], "share": found.pairs[0][2]}


def test_no_pair_is_claimed_where_knobs_add_up():
    study = study_of(lambda p: 3 * p["x"] + 0.5 * math.log10(p["y"]) + p["z"] ** 2, 31, CUBE)
    found = importance(study)
    assert wording.acting_together(found) == []
    assert wording.together_text(found).startswith("No two knobs are seen to depend on each other")
    assert "together" not in Report(study).summary()


@pytest.mark.parametrize(("r2", "claimed"), [(0.9, True), (0.75, True), (0.69, False), (0.2, False), (None, False)])
def test_no_more_is_claimed_of_a_pair_than_the_model_leaves_open(r2, claimed):
    found = Importance(("a", "b"), (0.4, 0.3), (0.7, 0.6), r2, 23, pairs=(("a", "b", 0.3),))
    assert bool(wording.acting_together(found)) == claimed


def test_importance_is_not_claimed_from_too_few_trials():
    assert importance(study_of(lambda p: p["x"], 7, CUBE)).reason == (
        "too few trials to say: 7 have a result, 8 are needed for 3 knobs"
    )
    assert importance(study_of(lambda p: p["x"], 8, CUBE)).reason == ""
    assert importance(study_of(lambda p: 5.0, 11, CUBE)).reason == "all results are equal"


def test_importance_of_noise_is_called_a_guess():
    rng = np.random.default_rng(0)
    found = importance(study_of(lambda p: float(rng.standard_normal()), 37, CUBE))
    assert found.r2 < 0.25
    assert "guess" in wording.importance_verdict(found)


def test_importance_takes_no_distance_from_unordered_choices():
    # The middle value alone is bad, by 1: variance 2/9 between choices, 1/12 * 0.01 by x.
    space = Space({"kind": Choice(("a", "b", "c")), "x": Float(0, 1)})
    found = importance(study_of(lambda p: float(p["kind"] == "b") + 0.1 * p["x"], 43, space))
    assert found.ranked()[0][:2] == ("kind", pytest.approx(0.996, abs=0.01))


def test_the_surrogate_does_not_care_in_which_order_choices_are_listed():
    rng = np.random.default_rng(3)
    U = rng.random((29, 2))
    kind = rng.integers(0, 3, 29)
    values = np.array([0.0, 1.0, 0.3])[kind] + np.sin(4 * U[:, 1])
    one, other = U.copy(), U.copy()
    one[:, 0] = (kind + 0.5) / 3
    other[:, 0] = (np.array([2, 0, 1])[kind] + 0.5) / 3
    models = [GaussianProcess(X, values, categorical_dims=(0,)) for X in (one, other)]
    assert models[0].theta == pytest.approx(models[1].theta)
    assert models[0].leave_one_out_r2() == pytest.approx(models[1].leave_one_out_r2())


def test_importance_of_a_conditional_knob_counts_only_where_it_is_active():
    # f = x if k is "on", else 1/2 (x is inactive): by hand E[f | k] = 1/2, so k alone explains nothing and x
    # shares all: V = 1/2 * 1/12; V_x = Var((x + 1/2) / 2) = 1/4 * 1/12, half of it.
    space = Space({"k": Choice(("off", "on")), "x": Float(0, 1, only_if={"k": "on"})})
    found = importance(study_of(lambda p: p.get("x", 0.5), 53, space))
    shares = {name: (first, total) for name, first, total in found.ranked()}
    assert shares["x"] == pytest.approx((0.5, 1.0), abs=0.06)
    assert shares["k"] == pytest.approx((0.0, 0.5), abs=0.06)


def test_leave_one_out_is_what_leaving_one_out_gives():
    rng = np.random.default_rng(5)
    U = rng.random((17, 2))
    values = np.sin(5 * U[:, 0]) + 0.1 * rng.standard_normal(17)
    model = GaussianProcess(U, values)
    y = (values - values.mean()) / values.std()
    noise = np.exp(model.theta[-1])
    D = (U[:, None, :] - U[None, :, :]) ** 2  # n x n x d
    R = np.exp(-0.5 * (D * np.exp(-2 * model.theta[:-1])).sum(-1))
    errors = []
    for i in range(17):
        rest = np.arange(17) != i
        K = R[np.ix_(rest, rest)] + noise * np.eye(16)
        errors.append(y[i] - R[i, rest] @ np.linalg.solve(K, y[rest]))
    assert model.leave_one_out_r2() == pytest.approx(1 - np.sum(np.square(errors)) / 17, abs=1e-6)


def test_the_gradient_of_the_likelihood_is_its_slope():
    rng = np.random.default_rng(7)
    U = rng.random((19, 3))
    model = GaussianProcess(U, np.cos(4 * U[:, 0]) + U[:, 1], categorical_dims=(2,))
    theta = np.array([-0.7, 0.2, 0.5, -3.0])
    _, gradient = model.loss(theta)
    for i in range(4):
        step = 1e-5 * np.eye(4)[i]
        slope = (model.loss(theta + step)[0] - model.loss(theta - step)[0]) / 2e-5
        assert gradient[i] == pytest.approx(slope, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(2.30836, "2.308"), (0.0, "0"), (None, "–"), (1e-5, "1e-5"), (1.234567e8, "1.235e8"), (120.0, "120"),
     (-0.00031, "-0.00031"), (math.inf, "inf")],
)  # fmt: skip
def test_numbers_read_well(value, shown):
    assert wording.number(value) == shown


@pytest.mark.parametrize(
    ("resource", "value", "shown"),
    [("device_seconds", 96.0, "96 s"), ("device_seconds", 5400.0, "90 min"), ("wall_seconds", 40_000.0, "11.1 h"),
     ("dollars", 1234.5, "$1,234.50"), ("evaluations", 30.0, "30 trials"), ("memory_bytes", 3 * 2.0**30, "3 GiB"),
     ("device_seconds", 100 * 86400.0, "100 d")],
)  # fmt: skip
def test_amounts_have_their_unit(resource, value, shown):
    assert wording.amount(resource, value) == shown


def test_importing_the_report_loads_neither_matplotlib_nor_scipy_nor_torch():
    code = "import sys, frugalbo.report; print(sorted({'matplotlib', 'scipy', 'torch'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "[]"
