"""The knowledge gradient and joint entropy search."""

import math
import time

import numpy as np
import pytest
import torch
from botorch.acquisition.joint_entropy_search import qJointEntropySearch

from frugalbo.acquisition.joint_entropy import JointEntropySearch
from frugalbo.acquisition.knowledge_gradient import DiscreteKnowledgeGradient
from frugalbo.models.objective import fit_objective


@pytest.fixture
def model():
    rng = np.random.default_rng(0)
    X = rng.random((13, 2))
    losses = ((X - 0.3) ** 2).sum(1) + 0.1 * rng.standard_normal(13)
    return fit_objective(X, losses, ()).model.negated()


def _points(n, seed):
    return torch.rand(n, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_knowledge_gradient_of_two_points_is_the_closed_form(model):
    # max(m1 + s1 Z, m2 + s2 Z) - max(m1, m2) has expectation |s1 - s2| h(-|m1 - m2| / |s1 - s2|),
    # h(u) = phi(u) + u Phi(u): Frazier, Powell, Dayanik (2009), for two lines.
    A = torch.tensor([[0.3, 0.35]], dtype=torch.float64)
    X = _points(29, 1)
    for x, value in zip(X, DiscreteKnowledgeGradient(model, A)(X).tolist(), strict=True):
        joint = super(type(model), model).posterior(torch.cat([A, x]))
        mean, covariance = joint.mean.squeeze(-1), joint.distribution.covariance_matrix
        slopes = covariance[:, 1] / (covariance[1, 1] + model.likelihood.noise).sqrt()
        ds, dm = abs(float(slopes[0] - slopes[1])), abs(float(mean[0] - mean[1]))
        u = -dm / ds
        h = math.exp(-u * u / 2) / math.sqrt(2 * math.pi) + u * 0.5 * math.erfc(-u / math.sqrt(2))
        assert value == pytest.approx(ds * h, rel=0.05, abs=1e-3 * ds)


def test_a_look_that_changes_nothing_is_worth_nothing(model):
    A = torch.rand(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    model.likelihood.noise = torch.tensor([1e12], dtype=torch.float64)
    model.train().eval()  # drops what is kept of the other noise
    assert DiscreteKnowledgeGradient(model, A)(_points(5, 1)).abs().max() < 1e-5


def test_more_points_to_choose_from_are_worth_no_less_knowledge(model):
    # Not of the value itself, as the best mean rises, too; of the best mean after the look.
    A = torch.rand(31, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    X = _points(11, 1)

    def after(A):
        means = torch.cat([model.posterior(A.unsqueeze(-2)).mean.reshape(1, -1).expand(11, -1),
                           model.posterior(X).mean.reshape(-1, 1)], dim=1)  # fmt: skip
        return DiscreteKnowledgeGradient(model, A)(X) + means.max(1).values

    assert (after(A) >= after(A[:5]) - 1e-12).all()


def test_joint_entropy_is_botorchs(model):
    optima = torch.tensor([[0.31, 0.27], [0.2, 0.4], [0.9, 0.05]], dtype=torch.float64)
    values = torch.tensor([2.9, 3.1, 2.8], dtype=torch.float64)
    # Near an optimum f* may be many deviations below the mean, where theirs cuts Phi off at 1e-7.
    X = _points(31, 3)
    X = X[(torch.cdist(X.squeeze(1), optima) > 0.15).all(1)]
    assert len(X) > 13
    model.likelihood.noise = torch.tensor([1e-4], dtype=torch.float64)
    model.train().eval()  # drops what is kept of the other noise
    theirs = qJointEntropySearch(model, optima, values.unsqueeze(-1), estimation_type="LB")
    ours = JointEntropySearch(model, optima, values, noise=1e-4)
    assert torch.allclose(ours(X), theirs(X), atol=1e-9)


@pytest.mark.parametrize("make", [
    lambda model: DiscreteKnowledgeGradient(model, torch.tensor([[0.3, 0.35], [0.1, 0.9]], dtype=torch.float64)),
    lambda model: JointEntropySearch(
        model, torch.tensor([[0.31, 0.27], [0.2, 0.4]], dtype=torch.float64), torch.tensor([1.9, 2.3])
    ),
], ids=["kg", "jes"])  # fmt: skip
def test_the_gradient_is_that_of_the_value(model, make):
    X = _points(5, 4).requires_grad_(True)
    assert torch.autograd.gradcheck(make(model), X, eps=1e-6, atol=1e-5)


def test_they_are_fast_where_botorchs_are_not():
    # 2048 points at 300 observations; in BoTorch's way about 10 s for jes, and there is no value of
    # kg at a point. 0.3 s when alone.
    rng = np.random.default_rng(0)
    X = rng.random((300, 5))
    model = fit_objective(X, ((X - 0.3) ** 2).sum(1), ()).model.negated()
    A = torch.from_numpy(rng.random((64, 5)))
    P = torch.from_numpy(rng.random((2048, 1, 5)))
    jes = JointEntropySearch(model, A[:8], torch.full((8,), 2.0, dtype=torch.float64))
    kg = DiscreteKnowledgeGradient(model, A)
    started = time.process_time()
    with torch.no_grad():
        jes(P), kg(P)
    assert time.process_time() - started < 3
