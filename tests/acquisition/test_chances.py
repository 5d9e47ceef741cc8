"""Chances as factors of acquisitions, and what becomes of the best where a constraint is not met."""

import math

import numpy as np
import pytest
import torch
from botorch.acquisition.analytic import LogConstrainedExpectedImprovement
from botorch.models import ModelListGP

from frugalbo.acquisition.chances import log_chances
from frugalbo.acquisition.constrained_max_value import ConstrainedMaxValueEntropy
from frugalbo.acquisition.log_ei_per_cost import LogEIPerCost
from frugalbo.acquisition.registry import ACQUISITIONS, Situation, choose
from frugalbo.constraint import OutcomeConstraint
from frugalbo.models.constraint import fit_constraint
from frugalbo.models.objective import fit_objective

AT_MOST = OutcomeConstraint("sum", "<=", 0.9)
AT_LEAST = OutcomeConstraint("product", ">=", 0.1)


@pytest.fixture
def known():
    return np.random.default_rng(0).random((17, 2))


def _models(known):
    objective = fit_objective(known, ((known - 0.7) ** 2).sum(1), ())
    constraints = (
        fit_constraint(AT_MOST, known, known.sum(1), ()),
        fit_constraint(AT_LEAST, known, known.prod(1), ()),
    )
    return objective, constraints


def _points(n, seed=0):
    return torch.rand(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _situation(known, bound=0.9):
    objective, _ = _models(known)
    constraint = fit_constraint(OutcomeConstraint("sum", "<=", bound), known, known.sum(1), ())
    empty = torch.empty((0, 2), dtype=torch.float64)
    return Situation(objective, objective, empty, _points(257), None, 0.0, None, None, 0, constraints=(constraint,))


def test_it_is_botorchs_constrained_expected_improvement_for_independent_models(known):
    objective, constraints = _models(known)
    X = _points(31).unsqueeze(-2)
    ours = LogEIPerCost(objective.model, -0.5, None, 0.0, chances=constraints, maximize=False)
    theirs = LogConstrainedExpectedImprovement(
        ModelListGP(objective.model, *(c.excess.model for c in constraints)),
        best_f=-0.5,
        objective_index=0,
        constraints={i + 1: (None, c.bound) for i, c in enumerate(constraints)},
        maximize=False,
    )
    assert torch.allclose(ours(X), theirs(X), atol=1e-6)
    assert float(log_chances(constraints, X).min()) < -1  # the factors are not all near 1


def test_no_chances_are_certainty(known):
    X = _points(7).unsqueeze(-2)
    assert torch.equal(log_chances((), X), torch.zeros(7, dtype=torch.float64))
    assert (log_chances(_models(known)[1], X) <= 0).all()


def test_the_best_is_the_best_mean_among_points_likely_to_be_feasible(known):
    situation = _situation(known)
    means = situation.objective.model.posterior(torch.from_numpy(known).unsqueeze(-2)).mean.reshape(-1)
    inside = torch.from_numpy(known.sum(1) <= 0.9)
    assert situation.best() == pytest.approx(float(means[inside].min()), abs=1e-9)
    assert situation.best() > situation.objective.best()


def test_constrained_max_value_entropy_is_its_formula_by_sampling(known):
    # Z is the probability that a look shows a feasible value above f*: by 10^6 draws of each model.
    objective, constraints = _models(known)
    model, X = objective.model.negated(), _points(5, 4).unsqueeze(-2)
    best = torch.tensor([0.3, -math.inf, 1.1], dtype=torch.float64)
    value = ConstrainedMaxValueEntropy(model, constraints, best)(X)
    normal = torch.randn(3, 10**6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for x, found in zip(X, value, strict=True):
        f, *g = (
            float(p.mean) + float(p.variance.sqrt()) * z
            for m, z in zip((model, *(c.excess.model for c in constraints)), normal, strict=True)
            for p in (m.posterior(x.unsqueeze(0)),)
        )
        met = (g[0] <= constraints[0].bound) & (g[1] <= constraints[1].bound)
        expected = [-math.log1p(-min(1 - 1e-12, float((met & (f >= b)).double().mean()))) for b in best.tolist()]
        assert float(found) == pytest.approx(sum(expected) / 3, rel=0.02, abs=2e-3)


def test_constrained_max_value_entropy_ignores_what_is_sure_to_be_infeasible(known):
    # Far better than any feasible value, and infeasible: the unconstrained bound is largest there.
    objective, constraints = _models(known)
    X = torch.tensor([[[0.7, 0.7]], [[0.45, 0.45]]], dtype=torch.float64)
    best = torch.tensor([-0.5], dtype=torch.float64)
    infeasible, at_the_bound = ConstrainedMaxValueEntropy(objective.model.negated(), constraints, best)(X).tolist()
    assert infeasible < 0.01 * at_the_bound


@pytest.mark.parametrize("method", ACQUISITIONS)
def test_where_nothing_is_feasible_the_value_is_the_chance_alone(known, method):
    situation = _situation(known, bound=0.05)
    assert situation.best() is None
    chosen = choose(method, situation)
    X = _points(13, 3).unsqueeze(-2)
    assert chosen.why["stage"] == "feasibility"
    assert torch.equal(chosen.value(X), situation.log_chances(X))


@pytest.mark.parametrize("method", ACQUISITIONS)
def test_every_method_prefers_what_is_likely_feasible(known, method):
    # The loss falls towards (0.7, 0.7), where the sum is 1.4; at most 0.9 is allowed.
    situation = _situation(known)
    chosen = choose(method, situation)
    values = chosen.on_pool if chosen.on_pool is not None else chosen.value(situation.pool.unsqueeze(-2))
    best = situation.pool[: len(values)][int(values.argmax())]
    assert float(best.sum()) < 1.0
    assert math.isfinite(float(values.max()))
