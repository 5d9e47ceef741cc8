"""The audit of exploration: policies whose numbers are known, studies by hand, and where it is shown."""

import math

import numpy as np
import pytest

from frugalbo.budget.amounts import Budget, Cost
from frugalbo.budget.ledger import Ledger
from frugalbo.events import Ended, Outcome, Reported, Started
from frugalbo.problem import Maximize, Minimize, Problem
from frugalbo.report import Report, exploration
from frugalbo.report.exploration import of_points, of_pulls
from frugalbo.report.html_tables import explored
from frugalbo.space import Float, Space
from frugalbo.study import Study


def pulls_of(policy, runs=400, horizon=20, k=5, seed=0):
    """Arms with means 0, 0.2 ..., of which the last is best, with unit noise."""
    rng = np.random.default_rng(seed)
    arms, rewards = np.zeros((runs, horizon), int), np.zeros((runs, horizon))
    for r in range(runs):
        for t in range(horizon):
            arms[r, t] = policy(rng, arms[r, :t], rewards[r, :t], k)
            rewards[r, t] = 0.2 * arms[r, t] + rng.standard_normal()
    return of_pulls(arms, rewards, k, np.full(runs, k - 1))


def greedy(rng, arms, rewards, k):
    if not len(arms):
        return rng.integers(k)
    means = [rewards[arms == a].mean() if (arms == a).any() else -math.inf for a in range(k)]
    return int(np.argmax(means))


def test_a_greedy_policy_is_greedy_always_and_one_at_random_seldom():
    found = pulls_of(greedy, runs=50)
    assert found.greedy == 1.0
    assert found.least_share == 0.0


def test_pulls_at_random_give_up_the_best_arm_as_often_as_chance_says():
    # Half of 20 pulls miss one of 5 arms with 0.8^10 = 0.107; four standard errors of 2,000 runs are 0.028.
    found = pulls_of(lambda rng, arms, rewards, k: rng.integers(k), runs=2000)
    assert found.suffix_failure == pytest.approx(0.8**10, abs=0.028)
    assert found.best_share == pytest.approx(0.2, abs=0.008)
    assert found.greedy == pytest.approx(0.2, abs=0.02)  # the best mean so far is one arm of five, but for ties


def test_taking_turns_has_the_largest_least_share_and_never_gives_up():
    found = pulls_of(lambda rng, arms, rewards, k: len(arms) % k, runs=3)
    assert (found.least_share, found.suffix_failure, found.best_share) == (1.0, 0.0, 0.2)


def test_pulls_by_hand():
    # Arms 0 1 1 0 with rewards 1 0 4 9: the second choice leaves the best (mean 1), the third too (means 1 and 0), the
    # fourth leaves arm 1 (mean 2). None is greedy, arm 2 is never taken, arm 1 is taken in the second half.
    found = of_pulls([[0, 1, 1, 0]], [[1, 0, 4, 9]], 3, [1])
    assert (found.greedy, found.suffix_failure, found.least_share, found.best_share) == (0, 0, 0, 0.5)
    assert of_pulls([[0, 1, 1, 0]], [[1, 0, 4, 9]], 3, [2]).suffix_failure == 1


def test_random_choices_among_categories_are_greedy_and_give_up_by_chance():
    """With 4 categories all of which are known, a region is a category: 1/4, and (3/4)^8 of not going there."""
    rng, worth = np.random.default_rng(3), np.array([0.3, 0.1, 0.8, 0.5])
    found = []
    for _ in range(500):
        drawn = np.concatenate([np.arange(4), rng.integers(4, size=16)])
        losses = worth[drawn] + 0.01 * rng.random(20)
        found.append(of_points(drawn[:, None] / 4, losses, range(4, 20), categorical=[0]))
    assert {(f.greedy_by_chance, f.gave_up_by_chance) for f in found} == {(4.0, 0.75**8)}
    assert np.mean([f.greedy for f in found]) == pytest.approx(4, abs=4 * math.sqrt(16 * 3 / 16 / 500))
    assert np.mean([f.gave_up for f in found]) == pytest.approx(0.75**8, abs=4 * math.sqrt(0.1 * 0.9 / 500))


def test_random_points_with_results_that_mean_nothing_are_greedy_by_chance():
    """The nearest of k results is the best of them once in k, whatever the space, as results do not depend on it."""
    rng = np.random.default_rng(4)
    found = [of_points(rng.random((14, 3)), rng.random(14), range(4, 14)) for _ in range(400)]
    by_chance = sum(1 / k for k in range(4, 14))
    assert found[0].greedy_by_chance == pytest.approx(by_chance)
    assert np.mean([f.greedy for f in found]) == pytest.approx(by_chance, abs=4 * 1.3 / math.sqrt(400))


def test_points_that_follow_the_best_are_greedy_and_one_that_leaves_gives_up():
    U = np.array([[0.1], [0.9], [0.12], [0.13], [0.14], [0.15], [0.16], [0.17]])
    losses = U[:, 0] * 0 + np.array([1, 2, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    found = of_points(U, losses, range(2, 8))
    assert (found.greedy, found.gave_up) == (6, False)
    away = np.concatenate([U[:5], [[0.85], [0.86], [0.87]]])
    found = of_points(away, [*losses[:5].tolist(), 3, 3, 3], range(2, 8))
    assert (found.greedy, found.gave_up) == (3, True)
    # Known at the middle, choice 5, are 5 results, of which one is the best; the 3 choices from there on left it.
    assert found.gave_up_by_chance == pytest.approx((4 / 5) ** 3)


def test_several_best_results_are_as_many_regions():
    U = np.array([[0.0], [0.3], [0.6], [1.0], [0.99], [0.98], [0.97], [0.96], [0.95]])
    found = of_points(U, [1, 1, 2, 3, 4, 4, 4, 4, 4], range(4, 9))
    assert found.greedy_by_chance == pytest.approx(sum(2 / k for k in range(4, 9)))
    assert found.gave_up_by_chance == pytest.approx((1 - 2 / 6) ** 3)  # at the middle, choice 6, are 6 results


def test_results_that_are_undefined_or_not_known_yet_are_no_region():
    U = np.array([[0.0], [0.5], [1.0], [0.9], [0.8], [0.7], [0.6]])
    losses = np.array([1.0, np.nan, 2.0, 3.0, 3.0, 3.0, 3.0])
    known = [np.arange(7) < 3] * 5
    found = of_points(U, losses, [1, 3, 4, 5, 6], known)
    # 0.5 is as near to 0 as to 1; the others are nearest to 1.
    assert found.greedy == 0.5
    assert found.greedy_by_chance == 2.5


def study_of(places, method="metabo", objective=None):
    study = Study(
        Problem("p", Space({"x": Float(0, 1)}), "m:f", objective or Minimize("loss")),
        Ledger(Budget(device_seconds=1e6)),
    )
    for i, (x, value) in enumerate(places):
        why = {"method": method, "predicted": 0.0} | ({"network": 0.5} if method == "metabo" else {}) if i > 1 else {}
        study.apply(Started(i, 0, {"x": x}, 0, 1, 1, Cost(), "s", float(i), why))
        study.apply(Reported(i, 0, 1, {study.problem.objective.metric: value}, i + 0.5))
        study.apply(Ended(i, 0, Outcome.COMPLETED, Cost(device_seconds=1), i + 0.75))
    return study


PLACES = [(0.1, 1.0), (0.9, 2.0), (0.12, 0.9), (0.13, 0.8), (0.14, 0.7), (0.85, 3.0), (0.86, 3.0), (0.87, 3.0)]


def test_a_study_is_judged_by_what_was_known_and_shown_where_a_network_had_a_say():
    found = exploration(study_of(PLACES))
    assert (found.choices, found.greedy, found.gave_up, found.is_learned) == (6, 3, True, True)
    report = Report(study_of(PLACES))
    assert "Of 6 configurations that a model chose, 50 % lay nearest to the best known then" in report.summary()
    assert (
        "never came back to the region of the best of the first (a suffix failure, by chance 51 %)" in report.summary()
    )
    assert "Did it explore?" in explored(report.study)
    assert report.to_json()["exploration"]["greedy_frequency"] == 0.5


def test_other_methods_are_judged_on_request_alone():
    report = Report(study_of(PLACES, "bo"))
    assert "nearest to the best known" not in report.summary()
    assert explored(report.study) == ""
    assert report.to_json()["exploration"]["is_learned"] is False


def test_the_direction_of_the_objective_counts():
    turned = [(x, -value) for x, value in PLACES]
    assert exploration(study_of(turned, objective=Maximize("acc"))) == exploration(study_of(PLACES))


def test_too_few_choices_say_nothing():
    assert exploration(study_of(PLACES[:5])).to_json() == {
        "choices": 3, "reason": "Too few to say: 3 choices by a model, 5 are needed."
    }  # fmt: skip
    assert exploration(study_of(PLACES[:2])).in_words() == "No model took part in this run."
