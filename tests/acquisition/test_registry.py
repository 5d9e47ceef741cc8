"""What every acquisition must do, whatever it is. What a suggestion must be is in `tests/propose/test_methods.py`."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import frugalbo.propose
from frugalbo.acquisition import registry
from frugalbo.acquisition.hard_budget import HardBudget
from frugalbo.acquisition.registry import ACQUISITIONS, SLATES, Situation, choose, choose_slate
from frugalbo.budget.cost_features import Features
from frugalbo.budget.cost_mixture import FittedCost
from frugalbo.constraint import OutcomeConstraint
from frugalbo.explanation import _METHODS
from frugalbo.models.constraint import fit_constraint
from frugalbo.models.feasibility import FeasibilityGP
from frugalbo.models.objective import Objective, fit_objective
from frugalbo.propose import LIGHT, METHODS
from frugalbo.space import Float, Space

EACH = pytest.mark.parametrize("name", ACQUISITIONS)
ON_POOL = {"ts"}
KNOW_COSTS = {"bo", "pbgi"}
SPACE = Space({"a": Float(0, 1), "b": Float(0, 1), "c": Float(0, 1)})
# The point that is asked about and a pending one may be the same.
pytestmark = pytest.mark.filterwarnings("ignore:A not p.d., added jitter of 1.0e-08")


def _data(n=13, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.random((n, 3))
    return X, ((X - 0.3) ** 2).sum(1) + 0.05 * rng.standard_normal(n)


def _cost(slope=3.0):
    """Grows by exp(slope) with the first knob."""
    weights = np.array([1.0, slope, 0, 0, 0, 0, 0])
    return FittedCost.regression(Features(SPACE), weights, 0.1, 9), 1.0


def _situation(objective=None, pending=None, **fields):
    objective = objective or fit_objective(*_data(), ())
    pool = torch.from_numpy(np.random.default_rng(1).random((97, 3)))
    pending = pool[:0] if pending is None else pending
    believing = objective.believing(pending.numpy()) if len(pending) else objective
    return replace(
        Situation(believing, objective, pending, pool, _cost(), 0.5, None, None, 0),
        **fields,  # type: ignore[arg-type]
    )


def _values(name, situation):
    """On the pool."""
    chosen = choose(name, situation)
    with torch.no_grad():
        return chosen.value(situation.pool.unsqueeze(-2)) if chosen.on_pool is None else chosen.on_pool


def _table(text):
    """The names in the first column of a table in Markdown."""
    return {name for row in re.findall(r"^\| (`[^|]*)\|", text, re.M) for name in re.findall(r"`(\w+)`", row)}


def test_every_name_is_where_users_look():
    root = Path(frugalbo.__file__).parents[1]
    assert _table(registry.__doc__) == set(ACQUISITIONS)
    assert set(METHODS) == {"auto", "metabo", *ACQUISITIONS, *LIGHT}
    assert _table(frugalbo.propose.__doc__) == set(METHODS)
    assert set(_METHODS) == set(METHODS) - {"auto"} | {"own"}  # a configuration that the user asked for
    assert set(SLATES) <= set(ACQUISITIONS)
    readme = (root / "README.md").read_text()
    methods = readme[readme.index("## Methods") : readme.index("## Stop before")]
    assert _table(methods) == set(METHODS) - {"logei"}  # another word for `ei`
    help_ = re.search(r'"--method".*?help="([^"]*)"', (root / "frugalbo/cli.py").read_text(), re.S)
    assert set(help_[1].split(", ")) == set(METHODS) - {"logei"}


@EACH
@pytest.mark.parametrize("n", [2, 13, 60])
def test_values_and_gradients_are_finite(name, n):
    objective = fit_objective(*_data(n), ())
    situation = _situation(objective, torch.from_numpy(_data(3, seed=5)[0]))
    chosen = choose(name, situation)
    known = torch.cat([situation.pool, objective.model.train_inputs[0], situation.pending])
    X = known.unsqueeze(-2).requires_grad_(True)
    values = chosen.value(X)
    (gradient,) = torch.autograd.grad(values.sum(), X)
    assert values.shape == (len(known),)
    assert values.isfinite().all()
    assert gradient.isfinite().all()
    assert (chosen.on_pool is not None) == (name in ON_POOL)


@EACH
def test_the_gradient_is_that_of_the_value(name):
    X, _ = _data()
    feasibility = FeasibilityGP(X, [u[1] < 0.7 for u in X], ())
    situation = _situation(
        pending=torch.from_numpy(_data(2, seed=5)[0]), feasibility=feasibility, hard_budget=HardBudget(*_cost(), 5.0)
    )
    value = choose(name, situation).value
    P = situation.pool[:4].unsqueeze(-2).requires_grad_(True)
    assert torch.autograd.gradcheck(value, P, eps=1e-6, atol=1e-4, rtol=1e-3)


@EACH
def test_the_order_of_what_was_seen_does_not_matter(name):
    objective = fit_objective(*_data(), ())
    order = torch.randperm(13, generator=torch.Generator().manual_seed(0))
    model = objective.model
    shuffled = model.with_data(model.train_inputs[0][order], model.train_targets[order])
    other = Objective(shuffled, objective.outcome, objective.fit)
    pending = torch.from_numpy(_data(3, seed=5)[0])
    # Joint draws of pending points have a dimension for each, so there the same in another order is another draw.
    again = pending if name in {"qei", "nei"} else pending.flip(0)
    a, b = _values(name, _situation(objective, pending)), _values(name, _situation(other, again))
    assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


@EACH
def test_only_the_seed_moves_what_is_sampled(name):
    situation = _situation()
    torch.manual_seed(1)
    first = _values(name, situation)
    torch.manual_seed(2)
    assert torch.equal(_values(name, situation), first)


@EACH
def test_what_is_pending_is_worth_less(name):
    alone = _situation()
    best = int(_values(name, alone).argmax())
    busy = _situation(pending=alone.pool[[best]])
    values = _values(name, busy)
    if name in ON_POOL:  # what is pending is not new, so there is no need
        assert (values[best] - _values(name, alone)[best]).abs() > 1e-3
        return
    assert int(values.argmax()) != best
    assert values[best] < _values(name, alone)[best]


@EACH
def test_chances_count(name):
    X, _ = _data()
    failing = FeasibilityGP(X, [bool(u[1] < 0.5) for u in X], ())
    plain, chanced = _values(name, _situation()), _values(name, _situation(feasibility=failing))
    P = _situation().pool.unsqueeze(-2)
    with torch.no_grad():
        log_chance = failing.log_probability(P)
    assert log_chance.min() < -1 < -0.2 < log_chance.max()
    if name in {"kg", "mes", "jes", "pes"}:
        expected = torch.where(plain > 0, plain * log_chance.exp(), plain)
    elif name in {"pbgi", "bmsei"}:  # the price changes with what is still worth it; later trials may fail, too
        assert (chanced[log_chance < -1] < plain[log_chance < -1]).all()
        return
    else:
        expected = plain + log_chance
    assert torch.allclose(chanced, expected, atol=1e-8)


@EACH
def test_a_hard_budget_counts(name):
    tight = _situation(hard_budget=HardBudget(*_cost(), 2.0))
    P = tight.pool
    cheap, dear = P[:, 0] < 0.3, P[:, 0] > 0.9
    lost = _values(name, _situation()) - _values(name, tight)
    assert lost[dear].mean() > lost[cheap].mean()
    assert (lost > -1e-8).all()


@EACH
def test_those_that_know_costs_prefer_the_cheap(name):
    flat, steep = _values(name, _situation(cost=_cost(0.0))), _values(name, _situation(cost=_cost(5.0)))
    change = steep - flat
    first = _situation().pool[:, 0]
    if name in KNOW_COSTS:
        assert torch.corrcoef(torch.stack([first, change]))[0, 1] < -0.5
    else:
        assert torch.equal(flat, steep)


@EACH
def test_a_batch_of_points_is_one_point_at_a_time(name):
    situation = _situation(pending=torch.from_numpy(_data(3, seed=5)[0]))
    value, X = choose(name, situation).value, situation.pool[:11].unsqueeze(-2)
    assert torch.allclose(value(X), torch.cat([value(x.unsqueeze(0)) for x in X]), atol=1e-8)


@EACH
def test_a_pool_that_meets_no_constraint_is_no_reason_to_forget_the_constraint(name):
    # Only two of the known points, with a first knob above 0.8, meet it, and none of the pool.
    X, _ = _data(60)
    constraint = fit_constraint(OutcomeConstraint("m", ">=", 0.8), X, X[:, 0], ())
    pool = _situation().pool
    objective = fit_objective(*_data(60), ())
    situation = _situation(objective, pool=pool[pool[:, 0] < 0.6], constraints=(constraint,))
    assert situation.best() is not None
    values = _values(name, situation)
    assert values.isfinite().all()
    # The best of what is left is likelier to meet it than most.
    assert situation.pool[values.argmax(), 0] > situation.pool[:, 0].median()


@pytest.mark.parametrize("name", ["qei", "nei"])
def test_while_only_what_is_pending_may_meet_the_constraints_their_chance_is_all(name):
    X, losses = _data(13)
    keep = X[:, 0] < 0.7
    constraint = fit_constraint(OutcomeConstraint("m", ">=", 0.75), X[keep], X[keep, 0], ())
    pending = torch.tensor([[0.95, 0.3, 0.3]], dtype=torch.float64)
    situation = _situation(fit_objective(X[keep], losses[keep], ()), pending, constraints=(constraint,))
    assert situation.best() is not None
    assert choose(name, situation).why == {"stage": "feasibility"}


def test_a_slate_is_the_best_of_each_of_its_draws():
    situation = _situation()
    slate = choose_slate("ts", situation, 5)
    assert slate.on_pool.argsort(descending=True)[0] == choose("ts", situation).on_pool.argmax()
    assert sorted(slate.on_pool.tolist()) == list(range(-96, 1))
    assert torch.equal(slate.on_pool, choose_slate("ts", situation, 5).on_pool)


@EACH
def test_the_order_of_a_large_pool_does_not_matter(name):
    # Here it is sorted, so that its first half is one half of the space; optima are sampled all over.
    if name in ON_POOL or name == "bmsei":
        return  # what is drawn goes along the pool
    pool = torch.from_numpy(np.unique(np.random.default_rng(0).random((1200, 3)), axis=0))
    values = [_values(name, _situation(pool=p)) for p in (pool, pool.flip(0))]
    assert torch.allclose(values[0], values[1].flip(0), atol=1e-6)
