"""The pictures of a run: each function takes a `Study` and returns a matplotlib `Figure`.

No global state of matplotlib is used or changed. Every study has every picture; where there is
nothing to draw, the picture says why. Failed trials are marks at the edge, never invented values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from frugalbo.report import plot_style as look
from frugalbo.report import wording
from frugalbo.report.calibration import Calibration, Coverage
from frugalbo.report.calibration import calibration as compute_calibration
from frugalbo.report.findings import accounts, against_defaults, default_trial, main_resource, results
from frugalbo.report.findings import best_so_far as improvements
from frugalbo.report.importance import Importance
from frugalbo.report.importance import importance as compute_importance
from frugalbo.report.plot_curves import learning_curves
from frugalbo.report.plot_pareto import pareto
from frugalbo.report.plot_pauses import pauses
from frugalbo.report.plot_pools import pools
from frugalbo.report.plot_prices import prices
from frugalbo.report.plot_style import BLUE, COLOURS, FAINT, GRID, INK, MUTED, ORANGE, PAPER
from frugalbo.report.plot_time import gantt, money
from frugalbo.space import Choice, Fixed, Parameter
from frugalbo.study import Status, Study, Trial

__all__ = [
    "FIGURES",
    "best_so_far",
    "calibration",
    "gantt",
    "importance",
    "learning_curves",
    "money",
    "parallel_coordinates",
    "pareto",
    "pauses",
    "pools",
    "prices",
    "slices",
]

# Both keep apart from light and dark backgrounds, and read alike in grey.
_EARLY_TO_LATE: Final = LinearSegmentedColormap.from_list("order", ["#bccbd8", "#4a9fd0", "#0f5f99"])
_BAD_TO_GOOD: Final = LinearSegmentedColormap.from_list("rank", ["#93a3b3", "#4a9fd0", "#1a7cc0"])
_STAR: Final = {"marker": "*", "s": 190, "color": BLUE, "edgecolors": INK, "linewidths": 0.9, "zorder": 6}
_DIAMOND: Final = {"marker": "D", "s": 48, "color": ORANGE, "edgecolors": PAPER, "linewidths": 0.8, "zorder": 5}
_VIOLATING: Final = {
    "marker": "o", "s": 22, "facecolors": "none", "edgecolors": FAINT, "linewidths": 1.0,
    "label": "violates a constraint",
}  # fmt: skip
_CROSS: Final = {"marker": "x", "s": 26, "color": COLOURS["failed"], "linewidths": 1.3, "clip_on": False, "zorder": 4}


def best_so_far(study: Study) -> Figure:
    """The best result against what was spent, with all results, the defaults and the budget."""
    resource = main_resource(study)
    found = results(study, resource)
    if not found:
        return look.note("No trial has a result at the full number of steps yet")
    objective, account = study.problem.objective, accounts(study, resource)
    size, name = wording.unit(resource, account.total or found[-1].spent)
    end = max(account.spent, found[-1].spent) / size
    figure = look.new_figure(3.9)
    ax = figure.add_subplot()
    look.style(ax)
    x, y = [r.spent / size for r in found], [r.value for r in found]
    default = against_defaults(study)
    keep = [default.default_value] if default and default.default_value is not None else []
    look.value_axis(ax, y, keep, worst_is_high=study.problem.objective.sign > 0)
    low, high = ax.get_ylim()
    for met, marks in (
        (True, {"s": 22, "edgecolors": "none", "color": FAINT, "label": "a trial"}),
        (False, _VIOLATING),
    ):
        inside = [(a, r.value) for a, r in zip(x, found, strict=True)
                  if low <= r.value <= high and study.is_feasible(study.trials[r.trial]) == met]  # fmt: skip
        if inside:
            ax.scatter(*zip(*inside, strict=True), zorder=3, **marks)  # type: ignore[arg-type]
    look.mark_outside(ax, x, y)
    best = improvements(study, resource)
    steps = [(s / size, objective.to_loss(loss)) for s, loss, _ in best]
    if steps:
        xs, ys = zip(*steps, (end, steps[-1][1]), strict=True)
        ax.plot(xs, ys, drawstyle="steps-post", color=BLUE, linewidth=2.2, zorder=4, label="best so far")
        ax.scatter(*steps[-1], **_STAR, label=f"the best, trial {best[-1][2]}")
    if keep:
        ax.axhline(keep[0], color=ORANGE, linewidth=1.6, linestyle=(0, (5, 3)), zorder=2, label="defaults")
    right = (account.total or 0) / size
    if account.total:
        ax.axvspan(end, max(right, end), color=GRID, alpha=0.45, linewidth=0, zorder=0)
        ax.axvline(right, color=INK, linewidth=1.4, zorder=2, label="the budget")
    ax.set_xlim(0, max(right, end) * 1.02)
    look.linear_axis(ax.xaxis)
    look.labels(ax, f"spent ({name})", objective.metric)
    look.title(ax, wording.headline(study))
    look.legend(ax, columns=6, outside=True)
    return figure


def slices(study: Study) -> Figure:
    """One panel for each knob: its value against the objective."""
    knobs = _knobs(study)
    known = [(t, v) for t in study.trials.values() if (v := study.value(t)) is not None]
    failed = study.with_status(Status.FAILED)
    if not known and not failed:
        return look.note("No trial has a result or has failed yet")
    columns = min(len(knobs), 3 if len(knobs) in (3, 5, 6, 9) else 4 if len(knobs) > 3 else 2)
    rows = -(-len(knobs) // columns)
    figure = look.new_figure(0.9 + 2.3 * rows)
    figure.get_layout_engine().set(h_pad=0.14)  # type: ignore[union-attr]
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    values = [v for _, v in known]
    for i, ax in enumerate(axes.flat):
        if i >= len(knobs):
            ax.set_visible(False)
            continue
        look.style(ax)
        if i == 0:
            look.value_axis(ax, values, [], worst_is_high=study.problem.objective.sign > 0)
        look.parameter_axis(ax, knobs[i][1], 108 // columns)
        _slice(ax, *knobs[i], known, failed, study)
        ax.tick_params(labelleft=i % columns == 0)
        look.labels(
            ax,
            look.plain(knobs[i][0], 120 // columns, keep_end=4),
            study.problem.objective.metric if i % columns == 0 else "",
        )
    if len(known) > 1:
        norm = Normalize(min(t.number for t, _ in known), max(t.number for t, _ in known))
        bar = figure.colorbar(ScalarMappable(norm, _EARLY_TO_LATE), ax=axes, shrink=0.6, aspect=30, pad=0.01)
        bar.outline.set_visible(False)  # type: ignore[operator]
        bar.ax.tick_params(labelsize=8, labelcolor=INK, length=0)
        bar.ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        bar.set_label("trial", color=MUTED, fontsize=9)
    _legend_of_marks(figure, study, failed)
    figure.suptitle(_slices_title(study), x=0.01, ha="left", color=INK, fontsize=11.5, fontweight="bold")
    return figure


def parallel_coordinates(study: Study) -> Figure:
    """One axis for each knob and one for the objective, one line for each trial with a result."""
    knobs = _knobs(study)
    known = [(t, v) for t in study.trials.values() if (v := study.value(t)) is not None]
    if len(known) < 2:
        return look.note("Fewer than two trials have a result: nothing to compare yet")
    figure = look.new_figure(4.4)
    ax = figure.add_subplot()
    ax.set_axis_off()
    to_loss, d = study.problem.objective.to_loss, len(knobs)
    values = [v for _, v in known]
    ends = look.clip_range(values, worst_is_high=study.problem.objective.sign > 0)
    ranked = sorted(known, key=lambda pair: -to_loss(pair[1]))  # the best is drawn last
    names = [name for name, _ in knobs]
    best, default = study.best(), default_trial(study)
    for rank, (trial, value) in enumerate(ranked):
        u = dict(zip(study.problem.space.names, study.problem.space.encode(trial.params), strict=True))
        points = [u[n] if n in trial.params else np.nan for n in names]
        points.append(float(np.clip((value - ends[0]) / (ends[1] - ends[0]), 0, 1)))
        chosen = trial is best or trial is default
        color = BLUE if trial is best else ORANGE if chosen else _BAD_TO_GOOD(rank / max(1, len(ranked) - 1))
        width = 2.6 if trial is best else 2.0 if chosen else 1.0
        label = f"the best, trial {trial.number}" if trial is best else "defaults" if chosen else None
        alpha = 1.0 if chosen else 0.12 + (0.7 if len(known) < 100 else 0.45) * rank / max(1, len(ranked) - 1)
        ax.plot(range(d + 1), points, color=color, linewidth=width, alpha=alpha, zorder=5 if chosen else 2,
                marker="o", markersize=3.6 if chosen else 1.8, markeredgewidth=0, label=label)  # fmt: skip
    for i, (name, p) in enumerate(knobs):
        _upright(ax, i, name, _parameter_ticks(p), d)
    shown = MaxNLocator(4).tick_values(*ends)
    inside = [(float((v - ends[0]) / (ends[1] - ends[0])), wording.number(float(v))) for v in shown]
    _upright(ax, d, study.problem.objective.metric, [(u, t) for u, t in inside if 0 <= u <= 1], d, bold=True)
    ax.set_xlim(-0.35, d + 0.35)
    ax.set_ylim(-0.04, 1.06)
    look.title(ax, f"{wording.count(len(known), 'trial')} with a result; stronger is better, a gap is an inactive knob"
               if study.problem.space.is_conditional
               else f"{wording.count(len(known), 'trial')} with a result; stronger is better")  # fmt: skip
    ax.title.set_visible(True)
    look.legend(ax, columns=3, outside=True)
    return figure


def importance(study: Study, found: Importance | None = None) -> Figure:
    """The share of the variance that each knob explains; `found` saves computing it again."""
    found = compute_importance(study) if found is None else found
    if found.reason:
        return look.note(wording.importance_verdict(found))
    rows = found.ranked()[:15][::-1]
    figure = look.new_figure(1.5 + 0.32 * len(rows))
    ax = figure.add_subplot()
    look.style(ax, grid="x")
    weak = wording.is_weak(found)
    y = np.arange(len(rows))
    total, first = np.array([r[2] for r in rows]), np.array([r[1] for r in rows])
    ax.barh(y, total, 0.62, color="#9cc9e6" if not weak else "#d9dde3", label="together with others (total effect)")
    ax.barh(y, first, 0.62, color=BLUE if not weak else "#9aa1ac", label="by itself (first order)")
    for i, value in enumerate(total):
        ax.text(value + 0.008, i, wording.share(float(value), 1), va="center", color=INK, fontsize=9)
    ax.set_yticks(y, [look.plain(r[0], 32, keep_end=6) for r in rows])
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(0, max(0.1, float(total.max()) * 1.12))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f} %"))
    look.labels(ax, f"share of the variance of {study.problem.objective.metric} over the space", "")
    look.title(ax, wording.importance_verdict(found))
    look.legend(ax, columns=2, outside=True)
    return figure


def calibration(study: Study, found: Calibration | None = None) -> Figure:
    """Predicted against observed with 95 % intervals, results and costs; `found` saves computing it again."""
    found = compute_calibration(study) if found is None else found
    if not found.kinds:
        return look.note(found.made.reason.rstrip("."))
    figure = look.new_figure(3.9)
    panels = np.atleast_1d(figure.subplots(1, len(found.kinds)))
    metric = study.problem.objective.metric
    titles = {"made": f"{metric}, as predicted", "left_out": f"{metric}, left out", "cost": "cost, as predicted"}
    for ax, coverage in zip(panels, found.kinds, strict=True):
        _calibration_panel(ax, coverage, study)
        look.title(ax, f"{titles[coverage.kind]}: {coverage.inside} of {len(coverage.predictions)}")
    panels[0].set_ylabel("observed", color=MUTED)
    look.legend(max(panels, key=lambda ax: len(ax.get_legend_handles_labels()[0])), columns=3, outside=True)
    return figure


def _calibration_panel(ax: Axes, coverage: Coverage, study: Study) -> None:
    look.style(ax)
    shown = coverage.predictions
    observed, predicted = [p.observed for p in shown], [p.predicted for p in shown]
    is_log = look.log_is_better([*observed, *predicted])
    if is_log:
        ends = min([*observed, *predicted]), max([*observed, *predicted])
        pad = (ends[1] / ends[0]) ** 0.06
        low, high = ends[0] / pad, ends[1] * pad
        for axis in (ax.xaxis, ax.yaxis):
            look.log_axis(axis, 4)
    else:
        worst_is_high = coverage.kind == "cost" or study.problem.objective.sign > 0
        low, high = look.clip_range([*observed, *predicted], worst_is_high=worst_is_high)
        for axis in (ax.xaxis, ax.yaxis):
            look.linear_axis(axis, 4)
    ax.plot([low, high], [low, high], color=MUTED, linewidth=1.0, zorder=2)
    for inside, colour, label in ((True, BLUE, "within its 95 % interval"), (False, ORANGE, "outside")):
        of = [p for p in shown if p.is_inside is inside]
        if of:
            y = [p.observed for p in of]
            ax.hlines(y, [p.low for p in of], [p.high for p in of], color=colour, linewidth=1.2, alpha=0.45, zorder=3)
            ax.scatter([p.predicted for p in of], y, s=20, color=colour, edgecolors="none", zorder=4, label=label)
    ax.set_xlim(low, high)
    ax.set_ylim(low, high)
    if is_log:
        for axis in (ax.xaxis, ax.yaxis):
            look.fit_log_ticks(axis, 4)
    unit = " (device-seconds)" if coverage.kind == "cost" else ""
    look.labels(ax, f"predicted{unit}", "")


FIGURES: Final[dict[str, Callable[[Study], Figure]]] = {
    "best_so_far": best_so_far,
    "learning_curves": learning_curves,
    "slices": slices,
    "parallel_coordinates": parallel_coordinates,
    "importance": importance,
    "pareto": pareto,
    "calibration": calibration,
    "gantt": gantt,
    "pauses": pauses,
    "money": money,
    "pools": pools,
    "prices": prices,
}


def _slice(
    ax: Axes, name: str, p: Parameter, known: Sequence[tuple[Trial, float]], failed: Sequence[Trial], study: Study
) -> None:
    best, default = study.best(), default_trial(study)
    here = [(look.place(p, t.params[name]), v, t) for t, v in known if name in t.params]
    low, high = ax.get_ylim()
    inside = [row for row in here if low <= row[1] <= high and row[2] not in (best, default)]
    last = max((t.number for t, _ in known), default=1)
    first = min((t.number for t, _ in known), default=0)
    if inside:
        xs, ys, trials = zip(*inside, strict=True)
        marker: dict[str, Any] = {"marker": "_", "s": 230, "linewidths": 1.4} if isinstance(p, Choice) else {"s": 20}
        marker["alpha"] = 0.9 if len(inside) < 80 else 0.55
        ax.scatter(xs, ys, c=[t.number for t in trials], cmap=_EARLY_TO_LATE, vmin=first, vmax=max(last, first + 1),
                   zorder=3, **marker)  # fmt: skip
    look.mark_outside(ax, [x for x, _, _ in here], [y for _, y, _ in here])
    for trial, mark in ((default, _DIAMOND), (best, _STAR)):
        if (
            trial is not None
            and name in trial.params
            and study.value(trial) is not None
            and (trial is best or best is not default)
        ):
            ax.scatter(look.place(p, trial.params[name]), study.value(trial), **mark)  # type: ignore[arg-type]
    broken = [look.place(p, t.params[name]) for t in failed if name in t.params]
    if broken:
        ax.scatter(broken, [1.05] * len(broken), transform=ax.get_xaxis_transform(), **_CROSS)
    if not here and not broken:
        ax.text(0.5, 0.5, "never active", transform=ax.transAxes, ha="center", color=MUTED, fontsize=9)


def _legend_of_marks(figure: Figure, study: Study, failed: Sequence[Trial]) -> None:
    best, default = study.best(), default_trial(study)
    marks = []
    if best is not None:
        marks.append((_STAR, f"the best, trial {best.number}" + (" (the defaults)" if best is default else "")))
    if default is not None and default is not best and study.value(default) is not None:
        marks.append((_DIAMOND, "defaults"))
    if failed:
        marks.append((_CROSS, "failed (no value)"))
    if not marks:
        return
    ghost = figure.add_axes((0, 0, 0, 0), frameon=False, label="marks")
    ghost.set_visible(False)  # also out of the tight bounding box, in which notebooks show a figure
    handles = [ghost.scatter([], [], **{k: v for k, v in mark.items() if k != "clip_on"}) for mark, _ in marks]
    figure.legend(handles, [text for _, text in marks], loc="outside lower left", ncols=3, frameon=False,
                  labelcolor=INK, fontsize=9)  # fmt: skip


def _upright(ax: Axes, x: float, name: str, ticks: Sequence[tuple[float, str]], d: int, *, bold: bool = False) -> None:
    ax.add_collection(LineCollection([[(x, 0), (x, 1)]], colors=MUTED, linewidths=1.0, zorder=6))
    longest = max(8, 90 // (d + 1))
    for u, text in ticks:
        ax.text(x + 0.03, u, look.plain(text, 12), fontsize=8, color=INK, va="center", zorder=8,
                bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 0.6})  # fmt: skip
    weight = "bold" if bold else "normal"
    shown = look.plain(name, longest, keep_end=3)
    rotation = 0 if d < 9 else 20
    ax.text(x, -0.07, shown, fontsize=9, color=INK, ha="center", va="top", fontweight=weight, rotation=rotation)


def _parameter_ticks(p: Parameter) -> list[tuple[float, str]]:
    if isinstance(p, Fixed):
        return []
    if p.levels is not None and p.levels <= 6:
        values = p.values if isinstance(p, Choice) else range(int(p.lower), int(p.upper) + 1)
        return [(p.to_unit(v), wording.setting(v)) for v in values]
    return [(u, wording.setting(v if isinstance(v, int) else float(f"{v:.2g}")))  # type: ignore[arg-type]
            for u in (0.0, 0.25, 0.5, 0.75, 1.0) for v in (p.from_unit(u),)]  # fmt: skip


def _knobs(study: Study) -> list[tuple[str, Parameter]]:
    space = study.problem.space
    return [(name, space.parameters[name]) for name in space.names]


def _slices_title(study: Study) -> str:
    best = study.best()
    if best is None:
        return "No result; crosses are failed trials"
    names = study.problem.space.names
    shown = ", ".join(f"{n} {wording.setting(best.params[n])}" for n in names[:4] if n in best.params)
    which = "best" if study.best_is_feasible() else "nearest to the constraints"
    return look.plain(f"The {which} is at {shown}" + (", …" if len(names) > 4 else ""), 95)
