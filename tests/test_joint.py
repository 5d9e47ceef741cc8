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


def test_an_interrupted_study_trains_only_what_is_missing(tmp_path):
    space, defaults = joint.search_space("mini")
    path, trains = tmp_path / "out.jsonl", [Counting(), Counting()]

    def study(train):
        return joint.study("one-at-a-time", joint.Trainings("mini", 3, path, train), 0, 8, space, defaults)

    whole = study(trains[0])
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:4]) + "\n")
    assert study(trains[1]) == whole
    assert len(trains[1].calls) == len(trains[0].calls) - 4


def test_one_at_a_time_moves_one_knob_and_keeps_what_was_better():
    space, defaults = joint.search_space("mini")
    peer = joint.OneAtATime(space, defaults, 2)
    peer.attach(defaults, 1.0)
    asked = []
    for loss in (0.9, 0.8, 2.0, 2.0):
        key, params = peer.ask()
        peer.tell(key, loss)
        asked.append(params)
    assert asked[0] == {**defaults, "lr": space.parameters["lr"].from_unit(0.5)}
    assert asked[1] == {**defaults, "lr": space.parameters["lr"].from_unit(0.25)}
    assert [p["density"] for p in asked[2:]] == [0.5, 0.25]
    assert all({**p, "density": 0} == {**asked[1], "density": 0} for p in asked[2:])
    for _ in range(4):
        key, params = peer.ask()
        peer.tell(key, 2.0)
    assert peer.ask()[1] == {**asked[1], "lr": space.parameters["lr"].from_unit(0.75)}  # the second lap: point 3


def test_the_tables_by_hand():
    _, defaults = joint.search_space("mini")
    shared = {"size": "mini", "updates": 30}

    def training(state_bytes, loss, density):
        params = {**defaults, "lr": 0.1, "density": density}
        return {**shared, "kind": "training", "params": params, "seed": 0, "state_bytes": state_bytes, "loss": loss}

    def study(method, *confirmed):
        found = {"method": method, "seed": 0, "trials": 9, "ran": 7, "loss": 0.5, "confirmed": confirmed}
        return {**shared, "kind": "study", **found}

    rows = [training(30, 0.5, 0.9), training(20, 0.6, 0.1), training(25, 0.7, 0.2)]
    text = joint_table.table([*rows, study("frugalbo", 0.5, 0.6), study("ax", 0.6, 0.7)]).splitlines()
    assert any(line.startswith("| ax | 1 | 7.0 | 0.5000 | 0.6500 ± nan | 0.1000 ± nan |") for line in text)
    assert "| 0 to 0.25 | 2 | 20 to 25 | 0.6000 |" in text
    assert [line.split(" | ")[:2] for line in text if "lr 0.1" in line] == [["| 20", "0.6000"], ["| 30", "0.5000"]]
