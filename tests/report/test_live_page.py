"""The page while a run is at work."""

import re
import threading
import time

import pytest

import frugalbo as fb
from frugalbo.cli import main
from frugalbo.events import Failure
from frugalbo.report import Report
from frugalbo.store import Store
from frugalbo.stored import DEFAULT_STORAGE, read_study

EVIL = "<script>alert('from a job')</script>"
PROBLEM = fb.Problem(
    "live", fb.Space({"x": fb.Float(0, 1)}), "nowhere:train", fb.Minimize("loss"), fb.Fidelity("steps", 1, 9)
)


def run(tmp_path, observe=None):
    def simulate(params, planned, seed):
        if params["x"] > 0.8:
            return fb.Curve([], [], [], Failure.ERROR, EVIL)
        steps = range(1, planned + 1)
        return fb.Curve(steps, [float(s) for s in steps], [{"loss": params["x"] + 1 / s} for s in steps])

    executor = fb.SimulatedExecutor(PROBLEM, [fb.Slot("cpu:0", "cpu", 0)], simulate)
    return fb.tune(
        PROBLEM, budget="40s", method="random", scheduler="asha", executor=executor, observe=observe,
        storage=tmp_path / DEFAULT_STORAGE,
    )  # fmt: skip


def test_the_live_page_keeps_itself_up_to_date_and_shows_what_happens(tmp_path):
    report = run(tmp_path)
    page = report.write_live(tmp_path / "live", refresh_s=4.2)
    assert [path.name for path in page.parent.iterdir()] == ["index.html"]
    content = page.read_text()
    assert re.findall(r'<meta http-equiv="refresh" content="(\d+)">', content) == ["5"]
    sections = re.findall(r'<section id="([\w-]+)"', content)
    assert {"learning-curves", "pauses", "pools", "prices", "gantt"} <= set(sections)
    assert not {"importance", "calibration", "slices"} & set(sections)  # these fit models, or are of all knobs


def test_what_jobs_print_is_escaped_there_too(tmp_path):
    content = run(tmp_path).write_live(tmp_path / "live", refresh_s=5).read_text()
    assert EVIL not in content
    assert "&lt;script&gt;alert(" in content
    assert "default-src 'none'" in content


def test_the_whole_page_does_not_refresh(tmp_path):
    assert 'http-equiv="refresh"' not in run(tmp_path).write(tmp_path / "report").read_text()


def test_watching_ends_with_the_run_and_leaves_its_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    at_work, may_go_on = threading.Event(), threading.Event()

    def observe(study, balance, events):
        if len(study.trials) > 3:
            at_work.set()
            may_go_on.wait(60)

    running = threading.Thread(target=run, args=(tmp_path, observe))
    running.start()
    assert at_work.wait(60)
    seen = []
    page = tmp_path / ".frugalbo" / "live-1" / "report" / "index.html"

    def sleep(_):
        seen.append(page.read_text())
        may_go_on.set()
        running.join()

    monkeypatch.setattr(time, "sleep", sleep)
    assert main(["report", "--watch", "7"]) == 0
    (live,) = seen
    assert 'http-equiv="refresh" content="7"' in live
    assert "still running" in live.lower()
    whole = page.read_text()
    assert 'http-equiv="refresh"' not in whole
    assert 'id="importance"' in whole
    out = capsys.readouterr().out
    assert out.startswith(f"live: {page}\n")
    assert out.endswith(f"report: {page}\n")


def test_a_run_that_has_ended_is_not_watched(tmp_path, monkeypatch, capsys):
    run(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["report", "--watch"]) == 0
    assert "live:" not in capsys.readouterr().out
    with Store(tmp_path / DEFAULT_STORAGE) as store:
        assert Report(read_study(store, "live-1")).best is not None


@pytest.mark.parametrize("every", ["0", "-3", "nan", "inf"])
def test_a_time_between_pages_that_makes_no_sense_is_refused(every, tmp_path, monkeypatch, capsys):
    run(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["report", f"--watch={every}"]) == 2
    assert "expected --watch to be 1 second or more, got" in capsys.readouterr().err
