"""The service loop with money."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from clients import client, experiment, loss, run, seconds
from hypothesis import given, settings
from hypothesis import strategies as st

import frugalbo.integrations.ax as fa
from frugalbo.errors import BudgetError, SpaceError, StorageError, StudyError

ROOT = Path(__file__).parents[2]


def paying(budget="100s", **more):
    arguments = {"method": "sobol", **more}
    return fa.BudgetedClient(client(constraints=arguments.pop("constraints", ())), budget, **arguments)


def snapshot(service):
    """All that is known, as it would be saved; Ax's own stamps of time go."""
    return json.dumps(service.client._to_json_snapshot())


def point(asked):
    return asked.parameters


def test_what_is_asked_is_held_and_what_is_told_is_charged():
    service = paying("100s")
    asked = service.ask()
    assert asked.cap_s == 100.0  # nothing is known of costs
    assert service.balance()["device_seconds"].held == 100.0
    service.tell(asked.trial_index, {"loss": 0.5}, cost="7.5s")
    account = service.balance()["device_seconds"]
    assert (account.spent, account.held, account.free) == (7.5, 0.0, 92.5)
    frame = service.experiment.lookup_data().full_df
    assert dict(zip(frame["metric_name"], frame["mean"], strict=True)) == {"loss": 0.5, "device_seconds": 7.5}
    assert service.experiment.trials[0].status.name == "COMPLETED"


def test_several_at_once_share_what_there_is():
    service = paying("90s")
    caps = [service.ask(sharers=3 - i).cap_s for i in range(3)]
    assert caps == [30.0, 30.0, 30.0]
    assert service.ask() is None
    assert "spent" in service.reason or "does not pay" in service.reason
    assert len(service.experiment.trials) == 3


@pytest.mark.slow
@settings(max_examples=7, deadline=None)
@given(budget=st.floats(11, 60), wrong=st.floats(0.2, 1.0), seed=st.integers(0, 5))
def test_a_run_that_keeps_to_its_caps_never_overspends(budget, wrong, seed):
    service = paying(budget, seed=seed)
    while (asked := service.ask()) is not None:
        cost = seconds(asked.parameters) * wrong
        if cost > asked.cap_s:
            service.fail(asked.trial_index, "reached its cap", cost=asked.cap_s)
        else:
            service.tell(asked.trial_index, {"loss": loss(asked.parameters)}, cost=cost)
        account = service.balance()["device_seconds"]
        assert account.spent + account.held <= budget * (1 + 1e-9)
    assert service.reason


def test_dollars_are_held_at_the_price_of_the_device():
    service = paying("2 USD", dollars_per_hour=7.2)
    asked = service.ask()
    assert asked.cap_s == pytest.approx(1000.0)  # 2 USD at 0.002 USD a second
    service.tell(asked.trial_index, {"loss": 1.0}, cost=250.0)
    assert service.balance()["dollars"].spent == pytest.approx(0.5)
    assert service.study().trials[0].used("dollars") == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("told", "cost", "error", "message"),
    [
        ({"los": 0.5}, 3.0, StudyError, "unknown metric 'los'; the experiment has loss"),
        ({"mem": 1.0}, 3.0, StudyError, "expected a value of 'loss', got mem"),
        ({"loss": 0.5}, 3.0, StudyError, "expected a value of 'mem', got loss"),
        ({"loss": "low", "mem": 1.0}, 3.0, StudyError, "expected a number for 'loss', got 'low'"),
        ({"loss": 0.5, "mem": 1.0, "device_seconds": 3.0}, 3.0, StudyError, "give it as cost="),
        ({"loss": 0.5, "mem": 1.0}, None, BudgetError, "expected what it cost, such as cost='93s', got none"),
        ({"loss": 0.5, "mem": 1.0}, -1.0, BudgetError, "expected a cost in device-seconds"),
        ({"loss": 0.5, "mem": 1.0}, "3 USD", BudgetError, "expected a cost in device-seconds"),
    ],
)
def test_a_wrong_answer_is_one_error_and_loses_nothing(told, cost, error, message):
    service = paying(constraints=["mem <= 5"])
    asked = service.ask()
    before = snapshot(service)
    with pytest.raises(error, match=message):
        service.tell(asked.trial_index, told, cost=cost)
    assert snapshot(service) == before
    service.tell(asked.trial_index, {"loss": 0.5, "mem": 1.0}, cost=3.0)


def test_a_trial_is_told_once():
    service = paying()
    asked = service.ask()
    service.tell(asked.trial_index, {"loss": 0.5}, cost=1.0)
    before = snapshot(service)
    with pytest.raises(StudyError, match="trial 0 is already COMPLETED, so nothing can be told of it"):
        service.tell(0, {"loss": 0.1}, cost=1.0)
    with pytest.raises(StudyError, match="trial 7 was never asked for"):
        service.tell(7, {"loss": 0.1}, cost=1.0)
    assert snapshot(service) == before


def test_nan_is_a_failure_and_not_a_completed_trial():
    service = paying()
    asked = service.ask()
    service.tell(asked.trial_index, {"loss": math.nan}, cost=2.0)
    trial = service.experiment.trials[0]
    assert trial.status.name == "FAILED"
    assert trial.status_reason == "loss is nan"
    assert service.study().trials[0].failure == "diverged"
    assert service.balance()["device_seconds"].spent == 2.0
    assert service.best() is None


def test_partial_results_and_a_stop():
    service = paying(steps=5)
    first, second = service.ask(sharers=2), service.ask()
    for step in (1, 2, 4):
        service.report(first.trial_index, step, {"loss": 1 / step})
    with pytest.raises(StudyError, match="expected a step from 1 to 4, got 5"):
        service.report(first.trial_index, 5, {"loss": 0.1})
    service.stop(first.trial_index, "no better than others", cost=4.0)
    service.tell(second.trial_index, {"loss": 0.3}, cost=9.0)
    study = service.study()
    assert study.trials[0].curve("loss") == [(1, 1.0), (2, 0.5), (4, 0.25)]
    assert [str(t.status) for t in study.trials.values()] == ["stopped", "completed"]
    assert study.value(study.trials[0]) is None
    assert service.best().trial_index == 1
    assert service.experiment.trials[0].status.name == "EARLY_STOPPED"


def test_a_trial_with_fixed_parameters_is_paid_for_as_any_other():
    service = paying("60s", method="ei")
    for i in range(4):
        asked = service.ask(fixed_parameters={"kind": "c"} if i % 2 else None)
        service.tell(asked.trial_index, {"loss": loss(asked.parameters)}, cost=3.0)
    assert [t.arm.parameters["kind"] for t in service.experiment.trials.values()][1::2] == ["c", "c"]
    assert service.balance()["device_seconds"].spent == 12.0
    before = snapshot(service)
    with pytest.raises(SpaceError, match="fixed parameter 'kind'"):
        service.ask(fixed_parameters={"kind": "d"})
    assert snapshot(service) == before


def test_pending_trials_are_held_after_a_load(tmp_path):
    service = paying("60s", file=tmp_path / "run.json")
    first, second = service.ask(sharers=2), service.ask()
    service.tell(first.trial_index, {"loss": 0.5}, cost=3.0)
    again = fa.BudgetedClient.load(tmp_path / "run.json")
    assert again.pending() == [second]
    assert again.balance() == service.balance()
    again.fail(second.trial_index, "the machine went away", cost=0.0)
    assert again.balance()["device_seconds"].spent == 3.0
    assert again.ask().trial_index == 2


RUN = """
import sys, os, warnings
warnings.simplefilter("ignore")
sys.path[:0] = [{root!r}, {here!r}]
import frugalbo.integrations.ax as fa
from clients import client, loss, seconds
store, folder, trials, killed = sys.argv[1:]
if store == "json":
    where = dict(file=folder + "/run.json")
    service = fa.BudgetedClient.load(folder + "/run.json") if killed == "load" else fa.BudgetedClient(
        client(), "100s", method="pbgi", **where)
else:
    service = fa.BudgetedClient.load(folder + "/run.db", name="demo") if killed == "load" else fa.BudgetedClient(
        client(storage_config=fa.sqlite(folder + "/run.db")), "100s", method="pbgi")
for asked in service.pending():
    service.tell(asked.trial_index, {{"loss": loss(asked.parameters)}}, cost=seconds(asked.parameters))
while len(service.experiment.trials) < int(trials):
    asked = service.ask()
    print(asked.trial_index, asked.parameters, asked.cap_s, flush=True)
    if killed == "kill" and asked.trial_index == 5:
        os.kill(os.getpid(), 9)
    service.tell(asked.trial_index, {{"loss": loss(asked.parameters)}}, cost=seconds(asked.parameters))
print(service.balance()["device_seconds"])
"""


def started(store, folder, killed, trials="9"):
    code = RUN.format(root=str(ROOT), here=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", code, store, str(folder), trials, killed],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == (-9 if killed == "kill" else 0), done.stderr[-3000:]
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("store", ["json", "sqlite"])
def test_a_killed_run_goes_on_with_the_same_suggestions(store, tmp_path):
    """Killed in its sixth trial: what was asked is asked again, and all that follows is as if nothing had happened."""
    if store == "sqlite":
        pytest.importorskip("tabulate")
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = started(store, tmp_path / "whole", "no")
    first = started(store, tmp_path / "killed", "kill")
    rest = started(store, tmp_path / "killed", "load")
    assert len(first) == 6
    assert first + rest == whole


def test_what_was_told_counts_though_ax_was_not_told_before_the_crash():
    from frugalbo.integrations.ax.record import recorded

    service = paying()
    asked = service.ask()
    trial = service.experiment.trials[asked.trial_index]
    service._mark = lambda *_: None  # a crash between our record and Ax's status
    service.tell(asked.trial_index, {"loss": 0.25}, cost=5.0)
    assert trial.status.name == "RUNNING"
    assert len(recorded(trial)) == 3
    again = fa.BudgetedClient(service.client)
    assert trial.status.name == "COMPLETED"
    assert again.pending() == []
    assert again.best().value == 0.25


def test_an_experiment_that_ran_without_us_goes_on_with_a_budget():
    made = run(client(), 4)
    made._maybe_generation_strategy = None
    service = fa.BudgetedClient(made, "100s", method="ei")
    spent = service.balance()["device_seconds"].spent
    assert spent == pytest.approx(sum(seconds(t.arm.parameters) for t in experiment(made).trials.values()))
    asked = service.ask()
    assert asked.trial_index == 4
    assert asked.cap_s < 100 - spent  # its cost is predicted from the four
    with pytest.raises(BudgetError, match="does not cover what 'demo' holds"):
        fa.BudgetedClient(made, "1s")
    service.fail(asked.trial_index, "lost", cost=0)
    with pytest.raises(BudgetError, match=r"does not cover the [0-9.]+ device seconds that are spent"):
        fa.BudgetedClient(made, "1s")


def test_ax_own_strategy_can_stay():
    made = client()
    made.configure_generation_strategy(initialization_random_seed=1)
    service = fa.BudgetedClient(made, "100s")
    asked = service.ask()
    service.tell(asked.trial_index, {"loss": loss(asked.parameters)}, cost=1.0)
    assert asked.parameters["x"] == 0.5  # Ax begins at the centre
    assert made._generation_strategy.name != "frugalbo:auto"


def test_a_larger_budget_goes_on(tmp_path):
    service = paying("3 trials", file=tmp_path / "run.json")
    while (asked := service.ask()) is not None:
        service.tell(asked.trial_index, {"loss": loss(asked.parameters)})
    assert len(service.experiment.trials) == 3
    assert "evaluations" in service.reason
    more = fa.BudgetedClient.load(tmp_path / "run.json", budget="4 trials")
    assert more.ask().trial_index == 3


@pytest.mark.slow
@pytest.mark.parametrize("store", ["json", "sqlite"])
def test_two_hundred_trials_load_and_are_analysed(store, tmp_path):
    from ax.analysis.plotly import PlotlyAnalysisCard, ScatterPlot

    if store == "sqlite":
        pytest.importorskip("tabulate")
    made = two_hundred(store, tmp_path)
    total = sum(seconds(t.arm.parameters) for t in experiment(made).trials.values())
    loaded = fa.load(tmp_path / "ax.json") if store == "json" else fa.load_sqlite(tmp_path / "ax.db", "demo")
    study = fa.from_ax(loaded, budget="10000s")
    assert study.ledger.balance()["device_seconds"].spent == pytest.approx(total)
    assert fa.best_point(loaded).trial_index == study.best().number
    if loaded._maybe_generation_strategy is None:
        loaded.configure_generation_strategy()
    (card,) = loaded.compute_analyses([ScatterPlot("device_seconds", "loss", use_model_predictions=False)])
    assert type(card) is PlotlyAnalysisCard
    assert len(loaded.summarize()) == 200
    service = fa.BudgetedClient(loaded, "10000s")
    assert service.ask().trial_index == 200


def two_hundred(store, tmp_path):
    import numpy as np
    import pandas as pd
    from ax.core.arm import Arm
    from ax.core.data import Data

    made = client()
    rng = np.random.default_rng(0)
    rows = []
    for i in range(200):
        x, lr, layers = rng.random(), 10 ** rng.uniform(-4, -1), int(rng.integers(1, 8))
        p = {"x": x, "optimizer.lr": lr, "layers": layers, "kind": "abc"[int(rng.integers(3))]}
        trial = experiment(made).new_trial().add_arm(Arm(p)).mark_running(no_runner_required=True)
        common = {"trial_index": i, "arm_name": trial.arm.name, "sem": float("nan")}
        for name, value in (("loss", loss(p)), ("device_seconds", seconds(p))):
            rows.append(common | {"metric_name": name, "metric_signature": name, "mean": value})
    made.configure_tracking_metrics(["device_seconds"])
    experiment(made).attach_data(Data(df=pd.DataFrame(rows)))
    for trial in experiment(made).trials.values():
        trial.mark_completed()
    if store == "json":
        fa.save(made, tmp_path / "ax.json")
    else:
        from ax.api.client import Client

        Client(storage_config=fa.sqlite(tmp_path / "ax.db")).set_experiment(experiment(made))
    return made


def test_a_snapshot_of_another_ax_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "run.json"
    paying(file=path).ask()
    record = json.loads(path.read_text())
    record["experiment"]["properties"]["frugalbo"]["ax"] = "2.7.0"
    record["experiment"]["search_space"]["__type"] = "SearchSpaceOfTomorrow"
    text = json.dumps(record)
    path.write_text(text)
    with pytest.raises(StorageError, match=r"written by Ax 2\.7\.0, and this is Ax .*SearchSpaceOfTomorrow"):
        fa.BudgetedClient.load(path)
    assert path.read_text() == text


def test_what_is_no_snapshot_is_refused(tmp_path):
    with pytest.raises(StorageError, match="cannot read"):
        fa.load(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"experiment": {')
    with pytest.raises(StorageError, match="cannot read"):
        fa.load(tmp_path / "half.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(StorageError, match="cannot load"):
        fa.load(tmp_path / "other.json")
    with pytest.raises(StorageError, match="no database"):
        fa.load_sqlite(tmp_path / "none.db", "demo")
    (tmp_path / "text.db").write_text("this is no database at all, is it?" * 100)
    pytest.importorskip("tabulate")
    with pytest.raises(StorageError, match="as a database of Ax"):
        fa.load_sqlite(tmp_path / "text.db", "demo")


def test_a_save_that_fails_leaves_the_old_snapshot(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    service = paying(file=path)
    service.ask()
    before = path.read_text()

    def cut_off(where):
        Path(where).write_text("{")
        raise OSError("no space left on device")

    monkeypatch.setattr(service.client, "save_to_json_file", cut_off)
    with pytest.raises(StorageError, match="no space left"):
        service.fail(0, "lost", cost=1.0)
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]
