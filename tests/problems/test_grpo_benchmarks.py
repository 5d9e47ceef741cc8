"""The benchmarks on knapsack_grpo: what they pay, what they keep, and what they say of it; nothing is trained."""

from benchmarks import grpo


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
