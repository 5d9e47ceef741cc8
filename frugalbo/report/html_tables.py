"""Tables of the page and what they mean: why a run ended, who was set aside, what models say, the money by pool."""

from __future__ import annotations

import html
from typing import Final

from frugalbo.budget.amounts import Resource
from frugalbo.events import Outcome
from frugalbo.report import wording
from frugalbo.report.calibration import Calibration
from frugalbo.report.exploration import exploration
from frugalbo.report.importance import Importance
from frugalbo.report.plot_clock import Clock
from frugalbo.report.plot_style import COLOURS
from frugalbo.report.spending import WHOLE, spending
from frugalbo.report.waiting import Wait, waits
from frugalbo.study import Status, Study

MOST_WAITS: Final = 300
_LONGEST_TEXT: Final = 300
_MOST_PAIRS: Final = 6


def text(value: object, longest: int = _LONGEST_TEXT) -> str:
    """Any text made harmless: escaped, cut, and without control characters other than line ends and tabs."""
    raw = str(value)
    raw = raw if len(raw) <= longest else raw[: longest - 1] + "…"
    # Surrogates are no characters: they could not be written as UTF-8.
    clean = "".join(
        c if c in "\n\t" or (c >= " " and not 0x7F <= ord(c) <= 0x9F and not 0xD800 <= ord(c) <= 0xDFFF) else "□"
        for c in raw
    )
    return html.escape(clean, quote=True)


def ending(study: Study, reason: str) -> str:
    """Why the run ended, what that left of the budget, and what setting trials aside has spared."""
    said = [reason, wording.left_text(study), wording.spared_text(study), wording.settling_text(study)]
    lines = "".join(f"<p>{text(part[0].upper() + part[1:], 1000)}.</p>" for part in said if part)
    heading = "Where it stands" if study.count(Status.RUNNING) else "Why it ended, and what was not spent"
    return f'<section id="ending">\n<h2>{heading}</h2>\n{lines}\n</section>' if lines else ""


def explored(study: Study) -> str:
    """How greedy a learned policy was; nothing of others."""
    found = exploration(study)
    if not found.is_learned:
        return ""
    return f'<section id="exploration">\n<h2>Did it explore?</h2>\n<p>{text(found.in_words(), 1000)}</p>\n</section>'


def pauses(study: Study) -> str:
    """Who was set aside at which step, how long it waited, and why; those that went on first, if they are many."""
    found, clock = waits(study), Clock.of(study)
    if not found or clock is None:
        return ""
    shown = found
    if len(found) > MOST_WAITS:
        shown = sorted(found, key=lambda wait: wait.until_s is None)[:MOST_WAITS]
        shown.sort(key=lambda wait: (wait.from_s, wait.trial))
    heads = ("trial", "at step", "was", "after", "waited", "went on", "why")
    head = "".join(f'<th scope="col"><button type="button">{name}</button></th>' for name in heads)
    more = len(found) - len(shown)
    note = f"<p>and {more:,} more, of trials that did not go on; all are in <code>to_json()</code></p>" if more else ""
    return (
        f'<div class="scroll tall"><table class="sortable"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(_wait(wait, clock) for wait in shown)}</tbody></table></div>{note}\n"
    )


def together(found: Importance) -> str:
    """Which knobs must move together, and what share of the variance takes two."""
    said = wording.together_text(found)
    if said is None:
        return ""
    rows = "".join(
        f"<tr><th scope=row>{text(one, 60)}, {text(other, 60)}</th><td>{wording.share(share, 1)}</td></tr>"
        for one, other, share in found.pairs[:_MOST_PAIRS]
    )
    table = (
        '<div class="scroll"><table class="account"><thead><tr><th>two knobs</th><th>share that takes both</th></tr>'
        f"</thead><tbody>{rows}</tbody></table></div>\n"
    )
    return f"<p>{text(said, 1000)}.</p>\n{table if rows else ''}"


def calibration(found: Calibration) -> str:
    """The counts in a table, and in a sentence each."""
    if not found.kinds:
        return ""
    names = {"made": "results, as predicted", "left_out": "results, left out", "cost": "costs, as predicted"}
    rows = []
    for coverage in found.kinds:
        low, high = coverage.expected
        error = coverage.typical_error
        cells = [
            len(coverage.predictions),
            coverage.inside,
            f"{low} to {high}" if low < high else low,
            f"×{wording.number(error, 3)}" if coverage.kind == "cost" else wording.number(error, 3),
        ]
        cells = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f"<tr><th scope=row>{names[coverage.kind]}</th>{cells}</tr>")
    heads = ("", "predictions", "within 95 %", "no surprise", "typical error")
    head = "".join(f"<th>{name}</th>" for name in heads)
    words = " ".join(coverage.in_words() for coverage in found.kinds)
    return (
        f'<div class="scroll"><table class="account"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>\n<p>{text(words, 1000)}</p>"
    )


def pools(study: Study) -> str:
    """What each pool spent, holds, and may spend."""
    names = [name for name in spending(study, "device_seconds") if name != WHOLE]
    if not names:
        return ""
    cells = {name: _pool_cells(study, name) for name in names}
    heads = ("pool", "segments", "taken away", "device time", "held", "budget", "dollars", "held", "budget")
    head = "".join(f"<th>{name}</th>" for name in heads)
    rows = "".join(f"<tr><th scope=row>{text(name, 60)}</th>{cells[name]}</tr>" for name in names)
    return (
        f'<div class="scroll"><table class="account"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>\n"
    )


def _pool_cells(study: Study, pool: str) -> str:
    segments = [(t, i) for t in study.trials.values() for i, start in enumerate(t.starts) if start.pool == pool]
    taken = sum(i < len(t.ends) and t.ends[i].outcome == Outcome.INTERRUPTED for t, i in segments)
    cells = [str(len(segments)), str(taken or "")]
    resources: tuple[Resource, ...] = ("device_seconds", "dollars")
    for resource in resources:
        book = spending(study, resource)[pool]
        amounts = (book.spent[-1], book.held[-1] or None, book.budget)
        cells += ["" if amount is None else wording.amount(resource, amount) for amount in amounts]
    return "".join(f"<td>{cell}</td>" for cell in cells)


def _wait(wait: Wait, clock: Clock) -> str:
    since = wait.from_s - clock.origin
    went_on = "never"
    if wait.until_s is not None:
        went_on = f"to {wait.went_on_to:,}"
        went_on += f", as trial {wait.went_on_as}" if wait.went_on_as != wait.trial else ""
    waited = "" if wait.waited_s is None else wording.amount("wall_seconds", wait.waited_s)
    dot = f'<span class="dot" style="background:{COLOURS[wait.outcome.value]}"></span>{wait.outcome}'
    return (
        f'<tr><td>{wait.trial}</td><td data-v="{wait.step}">{wait.step:,}</td><td>{dot}</td>'
        f'<td data-v="{since!r}">{wording.amount("wall_seconds", since)}</td>'
        f'<td data-v="{"" if wait.waited_s is None else repr(wait.waited_s)}">{waited}</td>'
        f"<td>{went_on}</td><td>{text(wording.reason(wait))}</td></tr>"
    )
