"""Which scheduler, by what is at stake: the rule of `scheduler="auto"`.

| the problem | choice | as |
|---|---|---|
| has no fidelity, or one of a single rung | `fixed` | a trial is indivisible |
| has a fidelity that is `"replanned"` | `fixed` | a short run is another run, and going on means to start again |
| has outcome constraints | `fixed` | what meets them is known at the end only |
| has a budget of trials | `fixed` | a short trial counts as much as a whole one |
| has a budget of fewer than three whole trials, as far as costs are known beforehand | `fixed` | few to leave behind |
| has a job that saves no checkpoints | `fixed` | each resumption would begin from scratch |
| has a job that reports nothing before its end | `fixed` | nothing is known at a rung |
| else | `freeze-thaw` | |

The first row that applies decides. All but the last two are known before anything runs; these are seen when the
first of its segments end. Then what was held is run to its end like all that follows; a trial that reported nothing
has failed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import numpy as np

from frugalbo.budget.cost import CostModel
from frugalbo.budget.ledger import Balance
from frugalbo.events import Failure, Outcome
from frugalbo.propose.base import Proposer
from frugalbo.scheduler.base import Decision
from frugalbo.scheduler.fixed import FixedScheduler
from frugalbo.scheduler.freeze_thaw import FreezeThawScheduler
from frugalbo.scheduler.rungs import levels_of
from frugalbo.slot import Slot
from frugalbo.study import Study, Trial

_LOG = logging.getLogger(__name__)
_LEAST: Final = 3.0  # whole trials
_FIRST: Final = 64  # trials among which one was held if any was


def _reported_nothing(trial: Trial) -> bool:
    """Whether a trial came to the end of a segment, not of its plan, without a single report."""
    is_mute = bool(trial.ends) and trial.ends[0].failure == Failure.NO_RESULT
    return is_mute and not trial.reports and trial.starts[0].until < trial.planned


class AutoScheduler(FixedScheduler):
    """`freeze-thaw` where trials can be held and that may pay, else `fixed`; logs which and why."""

    def __init__(
        self, proposer: Proposer, cost_model: CostModel | None = None, *, trial_cap_s: float | None = None
    ) -> None:
        super().__init__(proposer, cost_model, trial_cap_s=trial_cap_s)
        self._freeze_thaw = FreezeThawScheduler(proposer, cost_model, trial_cap_s=trial_cap_s)
        self._said = ""

    def decide(self, study: Study, balance: Balance, slots: Sequence[Slot]) -> Sequence[Decision]:
        """What the scheduler that was picked decides."""
        reason = self.against_freeze_thaw(study, balance)
        said = f"fixed, because {reason}" if reason else "freeze-thaw, because trials can be held and resumed"
        if said != self._said:
            _LOG.info("trials are scheduled by %s", said)
            self._said = said
        return super().decide(study, balance, slots) if reason else self._freeze_thaw.decide(study, balance, slots)

    def against_freeze_thaw(self, study: Study, balance: Balance) -> str:
        """Why every trial is to run to its end, as an end of a sentence that begins with "because"; empty if not."""
        problem = study.problem
        if len(levels_of(study, self._freeze_thaw.eta)) == 1:
            return "a trial is indivisible"
        if problem.fidelity is not None and problem.fidelity.schedule == "replanned":
            return "a run that was planned for fewer steps cannot go on"
        if problem.bounds:
            return "whether constraints hold is known at the end of a trial only"
        if "evaluations" in balance.limited:
            return "the budget counts trials, short ones like long ones"
        if (whole := self._whole_trials(study, balance)) is not None and whole < _LEAST:
            return f"the budget pays for {whole:.2g} whole trials only"
        if any(
            end.outcome == Outcome.PAUSED and not end.checkpoint
            for number in range(min(_FIRST, len(study.trials))) for end in study.trials[number].ends
        ):  # fmt: skip
            return "the job saves no checkpoints"
        if any(_reported_nothing(study.trials[number]) for number in range(min(_FIRST, len(study.trials)))):
            return "the job reports nothing before its end"
        return ""

    def _whole_trials(self, study: Study, balance: Balance) -> float | None:
        """How many the budget of device-seconds pays for, by what was known of costs before anything ran."""
        problem = study.problem
        params = problem.defaults or problem.space.decode(np.full(problem.space.dim, 0.5))
        if self.cost_model is None or "device_seconds" not in balance.limited:
            return None
        predicted = self.cost_model.predict(Study(problem), params, 0, problem.steps)
        return None if predicted is None else balance["device_seconds"].total / predicted.median_s
