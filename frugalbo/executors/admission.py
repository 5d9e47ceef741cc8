"""What every executor of real processes refuses, in the same words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from frugalbo.errors import ExecutorError, ProblemError
from frugalbo.events import Started
from frugalbo.executors.base import Segment
from frugalbo.problem import IN_MEMORY, Problem, job_address
from frugalbo.slot import Slot


def refuse_in_memory(problem: Problem) -> None:
    """Refuse a job that no other machine could find.

    Raises:
        ProblemError: If it is a function that only this process has.
    """
    if job_address(problem.job) == IN_MEMORY:
        raise ProblemError("other machines cannot run a function that only this process has: move it to a file")


def refuse_unfit(segment: Segment, slots: Sequence[Slot], running: Mapping[str, Segment]) -> None:
    """Refuse a segment that cannot be submitted; `running` is what runs, by slot.

    Raises:
        ExecutorError: If its slot is none or is busy, its trial runs elsewhere, or it has no time.
    """
    if segment.slot not in slots:
        raise ExecutorError(f"expected one of {[slot.name for slot in slots]}, got slot {segment.slot.name!r}")
    if busy := running.get(segment.slot.name):
        raise ExecutorError(f"slot {segment.slot.name!r} is not free: trial {busy.trial} runs there")
    if any(other.trial == segment.trial for other in running.values()):
        raise ExecutorError(f"trial {segment.trial} is running already")
    if not segment.cap_s > 0:
        raise ExecutorError(f"expected a cap above 0 s, got {segment.cap_s!r}")


def refuse_running(started: Started, running: Mapping[str, Segment]) -> None:
    """Refuse to recover what is not lost.

    Raises:
        ExecutorError: If it is one of those that run.
    """
    if any((one.trial, one.number) == (started.trial, started.segment) for one in running.values()):
        raise ExecutorError(f"segment {started.segment} of trial {started.trial} runs here, it is not lost")


@contextmanager
def probing(folder: Path, mark: str) -> Iterator[Path]:
    """A file with `mark` in it in a folder, by which another machine can tell whether it sees the same one.

    Raises:
        OSError: If it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".shared-{mark}"
    probe.write_text(mark)
    try:
        yield probe
    finally:
        probe.unlink(missing_ok=True)


def not_shared(folder: Path, where: str) -> ExecutorError:
    """What to say of a folder that another machine does not see."""
    remedy = "give storage that all machines see under the same path, or a URL as folders"
    return ExecutorError(f"expected {folder} on {where} as it is here: {remedy}")
