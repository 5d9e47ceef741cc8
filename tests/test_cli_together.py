"""`frugalbo together`, as its users meet it."""

import json

import pytest

from frugalbo.cli import main
from frugalbo.store import Store

PROBLEM = """\
import frugalbo as fb


def train(job):
    return (job.params["x"] - 0.3) ** 2


def problem():
    return fb.Problem("bowl", fb.Space({"x": fb.Float(0, 1)}), "bowl.py:train", fb.Minimize("loss"))
"""
TWO = ("deep=bowl.py", "flat=bowl.py")
QUICK = ("--method", "sobol", "--devices", "cpu:1")


@pytest.fixture(autouse=True)
def bowl(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bowl.py").write_text(PROBLEM)
    return tmp_path


@pytest.mark.slow
def test_two_problems_share_a_budget_and_go_on_with_more(bowl, capsys):
    assert main(["together", *TWO, "--budget", "9 trials", *QUICK, "--worth", "deep=1", "--worth", "flat=1"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0] == "deep:"  # whose turn it is, before what happens in it
    assert "flat:" in lines
    assert "9 trials shared out: deep" in out
    for name in ("deep", "flat"):
        assert f"report of {name}: " in out
        assert (bowl / ".frugalbo" / f"{name}-1" / "report" / "index.html").is_file()
    with Store(bowl / ".frugalbo" / "runs.db") as store:
        assert [run.id for run in store.runs()] == ["deep-1", "flat-1"]

    assert main(["together", "--resume", "--budget", "12 trials", "--json", "--no-report"]) == 0
    *events, done = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[0]["kind"] == "turn"
    assert {event["problem"] for event in events if event["kind"] == "turn"} <= {"deep", "flat"}
    assert sum(event["kind"] == "started" for event in events) == 3
    assert done["kind"] == "together"
    assert set(done["problems"]) == {"deep", "flat"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bowl.py", "--budget", "3 trials"], "expected two problems or more to share a budget, got 1"),
        (["bowl.py", "bowl.py", "--budget", "3 trials"], "two problems are called 'bowl'"),
        ([*TWO], "the budget is missing"),
        ([*TWO, "--budget", "3 trials", "--worth", "deep=dear"], "expected --worth NAME=NUMBER with one of deep, flat"),
        ([*TWO, "--budget", "3 trials", "--worth", "deep=1"], "worth"),
        ([*TWO, "--resume"], "takes no problems"),
        (["--resume"], "there are no runs"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(words, said, capsys):
    assert main(["together", *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
