import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frugalbo.propose.points import Points
from frugalbo.space import Choice, Fixed, Float, Int, Space

MIXED = Space(
    {
        "lr": Float(1e-5, 1, log=True),
        "depth": Int(1, 7),
        "width": Int(1, 100_000, log=True),
        "batch": Int(4, 512, log=True),
        "one": Int(3, 3),
        "optimizer": Choice(["adam", "sgd", "lion"]),
        "momentum": Float(0.5, 0.99, only_if={"optimizer": "sgd"}),
        "nesterov": Choice([True, False], only_if={"optimizer": ["sgd", "lion"]}),
        "damping": Float(0, 1, only_if={"nesterov": True, "depth": [2, 3, 4]}),
        "extra": Int(1, 5, only_if={"fixed": "yes"}),
        "fixed": Fixed("yes"),
    }
)


@settings(deadline=None)
# Within rounding of where one value's share of the interval ends, either value is right.
@given(st.lists(st.floats(0, 1).map(lambda u: round(u, 9)), min_size=MIXED.dim, max_size=MIXED.dim))
def test_snapping_many_is_snapping_each(u):
    point = np.array(u)
    assert Points(MIXED).snap(point[None])[0] == pytest.approx(MIXED.snap(point), abs=1e-12)


def test_snapping_many_is_snapping_each_at_random_points():
    U = np.random.default_rng(0).random((499, MIXED.dim))
    assert Points(MIXED).snap(U) == pytest.approx(np.array([MIXED.snap(u) for u in U]), abs=1e-12)


def test_neighbours_differ_in_one_discrete_choice_and_are_points_of_the_space():
    points = Points(MIXED)
    u = MIXED.snap(np.full(MIXED.dim, 0.3))
    others = points.neighbours(u)
    assert len(others) > 20
    before = MIXED.decode(u)
    for v in others:
        assert MIXED.snap(v) == pytest.approx(v)
        after = MIXED.decode(v)
        changed = {k for k in before if k in after and before[k] != after[k]}
        assert changed <= {"depth", "width", "batch", "optimizer", "nesterov", "extra"}
        assert len(changed) <= 1 or changed == {"optimizer"}


def test_every_value_of_a_small_dimension_is_a_neighbour():
    space = Space({"k": Int(1, 7), "c": Choice(["x", "y", "z"])})
    points = Points(space)
    found = [space.decode(v) for v in points.neighbours(space.encode({"k": 3, "c": "y"}))]
    assert {p["k"] for p in found if p["c"] == "y"} == {1, 2, 4, 5, 6, 7}
    assert {p["c"] for p in found if p["k"] == 3} == {"x", "z"}


def test_new_points_are_far_in_some_coordinate_or_have_another_value():
    space = Space({"x": Float(0, 1), "k": Int(1, 5)})
    U = np.array([[0.5, 0.1], [0.5005, 0.1], [0.502, 0.1], [0.5, 0.3]])
    assert Points(space).new(U, U[:1], np.array([1e-3])).tolist() == [False, False, True, True]


def test_feasible_is_the_spaces_answer():
    space = Space({"x": Float(0, 1), "y": Float(0, 1)}, ["x + y <= 0.5"])
    U = np.random.default_rng(1).random((97, 2))
    assert Points(space).feasible(U).tolist() == (U.sum(1) <= 0.5).tolist()


def test_long_ranges_of_whole_numbers_are_snapped_to_whole_numbers():
    space = Space({"n": Int(-(10**12), 10**12), "m": Int(1, 10**9, log=True), "k": Int(7, 9_999)})
    U = np.random.default_rng(0).random((97, 3))
    for u, v in zip(U, Points(space).snap(U), strict=True):
        assert v == pytest.approx(space.snap(u), abs=1e-11)
        assert space.decode(v) == space.decode(space.snap(v))
