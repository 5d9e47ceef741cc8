"""The right of one controller to write to a run."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import Event as Signal
from threading import Thread
from typing import Any, Final, Self

import sqlalchemy as sa

from frugalbo.errors import FrugalWarning, LeaseError, OutageError, StorageError
from frugalbo.events import Event, event_to_json
from frugalbo.store.controllers import is_asked_to_pause
from frugalbo.store.database import Database
from frugalbo.store.tables import ENDINGS, EVENTS, RUNS, SESSIONS

PATIENCE_S: Final = 600.0  # long enough for a server's restart or upgrade, too short for a night without devices
_RETRY_S: Final = 0.5


class Lease:
    """The right of this process to write to one run, until it is released.

    Attributes:
        last: The number of the last event.
        is_asked_to_pause: Whether somebody called `Store.ask_to_pause`, as of about a second ago.
    """

    def __init__(
        self,
        database: Database,
        run_id: str,
        run: int,
        *,
        session: int,
        last: int,
        ttl_s: float,
        patience_s: float,
    ) -> None:
        self.run_id = run_id
        self.last = last
        self.is_asked_to_pause = False
        self._database = database
        self._run = run
        self._session = session
        self._ttl_s = ttl_s
        self._patience_s = patience_s
        self._pid = os.getpid()
        self._began = self._beat = self._looked = time.monotonic()
        self._over = Signal()
        self._heart: Thread | None = None

    def keep_alive(self) -> None:
        """Renew from a thread until the release, as whoever sees only the heartbeat needs.

        Nobody else than this host can ask whether this process lives, so a controller that thinks for longer
        than `ttl_s` would lose its run. A file of SQLite is used by one host, which can.
        """
        if self._database.file is None and self._heart is None:
            self._heart = Thread(target=self._beat_on, name="frugalbo-lease", daemon=True)
            self._heart.start()

    def append(self, *events: Event) -> None:
        """Write events: all of them or none, on the disk when this returns. Also renews.

        If the database is out of reach this waits for it, up to `patience_s`, and warns.

        Raises:
            LeaseError: If the lease was lost; nothing was written.
            OutageError: If the database did not come back.
        """
        rows = [
            {"run": self._run, "sequence": number, "body": dump(event_to_json(event))}
            for number, event in enumerate(events, self.last + 1)
        ]

        def write(connection: sa.Connection, *, again: bool) -> None:
            # A commit whose answer was lost may have come through; nobody else writes to this run.
            if not again or last_event(connection, self._run) == self.last:
                connection.execute(EVENTS.insert(), rows)

        if rows:
            self._write(write)
            self.last += len(rows)

    def amend(self, spec: Mapping[str, Any]) -> None:
        """Replace the run's spec, such as by one with a larger budget.

        Raises:
            LeaseError: If the lease was lost; nothing was written.
        """
        body = spec_body(spec)
        amendment = RUNS.update().where(RUNS.c.number == self._run).values(spec=body)
        self._write(lambda connection, again: connection.execute(amendment))

    def note_end(self, reason: str) -> None:
        """Write down why this controller ends the run, in the place of what it said before.

        Raises:
            LeaseError: If the lease was lost; nothing was written.
        """

        def write(connection: sa.Connection, *, again: bool) -> None:
            connection.execute(ENDINGS.delete().where(ENDINGS.c.session == self._session))
            connection.execute(ENDINGS.insert().values(session=self._session, reason=reason))

        self._write(write)

    def renew(self) -> None:
        """Say that this controller is alive; at most one write a second, so call it as often as you like.

        Raises:
            LeaseError: If the lease was lost.
        """
        if time.monotonic() - self._beat >= 1:
            self._write()

    def release(self) -> None:
        """Let the next controller in. Twice is the same as once; a lost lease, or a forked child's, is left alone."""
        self._over.set()
        if self._heart is not None and os.getpid() == self._pid:
            self._heart.join(timeout=2)  # not for long: it may be waiting for a database that is out of reach
        with suppress(LeaseError), self._writing(released_at=time.time()):
            pass

    def _beat_on(self) -> None:
        while not self._over.wait(self._ttl_s / 3):
            try:
                with self._writing():
                    pass
            except LeaseError:
                return  # whoever writes next is told so
            except StorageError:
                continue  # the same

    def _write(self, work: Callable[..., object] = lambda connection, again: None) -> None:
        """Do `work` in a transaction that holds the lease; again, if the database was out of reach."""
        began, again = time.monotonic(), False
        while True:
            try:
                with self._writing() as connection:
                    work(connection, again=again)
            except OutageError as error:
                if time.monotonic() - began >= self._patience_s:
                    raise
                if not again:
                    warnings.warn(f"{error}; waiting up to {self._patience_s:g} s for it", FrugalWarning, stacklevel=3)
                again = True
                time.sleep(_RETRY_S)
            else:
                return

    @contextmanager
    def _writing(self, **values: float) -> Iterator[sa.Connection]:
        """A transaction that holds the lease: it renews first, and fails if there is nothing to renew."""
        beat = time.monotonic()
        values |= {"renewed_at": time.time(), "seconds": beat - self._began}
        mine = (SESSIONS.c.number == self._session) & SESSIONS.c.released_at.is_(None)
        refusal = LeaseError(f"this controller no longer holds run {self.run_id}; nothing was written")
        if os.getpid() != self._pid:
            raise refusal  # a forked child, which must not even touch the connection
        with self._database.begin(write=True) as connection:
            # One statement asks and renews: were they two, a takeover could come between them.
            if connection.execute(SESSIONS.update().where(mine).values(values)).rowcount != 1:
                raise refusal
            if beat - self._looked >= 1:
                self.is_asked_to_pause = is_asked_to_pause(connection, self._session)
                self._looked = beat
            yield connection
        self._beat = beat

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            self.release()
        except StorageError:
            if kind is None:
                raise  # otherwise the disk's trouble would hide what went wrong first


def spec_body(spec: Mapping[str, Any]) -> str:
    """The spec of a run as it is stored."""
    try:
        return dump(spec)
    except (TypeError, ValueError) as error:
        raise StorageError(f"the spec of a run must be JSON: {error}") from None


def dump(record: Mapping[str, Any]) -> str:
    """Strict JSON."""
    return json.dumps(record, allow_nan=False, separators=(",", ":"))


def last_event(connection: sa.Connection, run: int) -> int:
    """The number of the last event of a run, 0 if it has none."""
    return connection.scalar(sa.select(sa.func.max(EVENTS.c.sequence)).where(EVENTS.c.run == run)) or 0
