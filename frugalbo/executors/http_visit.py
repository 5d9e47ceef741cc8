"""One session of a worker, from its side: what it says and hears, in threads of its own.

The lease counts from when the last request that was answered had been sent, so it never ends here later than at the
controller.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping
from threading import Condition, Thread
from typing import Any

from frugalbo.errors import ExecutorError
from frugalbo.executors.http_client import Caller, UnreachableError
from frugalbo.executors.http_registry import BusyError, GoneError

_AGAIN_S = 0.2  # until somebody who did not answer is called again
_MOST_AT_ONCE = 500  # messages

Call = Callable[[], Caller]


class Visit:
    """A session.

    Args:
        terms: What the controller answered to the registration.
        sent: When that had been asked, by the monotonic clock.
        call: Makes a connection.
        wake: Called when something was heard, or the session has ended.
    """

    def __init__(self, terms: Mapping[str, Any], sent: float, call: Call, wake: Callable[[], None]) -> None:
        self.session, self._lease_s = str(terms["session"]), float(terms["lease_s"])
        self._heard, self._wake = sent, wake
        self._commands: queue.SimpleQueue[Mapping[str, Any]] = queue.SimpleQueue()
        self._outbox: list[Mapping[str, Any]] = []
        self._first = 1  # the number of the first in the outbox
        self._changed = Condition()
        self._over = ""
        for target in (self._listen, self._talk):
            Thread(target=target, args=(call(),), name="frugalbo-worker", daemon=True).start()

    @property
    def why_over(self) -> str:
        """Why the session has ended; empty while it has not."""
        if not self._over and time.monotonic() > self._heard + self._lease_s:
            self.end(f"no answer from the controller for {self._lease_s:g} s")
        return self._over

    @property
    def left_s(self) -> float:
        """How long the lease lasts if nothing more is heard."""
        return max(0.0, self._heard + self._lease_s - time.monotonic())

    def tell(self, message: Mapping[str, Any]) -> None:
        """Say something, once, in the order of the calls."""
        with self._changed:
            self._outbox.append(message)
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> None:
        """Until all is said and has been counted, the session has ended, or the time is over."""
        give_up = time.monotonic() + timeout_s
        with self._changed:
            while self._outbox and not self._over and (left := give_up - time.monotonic()) > 0:
                self._changed.wait(left)

    def take(self) -> list[Mapping[str, Any]]:
        """The commands that came since the last call."""
        taken = []
        while not self._commands.empty():
            taken.append(self._commands.get())
        return taken

    def command(self, command: Mapping[str, Any]) -> None:
        """Add a command of our own, from any thread."""
        self._commands.put(command)
        self._wake()

    def end(self, why: str) -> None:
        """Say and hear no more."""
        with self._changed:
            self._over = self._over or why
            self._changed.notify_all()
        self._wake()

    def _listen(self, caller: Caller) -> None:
        done = 0
        while not self.why_over:
            answer = self._call(caller, "/commands", {"session": self.session, "done": done})
            for number, command in (answer or {}).get("commands", ()):
                if number > done:
                    done = number
                    self.command(command)
        caller.close()

    def _talk(self, caller: Caller) -> None:
        while not self.why_over:
            with self._changed:
                if not self._outbox:
                    self._changed.wait(self.left_s)
                said = self._outbox[:_MOST_AT_ONCE]
            if not said:
                continue
            answer = self._call(caller, "/messages", {"session": self.session, "first": self._first, "messages": said})
            with self._changed:
                counted = int((answer or {}).get("counted", self._first - 1))
                del self._outbox[: counted + 1 - self._first]
                self._first = counted + 1
                self._changed.notify_all()
        caller.close()

    def _call(self, caller: Caller, path: str, record: Mapping[str, Any]) -> dict[str, Any] | None:
        """What is answered; None if nothing is, for now."""
        sent = time.monotonic()
        try:
            answer = caller.post(path, record)
        except GoneError as error:
            self.end(str(error))
        except (UnreachableError, BusyError):
            time.sleep(_AGAIN_S)
        except (ExecutorError, ValueError) as error:
            self.end(f"the controller does not understand: {error}")
        else:
            self._heard = max(self._heard, sent)
            return answer
        return None
