import math

import numpy as np
import pytest

from frugalbo.bandits import (
    KLUCB,
    UCB1,
    BetaThompson,
    EpsilonGreedy,
    GaussianThompson,
    SequentialHalving,
    SuccessiveElimination,
)
from frugalbo.errors import BanditError


def told(bandit, *pulls):
    for arm, *rewards in pulls:
        for reward in rewards:
            bandit.update(arm, reward)
    return bandit


def test_ucb1_by_hand():
    # t = 5: 1/3 + sqrt(2 ln 5 / 3) = 0.33333 + 1.03584; 1/2 + sqrt(2 ln 5 / 2) = 0.5 + 1.26864
    bandit = told(UCB1(2), (0, 1, 0, 0), (1, 1, 0))
    assert bandit.indices() == pytest.approx([1.36917, 1.76864], abs=1e-5)
    assert bandit.probabilities().tolist() == [0, 1]


def test_arms_not_pulled_come_first_and_then_ties_are_shared():
    bandit = UCB1(4)
    assert bandit.probabilities().tolist() == [0.25] * 4
    told(bandit, (2, 1))
    assert bandit.probabilities() == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3])
    told(bandit, (0, 1), (1, 1), (3, 0))
    assert bandit.probabilities() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])


@pytest.mark.parametrize(("rewards", "n_other"), [([1, 0, 0], 7), ([1, 1, 0.5, 0.5], 3), ([0.1] * 5, 23), ([0, 0], 2)])
def test_the_kl_index_is_where_the_divergence_reaches_the_level(rewards, n_other):
    bandit = told(KLUCB(2), (0, *rewards), (1, *[0.5] * n_other))
    n, mean, q = len(rewards), np.mean(rewards), bandit.indices()[0]
    kl = (mean * math.log(mean / q) if mean else 0) + (1 - mean) * math.log((1 - mean) / (1 - q))
    assert n * kl == pytest.approx(math.log(n + n_other), rel=1e-3)


def test_a_mean_of_one_has_the_largest_kl_index():
    assert told(KLUCB(2), (0, 1, 1), (1, 0.5)).indices()[0] == pytest.approx(1)


def test_epsilon_greedy_by_hand():
    # t = 9: epsilon = (2 ln 9 / 9)^(1/3) = 0.78746; half of it for each arm, the rest for the better one
    bandit = told(EpsilonGreedy(2), (0, 1, 1), (1, 0, 0, 0, 0, 0, 0))
    assert bandit.probabilities() == pytest.approx([1 - 0.78746 / 2, 0.78746 / 2], abs=1e-5)
    assert EpsilonGreedy(5).probabilities().tolist() == [0.2] * 5


def test_beta_posterior():
    # Two successes in three: Beta(3, 2), with mean 3/5 and variance 3*2 / (25*6) = 0.04
    bandit, rng = told(BetaThompson(1), (0, 1, 1, 0)), np.random.default_rng(0)
    draws = np.array([bandit.draws(rng)[0] for _ in range(4000)])
    assert draws.mean() == pytest.approx(0.6, abs=5 * 0.2 / math.sqrt(4000))
    assert draws.std() == pytest.approx(0.2, rel=0.06)


def test_gaussian_posterior_by_hand():
    # Prior N(0, 2^2), noise 1, rewards 1 and 4: precision 1/4 + 2 = 9/4, mean 5 / (9/4) = 20/9, sd 2/3
    bandit = told(GaussianThompson(2, noise_sd=1.0, prior_mean=0.0, prior_sd=2.0), (1, 1, 4))
    mean, sd = bandit.posterior()
    assert mean == pytest.approx([0, 20 / 9])
    assert sd == pytest.approx([2, 2 / 3])
    rng = np.random.default_rng(0)
    assert np.mean([bandit.draws(rng)[1] for _ in range(4000)]) == pytest.approx(
        20 / 9, abs=5 * 0.667 / math.sqrt(4000)
    )


def test_elimination_by_hand():
    # T = 100, n = 60: r = sqrt(2 ln 100 / 60) = 0.39180; an arm is out at a distance above 0.78360
    bandit = told(SuccessiveElimination(3, 100), *[(0, 1), (1, 0.22), (2, 0.21)] * 60)
    assert bandit.remaining.tolist() == [True, True, False]
    assert bandit.probabilities().tolist() == [0.5, 0.5, 0]
    assert told(bandit, (0, 1)).probabilities().tolist() == [0, 1, 0]
    assert bandit.recommend() == 0


def test_halving_by_hand():
    # 5 arms, 60 pulls, 3 rounds: 60 // (5*3) = 4 each; 3 are left, 60 // (3*3) = 6 each; 2, 60 // (2*3) = 10 each
    bandit, rng = SequentialHalving(5, 60), np.random.default_rng(0)
    means = [0.1, 0.9, 0.3, 0.5, 0.7]
    while not bandit.is_over:
        arm = bandit.select(rng)
        bandit.update(arm, means[arm])
    assert bandit.counts.tolist() == [4, 20, 4, 10, 20]
    assert bandit.recommend() == 1
    with pytest.raises(BanditError, match="all rounds of 60 pulls are done"):
        bandit.select(rng)


def test_what_others_pull_is_counted_and_does_not_shorten_the_rounds():
    bandit = SequentialHalving(2, 20)
    told(bandit, (0, *[1] * 15))
    assert bandit.todo.tolist() == [0, 10]
    assert bandit.probabilities().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SequentialHalving(5, 14), "expected at least 15 pulls to halve 5 arms, got 14"),
        (lambda: SequentialHalving(5, 20.0), "expected pulls to be a whole number"),
        (lambda: SuccessiveElimination(5, 0), "expected horizon to be a whole number"),
        (lambda: GaussianThompson(2, noise_sd=0.0), "expected noise_sd to be a number above 0, got 0.0"),
        (lambda: GaussianThompson(2, prior_sd=math.nan), "expected prior_sd"),
        (lambda: GaussianThompson(2, prior_mean=math.inf), "expected a finite prior_mean"),
        (lambda: UCB1(2).recommend(), "expected at least one pull"),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(BanditError, match=message):
        make()
