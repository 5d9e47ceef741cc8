import dataclasses
import math

import numpy as np
import pytest
import torch
from botorch.acquisition import qLogNoisyExpectedImprovement

import frugalbo as fb
from frugalbo.budget.amounts import Cost
from frugalbo.errors import ModelError
from frugalbo.events import Ended, Reported, Started
from frugalbo.events import Outcome as Ending
from frugalbo.models.kernel import lengthscale_prior
from frugalbo.models.leave_one_out import left_out
from frugalbo.models.map_fit import log_posterior
from frugalbo.models.objective import fit_objective
from frugalbo.models.outcome import Outcome
from frugalbo.propose.bo import BayesianProposer
from frugalbo.propose.evidence import Evidence
from frugalbo.study import Study

LOW_HIGH = (0.01, 0.5)


def _drawn(n=13, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.random((n, 2))
    return X, np.sin(5 * X[:, 0]) + X[:, 1], rng


def _matern(U, V, lengthscales):
    r = np.sqrt(5 * (((U[:, None] - V[None]) / lengthscales) ** 2).sum(-1))
    return (1 + r + r**2 / 3) * np.exp(-r)


def test_without_noise_the_posterior_interpolates():
    X, losses, _ = _drawn()
    objective = fit_objective(X, losses, (), noise=0.0)
    posterior = objective.model.posterior(torch.from_numpy(X).unsqueeze(-2))
    assert posterior.mean.reshape(-1).detach().numpy() == pytest.approx(objective.outcome(losses), abs=2e-3)
    assert posterior.variance.max() < 1e-5
    learned = fit_objective(X, losses, ())
    assert learned.model.posterior(torch.from_numpy(X).unsqueeze(-2)).variance.max() > 1e-5


def test_the_posterior_under_given_noise_is_the_one_by_hand():
    X, losses, rng = _drawn()
    noise = rng.choice(LOW_HIGH, len(X)) ** 2
    objective = fit_objective(X, losses, (), noise=noise)
    # The delta method by finite differences: a loss's deviation times the slope of what the model sees of it.
    slope = (objective.outcome(losses + 1e-6) - objective.outcome(losses - 1e-6)) / 2e-6
    seen, y, fit = noise * slope**2, objective.outcome(losses), objective.fit
    points = rng.random((5, 2))
    K = _matern(X, X, fit.lengthscales) + np.diag(np.maximum(seen, 1e-6))
    k = _matern(points, X, fit.lengthscales)
    level = np.linalg.solve(K, y).sum() / np.linalg.solve(K, np.ones(len(y))).sum()
    mean = level + k @ np.linalg.solve(K, y - level)
    variance = 1 - np.einsum("ij,ji->i", k, np.linalg.solve(K, k.T))
    short = objective.model.posterior(torch.from_numpy(points).unsqueeze(-2))
    joint = objective.model.posterior(torch.from_numpy(points))  # GPyTorch's own way
    for found in (short, joint):
        assert found.mean.reshape(-1).detach().numpy() == pytest.approx(mean, rel=1e-4)
        assert found.variance.reshape(-1).detach().numpy() == pytest.approx(variance, rel=1e-3, abs=1e-6)
    # Left out by hand: an observation that is not there.
    others = np.arange(len(X)) != 3
    K3, k3 = K[np.ix_(others, others)], K[3, others]
    expected = level + k3 @ np.linalg.solve(K3, (y - level)[others])
    sd = math.sqrt(K[3, 3] - k3 @ np.linalg.solve(K3, k3))
    found = left_out(objective)
    assert found.median[3] == pytest.approx(objective.outcome.inverse(expected), rel=1e-3)
    assert found.high[3] == pytest.approx(objective.outcome.inverse(expected + 1.959964 * sd), rel=1e-3)


def test_the_gradient_under_given_noise_is_that_of_the_function():
    X, losses, rng = _drawn()
    y, noise = Outcome.of(losses)(losses), rng.choice(LOW_HIGH, len(X))
    theta = np.array([0.3, -0.7, -3.0])
    value, gradient, _ = log_posterior(X, y, (), lengthscale_prior(2), theta, noise=noise)
    assert gradient[-1] == 0  # nothing of the last entry, which is for a noise that is fitted
    for i in range(3):
        step = np.eye(3)[i] * 1e-5
        up, down = (log_posterior(X, y, (), lengthscale_prior(2), theta + s, noise=noise)[0] for s in (step, -step))
        assert gradient[i] == pytest.approx((up - down) / 2e-5, abs=1e-5)
    assert math.isfinite(value)


def test_given_what_it_would_have_learned_it_is_the_same_model():
    X, losses, rng = _drawn(41)
    losses = losses + 0.3 * rng.standard_normal(41)
    outcome = dataclasses.replace(Outcome.of(losses), pivot=float(losses.max()))  # linear throughout
    learned = fit_objective(X, losses, (), outcome=outcome)
    given = fit_objective(X, losses, (), outcome=outcome, noise=learned.fit.noise / outcome.slope(losses)[0] ** 2)
    points = torch.from_numpy(rng.random((7, 1, 2)))
    for a, b in ((learned.model, given.model), (learned.model.negated(), given.model.negated())):
        assert a.posterior(points).mean.numpy() == pytest.approx(b.posterior(points).mean.numpy(), abs=0.02)
        assert a.posterior(points).variance.numpy() == pytest.approx(b.posterior(points).variance.numpy(), rel=0.1)


def test_noisy_observations_move_the_mean_less():
    X, losses, _ = _drawn()
    noise = np.full(13, 1e-4)
    losses[5] += 1.0
    sure = fit_objective(X, losses, (), noise=noise)
    noise[5] = 9.0
    unsure = fit_objective(X, losses, (), noise=noise)
    at = torch.from_numpy(X[5:6]).unsqueeze(-2)
    assert sure.outcome.inverse(float(sure.model.posterior(at).mean)) == pytest.approx(losses[5], abs=0.05)
    assert unsure.outcome.inverse(float(unsure.model.posterior(at).mean)) < losses[5] - 0.5


def test_what_is_believed_and_acquisitions_work_on_it():
    X, losses, rng = _drawn()
    objective = fit_objective(X, losses, (), noise=rng.choice(LOW_HIGH, 13) ** 2)
    believing = objective.believing(rng.random((3, 2)))
    assert believing.model.likelihood.noise.shape == (16,)
    assert torch.equal(believing.model.likelihood.noise[:13], objective.model.likelihood.noise)
    points = torch.from_numpy(rng.random((5, 1, 2)))
    nei = qLogNoisyExpectedImprovement(objective.model.negated(), torch.from_numpy(X))
    assert torch.isfinite(nei(points)).all()


@pytest.mark.parametrize("noise", [-1.0, math.nan, [0.1, 0.2]])
def test_what_is_no_variance_is_refused(noise):
    X, losses, _ = _drawn()
    with pytest.raises(ModelError, match="one variance of noise or 13"):
        fit_objective(X, losses, (), noise=noise)


def _problem(objective):
    return fb.Problem("p", fb.Space({"x": fb.Float(0, 1)}), "m:f", objective)


def _study(objective, metrics):
    study = Study(_problem(objective))
    for i, reported in enumerate(metrics):
        study.apply(Started(i, 0, {"x": (0.5 + i) / len(metrics)}, 0, 1, 1, Cost(), "slot", 0.0))
        study.apply(Reported(i, 0, 1, reported, 0.0))
        study.apply(Ended(i, 0, Ending.COMPLETED, Cost(device_seconds=1.0), 0.0))
    return study


@pytest.mark.parametrize("method", ["auto", "ei", "nei", "kg", "mes", "jes", "pes", "ts", "bmsei", "qei"])
def test_every_method_suggests_where_noise_is_told(method):
    results = [{"loss": ((i + 0.5) / 7 - 0.4) ** 2, "loss_sem": 0.01 * (1 + i % 2)} for i in range(7)]
    study = _study(fb.Minimize("loss", sem="loss_sem"), results)
    assert Evidence(study).noise == pytest.approx([1e-4, 4e-4, 1e-4, 4e-4, 1e-4, 4e-4, 1e-4])
    (suggestion,) = BayesianProposer(method=method, seed=0, initial=0).propose(study, 1)
    assert "instead_of" not in suggestion.why
    low, high = suggestion.why["predicted_95"]
    assert high - low > 2 * 1.96 * 0.01  # of an observation: wider than the least noise


def test_noise_that_some_trials_do_not_tell_is_learned():
    results = [{"score": 1.0, "sem": 0.1}, {"score": 2.0}, {"score": 3.0, "sem": 0.1}]
    assert Evidence(_study(fb.Maximize("score", sem="sem"), results)).noise is None
    assert Evidence(_study(fb.Maximize("score", sem="sem"), results[::2])).noise == pytest.approx([0.01, 0.01])


def test_a_standard_error_is_stored_with_the_problem_and_must_be_another_metric():
    problem = _problem(fb.Maximize("score", sem="sem"))
    assert fb.Problem.from_json(problem.to_json()).objective == fb.Maximize("score", sem="sem")
    old = problem.to_json()
    del old["objective"]["sem"]
    assert fb.Problem.from_json(old).objective == fb.Maximize("score")
    with pytest.raises(fb.ProblemError, match="another metric"):
        fb.Minimize("loss", sem="loss")


def test_a_part_of_the_noise_that_nobody_told_is_learned():
    X, losses, rng = _drawn(41)
    losses = losses + 0.5 * rng.standard_normal(41)
    told = np.full(41, 0.01)
    only, more = (fit_objective(X, losses, (), noise=told, more_noise=m) for m in (False, True))
    points = torch.from_numpy(X).unsqueeze(-2)
    spread = [np.std(f.model.posterior(points).mean.numpy().ravel() - f.outcome(losses)) for f in (only, more)]
    assert spread[1] > 1.5 * spread[0]  # what is not told is not taken for the function
    seen = told * more.outcome.slope(more.outcome.inverse(0.0)) ** 2
    assert float(more.model.noise) == pytest.approx(float(seen[0]) + more.fit.noise, rel=0.2)


def test_the_gradient_of_learned_noise_on_top_of_given_is_that_of_the_function():
    X, losses, rng = _drawn()
    y, noise = Outcome.of(losses)(losses), rng.choice(LOW_HIGH, len(X))
    theta = np.array([0.3, -0.7, -2.0])
    gradient = log_posterior(X, y, (), lengthscale_prior(2), theta, noise=noise, more_noise=True)[1]
    for i in range(3):
        step = np.eye(3)[i] * 1e-5
        up, down = (
            log_posterior(X, y, (), lengthscale_prior(2), theta + s, noise=noise, more_noise=True)[0]
            for s in (step, -step)
        )
        assert gradient[i] == pytest.approx((up - down) / 2e-5, abs=1e-5)
    # Nothing told and something learned is what is learned without being told.
    same = log_posterior(X, y, (), lengthscale_prior(2), theta, noise=np.zeros(len(X)), more_noise=True)[0]
    assert same == pytest.approx(log_posterior(X, y, (), lengthscale_prior(2), theta)[0])
