"""The pictures of what time and money went into: the devices over time, and the accounts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.transforms import ScaledTranslation

from frugalbo.report import plot_style as look
from frugalbo.report import wording
from frugalbo.report.findings import SegmentRow, accounts, shown_resources, utilisation
from frugalbo.report.findings import gantt as segment_rows
from frugalbo.report.plot_clock import Clock
from frugalbo.report.plot_style import COLOURS, INK, MUTED, PAPER
from frugalbo.study import Study

_MOST_BARS: Final = 400  # of which each can be seen
_MOST_HIGH: Final = 36  # lanes of full height; more are squeezed together
_DARK: Final = frozenset({"completed", "failed", "in use", "elsewhere", "overrun"})


def gantt(study: Study) -> Figure:
    """The devices over time, coloured by how each segment ended; long pauses are cut out."""
    rows, clock = segment_rows(study), Clock.of(study)
    if clock is None:
        return look.note("Nothing has run yet")
    lanes = _lanes(rows, clock.now)
    high = max(2, len(lanes))
    figure = look.new_figure(1.55 + 0.36 * min(high, _MOST_HIGH))
    ax = figure.add_subplot()
    look.style(ax, grid="x")
    bars = [(y, row) for y, (_, lane) in enumerate(lanes) for row in lane]
    if len(bars) > _MOST_BARS:
        _many_bars(ax, bars, clock)
    else:
        for y, row in bars:
            draw_bar(ax, row, y, clock)
        mark_resumed(ax, bars, clock)
    clock.mark_pauses(ax, -0.62)
    every = max(1, len(lanes) // 24)
    ax.set_yticks(range(0, len(lanes), every), [look.plain(name, 18) for name, _ in lanes[::every]])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(lanes) - 0.4, -0.6 if not clock.pauses else -0.95)
    clock.label(ax)
    busy = utilisation(study, without_pauses=bool(clock.pauses))
    slots = wording.count(len({row.slot for row in rows}), "slot")
    look.title(
        ax,
        f"{slots}, busy {wording.share(busy, 1)} of the time" if busy is not None else f"{slots}, no segment has ended",
    )
    legend_of_bars(figure, [row for _, row in bars])
    return figure


def money(study: Study) -> Figure:
    """What became of the budget: one bar for each resource, split by outcome."""
    books = [book for r in shown_resources(study) if (book := accounts(study, r)).entries and book.sum > 0]
    if not books:
        return look.note("Nothing has been spent yet")
    figure = look.new_figure(1.25 + 0.62 * len(books))
    ax = figure.add_subplot()
    look.style(ax, grid="")
    ax.spines["left"].set_visible(False)
    kinds: dict[str, None] = {}
    for y, book in enumerate(books):
        whole = max(book.total or 0.0, book.spent + book.held)
        amounts: dict[str, float] = {}
        for entry in book.entries:
            if entry.amount > 0:
                amounts[entry.kind] = amounts.get(entry.kind, 0.0) + entry.amount
        left = 0.0
        for kind, amount in amounts.items():
            kinds[kind] = None
            part = amount / whole
            _block(ax, left, y, part, kind)
            if part > 0.07:
                color = look.FIXED_PAPER if kind in _DARK else look.FIXED_INK if kind != "unspent" else INK
                text = ax.text(
                    left + part / 2,
                    y,
                    look.plain(wording.amount(book.resource, amount, whole)),
                    ha="center",
                    va="center",
                    fontsize=9,
                    color=color,
                )
                if kind == "held":
                    text.set_bbox({"facecolor": COLOURS[kind], "edgecolor": "none", "pad": 0.8})
            left += part
        if book.total and book.spent > book.total:
            ax.axvline(
                book.total / whole,
                (len(books) - y - 1) / len(books),
                (len(books) - y) / len(books),
                color=INK,
                linewidth=2,
            )
    names = [
        f"{b.resource.replace('_', '-')}\n{look.plain(_whole(b.resource, b.total, b.spent + b.held), 30)}"
        for b in books
    ]
    ax.set_yticks(range(len(books)), names)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(books) - 0.5, -0.5)
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    look.labels(ax, "share of the budget" if books[0].total else "share of what was spent", "")
    look.title(ax, _money_title(study))
    order = [kind for kind in COLOURS if kind in kinds]
    figure.legend([_patch(kind) for kind in order], order, loc="outside lower left", ncols=7, frameon=False,
                  labelcolor=INK, fontsize=9, handlelength=1.2, columnspacing=1.4)  # fmt: skip
    return figure


def _kind(row: SegmentRow) -> str:
    return row.outcome.value if row.outcome else "running"


def _patch(kind: str) -> Patch:
    hatch = "////" if kind in ("running", "held") else None
    return Patch(facecolor=COLOURS[kind], edgecolor=MUTED if hatch else PAPER, hatch=hatch, linewidth=0)


def _block(ax: Axes, left: float, y: float, width: float, kind: str) -> None:
    hatch = "////" if kind in ("running", "held") else None
    ax.barh(
        y,
        width,
        0.62,
        left,
        color=COLOURS[kind],
        edgecolor=MUTED if hatch else PAPER,
        hatch=hatch,
        linewidth=0 if hatch else 1.2,
    )


def draw_bar(ax: Axes, row: SegmentRow, y: float, clock: Clock, *, text: str | None = None) -> None:
    """A segment as a bar at the height `y`, with its trial's number or another text in it where there is room."""
    begin = clock.place(row.start_s)
    length = clock.place(clock.now if row.end_s is None else row.end_s) - begin
    kind, part = _kind(row), length / clock.end if clock.end else 0.0
    hatch = "////" if row.outcome is None else None
    ax.barh(
        y,
        length,
        0.74,
        begin,
        color=COLOURS[kind],
        edgecolor=MUTED if hatch else PAPER,
        hatch=hatch,
        linewidth=0 if hatch else min(0.8, 60 * part),
        zorder=3,
    )
    said = str(row.trial) if text is None else text
    if part > (0.028 if row.segment else 0.011) + 0.006 * len(said):  # a resumed one begins with a triangle
        color = look.FIXED_PAPER if kind in _DARK else look.FIXED_INK
        drawn = ax.text(begin + length / 2, y, said, ha="center", va="center", fontsize=8, color=color, zorder=4)
        drawn.set_clip_on(True)
        if hatch:
            drawn.set_bbox({"facecolor": COLOURS[kind], "edgecolor": "none", "pad": 0.8})


def mark_resumed(ax: Axes, bars: Sequence[tuple[int, SegmentRow]], clock: Clock) -> None:
    """A triangle where a segment goes on with a trial that had been set aside."""
    resumed = [(clock.place(row.start_s), y) for y, row in bars if row.segment]
    if resumed:
        inside = ax.transData + ScaledTranslation(4 / 72, 0, ax.figure.dpi_scale_trans)
        ax.scatter(*zip(*resumed, strict=True), marker=">", s=22, color=look.FIXED_INK, edgecolors=look.FIXED_PAPER,
                   linewidths=0.6, zorder=6, transform=inside, label="goes on")  # fmt: skip


def legend_of_bars(figure: Figure, rows: Sequence[SegmentRow]) -> None:
    """What the colours of bars mean, and the triangles."""
    seen = {_kind(row) for row in rows}
    order = [kind for kind in COLOURS if kind in seen]
    marks, texts = figure.axes[0].get_legend_handles_labels()
    figure.legend([*map(_patch, order), *marks], [*order, *texts], loc="outside lower left", ncols=7, frameon=False,
                  labelcolor=INK, fontsize=9, handlelength=1.2, columnspacing=1.4)  # fmt: skip


def _many_bars(ax: Axes, bars: Sequence[tuple[int, SegmentRow]], clock: Clock) -> None:
    """Bars too many to be told apart by numbers, as an image, which stays small."""
    for kind in dict.fromkeys(_kind(row) for _, row in bars):
        corners = []
        for y, row in bars:
            if _kind(row) == kind:
                begin, end = clock.place(row.start_s), clock.place(clock.now if row.end_s is None else row.end_s)
                corners.append([(begin, y - 0.37), (end, y - 0.37), (end, y + 0.37), (begin, y + 0.37)])
        drawn = PolyCollection(corners, facecolors=COLOURS[kind], edgecolors=look.FIXED_PAPER, linewidths=0.4, zorder=3)
        drawn.set_rasterized(True)
        ax.add_collection(drawn, autolim=False)


def _lanes(rows: Sequence[SegmentRow], now: float) -> list[tuple[str, list[SegmentRow]]]:
    """Rows by slot; a slot that is shared has as many lanes as it ever held segments at once."""
    lanes: list[tuple[str, list[SegmentRow]]] = []
    for slot, group in itertools.groupby(rows, key=lambda row: row.slot):
        own: list[list[SegmentRow]] = []
        for row in group:
            for lane in own:
                end = lane[-1].end_s
                if (now if end is None else end) <= row.start_s:
                    lane.append(row)
                    break
            else:
                own.append([row])
        lanes += [(slot if i == 0 else "", lane) for i, lane in enumerate(own)]
    return lanes


def _whole(resource: str, total: float | None, used: float) -> str:
    text = wording.amount(resource, used if total is None else total)  # type: ignore[arg-type]
    return f"{text} used" if total is None else f"of {text}"


def _money_title(study: Study) -> str:
    book = accounts(study, shown_resources(study)[0])
    whole = book.total or book.spent
    good = sum(e.amount for e in book.entries if e.kind in ("completed", "paused", "in use"))
    lost = sum(e.amount for e in book.entries if e.kind in ("failed", "interrupted"))
    if book.resource == "wall_seconds":
        return f"Something ran for {wording.share(good, whole)} of the time"
    text = f"{wording.share(good, book.spent)} of what was spent went into finished segments"
    return text + (f", {wording.share(lost, book.spent)} was lost to failures or interruptions" if lost else "")
