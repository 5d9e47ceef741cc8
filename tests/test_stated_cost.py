"""What is stated of cost, through the front door: `tune`, `resume`, `open_study` and the command line."""

import json

import pytest

import frugalbo as fb
from frugalbo.cli import main
from frugalbo.events import Failure

STEPS = 7


def problem(cost=None, job="nowhere:main"):
    return fb.Problem(
        name="ridge",
        space=fb.Space({"x": fb.Float(0, 1), "width": fb.Int(1, 13)}),
        job=job,
        objective=fb.Minimize("loss"),
        fidelity=fb.Fidelity("steps", 1, STEPS),
        defaults={"x": 0.9, "width": 3},
        cost=cost,
    )


def curve(params, planned, seed):
    """Costs 1 to 13 seconds, in proportion to the width."""
    return fb.Curve([planned], [float(params["width"])], [{"loss": (params["x"] - 0.3) ** 2 + 1 / params["width"]}])


def simulated(of):
    return fb.SimulatedExecutor(of, [fb.Slot("cpu:0", "cpu", 0)], curve)


def holds(study):
    return [(t.params["width"], t.starts[0].held.device_seconds) for t in study.trials.values()]


def run(cost, of=None, **settings):
    of = of or problem()
    return fb.tune(of, budget="60s", method="sobol", cost=cost, executor=simulated(of), scheduler="fixed", **settings)


def test_with_a_known_cost_each_trial_holds_what_it_takes_from_the_first_on():
    # A tenth of the cap is for last words; nothing is lost to caps, and the budget is spent to the last seconds.
    report = run("width / 7 * steps")
    held = holds(report.study)
    assert [h for _, h in held[:-1]] == pytest.approx([w / 0.9 for w, _ in held[:-1]])
    assert not any(t.failure for t in report.study.trials.values())
    assert report.study.ledger.balance()["device_seconds"].spent > 59


def test_what_the_problem_states_counts_and_tune_may_say_otherwise():
    of = problem("width / 7 * steps")
    assert holds(run(None, of).study) == holds(run("width / 7 * steps").study)
    assert holds(run("2 * width / 7 * steps", of).study)[0] == (3, pytest.approx(6 / 0.9))


def test_a_known_cost_that_is_too_low_is_named_as_the_reason():
    report = run("0.01 * width")
    assert {t.failure for t in report.study.trials.values()} == {Failure.TIMEOUT}
    assert "the stated cost is too low" in report.stop_reason


def test_a_stored_run_goes_on_with_what_was_stated(tmp_path):
    storage = tmp_path / "runs.db"
    of = problem()
    settings = {"method": "sobol", "scheduler": "fixed", "executor": simulated(of), "storage": storage}
    fb.tune(of, budget="20s", cost="like width; typical 5s", **settings)
    report = fb.resume(storage=storage, budget="60s", executor=simulated(of))
    assert report.study.problem.cost == fb.CostPrior(like="width", typical_s=5.0)
    # Also where the problem is given again, without the statement.
    again = fb.resume(storage=storage, budget="70s", problem=of, executor=simulated(of))
    assert again.study.problem.cost == fb.CostPrior(like="width", typical_s=5.0)
    assert report.study.ledger.balance()["device_seconds"].spent > 50
    assert holds(report.study)[0][1] < 20  # held before anything was known, where without it all is


def test_a_function_is_called_and_refused_where_it_would_have_to_be_stored(tmp_path):
    report = run(lambda params, start, until: float(params["width"]))
    assert holds(report.study) == holds(run("width").study)
    with pytest.raises(fb.ProblemError, match=r"only this process has.*state it as a formula or as 'module:function'"):
        run(lambda params, start, until: 1.0, storage=tmp_path / "runs.db")


def test_own_loops_state_costs_too():
    with fb.open_study(problem(), budget="60s", method="sobol", cost="grows with width") as study:
        assert study.problem.cost == fb.CostPrior(grows_with=("width",))


@pytest.mark.slow
def test_bayesian_suggestions_use_a_known_formula():
    # Without failures, ever: every trial is predicted exactly, from the formula alone.
    of = problem("width / 7 * steps")
    report = fb.tune(of, budget="60s", executor=simulated(of), scheduler="fixed")
    chosen = [t for t in report.study.trials.values() if "predicted_cost_s" in t.why]
    assert len(chosen) >= 3
    for trial in chosen:
        assert trial.why["predicted_cost_s"] == pytest.approx(trial.params["width"], rel=1e-6)
    assert not any(t.failure for t in report.study.trials.values())


@pytest.mark.slow
def test_the_command_line_takes_a_statement_and_keeps_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bowl.py").write_text(
        "import frugalbo as fb\n"
        "def train(job):\n    return (job.params['x'] - 0.3) ** 2\n"
        "problem = fb.Problem('bowl', fb.Space({'x': fb.Float(0, 1)}), 'bowl.py:train', fb.Minimize('loss'))\n"
    )
    words = ["--budget", "2 trials", "--method", "sobol", "--devices", "cpu:1", "--no-report"]
    assert main(["tune", "bowl.py", "--cost", "startup 1s; grows with x", *words]) == 0
    assert main(["tune", "bowl.py", "--cost", "grows with y", *words]) == 2
    assert "grows with 'y', which is no parameter; known are x" in capsys.readouterr().err
    assert main(["resume", "--budget", "3 trials", "--no-report", "--json"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert json.loads(out[-1])["kind"] == "report"
