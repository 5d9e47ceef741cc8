"""The best point of an Ax experiment by our rule, and where Ax's own differs.

Ax's `get_best_parameterization` looks at COMPLETED trials only. Ours is `Study.best`: of all trials that reached their
last step, whatever became of them, the best that meets the outcome constraints; of equals the earliest.
"""

from __future__ import annotations

from dataclasses import dataclass

from ax.api.client import Client
from ax.core.experiment import Experiment
from ax.core.types import TParameterization

from frugalbo.errors import StudyError
from frugalbo.integrations.ax.convert import experiment_of, from_ax
from frugalbo.study import Status, Study, Trial


@dataclass(frozen=True, slots=True)
class Best:
    """The best trial.

    Args:
        value: Of the objective, as measured.
        is_feasible: Whether it meets the outcome constraints.
        note: What there is to know besides, in a sentence: that Ax's rule gives another one, and why.
    """

    trial_index: int
    parameters: TParameterization
    value: float
    is_feasible: bool
    note: str = ""


def best_point(experiment: Experiment | Client, study: Study | None = None) -> Best | None:
    """The best point as measured; None while no trial has reached its last step.

    Args:
        experiment: Or its client.
        study: The experiment as a study, if it is at hand.
    """
    experiment = experiment_of(experiment)
    study = from_ax(experiment) if study is None else study
    best = study.best()
    if best is None:
        return None
    arm = experiment.trials[best.number].arms[0]
    value = study.value(best)
    if value is None:
        raise StudyError(f"trial {best.number} is the best without a value")
    return Best(best.number, dict(arm.parameters), value, study.is_feasible(best), _note(study, best))


def _note(study: Study, best: Trial) -> str:
    if not study.is_feasible(best):
        return "no trial meets the outcome constraints; this one violates them least"
    if best.status == Status.COMPLETED:
        return ""
    completed = Study(study.problem)
    completed.trials = {t.number: t for t in study.with_status(Status.COMPLETED)}
    theirs = completed.best()
    what = "has none" if theirs is None else f"is trial {theirs.number} with {study.value(theirs):.6g}"
    return (
        f"trial {best.number} is {best.status}, not completed, but had reached its last step; Ax's own best point "
        f"looks at completed trials only and {what}"
    )
