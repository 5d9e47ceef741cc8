"""Ax's orchestrator on our executors."""

import math

import pytest
from ax.api.client import Client
from ax.api.configs import RangeParameterConfig
from clients import experiment

import frugalbo as fb
import frugalbo.integrations.ax as fa
from frugalbo.errors import ExecutorError, StudyError
from frugalbo.events import Failure
from frugalbo.executors.inline import InlineExecutor
from frugalbo.study import Status


def curve(job):
    """Raises in one corner, diverges in another, and says nothing in a third."""
    x, y = job.params["x"], job.params["y"]
    if x > 0.8:
        raise ValueError("too large an x")
    for step in range(job.start + 1, job.until + 1):
        if y > 0.9:
            job.report(step, loss=math.nan)
        elif y > 0.8:
            job.report(step, other=1.0)
        else:
            job.report(step, loss=(x - 0.3) ** 2 + y + 1 / step, other=step)


def client():
    made = Client()
    made.configure_experiment([RangeParameterConfig(n, (0.0, 1.0), "float") for n in "xy"], name="bowl")
    made.configure_optimization("-loss")
    return made


def go(made, runner, trials, *, metrics=("loss", "device_seconds"), parallelism=1):
    made.configure_runner(runner)
    made.configure_metrics([fa.ReportedMetric(name) for name in metrics])
    made.run_trials(
        max_trials=trials,
        parallelism=parallelism,
        tolerated_trial_failure_rate=0.99,
        initial_seconds_between_polls=0,
    )


def inline(made, steps=1, **more):
    problem = fa.problem_from_ax(made, job=curve, steps=steps)
    return fa.ExecutorRunner(InlineExecutor(problem), problem, **more)


@pytest.mark.slow
def test_the_orchestrator_runs_on_our_executor():
    made = client()
    made.set_generation_strategy(fa.generation_strategy(method="ei", steps=3))
    with inline(made, steps=3) as runner:
        go(made, runner, 7)
    study = fa.from_ax(made, steps=3)
    assert len(study.trials) == 7
    done = study.with_status(Status.COMPLETED)
    assert len(done) >= 3
    for trial in done:
        p = trial.params
        assert [step for step, _ in trial.curve("loss")] == [1, 2, 3]
        assert study.value(trial) == (p["x"] - 0.3) ** 2 + p["y"] + 1 / 3
        assert trial.used("device_seconds") > 0
    frame = experiment(made).lookup_data().full_df
    assert set(frame["metric_name"]) == {"loss", "device_seconds"}


@pytest.mark.parametrize(
    ("x", "y", "failure", "message"),
    [
        (0.9, 0.1, Failure.ERROR, "too large an x"),
        (0.1, 0.95, Failure.DIVERGED, "nan"),
        (0.1, 0.85, Failure.NO_RESULT, "loss"),
    ],
)
def test_a_failure_is_that_of_one_trial(x, y, failure, message):
    made = client()
    made.set_generation_strategy(fa.generation_strategy(method="sobol"))
    with inline(made) as runner:
        made.configure_runner(runner)
        made.configure_metrics([fa.ReportedMetric("loss")])
        index = made.attach_trial({"x": x, "y": y})
        trial = experiment(made).trials[index]
        trial.update_run_metadata(runner.run(trial))
        while runner.poll_trial_status([trial]).get(trial.status):
            pass
        (status,) = runner.poll_trial_status([trial])
        trial.mark_as(status, unsafe=True, reason=runner.poll_exception(trial))
        assert status.name == "FAILED"
        go(made, runner, 3)
    study = fa.from_ax(made)
    assert study.trials[0].failure == failure
    assert message in study.trials[0].ends[-1].message
    assert message in trial.status_reason
    assert len(study.trials) == 4


def test_a_batch_is_not_run():
    from ax.core.arm import Arm

    made = client()
    batch = experiment(made).new_batch_trial()
    batch.add_arms_and_weights([Arm({"x": x, "y": 0.5}) for x in (0.1, 0.2)])
    with inline(made) as runner, pytest.raises(StudyError, match="trial 0 is a batch"):
        runner.run(batch)


class Broken(InlineExecutor):
    """Cannot start every other trial."""

    def submit(self, segment):
        if segment.trial % 2:
            raise RuntimeError("the cluster is on fire")
        super().submit(segment)


def test_what_cannot_be_started_fails_alone():
    made = client()
    made.set_generation_strategy(fa.generation_strategy(method="sobol"))
    problem = fa.problem_from_ax(made, job=curve)
    with fa.ExecutorRunner(Broken(problem), problem) as runner:
        go(made, runner, 6)
    study = fa.from_ax(made)
    assert len(study.trials) == 6
    for i in (1, 3, 5):
        assert study.trials[i].status == Status.FAILED
        assert study.trials[i].ends[-1].message == "RuntimeError: the cluster is on fire"
        assert study.trials[i].used("device_seconds") == 0
    assert study.with_status(Status.COMPLETED)


def test_the_orchestrator_ends_with_the_budget():
    """Of 4 trials, though 20 were asked for; each has run under a cap that was held."""
    made = client()
    made.set_generation_strategy(fa.generation_strategy(method="sobol", budget="4 trials, 100s"))
    with inline(made, budget="4 trials, 100s") as runner:
        go(made, runner, 20)
    study = fa.from_ax(made, budget="4 trials, 100s")
    assert len(study.trials) == 4
    assert study.ledger.balance()["evaluations"].spent == 4
    assert study.trials[0].starts[0].held.device_seconds == 100.0
    assert 0 < study.trials[3].starts[0].held.device_seconds < 100.0


def test_simulated_devices_work_too():
    made = client()
    made.set_generation_strategy(fa.generation_strategy(method="sobol"))
    problem = fa.problem_from_ax(made, job="nowhere:train")

    def simulate(params, planned, seed):
        return fb.Curve([1], [10 + params["x"]], [{"loss": params["y"]}])

    slots = [fb.Slot("gpu:0", "cuda", 0), fb.Slot("gpu:1", "cuda", 1)]
    with fa.ExecutorRunner(fb.SimulatedExecutor(problem, slots, simulate), problem) as runner:
        go(made, runner, 5, parallelism=2)
    study = fa.from_ax(made)
    assert [t.used("device_seconds") for t in study.trials.values()] == [
        10 + t.params["x"] for t in study.trials.values()
    ]
    assert {t.starts[0].slot for t in study.trials.values()} == {"gpu:0", "gpu:1"}


@pytest.mark.parametrize("store", ["json", "sqlite"])
def test_a_runner_is_saved_without_its_executor(store, tmp_path):
    made = client()
    if store == "sqlite":
        pytest.importorskip("tabulate")
        made = Client(storage_config=fa.sqlite(tmp_path / "ax.db"))
        made.configure_experiment([RangeParameterConfig(n, (0.0, 1.0), "float") for n in "xy"], name="bowl")
        made.configure_optimization("-loss")
    made.set_generation_strategy(fa.generation_strategy(method="sobol"))
    with inline(made) as runner:
        go(made, runner, 2)
    if store == "json":
        fa.save(made, tmp_path / "ax.json")
        loaded = fa.load(tmp_path / "ax.json")
    else:
        loaded = fa.load_sqlite(tmp_path / "ax.db", "bowl")
    assert fa.from_ax(loaded).trials == fa.from_ax(made).trials
    with pytest.raises(ExecutorError, match="loaded without its executor"):
        experiment(loaded).runner.poll_available_capacity()
    with inline(loaded) as runner:
        go(loaded, runner, 2)
    assert len(fa.from_ax(loaded).trials) == 4


def test_a_running_trial_of_a_dead_controller_is_recovered():
    made = client()
    made.set_generation_strategy(fa.generation_strategy(method="sobol"))
    problem = fa.problem_from_ax(made, job="nowhere:train")

    def simulate(params, planned, seed):
        return fb.Curve([1], [10.0], [{"loss": params["y"]}])

    def executor(now):
        return fb.SimulatedExecutor(problem, [fb.Slot("gpu:0", "cuda", 0)], simulate, now=now)

    index = made.attach_trial({"x": 0.5, "y": 0.5})
    trial = experiment(made).trials[index]
    with fa.ExecutorRunner(executor(0.0), problem) as first:
        trial.update_run_metadata(first.run(trial))
    with fa.ExecutorRunner(executor(4.0), problem) as second:
        (status,) = second.poll_trial_status([trial])
    assert status.name == "FAILED"
    assert fa.from_ax(made).trials[0].ends[-1].outcome == "interrupted"


def test_a_metric_says_what_was_reported():
    made = client()
    with inline(made, steps=2) as runner:
        made.attach_trial({"x": 0.3, "y": 0.5})
        trial = experiment(made).trials[0]
        trial.update_run_metadata(runner.run(trial))
        metric = fa.ReportedMetric("other")
        assert metric.fetch_trial_data(trial).unwrap().empty  # it runs, and has not reported yet
        runner.poll_trial_status([trial])
        assert metric.fetch(0, trial.run_metadata) == (2, 2.0)
        with pytest.raises(StudyError, match="has not reported 'nothing'"):
            fa.ReportedMetric("nothing").fetch(0, trial.run_metadata)
        trial.mark_completed()
        assert fa.ReportedMetric("nothing").fetch_trial_data(trial).is_err()
