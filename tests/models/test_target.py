"""The model of what counts under conditions: exact for sums, linear for risks."""

from functools import cache

import numpy as np
import pytest
import torch

from frugalbo.models.environments import fit_environments
from frugalbo.models.multi_fidelity import fit_multi_fidelity
from frugalbo.models.objective import fit_objective
from frugalbo.models.target import TargetGP
from frugalbo.models.view import LinearView

P = torch.rand(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
RISKS = ("mean", "mean-variance", "value-at-risk", "cvar", "worst")


@cache
def _env(n=29, weights=(2, 1, 1)):
    rng = np.random.default_rng(0)
    X, w = rng.random((n, 2)), rng.integers(0, 3, n)
    losses = 4 * (X[:, 0] - 0.4) ** 2 + 0.5 * np.sin(3 * X[:, 1] + w) + 0.2 * w
    return fit_environments(X, w.tolist(), losses, dict(enumerate(weights)))


def _target(env, kind=None, alpha=0.6):
    return TargetGP(env.model, env.mean.features, env.mean.weights, None if kind is None else env.risk(kind, alpha))


def test_what_the_objectives_model_says_in_short_is_its_posterior():
    rng = np.random.default_rng(0)
    X = rng.random((13, 2))
    model = fit_objective(X, (X**2).sum(1), ()).model
    at, joint = model.marginals(P), model.posterior(P)
    assert torch.allclose(at.mean, joint.mean.squeeze(-1), atol=1e-8)
    assert torch.allclose(model.covariance(at, at), joint.distribution.covariance_matrix, atol=1e-7)
    assert torch.allclose(at.variance, model.covariance(at, at).diagonal(), atol=1e-8)


@pytest.mark.parametrize("which", ["environments", "fidelities"])
def test_a_sum_is_the_linear_view(which):
    if which == "environments":
        view = _env().mean
    else:
        X = np.random.default_rng(0).random((17, 2))
        view = fit_multi_fidelity(X, np.linspace(0.1, 1, 17), X.sum(1)).target
    target = TargetGP(view.base, view.features, view.weights)
    for ours, theirs in ((target, view), (target.negated(), view.negated())):
        mean, covariance = theirs.moments(P)
        at = ours.marginals(P)
        assert torch.allclose(at.mean, mean, atol=1e-8)
        assert torch.allclose(ours.covariance(at, at), covariance, atol=1e-7)
        assert torch.allclose(at.variance, covariance.diagonal(), atol=1e-7)
        for X in (P, P.unsqueeze(-2), P[:6].reshape(2, 3, 2)):
            assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(ours.moments(X), theirs.moments(X), strict=True))
        Z = target.extended(P)[:5]
        assert torch.allclose(ours.covariance_with(P, Z), theirs.covariance_with(P, Z), atol=1e-8)
    assert float(target.noise) == pytest.approx(float(view.noise_variance(P)[0]))


def test_the_expectation_as_a_risk_is_the_sum():
    env = _env()
    plain, risk = _target(env).marginals(P), _target(env, "mean").marginals(P)
    assert torch.allclose(plain.weights, risk.weights, atol=1e-12)
    assert torch.allclose(plain.variance, risk.variance, atol=1e-10)
    assert torch.allclose(plain.mean, risk.mean, atol=0.02 * float(plain.variance.max().sqrt()))  # of 128 draws


@pytest.mark.parametrize("kind", RISKS)
def test_the_mean_and_covariances_of_a_risk_are_those_of_samples(kind):
    env = _env()
    target, x, z = _target(env, kind), P[:1], env.look(P[1:3], 1)
    Z = torch.cat([target.extended(x), z])  # three environments at x, then two looks elsewhere
    mean, covariance = env.model.moments(Z)
    torch.manual_seed(0)
    values = torch.distributions.MultivariateNormal(mean, covariance).sample(torch.Size([40_001]))
    shown = -env.risk(kind, 0.6)(values[:, :3].unsqueeze(-1)).squeeze(-1)
    scale = float(shown.std())
    assert float(target.marginals(x).mean) == pytest.approx(float(shown.mean()), abs=0.05 * scale)
    sampled = ((shown - shown.mean()).unsqueeze(-1) * (values - values.mean(0))).mean(0)
    sds = values.std(0)
    assert torch.allclose(target.covariance_with(x, Z)[0] / sds / scale, sampled / sds / scale, atol=0.05)
    # The variance is the part that is linear in the values, so never more than all of it.
    assert float(target.marginals(x).variance) <= 1.05 * scale**2


@pytest.mark.parametrize("kind", [None, *RISKS])
def test_gradients_are_those_of_mean_and_variance(kind):
    target, X = _target(_env(), kind), P.clone().requires_grad_(True)
    # The weights of a risk jump where two of 128 draws change places, and are constant between.
    assert torch.autograd.gradcheck(lambda X: target.marginals(X).mean, X, eps=1e-7, atol=1e-4, rtol=1e-3)
    (gradient,) = torch.autograd.grad(target.marginals(X).variance.sum(), X)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("kind", ["mean-variance", "cvar", "worst"])
def test_a_risk_of_losses_is_not_below_their_mean(kind):
    env = _env()
    assert (_target(env, kind).marginals(P).mean >= _target(env).marginals(P).mean - 1e-3).all()
    assert torch.allclose(_target(env, kind).negated().marginals(P).mean, -_target(env, kind).marginals(P).mean)


def test_blocks_do_not_show(monkeypatch):
    target = _target(_env(), "cvar")
    at = target.marginals(P)
    whole = target.covariance(at, at)
    monkeypatch.setattr("frugalbo.models.target._AT_ONCE", 50)
    assert torch.allclose(target.covariance(at, at), whole, atol=1e-12)


def test_further_looks_are_those_of_the_model():
    env = _env()
    Z, y = env.look(P[:3], 2), torch.tensor([0.1, 0.2, -0.3]).double()
    more = _target(env).with_looks(Z, y)
    again = LinearView(env.model.with_data(Z, y), env.mean.features, env.mean.weights)
    assert torch.allclose(more.marginals(P).mean, again.moments(P)[0], atol=1e-9)
    assert len(more.seen) == len(_target(env).seen) + 3
