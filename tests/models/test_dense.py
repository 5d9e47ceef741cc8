import math

import gpytorch
import numpy as np
import pytest
import torch
from botorch.models import SingleTaskGP
from botorch.models.transforms.outcome import Standardize
from botorch.sampling.normal import IIDNormalSampler
from gpytorch.mlls import ExactMarginalLogLikelihood

from frugalbo.errors import FrugalWarning, ModelError
from frugalbo.models.dense import (
    ConditionedGP,
    DenseGP,
    checked,
    concentrated,
    fit_dense,
    log_density,
    log_priors,
)
from frugalbo.models.deviation import DeviationKernel, Exchangeable, ShorterRuns
from frugalbo.models.view import LinearView


def _model(n=13, seed=0):
    torch.manual_seed(seed)
    X = torch.rand(n, 3, dtype=torch.float64)
    X[:, 2] = torch.tensor([1 / 9, 1 / 3, 1.0]).double()[torch.arange(n) % 3]
    y = torch.randn(n, 1, dtype=torch.float64)
    model = DenseGP(X, y, DeviationKernel(2, (1,), 2, ShorterRuns(torch.tensor([1 / 9]).double())))
    model.covar_module.begin(0.7)
    model.to(X)
    return model.freeze()


def _points(*shape, seed=1):
    X = torch.rand(*shape, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    X[..., 1] = (X[..., 1] * 3).floor() / 3
    X[..., 2] = X[..., 2].clamp_min(0.2)
    return X


@pytest.mark.parametrize("shape", [(5, 1), (2, 5, 3), (3,)])
def test_the_posterior_is_gpytorchs(shape):
    model, X = _model(), _points(*shape)
    theirs = SingleTaskGP.posterior(_as_gpytorch(model), X)
    ours = model.posterior(X)
    assert torch.allclose(ours.mean, theirs.mean, atol=1e-8)
    assert torch.allclose(ours.variance, theirs.variance, atol=1e-6)
    noisy = model.posterior(X, observation_noise=True)
    assert torch.allclose(noisy.variance - ours.variance, model.likelihood.noise.expand_as(ours.variance))


def _as_gpytorch(model):
    X, y = model.train_inputs[0], model.train_targets
    plain = SingleTaskGP(
        X, y.unsqueeze(-1), likelihood=model.likelihood, covar_module=model.covar_module, outcome_transform=None
    )
    plain.mean_module.constant.data.fill_(float(model.level))
    return plain.eval()


def test_the_density_that_is_fitted_is_gpytorchs():
    model = _model()
    X, y = model.train_inputs[0], model.train_targets
    K = model.covar_module.plan(X)() + model.likelihood.noise * torch.eye(len(y))
    value, mean = concentrated(K, y, torch.ones_like(y))
    plain = _as_gpytorch(model)
    plain.mean_module.constant.data.fill_(mean)
    plain.train()
    theirs = ExactMarginalLogLikelihood(plain.likelihood, plain)(plain(X), y) * len(y)
    assert float(value + log_priors(model)) == pytest.approx(theirs.item(), abs=1e-4)  # their priors are float32
    assert float(log_density(K, y - mean)) == pytest.approx(float(value))


def test_the_plan_is_the_kernel():
    model = _model()
    X = model.train_inputs[0]
    assert torch.allclose(model.covar_module.plan(X)(), model.covar_module.forward(X, X), atol=1e-12)
    diagonal = torch.diagonal(model.covar_module.forward(X, X))
    assert torch.allclose(model.covar_module.forward(X, X, diag=True), diagonal)


def test_the_optimal_mean_of_two_independent_observations_is_their_weighted_mean():
    # Variances 1 and 4, values 1 and 6: (1 / 1 + 6 / 4) / (1 / 1 + 1 / 4) = 2.
    K = torch.diag(torch.tensor([1.0, 4.0]).double())
    assert concentrated(K, torch.tensor([1.0, 6.0]).double(), torch.ones(2).double())[1] == pytest.approx(2.0)


@pytest.mark.parametrize("q", [1, 3])
def test_conditioning_is_what_refitting_the_data_gives(q):
    model, X, new = _model(), _points(7, 2), _points(q, seed=5)
    Y = torch.linspace(-1, 1, q, dtype=torch.float64).unsqueeze(-1)
    conditioned = model.condition_on_observations(new, Y)
    direct = model.with_data(new, Y.squeeze(-1))
    assert isinstance(conditioned, ConditionedGP)
    for a, b in zip(conditioned.moments(X), direct.moments(X), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    again = conditioned.condition_on_observations(X[0], Y[:1].expand(2, 1))
    twice = direct.with_data(X[0], Y[:1, 0].expand(2))
    assert torch.allclose(again.moments(X)[0], twice.moments(X)[0], atol=1e-5)


def test_fantasies_average_to_the_posterior_and_lose_variance():
    model, X, new = _model(), _points(5, 1), _points(2, 1, seed=3)
    fantasies = model.fantasize(new, IIDNormalSampler(torch.Size([4001]), seed=0))
    mean, covariance = fantasies.moments(X[0])  # 4001 x 2 x 1
    before = model.posterior(X[0])
    assert mean.shape == (4001, 2, 1)
    # E[mean after] is the mean before, and E[variance after] + Var[mean after] the variance before; 4001 draws.
    assert mean.mean(0).squeeze(-1).tolist() == pytest.approx([before.mean.item()] * 2, abs=0.05)
    total = covariance[..., 0, 0].mean(0) + mean.squeeze(-1).var(0)
    assert total.tolist() == pytest.approx([before.variance.item()] * 2, rel=0.05)


def test_negating_twice_gives_the_model_again():
    model, X = _model(), _points(5, 2)
    assert torch.allclose(model.negated().mean(X), -model.mean(X))
    assert torch.allclose(model.negated().negated().moments(X)[1], model.moments(X)[1])


def test_a_fit_that_cannot_succeed_warns_and_keeps_the_prior(monkeypatch):
    model = _model()
    model.requires_grad_(True)
    monkeypatch.setattr("frugalbo.models.dense.concentrated", lambda *_: (torch.full((), -math.inf), 0.0))
    with pytest.warns(FrugalWarning, match="no hyperparameters"):
        fit_dense(model, [lambda: model.covar_module.begin(0.7)])
    assert model.covar_module.common.lengthscale.reshape(-1).tolist() == pytest.approx([0.7, 0.7])


def test_a_weighted_view_is_the_weighted_sum_of_the_joint_posterior():
    torch.manual_seed(0)
    X = torch.rand(11, 2, dtype=torch.float64)
    X[:, 1] = torch.arange(11) % 3
    model = DenseGP(X, torch.randn(11, 1, dtype=torch.float64), DeviationKernel(1, (), 1, Exchangeable()))
    model.freeze()
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    view = LinearView(model, torch.arange(3.0, dtype=torch.float64).unsqueeze(-1), p)
    x = torch.tensor([[0.2], [0.7]], dtype=torch.float64)
    joint = model.posterior(torch.tensor([[0.2, 0], [0.2, 1], [0.2, 2], [0.7, 0], [0.7, 1], [0.7, 2]]).double())
    A = torch.block_diag(p.unsqueeze(0), p.unsqueeze(0))
    mean, covariance = view.moments(x)
    assert torch.allclose(mean, A @ joint.mean.squeeze(-1))
    assert torch.allclose(covariance, A @ joint.distribution.covariance_matrix @ A.T, atol=1e-7)
    noise = float(model.likelihood.noise) * (0.25 + 0.09 + 0.04)
    assert view.noise_variance(x).tolist() == pytest.approx([noise] * 2)
    Z = torch.tensor([[0.4, 1.0], [0.7, 0.0]]).double()
    both = model.posterior(torch.cat([view.extended(x[:1]), Z])).distribution.covariance_matrix
    assert torch.allclose(view.covariance_with(x[:1], Z), p @ both[:3, 3:], atol=1e-7)
    # A look at all three environments of one point leaves of the view what its noise leaves.
    seen = view.condition_on_observations(x[:1], torch.zeros(1, 1, dtype=torch.float64))
    v = float(covariance[0, 0])
    assert float(seen.moments(x[:1])[1]) == pytest.approx(v * noise / (v + noise), rel=1e-3)


def test_a_view_of_any_botorch_model_is_asked_by_its_posterior():
    X = torch.rand(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    base = SingleTaskGP(X, X.sum(-1, keepdim=True), outcome_transform=Standardize(1)).eval()
    view = LinearView(base, torch.tensor([[0.3]]).double())
    x = torch.tensor([[[0.6]]]).double()
    full = base.posterior(torch.tensor([[[0.6, 0.3]]]).double())
    assert torch.allclose(view.posterior(x).mean, full.mean)
    assert torch.allclose(view.posterior(x).variance, full.variance)
    assert torch.allclose(view.negated().posterior(x).mean, -full.mean)


@pytest.mark.parametrize(
    ("X", "losses", "said"),
    [
        ([[0.1], [0.2]], [1.0, math.nan], "row 1"),
        ([[0.1], [math.inf]], [1.0, 2.0], "finite points"),
        ([[0.1], [0.2]], [1.0], "shapes"),
        (np.empty((0, 2)), [], "at least 1"),
    ],
)
def test_observations_that_cannot_be_used_are_refused(X, losses, said):
    with pytest.raises(ModelError, match=said):
        checked(X, losses)


@pytest.mark.parametrize("features", [torch.zeros(3), torch.zeros(0, 1)])
def test_a_view_needs_rows(features):
    with pytest.raises(ValueError, match="features"):
        LinearView(_model(), features)


def test_questions_about_other_outputs_are_refused():
    with pytest.raises(NotImplementedError, match="one output"):
        _model().posterior(_points(3), output_indices=[1])


def test_in_training_the_model_is_gpytorchs_prior():
    model = _model().train()
    with gpytorch.settings.debug(False):
        prior = model(model.train_inputs[0])
    assert torch.allclose(prior.mean, model.level.expand(13))
