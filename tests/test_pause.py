"""A run that its user pauses from elsewhere ends soon, with all that it has; and goes on."""

import time

import pytest

from frugalbo.api import pause, resume, tune
from frugalbo.cli import main
from frugalbo.errors import LeaseError
from frugalbo.executors.inline import InlineExecutor
from frugalbo.problem import Minimize, Problem
from frugalbo.run import PAUSED
from frugalbo.space import Float, Space
from frugalbo.store import Store
from frugalbo.stored import read_study


def slow(context):
    time.sleep(0.15)
    return context.params["x"]


PROBLEM = Problem("slow", Space({"x": Float(0.0, 1.0)}), slow, Minimize("loss"))


def test_a_run_that_is_asked_to_pause_ends_and_goes_on_when_it_is_resumed(tmp_path):
    storage, asked = tmp_path / "runs.db", []

    def ask(study, balance, events):
        if study.trials and not asked:
            asked.append(pause(storage=storage))
            pause(storage=storage)  # twice is the same as once

    report = tune(
        PROBLEM, budget="25 trials", method="random", storage=storage, executor=InlineExecutor(PROBLEM), observe=ask
    )
    assert asked == ["slow-1"]
    assert report.stop_reason == PAUSED
    assert 0 < len(report.study.trials) < 25
    assert not report.study.with_status("running")
    report = resume(storage=storage, problem=PROBLEM, executor=InlineExecutor(PROBLEM))
    assert report.stop_reason != PAUSED
    with Store(storage) as store:
        assert len([t for t in read_study(store, "slow-1").trials.values() if t.status == "completed"]) == 25


def test_what_is_not_running_cannot_be_paused(tmp_path, capsys):
    storage = tmp_path / "runs.db"
    tune(PROBLEM, budget="1 trials", method="random", storage=storage, executor=InlineExecutor(PROBLEM))
    with pytest.raises(LeaseError, match="slow-1 is not running"):
        pause(storage=storage)
    assert main(["pause", "--storage", str(storage)]) == 2
    assert "is not running, so there is nothing to pause" in capsys.readouterr().err
