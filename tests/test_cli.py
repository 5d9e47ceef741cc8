"""The command line, as its users meet it."""

import csv
import io
import json
import os
import sqlite3
import subprocess
import sys

import pytest

import frugalbo as fb
from frugalbo.cli import main
from frugalbo.executors.inline import InlineExecutor
from frugalbo.store import Store

PROBLEM = """\
import frugalbo as fb


def train(job):
    for step in range(job.start + 1, job.until + 1):
        job.report(step, loss=(job.params["x"] - 0.3) ** 2 + 1 / step)


def problem(steps=3):
    return fb.Problem(
        name="bowl",
        space=fb.Space({"x": fb.Float(0, 1)}),
        job="bowl.py:train",
        objective=fb.Minimize("loss"),
        fidelity=fb.Fidelity("steps", 1, steps),
        defaults={"x": 0.9},
    )
"""


@pytest.fixture
def bowl(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bowl.py").write_text(PROBLEM)
    return tmp_path


def run(*words, cwd):
    done = subprocess.run(
        [sys.executable, "-m", "frugalbo.cli", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_tune_then_status_best_export_report_and_resume(bowl):
    code, out, err = run("tune", "bowl.py", "--budget", "6 trials", "--method", "sobol", "--devices", "cpu:2", cwd=bowl)
    assert (code, err) == (0, "")
    assert "trial 0 starts on cpu:0: x=0.9" in out
    assert "Best" in out
    page = bowl / ".frugalbo" / "bowl-1" / "report" / "index.html"
    assert page.is_file()
    assert str(page) in out

    code, out, _ = run("status", cwd=bowl)
    assert code == 0
    assert "bowl-1: not running" in out
    assert "6 completed" in out

    code, out, _ = run("best", "--json", cwd=bowl)
    best = json.loads(out)
    assert code == 0
    code, out, _ = run("export", cwd=bowl)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 6
    assert best["loss"] == min(float(row["value"]) for row in rows)

    code, out, _ = run("resume", "--budget", "7 trials", "--json", "--no-report", cwd=bowl)
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert {record["trial"] for record in records if record["kind"] == "ended"} == {6}
    assert records[-1]["kind"] == "report"

    code, out, _ = run("report", "--out", "elsewhere", cwd=bowl)
    assert code == 0
    assert (bowl / "elsewhere" / "index.html").is_file()
    code, out, _ = run("status", "--all", "--json", cwd=bowl)
    assert [row["run"] for row in json.loads(out)] == ["bowl-1"]


@pytest.mark.slow
def test_a_choice_is_explained(bowl, capsys):
    run("tune", "bowl.py", "--budget", "3 trials", "--devices", "cpu:1", "--no-report", cwd=bowl)
    assert main(["explain"]) == 0
    assert "with loss = " in capsys.readouterr().out
    assert main(["explain", "--trial", "0"]) == 0
    assert capsys.readouterr().out.startswith("It was the problem's defaults (method sobol). Trial 0 is completed")
    assert main(["explain", "--trial", "7"]) == 2
    assert "there is no trial 7, but 3, counted from 0" in capsys.readouterr().err


def test_a_run_whose_job_was_a_function_in_memory_is_read_like_others(bowl, capsys):
    problem = fb.Problem("mem", fb.Space({"x": fb.Float(0, 1)}), lambda job: job.params["x"], fb.Minimize("loss"))
    report = fb.tune(problem, budget="2 trials", method="sobol", storage="runs.db", executor=InlineExecutor(problem))
    assert report.best is not None
    for command in ("status", "best", "report", "explain", "export"):
        assert main([command, "--storage", "runs.db"]) == 0
    assert "2 completed" in capsys.readouterr().out
    assert main(["resume", "--storage", "runs.db"]) == 2
    assert "the job of mem-1 was a function in memory" in capsys.readouterr().err


def test_a_command_is_tuned_by_its_json_lines(bowl):
    (bowl / "train.py").write_text(
        "import json, sys\n"
        "lr, layers = float(sys.argv[2]), int(sys.argv[4])\n"
        "print('not json')\n"
        "for step in (1, 2): print(json.dumps({'step': step, 'acc': lr * layers / step}))\n"
    )
    command = f"{sys.executable} train.py --lr {{lr}} --layers {{layers}}"
    code, out, err = run(
        "tune", "--command", command, "--param", "lr=1e-3..1e-1:log", "--param", "layers=1..4", "--maximize", "acc",
        "--steps", "2", "--budget", "5 trials", "--method", "sobol", "--json", "--no-report", cwd=bowl,
    )  # fmt: skip
    assert (code, err) == (0, "")
    records = [json.loads(line) for line in out.splitlines()]
    params = {r["trial"]: r["params"] for r in records if r["kind"] == "started"}
    finals = {r["trial"]: r["metrics"]["acc"] for r in records if r["kind"] == "reported" and r["step"] == 2}
    assert len(finals) == 5
    for trial, acc in finals.items():
        assert acc == pytest.approx(params[trial]["lr"] * params[trial]["layers"] / 2)


@pytest.mark.slow
def test_a_job_that_is_broken_stops_early_with_a_clear_message(bowl):
    (bowl / "bowl.py").write_text(PROBLEM.replace('job.params["x"]', 'job.params["typo"]'))
    code, out, _ = run("tune", "bowl.py", "--budget", "500 trials", "--method", "sobol", "--no-report", cwd=bowl)
    assert code == 1
    assert "failed, so the job itself seems broken" in out
    assert "typo" in out
    assert out.count(" starts on ") < 10


@pytest.mark.slow
def test_a_budget_smaller_than_any_trial_is_refused_with_what_was_granted(bowl):
    (bowl / "bowl.py").write_text(PROBLEM.replace("def train(job):", "def train(job):\n    import time; time.sleep(9)"))
    code, _, err = run("tune", "bowl.py", "--budget", "1s", "--devices", "cpu:1", cwd=bowl)
    assert code == 2
    assert err.startswith("frugalbo: the budget is smaller than one trial")
    assert err.count("\n") == 1


WRONG = {
    "unknown problem": (["tune", "nowhere", "--budget", "1min"], "no problem at 'nowhere'"),
    "unknown unit": (["tune", "bowl.py", "--budget", "10 parsecs"], "parsecs"),
    "no unit": (["tune", "bowl.py", "--budget", "10"], "no unit"),
    "unknown method": (["tune", "bowl.py", "--budget", "1min", "--method", "magic"], "unknown method 'magic'"),
    "unknown device": (["tune", "bowl.py", "--budget", "1min", "--devices", "abacus"], "abacus"),
    "money without a price": (["tune", "bowl.py", "--budget", "20 USD"], "price"),
    "negative price": (["tune", "bowl.py", "--budget", "20 USD", "--price", "-1"], "at least 0"),
    "unknown setting": (["tune", "bowl.py", "--budget", "1min", "--set", "colour=red"], "colour"),
    "setting without value": (["tune", "bowl.py", "--budget", "1min", "--set", "colour"], "NAME=VALUE"),
    "problem and command": (["tune", "bowl.py", "--command", "ls", "--budget", "1min"], "either a problem or"),
    "neither": (["tune", "--budget", "1min"], "either a problem or"),
    "no objective": (["tune", "--command", "ls {x}", "--param", "x=1..2", "--budget", "1min"], "--minimize"),
    "log of zero": (
        ["tune", "--command", "ls {x}", "--param", "x=0..2:log", "--minimize", "y", "--budget", "1min"],
        "above 0",
    ),
    "unknown knob": (
        ["tune", "--command", "ls {z}", "--param", "x=1..2", "--minimize", "y", "--budget", "1min"],
        "{z}",
    ),
    "bounds that are not numbers": (
        ["tune", "--command", "ls {x}", "--param", "x=a..b", "--minimize", "y", "--budget", "1min"],
        "LOW..HIGH",
    ),
    "no runs yet": (["resume"], "no runs are stored"),
    "no storage": (["status", "--storage", "elsewhere.db"], "no runs are stored"),
    "a folder as storage": (["tune", "bowl.py", "--budget", "1min", "--storage", "."], "folder"),
    "a cap that is no time": (["tune", "bowl.py", "--budget", "1min", "--trial-cap", "3 USD"], "expected a time"),
}


@pytest.mark.parametrize(("words", "message"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_refused_in_one_sentence(bowl, capsys, words, message):
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("frugalbo: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not (bowl / ".frugalbo").exists()


def test_a_foreign_database_is_refused_and_left_alone(bowl, capsys):
    with sqlite3.connect("other.db") as other:
        other.execute("CREATE TABLE recipes (name TEXT)")
    before = (bowl / "other.db").read_bytes()
    for words in (["tune", "bowl.py", "--budget", "1min"], ["status"], ["resume"], ["report"], ["export"]):
        assert main([*words, "--storage", "other.db"]) == 2
        assert "another program" in capsys.readouterr().err
    assert (bowl / "other.db").read_bytes() == before


def test_an_unknown_run_is_refused_with_those_there_are(bowl, capsys):
    with Store("runs.db") as store:
        store.create_run({}, name="soup")
    assert main(["status", "stew", "--storage", "runs.db"]) == 2
    assert "soup-1" in capsys.readouterr().err


def test_a_second_controller_is_refused(bowl, capsys):
    from frugalbo.problem import load_problem

    problem = load_problem("bowl.py").to_json()
    spec = {"problem": problem, "budget": {"evaluations": 3}, "seed": 0, "settings": {"method": "sobol"}}
    with Store("runs.db") as store:
        run_id = store.create_run(spec)
        with store.lease(run_id):
            assert main(["resume", "--storage", "runs.db"]) == 2
    assert f"process {os.getpid()}" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_cannot_write_to_one_run(bowl):
    with Store("runs.db") as store:
        run_id = store.create_run({"problem": {}, "budget": {"evaluations": 3}, "seed": 0, "settings": {}}, name="x")
        with store.lease(run_id):
            code, out, err = run("resume", "--storage", "runs.db", cwd=bowl)
    assert (code, out) == (2, "")
    assert "Traceback" not in err


@pytest.mark.slow
def test_killed_again_and_again_nothing_is_lost(tmp_path):
    from benchmarks.killed import torment

    record = torment(tmp_path, cycles=6, seed=1)
    assert record["problems"] == []
    assert record["completed"] > 5


JOB = """\
import json, sys
x = float(sys.argv[1])
print(json.dumps({"step": 1, "loss": -x, "peak_gib": 10 * x}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("bound", "code"), [("peak_gib <= 6", 0), ("peak_gib <= -2", 1)])
def test_a_command_is_tuned_under_a_constraint_and_what_meets_none_says_so(tmp_path, bound, code):
    (tmp_path / "job.py").write_text(JOB)
    words = ["tune", "--command", f"{sys.executable} job.py {{x}}", "--param", "x=0.0..1.0", "--minimize", "loss"]
    words += ["--constraint", bound, "--budget", "5 trials", "--method", "sobol", "--devices", "cpu:1", "--no-report"]
    found, out, err = run(*words, cwd=tmp_path)
    assert found == code
    assert ("no trial meets the constraints" in err) == (code == 1)
    assert (f"violates {bound} by" in err) == (code == 1)
    _, out, _ = run("best", "--json", cwd=tmp_path)
    facts = json.loads(out)
    assert facts["is_feasible"] == (code == 0)
    assert list(facts["violations"]) == ([bound] if code else [])
    _, out, _ = run("best", cwd=tmp_path)
    assert ("but it violates peak_gib <= -2 by" in out) == (code == 1)
    _, out, _ = run("status", cwd=tmp_path)
    assert ("which violates" in out) == (code == 1)


def test_a_constraint_that_cannot_be_read_or_has_no_command_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["tune", "--command", "true {x}", "--param", "x=0..1", "--minimize", "a", "--budget", "1 trial",
                 "--constraint", "peak < 3"]) == 2  # fmt: skip
    assert "<= or >=" in capsys.readouterr().err
    assert main(["tune", "somewhere", "--budget", "1 trial", "--constraint", "peak <= 3"]) == 2
    assert "--constraint" in capsys.readouterr().err


def test_the_package_itself_is_the_command_line():
    done = subprocess.run(
        [sys.executable, "-m", "frugalbo", "status", "nothing"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("frugalbo: ")
    assert len(done.stderr.splitlines()) == 1
