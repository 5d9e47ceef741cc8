"""A PostgreSQL of our own: private, on the loopback, gone at the end. For tests and benchmarks.

Needs the server's programs (Debian: `postgresql`); `find_programs` says where they are.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from frugalbo.testing.hosts import free_port

_START_S = 30.0


def find_programs() -> Path | None:
    """The folder with `initdb` and `postgres`; None if there is none."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((folder for folder in reversed(folders) if (folder / "postgres").exists()), None)


class PrivatePostgres:
    """A server with a fresh database cluster, while in its `with`.

    It runs as the user `postgres` (else `nobody`) where we are root, as PostgreSQL refuses root.
    What it writes is not forced to the disk: it survives a killed server, not a power cut.

    Raises:
        RuntimeError: On entering, if it is not installed or does not start; with the end of its log.
    """

    def __init__(self) -> None:
        self._user = _user()
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        """The URL of its one database."""
        return f"postgresql://frugalbo@127.0.0.1:{self.port}/postgres"

    def __enter__(self) -> Self:
        programs = find_programs()
        if programs is None:
            raise RuntimeError("PostgreSQL's server is not installed: no initdb is found")
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="frugalbo-postgres-"))
        if self._user:
            shutil.chown(self._folder, self._user)
        self._data, self._log = self._folder / "data", self._folder / "log"
        words = ["initdb", "-D", str(self._data), "-U", "frugalbo", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
        self._run(words).wait()
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start it; returns when it answers."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "off",
            "shared_buffers": "16MB",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self._process = self._run(["postgres", "-D", str(self._data), *options])
        give_up = time.monotonic() + _START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"PostgreSQL does not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.05)

    def stop(self, *, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT cuts all connections and is orderly, SIGQUIT is a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None

    @contextmanager
    def schema(self) -> Iterator[str]:
        """The URL of an empty schema, dropped at the end."""
        with fresh_schema(self.url) as url:
            yield url

    def _run(self, words: list[str]) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [str(self._programs / words[0]), *words[1:]], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=self._folder, start_new_session=True,
                user=self._user, group=_group(self._user), extra_groups=[] if self._user else None,
            )  # fmt: skip

    def _answers(self) -> bool:
        engine = sa.create_engine(self.url.replace("postgresql:", "postgresql+psycopg:"))
        try:
            with engine.connect():
                return True
        except OperationalError:
            return False
        finally:
            engine.dispose()


@contextmanager
def fresh_schema(url: str) -> Iterator[str]:
    """The URL of an empty schema in the database at `url`, dropped at the end."""
    name, base = f"frugalbo_{uuid.uuid4().hex}", sa.make_url(url).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(base, pool_pre_ping=True)
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA {name}")
        yield base.update_query_dict({"options": f"-csearch_path={name}"}).render_as_string(hide_password=False)
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP SCHEMA {name} CASCADE")
    finally:
        engine.dispose()


def _user() -> str | None:
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def _group(user: str | None) -> int | None:
    return None if user is None else pwd.getpwnam(user).pw_gid
