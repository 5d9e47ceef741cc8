"""Segments as Slurm jobs: each is a batch job of its own, whose time limit is the segment's cap.

    controller -> sbatch -> job: seat (`slurm_job`) -> template -> supervisor -> job

Controller and jobs speak through the trials' folders, which all nodes must see under one path; no port is
opened. Slurm's own programs are called without a shell. Submitit is not used, as it sends functions and results
as pickles through that folder, those of commands too.

| what happens | what follows |
|---|---|
| the job ends, fails, runs out of memory or time | as in `frugalbo.executors.local`: its supervisor's receipt says so |
| Slurm takes the job away, or its time limit nears | it saves, is charged, goes on as a new job: pre-empted |
| `scancel` by somebody | the same, killed by user |
| `slurmctld` does not answer | jobs go on; a new one is handed over once it does |
| the node or a daemon dies | charged to the last sign of life: infrastructure; twice, and the node is avoided |
| the controller is killed | the jobs go on to their caps; `recover` ends them, or takes what they have finished |

A Slurm job is never put back into the queue by Slurm (`--no-requeue`): the run loop does that, so that each
attempt is recorded and paid for. Time in the queue costs nothing; neither do the seconds until Python has
started in a job.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shlex
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from frugalbo.errors import ExecutorError
from frugalbo.events import Cause, Ended, Event, Outcome, Reported, Started
from frugalbo.executors import seat
from frugalbo.executors.admission import refuse_in_memory, refuse_running, refuse_unfit
from frugalbo.executors.base import Segment
from frugalbo.executors.cluster_slots import cluster_pool_slots, cluster_slots
from frugalbo.executors.lost import Lost
from frugalbo.executors.messages import confirm, segment_to_json
from frugalbo.executors.nodes import Nodes
from frugalbo.executors.segments import ReportReader, SegmentFolder, absolute
from frugalbo.executors.slurm_commands import AwayError, JobState, Slurm
from frugalbo.executors.slurm_job import ASKED, ORDER, REFUSED
from frugalbo.executors.slurm_lost import END_S, MOST_S, what_became_of
from frugalbo.pool import Pool
from frugalbo.problem import Problem
from frugalbo.slot import Slot

_LOOK_S = 0.05  # how often the files of one segment are looked at; of many, in turn as often
_LOOKS_PER_S = 200.0  # at all files together
_ASK_S = 2.0  # how often Slurm is asked for the states of jobs
_START_S = 120.0  # above cap and grace in a job's time limit, as Python takes its time to start
_WARN_S = 20.0  # before the time limit, Slurm says that it nears
_AGAIN_S = 3.0  # until a Slurm that did not answer is asked again to take a job
_AWAY_S = 600.0  # until that is given up
_MEMORY_BYTES = 512 * 2**20  # of a Slurm job, beside what its segment may keep


@dataclass(slots=True)
class _Running:
    """A segment that was submitted; `job` is Slurm's id, empty as long as Slurm has not told it."""

    segment: Segment
    files: SegmentFolder
    reports: ReportReader
    job: str
    submitted: float
    at: float
    last: int
    script: str = ""
    tried_at: float | None = None
    state: JobState = field(default_factory=lambda: JobState("PENDING"))
    asked: Outcome | None = None
    asked_at: float = math.inf
    finding_out: Future[list[Event]] | None = None


class SlurmExecutor:
    """Runs the segments of one problem as jobs of a Slurm cluster.

    A slot is the right to have one job in the queue or at work. On entering, nothing is asked for yet.

    Args:
        devices: Which slots, as for `cluster_slots`, of whole GPUs; all GPUs, or else cores, if not given.
        pools: In the place of `devices` and their price. A pool is a partition.
        partition: Where jobs run that are of no pool; the cluster's default, if not given.
        partitions: Of each pool, its partition; that of the pool's own name, if not given.
        sbatch: More options of `sbatch`, such as `["--account=lab", "--qos=low"]`.
        python: The Python of the nodes; it must have this frugalbo.
        grace_s: As for `LocalExecutor`.
        preload: As for `LocalExecutor`.

    Raises:
        ExecutorError: On entering, if there is no Slurm here, or it has no such partition or devices.
        ProblemError: If the job is a function that only this process has.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        devices: str | None = None,
        dollars_per_hour: float = 0.0,
        pools: Sequence[Pool] | None = None,
        partition: str | None = None,
        partitions: Mapping[str, str] | None = None,
        sbatch: Sequence[str] = (),
        python: str = sys.executable,
        grace_s: float = 1.5,
        preload: Sequence[str] = (),
    ) -> None:
        refuse_in_memory(problem)
        self._problem = problem
        self._devices, self._dollars_per_hour, self._pools = devices, dollars_per_hour, pools
        self._partition, self._partitions = partition, dict(partitions or {})
        self._sbatch, self._python = list(sbatch), python
        self._grace_s, self._preload = grace_s, list(preload)
        self._epoch = time.time() - time.monotonic()
        self._slurm: Slurm | None = None
        self._slots: list[Slot] = []
        self._limits: dict[str | None, float] = {}
        self._nodes = Nodes()
        self._running: dict[str, _Running] = {}  # by slot
        self._events: list[Reported | Ended] = []
        self._ask_at = 0.0
        self._finders = ThreadPoolExecutor(max_workers=8, thread_name_prefix="frugalbo-lost")

    @property
    def slots(self) -> Sequence[Slot]:
        """All slots."""
        return self._slots

    @property
    def grace_s(self) -> float:
        """What a job may take from being asked to end until it is killed."""
        return self._grace_s

    @property
    def jobs(self) -> Mapping[int, str]:
        """Slurm's id of the job of each trial that has one in the queue or at work."""
        return {running.segment.trial: running.job for running in self._running.values()}

    def free_slots(self) -> Sequence[Slot]:
        """The slots of which no job is in the queue or at work, in a fixed order."""
        return [slot for slot in self._slots if slot.name not in self._running]

    def now(self) -> float:
        """Seconds since 1970 in UTC, by the controller's clock, set once, so that it never jumps."""
        return self._epoch + time.monotonic()

    def __enter__(self) -> Self:
        if self._slurm is not None:
            raise ExecutorError("this executor is entered already")
        slurm = Slurm()
        there = {"cpus": sum(node.cpus for node in slurm.nodes), "gpus": sum(node.gpus for node in slurm.nodes)}
        if self._pools is not None:
            self._slots = cluster_pool_slots(self._pools, **there)
        else:
            self._slots = cluster_slots(self._devices, **there, dollars_per_hour=self._dollars_per_hour)
        if shared := [slot.name for slot in self._slots if slot.devices != int(slot.devices)]:
            raise ExecutorError(f"Slurm hands out whole GPUs, and {shared[0]!r} is a share of one")
        for slot in self._slots:
            partition = self._partition_of(slot)
            if partition not in self._limits:
                self._limits[partition] = slurm.limit_s(partition)
        self._slurm = slurm
        return self

    def __exit__(self, *exc: object) -> None:
        """End all that runs; what became of it can still be had from `wait`."""
        try:
            for running in self._running.values():
                self._ask_to_end(running, Outcome.INTERRUPTED)
            give_up = time.monotonic() + self._grace_s + END_S + MOST_S
            while self._running and time.monotonic() < give_up:
                self._collect()
                time.sleep(_LOOK_S)
        finally:
            if self._slurm is not None:
                for job in filter(None, self.jobs.values()):
                    self._slurm.cancel(job)
            self._running.clear()
            self._slurm = None

    def submit(self, segment: Segment) -> None:
        """Put a segment into the queue, on its slot, which must be free.

        Raises:
            ExecutorError: If the slot is not free or Slurm refuses the job.
        """
        if self._slurm is None:
            raise ExecutorError("an executor runs segments in a with statement only")
        refuse_unfit(segment, self._slots, self._segments())
        segment = absolute(segment)
        files = SegmentFolder(segment.folder, segment.number)
        try:
            files.create()
            for name in (ASKED, REFUSED):
                (files.path / name).unlink(missing_ok=True)
            (files.path / ORDER).write_text(json.dumps(self._order(segment)))
        except (OSError, TypeError) as error:
            raise ExecutorError(f"cannot write the orders of a segment to {files.path}: {error}") from error
        submitted, at = time.monotonic(), self.now()
        words = [self._python, "-m", "frugalbo.executors.slurm_job", str(files.path)]
        reports = ReportReader(files, segment.trial, segment.start, segment.until)
        running = _Running(segment, files, reports, "", submitted, at, segment.start)
        running.script = f"#!/bin/sh\nexec {shlex.join(words)}\n"
        self._hand_over(running, self._slurm)
        self._running[segment.slot.name] = running

    def cancel(self, trial: int, outcome: Outcome = Outcome.STOPPED) -> None:
        """Ask a running trial to end; one that reached its end meanwhile is still `COMPLETED` or `PAUSED`."""
        for running in self._running.values():
            if running.segment.trial == trial:
                self._ask_to_end(running, outcome)

    def wait(self, timeout_s: float) -> Sequence[Reported | Ended]:
        """The events since the last call; waits for the first of them, at most `timeout_s`.

        Raises:
            ExecutorError: If a node says that the job cannot be run there at all.
        """
        give_up = time.monotonic() + timeout_s
        self._collect()
        while self._slurm is not None and not self._events and (left := give_up - time.monotonic()) > 0:
            time.sleep(min(left, max(_LOOK_S, len(self._running) / _LOOKS_PER_S)))
            self._collect()
        events, self._events = self._events, []
        return events

    def recover(self, started: Started, folder: Path) -> Sequence[Event]:
        """What became of a segment whose controller died; nothing of it is alive after this.

        Raises:
            ExecutorError: If the segment is in the queue or at work here.
        """
        refuse_running(started, self._segments())
        slurm, folder = self._slurm or Slurm(), folder.resolve()
        files = SegmentFolder(folder, started.segment)
        if (jobs := slurm.named(_name(files))) and files.read_receipt() is None:
            (files.path / ASKED).write_text(Outcome.INTERRUPTED)
        for job in jobs:
            slurm.notify(job)
        give_up = time.monotonic() + self._grace_s + END_S
        while jobs and files.read_receipt() is None and time.monotonic() < give_up:
            time.sleep(0.2)
            with contextlib.suppress(AwayError):
                jobs = slurm.named(_name(files))
        slot = next((slot for slot in self._slots if slot.name == started.slot), Slot(started.slot, "cpu", 0))
        lost = Lost(started, folder, slot, self._problem.objective.metric, self._grace_s)
        return what_became_of(slurm, lost, jobs, now=self.now, elapsed_s=None)

    def _segments(self) -> dict[str, Segment]:
        return {slot: running.segment for slot, running in self._running.items()}

    # What Slurm is told

    def _hand_over(self, running: _Running, slurm: Slurm) -> None:
        """Submit a segment's job, unless Slurm has it already; where it does not answer, `_collect` tries again.

        Raises:
            ExecutorError: If Slurm refuses the job, or has not answered for `_AWAY_S`.
        """
        try:
            # It may have taken the job the last time, though it did not say so.
            there = [] if running.tried_at is None else slurm.named(_name(running.files))
            if not there and running.asked is not None:
                self._look_into(running, slurm)  # it never began
                return
            options = self._options(running.segment, running.files)
            running.job = there[0] if there else slurm.submit(running.script, options)
        except AwayError:
            if time.monotonic() > running.submitted + _AWAY_S:
                raise
        running.tried_at = time.monotonic()
        if running.job and running.asked is not None:
            slurm.notify(running.job)

    def _partition_of(self, slot: Slot) -> str | None:
        return self._partitions.get(slot.pool, slot.pool) if slot.pool else self._partition

    def _options(self, segment: Segment, files: SegmentFolder) -> list[str]:
        slot, partition = segment.slot, self._partition_of(segment.slot)
        limit_s = min(segment.cap_s + self._grace_s + _START_S + _WARN_S, self._limits[partition])
        options = [
            f"--job-name={_name(files)}",
            f"--output={files.path / 'slurm.out'}",
            f"--chdir={Path(self._problem.root).resolve()}",
            "--no-requeue",
            "--nodes=1",
            "--ntasks=1",
            f"--cpus-per-task={slot.threads}",
            f"--signal=B:USR1@{_WARN_S + self._grace_s:.0f}",
        ]
        if math.isfinite(limit_s):
            minutes, seconds = divmod(math.floor(limit_s), 60)
            options.append(f"--time={minutes}:{seconds:02d}")
        if slot.kind == "cuda":
            options.append(f"--gres=gpu:{slot.devices:.0f}")
        if segment.memory_bytes is not None:
            options.append(f"--mem={math.ceil((segment.memory_bytes + _MEMORY_BYTES) / 2**20)}M")
        if partition is not None:
            options.append(f"--partition={partition}")
        if self._slurm and self._nodes.struck and (avoided := self._nodes.avoided(self._slurm.up(partition))):
            options.append(f"--exclude={','.join(avoided)}")
        return options + self._sbatch

    def _order(self, segment: Segment) -> Mapping[str, object]:
        order = seat.order(self._problem, segment.slot, grace_s=self._grace_s, preload=self._preload)
        return {"seat": order, "segment": segment_to_json(segment), "mark": uuid.uuid4().hex}

    def _ask_to_end(self, running: _Running, outcome: Outcome) -> None:
        if running.asked is None and self._slurm is not None:
            running.asked, running.asked_at = outcome, time.monotonic()
            (running.files.path / ASKED).write_text(outcome)
            if running.job:
                self._slurm.notify(running.job)
            self._ask_at = 0.0

    # What comes of it

    def _collect(self) -> None:
        """Take in what all segments have reported, and which have ended."""
        if self._slurm is None:
            return
        now = time.monotonic()
        for running in list(self._running.values()):
            self._look_at(running, self._slurm, now)
        if self._running and now >= self._ask_at:
            self._ask_at = now + _ASK_S
            states = self._slurm.states([job for job in self.jobs.values() if job])
            for running in self._running.values():
                running.state = states.get(running.job, running.state)

    def _look_at(self, running: _Running, slurm: Slurm, now: float) -> None:
        receipt = running.files.read_receipt()  # before the reports: what it had reported is there
        self._report(running, running.reports.read())
        if running.finding_out is not None:
            if running.finding_out.done():
                self._take(running, running.finding_out.result())
        elif (running.files.path / REFUSED).exists():
            del self._running[running.segment.slot.name]
            raise ExecutorError((running.files.path / REFUSED).read_text())
        elif receipt is not None and (receipt.outcome != Outcome.INTERRUPTED or running.asked is not None):
            self._take(running, [receipt])
        elif not running.job and receipt is None:
            if now > (running.tried_at or 0.0) + _AGAIN_S:
                self._hand_over(running, slurm)
        elif receipt is not None or running.state.is_over:
            self._look_into(running, slurm)
        elif now > running.asked_at + self._grace_s + END_S:
            slurm.cancel(running.job)
            running.asked_at = now

    def _report(self, running: _Running, reports: Sequence[Event]) -> None:
        """Hand on reports; stamps are put between the start and now, whatever the node's clock says."""
        for report in reports:
            if isinstance(report, Reported) and report.step > running.last:
                running.last = report.step
                self._events.append(replace(report, at=min(max(report.at, running.at), self.now())))

    def _take(self, running: _Running, events: Sequence[Event]) -> None:
        self._report(running, events)
        ended = next(event for event in events if isinstance(event, Ended))
        if ended.outcome == Outcome.INTERRUPTED and running.asked == Outcome.STOPPED:
            ended = replace(ended, outcome=Outcome.STOPPED, message="the scheduler gave it up", cause=None)
        elif ended.outcome == Outcome.INTERRUPTED and running.asked is not None:
            ended = replace(ended, cause=Cause.USER)
        if running.state.node:
            self._nodes.note(running.state.node, well=ended.cause != Cause.INFRASTRUCTURE)
        ended = replace(ended, at=min(max(ended.at, running.at), self.now()))
        self._events.append(confirm(ended, running.segment, time.monotonic() - running.submitted))
        del self._running[running.segment.slot.name]

    def _look_into(self, running: _Running, slurm: Slurm) -> None:
        """It was taken away or lost: find out why, beside the others."""
        lost = Lost.of(
            running.segment, self._problem.objective.metric, self._grace_s, at=running.at, last=running.last,
            asked=running.asked, why="its Slurm job was lost", preempted=running.segment.slot.preemptible, node="",
        )  # fmt: skip
        elapsed_s = time.monotonic() - running.submitted
        jobs = [running.job] if running.job else []
        running.finding_out = self._finders.submit(what_became_of, slurm, lost, jobs, now=self.now, elapsed_s=elapsed_s)


def _name(files: SegmentFolder) -> str:
    """What the Slurm job of a segment is called: the same for every controller, so that none is lost sight of."""
    return f"frugalbo-{hashlib.sha256(str(files.path).encode()).hexdigest()[:16]}"
