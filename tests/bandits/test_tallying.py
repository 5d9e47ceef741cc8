import math

import numpy as np
import pytest

from frugalbo.bandits import SuccessiveElimination, WarmupElimination
from frugalbo.errors import BanditError


def test_arms_are_taken_in_runs_and_the_first_rewards_discarded():
    """T = 20, K = 2: n_0 = ceil(2 ln 80) = 9, after 4 that are discarded."""
    bandit, rng, arms = WarmupElimination(2, warmup=4, horizon=20), np.random.default_rng(0), []
    for _ in range(26 + 18):
        arms.append(bandit.select(rng))
        bandit.update(arms[-1], 0.5)
    first, second = arms[0], 1 - arms[0]
    # The arm that is warm goes on for its 18 of the second epoch, and discards none.
    assert arms == [first] * 13 + [second] * 13 + [second] * 18
    assert (bandit.epoch, bandit.length) == (1, 18)
    assert bandit.counts[second] == 18


def test_what_comes_before_an_arm_is_warm_does_not_count():
    bandit = WarmupElimination(2, warmup=4, horizon=20)
    for arm in (0, 1):
        for i in range(13):
            bandit.update(arm, 0.0 if i < 4 else 0.7)
            if i == 12 and arm == 0:
                assert bandit.sums[0] == pytest.approx(9 * 0.7)


def test_an_arm_taken_in_between_is_cold_again():
    bandit = WarmupElimination(3, warmup=4, horizon=20)
    for arm in [0] * 6 + [1] + [0] * 6:
        bandit.update(arm, 0.5)
    assert bandit.counts.tolist() == [4, 0, 0]


def test_elimination_by_hand():
    # K = 2, T = 20: n_0 = 9, r = sqrt(ln 80 / 18) = 0.49341, so out at a distance above 0.98682
    for low, remains in ((0.014, True), (0.013, False), (0.0, False)):
        bandit = WarmupElimination(2, warmup=0, horizon=20)
        for arm in [0] * 9 + [1] * 9:
            bandit.update(arm, 1.0 if arm == 0 else low)
        assert bandit.remaining.tolist() == [True, remains], low
        assert bandit.recommend() == 0


def test_the_arm_that_remains_is_taken_for_ever():
    bandit = WarmupElimination(3, warmup=2, horizon=50)
    rng = np.random.default_rng(0)
    for _ in range(500):
        arm = bandit.select(rng)
        bandit.update(arm, [0.0, 1.0, 0.0][arm])
    assert bandit.remaining.tolist() == [False, True, False]
    assert bandit.probabilities().tolist() == [0, 1, 0]
    assert math.isfinite(bandit.length)


def test_plain_elimination_is_misled_by_arms_that_must_warm_up():
    """Taken in turns, no arm is ever warm: the best one, which brings nothing when cold, is out."""
    bandit = SuccessiveElimination(2, 500)
    for _ in range(200):
        bandit.update(0, 0.0)  # would bring 1 if it were taken twice running
        bandit.update(1, 0.6)
    assert bandit.remaining.tolist() == [False, True]


@pytest.mark.parametrize(("warmup", "horizon"), [(-1, 10), (0.5, 10), (True, 10), (3, 0)])
def test_wrong_settings_are_refused(warmup, horizon):
    with pytest.raises(BanditError, match="to be a whole number of at least 1"):
        WarmupElimination(2, warmup, horizon)
