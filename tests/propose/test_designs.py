import subprocess
import sys

import numpy as np
import pytest
from studies import start, tell

from frugalbo.errors import SpaceError
from frugalbo.problem import Minimize, Problem
from frugalbo.propose import METHODS, MethodError, initial_trials, make_proposer
from frugalbo.space import Choice, Float, Int, Space
from frugalbo.study import Study

SPACE = Space({"lr": Float(1e-4, 1, log=True), "depth": Int(1, 5), "kind": Choice(["a", "b", "c"])})
DEFAULTS = {"lr": 0.01, "depth": 2, "kind": "b"}


def _problem(space=SPACE, defaults=None):
    return Problem("p", space, "m:f", Minimize("loss"), defaults=defaults)


def _proposer(method, problem, seed=0):
    return make_proposer(method, problem, seed=seed)


@pytest.mark.parametrize("method", ["sobol", "bo", "auto"])
def test_the_defaults_come_first(method):
    problem = _problem(defaults=DEFAULTS)
    (first,) = _proposer(method, problem).propose(Study(problem), 1)
    assert first.params == DEFAULTS
    assert first.why["point"] == "defaults"


def test_without_defaults_the_centre_comes_first():
    problem = _problem()
    (first,) = _proposer("sobol", problem).propose(Study(problem), 1)
    assert first.params == SPACE.decode(np.full(3, 0.5))
    assert first.why["point"] == "centre"


@pytest.mark.parametrize("method", ["sobol", "random", "bo"])
def test_two_at_once_are_one_after_the_other(method):
    problem = _problem(defaults=DEFAULTS)
    together = [s.params for s in _proposer(method, problem).propose(Study(problem), 3)]
    study, apart = Study(problem), []
    for _ in range(3):
        (s,) = _proposer(method, problem).propose(study, 1)
        apart.append(s.params)
        start(study, s.params)
    assert together == apart


@pytest.mark.parametrize("method", ["sobol", "random"])
def test_seeds_differ_and_repeat(method):
    problem = _problem()
    runs = [[s.params for s in _proposer(method, problem, seed).propose(Study(problem), 5)] for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_sobol_points_fill_the_space_more_evenly_than_random_ones():
    # 64 points after the centre: each half of each dimension gets 32 +- 1 (the centre shifts the block).
    problem = _problem(Space({f"x{i}": Float(0, 1) for i in range(3)}))
    found = _proposer("sobol", problem).propose(Study(problem), 65)[1:]
    U = np.array([list(s.params.values()) for s in found])
    assert np.abs((U < 0.5).sum(0) - 32).max() <= 1


@pytest.mark.parametrize("method", ["sobol", "random", "bo"])
def test_an_exhausted_space_gives_fewer_and_then_none(method):
    space = Space({"k": Int(1, 3), "kind": Choice(["a", "b"])}, ["k < 3"])
    problem = _problem(space)
    study, proposer = Study(problem), _proposer(method, problem)
    tell(study, {"k": 1, "kind": "a"}, 1.0)
    found = proposer.propose(study, 7)
    assert sorted((s.params["k"], s.params["kind"]) for s in found) == [(1, "b"), (2, "a"), (2, "b")]
    for i, s in enumerate(found):
        tell(study, s.params, float(i))
    assert list(proposer.propose(study, 1)) == []


@pytest.mark.parametrize("method", ["sobol", "random", "bo"])
def test_known_constraints_hold_and_nothing_is_proposed_twice(method):
    problem = _problem(Space(SPACE.parameters, ["depth * lr <= 0.01", "depth > 1 or kind == 'a'"]))
    found = _proposer(method, problem).propose(Study(problem), 4)
    keys = {tuple(s.params.items()) for s in found}
    assert len(keys) == 4
    assert all(problem.space.is_feasible(s.params) for s in found)


@pytest.mark.parametrize("method", ["sobol", "random", "bo"])
@pytest.mark.parametrize("space", [
    Space({"x": Float(0, 1), "y": Float(0, 1)}, ["abs(x - y - 0.1) <= 1e-12"]),
    Space({"j": Int(1, 300), "k": Int(1, 300)}, ["j * j == 2 * k * k"]),  # the root of 2 is irrational
])  # fmt: skip
def test_constraints_that_nothing_is_found_for_are_refused_in_a_sentence(method, space):
    problem = _problem(space)
    with pytest.raises(SpaceError, match="satisf"):
        _proposer(method, problem).propose(Study(problem), 1)


def test_an_unknown_method_is_refused_with_the_list():
    with pytest.raises(MethodError, match=", ".join(METHODS)):
        make_proposer("grid", _problem(), seed=0)


@pytest.mark.parametrize(("dims", "expected"), [(1, 3), (11, 3), (12, 4), (100, 8)])
def test_the_initial_design_grows_slowly(dims, expected):
    problem = _problem(Space({f"x{i}": Float(0, 1) for i in range(dims)}))
    assert initial_trials(problem) == expected


def test_unordered_choices_need_a_few_more_initial_trials():
    cell = Space({f"edge{i}": Choice(["skip", "conv", "pool"]) for i in range(6)})
    assert initial_trials(_problem(cell)) == 5


def test_a_space_of_mostly_unordered_choices_has_no_centre():
    ops = Choice(["skip", "conv", "pool"])
    problem = _problem(Space({"u": ops, "v": ops, "x": Float(0, 1)}))
    (first,) = _proposer("sobol", problem).propose(Study(problem), 1)
    assert "point" not in first.why


def test_nothing_asked_is_nothing_given():
    problem = _problem()
    for method in ("sobol", "random", "bo"):
        assert list(_proposer(method, problem).propose(Study(problem), 0)) == []


def test_designs_and_the_cost_model_do_without_torch():
    code = (
        "import sys, frugalbo.propose, frugalbo.budget.cost\n"
        "from frugalbo.problem import Minimize, Problem\n"
        "from frugalbo.space import Float, Space\n"
        "from frugalbo.study import Study\n"
        "p = Problem('p', Space({'x': Float(0, 1)}), 'm:f', Minimize('loss'))\n"
        "assert 'scipy' not in sys.modules\n"
        "assert len(frugalbo.propose.make_proposer('bo', p, seed=0).propose(Study(p), 3)) == 3\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
