"""Pictures as files: PNG for others, SVG to stand inside a page. The same study gives the same bytes."""

from __future__ import annotations

import io
import re
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure

from frugalbo.report import plots
from frugalbo.report.calibration import Calibration
from frugalbo.report.importance import Importance
from frugalbo.report.plot_style import GRID, INK, MUTED, PAPER
from frugalbo.study import Study

_THEME: Final = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper"}
_DPI: Final = 150
_NOT_LIVE: Final = {"slices", "parallel_coordinates", "importance", "calibration", "pareto"}


def draw(
    study: Study, found: Importance | None = None, calibrated: Calibration | None = None, *, live: bool = False
) -> dict[str, Figure]:
    """All pictures of a study by name; the importance and the calibration are computed if they are not given.

    Those of a live page are of what happens: none that fits a model, or is of all knobs.
    """
    with_findings = {
        "importance": lambda: plots.importance(study, found),
        "calibration": lambda: plots.calibration(study, calibrated),
    }
    return {
        name: with_findings[name]() if name in with_findings else make(study)
        for name, make in plots.FIGURES.items()
        if not (live and name in _NOT_LIVE)
    }


def png(figure: Figure) -> bytes:
    """A picture as PNG, without a date."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=_DPI, facecolor=PAPER, metadata={"Software": None})
    return out.getvalue()


def svg(figure: Figure, name: str, description: str) -> str:
    """A picture as an `<svg>` element with texts as texts, in the colours of the page's theme.

    Args:
        figure: Of matplotlib.
        name: Unique on the page: all ids within start with it.
        description: What it shows, for those who cannot see it; already escaped.
    """
    out = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(out, format="svg", transparent=True)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    # The metadata has a date, which would differ between two pictures of the same study.
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\sid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    for colour, variable in _THEME.items():
        text = re.sub(colour, f"var({variable}, {colour})", text, flags=re.IGNORECASE)
    # The page's own font; matplotlib measured with one of the widest, so anything fits.
    text = re.sub(r"font: ([^;\"]*?)([\d.]+px) [^;\"]*", r"font: \1\2 var(--font, sans-serif)", text)
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)[0]
    opening = f'<svg role="img" aria-label="{description}" viewBox="0 0 {width} {height}" class="picture"'
    opening += ' xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    return re.sub(r"^<svg[^>]*>", lambda _: opening, text)
