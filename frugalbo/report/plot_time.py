"""The pictures of what time and money went into: the devices over time, and the accounts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from frugalbo.report import plot_style as look
from frugalbo.report import wording
from frugalbo.report.findings import SegmentRow, accounts, merge, shown_resources, utilisation
from frugalbo.report.findings import gantt as segment_rows
from frugalbo.report.plot_style import COLOURS, INK, MUTED, PAPER
from frugalbo.study import Study

_DARK = frozenset({"completed", "failed", "in use", "elsewhere", "overrun"})


def gantt(study: Study) -> Figure:
    """The devices over time, coloured by how each segment ended; long pauses are cut out."""
    rows = segment_rows(study)
    if not rows:
        return look.note("Nothing has run yet")
    origin = min(row.start_s for row in rows)
    last = max(row.start_s if row.end_s is None else row.end_s for row in rows)
    # What still runs has no end; it is drawn a little past the last thing known.
    now = last + 0.02 * (last - origin or 1.0) if any(row.end_s is None for row in rows) else last
    pauses = _pauses(rows, now)
    lanes = _lanes(rows, now)
    width = _cut(now, pauses) - origin
    size, unit = wording.unit("wall_seconds", width)
    figure = look.new_figure(1.55 + 0.36 * max(2, len(lanes)))
    ax = figure.add_subplot()
    look.style(ax, grid="x")
    seen: dict[str, None] = {}
    for y, (_, lane) in enumerate(lanes):
        for row in lane:
            _bar(ax, row, y, now, pauses, origin, size, width)
            seen[_kind(row)] = None
    for at, length in pauses:
        x = (_cut(at, pauses) - origin) / size
        ax.axvline(x, color=INK, linewidth=1.2, linestyle=(0, (2, 2)), zorder=5)
        ax.text(
            x,
            -0.62,
            f"{wording.amount('wall_seconds', length)} pause ",
            ha="right",
            va="bottom",
            fontsize=8,
            color=MUTED,
        )
    every = max(1, len(lanes) // 24)
    ax.set_yticks(range(0, len(lanes), every), [look.plain(name, 18) for name, _ in lanes[::every]])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(lanes) - 0.4, -0.6 if not pauses else -0.95)
    ax.set_xlim(0, width / size * 1.005 or 1.0)
    look.linear_axis(ax.xaxis)
    look.labels(ax, f"{unit.removeprefix('wall-')} since the first start" + (" (pauses cut out)" if pauses else ""), "")
    busy = utilisation(study, without_pauses=bool(pauses))
    slots = wording.count(len({row.slot for row in rows}), "slot")
    look.title(
        ax,
        f"{slots}, busy {wording.share(busy, 1)} of the time" if busy is not None else f"{slots}, no segment has ended",
    )
    order = [kind for kind in COLOURS if kind in seen]
    figure.legend([_patch(kind) for kind in order], order, loc="outside lower left", ncols=6, frameon=False,
                  labelcolor=INK, fontsize=9, handlelength=1.2, columnspacing=1.4)  # fmt: skip
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


def _bar(
    ax: Axes,
    row: SegmentRow,
    y: int,
    now: float,
    pauses: Sequence[tuple[float, float]],
    origin: float,
    size: float,
    width: float,
) -> None:
    begin = (_cut(row.start_s, pauses) - origin) / size
    length = (_cut(now if row.end_s is None else row.end_s, pauses) - origin) / size - begin
    kind, part = _kind(row), length * size / width if width else 0.0
    hatch = "////" if row.outcome is None else None
    edge = MUTED if hatch else PAPER
    ax.barh(
        y,
        length,
        0.74,
        begin,
        color=COLOURS[kind],
        edgecolor=edge,
        hatch=hatch,
        linewidth=0 if hatch else min(0.8, 60 * part),
    )
    if part > 0.011 + 0.006 * len(str(row.trial)):
        color = look.FIXED_PAPER if kind in _DARK else look.FIXED_INK
        text = ax.text(begin + length / 2, y, str(row.trial), ha="center", va="center", fontsize=8, color=color)
        text.set_clip_on(True)
        if hatch:
            text.set_bbox({"facecolor": COLOURS[kind], "edgecolor": "none", "pad": 0.8})


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


def _pauses(rows: Sequence[SegmentRow], now: float) -> list[tuple[float, float]]:
    """`(when, how long)` nothing ran, where that is over a tenth of all the time in which something did."""
    spans = merge([(row.start_s, now if row.end_s is None else row.end_s) for row in rows])
    busy = sum(b - a for a, b in spans)
    gaps = [(a[1], b[0] - a[1]) for a, b in itertools.pairwise(spans)]
    return [gap for gap in gaps if gap[1] > 0.1 * busy]


def _cut(at: float, pauses: Sequence[tuple[float, float]]) -> float:
    """A moment with the pauses before it taken out."""
    return at - sum(length for when, length in pauses if when < at)


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
