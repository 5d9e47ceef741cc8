"""A worker: offers the slots of its machine to the controller at a URL, and runs what that says.

It trusts the controller, whose jobs it runs, and which must know the same token. Without an answer for as long as its
lease it ends what it runs, and registers again; between runs it waits for the next one.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import frugalbo
from frugalbo.errors import ExecutorError, FrugalError
from frugalbo.events import Ended, Outcome, Reported, event_to_json
from frugalbo.executors import processes, seat
from frugalbo.executors.base import Segment
from frugalbo.executors.carried import Depot
from frugalbo.executors.carrier import LOOK_S, Carrier
from frugalbo.executors.depots import HttpDepot, ObjectDepot
from frugalbo.executors.http_client import Caller, UnreachableError
from frugalbo.executors.http_registry import BusyError
from frugalbo.executors.http_visit import Visit
from frugalbo.executors.local import LocalExecutor
from frugalbo.executors.messages import segment_from_json
from frugalbo.problem import Problem
from frugalbo.slot import Slot

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
        self._slots = [Slot(**slot) for slot in terms["slots"]]
        self._executor: LocalExecutor | None = None
        self._visit = Visit(terms, sent, lambda: worker._call(float(terms["lease_s"])), self.wake)
        self._carrier: Carrier | None = None
        if terms["folders"] != "shared":
            self._carrier = Carrier(self._depot(terms), is_over=lambda: bool(self._visit.why_over))
        self._segments: dict[tuple[int, int], Segment] = {}  # that have begun, or are to, with folders of ours
        self._asked: dict[tuple[int, int], Outcome] = {}
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
            answerers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="frugalbo-answer")
            stack.callback(answerers.shutdown, wait=False, cancel_futures=True)
            if self._carrier is not None:
                stack.callback(self._carrier.close)
            try:
                self._executor = stack.enter_context(self._open())
            except FrugalError as error:
                visit.tell({"cannot": str(error)})
                visit.flush(_FLUSH_S)
                raise
            visit.tell({"ready": True})
            while not (why := visit.why_over) and not self.is_over:
                for command in visit.take():
                    self._obey(command, answerers)
                for event in self._executor.wait(min(LOOK_S, visit.left_s)):
                    self._hear(event)
                if self._carrier is not None:
                    self._carrier.look(list(self._segments.values()))
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

    def _obey(self, command: Mapping[str, Any], answerers: ThreadPoolExecutor) -> None:
        if "begin" in command:
            segment = segment_from_json(command["begin"])
            if self._carrier is not None:
                segment = replace(segment, folder=self._worker._folder / segment.folder)
            self._segments[segment.trial, segment.number] = segment
            if self._carrier is None or segment.start == 0:
                self._begin(segment)
            else:
                self._carrier.fetch(segment).add_done_callback(partial(self._fetched, segment))
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

    def _fetched(self, segment: Segment, fetched: Future[None]) -> None:
        if fetched.cancelled():
            return
        if (error := fetched.exception()) is None:
            self._visit.command({"fetched": segment})
        else:
            self._give_up(segment, error)

    def _give_up(self, segment: Segment, error: BaseException) -> None:
        self._segments.pop((segment.trial, segment.number), None)
        self._visit.tell({"lost": [segment.trial, segment.number], "why": str(error)})

    def _hear(self, event: Reported | Ended) -> None:
        if isinstance(event, Reported):
            self._visit.tell({"event": event_to_json(event)})
        elif self._carrier is None:
            self._end(event)
        else:
            self._carrier.end(self._segments[event.trial, event.segment], event).add_done_callback(self._carried)

    def _carried(self, ended: Future[Ended]) -> None:
        if not ended.cancelled():
            self._end(ended.result())

    def _end(self, event: Ended) -> None:
        self._visit.tell({"event": event_to_json(event)})
        del self._segments[event.trial, event.segment]
        self._asked.pop((event.trial, event.segment), None)
        self.wake()

    def _answer(self, command: Mapping[str, Any], say: Callable[[], str | None]) -> None:
        try:
            said = say()
        except (FrugalError, OSError):
            said = None
        self._visit.tell({"answer": command["answer"], "said": said})

    def _recover(self, started: str, folder: str, objective: str, slot: str, now: float) -> str | None:
        """What became of a segment that ran on this machine, for an earlier controller; None if it did not run here."""
        if self._carrier is None:
            return seat.recover(started, folder, objective, slot, now)
        return seat.recover_own(started, folder, objective, slot, now, self._worker._folder, self._carrier)

    def _depot(self, terms: Mapping[str, Any]) -> Depot:
        if "://" in terms["folders"]:
            return ObjectDepot(terms["folders"])
        return HttpDepot(self._worker._call(_ANSWER_S), self._visit.session, int(terms["most_bytes"]))
