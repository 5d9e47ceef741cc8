"""The runs of a journal: made, listed, read, and leased to who writes to them."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import sqlalchemy as sa

from frugalbo.errors import LeaseError, StorageError
from frugalbo.events import Event, event_from_json
from frugalbo.store.controllers import began, holder, host, is_alive, is_asked_to_pause, open_session
from frugalbo.store.database import Database, lock
from frugalbo.store.lease import PATIENCE_S, Lease, last_event, spec_body
from frugalbo.store.tables import ENDINGS, EVENTS, PAUSES, RUNS, SESSIONS

_PAGE: Final = 1000  # events fetched at a time: no reader holds a transaction, or much memory, for long


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as it stands.

    Args:
        created_at: Seconds since 1970 in UTC.
        spec: What `create_run` was given, as amended since.
        events: How many events it has.
        holder: The live controller that writes to it, for people; None if there is none.
    """

    id: str
    name: str
    created_at: float
    spec: Mapping[str, Any]
    events: int
    holder: str | None


class Store:
    """Runs and their events in a database.

    The file, its folder and the tables are made by the first write; until then a store is empty.
    A store belongs to the process that made it: a forked child opens its own.

    Args:
        url: A path (`"runs.db"`), `"sqlite:///runs.db"`, or `"postgresql://user@host/database"`.

    Raises:
        StorageError: From here or from any method, if the database cannot be opened, read or
            written, is not a journal, or was written by a newer frugalbo. A failed write leaves
            everything as it was.
    """

    def __init__(self, url: str | Path) -> None:
        self._database = Database(url)
        self.url = self._database.url

    def __str__(self) -> str:
        return str(self._database)

    def create_run(self, spec: Mapping[str, Any], *, name: str | None = None) -> str:
        """A new run without events; returns its id, such as `"tiny_llama-3"`.

        Args:
            spec: All that is needed to go on with the run, in JSON types.
            name: What the id begins with; the problem's name in the spec by default.
        """
        problem = spec.get("problem")
        wanted = name or (str(problem.get("name")) if isinstance(problem, Mapping) else "run")
        name = re.sub(r"[^\w.]+", "-", wanted).strip("-") or "run"
        body = spec_body(spec)
        self._database.open(create=True)
        with self._database.begin(write=True) as connection:
            lock(connection)
            others = connection.scalar(sa.select(sa.func.count()).where(RUNS.c.name == name))
            run_id = f"{name}-{(others or 0) + 1}"
            connection.execute(RUNS.insert().values(id=run_id, name=name, created_at=time.time(), spec=body))
        return run_id

    def runs(self) -> list[RunRecord]:
        """All runs, the oldest first."""
        if not self._database.open():
            return []
        with self._database.begin() as connection:
            return [_record(connection, row) for row in connection.execute(RUNS.select().order_by(RUNS.c.number))]

    def run(self, run_id: str | None = None) -> RunRecord:
        """One run; the newest if no id is given."""
        self._database.require()
        with self._database.begin() as connection:
            return _record(connection, self._find(connection, run_id))

    def read(self, run_id: str, after: int = 0) -> Iterator[tuple[int, Event]]:
        """The events of a run with their numbers, in order, as they are fetched.

        A follower calls again with `after` set to the last number that it saw.
        """
        self._database.require()
        with self._database.begin() as connection:
            run = self._find(connection, run_id).number
        return self._pages(run_id, run, after)

    def lease(self, run_id: str, *, ttl_s: float = 15.0, patience_s: float = PATIENCE_S) -> Lease:
        """The right to write to a run, for one controller at a time; use it in a `with`.

        The lease of a process that died on this host is taken over at once, that of another host, or
        of a process that is stopped, when its last heartbeat is older than its `ttl_s`. Clocks of hosts
        that disagree by more than that may hand it on too early; the earlier owner is then refused, so
        nothing is lost.

        Args:
            run_id: The run's id.
            ttl_s: How long it lasts without a sign of life.
            patience_s: How long a write waits for a database that is out of reach, such as one that is
                restarted.

        Raises:
            LeaseError: If a live controller holds it.
        """
        self._database.require()
        now = time.time()
        with self._database.begin(write=True) as connection:
            lock(connection)
            run = self._find(connection, run_id).number
            if (held := open_session(connection, run)) is not None:
                # Whoever renewed since we looked (an append does not take the lock) is alive.
                dead = (SESSIONS.c.number == held.number) & (SESSIONS.c.renewed_at == held.renewed_at)
                closing = SESSIONS.update().where(dead).values(released_at=held.renewed_at)
                if is_alive(held) or connection.execute(closing).rowcount != 1:
                    raise LeaseError(f"run {run_id} is being written by {holder(held)}; end that one first")
            pid = os.getpid()
            session = SESSIONS.insert().values(
                run=run, host=host(), pid=pid, process=began(pid) or "", ttl_s=ttl_s,
                acquired_at=now, renewed_at=now, seconds=0.0,
            )  # fmt: skip
            key = connection.execute(session).inserted_primary_key
            assert key is not None
            return Lease(
                self._database, run_id, run,
                session=key[0], last=last_event(connection, run), ttl_s=ttl_s, patience_s=patience_s,
            )  # fmt: skip

    def ask_to_pause(self, run_id: str | None = None) -> str:
        """Ask the controller that holds a run (the newest by default) to pause it; returns the run's id.

        Raises:
            LeaseError: If no live controller holds it.
        """
        self._database.require()
        with self._database.begin(write=True) as connection:
            row = self._find(connection, run_id)
            held = open_session(connection, row.number)
            if held is None or not is_alive(held):
                raise LeaseError(f"run {row.id} is not running, so there is nothing to pause")
            if not is_asked_to_pause(connection, held.number):
                connection.execute(PAUSES.insert().values(session=held.number))
        return str(row.id)

    def stop_reason(self, run_id: str) -> str | None:
        """Why the last controller of a run ended it; None if it did not say, as it runs, or was killed."""
        self._database.require()
        with self._database.begin() as connection:
            run = self._find(connection, run_id).number
            last = sa.select(sa.func.max(SESSIONS.c.number)).where(SESSIONS.c.run == run).scalar_subquery()
            return connection.scalar(sa.select(ENDINGS.c.reason).where(ENDINGS.c.session == last))

    def wall_seconds(self, run_id: str) -> float:
        """How long controllers have held this run.

        The sum over sessions of the time, by the controller's monotonic clock, from the lease's
        beginning to its last append, renewal or release.
        """
        self._database.require()
        with self._database.begin() as connection:
            run = self._find(connection, run_id).number
            return float(
                connection.scalar(sa.select(sa.func.sum(SESSIONS.c.seconds)).where(SESSIONS.c.run == run)) or 0
            )

    def close(self) -> None:
        """Close all connections; a later call opens them again."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _pages(self, run_id: str, run: int, after: int) -> Iterator[tuple[int, Event]]:
        query = sa.select(EVENTS.c.sequence, EVENTS.c.body).order_by(EVENTS.c.sequence).limit(_PAGE)
        while True:
            with self._database.begin() as connection:
                rows = connection.execute(query.where(EVENTS.c.run == run, EVENTS.c.sequence > after)).all()
            for sequence, body in rows:
                after += 1
                if sequence != after:
                    raise StorageError(f"event {after} of run {run_id} is missing from {self}")
                try:
                    event = event_from_json(json.loads(body))
                except (TypeError, ValueError) as error:
                    raise StorageError(f"event {sequence} of run {run_id} in {self} is damaged: {error}") from error
                yield sequence, event
            if len(rows) < _PAGE:
                return

    def _find(self, connection: sa.Connection, run_id: str | None) -> sa.Row[Any]:
        query = RUNS.select().order_by(RUNS.c.number.desc()).limit(1)
        row = connection.execute(query if run_id is None else query.where(RUNS.c.id == run_id)).first()
        if row is None:
            newest = sa.select(RUNS.c.id).order_by(RUNS.c.number.desc()).limit(10)
            known = ", ".join(connection.scalars(newest))
            raise StorageError(f"no run {run_id!r} in {self}; the newest are {known}" if known
                               else f"there are no runs in {self}")  # fmt: skip
        return row


def _record(connection: sa.Connection, row: sa.Row[Any]) -> RunRecord:
    held = open_session(connection, row.number)
    writer = holder(held) if held is not None and is_alive(held) else None
    try:
        spec = json.loads(row.spec)
    except ValueError as error:
        raise StorageError(f"the spec of run {row.id} is damaged: {error}") from error
    return RunRecord(row.id, row.name, row.created_at, spec, last_event(connection, row.number), writer)
