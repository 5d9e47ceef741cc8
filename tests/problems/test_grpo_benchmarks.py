"""The benchmarks on knapsack_grpo: what they pay, what they keep, and what they say of it; nothing is trained."""

import json

import pytest

from benchmarks import grpo, joint


def fake(settings, seed):
    """The loss is least where lr = 1e-3 and density = 1; a rollout of a prompt takes a tenth of a second."""
    loss = 0.5 + 0.1 * abs(float(settings["lr"]) - 1e-3) / 1e-3 - 0.1 * settings["density"] + 0.001 * (seed >= 1000)
    return {
        "failed": None,
        "pass_at_1": [0.1, 1 - loss],
        "cpu_s": settings["rollouts"] / 10,
        "state_bytes": int(1000 * settings["density"]),
        "at": "now",
    }


def trainings(path):
    return joint.Trainings("mini", path, fake)


@pytest.mark.parametrize(
    "method", [pytest.param("frugalbo", marks=pytest.mark.slow), "one-at-a-time", "random", "optuna-tpe"]
)
def test_every_study_begins_with_the_defaults_and_keeps_to_the_same_seconds(tmp_path, method):
    if method == "optuna-tpe":
        pytest.importorskip("optuna")
    known = trainings(tmp_path / "joint.jsonl")
    record = joint.study(method, known, 3, 5)
    space, defaults = joint.search_space("mini")
    assert tuple(space.names) == joint.KNOBS
    lines = [json.loads(line) for line in (tmp_path / "joint.jsonl").read_text().splitlines()]
    assert lines[0]["params"] == defaults
    assert record["budget_s"] == pytest.approx(5 * 0.8)
    assert record["path"][-1][0] <= record["budget_s"] + 1e-9
    assert record["path"][0][1] == lines[0]["loss"]
    assert record["loss"] == min(loss for _, loss in record["path"])
    assert record["confirmed"] == pytest.approx([record["loss"] + 0.001] * 2, abs=2e-5)
    assert {line["seed"] for line in lines} == {3, *joint.CONFIRM}


def test_an_interrupted_study_trains_only_what_is_missing(tmp_path):
    path = tmp_path / "joint.jsonl"
    whole = joint.study("one-at-a-time", trainings(path), 0, 8)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:4]) + "\n")
    ran = []
    again = joint.Trainings("mini", path, lambda settings, seed: ran.append(seed) or fake(settings, seed))
    assert joint.study("one-at-a-time", again, 0, 8) == whole
    assert len(ran) == len(lines) - 4


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


def test_a_finished_study_is_not_done_again(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(
        joint,
        "study",
        lambda method, known, seed, trials: (
            done.append((method, seed))
            or {"kind": "study", "size": "mini", "method": method, "seed": seed, "trials": trials}
        ),
    )
    for seeds in (range(1), range(2)):
        joint.run_missing("mini", seeds, 8, ["random", "ax"], tmp_path / "joint.jsonl")
    assert done == [("random", 0), ("ax", 0), ("random", 1), ("ax", 1)]


def test_the_tables_by_hand(tmp_path):
    def training(state_bytes, loss):
        return {"kind": "training", "size": "mini", "params": {"lr": 0.1}, "state_bytes": state_bytes, "loss": loss}

    study = {
        "kind": "study",
        "size": "mini",
        "method": "ax",
        "trials": 9,
        "ran": 7,
        "loss": 0.5,
        "confirmed": [0.6, 0.7],
    }
    text = joint.table([training(30, 0.5), training(20, 0.6), training(25, 0.7), study])
    assert "| ax | 1 | 7.0 | 0.5000 | 0.6500 |" in text
    assert [line for line in text.splitlines() if "lr" in line] == [
        "| 20 | 0.6000 | lr 0.1 |",
        "| 30 | 0.5000 | lr 0.1 |",
    ]


def rule(allocation, seed, last):
    return {
        "size": "mini", "lr": 1e-3, "allocation": allocation, "seed": seed, "before": 0.2, "pass_at_1": [0.1, last],
        "effective_ratio": [0.2, 0.4], "train_reward": [0.1, 0.3], "tokens": 99, "token_budget": 100, "cpu_s": 2.0,
    }  # fmt: skip


def test_rules_are_compared_seed_by_seed():
    records = [rule("uniform", 0, 0.3), rule("uniform", 1, 0.5), rule("knapsack", 0, 0.4), rule("knapsack", 1, 0.4)]
    lines = grpo.table(records).splitlines()
    # 0.4 - 0.3 and 0.4 - 0.5: mean 0, standard deviation 0.1414.
    assert "| knapsack | 2 | 0.300, 0.400 | 0.300 | 0.400 ± 0.000 | +0.000 ± 0.141 | 1 of 2 | 99.0% | 2.0 |" in lines


def test_a_rule_that_is_on_file_is_not_run_again(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(
        grpo, "run", lambda settings, seed: ran.append((settings["allocation"], seed)) or {**settings, "seed": seed}
    )
    grpo.run_missing("mini", range(1), [1e-3], ["uniform"], tmp_path / "grpo.jsonl")
    grpo.run_missing("mini", range(2), [1e-3], ["uniform", "signal"], tmp_path / "grpo.jsonl")
    assert ran == [("uniform", 0), ("signal", 0), ("uniform", 1), ("signal", 1)]
