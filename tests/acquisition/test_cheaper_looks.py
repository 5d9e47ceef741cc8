import math

import numpy as np
import pytest
import torch
from botorch.models.deterministic import GenericDeterministicModel
from botorch.optim import optimize_acqf

from frugalbo.acquisition.cross_kg import CrossKnowledgeGradient
from frugalbo.acquisition.multi_fidelity import (
    learned_log_cost_at,
    multi_fidelity_kg,
    multi_fidelity_mes,
    one_shot_kg,
    per_cost,
)
from frugalbo.budget.cost_features import Features
from frugalbo.budget.cost_mixture import FittedCost
from frugalbo.models.environments import fit_environments
from frugalbo.models.multi_fidelity import fit_multi_fidelity
from frugalbo.models.view import LinearView
from frugalbo.parameter import Float
from frugalbo.space import Space

BOUNDS = torch.tensor([[0.0, 0.0, 1 / 27], [1.0, 1.0, 1.0]], dtype=torch.float64)
AFFINE = GenericDeterministicModel(lambda X: (0.02 + X[..., -1:]).log())


def _runs(n=31, seed=0):
    rng = np.random.default_rng(seed)
    X, share = rng.random((n, 2)), rng.choice([1 / 27, 1 / 9, 1 / 3, 1.0], size=n)
    full = np.sin(5 * X[:, 0]) + 3 * (X[:, 1] - 0.3) ** 2
    noise = 0.02 * rng.standard_normal(n)
    return fit_multi_fidelity(X, share, full + 0.2 * (share**-0.4 - 1) * (1 + X[:, 1]) + noise)


def _looks(b=5, seed=3):
    X = torch.rand(b, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return BOUNDS[0] + (BOUNDS[1] - BOUNDS[0]) * X


def test_the_knowledge_gradient_of_two_points_is_the_closed_form():
    # A is one point and x itself: with D the difference of their means and s that of the slopes,
    # E[max(0, D + s Z)] - max(0, D) = |s| (phi(u) - u Phi(-u)), u = |D| / |s|.
    runs, looks, counted = _runs(7), _looks(17), 0
    A = runs.model.train_inputs[0][:1, :2]
    kg = CrossKnowledgeGradient(runs.target, A, maximize=False)
    for z in looks:
        more = []
        for y in (0.0, 1.0):  # means after a look are linear in what it shows
            model = runs.model.with_data(z, torch.tensor([y]).double())
            more.append(LinearView(model, runs.target.features).moments(torch.stack([A, z[:, :2]]))[0].ravel())
        per_unit = (more[1] - more[0]) * float((runs.model.variance(z) + runs.model.noise_variance(z)).sqrt())
        means = runs.target.moments(torch.stack([A, z[:, :2]]))[0].ravel()
        s, u = (
            float((per_unit[1] - per_unit[0]).abs()),
            float((means[1] - means[0]).abs() / (per_unit[1] - per_unit[0]).abs()),
        )
        phi = math.exp(-u * u / 2) / math.sqrt(2 * math.pi)
        expected = s * (phi - u * 0.5 * math.erfc(u / math.sqrt(2)))
        if expected > 1e-4:
            counted += 1
            assert float(kg.improvement(z.unsqueeze(0))) == pytest.approx(expected, rel=0.05)
    assert counted >= 5


def test_the_knowledge_gradient_is_what_samples_of_looks_give():
    runs = _runs(13)
    A = torch.rand(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z = _looks(1)
    value = float(CrossKnowledgeGradient(runs.target, A, maximize=False).improvement(z))
    points = torch.cat([A, z[0, :, :2]]).unsqueeze(-2)
    before = runs.target.moments(points)[0].min()
    torch.manual_seed(0)
    gains = []
    for y in runs.model.posterior(z[0], observation_noise=True).rsample(torch.Size([301])).ravel():
        after = LinearView(runs.model.with_data(z[0], y.reshape(1)), runs.target.features).moments(points)[0].min()
        gains.append(float(before - after))
    assert value == pytest.approx(np.mean(gains), abs=3 * np.std(gains) / math.sqrt(301) + 1e-6)


def test_a_look_at_all_that_counts_is_worth_more_than_one_at_a_part():
    runs = _runs()
    z = _looks(7)
    kg = CrossKnowledgeGradient(runs.target, z[:, 0, :2], maximize=False)
    assert (kg.improvement(runs.project(z)) >= kg.improvement(z) * 0.95 - 1e-9).all()


def test_maximising_a_loss_that_is_negated_is_minimising_it():
    runs, z = _runs(), _looks()
    A = torch.rand(7, 2, dtype=torch.float64)
    ours = CrossKnowledgeGradient(runs.target, A, AFFINE, maximize=False)(z)
    view = LinearView(runs.model.negated(), runs.target.features)
    assert torch.allclose(ours, CrossKnowledgeGradient(view, A, AFFINE)(z), rtol=1e-6)


@pytest.mark.parametrize("build", [multi_fidelity_kg, multi_fidelity_mes])
def test_gradients_are_those_of_the_value(build):
    acquisition = build(_runs(), AFFINE)
    x = _looks(3).requires_grad_(True)
    gradient = torch.autograd.grad(acquisition(x).sum(), x)[0]
    h = 1e-6
    for i in range(3):
        step = h * torch.eye(3, dtype=torch.float64)[i]
        with torch.no_grad():
            numeric = (acquisition(x + step) - acquisition(x - step)) / (2 * h)
        assert gradient[:, 0, i].tolist() == pytest.approx(numeric.tolist(), rel=2e-2, abs=1e-4)


@pytest.mark.parametrize("build", [multi_fidelity_kg, multi_fidelity_mes, one_shot_kg])
def test_each_finds_a_look_with_and_without_pending_ones(build):
    runs = _runs()
    pending = _looks(2)[:, 0]
    for arguments in ({}, {"pending": pending}, {"log_cost": AFFINE}, {"log_cost": AFFINE, "pending": pending}):
        x, value = optimize_acqf(
            build(runs, **arguments), BOUNDS, q=1, num_restarts=2, raw_samples=16, options={"maxiter": 10}
        )
        assert x.shape == (1, 3)
        assert torch.isfinite(value)
        assert (x >= BOUNDS[0] - 1e-9).all()
        assert (x <= BOUNDS[1] + 1e-9).all()


def test_dear_full_runs_make_short_ones_attractive():
    runs = _runs()
    looks = _looks(31)
    for build in (multi_fidelity_kg, multi_fidelity_mes):
        free, dear = build(runs), build(runs, GenericDeterministicModel(lambda X: 6 * X[..., -1:].log()))
        # A look's value per cost falls against its value alone as the sixth power of its length.
        chosen = [float(looks[a(looks).argmax(), 0, -1]) for a in (free, dear)]
        assert chosen[1] <= chosen[0]


@pytest.mark.parametrize("build", [multi_fidelity_kg, multi_fidelity_mes])
def test_a_look_under_way_is_not_proposed_again(build):
    runs = _runs(13)
    looks = _looks(31)
    best = looks[build(runs)(looks).argmax()]
    without, with_it = build(runs)(best.unsqueeze(0)), build(runs, pending=best)(best.unsqueeze(0))
    assert float(with_it) < float(without) - 0.1


def test_the_one_shot_value_is_near_the_closed_form():
    runs, A = _runs(13), torch.rand(101, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kg = one_shot_kg(runs, fantasies=16)
    z = _looks(1)
    fantasies = kg.model.fantasize(z, kg.sampler)
    points = torch.cat([A, torch.ones(101, 1, dtype=torch.float64)], dim=-1).unsqueeze(-2)
    best = [fantasies.moments(point.expand(16, 1, 1, 3))[0].reshape(16) for point in points]
    which = torch.stack(best).argmax(0)
    full = torch.cat([z, points[which].reshape(1, 16, 3)], dim=-2)
    before = -runs.target.moments(A.unsqueeze(-2))[0].min()
    value = float(kg(full)) + float(kg.current_value - before)
    exact = float(CrossKnowledgeGradient(runs.target, A, maximize=False).improvement(z))
    # 16 quasi-random fantasies; the closed form also lets x itself be best.
    assert value == pytest.approx(exact, rel=0.3, abs=0.01)


def test_utility_per_cost_divides_by_the_exponential():
    X = torch.rand(3, 1, 3, dtype=torch.float64)
    deltas = torch.tensor([[2.0, 1.0, 0.5]]).double()
    assert torch.allclose(per_cost(AFFINE)(X, deltas), deltas / (0.02 + X[:, 0, -1]))
    assert torch.allclose(per_cost(None)(X, deltas), deltas)


def test_the_learned_cost_of_a_share_is_start_up_and_a_share_of_the_steps():
    space = Space({"a": Float(0.0, 1.0)})
    weights = np.zeros(len(Features(space)(np.array([[0.5]]))[0]))
    weights[0] = math.log(0.5)  # half a second a step, wherever
    fitted = FittedCost.regression(Features(space), weights, 0.1, 9)
    log_cost = learned_log_cost_at(fitted, full_steps=100, d=1)
    X = torch.tensor([[[0.3, 1.0]], [[0.9, 0.2]]]).double()
    startup = fitted.components[0].startup_s
    expected = [math.log(startup + 50), math.log(startup + 10)]
    assert log_cost.posterior(X).mean.ravel().tolist() == pytest.approx(expected)


@pytest.mark.parametrize("fantasies", [0, 17, 64])
def test_too_many_fantasies_are_refused(fantasies):
    with pytest.raises(ValueError, match="1 to 16"):
        one_shot_kg(_runs(7), fantasies=fantasies)


def test_a_point_is_worth_another_look_only_under_other_seeds():
    X = np.random.default_rng(0).random((24, 2))
    seeds = [i % 2 for i in range(24)]
    losses = (X[:, 0] - 0.4) ** 2 + 0.3 * np.sin(3 * X[:, 1] + np.array(seeds))
    env = fit_environments(X, seeds, losses, weights={0: 1, 1: 1, 2: 1})
    kg = CrossKnowledgeGradient(env.mean, torch.from_numpy(X), maximize=False)
    least = int(losses.argmin())
    x = X[least]
    values = {label: float(kg.improvement(env.look(x.reshape(1, 1, 2), label))) for label in (0, 1, 2)}
    assert values[seeds[least]] < 0.01 * min(v for label, v in values.items() if label != seeds[least])


def test_only_views_of_dense_models_are_taken():
    with pytest.raises(TypeError, match="DenseGP"):
        CrossKnowledgeGradient(LinearView(AFFINE, torch.ones(1, 1).double()), torch.rand(3, 2).double())


@pytest.mark.slow
def test_a_suggestion_at_three_hundred_observations_is_affordable():
    import resource
    import time

    runs = _runs(300)
    for build in (multi_fidelity_kg, multi_fidelity_mes, one_shot_kg):
        begin = time.process_time()
        acquisition = build(runs, AFFINE)
        optimize_acqf(acquisition, BOUNDS, q=1, num_restarts=4, raw_samples=64, options={"maxiter": 50})
        # Seconds of one thread; measured: 1 to 2.
        assert time.process_time() - begin < 6
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2_000_000
