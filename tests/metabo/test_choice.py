"""What `metabo` proposes: the mixture, its weight by evidence, and when the network is not asked."""

import math

import numpy as np
import pytest
import torch
from studies_of import situation

from frugalbo.acquisition.log_ei_per_cost import LogEIPerCost
from frugalbo.errors import FrugalWarning
from frugalbo.metabo.acquisition import choose_metabo, network_chances, process_chances, weight
from frugalbo.metabo.universal import Universal, UniversalShape
from frugalbo.models.objective import fit_objective

SHAPE = UniversalShape(kernels=2, width=14, layers=1, dims_width=10, most_dims=7, most_seen=23)


def network(shape=SHAPE):
    torch.manual_seed(0)
    return Universal(shape).requires_grad_(False)


def bowl(U):
    return ((U - 0.3) ** 2).sum(1)


def test_the_value_is_the_log_of_the_mixed_expected_improvements():
    s, net = situation(bowl, 11, 3), network()
    chosen = choose_metabo(s, net)
    X = s.pool[:9].unsqueeze(-2)
    p, y = chosen.why["network"], s.objective.model.train_targets
    said = net(s.objective.model.train_inputs[0][None], y[None], torch.zeros(3, dtype=torch.bool), X[:, 0][None], False)
    mine = said.log_improvement(s.best())[0].exp()
    process = LogEIPerCost(s.objective.model, s.best(), maximize=False)(X).exp()
    torch.testing.assert_close(chosen.value(X), (p * mine + (1 - p) * process).log(), rtol=1e-3, atol=1e-3)


def test_the_network_counts_by_what_was_left_out():
    s, net = situation(bowl, 11, 3), network()
    mine = network_chances(net, s.objective, torch.arange(3), torch.arange(11))
    theirs = process_chances(s.objective, 3, torch.arange(11))
    ratio = (mine.clamp_min(1e-6) / theirs.clamp_min(1e-6)).log().clamp(-3, 3).sum().item()
    assert float(weight(net, s.objective, torch.arange(3))) == pytest.approx(1 / (1 + math.exp(-ratio)), rel=1e-6)


def test_a_result_is_predicted_without_itself():
    """Whatever the one that is left out says, the density comes from the same prediction."""
    s, net = situation(bowl, 7, 2), network()
    model = s.objective.model
    others, i = torch.tensor([0, 1, 3, 4, 5, 6]), 2
    X, y = model.train_inputs[0], model.train_targets
    none = torch.zeros(2, dtype=torch.bool)
    said = net(X[others][None], y[others][None], none, X[i][None, None], True)
    alone = said.cdf(y[i].float() + 0.05) - said.cdf(y[i].float() - 0.05)
    got = network_chances(net, s.objective, torch.arange(2), torch.tensor([i]))
    assert got.item() == pytest.approx(alone.item(), abs=1e-5)


def test_the_process_is_fitted_without_the_result():
    """As to a task of the others alone, up to where a fit from another start ends."""
    s, i = situation(bowl, 17, 2), 4
    model = s.objective.model
    rest = torch.arange(17) != i
    X, y = model.train_inputs[0], model.train_targets
    without = fit_objective(X[rest].numpy(), y[rest].numpy(), (), outcome=Plain()).model
    at = without.marginals(X[i : i + 1])
    normal = torch.distributions.Normal(at.mean, (at.variance + without.noise).sqrt())
    got = process_chances(s.objective, 2, torch.tensor([i]))
    assert got.item() == pytest.approx((normal.cdf(y[i] + 0.05) - normal.cdf(y[i] - 0.05)).item(), rel=0.05)


class Plain:
    def __call__(self, losses):
        return np.asarray(losses)

    def inverse(self, t):
        return t


def test_a_network_that_is_wrong_about_the_task_counts_for_nothing():
    s, net = situation(bowl, 13, 2), network()
    with torch.no_grad():
        net.predict.bias.copy_(net.bars.normal_logits().flip(0) * 0)
        net.predict.bias[-1] = 30.0  # it expects everything four standard deviations above
    assert float(weight(net, s.objective, torch.arange(2))) < 1e-4
    chosen = choose_metabo(s, net)
    X = s.pool[:9].unsqueeze(-2)
    process = LogEIPerCost(s.objective.model, s.best(), maximize=False)(X)
    best = process.argmax()
    assert chosen.value(X)[best].item() == pytest.approx(process[best].item(), abs=1e-2)


def test_gradients_are_finite():
    s = situation(bowl, 11, 3)
    X = torch.cat([s.pool[:7], s.objective.model.train_inputs[0]]).unsqueeze(-2).requires_grad_(True)
    (gradient,) = torch.autograd.grad(choose_metabo(s, network()).value(X).sum(), X)
    assert torch.isfinite(gradient).all()


def test_above_its_dimensions_the_process_is_asked_with_a_warning():
    s = situation(bowl, 11, 8)
    with pytest.warns(FrugalWarning, match="at most 7 dimensions, the space has 8; the Gaussian process"):
        chosen = choose_metabo(s, network())
    X = s.pool[:9].unsqueeze(-2)
    torch.testing.assert_close(chosen.value(X), LogEIPerCost(s.objective.model, s.best(), maximize=False)(X))
    assert chosen.why["network"] == 0


def test_dimensions_that_never_vary_do_not_count():
    def fixed(U):
        return np.concatenate([U, np.full((len(U), 3), 0.5)], axis=1)

    s, net = situation(bowl, 11, 5, fixed), network()
    chosen = choose_metabo(s, net)
    assert 0 < chosen.why["network"] < 1
    assert torch.isfinite(chosen.value(s.pool[:9].unsqueeze(-2))).all()


def test_beyond_what_it_was_trained_for_the_process_is_asked():
    assert choose_metabo(situation(bowl, 29, 2), network()).why["network"] == 0
