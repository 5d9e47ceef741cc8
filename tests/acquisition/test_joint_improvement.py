"""q-EI, one point at a time."""

import numpy as np
import pytest
import torch
from botorch.acquisition import LogExpectedImprovement
from botorch.models import SingleTaskGP

from frugalbo.acquisition.joint_improvement import LogImprovementAdded
from frugalbo.models.objective import fit_objective


@pytest.fixture
def model():
    rng = np.random.default_rng(0)
    X = rng.random((11, 2))
    return fit_objective(X, ((X - 0.3) ** 2).sum(1) + 0.1 * rng.standard_normal(11), ()).model.negated()


def _points(n, seed):
    return torch.rand(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("m", [1, 3])
def test_it_is_the_difference_of_two_joint_improvements(model, m):
    # By 400,000 joint draws of the pending points and 17 others: E max(f_P, f, b) - E max(f_P, b).
    pending, X = _points(m, 1), _points(17, 2)
    posterior = SingleTaskGP.posterior(model, torch.cat([pending, X]))
    values, vectors = torch.linalg.eigh(posterior.distribution.covariance_matrix)
    z = torch.randn(400_000, m + 17, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    F = posterior.mean.squeeze(-1) + z @ (vectors * values.clamp_min(0).sqrt()).T
    best = float(posterior.mean.max()) - 0.5
    before = F[:, :m].max(1).values.clamp_min(best)
    truth = (F[:, m:] - before.unsqueeze(-1)).clamp_min(0).mean(0)
    value = LogImprovementAdded(model, best, pending)(X.unsqueeze(-2)).exp()
    assert truth.max() > 0.1
    assert value.tolist() == pytest.approx(truth.tolist(), rel=0.05, abs=0.02 * float(truth.max()))


def test_with_nothing_pending_it_is_expected_improvement(model):
    X = _points(17, 2).unsqueeze(-2)
    assert torch.allclose(LogImprovementAdded(model, 0.4, X[:0, 0])(X), LogExpectedImprovement(model, 0.4)(X))


def test_where_something_is_pending_nothing_is_added(model):
    pending = _points(3, 1)
    added = LogImprovementAdded(model, 0.0, pending)(torch.cat([pending, _points(29, 2)]).unsqueeze(-2))
    assert added[:3].max() < added.max() - 5


def test_the_gradient_is_that_of_the_value_even_where_points_are_pending_twice(model):
    pending = _points(3, 1)
    value = LogImprovementAdded(model, 0.4, torch.cat([pending, pending]))
    X = _points(5, 2).unsqueeze(-2).requires_grad_(True)
    assert torch.autograd.gradcheck(value, X, eps=1e-6, atol=1e-5)
    X = pending.unsqueeze(-2).requires_grad_(True)
    (gradient,) = torch.autograd.grad(value(X).sum(), X)
    assert gradient.isfinite().all()


def test_what_is_pending_far_away_and_hopeless_changes_nothing(model):
    X = _points(17, 2).unsqueeze(-2)
    model.covar_module.lengthscale = torch.full((1, 2), 0.03, dtype=torch.float64)
    model.train().eval()  # drops what is kept of the other lengthscale
    X = X[(X[..., 0, 0] < 0.5)]
    far = torch.tensor([[0.99, 0.99]], dtype=torch.float64)
    best = 6.0  # standard deviations above all
    assert torch.allclose(LogImprovementAdded(model, best, far)(X), LogExpectedImprovement(model, best)(X), atol=1e-2)
