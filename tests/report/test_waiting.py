"""Who was set aside, when, how long and why: against a run played by hand, and against the journal of any run."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frugalbo.budget.amounts import Budget, Cost
from frugalbo.budget.ledger import Ledger
from frugalbo.events import Ended, Failure, Outcome, Reported, Started
from frugalbo.problem import Fidelity, Maximize, Minimize, Problem
from frugalbo.report import Report, pictures, plot_curves, plot_pauses, plots, rungs, spared, waits, wording
from frugalbo.report.html_tables import MOST_WAITS, ending, pauses
from frugalbo.report.plot_style import COLOURS
from frugalbo.report.waiting import Standing
from frugalbo.space import Float, Space
from frugalbo.study import Status, Study
from frugalbo.testing.studies import RECIPES, Recipe, make_study

STEPS = 9


class Script:
    """Writes events with little ado, on slots of a pool."""

    def __init__(self, objective=None, *, budget=None, pools=None, steps=STEPS):
        problem = Problem("p", Space({"x": Float(0, 1)}), "no:job", objective or Minimize("loss"),
                          Fidelity("steps", 1, steps))  # fmt: skip
        self.study = Study(problem, Ledger(Budget.of(budget), pools) if budget else None)

    def start(self, trial, at, until, *, begin=0, pool="", held=0.0, why=None, planned=None, params=None):
        segment = len(self.study.trials[trial].starts) if trial in self.study.trials else 0
        planned = planned or self.study.problem.steps
        params = params or {"x": 0.5}
        self.study.apply(Started(trial, segment, params, begin, until, planned, Cost(held, held / 4), "s", at,
                                 why or {}, pool))  # fmt: skip
        return self

    def report(self, trial, at, step, value):
        self.study.apply(Reported(trial, len(self.study.trials[trial].starts) - 1, step, {"loss": value}, at))
        return self

    def end(self, trial, at, outcome, *, used=0.0, checkpoint=0, message="", failure=None):
        segment = len(self.study.trials[trial].starts) - 1
        cost = Cost(used, used / 4)
        self.study.apply(Ended(trial, segment, outcome, cost, at, checkpoint, failure, message))
        return self

    def rung(self, trial, at, until, value, *, begin=0, used=1.0):
        """A segment of one second, paused at `until` with a value."""
        self.start(trial, at, until, begin=begin).report(trial, at + 1, until, value)
        return self.end(trial, at + 1, Outcome.PAUSED, used=used, checkpoint=until)


@pytest.fixture
def by_hand():
    """Rungs 1 and 3 of 9. Trials 0, 1, 2 come to step 1 at 1, 2 and 3 s, with losses 5, 3 and 4.

    Trial 1 goes on at 3 s. It comes to 3 at 4 s, waits until 10 s, and is taken away at 11 s at step 5.
    Trial 2 is stopped at step 2.
    """
    s = Script(budget="100s").rung(0, 0, 1, 5.0).rung(1, 1, 1, 3.0).rung(2, 2, 1, 4.0)
    s.rung(1, 3, 3, 2.5, begin=1)
    s.start(2, 4, 3, begin=1).report(2, 5, 2, 3.9).end(2, 5, Outcome.STOPPED, used=1.0, message="the scheduler")
    s.start(1, 10, 9, begin=3, why={"because": "it was the cheapest"}).report(1, 11, 5, 2.0)
    return s.end(1, 11, Outcome.INTERRUPTED, used=1.0, checkpoint=3, message="taken away")


def test_each_pause_is_as_it_was_played(by_hand):
    rows = [(w.trial, w.step, str(w.outcome), w.from_s, w.until_s, w.went_on_to) for w in waits(by_hand.study)]
    assert rows == [
        (0, 1, "paused", 1.0, None, None),
        (1, 1, "paused", 2.0, 3, 3),
        (2, 1, "paused", 3.0, 4, 3),
        (1, 3, "paused", 4.0, 10, 9),
        (2, 2, "stopped", 5.0, None, None),
        (1, 5, "interrupted", 11.0, None, None),
    ]
    assert [w.waited_s for w in waits(by_hand.study)] == [None, 1.0, 1.0, 6.0, None, None]


def test_a_trial_stood_among_those_that_had_come_by_then(by_hand):
    found = waits(by_hand.study)
    # Trial 0 was alone at its rung at 1 s, and the worst of three in the end; trial 1 the best of two, then of three.
    assert (found[0].standing, found[0].then) == (Standing(1, 1), Standing(3, 3))
    assert (found[1].standing, found[1].then) == (Standing(1, 2), Standing(1, 3))
    assert (found[2].standing, found[2].then) == (Standing(2, 3), Standing(2, 3))
    # At step 2 trial 1 counts with its report of step 1, 3.0, as nothing else is known of it there.
    assert found[4].standing == Standing(2, 2)
    assert found[5].standing is None
    assert [wording.reason(w) for w in (found[0], found[1], found[3], found[5])] == [
        "1 of 1 at 1, in the end 3 of 3",
        "1 of 2 at 1, then 1 of 3",
        "went on because it was the cheapest, 1 of 1 at 3",
        "taken away",
    ]


def test_of_a_metric_to_be_maximised_the_largest_stands_first():
    s = Script(Maximize("loss")).rung(0, 0, 1, 5.0).rung(1, 1, 1, 3.0).rung(2, 2, 1, 5.0)
    assert [w.then for w in waits(s.study)] == [Standing(1, 3), Standing(3, 3), Standing(1, 3)]


def test_failed_and_finished_trials_were_not_set_aside():
    s = Script().start(0, 0, STEPS).report(0, 1, STEPS, 1.0).end(0, 1, Outcome.COMPLETED, checkpoint=STEPS)
    s.start(1, 1, 3).end(1, 2, Outcome.FAILED, failure=Failure.ERROR, message="boom")
    assert waits(s.study) == []
    assert rungs(s.study) == []


def test_a_run_planned_shorter_goes_on_as_the_trial_that_it_was_promoted_to():
    s = Script().start(0, 0, 3, planned=3).report(0, 1, 3, 1.0).end(0, 1, Outcome.COMPLETED, used=2.0, checkpoint=3)
    s.start(1, 4, STEPS, why={"promoted_from": 0}).report(1, 6, STEPS, 0.5)
    [wait] = waits(s.study)
    assert (wait.outcome, wait.step, wait.went_on_as, wait.went_on_to, wait.waited_s) == ("completed", 3, 1, STEPS, 3.0)
    assert spared(s.study).trials == 0
    assert rungs(s.study) == [3]


def test_rungs_are_where_trials_were_set_aside_short_of_the_end(by_hand):
    assert rungs(by_hand.study) == [1, 2, 3]
    s = Script(steps=100)
    for i in range(13):
        s.rung(i, i, i + 1, 1.0)
    assert rungs(s.study) == []  # anywhere is nowhere


def test_what_was_spared_is_the_rest_at_each_trials_own_pace(by_hand):
    # Trial 0: 1 s for 1 step, 8 left: 8 s. Trial 2: 2 s for 2 steps, 7 left: 7 s. Trial 1: 3 s for 5, 4 left: 2.4 s.
    found = spared(by_hand.study)
    assert (found.trials, found.steps, found.device_seconds) == (3, 8 + 7 + 4, pytest.approx(8 + 7 + 3 / 5 * 4))
    assert wording.spared_text(by_hand.study) == (
        "3 trials did not run to the end: 19 steps less, at each trial's own pace about 17.4 s on devices"
    )
    assert wording.left_text(by_hand.study) == "Not spent: 94 s of 100 s (94 %)"


recipes = st.builds(
    Recipe,
    seed=st.integers(0, 99),
    trials=st.integers(0, 23),
    slots=st.integers(1, 5),
    steps=st.sampled_from([2, 7, 40]),
    failing=st.sampled_from([0.0, 0.3]),
    pausing=st.sampled_from([0.3, 0.9]),
    crashes=st.integers(0, 2),
    left_running=st.integers(0, 3),
)


@settings(deadline=None, max_examples=40)
@given(recipe=recipes)
def test_each_interval_of_any_run_is_the_journals(recipe):
    study = make_study(recipe)
    found = waits(study)
    aside = (Outcome.PAUSED, Outcome.STOPPED, Outcome.INTERRUPTED)
    wanted = {
        (e.trial, e.segment, e.outcome, e.at) for t in study.trials.values() for e in t.ends if e.outcome in aside
    }
    assert {(w.trial, w.segment, w.outcome, w.from_s) for w in found} == wanted
    assert len(found) == len(wanted)
    assert [w.from_s for w in found] == sorted(w.from_s for w in found)
    for wait in found:
        starts = study.trials[wait.trial].starts
        after = starts[wait.segment + 1].at if wait.segment + 1 < len(starts) else None
        assert wait.until_s == after
        assert (wait.until_s is None) == (wait.went_on_to is None)
        assert wait.waited_s is None or wait.waited_s >= 0
        for standing in filter(None, (wait.standing, wait.then)):
            assert 1 <= standing.place <= standing.of <= len(study.trials)
        if wait.standing and wait.then:
            assert wait.then.of >= wait.standing.of
            assert wait.then.place >= wait.standing.place


# The pictures and the page


def many(n=1000):
    """So many trials: the first 30 run, of the others one in two failed, stopped, was paused or finished."""
    s = Script(budget="1000000s", steps=60)
    for i in range(n):
        s.start(i, float(i), 60)
        kind = i % 4
        last = 60 if kind == 0 else 20
        for step in range(1, last + 1):
            s.report(i, i + step / 100, step, 1.0 + i / n + 1 / step)
        if i < 30:
            continue
        outcome = (Outcome.COMPLETED, Outcome.STOPPED, Outcome.PAUSED, Outcome.FAILED)[kind]
        failure = Failure.ERROR if outcome == Outcome.FAILED else None
        s.end(i, i + 1.0, outcome, used=1.0, checkpoint=last, message="<b>why</b>", failure=failure)
    return s.study


@pytest.fixture(scope="module")
def thousand():
    return many()


def lines_of(ax):
    return [line for collection in ax.collections for line in getattr(collection, "get_segments", list)()]


def test_of_a_thousand_curves_a_part_is_drawn_and_the_title_says_so(thousand):
    figure = plots.learning_curves(thousand)
    ax = figure.axes[0]
    best = 1  # is drawn by itself
    assert len(lines_of(ax)) == plot_curves.MOST_CURVES - best
    assert max(len(line) for line in lines_of(ax)) <= 48
    assert ax.get_title(loc="left") == "250 of 1000 trials went all 60 steps; 150 of 1,000 curves are drawn"
    labels = ax.get_legend_handles_labels()[1]
    assert "running (30)" in labels
    assert "stopped (242)" in labels
    assert len(pictures.svg(figure, "a", "b")) < 150_000


def test_all_that_runs_is_drawn_to_its_last_report(thousand):
    ends = {tuple(line[-1]) for line in lines_of(plots.learning_curves(thousand).axes[0])}
    running = thousand.with_status(Status.RUNNING)
    best = thousand.best()
    assert len(running) == 30
    assert all((t.last_step, t.curve("loss")[-1][1]) in ends for t in running if t is not best)


def test_curves_are_in_the_colour_of_their_state(by_hand):
    ax = plots.learning_curves(by_hand.study).axes[0]
    handles, labels = ax.get_legend_handles_labels()
    colours = {label: handle.get_color() for handle, label in zip(handles, labels, strict=True)}
    assert colours["stopped (1)"] == COLOURS["stopped"]
    assert colours["paused (2)"] == COLOURS["paused"]
    marked = [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "--"]
    assert marked == [1, 2, 3]


def test_the_lanes_of_pauses_have_every_segment_and_every_wait(by_hand):
    ax = plots.pauses(by_hand.study).axes[0]
    # The time from 5 s to 10 s, in which nothing ran, is cut out.
    bars = sorted((bar.get_y() + bar.get_height() / 2, bar.get_x(), bar.get_width()) for bar in ax.patches)
    assert bars == [(0, 0, 1), (1, 1, 1), (1, 3, 1), (1, 5, 1), (2, 2, 1), (2, 4, 1)]
    lines = sorted((line[0][1], line[0][0], line[1][0]) for line in lines_of(ax))
    # 6 is the end of what is known: trial 1 has just been taken away.
    assert lines == [(0, 1, 6), (1, 2, 3), (1, 4, 5), (1, 6, 6), (2, 3, 4)]
    assert ax.get_title(loc="left") == "3 trials set aside: 2 went on, 1 was stopped"


def test_of_many_trials_set_aside_some_lanes_are_drawn_and_the_title_says_so(thousand):
    ax = plots.pauses(thousand).axes[0]
    assert len({bar.get_y() for bar in ax.patches}) == plot_pauses.MOST_TRIALS
    assert "40 of 485 trials are drawn" in ax.get_title(loc="left")


def test_the_table_of_pauses_names_the_rest(thousand, by_hand):
    table = pauses(thousand)
    assert table.count("<tr>") == MOST_WAITS + 1
    assert "and 185 more" in table
    assert "&lt;b&gt;why&lt;/b&gt;" in table
    assert "<b>why" not in table
    rows = re.findall(r"<tr>(<td>.*?)</tr>", pauses(by_hand.study))
    cells = [re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", rows[3])]
    assert cells == ["1", "3", "paused", "4 s", "6 s", "to 9", "went on because it was the cheapest, 1 of 1 at 3"]


@pytest.mark.slow
def test_a_page_of_a_thousand_trials_is_small(thousand, tmp_path):
    where = Report(thousand, "run", "the budget is spent").write(tmp_path)
    assert where.stat().st_size < 1_200_000
    assert all(path.stat().st_size < 400_000 for path in tmp_path.glob("*.png"))


@pytest.mark.parametrize("name", ["empty", "one", "no ledger"])
def test_small_runs_have_their_place_for_all_of_it(name):
    study = make_study(RECIPES[name])
    assert isinstance(pauses(study), str)
    assert ending(study, "<i>because</i>").count("&lt;i&gt;because&lt;/i&gt;") == 1
    record = json.loads(json.dumps(Report(study).to_json(), allow_nan=False))
    assert record["waits"] == [] or name == "no ledger"


def test_the_json_tells_of_each_wait(by_hand):
    record = json.loads(json.dumps(Report(by_hand.study).to_json(), allow_nan=False))
    assert [(row["trial"], row["step"], row["waited_s"]) for row in record["waits"]][3] == (1, 3, 6.0)
    assert record["waits"][3]["why"] == "went on because it was the cheapest, 1 of 1 at 3"
    assert record["rungs"] == [1, 2, 3]
    assert record["spared"]["steps"] == 19


def test_the_report_says_how_many_reports_were_set_aside():
    script = Script()
    study = script.study
    study.settling.reports, study.settling.resumes = 2, 31
    assert wording.settling_text(study) == (
        "The first 2 reports after a resume did not count where trials were compared short of the end: "
        "learned from 31 resumes"
    )
    study.settling.reports = 0
    assert wording.settling_text(study) is None
