"""The benchmark of budgets where costs are unknown."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from benchmarks import budgeted, standings
from frugalbo.propose.base import Suggestion
from frugalbo.space import Float, Space


@pytest.mark.parametrize("f", [budgeted.dropwave, budgeted.alpine1, budgeted.ackley])
@pytest.mark.parametrize("d", [2, 3])
def test_functions_are_zero_at_the_origin_and_nowhere_less(f, d):
    assert f(np.zeros((1, d)))[0] == pytest.approx(0, abs=1e-12)
    assert f(np.random.default_rng(0).uniform(-3, 3, (2003, d))).min() > 0


def test_a_function_has_its_published_values():
    # Ackley at (1, 1): 20 - 20 exp(-0.2) + e - e = 20 (1 - 0.818731) = 3.62538.
    # Dropwave at (1, 0): 1 - (1 + cos 12) / 2.5 = 1 - 1.843854 / 2.5 = 0.262458.
    # Alpine at (1, 2): |sin 1 + 0.1| + |2 sin 2 + 0.2| = 0.941471 + 2.018595 = 2.960066.
    assert budgeted.ackley(np.array([[1.0, 1.0]]))[0] == pytest.approx(3.62538, abs=1e-5)
    assert budgeted.dropwave(np.array([[1.0, 0.0]]))[0] == pytest.approx(0.262458, abs=1e-5)
    assert budgeted.alpine1(np.array([[1.0, 2.0]]))[0] == pytest.approx(2.960066, abs=1e-5)


def test_a_sample_has_the_covariance_of_its_process():
    # Matern-5/2 at distance r = 0.1 with lengthscale 0.2: (1 + a + a^2 / 3) exp(-a) for a = sqrt(5) / 2,
    # (1 + 1.118034 + 0.416667) * 0.326922 = 0.828644. The mean over 400 samples of 7 pairs has a
    # standard error of about 0.04.
    U = np.random.default_rng(5).random((7, 2))
    V = U + np.array([0.06, 0.08])
    products, squares = [], []
    for seed in range(401):
        f = budgeted.matern_sample(np.random.default_rng(seed), 2, 0.2)
        products.append(np.mean(f(U) * f(V)))
        squares.append(np.mean(f(U) ** 2))
    assert np.mean(products) == pytest.approx(0.8286, abs=0.12)
    assert np.mean(products) / np.mean(squares) == pytest.approx(0.8286, abs=0.03)


@pytest.mark.parametrize(
    ("name", "low", "high"), [("gp-dear", 0.5, 1), ("gp-unrelated", -0.6, 0.6), ("gp-cheap", -1, -0.5)]
)
def test_costs_are_related_to_what_is_good_as_the_name_says(name, low, high):
    rng, found = np.random.default_rng(0), []
    for seed in range(5):
        task = budgeted.task(name, seed)
        seen = [task.observe(task.space.sample(rng)) for _ in range(301)]
        loss, seconds = np.array(seen).T
        found.append(spearmanr(-loss, seconds).statistic)
    assert low < np.mean(found) < high


def test_no_point_of_a_sample_is_better_than_its_best():
    task, rng = budgeted.task("gp-unrelated", 3), np.random.default_rng(0)
    regrets = [task.regret(task.space.sample(rng)) for _ in range(2003)]
    assert 0 <= min(regrets) < 0.05
    assert max(regrets) == 1


def test_draws_are_the_same_for_all_methods_and_differ_by_seed():
    params = {"x0": 0.3, "x1": 0.6}
    first = budgeted.task.__wrapped__("dropwave", 1).observe(params)
    assert budgeted.task.__wrapped__("dropwave", 1).observe(params) == first
    assert budgeted.task.__wrapped__("dropwave", 2).observe(params)[1] != first[1]


class Scripted:
    """Suggests x = 0.1, 0.2, ... ."""

    def __init__(self):
        self.asked = 0

    def propose(self, study, n):
        self.asked += 1
        return [Suggestion({"x0": self.asked / 10}, {"method": "script"})]


def test_a_race_burns_its_budget_and_what_is_cut_does_not_count(monkeypatch):
    # Any trial takes 3 s of 10 s; the loss is 1 - x, the regret the same. The design of 4 trials is at
    # 1 - 0.05; then 0.1, 0.2 and 0.3 end at 3, 6 and 9 s, and 0.4 is cut.
    space = Space({"x0": Float(0, 1)})
    drawn = budgeted.Task(space, lambda p: (1 - p["x0"], 3.0), lambda p: 1 - p["x0"], 10.0)
    design = [Suggestion({"x0": x}) for x in (0.01, 0.02, 0.03, 0.05)]
    monkeypatch.setattr(budgeted, "task", lambda name, seed: drawn)
    monkeypatch.setattr(budgeted.SobolProposer, "propose", lambda self, study, n: design[:n])
    monkeypatch.setattr(budgeted, "proposer", lambda *_: Scripted())
    record = budgeted.run_cell("dropwave", "random", 0)
    assert record["regret"] == pytest.approx([0.95, 0.9, 0.8, 0.7])
    assert (record["initial"], record["trials"], record["cut"], record["stopped_early"]) == (0.95, 4, 1, 0)


@pytest.mark.parametrize("method", budgeted.METHODS)
def test_every_method_runs(method, monkeypatch):
    monkeypatch.setattr(budgeted, "MOST_TRIALS", 2)
    record = budgeted.run_cell("gp-unrelated", method, 0)
    assert 1 <= record["trials"] <= 2  # one may cost all
    assert all(a >= b for a, b in zip(record["regret"], record["regret"][1:], strict=False))
    assert record["initial"] == budgeted.run_cell("gp-unrelated", "random", 0)["initial"]


def test_a_method_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="unknown method 'grid'"):
        budgeted.run_cell("gp-unrelated", "grid", 0)


def _record(problem, method, seed, regret, version="1"):
    return {
        "problem": problem, "method": method, "seed": seed, "version": version,
        "regret": regret, "trials": 7, "cpu_s": 0.7,
    }  # fmt: skip


def test_summary_by_hand():
    # log10 at the end, bmsei: -2, -1, -3; ei: -1, -1, -1. Median -2 and -1, mean -2 and -1; one tie.
    records = [_record("ackley", "ei", s, [1, 1, 1, 0.1]) for s in range(3)]
    records += [_record("ackley", "bmsei", s, [1, 1, 1, r]) for s, r in enumerate((0.01, 0.1, 0.001))]
    text = budgeted.markdown(records)
    assert "| ackley | bmsei | 0.00 | 0.00 | 0.00 | -2.00 | -2.00 [" in text
    assert "| ackley | ei | 0.00 | 0.00 | 0.00 | -1.00 | -1.00 [-1.00, -1.00] | 7 | 0.10 |" in text
    assert "| 2 / 0 | -1.00 |" in text


def test_only_the_newest_version_counts():
    old, new = _record("ackley", "ei", 0, [1] * 4), _record("ackley", "ei", 1, [1] * 4, "2")
    assert budgeted.current([old, new]) == [new]


def test_a_race_that_is_on_file_is_not_run_again(tmp_path, monkeypatch):
    ran = []

    def fake(name, method, seed):
        ran.append((name, seed))
        return {**_record(name, method, seed, [1] * 4, "v"), "regret": [1.0] * 4}

    monkeypatch.setattr(budgeted, "run_cell", fake)
    monkeypatch.setattr(budgeted, "version", lambda method: "v")
    out = tmp_path / "budgeted.jsonl"
    budgeted.run_missing(["ackley"], ["random"], 2, out)
    budgeted.run_missing(["ackley", "car"], ["random"], 2, out)
    assert ran == [("ackley", 0), ("ackley", 1), ("car", 0), ("car", 1)]
    assert len(standings.read(out)) == 4
