"""The contract between the run loop and whatever runs segments.

An executor is a context manager. Within it, for each submitted segment, `wait` returns any number
of `Reported` events in the order of steps, then exactly one `Ended`; after it nothing that the
segment started is alive. Events of one instant are returned together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from frugalbo.events import Ended, Event, Outcome, Reported, Started
from frugalbo.slot import Slot
from frugalbo.space import Params

__all__ = ["Executor", "Segment", "Slot"]


@dataclass(frozen=True, slots=True)
class Segment:
    """What an executor is asked to run.

    Args:
        trial: The trial's number.
        number: The segment's number within its trial, from 0.
        start: Steps already done; the checkpoint of that step is in `folder`.
        until: The last step granted.
        planned: The steps planned for the whole trial.
        cap_s: Seconds after which nothing of the segment may be alive.
        memory_bytes: What all its processes together may keep in memory; None for no cap.
        folder: The trial's own folder, kept between its segments.
    """

    trial: int
    number: int
    params: Params
    seed: int
    start: int
    until: int
    planned: int
    slot: Slot
    cap_s: float
    memory_bytes: int | None
    folder: Path


class Executor(Protocol):
    """Runs segments on slots."""

    @property
    def slots(self) -> Sequence[Slot]:
        """All slots."""
        ...

    def free_slots(self) -> Sequence[Slot]:
        """The slots on which nothing runs, in a fixed order."""
        ...

    def now(self) -> float:
        """Seconds since 1970 in UTC, or virtual seconds; what events are stamped with."""
        ...

    def submit(self, segment: Segment) -> None:
        """Start a segment on its slot, which must be free.

        Raises:
            ExecutorError: If the slot is not free or the segment cannot be started.
        """
        ...

    def cancel(self, trial: int, outcome: Outcome = Outcome.STOPPED) -> None:
        """Ask a running trial to end soon, as `STOPPED`, or as `INTERRUPTED` if it is to go on one day.

        Twice is the same as once; an ended trial is left alone.
        """
        ...

    def wait(self, timeout_s: float) -> Sequence[Reported | Ended]:
        """The events since the last call; waits for the first of them, at most `timeout_s`."""
        ...

    def recover(self, started: Started, folder: Path) -> Sequence[Event]:
        """What became of a segment whose controller died: late reports, then its `Ended`.

        Makes sure first that nothing of it is alive. A segment that had reached its end is
        `COMPLETED` or `PAUSED`, another one `INTERRUPTED`; charged what was measured, or, where
        nothing was, the time since it started up to what it held.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None:
        """End all that runs; nothing is left alive."""
        ...
