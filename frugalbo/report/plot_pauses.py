"""The trials that were set aside, over time: when each ran, waited, went on or was given up."""

from __future__ import annotations

from typing import Final

from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from frugalbo.events import Outcome
from frugalbo.report import plot_style as look
from frugalbo.report import wording
from frugalbo.report.findings import gantt as segment_rows
from frugalbo.report.plot_clock import Clock
from frugalbo.report.plot_style import GRID, MUTED
from frugalbo.report.plot_time import draw_bar, legend_of_bars, mark_resumed
from frugalbo.report.waiting import Wait, waits
from frugalbo.study import Study

MOST_TRIALS: Final = 40


def pauses(study: Study) -> Figure:
    """A lane for each trial that was set aside: a bar while it ran, with the step it came to, a line while it waited.

    The line is dark if the trial went on, and faint if it still waits.

    Of more than `MOST_TRIALS` those that went on most often and furthest are drawn, and the title says so.
    """
    found, clock = waits(study), Clock.of(study)
    if not found or clock is None:
        return look.note("No trial was paused, stopped or interrupted")
    lanes = _lanes(study, found)
    shown = lanes[:MOST_TRIALS]
    places = {trial: y for y, trial in enumerate(sorted(shown))}
    figure = look.new_figure(1.6 + 0.2 * max(4, len(shown)))
    ax = figure.add_subplot()
    look.style(ax, grid="x")
    bars = [(places[row.trial], row) for row in segment_rows(study) if row.trial in places]
    for y, row in bars:
        trial = study.trials[row.trial]
        draw_bar(ax, row, y, clock, text=f"{trial.reached[row.segment]:,}")
    mark_resumed(ax, bars, clock)
    for still, color in ((False, MUTED), (True, GRID)):
        lines = [_line(wait, places[wait.trial], clock) for wait in found
                 if wait.trial in places and wait.went_on_as in (None, wait.trial)
                 and wait.outcome != Outcome.STOPPED and (wait.until_s is None) == still]  # fmt: skip
        ax.add_collection(LineCollection(lines, colors=color, linewidths=1.2, zorder=2), autolim=False)
    clock.mark_pauses(ax)
    every = 1 if len(shown) <= 24 else 2
    ax.set_yticks(range(0, len(shown), every), [str(trial) for trial in sorted(shown)[::every]])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(shown) - 0.4, -0.6)
    look.labels(ax, "", "trial")
    clock.label(ax)
    drawn = f"; {len(shown)} of {wording.count(len(lanes), 'trial')} are drawn" if len(shown) < len(lanes) else ""
    look.title(ax, wording.waits(study) + drawn)
    legend_of_bars(figure, [row for _, row in bars])
    return figure


def _lanes(study: Study, found: list[Wait]) -> list[int]:
    """The trials that were set aside, the one that went on most often first, of equals the one that went furthest."""
    went_on = dict.fromkeys((wait.trial for wait in found), 0)
    for wait in found:
        went_on[wait.trial] += wait.until_s is not None
    return sorted(went_on, key=lambda number: (-went_on[number], -study.trials[number].last_step, number))


def _line(wait: Wait, y: float, clock: Clock) -> list[tuple[float, float]]:
    end = clock.end if wait.until_s is None else clock.place(wait.until_s)
    return [(clock.place(wait.from_s), y), (end, y)]
