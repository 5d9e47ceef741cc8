"""The axis of time that pictures share: in a unit that reads well, with long pauses cut out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from matplotlib.axes import Axes

from frugalbo.report import plot_style as look
from frugalbo.report import wording
from frugalbo.report.findings import SegmentRow, gantt, merge
from frugalbo.report.plot_style import INK, MUTED
from frugalbo.study import Study


@dataclass(frozen=True, slots=True)
class Clock:
    """Moments of a study as places on an axis that begins with the first start.

    Args:
        now: The last moment that is known; a little later while anything runs.
        pauses: `(when, how long)` nothing ran, where that is over a tenth of all the time in which something did.
        size: Of a unit, in seconds.
    """

    origin: float
    now: float
    pauses: tuple[tuple[float, float], ...]
    size: float
    unit: str

    @classmethod
    def of(cls, study: Study) -> Self | None:
        """The clock of a study; None before anything has started."""
        rows = gantt(study)
        if not rows:
            return None
        origin = min(row.start_s for row in rows)
        last = max(row.start_s if row.end_s is None else row.end_s for row in rows)
        now = last + 0.02 * (last - origin or 1.0) if any(row.end_s is None for row in rows) else last
        pauses = _pauses(rows, now)
        size, unit = wording.unit("wall_seconds", now - origin - sum(length for _, length in pauses))
        return cls(origin, now, tuple(pauses), size, unit)

    @property
    def end(self) -> float:
        """The place of `now`."""
        return self.place(self.now)

    def place(self, at: float) -> float:
        """Where a moment is on the axis."""
        return (at - sum(length for when, length in self.pauses if when < at) - self.origin) / self.size

    def label(self, ax: Axes, *, briefly: bool = False) -> None:
        """Set limits, ticks and name of the x axis; of a small panel only the unit is named."""
        ax.set_xlim(0, self.end * 1.005 or 1.0)
        look.linear_axis(ax.xaxis, 4 if briefly else 7)
        unit = self.unit.removeprefix("wall-")
        cut = " (pauses cut out)" if self.pauses else ""
        look.labels(ax, unit if briefly else f"{unit} since the first start{cut}", ax.get_ylabel())

    def mark_pauses(self, ax: Axes, y: float | None = None) -> None:
        """A line where a pause was cut out; at the height `y` it says how long that was."""
        for at, length in self.pauses:
            x = self.place(at)
            ax.axvline(x, color=INK, linewidth=1.2, linestyle=(0, (2, 2)), zorder=5)
            if y is not None:
                text = f"{wording.amount('wall_seconds', length)} pause "
                ax.text(x, y, text, ha="right", va="bottom", fontsize=8, color=MUTED)


def _pauses(rows: Sequence[SegmentRow], now: float) -> list[tuple[float, float]]:
    spans = merge([(row.start_s, now if row.end_s is None else row.end_s) for row in rows])
    busy = sum(b - a for a, b in spans)
    gaps = [(a[1], b[0] - a[1]) for a, b in itertools.pairwise(spans)]
    return [gap for gap in gaps if gap[1] > 0.1 * busy]
