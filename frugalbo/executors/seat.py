"""A seat: one slot on the machine where this runs, for a controller that may be on another one.

Within it is a `LocalExecutor`, so segments have its supervisor, its caps, its receipts, and nothing
of them is left when the process of the seat is killed. What goes in and out is text (`messages`).
Methods may be called from several threads at once: `begin` and `events` from one, the others from any.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import Any

import frugalbo
from frugalbo.errors import ExecutorError, FrugalError
from frugalbo.executors.carrier import Carrier
from frugalbo.executors.depots import carried_as
from frugalbo.executors.local import LocalExecutor
from frugalbo.executors.messages import events_from_text, events_to_text, segment_from_json
from frugalbo.executors.recovery import recover_segment
from frugalbo.executors.segments import SegmentFolder
from frugalbo.problem import Problem
from frugalbo.slot import Slot
from frugalbo.study import Ended, Outcome, Started, event_from_json

_SHARED_S = 4.0  # a network file system may need seconds to show a new file


class Seat:
    """One slot here; see the module."""

    def __init__(self) -> None:
        self._executor: LocalExecutor | None = None
        self._lock = Lock()
        self._begun: tuple[int, int] | None = None  # the trial and the number of the segment
        self._early: dict[tuple[int, int], Outcome] = {}  # of those cancelled before they came here

    def open(self, order: str) -> str:
        """Make ready for segments of one problem; returns the host and the process, or `{"error": text}`."""
        record: dict[str, Any] = json.loads(order)
        try:
            refuse_version(record["version"])
            problem = Problem.from_json({**record["problem"], "root": _root(record["problem"]["root"], record["sent"])})
            slot = Slot(**record["slot"])
            self._executor = LocalExecutor(
                problem, [slot], grace_s=record["grace_s"], preload=record["preload"], pin=False
            ).__enter__()
        except FrugalError as error:
            return json.dumps({"error": str(error)})
        return json.dumps({"host": socket.gethostname(), "pid": os.getpid()})

    def sees(self, path: str, text: str) -> bool:
        """Whether that file holds that text here, too: whether folders are shared."""
        return sees(path, text)

    def begin(self, segment: str, timeout_s: float) -> str:
        """Start a segment; returns the first events, as `events` does."""
        orders = segment_from_json(json.loads(segment))
        assert self._executor is not None
        self._executor.submit(orders)
        with self._lock:
            self._begun = orders.trial, orders.number
            early = self._early.pop(self._begun, None)
        if early is not None:
            self._executor.cancel(orders.trial, early)
        return self.events(timeout_s)

    def events(self, timeout_s: float) -> str:
        """What happened since the last call; waits for the first event, at most so long."""
        assert self._executor is not None
        return events_to_text(self._executor.wait(timeout_s))

    def cancel(self, trial: int, number: int, outcome: str) -> None:
        """Ask a segment to end, now or as soon as it has begun."""
        assert self._executor is not None
        with self._lock:
            if self._begun != (trial, number):
                self._early = {(trial, number): Outcome(outcome)}
                return
        self._executor.cancel(trial, Outcome(outcome))

    def close(self) -> None:
        """End all that runs; nothing is left alive."""
        if self._executor is not None:
            self._executor.__exit__(None, None, None)


def order(
    problem: Problem, slot: Slot | None, *, grace_s: float, preload: Sequence[str], sent: str | None = None
) -> dict[str, Any]:
    """What a controller tells `Seat.open`.

    `slot` is None for who has several. `sent` is the folder of the controller that was copied to where the seat
    runs, if one was.
    """
    return {
        "version": frugalbo.__version__,
        "problem": {**problem.to_json(), "root": str(Path(problem.root).resolve())},
        "sent": sent,
        "slot": slot and asdict(slot),
        "grace_s": grace_s,
        "preload": list(preload),
    }


def sees(path: str, text: str) -> bool:
    """Whether a file holds a text here."""
    give_up = time.monotonic() + _SHARED_S
    while time.monotonic() < give_up:
        with contextlib.suppress(OSError):
            if Path(path).read_text() == text:
                return True
        time.sleep(0.1)
    return False


def refuse_version(controllers: str) -> None:
    """Refuse to work for a controller of another version.

    Raises:
        ExecutorError: If it is another one.
    """
    if controllers != frugalbo.__version__:
        versions = f"expected frugalbo {controllers}, as at the controller, got {frugalbo.__version__}"
        raise ExecutorError(f"{versions} on {socket.gethostname()}")


def recover(started: str, folder: str, objective: str, slot: str, now: float) -> str:
    """What became of a segment of this machine whose controller, or whose seat, died; ends what is left of it."""
    event = event_from_json(json.loads(started))
    assert isinstance(event, Started)
    slots = [Slot(**json.loads(slot))]
    return events_to_text(recover_segment(event, Path(folder), objective=objective, slots=slots, now=now))


def recover_own(
    started: str, folder: str, objective: str, slot: str, now: float, root: Path, carrier: Carrier
) -> str | None:
    """The same for one that ran in a folder of this machine's own, below `root`; None if it did not run there.

    Its checkpoint is carried to where others can get it.
    """
    event = event_from_json(json.loads(started))
    assert isinstance(event, Started)
    own = root / carried_as(Path(folder))
    orders = SegmentFolder(own, event.segment).read_orders()
    if orders is None:
        return None
    *late, ended = events_from_text(recover(started, str(own), objective, slot, now))
    assert isinstance(ended, Ended)
    return events_to_text([*late, carrier.end(orders.segment, ended).result()])


def _root(root: str, sent: str | None) -> str:
    """Where the job is found here: in the folder that was sent along, if the controller has it in that one."""
    if sent is None or not Path(root).is_relative_to(sent):
        return root
    return str(Path.cwd() / Path(root).relative_to(sent))
