"""Processes of this machine: who they are, who descends from whom, and how to end them for good.

On Linux everything is read from /proc, and a process can adopt the orphans below it
(`adopt_orphans`), so that nothing escapes by `setsid` or a double fork. Elsewhere `ps` is asked,
and what left its process group on purpose may be missed.

A pid says little: it is used again after its process is gone. An `Identity` says who it was.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

LINUX = sys.platform == "linux"

_PROC = Path("/proc")
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True)
class Identity:
    """A process that is not mistaken for another: its pid and when it started, in ticks since boot."""

    pid: int
    started: int


@dataclass(frozen=True, slots=True)
class Process:
    """A process as it was a moment ago."""

    pid: int
    name: str
    state: str
    parent: int
    group: int
    session: int
    started: int
    rss_bytes: int

    @property
    def is_zombie(self) -> bool:
        """Whether it is dead and waits for its parent to notice."""
        return self.state in "ZXx"


def look(pid: int) -> Process | None:
    """The process with this pid; None if there is none."""
    if not LINUX:
        return next((p for p in _ask_ps() if p.pid == pid), None)
    try:
        text = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    end = text.rindex(b")")  # the name before it may hold anything, spaces and ')' too
    fields = text[end + 2 :].split()
    return Process(
        pid=pid,
        name=text[text.index(b"(") + 1 : end].decode("utf-8", "replace"),
        state=fields[0].decode(),
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        started=int(fields[19]),
        rss_bytes=int(fields[21]) * _page_bytes(),
    )


def everyone() -> Iterator[Process]:
    """All processes that can be seen."""
    if not LINUX:
        yield from _ask_ps()
        return
    for name in os.listdir(_PROC):  # noqa: PTH208 - half the time of iterdir, and this is polled
        if name.isdigit() and (process := look(int(name))):
            yield process


def identify(pid: int) -> Identity | None:
    """Who has this pid now; None if nobody has."""
    process = look(pid)
    return Identity(pid, process.started) if process else None


def is_alive(identity: Identity | None) -> bool:
    """Whether this very process still runs."""
    if identity is None:
        return False
    process = look(identity.pid)
    return process is not None and process.started == identity.started and not process.is_zombie


@cache
def machine() -> str:
    """Where and since when pids mean what they mean: this boot and this pid namespace."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{os.uname().nodename}"


def descendants(pid: int, *, keep: Collection[int] = ()) -> set[int]:
    """The living processes below `pid`, without those in `keep` and all below them."""
    children = _children_from_proc if _lists_children() else _children_from_snapshot()
    found: set[int] = set()
    todo = [pid]
    while todo:
        for child in children(todo.pop()):
            if child not in found and child not in keep:
                found.add(child)
                todo.append(child)
    return {child for child in found if (process := look(child)) and not process.is_zombie}


def members(session: int) -> set[int]:
    """The living processes of a session."""
    return {p.pid for p in everyone() if p.session == session and not p.is_zombie}


def marked(mark: str) -> set[int]:
    """The living processes in whose first environment `mark` stands (Linux only)."""
    if not LINUX:
        return set()
    wanted = mark.encode()
    found = set()
    for process in everyone():
        try:
            environment = (_PROC / str(process.pid) / "environ").read_bytes()
        except OSError:  # another user's, or just gone
            continue
        if wanted in environment and not process.is_zombie:
            found.add(process.pid)
    return found


def resident_bytes(pids: Collection[int]) -> int:
    """What these processes have in memory together; pages they share are counted for each of them."""
    return sum(process.rss_bytes for pid in pids if (process := look(pid)))


def proportional_bytes(pids: Collection[int]) -> int:
    """What these processes have in memory together, shared pages counted once; slower."""
    total = 0
    for pid in pids:
        try:
            lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
        except (OSError, StopIteration):
            total += resident_bytes([pid])
    return total


def send(pid: int, number: int) -> None:
    """Send a signal; nothing happens if the process is gone or not ours."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def send_group(group: int, number: int) -> None:
    """Send a signal to a process group; nothing happens if it is gone or not ours."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def kill_all(find: Callable[[], set[int]]) -> bool:
    """Kill what `find` finds; whether there was anything.

    They are stopped first, until no new ones are found: who is killed one by one can fork faster.
    """
    frozen: set[int] = set()
    for _ in range(1000):
        new = find() - frozen - {os.getpid()}
        if not new:
            break
        for pid in new:
            send(pid, signal.SIGSTOP)
        frozen |= new
    for pid in frozen:
        send(pid, signal.SIGKILL)
    return bool(frozen)


def kill_until_gone(find: Callable[[], set[int]], *, timeout_s: float) -> set[int]:
    """Kill what `find` finds until it finds nothing; returns what would not die."""
    give_up = time.monotonic() + timeout_s
    while kill_all(find):
        if time.monotonic() > give_up:
            return find()
        time.sleep(0.002)
    return set()


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends (Linux only)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(number: int) -> None:
    """Be sent this signal when the thread that forked this process ends; 0 for no signal (Linux only)."""
    _prctl(_PR_SET_PDEATHSIG, number)


def set_name(name: str) -> None:
    """Be called this by ps and top, at most 15 bytes (Linux only)."""
    _prctl(_PR_SET_NAME, name.encode()[:15])


def death_of(identity: Identity) -> int | None:
    """A file descriptor that is readable once the process is gone; None where there are none.

    Raises:
        ProcessLookupError: If it is gone already.
    """
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        fd = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        raise
    except OSError:
        return None
    if not is_alive(identity):  # the pid went to another one before it was opened
        os.close(fd)
        raise ProcessLookupError(identity.pid)
    return fd


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int | bytes) -> None:
    if LINUX:
        _libc().prctl(option, value if isinstance(value, bytes) else ctypes.c_ulong(value), 0, 0, 0)


@cache
def _page_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE")


@cache
def _lists_children() -> bool:
    me = os.getpid()
    return (_PROC / str(me) / "task" / str(me) / "children").exists()


def _children_from_proc(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):  # it ended
        for task in (_PROC / str(pid) / "task").iterdir():
            with contextlib.suppress(OSError):  # a thread of it ended
                found += [int(child) for child in (task / "children").read_bytes().split()]
    return found


def _children_from_snapshot() -> Callable[[int], list[int]]:
    below: dict[int, list[int]] = {}
    for process in everyone():
        below.setdefault(process.parent, []).append(process.pid)
    return lambda pid: below.get(pid, [])


def _ask_ps() -> Iterator[Process]:
    columns = "pid=,state=,ppid=,pgid=,sess=,rss=,lstart=,comm="
    text = subprocess.run(["ps", "-axo", columns], capture_output=True, text=True, check=False).stdout
    for line in text.splitlines():
        pid, state, parent, group, session, rss, *started, name = line.split(maxsplit=11)
        when = int(time.mktime(time.strptime(" ".join(started), "%a %b %d %H:%M:%S %Y")))
        yield Process(int(pid), name, state[0], int(parent), int(group), int(session, 16), when, int(rss) * 1024)
