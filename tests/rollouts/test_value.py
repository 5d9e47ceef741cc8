import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from frugalbo.budget.knapsack import allocate, allocate_exactly
from frugalbo.rollouts.value import (
    chance_of_gradient,
    expected_chance_of_gradient,
    expected_gains,
    expected_value,
    gains,
    information_gain,
    published_gains,
    value,
)

rates = st.floats(0, 1)
shapes = st.floats(0.05, 40)
counts = st.integers(1, 130)


def test_the_chance_of_a_gradient_by_hand():
    # Of the eight outcomes of three fair rollouts, two are all alike.
    assert chance_of_gradient(3, 0.5) == pytest.approx(6 / 8)
    assert chance_of_gradient([0, 1], 0.3).tolist() == pytest.approx([0, 0])
    assert chance_of_gradient(128, [0, 1]).tolist() == [0, 0]


def test_information_gain_peaks_at_a_third():
    p = np.linspace(0, 1, 301)
    assert p[information_gain(p).argmax()] == pytest.approx(1 / 3)
    assert information_gain(1 / 3) == pytest.approx(4 / 27)


@given(p=rates, n=counts)
def test_gains_are_differences_of_values_and_fall(p, n):
    gain = gains([p])
    first, second = (gain(np.array([0]), np.array([k]))[0] for k in (n + 1, n + 2))
    assert first == pytest.approx(value(n + 1, p) - value(n, p), abs=1e-12)
    assert 0 <= second <= first


@given(a=shapes, b=shapes, n=counts)
def test_expected_gains_are_differences_of_expected_values_and_fall(a, b, n):
    gain = expected_gains([a], [b])
    first, second = (gain(np.array([0]), np.array([k]))[0] for k in (n + 1, n + 2))
    assert first == pytest.approx(expected_value(n + 1, a, b) - expected_value(n, a, b), abs=1e-12)
    assert 0 <= second <= first


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (1.7, 5.3), (13.0, 2.0)])
@pytest.mark.parametrize("n", [2, 7, 61])
def test_expectations_are_integrals(a, b, n):
    density = stats.beta(a, b).pdf
    assert expected_value(n, a, b) == pytest.approx(
        integrate.quad(lambda p: value(n, p) * density(p), 0, 1, epsabs=1e-12)[0], rel=1e-8
    )
    assert expected_chance_of_gradient(n, a, b) == pytest.approx(
        integrate.quad(lambda p: chance_of_gradient(n, p) * density(p), 0, 1, epsabs=1e-12)[0], rel=1e-8
    )


@given(p=st.floats(0.01, 0.99), n=st.integers(2, 40))
def test_what_is_known_well_is_a_plug_in(p, n):
    assert expected_value(n, 1e7 * p, 1e7 * (1 - p)) == pytest.approx(value(n, p), rel=1e-3, abs=1e-7)


P = np.array([1, 2, 4, 8, 12, 14, 15]) / 16


@pytest.mark.parametrize(
    ("gain", "units", "total"),
    [
        (gains(P), [12, 15, 11, 7, 7, 2, 2], 0.414168),
        (published_gains(P, 2), [11, 15, 11, 7, 7, 3, 2], 0.413975),
    ],
)
def test_the_published_recurrence_and_what_it_misses(gain, units, total):
    """Facts of the released code: 56 rollouts for seven prompts, bounds 2 and 128."""
    found = allocate(gain, [2] * 7, [128] * 7, 56).units
    assert found.tolist() == units
    assert value(found, P).sum() == pytest.approx(total, abs=1e-6)
    assert value(8, P).sum() == pytest.approx(0.388172, abs=1e-6)


@given(rates=st.lists(st.floats(0.02, 0.98), min_size=5, max_size=5), budget=st.integers(10, 61))
def test_the_published_recurrence_is_its_dynamic_programme(rates, budget):
    p, extra = np.array(rates), np.arange(12)
    table = np.where(extra == 0, 0.0, value(2 + extra, p[:, None]))
    by_table = allocate_exactly(table, budget - 10)
    by_price = allocate(published_gains(p, 2), [2] * 5, [13] * 5, budget).units - 2
    rows = np.arange(5)
    assert table[rows, by_price].sum() == pytest.approx(table[rows, by_table].sum())
