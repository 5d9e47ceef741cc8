"""The plain scheduler: every trial runs to its full number of steps.

Trials that were interrupted (a crash, a pre-emption) go on first. With a cost model it passes over
what cannot be paid for, by the rule of `frugalbo.budget.afford`, and asks the proposer for a few
configurations more: a run is not over while there is something affordable left to try.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from frugalbo.budget.cost import CostModel
from frugalbo.budget.ledger import Balance
from frugalbo.propose.base import Preparing, Proposer
from frugalbo.scheduler.base import Decision
from frugalbo.scheduler.purse import Purse, start_suggestions
from frugalbo.slot import Slot
from frugalbo.study import Status, Study, Trial


class FixedScheduler:
    """Asks the proposer for a configuration a free slot, and runs each in one segment.

    Args:
        cost_model: What the run loop quotes by; without one, nothing is passed over.
        trial_cap_s: As the run loop's, if it has one.
    """

    def __init__(
        self, proposer: Proposer, cost_model: CostModel | None = None, *, trial_cap_s: float | None = None
    ) -> None:
        self.proposer = proposer
        self.cost_model = cost_model
        self.trial_cap_s = trial_cap_s

    def decide(self, study: Study, balance: Balance, slots: Sequence[Slot]) -> Sequence[Decision]:
        """Resume what was interrupted, then start what the proposer suggests.

        Where nothing that was looked at is affordable, the cheapest of it is among the decisions
        nevertheless, so that the run loop refuses it and can say why the run ends. What the proposer does not
        hold worth its price is not started, nor is anything after it.
        """
        purse = Purse(study, balance, slots, self.cost_model, self.trial_cap_s)
        for trial in study.with_status(Status.PAUSED):
            if purse.is_open and self._goes_on(study, trial):
                purse.resume(trial, trial.planned)
        steps = study.problem.steps
        start_suggestions(purse, self.proposer, study, lambda suggestion: purse.start(suggestion, steps, steps))
        return purse.closed()

    def prepare(self, study: Study, is_over: Callable[[], bool]) -> None:
        """Let the proposer get ready, if it can."""
        if isinstance(self.proposer, Preparing):
            self.proposer.prepare(study, is_over)

    def _goes_on(self, study: Study, trial: Trial) -> bool:
        """Whether an interrupted trial is to be resumed."""
        return study.value(trial) is None
