"""The race's own code: pools, regrets and the same start for all."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from benchmarks import curve_tables, hpob, metabo_race_table
from benchmarks import race_metabo as race
from benchmarks.metabo_pools import TASKSET


@pytest.mark.parametrize("name", race.FUNCTIONS)
def test_pools_are_points_of_the_cube_with_losses(name):
    X, losses = race.pool_of(name)
    assert X.shape[0] == len(losses) == 500
    assert 0 <= X.min() <= X.max() <= 1
    assert np.isfinite(losses).all()


def test_regret_is_nothing_at_the_best_and_one_at_the_median_or_worst():
    losses = np.array([1.0, 2.0, 3.0, 7.0, 9.0])
    assert race.regret_of("function/branin", losses, losses).tolist() == [0, 0.5, 1, 1, 1]
    assert race.regret_of("nap/20", losses, losses).tolist() == [0, 0.125, 0.25, 0.75, 1]


@pytest.mark.parametrize("method", ["metabo", "network", "ei", "random"])
def test_all_methods_start_at_the_same_points_and_never_get_worse(method):
    record = race.run_cell("function/branin", method, 1, 10)
    _, losses = race.pool_of("function/branin")
    first = np.random.default_rng([1, 99]).permutation(500)[:5]
    assert record["regret"][0] == pytest.approx(race.regret_of("", losses, losses[first].min()), abs=1e-6)
    assert len(record["regret"]) == 6
    assert all(b <= a for a, b in itertools.pairwise(record["regret"]))
    assert 0 <= record["audit"]["greedy"] <= 1


@pytest.mark.parametrize("method", ["metabo", "ei"])
def test_a_race_that_goes_on_is_the_race_that_was_not_cut(method):
    whole, short = (race.run_cell("function/branin", method, 1, trials) for trials in (10, 7))
    longer = race.run_cell("function/branin", method, 1, 10, short)
    assert longer | {"at": ""} == whole | {"at": ""}
    assert longer["tried"][:7] == short["tried"]


def test_the_mean_of_random_orders_is_the_closed_form():
    """Of the best of one more point: the mean over the pool of the least of it and what was reached."""
    _, losses = race.pool_of("function/slope2")
    first = np.random.default_rng([2, 99]).permutation(500)[:5]
    rest = np.setdiff1d(np.arange(500), first)
    expected = race.regret_of("", losses, np.minimum(losses[rest], losses[first].min())).mean()
    assert race.run_cell("function/slope2", "random", 2, 10)["regret"][1] == pytest.approx(expected, abs=0.02)


@pytest.mark.skipif(not curve_tables.is_there("taskset"), reason="the recorded curves are not here")
def test_what_is_known_of_a_task_of_taskset_is_what_the_other_seven_say():
    past = race.past_of(TASKSET[3])
    assert past is not None
    assert set(past.names) == set(TASKSET) - {TASKSET[3]}
    X, losses = race.pool_of(TASKSET[3])
    assert X.shape == (1000, 8)
    assert 0 <= X.min() <= X.max() <= 1
    assert np.isfinite(losses).all()
    assert race.regret_of(TASKSET[3], losses, losses[[losses.argmin(), losses.argmax()]]).tolist() == [0, 1]


def record(task, method, seed, regret):
    return {"kind": "race", "task": task, "method": method, "seed": seed, "regret": regret, "network": [0.5]}


def test_a_table_compares_the_races_that_all_methods_have_run():
    at = {5: 0.8, 10: 0.4, 15: 0.2, 25: 0.1}
    curve = [at[max(t for t in at if t <= trial)] for trial in range(5, 26)]
    records = [
        record("nap/20", m, s, [x / 2 if m == "metabo" else x for x in curve]) for m in ("metabo", "ei") for s in (0, 1)
    ]
    records.append(record("nap/21", "ei", 0, curve))  # nobody else has run it
    row = next(line for line in metabo_race_table.table(records).splitlines() if "metabo" in line)
    assert row == "| nap | 2 | metabo | 0.400 | 0.200 | 0.100 | 0.050 | +0.200 | 2, 0 | +0.050 | 2, 0 |"


def test_hpob_is_compared_at_the_steps_that_all_races_have(monkeypatch):
    """By hand: gains of 0.1 and 0.3 on two data sets, 0.2 on average; the longer races are of the first alone."""
    monkeypatch.setattr(hpob, "data_folder", lambda: Path("nowhere"))
    records = []
    for task, gain, steps in (("hpob/4796_23", 0.1, 100), ("hpob/4796_3549", 0.3, 25)):
        records.append(record(task, "ei", 0, [0.5] * (steps + 1)))
        records.append(record(task, "past", 0, [0.5] + [0.5 - gain] * steps))
    short, gains_short, _, gains_long = hpob.table(records).split("\n\n")
    assert "| all | 2, 2 | past | 0.500 | 0.300 | 0.300 |" in short
    assert "| all | past | +0.200 [+0.100, +0.300] | 2, 0, 0 | +0.200 [+0.100, +0.300] | 2, 0, 0 |" in gains_short
    assert gains_long.count("+0.100 [+0.100, +0.100] | 1, 0, 0") == 8  # 10, 25, 50, 100; all and the space
