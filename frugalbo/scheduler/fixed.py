"""The plain scheduler: every trial runs to its full number of steps.

Trials that were interrupted (a crash, a pre-emption) go on first. With a cost model it passes over
what cannot be paid for, by the rule of `frugalbo.budget.afford`, and asks the proposer for a few
configurations more: a run is not over while there is something affordable left to try.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from frugalbo.budget.afford import Refusal, quote
from frugalbo.budget.amounts import Cost
from frugalbo.budget.cost import CostModel, CostPrediction, Predictor, predictor
from frugalbo.budget.ledger import Balance
from frugalbo.propose.base import Preparing, Proposer, Suggestion
from frugalbo.scheduler.base import Decision, Finish, Resume, Start
from frugalbo.slot import Slot
from frugalbo.space import Params
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
        nevertheless, so that the run loop refuses it and can say why the run ends. What the proposer does not
        hold worth its price is not started, nor is anything after it.
        """
        purse = _Purse(study, balance, list(slots), self.cost_model, self.trial_cap_s)
        for trial in study.with_status(Status.PAUSED):
            if purse.waiting:
                predicted = purse.predict(trial.params, trial.checkpoint, trial.planned)
                purse.take(Resume(purse.waiting[0], trial.number, trial.planned), predicted)
        steps = study.problem.steps
        passed_over = 0
        for suggestion in self._suggestions(study, len(purse.waiting)):
            if suggestion.not_worth:
                purse.decisions.append(Finish(suggestion.not_worth))
                break
            before = len(purse.decisions)
            predicted = purse.predict(suggestion.params, 0, steps)
            why = {**suggestion.why, "passed_over": passed_over} if passed_over else suggestion.why
            for slot in purse.waiting:
                if purse.take(Start(slot, suggestion.params, steps, steps, why), predicted):
                    break
            if not purse.waiting or purse.hopeless:
                break
            passed_over += len(purse.decisions) == before
        if purse.waiting and purse.refused:
            purse.decisions.append(min(purse.refused, key=lambda refused: refused[0])[1])
        return purse.decisions

    def prepare(self, study: Study, is_over: Callable[[], bool]) -> None:
        """Let the proposer get ready, if it can."""
        if isinstance(self.proposer, Preparing):
            self.proposer.prepare(study, is_over)

    def _suggestions(self, study: Study, n: int) -> Iterator[Suggestion]:
        """The proposer's next `n`, then more of them as long as they are wanted, each once.

        Asked for more, a proposer that goes one after the other begins with the same; one that chooses
        batches as a whole may not.
        """
        seen: list[Params] = []
        for more in (0, *_MORE) if n else ():
            found = self.proposer.propose(study, n + more)
            fresh = [suggestion for suggestion in found if suggestion.params not in seen]
            yield from fresh
            if len(found) < n + more:
                return
            seen += [suggestion.params for suggestion in fresh]


class _Purse:
    """What the decisions so far leave free: of the slots, and of the balance."""

    def __init__(
        self, study: Study, balance: Balance, slots: list[Slot], cost_model: CostModel | None, trial_cap_s: float | None
    ) -> None:
        self.balance = balance
        self.waiting = slots
        self.decisions: list[Decision] = []
        self.refused: list[tuple[float, Decision]] = []  # with what each would cost
        self.hopeless = False
        self.predict: Predictor = (lambda *_: None) if cost_model is None else predictor(cost_model, study)
        self._quotes = cost_model is not None
        self._trial_cap_s = trial_cap_s

    def take(self, decision: Start | Resume, predicted: CostPrediction | None) -> bool:
        """Decide so if that is affordable."""
        if self._quotes:
            found = quote(
                self.balance,
                decision.slot,
                predicted,
                first=isinstance(decision, Start),
                sharers=len(self.waiting),
                trial_cap_s=self._trial_cap_s,
            )
            if isinstance(found, Refusal):
                self.refused.append((predicted.median_s if predicted else 0.0, decision))
                self.hopeless |= found.hopeless
                return False
            self.balance = _after(self.balance, found.held)
        self.waiting.remove(decision.slot)
        self.decisions.append(decision)
        return True


def _after(balance: Balance, held: Cost) -> Balance:
    """The balance with `held` set aside as well; wall time passes and is never held."""
    accounts = dict(balance.accounts)
    for name, amount in held.items():
        if name != "wall_seconds":
            accounts[name] = replace(accounts[name], held=accounts[name].held + amount)
    return Balance(accounts)
