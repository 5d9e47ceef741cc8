import importlib.util
import math

import numpy as np
import pytest
import torch
from botorch.acquisition import LogExpectedImprovement, UpperConfidenceBound
from botorch.acquisition.logei import qLogExpectedImprovement, qLogNoisyExpectedImprovement
from botorch.posteriors.fully_bayesian import GaussianMixturePosterior

from frugalbo.acquisition.log_ei_per_cost import LogEIPerCost
from frugalbo.errors import MissingExtra, ModelError
from frugalbo.models.ensemble import EnsembleGP, draw_hyperparameters, elliptical_slices, fit_ensemble, fit_nuts
from frugalbo.models.kernel import lengthscale_prior
from frugalbo.models.map_fit import Hyperparameters, log_posterior
from frugalbo.models.objective import ObjectiveGP, fit_objective


def _loss(X):
    return np.sin(6 * X[:, 0]) + 3 * (X[:, 1] - 0.3) ** 2


def _data(n=11, seed=0):
    X = np.random.default_rng(seed).random((n, 3))
    return X, _loss(X) + 0.05 * np.random.default_rng([seed, 1]).standard_normal(n)


def test_each_member_is_the_model_of_its_hyperparameters():
    X, losses = _data()
    X[:, 2] = np.round(X[:, 2])
    ensemble = fit_ensemble(X, losses, categorical=(2,), members=3)
    model = ensemble.model
    for shape in ((5, 1), (2, 5, 4)):
        x = torch.rand(*shape, 3, dtype=torch.float64).round(decimals=1)
        posterior = model.posterior(x, observation_noise=True)
        assert isinstance(posterior, GaussianMixturePosterior)
        assert posterior.mean.shape == (*shape[:-1], 3, shape[-1], 1)
        for i in range(3):
            member = ObjectiveGP(model.X, model.y.unsqueeze(-1), (2,), 3)
            found = Hyperparameters(
                model.kernel.raw_lengthscale[i, 0].numpy(), float(model.noise[i]), float(model.means[i]), 0.0, 0
            )
            member.set_hyperparameters(found)
            alone = member.posterior(x, observation_noise=True)
            assert torch.allclose(posterior.mean[..., i, :, :], alone.mean, atol=1e-7)
            covariance = posterior.distribution.covariance_matrix[..., i, :, :]
            assert torch.allclose(covariance, alone.distribution.covariance_matrix, atol=1e-5)


def test_slices_of_a_gaussian_have_its_moments():
    # Mean 1, variance 1/4, sampled about N(0, 1): 800 draws know the mean to .5 / sqrt(800) = .018.
    draws = elliptical_slices(
        lambda t: (-2 * float((t - 1) @ (t - 1)), t), np.zeros(2), np.eye(2), 800, np.random.default_rng(0)
    )
    assert draws.mean(axis=0) == pytest.approx([1.0, 1.0], abs=0.08)
    assert np.cov(draws.T) == pytest.approx(np.array([[0.25, 0], [0, 0.25]]), abs=0.06)


def test_draws_have_the_moments_of_the_posterior_by_quadrature():
    """One lengthscale and the noise, on a grid of both."""
    X = np.random.default_rng(0).random((9, 1))
    y = np.sin(4 * X[:, 0])
    prior = lengthscale_prior(1)
    draws, _ = draw_hyperparameters(X, y, (), prior, 301, np.random.default_rng(0))
    length, noise = np.linspace(math.log(0.025), math.log(1e3), 161), np.linspace(math.log(1e-4), math.log(2), 81)
    grid = np.array([[log_posterior(X, y, (), prior, np.array([a, b]))[0] + a + b for b in noise] for a in length])
    weight = np.exp(grid - grid.max())
    weight /= weight.sum()
    means = np.array([weight.sum(1) @ length, weight.sum(0) @ noise])
    deviations = np.sqrt([weight.sum(1) @ (length - means[0]) ** 2, weight.sum(0) @ (noise - means[1]) ** 2])
    # 301 draws, twelve moves apart: the mean is known to some 6 % of a standard deviation, if all but independent.
    assert np.abs(draws.mean(axis=0) - means) == pytest.approx([0, 0], abs=0.25 * deviations.min())
    assert draws.std(axis=0) == pytest.approx(deviations, rel=0.25)


def _log_density(posterior, outcome, mixture):
    mean, variance = posterior.mean.squeeze(-1).squeeze(-1), posterior.variance.squeeze(-1).squeeze(-1)
    if not mixture:
        mean, variance = mean.unsqueeze(-1), variance.unsqueeze(-1)
    terms = -0.5 * ((outcome.unsqueeze(-1) - mean) ** 2 / variance + variance.log() + math.log(2 * math.pi))
    return float((torch.logsumexp(terms, -1) - math.log(mean.shape[-1])).mean())


@pytest.mark.slow
def test_on_few_observations_it_is_not_worse_calibrated_than_the_best_hyperparameters():
    T = np.random.default_rng(99).random((101, 3))
    x = torch.from_numpy(T).unsqueeze(-2)
    gains = []
    for seed in range(12):
        X, losses = _data(12, seed)
        ensemble, single = fit_ensemble(X, losses), fit_objective(X, losses, ())
        truth = torch.from_numpy(single.outcome(_loss(T)))
        many = _log_density(ensemble.model.posterior(x, observation_noise=True), truth, True)
        gains.append(many - _log_density(single.model.posterior(x, observation_noise=True), truth, False))
    assert np.mean(gains) > 0
    # It gives up little where the best hyperparameters happen to be right.
    assert min(gains) > -0.5


def test_the_mixture_is_less_sure_than_its_members_are():
    ensemble = fit_ensemble(*_data(5))
    posterior = ensemble.model.posterior(torch.rand(7, 1, 3, dtype=torch.float64))
    assert (posterior.mixture_variance >= posterior.variance.mean(-3) - 1e-9).all()


@pytest.mark.parametrize("q", [1, 2])
def test_acquisitions_average_over_members(q):
    X, losses = _data()
    ensemble = fit_ensemble(X, losses, members=5)
    view, best = ensemble.model.negated(), -ensemble.best()
    x = torch.rand(3, q, 3, dtype=torch.float64, requires_grad=True)
    pending = torch.rand(2, 3, dtype=torch.float64)
    values = [
        qLogExpectedImprovement(view, best, X_pending=pending)(x),
        qLogNoisyExpectedImprovement(view, torch.from_numpy(X), prune_baseline=False)(x),
    ]
    if q == 1:
        values += [LogExpectedImprovement(view, best)(x), UpperConfidenceBound(view, 2.0)(x)]
        members = []
        for i in range(5):
            scale = view.kernel.raw_lengthscale[i : i + 1, 0]
            one = EnsembleGP(view.X, view.y, scale, view.noise[i : i + 1], view.means[i : i + 1])
            members.append(LogExpectedImprovement(one, best)(x))
        mean = torch.logsumexp(torch.stack(members), 0) - math.log(5)
        assert torch.allclose(values[2], mean)
        assert torch.allclose(LogEIPerCost(ensemble.model, ensemble.best(), maximize=False)(x), mean)
    for value in values:
        assert value.shape == (3,)
        assert torch.isfinite(torch.autograd.grad(value.sum(), x, retain_graph=True)[0]).all()


def test_the_same_seed_gives_the_same_members():
    a, b, c = (fit_ensemble(*_data(), members=3, seed=s).model.noise for s in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("losses", [[1.0], [2.0, 2.0, 2.0], [1.0, 2.0, 1e300]])
def test_little_data_gives_a_finite_model(losses):
    ensemble = fit_ensemble(np.random.default_rng(0).random((len(losses), 2)), losses, members=3)
    posterior = ensemble.model.posterior(torch.rand(5, 1, 2, dtype=torch.float64))
    assert torch.isfinite(posterior.mean).all()
    assert (posterior.variance > 0).all()


def test_bad_input_is_refused():
    with pytest.raises(ModelError, match="row 0"):
        fit_ensemble([[0.1]], [math.nan])
    with pytest.raises(ModelError, match="at least 1 member"):
        fit_ensemble([[0.1]], [1.0], members=0)
    with pytest.raises(ModelError, match="prior"):
        fit_nuts([[0.1]], [1.0], prior="flat")


def test_nuts_without_its_extra_names_it(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "numpyro" else find(name, *a))
    with pytest.raises(MissingExtra, match=r"frugalbo\[nuts\]"):
        fit_nuts([[0.1], [0.2]], [1.0, 2.0])


@pytest.mark.slow
@pytest.mark.timeout(1200)  # JAX compiles for a minute or more
@pytest.mark.parametrize("prior", ["saas", "dimension-scaled"])
def test_nuts_gives_an_ensemble_where_its_extra_is_installed(prior):
    pytest.importorskip("numpyro")
    X, losses = _data(9)
    ensemble = fit_nuts(X, losses, prior=prior, warmup=16, samples=16, thinning=4)
    posterior = ensemble.model.posterior(torch.from_numpy(X).unsqueeze(-2))
    assert posterior.mean.shape == (9, 4, 1, 1)
    assert np.corrcoef(posterior.mixture_mean.ravel().numpy(), losses)[0, 1] > 0.5
