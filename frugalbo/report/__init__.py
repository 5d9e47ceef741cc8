"""What a run amounts to: a `Report` in words, as JSON, and as a page with pictures.

The figures themselves are computed by `findings`, and offered here too. Pictures, and with them
matplotlib, are imported only by `Report.write`.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from frugalbo.budget.amounts import Resource
from frugalbo.report import wording
from frugalbo.report.calibration import calibration
from frugalbo.report.exploration import exploration
from frugalbo.report.findings import (
    accounts,
    against_defaults,
    best_so_far,
    gantt,
    longest_pause,
    main_resource,
    peak_held,
    results,
    shown_resources,
    trial_rows,
    utilisation,
)
from frugalbo.report.importance import importance
from frugalbo.report.pareto import pareto
from frugalbo.report.spending import spending
from frugalbo.report.waiting import Wait, rungs, spared, waits
from frugalbo.study import Status, Study, Trial
from frugalbo.table import trial_table

__all__ = [
    "Report", "accounts", "against_defaults", "best_so_far", "calibration", "exploration", "gantt", "importance",
    "longest_pause", "main_resource", "pareto", "peak_held", "results", "rungs", "shown_resources", "spared",
    "spending", "trial_rows", "trial_table", "utilisation", "waits",
]  # fmt: skip

_MOST_FAILURES = 8


@dataclass(frozen=True, repr=False)
class Report:
    """A study seen from its end; a notebook or a prompt shows its summary.

    Args:
        run_id: The stored run, if it is stored.
        stop_reason: Why nothing more was started, for people.
    """

    study: Study
    run_id: str | None = None
    stop_reason: str = ""

    @property
    def best(self) -> Trial | None:
        """As `Study.best`: the best that meets the outcome constraints, else the nearest to it."""
        return self.study.best()

    @property
    def is_feasible(self) -> bool:
        """Whether the best trial meets all outcome constraints; False if there is none."""
        return self.study.best_is_feasible()

    @property
    def best_value(self) -> float | None:
        """The objective of the best trial, at the step `compared_at`."""
        return self.study.best_value()

    @property
    def compared_at(self) -> int | None:
        """The step at which trials were compared: the full number of steps, as soon as one trial has run so far."""
        return self.study.compared_at()

    @property
    def default_value(self) -> float | None:
        """The objective of the defaults, if they were tried and had a result."""
        against = against_defaults(self.study)
        return against.default_value if against else None

    def summary(self) -> str:
        """The whole report as plain text."""
        head = [wording.headline(self.study)]
        where = f"{self.study.problem.name}, run {self.run_id}" if self.run_id else self.study.problem.name
        head.append(f"{where}: {self.stop_reason}" if self.stop_reason else where)
        parts = [head, _best_lines(self.study)]
        parts += [_account_lines(self.study, resource) for resource in shown_resources(self.study)]
        parts += [_run_lines(self.study), _failure_lines(self.study)]
        return "\n\n".join("\n".join(lines) for lines in parts if lines)

    def __repr__(self) -> str:
        return self.summary()

    def to_json(self, *, leave_one_out: bool = False) -> dict[str, Any]:
        """The figures as strict JSON types: no number is infinite or undefined.

        Args:
            leave_one_out: Whether the calibration has the results left out, which fits the model once more.
        """
        study, against = self.study, against_defaults(self.study)
        resource = main_resource(study)
        return {
            "problem": study.problem.name,
            "run_id": self.run_id,
            "stop_reason": self.stop_reason,
            "finding": wording.headline(study),
            "metric": study.problem.objective.metric,
            "minimize": study.problem.objective.sign > 0,
            "best": None
            if self.best is None
            else {
                "trial": self.best.number,
                "value": self.best_value,
                "step": self.compared_at,
                "params": dict(self.best.params),
                **feasibility_json(study, self.best),
            },
            "constraints": [str(constraint) for constraint in study.problem.bounds],
            "defaults": None
            if against is None
            else {
                "trial": against.default.number if against.default else None,
                "value": against.default_value,
                "params": dict(study.problem.defaults or {}),
                "gain": against.gain,
            },
            "accounts": {name: asdict(accounts(study, name)) for name in shown_resources(study)},
            "best_so_far": [
                {"spent": spent, "value": study.problem.objective.to_loss(loss), "trial": number}
                for spent, loss, number in best_so_far(study, resource)
            ],
            "best_so_far_resource": resource,
            "utilisation": utilisation(study),
            "utilisation_without_pauses": utilisation(study, without_pauses=True),
            "rungs": rungs(study),
            "waits": [_wait_json(wait) for wait in waits(study)],
            "spared": asdict(spared(study)),
            "set_aside": {"reports": study.settling.reports, "resumes": study.settling.resumes},
            "pools": _pools_json(study),
            "importance": importance(study).to_json(),
            "pareto": pareto(study).to_json(),
            "calibration": calibration(study, leave_one_out=leave_one_out).to_json(),
            "exploration": exploration(study).to_json(),
            "trials": [row | {"params": dict(study.trials[row["trial"]].params)} for row in trial_table(study, {})],
        }

    def write(self, folder: Path) -> Path:
        """Write `index.html` and a PNG of each picture into `folder`; returns the page's path.

        Raises:
            OSError: If the folder cannot be written.
        """
        from frugalbo.report.html import page
        from frugalbo.report.pictures import draw, png

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        calibrated, found = calibration(self.study), importance(self.study)
        figures = draw(self.study, found, calibrated)
        for name, figure in figures.items():
            _replace(folder / f"{name}.png", png(figure))
        _replace(folder / "index.html", page(self, figures, calibrated, found).encode())
        return folder / "index.html"

    def write_live(self, folder: Path, *, refresh_s: float) -> Path:
        """Write `index.html` as it stands while the run is at work: without what fits a model, and no other file.

        A browser that shows the page loads it anew every `refresh_s` seconds; it never sees half of one.

        Raises:
            OSError: If the folder cannot be written.
        """
        from frugalbo.report.html import page
        from frugalbo.report.pictures import draw

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        content = page(self, draw(self.study, live=True), refresh_s=refresh_s)
        _replace(folder / "index.html", content.encode())
        return folder / "index.html"


def feasibility_json(study: Study, trial: Trial) -> dict[str, Any]:
    """Whether a trial meets the outcome constraints, and by how much it violates which; nothing where there are none.

    Null stands for a metric that was not reported.
    """
    if not study.problem.bounds:
        return {}
    violations = {text: by if math.isfinite(by) else None for text, by in study.violations(trial).items()}
    return {"is_feasible": study.is_feasible(trial), "violations": violations}


def _wait_json(wait: Wait) -> dict[str, Any]:
    return {**asdict(wait), "outcome": str(wait.outcome), "waited_s": wait.waited_s, "why": wording.reason(wait)}


def _pools_json(study: Study) -> dict[str, Any]:
    """By pool and resource, what is spent, held and the budget."""
    found: dict[str, Any] = {}
    for resource in ("device_seconds", "dollars"):
        for name, book in spending(study, resource).items():
            if name and book.times:
                amounts = {"spent": book.spent[-1], "held": book.held[-1], "budget": book.budget}
                found.setdefault(name, {})[resource] = amounts
    return found


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    beside.write_bytes(content)
    beside.replace(path)


def _best_lines(study: Study) -> list[str]:
    best, metric = study.best(), study.problem.objective.metric
    if best is None:
        return [f"No trial has a result; {wording.gain(study)}." if study.trials else "No trial was started."]
    value = f"trial {best.number}, {metric} {wording.best_value(study, 6)}"
    lacking = wording.violation(study, best)
    lines = [f"Nearest: {value}, but it {lacking}" if lacking else f"Best: {value}; {wording.gain(study)}"]
    against = against_defaults(study)
    defaults = {name: default for name, default, _ in against.changes} if against else {}
    wide = max(len(name) for name in best.params)
    for name, value in best.params.items():
        same = name not in defaults or defaults[name] == value
        aside = "" if same else f"  (default {_line(wording.setting(defaults[name]))})"
        lines.append(f"  {name:<{wide}}  {_line(wording.setting(value))}{aside}")
    return lines


def _account_lines(study: Study, resource: Resource) -> list[str]:
    book = accounts(study, resource)
    if not book.entries or (book.total is None and not book.sum):
        return []
    whole = book.total or book.sum
    size, unit = wording.unit(resource, whole)
    lines = [f"{'Budget' if book.total else 'Used'} in {unit}"]
    rows = [(e.label, e.amount, e.segments) for e in book.entries]
    for label, amount, segments in rows:
        note = f"  {wording.count(segments, 'segment')}" if segments else ""
        lines.append(f"  {label:<22} {amount / size:>10,.2f}  {wording.share(amount, whole):>6}{note}")
    lines.append(f"  {'total':<22} {book.sum / size:>10,.2f}  {wording.share(book.sum, whole):>6}")
    return lines


def _run_lines(study: Study) -> list[str]:
    if not study.trials:
        return []
    by = Counter(trial.status for trial in study.trials.values())
    counted = ", ".join(f"{by[status]} {status}" for status in Status if by[status])
    lines = [f"{wording.count(len(study.trials), 'trial')}: {counted}"]
    if waits(study):
        lines.append(wording.waits(study))
    said = (
        wording.spared_text(study),
        wording.settling_text(study),
        wording.constraints(study),
        wording.utilisation_text(study),
    )
    lines += [text for text in said if text is not None]
    found = calibration(study, leave_one_out=False)
    knobs = importance(study)
    lines += [wording.together_text(knobs) or ""] if wording.acting_together(knobs) else []
    lines += [coverage.in_words() for coverage in (found.made, found.cost) if not coverage.reason]
    if (explored := exploration(study)).is_learned:
        lines.append(explored.in_words())
    if study.ledger and (limit := study.ledger.budget.memory_bytes):
        peak = wording.amount("memory_bytes", peak_held(study, "memory_bytes"))
        lines.append(f"memory lent at one time: at most {peak} of {wording.amount('memory_bytes', limit)}")
    return lines


def _failure_lines(study: Study) -> list[str]:
    failed = [row for row in trial_rows(study) if row.status is Status.FAILED]
    if not failed:
        return []
    by = Counter(str(row.failure) for row in failed)
    reasons = ", ".join(f"{n} {reason}" for reason, n in by.most_common())
    lines = [f"{wording.count(len(failed), 'failure')}: {reasons}"]
    lines += [f"  trial {row.number}, {row.failure}: {_line(row.message, 100)}" for row in failed[:_MOST_FAILURES]]
    return lines + _more(len(failed) - _MOST_FAILURES)


def _more(n: int) -> list[str]:
    return [f"  and {n} more"] if n > 0 else []


def _line(text: str, longest: int = 60) -> str:
    """One printable line: what a job wrote must not move the cursor of a terminal."""
    line = "".join(_printable(" ".join(text.split())))
    return line if len(line) <= longest else line[: longest - 1] + "…"


def _printable(text: str) -> Iterator[str]:
    return (c if c.isprintable() else "□" for c in text)
