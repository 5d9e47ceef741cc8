"""The budget policy: what it is before it is trained, what it does not depend on, and what it never buys."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frugalbo.errors import WeightsError
from frugalbo.metabo.policy import BudgetPolicy, Outlook, PolicyShape, Purse, Reference, facts, load_policy, save_policy
from frugalbo.metabo.priors import Prior
from frugalbo.metabo.purchases import draw, spend
from frugalbo.metabo.universal import Universal, UniversalShape
from frugalbo.metabo.weights import SHIPPED, load

SHAPE = UniversalShape(kernels=2, width=14, layers=1, dims_width=10, refinements=1, buckets=34, most_dims=7)
PRIOR = Prior(most_dims=5, batch=3)


def network():
    torch.manual_seed(0)
    return Universal(SHAPE).requires_grad_(False)


def trained(seed=0):
    """A policy whose correction says something."""
    torch.manual_seed(seed)
    policy = BudgetPolicy(PolicyShape(width=11))
    torch.nn.init.normal_(policy.correct.weight, std=2.0)
    return policy.requires_grad_(False)


def state(seed=0, b=3, n=13):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    outlook = Outlook(normal(b, n) - 2, normal(b, n), 0.3 * normal(b, n))
    purse = Purse(normal(b, n), normal(b) + 1, torch.rand(b, generator=g, dtype=torch.float64), torch.full((b,), 7.0))
    return outlook, purse


def score(policy, outlook, purse):
    allowed = purse.log_cost <= purse.log_left.unsqueeze(-1)
    return policy(outlook, purse, Reference.of(outlook, purse, allowed))


def test_untrained_it_is_log_expected_improvement_per_cost():
    outlook, purse = state()
    said = score(BudgetPolicy(), outlook, purse)
    expected = outlook.log_improvement - purse.log_cost
    # A constant of the state chooses nothing.
    torch.testing.assert_close(said - said[:, :1], (expected - expected[:, :1]).float(), rtol=1e-5, atol=1e-5)


def test_it_does_not_depend_on_the_order_of_candidates():
    outlook, purse = state()
    order = torch.randperm(13, generator=torch.Generator().manual_seed(1))
    moved = Outlook(*(t[:, order] for t in (outlook.log_improvement, outlook.gain, outlook.log_sd)))
    after = score(trained(), moved, Purse(purse.log_cost[:, order], purse.log_left, purse.share, purse.seen))
    torch.testing.assert_close(after, score(trained(), outlook, purse)[:, order], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("factor", [1e-6, 3600.0])
def test_it_does_not_depend_on_the_units_of_cost_and_budget(factor):
    outlook, purse = state()
    log = math.log(factor)
    scaled = Purse(purse.log_cost + log, purse.log_left + log, purse.share, purse.seen)
    torch.testing.assert_close(
        score(trained(), outlook, scaled), score(trained(), outlook, purse), rtol=1e-5, atol=1e-5
    )


def test_its_facts_are_those_of_the_definition():
    """One state of two candidates, by hand: costs 1 and 4, 8 of 16 left, after exp(2) results."""
    outlook = Outlook(torch.tensor([[-2.0, -4.0]]), torch.tensor([[-1.0, 0.5]]), torch.tensor([[0.0, math.log(0.5)]]))
    purse = Purse(
        torch.tensor([[0.0, math.log(4)]]), torch.tensor([math.log(8)]), torch.tensor([0.5]), torch.tensor([math.e**2])
    )
    reference = Reference.of(outlook, purse, torch.tensor([[True, True]]))
    mean, ln2 = math.log(0.5) / 2, math.log(2)  # the median of two is the smaller one
    first = [-0.5, 0, -0.5, -mean, -1.5 * ln2, 0, 0, 0]
    second = [-1.0, -0.5, 0.5, mean, -0.5 * ln2, ln2, 0, 0]
    torch.testing.assert_close(facts(outlook, purse, reference), torch.tensor([[first, second]]))


@settings(max_examples=7, deadline=None)
@given(seed=st.integers(0, 999), temperature=st.sampled_from([0.0, 0.25]))
def test_nothing_is_bought_that_cannot_be_paid_or_is_there_already(seed, temperature):
    tasks = draw(PRIOR, seed, 0, 23).repeated(2)
    steps, _ = spend(network(), trained(seed), tasks, 11, temperature, torch.Generator().manual_seed(seed))
    spent, bought = torch.zeros_like(tasks.left), [set(row.tolist()) for row in tasks.initial]
    for at in steps:
        for episode, action in zip(at.episode.tolist(), at.action.tolist(), strict=True):
            assert action not in bought[episode]
            bought[episode].add(action)
            spent[episode] += tasks.log_cost[episode, action].exp()
    assert (spent <= tasks.left * (1 + 1e-9)).all()
    cheapest_left = [
        min((tasks.log_cost[i, j].exp() for j in range(23) if j not in b), default=math.inf)
        for i, b in enumerate(bought)
    ]
    # It goes on as long as anything fits, up to so many results.
    assert all(
        len(b) == 11 or cost > left for b, cost, left in zip(bought, cheapest_left, tasks.left - spent, strict=True)
    )


def test_costs_are_in_mean_costs_and_spread_by_up_to_two_decades():
    spreads = []
    for i in range(20):
        tasks = draw(PRIOR, 0, i, 101)
        torch.testing.assert_close(tasks.log_cost.exp().mean(1), torch.ones(3, dtype=torch.float64))
        low, high = torch.quantile(tasks.log_cost, torch.tensor([0.05, 0.95], dtype=torch.float64), dim=1)
        spreads += ((high - low) / math.log(10)).tolist()
    assert min(spreads) == pytest.approx(0, abs=1e-12)
    assert 1.2 < max(spreads) < 2.6  # the quantiles of what is no normal are not quite two decades apart


@pytest.mark.parametrize(("along", "sign"), [(-1.0, -1), (1.0, 1)])
def test_good_is_dear_or_cheap_as_was_asked(along, sign):
    together = []
    for i in range(20):
        tasks = draw(PRIOR, 0, i, 101, (along,))
        spread = tasks.log_cost.std(1) > 0.01
        ranks = [t[spread].argsort(1).argsort(1).double() for t in (tasks.log_cost, tasks.y)]
        together += [float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in zip(*ranks, strict=True)]
    assert sign * sum(together) / len(together) > 0.3


def test_weights_survive_the_disk_and_others_are_refused(tmp_path):
    policy = trained()
    save_policy(tmp_path / "p.pt", policy, {"seed": 5})
    found = load_policy(tmp_path / "p.pt")
    assert found.made == {"seed": 5}
    assert torch.equal(score(found.policy, *state()), score(policy, *state()))
    with pytest.raises(
        WeightsError, match=r"to be a file of frugalbo\.metabo\.policy/1, got 'frugalbo\.metabo\.universal/1'"
    ):
        load_policy(str(SHIPPED))
    with pytest.raises(WeightsError, match=r"to be a file of frugalbo\.metabo\.universal/1"):
        load(tmp_path / "p.pt")
    torch.nn.init.constant_(policy.hidden.bias, math.nan)
    save_policy(tmp_path / "nan.pt", policy, {})
    with pytest.raises(WeightsError, match="not all numbers"):
        load_policy(tmp_path / "nan.pt")
