"""What a training function sees: `JobContext`.

A job runs in *segments*: it is granted the steps after `start` up to and including `until`, out
of `planned`, and may be killed between any two instructions. What it reports is kept; what it
saved with `save` is there when it is resumed, by another process, perhaps on another device.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from frugalbo.errors import FrugalError, StorageError

_CHECKPOINT = re.compile(r"step-(\d+)\.ckpt")


class DivergedError(FrugalError, ArithmeticError):
    """The objective is not a finite number: the trial has failed and need not go on."""


@dataclass(slots=True)
class JobContext:
    """A segment of a trial, from the inside.

    Args:
        params: The configuration.
        start: Steps already done (0 in a fresh trial).
        until: The last step granted now.
        planned: The steps for which schedules are to be planned; `until <= planned`.
        seed: Equal for all trials of a study, so that they are compared on common random numbers.
        device: `"cpu"`, `"cuda"` or another torch device; the only one this job may use.
        threads: How many CPU threads the job may use; already set for torch and OpenMP.
        devices: How many GPUs it may use; 1 for one that it shares, and on cores.
        checkpoint_dir: The trial's own folder, kept between its segments.
        objective: The metric that must stay finite.
        sink: Where reports go; frugalbo's business.
    """

    params: Mapping[str, Any]
    start: int
    until: int
    planned: int
    seed: int
    device: str
    threads: int
    checkpoint_dir: Path
    objective: str
    sink: Callable[[dict[str, Any]], None] = field(repr=False)
    stop_requested: bool = False
    devices: int = 1
    _last: int = field(default=0, init=False, repr=False)

    def report(self, step: int, **metrics: float) -> None:
        """Record metrics after `step` steps of the trial, in increasing order of steps.

        Raises:
            DivergedError: If the objective is not finite; let it through.
            ValueError: If the step was not granted, comes out of order, or a metric is not a number.
        """
        first = max(self.start, self._last) + 1
        if first > self.until:
            what = f"the last granted step, {self.until}, was reported, yet there came step {step!r}"
            raise ValueError(f"{what} (a job does the steps from `start` to `until`, saves, and returns)")
        if not hasattr(step, "__index__") or not first <= step <= self.until:
            what = f"expected a report for a step from {first} to {self.until}, got step {step!r}"
            raise ValueError(f"{what} (steps come in increasing order; those up to {first - 1} are done)")
        values = {}
        for name, value in metrics.items():
            try:
                values[name] = float(value)
            except (TypeError, ValueError, OverflowError):
                raise ValueError(f"metric {name!r} must be a number, got {value!r}") from None
        self._last = int(step)
        self.sink({"step": int(step), "metrics": values})
        if self._last == self.until:
            self._drop_old()
        if self.objective in values and not math.isfinite(values[self.objective]):
            raise DivergedError(f"{self.objective} is {values[self.objective]} at step {step}")

    def save(self, step: int, write: Callable[[Path], object]) -> None:
        """Keep a checkpoint of the state after `step` steps, whole or not at all.

        The one before is deleted; that before the last granted step once that is reported, as it would have to be
        done again if it never were.

        Args:
            step: The number of steps done.
            write: Writes the state to the path that it is given, such as
                `lambda path: torch.save(state, path)`.
        """
        self.checkpoint_dir.mkdir(parents=True, exist_ok=True)
        path = self.checkpoint_dir / f"step-{step}.ckpt"
        partial = path.with_suffix(".partial")
        write(partial)
        try:
            _sync(partial)
        except FileNotFoundError:
            raise StorageError(f"the checkpoint's writer was given a path, and wrote nothing to {partial}") from None
        partial.rename(path)
        _sync(self.checkpoint_dir)  # the new name is on the disk before the old ones go
        self._drop_old(keep=2 if step == self.until and self._last < step else 1)

    def resume(self) -> Path | None:
        """The checkpoint of the state after `start` steps; None in a fresh trial.

        Raises:
            StorageError: If it is gone: steps that were paid for must not be run again in silence.
        """
        found = dict(checkpoints(self.checkpoint_dir)).get(self.start)
        if found is None and self.start > 0:
            raise StorageError(f"the checkpoint of step {self.start} is gone from {self.checkpoint_dir}")
        return found

    @property
    def should_stop(self) -> bool:
        """Whether the job was asked to end: save and return soon, or be killed after a short grace."""
        return self.stop_requested

    def _drop_old(self, *, keep: int = 1) -> None:
        for _, old in checkpoints(self.checkpoint_dir)[:-keep]:
            old.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checkpoint_step(name: str) -> int | None:
    """The step of the checkpoint of that name; None if it is not the name of one."""
    match = _CHECKPOINT.fullmatch(name)
    return int(match[1]) if match else None


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The complete checkpoints in a folder, by step."""
    if not folder.is_dir():
        return []
    found = ((checkpoint_step(path.name), path) for path in folder.iterdir())
    return sorted((step, path) for step, path in found if step is not None)
