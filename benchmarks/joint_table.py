"""What the records of `joint.py` say: studies by method, knobs that act together, and what memory buys."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.joint import CONFIRM, search_space
from frugalbo.budget.amounts import Cost
from frugalbo.events import Ended, Outcome, Reported, Started
from frugalbo.problem import Minimize, Problem
from frugalbo.report import importance, pareto, wording
from frugalbo.space import Params
from frugalbo.study import Study

Record = dict[str, Any]


def table(records: Sequence[Record]) -> str:
    """Studies by method; then what all trainings together say of knobs and of memory."""
    lines: list[str] = []
    for size, updates in dict.fromkeys((r["size"], r["updates"]) for r in records):
        here = [r for r in records if (r["size"], r["updates"]) == (size, updates)]
        trainings = [r for r in here if r["kind"] == "training"]
        studies = [r for r in here if r["kind"] == "study"]
        for trials in dict.fromkeys(r["trials"] for r in studies):
            lines += [f"{size}, {updates} updates, the budget of {trials} trials:", ""]
            defaults = search_space(size)[1]
            of_trials = [r for r in here if r.get("trials") == trials]
            lines += _methods(of_trials, trainings, defaults)
        lines += _knobs(pooled(trainings)) + _memory(trainings)
    return "\n".join(lines)


def _methods(records: Sequence[Record], trainings: Sequence[Record], defaults: Params) -> list[str]:
    studies = [r for r in records if r["kind"] == "study"]
    by_model = {(r["method"], r["seed"]): statistics.fmean(r["confirmed"]) for r in records if r["kind"] == "by model"}
    begun = [r["loss"] for r in trainings if r["params"] == defaults and r["seed"] in CONFIRM]
    ours = {r["seed"]: statistics.fmean(r["confirmed"]) for r in studies if r["method"] == "frugalbo"}
    lines = [
        "| method | studies | trials | 1 - pass@1 of its answer, as seen | confirmed | less frugalbo's, by seed "
        "| answer by a model: confirmed | less that of the best seen |",
        "|---|---|---|---|---|---|---|---|",
    ]
    if begun:
        lines.append(f"| the defaults | | | | {statistics.fmean(begun):.4f} | | | |")
    for method in dict.fromkeys(r["method"] for r in studies):
        mine = [r for r in studies if r["method"] == method]
        confirmed = [statistics.fmean(r["confirmed"]) for r in mine]
        seen, ran = statistics.fmean(r["loss"] for r in mine), statistics.fmean(r["ran"] for r in mine)
        more = [loss - ours[r["seed"]] for r, loss in zip(mine, confirmed, strict=True) if r["seed"] in ours]
        against = with_error(more) if more and method != "frugalbo" else ""
        modelled = [loss for r in mine if (loss := by_model.get((method, r["seed"]))) is not None]
        row = [method, str(len(mine)), f"{ran:.1f}", f"{seen:.4f}", with_error(confirmed), against, "", ""]
        if len(modelled) == len(mine):
            row[-2:] = with_error(modelled), with_error(list(np.subtract(modelled, confirmed)))
        lines.append(f"| {' | '.join(row)} |")
    return [*lines, ""]


def _knobs(found: Study) -> list[str]:
    """What the report of all trainings together says of the knobs."""
    shares = importance(found)
    if shares.reason:
        return [f"Knobs: {shares.reason}.", ""]
    lines = [f"Knobs, of {shares.trials} trainings, of whose variance a model explains {shares.r2:.0%}:", ""]
    lines += ["| knobs | by itself | together with others |", "|---|---|---|"]
    lines += [f"| {name} | {first:.1%} | {total:.1%} |" for name, first, total in shares.ranked()]
    lines += [f"| {one} and {other} | | {share:.1%} |" for one, other, share in shares.pairs]
    return [*lines, "", f"{wording.together_text(shares)}.", ""]


def _memory(trainings: Sequence[Record]) -> list[str]:
    """The best by quarters of the density, and the front: as seen and, where it was trained again, with fresh seeds."""
    lines = ["| density | trainings | bytes of state | 1 - pass@1, best as seen |", "|---|---|---|---|"]
    seen = [r for r in trainings if r["seed"] not in CONFIRM]
    for quarter in range(4):
        here = [r for r in seen if min(3, int(4 * r["params"]["density"])) == quarter]
        if here:
            some = f"{min(r['state_bytes'] for r in here):,} to {max(r['state_bytes'] for r in here):,}"
            best = min(r["loss"] for r in here)
            lines.append(f"| {quarter / 4:g} to {quarter / 4 + 0.25:g} | {len(here)} | {some} | {best:.4f} |")
    lines.append("")
    lines += ["| bytes of state, at most | 1 - pass@1, as seen | confirmed | at |", "|---|---|---|---|"]
    for record in front(trainings):
        fresh = [r["loss"] for r in trainings if r["params"] == record["params"] and r["seed"] in CONFIRM]
        knobs = ", ".join(f"{k} {v:.3g}" for k, v in record["params"].items())
        confirmed = f"{statistics.fmean(fresh):.4f}" if len(fresh) == len(CONFIRM) else ""
        lines.append(f"| {record['state_bytes']:,} | {record['loss']:.4f} | {confirmed} | {knobs} |")
    return [*lines, ""]


def front(trainings: Sequence[Record]) -> list[Record]:
    """Of the trainings of studies those that none is better than with as few bytes, with rising bytes."""
    seen = [r for r in trainings if r["seed"] not in CONFIRM]
    return [seen[point.trial] for point in pareto(pooled(seen)).best]


def pooled(trainings: Sequence[Record]) -> Study:
    """Trainings of one size, of all studies and seeds, as trials of one study, for the report's figures."""
    space, defaults = search_space(trainings[0]["size"])
    found = Study(Problem("joint", space, "nowhere:train", Minimize("loss"), defaults=defaults))
    for number, record in enumerate(trainings):
        metrics = {"loss": record["loss"], "state_bytes": float(record["state_bytes"])}
        found.apply(Started(number, 0, record["params"], 0, 1, 1, Cost(), "cpu:0", float(number)))
        found.apply(Reported(number, 0, 1, metrics, number + 1.0))
        found.apply(Ended(number, 0, Outcome.COMPLETED, Cost(1.0), number + 1.0))
    return found


def with_error(values: Sequence[float]) -> str:
    """The mean and its standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.fmean(values):.4f} ± {error:.4f}"
