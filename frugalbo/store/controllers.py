"""Which controller holds a run, and whether it is alive."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from frugalbo.store.tables import PAUSES, SESSIONS


def open_session(connection: sa.Connection, run: int) -> sa.Row[Any] | None:
    """The session that has not been released, whether or not its controller is alive."""
    query = SESSIONS.select().where(SESSIONS.c.run == run, SESSIONS.c.released_at.is_(None))
    return connection.execute(query).one_or_none()


def live_holder(connection: sa.Connection) -> str | None:
    """Some controller that holds any run, for people; None if none does."""
    held = connection.execute(SESSIONS.select().where(SESSIONS.c.released_at.is_(None))).all()
    return next((holder(session) for session in held if is_alive(session)), None)


def is_asked_to_pause(connection: sa.Connection, session: int) -> bool:
    """Whether somebody wants the controller of a session to pause its run."""
    return connection.scalar(PAUSES.select().where(PAUSES.c.session == session)) is not None


def holder(session: sa.Row[Any]) -> str:
    """The controller of a session, for people."""
    return f"process {session.pid} on {session.host.partition('/')[0]}"


def is_alive(session: sa.Row[Any]) -> bool:
    """Whether the controller of a session still holds its run.

    One on this host does as long as its process lives, however long it thinks; but one that is stopped
    (SIGSTOP, Ctrl-Z), as one on another host, only as long as its last sign of life is fresh.
    """
    if session.process and session.host == host():
        state, start = _look(session.pid)
        if start not in (session.process, ""):
            return False
        if state not in ("T", "t"):
            return True
    return time.time() - session.renewed_at <= session.ttl_s


def host() -> str:
    """The host's name, its boot, and the space in which its process numbers count (a container has its own)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()}/{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return platform.node()


def began(pid: int) -> str | None:
    """When a process began, to tell it from a later one of the same number; None if it is dead, "" if unknown."""
    return _look(pid)[1]


def _look(pid: int) -> tuple[str, str | None]:
    """The state of a process, as in proc(5), and when it began."""
    if not Path("/proc/self/stat").exists():
        return "", ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "", None
    except OSError:
        pass  # another user's; /proc may hide it, so its absence there proves nothing
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", ""
    return fields[0], None if fields[0] in "ZX" else fields[19]  # a zombie has died; 22nd field in all
