import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frugalbo.models.outcome import Outcome

losses = st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=30)


def test_values_match_the_closed_form():
    # Sorted 0, 1, 2, 5, 1e18: pivot 2 (the median), spread 2, so t = -1, -1/2, 0, log(2.5), 4.
    # Mean (-1.5 + 0.916291 + 4) / 5 = 0.683258.
    y = [5.0, 0.0, 1e18, 1.0, 2.0]
    t = np.array([math.log(2.5), -1.0, 4.0, -0.5, 0.0])
    assert Outcome.of(y)(y) == pytest.approx((t - 0.683258) / t.std(ddof=1), abs=1e-5)


@given(losses)
def test_what_the_model_sees_is_finite_and_keeps_the_order(y):
    t = Outcome.of(y)(y)
    assert np.isfinite(t).all()
    order = np.argsort(y, kind="stable")
    assert (np.diff(t[order]) >= 0).all()


@given(st.lists(st.floats(-1e3, 1e3).map(lambda v: round(v, 3)), min_size=2, max_size=20))
def test_the_inverse_leads_back_below_the_plateau(y):
    outcome = Outcome.of(y)
    plateau = float(outcome(1e300))
    for value in y:
        seen = float(outcome(value))
        if seen < plateau - 1e-9:
            assert outcome.inverse(seen) == pytest.approx(value, rel=1e-6, abs=1e-6)


@given(st.floats(0.01, 100), st.floats(-100, 100))
def test_scale_and_shift_of_the_loss_do_not_matter(scale, shift):
    y = np.array([3.0, 1.0, 4.0, 1.5, 9.0, 2.6, 5.3])
    assert Outcome.of(scale * y + shift)(scale * y + shift) == pytest.approx(Outcome.of(y)(y), abs=1e-8)


def test_a_few_good_values_among_many_diverged_ones_stay_apart():
    y = [0.3, 0.5, 0.6, 0.9] + [1e18 * (1 + i) for i in range(20)]
    t = Outcome.of(y)(y)
    assert t[1] - t[0] > 0.1
    assert t[4:].min() > t[3]


def test_equal_losses_are_zeros():
    assert Outcome.of([2.0, 2.0, 2.0])([2.0, 2.0, 2.0]).tolist() == [0.0, 0.0, 0.0]


def test_in_true_proportion_it_is_the_standard_score():
    losses = np.array([-2.0, 0.5, 0.0, 7.0, 1.0])
    found = Outcome.linear(losses)
    assert found(losses) == pytest.approx((losses - losses.mean()) / losses.std(ddof=1))
    assert found.slope(losses) == pytest.approx(np.full(5, 1 / losses.std(ddof=1)))
    assert found.inverse(float(found(losses)[3])) == pytest.approx(7.0)
    assert Outcome.linear([3.0, 3.0])([3.0]) == pytest.approx([0.0])
