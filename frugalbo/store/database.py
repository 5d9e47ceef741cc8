"""The database of a journal: its address, its connections and transactions, and what they refuse."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.event import listens_for
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from frugalbo.errors import FrugalError, OutageError, StorageError
from frugalbo.store.controllers import live_holder
from frugalbo.store.filesystem import refuse_network
from frugalbo.store.migrations import migrate
from frugalbo.store.tables import SCHEMA, SCHEMA_VERSION, TABLES

_CREATION: Final = 0x66727567616C  # any number that others are unlikely to lock
# A controller that is stopped in the midst of a write must not hold up who takes its run over.
_STOPPED_S: Final = 10
# Of libpq: a server whose host is gone is noticed within about half a minute.
_IMPATIENT: Final = {
    "connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}  # fmt: skip


class Database:
    """A database that is a journal, or is to become one.

    Attributes:
        file: The file of SQLite; None in PostgreSQL.
    """

    def __init__(self, url: str | Path) -> None:
        self.url, self.file = _address(url)
        self._is_checked = False
        try:
            self._engine = _engine(self.url)
        except ImportError:
            raise StorageError(f"{self} needs a driver: pip install 'frugalbo[postgresql]'") from None

    def __str__(self) -> str:
        return str(self.file) if self.file else self.url.render_as_string(hide_password=True)

    def open(self, *, create: bool = False) -> bool:
        """Whether the tables are there; makes them if asked; refuses what is not ours."""
        if self._is_checked:
            return True
        if self.file:
            if self.file.is_dir():
                raise StorageError(f"{self} is a folder, expected a file for the journal")
            if not create and not self.file.exists():
                return False
            with self.errors():
                self.file.parent.mkdir(parents=True, exist_ok=True)
            refuse_network(self.file)
        with self.begin() as connection:
            version = self._version(connection)
        if version is None and not create:
            return False
        if version != SCHEMA_VERSION:
            self._make()
        if create and self.file:
            self._use_wal()
        self._is_checked = True
        return True

    def _version(self, connection: sa.Connection) -> int | None:
        """The version of the tables that are there; None if there are none."""
        tables = sa.inspect(connection).get_table_names()
        if SCHEMA.name not in tables:
            if tables and self.file:
                raise StorageError(f"{self} is a database of another program, with the table {tables[0]!r}")
            return None
        version = connection.scalar(sa.select(SCHEMA.c.version)) or 0
        if version > SCHEMA_VERSION:
            raise StorageError(f"{self} was written by a newer frugalbo (format {version}); please upgrade")
        return version

    def _make(self) -> None:
        """Make the tables, or bring older ones up to date; all of it or nothing."""
        with self.begin(write=True) as connection:
            if not self.file:  # PostgreSQL lets several make the same table, and fails all but one
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CREATION)))
            version = self._version(connection)  # somebody else may have been faster
            if version is None:
                TABLES.create_all(connection)
                connection.execute(SCHEMA.insert().values(version=SCHEMA_VERSION))
            elif version < SCHEMA_VERSION:
                lock(connection)
                if writer := live_holder(connection):
                    raise StorageError(
                        f"{self} is of the older format {version}, in which {writer} is writing; let that one end first"
                    )
                migrate(connection, version)

    def require(self) -> None:
        """Refuse a database without tables."""
        if not self.open():
            raise StorageError(f"there are no runs in {self}")

    @contextmanager
    def begin(self, *, write: bool = False) -> Iterator[sa.Connection]:
        """A transaction; a writing one excludes other writers from its beginning, in SQLite."""
        engine = self._engine.execution_options(frugalbo_begin="BEGIN IMMEDIATE" if write else "BEGIN")
        with self.errors(), engine.begin() as connection:
            yield connection

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Say what goes wrong with the database in our own words."""
        try:
            yield
        except FrugalError:
            raise
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
            refusal = OutageError if _is_outage(error) else StorageError
            raise refusal(f"cannot use the journal {self}: {' '.join(str(cause).split())}") from error

    def close(self) -> None:
        """Close all connections; a later call opens them again."""
        self._engine.dispose()

    def _use_wal(self) -> None:
        """Let readers and the writer not wait for each other; the file remembers it."""
        with self.errors():
            raw = self._engine.raw_connection()
            try:
                # Refused while others are in the file; the next controller tries again.
                with suppress(sqlite3.OperationalError):
                    raw.cursor().execute("PRAGMA journal_mode=WAL")
            finally:
                raw.close()


def _is_outage(error: Exception) -> bool:
    """Whether a database that was there may come back: it shuts down, starts up, or the connection broke."""
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    # Of psycopg; no connection, no state. SQLite's errors have no such thing.
    state = getattr(error.orig, "sqlstate", "none")
    is_kind = isinstance(error, (OperationalError, InterfaceError))
    return is_kind and (state is None or state.startswith(("08", "57P")))


def lock(connection: sa.Connection) -> None:
    """One at a time from here to the commit, in PostgreSQL; in SQLite a writer is alone anyway."""
    connection.execute(sa.select(SCHEMA.c.version).with_for_update())


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
        engine = sa.create_engine(url, pool_pre_ping=True, connect_args=_IMPATIENT)

        @listens_for(engine, "connect")
        def limit(connection: Any, _record: object) -> None:  # noqa: ANN401 - psycopg's, which may not be installed
            connection.execute(f"SET idle_in_transaction_session_timeout = '{_STOPPED_S}s'")
            connection.commit()

        return engine
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
