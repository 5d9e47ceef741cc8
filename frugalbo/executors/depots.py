"""Where machines that share no folder put checkpoints, and get them from: their controller, or storage of objects."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from frugalbo.errors import ExecutorError, FrugalError, MissingExtra
from frugalbo.executors.base import Segment
from frugalbo.executors.carried import CarryError, files_of, newest, place
from frugalbo.executors.http_client import Caller
from frugalbo.executors.segments import SegmentFolder
from frugalbo.job import checkpoint_step


def carried_as(trial_folder: Path) -> Path:
    """What a trial's folder is called where it is not shared: after its run, like no other, and itself."""
    run = trial_folder.parent
    return Path(f"{run.name}-{hashlib.sha256(str(run).encode()).hexdigest()[:8]}") / trial_folder.name


class HttpDepot:
    """The controller of a session; of one thread at a time."""

    def __init__(self, caller: Caller, session: str, most_bytes: int) -> None:
        self._caller, self._session, self._most_bytes = caller, session, most_bytes

    def put(self, segment: Segment, name: str) -> None:
        """Carry a checkpoint there from the segment's folder, in place of older ones."""
        folder = SegmentFolder(segment.folder, segment.number).checkpoint_dir
        files = files_of(folder, name)
        for path, size in files:
            if size > self._most_bytes:
                raise CarryError(f"expected files of at most {self._most_bytes} bytes, got {path} of {size}")
            with (folder / path).open("rb") as file:
                self._caller.put(self._path(segment, path), file, size)
        self._caller.post("/keep", {**self._key(segment), "name": name, "files": list(files)})

    def get(self, segment: Segment, name: str) -> None:
        """Carry a checkpoint from there into the segment's folder."""
        folder = SegmentFolder(segment.folder, segment.number).checkpoint_dir
        files = self._caller.post("/files", {**self._key(segment), "name": name})["files"]
        room = _empty(folder / ".arriving")
        for path, size in files:
            self._caller.get(self._path(segment, path), _below(room, path), int(size))
        _place(room / name, folder / name)

    def _key(self, segment: Segment) -> dict[str, object]:
        return {"session": self._session, "trial": segment.trial, "number": segment.number}

    def _path(self, segment: Segment, name: str) -> str:
        return f"/checkpoints/{self._session}/{segment.trial}/{segment.number}/{name}"


class ObjectDepot:
    """A URL of fsspec, such as `"s3://bucket/run"`; each checkpoint lies there under its trial's folder.

    A checkpoint counts once an empty object `step-N.ckpt.whole` is beside it, as objects have no rename.
    """

    def __init__(self, url: str) -> None:
        self._files, self._root = _filesystem(url)

    def put(self, segment: Segment, name: str) -> None:
        """Carry a checkpoint there from the segment's folder, in place of older ones; one that is there is left."""
        folder, trial = SegmentFolder(segment.folder, segment.number).checkpoint_dir, self._trial(segment.folder)
        with _as_carry_error(trial):
            whole = self._whole(segment.folder)
            if name not in dict(whole).values():
                files = files_of(folder, name)
                for path, _ in files:
                    self._files.makedirs(f"{trial}/{path}".rpartition("/")[0], exist_ok=True)
                    self._files.put_file(str(folder / path), f"{trial}/{path}")
                if not files or files_of(folder, name) != files:
                    raise FileNotFoundError(f"{folder / name} was taken away meanwhile")
                self._files.pipe_file(f"{trial}/{name}{_WHOLE}", b"")
            for step, old in whole:
                if step < (checkpoint_step(name) or 0):  # who is late must not take what has come since
                    self._files.rm_file(f"{trial}/{old}{_WHOLE}")
                    self._files.rm(f"{trial}/{old}", recursive=True)

    def get(self, segment: Segment, name: str) -> None:
        """Carry a checkpoint from there into the segment's folder."""
        folder, trial = SegmentFolder(segment.folder, segment.number).checkpoint_dir, self._trial(segment.folder)
        room, base = _empty(folder / ".arriving"), self._files._strip_protocol(f"{trial}/{name}")
        with _as_carry_error(trial):
            for found in self._files.find(base):
                path = str(found)[len(base) :].strip("/")
                into = _below(room, f"{name}/{path}" if path else name)
                into.parent.mkdir(parents=True, exist_ok=True)
                self._files.get_file(found, str(into))
        _place(room / name, folder / name)

    def newest(self, trial_folder: Path, until: int) -> int:
        """The step of the newest whole checkpoint of a trial, up to a step; 0 without one.

        Raises:
            OSError: If it cannot be asked.
        """
        with _as_carry_error(self._trial(trial_folder)):
            return max((step for step, _ in self._whole(trial_folder) if step <= until), default=0)

    def _trial(self, trial_folder: Path) -> str:
        return f"{self._root}/{trial_folder.parent.name}/{trial_folder.name}"

    def _whole(self, trial_folder: Path) -> list[tuple[int, str]]:
        try:
            names = [str(name).rpartition("/")[2] for name in self._files.ls(self._trial(trial_folder), detail=False)]
        except FileNotFoundError:
            return []
        named = [name.removesuffix(_WHOLE) for name in names if name.endswith(_WHOLE)]
        return [(step, name) for name in named if (step := checkpoint_step(name)) is not None]


_WHOLE = ".whole"


def newest_step(folders: str, trial_folder: Path, until: int) -> int:
    """The step of the newest checkpoint of a trial that its controller can hand out: of its own folder, or of a URL."""
    if "://" in folders:
        return ObjectDepot(folders).newest(carried_as(trial_folder), until)
    found = newest(SegmentFolder(trial_folder, 0).checkpoint_dir, until)
    return found[0] if found else 0


def refuse_folders(folders: str, *, known: Sequence[str]) -> None:
    """Refuse what is neither one of the words that are `known` nor a URL that can be used for checkpoints.

    Raises:
        ExecutorError: If it is that.
    """
    if "://" in folders:
        ObjectDepot(folders)
    elif folders not in known:
        words = ", ".join(map(repr, known))
        raise ExecutorError(f"expected folders to be {words} or a URL of fsspec, got {folders!r}")


def _filesystem(url: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError:
        raise MissingExtra("checkpoints on storage of objects need fsspec: pip install 'frugalbo[objects]'") from None
    try:
        files, root = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise ExecutorError(f"cannot use {url!r} for checkpoints: {error}") from None
    return files, root.rstrip("/")


@contextmanager
def _as_carry_error(where: str) -> Iterator[None]:
    """Storage of objects raises what its library does, such as botocore's errors, which are not the built-in ones."""
    try:
        yield
    except (OSError, FrugalError):
        raise
    except Exception as error:
        raise CarryError(f"{where}: {type(error).__name__}: {error}") from error


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _below(room: Path, name: str) -> Path:
    path = (room / name).resolve()
    if not path.is_relative_to(room.resolve()):
        raise CarryError(f"expected a file of a checkpoint, got {name!r}")
    return path


def _place(came: Path, path: Path) -> None:
    if not came.exists():
        raise CarryError(f"there is no checkpoint {path.name} to go on from")
    place(came, path)
    shutil.rmtree(came.parent, ignore_errors=True)
