"""Where a controller's workers come to: the listener, who may register, and what their sessions may carry."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from frugalbo.errors import ExecutorError, PoolError
from frugalbo.executors.carried import Arrivals
from frugalbo.executors.http_registry import BusyError, GoneError, Message, Registry
from frugalbo.executors.http_server import Server
from frugalbo.executors.http_token import read_listen, read_token
from frugalbo.executors.segments import SegmentFolder
from frugalbo.pool import Pool
from frugalbo.slot import Slot

_OVER_S = 1.0  # for workers to hear that the run is over


class Desk:
    """Open from `open` to `close`; its parts are of many threads.

    Args:
        listen: As for `HttpExecutor`, as are the others.
        margin_s: As for `Registry`.

    Attributes:
        granted: The folders of trials whose checkpoints a session may carry, by trial and number of the segment.
    """

    def __init__(
        self,
        *,
        listen: str,
        token_file: str | None,
        folders: str,
        lease_s: float,
        margin_s: float,
        most_bytes: int,
        dollars_per_hour: float,
        pools: Sequence[Pool],
    ) -> None:
        if text := next((pool for pool in pools if isinstance(pool.devices, str)), None):
            expected = "workers bring their devices, expected how many at most"
            raise PoolError(f"pool {text.name!r}: {expected}, got {text.devices!r}")
        self._address = read_listen(listen, token_file)
        self._token = None if token_file is None else read_token(token_file, make=True)
        self.folders, self.lease_s, self._most_bytes = folders, lease_s, most_bytes
        self._dollars_per_hour, self._pools = dollars_per_hour, {pool.name: pool for pool in pools}
        self.registry = Registry(lease_s=lease_s, margin_s=margin_s, named=self._named)
        self.granted: dict[tuple[str, int, int], Path] = {}
        self._order: Mapping[str, Any] = {}
        self._server: Server | None = None

    @property
    def url(self) -> str:
        """Where workers are to register, as seen from this machine."""
        host = "127.0.0.1" if self._address[0] in ("0.0.0.0", "::") else self._address[0]
        port = self._server.port if self._server else self._address[1]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def how(self) -> str:
        """The command that starts a worker."""
        return f"frugalbo worker --url {self.url}" + (" --token-file FILE" if self._token else "")

    def open(self, order: Mapping[str, Any]) -> None:
        """Listen; workers are told `order`, as `seat.order` writes it.

        Raises:
            ExecutorError: If it cannot listen there.
        """
        self._order = order
        self._server = Server(
            self._address,
            token=self._token,
            answers={
                "/register": self._register,
                "/commands": self._commands,
                "/messages": self._messages,
                "/keep": self._keep,
                "/files": lambda said: {"files": self._of(said).files(str(said["name"]))},
            },
            arrivals=self._arrivals,
            most_bytes=self._most_bytes,
        )

    def close(self) -> None:
        """Tell the workers that the run is over, and listen no more."""
        told = self.registry.workers()
        for worker in told:
            self.registry.tell(worker, {"over": True})
        give_up = time.monotonic() + _OVER_S
        while time.monotonic() < give_up and any(worker.commands for worker in told):
            time.sleep(0.01)  # until they have heard it: who did not finds out when its session is gone
        for worker in told:
            self.registry.end(worker, "the run is over")
        if self._server is not None:
            self._server.close()
            self._server = None

    def release(self, trial: int, number: int) -> None:
        """Take nothing more for a segment."""
        for key in [key for key in list(self.granted) if key[1:] == (trial, number)]:
            self.granted.pop(key, None)

    def _named(self, name: str, pool: str, own: Sequence[Slot]) -> tuple[Slot, ...]:
        """The slots of a worker as they are called here, at their price."""
        slots = [replace(s, name=f"{name}/{s.name}", dollars_per_hour=self._dollars_per_hour) for s in own]
        if not slots or len({slot.name for slot in slots}) < len(slots):
            raise ExecutorError(f"expected slots with different names, got {[slot.name for slot in slots]}")
        if not self._pools and not pool:
            return tuple(slots)
        if pool not in self._pools:
            raise ExecutorError(f"expected a worker of one of the pools {sorted(self._pools)}, got {pool!r}")
        taken = sum(slot.pool == pool for worker in self.registry.workers() for slot in worker.slots)
        if taken + len(slots) > int(self._pools[pool].devices):
            raise BusyError(f"the pool {pool!r} is full")
        return tuple(self._pools[pool].holding(slot) for slot in slots)

    def _register(self, said: Message) -> Message:
        worker = self.registry.register(said)
        return {
            "session": worker.session,
            "lease_s": self.lease_s,
            "slots": [asdict(slot) for slot in worker.slots],
            "order": self._order,
            "folders": self.folders,
            "most_bytes": self._most_bytes,
        }

    def _commands(self, said: Message) -> Message:
        return {"commands": self.registry.commands(str(said["session"]), int(said["done"]), self.lease_s / 3)}

    def _messages(self, said: Message) -> Message:
        return {"counted": self.registry.hear(str(said["session"]), int(said["first"]), said["messages"])}

    def _keep(self, said: Message) -> Message:
        self._of(said).keep(str(said["name"]), said["files"])
        return {}

    def _of(self, said: Message) -> Arrivals:
        return self._arrivals(str(said["session"]), int(said["trial"]), int(said["number"]))

    def _arrivals(self, session: str, trial: int, number: int) -> Arrivals:
        self.registry.renew(session)
        folder = self.granted.get((session, trial, number))
        if folder is None:
            raise GoneError(f"segment {number} of trial {trial} is not this session's")
        return Arrivals(SegmentFolder(folder, number).checkpoint_dir, f"{session[:8]}-{number}", self._most_bytes)
