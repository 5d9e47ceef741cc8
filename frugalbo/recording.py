"""Recorded trials: a finite set of configurations of which the whole curve is known, from a run or a table."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from frugalbo.errors import ExecutorError, ProblemError
from frugalbo.events import Ended, Event, Failure, Outcome, Started
from frugalbo.executors.simulated import Curve
from frugalbo.problem import Fidelity, Objective, Problem
from frugalbo.propose.base import key_of
from frugalbo.space import Choice, Fixed, Float, Int, Parameter, Params, Space
from frugalbo.store import Store
from frugalbo.stored import DEFAULT_STORAGE, stored_problem

IN_TABLE = "recorded:table"  # a job that nobody can run
_LOG_RATIO = 100  # numbers over so many times the smallest are searched on a log scale
_BY_ITSELF = (Failure.ERROR, Failure.DIVERGED, Failure.NO_RESULT, Failure.MEMORY)


@dataclass(frozen=True, slots=True)
class Recording:
    """Configurations whose trials are known to their end.

    Args:
        curves: Each configuration with what it reports, in seconds of a device of speed 1.
        left_out: How many trials were not, because they had not gone to their end.

    Raises:
        ProblemError: If there are no configurations.
    """

    problem: Problem
    curves: Sequence[tuple[Params, Curve]]
    left_out: int = 0

    def __post_init__(self) -> None:
        if not self.curves:
            raise ProblemError(f"no trial of {self.problem.name} was recorded to its end, there is nothing to replay")

    @classmethod
    def of_run(cls, run: str | None = None, *, storage: str | Path = DEFAULT_STORAGE) -> Recording:
        """The trials of a stored run that were completed, or failed by themselves; the newest run by default."""
        with Store(storage) as store:
            record = store.run(run)
            return cls.of_events(stored_problem(record), (event for _, event in store.read(record.id)))

    @classmethod
    def of_events(cls, problem: Problem, events: Iterable[Event]) -> Recording:
        """The trials of a journal; a segment's start-up counts with its first report."""
        tapes: dict[int, _Tape] = {}
        for event in events:
            if isinstance(event, Started) and event.segment == 0:
                tapes[event.trial] = _Tape(event.params)
            tapes[event.trial].take(event)
        curves = [(tape.params, curve) for tape in tapes.values() if (curve := tape.curve(problem)) is not None]
        return cls(problem, curves, len(tapes) - len(curves))

    @classmethod
    def of_table(cls, path: str | Path, objective: Objective) -> Recording:
        """A file of CSV with a line for each report: `seconds` since the trial began, the metric, and parameters.

        A column `step` says which report of its configuration a line is; without one, each configuration has one line.
        All other columns are parameters.

        Raises:
            ProblemError: If it cannot be read so.
        """
        rows = _read_csv(Path(path))
        metric = objective.metric
        if missing := {"seconds", metric} - set(rows[0]):
            raise ProblemError(f"{path}: expected a column {min(missing)!r}, got {', '.join(rows[0])}")
        names = [name for name in rows[0] if name not in ("step", "seconds", metric)]
        if not names:
            raise ProblemError(f"{path}: expected columns of parameters beside step, seconds and {metric}, got none")
        reports: dict[object, list[dict[str, Any]]] = {}
        for row in rows:
            reports.setdefault(key_of({name: row[name] for name in names}), []).append({"step": 1, **row})
        steps = max(row["step"] for found in reports.values() for row in found)
        space = Space({name: _parameter([row[name] for row in rows]) for name in names})
        fidelity = Fidelity("steps", 1, steps) if steps > 1 else None
        problem = Problem(Path(path).stem, space, IN_TABLE, objective, fidelity)
        curves = []
        for found in reports.values():
            found.sort(key=lambda row: row["step"])
            if found[-1]["step"] == steps:
                params = {name: found[0][name] for name in names}
                try:
                    curve = Curve(
                        [row["step"] for row in found],
                        [row["seconds"] for row in found],
                        [{metric: row[metric]} for row in found],
                    )
                except (ExecutorError, TypeError) as error:
                    raise ProblemError(f"{path}: the lines of {params} are no curve: {error}") from None
                curves.append((params, curve))
        return cls(problem, curves, len(reports) - len(curves))

    def best(self) -> float:
        """The best value that any of them has at the full number of steps."""
        metric, to_loss = self.problem.objective.metric, self.problem.objective.to_loss
        ends = (curve.metrics[-1].get(metric, math.nan) for _, curve in self.curves if curve.failure is None)
        return to_loss(min((to_loss(value) for value in ends if math.isfinite(value)), default=math.nan))


@dataclass(slots=True)
class _Tape:
    """What a trial's events say of its curve."""

    params: Params
    seconds: dict[int, float] = field(default_factory=dict)  # by step
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    end: Ended | None = None
    ended_s: float = 0.0
    _began: Started | None = None
    _before: float = 0.0  # seconds of work done before the running segment

    def take(self, event: Event) -> None:
        """Take in the trial's next event."""
        if isinstance(event, Started):
            self._began = event
            self._before = max((s for step, s in self.seconds.items() if step <= event.start), default=0.0)
            return
        assert self._began is not None
        seconds = self._before + (event.at - self._began.at) * self._began.speed
        if isinstance(event, Ended):
            self.end, self.ended_s = event, seconds
        elif event.step > max(self.seconds, default=0):
            self.seconds[event.step] = max([seconds, *self.seconds.values()])
            self.metrics[event.step] = dict(event.metrics)

    def curve(self, problem: Problem) -> Curve | None:
        """The curve, if it is known to its end: to the last step, or to where the trial failed by itself."""
        is_whole = problem.steps in self.seconds
        has_failed = self.end is not None and self.end.outcome == Outcome.FAILED and self.end.failure in _BY_ITSELF
        if not is_whole and not has_failed:
            return None
        known = list(self.seconds), list(self.seconds.values()), list(self.metrics.values())
        if is_whole or self.end is None:
            return Curve(*known)
        return Curve(*known, failure=self.end.failure, message=self.end.message, failure_s=self.ended_s)


def _read_csv(path: Path) -> list[dict[str, Any]]:
    """The lines of a table, with numbers where they are some."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [{name: _value(text) for name, text in row.items()} for row in csv.DictReader(file)]
    except OSError as error:
        raise ProblemError(f"cannot read {path}: {error.strerror}") from None
    except (TypeError, ValueError, AttributeError, csv.Error) as error:  # not text, or lines of different lengths
        raise ProblemError(f"cannot read {path} as CSV: {error}") from None
    if not rows:
        raise ProblemError(f"{path}: expected lines below the heading, got none")
    if bad := next((row for row in rows if not isinstance(row.get("step", 1), int)), None):
        raise ProblemError(f"{path}: expected whole numbers in the column 'step', got {bad['step']!r}")
    return rows


def _value(text: str) -> int | float | str:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text.strip()


def _parameter(values: Sequence[Any]) -> Parameter:
    """The smallest parameter that has all these values."""
    distinct = list(dict.fromkeys(values))
    if len(distinct) == 1:
        return Fixed(distinct[0])
    if any(isinstance(value, str) for value in distinct):
        return Choice([str(value) for value in distinct])
    low, high = min(distinct), max(distinct)
    is_log = low > 0 and high / low >= _LOG_RATIO
    return (Int if all(isinstance(value, int) for value in distinct) else Float)(low, high, log=is_log)
