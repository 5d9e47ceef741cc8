"""The plain scheduler: every trial runs to its full number of steps.

Trials that were interrupted (a crash, a pre-emption) go on first.
"""

from __future__ import annotations

from collections.abc import Sequence

from frugalbo.budget.ledger import Balance
from frugalbo.propose.base import Proposer
from frugalbo.scheduler.base import Decision, Resume, Start
from frugalbo.slot import Slot
from frugalbo.study import Status, Study


class FixedScheduler:
    """Asks the proposer for a configuration a free slot, and runs each in one segment."""

    def __init__(self, proposer: Proposer) -> None:
        self.proposer = proposer

    def decide(self, study: Study, balance: Balance, slots: Sequence[Slot]) -> Sequence[Decision]:
        """Resume what was interrupted, then start what the proposer suggests."""
        del balance  # every trial costs what it costs; the run loop sees to what is affordable
        paused = study.with_status(Status.PAUSED)[: len(slots)]
        decisions: list[Decision] = [
            Resume(slot, trial.number, trial.planned) for slot, trial in zip(slots, paused, strict=False)
        ]
        free = slots[len(paused) :]
        steps = study.problem.steps
        for slot, suggestion in zip(free, self.proposer.propose(study, len(free)) if free else (), strict=False):
            decisions.append(Start(slot, suggestion.params, steps, steps, suggestion.why))
        return decisions
