"""What the decisions of one moment may still spend, and what the proposer has for them.

Each decision is quoted by the rule of `frugalbo.budget.afford`, by which the run loop quotes too, and
what it would hold is set aside before the next: so what is decided together can be paid together.

Of slots in different pools the one is taken where the work is charged least at the prices in force
(`frugalbo.budget.price`), and can be paid for; without pools, the first in line. Where there is time, slots of dear
pools are left idle (`frugalbo.scheduler.patience`).
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

from frugalbo.budget.afford import Quote, Refusal, quote
from frugalbo.budget.cost import CostModel, CostPrediction, Predictor, predictor
from frugalbo.budget.ledger import Balance
from frugalbo.budget.price import Market
from frugalbo.propose.base import Proposer, Suggestion, key_of
from frugalbo.scheduler.base import Decision, Finish, Resume, Start
from frugalbo.scheduler.patience import left_idle
from frugalbo.slot import Slot
from frugalbo.space import Params
from frugalbo.study import Study, Trial

# How many more configurations are looked at, in turn, before none is taken for affordable.
_MORE = (8, 64)
# For more slots than this the proposer is asked little by little: near the end hardly anything is affordable.
_AT_ONCE = sum(_MORE)

_Kind = tuple[str, float, float, float]


class Purse:
    """What the decisions so far leave free: of the slots, and of the balance.

    Args:
        cost_model: What the run loop quotes by; without one, nothing is refused.
        trial_cap_s: As the run loop's, if it has one.

    Attributes:
        decisions: Those that can be paid for, in their order.
        waiting: How many slots no decision took yet.
    """

    def __init__(
        self,
        study: Study,
        balance: Balance,
        slots: Sequence[Slot],
        cost_model: CostModel | None,
        trial_cap_s: float | None = None,
    ) -> None:
        if idle := left_idle(study, balance, slots):
            slots = [slot for slot in slots if slot.pool not in idle]
        self.balance = balance
        self.waiting = len(slots)
        self._slots = slots
        self._kinds: dict[_Kind, deque[tuple[int, Slot]]] = {}  # like slots, with their places in line
        for place, slot in enumerate(slots):
            self._kinds.setdefault(slot.likeness, deque()).append((place, slot))
        in_pools = len(self._kinds) > 1 and any(slot.pool for slot in slots)
        self._market = Market.of(balance, study.taken) if in_pools else None
        self._held_back = study.held_back
        self.decisions: list[Decision] = []
        self._refused: list[tuple[float, Start | Resume]] = []  # with what each would cost
        self._predict: Predictor = (lambda *_: None) if cost_model is None else predictor(cost_model, study)
        self._quotes = cost_model is not None
        self._trial_cap_s = trial_cap_s

    @property
    def is_open(self) -> bool:
        """Whether there is a slot left, and perhaps something to pay with."""
        return bool(self._kinds)

    def start(self, suggestion: Suggestion, until: int, planned: int) -> bool:
        """Start a suggestion on the best slot where that is affordable."""
        predicted = self._predict(suggestion.params, 0, until) if self.waiting else None
        return self._place(
            lambda slot: Start(slot, suggestion.params, until, planned, suggestion.why), predicted, first=True
        )

    def resume(self, trial: Trial, until: int, why: Mapping[str, Any] | None = None) -> bool:
        """Let a trial go on, on the best slot where that is affordable, unless it is held back for now."""
        if trial.number in self._held_back:
            return False
        predicted = self._predict(trial.params, trial.checkpoint, until) if self.waiting else None
        return self._place(lambda slot: Resume(slot, trial.number, until, why or {}), predicted, first=False)

    def affords(self, params: Params, start: int, until: int) -> bool:
        """Whether what is left would pay for a segment on some slot that no decision took."""
        if not self._quotes:
            return True
        predicted = self._predict(params, start, until)
        return any(
            isinstance(self._quote(line[0][1], predicted, first=start == 0), Quote) for line in self._kinds.values()
        )

    def setting_aside(self, params: Params, start: int, until: int) -> Purse:
        """A purse of what would be left after a segment, for the same slots; the segment is not decided on."""
        rest = copy(self)
        rest.decisions, rest._refused = [], []
        rest._kinds = {kind: deque(line) for kind, line in self._kinds.items()}
        predicted = self._predict(params, start, until)
        for line in self._kinds.values():
            slot = line[0][1]
            if isinstance(found := self._quote(slot, predicted, first=start == 0), Quote):
                rest.balance = self.balance.less(found.held, slot.pool)
                break
        return rest

    def seconds(self, params: Params, start: int, until: int) -> float | None:
        """The predicted device-seconds of a segment; None while nothing is known."""
        predicted = self._predict(params, start, until)
        return None if predicted is None else predicted.median_s

    def closed(self) -> list[Decision]:
        """The decisions; and where a slot is left because all was too dear, the cheapest of that.

        The run loop will refuse it and can say why the run ends.
        """
        taken = {decision.slot.name for decision in self.decisions if isinstance(decision, (Start, Resume))}
        idle = {slot.likeness: slot for slot in self._slots if slot.name not in taken}
        too_dear = [(cost, decision) for cost, decision in self._refused if decision.slot.likeness in idle]
        if too_dear:
            decision = min(too_dear, key=lambda refused: refused[0])[1]
            # Something cheaper may have taken the slot where it was refused.
            self.decisions.append(replace(decision, slot=idle[decision.slot.likeness]))
        return self.decisions

    def _place(
        self, decide: Callable[[Slot], Start | Resume], predicted: CostPrediction | None, *, first: bool
    ) -> bool:
        for slot in self._ranked(1.0 if predicted is None else predicted.median_s):
            kind = slot.likeness
            found = self._take(decide(slot), predicted, first=first)
            if found is None:
                self._kinds[kind].popleft()
            if found or not self._kinds[kind]:  # nothing more can be paid for there, or all are taken
                del self._kinds[kind]
            if found is None:
                return True
        return False

    def _ranked(self, work_s: float) -> list[Slot]:
        """The first slot in line of each kind, the best first: of like slots one stands for all."""
        slots = [slot for _, slot in sorted((line[0] for line in self._kinds.values()), key=lambda first: first[0])]
        return slots if self._market is None else self._market.ranked(slots, work_s)

    def _take(self, decision: Start | Resume, predicted: CostPrediction | None, *, first: bool) -> bool | None:
        """Decide so if that is affordable; if not, whether to ask no more of its pool."""
        if self._quotes:
            found = self._quote(decision.slot, predicted, first=first)
            if isinstance(found, Refusal):
                self._refused.append((predicted.median_s if predicted else 0.0, decision))
                # What is left of a pool's own budget is not worth a search for something cheaper each time.
                return found.hopeless or decision.slot.pool in self.balance.pools
            self.balance = self.balance.less(found.held, decision.slot.pool)
        self.waiting -= 1
        self.decisions.append(decision)
        return None

    def _quote(self, slot: Slot, predicted: CostPrediction | None, *, first: bool) -> Quote | Refusal:
        return quote(self.balance, slot, predicted, first=first, sharers=self.waiting, trial_cap_s=self._trial_cap_s)


def start_suggestions(purse: Purse, proposer: Proposer, study: Study, start: Callable[[Suggestion], bool]) -> bool:
    """Start what the proposer suggests until no slot is left, passing over what is too dear.

    What the proposer does not hold worth its price is not started, nor is anything after it. `start` does
    it, by way of the purse, and says whether it could. Returns whether a slot is left because the proposer has
    nothing more: the space is exhausted.
    """
    passed_over = in_a_row = 0
    for suggestion in _suggestions(proposer, study, purse.waiting):
        if suggestion.not_worth:
            purse.decisions.append(Finish(suggestion.not_worth))
            return False
        why = {**suggestion.why, "passed_over": passed_over} if passed_over else suggestion.why
        is_in = start(Suggestion(suggestion.params, why))
        in_a_row = 0 if is_in else in_a_row + 1
        passed_over += not is_in
        if not purse.is_open or in_a_row >= _AT_ONCE:
            return False
    return purse.waiting > 0 and not passed_over


def _suggestions(proposer: Proposer, study: Study, n: int) -> Iterator[Suggestion]:
    """The proposer's next `n`, then more of them as long as they are wanted, each once.

    Asked for more, a proposer that goes one after the other begins with the same; one that chooses
    batches as a whole may not.
    """
    seen: set[object] = set()
    few = itertools.takewhile(lambda count: count < n, (_AT_ONCE * 4**k for k in itertools.count()))
    for count in [*few, n, *(n + more for more in _MORE)] if n else ():
        found = proposer.propose(study, count)
        fresh = [(key, suggestion) for suggestion in found if (key := key_of(suggestion.params)) not in seen]
        yield from (suggestion for _, suggestion in fresh)
        if len(found) < count:
            return
        seen.update(key for key, _ in fresh)
