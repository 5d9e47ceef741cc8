"""The workers of a controller: who is there, what they are to be told, and what they said. No sockets here.

| word | meaning |
|---|---|
| session | one stay of a worker, from its registration until its lease ends; the name of all that it says and is told |
| lease | so long a worker may be silent; then its session is over, and whatever comes under it is refused |
| command | what a worker is told: numbered, sent again until the worker says that it has it |
| message | what a worker says: numbered, sent again until the controller says that it counted it |

So what is lost is said again, what is doubled counts once, and what comes late does not count. A worker ends its
segments when it could not renew its lease; the controller waits `margin_s` longer, so that all is ended by then.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition, RLock
from typing import Any

import frugalbo
from frugalbo.errors import ExecutorError
from frugalbo.slot import Slot

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}")
_MOST_MESSAGES = 10_000  # that the executor has not looked at yet; then workers are asked to wait

Message = Mapping[str, Any]


class GoneError(ExecutorError):
    """A session that is over: its worker must end what it runs."""


class BusyError(ExecutorError):
    """What may be asked for again later."""


@dataclass(slots=True)
class Worker:
    """A worker and its session.

    Args:
        machine: As `processes.machine` says: where its pids mean something.
        slots: As the controller calls them.
        heard: When its last word came, by the registry's clock.
        counted: The number of its last message that was counted.
        commands: Those that it has not confirmed, by number.
    """

    worker: str
    name: str
    machine: str
    slots: tuple[Slot, ...]
    session: str
    heard: float
    wake: Condition
    counted: int = 0
    said: int = 0
    commands: dict[int, Message] = field(default_factory=dict)


class Registry:
    """See the module. Safe to use from many threads.

    Args:
        lease_s: How long a worker may be silent until it ends its segments.
        margin_s: How much later its session ends here.
        named: The slots of a worker as they are called here, from its name, pool and own slots.
    """

    def __init__(
        self,
        *,
        lease_s: float,
        margin_s: float,
        named: Callable[[str, str, Sequence[Slot]], tuple[Slot, ...]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lease_s, self._margin_s, self._named, self._clock = lease_s, margin_s, named, clock
        self._lock = RLock()
        self._heard = Condition(self._lock)
        self._workers: dict[str, Worker] = {}  # by session
        self._inbox: list[tuple[Worker, Message]] = []
        self._answers: dict[str, tuple[str, Future[str | None]]] = {}  # the session that is asked, and its answer

    def workers(self) -> list[Worker]:
        """Those that are there."""
        with self._lock:
            return list(self._workers.values())

    def register(self, record: Mapping[str, Any]) -> Worker:
        """Begin a session; one that the same worker had is over.

        Raises:
            BusyError: If another worker has that name now, or its pool is full.
            ExecutorError: If it will never do.
        """
        if record["version"] != frugalbo.__version__:
            raise ExecutorError(f"expected a worker of frugalbo {frugalbo.__version__}, got {record['version']}")
        worker, name, pool = str(record["worker"]), str(record["name"]), str(record["pool"])
        if not _NAME.fullmatch(name):
            raise ExecutorError(f"expected the name of a worker to be of letters, digits, '_', '.', '-', got {name!r}")
        own = [Slot(**slot) for slot in record["slots"]]
        with self._lock:
            for other in list(self._workers.values()):
                if other.worker == worker:
                    self.end(other, "it lost touch with its controller")
                elif other.name == name:
                    raise BusyError(f"a worker called {name!r} is there: give another --name")
            slots = self._named(name, pool, own)
            session = secrets.token_hex(16)
            new = Worker(worker, name, str(record["machine"]), slots, session, self._clock(), Condition(self._lock))
            self._workers[session] = new
            return new

    def end(self, worker: Worker, why: str) -> None:
        """End a session; the executor hears why."""
        with self._lock:
            if self.drop(worker):
                self._note(worker, {"gone": why})

    def drop(self, worker: Worker) -> bool:
        """End a session of which the executor knows why; False if it was over."""
        with self._lock:
            was_there = self._workers.pop(worker.session, None) is not None
            worker.wake.notify_all()
            for session, answer in list(self._answers.values()):
                if session == worker.session and not answer.done():
                    answer.set_result(None)
            return was_there

    def end_expired(self) -> None:
        """End the sessions of workers that have been silent for too long."""
        for worker in self.workers():
            silent = self._clock() - worker.heard
            if silent > self._lease_s + self._margin_s:
                self.end(worker, f"nothing was heard of it for {silent:.1f} s")

    def renew(self, session: str) -> Worker:
        """The worker of a session, whose lease begins anew.

        Raises:
            GoneError: If the session is over.
        """
        with self._lock:
            worker = self._workers.get(session)
            if worker is None:
                raise GoneError("this session is over: end what runs, and register again")
            worker.heard = self._clock()
            return worker

    # What workers are told

    def tell(self, worker: Worker, command: Message) -> None:
        """Have a worker do something; it is told once, in the order of the calls."""
        with self._lock:
            worker.said += 1
            worker.commands[worker.said] = command
            worker.wake.notify_all()

    def commands(self, session: str, done: int, timeout_s: float) -> list[tuple[int, Message]]:
        """The commands after number `done`, which need not be told again; waits for the first of them.

        Raises:
            GoneError: If the session is over.
        """
        give_up = time.monotonic() + timeout_s
        with self._lock:
            worker = self.renew(session)
            for number in [number for number in worker.commands if number <= done]:
                del worker.commands[number]
            while not worker.commands and (left := give_up - time.monotonic()) > 0:
                worker.wake.wait(left)
                if session not in self._workers:
                    raise GoneError("this session is over: end what runs, and register again")
            return list(worker.commands.items())

    def ask(self, worker: Worker, question: Message) -> Future[str | None]:
        """Have a worker answer a question; None if it is lost before it does."""
        answer: Future[str | None] = Future()
        with self._lock:
            if worker.session not in self._workers:
                answer.set_result(None)
                return answer
            key = secrets.token_hex(8)
            self._answers[key] = worker.session, answer
            self.tell(worker, {**question, "answer": key})
        return answer

    # What they say

    def hear(self, session: str, first: int, messages: Sequence[Message]) -> int:
        """Take in messages, numbered from `first`; returns the number of the last one that was counted.

        Raises:
            GoneError: If the session is over: they do not count.
            BusyError: If the executor has not looked for long.
        """
        with self._lock:
            worker = self.renew(session)
            if len(self._inbox) > _MOST_MESSAGES:
                raise BusyError("the controller is behind, say it again later")
            for number, message in enumerate(messages, first):
                if number != worker.counted + 1:
                    continue  # said before, or one before it was lost
                worker.counted = number
                if "answer" in message:
                    _, answer = self._answers.pop(str(message["answer"]), ("", None))
                    if answer is not None and not answer.done():
                        answer.set_result(message.get("said"))
                else:
                    self._note(worker, message)
            return worker.counted

    def take(self, timeout_s: float) -> list[tuple[Worker, Message]]:
        """What was said since the last call; waits for the first word."""
        with self._lock:
            if not self._inbox and timeout_s > 0:
                self._heard.wait(timeout_s)
            taken, self._inbox = self._inbox, []
            return taken

    def _note(self, worker: Worker, message: Message) -> None:
        self._inbox.append((worker, message))
        self._heard.notify_all()
