"""How a segment ended, from what was seen of it. Pure: no processes, no files, no clocks."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from frugalbo.events import Cause, Failure, Outcome, Reported
from frugalbo.executors.base import Segment
from frugalbo.executors.segments import clean, diverged, reached

# Why the supervisor ended the job, if it did: `orphaned` if not because its controller asked it to.
Reason = Literal["cancel", "interrupt", "orphaned", "timeout", "memory", "diverged"]
# What a process sends itself by a mistake of its own.
_FAULTS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)


_MESSAGE_CHARS = 1000  # what a job calls its metrics may be longer


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of a job.

    Args:
        exit_code: Its status, or minus the signal that ended it; None if nobody saw it.
        asked: Why it was asked or made to end.
        result: What it said last: `{"ok": true}`, or `{"failure", "message"}`.
        oom: Whether the system ran out of memory meanwhile.
        refused: Why its first refused report was refused.
    """

    exit_code: int | None
    asked: Reason | None = None
    result: Mapping[str, object] | None = None
    oom: bool = False
    refused: str = ""


def judge(
    segment: Segment, objective: str, reports: Sequence[Reported], seen: Seen
) -> tuple[Outcome, Failure | None, str]:
    """The outcome, the kind of failure, and the reason in a sentence."""
    if (report := diverged(reports, objective)) is not None:
        message = f"{objective} was {report.metrics[objective]} at step {report.step}"
        return Outcome.FAILED, Failure.DIVERGED, message
    result = seen.result or {}
    failure = result.get("failure")
    returned = bool(result.get("ok")) or (seen.exit_code == 0 and not failure)
    if returned and reached(reports, objective, segment.until):
        return (Outcome.COMPLETED if segment.until == segment.planned else Outcome.PAUSED), None, ""
    on_its_way = segment.until < segment.planned and any(objective in report.metrics for report in reports)
    if returned and seen.asked is None and on_its_way:
        return Outcome.PAUSED, None, ""  # it reports at steps of its own: the last one before counts
    if seen.asked == "cancel":
        return Outcome.STOPPED, None, "the scheduler gave it up"
    if seen.asked == "interrupt":
        return Outcome.INTERRUPTED, None, "the run ended before the segment did"
    if seen.asked == "orphaned":
        return Outcome.INTERRUPTED, None, "who ran it died before the segment ended"
    failure, message = _failure(segment, objective, reports, seen)
    return Outcome.FAILED, failure, clean(message)[:_MESSAGE_CHARS]


def blame(outcome: Outcome, failure: Failure | None, seen: Seen) -> Cause | None:
    """What is to blame, where the kind of failure does not say it."""
    if outcome == Outcome.INTERRUPTED:
        return Cause.INFRASTRUCTURE if seen.asked == "orphaned" else Cause.USER
    if failure == Failure.KILLED and seen.exit_code is not None and -seen.exit_code in _FAULTS:
        return Cause.BUG
    return None


def judge_silent(
    segment: Segment, objective: str, reports: Sequence[Reported], checkpoint: int, *, cancelled: bool = False
) -> tuple[Outcome, Failure | None, str]:
    """The same for a segment whose supervisor was killed before it could say how it ended.

    Where the last granted step was reported nothing is left to do, if it was the last planned one
    or its state was saved.
    """
    if (report := diverged(reports, objective)) is not None:
        message = f"{objective} was {report.metrics[objective]} at step {report.step}"
        return Outcome.FAILED, Failure.DIVERGED, message
    if reached(reports, objective, segment.until):
        if segment.until == segment.planned:
            return Outcome.COMPLETED, None, ""
        if checkpoint == segment.until:
            return Outcome.PAUSED, None, ""
    if cancelled:
        return Outcome.STOPPED, None, "the scheduler gave it up"
    return Outcome.INTERRUPTED, None, "the processes that ran it were killed from outside"


def _failure(segment: Segment, objective: str, reports: Sequence[Reported], seen: Seen) -> tuple[Failure, str]:
    result = seen.result or {}
    message = str(result.get("message", ""))
    if seen.asked == "memory":
        cap = f"{(segment.memory_bytes or 0) / 2**20:.0f} MiB"
        return Failure.MEMORY, f"it kept more than the {cap} of memory that it was granted"
    if result.get("failure") == Failure.MEMORY:
        return Failure.MEMORY, message
    if seen.asked == "timeout":
        return Failure.TIMEOUT, f"it was not done after the {segment.cap_s:.4g} s that it was granted"
    if failure := result.get("failure"):
        return Failure(str(failure)), message
    code = None if result.get("ok") else seen.exit_code  # its exit handlers do not count
    if code is not None and code < 0:
        return _killed(-code, oom=seen.oom)
    if code:
        return Failure.ERROR, f"it exited with status {code}"
    return Failure.NO_RESULT, _no_result(segment, objective, reports, seen.refused)


def _killed(number: int, *, oom: bool) -> tuple[Failure, str]:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if number == signal.SIGKILL and oom:
        return Failure.MEMORY, "the system ran out of memory and killed it"
    hint = ", perhaps by a system short of memory" if number == signal.SIGKILL else ""
    return Failure.KILLED, f"it was killed by {name}, which frugalbo did not send{hint}"


def _no_result(segment: Segment, objective: str, reports: Sequence[Reported], refused: str) -> str:
    message = f"it ended without reporting {objective!r} at step {segment.until}"
    if refused:
        return f"{message}; {refused}"
    if not reports:
        return f"{message}; it reported nothing"
    last = reports[-1]
    return f"{message}; its last report was {', '.join(last.metrics) or 'empty'} at step {last.step}"
