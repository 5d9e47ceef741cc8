"""The network as a BoTorch model."""

import pytest
import torch
from botorch.acquisition import LogExpectedImprovement, qLogExpectedImprovement
from botorch.optim import optimize_acqf

from frugalbo.errors import ModelError
from frugalbo.metabo.model import MetaModel
from frugalbo.metabo.universal import Universal, UniversalShape

SHAPE = UniversalShape(kernels=2, width=14, layers=1, dims_width=10, most_dims=5)
N, D = 13, 3


def model(maximize=True):
    g = torch.Generator().manual_seed(1)
    X = torch.rand(N, D, generator=g, dtype=torch.float64)
    Y = 7 - 100 * (X - 0.6).square().sum(-1, keepdim=True)
    torch.manual_seed(0)
    return MetaModel(X, Y, maximize=maximize, network=Universal(SHAPE).requires_grad_(False))


def points(*shape):
    return torch.rand(*shape, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_the_posterior_has_the_moments_of_the_buckets_in_the_units_of_the_outcomes():
    m, X = model(), points(5, 1)
    posterior = m.posterior(X)
    assert posterior.mean.shape == posterior.variance.shape == (5, 1, 1)
    sd, mean = m.train_targets.std(), m.train_targets.mean()
    y = -(m.train_targets - mean) / sd
    said = m.network(m.train_inputs[0][None], y[None], torch.zeros(D, dtype=torch.bool), X.reshape(1, 5, D), False)
    expected, variance = said.moments()
    torch.testing.assert_close(posterior.mean.flatten(), (mean - sd * expected[0]).double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(posterior.variance.flatten(), (sd**2 * variance[0]).double(), rtol=1e-5, atol=1e-5)


def test_noise_that_is_known_is_seen_in_the_units_of_the_outcomes():
    m, X = model(), points(5, 1)
    known = torch.linspace(0.5, 400, N, dtype=torch.float64).unsqueeze(-1)
    told = MetaModel(m.train_inputs[0], m.train_targets[:, None], network=m.network, train_Yvar=known)
    sd, mean = m.train_targets.std(), m.train_targets.mean()
    y, none = -(m.train_targets - mean) / sd, torch.zeros(D, dtype=torch.bool)
    fit = m.network.read(m.train_inputs[0][None], y[None], none, known.T / sd**2)
    expected, _ = m.network.answer(fit, X.reshape(1, 5, D), False).moments()
    torch.testing.assert_close(
        told.posterior(X).mean.flatten(), (mean - sd * expected[0]).double(), rtol=1e-5, atol=1e-5
    )
    assert (told.posterior(X).mean - m.posterior(X).mean).abs().max() > 0.1 * sd
    more = told.condition_on_observations(X[:, 0], torch.zeros(5, 1, dtype=torch.float64))
    torch.testing.assert_close(more.train_Yvar, torch.cat([known, known.mean().expand(5, 1)]))
    with pytest.raises(ModelError, match="expected variances n x 1"):
        MetaModel(m.train_inputs[0], m.train_targets[:, None], network=m.network, train_Yvar=-known)


def test_at_a_result_it_knows_the_result():
    m = model()
    error = m.posterior(m.train_inputs[0].unsqueeze(-2)).mean.flatten() - m.train_targets
    assert error.abs().max() < 0.3 * m.train_targets.std()


def test_the_joint_posterior_agrees_with_the_single_ones_and_near_points_go_together():
    m, X = model(), points(7, 4)
    X[:, 3] = X[:, 2] + 1e-5
    joint, single = m.posterior(X), m.posterior(X.reshape(28, 1, D))
    torch.testing.assert_close(joint.mean.flatten(), single.mean.flatten(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(joint.variance.flatten(), single.variance.flatten(), rtol=1e-4, atol=1e-5)
    C = joint.distribution.covariance_matrix
    assert (C[:, 2, 3] / (C[:, 2, 2] * C[:, 3, 3]).sqrt()).min() > 0.99


def test_noise_widens_it():
    m, X = model(), points(5, 1)
    assert (m.posterior(X, observation_noise=True).variance > m.posterior(X).variance).all()


@pytest.mark.parametrize("q", [1, 3])
def test_acquisitions_of_botorch_find_the_bowl(q):
    m = model()
    best = m.train_targets.max()
    acquisition = LogExpectedImprovement(m, best) if q == 1 else qLogExpectedImprovement(m, best)
    bounds = torch.tensor([[0.0] * D, [1.0] * D], dtype=torch.float64)
    torch.manual_seed(3)
    found, _ = optimize_acqf(acquisition, bounds, q=q, num_restarts=2, raw_samples=64, sequential=q > 1)
    assert found.shape == (q, D)
    assert (found[0] - 0.6).abs().max() < 0.3


def test_more_results_are_taken_in():
    m, X = model(), points(2)
    Y = torch.tensor([[6.9], [3.0]], dtype=torch.float64)
    more = m.condition_on_observations(X, Y)
    assert more.train_targets.shape == (N + 2,)
    assert more.posterior(X.unsqueeze(-2)).variance.max() < m.posterior(X.unsqueeze(-2)).variance.min()


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ModelError, match="n x 1"):
        MetaModel(points(5), torch.zeros(5), network=Universal(SHAPE))
    with pytest.raises(ModelError, match="the only output"):
        model().posterior(points(5, 1), output_indices=[1])
