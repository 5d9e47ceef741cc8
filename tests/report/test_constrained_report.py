"""What is shown of a run under outcome constraints: whatever shows a best says whether it counts."""

import io
import json

import pytest
from rich.console import Console

import frugalbo as fb
from frugalbo.budget.ledger import Ledger
from frugalbo.events import Outcome
from frugalbo.live import LogView, render
from frugalbo.report import Report, best_so_far, trial_table, wording

CONSTRAINTS = ("peak_gib <= 8", "accuracy >= 0.9")


def study_of(*results, constraints=CONSTRAINTS, defaults=None):
    """Trials of 2 s each with these metrics; the first is of the defaults."""
    problem = fb.Problem(
        "p", {"x": fb.Float(0, 1)}, "m:f", fb.Minimize("loss"), constraints=constraints, defaults=defaults
    )
    study = fb.Study(problem, Ledger(fb.Budget(device_seconds=60)))
    for n, metrics in enumerate(results):
        study.apply(fb.Started(n, 0, {"x": 0.1 * n}, 0, 1, 1, fb.Cost(device_seconds=2), "cpu:0", 2.0 * n))
        study.apply(fb.Reported(n, 0, 1, metrics, 2.0 * n + 2))
        study.apply(fb.Ended(n, 0, Outcome.COMPLETED, fb.Cost(device_seconds=2), 2.0 * n + 2))
    return study


def seen(study):
    out = io.StringIO()
    Console(file=out, width=240).print(render(study, study.ledger.balance()))
    return out.getvalue()


NONE_MEETS = ({"loss": 1.0, "peak_gib": 16.0, "accuracy": 0.95}, {"loss": 2.0, "peak_gib": 9.5, "accuracy": 0.9})
ONE_MEETS = (*NONE_MEETS, {"loss": 3.0, "peak_gib": 8.0, "accuracy": 0.9}, {"loss": 2.5, "peak_gib": 3.0})


def test_where_no_trial_meets_them_all_that_shows_a_best_says_so_and_by_how_much(tmp_path):
    study = study_of(*NONE_MEETS)
    report, words = Report(study), "violates peak_gib <= 8 by 1.5"
    assert not report.is_feasible
    assert report.best.number == 1
    assert words in wording.headline(study)
    assert words in report.summary()
    assert "0 of 2 results meet peak_gib <= 8 and accuracy >= 0.9" in report.summary()
    assert words in seen(study)
    facts = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert facts["best"]["is_feasible"] is False
    assert facts["best"]["violations"] == {"peak_gib <= 8": 1.5}
    assert facts["constraints"] == list(CONSTRAINTS)
    assert facts["best_so_far"] == []
    page = report.write(tmp_path).read_text(encoding="utf-8")
    assert "violates peak_gib &lt;= 8 by 1.5" in page
    assert "The best configuration" not in page


def test_where_one_meets_them_it_is_the_best_and_those_that_do_not_improve_nothing(tmp_path):
    study = study_of(*ONE_MEETS)
    report = Report(study)
    assert report.is_feasible
    assert best_so_far(study) == [(6.0, 3.0, 2)]
    assert wording.headline(study) == "Best loss 3 after 8 of 60 device-seconds"
    assert "violates" not in seen(study)
    summary = report.summary()
    assert "1 of 4 results meets" in summary
    assert "without accuracy and so not counted: trial 3" in summary
    page = report.write(tmp_path).read_text(encoding="utf-8")
    assert "16 ✗" in page
    assert "The best configuration" in page


def test_the_table_of_trials_has_the_metrics():
    rows = trial_table(study_of(*ONE_MEETS))
    assert [row["is_feasible"] for row in rows] == [False, False, True, False]
    assert [row["metrics.accuracy"] for row in rows] == [0.95, 0.9, 0.9, None]
    assert rows[0]["metrics.peak_gib"] == 16.0
    assert "is_feasible" not in trial_table(study_of({"loss": 1.0}, constraints=()))[0]


def test_the_log_says_of_each_trial_what_it_violates():
    study, out = study_of(*ONE_MEETS), io.StringIO()
    view = LogView(out)
    for trial in study.trials.values():
        view(study, study.ledger.balance(), [trial.ends[-1]])
    lines = out.getvalue().splitlines()
    assert "violates peak_gib <= 8 by 8" in lines[0]
    assert "violates" not in lines[2]
    assert "(best so far)" in lines[2]
    assert "has no accuracy (accuracy >= 0.9)" in lines[3]


def test_defaults_that_violate_are_no_measure():
    study = study_of(*ONE_MEETS, defaults={"x": 0.0})
    facts = Report(study).to_json()
    assert facts["defaults"]["gain"] is None
    assert "the defaults, 1, are no measure: trial 0 violates peak_gib <= 8 by 8" in wording.gain(study)
    assert wording.headline(study).endswith("defaults 1, which violates peak_gib <= 8 by 8")


def test_a_metric_that_nobody_reports_is_named():
    study = study_of({"loss": 1.0, "peak_gib": 3.0}, {"loss": 2.0, "peak_gib": 3.0})
    assert "no trial has reported accuracy together with loss" in Report(study).summary()
    facts = json.loads(json.dumps(Report(study).to_json(), allow_nan=False))
    assert facts["best"]["violations"] == {"accuracy >= 0.9": None}
    assert "has no accuracy" in seen(study)


@pytest.mark.parametrize("results", [NONE_MEETS, ONE_MEETS, ()])
def test_every_page_can_be_written(results, tmp_path):
    assert Report(study_of(*results)).write(tmp_path).exists()
