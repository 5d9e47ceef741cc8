"""The report as one HTML page that needs nothing else: no network, no other file.

Whatever came from a job or a user is escaped here, once, by `text`. The same report gives the
same bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from matplotlib.figure import Figure

from frugalbo.budget.amounts import Resource
from frugalbo.report import wording
from frugalbo.report.calibration import Calibration
from frugalbo.report.calibration import calibration as compute_calibration
from frugalbo.report.findings import (
    TrialRow,
    accounts,
    against_defaults,
    gantt,
    longest_pause,
    main_resource,
    shown_resources,
    time_in_use,
    trial_rows,
    utilisation,
)
from frugalbo.report.html_parts import SCRIPT, STYLE
from frugalbo.report.html_tables import calibration as calibration_table
from frugalbo.report.html_tables import ending, explored, text
from frugalbo.report.html_tables import pauses as pause_table
from frugalbo.report.html_tables import pools as pool_table
from frugalbo.report.html_tables import together as pair_table
from frugalbo.report.importance import Importance
from frugalbo.report.importance import importance as compute_importance
from frugalbo.report.pictures import svg
from frugalbo.report.plot_style import COLOURS
from frugalbo.space import Fixed, Parameter
from frugalbo.study import Status, Study

if TYPE_CHECKING:
    from frugalbo.report import Report

_LONGEST_LOG: Final = 4000
_MOST_LOGS: Final = 50

# Name of a picture, the heading over it, what a reader should know.
_SECTIONS: Final = (
    (
        "best_so_far",
        "Best result against what was spent",
        "Each dot is a trial that went the full number of steps, placed at what all trials together had spent by then.",
    ),
    (
        "learning_curves",
        "Learning curves",
        "One line for each trial, as far as it has come, in the colour of its state; a cross where it failed.",
    ),
    (
        "slices",
        "Each knob against the objective",
        "A knob matters where its panel has a shape. Crosses over a panel are failed trials: they have no value.",
    ),
    (
        "parallel_coordinates",
        "All knobs at once",
        "Follow a line from left to right: one configuration and its result. Stronger lines are better.",
    ),
    (
        "importance",
        "Importance of each knob",
        "Sobol indices of a Gaussian process fitted to the results: shares of its variance over the whole space, not "
        "near the best. The percentage that the model explains is its leave-one-out R².",
    ),
    (
        "pareto",
        "What memory buys",
        "A dot is a trial: its result against what it takes of the resource, in which less is better. The line is the "
        "best that could be had for at most so much.",
    ),
    (
        "calibration",
        "Did the predictions hold?",
        "A dot is a trial, the line through it the predicted 95 % interval; on the diagonal the prediction was exact. "
        "As predicted: before the trial ran. Left out: by the final model, told of all results but this one.",
    ),
    (
        "gantt",
        "What the devices did",
        "Each bar is a segment of the trial with that number; a triangle where one goes on that had been set aside. "
        "Of more than 400 the bars alone are drawn.",
    ),
    (
        "pauses",
        "Who was set aside, and who went on",
        "A lane for each trial: a bar while it ran, with the step that it came to; a dark line while it waited, a "
        "faint one if it never went on. Why: its place among all trials that had come to this step by then.",
    ),
    ("money", "Where the budget went", "Exact amounts are in the table below."),
    (
        "pools",
        "Money and device time over time",
        "What ended segments were charged, and on top of it what was held for those that ran; each panel to its scale.",
    ),
    (
        "prices",
        "Prices over time",
        "Of each budget, as a multiple of its price at the beginning: above 1 it is spent faster than the run goes "
        "forward, and what needs it is put off; a cross where it was spent. Beyond 100 times it is drawn at 100.",
    ),
)


def page(
    report: Report,
    figures: Mapping[str, Figure],
    calibrated: Calibration | None = None,
    found: Importance | None = None,
    *,
    refresh_s: float | None = None,
) -> str:
    """The whole page, with `figures` from `pictures.draw`; calibration and importance are computed if not given.

    With `refresh_s` a browser loads it anew every so many seconds.
    """
    study = report.study
    after = {"pauses": pause_table(study), "pools": pool_table(study)}
    if "calibration" in figures:
        after["calibration"] = calibration_table(compute_calibration(study) if calibrated is None else calibrated)
    if "importance" in figures:
        after["importance"] = pair_table(compute_importance(study) if found is None else found)
    sections = [section for section in _SECTIONS if section[0] in figures]
    refresh = "" if refresh_s is None else f'<meta http-equiv="refresh" content="{math.ceil(refresh_s)}">\n'
    finding = text(wording.headline(study))
    body = [
        _header(report, finding),
        _tiles(report),
        *(_section(name, heading, words, figures[name]) for name, heading, words in sections[:1]),
        _configuration(study),
        ending(study, report.stop_reason),
        *(_section(name, heading, words, figures[name], after.get(name, "")) for name, heading, words in sections[1:]),
        explored(study),
        _accounts(study),
        _trials(study),
        _failures(study),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{refresh}"
        '<meta name="color-scheme" content="light dark">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'; img-src data:\">\n"
        f"<title>{text(study.problem.name, 60)}: {finding}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + f"\n</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _header(report: Report, finding: str) -> str:
    problem = report.study.problem
    facts = [f"problem <b>{text(problem.name, 80)}</b>"]
    if report.run_id:
        facts.append(f"run <b>{text(report.run_id, 80)}</b>")
    if report.stop_reason:
        facts.append(text(report.stop_reason))
    whole = re.sub(r"[\d.,]+ (of [\d.,]+ )?(device|wall)-[a-z]+", r"<span class=whole>\g<0></span>", finding)
    words = f"<p>{text(problem.description, 1000)}</p>" if problem.description else ""
    return f'<header>\n<h1>{whole}</h1>\n<p class="facts">{" · ".join(facts)}</p>{words}\n</header>'


def _tiles(report: Report) -> str:
    study, resource = report.study, main_resource(report.study)
    book = accounts(study, resource)
    metric = study.problem.objective.metric
    tiles = []
    if report.best is not None:
        lacking = wording.violation(study, report.best)
        aside = f"trial {report.best.number}" + (f", {lacking}" if lacking else "")
        tiles.append((f"{'nearest' if lacking else 'best'} {metric}", wording.number(report.best_value), aside))
        against = against_defaults(study)
        if against and against.gain is not None and against.best is not against.default:
            better = "lower" if study.problem.objective.sign > 0 else "higher"
            aside = (
                f"{better} than the defaults"
                if against.relative is None
                else f"better than the defaults' {wording.number(against.default_value)}"
            )
            size = wording.number(against.gain, 3) if against.relative is None else f"{100 * against.relative:.3g} %"
            tiles.append(("gain", size, aside))
    aside = f"of {wording.amount(resource, book.total)}" if book.total else "no limit"
    tiles.append(("spent", wording.amount(resource, book.spent, book.total), aside))
    if book.held:
        tiles.append(("held", wording.amount(resource, book.held, book.total), "by running segments"))
    done = sum(study.value(trial) is not None for trial in study.trials.values())
    tiles.append(("trials", str(len(study.trials)), f"{done} with a result"))
    if study.problem.bounds:
        met = sum(study.is_feasible(trial) for trial in study.trials.values())
        tiles.append(("meet the constraints", str(met), ", ".join(map(str, study.problem.bounds))))
    failed = len(study.with_status(Status.FAILED))
    if failed:
        tiles.append(("failed", str(failed), wording.share(failed, len(study.trials)) + " of the trials"))
    if (busy := utilisation(study, without_pauses=True)) is not None:
        rows = gantt(study)
        slots = wording.count(len({row.slot for row in rows}), "slot")
        aside = f"of {slots} for {wording.amount('wall_seconds', time_in_use(rows))}"
        aside += ", without pauses" if longest_pause(study) > 0.01 * time_in_use(rows) else ""
        tiles.append(("utilisation", wording.share(busy, 1), aside))
    items = "".join(
        f"<div><dt>{text(name, 40)}</dt><dd>{text(value, 30)}</dd><dd class=aside>{text(aside, 120)}</dd></div>"
        for name, value, aside in tiles
    )
    return f'<dl class="tiles">{items}</dl>'


def _section(name: str, heading: str, words: str, figure: Figure, after: str = "") -> str:
    description, key = text(heading), name.replace("_", "-")
    opening = f'<section id="{key}">\n<h2 class="over">{description}</h2>'
    if said := figure.get_label():
        return f'{opening}\n<p class="quiet">{text(said)}.</p>\n</section>'
    picture = svg(figure, f"{key}-picture", description)
    return f"{opening}\n<figure>{picture}<figcaption>{text(words)}</figcaption></figure>\n{after}</section>"


def _configuration(study: Study) -> str:
    best, against = study.best(), against_defaults(study)
    if best is None:
        return ""
    metric = text(study.problem.objective.metric, 40)
    defaults = study.problem.defaults or {}
    head = f"<th>knob</th><th class=range>range</th><th>best</th>{'<th>defaults</th>' if against else ''}"
    rows = []
    for name, p in study.problem.space.parameters.items():
        if name not in best.params and name not in defaults:
            continue
        value, default = best.params.get(name), defaults.get(name)
        changed = ' class="changed"' if against and value != default else ""
        cells = f"<th scope=row>{text(name, 60)}</th><td class=range>{_range(p, value, default)}</td>"
        cells += f"<td{changed}>{text(wording.setting(value), 80)}</td>"
        rows.append(f"<tr>{cells}{f'<td>{text(wording.setting(default), 80)}</td>' if against else ''}</tr>")
    result = f"<th scope=row>{metric}</th><td class=range></td><td><b>{text(wording.best_value(study, 5))}</b></td>"
    if against:
        result += f"<td>{wording.number(against.default_value, 5)}</td>"
    key = '<p class="key"><span class="best">●</span> best' + (
        ' <span class="default">◆</span> defaults</p>' if against else "</p>"
    )
    lacking = wording.violation(study, best)
    heading = "The configuration nearest to the constraints" if lacking else "The best configuration"
    said = " ".join(f"{part}." for part in (lacking or wording.gain(study), wording.constraints(study)) if part)
    return (
        f'<section id="configuration">\n<h2>{heading}</h2>\n'
        f"<p>Trial {best.number}: {text(said, 1000)}</p>\n"
        f'<div class="scroll"><table class="config"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody>'
        f"<tfoot><tr>{result}</tr></tfoot></table></div>{key}\n</section>"
    )


def _range(p: Parameter, value: object, default: object) -> str:
    """A line from the lower to the upper bound with the best and the default on it."""
    if isinstance(p, Fixed):
        return "<small>fixed</small>"
    marks = '<line x1="6" x2="154" y1="8" y2="8" class="track"/>'
    if default is not None:
        x = 6 + 148 * p.to_unit(default)
        marks += f'<path d="M{x:.1f} 2.5l5.5 5.5l-5.5 5.5l-5.5 -5.5z" class="default"/>'
    if value is not None:
        marks += f'<circle cx="{6 + 148 * p.to_unit(value):.1f}" cy="8" r="5" class="best"/>'
    return f'<svg viewBox="0 0 160 16" width="160" height="16" aria-hidden="true">{marks}</svg>'


def _accounts(study: Study) -> str:
    tables = "".join(_account(study, resource) for resource in shown_resources(study))
    return f'<section id="accounts">\n<h2>Accounts</h2>\n<div class="books">{tables}</div>\n</section>'


def _account(study: Study, resource: Resource) -> str:
    book = accounts(study, resource)
    whole = book.total or book.sum
    size, unit = wording.unit(resource, whole)
    colours = COLOURS | {"unspent": "var(--grid)", "overrun": "var(--ink)"}
    rows = "".join(
        f'<tr><th scope=row><i style="background:{colours[e.kind]}"></i>{text(e.label)}</th>'
        f"<td>{e.segments or ''}</td><td>{e.amount / size:,.2f}</td><td>{wording.share(e.amount, whole)}</td></tr>"
        for e in book.entries
    )
    total = f"<td></td><td>{book.sum / size:,.2f}</td><td>{wording.share(book.sum, whole)}</td>"
    name = "the budget" if book.total else "used and held"
    return (
        f'<div class="scroll"><table class="account"><caption>{text(unit)}</caption>'
        "<thead><tr><th></th><th>segments</th><th>amount</th><th>share</th></tr></thead>"
        f"<tbody>{rows}</tbody><tfoot><tr><th scope=row>{name}</th>{total}</tr></tfoot></table></div>"
    )


def _trials(study: Study) -> str:
    rows = trial_rows(study)
    if not rows:
        return ""
    names = list(study.problem.space.names)
    metric = text(study.problem.objective.metric, 40)
    bounded = [text(name, 40) for name in rows[0].measured]
    columns = [
        "trial",
        "status",
        metric,
        *bounded,
        "steps",
        "segments",
        "device-s",
        *(text(name, 60) for name in names),
    ]
    head = "".join(f'<th scope="col"><button type="button">{name}</button></th>' for name in columns)
    body = "".join(_trial(row, names) for row in rows)
    return (
        f'<section id="trials">\n<h2>{wording.count(len(rows), "trial")}</h2>\n'
        '<div class="scroll tall"><table class="sortable">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>\n</section>"
    )


def _trial(row: TrialRow, names: Sequence[str]) -> str:
    mark = (" ★" if row.is_best else "") + (" ◆" if row.is_default else "")
    said = f' title="{text(row.message)}"' if row.message else ""
    status = f'<span class="dot" style="background:{COLOURS[row.status.value]}"></span>{row.status}'
    status += f": {row.failure}" if row.failure else ""
    cells = [
        f'<td data-v="{row.number}">{row.number}{mark}</td><td{said}>{status}</td>',
        _number_cell(row.value, wording.number(row.value, 5)),
        *(_number_cell(value, _measured(row, metric)) for metric, value in row.measured.items()),
        f"<td>{row.last_step}</td><td>{row.segments}</td>",
        _number_cell(row.device_seconds, wording.number(row.device_seconds, 3)),
        *(_value_cell(row.params.get(name)) for name in names),
    ]
    css = ' class="top"' if row.is_best else ""
    return f"<tr{css}>{''.join(cells)}</tr>"


def _measured(row: TrialRow, metric: str) -> str:
    """The metric of a constraint; marked where the constraint is violated."""
    violated = row.value is not None and any(constraint.partition(" ")[0] == metric for constraint in row.violations)
    return wording.number(row.measured[metric], 5) + (" ✗" if violated else "")


def _value_cell(value: object) -> str:
    if isinstance(value, float):
        return _number_cell(value, wording.setting(value))
    return f"<td>{text(wording.setting(value), 60)}</td>"


def _number_cell(value: float | None, shown: str) -> str:
    return f'<td data-v="{"" if value is None else repr(float(value))}">{shown}</td>'


def _failures(study: Study) -> str:
    failed = [row for row in trial_rows(study) if row.status is Status.FAILED]
    if not failed:
        return ""
    by: dict[str, int] = {}
    for row in failed:
        by[str(row.failure)] = by.get(str(row.failure), 0) + 1
    reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(by.items(), key=lambda item: -item[1]))
    more = f"<p>and {len(failed) - _MOST_LOGS} more</p>" if len(failed) > _MOST_LOGS else ""
    return (
        f'<section id="failures">\n<h2>{wording.count(len(failed), "failure")}</h2>\n<p>{text(reasons)}.</p>\n'
        + "".join(_log(row) for row in failed[:_MOST_LOGS])
        + f"{more}\n</section>"
    )


def _log(row: TrialRow) -> str:
    tail = row.log_tail
    cut = "… (the end of the log)\n" if len(tail) > _LONGEST_LOG else ""
    shown = text(cut + tail[-_LONGEST_LOG:], 2 * _LONGEST_LOG) if tail.strip() else "(it printed nothing)"
    settings = _list(f"{name} = {wording.setting(value)}" for name, value in row.params.items())
    return (
        f"<details><summary><b>trial {row.number}</b> {text(row.failure)}: {text(row.message)}</summary>"
        f"<p class=facts>{settings}</p><pre>{shown}</pre></details>\n"
    )


def _list(items: Iterable[str]) -> str:
    return ", ".join(text(item, 80) for item in items)
