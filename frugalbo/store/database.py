"""The database of a journal: its address, its connections and transactions, and what they refuse."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.event import listens_for
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from frugalbo.errors import FrugalError, StorageError
from frugalbo.store.tables import SCHEMA, SCHEMA_VERSION, TABLES

_CREATION: Final = 0x66727567616C  # any number that others are unlikely to lock


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
        with self.begin(write=create) as connection:
            if create and not self.file:  # PostgreSQL lets several make the same table, and fails all but one
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CREATION)))
            tables = sa.inspect(connection).get_table_names()
            if SCHEMA.name in tables:
                version = connection.scalar(sa.select(SCHEMA.c.version)) or 0
                if version > SCHEMA_VERSION:
                    raise StorageError(f"{self} was written by a newer frugalbo (format {version}); please upgrade")
            elif tables and self.file:
                raise StorageError(f"{self} is a database of another program, with the table {tables[0]!r}")
            elif not create:
                return False
            else:
                TABLES.create_all(connection)
                connection.execute(SCHEMA.insert().values(version=SCHEMA_VERSION))
        if create and self.file:
            self._use_wal()
        self._is_checked = True
        return True

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
            raise StorageError(f"cannot use the journal {self}: {' '.join(str(cause).split())}") from error

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
