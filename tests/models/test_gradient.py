import math

import numpy as np
import pytest
import torch
from botorch.acquisition import LogExpectedImprovement
from botorch.acquisition.knowledge_gradient import qKnowledgeGradient
from botorch.acquisition.logei import qLogNoisyExpectedImprovement

from frugalbo.acquisition.log_ei_per_cost import LogEIPerCost
from frugalbo.errors import FrugalWarning, ModelError
from frugalbo.models.gradient import GradientGP, fit_with_gradients
from frugalbo.models.kernel import lengthscale_prior
from frugalbo.models.map_fit import fit_map


def _loss(X):
    return np.sin(5 * X[:, 0]) * np.cos(3 * X[:, 1]) + X[:, 0]


def _gradient(X):
    a, b = 5 * X[:, 0], 3 * X[:, 1]
    return np.stack([5 * np.cos(a) * np.cos(b) + 1, -3 * np.sin(a) * np.sin(b)], axis=1)


def _points(n=7, seed=0):
    return np.random.default_rng(seed).random((n, 2))


def _error(slopes):
    T = _points(101, 99)
    mean = slopes.model.posterior(torch.from_numpy(T).unsqueeze(-2)).mean.numpy().ravel()
    return float(np.sqrt(np.mean((mean - slopes.outcome(_loss(T))) ** 2)))


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["matern52", "rbf"])
def test_with_gradients_few_points_suffice(kernel):
    ratios = []
    for seed in range(4):
        X = _points(9, seed)
        G = _gradient(X)
        without = fit_with_gradients(X, _loss(X), np.full_like(G, np.nan), kernel=kernel)
        ratios.append(_error(fit_with_gradients(X, _loss(X), G, kernel=kernel)) / _error(without))
    # Were both equally likely to be the better, four of four had a chance of 1 in 16.
    assert max(ratios) < 1
    assert np.median(ratios) < 0.5


@pytest.mark.slow
def test_one_component_of_some_points_helps_already():
    better = 0
    for seed in range(5):
        X = _points(9, seed)
        G = _gradient(X)
        G[:, 1] = np.nan
        G[::3] = np.nan
        none = np.full_like(G, np.nan)
        better += _error(fit_with_gradients(X, _loss(X), G)) < _error(fit_with_gradients(X, _loss(X), none))
    assert better >= 4  # 6 in 32 by chance


@pytest.mark.parametrize("kernel", ["matern52", "rbf"])
@pytest.mark.parametrize("categorical", [(), (2,)])
def test_the_derivative_of_the_mean_is_the_mean_of_the_derivative(kernel, categorical):
    X = np.hstack([_points(11), np.random.default_rng(1).integers(0, 2, (11, 1))])
    G = np.hstack([_gradient(X), np.full((11, 1), np.nan)])
    G[::4] = np.nan
    slopes = fit_with_gradients(X, _loss(X), G, categorical=categorical, kernel=kernel)
    x = np.hstack([_points(5, 7), [[0.0], [1.0], [0.0], [1.0], [0.0]]])
    predicted = slopes.model.gradient(torch.from_numpy(x)).numpy()
    assert np.isnan(predicted[:, 2]).all() == (2 in categorical)
    h = 1e-5
    for i in range(2):
        step = h * np.eye(3)[i]
        up, down = (slopes.model.moments(torch.from_numpy(x + s * step).unsqueeze(-2))[0] for s in (1, -1))
        assert predicted[:, i] == pytest.approx(((up - down) / (2 * h)).numpy().ravel(), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("kernel", ["matern52", "rbf"])
def test_the_covariance_of_derivatives_is_the_limit_of_differences_of_values(kernel):
    """The rows of values and derivatives against the prior's values alone, by central differences."""
    X = torch.from_numpy(_points(3))
    model = GradientGP(X, torch.zeros(3).double(), torch.zeros(3, 2).double(), kernel=kernel)
    model.kernel.lengthscale = torch.tensor([[0.4, 0.7]])
    model.likelihood.noise = model.gradient_likelihood.noise = torch.tensor([1e-4]).double()
    model.requires_grad_(False)
    A, h = torch.tensor([[0.3, 0.9]]).double(), 1e-4
    cross = model._cross(A).reshape(3, 3)
    for i in range(2):
        step = h * torch.eye(2, dtype=torch.float64)[i]
        numeric = (model._values(A, X + step) - model._values(A, X - step)) / (2 * h)
        assert cross[:, 1 + i].tolist() == pytest.approx(numeric.ravel().tolist(), rel=1e-4, abs=1e-6)
    full = model.covariance()
    values = model._cross(X)  # 3 x 9: the rows of values in GPyTorch's matrix, less noise
    assert torch.allclose(full[::3] - torch.diag_embed(torch.full((9,), 5e-5))[::3], values, atol=2e-4)


def test_losses_and_gradients_pass_through_the_data():
    X = _points(5)
    slopes = fit_with_gradients(X, _loss(X), _gradient(X))
    mean = slopes.model.moments(torch.from_numpy(X).unsqueeze(-2))[0].ravel().numpy()
    assert mean == pytest.approx(slopes.outcome(_loss(X)), abs=0.1)
    scale = slopes.outcome.spread * slopes.outcome.std
    assert scale * slopes.model.gradient(torch.from_numpy(X)).numpy() == pytest.approx(_gradient(X), abs=0.6)


def test_without_gradients_it_is_the_usual_fit():
    X = _points(13)
    slopes = fit_with_gradients(X, _loss(X), np.full((13, 2), np.nan))
    usual = fit_map(X, slopes.outcome(_loss(X)), (), lengthscale_prior(2))
    assert slopes.model.kernel.lengthscale.reshape(-1).tolist() == pytest.approx(usual.lengthscales.tolist(), rel=0.05)
    assert float(slopes.model.likelihood.noise) == pytest.approx(usual.noise, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_the_unit_of_the_loss_does_not_matter(unit):
    X = _points(7)
    one = fit_with_gradients(X, _loss(X), _gradient(X))
    other = fit_with_gradients(X, unit * _loss(X) + 3 * unit, unit * _gradient(X))
    x = torch.from_numpy(_points(5, 3)).unsqueeze(-2)
    assert torch.allclose(one.model.moments(x)[0], other.model.moments(x)[0], atol=1e-3)


def test_negating_negates():
    X = _points(7)
    model = fit_with_gradients(X, _loss(X), _gradient(X)).model
    x = torch.from_numpy(_points(5, 3))
    assert torch.allclose(model.negated().moments(x)[0], -model.moments(x)[0])
    assert torch.allclose(model.negated().moments(x)[1], model.moments(x)[1])


@pytest.mark.slow
def test_many_derivatives_are_fitted_by_way_of_some():
    X = np.random.default_rng(0).random((47, 3))
    losses, G = (X**2).sum(1), 2 * X
    slopes = fit_with_gradients(X, losses, G)
    assert len(slopes.model.some(100).X) < 47
    T = np.random.default_rng(1).random((31, 3))
    mean = slopes.model.posterior(torch.from_numpy(T).unsqueeze(-2)).mean.numpy().ravel()
    assert mean == pytest.approx(slopes.outcome((T**2).sum(1)), abs=0.03)


def test_acquisitions_take_it():
    X = _points(7)
    slopes = fit_with_gradients(X, _loss(X), _gradient(X))
    view = slopes.model.negated()
    x = torch.rand(3, 1, 2, dtype=torch.float64, requires_grad=True)
    one_shot = torch.cat([x, torch.rand(3, 3, 2, dtype=torch.float64)], dim=-2)
    values = [
        LogExpectedImprovement(view, best_f=-slopes.best())(x),
        LogEIPerCost(slopes.model, slopes.best(), maximize=False)(x),
        qLogNoisyExpectedImprovement(view, torch.from_numpy(X), prune_baseline=False)(x),
        qKnowledgeGradient(view, num_fantasies=3)(one_shot),
    ]
    assert torch.allclose(values[0], values[1])
    for value in values:
        assert value.shape == (3,)
        assert torch.isfinite(torch.autograd.grad(value.sum(), x, retain_graph=True)[0]).all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"losses": [1.0, math.nan]}, "row 1"),
        ({"gradients": [1.0, 2.0]}, "shape"),
        ({"gradients": [[1.0, 2.0]]}, "shape"),
        ({"gradients": [[1.0, math.inf], [0.0, 0.0]]}, "finite gradients"),
        ({"categorical": (1,)}, "categorical"),
        ({"kernel": "matern12"}, "matern12"),
    ],
)
def test_bad_gradients_are_refused(arguments, said):
    good = {"X": [[0.1, 0.2], [0.3, 0.4]], "losses": [1.0, 2.0], "gradients": [[1.0, 0.0], [0.0, math.nan]]}
    with pytest.raises(ModelError, match=said):
        fit_with_gradients(**{**good, **arguments})


@pytest.mark.parametrize("losses", [[1.0], [2.0, 2.0, 2.0]])
def test_little_data_gives_a_finite_model(losses):
    X = _points(len(losses))
    slopes = fit_with_gradients(X, losses, np.full_like(X, 0.5))
    posterior = slopes.model.posterior(torch.rand(5, 1, 2, dtype=torch.float64))
    assert torch.isfinite(posterior.mean).all()
    assert (posterior.variance > 0).all()


def test_a_diverged_loss_is_told_and_its_gradient_left_out():
    X = _points(7)
    losses = _loss(X)
    losses[3] = 1e18
    with pytest.warns(FrugalWarning, match="gradients with them"):
        slopes = fit_with_gradients(X, losses, _gradient(X))
    assert slopes.unused == 2
    assert torch.isfinite(slopes.model.posterior(torch.rand(5, 1, 2, dtype=torch.float64)).mean).all()


def test_all_dimensions_categorical_is_a_model_of_values():
    X = np.array([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]])
    slopes = fit_with_gradients(X, [1.0, 2.0, 3.0, 4.0], np.full((4, 2), np.nan), categorical=(0, 1))
    mean = slopes.model.posterior(torch.from_numpy(X).unsqueeze(-2)).mean.ravel()
    assert mean.argsort().tolist() == [0, 1, 2, 3]
