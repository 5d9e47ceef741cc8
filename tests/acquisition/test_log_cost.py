import math

import numpy as np
import pytest
import torch

from frugalbo.acquisition.hard_budget import HardBudget
from frugalbo.acquisition.log_cost import JointLogCost, feature_tensor, learned_log_cost, learned_log_mean_cost
from frugalbo.budget.amounts import Cost
from frugalbo.budget.cost import fit_cost
from frugalbo.events import Ended, Outcome, Started
from frugalbo.problem import Minimize, Problem
from frugalbo.space import Choice, Float, Space
from frugalbo.study import Study

SPACE = Space({"a": Float(0, 1), "c": Choice(["x", "y", "z"]), "b": Float(0, 1)})


@pytest.fixture(scope="module")
def fitted():
    study, rng = Study(Problem("p", SPACE, "m:f", Minimize("loss"))), np.random.default_rng(0)
    for i in range(23):
        params = SPACE.sample(rng)
        steps = (1, 7)[i % 2]
        seconds = 1 + steps * math.exp(2 * (params["a"] > 0.5) * params["b"] + 0.1 * rng.standard_normal())
        study.apply(Started(i, 0, params, 0, steps, steps, Cost(), "s", 0.0))
        study.apply(Ended(i, 0, Outcome.COMPLETED, Cost(device_seconds=seconds), 0.0))
    found = fit_cost(study)
    assert sum(c.weight for c in found.components if c.residual is not None) > 0.05
    assert any(c.startup_s > 0 for c in found.components)
    return found


def _points(n, seed=1):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.array([SPACE.encode(SPACE.sample(rng)) for _ in range(n)]))


def test_on_tensors_it_is_the_model_that_numpy_has(fitted):
    X = _points(11)
    assert learned_log_cost(fitted, 3.0)(X).squeeze(-1).numpy() == pytest.approx(fitted.log_seconds(X.numpy(), 3.0))
    phi = fitted.features(X.numpy())
    mean, variance = fitted.moments(feature_tensor(fitted.features, X), torch)
    for i, c in enumerate(fitted.components):
        expected = c.log_rest(phi, 1.0)
        assert mean[:, i].numpy() == pytest.approx(expected[0])
        assert variance[:, i].sqrt().numpy() == pytest.approx(expected[1])


@pytest.mark.parametrize("kind", ["median", "mean", "chance", "joint"])
def test_gradients_are_right(fitted, kind):
    functions = {
        "median": learned_log_cost(fitted, 3.0),
        "mean": learned_log_mean_cost(fitted, 3.0),
        "chance": HardBudget(fitted, 3.0, 9.0).log_probability,
        "joint": lambda X: JointLogCost(fitted, 3.0).posterior(X).covariance_matrix,
    }
    X = _points(3).unsqueeze(-2).requires_grad_()
    x = X if kind != "joint" else X.squeeze(-2)

    def ordered(ab):  # the choice has no derivative
        return functions[kind](torch.stack([ab[..., 0], x[..., 1].detach(), ab[..., 1]], dim=-1))

    assert torch.autograd.gradcheck(ordered, x[..., [0, 2]].detach().requires_grad_())


def test_the_joint_variance_is_that_of_the_mixture(fitted):
    # E[var] + var[E] over the components, where a component's spread counts as far as steps are its seconds.
    X = _points(5)
    mean, variance = (m.numpy() for m in fitted.moments(feature_tensor(fitted.features, X), torch))
    level = np.log(fitted.startup_s + np.exp(mean))
    share, weight = np.exp(mean - level), fitted.weight
    expected = (share**2 * variance + level**2) @ weight - (level @ weight) ** 2
    found = JointLogCost(fitted, 1.0).posterior(X, observation_noise=True)
    assert found.variance.squeeze(-1).numpy() == pytest.approx(expected, rel=1e-6)
    assert found.mean.squeeze(-1).numpy() == pytest.approx(level @ weight)


def test_near_points_stand_and_fall_together_beyond_what_the_regression_says(fitted):
    a, b, far = (torch.tensor([[x, 0.5, 0.52]], dtype=torch.float64) for x in (0.9, 0.91, 0.1))
    covariance = JointLogCost(fitted, 1.0).posterior(torch.cat([a, b, far])).covariance_matrix
    sd = covariance.diagonal().sqrt()
    assert covariance[0, 1] / sd[0] / sd[1] > 0.97
    assert covariance[0, 2] / sd[0] / sd[2] < 0.8
