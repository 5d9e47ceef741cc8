import math

import numpy as np
import pytest
import torch
from botorch.acquisition import LogExpectedImprovement
from botorch.acquisition.knowledge_gradient import qKnowledgeGradient
from botorch.acquisition.logei import qLogExpectedImprovement

from frugalbo.acquisition.log_ei_per_cost import LogEIPerCost
from frugalbo.errors import FrugalWarning, ModelError
from frugalbo.models.multi_task import TaskGP, _fit, fit_multi_task, leave_one_out
from frugalbo.models.objective import ObjectiveGP, fit_objective

SOURCE, TARGET = 23, 11


def _target(X):
    return np.sin(6 * X[:, 0]) + 3 * (X[:, 1] - 0.3) ** 2


SOURCES = {
    "same in other units": lambda X: 1e4 * _target(X) + 7e5,
    "opposite": lambda X: -_target(X),
    "unrelated": lambda X: np.sin(17 * X[:, 1]) * np.cos(9 * X[:, 0]),
    "rough": lambda X: np.sin(40 * X[:, 0] * X[:, 1]),
}


def _data(source, seed, n=TARGET):
    rng = np.random.default_rng(seed)
    S, X = rng.random((SOURCE, 2)), rng.random((n, 2))
    return np.vstack([S, X]), np.r_[SOURCES[source](S), _target(X)], ["before"] * SOURCE + ["now"] * n


def _log_density(tasks, model):
    """Of what the target is at 101 other points, mean, with the noise that outcomes have at least."""
    T = np.random.default_rng(99).random((101, 2))
    with torch.no_grad():
        posterior = model.posterior(torch.from_numpy(T).unsqueeze(-2))
    mean, variance = posterior.mean.numpy().ravel(), posterior.variance.numpy().ravel() + 0.01
    error = tasks.outcome(_target(T)) - mean
    return float((-0.5 * (error**2 / variance + np.log(variance) + math.log(2 * math.pi))).mean())


def _gain(source, seed):
    X, losses, task = _data(source, seed)
    tasks = fit_multi_task(X, losses, task, target="now")
    alone = fit_objective(X[SOURCE:], losses[SOURCE:], ())
    return _log_density(tasks, tasks.model) - _log_density(tasks, alone.model)


@pytest.mark.slow
def test_a_task_that_fits_helps_in_whatever_units_it_is():
    gains = [_gain("same in other units", seed) for seed in range(7)]
    # In one of them the sources are left out, in one they mislead: each task's outcomes are bent at a median of
    # its own. Were help and harm equally likely, 5 of 7 or more had a chance of 29 in 128.
    assert sum(gain > 0 for gain in gains) >= 5
    assert np.mean(gains) > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("source", ["opposite", "unrelated", "rough"])
def test_a_task_that_does_not_fit_costs_little(source):
    gains = [_gain(source, seed) for seed in range(5)]
    assert np.mean(gains) > -0.15
    assert min(gains) > -0.5


def test_two_sources_of_which_one_fits():
    rng = np.random.default_rng(3)
    X = rng.random((45, 2))
    task = ["bad"] * 17 + ["good"] * 17 + ["now"] * 11
    losses = np.r_[SOURCES["rough"](X[:17]), SOURCES["same in other units"](X[17:34]), _target(X[34:])]
    tasks = fit_multi_task(X, losses, task, target="now")
    assert tasks.used == ("bad", "good")
    assert tasks.correlation["good"] > tasks.correlation["bad"] + 0.1


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_the_posterior_is_that_of_botorchs_model():
    X, losses, task = _data("same in other units", 1)
    index = np.array([float(t == "before") for t in task])
    fitted = _fit(X, index, losses / np.where(index > 0, 1e4, 1) - 70 * index, (), 2)
    x = torch.rand(5, 2, 2, dtype=torch.float64)
    for i in (0.0, 1.0):
        at = torch.cat([x, torch.full((5, 2, 1), i, dtype=torch.float64)], dim=-1)
        shift = (
            0
            if i == 0
            else float(fitted.mean_module.base_means[1].constant - fitted.mean_module.base_means[0].constant)
        )
        theirs, ours = fitted.likelihood(fitted(at), at), TaskGP(fitted).posterior(at, observation_noise=True)
        assert torch.allclose(theirs.mean, ours.mean.squeeze(-1) + shift, atol=1e-6)
        assert torch.allclose(theirs.covariance_matrix, ours.distribution.covariance_matrix, atol=1e-5)


def test_leaving_one_out_is_predicting_it_from_the_others():
    # Two observations, correlation 1/2, variance 1, values 1 and 2: each is N(half the other, 3/4);
    # log N(1; 1, .75) = -.5 log(2 pi .75) = -0.77510, log N(2; 0.5, .75) = -0.77510 - 2.25 / 1.5 = -2.27510.
    K = torch.tensor([[1.0, 0.5], [0.5, 1.0]]).double()
    assert leave_one_out(K, torch.tensor([1.0, 2.0]).double()).tolist() == pytest.approx([-0.77510, -2.27510], abs=1e-4)


def test_the_first_two_looks_at_a_problem_trust_the_past():
    X, losses, task = _data("same in other units", 0, n=2)
    tasks = fit_multi_task(X, losses, task, target="now")
    assert tasks.used == ("before",)
    best = X[:SOURCE][losses[:SOURCE].argmin()]
    worst = X[:SOURCE][losses[:SOURCE].argmax()]
    mean = tasks.model.posterior(torch.from_numpy(np.stack([best, worst])).unsqueeze(-2)).mean.ravel()
    assert mean[0] < mean[1]


def test_without_sources_it_is_the_single_model():
    X, losses, _ = _data("rough", 0)
    tasks = fit_multi_task(X[SOURCE:], losses[SOURCE:], ["now"] * TARGET, target="now")
    alone = fit_objective(X[SOURCE:], losses[SOURCE:], ())
    x = torch.rand(5, 1, 2, dtype=torch.float64)
    assert isinstance(tasks.model, ObjectiveGP)
    assert torch.equal(tasks.model.posterior(x).mean, alone.model.posterior(x).mean)
    assert tasks.used == ()


def test_categories_are_known_to_the_model_of_tasks():
    X, losses, task = _data("same in other units", 1)
    X[:, 1] = (np.floor(X[:, 1] * 3) + 0.5) / 3
    losses = np.where(np.arange(len(X)) < SOURCE, 10, 1) * _target(X)
    tasks = fit_multi_task(X, losses, task, target="now", categorical=(1,))
    x = np.array([[0.3, 1 / 6], [0.3, 5 / 6]])
    mean = tasks.model.posterior(torch.from_numpy(x).unsqueeze(-2)).mean.ravel()
    assert np.abs(mean.numpy() - tasks.outcome(_target(x))).max() < 0.3


def test_acquisitions_take_the_target():
    tasks = fit_multi_task(*_data("same in other units", 0), target="now")
    view = tasks.model.negated()
    x = torch.rand(3, 1, 2, dtype=torch.float64, requires_grad=True)
    one_shot = torch.cat([x, torch.rand(3, 3, 2, dtype=torch.float64)], dim=-2)
    values = [
        LogExpectedImprovement(view, best_f=1.0)(x),
        qLogExpectedImprovement(view, best_f=1.0, X_pending=torch.rand(2, 2, dtype=torch.float64))(x),
        LogEIPerCost(tasks.model, -1.0, maximize=False)(x),
        qKnowledgeGradient(view, num_fantasies=3)(one_shot),
    ]
    assert torch.allclose(values[0], values[2])
    for value in values:
        assert value.shape == (3,)
        assert torch.isfinite(torch.autograd.grad(value.sum(), x, retain_graph=True)[0]).all()


@pytest.mark.parametrize(
    ("losses", "task", "said"),
    [
        ([1.0, 2.0], ["a", "a"], "target task 'now'"),
        ([1.0, math.nan], ["a", "now"], "row 1"),
        ([1.0, 2.0], ["now"], "2 points, got 1"),
    ],
)
def test_bad_tasks_are_refused(losses, task, said):
    with pytest.raises(ModelError, match=said):
        fit_multi_task([[0.1], [0.2]], losses, task, target="now")


@pytest.mark.parametrize("losses", [[3.0] * 7 + [1.0], [3.0] * 7 + [1e300], [1.0, 2.0, 1e18, 4.0, 5.0, 6.0, 7.0, 0.0]])
def test_constant_tasks_huge_losses_and_one_look_give_a_finite_model(losses):
    X = np.random.default_rng(0).random((8, 2))
    tasks = fit_multi_task(X, losses, ["before"] * 7 + ["now"], target="now")
    posterior = tasks.model.posterior(torch.rand(5, 1, 2, dtype=torch.float64))
    assert torch.isfinite(posterior.mean).all()
    assert (posterior.variance > 0).all()


def test_a_fit_that_fails_says_so_and_what_took_its_place(monkeypatch):
    monkeypatch.setattr("frugalbo.models.multi_task.maximise", lambda *_: (-math.inf, "nothing is finite"))
    with pytest.warns(FrugalWarning, match=r"nothing is finite.*modelled alone"):
        tasks = fit_multi_task(*_data("rough", 0), target="now")
    assert tasks.used == ()
