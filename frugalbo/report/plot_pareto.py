"""The objective against a resource, such as memory, and the best that could be had for at most so much of it."""

from __future__ import annotations

from matplotlib.figure import Figure

from frugalbo.report import plot_style as look
from frugalbo.report import wording
from frugalbo.report.findings import default_trial
from frugalbo.report.pareto import Front
from frugalbo.report.pareto import pareto as compute_front
from frugalbo.report.plot_style import BLUE, FAINT, INK, ORANGE, PAPER
from frugalbo.study import Study


def pareto(study: Study, against: str | None = None) -> Figure:
    """All results beside what they take of a resource; `against` as for `frugalbo.report.pareto`."""
    front = compute_front(study, against)
    if not front.points:
        return look.note(wording.pareto_verdict(study, front))
    figure = look.new_figure(3.9)
    ax = figure.add_subplot()
    look.style(ax)
    size, unit = _unit(front)
    x, y = [p.amount / size for p in front.points], [p.value for p in front.points]
    if look.log_is_better(x):
        look.log_axis(ax.xaxis)
    else:
        look.linear_axis(ax.xaxis)
    look.value_axis(ax, y, [p.value for p in front.best], worst_is_high=study.problem.objective.sign > 0)
    low, high = ax.get_ylim()
    inside = [(a, v) for a, v in zip(x, y, strict=True) if low <= v <= high]
    ax.scatter(*zip(*inside, strict=True), s=22, color=FAINT, edgecolors="none", zorder=3, label="a trial")
    look.mark_outside(ax, x, y)
    xs, ys = [p.amount / size for p in front.best], [p.value for p in front.best]
    ax.plot([*xs, max(x)], [*ys, ys[-1]], drawstyle="steps-post", color=BLUE, linewidth=2.2, zorder=4)
    ax.scatter(xs, ys, s=42, color=BLUE, edgecolors=PAPER, zorder=5, label="the best for at most so much")
    default = default_trial(study)
    if default is not None and (of := [p for p in front.points if p.trial == default.number]):
        ax.scatter([of[0].amount / size], [of[0].value], marker="D", s=48, color=ORANGE, edgecolors=INK,
                   linewidths=0.8, zorder=6, label="defaults")  # fmt: skip
    look.fit_log_ticks(ax.xaxis) if look.log_is_better(x) else None
    look.labels(ax, f"{front.against} ({unit})" if unit else front.against, study.problem.objective.metric)
    look.title(ax, wording.pareto_verdict(study, front))
    look.legend(ax, columns=4, outside=True)
    return figure


def _unit(front: Front) -> tuple[float, str]:
    """A unit of memory in which the amounts read well, if they are bytes; else the metric's own."""
    if not front.is_bytes:
        return 1.0, ""
    return wording.unit("memory_bytes", front.points[-1].amount)
