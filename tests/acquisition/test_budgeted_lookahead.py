"""Budgeted multi-step lookahead."""

import itertools
import math
import time

import numpy as np
import pytest
import torch
from botorch.models import SingleTaskGP
from botorch.models.deterministic import GenericDeterministicModel
from gpytorch.likelihoods import GaussianLikelihood
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from frugalbo.acquisition.budgeted_lookahead import BudgetedLookahead, plan
from frugalbo.acquisition.hard_budget import HardBudget
from frugalbo.acquisition.log_cost import JointLogCost
from frugalbo.acquisition.log_ei_per_cost import LogEIPerCost
from frugalbo.budget.cost_features import Features
from frugalbo.budget.cost_mixture import Component, FittedCost
from frugalbo.models.feasibility import FeasibilityGP
from frugalbo.models.objective import fit_objective
from frugalbo.space import Float, Space

SPACE = Space({"a": Float(0, 1), "b": Float(0, 1)})
FEATURES = Features(SPACE)
P = 5  # 1, two slopes, two squares


def _points(n, seed):
    return torch.rand(n, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _fitted(startups=(0.0, 2.0), seed=0, spread=0.3):
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(len(startups)))
    parts = [
        Component(w, s, 0.2, rng.standard_normal(P), spread * rng.standard_normal((P, P)), rng.random(P))
        for w, s in zip(weights, startups, strict=True)
    ]
    return FittedCost(FEATURES, parts, 5)


def _model():
    rng = np.random.default_rng(0)
    X = rng.random((13, 2))
    losses = ((X - 0.3) ** 2).sum(1) + 0.1 * rng.standard_normal(13)
    return fit_objective(X, losses, ()).model.negated()


@pytest.fixture(scope="module")
def model():
    return _model()


@pytest.fixture(scope="module")
def best(model):
    return float(model.posterior(model.train_inputs[0].unsqueeze(-2)).mean.max())


def _log_cost(noise):
    """A Gaussian process on the log of the cost: costs of about 1, give or take a factor of e."""
    X = _points(5, 7).squeeze(-2)
    likelihood = GaussianLikelihood()
    likelihood.noise = noise
    Y = X.sum(-1, keepdim=True)
    gp = SingleTaskGP(X, (Y - Y.mean()) / Y.std(), likelihood=likelihood, outcome_transform=None)
    gp.covar_module.lengthscale = 0.7
    return gp.eval()


@pytest.fixture(scope="module")
def log_cost():
    return _log_cost(0.02)


def _equal_costs(cost=1.0):
    return GenericDeterministicModel(lambda X: 0 * X[..., :1] + math.log(cost))


def _joint(gp, points, noisy=False):
    """Mean and covariance at points (m x d) by GPyTorch, as arrays."""
    posterior = (
        type(gp).__mro__[1].posterior(gp, points)
        if hasattr(gp, "level")
        else gp.posterior(points, observation_noise=noisy)
    )
    return posterior.mean.detach().numpy()[:, 0], posterior.distribution.covariance_matrix.detach().numpy()


def _plain_ei(mean, sd, best):
    u = (mean - best) / np.maximum(sd, 1e-12)
    return sd * (norm.pdf(u) + u * norm.cdf(u))


def _simulated(model, best, A, x, log_cost, left, draws=60_000):
    """The two-step value at x (1 x d) as defined: draw outcome and cost, condition on them, take the best of A."""
    rng = np.random.default_rng(3)
    m = len(A)
    mean, K = _joint(model, torch.cat([A, x]))
    noise = float(model.likelihood.noise)
    y = mean[m] + math.sqrt(K[m, m] + noise) * rng.standard_normal(draws)
    gain = K[:, m] / (K[m, m] + noise)
    after = mean + gain * (y - mean[m])[:, None]
    sd = np.sqrt(np.maximum(K.diagonal() - gain * K[:, m], 1e-12))
    raised = np.maximum(best, after[:, m])
    ei = _plain_ei(after[:, :m], sd[:m], raised[:, None])
    now = _plain_ei(mean[m], math.sqrt(K[m, m]), best)
    if log_cost is None:
        return now + ei.max(1).mean()
    cmean, C = _joint(log_cost, torch.cat([A, x]), noisy=True)
    logc = cmean[m] + math.sqrt(C[m, m]) * rng.standard_normal(draws)
    rest = left - np.exp(logc)
    cgain = C[:m, m] / C[m, m]
    cafter = cmean[:m] + cgain * (logc - cmean[m])[:, None]
    csd = np.sqrt(C.diagonal()[:m] - cgain * C[:m, m])
    paid = rest > 0
    chance = norm.cdf((np.log(np.maximum(rest, 1e-300))[:, None] - cafter) / csd)
    return now * norm.cdf((math.log(left) - cmean[m]) / math.sqrt(C[m, m])) + (paid * (ei * chance).max(1)).mean()


# --- one step ------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [0.5, 3.0, 40.0])
def test_without_later_trials_it_is_improvement_times_the_chance_that_the_budget_lasts(model, best, left):
    fitted, X = _fitted(), _points(17, 1)
    budget = HardBudget(fitted, 3.0, left)
    known = LogEIPerCost(model, torch.tensor(best, dtype=torch.float64), None, 0.0, chances=[budget])
    ours = BudgetedLookahead(
        model,
        best,
        _points(5, 2).squeeze(-2),
        depth=0,
        log_cost=JointLogCost(fitted, 3.0),
        left=left,
        hard_budget=budget,
    )
    assert torch.allclose(ours(X), known(X), rtol=1e-12, atol=1e-12)


def test_a_budget_for_one_trial_leaves_its_improvement(model, best):
    X, A = _points(17, 1), _points(5, 2).squeeze(-2)
    one_step = BudgetedLookahead(model, best, A, depth=0)(X)
    for depth in (1, 2):
        ours = BudgetedLookahead(model, best, A, depth=depth, log_cost=_equal_costs(), left=1.9)
        assert torch.allclose(ours(X), one_step, atol=1e-10)
        assert (BudgetedLookahead(model, best, A, depth=depth, log_cost=_equal_costs(), left=2.1)(X) > one_step).all()


# --- two and three steps -------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.003, 0.3])
def test_without_a_budget_it_is_two_step_expected_improvement(noise):
    model = _model()
    model.likelihood.noise = torch.tensor([noise], dtype=torch.float64)
    model.train().eval()  # drops what is kept of the other noise
    best = float(model.posterior(model.train_inputs[0].unsqueeze(-2)).mean.max())
    X, A = _points(7, 1), _points(11, 2).squeeze(-2)
    ours = BudgetedLookahead(model, best, A)(X).exp()
    for x, value in zip(X, ours.tolist(), strict=True):
        # Of 60,000 draws the standard error is below half a percent here; the quadrature is right to one.
        assert value == pytest.approx(_simulated(model, best, A, x, None, math.inf), rel=0.02)
    for unlimited in (
        BudgetedLookahead(model, best, A, log_cost=_equal_costs(), left=math.inf),
        BudgetedLookahead(model, best, A, log_cost=_equal_costs(), left=2.5),
    ):
        assert torch.allclose(unlimited(X).exp(), ours, rtol=1e-9)


@pytest.mark.parametrize("left", [0.7, 2.0, 5.0])
def test_with_unknown_costs_it_is_what_is_simulated(model, best, log_cost, left):
    X, A = _points(7, 1), _points(11, 2).squeeze(-2)
    ours = BudgetedLookahead(model, best, A, log_cost=log_cost, left=left)(X).exp()
    simulated = [_simulated(model, best, A, x, log_cost, left) for x in X]
    # Four nodes miss some of what is worth a thousandth of the best.
    assert ours.tolist() == pytest.approx(simulated, rel=0.04, abs=2e-3 * max(simulated))


@pytest.mark.parametrize(("left", "spread", "within"), [(0.6, 0.02, 0.03), (1.2, 1.0, 0.01)])
def test_three_steps_are_the_nested_expectation(model, best, left, spread, within):
    # Two candidates, so that all are followed up; the reference takes 9 nodes where ours takes 2 to 5.
    A, X = torch.tensor([[0.15, 0.4], [0.5, 0.1]], dtype=torch.float64), _points(5, 1)
    log_cost = _log_cost(spread)
    nodes, weights = np.polynomial.hermite_e.hermegauss(9)
    nodes, weights = nodes.tolist(), (weights / weights.sum()).tolist()

    def cdf(u):
        return 0.5 * math.erfc(-u / math.sqrt(2))

    def condition(mean, K, i, y, noise):
        gain = K[:, i] / (K[i, i] + noise)
        return mean + gain * (y - mean[i]), K - np.outer(gain, K[i])

    def value(i, state, depth):
        (mean, K), (cmean, C), top, rest = state
        if rest <= 0:
            return 0.0
        c_sd = math.sqrt(max(C[i, i], 1e-8))
        sd = math.sqrt(max(K[i, i], 1e-10))
        u = (mean[i] - top) / sd
        now = sd * (math.exp(-u * u / 2) / math.sqrt(2 * math.pi) + u * cdf(u))
        now *= cdf((math.log(rest) - cmean[i]) / c_sd)
        if depth == 0:
            return now
        scale, later = math.sqrt(K[i, i] + noise), 0.0
        for zy, wy in zip(nodes, weights, strict=True):
            after = condition(mean, K, i, mean[i] + scale * zy, noise)
            raised = max(top, after[0][i])
            for zc, wc in zip(nodes, weights, strict=True):
                logc = cmean[i] + c_sd * zc
                state = (after, condition(cmean, C, i, logc, 0.0), raised, rest - math.exp(logc))
                later += wy * wc * max(value(a, state, depth - 1) for a in (0, 1))
        return now + later

    noise = float(model.likelihood.noise)
    ours = BudgetedLookahead(model, best, A, depth=2, log_cost=log_cost, left=left)(X).exp().tolist()
    for x, found in zip(X[:2], ours, strict=False):
        points = torch.cat([A, x])
        state = (_joint(model, points), _joint(log_cost, points, noisy=True), best, left)
        assert found == pytest.approx(value(2, state, 2), rel=within)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), depth=st.sampled_from([0, 1, 2]))
def test_more_money_is_never_worth_less(model, best, log_cost, seed, depth):
    X, A = _points(5, seed), _points(7, seed + 1).squeeze(-2)
    values = [
        BudgetedLookahead(model, best, A, depth=depth, log_cost=log_cost, left=left)(X)
        for left in (0.1, 0.5, 1.0, 2.0, 4.0, 20.0, 1e4, math.inf)
    ]
    for less, more in itertools.pairwise(values):
        # At depth 2 another choice of what to follow up may cost some thousandths, and of a value of
        # e^-30 or less, of events beyond the few nodes, nothing is claimed.
        assert ((less <= more + (0.02 if depth == 2 else 1e-9)) | ((depth == 2) & (less < -30))).all()


def test_more_trials_in_view_are_worth_more(model, best, log_cost):
    X, A = _points(11, 1), _points(7, 2).squeeze(-2)
    none, one, two = (
        BudgetedLookahead(model, best, A, depth=depth, log_cost=log_cost, left=4.0)(X) for depth in range(3)
    )
    assert (one > none).all()
    assert (two > one - 0.03).all()  # fewer nodes for each step
    assert (two > one + 0.03).any()


def test_a_cheap_trial_wins_because_it_leaves_room_for_another(model, best):
    # All costs are known. The dear half takes the whole budget of 2, the cheap half 1: two of its
    # trials for one of the others, though each of them improves less.
    P = _points(301, 5)
    dear = P[:, 0, 0] < 0.44  # where the model expects its best
    log_cost = GenericDeterministicModel(lambda X: torch.where(X[..., :1] < 0.44, math.log(1.95), math.log(0.95)))
    one = BudgetedLookahead(model, best, P.squeeze(-2), depth=0, log_cost=log_cost, left=2.0)(P)
    two = BudgetedLookahead(model, best, P.squeeze(-2), depth=1, log_cost=log_cost, left=2.0)(P)
    assert torch.allclose(two[dear], one[dear], atol=1e-9)
    assert dear[one.argmax()]
    assert not dear[two.argmax()]


def test_a_trial_that_may_fail_is_worth_its_chance(model, best):
    X, A = _points(7, 1), _points(5, 2).squeeze(-2)
    where = _points(13, 4).squeeze(-2).numpy()
    chance = FeasibilityGP(where, where[:, 0] < 0.6, (), 2)
    without = BudgetedLookahead(model, best, A, depth=0)(X)
    with_it = BudgetedLookahead(model, best, A, depth=0, chances=[chance])(X)
    assert torch.allclose(with_it - without, chance.log_probability(X))
    # Of later trials, too.
    free, bound = (BudgetedLookahead(model, best, A, chances=c)(X) for c in ([], [chance]))
    assert (bound < free + chance.log_probability(X) - 1e-4).all()


class Often:
    """Any trial succeeds with the same probability."""

    def __init__(self, probability):
        self.probability = probability

    def log_probability(self, X):
        return torch.full_like(X[..., 0, 0], math.log(self.probability))


@pytest.mark.parametrize("left", [2.0, math.inf])
def test_each_trial_in_view_has_its_own_chance_to_succeed(model, best, log_cost, left):
    # With steps worth e1, e2 and e3 the value is p e1 + p^2 e2 + p^3 e3, as a failure ends the tree. One
    # candidate, so that there is nothing to choose. From p = 1 and 1/2 follow e2 and e3, and p = 1/4.
    X, A = _points(7, 1), torch.tensor([[0.15, 0.4]], dtype=torch.float64)

    def value(depth, p):
        settings_ = {"depth": depth, "log_cost": log_cost, "left": left, "chances": [Often(p)]}
        return BudgetedLookahead(model, best, A, **settings_)(X).exp()

    e1 = value(0, 1)
    assert torch.allclose(value(0, 0.5), e1 / 2)
    assert torch.allclose(value(1, 0.5), e1 / 2 + (value(1, 1) - e1) / 4)
    later, halved = value(2, 1) - e1, value(2, 0.5) - e1 / 2
    e2, e3 = 8 * halved - later, 2 * later - 8 * halved
    assert (e2 > 0).all()
    assert (e3 > 0).all()
    assert (e3 > 0.005 * e1).any()
    assert torch.allclose(value(2, 0.25), e1 / 4 + e2 / 16 + e3 / 64)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_the_gradient_is_that_of_the_value(model, best, depth):
    fitted = _fitted()
    where = _points(13, 4).squeeze(-2).numpy()
    value = BudgetedLookahead(
        model,
        best,
        _points(5, 2).squeeze(-2),
        depth=depth,
        log_cost=JointLogCost(fitted, 3.0),
        left=9.0,
        hard_budget=HardBudget(fitted, 3.0, 9.0),
        chances=[FeasibilityGP(where, where[:, 0] < 0.6, (), 2)],
    )
    assert torch.autograd.gradcheck(value, _points(5, 6).requires_grad_(True), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("left", [1e-9, 1e-2, 1e12, math.inf])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_value_and_gradient_are_finite_far_out(model, log_cost, left, depth):
    for best in (-1e3, 1e3):
        X = _points(5, 6).requires_grad_(True)
        value = BudgetedLookahead(model, best, _points(5, 2).squeeze(-2), depth=depth, log_cost=log_cost, left=left)(X)
        (gradient,) = torch.autograd.grad(value.sum(), X)
        assert torch.isfinite(value).all()
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("settings_", "complaint"),
    [
        ({"depth": 3}, "a depth from 0 to 2, got 3"),
        ({"left": 0.0}, "a budget above 0, got 0.0"),
        ({"left": 3.0, "hard_budget": HardBudget(_fitted(), 1.0, 2.0)}, "a hard budget of 3.0, got one of 2.0"),
    ],
)
def test_what_makes_no_sense_is_refused(model, settings_, complaint):
    with pytest.raises(ValueError, match=complaint):
        BudgetedLookahead(model, 0.0, _points(5, 2).squeeze(-2), **settings_)


# --- the plan ------------------------------------------------------------------------------------


def _flat_cost(seconds, sigma=0.05):
    """Any trial of one step costs that much, about."""
    weights = np.zeros(P)
    weights[0] = math.log(seconds)
    return FittedCost.regression(FEATURES, weights, sigma, 5), 1.0


@pytest.mark.parametrize(
    ("left_s", "left_trials", "depth", "horizon"),
    [
        (13.0, math.inf, 0, 13.0),  # one trial of 7 s
        (20.0, math.inf, 1, 14.0),
        (25.0, math.inf, 2, 21.0),
        (1e6, math.inf, 2, 21.0),
        (3.0, math.inf, 0, 3.0),
        (1e6, 2, 1, 14.0),
        (1e6, 1, 0, 1e6),
        (math.inf, math.inf, 2, math.inf),
    ],
)
def test_the_depth_is_what_the_budget_pays_for(model, best, left_s, left_trials, depth, horizon):
    pool = _points(61, 1).squeeze(-2)
    found = plan(model, best, pool, cost=_flat_cost(7.0), left_s=left_s, left_trials=left_trials)
    assert found.depth == depth
    assert found.horizon == pytest.approx(horizon)
    assert found.value.depth == depth
    assert found.value.left == found.horizon


def test_a_dear_favourite_does_not_hide_that_cheap_trials_can_be_paid_for(model, best):
    # The last seconds of a budget, where the price has cooled: the favourite alone costs what is left,
    # and trials not far from it cost less. Both are to be weighed, so later trials are in view.
    pool = _points(301, 1).squeeze(-2)
    log_ei = BudgetedLookahead(model, best, pool[:1], depth=0)(pool.unsqueeze(-2))
    favourite = float(pool[log_ei.argmax(), 1])
    assert favourite > 0.1
    weights = np.zeros(P)
    weights[2] = math.log(1e6)
    weights[0] = -weights[2] * (favourite - 0.5)
    cost = FittedCost.regression(FEATURES, weights, 0.05, 5), 1.0  # 1 s at the favourite
    for alpha in (0.0, 1.0):
        assert plan(model, best, pool, cost=cost, left_s=1.2, alpha=alpha).depth == 2


def test_without_a_cost_model_the_trials_left_are_what_counts(model, best):
    pool = _points(61, 1).squeeze(-2)
    assert [plan(model, best, pool, left_trials=n).depth for n in (1, 2, 3, 4, math.inf)] == [0, 1, 2, 2, 2]


def test_later_trials_are_planned_where_they_can_be_paid_for(model, best):
    # The cost falls a thousandfold with the first coordinate, to 1 s; 30 s pay for what is above 0.51,
    # where the model expects less than below.
    weights = np.zeros(P)
    weights[:2] = 0.5 * math.log(1000), -math.log(1000)
    cost = FittedCost.regression(FEATURES, weights, 0.05, 5), 1.0
    pool = _points(301, 1).squeeze(-2)
    found = plan(model, best, pool, cost=cost, left_s=30.0)
    log_ei = BudgetedLookahead(model, best, pool[:1], depth=0)(pool.unsqueeze(-2))
    assert pool[log_ei.argmax(), 0] < 0.5
    in_order = pool[log_ei.argsort(descending=True)]
    for favourite in in_order[in_order[:, 0] > 0.52][:7]:
        assert (favourite == found.value.A).all(-1).any()
    values = found.value(pool.unsqueeze(-2))
    assert pool[values.argmax(), 0] > 0.5


# --- costs, jointly ------------------------------------------------------------------------------


def test_costs_at_several_points_have_the_moments_of_the_mixture():
    fitted, X = _fitted((0.0, 0.5, 2.0), seed=1, spread=0.1), _points(3, 1).squeeze(-2)
    rng, draws = np.random.default_rng(0), 200_000
    phi, parts = FEATURES(X.numpy()), fitted.components
    which = rng.choice(len(parts), size=draws, p=[c.weight for c in parts])
    logs = np.empty((draws, 3))
    for i, c in enumerate(parts):
        n = int((which == i).sum())
        w = c.mean + (rng.standard_normal((n, P)) * np.sqrt(c.variance)) @ c.basis.T
        rest = w @ phi.T + c.sigma * rng.standard_normal((n, 3))
        logs[which == i] = np.log(c.startup_s + 7 * np.exp(rest))
    posterior = JointLogCost(fitted, 7.0).posterior(X, observation_noise=True)
    # First order in the spread: right to some percent where start-up and steps cost alike.
    assert posterior.mean[:, 0].tolist() == pytest.approx(logs.mean(0), abs=0.03)
    covariance = posterior.distribution.covariance_matrix
    assert torch.allclose(covariance, torch.as_tensor(np.cov(logs.T)), rtol=0.08, atol=0.02)
    without = JointLogCost(fitted, 7.0).posterior(X).distribution.covariance_matrix
    off = ~torch.eye(3, dtype=torch.bool)
    assert torch.allclose(without[off], covariance[off])
    # Noise counts by the share of what is not start-up, here at the means.
    rest = np.stack([7 * np.exp(phi @ c.mean) for c in parts])
    shares = rest / (rest + np.array([[c.startup_s] for c in parts]))
    noise = np.array([c.weight * c.sigma**2 for c in parts]) @ shares**2
    assert (covariance - without).diagonal().tolist() == pytest.approx(noise)


def test_without_start_up_and_with_one_component_they_are_the_regression():
    fitted, X = _fitted((0.0,)), _points(4, 1).squeeze(-2)
    (c,), phi = fitted.components, FEATURES(X.numpy())
    posterior = JointLogCost(fitted, 7.0).posterior(X)
    assert posterior.mean[:, 0].tolist() == pytest.approx(phi @ c.mean + math.log(7))
    expected = phi @ c.basis @ np.diag(c.variance) @ c.basis.T @ phi.T
    assert posterior.distribution.covariance_matrix.numpy() == pytest.approx(expected)


def test_a_thousand_points_take_a_second():
    # 0.5 s when alone: two later trials in view, 100 observations, costs from a mixture of forty.
    rng = np.random.default_rng(0)
    X = rng.random((101, 2))
    model = fit_objective(X, ((X - 0.3) ** 2).sum(1), ()).model.negated()
    fitted = _fitted(tuple(np.linspace(0, 1, 41)))
    pool = torch.from_numpy(rng.random((1021, 2)))
    started = time.process_time()
    with torch.no_grad():
        found = plan(model, 1.0, pool, cost=(fitted, 7.0), left_s=1e3)
        found.value(pool.unsqueeze(-2))
    assert time.process_time() - started < 3
