"""What became of a segment whose controller died: end what is left of it, then read what it left."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from frugalbo.budget.amounts import Cost
from frugalbo.events import Cause, Ended, Event, Outcome, Started
from frugalbo.executors import processes
from frugalbo.executors.base import Segment
from frugalbo.executors.segments import BEAT_S, Orders, ReportReader, SegmentFolder, cost_of, goes_on_from
from frugalbo.executors.supervisor import NAME
from frugalbo.executors.verdict import judge_silent
from frugalbo.slot import Slot

# How much longer than its grace a supervisor may need to end a job and write its receipt.
_RECEIPT_S = 3.0
_KILL_S = 10.0


def recover_segment(
    started: Started, folder: Path, *, objective: str, slots: Sequence[Slot], now: float
) -> list[Event]:
    """The reports of a segment and its `Ended`, once nothing of it is alive.

    It is judged by its supervisor's receipt. Where there is none, power was lost or the supervisor
    was killed, too.
    """
    files = SegmentFolder(folder.resolve(), started.segment)
    orders = files.read_orders()
    if orders is not None and orders.machine == processes.machine():
        end_left_over(files, orders)
    reports = ReportReader(files, started.trial, started.start, started.until).read()
    receipt = files.read_receipt()
    if receipt is not None and (receipt.trial, receipt.segment) == (started.trial, started.segment):
        return [*reports, receipt]
    segment = orders.segment if orders else segment_of(started, folder, slots)
    return [
        *reports,
        end_unseen(segment, files, objective, used=charge(started, segment, _lived_s(started, files, now)), at=now),
    ]


def end_unseen(
    segment: Segment,
    files: SegmentFolder,
    objective: str,
    *,
    used: Cost,
    at: float,
    cancelled: bool = False,
    checkpoint: int | None = None,
) -> Ended:
    """The `Ended` of a segment without a receipt, by what it left; `checkpoint` if its own are not in its folder."""
    reports = ReportReader(files, segment.trial, segment.start, segment.until).read()
    saved = files.checkpoint(segment.until) if checkpoint is None else checkpoint
    outcome, failure, message = judge_silent(segment, objective, reports, saved, cancelled=cancelled)
    return Ended(
        trial=segment.trial,
        segment=segment.number,
        outcome=outcome,
        used=used,
        at=at,
        checkpoint=goes_on_from(files, segment, outcome, reports, objective) if checkpoint is None else checkpoint,
        failure=failure,
        message=message,
        log_tail=files.log_tail(),
        cause=Cause.INFRASTRUCTURE if outcome == Outcome.INTERRUPTED else None,
    )


def end_left_over(files: SegmentFolder, orders: Orders) -> None:
    """Let the segment's supervisor finish, then kill what is left of the segment.

    If the controller is dead, that is everything that carries the mark of its executor, but not the
    supervisors of other segments, which may be writing their receipts.
    """
    supervisor, job, others = files.read_processes()
    if supervisor is not None and processes.is_alive(supervisor):
        processes.send(supervisor.pid, signal.SIGTERM)
    give_up = time.monotonic() + orders.grace_s + _RECEIPT_S
    while time.monotonic() < give_up:
        is_orphaned = not processes.is_alive(orders.controller)
        if supervisor is None:
            # It may have been handed its orders and not have noted itself yet: then it is one of these.
            is_running = is_orphaned and bool(processes.marked(orders.run))
            supervisor, job, others = files.read_processes()
        else:
            is_running = processes.is_alive(supervisor) or (is_orphaned and processes.is_alive(orders.template))
        if not is_running:
            break
        time.sleep(0.01)

    def left() -> set[int]:
        found = {p.pid for p in (supervisor, job, *others) if p is not None and processes.is_alive(p)}
        found |= {below for pid in found for below in processes.descendants(pid)}
        if not processes.is_alive(orders.controller):
            found |= processes.marked(orders.run) - _other_supervisors(supervisor.pid if supervisor else 0)
        return found

    processes.kill_until_gone(left, timeout_s=_KILL_S)


def _other_supervisors(own: int) -> set[int]:
    others = {p.pid for p in processes.everyone() if p.name == NAME and p.pid != own}
    return others | {below for pid in others for below in processes.descendants(pid)}


def _lived_s(started: Started, files: SegmentFolder, now: float) -> float:
    """What a segment lived; nothing if it has no folder, where that of its run is to be seen: it was never handed out.

    Of one without orders, which has no supervisor or was never begun, it is the time from its start to its last sign of
    life; without any, until now.
    """
    if (lived_s := files.lived_s(now)) is not None:
        return lived_s
    if files.trial_folder.parent.is_dir() and not files.path.exists():
        return 0.0
    beat = files.last_beat()
    return max(0.0, (now if beat is None else min(now, beat + BEAT_S)) - started.at)


def charge(started: Started, segment: Segment, lived_s: float) -> Cost:
    """What it lived, up to what was held."""
    devices = segment.slot.devices
    seconds = min(lived_s, segment.cap_s)
    if started.held.device_seconds:
        seconds = min(seconds, started.held.device_seconds / devices)
    cost = cost_of(segment, seconds)
    return replace(cost, dollars=min(cost.dollars, started.held.dollars)) if started.held.dollars else cost


def segment_of(started: Started, folder: Path, slots: Sequence[Slot]) -> Segment:
    """What is known of a segment from its `Started` alone."""
    slot = next((slot for slot in slots if slot.name == started.slot), Slot(started.slot, "cpu", 0))
    return Segment(
        trial=started.trial,
        number=started.segment,
        params=started.params,
        seed=0,
        start=started.start,
        until=started.until,
        planned=started.planned,
        slot=slot,
        cap_s=float("inf"),
        memory_bytes=None,
        folder=folder,
    )
