"""The benchmark of curves: nobody sees the future, and scores are what they say."""

import numpy as np
import pytest

from benchmarks.curve_data import Run, load
from benchmarks.curves import power_law, score, state_of
from frugalbo.models.curves import PartialCurve
from frugalbo.models.curves.curve import Temper


def runs(n=23):
    steps = np.linspace(0, 1000, 41)[1:]
    return [Run(np.array([i / n]), steps[: 40 - 20 * (i == 3)], np.arange(40.0)[: 40 - 20 * (i == 3)], i == 3)
            for i in range(n)]  # fmt: skip


@pytest.mark.parametrize("state", ["0.1", "0.5", "mixed"])
def test_a_cut_run_shows_nothing_of_what_is_to_come(state):
    for run, curve in zip(runs(), state_of(runs(), state, np.random.default_rng(0)), strict=True):
        k = len(curve.steps)
        assert k >= 2
        assert curve.losses.tolist() == run.losses[:k].tolist()
        assert curve.failed == (run.failed and k == len(run.steps))
        if state != "mixed":
            assert curve.steps[-1] <= 1000 * float(state)


def test_scores_of_what_is_right_and_of_what_is_too_sure():
    finals = np.linspace(1, 2, 101)
    temper, truth = Temper.of(finals), finals[::7]
    right = score((temper(truth), np.full(15, 0.1), 30.0), truth, finals, temper)
    assert right["cover"] == 1
    assert right["rank"] == pytest.approx(0, abs=0.01)  # rounding may move a value past its twin
    assert right["error"] == pytest.approx(0, abs=1e-9)
    wrong = score((temper(truth + 0.5), np.full(15, 0.01), 30.0), truth, finals, temper)
    assert wrong["cover"] == 0
    assert wrong["nlpd"] > right["nlpd"] + 10


def test_a_power_law_is_found():
    steps = np.arange(10.0, 310, 10)
    plain = Temper(1e3, 1.0, 0.0, 1.0)
    curve = PartialCurve([0.5], steps, 2 + 3 * steps**-0.5)
    end = plain.tempered(power_law([curve], np.array([1000.0]), plain))
    assert end[0] == pytest.approx(2 + 3 * 1000**-0.5, abs=1e-3)


def test_real_curves_are_read_as_they_are():
    tasks = load("taskset")
    if not tasks:
        pytest.skip("needs TaskSet's curves in ../shared/data or FRUGALBO_DATA")
    assert len(tasks) == 8
    for task in tasks.values():
        assert len(task) == 1000
        assert all(run.failed or (len(run.steps) == 51 and run.steps[-1] == 1000) for run in task)
    assert sum(run.failed for run in tasks["imdb_patch32_IRNN64_relu_last_bs128"]) == 245
