"""Contradictions among known constraints are told at once, and only contradictions are."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import frugalbo as fb
from frugalbo.contradiction import is_contradiction
from frugalbo.expression import Expression

PARAMETERS = {
    "x": fb.Float(0, 1),
    "y": fb.Float(-1, 1),
    "n": fb.Int(1, 9),
    "c": fb.Choice(["a", "b"]),
    "s": fb.Choice([1, 2, 4]),
    "k": fb.Fixed(3),
    "deep": fb.Float(0, 1, only_if={"c": "a"}),
}


@pytest.mark.parametrize("formulas", [
    ["x <= 0.3", "x >= 0.7"], ["x + y >= 2.5"], ["x * y >= 0.5", "x + y <= 1"], ["x**2 + y**2 <= 0.1", "x + y >= 1"],
    ["c == 'a'", "c == 'b'"], ["c in ['z', 'w']"], ["2 * n == 5"], ["n in [11, 12]"], ["n > 3", "n < 4"], ["1 > 2"],
    ["log(x) > 0.1"], ["x > 0.5 or y > 0.5", "max(x, y) < 0.4"], ["not (x < 2)"], ["(1 if x > 0.5 else 0) > y + 2.5"],
    ["s * n == 7", "n < 7"], ["k * x > 3.5"], ["exp(x) + exp(y) > 6"], ["sqrt(x) > 1.01"], ["abs(y) > 1.5"],
    ["x / n > 1.1"], ["min(x, y) > 0.9", "x + y < 1.5"], ["floor(x) >= 3"], ["-x > 0.1"], ["s == 3"],
], ids=" & ".join)  # fmt: skip
def test_contradictions_are_told_at_once(formulas):
    started = time.process_time()  # not what others on this machine take
    with pytest.raises(fb.SpaceError, match="contradict") as caught:
        fb.Space(PARAMETERS, formulas)
    assert time.process_time() - started < 1
    assert repr(formulas[0])[1:-1] in str(caught.value)


TERMS = st.sampled_from(
    ["x", "y", "n", "s", "k", "0.5", "2", "-1", "abs(y)", "max(x, y)", "sqrt(x)", "exp(y)", "log(n)"]
)
SUMS = st.builds("({} {} {})".format, TERMS, st.sampled_from(["+", "-", "*", "/", "**", "//", "%"]), TERMS)
SIDES = st.one_of(TERMS, SUMS, st.builds("({} if {} > 0.3 else {})".format, TERMS, TERMS, SUMS))
SIMPLE = st.one_of(
    st.builds("{} {} {}".format, SIDES, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), SIDES),
    st.sampled_from(["c == 'a'", "c != 'b'", "n in [2, 7]", "s not in [1, 2]", "c in ['b', 'z']"]),
)
FORMULAS = st.one_of(SIMPLE, st.builds("not ({})".format, SIMPLE), st.builds("{} or {}".format, SIMPLE, SIMPLE))


@settings(max_examples=200, deadline=None)
@given(formulas=st.lists(FORMULAS, min_size=1, max_size=3), seed=st.integers(0, 99))
def test_what_some_point_satisfies_is_no_contradiction(formulas, seed):
    space, rng = fb.Space(PARAMETERS), np.random.default_rng(seed)
    compiled = [Expression(text, PARAMETERS) for text in formulas]
    points = [space.decode(rng.random(space.dim).round(rng.integers(0, 3))) for _ in range(60)]
    if any(all(f(p) is True for f in compiled) for p in points):
        assert not is_contradiction(compiled, PARAMETERS)


@pytest.mark.parametrize("formulas", [
    ["abs(x - 0.123456) <= 1e-9"], ["x >= 1"], ["x == 0.7"], ["n >= 9", "s >= 4", "y <= -1"], ["deep > 2"],
    ["deep > 2", "deep < -2"],
], ids=" & ".join)  # fmt: skip
def test_what_is_hard_to_find_or_need_not_apply_is_no_contradiction(formulas):
    fb.Space(PARAMETERS, formulas)
