"""What the model of learning curves knows, and that it says so in the same words whatever the order or the units."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frugalbo.errors import ModelError
from frugalbo.events import Failure
from frugalbo.models.curves import CurveModel, CurvePosterior, PartialCurve, curves_of, schedule_progress
from frugalbo.models.curves.curve import Temper, thin
from frugalbo.models.curves.process import Batch, Hyperparameters, Levels
from frugalbo.testing.studies import RECIPES, make_study

HORIZON = 53.0
FEW = CurveModel(iterations=5)


def power_laws(n, seed=0, shares=(0.3, 1.0)):
    """Noisy power laws whose end depends on x, cut somewhere; with the whole losses at all steps."""
    rng = np.random.default_rng(seed)
    steps = np.arange(1, HORIZON + 1)
    X = rng.random((n, 2))
    end = np.sin(3 * X[:, 0]) + X[:, 1] ** 2
    whole = end[:, None] + (1 + X[:, :1]) * ((steps / HORIZON) ** -0.4 - 1) + 0.003 * rng.standard_normal((n, 53))
    lengths = rng.integers(int(shares[0] * 53), int(shares[1] * 53), n)
    return [PartialCurve(x, steps[:k], y[:k]) for x, y, k in zip(X, whole, lengths, strict=True)], whole


@pytest.fixture(scope="module")
def fitted():
    curves, whole = power_laws(29)
    curves[3] = PartialCurve(curves[3].x, np.arange(1, 54), whole[3])
    curves[5] = PartialCurve(curves[5].x, curves[5].steps, curves[5].losses, failed=True)
    curves[7] = PartialCurve(curves[7].x, np.array([]), np.array([]))
    return CurveModel().fit(curves, HORIZON), whole


# --- curves and losses ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "losses", "said"),
    [
        ([1, 3, 2], [1, 1, 1], "increase"),
        ([1, 1], [1, 1], "increase"),
        ([0, 1], [1, 1], "above 0"),
        ([1, 2], [1, math.nan], "finite"),
        ([1, 2], [1], "shapes"),
    ],
)
def test_what_is_no_curve_is_refused(steps, losses, said):
    with pytest.raises(ModelError, match=said):
        PartialCurve([0.5], steps, losses)


def test_curves_beyond_the_horizon_and_of_other_dimensions_are_refused():
    with pytest.raises(ModelError, match="got 2, and a curve up to 3"):
        FEW.fit([PartialCurve([0.5], [1, 3], [1, 1])], 2)
    with pytest.raises(ModelError, match="dimension"):
        FEW.fit([PartialCurve([0.5], [1], [1]), PartialCurve([0.5, 0.1], [1], [1])], 2)
    with pytest.raises(ModelError, match="no curves"):
        FEW.fit([], 2)


@given(st.integers(1, 300), st.integers(2, 64))
def test_thinning_keeps_the_last_report(k, most):
    chosen = thin(np.arange(1.0, k + 1), most)
    assert len(chosen) == min(k, most)
    assert chosen[-1] == k - 1
    assert (np.diff(chosen) > 0).all()


_LOSSES = st.floats(-1e6, 1e6).map(lambda loss: round(loss, 9))


@given(st.lists(_LOSSES, min_size=1, max_size=9), st.floats(-1e18, 1e18))
def test_tempering_keeps_order_and_can_be_undone(losses, other):
    temper = Temper.of(losses)
    values = temper.untempered(temper.tempered(temper([*losses, other])))
    scale = temper.spread + np.abs([*losses, other]) + abs(temper.pivot)
    assert (np.abs(values - [*losses, other]) <= 1e-5 * scale).all()
    assert (np.diff(temper(np.sort([*losses, other]))) >= 0).all()


def test_losses_up_to_the_pivot_are_not_changed_by_tempering():
    temper = Temper.of([0.1, 0.4, 0.5, 0.9, 1e18])
    assert temper.tempered(temper([-3.0, 0.2, 0.5])) == pytest.approx([-3.0, 0.2, 0.5])
    assert temper.tempered(temper(0.9)) < 0.9
    assert temper(1e18) < 10


# --- the process ---------------------------------------------------------------------------------


def dense(hyper, batch, X, sigma2):
    """The joint prior covariance of all reports by the definition, one report after the other."""
    where = [(i, j) for i, j in zip(*np.nonzero(batch.seen.numpy()), strict=True)]
    K = np.zeros((len(where), len(where)))
    g = hyper.kernel(X, X).numpy()
    for a, (i, j) in enumerate(where):
        for b, (k, m) in enumerate(where):
            K[a, b] = g[i, k]
            if i == k:
                s = float(sigma2[i])
                q, r = hyper.clock(batch.t[i, j]), hyper.clock(batch.t[k, m])
                K[a, b] += float(hyper.own2) + float(hyper.kappa) * s + s * float(hyper.motion(q, r))
                K[a, b] += s * (float(hyper.noise) + 1e-7) * (j == m)
    return where, K


def test_levels_are_those_of_the_whole_gaussian_process():
    curves, _ = power_laws(5)
    curves = [PartialCurve(c.x, c.steps[:: 5 + i], c.losses[:: 5 + i]) for i, c in enumerate(curves)]
    hyper = Hyperparameters(torch.from_numpy(Hyperparameters.prior(2)[0]))
    temper = Temper.of([c.losses[-1] for c in curves])
    t = np.concatenate([c.steps for c in curves]) / HORIZON
    batch, X = Batch.of(curves, t, temper, 99), torch.tensor(np.stack([c.x for c in curves]))
    levels = Levels(batch, X, hyper)
    where, K = dense(hyper, batch, X, levels.sigma2)
    cross = hyper.kernel(X, X).numpy()[:, [i for i, _ in where]]
    cross += np.array([[float(levels.own2[i]) * (i == k) for k, _ in where] for i in range(5)])
    z = np.array([float(batch.z[i, j]) for i, j in where])
    mean, variance = levels.marginal()
    assert mean.numpy() == pytest.approx(cross @ np.linalg.solve(K, z), rel=1e-6)
    expected = np.diag(levels.prior.numpy() - cross @ np.linalg.solve(K, cross.T))
    assert variance.numpy() == pytest.approx(expected, rel=1e-6)


def test_a_rough_motion_of_free_level_foretells_the_last_value():
    curves, _ = power_laws(7)
    vector = Hyperparameters.prior(2)[0]
    vector[3], vector[4], vector[6], vector[9] = 4.0, -3.0, -12.0, 30.0  # own, kappa, noise, rough
    posterior = CurvePosterior(
        curves, HORIZON, None, Temper.of([c.losses[-1] for c in curves]), Hyperparameters(torch.from_numpy(vector))
    )
    last = [c.losses[-1] for c in curves]
    assert posterior.loss(posterior.final()[0]) == pytest.approx(last, rel=1e-3)


@given(st.floats(-2, 1.5), st.floats(-3, 3), st.floats(-4, 4), st.floats(0.01, 1), st.floats(0.01, 1))
def test_the_motion_is_a_covariance_that_vanishes_at_the_horizon(power, memory, rough, s, t):
    vector = torch.zeros(12, dtype=torch.float64)
    vector[4], vector[8], vector[9] = power, rough, memory
    hyper = Hyperparameters(vector)
    a, b = hyper.clock(torch.tensor(s)), hyper.clock(torch.tensor(t))
    zero = hyper.clock(torch.tensor(1.0))
    assert float(hyper.motion(a, zero)) == pytest.approx(0, abs=1e-9)
    assert float(hyper.motion(a, b)) ** 2 <= float(hyper.motion(a, a) * hyper.motion(b, b)) * (1 + 1e-9) + 1e-12


# --- what is foretold ----------------------------------------------------------------------------


def test_complete_curves_are_known_and_failed_ones_have_no_value(fitted):
    posterior, whole = fitted
    mean, sd = posterior.final()
    assert posterior.loss(mean[3]) == pytest.approx(whole[3, -1], rel=1e-9)
    assert sd[3] == 0
    assert (mean[5], sd[5]) == (math.inf, 0)
    assert np.isinf(posterior.sample([5, 0], 11, 0)[:, 0]).all()
    assert posterior.p_diverge([5, 3]).tolist() == [1, 0]
    others = [i for i in range(29) if i not in (3, 5)]
    assert np.isfinite(mean[others]).all()
    assert (sd[others] > 0).all()
    assert (posterior.p_diverge(others) < 1).all()


def test_all_complete_leaves_nothing_to_foretell():
    _, whole = power_laws(11)
    curves = [PartialCurve([i / 11], np.arange(1, 54), y) for i, y in enumerate(whole)]
    mean, sd = FEW.fit(curves, HORIZON).final()
    assert sd.tolist() == [0.0] * 11
    assert FEW.fit(curves, HORIZON).loss(mean) == pytest.approx(whole[:, -1])


def test_a_trial_without_reports_is_as_uncertain_as_a_new_configuration(fitted):
    posterior, _ = fitted
    x = posterior.curves[7].x
    seen, new = posterior.final([7]), posterior.final([x])
    assert seen[0] == pytest.approx(new[0], abs=1e-6)
    assert seen[1] == pytest.approx(new[1], rel=0.2)
    assert seen[1] > 3 * np.median(posterior.final()[1])


def test_what_is_said_of_a_trial_is_its_level_and_the_rest_of_its_curve(fitted):
    posterior, _ = fitted
    levels, hyper = posterior._levels, posterior.hyper
    mean, variance = levels.marginal()
    G, c, E = (part[:, 0] for part in levels.rest(torch.tensor([0, 7]), torch.ones(2, 1, dtype=torch.float64)))
    said, sd = posterior.final([0, 7])
    assert said == pytest.approx(posterior.temper.tempered((G * mean[[0, 7]] + c).numpy()))
    wide = np.maximum(1, np.log(HORIZON / np.array([posterior.curves[0].steps[-1], HORIZON])) / 0.7)
    scale = float(hyper.scale) * posterior.temper.unit * posterior._normal * wide
    assert sd == pytest.approx(scale * (G**2 * variance[[0, 7]] + E[:, 0]).sqrt().numpy(), rel=1e-4)


def test_one_configuration_without_a_curve_is_the_prior():
    posterior = CurveModel().fit([PartialCurve([0.5], [], [])], HORIZON)
    mean, sd = posterior.final()
    assert mean[0] == pytest.approx(0)
    assert sd[0] > 1
    assert 0 < posterior.p_diverge()[0] < 0.1


def test_it_beats_the_last_value_on_power_laws(fitted):
    posterior, whole = fitted
    partial = [i for i in range(29) if i not in (3, 5, 7)]
    last = np.array([posterior.curves[i].losses[-1] for i in partial])
    error = np.abs(posterior.loss(posterior.final(partial)[0]) - whole[partial, -1])
    assert error.mean() < 0.3 * np.abs(last - whole[partial, -1]).mean()


def test_other_configurations_are_foretold_from_their_neighbours():
    curves, _ = power_laws(53)
    X = np.random.default_rng(1).random((101, 2))
    mean, _ = CurveModel().fit(curves, HORIZON).final(list(X))
    assert np.corrcoef(mean, np.sin(3 * X[:, 0]) + X[:, 1] ** 2)[0, 1] > 0.8


# --- invariances ---------------------------------------------------------------------------------


def test_the_order_of_trials_does_not_matter():
    curves, _ = power_laws(13)
    order = np.random.default_rng(0).permutation(13)
    one, other = FEW.fit(curves, HORIZON), FEW.fit([curves[i] for i in order], HORIZON)
    assert one.hyper.vector.tolist() == other.hyper.vector.tolist()
    assert other.final()[0] == pytest.approx(one.final()[0][order], rel=1e-9)
    assert other.p_diverge() == pytest.approx(one.p_diverge()[order], rel=1e-9)


@settings(max_examples=5, deadline=None)
@given(st.floats(-5, 5), st.floats(-2, 2))
def test_units_of_losses_do_not_matter(shift, log_scale):
    curves, _ = power_laws(7)
    scale = 10**log_scale
    moved = [PartialCurve(c.x, c.steps, scale * (c.losses + shift)) for c in curves]
    one, other = FEW.fit(curves, HORIZON), FEW.fit(moved, HORIZON)
    assert other.final()[0] == pytest.approx(scale * (one.final()[0] + shift), rel=1e-3, abs=1e-3 * scale)
    assert other.final()[1] == pytest.approx(scale * one.final()[1], rel=1e-2)


def test_steps_may_be_in_any_unit():
    curves, _ = power_laws(7)
    longer = [PartialCurve(c.x, 1000 * c.steps, c.losses) for c in curves]
    one, other = FEW.fit(curves, HORIZON), FEW.fit(longer, 1000 * HORIZON)
    assert other.final()[0] == pytest.approx(one.final()[0], rel=1e-6)


def test_fitting_twice_gives_the_same():
    curves, _ = power_laws(7)
    assert FEW.fit(curves, HORIZON).final()[0].tolist() == FEW.fit(curves, HORIZON).final()[0].tolist()


def test_losses_of_1e18_do_no_harm():
    curves, whole = power_laws(17)
    wild = [PartialCurve([0.9, 0.9], np.arange(1, 30), np.geomspace(1, 1e18, 29)), *curves]
    posterior = CurveModel().fit(wild, HORIZON)
    mean, sd = posterior.final()
    assert np.isfinite(mean).all()
    assert np.isfinite(sd).all()
    assert np.isfinite(posterior.loss(posterior.sample(None, 101, 0))).all()
    error = np.abs(posterior.loss(mean[1:]) - whole[:, -1])
    assert np.median(error) < 0.1
    assert posterior.loss(mean[0]) > 1e6


# --- updates, samples, looking ahead -------------------------------------------------------------


def test_an_update_is_a_refit_with_the_same_hyperparameters(fitted):
    posterior, whole = fitted
    curves = list(posterior.curves)
    curves[0] = PartialCurve(curves[0].x, np.arange(1, 50), whole[0, :49])
    curves.append(PartialCurve([0.1, 0.2], [1.0], [2.0]))
    updated = posterior.updated(curves)
    again = CurvePosterior(curves, HORIZON, None, posterior.temper, posterior.hyper)
    assert updated.final()[0].tolist() == again.final()[0].tolist()
    assert updated.final([0])[1] < posterior.final([0])[1]
    assert updated.updated(posterior.curves).final()[0].tolist() == posterior.final()[0].tolist()


def test_samples_have_the_mean_the_quantiles_and_the_correlations(fitted):
    posterior, _ = fitted
    x = posterior.curves[0].x
    which = [0, 1, x, x + 1e-3, x + 5]
    samples = posterior.sample(which, 20_000, 0)
    mean, sd = posterior.final(which)
    assert np.median(samples, axis=0) == pytest.approx(mean, abs=0.05 * sd.max())
    for q in (0.05, 0.95):
        assert np.quantile(samples, q, axis=0) == pytest.approx(posterior.quantile(which, q), abs=0.1 * sd.max())
    assert np.quantile(samples, 0.95, axis=0) - mean == pytest.approx(1.645 * sd, rel=0.1)
    ranks = np.argsort(np.argsort(samples, axis=0), axis=0)
    near, far = np.corrcoef(ranks[:, 2], ranks[:, 3])[0, 1], np.corrcoef(ranks[:, 2], ranks[:, 4])[0, 1]
    assert near > far + 0.1
    assert posterior.sample(which, 3, 7).tolist() == posterior.sample(which, 3, 7).tolist()


def test_samples_of_a_curve_are_one_curve(fitted):
    posterior, _ = fitted
    i = min(range(29), key=lambda i: len(posterior.curves[i].steps) or 99)
    last = posterior.curves[i].steps[-1]
    curves = posterior.sample([i], 2000, 0, [last, last + 1, 50, 53])[:, 0]
    assert curves[:, 0].std() == 0
    assert posterior.loss(curves[0, 0]) == pytest.approx(posterior.curves[i].losses[-1])
    assert np.corrcoef(curves[:, 2], curves[:, 3])[0, 1] > 0.8
    assert curves[:, 1].std() < curves[:, 3].std()
    mean, sd = posterior.at([i], 50)
    assert np.median(curves[:, 2]) == pytest.approx(mean[0], abs=0.1 * sd[0])


def test_looking_further_ahead_tells_more_and_to_the_end_tells_all(fitted):
    posterior, _ = fitted
    i = min(range(29), key=lambda i: len(posterior.curves[i].steps) or 99)
    last = posterior.curves[i].steps[-1]
    moved = [posterior.final_after([i], step)[0] for step in (last, last + 5, last + 20, HORIZON)]
    assert moved[0] == 0
    assert moved == sorted(moved)
    assert moved[3] == pytest.approx(posterior.final([i])[1][0])
    assert posterior.final_after([3, 5, i], [40, 40, last + 5]).tolist() == pytest.approx([0, 0, moved[1]])
    assert posterior.final_after([np.array([0.5, 0.5])], 10)[0] > 0


def test_what_is_asked_must_be_there(fitted):
    posterior, _ = fitted
    for which in ([29], [-1], [np.array([0.5])]):
        with pytest.raises(ModelError, match="29 trials"):
            posterior.final(which)
    with pytest.raises(ModelError, match="horizon"):
        posterior.at([0], 54)


@pytest.mark.slow
def test_intervals_hold_what_they_promise():
    """Curves of the model itself, cut at random: 90 % intervals of 6 studies hold 83 % to 97 % of 300 ends."""
    inside = []
    hyper = Hyperparameters(torch.from_numpy(Hyperparameters.prior(2)[0]))
    steps = np.arange(1, 31)
    q = hyper.clock(torch.from_numpy(steps / 30))
    R = (hyper.motion(q[:, None], q[None]) + hyper.noise * torch.eye(30)).numpy()
    for seed in range(6):
        rng = np.random.default_rng(seed)
        X = rng.random((50, 2))
        g = rng.multivariate_normal(np.zeros(50), hyper.kernel(*2 * [torch.from_numpy(X)]).numpy())
        sigma = 0.2 * np.sqrt(2 / rng.chisquare(2, 50).clip(0.3))
        whole = (g + sigma * rng.standard_normal(50))[:, None] + sigma[:, None] * rng.multivariate_normal(
            np.zeros(30), R, 50
        )
        cut = rng.integers(4, 25, 50)
        curves = [PartialCurve(x, steps[:k], y[:k]) for x, y, k in zip(X, whole, cut, strict=True)]
        posterior = CurveModel(iterations=15).fit(curves, 30)
        low, high = (posterior.loss(posterior.quantile(None, p)) for p in (0.05, 0.95))
        inside.append((low <= whole[:, -1]) & (whole[:, -1] <= high))
    assert 0.83 <= np.mean(inside) <= 0.97


# --- divergence ----------------------------------------------------------------------------------


def test_those_near_failures_diverge_and_those_that_live_on_do_so_less():
    rng = np.random.default_rng(0)
    curves = []
    for _ in range(47):
        x = rng.random(2)
        k = int(rng.integers(1, 12)) if x[0] > 0.7 else 53
        steps = np.arange(1, k + 1)
        curves.append(PartialCurve(x, steps, x[0] + 1 / steps, failed=x[0] > 0.7))
    young = PartialCurve([0.75, 0.5], [1], [1.75])
    old = PartialCurve([0.75, 0.5], np.arange(1, 41), 0.75 + 1 / np.arange(1, 41))
    posterior = FEW.fit([*curves, young, old], HORIZON)
    p = posterior.p_diverge([47, 48, np.array([0.9, 0.5]), np.array([0.2, 0.5])])
    assert p[1] < p[0] < p[2]
    assert p[2] > 0.4 > 0.3 > p[3]


# --- schedules -----------------------------------------------------------------------------------


def test_a_constant_rate_makes_steps_of_progress():
    u = schedule_progress(np.full(41, 3e-4))
    assert u(np.array([1.0, 20.0, 41.0])) == pytest.approx([1, 20, 41])


def test_decay_makes_more_progress_than_the_steps_alone():
    constant, decayed = np.full(1000, 1.0), np.r_[np.full(500, 1.0), np.linspace(1, 0.1, 500)]
    end = schedule_progress(decayed)(np.array([1000.0]))
    assert end > schedule_progress(constant)(np.array([1000.0]))
    assert sum(decayed) < end < sum(decayed) / math.sqrt(0.1)
    rising = schedule_progress(np.r_[np.full(50, 1.0), np.full(50, 0.1), np.full(50, 1.0)])
    assert (np.diff(rising(np.arange(1.0, 151))) >= 0).all()


@pytest.mark.parametrize("rates", [[], [0.0, 1.0], [1.0, -1.0], [1.0, math.nan]])
def test_what_is_no_schedule_is_refused(rates):
    with pytest.raises(ModelError, match="learning rate"):
        schedule_progress(rates)


def test_a_known_schedule_explains_the_drop():
    """Three power laws of progress, seen before the rate decays, after which they fall as never before."""
    rates = np.r_[np.full(600, 1.0), np.linspace(1, 0.1, 400)]
    u = schedule_progress(rates)
    steps = np.arange(10, 1001, 10)
    whole = [a + 5 * u(steps) ** -0.3 for a in (1.0, 1.5, 2.0)]
    curves = [PartialCurve([i / 2], steps[:60], y[:60]) for i, y in enumerate(whole)]
    without, known = (CurveModel().fit(curves, 1000, progress=p).final()[0] for p in (None, u))
    truth = np.array([y[-1] for y in whole])
    assert np.abs(known - truth).mean() < np.abs(without - truth).mean()


def test_progress_that_falls_is_refused():
    with pytest.raises(ModelError, match="progress"):
        FEW.fit([PartialCurve([0.5], [1, 2], [1, 1])], 9, progress=lambda s: 10 - s)


# --- of a study ----------------------------------------------------------------------------------


def test_curves_of_a_study_end_where_it_diverged():
    study = make_study(RECIPES["typical"])
    curves = curves_of(study)
    assert set(curves) == set(study.trials)
    sign = study.problem.objective.sign
    for number, curve in curves.items():
        trial = study.trials[number]
        reported = [(s, sign * v) for s, v in trial.curve(study.problem.objective.metric) if math.isfinite(v)]
        assert list(zip(curve.steps, curve.losses, strict=True)) == reported[: len(curve.steps)]
        assert curve.failed == (trial.failure == Failure.DIVERGED or len(reported) < len(trial.reports))
    assert any(curve.failed for curve in curves.values())


def test_a_replanned_trial_of_fewer_steps_is_no_part_of_a_longer_curve():
    study = make_study(RECIPES["typical"])
    problem = study.problem
    replanned = replace(problem, fidelity=replace(problem.fidelity, schedule="replanned"))
    study.problem = replanned
    assert set(curves_of(study)) == set(study.trials)
    next(iter(study.trials.values())).planned -= 1
    assert set(curves_of(study)) == set(study.trials) - {0}


def test_the_block_of_the_page_runs():
    page = Path(__file__).parents[2] / "docs" / "curves.md"
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    names = {}
    exec(compile(block, str(page), "exec"), names)
    assert names["mean"].shape == (20,)
