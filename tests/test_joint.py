"""The joint studies: limits are kept by all methods, trainings are paid once, answers are tried with fresh seeds."""

import math

import pytest

from benchmarks import joint, joint_table, memory_limit, peers
from frugalbo.expression import Expression
from frugalbo.problem import load_problem

LIMIT = 450_000


class Counting:
    """A training that takes no time: best at a rate of 1e-3 and a density of 1, with a little luck of the seed."""

    def __init__(self):
        self.calls = []

    def __call__(self, size, params, seed, updates):
        self.calls.append((tuple(params.items()), seed))
        loss = abs(math.log10(params["lr"]) + 3) + 1 - params["density"] + 0.001 * (seed % 7)
        return {"loss": loss, "seconds": 1.0, "state_bytes": int(state_bytes(params)), "at": "now"}


problem = load_problem(memory_limit.PROBLEM, {"state_limit": LIMIT})
formula = Expression(problem.space.constraints[0].partition("<=")[0], problem.space.parameters)


def state_bytes(params):
    return formula({"density": params["density"]})


@pytest.mark.parametrize("method", ["frugalbo", "one-at-a-time", "random", "optuna-tpe"])
def test_no_trial_is_above_the_limit_whatever_the_method_and_all_have_the_same_budget(method, tmp_path):
    if method in peers.PEERS and not peers.is_installed(method):
        pytest.skip(f"{method} is not installed")
    space, defaults = memory_limit.search_space(LIMIT)
    trainings = joint.Trainings("mini", 3, tmp_path / "out.jsonl", Counting())
    found = joint.study(method, trainings, 5, 11, space, defaults, refused=memory_limit.NOTHING)
    assert len(found["tried"]) == found["ran"] == 11
    assert found["tried"][0] == defaults
    assert max(map(state_bytes, found["tried"])) <= LIMIT
    assert found["loss"] == min(found["path"])
    assert {seed for _, seed in trainings.train.calls} == {5, *joint.CONFIRM}
    assert found["confirmed"] == [trainings.of(found["answer"], fresh)["loss"] for fresh in joint.CONFIRM]


def test_what_is_on_file_is_not_trained_again(tmp_path):
    _, defaults = memory_limit.search_space(LIMIT)
    first, again = Counting(), Counting()
    for train in first, again:
        trainings = joint.Trainings("mini", 3, tmp_path / "out.jsonl", train)
        memory_limit.run_missing(trainings, LIMIT, [0], 7, ["one-at-a-time", "random"])
    assert len(first.calls) == len(set(first.calls)) > 14
    assert again.calls == []
    longer = joint.Trainings("mini", 4, tmp_path / "out.jsonl", again)
    longer.of(defaults, 0)
    assert len(again.calls) == 1


def test_the_front_is_of_what_studies_saw_and_errors_are_those_of_means():
    params = {"lr": 1e-3, "density": 0.25, "phi": 2.0, "rollouts": 8}

    def training(loss, state, seed):
        return {"size": "mini", "params": params, "seed": seed, "loss": loss, "state_bytes": state}

    seen = [training(0.7, 300, 0), training(0.6, 500, 1), training(0.65, 500, 0), training(0.5, 100, joint.CONFIRM[0])]
    assert joint_table.front(seen) == seen[:2]
    assert joint_table.with_error([1.0, 2.0, 3.0]) == "2.0000 ± 0.5774"  # 1 / sqrt(3)
