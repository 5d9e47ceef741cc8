"""The prices of the budgets over time: what is spent faster than the run goes forward becomes dearer."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from frugalbo.budget.price import PricePoint, prices_over_time
from frugalbo.report import plot_style as look
from frugalbo.report import wording
from frugalbo.report.plot_clock import Clock
from frugalbo.report.plot_style import BLUE, INK, ORANGE
from frugalbo.study import Study

MOST_PRICES: Final = 8
_MOMENTS: Final = 200
_FARTHEST: Final = 100.0  # times the price of the beginning, either way; what is beyond is drawn there
_COLOURS: Final = (BLUE, ORANGE, "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#68707e", "#9a6b00")


def prices(study: Study) -> Figure:
    """A line for each budget, of the whole and of pools: its price as a multiple of what it was at the beginning.

    A cross is where a budget was spent, so that its price is infinite. At most `MOST_PRICES` are drawn, those
    that moved furthest, and the title says so.
    """
    points, clock = prices_over_time(study, most=_MOMENTS), Clock.of(study)
    if not points or clock is None:
        return look.note("No price: nothing that has a budget was spent")
    names = sorted({name for point in points for name in point.prices}, key=lambda name: -_moved(points, name))
    if len(names) < 2:
        return look.note("One budget alone sets the pace of the run, so its price stays as it began")
    figure = look.new_figure(3.6)
    ax = figure.add_subplot()
    look.style(ax)
    shown = sorted(names[:MOST_PRICES])
    for name, color in zip(shown, _COLOURS, strict=False):
        known = [(clock.place(p.at), p.prices[name]) for p in points if name in p.prices]
        label = look.plain(name.replace("_", " "), 40)
        x, y = [0.0, *(at for at, _ in known)], np.array([1.0, *(price for _, price in known)])
        drawn = np.where(np.isinf(y), np.nan, y.clip(1 / _FARTHEST, _FARTHEST))
        ax.plot(x, drawn, color=color, linewidth=1.8, drawstyle="steps-post", label=label, zorder=3)
        if np.isinf(y).any():
            first = int(np.isinf(y).argmax())
            ax.scatter(
                x[first], drawn[first - 1], marker="X", s=60, color=color, edgecolors=INK, linewidths=0.6, zorder=5
            )
    look.log_axis(ax.yaxis)
    lines = np.concatenate([line.get_ydata() for line in ax.lines])
    far = 1.15 * max(1.5, float(np.nanmax(np.maximum(lines, 1 / lines))))
    ax.set_ylim(1 / far, far)
    look.fit_log_ticks(ax.yaxis, 5)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"×{wording.number(float(v), 3)}"))
    ax.axhline(1.0, color=INK, linewidth=0.9, linestyle=(0, (2, 3)), zorder=2)
    clock.mark_pauses(ax)
    clock.label(ax)
    look.labels(ax, ax.get_xlabel(), "price")
    more = f"; {len(shown)} of {len(names)} are drawn" if len(shown) < len(names) else ""
    look.title(ax, _title(points) + more)
    look.legend(ax, columns=4, outside=True)
    return figure


def _moved(points: list[PricePoint], name: str) -> float:
    """How far a price went from where it began, in powers of e."""
    found = [point.prices.get(name, 1.0) for point in points]
    return max(math.inf if price in (0.0, math.inf) else abs(math.log(price)) for price in found)


def _title(points: list[PricePoint]) -> str:
    spent = sorted(name for name, price in points[-1].prices.items() if math.isinf(price))
    if spent:
        return f"Spent: {', '.join(name.replace('_', ' ') for name in spent)}"
    dearest = max(points[-1].prices, key=lambda name: points[-1].prices[name])
    return f"In the end {dearest.replace('_', ' ')} were dearest, ×{wording.number(points[-1].prices[dearest], 3)}"
