"""What became of a segment whose HTTP worker was lost, or whose controller."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from dataclasses import dataclass

from frugalbo.events import Event
from frugalbo.executors.http_desk import Desk
from frugalbo.executors.http_registry import Worker
from frugalbo.executors.lost import Lost, find_out
from frugalbo.executors.unseen import find_out_unseen

_ANSWER_S = 30.0  # what a worker may need above the grace to end what is left of a segment, and say so


@dataclass(frozen=True, slots=True)
class Answers:
    """Asks workers what they know of a segment.

    Args:
        until: When workers that are not there are waited for no more, by the monotonic clock.
    """

    desk: Desk
    until: float

    def of_machine(self, machine: str, lost: Lost, now: float) -> str | None:
        """What the worker of a machine says; None if there is none."""
        for worker in self.desk.registry.workers():
            if worker.machine == machine and (said := self._ask(worker, lost, now)):
                return result_of(said, lost.grace_s + _ANSWER_S)
        return None

    def of_anyone(self, lost: Lost, now: float) -> str | None:
        """What whoever has run it says; None if nobody has, of those that are there or come in time."""
        asked: dict[str, Future[str | None]] = {}
        while True:
            for worker in self.desk.registry.workers():
                if worker.session not in asked:
                    asked[worker.session] = self._ask(worker, lost, now)
            wait_for(asked.values(), timeout=0.2, return_when="FIRST_EXCEPTION")
            for said in asked.values():
                if said.done() and said.result() is not None:
                    return said.result()
            waiting = self.until + (_ANSWER_S if any(not said.done() for said in asked.values()) else 0.0)
            if time.monotonic() > waiting:
                return None
            time.sleep(0.1)

    def _ask(self, worker: Worker, lost: Lost, now: float) -> Future[str | None]:
        self.desk.granted[worker.session, lost.started.trial, lost.started.segment] = lost.folder
        return self.desk.registry.ask(worker, {"recover": list(lost.question(now))})


def what_became_of(
    lost: Lost, answers: Answers, *, now: Callable[[], float], submitted: float | None = None
) -> list[Event]:
    """Its late reports and its end.

    With shared folders, they tell, once it leaves no sign of life there any more. Without, a worker is asked if it is
    the controller that died. One that was lost is charged from when it was `submitted` until its session ended, at most
    its cap: by then its worker has ended it.
    """
    if answers.desk.folders != "shared":

        def ask() -> str | None:
            return answers.of_anyone(lost, now()) if submitted is None else None

        return find_out_unseen(lost, answers.desk.folders, ask=ask, now=now, submitted=submitted)
    elapsed_s = None if submitted is None else time.monotonic() - submitted
    return find_out(lost, ask=lambda machine: answers.of_machine(machine, lost, now()), now=now, elapsed_s=elapsed_s)


def result_of(said: Future[str | None], timeout_s: float) -> str | None:
    """An answer; None if there is none in time."""
    try:
        return said.result(timeout_s)
    except TimeoutError:
        return None
