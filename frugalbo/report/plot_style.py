"""What all pictures share: colours, plain text, and axes that fit their values.

The colours are those of Okabe and Ito, which people who see colours differently can tell apart.
Texts never become formulas, whatever is in them, and have no character that the font lacks.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from frugalbo.report.wording import number
from frugalbo.space import Choice, Float, Int, Parameter

# The page replaces these four by colours of its theme, so nothing else may have them.
INK: Final = "#1f2430"
MUTED: Final = "#68707d"
GRID: Final = "#e2e5ea"
PAPER: Final = "#fefefe"

FIXED_INK: Final = "#20242c"  # on light colours, in both themes
FIXED_PAPER: Final = "#fffffa"  # on dark colours, in both themes
BLUE: Final = "#0072b2"
ORANGE: Final = "#e69f00"
FAINT: Final = "#8fa8bd"
COLOURS: Final = {
    "completed": BLUE,
    "paused": "#56b4e9",
    "stopped": "#9aa1ac",
    "failed": "#d55e00",
    "interrupted": "#cc79a7",
    "running": "#f0e442",
    "held": "#f0e442",
    "in use": BLUE,
    "waiting": "#cc79a7",
    "elsewhere": "#009e73",
    "unspent": GRID,
    "overrun": "#000000",
}
WIDTH: Final = 9.6
_FONT: Final = "DejaVu Sans"


def new_figure(height: float) -> Figure:
    """An empty picture of the common width, in inches."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor=PAPER)
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08, wspace=0.04, hspace=0.05)  # type: ignore[union-attr]
    return figure


def note(text: str) -> Figure:
    """A picture that says why there is no picture; its label is what it says."""
    figure = new_figure(1.1)
    figure.set_label(text)
    figure.text(0.5, 0.5, plain(text, 110), ha="center", va="center", color=MUTED, fontsize=11, fontfamily=_FONT)
    return figure


def style(ax: Axes, *, grid: str = "y") -> None:
    """Take away what says nothing."""
    ax.set_facecolor("none")
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(GRID)
    ax.tick_params(colors=INK, labelcolor=INK, labelsize=9, length=3, color=GRID, labelfontfamily=_FONT, which="both")
    ax.set_axisbelow(True)
    if grid:
        ax.grid(visible=True, axis=grid, color=GRID, linewidth=0.8)  # type: ignore[arg-type]


def title(ax: Axes, text: str) -> None:
    """The finding, above the axes on the left."""
    ax.set_title(plain(text, 100), loc="left", color=INK, fontsize=11.5, fontweight="bold", pad=10, fontfamily=_FONT)


def labels(ax: Axes, x: str, y: str) -> None:
    """The names of both axes."""
    ax.set_xlabel(plain(x, 60), color=MUTED, fontsize=9.5, fontfamily=_FONT)
    ax.set_ylabel(plain(y, 40), color=MUTED, fontsize=9.5, fontfamily=_FONT)


def legend(ax: Axes, *, columns: int = 1, outside: bool = False) -> None:
    """A legend without a box, below the axes if `outside`."""
    handles, texts = ax.get_legend_handles_labels()
    if not handles:
        return
    found = (
        ax.figure.legend(handles, texts, loc="outside lower left", ncols=columns, frameon=False, labelcolor=INK,
                         prop={"family": _FONT, "size": 9}, handlelength=1.4, columnspacing=1.4)
        if outside
        else ax.legend(loc="best", ncols=columns, frameon=True, facecolor=PAPER, edgecolor="none", framealpha=0.85,
                       labelcolor=INK, prop={"family": _FONT, "size": 9})
    )  # fmt: skip
    found.set_zorder(20)


def plain(text: object, longest: int = 24, *, keep_end: int = 0) -> str:
    """A text that matplotlib draws as it is: one line, no formulas, only characters that the font has.

    What is too long is cut, all but its last `keep_end` characters.
    """
    known = _characters()
    line = " ".join(str(text).split())
    drawn = "".join(c if ord(c) in known and c.isprintable() else "□" for c in line)
    if len(drawn) > longest:
        drawn = drawn[: longest - 1 - keep_end] + "…" + drawn[len(drawn) - keep_end :]
    return drawn.replace("$", r"\$")


@functools.cache
def _characters() -> frozenset[int]:
    return frozenset(FT2Font(font_manager.findfont(_FONT)).get_charmap())


def log_is_better(values: Sequence[float]) -> bool:
    """Whether positive values span more than a factor of twenty."""
    return bool(values) and min(values) > 0 and max(values) > 20 * min(values)


def scale_values(axis: Axis, values: Sequence[float]) -> None:
    """A linear or logarithmic axis with readable numbers."""
    log_axis(axis) if log_is_better(values) else linear_axis(axis)


def linear_axis(axis: Axis, most: int = 7) -> None:
    """Few round ticks."""
    axis.set_major_locator(MaxNLocator(nbins=most, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda x, _: number(float(x), 6)))


def log_axis(axis: Axis, most: int = 6) -> None:
    """A logarithmic axis; call before its limits are set."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})  # type: ignore[attr-defined]
    axis.set_major_locator(LogLocator(base=10, numticks=most))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda x, _: number(float(x), 3)))
    axis.set_minor_formatter(NullFormatter())


def fit_log_ticks(axis: Axis, most: int = 6) -> None:
    """Ticks at 1-2-5 where the limits span too few powers of ten to have two."""
    low, high = sorted(axis.get_view_interval())
    decades = math.log10(high / low)
    powers = [10.0**e for e in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    if len(powers) >= 2:
        every = max(1, math.ceil(len(powers) / most))
        axis.set_major_locator(FixedLocator(powers[::every]))
        return
    exponents = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if decades > 0.5 else (1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)
    ticks = [m * 10.0**e for e in exponents for m in steps if low <= m * 10.0**e <= high]
    axis.set_major_locator(FixedLocator(ticks if len(ticks) >= 2 else [low, high]))


def place(p: Parameter, value: object) -> float:
    """Where a value stands on the axis of its parameter: a number, or the index of a choice."""
    return float(p.index(value)) if isinstance(p, Choice) else float(value)  # type: ignore[arg-type]


def parameter_axis(ax: Axes, p: Parameter, letters: int) -> None:
    """Give the x axis of `ax` the range, scale and ticks of a parameter; `letters` fit along it."""
    ticks = 4
    axis = ax.xaxis
    if isinstance(p, Choice):
        long = max(3, letters // min(6, len(p.values)) - 1)
        axis.set_major_locator(FixedLocator(range(0, len(p.values), -(-len(p.values) // 6))))
        axis.set_major_formatter(FuncFormatter(lambda i, _: plain(p.values[round(i)], long)))
        ax.set_xlim(-0.6, len(p.values) - 0.4)
        return
    assert isinstance(p, (Float, Int))
    low, high = float(p.lower), float(p.upper)
    if p.log and high > low:
        log_axis(axis)
        margin = (high / low) ** 0.05
        ax.set_xlim(low / margin, high * margin)
        fit_log_ticks(axis, max(2, letters // 7))
        return
    linear_axis(axis, ticks)
    if isinstance(p, Int):
        axis.set_major_locator(MaxNLocator(nbins=ticks, integer=True))
    margin = 0.05 * (high - low) or 0.5
    ax.set_xlim(low - margin, high + margin)


def clip_range(values: Sequence[float], keep: Sequence[float] = (), *, worst_is_high: bool) -> tuple[float, float]:
    """Limits that show the good values well: far outliers on the bad side are left out, `keep` never."""
    v = np.sort(np.asarray(values, dtype=np.float64) * (1.0 if worst_is_high else -1.0))
    q1, q3 = np.quantile(v, [0.25, 0.75])
    fence = q3 + 4.0 * (q3 - q1)
    kept = [x * (1.0 if worst_is_high else -1.0) for x in keep]
    low, high = float(v[0]), float(max([v[v <= fence].max(), *kept]))
    low = min([low, *kept])
    pad = 0.09 * (high - low) or 0.05 * abs(high) or 0.5
    ends = (low - pad, high + pad)
    return ends if worst_is_high else (-ends[1], -ends[0])


def value_axis(ax: Axes, values: Sequence[float], keep: Sequence[float], *, worst_is_high: bool) -> None:
    """Scale the y axis to the values; far outliers on the bad side stay outside, `keep` never does."""
    if not values:
        ax.set_ylim(0, 1)
        ax.set_yticks([])
        return
    low, high = clip_range([*values, *keep], keep, worst_is_high=worst_is_high)
    inside = [v for v in (*values, *keep) if low <= v <= high]
    if log_is_better(inside):
        log_axis(ax.yaxis)
        ax.set_ylim(min(inside) / 1.1, max(inside) * 1.1)
        fit_log_ticks(ax.yaxis)
        return
    linear_axis(ax.yaxis)
    ax.set_ylim(low, high)


def mark_outside(ax: Axes, x: Sequence[float], y: Sequence[float]) -> None:
    """Triangles at the edges for values that are beyond the limits of the y axis."""
    low, high = ax.get_ylim()
    first = True
    for edge, marker, beyond in ((high, "^", [v > high for v in y]), (low, "v", [v < low for v in y])):
        at = [a for a, out in zip(x, beyond, strict=True) if out]
        if at:
            label = f"beyond the axis ({len(at)})" if first else None
            ax.scatter(at, [edge] * len(at), marker=marker, s=30, color=FAINT, clip_on=False, zorder=4, label=label)
            first = False
