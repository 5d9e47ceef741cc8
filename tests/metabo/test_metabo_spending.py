"""The budget policy as part of what is chosen: where it prices, what it is handed, and whose it is."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from studies_of import situation

from frugalbo.acquisition.hard_budget import HardBudget
from frugalbo.budget.cost_features import Features
from frugalbo.budget.cost_mixture import Component, FittedCost
from frugalbo.errors import WeightsError
from frugalbo.metabo.acquisition import choose_metabo
from frugalbo.metabo.policy import BudgetPolicy, PolicyShape, digest, proposing, save_policy
from frugalbo.metabo.universal import Universal, UniversalShape
from frugalbo.metabo.weights import SHIPPED, shipped
from frugalbo.parameter import Float
from frugalbo.space import Space

SHAPE = UniversalShape(kernels=2, width=14, layers=1, dims_width=10, most_dims=7, most_seen=23)


def network():
    torch.manual_seed(0)
    return Universal(SHAPE).requires_grad_(False)


def policy(size=0.0):
    """Untrained, or one whose correction says something."""
    torch.manual_seed(0)
    made = BudgetPolicy(PolicyShape(width=7))
    torch.nn.init.normal_(made.correct.weight, std=size)
    return made.requires_grad_(False)


def paid(factor=1.0, left=7.0):
    """A situation whose trials cost `factor exp(2 a)` seconds, and `factor left` are left."""
    s = situation(lambda U: ((U - 0.3) ** 2).sum(1), 11, 2)
    features = Features(Space({"a": Float(0, 1), "b": Float(0, 1)}))
    phi = features(s.pool.numpy())
    mean = np.linalg.lstsq(phi, np.log(factor) + 2 * s.pool[:, 0].numpy(), rcond=None)[0]
    known = Component(1.0, 0.0, 1e-3, mean, 1e-9 * np.eye(len(mean)), np.zeros(len(mean)))
    cost = FittedCost(features, [known], 5), 1.0
    return replace(s, cost=cost, alpha=1.0, hard_budget=HardBudget(*cost, factor * left))


def test_untrained_it_is_metabo_with_the_whole_price():
    s, X = paid(), paid().pool.unsqueeze(-2)
    plain, bought = (choose_metabo(s, network(), policy=p) for p in (None, policy()))
    assert bought.why["policy"] == "budget"
    assert "policy" not in plain.why
    apart = bought.value(X) - plain.value(X)
    torch.testing.assert_close(apart, apart[:1].expand_as(apart), rtol=0, atol=1e-4)
    assert plain.value(X).std() > 0.1


def test_trained_it_is_not_and_units_do_not_matter():
    X, plain = paid().pool.unsqueeze(-2), choose_metabo(paid(), network())
    said = choose_metabo(paid(), network(), policy=policy(2.0)).value(X)
    assert (said - plain.value(X)).std() > 0.1
    scaled = choose_metabo(paid(factor=3600.0), network(), policy=policy(2.0)).value(X)
    torch.testing.assert_close(scaled, said, rtol=1e-3, atol=1e-3)


def test_it_looks_at_what_is_left():
    X = paid().pool.unsqueeze(-2)
    much, little = (choose_metabo(paid(left=x), network(), policy=policy(2.0)).value(X) for x in (700.0, 70.0))
    assert (much - little).std() > 0.01  # both pay for all of the pool


def test_without_a_budget_or_costs_improvement_alone_counts():
    s = situation(lambda U: ((U - 0.3) ** 2).sum(1), 11, 2)
    X = s.pool.unsqueeze(-2)
    said = choose_metabo(s, network(), policy=policy(2.0))
    assert "policy" not in said.why
    torch.testing.assert_close(said.value(X), choose_metabo(s, network()).value(X))


def test_gradients_are_finite():
    X = paid().pool.unsqueeze(-2).requires_grad_(True)
    (gradient,) = torch.autograd.grad(choose_metabo(paid(), network(), policy=policy(2.0)).value(X).sum(), X)
    assert torch.isfinite(gradient).all()


def test_a_file_of_a_policy_goes_with_the_network_that_it_was_trained_on(tmp_path):
    right, wrong = str(tmp_path / "right.pt"), str(tmp_path / "wrong.pt")
    save_policy(right, policy(2.0), {"training": {"network": digest(shipped())}})
    save_policy(wrong, policy(2.0), {"training": {"network": digest(network())}})
    held, found = proposing(right)
    assert held.network is shipped()
    assert found is not None
    assert torch.equal(found.correct.weight, policy(2.0).correct.weight)
    assert proposing()[1] is proposing(str(SHIPPED))[1] is None
    with pytest.raises(WeightsError, match=r"a policy for the network .* that ships, got one for"):
        proposing(wrong)
    with pytest.raises(WeightsError, match="cannot read weights"):
        proposing(str(tmp_path / "none.pt"))
