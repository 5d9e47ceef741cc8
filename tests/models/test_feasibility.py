import numpy as np
import pytest
import torch

from frugalbo.models.feasibility import FeasibilityGP


def _p(model, *points):
    X = torch.tensor(points, dtype=torch.float64).unsqueeze(-2)
    return model.log_probability(X).exp().numpy()


def test_the_mode_satisfies_its_equation():
    # At the mode of the posterior f = m + K grad log p(y | f); RW06 (3.17). For the probit
    # likelihood the gradient is y phi(f) / Phi(y f).
    rng = np.random.default_rng(0)
    X = rng.random((11, 3))
    success = X[:, 0] < 0.6
    model = FeasibilityGP(X, success, (2,))
    K = model._covariance(model.X, model.X)
    f = model.mean + K @ model.slope
    y = torch.as_tensor(np.where(success, 1.0, -1.0))
    normal = torch.distributions.Normal(0.0, 1.0)
    expected = y * normal.log_prob(f).exp() / normal.cdf(y * f)
    assert torch.allclose(model.slope, expected, atol=1e-7)


def test_failures_on_one_side_of_a_knob_speak_for_that_side():
    rng = np.random.default_rng(1)
    X = rng.random((29, 5))
    success = X[:, 0] < 0.6
    model = FeasibilityGP(X, success, ())
    good, bad = _p(model, [0.1, 0.5, 0.5, 0.5, 0.5], [0.95, 0.5, 0.5, 0.5, 0.5])
    assert good > 0.85
    assert bad < 0.3


def test_one_isolated_failure_does_not_poison_the_space():
    rng = np.random.default_rng(2)
    X = rng.random((23, 5))
    X[0] = 0.5
    success = [False] + [True] * 22
    model = FeasibilityGP(X, success, ())
    here, *far = _p(model, [0.5] * 5, *rng.random((97, 5)).tolist())
    assert here < 0.8
    assert np.median(far) > 0.85
    assert np.min(far) > 0.55


def test_without_data_nearby_the_rate_of_success_is_the_answer():
    # 3 of 4: the prior of 1.8 in 2 makes (3 + 1.8) / (4 + 2) = 0.8. At a corner of 31 dimensions,
    # far from the centre where all data are (the linear part is silent there), only the mean is
    # left, Phi^-1(0.8) sqrt(13) = 0.8416 * 3.6056 = 3.0345, and the prior's variance, which at the
    # corner is 9 + 3 * 12 / 31 * 31 / 4 = 18: Phi(3.0345 / sqrt(19)) = Phi(0.6962) = 0.7568.
    model = FeasibilityGP(np.full((4, 31), 0.5), [True, True, True, False], ())
    model.kernel.lengthscale = 0.1
    alone = FeasibilityGP(np.full((4, 31), 0.5), [True, True, True, False], ()).mean
    assert alone == pytest.approx(3.0345, abs=1e-3)
    assert _p(model, [0.0] * 31) == pytest.approx(0.7568, abs=1e-3)


def test_it_is_a_botorch_model_with_a_joint_posterior():
    X = np.random.default_rng(3).random((7, 2))
    model = FeasibilityGP(X, [True, False] * 3 + [True], ())
    P = torch.rand(5, 3, 2, dtype=torch.float64)
    posterior = model.posterior(P)
    assert posterior.mean.shape == (5, 3, 1)
    assert posterior.rsample(torch.Size([11])).shape == (11, 5, 3, 1)
    single = model.posterior(P[:, :1])
    assert torch.allclose(single.mean[:, 0], posterior.mean[:, 0])
    assert torch.allclose(single.variance[:, 0], posterior.variance[:, 0], atol=1e-6)


@pytest.mark.parametrize("success", [[False] * 5, [True] * 4 + [False]])
def test_all_or_most_failing_leaves_finite_probabilities(success):
    X = np.full((5, 2), 0.5)
    X[:, 0] = np.linspace(0, 1, 5)
    p = _p(FeasibilityGP(X, success, ()), [0.5, 0.5], [0.0, 1.0])
    assert np.isfinite(p).all()
    assert (p > 0).all()
    assert (p < 1).all()
