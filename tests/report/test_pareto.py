"""What memory buys: the front by its definition, where the amounts come from, and what is drawn and said."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frugalbo.budget.amounts import Cost
from frugalbo.errors import SpaceError
from frugalbo.events import Ended, Outcome, Reported, Started
from frugalbo.problem import Maximize, Minimize, Problem
from frugalbo.report import Report, pareto, plots, wording
from frugalbo.space import Choice, Float, Space
from frugalbo.study import Study

SPACE = Space({"density": Float(0, 1), "rule": Choice(("adam", "sign")), "rank": Float(1, 9, only_if={"rule": "adam"})})
ROWS = [(0.5, 3.0, 700), (0.25, 2.0, 300), (0.125, 2.0, 300), (0.0, 4.0, 100), (1.0, 2.5, 900), (0.75, 1.0, 900)]


def study_of(rows, objective=None, metric="state_bytes", constraints=(), more=None):
    """A study of trials with a density, a value, and what they report of a metric (None: nothing)."""
    objective = objective or Minimize("loss")
    study = Study(Problem("p", SPACE, "nothing:here", objective, constraints=constraints))
    for i, (density, value, amount) in enumerate(rows):
        params = {"density": density, "rule": "sign"} if i % 2 else {"density": density, "rule": "adam", "rank": 2.0}
        metrics = {objective.metric: value} | ({} if amount is None else {metric: amount}) | (more or {})
        study.apply(Started(i, 0, params, 0, 1, 1, Cost(), "a", float(i)))
        study.apply(Reported(i, 0, 1, metrics, float(i)))
        study.apply(Ended(i, 0, Outcome.COMPLETED, Cost(1.0), i + 1.0))
    return study


def best(front):
    return [(point.amount, point.value, point.trial) for point in front.best]


def test_the_front_by_hand():
    # With 100: 4. With 300: 2, of trial 1 before its equal. 700 brings 3 and does not count; 900 brings 1.
    front = pareto(study_of(ROWS))
    assert front.against == "state_bytes"
    assert best(front) == [(100, 4.0, 3), (300, 2.0, 1), (900, 1.0, 5)]
    assert len(front.points) == 6
    assert best(pareto(study_of(ROWS, Maximize("score")))) == [(100, 4.0, 3)]


amounts = st.integers(0, 5)
values = st.integers(-3, 3).map(float)


@given(rows=st.lists(st.tuples(st.just(0.5), values, st.none() | amounts), max_size=13), maximize=st.booleans())
def test_the_front_is_what_no_other_result_is_better_than_for_as_little(rows, maximize):
    sign = -1 if maximize else 1
    front = pareto(study_of(rows, Maximize("score") if maximize else Minimize("loss")))
    known = [(amount, sign * value) for _, value, amount in rows if amount is not None]
    expected = {(a, v) for a, v in known if not any((b <= a and w <= v) and (b, w) != (a, v) for b, w in known)}
    assert {(p.amount, sign * p.value) for p in front.best} == expected
    assert len(front.best) == len(expected)
    assert [p.amount for p in front.best] == sorted(p.amount for p in front.best)


def test_a_formula_is_computed_where_its_knobs_exist():
    study = study_of(ROWS)
    front = pareto(study, "8 * (100 + 1000 * density)")
    assert best(front) == [(800, 4.0, 3), (1800, 2.0, 2), (6800, 1.0, 5)]
    assert [p.trial for p in pareto(study, "rank * density").points] == [2, 0, 4]  # of the others there is no rank
    assert pareto(study, "1 / (density - 0.5)").points[-1].trial == 5  # no number at 0.5: trial 0 is left out
    assert len(pareto(study, "1 / (density - 0.5)").points) == 5
    with pytest.raises(SpaceError, match="known are density, rule, rank"):
        pareto(study, "state_byte")


@pytest.mark.parametrize(
    ("metric", "constraints", "found"),
    [
        ("peak_GiB", (), "peak_GiB"),
        ("bytes", (), "bytes"),
        ("crumb", (), ""),  # ends in mb, and is no memory
        ("crumb", ("crumb <= 500",), "crumb"),
        ("crumb", ("crumb >= 500",), ""),
        ("peak_mb", ("other_kb <= 3",), "peak_mb"),  # what is bounded and never reported has no front
    ],
)
def test_which_metric_is_taken(metric, constraints, found):
    assert pareto(study_of(ROWS, metric=metric, constraints=constraints)).against == found


def test_a_bound_on_the_resource_itself_keeps_no_trial_out_but_others_do():
    bounded = pareto(study_of(ROWS, constraints=("state_bytes <= 500",)))
    assert best(bounded) == best(pareto(study_of(ROWS)))
    slow = study_of(ROWS, constraints=("state_bytes <= 500", "latency <= 2"), more={"latency": 3.0})
    assert pareto(slow, "state_bytes").points == ()
    assert wording.pareto_verdict(slow, pareto(slow, "state_bytes")) == "No result that counts has state_bytes"


def test_what_is_said_of_a_front():
    study = study_of([(d, v, 2048 * a) for d, v, a in ROWS])
    assert wording.pareto_verdict(study, pareto(study)) == "loss 4 with 200 KiB, 1 with 1.76 MiB"
    study = study_of(ROWS, Maximize("score"), metric="peak_gib")
    assert wording.pareto_verdict(study, pareto(study)) == "score 4 with peak_gib 100: more buys nothing"
    study = study_of(ROWS, metric="seconds")
    assert "No trial reports its memory" in wording.pareto_verdict(study, pareto(study))
    assert Report(study_of(ROWS)).to_json()["pareto"] == {
        "against": "state_bytes",
        "points": 6,
        "front": [
            {"amount": 100, "value": 4.0, "trial": 3},
            {"amount": 300, "value": 2.0, "trial": 1},
            {"amount": 900, "value": 1.0, "trial": 5},
        ],
    }


def test_the_line_goes_down_at_each_point_of_the_front_and_on_to_the_largest_amount():
    figure = plots.pareto(study_of([(d, v, a * 1024) for d, v, a in [*ROWS, (0.5, 1.5, 5000)]]))
    [line] = figure.axes[0].lines
    assert np.array(line.get_xydata()) == pytest.approx(
        np.array([[100 / 1024, 4], [300 / 1024, 2], [900 / 1024, 1], [5000 / 1024, 1]])
    )
    assert line.get_drawstyle() == "steps-post"
    assert figure.axes[0].get_xlabel() == "state_bytes (MiB)"
    assert plots.pareto(study_of(ROWS, metric="seconds")).axes == []  # a sentence in the place of a picture
