"""The bar distribution against closed forms and quadrature."""

import math

import pytest
import torch

from frugalbo.metabo.bars import Bars, Prediction

EDGES = torch.tensor([-2.0, -1.0, -0.5, 0.25, 1.0, 1.7], dtype=torch.float64)
LOGITS = torch.log(torch.tensor([0.15, 0.2, 0.3, 0.25, 0.1], dtype=torch.float64))
GRID = torch.linspace(-16, 14, 600_001, dtype=torch.float64)
BARS = Bars(EDGES)


def integral(values):
    return torch.trapezoid(values, GRID).item()


def density():
    return BARS.log_density(LOGITS.expand(len(GRID), -1), GRID).exp()


def test_the_density_is_the_mass_over_the_width_inside():
    # Bucket [-0.5, 0.25] has mass 0.3 and width 0.75.
    assert BARS.log_density(LOGITS, torch.tensor(0.0, dtype=torch.float64)).exp().item() == pytest.approx(0.4)


def test_half_of_a_tail_lies_before_its_outer_edge():
    below = BARS.cdf(LOGITS, torch.tensor(-2.0, dtype=torch.float64)).item()
    above = 1 - BARS.cdf(LOGITS, torch.tensor(1.7, dtype=torch.float64)).item()
    assert (below, above) == (pytest.approx(0.075), pytest.approx(0.05))


def test_the_moments_are_those_of_the_density():
    p = density()
    mean, variance = BARS.moments(LOGITS)
    assert integral(p) == pytest.approx(1, abs=1e-4)
    assert mean.item() == pytest.approx(integral(p * GRID), abs=1e-4)
    assert variance.item() == pytest.approx(integral(p * (GRID - mean) ** 2), abs=1e-4)


@pytest.mark.parametrize("z", [-3.1, -1.0, -0.7, 0.3, 0.99, 1.2, 2.9])
def test_the_distribution_function_is_the_integral_of_the_density(z):
    got = BARS.cdf(LOGITS, torch.tensor(z, dtype=torch.float64)).item()
    assert got == pytest.approx(integral(torch.where(z > GRID, density(), 0)), abs=1e-4)


@pytest.mark.parametrize("best", [-3.0, -1.5, -0.8, 0.1, 0.7, 1.3, 4.0])
def test_log_improvement_is_the_integral(best):
    expected = integral(density() * (best - GRID).clamp_min(0))
    got = BARS.log_improvement(LOGITS, torch.tensor(best, dtype=torch.float64)).exp().item()
    assert got == pytest.approx(expected, rel=1e-4)


def test_log_improvement_has_a_gradient_where_it_underflows():
    best = torch.tensor([-60.0, 50.0], dtype=torch.float64, requires_grad=True)
    value = BARS.log_improvement(LOGITS.expand(2, -1), best)
    (gradient,) = torch.autograd.grad(value.sum(), best)
    assert value[0] < -700
    assert torch.isfinite(gradient).all()
    assert (gradient > 0).all()


def test_many_buckets_of_a_normal_come_close_to_the_normal():
    # EI at best = 0 with mu = -0.5, sigma = 1: phi(0.5) + 0.5 Phi(0.5) = 0.35207 + 0.5 * 0.69146 = 0.69780
    bars = Bars(torch.linspace(-4.6745, 4.6745, 76, dtype=torch.float64))
    one = torch.tensor(1.0, dtype=torch.float64)
    prediction = Prediction(bars, bars.normal_logits(), -0.5 * one, one)
    mean, variance = prediction.moments()
    assert prediction.log_improvement(0.0).exp().item() == pytest.approx(0.69780, abs=1e-3)
    assert (mean.item(), variance.item()) == (pytest.approx(-0.5), pytest.approx(1, abs=4e-3))


def test_location_and_scale_move_the_density():
    at = Prediction(BARS, LOGITS, torch.tensor(3.0, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64))
    assert at.log_density(torch.tensor(3.0, dtype=torch.float64)).item() == pytest.approx(math.log(0.4 / 2))
    assert at.cdf(torch.tensor(-1.0, dtype=torch.float64)).item() == pytest.approx(0.075)


def test_edges_that_do_not_ascend_are_refused():
    with pytest.raises(ValueError, match="ascending"):
        Bars(torch.tensor([0.0, 1.0, 1.0, 2.0]))
