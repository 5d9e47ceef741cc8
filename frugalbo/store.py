"""The journal: runs and their events in a database, SQLite or PostgreSQL, through SQLAlchemy Core.

| table | one row is |
|---|---|
| `frugalbo_schema` | the version of these tables; also the lock behind which leases are given |
| `frugalbo_runs` | a run, with its spec as JSON |
| `frugalbo_events` | an event of a run, numbered 1, 2, 3.. without gaps, as JSON |
| `frugalbo_sessions` | the time during which one controller held the lease of a run |
| `frugalbo_pauses` | a session whose controller was asked to end with all trials paused |
| `frugalbo_endings` | why a session's controller ended its run, in a sentence |

Events are only ever added; what changes is a session's heartbeat, and a run's spec when it is
amended. A run is written by the one controller that holds its `Lease`. Everybody may read at any
time. What runs and events mean is not known here: see `frugalbo.study`.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import sqlalchemy as sa
from sqlalchemy.event import listens_for
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from frugalbo.errors import FrugalError, LeaseError, StorageError
from frugalbo.study import Event, event_from_json, event_to_json

SCHEMA_VERSION: Final = 1
_CREATION: Final = 0x66727567616C  # any number that others are unlikely to lock
_PAGE: Final = 1000  # events fetched at a time: no reader holds a transaction, or much memory, for long

_TABLES = sa.MetaData()
_SCHEMA = sa.Table("frugalbo_schema", _TABLES, sa.Column("version", sa.Integer, nullable=False))
_RUNS = sa.Table(
    "frugalbo_runs",
    _TABLES,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("spec", sa.Text, nullable=False),
)
_EVENTS = sa.Table(
    "frugalbo_events",
    _TABLES,
    sa.Column("run", sa.ForeignKey(_RUNS.c.number), primary_key=True),
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("body", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)
_SESSIONS = sa.Table(
    "frugalbo_sessions",
    _TABLES,
    sa.Column("number", sa.Integer, primary_key=True),  # never used twice, so it is the fencing token
    sa.Column("run", sa.ForeignKey(_RUNS.c.number), nullable=False, index=True),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("process", sa.Text, nullable=False),
    sa.Column("ttl_s", sa.Double, nullable=False),
    sa.Column("acquired_at", sa.Double, nullable=False),
    sa.Column("renewed_at", sa.Double, nullable=False),
    sa.Column("released_at", sa.Double),
    sa.Column("seconds", sa.Double, nullable=False),
)
# Made when it is first needed: journals of earlier versions have none.
_PAUSES = sa.Table(
    "frugalbo_pauses",
    sa.MetaData(),
    sa.Column("session", sa.Integer, primary_key=True, autoincrement=False),
)
_ENDINGS = sa.Table(
    "frugalbo_endings",
    sa.MetaData(),
    sa.Column("session", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("reason", sa.Text, nullable=False),
)


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
        self.url, self._file = _address(url)
        self._is_checked = False
        try:
            self._engine = _engine(self.url)
        except ImportError:
            raise StorageError(f"{self} needs a driver: pip install 'frugalbo[postgresql]'") from None

    def __str__(self) -> str:
        return str(self._file) if self._file else self.url.render_as_string(hide_password=True)

    def create_run(self, spec: Mapping[str, Any], *, name: str | None = None) -> str:
        """A new run without events; returns its id, such as `"tiny_llama-3"`.

        Args:
            spec: All that is needed to go on with the run, in JSON types.
            name: What the id begins with; the problem's name in the spec by default.
        """
        problem = spec.get("problem")
        wanted = name or (str(problem.get("name")) if isinstance(problem, Mapping) else "run")
        name = re.sub(r"[^\w.]+", "-", wanted).strip("-") or "run"
        body = _spec(spec)
        self._open(create=True)
        with self._begin(write=True) as connection:
            _lock(connection)
            others = connection.scalar(sa.select(sa.func.count()).where(_RUNS.c.name == name))
            run_id = f"{name}-{(others or 0) + 1}"
            connection.execute(_RUNS.insert().values(id=run_id, name=name, created_at=time.time(), spec=body))
        return run_id

    def runs(self) -> list[RunRecord]:
        """All runs, the oldest first."""
        if not self._open():
            return []
        with self._begin() as connection:
            return [_record(connection, row) for row in connection.execute(_RUNS.select().order_by(_RUNS.c.number))]

    def run(self, run_id: str | None = None) -> RunRecord:
        """One run; the newest if no id is given."""
        if not self._open():
            raise StorageError(f"there are no runs in {self}")
        with self._begin() as connection:
            return _record(connection, self._find(connection, run_id))

    def read(self, run_id: str, after: int = 0) -> Iterator[tuple[int, Event]]:
        """The events of a run with their numbers, in order, as they are fetched.

        A follower calls again with `after` set to the last number that it saw.
        """
        if not self._open():
            raise StorageError(f"there are no runs in {self}")
        with self._begin() as connection:
            run = self._find(connection, run_id).number
        return self._pages(run_id, run, after)

    def lease(self, run_id: str, *, ttl_s: float = 15.0) -> Lease:
        """The right to write to a run, for one controller at a time; use it in a `with`.

        The lease of a process that died on this host is taken over at once, that of another host
        when its last heartbeat is older than `ttl_s`. Clocks of hosts that disagree by more than
        that may hand it on too early; the earlier owner is then refused, so nothing is lost.

        Raises:
            LeaseError: If a live controller holds it.
        """
        if not self._open():
            raise StorageError(f"there are no runs in {self}")
        now = time.time()
        with self._begin(write=True) as connection:
            _lock(connection)
            run = self._find(connection, run_id).number
            if (held := _open_session(connection, run)) is not None:
                # Whoever renewed since we looked (an append does not take the lock) is alive.
                dead = (_SESSIONS.c.number == held.number) & (_SESSIONS.c.renewed_at == held.renewed_at)
                closing = _SESSIONS.update().where(dead).values(released_at=held.renewed_at)
                if _is_alive(held) or connection.execute(closing).rowcount != 1:
                    raise LeaseError(f"run {run_id} is being written by {_holder(held)}; end that one first")
            host, pid = _host(), os.getpid()
            session = _SESSIONS.insert().values(
                run=run, host=host, pid=pid, process=_process(pid) or "", ttl_s=ttl_s,
                acquired_at=now, renewed_at=now, seconds=0.0,
            )  # fmt: skip
            key = connection.execute(session).inserted_primary_key
            assert key is not None
            return Lease(self, run_id, run, session=key[0], last=_last(connection, run))

    def ask_to_pause(self, run_id: str | None = None) -> str:
        """Ask the controller that holds a run (the newest by default) to pause it; returns the run's id.

        Raises:
            LeaseError: If no live controller holds it.
        """
        if not self._open():
            raise StorageError(f"there are no runs in {self}")
        with self._begin(write=True) as connection:
            row = self._find(connection, run_id)
            held = _open_session(connection, row.number)
            if held is None or not _is_alive(held):
                raise LeaseError(f"run {row.id} is not running, so there is nothing to pause")
            _PAUSES.create(connection, checkfirst=True)
            if not _is_asked_to_pause(connection, held.number):
                connection.execute(_PAUSES.insert().values(session=held.number))
        return str(row.id)

    def stop_reason(self, run_id: str) -> str | None:
        """Why the last controller of a run ended it; None if it did not say, as it runs, or was killed."""
        if not self._open():
            raise StorageError(f"there are no runs in {self}")
        with self._begin() as connection:
            run = self._find(connection, run_id).number
            if not sa.inspect(connection).has_table(_ENDINGS.name):
                return None
            last = sa.select(sa.func.max(_SESSIONS.c.number)).where(_SESSIONS.c.run == run).scalar_subquery()
            return connection.scalar(sa.select(_ENDINGS.c.reason).where(_ENDINGS.c.session == last))

    def wall_seconds(self, run_id: str) -> float:
        """How long controllers have held this run.

        The sum over sessions of the time, by the controller's monotonic clock, from the lease's
        beginning to its last append, renewal or release.
        """
        if not self._open():
            raise StorageError(f"there are no runs in {self}")
        with self._begin() as connection:
            run = self._find(connection, run_id).number
            return float(
                connection.scalar(sa.select(sa.func.sum(_SESSIONS.c.seconds)).where(_SESSIONS.c.run == run)) or 0
            )

    def close(self) -> None:
        """Close all connections; a later call opens them again."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _pages(self, run_id: str, run: int, after: int) -> Iterator[tuple[int, Event]]:
        query = sa.select(_EVENTS.c.sequence, _EVENTS.c.body).order_by(_EVENTS.c.sequence).limit(_PAGE)
        while True:
            with self._begin() as connection:
                rows = connection.execute(query.where(_EVENTS.c.run == run, _EVENTS.c.sequence > after)).all()
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
        query = _RUNS.select().order_by(_RUNS.c.number.desc()).limit(1)
        row = connection.execute(query if run_id is None else query.where(_RUNS.c.id == run_id)).first()
        if row is None:
            newest = sa.select(_RUNS.c.id).order_by(_RUNS.c.number.desc()).limit(10)
            known = ", ".join(connection.scalars(newest))
            raise StorageError(f"no run {run_id!r} in {self}; the newest are {known}" if known
                               else f"there are no runs in {self}")  # fmt: skip
        return row

    def _open(self, *, create: bool = False) -> bool:
        """Whether the tables are there; makes them if asked; refuses what is not ours."""
        if self._is_checked:
            return True
        if self._file:
            if self._file.is_dir():
                raise StorageError(f"{self} is a folder, expected a file for the journal")
            if not create and not self._file.exists():
                return False
            with self._errors():
                self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._begin(write=create) as connection:
            if create and not self._file:  # PostgreSQL lets several make the same table, and fails all but one
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CREATION)))
            tables = sa.inspect(connection).get_table_names()
            if _SCHEMA.name in tables:
                version = connection.scalar(sa.select(_SCHEMA.c.version)) or 0
                if version > SCHEMA_VERSION:
                    raise StorageError(f"{self} was written by a newer frugalbo (format {version}); please upgrade")
            elif tables and self._file:
                raise StorageError(f"{self} is a database of another program, with the table {tables[0]!r}")
            elif not create:
                return False
            else:
                _TABLES.create_all(connection)
                connection.execute(_SCHEMA.insert().values(version=SCHEMA_VERSION))
        if create and self._file:
            self._use_wal()
        self._is_checked = True
        return True

    def _use_wal(self) -> None:
        """Let readers and the writer not wait for each other; the file remembers it."""
        with self._errors():
            raw = self._engine.raw_connection()
            try:
                # Refused while others are in the file; the next controller tries again.
                with suppress(sqlite3.OperationalError):
                    raw.cursor().execute("PRAGMA journal_mode=WAL")
            finally:
                raw.close()

    @contextmanager
    def _begin(self, *, write: bool = False) -> Iterator[sa.Connection]:
        """A transaction; a writing one excludes other writers from its beginning, in SQLite."""
        engine = self._engine.execution_options(frugalbo_begin="BEGIN IMMEDIATE" if write else "BEGIN")
        with self._errors(), engine.begin() as connection:
            yield connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except FrugalError:
            raise
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
            raise StorageError(f"cannot use the journal {self}: {' '.join(str(cause).split())}") from error


class Lease:
    """The right of this process to write to one run, until it is released.

    Attributes:
        last: The number of the last event.
        is_asked_to_pause: Whether somebody called `Store.ask_to_pause`, as of about a second ago.
    """

    def __init__(self, store: Store, run_id: str, run: int, *, session: int, last: int) -> None:
        self.run_id = run_id
        self.last = last
        self.is_asked_to_pause = False
        self._store = store
        self._run = run
        self._session = session
        self._pid = os.getpid()
        self._began = self._beat = self._looked = time.monotonic()

    def append(self, *events: Event) -> None:
        """Write events: all of them or none, on the disk when this returns. Also renews.

        Raises:
            LeaseError: If the lease was lost; nothing was written.
        """
        rows = [
            {"run": self._run, "sequence": number, "body": _dump(event_to_json(event))}
            for number, event in enumerate(events, self.last + 1)
        ]
        if rows:
            with self._writing() as connection:
                connection.execute(_EVENTS.insert(), rows)
            self.last += len(rows)

    def amend(self, spec: Mapping[str, Any]) -> None:
        """Replace the run's spec, such as by one with a larger budget.

        Raises:
            LeaseError: If the lease was lost; nothing was written.
        """
        body = _spec(spec)
        with self._writing() as connection:
            connection.execute(_RUNS.update().where(_RUNS.c.number == self._run).values(spec=body))

    def note_end(self, reason: str) -> None:
        """Write down why this controller ends the run, in the place of what it said before.

        Raises:
            LeaseError: If the lease was lost; nothing was written.
        """
        with self._writing() as connection:
            _ENDINGS.create(connection, checkfirst=True)
            connection.execute(_ENDINGS.delete().where(_ENDINGS.c.session == self._session))
            connection.execute(_ENDINGS.insert().values(session=self._session, reason=reason))

    def renew(self) -> None:
        """Say that this controller is alive; at most one write a second, so call it as often as you like.

        Raises:
            LeaseError: If the lease was lost.
        """
        if time.monotonic() - self._beat >= 1:
            with self._writing():
                pass

    def release(self) -> None:
        """Let the next controller in. Twice is the same as once; a lost lease, or a forked child's, is left alone."""
        with suppress(LeaseError), self._writing(released_at=time.time()):
            pass

    @contextmanager
    def _writing(self, **values: float) -> Iterator[sa.Connection]:
        """A transaction that holds the lease: it renews first, and fails if there is nothing to renew."""
        beat = time.monotonic()
        values |= {"renewed_at": time.time(), "seconds": beat - self._began}
        mine = (_SESSIONS.c.number == self._session) & _SESSIONS.c.released_at.is_(None)
        refusal = LeaseError(f"this controller no longer holds run {self.run_id}; nothing was written")
        if os.getpid() != self._pid:
            raise refusal  # a forked child, which must not even touch the connection
        with self._store._begin(write=True) as connection:
            # One statement asks and renews: were they two, a takeover could come between them.
            if connection.execute(_SESSIONS.update().where(mine).values(values)).rowcount != 1:
                raise refusal
            if beat - self._looked >= 1:
                self.is_asked_to_pause = _is_asked_to_pause(connection, self._session)
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


def _address(url: str | Path) -> tuple[sa.URL, Path | None]:
    text = str(url)
    if "://" not in text:
        parsed = sa.URL.create("sqlite", database=text)
    else:
        try:
            parsed = sa.make_url(text)
        except (ArgumentError, ValueError):
            raise StorageError("cannot read the journal's URL; expected sqlite:/// or postgresql://") from None
    if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
        if parsed.database in (None, "", ":memory:"):
            raise StorageError(f"a journal needs a file, got {text!r}")
        return parsed, Path(str(parsed.database))
    if parsed.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg"), None
    raise StorageError(f"a journal is kept in sqlite or postgresql, got {parsed.drivername!r}")


def _engine(url: sa.URL) -> sa.Engine:
    if url.get_backend_name() == "postgresql":
        return sa.create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 10})
    engine = sa.create_engine(url, connect_args={"timeout": 30})

    @listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # transactions begin where we say, see below
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA synchronous=FULL")

    @listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options()["frugalbo_begin"])

    return engine


def _dump(record: Mapping[str, Any]) -> str:
    return json.dumps(record, allow_nan=False, separators=(",", ":"))


def _spec(spec: Mapping[str, Any]) -> str:
    try:
        return _dump(spec)
    except (TypeError, ValueError) as error:
        raise StorageError(f"the spec of a run must be JSON: {error}") from None


def _lock(connection: sa.Connection) -> None:
    """One at a time from here to the commit, in PostgreSQL; in SQLite a writer is alone anyway."""
    connection.execute(sa.select(_SCHEMA.c.version).with_for_update())


def _record(connection: sa.Connection, row: sa.Row[Any]) -> RunRecord:
    held = _open_session(connection, row.number)
    holder = _holder(held) if held is not None and _is_alive(held) else None
    try:
        spec = json.loads(row.spec)
    except ValueError as error:
        raise StorageError(f"the spec of run {row.id} is damaged: {error}") from error
    return RunRecord(row.id, row.name, row.created_at, spec, _last(connection, row.number), holder)


def _last(connection: sa.Connection, run: int) -> int:
    return connection.scalar(sa.select(sa.func.max(_EVENTS.c.sequence)).where(_EVENTS.c.run == run)) or 0


def _open_session(connection: sa.Connection, run: int) -> sa.Row[Any] | None:
    query = _SESSIONS.select().where(_SESSIONS.c.run == run, _SESSIONS.c.released_at.is_(None))
    return connection.execute(query).one_or_none()


def _is_asked_to_pause(connection: sa.Connection, session: int) -> bool:
    if not sa.inspect(connection).has_table(_PAUSES.name):
        return False
    return connection.scalar(_PAUSES.select().where(_PAUSES.c.session == session)) is not None


def _holder(session: sa.Row[Any]) -> str:
    return f"process {session.pid} on {session.host.partition('/')[0]}"


def _is_alive(session: sa.Row[Any]) -> bool:
    if session.process and session.host == _host():
        return _process(session.pid) in (session.process, "")
    return time.time() - session.renewed_at <= session.ttl_s


def _host() -> str:
    """The host's name, its boot, and the space in which its process numbers count (a container has its own)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()}/{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return platform.node()


def _process(pid: int) -> str | None:
    """When a process began, to tell it from a later one of the same number; None if it is dead, "" if unknown."""
    if not Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass  # another user's; /proc may hide it, so its absence there proves nothing
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return None if fields[0] in "ZX" else fields[19]  # a zombie has died; 22nd field in all, see proc(5)
