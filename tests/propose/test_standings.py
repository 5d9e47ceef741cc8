import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri

from frugalbo.budget.amounts import Cost
from frugalbo.events import Ended, Failure, Outcome, Reported, Started
from frugalbo.problem import Fidelity, Maximize, Minimize, Problem
from frugalbo.propose.bo import BayesianProposer
from frugalbo.propose.evidence import Evidence
from frugalbo.propose.standings import standings
from frugalbo.space import Float, Space
from frugalbo.study import Study

SPACE = Space({"x": Float(0, 1)})
LEVELS = (2, 8, 32)


def ladder(*curves, objective=None, space=SPACE):
    """A study in which trial i was held at the first `len(curves[i])` of the levels, with these losses; nan fails."""
    objective = objective or Minimize("loss")
    study = Study(Problem("toy", space, "m:f", objective, Fidelity("steps", 1, LEVELS[-1])))
    for i, curve in enumerate(curves):
        start = 0
        for segment, (level, loss) in enumerate(zip(LEVELS, curve, strict=False)):
            params = {"x": (i + 0.5) / len(curves)}
            study.apply(Started(i, segment, params, start, level, LEVELS[-1], Cost(), "cpu:0", 0.0))
            if math.isnan(loss):
                study.apply(Ended(i, segment, Outcome.FAILED, Cost(), 1.0, 0, Failure.DIVERGED))
                break
            study.apply(Reported(i, segment, level, {"loss": objective.to_loss(loss)}, 1.0))
            outcome = Outcome.COMPLETED if level == LEVELS[-1] else Outcome.PAUSED
            study.apply(Ended(i, segment, outcome, Cost(), 1.0, level))
            start = level
    return study


def scores(study):
    return [standing.score for _, standing in sorted(standings(study).items())]


def test_on_the_first_rung_a_score_is_the_normal_score_of_the_rank():
    found = scores(ladder([3.0], [1.0], [2.0], [9.0]))
    assert found == pytest.approx(ndtri([2.5 / 4, 0.5 / 4, 1.5 / 4, 3.5 / 4]))


def test_equals_share_their_rank():
    assert scores(ladder([1.0], [1.0])) == pytest.approx([0.0, 0.0])


def test_of_one_that_goes_on_alone_the_next_rung_says_what_was_expected():
    study = ladder([3.0], [1.0, 0.5], [2.0])
    rho = (LEVELS[0] / LEVELS[1]) ** 0.2
    assert standings(study)[1].step == LEVELS[1]
    assert standings(study)[1].score == pytest.approx(rho * ndtri(0.5 / 3), abs=1e-3)


def test_of_two_that_went_on_the_quantiles_of_their_mixture_are_shared_out_by_rank():
    study = ladder([1.0, 0.9], [2.0, 0.1], [3.0], [4.0])
    rho = (LEVELS[0] / LEVELS[1]) ** 0.2
    before = ndtri(np.array([0.5, 1.5]) / 4)
    found = standings(study)
    assert found[1].score < found[0].score  # they changed places
    for share, standing in ((0.25, found[1]), (0.75, found[0])):
        from scipy.stats import norm

        assert norm.cdf(standing.score, rho * before, math.sqrt(1 - rho**2)).mean() == pytest.approx(share, abs=1e-3)


def test_the_farther_from_the_end_the_less_a_score_says():
    variances = [standings(ladder([1.0], [2.0], [0.5] * n))[2].variance for n in (1, 2, 3)]
    assert variances == pytest.approx([1 - (2 / 32) ** 0.4, 1 - (8 / 32) ** 0.4, 0.1])


def test_who_failed_stands_last_and_that_is_final():
    with_failures = standings(ladder([1.0], [2.0], [math.nan], [math.nan]))
    assert [with_failures[i].score for i in range(4)] == pytest.approx(ndtri(np.array([0.5, 1.5, 3, 3]) / 4))
    assert [with_failures[i].variance for i in (2, 3)] == [0.1, 0.1]
    assert with_failures[1].variance > 0.1


def test_who_failed_later_is_behind_all_that_got_there():
    found = standings(ladder([1.0, 5.0], [2.0, 6.0], [0.5, math.nan], [4.0]))
    assert found[2].step == LEVELS[1]
    assert found[2].score > found[1].score > found[0].score


def test_a_cap_on_time_says_nothing_of_ranks():
    study = ladder([1.0], [2.0], [math.nan])
    study.trials[2].ends[-1] = replace(study.trials[2].ends[-1], failure=Failure.TIMEOUT)
    assert sorted(standings(study)) == [0, 1]


def test_where_nobody_was_held_values_are_values():
    full = ladder([3.0] * 3, [2.0] * 3)
    for trial in full.trials.values():
        del trial.starts[:2], trial.ends[:2]
    assert standings(full) is None
    assert Evidence(full, ranked=True).losses.tolist() == [3.0, 2.0]


@settings(max_examples=30)
@given(
    st.lists(st.lists(st.integers(-50, 50), min_size=1, max_size=3), min_size=2, max_size=8),
    st.sampled_from([lambda loss: 1e18 * loss**3, lambda loss: math.exp(loss / 10), lambda loss: loss - 1e6]),
)
def test_only_ranks_count(curves, transform):
    found = scores(ladder(*curves))
    assert found == pytest.approx(scores(ladder(*[[transform(loss) for loss in curve] for curve in curves])))
    assert scores(ladder(*curves, objective=Maximize("loss"))) == found


def test_the_model_learns_from_trials_that_were_held():
    # The best is at x = 0.7, and no trial ran to its end: without ranks there would be nothing to model.
    n = 14
    study = ladder(*[[abs((i + 0.5) / n - 0.7)] for i in range(n)])
    assert not len(Evidence(study).losses)
    (suggestion,) = BayesianProposer(seed=0, method="ei").propose(study, 1)
    assert suggestion.why["method"] == "ei"
    assert suggestion.why["held"] == suggestion.why["observed"] == n
    assert "predicted" not in suggestion.why  # a score is no loss
    assert abs(suggestion.params["x"] - 0.7) < 0.1
