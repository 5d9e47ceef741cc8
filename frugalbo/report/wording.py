"""Amounts, values and findings in words, alike in the terminal, in pictures and on the page."""

from __future__ import annotations

import math
from typing import Final

from frugalbo.budget.amounts import Resource
from frugalbo.events import Outcome
from frugalbo.report.findings import (
    accounts,
    against_defaults,
    gantt,
    longest_pause,
    main_resource,
    time_in_use,
    utilisation,
)
from frugalbo.report.importance import Importance
from frugalbo.report.pareto import Front, Point
from frugalbo.report.waiting import Standing, Wait, spared
from frugalbo.report.waiting import waits as all_waits
from frugalbo.study import Study, Trial

# From how many seconds on a unit reads well, its size, its name.
_TIMES: Final = (
    (3 * 86400.0, 86400.0, "days"),
    (3 * 3600.0, 3600.0, "hours"),
    (300.0, 60.0, "minutes"),
    (0.0, 1.0, "seconds"),
)
_SHORT: Final = {"days": "d", "hours": "h", "minutes": "min", "seconds": "s"}
_BYTES: Final = ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B"))
_WEAK_R2: Final = 0.25  # below it, the bars of an importance are mostly noise
_LEAST_SHARE: Final = 0.05  # of the variance, for two knobs to be worth moving together
_MOST_PAIRS: Final = 3


def unit(resource: Resource, largest: float) -> tuple[float, str]:
    """`(size, name)` of a unit in which `largest` reads well, such as `(60.0, "device-minutes")`."""
    if resource == "dollars":
        return 1.0, "US dollars"
    if resource == "evaluations":
        return 1.0, "evaluations"
    if resource == "memory_bytes":
        return next(((size, name) for size, name in _BYTES if largest >= size), _BYTES[-1])
    size, name = next((size, name) for start, size, name in _TIMES if largest >= start)
    return size, f"{resource.partition('_')[0]}-{name}"


def short_unit(resource: Resource, largest: float) -> str:
    """The unit of `unit` in a few letters."""
    name = unit(resource, largest)[1]
    return {"US dollars": "USD", "evaluations": "trials"}.get(name) or _SHORT.get(name.rpartition("-")[2], name)


def number(value: float | None, digits: int = 4) -> str:
    """A number to some significant digits; a dash if there is none."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return str(value)
    if value and not 1e-4 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(exponent)}"
    text = f"{value:.{max(0, digits - 1 - (math.floor(math.log10(abs(value))) if value else 0))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def setting(value: object) -> str:
    """A parameter's value; a dash where it is inactive."""
    if value is None:
        return "–"
    return number(value) if isinstance(value, float) else str(value)


def amount(resource: Resource, value: float, largest: float | None = None) -> str:
    """An amount with its unit; `largest` keeps several amounts in one unit."""
    size, _ = unit(resource, value if largest is None else largest)
    if resource == "dollars":
        return f"${value:,.2f}"
    digits = 1 if value / size >= 10 and not float(value / size).is_integer() else 2
    text = f"{value / size:,.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return f"{text} {short_unit(resource, value if largest is None else largest)}"


def share(part: float, whole: float) -> str:
    """A percentage; a dash of nothing."""
    if not whole:
        return "–"
    percent = 100.0 * part / whole
    return f"{percent:.0f} %" if abs(percent) >= 10 else f"{percent:.1f} %"


def count(n: int, what: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def spent_of_budget(study: Study) -> str:
    """What was spent of the main resource: `96 of 120 device-seconds`."""
    resource = main_resource(study)
    account = accounts(study, resource)
    largest = account.total or account.spent
    size, name = unit(resource, largest)
    if resource == "dollars":
        return f"${account.spent:,.2f}" + (f" of ${account.total:,.2f}" if account.total else "")
    spent = number(account.spent / size, 3)
    return f"{spent} of {number(account.total / size, 3)} {name}" if account.total else f"{spent} {name}"


def headline(study: Study) -> str:
    """The finding in one sentence: the best value, what it cost, and what the defaults give."""
    metric, best = study.problem.objective.metric, study.best()
    spent = spent_of_budget(study)
    if best is None:
        return f"No result after {spent}" if study.trials else "Nothing has run yet"
    if not study.best_is_feasible():
        nearest = f"{metric} {best_value(study)} of trial {best.number} {violation(study, best)}"
        return f"No result meets the constraints after {spent}; the nearest, {nearest}"
    against = against_defaults(study)
    end = ""
    if against is not None and against.default is best:
        end = "; nothing beat the defaults"
    elif against is not None and against.default is not None and against.default_value is not None:
        lacking = violation(study, against.default)
        end = f"; defaults {number(against.default_value)}" + (f", which {lacking}" if lacking else "")
    elif against is not None:
        end = "; no result of the defaults"
    return f"Best {metric} {best_value(study)} after {spent}{end}"


def best_value(study: Study, digits: int = 4) -> str:
    """The best trial's objective, and at which step that was if no trial has run to the end."""
    at, steps = study.compared_at(), study.problem.steps
    value = number(study.best_value(), digits)
    return value if at in (steps, None) else f"{value} at step {at} of {steps} (no trial has run to the end)"


def violation(study: Study, trial: Trial) -> str:
    """Which outcome constraints a trial does not meet, and by how much; empty if it meets all.

    Such as `violates peak_gib <= 8 by 1.2, has no accuracy (accuracy >= 0.9)`.
    """
    at = None if study.value(trial) is not None else study.compared_at()

    def measured(metric: str) -> float | None:
        return study.measured(trial, metric) if at is None else study.measured_by(trial, metric, at)

    parts = [
        f"violates {c} by {number(by, 3)}" if math.isfinite(by) else f"has no {c.metric} ({c})"
        for c in study.problem.bounds
        if (by := c.excess(measured(c.metric))) > 0
    ]
    return ", ".join(parts)


def constraints(study: Study) -> str | None:
    """How many results meet the outcome constraints, in a sentence; None where there are none."""
    bounds = study.problem.bounds
    if not bounds:
        return None
    known = [trial for trial in study.trials.values() if study.value(trial) is not None]
    met = sum(study.is_feasible(trial) for trial in known)
    text = f"{met} of {count(len(known), 'result')} {'meets' if met == 1 else 'meet'} {' and '.join(map(str, bounds))}"
    for metric in dict.fromkeys(c.metric for c in bounds):
        lack = [trial.number for trial in known if study.measured(trial, metric) is None]
        if lack and len(lack) == len(known):
            text += f"; no trial has reported {metric} together with {study.problem.objective.metric}"
        elif lack:
            which = ", ".join(map(str, lack[:5])) + (" ..." if len(lack) > 5 else "")
            text += f"; without {metric} and so not counted: {'trial' if len(lack) == 1 else 'trials'} {which}"
    return text


def gain(study: Study) -> str:
    """The best against the defaults in words."""
    against = against_defaults(study)
    if against is None:
        return "this problem has no defaults to compare with"
    if against.default is None:
        return "the defaults have not been tried"
    if against.default_value is None:
        why = against.default.failure or against.default.status
        return f"the defaults (trial {against.default.number}) have no result: {why}"
    if lacking := violation(study, against.default):
        return (
            f"the defaults, {number(against.default_value)}, are no measure: trial {against.default.number} {lacking}"
        )
    if against.best is against.default or not against.gain:
        return f"nothing beat the defaults, {number(against.default_value)}"
    direction = "lower" if study.problem.objective.sign > 0 else "higher"
    relative = f" ({100 * against.relative:.3g} %)" if against.relative is not None else ""
    return f"{number(against.gain, 3)}{relative} {direction} than the defaults, {number(against.default_value)}"


def is_weak(found: Importance) -> bool:
    """Whether the model explains so little that its shares are a guess."""
    return found.r2 is not None and found.r2 < _WEAK_R2


def importance_verdict(found: Importance) -> str:
    """How far an importance can be trusted, in a sentence."""
    if found.reason:
        return found.reason[0].upper() + found.reason[1:]
    assert found.r2 is not None
    top = found.ranked()[0]
    percent = max(0, math.floor(100 * found.r2))
    if is_weak(found):
        return (
            f"The model explains only {percent} % of the variance of {found.trials} results: these shares are a guess"
        )
    return f"{top[0]} takes part in {share(top[2], 1)} of the variance; the model explains {percent} % of it"


def acting_together(found: Importance) -> list[tuple[str, str, float]]:
    """The pairs of knobs that must move together: with a share of the variance that is more than the model leaves open.

    From few results, noise and gaps between them look like interactions; hardly ever by more than what the model
    fails to predict of results that it was not told.
    """
    if found.reason or found.r2 is None or is_weak(found):
        return []
    return [row for row in found.pairs if row[2] > max(_LEAST_SHARE, 1 - found.r2)]


def together_text(found: Importance) -> str | None:
    """Which knobs must move together, in a sentence; None if no shares can be trusted."""
    if found.reason or is_weak(found) or len(found.names) < 2:
        return None
    pairs = acting_together(found)[:_MOST_PAIRS]
    if not pairs:
        return "No two knobs are seen to depend on each other: each could be tuned by itself"
    said = [f"{one} and {other} ({share(part, 1)} of the variance)" for one, other, part in pairs]
    return f"Must move together, as what one does depends on the other: {', '.join(said)}"


def pareto_verdict(study: Study, front: Front) -> str:
    """What more of a resource buys, in a sentence without its end."""
    if not front.against:
        return "No trial reports its memory, and no constraint bounds another metric from above"
    if not front.points:
        return f"No result that counts has {front.against}"
    least, most = front.best[0], front.best[-1]

    def result(point: Point) -> str:
        used = amount("memory_bytes", point.amount) if front.is_bytes else f"{front.against} {number(point.amount)}"
        return f"{number(point.value)} with {used}"

    said = f"{study.problem.objective.metric} {result(least)}"
    return f"{said}: more buys nothing" if least is most else f"{said}, {result(most)}"


def utilisation_text(study: Study) -> str | None:
    """How busy the slots were, in a sentence; None before any segment has ended."""
    busy, pause = utilisation(study, without_pauses=True), longest_pause(study)
    if busy is None:
        return None
    rows = gantt(study)
    slots = count(len({row.slot for row in rows}), "slot")
    ran = time_in_use(rows)
    text = f"{slots} busy {share(busy, 1)} of {amount('wall_seconds', ran)}"
    whole = utilisation(study)
    if pause <= 0.01 * ran or whole is None:
        return text
    return f"{text} in which anything ran ({share(whole, 1)} with pauses, the longest {amount('wall_seconds', pause)})"


def waits(study: Study) -> str:
    """How many trials were set aside, and how many went on, in a sentence without its end."""
    found = all_waits(study)
    trials = {wait.trial for wait in found}
    went_on = {wait.trial for wait in found if wait.until_s is not None}
    stopped = {wait.trial for wait in found if wait.outcome == Outcome.STOPPED}
    text = f"{count(len(trials), 'trial')} set aside: {len(went_on) or 'none'} went on"
    return text + (f", {len(stopped)} {'was' if len(stopped) == 1 else 'were'} stopped" if stopped else "")


def standing(found: Standing | None) -> str:
    """`3 of 17`; a dash where it is not known."""
    return "–" if found is None else f"{found.place:,} of {found.of:,}"


def reason(wait: Wait) -> str:
    """Why a trial was set aside, and why it went on or did not: what the journal says, else where it stood."""
    said = [wait.reason] if wait.reason else []
    if wait.standing is not None:
        said.append(f"{standing(wait.standing)} at {wait.step:,}")
        if wait.then is not None and wait.then != wait.standing:
            said.append(
                f"then {standing(wait.then)}" if wait.until_s is not None else f"in the end {standing(wait.then)}"
            )
    return ", ".join(said)


def spared_text(study: Study) -> str | None:
    """What setting trials aside has spared, in a sentence; None if nothing."""
    found = spared(study)
    if not found.steps:
        return None
    name = study.problem.fidelity.name if study.problem.fidelity else "steps"
    return (
        f"{count(found.trials, 'trial')} did not run to the end: {found.steps:,} {name} less, at each trial's own pace "
        f"about {amount('device_seconds', found.device_seconds)} on devices"
    )


def settling_text(study: Study) -> str | None:
    """How many reports after a resume were set aside, and why, in a sentence; None if none were."""
    found = study.settling
    if not (found.reports and found.resumes):
        return None
    which = "first report" if found.reports == 1 else f"first {found.reports} reports"
    why = "as the fidelity says" if found.is_stated else f"learned from {count(found.resumes, 'resume')}"
    return f"The {which} after a resume did not count where trials were compared short of the end: {why}"


def left_text(study: Study) -> str | None:
    """What the end of a run has left of its budget, in a sentence; None without a budget that can be left."""
    parts = []
    for resource in study.ledger.balance().limited if study.ledger else {}:
        book = None if resource == "memory_bytes" else accounts(study, resource)
        if book is not None and book.total:
            left = max(0.0, book.total - book.spent - book.held)
            parts.append(
                f"{amount(resource, left, book.total)} of {amount(resource, book.total)} ({share(left, book.total)})"
            )
    return f"Not spent: {', '.join(parts)}" if parts else None
