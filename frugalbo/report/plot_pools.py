"""Money and device time over time, by pool: what was spent, what was held for what ran, and the budget."""

from __future__ import annotations

from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from frugalbo.budget.amounts import Resource
from frugalbo.report import plot_style as look
from frugalbo.report import wording
from frugalbo.report.plot_clock import Clock
from frugalbo.report.plot_style import BLUE, COLOURS, INK, MUTED
from frugalbo.report.spending import WHOLE, Spending, spending
from frugalbo.study import Study

MOST_POOLS: Final = 5
_RESOURCES: Final[tuple[Resource, ...]] = ("device_seconds", "dollars")
_MOMENTS: Final = 120


def pools(study: Study) -> Figure:
    """A panel for the whole run and for each pool, and a row for each of device-seconds and dollars that was spent.

    Drawn at evenly spaced moments; the amounts in the panels are exact. Of more than `MOST_POOLS` those that
    spent most are drawn, and the picture says so.
    """
    clock = Clock.of(study)
    books: dict[Resource, dict[str, Spending]] = {
        r: found for r in _RESOURCES if (found := spending(study, r))[WHOLE].is_used
    }
    if clock is None or not books:
        return look.note("Nothing has been spent yet" if clock else "Nothing has run yet")
    found = next(iter(books.values()))
    names = sorted((name for name in found if name != WHOLE), key=lambda name: -found[name].spent[-1])
    shown = [WHOLE, *names[:MOST_POOLS]] if len(names) > 1 else [WHOLE]
    figure = look.new_figure(1.1 + 2.0 * len(books))
    grid = figure.subplots(len(books), len(shown), squeeze=False, sharex=True)
    for row, (resource, own) in enumerate(books.items()):
        for ax, name in zip(grid[row], shown, strict=True):
            look.style(ax)
            _panel(ax, own[name], clock, resource)
            clock.label(ax, briefly=len(shown) > 1)
            if row < len(books) - 1:
                ax.set_xlabel("")
            if row == 0 and len(shown) > 1:
                look.title(ax, "all of the run" if name == WHOLE else f"pool {name}")
    if len(names) > MOST_POOLS:
        figure.suptitle(f"The {MOST_POOLS} of {len(names)} pools that spent most", x=0.01, ha="left", color=MUTED,
                        fontsize=9.5)  # fmt: skip
    fullest = max(grid.flat, key=lambda ax: len(ax.get_legend_handles_labels()[0]))
    look.legend(fullest, columns=4, outside=True)
    return figure


def _panel(ax: Axes, book: Spending, clock: Clock, resource: Resource) -> None:
    """Spent below, held on top of it, and the budget as a line; each panel has a scale of its own."""
    moments = np.unique([clock.origin, *book.times, clock.now])
    if len(moments) > _MOMENTS:
        moments = np.linspace(clock.origin, clock.now, _MOMENTS)
    x = np.array([clock.place(at) for at in moments])
    spent, held = book.at(moments)
    largest = max(book.budget or 0.0, float((spent + held).max())) or 1.0
    size, unit = wording.unit(resource, largest)
    ax.fill_between(x, spent / size, color=BLUE, alpha=0.85, linewidth=0, step="post", label="spent")
    ax.fill_between(x, spent / size, (spent + held) / size, color=COLOURS["held"], linewidth=0, step="post",
                    label="held by what ran")  # fmt: skip
    if book.budget is not None:
        ax.axhline(book.budget / size, color=INK, linewidth=1.4, label="its budget")
    ax.set_ylim(0, largest / size * 1.22)
    look.linear_axis(ax.yaxis, 4)
    if not book.is_used and book.budget is None:
        ax.set_yticks([])
    of = f" of {wording.amount(resource, book.budget)}" if book.budget else ""
    text = f"{wording.amount(resource, book.spent[-1], largest)}{of}"
    ax.text(0.02, 0.97, look.plain(text, 40), transform=ax.transAxes, ha="left", va="top", color=INK, fontsize=9)
    look.labels(ax, "", unit)
