"""State bytes: predicted, measured, by hand, and the paper's."""

import pytest
import torch
from torch import nn

from frugalbo.optim import (
    LLAMA,
    Frugal,
    LlamaShape,
    StateBytes,
    measure_state_bytes,
    paper_state_bytes,
    param_groups,
    predict_state_bytes,
    predict_state_bytes_from_shapes,
)

F32 = 4
M, N, V = 11, 7, 23


def model():
    return nn.Sequential(
        nn.Embedding(V, N), nn.Linear(N, M), nn.Linear(M, N), nn.Linear(N, N), nn.Linear(N, M), nn.Linear(M, V)
    )


REGULAR = V * N + M + N + N + M + (V * M + V)  # embedding, biases, head with its bias
ORDERS = ["random", "ascending", "descending", "mirror"]
SHAPES = [(M, N), (N, M), (N, N), (M, N)]


def stepped(optimizer, steps=1):
    for _ in range(steps):
        for group in optimizer.param_groups:
            for param in group["params"]:
                param.grad = torch.randn(param.shape, generator=torch.Generator().manual_seed(0)).to(param.dtype)
        optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    ("projection", "moments", "projector"),
    [
        # density 0.3 of 11 x 7, 7 x 11, 7 x 7 and 11 x 7
        ("columns", 2 * M + 3 * N + 2 * N + 2 * M, 2 + 3 + 2 + 2),  # floor(.3 * 7) = 2, floor(.3 * 11) = 3
        ("rows", 3 * N + 2 * M + 2 * N + 3 * N, 3 + 2 + 2 + 3),
        ("randk", 23 + 23 + 14 + 23, 23 + 23 + 14 + 23),  # floor(.3 * 77), floor(.3 * 49)
        ("svd", 2 * M + 2 * M + 2 * N + 2 * M, 4 * 2 * N),  # r = round(.3 * 7) = 2; the short side is projected
        ("random_orthogonal", 2 * M + 2 * M + 2 * N + 2 * M, 4 * 2 * N),
    ],
)
def test_state_bytes_are_the_formula_exactly(projection, moments, projector):
    optimizer = Frugal(param_groups(model()), density=0.3, projection=projection)
    predicted = predict_state_bytes(optimizer)
    assert predicted == StateBytes(2 * F32 * (REGULAR + moments), F32 * projector)
    assert measure_state_bytes(optimizer) == StateBytes(0)
    assert measure_state_bytes(stepped(optimizer)) == predicted


@pytest.mark.parametrize("order", ORDERS)
def test_blockwise_bytes_are_predicted_for_every_draw_and_never_exceed_the_peak(order):
    optimizer = Frugal(param_groups(model()), density=0.5, update_gap=1, block_order=order, seed=5)
    peak = predict_state_bytes(optimizer)
    seen = []
    for draw in range(8):
        measured = measure_state_bytes(stepped(optimizer))
        assert measured == predict_state_bytes(optimizer, draw=draw)
        active = optimizer.param_groups[0]["active"]
        by_hand = REGULAR + sum(SHAPES[i][0] * SHAPES[i][1] for i in active)
        assert measured == StateBytes(2 * F32 * by_hand)
        seen.append(measured.total)
    assert peak.total == max(seen) if order != "random" else peak.total >= max(seen)


@pytest.mark.parametrize("projection", ["blockwise", "columns", "rows", "randk"])
def test_density_zero_and_one_are_the_regular_bytes_and_adamws(projection):
    linear = sum(m * n for m, n in SHAPES)
    for density, by_hand in ((0.0, REGULAR), (1.0, REGULAR + linear)):
        optimizer = Frugal(param_groups(model()), density=density, projection=projection)
        assert predict_state_bytes(optimizer) == StateBytes(2 * F32 * by_hand)
        assert measure_state_bytes(stepped(optimizer)) == StateBytes(2 * F32 * by_hand)


@pytest.mark.parametrize("state_full", ["lion", "sgd"])
def test_rules_with_one_moment_take_half(state_full):
    half = Frugal(param_groups(model()), density=0.3, projection="columns", state_full=state_full)
    full = Frugal(param_groups(model()), density=0.3, projection="columns")
    assert 2 * predict_state_bytes(half).moments == predict_state_bytes(full).moments
    assert measure_state_bytes(stepped(half)) == predict_state_bytes(half)


@pytest.mark.parametrize(("dtype", "size"), [(torch.bfloat16, 2), (torch.float64, 8)])
def test_state_takes_the_parameters_type(dtype, size):
    optimizer = Frugal(param_groups(model().to(dtype)), density=0.3, projection="randk")
    assert predict_state_bytes(optimizer) == StateBytes(2 * size * (REGULAR + 83), 4 * 83)
    assert measure_state_bytes(stepped(optimizer, 2)) == predict_state_bytes(optimizer)


@pytest.mark.parametrize("projection", ["blockwise", "columns", "rows", "randk", "svd", "random_orthogonal"])
def test_the_bytes_do_not_grow_over_gaps_whatever_is_carried(projection):
    optimizer = Frugal(param_groups(model()), density=0.3, projection=projection, update_gap=2, reset_state=False)
    most = max(measure_state_bytes(stepped(optimizer)).total for _ in range(7))
    assert most <= predict_state_bytes(optimizer).total


def test_frozen_parameters_are_not_counted():
    net = model()
    net[0].requires_grad_(False)
    net[3].requires_grad_(False)
    optimizer = Frugal(param_groups(net), density=0.3, projection="columns")
    assert predict_state_bytes(optimizer).moments == 2 * F32 * (REGULAR - V * N - N + 2 * M + 3 * N + 2 * M)


def test_a_model_on_the_meta_device_is_enough_and_equals_its_shapes():
    with torch.device("meta"):
        net = model()
    groups = param_groups(net)
    shapes = [[tuple(param.shape) for param in group["params"]] for group in groups]
    for projection in ("blockwise", "svd"):
        predicted = predict_state_bytes(Frugal(groups, density=0.3, projection=projection))
        assert predicted == predict_state_bytes_from_shapes(*shapes, density=0.3, projection=projection)


def test_the_measure_counts_torchs_adamw_as_it_is():
    param = nn.Parameter(torch.zeros(M, N))
    optimizer = torch.optim.AdamW([param])
    param.grad = torch.ones(M, N)
    optimizer.step()
    assert measure_state_bytes(optimizer).total == 2 * M * N * F32 + F32  # two moments and a step count


TABLE = [
    # model, N total and N linear in millions; GiB of AdamW, rho = 1/4, 1/8, 0
    ("60M", 58.07, 25.30, 0.43, 0.29, 0.27, 0.24),
    ("130M", 134.11, 84.93, 1.00, 0.52, 0.45, 0.37),
    ("350M", 367.97, 302.38, 2.74, 1.05, 0.77, 0.49),
    ("1B", 1339.08, 1207.91, 9.98, 3.23, 2.10, 0.98),
    ("7B", 6738.42, 6476.01, 50.21, 14.02, 7.99, 1.96),
]


@pytest.mark.literature
@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
def test_the_papers_memory_column_is_reproduced(row):
    """FRUGAL, arXiv:2411.07837, main table, memory of optimizer states; to its two decimals (GiB)."""
    name, n_total, n_linear, *gib = row
    llama = LLAMA[name]
    linear = sum(m * n for m, n in llama.projectable)
    total = linear + sum(torch.Size(shape).numel() for shape in llama.regular)
    assert (round(total / 1e6, 2), round(linear / 1e6, 2)) == (n_total, n_linear)
    for density, expected in zip((1.0, 0.25, 0.125, 0.0), gib, strict=True):
        assert round(paper_state_bytes(llama, density) / 2**30, 2) == expected


@pytest.mark.parametrize("name", list(LLAMA))
def test_windows_of_whole_layers_take_exactly_the_papers_bytes(name):
    # rho = 1/4 makes a quarter of the layers active: 14 tensors of 56 are two layers of eight.
    llama = LLAMA[name]
    for order in ("ascending", "descending"):
        predicted = predict_state_bytes_from_shapes(
            llama.projectable, llama.regular, density=0.25, block_order=order, draw=0
        )
        assert predicted == StateBytes(int(paper_state_bytes(llama, 0.25)))


def test_a_tiny_llama_allocates_what_was_predicted_from_its_shapes():
    llama = LlamaShape(hidden=12, ffn=20, layers=4, vocab=31)
    groups = [
        {"params": [nn.Parameter(torch.zeros(s)) for s in shapes], "projectable": projectable}
        for shapes, projectable in ((llama.projectable, True), (llama.regular, False))
    ]
    optimizer = stepped(Frugal(groups, block_order="descending"))
    predicted = predict_state_bytes_from_shapes(llama.projectable, llama.regular, block_order="descending", draw=0)
    assert measure_state_bytes(optimizer) == predicted == StateBytes(int(paper_state_bytes(llama, 0.25)))
