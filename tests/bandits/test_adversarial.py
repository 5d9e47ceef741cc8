import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frugalbo.bandits import Exp3, Exp3IX, LogBarrier, TsallisINF
from frugalbo.bandits.adversarial import barrier_weights, entropy_weights
from frugalbo.errors import BanditError

losses = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9).map(np.array)


@settings(deadline=None)
@given(L=losses, log_eta=st.floats(-5, 2), power=st.sampled_from([1, 2]))
def test_barrier_weights_solve_what_they_say(L, log_eta, power):
    eta = 10**log_eta
    p = barrier_weights(L, eta, power)
    assert p.sum() == pytest.approx(1, abs=1e-12)
    # p_a^(-1 / power) - eta L_a / power is the same for all arms: the condition of the minimum.
    side = p ** (-1 / power) - eta * L / power
    scale = np.abs(eta * L / power).max() + (p ** (-1 / power)).max()
    assert np.ptp(side) <= 1e-8 * scale


def test_barrier_weights_by_hand():
    # Two arms, eta (L_1 - L_0) = 1.5, the log barrier: 1/x + 1/(x + 1.5) = 1 at x = (0.5 + sqrt(6.25))/2 = 1.5.
    assert barrier_weights(np.array([0.0, 1.5]), 1.0, 1) == pytest.approx([2 / 3, 1 / 3])
    # Tsallis: p = (2 / (eta (L - x)))^2; 16/25 and 9/25 at 2 / 0.8 = 2.5 and 2 / 0.6 = 10/3, so eta L_1 = 5/6.
    assert barrier_weights(np.array([0.0, 5 / 6]), 1.0, 2) == pytest.approx([0.64, 0.36])


def test_entropy_weights_survive_what_would_overflow():
    assert entropy_weights(np.array([-1e6, 0.0, -1e6]), 1.0).tolist() == [0.5, 0, 0.5]


@pytest.mark.parametrize("kind", [Exp3, TsallisINF, LogBarrier])
def test_estimates_are_unbiased(kind):
    """The mean of the estimated losses over the arms' probabilities is the loss, for each arm."""
    bandit = kind(3)
    for arm, reward in [(0, 1), (1, 0), (2, 0.3), (1, 0.2)]:
        bandit.update(arm, reward)
    p, rewards = bandit.probabilities(), np.array([0.9, 0.1, 0.4])
    grown = np.zeros(3)
    for arm in range(3):
        other = kind.from_json(bandit.to_json())
        other.update(arm, rewards[arm])
        grown += p[arm] * (other.losses - bandit.losses)
    assert grown == pytest.approx(1 - rewards)


def test_implicit_exploration_by_hand():
    # K = 2, first round: eta = sqrt(2 ln 2 / 2) = 0.83255; a loss of 1 at p = 1/2 counts 1 / (0.5 + 0.41628) = 1.09137
    bandit = Exp3IX(2)
    bandit.update(1, 0.0)
    assert bandit.losses == pytest.approx([0, 1.09137], abs=1e-5)
    other = Exp3(2)
    other.update(1, 0.0)
    assert other.losses == pytest.approx([0, 2])


@pytest.mark.parametrize(
    ("kind", "first", "hundredth"),
    [
        (Exp3, math.sqrt(math.log(5) / 5), math.sqrt(math.log(5) / 500)),
        (Exp3IX, math.sqrt(2 * math.log(5) / 5), math.sqrt(2 * math.log(5) / 500)),
        (TsallisINF, 2.0, 0.2),
        (LogBarrier, 0.5, math.sqrt(5 * math.log(101) / 100)),
    ],
)
def test_learning_rates_are_those_of_the_table(kind, first, hundredth):
    bandit = kind(5)
    assert bandit.rate() == pytest.approx(first)
    bandit.t = 99
    assert bandit.rate() == pytest.approx(hundredth)


def test_late_feedback_counts_with_the_probability_of_its_time():
    bandit = TsallisINF(2)
    then = float(bandit.probabilities()[0])
    bandit.update(1, 1.0)
    bandit.update(1, 0.0)
    assert bandit.probabilities()[0] != then
    before = bandit.losses[0]
    bandit.update(0, 0.25, probability=then)
    assert bandit.losses[0] - before == pytest.approx(0.75 / then)


@pytest.mark.parametrize("probability", [0.0, -0.1, 1.1, math.nan])
def test_a_probability_that_cannot_be_is_refused(probability):
    with pytest.raises(BanditError, match="expected a probability above 0"):
        Exp3(2).update(0, 0.5, probability=probability)


def test_a_baseline_is_subtracted():
    bandit = LogBarrier(2, baseline=0.4)
    bandit.update(0, 1.0)
    assert bandit.losses == pytest.approx([-1.2, 0])
    assert bandit.probabilities()[0] > 0.5


@pytest.mark.parametrize("baseline", [-0.1, 1.1, math.nan])
def test_a_baseline_out_of_range_is_refused(baseline):
    with pytest.raises(BanditError, match="expected a baseline in"):
        LogBarrier(2, baseline)
