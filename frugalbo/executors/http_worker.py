"""A worker: offers the slots of its machine to the controller at a URL, and runs what that says.

It trusts the controller, whose jobs it runs, and which must know the same token. Without an answer for as long as its
lease it ends what it runs, and registers again; between runs it waits for the next one.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import frugalbo
from frugalbo.errors import ExecutorError, FrugalError
from frugalbo.executors import processes, seat
from frugalbo.executors.base import Segment
from frugalbo.executors.carried import Depot, newest
from frugalbo.executors.depots import HttpDepot, ObjectDepot, carried_as
from frugalbo.executors.http_client import Caller, UnreachableError
from frugalbo.executors.http_registry import BusyError
from frugalbo.executors.http_visit import Visit
from frugalbo.executors.local import LocalExecutor
from frugalbo.executors.messages import events_from_text, events_to_text, segment_from_json
from frugalbo.executors.segments import SegmentFolder
from frugalbo.job import checkpoints
from frugalbo.problem import Problem
from frugalbo.slot import Slot
from frugalbo.study import Ended, Outcome, Reported, Started, event_from_json, event_to_json

_LOOK_S = 1.0  # how often it is looked whether there are new checkpoints to carry
_AGAIN_S = 0.5  # until a controller that is not there is called again
_ANSWER_S = 30.0  # for an answer of the controller about a checkpoint
_HELLO_S = 10.0  # for one to a registration
_FLUSH_S = 5.0


class HttpWorker:
    """See the module.

    Args:
        url: Of the controller.
        slots: Of this machine.
        token: What the controller wants to hear; None if it wants none.
        name: Of this worker, unlike those of the others of the run.
        pool: The pool that its slots belong to, if the run has pools.
        root: Where the job is found here, if not in the same place as at the controller.
        folder: Where trials keep checkpoints and logs, where folders are not shared.
        say: Told what happens, in a sentence.
    """

    def __init__(
        self,
        url: str,
        slots: Sequence[Slot],
        *,
        token: str | None,
        name: str,
        pool: str = "",
        root: str | None = None,
        folder: str | Path = ".frugalbo/worker",
        say: Callable[[str], None] = print,
    ) -> None:
        self._url, self._token, self._slots = url, token, tuple(slots)
        self._name, self._pool, self._root, self._say = name, pool, root, say
        self._folder = Path(folder).absolute()
        self._id = uuid.uuid4().hex
        self._stopped = False
        self._stay: _Stay | None = None
        self._call(_HELLO_S).close()  # a URL that is none is refused at once

    def run(self, *, once: bool = False) -> None:
        """Work until `stop`; `once`: until the end of one run.

        Raises:
            ExecutorError: If the controller refuses this worker, or the job cannot be run here.
        """
        is_told = False
        while not self._stopped:
            sent = time.monotonic()
            caller = self._call(_HELLO_S)
            try:
                terms = caller.post("/register", self._hello())
            except (UnreachableError, BusyError) as error:
                if not is_told:
                    self._say(f"waiting for {self._url}: {error}")
                is_told = True
                time.sleep(_AGAIN_S)
                continue
            finally:
                caller.close()
            is_told = False
            self._say(f"{self._name}: {len(self._slots)} slots for {terms['order']['problem']['name']} at {self._url}")
            self._stay = _Stay(self, terms, sent)
            over = self._stay.run()
            self._say(f"{self._name}: {over}")
            if once and self._stay.is_over:
                return

    def stop(self) -> None:
        """End what runs, so that it can go on elsewhere, and return from `run`; from any thread or signal handler."""
        self._stopped = True
        if self._stay is not None:
            self._stay.wake()

    def _hello(self) -> dict[str, Any]:
        return {
            "version": frugalbo.__version__,
            "worker": self._id,
            "name": self._name,
            "pool": self._pool,
            "machine": processes.machine(),
            "slots": [asdict(slot) for slot in self._slots],
        }

    def _call(self, timeout_s: float) -> Caller:
        return Caller(self._url, self._token, timeout_s=timeout_s)


class _Stay:
    """One session's work."""

    def __init__(self, worker: HttpWorker, terms: dict[str, Any], sent: float) -> None:
        self._worker, self._order = worker, terms["order"]
        self._is_shared = terms["folders"] == "shared"
        self._slots = [Slot(**slot) for slot in terms["slots"]]
        self._executor: LocalExecutor | None = None
        self._visit = Visit(terms, sent, lambda: worker._call(float(terms["lease_s"])), self.wake)
        self._depot: Depot | None = None
        if "://" in terms["folders"]:
            self._depot = ObjectDepot(terms["folders"])
        elif not self._is_shared:
            self._depot = HttpDepot(worker._call(_ANSWER_S), self._visit.session, int(terms["most_bytes"]))
        self._segments: dict[tuple[int, int], Segment] = {}  # that have begun, or are to, with folders of ours
        self._asked: dict[tuple[int, int], Outcome] = {}
        self._carried: dict[tuple[int, int], int] = {}  # the last step that was carried to the depot
        self._look_at = 0.0
        self._is_leaving = False
        self.is_over = False

    def wake(self) -> None:
        """Have the loop look; from any thread."""
        if self._executor is not None:
            self._executor.wake()

    def run(self) -> str:
        """Work until the session ends; returns why it did. Nothing that it ran is alive then."""
        visit, worker = self._visit, self._worker
        with ExitStack() as stack:
            stack.callback(visit.end, "the worker left")
            # One carries checkpoints, in their order; others answer, which may take long.
            carrier = ThreadPoolExecutor(max_workers=1, thread_name_prefix="frugalbo-carry")
            answerers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="frugalbo-answer")
            for pool in (carrier, answerers):
                stack.callback(pool.shutdown, wait=False, cancel_futures=True)
            try:
                self._executor = stack.enter_context(self._open())
            except FrugalError as error:
                visit.tell({"cannot": str(error)})
                visit.flush(_FLUSH_S)
                raise
            visit.tell({"ready": True})
            while not (why := visit.why_over) and not self.is_over:
                for command in visit.take():
                    self._obey(command, carrier, answerers)
                for event in self._executor.wait(min(_LOOK_S, visit.left_s)):
                    self._hear(event, carrier)
                self._carry_new(carrier)
                if worker._stopped and self._leave():
                    return "stopped"
        return why or "the run is over"

    def _open(self) -> LocalExecutor:
        order, root = self._order, self._worker._root
        seat.refuse_version(order["version"])
        problem = Problem.from_json({**order["problem"], **({"root": str(Path(root).resolve())} if root else {})})
        return LocalExecutor(problem, self._slots, grace_s=order["grace_s"], preload=order["preload"])

    def _leave(self) -> bool:
        """As the user ends this worker: have its segments end; whether all is done and said."""
        assert self._executor is not None
        if not self._is_leaving:
            self._is_leaving = True
            self._visit.tell({"leaving": True})
            for trial, _ in self._segments:
                self._executor.cancel(trial, Outcome.INTERRUPTED)
        if not self._segments:
            self._visit.tell({"gone": "it was stopped"})
            self._visit.flush(_FLUSH_S)
        return not self._segments

    def _obey(self, command: Mapping[str, Any], carrier: ThreadPoolExecutor, answerers: ThreadPoolExecutor) -> None:
        if "begin" in command:
            segment = segment_from_json(command["begin"])
            if not self._is_shared:
                segment = replace(segment, folder=self._worker._folder / segment.folder)
            self._segments[segment.trial, segment.number] = segment
            if self._depot is None or segment.start == 0:
                self._begin(segment)
            else:
                carrier.submit(self._fetch, segment, self._depot)
        elif "fetched" in command:
            self._begin(command["fetched"])
        elif "cancel" in command:
            trial, number, outcome = command["cancel"]
            if (trial, number) in self._segments:
                self._asked[trial, number] = Outcome(outcome)
                assert self._executor is not None
                self._executor.cancel(trial, Outcome(outcome))  # does nothing if it has not begun
        elif "sees" in command:
            path, mark = command["sees"]
            answerers.submit(self._answer, command, lambda: "yes" if seat.sees(path, mark) else "no")
        elif "recover" in command:
            answerers.submit(self._answer, command, lambda: self._recover(*command["recover"]))
        elif "over" in command:
            self.is_over = True

    def _begin(self, segment: Segment) -> None:
        assert self._executor is not None
        key = segment.trial, segment.number
        try:
            if self._is_leaving:
                raise ExecutorError("it is being stopped")
            self._executor.submit(segment)
        except (FrugalError, OSError) as error:
            self._give_up(segment, error)
            return
        if key in self._asked:
            self._executor.cancel(segment.trial, self._asked[key])

    def _give_up(self, segment: Segment, error: Exception) -> None:
        self._segments.pop((segment.trial, segment.number), None)
        self._visit.tell({"lost": [segment.trial, segment.number], "why": str(error)})

    def _hear(self, event: Reported | Ended, carrier: ThreadPoolExecutor) -> None:
        segment = self._segments[event.trial, event.segment]
        if isinstance(event, Reported):
            self._visit.tell({"event": event_to_json(event)})
        elif self._depot is None:
            self._end(segment, event)
        else:
            carrier.submit(self._carry_end, segment, event, self._depot)

    def _end(self, segment: Segment, event: Ended) -> None:
        self._visit.tell({"event": event_to_json(event)})
        del self._segments[segment.trial, segment.number]
        self._asked.pop((segment.trial, segment.number), None)
        self.wake()

    def _answer(self, command: Mapping[str, Any], say: Callable[[], str | None]) -> None:
        try:
            said = say()
        except (FrugalError, OSError):
            said = None
        self._visit.tell({"answer": command["answer"], "said": said})

    def _recover(self, started: str, folder: str, objective: str, slot: str, now: float) -> str | None:
        """What became of a segment that ran on this machine, for an earlier controller; None if it did not run here."""
        if self._is_shared:
            return seat.recover(started, folder, objective, slot, now)
        event = event_from_json(json.loads(started))
        assert isinstance(event, Started)
        own = self._worker._folder / carried_as(Path(folder))
        orders = SegmentFolder(own, event.segment).read_orders()
        if orders is None or self._depot is None:
            return None
        *late, ended = events_from_text(seat.recover(started, str(own), objective, slot, now))
        assert isinstance(ended, Ended)
        return events_to_text([*late, self._carried_end(orders.segment, ended, self._depot)])

    # Checkpoints that are carried; these run in threads of their own

    def _fetch(self, segment: Segment, depot: Depot) -> None:
        try:
            files = SegmentFolder(segment.folder, segment.number)
            files.checkpoint_dir.mkdir(parents=True, exist_ok=True)
            if segment.start not in dict(checkpoints(files.checkpoint_dir)):
                depot.get(segment, f"step-{segment.start}.ckpt")
        except (FrugalError, OSError) as error:
            self._give_up(segment, error)
        else:
            self._visit.command({"fetched": segment})

    def _carry_new(self, carrier: ThreadPoolExecutor) -> None:
        """Carry new checkpoints of what runs, so that no more is lost with this machine than what came after them."""
        if self._depot is None or time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + _LOOK_S
        for segment in self._segments.values():
            # Not that of the last step: until its report is there as well, it may have to be done again.
            carrier.submit(self._carry, segment, self._depot, segment.until - 1)

    def _carry(self, segment: Segment, depot: Depot, most: int) -> int:
        """Carry the newest checkpoint of a segment up to step `most`, if it was not carried yet; returns its step."""
        key = segment.trial, segment.number
        found = newest(SegmentFolder(segment.folder, segment.number).checkpoint_dir, most)
        if found is not None and found[0] > self._carried.get(key, segment.start):
            with contextlib.suppress(FileNotFoundError):  # the job has saved a newer one meanwhile
                depot.put(segment, found[1])
                self._carried[key] = found[0]
        return self._carried.get(key, segment.start)

    def _carry_end(self, segment: Segment, event: Ended, depot: Depot) -> None:
        event = self._carried_end(segment, event, depot)
        with contextlib.suppress(KeyError):
            self._end(segment, event)

    def _carried_end(self, segment: Segment, event: Ended, depot: Depot) -> Ended:
        """The end of a segment, with the checkpoint that is where others can get it."""
        while not self._visit.why_over:
            try:
                return replace(event, checkpoint=self._carry(segment, depot, event.checkpoint))
            except (UnreachableError, BusyError):
                time.sleep(_AGAIN_S)
            except (FrugalError, OSError) as error:
                last = self._carried.get((segment.trial, segment.number), segment.start)
                message = f"{event.message}; its checkpoint cannot be carried: {error}".lstrip("; ")
                return replace(event, checkpoint=last, message=message)
        return event
