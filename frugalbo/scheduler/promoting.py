"""Schedulers that let a configuration go on from rung to rung as it earns it, and pause it in between."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet

from frugalbo.budget.cost import CostModel
from frugalbo.budget.ledger import Balance
from frugalbo.propose.base import Proposer, Suggestion
from frugalbo.scheduler.base import Decision
from frugalbo.scheduler.fixed import FixedScheduler
from frugalbo.scheduler.purse import Purse, start_suggestions
from frugalbo.scheduler.rungs import PROMOTED_FROM, Rung, Standings, check_eta, levels_of
from frugalbo.slot import Slot
from frugalbo.study import Study


class PromotingScheduler(FixedScheduler, ABC):
    """What ASHA and Hyperband share; a subclass says who is in which bracket, and who has earned to go on.

    What was interrupted goes on first, then those who have earned it, then new configurations start. What
    cannot be paid for is passed over for the next in this order. When the space is exhausted, the best of
    those who wait go on, from the highest rung down: the published algorithms do not say, and would leave the
    slot idle. They do not look at what is left in any other way: with a hard budget the last configurations
    that they start do not get far.

    Args:
        eta: Of how many configurations one goes on.

    Raises:
        SchedulerError: If `eta` is no whole number of at least 2.
    """

    def __init__(
        self, proposer: Proposer, cost_model: CostModel | None = None, *, trial_cap_s: float | None = None, eta: int = 3
    ) -> None:
        super().__init__(proposer, cost_model, trial_cap_s=trial_cap_s)
        self.eta = check_eta(eta)
        self._standings = Standings(lambda study, i: self._bracket_of(levels_of(study, self.eta), i))

    def decide(self, study: Study, balance: Balance, slots: Sequence[Slot]) -> Sequence[Decision]:
        """Resume what was interrupted, send on who has earned it, then start what the proposer suggests."""
        standings = self._standings
        standings.follow(study)
        purse = Purse(study, balance, slots, self.cost_model, self.trial_cap_s)
        for number, level in sorted(standings.interrupted.items()):
            if purse.is_open:
                purse.resume(study.trials[number], level)
        self._go_on(study, purse)
        return purse.closed()

    def _go_on(self, study: Study, purse: Purse) -> None:
        """What happens once what was interrupted goes on."""
        standings = self._standings
        seen = self._send_on(purse, study, self._earned(standings))
        if purse.is_open and self._start(study, purse):
            self._send_on(purse, study, self._rest(purse, study, seen))

    def _rest(self, purse: Purse, study: Study, seen: AbstractSet[int]) -> Iterator[tuple[int, int]]:
        """Who goes on without having earned it once the space is exhausted, the best first; not who was looked at."""
        del purse, study
        return (step for step in waiting(self._standings.brackets.values()) if step[0] not in seen)

    def _start(self, study: Study, purse: Purse) -> bool:
        """Start what the proposer suggests; whether a slot is left because the space is exhausted."""
        entered = len(self._standings)

        def enter(suggestion: Suggestion) -> bool:
            nonlocal entered
            _, levels = self._bracket_of(levels_of(study, self.eta), entered)
            level = levels[0]
            is_in = purse.start(suggestion, level, level if is_replanned(study) else study.problem.steps)
            entered += is_in
            return is_in

        return start_suggestions(purse, self.proposer, study, enter)

    @abstractmethod
    def _bracket_of(self, levels: Sequence[int], index: int) -> tuple[int, Sequence[int]]:
        """The number and the levels of the bracket that the entrant of this index, from 0, belongs to."""

    @abstractmethod
    def _earned(self, standings: Standings) -> Iterable[tuple[int, int]]:
        """The entrants that have earned to go on, and to which level, the most urgent first."""

    def _send_on(self, purse: Purse, study: Study, steps: Iterable[tuple[int, int]]) -> set[int]:
        """Send entrants on as long as there are slots; returns those that were looked at."""
        seen: set[int] = set()
        if not purse.is_open:
            return seen
        for entrant, level in steps:
            seen.add(entrant)
            trial = study.trials[self._standings.trial_of(entrant)]
            if is_replanned(study):
                purse.start(Suggestion(trial.params, {"method": "promoted", PROMOTED_FROM: trial.number}), level, level)
            else:
                purse.resume(trial, level)
            if not purse.is_open:
                break
        return seen


def climb(rungs: Sequence[Rung]) -> list[tuple[int, Rung, int]]:
    """For each rung but the last, the highest first: its index, the rung, and the level of the next."""
    return [(k, rungs[k], rungs[k + 1].level) for k in range(len(rungs) - 2, -1, -1)]


def waiting(brackets: Iterable[Sequence[Rung]]) -> Iterator[tuple[int, int]]:
    """All who wait at a rung, with the level of the next: the highest rung first, there the best first."""
    found = [
        (-rung.level, loss, entrant, to) for rungs in brackets for _, rung, to in climb(rungs)
        for loss, entrant in rung.waiting
    ]  # fmt: skip
    yield from ((entrant, to) for _, _, entrant, to in sorted(found))


def is_replanned(study: Study) -> bool:
    """Whether going on to a higher rung means to start again."""
    fidelity = study.problem.fidelity
    return fidelity is not None and fidelity.schedule == "replanned"
