"""What `Frugal` does to the weights: against closed forms, torch's optimizers and dense algebra."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from frugalbo.optim import Frugal, param_groups

M, N, R = 7, 5, 11  # distinct primes: a swapped axis cannot pass
COORDINATE = ["blockwise", "columns", "rows", "randk"]
BASIS = ["svd", "random_orthogonal"]
ALL = COORDINATE + BASIS
LR = 0.01


def gradients(shapes, steps, *, dtype=torch.float64, seed=0):
    """Return gradients by step and tensor, all at least 0.1 in size."""
    stream = torch.Generator().manual_seed(seed)
    draws = [[torch.randn(shape, generator=stream, dtype=dtype) for shape in shapes] for _ in range(steps)]
    return [[g + 0.1 * g.sign() for g in step] for step in draws]


def tensors(shapes, *, dtype=torch.float64, seed=1):
    stream = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=stream, dtype=dtype)) for shape in shapes]


def projectable(params, **options):
    return Frugal([{"params": params, "projectable": True}], **{"lr": LR, **options})


def run(optimizer, params, grads):
    for step in grads:
        for param, grad in zip(params, step, strict=True):
            param.grad = grad.clone()
        optimizer.step()
    return [param.detach().clone() for param in params]


def closest(got, want, **tolerances):
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, **tolerances)


SHAPES = [(M, N), (N, M), (R, N), (N, R)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("projection", COORDINATE)
def test_the_first_step_after_every_refresh_is_a_sign_step_whatever_is_active(projection, dtype):
    # m = (1 - beta1) g and v = (1 - beta2) g^2, so m_hat / sqrt(v_hat) = sign(g) where state is full,
    # and where it is not the rule is sign(g) itself: -lr sign(g) everywhere.
    params = tensors(SHAPES, dtype=dtype)
    grads = gradients(SHAPES, 7, dtype=dtype)
    optimizer = projectable(params, projection=projection, density=0.5, update_gap=3)
    for t, step in enumerate(grads):
        before = [param.detach().clone() for param in params]
        after = run(optimizer, params, [step])
        signs = [b - LR * g.sign() for b, g in zip(before, step, strict=True)]
        if t % 3 == 0:
            closest(after, signs, rtol=0, atol=1e-6 * LR + 1e-15 if dtype == torch.float64 else 1e-6)
        else:
            assert any((a - s).abs().max() > 0.01 * LR for a, s in zip(after, signs, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("projection", COORDINATE)
def test_full_density_in_one_long_gap_is_adamw(projection, dtype):
    ours, theirs = tensors(SHAPES, dtype=dtype), tensors(SHAPES, dtype=dtype)
    grads = gradients(SHAPES, 13, dtype=dtype)
    options = {"lr": LR, "betas": (0.8, 0.95), "weight_decay": 0.1}
    got = run(projectable(ours, projection=projection, density=1.0, update_gap=14, **options), ours, grads)
    want = run(torch.optim.AdamW(theirs, **options), theirs, grads)
    closest(got, want, rtol=1e-6, atol=1e-6 * LR)


@pytest.mark.parametrize("projection", COORDINATE)
def test_full_density_is_adamw_that_restarts_every_gap(projection):
    ours, theirs = tensors(SHAPES), tensors(SHAPES)
    grads = gradients(SHAPES, 13)
    got = run(projectable(ours, projection=projection, density=1.0, update_gap=5), ours, grads)
    for start in range(0, 13, 5):
        fresh = torch.optim.AdamW(theirs, lr=LR, weight_decay=0)
        want = run(fresh, theirs, grads[start : start + 5])
    closest(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("projection", COORDINATE)
def test_full_density_with_state_carried_over_is_adamw_across_gaps(projection):
    ours, theirs = tensors(SHAPES), tensors(SHAPES)
    grads = gradients(SHAPES, 13)
    optimizer = projectable(ours, projection=projection, density=1.0, update_gap=5, reset_state=False)
    want = run(torch.optim.AdamW(theirs, lr=LR, weight_decay=0), theirs, grads)
    closest(run(optimizer, ours, grads), want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("projection", ALL)
def test_zero_density_is_sign_sgd_on_linear_weights_and_adamw_elsewhere(projection):
    model = nn.Sequential(nn.Embedding(R, N), nn.Linear(N, M), nn.Linear(M, N))
    reference = copy.deepcopy(model)
    linear, others = model[1].weight, [model[0].weight, model[1].bias, model[2].weight, model[2].bias]
    optimizer = Frugal(param_groups(model), lr=LR, density=0.0, projection=projection, weight_decay=0.1)
    adamw = torch.optim.AdamW(
        [reference[0].weight, reference[1].bias, reference[2].weight, reference[2].bias],
        lr=LR,
        weight_decay=0.1,
    )
    w = linear.detach().clone()
    for seed in range(3):
        for net, opt in ((model, optimizer), (reference, adamw)):
            net.zero_grad()
            tokens = torch.randint(R, (13,), generator=torch.Generator().manual_seed(seed))
            net[0](tokens).square().sum().backward()
            for param in net[1:].parameters():
                param.grad = torch.full_like(param, 0.3 * (-1) ** seed)
            opt.step()
        w = w * (1 - LR * 0.1) - LR * (-1) ** seed
    torch.testing.assert_close(linear, w)
    closest(others, [reference[0].weight, reference[1].bias, reference[2].weight, reference[2].bias])
    assert not any(torch.is_tensor(value) for value in optimizer.state[linear].values())


def dense_basis(optimizer, param, position):
    """Return P^T as a matrix from subspace coordinates to the flattened weight."""
    group, eye = optimizer.param_groups[0], torch.eye(param.numel(), dtype=param.dtype)
    if group["projection"] == "blockwise":
        return eye if position in group["active"] else eye[:, :0]
    p = optimizer.state[param].get("projector")
    if p is None:
        return eye[:, :0]
    rows, columns = param.shape
    grid = torch.arange(param.numel()).view(rows, columns)
    if group["projection"] == "randk":
        return eye[:, p.long()]
    if group["projection"] == "rows":
        return eye[:, grid[p.long()].reshape(-1)]
    if group["projection"] == "columns":
        return eye[:, grid[:, p.long()].reshape(-1)]
    if rows >= columns:  # vec(s P^T) for row-major vec
        return torch.kron(torch.eye(rows, dtype=param.dtype), p)
    return torch.kron(p, torch.eye(columns, dtype=param.dtype))


class Dense:
    """FRUGAL by the paper's equations, on flattened weights with P as an explicit matrix."""

    def __init__(self, params, options):
        self.w = [param.detach().clone().reshape(-1) for param in params]
        self.moments = [None] * len(params)
        self.k = [0] * len(params)
        self.o = options

    def step(self, t, bases, grads):
        o, lr = self.o, LR
        lr_full = lr * o["projectable_lr_scale"]
        lr_free = lr_full * o["state_free_lr_scale"]
        for i, (basis, grad) in enumerate(zip(bases, grads, strict=True)):
            g = grad.reshape(-1)
            low = basis.T @ g
            if t % o["update_gap"] == 0:
                self.moments[i], self.k[i] = (torch.zeros_like(low), torch.zeros_like(low)), 0
            self.k[i] += 1
            m, v = self.moments[i]
            k = self.k[i]
            if o["state_full"] == "adamw":
                m, v = 0.9 * m + 0.1 * low, 0.999 * v + 0.001 * low**2
                u = (m / (1 - 0.9**k)) / ((v / (1 - 0.999**k)).sqrt() + 1e-8)
            elif o["state_full"] == "lion":
                u = (0.9 * m + 0.1 * low).sign()
                m = 0.99 * m + 0.01 * low
            else:
                u = m = 0.9 * m + low
            self.moments[i] = (m, v)
            residual = g - basis @ low
            residual[residual.abs() < 1e-12] = 0
            free = {"signsgd": residual.sign(), "sgd": residual, "none": 0 * g}[o["state_free"]]
            self.w[i] = self.w[i] * (1 - lr * o["weight_decay"]) - lr_full * (basis @ u) - lr_free * free


@pytest.mark.parametrize("state_free", ["signsgd", "sgd", "none"])
@pytest.mark.parametrize("state_full", ["adamw", "lion", "sgd"])
@pytest.mark.parametrize("projection", ALL)
def test_steps_match_the_papers_equations_with_dense_projectors(projection, state_full, state_free):
    options = {
        "projection": projection,
        "state_full": state_full,
        "state_free": state_free,
        "density": 0.5,
        "update_gap": 3,
        "weight_decay": 0.2,
        "projectable_lr_scale": 0.3,
        "state_free_lr_scale": 0.7,
    }
    params = tensors(SHAPES)
    dense = Dense(params, options)
    optimizer = projectable(params, **options)
    for t, grads in enumerate(gradients(SHAPES, 8)):
        got = run(optimizer, params, [grads])
        bases = [dense_basis(optimizer, param, i) for i, param in enumerate(params)]
        dense.step(t, bases, grads)
        closest([g.reshape(-1) for g in got], dense.w, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("projection", ["columns", "rows", "randk"])
def test_a_coordinate_that_stays_keeps_its_moments_when_state_is_carried(projection):
    (param,) = params = tensors([(M, R)])
    optimizer = projectable(params, projection=projection, density=0.7, update_gap=2, reset_state=False)

    def lifted():
        state = optimizer.state[param]
        basis = dense_basis(optimizer, param, 0)
        return [basis @ state[name].reshape(-1) for name in ("exp_avg", "exp_avg_sq")], basis.sum(1) > 0

    grads = gradients([(M, R)], 3)
    run(optimizer, params, grads[:2])
    (m, v), old = lifted()
    run(optimizer, params, grads[2:])
    (new_m, new_v), new = lifted()
    assert (old & new).any()
    assert (old != new).any()
    g = grads[2][0].reshape(-1)
    both, fresh = old & new, new & ~old
    torch.testing.assert_close(new_m[both], (0.9 * m + 0.1 * g)[both])
    torch.testing.assert_close(new_v[both], (0.999 * v + 0.001 * g**2)[both])
    torch.testing.assert_close(new_m[fresh], 0.1 * g[fresh])
    assert optimizer.state[param]["step"] == 3


def test_galore_keeps_its_moments_in_the_new_coordinates_and_leaves_the_residual():
    (param,) = params = tensors([(M, N)])
    optimizer = projectable(
        params, projection="svd", state_free="none", reset_state=False, density=0.4, update_gap=2,
        projectable_lr_scale=0.25,
    )  # fmt: skip
    w = param.detach().clone()
    m = v = torch.zeros(M, 2, dtype=w.dtype)  # round(0.4 * 5) = 2 right singular vectors
    for t, (g,) in enumerate(gradients([(M, N)], 5)):
        run(optimizer, params, [[g]])
        if t % 2 == 0:
            basis = optimizer.state[param]["projector"].clone()
            right = torch.linalg.svd(g)[2][:2].T
            torch.testing.assert_close(basis @ basis.T, right @ right.T)
        low = g @ basis
        m, v = 0.9 * m + 0.1 * low, 0.999 * v + 0.001 * low**2
        u = (m / (1 - 0.9 ** (t + 1))) / ((v / (1 - 0.999 ** (t + 1))).sqrt() + 1e-8)
        w = w - 0.25 * LR * u @ basis.T
        torch.testing.assert_close(param.detach(), w)


def test_blockwise_without_a_state_free_rule_leaves_inactive_tensors_as_they_are():
    params = tensors(SHAPES)
    before = [param.detach().clone() for param in params]
    optimizer = projectable(params, state_free="none", block_order="ascending", density=0.25, update_gap=2)
    after = run(optimizer, params, gradients(SHAPES, 4))
    moved = [not torch.equal(a, b) for a, b in zip(after, before, strict=True)]
    assert moved == [True, True, False, False]


def test_inactive_tensors_hold_no_tensor_in_any_gap():
    params = tensors(SHAPES)
    optimizer = projectable(params, block_order="descending", density=0.25, update_gap=1)
    for t, grads in enumerate(gradients(SHAPES, 6)):
        run(optimizer, params, [grads])
        holders = [any(torch.is_tensor(v) for v in optimizer.state[p].values()) for p in params]
        assert holders == [position == 3 - t % 4 for position in range(4)]


def test_a_tensor_that_leaves_the_block_frees_its_state_even_without_a_gradient():
    params = tensors(SHAPES)
    optimizer = projectable(params, block_order="ascending", density=0.25, update_gap=1)
    (grads,) = gradients(SHAPES, 1)
    run(optimizer, params, [grads])
    assert "exp_avg" in optimizer.state[params[0]]
    params[0].grad = None
    optimizer.step()
    assert params[0] not in optimizer.state


def test_a_square_basis_leaves_no_rounding_noise_to_the_sign():
    # Momentum 0 in a basis of the whole space is plain SGD: w - lr P^T P g = w - lr g.
    params = tensors([(M, N)])
    before = params[0].detach().clone()
    optimizer = projectable(params, projection="svd", density=1.0, state_full="sgd", momentum=0.0)
    (grads,) = gradients([(M, N)], 1)
    closest(run(optimizer, params, [grads]), [before - LR * grads[0]])


def test_lion_and_sgd_at_full_density_are_the_plain_rules():
    ours, theirs = tensors(SHAPES), tensors(SHAPES)
    grads = gradients(SHAPES, 5)
    sgd = projectable(ours, state_full="sgd", momentum=0.7, density=1.0)
    want = run(torch.optim.SGD(theirs, lr=LR, momentum=0.7), theirs, grads)
    closest(run(sgd, ours, grads), want)
    # Lion's first steps for a scalar: g = 1 then -0.05: m1 = 0.01; c2 = 0.009 - 0.005 > 0.
    (w,) = tensors([()])
    start = w.item()
    lion = Frugal([{"params": [w], "projectable": False}], lr=LR, state_full="lion")
    run(lion, [w], [[torch.tensor(1.0, dtype=w.dtype)], [torch.tensor(-0.05, dtype=w.dtype)]])
    assert w.item() == pytest.approx(start - 2 * LR)


def test_a_tensor_larger_than_a_piece_is_stepped_like_any_other():
    shape = (521, 523)  # over 2^18 entries
    ours, theirs = tensors([shape], dtype=torch.float32), tensors([shape], dtype=torch.float32)
    grads = gradients([shape], 2, dtype=torch.float32)
    want = run(torch.optim.AdamW(theirs, lr=LR, weight_decay=0.1), theirs, grads)
    closest(run(projectable(ours, density=1.0, weight_decay=0.1), ours, grads), want)
    free = tensors([shape], dtype=torch.float32)
    want = [free[0].detach() - LR * grads[0][0].sign() - LR * grads[1][0].sign()]
    closest(run(projectable(free, density=0.0), free, grads), want)


@pytest.mark.parametrize("projection", ALL)
def test_weights_and_gradients_of_any_strides_take_the_same_steps(projection):
    def stepped(strided):
        (param,) = tensors([(M, N)])
        if strided:
            param = nn.Parameter(param.detach().T.contiguous().T)
            assert not param.is_contiguous()
        params = [param]
        optimizer = projectable(params, projection=projection, density=0.6, update_gap=2)
        for (g,) in gradients([(M, N)], 5):
            param.grad = g.T.contiguous().T if strided else g
            optimizer.step()
        return param.detach()

    torch.testing.assert_close(stepped(strided=True), stepped(strided=False))


@pytest.mark.parametrize("state_free", ["none", "signsgd"])
def test_randk_writes_through_to_a_weight_that_is_not_contiguous(state_free):
    param = nn.Parameter(torch.zeros(N, M).T)
    optimizer = projectable([param], projection="randk", density=0.5, state_free=state_free)
    param.grad = torch.ones(M, N)
    optimizer.step()
    # floor(0.5 * 35) = 17 entries are state-full, the others move by the state-free rule only
    assert int((param != 0).sum()) == (17 if state_free == "none" else 35)


@pytest.mark.parametrize("projection", ALL)
def test_a_schedule_of_the_group_rate_drives_both_rules(projection):
    # Lion and signSGD move by the rate alone, whatever the gradient's size: half the rate, half the step.
    moves = []
    for lr in (LR, LR / 2):
        params = tensors([(M, N)])
        before = params[0].detach().clone()
        optimizer = projectable(params, projection=projection, density=0.4, state_full="lion", lr=123.0)
        optimizer.param_groups[0]["lr"] = lr
        (after,) = run(optimizer, params, gradients([(M, N)], 1))
        moves.append(after - before)
    torch.testing.assert_close(moves[0], 2 * moves[1])


def test_groups_of_different_density_and_projection_live_side_by_side():
    # RoBERTa's setting: some weights by columns, some for ever state-free at a tenth of the rate.
    a, b, c = params = tensors([(M, N), (R, M), (N,)])
    optimizer = Frugal(
        [
            {"params": [a], "projectable": True, "projection": "columns", "density": 0.4},
            {"params": [b], "projectable": True, "density": 0.0, "state_free_lr_scale": 0.1},
            {"params": [c]},
        ],
        lr=LR,
    )
    before = b.detach().clone()
    grads = gradients([(M, N), (R, M), (N,)], 1)
    run(optimizer, params, grads)
    assert optimizer.state[a]["exp_avg"].shape == (M, 2)
    torch.testing.assert_close(b.detach(), before - 0.1 * LR * grads[0][1].sign())
    assert optimizer.state[c]["exp_avg"].shape == (N,)


def test_blockwise_chooses_and_counts_only_tensors_that_require_a_gradient():
    params = tensors(SHAPES)
    params[0].requires_grad_(False)
    params[2].requires_grad_(False)
    optimizer = projectable(params, density=0.5, update_gap=1, block_order="ascending")
    for expected in (1, 3, 1):
        for param in params:
            param.grad = torch.ones_like(param) if param.requires_grad else None
        optimizer.step()
        assert optimizer.param_groups[0]["active"] == [expected]
    assert not any(param in optimizer.state for param in (params[0], params[2]))


@pytest.mark.parametrize("projection", ALL)
def test_a_tensor_without_gradients_stays_and_joins_when_its_first_gradient_comes(projection):
    params = tensors([(M, N), (R, N)])
    before = params[1].detach().clone()
    optimizer = projectable(params, projection=projection, density=0.6, update_gap=4)
    for t, (g, h) in enumerate(gradients([(M, N), (R, N)], 6)):
        params[0].grad, params[1].grad = g, h if t > 1 else None
        optimizer.step()
        if t == 1:
            assert torch.equal(params[1], before)
            assert params[1] not in optimizer.state
    assert not torch.equal(params[1], before)


def test_a_closure_is_called_with_gradients_and_its_loss_returned():
    (param,) = params = tensors([(M, N)])
    optimizer = projectable(params)

    def closure():
        optimizer.zero_grad()
        loss = param.square().sum()
        loss.backward()
        return loss

    want = param.square().sum().item()
    before = param.detach().clone()
    assert optimizer.step(closure).item() == pytest.approx(want)
    assert not torch.equal(param, before)


def test_a_sparse_gradient_is_refused_before_anything_moves():
    dense, sparse = tensors([(M, N), (R, N)])
    optimizer = Frugal([{"params": [dense], "projectable": True}, {"params": [sparse]}], lr=LR)
    dense.grad = torch.ones_like(dense)
    sparse.grad = torch.ones_like(sparse).to_sparse()
    before = dense.detach().clone()
    with pytest.raises(RuntimeError, match=r"dense gradients, got a sparse one .*11, 5.*sparse=False"):
        optimizer.step()
    assert torch.equal(dense, before)


def test_a_group_added_later_has_gaps_of_its_own():
    a, b = tensors([(M, N), (R, N)])
    optimizer = projectable([a], density=1.0, update_gap=4)
    run(optimizer, [a], gradients([(M, N)], 3))
    optimizer.add_param_group({"params": [b], "projectable": True})
    run(optimizer, [a, b], gradients([(M, N), (R, N)], 2))
    assert optimizer.state[a]["step"] == 1  # steps 4 and 5: refreshed at the latter
    assert optimizer.state[b]["step"] == 2


def test_groups_serve_several_optimizers_and_stay_as_they_were():
    groups = [{"params": tensors([(M, N)]), "projectable": True}]
    first = Frugal(groups, projection="columns", density=0.4)
    run(first, groups[0]["params"], gradients([(M, N)], 1))
    assert set(groups[0]) == {"params", "projectable"}
    for source in (groups, first.param_groups):
        second = Frugal(source, projection="rows" if source is groups else "columns")
        counters = second.param_groups[0]
        assert (counters["step"], counters["draw"], counters["active"]) == (0, -1, [])
    assert first.param_groups[0]["step"] == 1


def test_a_changed_density_counts_from_the_next_refresh():
    (param,) = params = tensors([(M, R)])
    optimizer = projectable(params, projection="columns", density=0.5, update_gap=2)
    sizes = []
    for t, grads in enumerate(gradients([(M, R)], 5)):
        if t == 1:
            optimizer.param_groups[0]["density"] = 0.2
        run(optimizer, params, [grads])
        sizes.append(optimizer.state[param]["exp_avg"].shape[1])
    assert sizes == [5, 5, 2, 2, 2]  # floor(0.5 * 11) and floor(0.2 * 11)


def test_bfloat16_parameters_have_bfloat16_state():
    params = tensors(SHAPES, dtype=torch.bfloat16)
    for projection in ALL:
        optimizer = projectable(params, projection=projection, density=0.5, update_gap=2)
        run(optimizer, params, gradients(SHAPES, 3, dtype=torch.bfloat16))
        moments = [v for s in optimizer.state.values() for k, v in s.items() if k.startswith("exp_avg")]
        assert moments
        assert {moment.dtype for moment in moments} == {torch.bfloat16}
        assert all(torch.isfinite(param).all() for param in params)


@pytest.mark.parametrize("projection", ALL)
def test_the_global_random_state_is_neither_read_nor_advanced(projection):
    results = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        params = tensors(SHAPES)
        results.append(run(projectable(params, projection=projection, update_gap=2), params, gradients(SHAPES, 5)))
        assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("projection", ["columns", "rows", "randk", "random_orthogonal"])
def test_draws_differ_by_seed_gap_group_and_tensor(projection):
    def drawn(seed):
        params = tensors([(13, 13)] * 4)
        optimizer = Frugal(
            [{"params": params[:2], "projectable": True}, {"params": params[2:], "projectable": True}],
            projection=projection, density=0.5, update_gap=1, seed=seed,
        )  # fmt: skip
        projectors = []
        for grads in gradients([(13, 13)] * 4, 3):
            run(optimizer, params, [grads])
            projectors += [tuple(optimizer.state[p]["projector"].flatten().tolist()) for p in params]
        return projectors

    assert drawn(0) == drawn(0)
    # 24 draws of 6 columns of 13 (1716 subsets): a chance of 15% that two happen to be equal, but for
    # any of the four axes to be ignored at least 6 would have to be.
    assert len(set(drawn(0) + drawn(1))) >= 22


OPTIONS = [
    ({"lr": -1.0}, "lr >= 0, got -1.0"),
    ({"lr": math.nan}, "lr >= 0, got nan"),
    ({"eps": -1e-8}, "eps >= 0"),
    ({"weight_decay": -0.1}, "weight_decay >= 0"),
    ({"density": 1.5}, r"density in \[0, 1\], got 1.5"),
    ({"update_gap": 0}, "update_gap to be a positive whole number, got 0"),
    ({"update_gap": 2.5}, "update_gap to be a positive whole number, got 2.5"),
    ({"projection": "galore"}, "projection to be one of blockwise, .*got 'galore'"),
    ({"block_order": "up"}, "block_order to be one of random, .*got 'up'"),
    ({"state_full": "adam"}, "state_full to be one of adamw, .*got 'adam'"),
    ({"state_free": "sign"}, "state_free to be one of signsgd, .*got 'sign'"),
    ({"betas": (0.9, 1.0)}, r"betas in \[0, 1\), got 1.0"),
    ({"momentum": 1.0}, r"momentum in \[0, 1\), got 1.0"),
    ({"state_free_lr_scale": -1}, "state_free_lr_scale >= 0"),
    ({"projectable_lr_scale": -1}, "projectable_lr_scale >= 0"),
]


@pytest.mark.parametrize(("options", "message"), OPTIONS, ids=[str(options) for options, _ in OPTIONS])
def test_a_bad_option_is_refused_with_what_was_expected(options, message):
    with pytest.raises(ValueError, match=message):
        projectable(tensors(SHAPES), **options)


def test_parameters_of_which_none_says_whether_it_is_projectable_are_refused():
    with pytest.raises(ValueError, match=r"frugalbo\.optim\.param_groups\(model\)"):
        Frugal(tensors(SHAPES))


@pytest.mark.parametrize("projection", ["columns", "rows", "svd", "random_orthogonal"])
def test_a_projection_of_matrices_refuses_other_shapes_and_takes_no_group_then(projection):
    optimizer = projectable(tensors([(M, N)]), projection=projection)
    with pytest.raises(ValueError, match=r"expects matrices, got a parameter of shape \(7,\)"):
        optimizer.add_param_group({"params": tensors([(M,)]), "projectable": True})
    assert len(optimizer.param_groups) == 1


def test_complex_parameters_are_refused():
    with pytest.raises(ValueError, match="complex64"):
        projectable([nn.Parameter(torch.zeros(M, N, dtype=torch.complex64))])


def test_the_mirror_order_refuses_odd_counts():
    with pytest.raises(ValueError, match="1 active of 4"):
        projectable(tensors(SHAPES), block_order="mirror", density=0.25)


@settings(deadline=None, max_examples=40)
@given(
    projection=st.sampled_from(ALL),
    density=st.floats(0, 1),
    gap=st.integers(1, 4),
    rows=st.integers(1, 7),
    columns=st.integers(1, 7),
    carry=st.booleans(),
)
def test_no_entry_moves_by_more_than_the_rules_allow(projection, density, gap, rows, columns, carry):
    # Lion and signSGD step by one rate each. A coordinate gets exactly one of the two; a basis mixes up
    # to r signs with weights of norm one, which sum to sqrt(min(m, n)) at most, beside the sign step.
    params = tensors([(rows, columns)] * 2)
    optimizer = projectable(
        params, projection=projection, density=density, update_gap=gap, reset_state=not carry, state_full="lion"
    )
    most = LR * (1 if projection in COORDINATE else 1 + math.sqrt(min(rows, columns)))
    for grads in gradients([(rows, columns)] * 2, 4):
        before = [param.detach().clone() for param in params]
        for a, b in zip(run(optimizer, params, [grads]), before, strict=True):
            assert (a - b).abs().max() <= most + 1e-12


def test_a_model_learns_with_the_defaults_a_user_would_write():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(N, 17), nn.Tanh(), nn.Linear(17, 17), nn.Tanh(), nn.Linear(17, 1))
    x = torch.randn(61, N)
    y = x[:, :1] * x[:, 1:2]
    optimizer = Frugal(param_groups(model), lr=1e-2, density=0.5, update_gap=7)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
