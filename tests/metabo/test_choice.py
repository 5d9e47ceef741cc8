"""What `metabo` proposes: the mixture, its weight by evidence, and when the network is not asked."""

import math

import numpy as np
import pytest
import torch
from studies_of import situation

from frugalbo.acquisition.log_ei_per_cost import LogEIPerCost
from frugalbo.errors import FrugalWarning
from frugalbo.metabo.acquisition import choose_metabo, network_chances, process_chances, weight, weights
from frugalbo.metabo.nearness import matern
from frugalbo.metabo.past import Past, PastModel, PastStudies
from frugalbo.metabo.universal import Universal, UniversalShape
from frugalbo.models.objective import fit_objective
from frugalbo.parameter import Float
from frugalbo.space import Space

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


def test_noise_that_is_known_is_told_to_the_network():
    rng, net, none = np.random.default_rng(0), network(), torch.zeros(2, dtype=torch.bool)
    X = rng.random((7, 2))
    objective = fit_objective(X, bowl(X), (), noise=np.linspace(0.001, 0.05, 7))
    model, others, i = objective.model, torch.tensor([0, 1, 3, 4, 5, 6]), 2
    U, y, known = model.train_inputs[0], model.train_targets, model.likelihood.noise
    fit = net.read(U[others][None], y[others][None], none, known[others][None])
    said = net.answer(fit, U[i][None, None], True, known[i][None, None])
    alone = said.cdf(y[i].float() + 0.05) - said.cdf(y[i].float() - 0.05)
    got = network_chances(net, objective, torch.arange(2), torch.tensor([i]))
    assert got.item() == pytest.approx(alone.item(), abs=1e-5)
    assert known.max() > 0.1


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


def past_of(function, d, names=("a",)):
    """A study of this function on the cube."""
    space = Space({f"x{i}": Float(0, 1) for i in range(d)})
    Z = torch.from_numpy(np.random.default_rng(9).random((67, d)))
    ones, none = torch.ones(d, dtype=torch.float64), torch.zeros(d, dtype=torch.bool)
    y = torch.as_tensor(function(Z)).reshape(-1, 1)
    weights = torch.linalg.solve(matern(Z, Z, ones, none) + 1e-8 * torch.eye(67), y)
    studies = PastStudies(names, space, Z, ones, weights, torch.zeros(1, dtype=torch.float64), Z[0])
    return Past.of([studies], space)


def test_the_past_is_the_third_of_the_mixture():
    s, net, past = situation(bowl, 11, 3), network(), past_of(bowl, 3)
    chosen = choose_metabo(s, net, past)
    X, model = s.pool[:9].unsqueeze(-2), s.objective.model
    p = weights(net, s.objective, torch.arange(3), PastModel(past, model.seen, model.train_targets))
    assert [chosen.why["network"], chosen.why["past"]] == p[1:].numpy().round(4).tolist()
    none = torch.zeros(3, dtype=torch.bool)
    said = net(model.seen[None], model.train_targets[None], none, X[:, 0][None], False).log_improvement(s.best())[0]
    earlier = PastModel(past, model.seen, model.train_targets).log_improvement(X[:, 0], s.best())
    process = LogEIPerCost(model, s.best(), maximize=False)(X)
    expected = torch.logsumexp(p.log().unsqueeze(-1) + torch.stack([process, said.double(), earlier]), dim=0)
    torch.testing.assert_close(chosen.value(X), expected, rtol=1e-3, atol=1e-3)


def test_a_past_that_holds_counts_and_one_that_does_not_counts_for_little():
    s, net = situation(bowl, 11, 3), network()
    fits, odd = (choose_metabo(s, net, past_of(f, 3)).why["past"] for f in (bowl, lambda U: torch.sin(40 * U).sum(1)))
    assert fits > 0.5
    assert odd < fits


def test_before_anything_is_known_the_past_counts_three_times_as_much():
    s, net, past = situation(bowl, 2, 3), network(), past_of(bowl, 3)
    why = choose_metabo(s, net, past).why
    assert why["past"] == pytest.approx(0.6)
    assert why["network"] == pytest.approx(0.2)


def test_where_the_network_cannot_be_asked_the_past_still_counts():
    s, past = situation(bowl, 29, 2), past_of(bowl, 2)
    chosen = choose_metabo(s, network(), past)
    assert chosen.why["network"] == 0
    assert list(chosen.why["past_studies"]) == ["a"]
    assert torch.isfinite(chosen.value(s.pool[:9].unsqueeze(-2))).all()
