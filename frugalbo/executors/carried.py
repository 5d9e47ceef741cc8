"""Checkpoints that are carried between machines which share no folder: whole or not at all.

A checkpoint is a file `step-N.ckpt`, or a folder of that name. `Arrivals` takes its files one by one beside those
that are there, and `keep` makes them one under its name, as `JobContext.save` does; older ones go then.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from frugalbo.errors import FrugalError
from frugalbo.executors.base import Segment
from frugalbo.job import checkpoints

_NAME = re.compile(r"step-\d+\.ckpt")
_CHUNK = 2**20
_MOST_FILES = 10_000

Files = Sequence[tuple[str, int]]  # the names of a checkpoint's files, from the folder that it is in, and their bytes


class Depot(Protocol):
    """Where a worker's checkpoints go, and come from. Each call raises `OSError` or `ExecutorError` if it cannot."""

    def put(self, segment: Segment, name: str) -> None:
        """Carry a checkpoint there from the segment's folder, in place of older ones."""
        ...

    def get(self, segment: Segment, name: str) -> None:
        """Carry a checkpoint from there into the segment's folder."""
        ...


class CarryError(FrugalError, OSError):
    """A checkpoint that cannot be carried; the message says why."""


def files_of(folder: Path, name: str) -> Files:
    """The files of a checkpoint, none if it is not there."""
    path = folder / name
    if path.is_file():
        return [(name, path.stat().st_size)]
    found = sorted(below for below in path.rglob("*") if below.is_file())
    return [(below.relative_to(folder).as_posix(), below.stat().st_size) for below in found]


def newest(folder: Path, until: int) -> tuple[int, str] | None:
    """The step and the name of the newest checkpoint in a folder, up to a step."""
    found = [(step, path.name) for step, path in checkpoints(folder) if step <= until]
    return found[-1] if found else None


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What is carried to and from a folder of checkpoints.

    Args:
        mark: Of who carries, so that two never write to the same file.
    """

    folder: Path
    mark: str
    most_bytes: int

    def receive(self, name: str, source: IO[bytes], length: int) -> None:
        """Take in a file.

        Raises:
            CarryError: If it ends early or the disk is full.
            ValueError: If the name is none of a checkpoint's file.
        """
        path = self._waiting(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                copy(source, file, length)
        except OSError as error:
            raise CarryError(f"cannot take in {name}: {error}") from error

    def files(self, name: str) -> Files:
        """The files of a checkpoint that is kept; none if it is not there."""
        return files_of(self.folder, _checked(name))

    def keep(self, name: str, files: Files) -> None:
        """Make the files that came into the checkpoint of that name, in place of all others.

        Raises:
            CarryError: If a file is not there whole.
        """
        came = dict(files_of(self._room, _checked(name)))
        if not files or came != {str(path): int(size) for path, size in files}:
            raise CarryError(f"expected the files of {name} to have come whole, got {sorted(came)[:3]}")
        place(self._room / name, self.folder / name)
        shutil.rmtree(self._room, ignore_errors=True)

    @contextmanager
    def open(self, name: str) -> Iterator[tuple[IO[bytes], int]]:
        """A file of a checkpoint and its bytes.

        Raises:
            CarryError: If it is not there.
        """
        path = self.folder / _checked(name)
        try:
            with path.open("rb") as file:
                yield file, path.stat().st_size
        except FileNotFoundError:
            raise CarryError(f"there is no {name}") from None

    @property
    def _room(self) -> Path:
        return self.folder / f".arriving-{self.mark}"

    def _waiting(self, name: str) -> Path:
        room = self._room
        if room.is_dir() and sum(1 for _ in room.rglob("*")) > _MOST_FILES:
            raise CarryError(f"expected a checkpoint of at most {_MOST_FILES} files")
        return room / _checked(name)


def place(came: Path, path: Path) -> None:
    """Put a checkpoint that has come whole in its place, and take away the others."""
    if path.is_dir():
        shutil.rmtree(path)
    came.replace(path)
    for _, old in checkpoints(path.parent):
        if old != path:
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)


def copy(source: IO[bytes], target: IO[bytes], length: int) -> None:
    """Copy so many bytes.

    Raises:
        CarryError: If there are fewer.
    """
    while length > 0:
        piece = source.read(min(length, _CHUNK))
        if not piece:
            raise CarryError(f"it ended {length} bytes early")
        target.write(piece)
        length -= len(piece)


def _checked(name: str) -> str:
    parts = PurePosixPath(name).parts
    if not parts or not _NAME.fullmatch(parts[0]) or ".." in parts or "\x00" in name or "\\" in name:
        raise ValueError(f"expected a file of a checkpoint such as 'step-5.ckpt', got {name!r}")
    return str(PurePosixPath(*parts))
