"""What became of a segment whose seat was lost, or whose controller: the machine that ran it is asked, or its files.

For executors whose segments run on other machines, with their folders on storage that all of them see.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from frugalbo.budget.amounts import Cost
from frugalbo.events import Cause, Ended, Event, Outcome, Reported, Started, event_to_json
from frugalbo.executors import processes
from frugalbo.executors.base import Segment
from frugalbo.executors.messages import events_from_text
from frugalbo.executors.recovery import recover_segment
from frugalbo.executors.segments import SegmentFolder, cost_of
from frugalbo.slot import Slot

_SILENCE_S = 5.0  # a supervisor that has left no sign for so long, twenty beats, is gone
_LOOK_S = 0.1


@dataclass(slots=True)
class Running:
    """A segment that was submitted.

    Args:
        submitted: When, by the monotonic clock.
        at: When, by the executor's.
        last: The last step that was reported.
        asked: What it was asked to end as.
        finding_out: What became of it, once its seat is lost.
    """

    segment: Segment
    submitted: float
    at: float
    last: int
    asked: Outcome | None = None
    finding_out: Future[list[Event]] | None = None

    def lost(self, objective: str, grace_s: float, *, why: str, node: str, preempted: bool = False) -> Lost:
        """That nothing more is heard of it."""
        preempted = preempted or self.segment.slot.preemptible
        return Lost.of(
            self.segment, objective, grace_s,
            at=self.at, last=self.last, asked=self.asked, why=why, preempted=preempted, node=node,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Lost:
    """A segment of which nothing more is heard.

    Args:
        last: The last step that was reported.
        asked: What it had been asked to end as.
        why: What is known of the loss, in a sentence; empty if its controller died, which is another one.
        preempted: Whether its device was taken away as was agreed.
        node: Where it ran, for people.
    """

    started: Started
    folder: Path
    slot: Slot
    objective: str
    grace_s: float
    last: int = 0
    asked: Outcome | None = None
    why: str = ""
    preempted: bool = False
    node: str = ""

    @classmethod
    def of(
        cls,
        segment: Segment,
        objective: str,
        grace_s: float,
        *,
        at: float,
        last: int,
        asked: Outcome | None,
        why: str,
        preempted: bool,
        node: str,
    ) -> Self:
        """One that this controller submitted."""
        capped = segment.cap_s * segment.slot.devices
        held = Cost(device_seconds=capped) if math.isfinite(capped) else Cost()
        started = Started(
            segment.trial, segment.number, segment.params, segment.start, segment.until, segment.planned, held,
            segment.slot.name, at,
        )  # fmt: skip
        return cls(started, segment.folder, segment.slot, objective, grace_s, last, asked, why, preempted, node)

    def question(self, now: float) -> tuple[str, str, str, str, float]:
        """What `seat.recover` is to be asked."""
        started, slot = json.dumps(event_to_json(self.started)), json.dumps(asdict(self.slot))
        return started, str(self.folder), self.objective, slot, now


def find_out(
    lost: Lost, *, ask: Callable[[str], str | None], now: Callable[[], float], elapsed_s: float | None
) -> list[Event]:
    """The late reports of a lost segment and its `Ended`.

    `ask` has `seat.recover` called on a machine, named by `processes.machine`, and gives None if that is not
    there. `elapsed_s` is the time since it was submitted, where this controller has done so.
    """
    files = SegmentFolder(lost.folder, lost.started.segment)
    orders = files.read_orders()
    said = None
    if orders is not None and orders.machine != processes.machine():
        said = ask(orders.machine)
        if said is None:
            _await_silence(files, most_s=orders.segment.cap_s + lost.grace_s)
    if said is not None:
        events = events_from_text(said)
    else:
        events = recover_segment(lost.started, lost.folder, objective=lost.objective, slots=[lost.slot], now=now())
    late = [event for event in events if isinstance(event, Reported) and event.step > lost.last]
    ended = next(event for event in events if isinstance(event, Ended))
    if files.read_receipt() is None and orders is not None:
        ended = replace(ended, used=_charge(files, orders.segment, now(), elapsed_s))
    return [*late, explained(lost, ended)]


def _charge(files: SegmentFolder, segment: Segment, now: float, elapsed_s: float | None) -> Cost:
    """What it lived, up to its cap, and to the time that has passed."""
    seconds = min(files.lived_s(now) or 0.0, segment.cap_s)
    return cost_of(segment, seconds if elapsed_s is None else min(seconds, elapsed_s))


def explained(lost: Lost, ended: Ended) -> Ended:
    """An end with what is known of the loss, where it is one."""
    if ended.outcome != Outcome.INTERRUPTED:
        return ended
    if lost.asked == Outcome.STOPPED:
        return replace(ended, outcome=Outcome.STOPPED, message="the scheduler gave it up", cause=None)
    cause = Cause.PREEMPTED if lost.preempted else Cause.INFRASTRUCTURE
    where = f" (node {lost.node[:8]})" if lost.node else ""
    return replace(ended, cause=cause, message=f"{lost.why}{where}" if lost.why else ended.message)


def _await_silence(files: SegmentFolder, *, most_s: float) -> None:
    """Until a receipt is there or the segment leaves no sign of life any more.

    Its machine cannot be reached, but may be alive, and end the job any moment as its seat is gone. Only
    changes of stamps count, as its clock need not be ours.
    """
    give_up = time.monotonic() + most_s
    beat, heard = files.last_beat(), time.monotonic()
    while files.read_receipt() is None and time.monotonic() < min(give_up, heard + _SILENCE_S):
        time.sleep(_LOOK_S)
        if (now := files.last_beat()) != beat:
            beat, heard = now, time.monotonic()
