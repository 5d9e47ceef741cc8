"""The plain scheduler: every trial runs to its full number of steps.

Trials that were interrupted (a crash, a pre-emption) go on first. With a cost model it passes over
what cannot be paid for, by the rule of `frugalbo.budget.afford`, and asks the proposer for a few
configurations more: a run is not over while there is something affordable left to try.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from frugalbo.budget.afford import Quote, quote
from frugalbo.budget.amounts import Cost
from frugalbo.budget.cost import CostModel, CostPrediction, Predictor, predictor
from frugalbo.budget.ledger import Balance
from frugalbo.propose.base import Proposer, Suggestion
from frugalbo.scheduler.base import Decision, Resume, Start
from frugalbo.slot import Slot
from frugalbo.study import Status, Study

# How many more configurations are looked at, in turn, before none is taken for affordable.
_MORE = (8, 64)


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
        nevertheless, so that the run loop refuses it and can say why the run ends.
        """
        paused = study.with_status(Status.PAUSED)
        steps = study.problem.steps
        if self.cost_model is None:
            decisions: list[Decision] = [
                Resume(slot, trial.number, trial.planned) for slot, trial in zip(slots, paused, strict=False)
            ]
            free = slots[len(decisions) :]
            found = self.proposer.propose(study, len(free)) if free else ()
            return decisions + [
                Start(slot, s.params, steps, steps, s.why) for slot, s in zip(free, found, strict=False)
            ]
        return self._affordable(study, balance, list(slots), predictor(self.cost_model, study))

    def _affordable(self, study: Study, balance: Balance, slots: list[Slot], predict: Predictor) -> list[Decision]:
        """As `decide`, without what cannot be paid for."""
        decisions: list[Decision] = []
        refused: list[tuple[float, Decision]] = []

        def fits(decision: Resume | Start, predicted: CostPrediction | None, *, first: bool) -> bool:
            nonlocal balance
            sharers = len(slots) - len(decisions)
            found = quote(balance, decision.slot, predicted, first=first, sharers=sharers, trial_cap_s=self.trial_cap_s)
            if isinstance(found, Quote):
                balance = _after(balance, found.held)
                decisions.append(decision)
                return True
            refused.append((predicted.median_s if predicted else 0.0, decision))
            return False

        waiting = list(slots)
        for trial in study.with_status(Status.PAUSED):
            if not waiting:
                break
            resume = Resume(waiting[0], trial.number, trial.planned)
            if fits(resume, predict(trial.params, trial.checkpoint, trial.planned), first=False):
                waiting.pop(0)
        steps = study.problem.steps
        predicted = {}
        for number, suggestion in enumerate(self._suggestions(study, len(waiting)) if waiting else ()):
            predicted[number] = predict(suggestion.params, 0, steps)
            for slot in waiting:
                start = Start(slot, suggestion.params, steps, steps, suggestion.why)
                if fits(start, predicted[number], first=True):
                    waiting.remove(slot)
                    break
            if not waiting:
                break
        if waiting and refused:
            decisions.append(min(refused, key=lambda r: r[0])[1])
        return decisions

    def _suggestions(self, study: Study, n: int) -> Iterator[Suggestion]:
        """The proposer's next `n`, then more of them as long as they are wanted.

        A proposer is pure: asked for more, it begins with the same.
        """
        seen = 0
        for more in (0, *_MORE):
            found = self.proposer.propose(study, n + more)
            yield from found[seen:]
            if len(found) < n + more:
                return
            seen = len(found)


def _after(balance: Balance, held: Cost) -> Balance:
    """The balance with `held` set aside as well."""
    accounts: Mapping = {
        name: replace(account, held=account.held + amount)
        for name, amount in held.items()
        for account in [balance[name]]
        if name != "wall_seconds"
    }
    return Balance({**balance.accounts, **accounts})
