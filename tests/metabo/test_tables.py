"""Files of tables: what they are read as, what is refused, and the tasks that are drawn from them."""

import numpy as np
import pytest
import torch

from frugalbo.errors import ProblemError
from frugalbo.metabo.tables import Recorded, Table, read_tables

RNG = np.random.default_rng(0)


def a_file(path, **arrays):
    np.savez(path, **{key.replace("__", "/"): value for key, value in arrays.items()})
    return path


def test_accuracies_are_losses_with_the_other_sign(tmp_path):
    X, y = RNG.random((11, 3)), RNG.random(11)
    tables = read_tables(a_file(tmp_path / "t.npz", a__X=X, a__accuracy=y, b__X=X[:, :2], b__loss=y))
    assert list(tables) == ["a", "b"]
    np.testing.assert_allclose(tables["a"].losses, -y)
    np.testing.assert_allclose(tables["b"].losses, y)
    assert tables["a"].regret(np.array([-y.max(), -y.min()])).tolist() == [0, 1]


def test_a_column_of_decades_is_taken_by_its_logarithm():
    decades = 10.0 ** np.linspace(-5, 0, 11)
    X = np.stack([decades, np.linspace(0.05, 1, 11), np.linspace(0, 1, 11), np.full(11, 3.0)], axis=1)
    table = Table.of(X, np.arange(11.0))
    assert table.log.tolist() == [True, False, False, False]
    np.testing.assert_allclose(table.U[:, :3], np.linspace(0, 1, 11)[:, None].repeat(3, 1), atol=1e-12)
    assert (table.U[:, 3] == 0).all()
    assert np.allclose([table.space.encode(dict(zip(table.space.names, x, strict=False)))[0] for x in X], table.U[:, 0])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a__X": RNG.random((11, 3))}, "expected 'a/accuracy' or 'a/loss' beside 'a/X'"),
        ({"X": RNG.random((11, 3))}, "expected '<task>/X' and .*, got X"),
        ({"a__X": RNG.random((11, 3)), "a__loss": RNG.random(7)}, r"got shapes \(11, 3\) and \(7,\)"),
        ({"a__X": RNG.random((5, 3)), "a__loss": RNG.random(5)}, "at least 8 rows .* got 5 rows"),
        ({"a__X": RNG.random((11, 3)), "a__loss": np.full(11, np.nan)}, "not finite"),
        ({"a__X": RNG.random((11, 3)), "a__loss": np.ones(11)}, "to differ in 'a/loss', got one value"),
        ({"a__X": np.array(["x"] * 11).reshape(11, 1), "a__loss": np.ones(11)}, "expected numbers for 'a'"),
    ],
)
def test_what_are_no_tables_is_refused(tmp_path, arrays, message):
    with pytest.raises(ProblemError, match=message):
        read_tables(a_file(tmp_path / "t.npz", **arrays))


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / "text.npz").write_text("no tables")
    np.save(tmp_path / "array.npy", np.ones(3))
    objects = np.array([{}, {}], dtype=object)
    np.savez(tmp_path / "objects.npz", **{"a/X": objects})
    for name, message in (
        ("text.npz", "cannot read"),
        ("none.npz", "cannot read"),
        ("array.npy", "single array"),
        ("objects.npz", "cannot read"),
    ):
        with pytest.raises(ProblemError, match=message):
            read_tables(tmp_path / name)


def test_tasks_of_tables_are_rows_of_them_seen_through_the_history():
    X, y = RNG.random((97, 3)), RNG.random(97)
    recorded = Recorded({"a": Table.of(X, y)}, most_dims=5, most_seen=23, asked=6, batch=7)
    unit = {tuple(u) for u in Table.of(X, y).U.round(9)}
    for i in range(20):
        t = recorded.draw(3, i)
        n = t.X.shape[1]
        assert t.y.shape == (7, n)
        assert t.truth.shape == t.Q.shape[:2] == (7, 6)
        torch.testing.assert_close(t.y.mean(1), torch.zeros(7, dtype=torch.float64))
        if t.X.shape[2] == 3:
            rows = torch.cat([t.X, t.Q], dim=1)
            assert {tuple(u) for u in rows[0].numpy().round(9)} <= unit
            assert len(rows[0].unique(dim=0)) == n + 6  # no row twice
        assert torch.equal(t.X, recorded.draw(3, i).X)


def test_tables_of_too_many_dimensions_are_left_out():
    with pytest.raises(ProblemError, match="at most 2 dimensions"):
        Recorded({"a": Table.of(RNG.random((11, 3)), RNG.random(11))}, 2, 5, 3, 2)
