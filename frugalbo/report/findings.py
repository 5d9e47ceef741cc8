"""What a run amounts to, as numbers: pure functions over a `Study`.

Nothing here draws, formats or reads a clock. Times are the stamps of events, in seconds. A
*result* is a finite objective at the full number of steps; whoever reported one counts, whatever
became of the trial afterwards.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from frugalbo.budget.amounts import Cost, Resource
from frugalbo.events import Failure, Outcome
from frugalbo.space import Fixed, Params, Value
from frugalbo.study import Status, Study, Trial

SPENDABLE: Final[tuple[Resource, ...]] = ("device_seconds", "dollars", "evaluations", "wall_seconds")
EntryKind = Literal[
    "completed", "paused", "stopped", "failed", "interrupted", "in use", "waiting", "elsewhere", "held", "unspent",
    "overrun",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class SegmentRow:
    """A segment on its slot; `end_s`, `outcome` and `used` are None while it runs."""

    slot: str
    trial: int
    segment: int
    start_s: float
    end_s: float | None
    outcome: Outcome | None
    failure: Failure | None
    used: Cost | None
    held: Cost


@dataclass(frozen=True, slots=True)
class Result:
    """A finite objective at the full steps, and what all trials together had spent when it was settled."""

    spent: float
    value: float
    trial: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of an account."""

    kind: EntryKind
    label: str
    amount: float
    segments: int = 0


@dataclass(frozen=True, slots=True)
class Accounts:
    """Where all of one resource is: the entries add up to `total`, or, without a limit, to spent plus held."""

    resource: Resource
    total: float | None
    spent: float
    held: float
    entries: tuple[Entry, ...]

    @property
    def sum(self) -> float:
        """What the entries add up to."""
        return math.fsum(entry.amount for entry in self.entries)


@dataclass(frozen=True, slots=True)
class TrialRow:
    """A trial in one line.

    Args:
        measured: The metrics of the outcome constraints.
        violations: As `Study.violations`; of a trial without a result, too.
    """

    number: int
    status: Status
    value: float | None
    last_step: int
    segments: int
    device_seconds: float
    dollars: float
    params: Params
    failure: Failure | None
    message: str
    log_tail: str
    is_default: bool
    is_best: bool
    measured: dict[str, float | None]
    violations: dict[str, float]


@dataclass(frozen=True, slots=True)
class AgainstDefaults:
    """The best configuration beside the defaults.

    Args:
        gain: By how much the best is better, in the metric's units; never below 0 once both are known.
            None where the defaults do not meet the outcome constraints, which makes the two incomparable.
        relative: The gain over the size of the defaults' value.
        changes: For each knob its default and its best value; None where it is inactive.
    """

    default: Trial | None
    default_value: float | None
    best: Trial | None
    best_value: float | None
    gain: float | None
    relative: float | None
    changes: tuple[tuple[str, Value | None, Value | None], ...]


def gantt(study: Study) -> list[SegmentRow]:
    """All segments, by slot (`cuda:10` after `cuda:2`) and then by time."""
    rows = []
    for trial in study.trials.values():
        for i, start in enumerate(trial.starts):
            end = trial.ends[i] if i < len(trial.ends) else None
            rows.append(
                SegmentRow(
                    start.slot,
                    trial.number,
                    i,
                    start.at,
                    end.at if end else None,
                    end.outcome if end else None,
                    end.failure if end else None,
                    end.used if end else None,
                    start.held,
                )
            )
    return sorted(rows, key=lambda row: (_natural(row.slot), row.start_s, row.trial, row.segment))


def results(study: Study, resource: Resource = "device_seconds") -> list[Result]:
    """Every result in the order in which it was settled.

    A result is placed at the end of the segment that reached the full steps; one that a running
    segment has reported already is placed last, at all that is spent so far. Ends of one instant
    are in the order of trials. Wall time is the time during which anything ran (see `time_in_use`).
    """
    placed = {}
    for trial in study.trials.values():
        if study.value(trial) is not None:
            placed[trial.number] = _deciding_segment(study, trial)
    ends = sorted(
        (end for trial in study.trials.values() for end in trial.ends), key=lambda end: (end.at, end.trial, end.segment)
    )
    rows = gantt(study)
    found, spent = [], 0.0
    for end in ends:
        clock = resource == "wall_seconds"
        spent = time_in_use(rows, end.at) if clock else spent + getattr(end.used, resource)
        if placed.get(end.trial) == end.segment:
            found.append(Result(spent, _known(study, study.trials[end.trial]), end.trial))
    running = [number for number, segment in placed.items() if segment is None]
    return found + [Result(spent, _known(study, study.trials[n]), n) for n in running]


def best_so_far(study: Study, resource: Resource = "device_seconds") -> list[tuple[float, float, int]]:
    """Each improvement as `(spent, loss, trial)`: smaller losses are better whatever the objective's direction.

    Only results that meet the outcome constraints count.
    """
    steps: list[tuple[float, float, int]] = []
    for result in results(study, resource):
        if not study.is_feasible(study.trials[result.trial]):
            continue
        loss = study.problem.objective.to_loss(result.value)
        if not steps or loss < steps[-1][1]:
            steps.append((result.spent, loss, result.trial))
    return steps


def time_in_use(rows: Sequence[SegmentRow], until_s: float = math.inf) -> float:
    """Seconds during which at least one segment ran, up to a moment; what still runs counts up to the last end."""
    last = min(until_s, max((row.end_s or row.start_s for row in rows), default=0.0))
    spans = [(row.start_s, min(last, row.end_s if row.end_s is not None else last)) for row in rows]
    return math.fsum(b - a for a, b in merge(spans))


def merge(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The union of intervals, as intervals that do not touch; empty ones are dropped."""
    merged: list[tuple[float, float]] = []
    for a, b in sorted(span for span in spans if span[1] > span[0]):
        if merged and a <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], b))
        else:
            merged.append((a, b))
    return merged


def utilisation(study: Study, *, without_pauses: bool = False) -> float | None:
    """Busy time of the slots over (slots used x time from the first start to the last end); None before any end.

    A slot that several segments share is busy once. Running segments count up to the last end.

    `without_pauses` leaves out the time in which nothing ran at all, as between a crash and its resume.
    """
    rows = gantt(study)
    ends = [row.end_s for row in rows if row.end_s is not None]
    if not ends or (wall := max(ends) - min(row.start_s for row in rows)) <= 0:
        return None
    slots: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        slots.setdefault(row.slot, []).append((row.start_s, max(ends) if row.end_s is None else row.end_s))
    busy = math.fsum(b - a for spans in slots.values() for a, b in merge(spans))
    if without_pauses:
        wall = math.fsum(b - a for a, b in merge([span for spans in slots.values() for span in spans]))
    return busy / (len(slots) * wall) if wall else None


def longest_pause(study: Study) -> float:
    """The longest time between the first start and the last end in which nothing ran."""
    rows = gantt(study)
    last = max((row.end_s for row in rows if row.end_s is not None), default=0.0)
    spans = merge([(row.start_s, last if row.end_s is None else row.end_s) for row in rows])
    return max((after[0] - before[1] for before, after in itertools.pairwise(spans)), default=0.0)


def peak_held(study: Study, resource: Resource) -> float:
    """The most of a resource that was lent at one time; what ends and starts at one instant does not add up."""
    changes = []
    for row in gantt(study):
        amount = getattr(row.held, resource)
        changes.append((row.start_s, 1, amount))
        if row.end_s is not None:
            changes.append((row.end_s, 0, -amount))
    held = peak = 0.0
    for _, _, change in sorted(changes):
        held += change
        peak = max(peak, held)
    return peak


def main_resource(study: Study) -> Resource:
    """The resource that pictures count in: the first limited one, or device-seconds."""
    limits: dict[Resource, float] = study.ledger.budget.limits() if study.ledger else {}
    limited: list[Resource] = [name for name in SPENDABLE if name in limits]
    return limited[0] if limited else SPENDABLE[0]


def shown_resources(study: Study) -> list[Resource]:
    """The resources with an account worth showing: every limited one that is spent, and device-seconds."""
    limits = study.ledger.budget.limits() if study.ledger else {}
    return [
        main_resource(study),
        *(r for r in SPENDABLE if r != main_resource(study) and (r in limits or r == SPENDABLE[0])),
    ]


def accounts(study: Study, resource: Resource = "device_seconds") -> Accounts:
    """What became of a resource: by outcome, held now, elsewhere, unspent, and beyond the budget (negative).

    *Elsewhere* is what the ledger charged or holds for others than this study's segments. Wall
    time passes for all at once, so it is split into time in use and waiting instead.
    """
    rows = gantt(study)
    if resource == "wall_seconds":
        return _clock_accounts(study, rows)
    by: dict[tuple[EntryKind, str], list[float]] = {}
    for row in rows:
        if row.used is not None and row.outcome is not None:
            kind: EntryKind = row.outcome.value
            label = f"failed: {row.failure or 'unknown'}" if row.outcome is Outcome.FAILED else row.outcome.value
            by.setdefault((kind, label), []).append(getattr(row.used, resource))
    order = list(Outcome)
    entries = [
        Entry(kind, label, math.fsum(amounts), len(amounts))
        for (kind, label), amounts in sorted(
            by.items(), key=lambda item: (order.index(Outcome(item[0][0])), item[0][1])
        )
    ]
    spent = math.fsum(amount for amounts in by.values() for amount in amounts)
    holds = [getattr(row.held, resource) for row in rows if row.used is None]
    held = math.fsum(holds)
    if study.ledger is None:
        return Accounts(resource, None, spent, held, (*entries, *_held_entry(holds)))
    account = study.ledger.balance()[resource]
    elsewhere = account.spent + account.held - spent - held
    if abs(elsewhere) > 1e-9 * max(1.0, spent + held):
        entries.append(Entry("elsewhere", "outside this study", elsewhere))
    entries += _held_entry(holds)
    total = account.total if math.isfinite(account.total) else None
    return Accounts(
        resource, total, account.spent, account.held, (*entries, *_rest(total, account.spent + account.held))
    )


def trial_rows(study: Study) -> list[TrialRow]:
    """All trials, by number."""
    best, default = study.best(), default_trial(study)
    return [
        TrialRow(
            number=trial.number,
            status=trial.status,
            value=study.value(trial),
            last_step=trial.last_step,
            segments=len(trial.starts),
            device_seconds=trial.used("device_seconds"),
            dollars=trial.used("dollars"),
            params=trial.params,
            failure=trial.failure if trial.status is Status.FAILED else None,
            message=trial.ends[-1].message if trial.ends else "",
            log_tail=trial.ends[-1].log_tail if trial.ends else "",
            is_default=trial is default,
            is_best=trial is best,
            measured={c.metric: study.measured(trial, c.metric) for c in study.problem.bounds},
            violations=study.violations(trial),
        )
        for trial in study.trials.values()
    ]


def default_trial(study: Study) -> Trial | None:
    """The first trial of the problem's defaults."""
    defaults = study.problem.defaults
    return next((t for t in study.trials.values() if defaults is not None and t.params == defaults), None)


def against_defaults(study: Study) -> AgainstDefaults | None:
    """The best configuration beside the defaults; None where the problem has none."""
    if study.problem.defaults is None:
        return None
    default, best = default_trial(study), study.best()
    default_value = study.value(default) if default else None
    best_value = study.value(best) if best else None
    gain = relative = None
    if default_value is not None and best_value is not None and default and study.is_feasible(default):
        to_loss = study.problem.objective.to_loss
        gain = to_loss(default_value) - to_loss(best_value)
        relative = gain / abs(default_value) if default_value else None
    chosen = best.params if best else {}
    changes = tuple(
        (name, study.problem.defaults.get(name), chosen.get(name))
        for name, p in study.problem.space.parameters.items()
        if not isinstance(p, Fixed)
    )
    return AgainstDefaults(default, default_value, best, best_value, gain, relative, changes)


def _deciding_segment(study: Study, trial: Trial) -> int | None:
    """The segment whose end settled the result: the first that went the whole way, else the last that ended.

    None while a first segment that reported it is still running.
    """
    reached = [i for i, start in enumerate(trial.starts[: len(trial.ends)]) if start.until >= study.problem.steps]
    whole = [i for i in reached if trial.ends[i].outcome not in (Outcome.INTERRUPTED, Outcome.FAILED)]
    if whole:
        return whole[0]
    if trial.status is Status.RUNNING:
        return None
    return reached[-1] if reached else len(trial.ends) - 1


def _known(study: Study, trial: Trial) -> float:
    value = study.value(trial)
    assert value is not None
    return value


def _held_entry(holds: Sequence[float]) -> list[Entry]:
    return [Entry("held", "held now", math.fsum(holds), len(holds))] if holds else []


def _rest(total: float | None, gone: float) -> list[Entry]:
    if total is None:
        return []
    left = total - gone
    rest = [Entry("unspent", "unspent", max(0.0, left))]
    # A rounding error is no overrun.
    return rest if left >= -1e-9 * max(1.0, total) else [*rest, Entry("overrun", "beyond the budget", left)]


def _clock_accounts(study: Study, rows: Sequence[SegmentRow]) -> Accounts:
    in_use = time_in_use(rows)
    account = study.ledger.balance()["wall_seconds"] if study.ledger else None
    passed = max(in_use, account.spent) if account else in_use
    entries = [Entry("in use", "something ran", in_use, len(rows))]
    if passed > in_use:
        entries.append(Entry("waiting", "nothing ran", passed - in_use))
    total = account.total if account and math.isfinite(account.total) else None
    return Accounts("wall_seconds", total, passed, 0.0, (*entries, *_rest(total, passed)))


def _natural(text: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", text) if part]
