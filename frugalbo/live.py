"""What a user sees while a run goes on: a live table, plain log lines, or JSON lines.

Each view is an `Observer` and a context manager. Nothing here decides or changes anything.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import IO, Any, Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from frugalbo.budget.amounts import Resource
from frugalbo.budget.ledger import Account, Balance
from frugalbo.events import Ended, Event, Outcome, Started, event_to_json
from frugalbo.report.wording import amount, best_value, violation
from frugalbo.study import Status, Study, Trial

_COLOURS = {
    Status.RUNNING: "cyan",
    Status.COMPLETED: "green",
    Status.PAUSED: "yellow",
    Status.STOPPED: "yellow",
    Status.FAILED: "red",
}
# Rows of the live table: the newest trials, as many as a small terminal shows.
_ROWS = 12


class View(Protocol):
    """Something that shows a run."""

    def __call__(self, study: Study, balance: Balance, events: Sequence[Event]) -> None:
        """Show the state after these events."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class _Plain:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


class JsonView(_Plain):
    """Every event as one line of JSON, as it is stored."""

    def __init__(self, out: IO[str] | None = None) -> None:
        self._out = out or sys.stdout

    def __call__(self, study: Study, balance: Balance, events: Sequence[Event]) -> None:
        """Print the new events."""
        del study, balance
        for event in events:
            print(json.dumps(event_to_json(event), allow_nan=False), file=self._out, flush=True)


class LogView(_Plain):
    """One line when a trial starts or goes on, and one when it ends or is paused."""

    def __init__(self, out: IO[str] | None = None) -> None:
        self._out = out or sys.stdout

    def __call__(self, study: Study, balance: Balance, events: Sequence[Event]) -> None:
        """Print what began and what ended."""
        for event in events:
            if isinstance(event, Started):
                begins = f"goes on from step {event.start}" if event.start else "starts"
                self._say(f"trial {event.trial} {begins} on {event.slot}: {_in_words(study, event.params)}")
            elif isinstance(event, Ended):
                self._ended(study, balance, event)

    def _ended(self, study: Study, balance: Balance, event: Ended) -> None:
        trial = study.trials[event.trial]
        value = study.value(trial)
        metric, step = study.problem.objective.metric, trial.reached[-1]
        so_far = study.value_by(trial, step) if event.outcome == Outcome.PAUSED else None
        result = f"{metric} {value:.5g}" if value is not None else event.message
        if value is None and so_far is not None:
            result = f"{metric} {so_far:.5g} at step {step}"
        lacking = violation(study, trial) if value is not None else ""
        result += f", {lacking}" if lacking else ""
        star = f" ({'nearest' if lacking else 'best'} so far)" if study.best() is trial else ""
        money = "; ".join(f"{amount(name, a.free)} left" for name, a in balance.limited.items())
        seconds = event.used.device_seconds
        self._say(f"trial {event.trial} {event.outcome} after {seconds:.1f} s: {result}{star}; {money}")

    def _say(self, line: str) -> None:
        print(" ".join(line.split()), file=self._out, flush=True)


class TableView:
    """A table that redraws itself: budget, best so far, and the newest trials."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live = Live(console=self._console, refresh_per_second=8, transient=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def __call__(self, study: Study, balance: Balance, events: Sequence[Event]) -> None:
        """Redraw."""
        del events
        self._live.update(render(study, balance))


def render(study: Study, balance: Balance) -> Group:
    """The live picture of a study, for a terminal."""
    money = Table.grid(padding=(0, 2))
    books = [("", balance), *((f"{pool}: ", own) for pool, own in balance.pools.items())]
    for of, book in books:
        for name, account in book.limited.items():
            if name != "memory_bytes":
                money.add_row(of + name.replace("_", " "), _bar(account), _spending(name, account))
    return Group(money, _headline(study, balance), _trials(study))


def _bar(account: Account) -> ProgressBar:
    return ProgressBar(total=account.total, completed=min(account.total, account.spent + account.held), width=30)


def _spending(name: Resource, account: Account) -> str:
    parts = {"spent": account.spent, "held": account.held, "left": account.free}
    return "  ".join(f"{amount(name, part, account.total)} {what}" for what, part in parts.items())


def _headline(study: Study, balance: Balance) -> Text:
    best = study.best()
    counts = {status: len(study.with_status(status)) for status in Status}
    parts = [f"{n} {status}" for status, n in counts.items() if n]
    if (seconds := _time_left(study, balance)) is not None:
        parts.append(f"about {amount('wall_seconds', seconds)} to go")
    if best is not None:
        lacking = violation(study, best)
        which = f"trial {best.number}" + (f", which {lacking}" if lacking else "")
        parts.append(
            f"{'nearest' if lacking else 'best'} {study.problem.objective.metric} {best_value(study, 5)} ({which})"
        )
    return Text(", ".join(parts), style="bold")


def _time_left(study: Study, balance: Balance) -> float | None:
    """Wall seconds until the device-seconds are spent, at the pace of those slots that were used so far."""
    slots = {start.slot for trial in study.trials.values() for start in trial.starts}
    account = balance["device_seconds"]
    if not slots or math.isinf(account.total):
        return None
    return (account.total - account.spent) / len(slots)


def _trials(study: Study) -> Table:
    metric = study.problem.objective.metric
    table = Table(box=None, header_style="dim", padding=(0, 1), expand=True)
    widths = {"trial": 5, "status": 16, "step": 9, metric: max(8, len(metric)), "s": 6}
    for heading, width in widths.items():
        table.add_column(heading, justify="left" if heading == "status" else "right", width=width, no_wrap=True)
    table.add_column("configuration", overflow="ellipsis", no_wrap=True, ratio=1)
    best = study.best()
    for trial in list(study.trials.values())[-_ROWS:]:
        style = "bold green" if trial is best else None
        table.add_row(*_row(study, trial, metric), style=style)
    return table


def _row(study: Study, trial: Trial, metric: str) -> tuple[str, ...]:
    curve = trial.curve(metric)
    last = f"{curve[-1][1]:.5g}" if curve else ""
    colour = _COLOURS[trial.status]
    failure = f" {trial.failure}" if trial.failure else ""
    return (
        str(trial.number),
        f"[{colour}]{trial.status}{failure}[/]",
        f"{trial.last_step}/{trial.planned}",
        last,
        f"{trial.used('device_seconds'):.1f}" if trial.ends else "",
        escape(_in_words(study, trial.params)),
    )


def _in_words(study: Study, params: Mapping[str, Any]) -> str:
    """What distinguishes a configuration; fixed values do not."""
    varied = {name: value for name, value in params.items() if name in study.problem.space.names}
    return " ".join(f"{name}={f'{value:.3g}' if isinstance(value, float) else value}" for name, value in varied.items())
