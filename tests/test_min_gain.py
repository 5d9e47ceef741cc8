"""Runs that stop when nothing is expected to be worth its price."""

import math

import numpy as np
import pytest

import frugalbo as fb
from frugalbo.budget.worth import MinGain
from frugalbo.cli import main
from frugalbo.errors import BudgetError
from frugalbo.executors.simulated import Curve, SimulatedExecutor
from frugalbo.propose import MethodError
from frugalbo.slot import Slot
from frugalbo.stored import Settings

PROBLEM = fb.Problem(
    "hill", fb.Space({"x": fb.Float(0, 1), "y": fb.Float(0, 1)}), "nowhere:train", fb.Maximize("score")
)
NOTHING = "nothing left is expected to be worth its price"


def _executor(function, *, slots=1, seconds=10.0, dollars_per_hour=0.0):
    def simulate(params, planned, seed):
        return Curve([1], [seconds], [{"score": function(params)}])

    places = [Slot(f"cpu:{i}", "cpu", i, dollars_per_hour=dollars_per_hour) for i in range(slots)]
    return SimulatedExecutor(PROBLEM, places, simulate)


def _hill(params):
    return 5 - 100 * ((params["x"] - 0.3) ** 2 + (params["y"] - 0.7) ** 2)


def _noise(params):
    return 3 + 1e-3 * math.sin(1e4 * params["x"] + 1e5 * params["y"])


def _tune(function, min_gain, *, budget=400, seed=0, **fields):
    executor = _executor(function, **{k: fields.pop(k) for k in ("slots", "dollars_per_hour") if k in fields})
    return fb.tune(PROBLEM, budget=budget, min_gain=min_gain, seed=seed, executor=executor, **fields)


@pytest.mark.parametrize(("text", "gain", "per", "resource"), [
    ("0.001 per 60s", 1e-3, 60, "device_seconds"),
    ("1e-3 / 2.5 GPU-hours", 1e-3, 9000, "device_seconds"),
    ("0.5 per GPU-hour", 0.5, 3600, "device_seconds"),
    (".5 PER hour", 0.5, 3600, "device_seconds"),
    ("2 per 1h 30min", 2, 5400, "device_seconds"),
    ("0.01 per $5", 0.01, 5, "dollars"),
    ("0.01 per USD", 0.01, 1, "dollars"),
    ("1e-4 per trial", 1e-4, 1, "evaluations"),
])  # fmt: skip
def test_a_price_is_read(text, gain, per, resource):
    found = MinGain.of(text)
    assert (found.gain, found.per, found.resource) == (gain, per, resource)
    assert found.price == gain / per


@pytest.mark.parametrize("text", [
    "", "0.001", "per 60s", "0.001 per", "0.001 per 60", "0 per 60s", "-1 per 60s", "1 per 0s", "1.2.3 per 60s",
    "1 per 60s wall", "1 per 4 GiB", "1 per week", "60s per 0.001", "1e999 per 60s", 3.0,
])  # fmt: skip
def test_a_price_that_is_none_is_refused(text):
    with pytest.raises(BudgetError, match=r"min_gain|worth"):
        MinGain.of(text)


def test_where_nothing_is_to_be_gained_a_run_ends_early_and_says_why():
    # Differences of 1e-3 all over; 39 trials could be paid for, and the rule is asked after six.
    report = _tune(_noise, "1 per 60s")
    assert report.stop_reason.startswith(NOTHING)
    assert "of score for 60 device-seconds, and 1 was asked for" in report.stop_reason
    assert report.stop_reason.endswith("; saved 340 of 400 device-seconds")
    assert len(report.study.trials) == 6
    assert report.study.balance()["device_seconds"].spent == 60
    assert NOTHING in report.summary()
    assert report.to_json()["stop_reason"] == report.stop_reason


def test_a_constant_objective_ends_a_run_at_any_price():
    report = _tune(lambda _: 3.0, "1e-12 per 60s")
    assert report.stop_reason.startswith(f"{NOTHING}: at most 0 of score")
    assert len(report.study.trials) == 6


@pytest.mark.parametrize("seed", [0, 1])
def test_while_much_is_to_be_gained_a_run_goes_on(seed):
    # After twice the initial trials the best is some units below the top; 0.01 for a trial is cheap.
    report = _tune(_hill, "0.01 per trial", budget="25 trials", seed=seed)
    assert report.stop_reason.startswith(NOTHING)
    assert report.study.value(report.best) > 4.9
    assert 6 < len(report.study.trials) < 25
    # At a lower price it goes on for longer, and what it has done until then is the same.
    longer = _tune(_hill, "1e-9 per trial", budget="25 trials", seed=seed)
    n = min(len(report.study.trials), len(longer.study.trials))
    assert n == len(report.study.trials)
    assert [longer.study.trials[i].params for i in range(n)] == [report.study.trials[i].params for i in range(n)]


def test_without_a_price_the_budget_is_spent():
    report = _tune(_noise, None, budget="12 trials")
    assert "worth" not in report.stop_reason
    assert len(report.study.trials) == 12


def test_running_trials_are_awaited_and_may_change_the_picture():
    # On four slots nothing is cut short: all that started has ended.
    report = _tune(_noise, "1 per 60s", slots=4)
    assert report.stop_reason.startswith(NOTHING)
    assert len(report.study.trials) <= 12
    assert all(trial.status == "completed" for trial in report.study.trials.values())


def test_dollars_are_what_was_charged():
    # 10 s at 360 USD an hour are 1 USD. A gain of 1e-3 is what there is.
    report = _tune(_noise, "1 per USD", dollars_per_hour=360.0)
    assert report.stop_reason.startswith(NOTHING)
    assert "for 1 USD" in report.stop_reason
    free = _tune(_noise, "1 per USD", budget="12 trials")  # charged nothing, so anything is worth it
    assert len(free.study.trials) == 12
    with pytest.raises(BudgetError, match="price of a device"):
        fb.tune(PROBLEM, budget=100, min_gain="1 per USD")


def test_a_resumed_run_stops_as_well_unless_the_price_is_lowered(tmp_path):
    storage = tmp_path / "runs.db"
    first = _tune(_noise, "1 per 60s", budget="12 trials", storage=storage)
    assert len(first.study.trials) == 6
    again = fb.resume(storage=storage, problem=PROBLEM, executor=_executor(_noise))
    assert again.stop_reason == first.stop_reason
    assert len(again.study.trials) == 6
    with pytest.raises(BudgetError, match="min_gain"):
        fb.resume(storage=storage, problem=PROBLEM, min_gain="cheap", executor=_executor(_noise))
    more = fb.resume(storage=storage, problem=PROBLEM, min_gain="none", executor=_executor(_noise))
    assert len(more.study.trials) == 12
    # The new price is stored.
    more = fb.resume(storage=storage, problem=PROBLEM, budget="14 trials", executor=_executor(_noise))
    assert len(more.study.trials) == 14


def test_runs_from_before_there_was_a_price_have_none():
    record = Settings("ei", devices="cpu:2", dollars_per_hour=1.0, trial_cap_s=3.0, min_gain="1 per 60s").to_json()
    assert Settings(**record) == Settings(
        "ei", devices="cpu:2", dollars_per_hour=1.0, trial_cap_s=3.0, min_gain="1 per 60s"
    )
    del record["min_gain"]
    assert Settings(**record).min_gain is None


@pytest.mark.parametrize("method", ["sobol", "random"])
def test_a_method_that_expects_nothing_has_no_price(method):
    with pytest.raises(MethodError, match="predicts gains"):
        _tune(_hill, "1 per 60s", method=method)


def test_whoever_owns_the_loop_is_told():
    with fb.open_study(PROBLEM, budget="40 trials", min_gain="1 per trial") as study:
        for _ in range(6):
            trial = study.ask()
            study.tell(trial, _noise(trial.params))
        with pytest.raises(BudgetError, match=NOTHING):
            study.ask()


def test_the_command_line_knows_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["tune", "--command", "true", "--param", "x=0..1", "--minimize", "loss", "--budget", "1 trials"]
    assert main([*words, "--min-gain", "cheap"]) == 2
    assert "cannot read min_gain 'cheap'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("method", ["pbgi", "nei", "ts"])
def test_any_method_with_a_model_stops(method):
    report = _tune(_hill, "0.01 per trial", budget="30 trials", method=method)
    assert report.stop_reason.startswith(NOTHING)
    assert report.study.value(report.best) > 4.5
    assert np.isfinite(report.study.value(report.best))
