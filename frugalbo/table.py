"""A study as a table: rows of plain values, a data frame, and files of CSV, JSON lines' array or Parquet.

| table | a row for each |
|---|---|
| `trial_table` | trial, with its result, its cost and its parameters |
| `report_table` | report of a trial: the curves |

It looks at a study and does not import it, so that `Study.to_dataframe` can be a method. Pandas, and pyarrow for
Parquet, are the extra `dataframe`.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from frugalbo.errors import MissingExtra, StorageError

if TYPE_CHECKING:
    import pandas as pd

    from frugalbo.study import Study

Format = Literal["csv", "json", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)
Row = dict[str, Any]


def trial_table(study: Study, knobs: Mapping[str, str] | None = None) -> list[Row]:
    """All trials as flat rows of strict JSON types.

    Args:
        study: Any.
        knobs: Parameter to column. By default each has its own name, or `params.name` where a column
            of ours has that name. Inactive parameters have no entry.

    With outcome constraints there are `is_feasible` and the constrained metrics, `metrics.name`, besides.
    """
    best, defaults = study.best(), study.problem.defaults
    default = next((t for t in study.trials.values() if defaults is not None and t.params == defaults), None)
    rows = []
    for trial in study.trials.values():
        failed = trial.status == "failed" and trial.failure
        flat: Row = {
            "trial": trial.number,
            "status": str(trial.status),
            "value": study.value(trial),
            "last_step": trial.last_step,
            "segments": len(trial.starts),
            "device_seconds": trial.used("device_seconds"),
            "dollars": trial.used("dollars"),
            "failure": str(trial.failure) if failed else None,
            "message": trial.ends[-1].message if trial.ends else "",
            "is_default": trial is default,
            "is_best": trial is best,
        }
        if study.problem.bounds:
            flat["is_feasible"] = study.is_feasible(trial)
            flat |= {f"metrics.{c.metric}": study.measured(trial, c.metric) for c in study.problem.bounds}
        columns = (
            {name: f"params.{name}" if name in flat else name for name in trial.params} if knobs is None else knobs
        )
        rows.append(flat | {columns[name]: value for name, value in trial.params.items() if name in columns})
    return rows


def report_table(study: Study) -> list[Row]:
    """All reports as flat rows: trial, step, and each metric as `metrics.name`; null where it is not finite."""
    return [
        {"trial": trial.number, "step": step}
        | {f"metrics.{name}": value if math.isfinite(value) else None for name, value in metrics.items()}
        for trial in study.trials.values()
        for step, metrics in sorted(trial.reports.items())
    ]


def to_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Rows as a data frame: whole numbers stay whole where some are missing, values of several kinds become texts.

    Raises:
        MissingExtra: If pandas is not installed.
    """
    pandas = _extra("pandas")
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return pandas.DataFrame({column: _series(pandas, [row.get(column) for row in rows]) for column in columns})


def as_text(rows: Sequence[Row], form: str) -> str:
    """Rows as CSV, or as a JSON array; null or nothing for what a trial does not have.

    Raises:
        StorageError: If the format is none of text.
    """
    if form == "json":
        return json.dumps([_strict(row) for row in rows], indent=1) + "\n"
    if form != "csv":
        raise StorageError(f"{form} is no text: give a file to write it to")
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(column for row in rows for column in row)), restval="")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def write_table(rows: Sequence[Row], path: str | Path, form: str | None = None) -> None:
    """Write rows to a file, in the format that its name ends with if none is given.

    Raises:
        StorageError: If it cannot be written, or the format is unknown.
        MissingExtra: If Parquet is wanted and pandas or pyarrow is not installed.
    """
    path = Path(path)
    form = form or path.suffix.removeprefix(".")
    if form not in FORMATS:
        raise StorageError(f"cannot write {path}: expected one of the formats {', '.join(FORMATS)}, got {form!r}")
    try:
        if form == "parquet":
            _extra("pyarrow")
            to_frame(rows).to_parquet(path, index=False)
        else:
            path.write_text(as_text(rows, form), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from None


def _series(pandas: Any, values: list[Any]) -> Any:  # noqa: ANN401 - pandas is imported when it is used
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int} and None in values:
        return pandas.array(values, dtype="Int64")
    if kinds == {bool} and None in values:
        return pandas.array(values, dtype="boolean")
    if len(kinds) > 1 and kinds != {int, float}:
        return [None if value is None else str(value) for value in values]
    return values


def _strict(row: Row) -> Row:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def _extra(package: str) -> Any:  # noqa: ANN401 - a module
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtra(f"this needs {package}: pip install 'frugalbo[dataframe]'") from error
