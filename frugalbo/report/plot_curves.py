"""The learning curves of all trials, by what became of them; of very many, a part that says how large it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from frugalbo.report import plot_style as look
from frugalbo.report import wording
from frugalbo.report.findings import default_trial
from frugalbo.report.plot_style import BLUE, COLOURS, MUTED, ORANGE, PAPER
from frugalbo.report.waiting import rungs
from frugalbo.study import Status, Study, Trial

MOST_CURVES: Final = 150
_MOST_POINTS: Final = 48  # of one curve, beside its last
# As elsewhere, but for yellow: a thin line of it cannot be seen on white.
_LINES: Final = {status: COLOURS[status.value] for status in Status} | {Status.RUNNING: "#009e73"}
_ORDER: Final = (Status.COMPLETED, Status.STOPPED, Status.PAUSED, Status.FAILED, Status.RUNNING)  # the last on top
_NAMES: Final = {Status.COMPLETED: "finished"}
_ENDS: Final = {Status.FAILED: ("x", 22), Status.STOPPED: ("o", 12), Status.RUNNING: ("o", 18)}

Curve = list[tuple[int, float]]


def learning_curves(study: Study) -> Figure:
    """The objective against steps: a line for each trial, in the colour of its state, with the rungs.

    Of more than `MOST_CURVES` the best, the defaults and what runs are drawn, and of each state as large a part,
    evenly over the values reached; of a long curve, some points. The title says how many there are.
    """
    problem = study.problem
    curves = {t.number: [(s, v) for s, v in t.curve(problem.objective.metric) if np.isfinite(v)]
              for t in study.trials.values()}  # fmt: skip
    if max((len(curve) for curve in curves.values()), default=0) < 2:
        return look.note("No curves: every trial reports the objective once at most")
    figure = look.new_figure(4.4)
    ax = figure.add_subplot()
    look.style(ax)
    values = [v for curve in curves.values() for _, v in curve]
    look.value_axis(ax, values, [], worst_is_high=problem.objective.sign > 0)
    steps = [s for curve in curves.values() for s, _ in curve]
    marks = rungs(study)
    # Rungs are spaced geometrically, and most trials end at the first of them.
    is_log = max(steps) > (20 if len(marks) > 1 else 300) * max(1, min(steps))
    drawn = _chosen(study, curves)
    alpha = min(0.75, max(0.3, 25 / len(drawn)))
    best, default = study.best(), default_trial(study)
    for status in _ORDER:
        of = [trial for trial in drawn if trial.status == status]
        if of:
            own = [_thinned(curves[t.number], is_log=is_log) for t in of if t not in (best, default)]
            _lines(ax, own, status, f"{_NAMES.get(status, status)} ({study.count(status):,})", alpha)
    apart = None if default is best else default
    for trial, color, label in ((apart, ORANGE, "defaults"), (best, BLUE, "the best")):
        if trial is not None and curves[trial.number]:
            xs, ys = zip(*_thinned(curves[trial.number], is_log=is_log), strict=True)
            text = f"{label}, trial {trial.number}" + (" (the defaults)" if best is default else "")
            ax.plot(xs, ys, color=PAPER, linewidth=4.5, zorder=7)
            ax.plot(xs, ys, color=color, linewidth=2.4, marker="o", markersize=3.5, zorder=8, label=text)
    if is_log:
        look.log_axis(ax.xaxis)
    else:
        look.linear_axis(ax.xaxis)
        ax.set_xlim(0, max(*steps, problem.steps) * 1.02)
    for i, step in enumerate(marks):
        label = "a rung: where trials were set aside" if i == 0 else None
        ax.axvline(step, color=MUTED, linewidth=0.9, linestyle=(0, (2, 3)), zorder=1, label=label)
    look.labels(ax, problem.fidelity.name if problem.fidelity else "steps", problem.objective.metric)
    look.title(ax, _title(study, len(drawn), sum(bool(curve) for curve in curves.values())))
    look.legend(ax, columns=4, outside=True)
    return figure


def _chosen(study: Study, curves: dict[int, Curve]) -> list[Trial]:
    """The trials to draw, by number."""
    known = [trial for trial in study.trials.values() if curves[trial.number]]
    if len(known) <= MOST_CURVES:
        return known
    always = [t for t in (study.best(), default_trial(study)) if t is not None and curves[t.number]]
    running = [trial for trial in known if trial.status == Status.RUNNING]
    always += _evenly([t for t in running if t not in always], MOST_CURVES // 2)
    rest = [trial for trial in known if trial.status != Status.RUNNING and trial not in always]
    rest.sort(key=lambda t: (_ORDER.index(t.status), curves[t.number][-1][1], t.number))
    chosen = {trial.number: trial for trial in (*always, *_evenly(rest, MOST_CURVES - len(always)))}
    return [chosen[number] for number in sorted(chosen)]


def _evenly(trials: Sequence[Trial], most: int) -> list[Trial]:
    if len(trials) <= most:
        return list(trials)
    return [trials[i] for i in np.linspace(0, len(trials) - 1, most).round().astype(int)]


def _thinned(curve: Curve, *, is_log: bool) -> Curve:
    """Some points of a long curve, evenly along the axis, and its last."""
    if len(curve) <= _MOST_POINTS:
        return curve
    steps = np.array([step for step, _ in curve])
    even = (np.geomspace if is_log else np.linspace)(max(1, steps[0]), steps[-1], _MOST_POINTS)
    places = np.unique(np.searchsorted(steps, even).clip(0, len(curve) - 1))
    return [curve[i] for i in (*places[:-1], len(curve) - 1)]


def _lines(ax: Axes, curves: Sequence[Curve], status: Status, label: str, alpha: float) -> None:
    color, order = _LINES[status], 2 + _ORDER.index(status) / 2
    width = 1.4 if status == Status.RUNNING else 1.0
    strong = {Status.RUNNING: 0.9, Status.FAILED: 0.9, Status.COMPLETED: max(0.6, alpha)}.get(status, alpha)
    lines = [curve for curve in curves if len(curve) > 1]
    ax.add_collection(LineCollection(lines, colors=color, linewidths=width, alpha=strong, zorder=order), autolim=False)
    ax.plot([], [], color=color, linewidth=1.6, label=label)
    ends = {curve[-1] for curve in curves if len(curve) == 1 or status in _ENDS}
    if ends:
        marker, size = _ENDS.get(status, (".", 12))
        ax.scatter(*zip(*sorted(ends), strict=True), marker=marker, s=size, color=color, linewidths=1.0, zorder=order)


def _title(study: Study, drawn: int, of: int) -> str:
    full = sum(study.value(trial) is not None for trial in study.trials.values())
    name = study.problem.fidelity.name if study.problem.fidelity else "steps"
    text = f"{full:,} of {wording.count(len(study.trials), 'trial')} went all {study.problem.steps:,} {name}"
    return text + (f"; {drawn} of {of:,} curves are drawn" if drawn < of else "")
