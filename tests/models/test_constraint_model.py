"""The model of an outcome constraint: where its bound is, and how sure it is."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from frugalbo.constraint import OutcomeConstraint
from frugalbo.models.constraint import ConstraintModel, Excess, fit_constraint

AT_MOST = OutcomeConstraint("g", "<=", 3.0)
AT_LEAST = OutcomeConstraint("g", ">=", 3.0)


def _fit(constraint=AT_MOST, n=17, seed=0, scale=1.0):
    X = np.random.default_rng(seed).random((n, 2))
    values = scale * (X[:, 0] + X[:, 1] + 2)  # at most 3 where x + y <= 1
    return fit_constraint(constraint, X, values, ())


def _points(n=31, seed=1):
    return torch.rand(n, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


EXCESSES = st.lists(st.floats(-1e18, 1e18), min_size=1, max_size=13)


@given(excess=EXCESSES, at=st.floats(-1e18, 1e18), more=st.floats(0, 1e18))
def test_the_transform_rises_and_the_bound_keeps_its_side(excess, at, more):
    t = Excess.of(excess)
    a, zero, b = t([at, 0.0, at + more])
    assert a <= b
    assert zero == pytest.approx(t.bound, abs=1e-9)
    assert (a <= zero) == (at <= 0) or abs(a - zero) < 1e-9
    assert np.isfinite([a, b]).all()


@given(excess=EXCESSES, share=st.floats(-40, 40))
def test_the_inverse_leads_back_between_the_plateaus(excess, share):
    t = Excess.of(excess)
    e = share * t.scale
    assert t.inverse(float(t([e])[0])) == pytest.approx(e, rel=1e-6, abs=1e-6 * t.scale)


def test_the_transform_is_steepest_at_the_bound_even_if_most_values_are_far_worse():
    # t(e) = log(1 + e / s): with s = 0.2, the median, the step over the bound is log(1.5) + log(1.5).
    near = Excess.of([-0.3, -0.2, -0.1, 0.1, 0.2, 0.3])
    assert near.scale == 0.2
    assert (near([0.1]) - near([-0.1]))[0] * near.std == pytest.approx(2 * math.log(1.5))
    # Seven exploded runs among thirteen: the median is 1e18, the values near the bound are still apart.
    far = Excess.of([-0.3, -0.2, -0.1, 0.1, 0.2, 0.3, *[1e18] * 7])
    assert (far([0.1]) - far([-0.1]))[0] > 0.02
    assert far([1e18])[0] == far([1e300])[0]


def test_the_probability_is_that_of_the_normal_distribution_below_the_bound():
    model, X = _fit(), _points()
    posterior = model.excess.model.posterior(X)
    mean, sd = posterior.mean.reshape(-1).numpy(), posterior.variance.reshape(-1).sqrt().numpy()
    expected = norm.logcdf((model.bound - mean) / sd)
    assert np.allclose(model.log_probability(X).numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e200])
def test_it_knows_on_which_side_of_the_bound_points_fall(scale):
    model, X = _fit(OutcomeConstraint("g", "<=", 3.0 * scale), n=29, scale=scale), _points(199)
    margin = X.sum((-1, -2)) - 1
    clear = margin.abs() > 0.1
    chance = model.log_probability(X).exp()
    assert ((chance > 0.5) == (margin < 0))[clear].float().mean() > 0.97
    assert (model.is_likely(X) == (chance >= 0.5)).all()


def test_at_least_is_at_most_of_the_negative():
    X, values = np.random.default_rng(0).random((13, 2)), np.random.default_rng(1).random(13) + 2.5
    up = fit_constraint(AT_LEAST, X, values, ())
    down = fit_constraint(OutcomeConstraint("g", "<=", -3.0), X, -values, ())
    assert torch.allclose(up.log_probability(_points()), down.log_probability(_points()))
    point = _points(1)
    assert up.predicted(point) == pytest.approx(-down.predicted(point))
    at = torch.from_numpy(X[:1]).unsqueeze(-2)
    assert up.predicted(at) == pytest.approx(values[0], abs=0.2)


def test_believing_is_sure_of_what_it_expects_at_pending_points():
    model, pending = _fit(n=5), _points(1)
    before, after = (m.excess.model.posterior(pending) for m in (model, model.believing(pending.squeeze(1))))
    assert float(after.mean) == pytest.approx(float(before.mean), abs=1e-6)
    assert float(after.variance) < 0.3 * float(before.variance)


@pytest.mark.parametrize("values", [
    [5.0] * 7, [3.0] * 7, [1e300, -1e300, 1e18, 0, 3, 3, 3], [0.0, 0, 0, 0, 0, 0, 1e-300], [2.0, 4.0],
], ids=["constant", "at-the-bound", "huge", "tiny", "two"])  # fmt: skip
def test_odd_metrics_are_survived(values):
    X = np.random.default_rng(0).random((len(values), 2))
    model = fit_constraint(AT_MOST, X, values, ())
    points = _points().requires_grad_(True)
    chance = model.log_probability(points)
    (gradient,) = torch.autograd.grad(chance.sum(), points)
    assert torch.isfinite(chance).all()
    assert torch.isfinite(gradient).all()
    assert math.isfinite(model.predicted(points[:1].detach()))


def test_a_metric_that_always_misses_its_bound_by_the_same_is_no_coin_toss():
    X = np.random.default_rng(0).random((7, 2))
    assert fit_constraint(AT_MOST, X, [5.0] * 7, ()).log_probability(_points()).exp().max() < 0.01
    assert fit_constraint(AT_LEAST, X, [5.0] * 7, ()).log_probability(_points()).exp().min() > 0.99


def test_gradients_are_right():
    model, X = _fit(), _points(7).requires_grad_(True)
    assert torch.autograd.gradcheck(model.log_probability, (X,), atol=1e-5)


def _band(n=29, low=2.7, high=3.2, **arguments):
    """The metric is x + y + 2, and is to be between the bounds."""
    X = np.random.default_rng(0).random((n, 2))
    bounds = OutcomeConstraint("g", "<=", high), OutcomeConstraint("g", ">=", low)
    return fit_constraint(bounds[0], X, X.sum(axis=1) + 2, (), other=bounds[1], **arguments)


def test_two_bounds_on_one_metric_hold_with_the_probability_of_one_interval():
    model, X = _band(), _points()
    posterior = model.excess.model.posterior(X)
    mean, sd = posterior.mean.reshape(-1).numpy(), posterior.variance.reshape(-1).sqrt().numpy()
    lower = float(model.excess.outcome(2.7 - 3.2))
    expected = norm.cdf((model.bound - mean) / sd) - norm.cdf((lower - mean) / sd)
    assert np.allclose(model.log_probability(X).exp().numpy(), expected, atol=1e-12)


def test_of_a_metric_of_which_nothing_is_known_here_two_bounds_are_not_independent():
    # By hand: a standard normal metric between -0.1 and 0.1 is there with 2 Phi(0.1) - 1 = 0.0797, not with
    # Phi(0.1)^2 = 0.29.
    class Posterior:
        mean, variance = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)

    class Model:
        def posterior(self, X):
            return Posterior

    excess = type("Excess", (), {"model": Model()})
    bounds = OutcomeConstraint("g", "<=", 0.1), OutcomeConstraint("g", ">=", -0.1)
    model = ConstraintModel(bounds[0], excess, 0.1, bounds[1], -0.1)
    assert float(model.log_probability(torch.zeros(1, 1, 2)).exp()) == pytest.approx(0.0797, abs=1e-4)


@pytest.mark.parametrize(("low", "high"), [(2.7, 3.2), (2.95, 3.05), (2.0, 3.9)])
def test_it_knows_between_which_bounds_points_fall(low, high):
    model, X = _band(low=low, high=high), _points(199)
    metric = X.sum((-1, -2)) + 2
    clear = ((metric - low).abs() > 0.03) & ((metric - high).abs() > 0.03)
    inside = (metric >= low) & (metric <= high)
    assert (model.is_likely(X) == inside)[clear].float().mean() > 0.97
    chance = model.log_probability(X)
    assert ((chance.exp() > 0.5) == inside)[clear].float().mean() > 0.95
    assert torch.isfinite(chance).all()
    assert model.predicted(X[:1]) == pytest.approx(float(metric[0]), abs=0.1)


def test_a_bound_that_is_far_away_changes_nothing_but_the_scale():
    X = _points()
    far = _band(low=-1e6)
    posterior = far.excess.model.posterior(X)
    mean, sd = posterior.mean.reshape(-1).numpy(), posterior.variance.reshape(-1).sqrt().numpy()
    assert np.allclose(far.log_probability(X).numpy(), norm.logcdf((far.bound - mean) / sd), atol=1e-6)


def test_gradients_of_an_interval_are_right():
    model, X = _band(), _points(7).requires_grad_(True)
    assert torch.autograd.gradcheck(model.log_probability, (X,), atol=1e-5)
