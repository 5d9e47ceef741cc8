"""Text and token files as windows to train and to validate on.

Text is bytes; token files are uint16. Nothing is written: text is read into memory, token files
are mapped. Which windows a step trains on is a pure function of (seed, step).
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from llama import SIZES, Size
from numpy.typing import NDArray
from torch import Tensor

from frugalbo.errors import ProblemError


@dataclass(frozen=True, slots=True)
class Tokens:
    """Stretches of tokens; a window never leaves its stretch."""

    parts: tuple[NDArray[np.unsignedinteger], ...]
    vocab: int

    def places(self, length: int) -> NDArray[np.int64]:
        """How many windows of `length` start in the parts up to and including each."""
        return np.cumsum([max(0, len(part) - length + 1) for part in self.parts], dtype=np.int64)

    def windows(self, places: NDArray[np.int64], length: int) -> Tensor:
        """Return the windows at `places` (n), as int64 of n x length."""
        ends = self.places(length)
        owners = np.searchsorted(ends, places, side="right")
        found = np.empty((len(places), length), np.int64)
        for row, (place, i) in enumerate(zip(places.tolist(), owners.tolist(), strict=True)):
            at = place - (int(ends[i - 1]) if i else 0)
            found[row] = self.parts[i][at : at + length]
        if found.max() >= self.vocab:
            raise ProblemError(f"expected tokens below {self.vocab}, the vocabulary of this size, got {found.max()}")
        return torch.from_numpy(found)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Tokens to train on and tokens to validate on, from different files."""

    train: Tokens
    val: Tokens


def training_batch(tokens: Tokens, size: Size, seed: int, step: int) -> Tensor:
    """Return the windows of one step, batch x (sequence + 1): a pure function of seed and step."""
    length = size.sequence + 1
    rng = np.random.default_rng([seed, step])
    return tokens.windows(rng.integers(0, tokens.places(length)[-1], size.batch), length)


def validation_windows(tokens: Tokens, size: Size) -> Tensor:
    """Return windows spread evenly over all of the validation tokens."""
    length = size.sequence + 1
    total = int(tokens.places(length)[-1])
    return tokens.windows(np.arange(size.val_sequences, dtype=np.int64) * total // size.val_sequences, length)


@lru_cache(maxsize=2)
def load_corpus(data: str, size_name: str) -> Corpus:
    """Read `data`; see the README for the formats and for which files validate.

    Raises:
        ProblemError: If there is nothing to read, or too little to cut a sequence from.
    """
    size = SIZES[size_name]
    if data == "stdlib":
        corpus = Corpus(*(Tokens((_joined(files),), 256) for files in standard_library(size.text_bytes)))
    else:
        files = _files(data)
        kinds = {"tokens" if path.suffix in (".npy", ".bin") else "text" for path in files}
        if len(kinds) > 1:
            raise ProblemError(f"data {data!r}: expected text files or token files (.npy, .bin), got both")
        train, val = split_files(files)
        if kinds == {"text"}:
            parts = [(_joined(train),), (_joined(val),)]
        else:
            parts = [tuple(map(_tokens, train)), tuple(map(_tokens, val))]
        if not val:  # one single file: its end validates
            cut = len(parts[0][0]) * 19 // 20
            parts = [(parts[0][0][:cut],), (parts[0][0][cut:],)]
        corpus = Corpus(*(Tokens(p, 256 if kinds == {"text"} else size.vocab) for p in parts))
    for name, tokens in (("train", corpus.train), ("validate", corpus.val)):
        if tokens.places(size.sequence + 1)[-1] < 1:
            raise ProblemError(f"data {data!r}: expected over {size.sequence} tokens in a row to {name} on, got fewer")
    return corpus


def standard_library(limit: int) -> tuple[list[Path], list[Path]]:
    """Return files of Python's standard library to train and to validate on, `limit` bytes in all.

    In the order of a hash of their names, so that neither half is one kind of module; the first
    tenth of the bytes validates. The text, and so every loss, differs between Python versions.
    """
    root = Path(sysconfig.get_path("stdlib"))
    skipped = {"site-packages", "test", "tests", "lib2to3", "idlelib", "turtledemo", "pydoc_data", "__pycache__"}
    names = []
    for folder, folders, files in os.walk(root):
        folders[:] = [f for f in folders if f not in skipped and not f.startswith("config-")]
        names += [Path(folder, f).relative_to(root).as_posix() for f in files if f.endswith(".py")]
    names.sort(key=lambda name: hashlib.blake2b(name.encode()).digest())
    train: list[Path] = []
    val: list[Path] = []
    limit = min(limit, sum((root / name).stat().st_size for name in names))
    taken = 0
    for name in names:
        if taken >= limit:
            break
        (val if taken < limit // 10 else train).append(root / name)
        taken += (root / name).stat().st_size
    return train, val


def split_files(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Split by file: those named `val`, `valid` or `validation` validate; if none, every tenth."""
    val = [path for path in files if re.search(r"(^|[._-])(val|valid|validation)([._-]|$)", path.stem)]
    if not val and len(files) > 1:
        val = list(files[:: max(2, min(10, len(files)))])
    return [path for path in files if path not in set(val)], val


def _files(data: str) -> list[Path]:
    path = Path(data)
    found = path.rglob("*") if path.is_dir() else map(Path, glob.glob(data, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
    files = sorted(file for file in found if file.is_file() and not file.name.startswith("."))
    if not files:
        raise ProblemError(
            f"data {data!r}: no files there; expected 'stdlib', a folder or glob of text files, "
            "or .npy or .bin files of uint16 tokens"
        )
    return files


def _joined(files: Sequence[Path]) -> NDArray[np.uint8]:
    # A zero byte, which no text has, stands between files.
    return np.frombuffer(b"\0".join(path.read_bytes() for path in files), np.uint8)


def _tokens(path: Path) -> NDArray[np.uint16]:
    try:
        found = np.load(path, mmap_mode="r") if path.suffix == ".npy" else np.memmap(path, np.uint16, mode="r")
    except ValueError as error:
        raise ProblemError(f"cannot read tokens from {path}: {error}") from None
    if found.dtype != np.uint16 or found.ndim != 1:
        raise ProblemError(f"{path}: expected one row of uint16 tokens, got {found.dtype} of shape {found.shape}")
    return found
