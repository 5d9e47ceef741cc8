"""What became of a segment whose Slurm job was taken away or lost, by its files and by what Slurm says of the job."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from frugalbo.events import Cause, Ended, Event, Failure, Outcome
from frugalbo.executors.base import Segment
from frugalbo.executors.lost import Lost, find_out
from frugalbo.executors.messages import segment_from_json
from frugalbo.executors.segments import SegmentFolder, cost_of, goes_on_from
from frugalbo.executors.slurm_commands import JobState, Slurm
from frugalbo.executors.slurm_job import ORDER

END_S = 15.0  # above the grace, until a job that was asked to end is cancelled
_RECEIPT_S = 5.0  # a network file system may need seconds to show a receipt
_GONE_S = 60.0  # until Slurm has ended what it was told to
MOST_S = _RECEIPT_S + _GONE_S  # what `what_became_of` may take
_TAKEN = {
    "CANCELLED": (Cause.USER, "somebody cancelled its Slurm job"),
    "PREEMPTED": (Cause.PREEMPTED, "Slurm gave its node to another job"),
    "TIMEOUT": (Cause.PREEMPTED, "the time limit of its Slurm job came"),
    "COMPLETED": (Cause.PREEMPTED, "Slurm asked it to end"),
    "REVOKED": (Cause.PREEMPTED, "Slurm gave its job to another cluster"),
}


def what_became_of(
    slurm: Slurm, lost: Lost, jobs: Sequence[str], *, now: Callable[[], float], elapsed_s: float | None
) -> list[Event]:
    """Late reports and the end of a segment; nothing of its jobs is alive after this.

    `elapsed_s` is the time since it was submitted, where this controller has done so.
    """
    files = SegmentFolder(lost.folder, lost.started.segment)
    states = _until_over(slurm, jobs)
    state = next(iter(states.values()), JobState("FORGOTTEN"))
    give_up = time.monotonic() + _RECEIPT_S
    while files.read_receipt() is None and files.read_orders() is not None and time.monotonic() < give_up:
        time.sleep(0.1)
    began = files.read_orders() is not None or files.read_receipt() is not None
    if not began and (order := _read_order(files)) is not None:
        return [_never_began(lost, order, state, files)]
    if state.elapsed_s and elapsed_s is not None:
        elapsed_s = min(elapsed_s, state.elapsed_s + 1)  # Slurm counts whole seconds
    events = find_out(lost, ask=lambda machine: None, now=now, elapsed_s=elapsed_s)
    return [*events[:-1], _explained(events[-1], lost, state)]


def _until_over(slurm: Slurm, jobs: Sequence[str]) -> Mapping[str, JobState]:
    """The last states of jobs; those that do not end by themselves are cancelled."""
    states: Mapping[str, JobState] = {}
    began = time.monotonic()
    is_cancelled = False
    while jobs and time.monotonic() < began + _GONE_S:
        states = slurm.states(jobs)
        if states and all(state.is_over for state in states.values()):
            break
        if not is_cancelled and time.monotonic() > began + END_S:
            for job in jobs:
                slurm.cancel(job)
            is_cancelled = True
        time.sleep(0.5)
    return states


def _explained(event: Event, lost: Lost, state: JobState) -> Event:
    """An end with what Slurm says of it, where the segment itself is not to blame."""
    assert isinstance(event, Ended)
    if event.outcome != Outcome.INTERRUPTED or lost.asked is not None or not lost.why:
        return event
    if state.state == "OUT_OF_MEMORY":
        message = "it kept more memory than its Slurm job was granted"
        return replace(event, outcome=Outcome.FAILED, failure=Failure.MEMORY, message=message, cause=None)
    where = f" (node {state.node})" if state.node else ""
    lost_by_node = (Cause.PREEMPTED if lost.preempted else Cause.INFRASTRUCTURE, f"{lost.why}: {state.state}")
    cause, message = _TAKEN.get(state.state, lost_by_node)
    return replace(event, cause=cause, message=f"{message}{where}")


def _never_began(lost: Lost, segment: Segment, state: JobState, files: SegmentFolder) -> Ended:
    """The end of a segment whose job never got so far, which costs nothing."""
    try:
        said = (files.path / "slurm.out").read_text(errors="replace").strip()[-300:]
    except OSError:
        said = f"it left no sign; do all nodes see {files.path}?" if state.state == "FAILED" else ""
    why = "before it began: " + state.state.lower().replace("_", " ") + (f"; {said}" if said else "")
    event = Ended(
        trial=segment.trial,
        segment=segment.number,
        outcome=lost.asked or Outcome.INTERRUPTED,
        used=cost_of(segment, 0.0),
        at=lost.started.at,
        checkpoint=goes_on_from(files, segment, Outcome.INTERRUPTED, (), lost.objective),
        message=f"its Slurm job ended {why}",
        cause=Cause.INFRASTRUCTURE,
    )
    if event.outcome == Outcome.STOPPED:
        return replace(event, message="the scheduler gave it up", cause=None)
    if lost.asked is None and lost.why and state.state in ("CANCELLED", "PREEMPTED"):
        return replace(event, cause=_TAKEN[state.state][0])
    return event


def _read_order(files: SegmentFolder) -> Segment | None:
    try:
        return segment_from_json(json.loads((files.path / ORDER).read_text())["segment"])
    except (OSError, ValueError):
        return None
