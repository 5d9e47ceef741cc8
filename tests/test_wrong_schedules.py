"""What a user of schedulers and pools gets wrong, on the command line and in Python: what it says, and what goes on."""

import re

import pytest

import frugalbo as fb
from frugalbo.cli import main
from frugalbo.store import Store
from frugalbo.stored import read_study

JOB = """
import frugalbo as fb

problem = fb.Problem(
    "wrong", fb.Space({{"x": fb.Float(0, 1)}}), "{name}:train", fb.Minimize("loss"), fb.Fidelity("steps", 3, 27)
)


def train(job):
{body}
"""
GOOD = """\
    for step in range(job.start + 1, job.until + 1):
        job.report(step, loss=job.params["x"] / step)
    job.save(job.until, lambda path: path.write_text("done"))
"""
NEVER = """\
    for step in range(job.start + 1, job.until + 1):
        job.report(step, accuracy=1.0)
"""
BACKWARDS = """\
    for step in range(job.until, job.start, -1):
        job.report(step, loss=1.0)
"""
OUT_OF_ORDER = """\
    for step in (2, 1, 3):
        job.report(step, loss=1.0)
"""
RUNS_ON = """\
    for step in range(1, job.planned + 1):
        job.report(step, loss=1.0)
"""
REPORTS_AT_THE_END = """\
    job.report(job.planned, loss=1.0)
"""
NO_CHECKPOINT = """\
    for step in range(job.start + 1, job.until + 1):
        job.report(step, loss=job.params["x"])
"""


@pytest.fixture
def problem(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(body):
        path = tmp_path / "wrong.py"
        path.write_text(JOB.format(name="wrong", body=body))
        return str(path)

    return write


def refused(capsys, *words):
    """What a refusal says, in one line."""
    assert main([str(word) for word in words]) == 2
    out, said = capsys.readouterr()
    assert out == ""
    assert said.startswith("frugalbo: ")
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--budget", "5s", "--price", "-1"], "a price per device-hour must be at least 0, got -1.0"),
        (["--budget", "1 USD"], "a budget of money needs the price of a device"),
        (["--budget=-5s"], "cannot read the amount '-5s'"),
        (["--budget", "5s", "--scheduler", "ahsa"], "unknown scheduler 'ahsa'; expected one of auto, fixed"),
        (["--budget", "5s", "--devices", "cpu:0"], "expected at least one slot of at least one thread, got 'cpu:0'"),
    ],
)
def test_prices_and_devices_that_cannot_be_are_refused_before_anything_starts(problem, tmp_path, capsys, words, said):
    assert said in refused(capsys, "tune", problem(GOOD), *words)
    assert not list(tmp_path.glob(".frugalbo/*/trial-*"))


@pytest.mark.parametrize(
    ("pools", "said"),
    [
        ("[[pool]]\nname = 'a'\ndevices = 'cpu:1'\ndollars_per_hour = -1", "expected a price of at least 0, got -1"),
        ("[[pool]]\nname = 'a'\ndevices = 'cpu:0'", "pool 'a': expected at least one slot of at least one thread"),
        ("[[pool]]\nname = 'a'\ndevices = 0", "pool 'a': expected at least one device, got 0"),
        ("[[pool]]\nname = 'a'\ndevices = ''", "pool 'a': expected at least one device, got ''"),
        ("", "expected at least one pool, got none"),
    ],
)  # fmt: skip
def test_pools_that_cannot_be_are_refused_by_tune_and_simulate(problem, tmp_path, capsys, pools, said):
    (tmp_path / "pools.toml").write_text(pools)
    (tmp_path / "runs.csv").write_text("x,seconds,loss\n1,1,1\n2,1,2\n")
    assert said in refused(capsys, "tune", problem(GOOD), "--budget", "5s", "--pools", "pools.toml")
    if "cpu:0" not in pools:  # a simulation counts, and says so in its own words
        words = ["runs.csv", "--budget", "5s", "--minimize", "loss", "--pools", "pools.toml"]
        assert said in refused(capsys, "simulate", *words)


@pytest.mark.parametrize(("words", "said"), [
    (["--price", "-1"], "expected a price of at least 0, got -1.0"),
    (["--devices", "0"], "expected at least one device, got 0"),
    (["--preemptions", "-1"], "-1"),
    (["--reload", "5 USD"], "5 USD"),
])  # fmt: skip
def test_a_simulation_that_cannot_be_is_refused(tmp_path, capsys, words, said):
    path = tmp_path / "runs.csv"
    path.write_text("x,seconds,loss\n1,1,1\n2,1,2\n")
    assert said in refused(capsys, "simulate", path, "--budget", "5s", "--minimize", "loss", *words)


def test_python_says_the_same():
    with pytest.raises(fb.PoolError, match=re.escape("pool 'a': expected a price of at least 0, got -0.5")):
        fb.Pool("a", 2, dollars_per_hour=-0.5)
    with pytest.raises(fb.PoolError, match="expected at least one device, got 0"):
        fb.Pool("a", 0)
    what = fb.Problem("p", fb.Space({"x": fb.Float(0, 1)}), "m:f", fb.Minimize("loss"))
    with pytest.raises(fb.FrugalError, match="at least 0, got -1"):
        fb.tune(what, budget="5s", dollars_per_hour=-1)
    with pytest.raises(fb.PoolError, match="expected at least one pool, got none"):
        fb.tune(what, budget="5s", pools=[])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "said"),
    [
        (NEVER, "it ended without reporting 'loss' at step 3; its last report was accuracy at step 3"),
        (BACKWARDS, "the last granted step, 3, was reported, yet there came step 2 (a job does the steps from"),
        (OUT_OF_ORDER, "a step from 3 to 3, got step 1 (steps come in increasing order; those up to 2 are done)"),
        (RUNS_ON, "the last granted step, 3, was reported, yet there came step 4 (a job does the steps from"),
        (REPORTS_AT_THE_END, "expected a report for a step from 1 to 3, got step 27"),
    ],
    ids=["never", "backwards", "out of order", "runs on", "at the end"],
)
def test_a_job_that_does_not_keep_to_its_steps_ends_the_run_with_its_reason(problem, tmp_path, capsys, body, said):
    words = ["--budget", "40 trials", "--scheduler", "asha", "--method", "random", "--devices", "cpu:1"]
    code = main(["tune", problem(body), *words, "--report", str(tmp_path / "page")])
    captured = capsys.readouterr()
    assert code == 1
    assert said in captured.err
    assert "the job itself seems broken" in captured.err
    page = (tmp_path / "page" / "index.html").read_text()
    assert "No result" in re.search("<title>(.*?)</title>", page)[1]
    assert said.replace("'", "&#x27;") in page


@pytest.mark.slow
def test_a_job_without_checkpoints_begins_anew_and_keeps_what_it_had_reported(problem, capsys):
    words = ["--budget", "8 trials", "--scheduler", "asha", "--method", "random", "--devices", "cpu:1", "--no-report"]
    assert main(["tune", problem(NO_CHECKPOINT), *words]) == 0
    capsys.readouterr()
    with Store(".frugalbo/runs.db") as store:
        study = read_study(store, store.run(None).id)
    resumed = [trial for trial in study.trials.values() if len(trial.starts) > 1]
    assert resumed
    assert all(start.start == 0 for trial in resumed for start in trial.starts)
    assert all(list(trial.reports) == list(range(1, trial.last_step + 1)) for trial in resumed)
