"""Segments on other machines, whose workers ask for them over HTTP.

    controller (listens) <- worker (`http_worker`, one a machine) -> local executor -> supervisor -> job

A worker registers its slots and then asks again and again what it is to do; nothing connects to it. It holds a lease
(`http_registry`), which all that it says renews. Below it all is as on one machine.

| what happens | what follows |
|---|---|
| the job, a supervisor or the template is killed | as in `frugalbo.executors.local`; the worker says so |
| a message is lost or doubled | it is said again, and counts once |
| a worker or its machine is killed | its supervisors end their jobs; its lease ends, its segments go on elsewhere |
| the network is cut | the worker ends its segments when it could not renew its lease; so does the controller, later |
| a worker comes back | its session is over: it ends what runs and registers anew; what it says late does not count |
| the controller is killed | the workers end their segments, wait, and register with the next one; `recover` asks them |

Trials' folders are shared (`folders="shared"`: all machines see them under one path), or workers keep folders of their
own and carry checkpoints to the controller (`"sent"`) or to a URL of fsspec, such as `"s3://bucket/run"`.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from frugalbo.errors import ExecutorError, FrugalWarning, StudyError
from frugalbo.events import Cause, Ended, Event, Outcome, Reported, event_from_json
from frugalbo.executors import seat
from frugalbo.executors.admission import not_shared, probing
from frugalbo.executors.base import Segment
from frugalbo.executors.depots import refuse_folders
from frugalbo.executors.http_desk import Desk
from frugalbo.executors.http_lost import Answers, result_of, what_became_of
from frugalbo.executors.http_registry import Message, Worker
from frugalbo.executors.lost import Lost, Running
from frugalbo.executors.messages import confirm, segment_to_json
from frugalbo.executors.remote import Remote
from frugalbo.executors.segments import absolute, clean
from frugalbo.executors.unseen import handed_out, note
from frugalbo.pool import Pool
from frugalbo.problem import Problem
from frugalbo.slot import Slot

DEFAULT_LISTEN = "127.0.0.1:8765"
_MARGIN_S = 3.0  # above lease and grace, until a worker's segments are taken for ended
_GATHER_S = 10.0  # how long workers that are loading the job are waited for, once another is ready
_CALL_S = 15.0  # without any worker, until the user is told how to start one
_EXIT_S = 10.0  # what workers may need above the grace to end their jobs, when the executor is left
_PATIENCE_S = 60.0  # a worker that is there and has not said how a segment ended, so long after the cap, hangs
_CARRY_S = 600.0  # longer, where it carries checkpoints before and after
_MESSAGE_CHARS = 4000


@dataclass(slots=True)
class _Place:
    """A slot of a worker; `worker` is None while it is away, since `since`."""

    slot: Slot
    worker: Worker | None
    since: float
    is_open: bool = True
    seen: set[Path] = field(default_factory=set)
    running: Running | None = None


class HttpExecutor(Remote):
    """Runs the segments of one problem on the slots of workers that register.

    Args:
        listen: The address and the port to listen on. One that other machines can reach needs a token.
        token_file: The secret that workers must know; the file is made if it is not there.
        folders: `"shared"`, `"sent"`, or a URL of fsspec; see the module.
        workers: How many to wait for before the run begins.
        lease_s: How long a worker may be silent until it ends its segments.
        patience_s: How long to wait for workers, at first, and whenever none is left.
        most_bytes: Of a checkpoint's file that is sent.
        pools: Their prices and speeds; a worker names its pool. `devices` is the most slots that a pool takes.
        grace_s: As for `LocalExecutor`.
        preload: As for `LocalExecutor`.

    Raises:
        ExecutorError: If it cannot listen so; on entering, if no worker comes or none can run the job.
        ProblemError: If the job is a function that only this process has.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        listen: str = DEFAULT_LISTEN,
        token_file: str | None = None,
        folders: str = "shared",
        workers: int = 1,
        lease_s: float = 15.0,
        patience_s: float = 300.0,
        most_bytes: int = 2**36,
        dollars_per_hour: float = 0.0,
        pools: Sequence[Pool] | None = None,
        grace_s: float = 1.5,
        preload: Sequence[str] = ("torch",),
    ) -> None:
        super().__init__(problem, patience_s=patience_s, grace_s=grace_s, preload=preload)
        if not lease_s > 0 or not workers >= 1 or not most_bytes > 0:
            raise ExecutorError(
                f"expected a lease above 0 s, workers, bytes, got {lease_s!r}, {workers!r}, {most_bytes!r}"
            )
        refuse_folders(folders, known=("shared", "sent"))
        self._workers = workers
        self._desk = Desk(
            listen=listen, token_file=token_file, folders=folders, lease_s=lease_s, margin_s=grace_s + _MARGIN_S,
            most_bytes=most_bytes, dollars_per_hour=dollars_per_hour, pools=pools or (),
        )  # fmt: skip
        self._entered = 0.0
        self._places: dict[str, _Place] = {}
        self._cannot = ""

    @property
    def url(self) -> str:
        """Where workers are to register, as seen from this machine."""
        return self._desk.url

    @property
    def slots(self) -> Sequence[Slot]:
        """The slots of workers that are there, or were so a while ago and may come back."""
        now = time.monotonic()
        return [p.slot for p in self._sorted() if p.worker or p.running or now < p.since + self._patience_s]

    def free_slots(self) -> Sequence[Slot]:
        """The slots of workers that are there, and on which nothing runs, in a fixed order."""
        return [place.slot for place in self._sorted() if place.worker and place.is_open and place.running is None]

    def submit(self, segment: Segment) -> None:
        """Have a segment begun by the worker of its slot, which must be free.

        Raises:
            ExecutorError: If the slot is not free or its worker does not see the trial's folder.
        """
        self._admit(segment)
        place = self._places[segment.slot.name]
        segment = absolute(segment)
        if place.worker is not None and self._is_shared:
            self._check_shared(place, place.worker, segment.folder.parent)
        place.running = Running(segment, time.monotonic(), self.now(), segment.start)
        own = segment if self._is_shared else handed_out(segment)
        if (worker := place.worker) is None:
            self._lose(place, "its worker was lost before it began", "")
            return
        self._desk.granted[worker.session, segment.trial, segment.number] = segment.folder
        self._desk.registry.tell(worker, {"begin": segment_to_json(own)})

    def cancel(self, trial: int, outcome: Outcome = Outcome.STOPPED) -> None:
        """Ask a running trial to end; one that reached its end meanwhile is still `COMPLETED` or `PAUSED`."""
        for place in self._running():
            if place.running and place.running.segment.trial == trial:
                self._ask_to_end(place, outcome)

    def _begin(self) -> None:
        self._entered = time.monotonic()
        self._desk.open(seat.order(self._problem, None, grace_s=self._grace_s, preload=self._preload))

    def _end(self) -> None:
        for place in self._running():
            self._ask_to_end(place, Outcome.INTERRUPTED)
        self._drain(self._grace_s + _EXIT_S)
        for place in self._running():
            if place.worker is not None:
                self._desk.registry.end(place.worker, "it did not say how its segments ended")
        self._drain(self._desk.lease_s + self._grace_s + _EXIT_S)

    def _segments(self) -> dict[str, Segment]:
        return {place.slot.name: place.running.segment for place in self._running() if place.running is not None}

    def _find_out(self, lost: Lost) -> list[Event]:
        return what_became_of(lost, self._answers(), now=self.now)

    def _none_left(self) -> str:
        return f"no worker was there for {self._patience_s:.0f} s; start some with: {self._desk.how}"

    # Workers

    def _sorted(self) -> list[_Place]:
        return [self._places[name] for name in sorted(self._places)]

    def _known(self) -> list[Slot]:
        return [place.slot for place in self._sorted()]

    def _running(self) -> list[_Place]:
        return [place for place in self._sorted() if place.running is not None]

    def _gather(self) -> None:
        """Wait for the workers: as many as are wanted, or, when patience is over, those that there are."""
        began, first, said = time.monotonic(), None, False
        while True:
            ready = {place.worker.session for place in self._places.values() if place.worker}
            registered, now = self._desk.registry.workers(), time.monotonic()
            first = now if ready and first is None else first
            is_patient = now < began + self._patience_s
            loading = len(registered) > len(ready) and first is not None and now < first + _GATHER_S
            if ready and not loading and (len(ready) >= self._workers or not is_patient):
                if len(ready) < self._workers:
                    message = f"the run begins with {len(ready)} of {self._workers} workers; the others can join it"
                    warnings.warn(message, FrugalWarning, stacklevel=3)
                return
            if not ready and (self._cannot or not is_patient):
                none = f"no worker came in {self._patience_s:.0f} s; start some with: {self._desk.how}"
                raise ExecutorError(self._cannot or none)
            if not registered and not said and now > began + _CALL_S:
                warnings.warn(f"no worker is there yet; start some with: {self._desk.how}", FrugalWarning, stacklevel=3)
                said = True
            self._collect(0.2)

    def _check_shared(self, place: _Place, worker: Worker, folder: Path) -> None:
        if folder in place.seen:
            return
        with probing(folder, self._run) as probe:
            said = result_of(self._desk.registry.ask(worker, {"sees": [str(probe), self._run]}), self._desk.lease_s)
        if said == "no":
            raise not_shared(folder, f"the machine of worker {worker.name!r}")
        if said == "yes":
            place.seen.add(folder)

    def _answers(self) -> Answers:
        return Answers(self._desk, self._entered + self._desk.lease_s + self._grace_s)

    # What they say

    def _collect(self, timeout_s: float) -> None:
        """Take in what workers have said; waits for the first word."""
        registry = self._desk.registry
        registry.end_expired()
        finding = [place for place in self._running() if place.running and place.running.finding_out]
        for worker, message in registry.take(min(timeout_s, 0.05 if finding else 0.5)):
            self._hear(worker, message)
        now = time.monotonic()
        for place in self._running():
            running = place.running
            assert running is not None
            if (found := running.finding_out) is not None:
                if found.done():
                    self._take(place, found.result())
            elif place.worker and now > running.submitted + running.segment.cap_s + _PATIENCE_S + self._carry_s:
                registry.end(place.worker, "it had not said how its segment ended long after the cap")

    @property
    def _is_shared(self) -> bool:
        return self._desk.folders == "shared"

    @property
    def _carry_s(self) -> float:
        return 0.0 if self._is_shared else _CARRY_S

    def _hear(self, worker: Worker, message: Message) -> None:
        places = [place for place in self._sorted() if place.worker is worker]
        if "ready" in message:
            for slot in worker.slots:
                old = self._places.get(slot.name)
                self._places[slot.name] = _Place(slot, worker, time.monotonic(), running=old.running if old else None)
        elif "event" in message:
            self._hear_event(worker, message["event"])
        elif "lost" in message:
            for place in self._of_segment(worker, *message["lost"]):
                self._lose(place, f"its worker could not begin it: {clean(str(message['why']))[-300:]}", worker.name)
        elif "cannot" in message:
            self._cannot = f"worker {worker.name!r} cannot run this: {message['cannot']}"
            if self._places:
                warnings.warn(self._cannot, FrugalWarning, stacklevel=2)
        elif "leaving" in message:
            for place in places:
                place.is_open = False
        elif "gone" in message:
            self._desk.registry.drop(worker)
            for place in places:
                self._vacate(place, worker, str(message["gone"]))

    def _vacate(self, place: _Place, worker: Worker, why: str) -> None:
        place.worker, place.since = None, time.monotonic()
        if place.running is not None and place.running.finding_out is None:
            self._lose(place, f"its worker was lost: {clean(why)[-300:]}", worker.name)

    def _hear_event(self, worker: Worker, record: Mapping[str, Any]) -> None:
        try:
            event = event_from_json(record)
        except StudyError:
            return
        if isinstance(event, Ended):
            event = replace(
                event, message=clean(event.message)[:_MESSAGE_CHARS], log_tail=clean(event.log_tail)[-_MESSAGE_CHARS:]
            )
        for place in self._of_segment(worker, event.trial, event.segment):
            self._take(place, [event])

    def _of_segment(self, worker: Worker, trial: int, number: int) -> list[_Place]:
        """Where a worker runs a segment that is not given up yet: one place or none."""
        return [
            place
            for place in self._running()
            if place.worker is worker
            and place.running is not None
            and place.running.finding_out is None
            and (place.running.segment.trial, place.running.segment.number) == (trial, number)
        ]

    def _take(self, place: _Place, events: Sequence[Event]) -> None:
        """Hand on the events of a segment; stamps are put between its start and now, whatever clock they are of."""
        running = place.running
        assert running is not None
        for event in events:
            event = replace(event, at=min(max(event.at, running.at), self.now()))
            if isinstance(event, Reported) and running.last < event.step <= running.segment.until:
                running.last = event.step
                self._events.append(event)
                if not self._is_shared:
                    note(running.segment, event)
            elif isinstance(event, Ended) and place.running is not None:
                if event.outcome == Outcome.INTERRUPTED and running.asked is None and running.finding_out is None:
                    cause = Cause.PREEMPTED if running.segment.slot.preemptible else Cause.INFRASTRUCTURE
                    event = replace(event, cause=cause, message="its worker was stopped")
                ended = confirm(event, running.segment, time.monotonic() - running.submitted)
                if not self._is_shared:
                    note(running.segment, ended)
                self._events.append(ended)
                place.running = None
                self._desk.release(event.trial, event.segment)

    def _ask_to_end(self, place: _Place, outcome: Outcome) -> None:
        running = place.running
        if running is not None and running.asked is None:
            running.asked = outcome
            if place.worker is not None:
                said = [running.segment.trial, running.segment.number, str(outcome)]
                self._desk.registry.tell(place.worker, {"cancel": said})

    def _lose(self, place: _Place, why: str, node: str) -> None:
        """Find out what became of a segment, beside the others."""
        running = place.running
        assert running is not None
        lost = running.lost(self._problem.objective.metric, self._grace_s, why=why, node=node)
        running.finding_out = self._finders.submit(
            what_became_of, lost, self._answers(), now=self.now, submitted=running.submitted
        )

    def _drain(self, timeout_s: float) -> None:
        give_up = time.monotonic() + timeout_s
        while self._running() and time.monotonic() < give_up:
            self._collect(0.5)

    def _close(self) -> None:
        """Leave nothing: sessions are over, and with them what workers run."""
        self._desk.close()
        self._places = {}
