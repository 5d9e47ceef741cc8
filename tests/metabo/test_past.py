"""What earlier studies say of a new one, and when they are not believed."""

import math

import numpy as np
import pytest
import torch

from frugalbo.errors import WeightsError
from frugalbo.metabo.nearness import differences, matern
from frugalbo.metabo.past import Past, PastModel, PastStudies, Seen
from frugalbo.parameter import Choice, Float, Int
from frugalbo.space import Space

SPACE = Space({"lr": Float(1e-4, 1, log=True), "width": Int(1, 7)})


def studies(function, space=SPACE, names=("a",), n=37, **options):
    """Of functions of the unit cube, exact at `n` points."""
    d = space.dim
    Z = torch.quasirandom.SobolEngine(d, scramble=True, seed=1).draw(n, dtype=torch.float64)
    lengthscales = torch.full((d,), 0.5, dtype=torch.float64)
    K = matern(Z, Z, 1 / lengthscales, torch.zeros(d, dtype=torch.bool)) + 1e-8 * torch.eye(n)
    functions = function if isinstance(function, list) else [function]
    y = torch.stack([f(Z) for f in functions], dim=1)
    zeros = torch.zeros(len(functions), dtype=torch.float64)
    return PastStudies(names, space, Z, lengthscales, torch.linalg.solve(K, y), zeros, Z[0], **options)


def bowl(U):
    return ((U - 0.3) ** 2).sum(1)


def hill(U):
    return -bowl(U)


def random_points(n, d=2, seed=3):
    return torch.from_numpy(np.random.default_rng(seed).random((n, d)))


@pytest.mark.parametrize("named", [[], [1], [0, 1, 2]])
def test_the_kernel_is_matern_on_the_distances(named):
    A, B = random_points(5, 3), random_points(7, 3, 4)
    flags = torch.zeros(3, dtype=torch.bool)
    flags[named] = True
    relevance = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)
    r = (5 * (differences(A, B, flags) * relevance**2).sum(-1)).sqrt()
    torch.testing.assert_close(matern(A, B, relevance, flags), (1 + r + r * r / 3) * torch.exp(-r), atol=1e-6, rtol=0)


def test_a_study_says_what_it_saw_where_it_saw_it():
    Z = studies(bowl).centres
    torch.testing.assert_close(studies(bowl).say(Z)[:, 0], bowl(Z), atol=1e-5, rtol=0)


def test_another_range_is_moved_to_where_its_values_are():
    wider = Space({"width": Int(1, 7), "lr": Float(1e-6, 10, log=True)})
    seen = Seen.of(studies(bowl), wider)
    # lr = 1e-2 stands at 1/2 of 1e-4..1, and at 4/7 of 1e-6..10; the order of parameters does not matter.
    here = torch.tensor([[0.5, 4 / 7]], dtype=torch.float64)
    there = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(seen.say(here), studies(bowl).say(there))
    # A lengthscale of 1/2 over four decades is two of seven.
    torch.testing.assert_close(seen.lengthscales(2), torch.tensor([0.5, 2 / 7], dtype=torch.float64))


def test_what_a_study_did_not_know_does_not_count_for_it_and_what_is_gone_is_held():
    past, U = studies(bowl), random_points(5, 3)
    seen = Seen.of(past, Space({"lr": Float(1e-4, 1, log=True), "width": Int(1, 7), "decay": Float(0, 1)}))
    torch.testing.assert_close(seen.say(U), past.say(U[:, :2]))
    assert seen.lengthscales(3).isnan().tolist() == [False, False, True]
    gone = Seen.of(past, Space({"lr": Float(1e-4, 1, log=True)}))
    held = torch.stack([U[:, 0], past.held[1].expand(5)], dim=1)
    torch.testing.assert_close(gone.say(U[:, :1]), past.say(held))


@pytest.mark.parametrize(
    "space",
    [
        Space({"lr": Float(1e-4, 1), "depth": Int(1, 7)}),  # another scale, another name
        Space({"lr": Float(2, 3, log=True), "depth": Int(1, 7)}),  # ranges with nothing in common
        Space({"lr": Choice([1e-4, 1.0]), "depth": Int(1, 7)}),
        Space({"x": Float(0, 1)}),
    ],
)
def test_a_space_with_too_little_in_common_has_no_past(space):
    assert Past.of([studies(bowl)], space) is None


def test_unnamed_columns_must_all_be_alike():
    known = [studies(bowl, Space({"x1": Float(0, 1), "x2": Float(1e-3, 1, log=True)}), is_named=False)]
    assert Past.of(known, Space({"x1": Float(0.02, 0.99), "x2": Float(1.1e-3, 0.98, log=True)}))
    assert Past.of(known, Space({"x1": Float(0.2, 0.99), "x2": Float(1.1e-3, 0.98, log=True)})) is None
    assert Past.of(known, Space({"x1": Float(0, 1)})) is None
    assert Past.of(known, Space({"x1": Float(0, 1), "x2": Float(1e-3, 1, log=True), "x3": Float(0, 1)})) is None


def standardised(y):
    return (y - y.mean()) / y.std()


def test_a_past_that_holds_knows_the_new_task_from_few_results():
    past = Past.of([studies(bowl)], SPACE)
    X, Q = random_points(5), random_points(200, seed=9)
    model = PastModel(past, X, standardised(bowl(X)))
    mean, variance = model.moments(Q)
    assert np.corrcoef(mean, bowl(Q))[0, 1] > 0.97
    assert bool((variance > 0).all())


def test_a_study_that_does_not_fit_counts_for_little():
    past = Past.of([studies([bowl, hill], names=("fits", "does not"))], SPACE)
    X = random_points(7)
    counted = PastModel(past, X, standardised(bowl(X))).counted()
    assert list(counted) == ["fits", "does not"]
    assert counted["fits"] > 0.95


def test_expected_improvement_is_that_of_the_mixture_of_both_settings():
    past = Past.of([studies(bowl)], SPACE)
    X, Q = random_points(6), random_points(4, seed=5)
    model = PastModel(past, X, standardised(bowl(X)))
    best = -1.0
    by_hand = torch.zeros(4, dtype=torch.float64)
    normal = torch.distributions.Normal(0.0, 1.0)
    G, R = model.at(Q)
    for part, p in zip(model.parts, model.chance, strict=True):
        mean, sd = part.say(G, R)
        u = (best - mean) / sd
        by_hand += p * sd * (u * normal.cdf(u) + normal.log_prob(u).exp())
    torch.testing.assert_close(model.log_improvement(Q, best).exp(), by_hand, rtol=1e-6, atol=1e-12)


def test_leave_one_out_is_what_the_others_predict():
    """By closed forms as by a solve without the result, amplitude and weights of studies being those of all."""
    past = Past.of([studies([bowl, hill], names=("a", "b"))], SPACE)
    X = random_points(7)
    model = PastModel(past, X, standardised(bowl(X) + 0.1 * X[:, 0]))
    part, i, rest = model.parts[0], 2, [0, 1, 3, 4, 5, 6]
    A = torch.linalg.inv(part.inverse)
    y = model.y - part.trust.rho * model.G @ model.weights
    k = torch.linalg.solve(A[rest][:, rest], A[rest, i])
    error = y[i] - k @ y[rest]
    sd = (part.amplitude * (A[i, i] - k @ A[rest, i])).sqrt()
    below = torch.distributions.Normal(torch.zeros_like(sd), sd)
    expected = below.cdf(error + 0.05) - below.cdf(error - 0.05)
    assert part.chances(torch.tensor([i]), 0.05).item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_study_that_saw_no_difference_says_nothing():
    past = Past.of([studies(lambda U: 0 * U[:, 0])], SPACE)
    X = random_points(5)
    mean, _ = PastModel(past, X, standardised(bowl(X))).moments(random_points(9, seed=8))
    assert torch.isfinite(mean).all()


def test_gradients_are_finite_at_a_result():
    past, X = Past.of([studies(bowl)], SPACE), random_points(5)
    Q = torch.cat([X, random_points(3, seed=7)]).requires_grad_(True)
    (gradient,) = torch.autograd.grad(PastModel(past, X, standardised(bowl(X))).log_improvement(Q, -1.5).sum(), Q)
    assert torch.isfinite(gradient).all()


def test_studies_survive_the_record_and_can_be_withdrawn():
    known = studies([bowl, hill], names=("a", "b"))
    again = PastStudies.of_record(known.to_record())
    U = random_points(5)
    torch.testing.assert_close(again.say(U), known.say(U), atol=1e-2, rtol=0)  # in single precision on the disk
    assert again.names == known.names
    assert again.space.to_json() == SPACE.to_json()
    fewer = known.without(["a"])
    torch.testing.assert_close(fewer.say(U)[:, 0], known.say(U)[:, 1])
    assert known.without(["a", "b"]) is None


def test_records_of_something_else_are_refused():
    good = studies(bowl).to_record()
    wrong = torch.zeros(3, 5)
    for record in ({}, {**good, "told": "no JSON"}, {**good, "centres": "x"}, {**good, "centres": wrong}):
        with pytest.raises(WeightsError, match="past studies"):
            PastStudies.of_record(record)


def test_lengthscales_of_what_nobody_knew_are_our_own():
    space = Space({"lr": Float(1e-4, 1, log=True), "width": Int(1, 7), "decay": Float(0, 1)})
    model = PastModel(Past.of([studies(bowl)], space), random_points(5, 3), standardised(random_points(5, 1)[:, 0]))
    expected = torch.tensor([2.0, 2.0, 1 / (0.3 * math.sqrt(3))], dtype=torch.float64)
    torch.testing.assert_close(model.relevance, expected)


def test_a_setting_is_the_process_of_the_formula():
    """Mean and deviation from the whole covariance, written out and solved, with the amplitude of the results."""
    past = Past.of([studies([bowl, hill, lambda U: U[:, 0]], names=("a", "b", "c"))], SPACE)
    X, Q = random_points(7), random_points(3, seed=5)
    model = PastModel(past, X, standardised(bowl(X) + 0.3 * X[:, 1]))
    U, p = torch.cat([X, Q]), model.weights
    G, own = model.at(U)[0], matern(U, U, model.relevance, past.categorical)
    m = G @ p
    for part, (rho, apart, deviation) in zip(model.parts, ((1.0, 1.0, 0.4), (0.7, 1.0, 0.8)), strict=True):
        between = sum(p[t] * torch.outer(G[:, t] - m, G[:, t] - m) for t in range(3))
        K = 1 + 0.3**2 * torch.outer(m, m) + apart**2 * between + deviation**2 * own
        A = K[:7, :7] + 0.02 * torch.eye(7)
        rest = torch.linalg.solve(A, model.y - rho * m[:7])
        amplitude = (3 + (model.y - rho * m[:7]) @ rest) / (3 + 7)
        left = (K[7:, 7:] - K[7:, :7] @ torch.linalg.solve(A, K[:7, 7:])).diagonal()
        mean, sd = part.say(*model.at(Q))
        torch.testing.assert_close(mean, rho * m[7:] + K[7:, :7] @ rest)
        torch.testing.assert_close(sd, (amplitude * left).sqrt())
