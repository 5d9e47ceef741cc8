"""A seat: one slot on the machine where this runs, for a controller that may be on another one.

Within it is a `LocalExecutor`, so segments have its supervisor, its caps, its receipts, and nothing
of them is left when the process of the seat is killed. What goes in and out is text (`messages`).
Methods may be called from several threads at once: `begin` and `events` from one, the others from any.

Where folders are not shared, it keeps some of its own and carries checkpoints, while it is asked for events: one that
its controller cannot reach, and has given up, soon carries nothing more.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict, replace
from pathlib import Path
from threading import Lock
from typing import Any

import frugalbo
from frugalbo.errors import ExecutorError, FrugalError
from frugalbo.events import Ended, Event, Outcome, Started, event_from_json
from frugalbo.executors import processes
from frugalbo.executors.base import Segment
from frugalbo.executors.carrier import LOOK_S, Carrier
from frugalbo.executors.depots import ObjectDepot, carried_as
from frugalbo.executors.local import LocalExecutor
from frugalbo.executors.messages import events_from_text, events_to_text, segment_from_json
from frugalbo.executors.recovery import recover_segment
from frugalbo.executors.segments import SegmentFolder
from frugalbo.problem import Problem
from frugalbo.slot import Slot

_SHARED_S = 4.0  # a network file system may need seconds to show a new file


class Seat:
    """One slot here; see the module."""

    def __init__(self) -> None:
        self._executor: LocalExecutor | None = None
        self._lock = Lock()
        self._begun: tuple[int, int] | None = None  # the trial and the number of the segment
        self._early: dict[tuple[int, int], Outcome] = {}  # of those cancelled before they came here
        self._folder = Path()
        self._carrier: Carrier | None = None  # where folders are not shared
        self._segment: Segment | None = None
        self._ending: Future[Ended] | None = None  # of a segment that has ended, and whose checkpoint is on its way

    def open(self, order: str) -> str:
        """Make ready for segments of one problem; returns the host and the process, or `{"error": text}`."""
        record: dict[str, Any] = json.loads(order)
        try:
            refuse_version(record["version"])
            problem = Problem.from_json({**record["problem"], "root": _root(record["problem"]["root"], record["sent"])})
            slot = Slot(**record["slot"])
            if record["depot"] is not None:
                url, folder = record["depot"]
                self._folder, self._carrier = _own_folder(folder), Carrier(ObjectDepot(url))
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
        """Start a segment, once what it goes on from is here; returns the first events, as `events` does.

        Raises:
            FrugalError, OSError: If it cannot be started.
        """
        orders = segment_from_json(json.loads(segment))
        assert self._executor is not None
        if self._carrier is not None:
            orders = replace(orders, folder=self._folder / orders.folder)
            if orders.start > 0:
                self._carrier.fetch(orders).result()
        self._segment = orders
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
        if self._carrier is None:
            return events_to_text(self._executor.wait(timeout_s))
        give_up = time.monotonic() + timeout_s
        events = self._carry(self._executor, self._carrier, min(timeout_s, LOOK_S))
        while not events and (left := give_up - time.monotonic()) > 0:
            events = self._carry(self._executor, self._carrier, min(left, LOOK_S))
        return events_to_text(events)

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
        if self._carrier is not None:
            self._carrier.close()

    def _carry(self, executor: LocalExecutor, carrier: Carrier, timeout_s: float) -> list[Event]:
        """What happened, with an end not before its checkpoint is where others can get it."""
        assert self._segment is not None
        if self._ending is None:
            carrier.look([self._segment])
        events: list[Event] = list(executor.wait(timeout_s))
        if events and isinstance(ended := events[-1], Ended):
            self._ending = carrier.end(self._segment, ended)
            self._ending.add_done_callback(lambda _: executor.wake())
            events.pop()
        if self._ending is not None and self._ending.done():
            events.append(self._ending.result())
            self._ending = None
        return events


def order(
    problem: Problem,
    slot: Slot | None,
    *,
    grace_s: float,
    preload: Sequence[str],
    sent: str | None = None,
    depot: tuple[str, str] | None = None,
) -> dict[str, Any]:
    """What a controller tells `Seat.open`.

    `slot` is None for who has several. `sent` is the folder of the controller that was copied to where the seat
    runs, if one was. `depot` is a URL of fsspec, where checkpoints are carried to, and the folder of the seat's machine
    for its own, in which `~` and variables of its environment count; None where folders are shared.
    """
    return {
        "version": frugalbo.__version__,
        "problem": {**problem.to_json(), "root": str(Path(problem.root).resolve())},
        "sent": sent,
        "slot": slot and asdict(slot),
        "grace_s": grace_s,
        "preload": list(preload),
        "depot": depot,
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


def recover_carried(started: str, folder: str, objective: str, slot: str, now: float, url: str, own: str) -> str | None:
    """The same, for whoever comes to this machine; None also if it ran before the machine was started last."""
    event, root = event_from_json(json.loads(started)), _own_folder(own)
    orders = SegmentFolder(root / carried_as(Path(folder)), event.segment).read_orders()
    if orders is None or orders.machine != processes.machine():
        return None  # of another machine that sees this folder, too, and may be running it
    carrier = Carrier(ObjectDepot(url))
    try:
        return recover_own(started, folder, objective, slot, now, root, carrier)
    finally:
        carrier.close()


def _own_folder(text: str) -> Path:
    path = Path(os.path.expandvars(text)).expanduser()
    if not path.is_absolute():
        raise ExecutorError(f"expected a folder on {socket.gethostname()} such as '~/frugalbo', got {text!r}: {path}")
    return path


def _root(root: str, sent: str | None) -> str:
    """Where the job is found here: in the folder that was sent along, if the controller has it in that one."""
    if sent is None or not Path(root).is_relative_to(sent):
        return root
    return str(Path.cwd() / Path(root).relative_to(sent))
