"""Studies as tables."""

import csv
import json
import math

import pytest

import frugalbo as fb
from frugalbo.cli import main
from frugalbo.errors import StorageError
from frugalbo.events import Ended, Failure, Outcome, Reported, Started
from frugalbo.study import Study
from frugalbo.table import as_text, report_table, trial_table, write_table

SPACE = fb.Space(
    {
        "lr": fb.Float(0.0, 1.0),
        "kind": fb.Choice(["a", "b"]),
        "depth": fb.Int(1, 7, only_if={"kind": "a"}),
        "mixed": fb.Choice([1, "one", True]),
        "value": fb.Int(0, 3),
    }
)
PROBLEM = fb.Problem(
    "small", SPACE, "nowhere:train", fb.Minimize("loss"), fidelity=fb.Fidelity("epochs", 1, 3), constraints=["mem <= 8"]
)


@pytest.fixture
def study():
    found = Study(PROBLEM)
    points = [
        {"lr": 0.1, "kind": "a", "depth": 5, "mixed": 1, "value": 2},
        {"lr": 1 / 3, "kind": "b", "mixed": "one", "value": 0},
        {"lr": 0.3, "kind": "b", "mixed": True, "value": 1},
    ]
    for i, params in enumerate(points):
        found.apply(Started(i, 0, params, 0, 3, 3, fb.Cost(), "cpu:0", 0.0))
    for step in (1, 2, 3):
        found.apply(Reported(0, 0, step, {"loss": 1 / step, "mem": 7.0}, 1.0))
    found.apply(Ended(0, 0, Outcome.COMPLETED, fb.Cost(device_seconds=math.pi), 5.0))
    found.apply(Reported(1, 0, 1, {"loss": math.nan, "text,with": 2.0}, 1.0))
    found.apply(Ended(1, 0, Outcome.FAILED, fb.Cost(device_seconds=2), 5.0, 0, Failure.DIVERGED, 'said "no", twice'))
    return found


def test_a_row_has_result_cost_and_parameters(study):
    first, second, third = trial_table(study)
    assert first["value"] == 1 / 3
    assert first["params.value"] == 2  # `value` is the result's column
    assert (first["is_best"], first["is_feasible"], first["metrics.mem"]) == (True, True, 7.0)
    assert (second["failure"], second["message"], "depth" in second) == ("diverged", 'said "no", twice', False)
    assert (third["status"], third["failure"], third["value"]) == ("running", None, None)


def test_a_report_is_a_row(study):
    rows = report_table(study)
    assert [(row["trial"], row["step"]) for row in rows] == [(0, 1), (0, 2), (0, 3), (1, 1)]
    assert rows[1]["metrics.loss"] == 0.5
    assert rows[3] == {"trial": 1, "step": 1, "metrics.loss": None, "metrics.text,with": 2.0}


def test_text_reads_back(study):
    rows = list(csv.DictReader(as_text(trial_table(study), "csv").splitlines()))
    assert float(rows[0]["device_seconds"]) == math.pi
    assert rows[1]["message"] == 'said "no", twice'
    assert rows[1]["depth"] == ""
    assert json.loads(as_text(trial_table(study), "json"))[0]["lr"] == 0.1
    assert as_text([], "json") == "[]\n"


def test_a_data_frame_keeps_whole_numbers_whole(study):
    pytest.importorskip("pandas")
    frame = study.to_dataframe()
    assert list(frame["trial"]) == [0, 1, 2]
    assert str(frame["depth"].dtype) == "Int64"
    assert frame["depth"].isna().tolist() == [False, True, True]
    assert list(frame["mixed"]) == ["1", "one", "True"]
    assert frame.loc[0, "device_seconds"] == math.pi
    curves = study.to_dataframe(reports=True)
    assert list(curves[curves["trial"] == 0]["metrics.loss"]) == [1.0, 0.5, 1 / 3]
    assert Study(PROBLEM).to_dataframe().empty


def test_parquet_keeps_every_value_and_type(study, tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    write_table(trial_table(study), tmp_path / "run.parquet")
    back = pandas.read_parquet(tmp_path / "run.parquet")
    pandas.testing.assert_frame_equal(back, study.to_dataframe(), check_dtype=False)
    assert str(back["depth"].dtype) == "Int64"


def test_what_cannot_be_written_is_refused(study, tmp_path):
    rows = trial_table(study)
    with pytest.raises(StorageError, match="expected one of the formats csv, json, parquet, got 'xlsx'"):
        write_table(rows, tmp_path / "run.xlsx")
    with pytest.raises(StorageError, match="No such file"):
        write_table(rows, tmp_path / "none" / "run.csv")
    with pytest.raises(StorageError, match="parquet is no text"):
        as_text(rows, "parquet")


def test_the_command_line_exports_what_the_file_is_called(tmp_path, capsys):
    where = str(tmp_path / "runs.db")
    with fb.open_study(PROBLEM, budget="3 trials", method="sobol", storage=where) as study:
        study.tell(study.ask(), {"loss": 0.5, "mem": 3.0})
    assert main(["export", "--storage", where, "--out", str(tmp_path / "run.json")]) == 0
    assert json.loads((tmp_path / "run.json").read_text())[0]["value"] == 0.5
    assert main(["export", "--storage", where, "--reports"]) == 0
    assert capsys.readouterr().out.splitlines() == ["trial,step,metrics.loss,metrics.mem", "0,3,0.5,3.0"]
    assert main(["export", "--storage", where, "--format", "parquet"]) == 2
    assert "give a file" in capsys.readouterr().err
