"""What the universal network does not depend on, and what it says before any training."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from frugalbo.errors import ModelError
from frugalbo.metabo.nearness import Pairs
from frugalbo.metabo.universal import Universal, UniversalShape, _kernel, _slopes, _solve, correlations
from frugalbo.models.objective import fit_objective

SMALL = UniversalShape(kernels=2, width=22, layers=2, dims_width=14, refinements=2, buckets=19, most_dims=7)
B, N, M, D = 2, 11, 5, 3
NUMBERS = torch.tensor([False, False, False])
MIXED = torch.tensor([False, True, False])


def network(seed=0):
    torch.manual_seed(seed)
    net = Universal(SMALL).double()
    for name, parameter in net.named_parameters():
        nn.init.normal_(parameter, std=0.3) if "blocks" in name or "predict" in name else None
    return net


def task(seed=1):
    g = torch.Generator().manual_seed(seed)
    X, y, Q = (torch.rand(*s, generator=g, dtype=torch.float64) for s in [(B, N, D), (B, N), (B, M, D)])
    X[..., 1], Q[..., 1] = (X[..., 1] * 3).floor() / 3, (Q[..., 1] * 3).floor() / 3
    return X, (y - y.mean(1, keepdim=True)) / y.std(1, keepdim=True), Q


def said(prediction):
    return torch.cat([prediction.logits, prediction.location.unsqueeze(-1), prediction.scale.unsqueeze(-1)], dim=-1)


def near(a, b):
    torch.testing.assert_close(said(a), said(b), rtol=0, atol=1e-6)


@pytest.mark.parametrize("categorical", [NUMBERS, MIXED])
def test_the_order_of_results_and_of_dimensions_does_not_matter(categorical):
    net, (X, y, Q) = network(), task()
    before = net(X, y, categorical, Q, False)
    rows, dims = torch.tensor([5, 0, 7, 10, 2, 9, 1, 8, 3, 6, 4]), torch.tensor([2, 0, 1])
    near(net(X[:, rows], y[:, rows], categorical, Q, False), before)
    near(net(X[..., dims], y, categorical[dims], Q[..., dims], False), before)


def test_a_mirrored_dimension_and_renamed_categories_are_the_same():
    net, (X, y, Q) = network(), task()
    before = net(X, y, MIXED, Q, False)
    near(net(_mirror(X, 0), y, MIXED, _mirror(Q, 0), False), before)
    near(net(_rename(X), y, MIXED, _rename(Q), False), before)


def _mirror(X, i):
    X = X.clone()
    X[..., i] = 1 - X[..., i]
    return X


def _rename(X):
    X = X.clone()
    X[..., 1] = torch.where(X[..., 1] > 0.5, X[..., 1], 1 / 3 - X[..., 1]).clamp_min(0)
    return X


def test_a_candidate_does_not_see_the_others_and_tasks_do_not_see_each_other():
    net, (X, y, Q) = network(), task()
    together = said(net(X, y, MIXED, Q, True))
    for b in range(B):
        for i in range(M):
            alone = said(net(X[b : b + 1], y[b : b + 1], MIXED, Q[b : b + 1, i : i + 1], True))
            torch.testing.assert_close(alone[0, 0], together[b, i], rtol=0, atol=1e-6)


def test_each_result_counts():
    net, (X, y, Q) = network(), task()
    before = said(net(X, y, NUMBERS, Q, False))
    for i in range(N):
        other = y.clone()
        other[:, i] += 0.3
        assert (said(net(X, other, NUMBERS, Q, False)) - before).abs().amax(-1).min() > 1e-6


def test_noise_widens_what_a_trial_would_show():
    net, (X, y, Q) = network(), task()
    fit = net.read(X, y, NUMBERS)
    extra = net.answer(fit, Q, True).scale ** 2 - net.answer(fit, Q, False).scale ** 2
    noise = (fit.weight * fit.amplitude * fit.noise.exp()).sum(1, keepdim=True)
    torch.testing.assert_close(extra, noise.expand(-1, M))


def test_noise_that_is_known_to_be_nothing_changes_nothing():
    net, (X, y, Q) = network(), task()
    without, with_none = (net.answer(net.read(X, y, MIXED, k), Q, True) for k in (None, torch.zeros_like(y)))
    assert torch.equal(said(without), said(with_none))


def test_noise_that_is_known_stands_on_the_diagonal_of_each_kernel():
    """Means are `level + k (K + diagonal)^-1 (y - level)`, and what a trial shows is wider by its noise."""
    net, (X, y, Q) = network(), task()
    known = torch.linspace(0.01, 2, N, dtype=torch.float64).expand(B, N)
    fit = net.read(X, y, NUMBERS, known)
    k, mean, _ = net.kernels_say(fit, Q)
    K = net.kernels_say(fit, X)[0]  # B x H x N x N
    A = K + torch.diag_embed(fit.noise.exp().unsqueeze(-1) + 1e-6 + known.unsqueeze(1))
    residual = (y.unsqueeze(1) - fit.level.unsqueeze(-1)).unsqueeze(-1)
    expected = fit.level.unsqueeze(-1) + (k @ torch.linalg.solve(A, residual)).squeeze(-1)
    torch.testing.assert_close(mean, expected)
    there = torch.full((B, M), 0.7, dtype=torch.float64)
    extra = net.answer(fit, Q, True, there).scale ** 2 - net.answer(fit, Q, True).scale ** 2
    torch.testing.assert_close(extra, there)


def test_the_slopes_are_those_of_the_marginal_likelihood():
    X, y, _ = task()
    pairs = Pairs.of(X, NUMBERS)
    w = torch.full((B, D, 1), 0.4, dtype=torch.float64, requires_grad=True)
    noise = torch.full((B, 1), -2.0, dtype=torch.float64, requires_grad=True)
    extra = torch.rand(B, N, dtype=torch.float64)
    _, _, level, amplitude = (t.detach() for t in _solve(_kernel(pairs, w), y, noise, extra))
    K = _kernel(pairs, w)[:, 0] + torch.diag_embed(noise.exp() + 1e-6 + extra)
    normal = torch.distributions.MultivariateNormal(level.expand(B, N), amplitude.unsqueeze(-1) * K)
    by_w, by_noise = torch.autograd.grad(normal.log_prob(y).sum(), [w, noise])
    got_w, got_noise = _slopes(pairs, y, w, noise, extra)
    torch.testing.assert_close(got_w, by_w.tanh())
    torch.testing.assert_close(got_noise, by_noise.tanh())


def test_new_weights_are_a_mixture_of_gaussian_processes_that_finds_what_matters():
    """Near the exact model on a smooth function of one of five dimensions, before any training."""
    rng = np.random.default_rng(5)
    X, Q = rng.random((23, 5)), rng.random((200, 5))
    f = lambda U: np.sin(4 * U[:, 2])  # noqa: E731
    y, spread = f(X), f(X).std(ddof=1)
    net = Universal(UniversalShape(refinements=8)).double()
    tensors = [torch.from_numpy(a)[None] for a in (X, (y - y.mean()) / spread, Q)]
    with torch.no_grad():
        prediction = net(tensors[0], tensors[1], torch.zeros(5, dtype=torch.bool), tensors[2], False)
        error = (prediction.location[0].numpy() * spread + y.mean() - f(Q)).std()
    gp = fit_objective(X, y, ())
    with torch.no_grad():
        mean = gp.model.posterior(torch.from_numpy(Q).unsqueeze(-2)).mean.reshape(-1).numpy()
    exact = (np.array([gp.outcome.inverse(t) for t in mean]) - f(Q)).std()
    assert error < 0.25 * f(Q).std()
    assert exact < error  # it was fitted to the end


def test_correlations_are_correlations():
    net, (X, y, Q) = network(), task()
    Q = torch.cat([Q, Q[:, :1] + 1e-4], dim=1)
    C = correlations(net.read(X, y, NUMBERS), Q)
    torch.testing.assert_close(C, C.transpose(-1, -2))
    assert torch.linalg.eigvalsh(C).min() > 0
    assert C[:, 0, -1].min() > 0.99


def test_the_answer_has_a_gradient_everywhere_even_at_a_result():
    net, (X, y, Q) = network(), task()
    Q = torch.cat([Q, X[:, :2]], dim=1).requires_grad_(True)
    value = net(X, y, MIXED, Q, False).log_improvement(y.amin(1, keepdim=True))
    (gradient,) = torch.autograd.grad(value.sum(), Q)
    assert torch.isfinite(gradient).all()
    assert (gradient[:, :M, 0].abs() > 0).all()


def test_more_dimensions_than_it_was_made_for_are_refused():
    with pytest.raises(ModelError, match="at most 7 dimensions, got"):
        network().read(torch.rand(1, 5, 8), torch.rand(1, 5), torch.zeros(8, dtype=torch.bool))
    with pytest.raises(ModelError, match="at least 2 results"):
        network().read(torch.rand(1, 1, 3), torch.rand(1, 1), NUMBERS)


def test_the_published_sizes_are_small():
    assert sum(p.numel() for p in Universal().parameters()) * 4 < 1e6 * math.e  # bytes
