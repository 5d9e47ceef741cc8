import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frugalbo.errors import SpaceError
from frugalbo.space import Choice, Fixed, Float, Int, Space

NAMES = ("lr", "width", "kind", "momentum", "warm_up")
SCALARS = st.one_of(st.booleans(), st.integers(-99, 99), st.floats(-9, 9), st.text(max_size=3))


@st.composite
def parameters(draw, only_if=None):
    kind = draw(st.sampled_from(["float", "log float", "int", "log int", "choice", "ordered"]))
    match kind:
        case "float" | "log float":
            bounds = st.floats(1e-9, 1e9) if kind == "log float" else st.floats(-1e9, 1e9)
            lower, upper = sorted((draw(bounds), draw(bounds)))
            return Float(lower, upper, log=kind == "log float", only_if=only_if)
        case "int" | "log int":
            bounds = st.integers(1, 10**6) if kind == "log int" else st.integers(-(10**6), 10**6)
            lower, upper = sorted((draw(bounds), draw(bounds)))
            return Int(lower, upper, log=kind == "log int", only_if=only_if)
        case _:
            distinct = st.lists(SCALARS, min_size=1, max_size=7, unique_by=lambda v: (isinstance(v, bool), v))
            return Choice(draw(distinct), ordered=kind == "ordered", only_if=only_if)


@st.composite
def spaces(draw):
    """Up to five parameters of all kinds; a choice or a fixed value may switch later ones."""
    made = {}
    for name in NAMES[: draw(st.integers(1, 5))]:
        switches = {k: p.values for k, p in made.items() if isinstance(p, Choice)}
        only_if = None
        if switches and draw(st.booleans()):
            switch = draw(st.sampled_from(sorted(switches)))
            allowed = draw(st.lists(st.sampled_from(switches[switch]), min_size=1, max_size=3))
            only_if = {switch: allowed if draw(st.booleans()) else allowed[0]}
        made[name] = draw(parameters(only_if))
    if draw(st.booleans()):
        made["batch"] = Fixed(draw(SCALARS))
    order = draw(st.permutations(sorted(made)))
    return Space({name: made[name] for name in order})


@st.composite
def points(draw):
    space = draw(spaces())
    return space, np.array([draw(st.floats(0, 1)) for _ in range(space.dim)])


def same(one, other):
    """Equal, but for rounding where a real number is meant."""
    return one.keys() == other.keys() and all(
        type(a) is type(b) and (a == b or (isinstance(a, float) and math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-6)))
        for a, b in zip(one.values(), other.values(), strict=True)
    )


@settings(max_examples=150)
@given(points())
def test_what_was_decoded_encodes_and_decodes_to_itself(case):
    space, u = case
    params = space.decode(u)
    space.check(params)
    encoded = space.encode(params)
    assert encoded.shape == (space.dim,)
    assert ((encoded >= 0) & (encoded <= 1)).all()
    assert same(space.decode(encoded), params)
    np.testing.assert_allclose(space.snap(encoded), encoded, atol=1e-9)


@settings(max_examples=100)
@given(points())
def test_a_space_survives_json(case):
    space, u = case
    again = Space.from_json(json.loads(json.dumps(space.to_json(), allow_nan=False)))
    assert again.to_json() == space.to_json()
    assert again == space
    assert again.decode(u) == space.decode(u)


@given(points())
def test_a_parameter_is_absent_exactly_where_its_condition_does_not_hold(case):
    space, u = case
    params = space.decode(u)
    for name, p in space.parameters.items():
        holds = True
        for other, wanted in (p.only_if or {}).items():
            allowed = wanted if isinstance(wanted, list) else [wanted]
            index = space.parameters[other].index
            holds &= other in params and index(params[other]) in map(index, allowed)
        assert (name in params) == holds
        if name in space.names and not holds:
            assert space.encode(params)[space.names.index(name)] == 0.5


@given(parameters(), st.integers(1, 5))
def test_every_value_owns_an_equal_share_of_the_unit_interval(p, per_value):
    if isinstance(p, Float) or p.levels > 999 or getattr(p, "log", False):
        return
    n = p.levels * per_value
    found = [p.from_unit((i + 0.5) / n) for i in range(n)]
    runs = [found[i : i + per_value] for i in range(0, n, per_value)]
    assert all(type(v) is type(run[0]) and v == run[0] for run in runs for v in run)
    assert len({(type(run[0]), run[0]) for run in runs}) == p.levels


def test_a_logarithmic_integer_owns_its_share_of_the_logarithms():
    # In [1, 8] the interval is log 0.5 to log 8.5; 1 and 2 meet at 1.5, which stands at
    # log(1.5 / 0.5) / log(8.5 / 0.5) = 1.098612 / 2.833213 = 0.387762
    p = Int(1, 8, log=True)
    assert (p.from_unit(0.387761), p.from_unit(0.387763)) == (1, 2)
    assert p.to_unit(1) == pytest.approx(0.387762 / 2, abs=1e-6)
    assert (p.from_unit(0), p.from_unit(1)) == (1, 8)


@pytest.mark.parametrize("top", [7, 10**9, 10**12])
@pytest.mark.parametrize("log", [False, True])
def test_large_integers_come_back_exactly(top, log):
    p = Int(1, top, log=log)
    for value in (1, 2, top // 3, top - 1, top):
        assert p.from_unit(p.to_unit(value)) == value


def test_real_numbers_stand_where_they_should():
    assert Float(-1.0, 3.0).to_unit(0.0) == 0.25
    assert Float(1e-4, 1e-2, log=True).from_unit(0.5) == pytest.approx(1e-3)
    assert Float(1e-4, 1e-2, log=True).to_unit(1e-3) == pytest.approx(0.5)
    assert Float(1e-5, 1e-1, log=True).from_unit(1.0) == 1e-1
    assert Choice(("a", "b", "c")).to_unit("b") == 0.5
    assert [Choice(("a", "b", "c")).from_unit(u) for u in (0, 0.33, 0.34, 1)] == ["a", "a", "b", "c"]


def test_bounds_that_leave_no_room_between_them_still_decode():
    close = Float(1e300, math.nextafter(1e300, math.inf), log=True)
    assert 0 <= close.to_unit(close.upper) <= 1
    assert Float(2.0, 2.0).from_unit(0.7) == 2.0
    assert Float(2.0, 2.0).to_unit(2.0) == 0.5


def test_dimensions_are_told_apart():
    space = Space(
        {
            "lr": Float(0, 1),
            "batch": 32,
            "act": Choice(("a", "b", "c")),
            "size": Choice(("s", "m", "l"), ordered=True),
            "flag": Choice((False, True)),
            "depth": Int(1, 7),
        }
    )
    assert space.names == ("lr", "act", "size", "flag", "depth")
    assert space.categorical_dims == (1,)  # of two values, distance means something
    assert space.levels == (None, 3, 3, 2, 7)
    assert space.decode(np.full(5, 0.5))["batch"] == 32
    assert not space.is_conditional


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.integers(1, 99))
def test_a_sample_never_violates_a_constraint(seed, limit):
    space = Space({"a": Int(0, 99), "b": Float(0, 1)}, [f"a <= {limit}", "b * a <= 50", "log(a) >= 0"])
    params = space.sample(np.random.default_rng(seed))
    assert 1 <= params["a"] <= limit  # log(0) has no value, so a = 0 does not hold
    assert params["a"] * params["b"] <= 50
    assert space.is_feasible(params)


def test_a_constraint_without_a_value_does_not_hold():
    space = Space({"a": Int(0, 3)}, ["log(a) <= 9"])
    assert [space.is_feasible({"a": a}) for a in range(4)] == [False, True, True, True]


def test_a_constraint_on_an_absent_parameter_does_not_apply():
    space = Space({"kind": Choice(("x", "y")), "beta": Float(0, 1, only_if={"kind": "y"})}, ["beta <= 0.5"])
    assert space.is_feasible({"kind": "x"})
    assert not space.is_feasible({"kind": "y", "beta": 0.7})


def test_constraints_that_cannot_be_met_are_noticed():
    with pytest.raises(SpaceError, match=r"no configuration satisfies the constraints \['a > 2'\]"):
        Space({"a": Float(0, 1)}, ["a > 2"])
    with pytest.raises(SpaceError, match=r"none of 7 points satisfies the constraints \['abs\(a - 0.1\) < 1e-9'\]"):
        Space({"a": Float(0, 1)}, ["abs(a - 0.1) < 1e-9"]).sample(np.random.default_rng(0), tries=7)


def test_samples_are_those_of_the_generator():
    space = Space({"a": Float(0, 1), "k": Choice(("x", "y", "z"))})
    draws = [[space.sample(rng) for _ in range(5)] for rng in map(np.random.default_rng, (3, 3, 4))]
    assert draws[0] == draws[1] != draws[2]


def test_complete_fills_in_what_is_fixed_and_drops_what_is_absent():
    space = Space({"beta": Float(0, 1, only_if={"kind": "y"}), "kind": Choice(("x", "y")), "batch": 32})
    assert space.complete({"beta": 0.5, "kind": "x"}) == {"kind": "x", "batch": 32}
    assert space.complete({"beta": 0.5, "kind": "y"}) == {"beta": 0.5, "kind": "y", "batch": 32}
    with pytest.raises(SpaceError, match="unknown parameter 'beat'"):
        space.check(space.complete({"beat": 0.5, "kind": "x"}))


def test_true_is_not_one():
    choice = Choice((1, True, "1"))
    assert [choice.index(v) for v in (1, True, "1")] == [0, 1, 2]
    space = Space({"a": choice, "b": Float(0, 1, only_if={"a": 1})})
    assert "b" in space.decode([0.1, 0.5])
    assert "b" not in space.decode([0.5, 0.5])


@pytest.mark.parametrize("allowed", [("y", "z"), {"y", "z"}, frozenset(("y", "z"))])
def test_a_condition_of_several_values_survives_json(allowed):
    space = Space({"kind": Choice(("x", "y", "z")), "a": Int(1, 3, only_if={"kind": allowed})})
    assert Space.from_json(json.loads(json.dumps(space.to_json()))) == space
    assert ["a" in space.decode([u, 0.5]) for u in (0.1, 0.5, 0.9)] == [False, True, True]


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Float(0, 1, log=True), "a log scale needs a lower bound above 0, got 0"),
        (lambda: Int(0, 5, log=True), "a log scale needs a lower bound above 0, got 0"),
        (lambda: Float(2, 1), "lower must not exceed upper, got 2 and 1"),
        (lambda: Int(2, 1), "lower must not exceed upper, got 2 and 1"),
        (lambda: Float(0, INF), "must be finite"),
        (lambda: Float(NAN, 1), "must be finite"),
        (lambda: Float("0", 1), "must be finite numbers, got '0' and 1"),
        (lambda: Float(False, True), "must be finite numbers"),
        (lambda: Float(-1e308, 1e308), "too far apart"),
        (lambda: Int(0, 10**400), "must be finite|at most"),
        (lambda: Int(0, 2**53), "at most"),
        (lambda: Int(0.5, 3), "must be whole"),
        (lambda: Choice(()), "at least one value"),
        (lambda: Choice("abc"), "expected a sequence of values, got 'abc'"),
        (lambda: Choice(3), "expected a sequence of values, got 3"),
        (lambda: Choice((1, 2, 1)), "must differ"),
        (lambda: Choice((1, 1.0)), "must differ"),
        (lambda: Choice((NAN, 1)), "must be finite"),
        (lambda: Choice((None,)), "numbers, texts or booleans"),
        (lambda: Choice(([1], [2])), "numbers, texts or booleans"),
        (lambda: Fixed(None), "a fixed value must be a number, a text or a boolean, got None"),
        (lambda: Fixed(NAN), "must be finite"),
        (lambda: Space({"a": [1, 2], "b": Float(0, 1)}), r"got \[1, 2\]; for several values use Choice"),
        (lambda: Space({}), "at least one parameter"),
        (lambda: Space({"a": 3}), "at least one parameter"),
        (lambda: Space(3), "expected a mapping of names to parameters, got 3"),
        (lambda: Space({"learning rate": Float(0, 1)}), "must be identifiers, got 'learning rate'"),
        (lambda: Space({3: Float(0, 1)}), "must be identifiers, got 3"),
        (lambda: Space({"a": Float(0, 1, only_if={"b": 1})}), "names 'b', which is not a parameter"),
        (lambda: Space({"a": Float(0, 1, only_if={"a": 1})}), "goes round in a circle"),
        (lambda: Space({"a": Int(0, 1, only_if={"b": 1}), "b": Int(0, 1, only_if={"a": 1})}), "in a circle"),
        (lambda: Space({"k": Choice(("x", "y")), "a": Int(0, 1, only_if={"k": "z"})}), "'k' can never be 'z'"),
        (lambda: Space({"k": Choice(("x", "y")), "a": Int(0, 1, only_if={"k": []})}), "can never hold"),
        (lambda: Space({"k": Int(1, 3), "a": Int(0, 1, only_if={"k": [1, 4]})}), "'k' can never be 4"),
        (lambda: Space({"k": Int(1, 3), "a": Int(0, 1, only_if="k")}), "expected a condition .* got 'k'"),
        (lambda: Space({"a": Int(0, 1)}, ["b < 1"]), "names 'b'; known are a"),
        (lambda: Space({"a": Int(0, 1)}, "a < 1"), "expected a list of formulas, got 'a < 1'"),
        (lambda: Space({"a": Int(0, 1)}, ["__import__('os')"]), "names '__import__'|may only compute"),
    ],
)
def test_a_space_that_cannot_be_is_refused(make, message):
    with pytest.raises(SpaceError, match=message):
        make()


SPACE = Space(
    {"lr": Float(0.1, 1), "n": Int(1, 7), "k": Choice(("x", "y")), "b": Float(0, 1, only_if={"k": "y"}), "c": 3}
)
GOOD = {"lr": 0.5, "n": 3, "k": "x", "c": 3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 2}, r"'lr': expected a number in \[0.1, 1\], got 2"),
        ({"lr": NAN}, r"'lr': expected a number"),
        ({"lr": "0.5"}, "'lr': expected a number"),
        ({"lr": None}, "'lr': expected a number"),
        ({"n": 2.5}, r"'n': expected a whole number in \[1, 7\], got 2.5"),
        ({"n": True}, "'n': expected a whole number"),
        ({"n": NAN}, "'n': expected a whole number"),
        ({"n": INF}, "'n': expected a whole number"),
        ({"n": 8}, "'n': expected a whole number"),
        ({"k": "z"}, r"'k': expected one of \['x', 'y'\], got 'z'"),
        ({"k": ["x"]}, "'k': expected one of"),
        ({"k": "y"}, "'b' is missing"),
        ({"b": 0.5}, r"'b' exists only if \{'k': 'y'\}"),
        ({"c": 4}, "'c' is fixed at 3, got 4"),
        ({"d": 4}, "unknown parameter 'd'; this space has lr, n, k, b, c"),
    ],
)
def test_a_point_that_is_not_in_the_space_is_refused(change, message):
    with pytest.raises(SpaceError, match=message):
        SPACE.encode(GOOD | change)


@pytest.mark.parametrize("missing", ["lr", "n", "k", "c"])
def test_a_missing_parameter_is_named(missing):
    with pytest.raises(SpaceError, match=f"parameter '{missing}' is missing"):
        SPACE.encode({k: v for k, v in GOOD.items() if k != missing})


def test_numpy_values_are_values():
    point = {"lr": np.float32(0.5), "n": np.int64(3), "k": "x", "c": 3}
    np.testing.assert_array_equal(SPACE.encode(point), SPACE.encode(GOOD))


@pytest.mark.parametrize("u", [[0.5] * 3, [0.5] * 5, [[0.5] * 4], [0.5, NAN, 0.5, 0.5], 0.5])
def test_a_unit_point_of_the_wrong_shape_is_refused(u):
    with pytest.raises(SpaceError, match="expected 4 finite coordinates"):
        SPACE.decode(u)


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"parameters": {}},
        {"parameters": 3, "constraints": []},
        {"parameters": {"a": 3}, "constraints": []},
        {"parameters": {"a": {"kind": "integer"}}, "constraints": []},
        {"parameters": {"a": {"kind": "int", "lower": 1}}, "constraints": []},
        {"parameters": {"a": {"kind": "int", "lower": 1, "upper": 2, "step": 1}}, "constraints": []},
        [],
        None,
    ],
)
def test_a_record_that_is_no_space_is_refused(record):
    with pytest.raises(SpaceError, match="expected"):
        Space.from_json(record)


def test_choices_among_the_same_values_are_found():
    ops, flags = ["none", "skip", "conv"], [0, 1, 2]
    space = Space(
        {
            "a": Choice(ops),
            "x": Float(0, 1),
            "b": Choice(flags),
            "c": Choice(ops),
            "d": Choice([False, True, 2]),  # False is not 0 here
            "e": Choice(flags),
            "f": Choice(ops, ordered=True),
            "g": Choice(list(reversed(ops))),
            "h": Choice(ops),
        }
    )
    assert space.repeated_dims == ((0, 3, 8), (2, 5))


def test_a_point_that_is_encoded_twice_is_the_same_and_the_callers_own():
    space = Space({"x": Float(0, 1), "n": Choice([1, 2]), "b": Choice([True, "no"])})
    params = {"x": 0.25, "n": 1, "b": True}
    first = space.encode(params)
    first[:] = 9.0
    assert space.encode(params).tolist() == [0.25, 0.25, 0.25]
    params["x"] = 0.5
    assert space.encode(params).tolist() == [0.5, 0.25, 0.25]
    # Equal for a dictionary, but 1 is not True.
    with pytest.raises(SpaceError, match="'b'"):
        space.encode({"x": 0.5, "n": 1, "b": 1})
    with pytest.raises(SpaceError, match="'n'"):
        space.encode({"x": 0.5, "n": [1], "b": True})
    assert space == Space({"x": Float(0, 1), "n": Choice([1, 2]), "b": Choice([True, "no"])})
