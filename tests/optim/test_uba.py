"""The UBA schedule: its closed form, its properties, and its place among torch's schedulers."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.optim import SGD
from torch.optim.lr_scheduler import ChainedScheduler, CosineAnnealingLR, ExponentialLR, LinearLR, SequentialLR

from frugalbo.optim import UBA, uba_factor


def optimizer(*rates):
    return SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates or (1.0,)])


def rates(opt, schedule, steps):
    seen = []
    for _ in range(steps):
        seen.append([group["lr"] for group in opt.param_groups])
        opt.step()
        schedule.step()
    return seen


GOLDEN = {
    0.5: ".998469 .985937 .959282 .915034 .847306 .747308 .604332 .412913 .195483 .033935",
    5.0: ".984904 .875313 .702825 .520622 .360612 .233617 .139288 .073579 .032310 .012447",
}


@pytest.mark.parametrize("phi", list(GOLDEN))
def test_ten_steps_with_a_floor_of_one_percent(phi):
    opt = optimizer()
    schedule = UBA(opt, 10, phi, floor_ratio=0.01)
    want = [float(value) for value in GOLDEN[phi].split()]
    assert [rate for (rate,) in rates(opt, schedule, 10)] == pytest.approx(want, abs=5.1e-7)


CURVES = {
    0.25: (0.99687, 0.97900, 0.88889, 0.57852, 0.16714, 0.7388),
    0.5: (0.99377, 0.95887, 0.80000, 0.40698, 0.09119, 0.6667),
    1.0: (0.98761, 0.92099, 0.66667, 0.25548, 0.04777, 0.5858),
    2.0: (0.97553, 0.85355, 0.50000, 0.14645, 0.02447, 0.5000),
    5.0: (0.94099, 0.69982, 0.28571, 0.06422, 0.00993, 0.3874),
    10.0: (0.88855, 0.53825, 0.16667, 0.03318, 0.00499, 0.3090),
}


@pytest.mark.parametrize("phi", list(CURVES))
def test_the_curve_at_five_points_and_its_mean(phi):
    *values, mean = CURVES[phi]
    at = [uba_factor(int(s * 1000), 1000, phi, angle="endpoint") for s in (0.1, 0.25, 0.5, 0.75, 0.9)]
    assert at == pytest.approx(values, abs=5.1e-6)
    assert sum(uba_factor(t, 2000, phi) for t in range(2000)) / 2000 == pytest.approx(mean, abs=5.1e-5)


@given(phi=st.floats(0.05, 50))
def test_the_mean_and_the_middle_are_what_theory_says(phi):
    # mean = 1 / (1 + sqrt(phi / 2)) and f(1/2) = 2 / (2 + phi)
    mean = sum(uba_factor(t, 500, phi) for t in range(500)) / 500
    assert mean == pytest.approx(1 / (1 + math.sqrt(phi / 2)), abs=1e-9)
    assert uba_factor(250, 500, phi, angle="endpoint") == pytest.approx(2 / (2 + phi))


@given(
    phi=st.floats(0.01, 100),
    more=st.floats(0.01, 100),
    total=st.integers(2, 300),
    warmup=st.integers(0, 20),
    floor=st.floats(0, 0.9),
    angle=st.sampled_from(["midpoint", "endpoint"]),
)
def test_the_rate_falls_with_time_and_with_phi_and_stays_between_peak_and_floor(phi, more, total, warmup, floor, angle):
    assume(warmup < total - 1)
    options = {"warmup_steps": warmup, "floor_ratio": floor, "angle": angle}
    curve = [uba_factor(t, total, phi, **options) for t in range(warmup, total + 1)]
    assert all(a > b for a, b in itertools.pairwise(curve))
    assert curve[-1] == floor
    assert curve[0] <= 1
    steeper = [uba_factor(t, total, phi + more, **options) for t in range(warmup, total + 1)]
    first = 0 if angle == "midpoint" else 1  # both start at the peak
    assert all(a > b for a, b in zip(curve[first:-1], steeper[first:-1], strict=True))


@given(phi=st.floats(0.01, 1.0), step=st.integers(0, 100))
def test_the_textbook_form_gives_the_same(phi, step):
    cos = math.cos(math.pi * (2 * step + 1) / 202)
    assert uba_factor(step, 101, phi) == pytest.approx(2 * (1 + cos) / (2 * phi + (2 - phi) * (1 + cos)), rel=1e-9)


@pytest.mark.parametrize("warmup", [0, 3])
def test_phi_two_is_torchs_cosine(warmup):
    ours, theirs = optimizer(0.3, 0.7), optimizer(0.3, 0.7)
    uba = UBA(ours, 17 + warmup, 2.0, warmup_steps=warmup, angle="endpoint")
    cosine = CosineAnnealingLR(theirs, T_max=17)
    rates(ours, uba, warmup)
    for a, b in zip(rates(ours, uba, 17), rates(theirs, cosine, 17), strict=True):
        assert a == pytest.approx(b)


def test_phi_zero_is_constant_until_the_budget_ends():
    opt = optimizer(0.5)
    seen = rates(opt, UBA(opt, 5, 0.0, floor_ratio=0.1), 7)
    assert [rate for (rate,) in seen] == pytest.approx([0.5] * 5 + [0.05] * 2)


@pytest.mark.parametrize("kappa", [2, 5, 10, 50])
@pytest.mark.parametrize("total", [4, 8, 16])
def test_twice_the_condition_number_is_chebyshevs_optimal_step_sizes(kappa, total):
    # Gradient descent contracts an error of curvature c by prod_t |1 - eta_t c|. The least worst case over
    # [1, kappa] is 1 / T_total((kappa + 1) / (kappa - 1)), T the Chebyshev polynomial.
    curvature = torch.linspace(1, kappa, 20_001, dtype=torch.float64)
    product = torch.ones_like(curvature)
    for t in range(total):
        eta = uba_factor(t, total, 2 * kappa, floor_ratio=1 / kappa)  # of the peak 1 / 1
        product *= 1 - eta * curvature
    optimum = 1 / math.cosh(total * math.acosh((kappa + 1) / (kappa - 1)))
    assert product.abs().max().item() == pytest.approx(optimum, rel=1e-9)


def test_the_warm_up_rises_to_the_peak_and_is_part_of_the_budget():
    opt = optimizer(0.8)
    seen = [rate for (rate,) in rates(opt, UBA(opt, 10, 1.0, warmup_steps=4, floor_ratio=0.2), 13)]
    assert seen[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert seen[3] > seen[4] > seen[9] > 0.16
    assert seen[4] == pytest.approx(0.8 * uba_factor(0, 6, 1.0, floor_ratio=0.2))
    assert seen[10:] == pytest.approx([0.16] * 3)


@pytest.mark.parametrize("floor", [0.0, 0.25])
def test_steps_beyond_the_budget_stay_at_the_floor(floor):
    opt = optimizer(0.5, 2.0)
    beyond = rates(opt, UBA(opt, 7, 0.5, floor_ratio=floor), 20)[7:]
    assert beyond[0] == pytest.approx([0.5 * floor, 2.0 * floor])
    assert all(rate == beyond[0] for rate in beyond)
    assert uba_factor(10**9, 7, 0.5, floor_ratio=floor) == floor


@given(phi=st.floats(0, 30), total=st.integers(1, 40), warmup=st.integers(0, 39), floor=st.floats(0, 1))
def test_the_scheduler_is_the_function_for_every_group(phi, total, warmup, floor):
    assume(warmup < total)
    opt = optimizer(0.3, 5.0)
    schedule = UBA(opt, total, phi, warmup_steps=warmup, floor_ratio=floor)
    for step, got in enumerate(rates(opt, schedule, total + 3)):
        factor = uba_factor(step, total, phi, warmup_steps=warmup, floor_ratio=floor)
        assert got == pytest.approx([0.3 * factor, 5.0 * factor], rel=1e-9, abs=1e-300)


def test_in_a_chain_the_factors_multiply():
    opt = optimizer(0.4)
    chain = ChainedScheduler([UBA(opt, 9, 0.7, floor_ratio=0.1), ExponentialLR(opt, 0.9)], opt)
    for step, (rate,) in enumerate(rates(opt, chain, 11)):
        assert rate == pytest.approx(0.4 * uba_factor(step, 9, 0.7, floor_ratio=0.1) * 0.9**step)


def test_after_a_milestone_it_starts_from_its_own_beginning():
    opt = optimizer(0.4)
    warm = LinearLR(opt, start_factor=0.25, total_iters=3)
    schedule = SequentialLR(opt, [warm, UBA(opt, 9, 0.7)], milestones=[3])
    seen = [rate for (rate,) in rates(opt, schedule, 12)]
    assert seen[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert seen[3:] == pytest.approx([0.4 * uba_factor(step, 9, 0.7) for step in range(9)])


def test_before_a_milestone_and_after_another_uba():
    opt = optimizer(0.4)
    schedule = SequentialLR(opt, [UBA(opt, 4, 5.0), UBA(opt, 6, 0.5)], milestones=[4])
    want = [uba_factor(t, 4, 5.0) for t in range(4)] + [uba_factor(t, 6, 0.5) for t in range(6)]
    assert [rate for (rate,) in rates(opt, schedule, 10)] == pytest.approx([0.4 * w for w in want])


@pytest.mark.parametrize("pause", [2, 5, 11])
def test_a_resumed_schedule_gives_the_same_rates_bit_for_bit(pause):
    def make():
        opt = optimizer(0.3, 0.7)
        return opt, UBA(opt, 11, 0.7, warmup_steps=4, floor_ratio=0.05)

    straight = rates(*make(), 15)
    opt, schedule = make()
    rates(opt, schedule, pause)
    saved = copy.deepcopy((opt.state_dict(), schedule.state_dict()))
    opt, schedule = make()
    opt.load_state_dict(saved[0])
    schedule.load_state_dict(saved[1])
    assert rates(opt, schedule, 15 - pause) == straight[pause:]


def test_a_rate_that_is_a_tensor_stays_one():
    opt = SGD([torch.nn.Parameter(torch.zeros(1))], lr=torch.tensor(0.5))
    schedule = UBA(opt, 4, 1.0)
    opt.step()
    schedule.step()
    assert torch.is_tensor(opt.param_groups[0]["lr"])
    assert opt.param_groups[0]["lr"].item() == pytest.approx(0.5 * uba_factor(1, 4, 1.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"phi": -0.1}, "phi to be finite and >= 0, got -0.1"),
        ({"phi": math.inf}, "phi to be finite and >= 0, got inf"),
        ({"phi": math.nan}, "phi to be finite and >= 0, got nan"),
        ({"total_steps": 0}, "total_steps to be a positive whole number, got 0"),
        ({"total_steps": 9.5}, "total_steps to be a positive whole number, got 9.5"),
        ({"warmup_steps": 10}, r"warmup_steps in \[0, total_steps=10\), got 10"),
        ({"warmup_steps": -1}, r"warmup_steps in \[0, total_steps=10\), got -1"),
        ({"floor_ratio": 1.5}, r"floor_ratio in \[0, 1\], got 1.5"),
        ({"angle": "middle"}, "angle to be 'midpoint' or 'endpoint', got 'middle'"),
    ],
)
def test_a_bad_argument_is_refused_by_both_and_leaves_the_optimizer_alone(options, message):
    arguments = {"total_steps": 10, "phi": 1.0, **options}
    opt = optimizer(0.5)
    with pytest.raises(ValueError, match=message):
        UBA(opt, **arguments)
    assert opt.param_groups[0]["lr"] == 0.5
    with pytest.raises(ValueError, match=message):
        uba_factor(0, **arguments)


def test_a_step_before_the_first_is_refused():
    with pytest.raises(ValueError, match="step >= 0, got -1"):
        uba_factor(-1, 10, 1.0)
