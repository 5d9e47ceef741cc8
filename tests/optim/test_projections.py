"""Subspaces: their sizes, their draws and their algebra."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frugalbo.optim.projections import (
    add_lifted_,
    block_size,
    coordinate_shape,
    draw_block,
    draw_projector,
    overwrite_,
    project,
    subspace_size,
)

M, N = 13, 7


def gradient(rows, columns, dtype=torch.float64, seed=0):
    return torch.randn(rows, columns, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("model", "tensors", "active"),
    [("60M", 56, 14), ("130M", 84, 21), ("350M", 168, 42), ("1B", 168, 42), ("7B", 224, 56)],
)
def test_a_quarter_of_llamas_tensors_is_active(model, tensors, active):
    assert block_size(tensors, 0.25) == active


@pytest.mark.parametrize(
    ("projection", "size"),
    # floor(0.3 * 91 = 27.3); floor(0.3 * 7 = 2.1); floor(0.3 * 13 = 3.9); round(0.3 * 7 = 2.1)
    [("randk", 27), ("columns", 2), ("rows", 3), ("svd", 2), ("random_orthogonal", 2)],
)
def test_sizes_are_those_of_the_released_code(projection, size):
    assert subspace_size((M, N), projection, 0.3) == size


def test_a_whole_share_is_not_lost_to_rounding():
    assert 0.29 * 100 < 29
    assert subspace_size((3, 100), "columns", 0.29) == 29


@pytest.mark.parametrize(
    ("order", "draws"),
    [
        ("ascending", [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 8, 9], [2, 3, 4, 5]]),
        ("descending", [[6, 7, 8, 9], [2, 3, 4, 5], [0, 1, 8, 9], [4, 5, 6, 7]]),
        ("mirror", [[0, 1, 8, 9], [2, 3, 6, 7], [0, 4, 5, 9], [1, 2, 7, 8]]),
    ],
)
def test_blocks_go_through_the_tensors_in_their_order(order, draws):
    assert [draw_block(10, 4, order, draw=i) for i in range(4)] == draws


@given(
    half=st.integers(1, 20),
    share=st.floats(0, 1),
    order=st.sampled_from(["random", "ascending", "descending", "mirror"]),
    draw=st.integers(0, 1000),
    seed=st.integers(0, 5),
)
def test_a_block_has_its_size_in_distinct_tensors(half, share, order, draw, seed):
    count, size = 2 * half, 2 * round(share * half)
    block = draw_block(count, size, order, draw=draw, seed=seed)
    assert len(set(block)) == len(block) == size
    assert set(block) <= set(range(count))
    if order == "mirror":
        assert block == sorted(count - 1 - position for position in block)


@pytest.mark.parametrize("order", ["ascending", "descending", "mirror"])
def test_the_cyclic_orders_give_every_tensor_the_same_share(order):
    counts = torch.zeros(14)
    for draw in range(14):
        counts[draw_block(14, 4, order, draw=draw)] += 1
    assert counts.tolist() == [4.0] * 14


def test_random_blocks_give_every_tensor_the_same_share_in_the_long_run():
    # 600 draws of 3 of 12: Binomial(600, 1/4) has mean 150 and sd 10.6. Six sd are 64; for 12 tensors
    # the chance of a false alarm is below 1e-7.
    counts = torch.zeros(12)
    for draw in range(600):
        counts[draw_block(12, 3, "random", draw=draw)] += 1
    assert (counts - 150).abs().max() < 64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "columns"), [(M, N), (N, M)])
@pytest.mark.parametrize("projection", ["svd", "random_orthogonal"])
def test_a_basis_is_orthonormal_and_the_residual_orthogonal_to_it(projection, rows, columns, dtype):
    g = gradient(rows, columns, dtype)
    p = draw_projector(g, projection, 3, 0)
    assert p.shape == (N, 3)
    torch.testing.assert_close(p.T @ p, torch.eye(3, dtype=dtype), rtol=0, atol=1e-5)
    residual = g.clone()
    add_lifted_(residual, project(g, p, projection), p, projection, -1.0)
    assert project(residual, p, projection).abs().max() < 1e-5
    assert residual.abs().max() > 0.1


@pytest.mark.parametrize(("rows", "columns"), [(M, N), (N, M)])
def test_svd_leaves_exactly_the_smaller_singular_values(rows, columns):
    # Eckart-Young: the best approximation of rank 3 leaves the norm of the other values.
    g = gradient(rows, columns)
    p = draw_projector(g, "svd", 3, 0)
    add_lifted_(residual := g.clone(), project(g, p, "svd"), p, "svd", -1.0)
    torch.testing.assert_close(residual.norm(), torch.linalg.svdvals(g)[3:].norm())


def test_random_bases_are_uniform():
    # Every entry of a uniform unit vector of length 7 has variance 1/7; over 800 draws the mean square of
    # each has sd sqrt(2 * 6 / (7^2 * 9)) / sqrt(800) = 0.0058 (a Beta(1/2, 3)); six of them are 0.035. The
    # mean has sd sqrt(1 / 7 / 800) = 0.0134, and six of them are 0.08: what QR with signs unmended misses.
    g = gradient(M, N)
    vectors = torch.stack([draw_projector(g, "random_orthogonal", 2, draw)[:, 0] for draw in range(800)])
    assert (vectors.square().mean(0) - 1 / 7).abs().max() < 0.035
    assert vectors.mean(0).abs().max() < 0.08


@settings(deadline=None)
@given(
    projection=st.sampled_from(["columns", "rows", "randk", "svd", "random_orthogonal"]),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    density=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_lifting_is_the_adjoint_of_projecting(projection, rows, columns, density, seed):
    g = gradient(rows, columns, seed=seed)
    size = subspace_size(g.shape, projection, density)
    p = draw_projector(g, projection, size, seed)
    low = project(g, p, projection)
    assert low.shape == coordinate_shape(g.shape, projection, size)
    s = torch.randn(low.shape, dtype=g.dtype, generator=torch.Generator().manual_seed(seed))
    add_lifted_(lifted := torch.zeros_like(g), s, p, projection, 1.0)
    torch.testing.assert_close((lifted * g).sum(), (s * low).sum())
    torch.testing.assert_close(project(lifted, p, projection), s)  # P P^T = I


@pytest.mark.parametrize("projection", ["columns", "rows", "randk"])
def test_overwriting_puts_values_at_the_chosen_coordinates_only(projection):
    g = gradient(M, N)
    p = draw_projector(g, projection, 3, 1)
    overwrite_(target := g.clone(), project(g, p, projection) + 100, p, projection)
    assert int((target > 50).sum()) == {"columns": 3 * M, "rows": 3 * N, "randk": 3}[projection]
    assert torch.equal(target[target < 50], g[target < 50])


@pytest.mark.parametrize("projection", ["columns", "rows", "randk"])
def test_indices_take_four_bytes_each(projection):
    assert draw_projector(gradient(M, N), projection, 3, 1).dtype == torch.int32
