"""What a segment leaves on disk, and what is told to those who run it.

| file in `segment-<number>` | written by | holds |
|---|---|---|
| `orders.json` | the controller, before anything starts | `Orders`: all that the segment's processes need |
| `processes.json` | the supervisor | who runs the segment, so that a later controller can end them |
| `reports.jsonl` | the job, or for a command the supervisor | a line a report, each written at once |
| `log.txt` | the supervisor | head and tail of what the job printed |
| `receipt.json` | the supervisor, once nothing is alive | the `Ended` event |
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from frugalbo.budget.amounts import Cost
from frugalbo.errors import FrugalError
from frugalbo.events import Ended, Outcome, Reported, event_from_json, event_to_json
from frugalbo.executors.base import Segment
from frugalbo.executors.messages import segment_from_json, segment_to_json
from frugalbo.executors.processes import Identity
from frugalbo.job import checkpoints

TAIL_BYTES = 2000  # of the log, in an Ended
LINE_BYTES = 2**16  # a longer line is no report
BEAT_S = 0.25  # how often a supervisor leaves a sign of life
_HEAD_KEPT = 2**20  # of the log, on disk
_TAIL_KEPT = 2**20
_PIECE_BYTES = 2**20  # of reports, read at a time
_HARMLESS = dict.fromkeys((*range(32), *range(127, 160)), "") | {ord("\t"): "\t", ord("\n"): "\n", ord("\r"): "\n"}


@dataclass(frozen=True, slots=True)
class Orders:
    """All that the processes of a segment need to know.

    Args:
        run: Stands in the environment of every process of the executor.
        machine: Where the pids mean something.
        words: The command; None for a function, which the template has loaded.
        cores: The CPU cores to stay on; None for all.
        visible: What `CUDA_VISIBLE_DEVICES` is to be.
        grace_s: How long the job may take between SIGTERM and SIGKILL.
    """

    segment: Segment
    run: str
    machine: str
    controller: Identity
    template: Identity
    objective: str
    words: tuple[str, ...] | None
    root: str
    cores: tuple[int, ...] | None
    visible: str
    grace_s: float

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {**asdict(self), "segment": segment_to_json(self.segment)}

    @classmethod
    def read(cls, path: Path) -> Orders:
        """The orders in a file."""
        return cls.from_json(json.loads(path.read_text()))

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Orders:
        """The orders that `to_json` wrote."""
        fields = dict(record, segment=segment_from_json(record["segment"]))
        for name in ("controller", "template"):
            fields[name] = Identity(**record[name])
        for name in ("words", "cores"):
            fields[name] = None if record[name] is None else tuple(record[name])
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class SegmentFolder:
    """The files of one segment of a trial, in the trial's folder."""

    trial_folder: Path
    number: int

    @property
    def path(self) -> Path:
        """The segment's own folder."""
        return self.trial_folder / f"segment-{self.number}"

    @property
    def checkpoint_dir(self) -> Path:
        """The checkpoints, kept between the trial's segments."""
        return self.trial_folder / "checkpoints"

    @property
    def log(self) -> Path:
        """What the job printed."""
        return self.path / "log.txt"

    @property
    def reports(self) -> Path:
        """What the job reported."""
        return self.path / "reports.jsonl"

    def create(self) -> None:
        """Make the folders, and take away what an earlier attempt at the same segment left."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.checkpoint_dir.mkdir(exist_ok=True)
        for name in ("orders.json", "processes.json", "receipt.json", "reports.jsonl", "log.txt"):
            (self.path / name).unlink(missing_ok=True)

    def checkpoint(self, until: int) -> int:
        """The largest step, up to `until`, from which the trial could go on."""
        return max((step for step, _ in checkpoints(self.checkpoint_dir) if step <= until), default=0)

    def write_orders(self, orders: Orders) -> Path:
        """Write the orders; returns where."""
        return _write(self.path / "orders.json", orders.to_json())

    def read_orders(self) -> Orders | None:
        """The orders; None if they were never given."""
        record = _read(self.path / "orders.json")
        return Orders.from_json(record) if record else None

    def write_processes(self, supervisor: Identity | None, job: Identity | None, others: Iterable[Identity]) -> None:
        """Note who runs the segment, and who descends from that job as far as was seen."""
        alone = {"supervisor": supervisor, "job": job}
        record = {name: asdict(who) for name, who in alone.items() if who is not None}
        _write(self.path / "processes.json", {**record, "others": [asdict(who) for who in others]})

    def read_processes(self) -> tuple[Identity | None, Identity | None, list[Identity]]:
        """The supervisor, the job, and the job's descendants, as they were noted last."""
        record = _read(self.path / "processes.json") or {}
        supervisor, job = (Identity(**record[name]) if name in record else None for name in ("supervisor", "job"))
        return supervisor, job, [Identity(**other) for other in record.get("others", ())]

    def beat(self) -> None:
        """Note that the segment is alive; its supervisor does so at least every `BEAT_S`."""
        with contextlib.suppress(OSError):
            os.utime(self.path / "processes.json")

    def last_beat(self) -> float | None:
        """When the segment was alive for the last time that anybody knows of; None if it left no files."""
        try:
            return max((path.stat().st_mtime for path in self.path.iterdir()), default=None)
        except OSError:
            return None

    def lived_s(self, now: float) -> float | None:
        """From its orders to its last sign of life and a beat more, which is not past `now`; None if it had no orders.

        Both ends are by the clock of the storage. That of who asks need not agree with it: it takes nothing from what
        was seen.
        """
        try:
            began = (self.path / "orders.json").stat().st_mtime
        except OSError:
            return None
        seen_s = max(0.0, (self.last_beat() or began) - began)
        return max(seen_s, min(seen_s + BEAT_S, now - began))

    def write_receipt(self, ended: Ended) -> None:
        """Write how the segment ended, so that it survives a loss of power."""
        _write(self.path / "receipt.json", event_to_json(ended), sync=True)

    def read_receipt(self) -> Ended | None:
        """How the segment ended; None if nobody could say."""
        try:
            event = event_from_json(_read(self.path / "receipt.json") or {})
        except FrugalError:
            return None
        return event if isinstance(event, Ended) else None

    def log_tail(self) -> str:
        """The end of what the job printed."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - TAIL_BYTES))
                return clean(file.read())
        except OSError:
            return ""


class ReportReader:
    """Reads the reports of a segment as they are written; a torn last line is left for later.

    A file that has lost its end is read again from its beginning.
    """

    def __init__(self, folder: SegmentFolder, trial: int, start: int, until: int) -> None:
        self._path = folder.reports
        self._trial, self._segment = trial, folder.number
        self._last, self._until = start, until
        self._offset = 0

    def read(self) -> list[Reported]:
        """The reports since the last call, in the order of steps. What is no report is passed over."""
        found: list[Reported] = []
        try:
            with self._path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._offset:
                    self._offset = 0
                file.seek(self._offset)
                while text := file.read(_PIECE_BYTES):
                    whole, end, rest = text.rpartition(b"\n")
                    if not end and len(rest) < LINE_BYTES:
                        break
                    # The beginning of a line that is too long is passed over, as its end will be.
                    self._offset += len(text) - (len(rest) if len(rest) < LINE_BYTES else 0)
                    file.seek(self._offset)
                    found += self._parse_all(whole)
        except OSError:
            return found
        return found

    def _parse_all(self, lines: bytes) -> Iterator[Reported]:
        for line in lines.split(b"\n"):
            report = self._parse(line)
            if report is not None:
                self._last = report.step
                yield report

    def _parse(self, line: bytes) -> Reported | None:
        if len(line) > LINE_BYTES:
            return None
        try:
            record = json.loads(line)
            step, at = int(record["step"]), float(record["at"])
            metrics = {str(name): float(value) for name, value in record["metrics"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            return None
        if not self._last < step <= self._until or not math.isfinite(at):
            return None
        return Reported(self._trial, self._segment, step, metrics, at)


class ReportWriter:
    """Appends reports to a file, each with one write.

    Args:
        wake: Written to after each report, so that the controller looks.
    """

    def __init__(self, path: Path, wake: int | None = None) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._wake = wake

    def write(self, step: int, metrics: Mapping[str, float], at: float) -> None:
        """Append one report.

        Raises:
            OSError: If the disk is full.
            ValueError: If it is longer than a report may be.
        """
        line = json.dumps({"step": step, "metrics": dict(metrics), "at": at}).encode() + b"\n"
        if len(line) > LINE_BYTES:
            raise ValueError(
                f"a report may take {LINE_BYTES} bytes, this one of {len(metrics)} metrics takes {len(line)}"
            )
        written = os.write(self._fd, line)
        if written < len(line):  # the next line must not join what was written of this one
            os.write(self._fd, b"\n")
            raise OSError(28, "no space left for a report")
        if self._wake is not None:
            wake(self._wake)

    def close(self) -> None:
        """Write no more."""
        os.close(self._fd)


class BoundedLog:
    """A log of which only head and tail are kept, whatever is written to it."""

    def __init__(self, path: Path) -> None:
        self._fd: int | None = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self._free = _HEAD_KEPT
        self._tail = bytearray()
        self._dropped = 0

    def write(self, text: bytes) -> None:
        """Add to the log; a full disk only shortens it."""
        head, rest = text[: self._free], text[self._free :]
        self._free -= len(head)
        self._put(head)
        self._tail += rest
        if len(self._tail) > 2 * _TAIL_KEPT:  # cut at twice the size: not at every write
            self._cut()

    def close(self) -> None:
        """Write the tail and close."""
        self._cut()
        if self._dropped:
            self._put(f"\n[... {self._dropped} bytes left out ...]\n".encode())
        self._put(bytes(self._tail))
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _cut(self) -> None:
        extra = len(self._tail) - _TAIL_KEPT
        if extra > 0:
            del self._tail[:extra]
            self._dropped += extra

    def _put(self, text: bytes) -> None:
        if text and self._fd is not None:
            try:
                os.write(self._fd, text)
            except OSError:
                os.close(self._fd)
                self._fd = None


def cost_of(segment: Segment, seconds: float, memory_bytes: float = 0) -> Cost:
    """What a segment is charged for so many seconds on its slot."""
    device_seconds = max(0.0, seconds) * segment.slot.devices
    return Cost(
        device_seconds=device_seconds,
        dollars=device_seconds * segment.slot.dollars_per_hour / 3600,
        evaluations=1.0 if segment.number == 0 else 0.0,
        memory_bytes=float(memory_bytes),
    )


def clean(text: bytes | str) -> str:
    """Text that every database and terminal takes: valid Unicode without control characters but line ends and tabs."""
    if isinstance(text, str):
        text = text.encode("utf-8", "replace")
    return text.decode("utf-8", "replace").replace("\r\n", "\n").translate(_HARMLESS)


def wake(fd: int) -> None:
    """Make the reader of a pipe look; nothing happens if it is full or nobody reads."""
    try:
        os.write(fd, b"\n")
    except OSError:
        return


def absolute(segment: Segment) -> Segment:
    """The segment with a folder that means the same in every process."""
    return replace(segment, folder=segment.folder.resolve())


def reached(reports: Sequence[Reported], objective: str, until: int) -> bool:
    """Whether the objective was reported for the last granted step."""
    return any(report.step == until and math.isfinite(report.metrics.get(objective, math.nan)) for report in reports)


def goes_on_from(
    files: SegmentFolder, segment: Segment, outcome: Outcome, reports: Sequence[Reported], objective: str
) -> int:
    """The step from which the trial could go on after a segment.

    A last granted step that was saved and never reported has to be done again: nothing would be left to grant.
    """
    is_open = outcome == Outcome.INTERRUPTED and not reached(reports, objective, segment.until)
    return files.checkpoint(segment.until - 1 if is_open else segment.until)


def diverged(reports: Sequence[Reported], objective: str) -> Reported | None:
    """The first report in which the objective is not finite."""
    return next((r for r in reports if not math.isfinite(r.metrics.get(objective, 0.0))), None)


def _write(path: Path, record: Mapping[str, Any], *, sync: bool = False) -> Path:
    partial = path.with_suffix(".partial")
    with partial.open("w") as file:
        json.dump(record, file)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    partial.replace(path)
    if sync:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return path


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None
