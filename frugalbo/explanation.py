"""Why a configuration was chosen, in words, from what its proposer wrote down when it chose it.

A proposer may write anything into `why`; what is not known here is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from frugalbo.study import Study, Trial

_METHODS: Final = {
    "bo": "the largest expected improvement for its price",
    "pbgi": "the highest Gittins index: worth the most, its price included",
    "bmsei": "the best for all trials that the budget still pays for, as far as it looked ahead",
    "metabo": "the largest expected improvement for its price, to a network that knows tuning and to the model",
    "ei": "the largest expected improvement",
    "logei": "the largest expected improvement",
    "qei": "the largest expected improvement beyond what those under way will bring",
    "nei": "the largest expected improvement over noisy results",
    "ucb": "the best optimistic bound",
    "kg": "the result expected to raise the best prediction most",
    "mes": "the result expected to tell most about the best value",
    "jes": "the result expected to tell most about where the best is and how good",
    "pes": "the result expected to tell most about where the best is",
    "ts": "the best of one draw of what the objective may be",
    "sobol": "the next point of a design that fills the space evenly",
    "random": "a uniformly random point",
    "own": "asked for by the user",
}
_POINTS: Final = {"defaults": "the problem's defaults", "centre": "the centre of the space"}


def explained(study: Study, trial: Trial) -> str:
    """Why a trial's configuration was chosen, and what came of it, in sentences."""
    metric = study.problem.objective.metric
    said = in_words(trial.why, metric)
    said += [
        f"It was sent on from step {s.start} to {s.until}, because {s.why['because']}."
        for s in trial.starts[1:] if "because" in s.why
    ]  # fmt: skip
    value = study.value(trial)
    result = f"without a value of {metric}" if value is None else f"with {metric} = {value:.4g}"
    used = trial.used("device_seconds")
    said.append(f"Trial {trial.number} is {trial.status}, {result}, after {used:.3g} device-seconds.")
    if value is not None and (violated := study.violations(trial)):
        said.append(f"It does not meet {', '.join(violated)}.")
    return " ".join(said)


def in_words(why: Mapping[str, Any], metric: str) -> list[str]:
    """Sentences that say why a configuration was chosen, most important first.

    Args:
        why: As in `Started.why`.
        metric: The name of the objective.
    """
    method = why.get("method")
    if method is None:
        return ["It was not chosen by a method of frugalbo, or none that said why."]
    if why.get("stage") == "feasibility":
        said = [
            "Nothing that was known was likely to meet the constraints, so it was chosen for the largest chance to"
            f" (method {method})."
        ]
        return said + _details(why, metric)
    chosen = _POINTS.get(str(why.get("point")), _METHODS.get(str(method), "chosen by its own rule"))
    said = [f"It was {chosen} (method {method})."]
    if "because" in why:
        said.append(f"That method was picked because {why['because']}.")
    if "instead_of" in why:
        said.append(
            f"It took the place of a suggestion by {why['instead_of']}: {why.get('reason', 'no reason given')}."
        )
    return said + _details(why, metric)


def _details(why: Mapping[str, Any], metric: str) -> list[str]:
    said = [*_prediction(why, metric), *_constraints(why), *_price(why)]
    if "success" in why and why["success"] < 0.995:
        said.append(f"From the failures so far, it was given a chance of {why['success']:.0%} to run at all.")
    if "observed" in why:
        pending = f", with {why['pending']} more under way" if why.get("pending") else ""
        of = f" and was of {why['model_of']} of them" if "model_of" in why else ""
        held = f", {why['held']} of them by their ranks in shorter runs" if why.get("held") else ""
        said.append(f"The model knew {why['observed']} results{held}{pending}{of}.")
    if why.get("passed_over"):
        said.append(f"{why['passed_over']} suggestions before it would have cost more than was left.")
    return said


def _prediction(why: Mapping[str, Any], metric: str) -> list[str]:
    if "predicted" not in why:
        return []
    text = f"Predicted was {metric} = {why['predicted']:.4g}"
    if "predicted_95" in why:
        low, high = why["predicted_95"]
        text += f", between {low:.4g} and {high:.4g} at 95 %"
    if "best" in why:
        text += f"; the best that the model knew of was {why['best']:.4g}"
    return [f"{text}."]


def _constraints(why: Mapping[str, Any]) -> list[str]:
    said = [
        f"It was given a chance of {found['probability']:.0%} to meet {text} (predicted {found['predicted']:.4g})."
        for text, found in why.get("constraints", {}).items()
    ]
    if why.get("unmeasured"):
        said.append(f"Too few trials had reported what these constraints need: {', '.join(why['unmeasured'])}.")
    return said


def _price(why: Mapping[str, Any]) -> list[str]:
    said = []
    if why.get("predicted_cost_s") is not None:
        text = f"Its cost was predicted as {why['predicted_cost_s']:.3g} device-seconds"
        if why.get("within_budget", 1.0) < 0.995:
            text += f", which what was left would cover with a chance of {why['within_budget']:.0%}"
        said.append(f"{text}.")
    if why.get("method") == "bo" and "alpha" in why:
        weight = "did not count" if not why["alpha"] else f"counted with the power {why['alpha']:.2g}"
        said.append(f"Cost {weight}, the share of the budget that was left.")
    if "depth" in why:
        text = f"Up to {why['depth']} later trials were in view" if why["depth"] else "No later trial was in view"
        if why["depth"] and "horizon_s" in why:
            text += f", with {why['horizon_s']:.3g} device-seconds for it and them"
        said.append(f"{text}.")
    if "lambda" in why:
        said.append(f"A trial of typical cost had to promise {why['lambda']:.2g} standard deviations of the results.")
    return said
