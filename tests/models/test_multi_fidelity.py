import math

import numpy as np
import pytest
import torch
from botorch.acquisition import LogExpectedImprovement
from botorch.acquisition.knowledge_gradient import qKnowledgeGradient
from botorch.acquisition.logei import qLogNoisyExpectedImprovement
from botorch.acquisition.max_value_entropy_search import qLowerBoundMaxValueEntropy

from frugalbo.acquisition.log_ei_per_cost import LogEIPerCost
from frugalbo.errors import ModelError
from frugalbo.models.deviation import DeviationKernel, ShorterRuns, Sources
from frugalbo.models.kernel import MixedMatern
from frugalbo.models.multi_fidelity import fit_multi_fidelity, fit_sources
from frugalbo.models.objective import fit_objective


def _full(X):
    return np.sin(5 * X[:, 0]) + 3 * (X[:, 1] - 0.3) ** 2


def _runs(n=61, seed=0):
    """Runs whose shortness costs a power of their length, and more so where x_1 is large."""
    rng = np.random.default_rng(seed)
    X = rng.random((n, 2))
    share = rng.choice([1 / 27, 1 / 9, 1 / 3, 1.0], size=n)
    return X, share, _full(X) + 0.3 * (share**-0.4 - 1) * (1 + X[:, 1])


def _grid():
    return np.random.default_rng(99).random((101, 2))


@pytest.mark.slow
def test_short_runs_tell_of_full_ones():
    better = 0
    for seed in range(5):
        X, share, losses = _runs(seed=seed, n=41)
        T = _grid()
        points = torch.from_numpy(T).unsqueeze(-2)
        runs = fit_multi_fidelity(X, share, losses)
        full = share == 1
        alone = fit_objective(X[full], losses[full], ())
        scale = alone.outcome.spread * alone.outcome.std / (runs.outcome.spread * runs.outcome.std)
        error = np.abs(runs.target.posterior(points).mean.numpy().ravel() - runs.outcome(_full(T))).mean()
        other = scale * np.abs(alone.model.posterior(points).mean.numpy().ravel() - alone.outcome(_full(T))).mean()
        better += error < other
    # Were the chances even, all five had one of 1 in 32.
    assert better == 5


def test_at_the_full_run_the_kernel_is_that_of_the_common_part():
    kernel = DeviationKernel(2, (1,), 2, ShorterRuns(torch.tensor([0.1]))).double()
    X = torch.tensor([[0.1, 0.5, 1.0], [0.6, 0.5, 1.0]]).double()
    common = MixedMatern(2, (1,), (0.0, 1.0)).double()
    common.lengthscale = 1.0
    assert torch.allclose(kernel.forward(X, X), common.forward(X[:, :2], X[:, :2]), atol=1e-4)


def test_the_error_of_short_runs_is_the_power_law():
    # e(s) = (s^-a - 1) / a, in units of that at 1/16; at a = 1/2 (the prior's mode): (4 - 1) and at 1/4: (2 - 1).
    axis = ShorterRuns(torch.tensor([1 / 16])).double()
    assert axis.exponent.item() == pytest.approx(0.5)
    errors = axis.error(torch.tensor([[1 / 16], [1 / 4], [1.0]]).double())
    assert errors.reshape(-1).tolist() == pytest.approx([1.0, 1 / 3, 0.0])


@pytest.mark.parametrize(("exponent", "expected"), [(-1.0, 0.75 / 0.9375), (0.0, math.log(4) / math.log(16))])
def test_its_members_are_the_linear_and_the_logarithmic_error(exponent, expected):
    axis = ShorterRuns(torch.tensor([1 / 16])).double()
    axis.initialize(raw_exponent=axis.raw_exponent_constraint.inverse_transform(torch.tensor([exponent + 1e-9])))
    assert axis.error(torch.tensor([[1 / 4]]).double()).item() == pytest.approx(expected, rel=1e-3)


def test_sources_share_the_target_and_nothing_else():
    kernel = DeviationKernel(1, (), 1, Sources(2)).double()
    x = torch.tensor([[0.3, 0.0], [0.3, 1.0], [0.3, 2.0]]).double()
    common, variance, level = (kernel.scale(name).detach() for name in ("common_variance", "variance", "level"))
    tau, own = float(common), float(variance[0] + level[0])
    expected = torch.tensor([[tau, tau, tau], [tau, tau + own, tau], [tau, tau, tau + own]]).double()
    assert torch.allclose(kernel.forward(x, x), expected, atol=1e-6)


def test_the_target_is_the_model_at_full_length():
    runs = fit_multi_fidelity(*_runs(31))
    x = torch.rand(5, 1, 2, dtype=torch.float64)
    full = torch.cat([x, torch.ones(5, 1, 1, dtype=torch.float64)], dim=-1)
    assert torch.allclose(runs.target.posterior(x).mean, runs.model.posterior(full).mean)
    assert torch.allclose(runs.project(full * 0.5 + 0.1)[..., -1], torch.ones(5, 1, dtype=torch.float64))
    least = runs.target.posterior(torch.from_numpy(_runs(31)[0]).unsqueeze(-2)).mean.min()
    assert runs.best() == pytest.approx(least.item())


def test_two_fidelities_at_once():
    rng = np.random.default_rng(0)
    X, share = rng.random((41, 2)), rng.choice([0.25, 0.5, 1.0], size=(41, 2))
    losses = _full(X) + (1 - share[:, 0]) + 0.5 * (share[:, 1] ** -0.5 - 1)
    runs = fit_multi_fidelity(X, share, losses)
    T = _grid()
    predicted = runs.target.posterior(torch.from_numpy(T).unsqueeze(-2)).mean.numpy().ravel()
    assert np.corrcoef(predicted, runs.outcome(_full(T)))[0, 1] > 0.97


def test_a_biased_source_tells_of_the_target():
    rng = np.random.default_rng(1)
    X = rng.random((47, 2))
    source = ["cheap"] * 40 + ["true"] * 7
    losses = _full(X) + np.where(np.arange(47) < 40, 0.5 + 0.3 * X[:, 0], 0)
    sources = fit_sources(X, source, losses, target="true")
    T = _grid()
    predicted = sources.target.posterior(torch.from_numpy(T).unsqueeze(-2)).mean.numpy().ravel()
    alone = fit_objective(X[40:], losses[40:], ())
    other = alone.model.posterior(torch.from_numpy(T).unsqueeze(-2)).mean.numpy().ravel()
    scale = alone.outcome.spread * alone.outcome.std / (sources.outcome.spread * sources.outcome.std)
    error, least = (predicted - sources.outcome(_full(T))), scale * (other - alone.outcome(_full(T)))
    assert np.abs(error).mean() < 0.3 * np.abs(least).mean()
    assert sources.labels == ("true", "cheap")
    assert sources.source("cheap") == 1.0
    with pytest.raises(ModelError, match="nobody"):
        sources.source("nobody")


def test_a_target_that_was_never_looked_at_is_uncertain_but_follows_its_sources():
    X, _, _ = _runs(31)
    sources = fit_sources(X, ["a"] * 31, _full(X), target="b")
    T = torch.from_numpy(_grid()).unsqueeze(-2)
    at_b, at_a = sources.target.posterior(T), sources.model.posterior(torch.cat([T, torch.ones(101, 1, 1)], dim=-1))
    assert np.corrcoef(at_b.mean.numpy().ravel(), _full(_grid()))[0, 1] > 0.9
    assert (at_b.variance > at_a.variance).all()


@pytest.mark.parametrize("q", [1, 2])
def test_botorchs_acquisitions_take_the_target(q):
    runs = fit_multi_fidelity(*_runs(31))
    view = runs.target.negated()
    x = torch.rand(3, q, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    baseline = torch.from_numpy(_runs(31)[0][:7])
    values = [qLogNoisyExpectedImprovement(view, baseline, prune_baseline=False)(x)]
    kg = qKnowledgeGradient(view, num_fantasies=3)
    values.append(kg(torch.cat([x, torch.rand(3, 3, 2, dtype=torch.float64)], dim=-2)))
    if q == 1:
        values.append(LogExpectedImprovement(view, best_f=-runs.best())(x))
        ours = LogEIPerCost(runs.target, runs.best(), maximize=False)(x)
        assert torch.allclose(values[-1], ours)
        values.append(qLowerBoundMaxValueEntropy(view, torch.rand(17, 2, dtype=torch.float64))(x))
    for value in values:
        assert value.shape == (3,)
        assert torch.isfinite(torch.autograd.grad(value.sum(), x, retain_graph=True)[0]).all()


@pytest.mark.parametrize(
    ("X", "share", "losses"),
    [
        ([[0.3, 0.4]], [0.5], [1.0]),  # one observation
        ([[0.3, 0.4], [0.5, 0.6], [0.1, 0.2]], [0.5, 1.0, 1.0], [2.0, 2.0, 2.0]),  # constant losses
        ([[0.3, 0.4]] * 3, [0.5, 1.0, 1.0], [2.0, 1.0, 1.1]),  # one point
        ([[0.3, 0.4], [0.5, 0.6], [0.1, 0.2]], [1.0, 1.0, 1.0], [2.0, 1e300, 1.0]),  # full runs only; huge
    ],
)
def test_little_data_gives_a_finite_model(X, share, losses):
    runs = fit_multi_fidelity(X, share, losses)
    posterior = runs.target.posterior(torch.rand(5, 1, 2, dtype=torch.float64))
    assert torch.isfinite(posterior.mean).all()
    assert (posterior.variance > 0).all()


@pytest.mark.parametrize(
    ("share", "losses", "said"),
    [
        ([0.5, 1.0], [1.0, math.nan], "finite losses"),
        ([0.0, 1.0], [1.0, 2.0], r"\(0, 1\]"),
        ([10.0, 27.0], [1.0, 2.0], "divide steps"),
        ([0.5], [1.0, 2.0], "fidelities"),
    ],
)
def test_bad_runs_are_refused(share, losses, said):
    with pytest.raises(ModelError, match=said):
        fit_multi_fidelity([[0.1], [0.2]], share, losses)


def test_a_source_for_each_point():
    with pytest.raises(ModelError, match="2 points, got 1"):
        fit_sources([[0.1], [0.2]], ["a"], [1.0, 2.0], target="a")
