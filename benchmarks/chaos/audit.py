"""What must be true of a run when it is over, by its journal and by the diary that its jobs kept. Pure."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.chaos.controller import SLOTS
from benchmarks.chaos.job import STEPS, loss_of
from frugalbo.events import Ended, Event, Outcome, Reported, Started
from frugalbo.study import Study

GRACE_S = 1.0  # by which a segment may outlive its cap: to be killed and reaped, on a busy machine
_BLUR_S = 0.6  # two beats of a supervisor, and the rest of a step
Key = tuple[int, int]  # trial, segment


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a job's diary; `t` is on the machine's monotonic clock."""

    trial: int
    segment: int
    what: str
    step: int
    t: float


def read_diary(path: Path) -> list[Line]:
    """The diary; a torn line is passed over."""
    found = []
    for text in path.read_text().splitlines():
        try:
            found.append(Line(**json.loads(text)))
        except ValueError:
            continue
    return found


def violations(study: Study, events: Sequence[Event], diary: Sequence[Line], *, may_lose: bool) -> list[str]:
    """What is not as it must be, in sentences.

    Args:
        study: The fold of the events.
        events: All of the journal.
        diary: What the jobs wrote down.
        may_lose: Whether something was done that may lose reports before the journal has them.
    """
    started = {(e.trial, e.segment): e for e in events if isinstance(e, Started)}
    ends = {(e.trial, e.segment): e for e in events if isinstance(e, Ended)}
    claims = {**_once(events, started, ends), **_accounts(study, events, ends), **_values(study)}
    false = [f"false: {claim}" for claim, holds in claims.items() if not holds]
    false += _charged(started, ends, diary) + _at_once(diary) + _checkpoints(started, diary)
    return false if may_lose else false + _reported(events, diary)


def most_over_hold_s(events: Iterable[Event]) -> float:
    """By how many device-seconds a segment outlived what was held for it, at most."""
    held = {(e.trial, e.segment): e.held.device_seconds for e in events if isinstance(e, Started)}
    over = [
        e.used.device_seconds - held[e.trial, e.segment]
        for e in events
        if isinstance(e, Ended) and held[e.trial, e.segment]
    ]
    return max([0.0, *over])


def _once(events: Sequence[Event], started: Mapping[Key, Started], ends: Mapping[Key, Ended]) -> dict[str, bool]:
    kinds = Counter((type(e), e.trial, e.segment) for e in events if not isinstance(e, Reported))
    reports = Counter((e.trial, e.segment, e.step) for e in events if isinstance(e, Reported))
    completed = Counter(e.trial for e in ends.values() if e.outcome == Outcome.COMPLETED)
    return {
        "each segment starts once and ends once": set(kinds.values()) <= {1} and started.keys() == ends.keys(),
        "no report is counted twice": set(reports.values()) <= {1},
        "no trial is completed twice": set(completed.values()) <= {1},
        "something is completed": bool(completed),
    }


def _accounts(study: Study, events: Sequence[Event], ends: Mapping[Key, Ended]) -> dict[str, bool]:
    assert study.ledger is not None
    balance = study.ledger.balance()
    seconds, trials = balance["device_seconds"], balance["evaluations"]
    used = math.fsum(end.used.device_seconds for end in ends.values())
    overtime = most_over_hold_s(events)
    return {
        "nothing is held at the end": seconds.held == 0 and trials.held == 0,
        "spent is the sum of what attempts used": math.isclose(seconds.spent, used, abs_tol=1e-6),
        "each trial is one evaluation": trials.spent == len(study.trials),
        "no more trials than the budget has": trials.spent <= trials.total,
        f"no segment outlives its hold by more than {GRACE_S} s, one did by {overtime:.2f}": overtime <= GRACE_S,
        f"at most the budget and a grace for each slot is spent: {seconds.spent:.2f} of {seconds.total:.2f} s": (
            seconds.spent <= seconds.total + SLOTS * GRACE_S
        ),
    }


def _values(study: Study) -> dict[str, bool]:
    done = [trial for trial in study.trials.values() if trial.ends and trial.ends[-1].outcome == Outcome.COMPLETED]
    return {
        "whoever completed has a value": all(STEPS in trial.reports for trial in done),
        "reported values are those of the job": all(
            report["loss"] == loss_of(float(trial.params["x"]), step)
            for trial in study.trials.values()
            for step, report in trial.reports.items()
        ),
    }


def _spans(diary: Iterable[Line]) -> dict[Key, tuple[float, float]]:
    """From the first to the last sign that a job gave."""
    spans: dict[Key, tuple[float, float]] = {}
    for line in diary:
        first, last = spans.get((line.trial, line.segment), (line.t, line.t))
        spans[line.trial, line.segment] = min(first, line.t), max(last, line.t)
    return spans


def _charged(started: Mapping[Key, Started], ends: Mapping[Key, Ended], diary: Sequence[Line]) -> list[str]:
    """Whether what a job worked is charged."""
    found = []
    for key, (first, last) in _spans(diary).items():
        if key not in started:
            found.append(f"segment {key} ran and is not in the journal")
        elif key in ends and ends[key].used.device_seconds < last - first - _BLUR_S:
            used = ends[key].used.device_seconds
            found.append(f"segment {key} worked for {last - first:.2f} s and was charged {used:.2f} ({ends[key]})")
    return found


def _at_once(diary: Sequence[Line]) -> list[str]:
    """Whether no trial ran twice at once, and no more jobs than slots."""
    spans = sorted((first, last, key) for key, (first, last) in _spans(diary).items())
    of_trial: dict[int, list[tuple[float, float, Key]]] = defaultdict(list)
    for span in spans:
        of_trial[span[2][0]].append(span)
    found = [
        f"segments {a[2]} and {b[2]} ran at once"
        for mine in of_trial.values()
        for a, b in pairwise(mine)
        if b[0] < a[1]
    ]
    for first, _, key in spans:
        beside = [other[2] for other in spans if other[0] <= first < other[1]]
        if len(beside) > SLOTS:
            found.append(f"{len(beside)} jobs ran at once on {SLOTS} slots, at the start of {key}: {beside}")
    return found


def _checkpoints(started: Mapping[Key, Started], diary: Iterable[Line]) -> list[str]:
    """Whether each segment began where it was told to."""
    return [
        f"segment {(line.trial, line.segment)} began at step {line.step}, not {started[line.trial, line.segment].start}"
        for line in diary
        if line.what == "begin"
        and (line.trial, line.segment) in started
        and line.step != started[line.trial, line.segment].start
    ]


def _reported(events: Iterable[Event], diary: Iterable[Line]) -> list[str]:
    """Whether all that jobs have reported is in the journal."""
    known = {(e.trial, e.step) for e in events if isinstance(e, Reported)}
    return [
        f"trial {line.trial} reported step {line.step}, which is not in the journal"
        for line in diary
        if line.what == "reported" and (line.trial, line.step) not in known
    ]
