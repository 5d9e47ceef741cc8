"""The contract of a scheduler: a pure function from what is known to what to do next.

`decide` may look at the study, the balance and the free slots, and at nothing else: the same
arguments and seed give the same decisions. So a run can be replayed, simulated and resumed.
What a decision may cost is not its business: the run loop quotes and holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from frugalbo.budget.ledger import Balance
from frugalbo.slot import Slot
from frugalbo.space import Params
from frugalbo.study import Study


@dataclass(frozen=True, slots=True)
class Start:
    """Start a new trial, planned for `planned` steps, and run it up to `until`."""

    slot: Slot
    params: Params
    until: int
    planned: int
    why: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Resume:
    """Let a paused trial go on from its checkpoint up to `until`."""

    slot: Slot
    trial: int
    until: int
    why: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stop:
    """Give up a running trial."""

    trial: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Start nothing more for now: nothing is worth it. What runs goes on, and may change that.

    Args:
        reason: In a sentence.
    """

    reason: str


Decision = Start | Resume | Stop | Finish


class Scheduler(Protocol):
    """Decides what to do with free slots."""

    def decide(self, study: Study, balance: Balance, slots: Sequence[Slot]) -> Sequence[Decision]:
        """The decisions for now, most urgent first; at most one `Start` or `Resume` a slot.

        Returns nothing to start when there is nothing worth doing, with a `Finish` if it knows why; the
        run ends when nothing runs either.
        """
        ...


@runtime_checkable
class Preparing(Protocol):
    """A scheduler that can use the time in which no slot is free."""

    def prepare(self, study: Study, is_over: Callable[[], bool]) -> None:
        """Get ready for the next `decide`, whose answer that must not change.

        Args:
            study: As it stands; not to be changed.
            is_over: To be asked often; once it is true, something has happened and `decide` may be next.
        """
        ...


@runtime_checkable
class Watching(Protocol):
    """A scheduler that gives up running trials by what they report."""

    def watch(self, study: Study) -> Sequence[Stop]:
        """The running trials to give up now; pure as `decide` is. Asked whenever something was reported or has ended.

        A trial may be named again until it has ended.
        """
        ...
