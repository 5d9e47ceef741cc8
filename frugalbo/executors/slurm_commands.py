"""Slurm by its own programs: `sbatch`, `squeue`, `sacct`, `scancel`, `sinfo`. No shell, no library.

Nothing here waits for a job. What a job is to do and what came of it is in files (`slurm_job`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from frugalbo.errors import ExecutorError

_ANSWER_S = 60.0  # a busy slurmctld may take that long
_PENDING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")
_AWAY = ("unable to contact slurm controller", "timed out", "zero bytes were transmitted", "connection refused")
_UP = ("idle", "mix", "alloc", "comp", "plnd")  # with a `*` they do not answer
_RUNNING = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "STAGE_OUT", "SIGNALING", "RESIZING")


class AwayError(ExecutorError):
    """Slurm's controller does not answer now; what it was asked may have been done all the same."""


@dataclass(frozen=True, slots=True)
class JobState:
    """What Slurm says of a job.

    Args:
        state: Such as `RUNNING` or `NODE_FAIL`.
        reason: Why it waits, or ended, in Slurm's word.
        node: Where it runs or ran; empty if nowhere.
        elapsed_s: How long it has run.
    """

    state: str
    reason: str = ""
    node: str = ""
    elapsed_s: float = 0.0

    @property
    def is_pending(self) -> bool:
        """Whether it is still to begin."""
        return self.state in _PENDING

    @property
    def is_over(self) -> bool:
        """Whether nothing of it runs or will run."""
        return self.state not in _PENDING + _RUNNING


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster: its cores and GPUs."""

    name: str
    cpus: int
    gpus: int


class Slurm:
    """The cluster that Slurm's programs find here, by `slurm.conf` or `SLURM_CONF`.

    Raises:
        ExecutorError: If they are not installed, or no controller answers.
    """

    def __init__(self) -> None:
        if gone := [name for name in ("sbatch", "squeue", "scancel", "sinfo") if shutil.which(name) is None]:
            raise ExecutorError(f"the backend 'slurm' needs Slurm's own programs, and there is no {gone[0]!r} here")
        self.nodes = self._nodes()
        self._has_accounts = shutil.which("sacct") is not None

    def submit(self, script: str, options: Sequence[str]) -> str:
        """Submit a batch script; returns the job's id.

        Raises:
            AwayError: If Slurm does not answer.
            ExecutorError: If it refuses the job.
        """
        done = _run(["sbatch", "--parsable", *options], text=script)
        if done.returncode and any(words in done.stderr.lower() for words in _AWAY):
            raise AwayError(f"Slurm does not answer: {_last_line(done.stderr)}")
        if done.returncode:
            raise ExecutorError(f"sbatch refused a segment: {_last_line(done.stderr)}")
        return done.stdout.strip().partition(";")[0]  # a federation adds the name of the cluster

    def states(self, jobs: Sequence[str]) -> Mapping[str, JobState]:
        """What is known of these jobs, by id: by `squeue`, which forgets after minutes, then by `sacct`.

        A job that neither knows is `FORGOTTEN`. Empty where Slurm does not answer now.
        """
        done = _run(["squeue", "--noheader", "--states=all", f"--user={os.getuid()}", "--format=%i|%T|%r|%N|%M"])
        if done.returncode:
            return {}
        found = {}
        for line in done.stdout.splitlines():
            job, state, reason, node, elapsed = line.split("|")
            if job in jobs:
                found[job] = JobState(state, reason, node, seconds_of(elapsed))
        if (gone := [job for job in jobs if job not in found]) and (accounts := self._accounts(gone)) is not None:
            found |= accounts
        return {job: found.get(job, JobState("FORGOTTEN")) for job in jobs}

    def named(self, name: str) -> list[str]:
        """The jobs of this name that are not over.

        Raises:
            AwayError: If Slurm does not answer.
        """
        done = _run(["squeue", "--noheader", f"--user={os.getuid()}", f"--name={name}", "--format=%i"])
        if done.returncode:
            raise AwayError(f"Slurm does not answer: {_last_line(done.stderr)}")
        return done.stdout.split()

    def notify(self, job: str) -> None:
        """Have a job that waits never begin, and send SIGUSR1 to the batch script of one that runs."""
        _run(["scancel", "--state=PENDING", job])
        _run(["scancel", "--state=RUNNING", "--signal=USR1", "--batch", job])

    def cancel(self, job: str) -> None:
        """Have Slurm end all that is left of a job."""
        _run(["scancel", job])

    def limit_s(self, partition: str | None) -> float:
        """The longest time that a partition grants to a job; infinite where it does not say."""
        options = [f"--partition={partition}"] if partition else []
        done = _run(["sinfo", "--noheader", "--format=%P|%l", *options])
        limits = dict(line.split("|") for line in done.stdout.splitlines())
        if partition and not limits:
            raise ExecutorError(f"expected a partition of the cluster, got {partition!r}")
        default = next((limit for name, limit in limits.items() if name.endswith("*")), "infinite")
        return seconds_of(limits.get(partition or "", limits.get(f"{partition}*", default)))

    def up(self, partition: str | None) -> list[str]:
        """The nodes of a partition, or of the default one, on which jobs can begin, now or when others end."""
        options = [f"--partition={partition}"] if partition else []
        done = _run(["sinfo", "--noheader", "--Node", "--format=%N|%t|%P", *options])
        found = [line.split("|") for line in done.stdout.splitlines()]
        return [node for node, state, name in found if state in _UP and (partition or name.endswith("*"))]

    def _accounts(self, jobs: Sequence[str]) -> Mapping[str, JobState] | None:
        """What the accounts say; None where there are none."""
        if not self._has_accounts:
            return None
        columns = "--format=JobIDRaw,State,NodeList,ElapsedRaw"
        done = _run(["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={','.join(jobs)}", columns])
        if done.returncode:
            self._has_accounts = "disabled" not in done.stderr
            return None
        found = {}
        for line in done.stdout.splitlines():
            job, state, node, elapsed = line.split("|")
            words = state.split()  # "CANCELLED by 1000"
            found[job] = JobState(words[0].rstrip("+"), " ".join(words[1:]), node, float(elapsed or 0))
        return found

    def _nodes(self) -> list[Node]:
        done = _run(["sinfo", "--noheader", "--Node", "--format=%N|%c|%G"])
        if done.returncode:
            raise ExecutorError(f"expected a Slurm cluster: {_last_line(done.stderr)}")
        found = {}
        for line in done.stdout.splitlines():  # one for each of a node's partitions
            name, cpus, resources = line.split("|")
            found[name] = Node(name, int(cpus.rstrip("+")), _gpus_of(resources))
        return list(found.values())


def seconds_of(text: str) -> float:
    """A time of Slurm's, such as `2-12:00:00`, `1:30:00` or `5:00`, in seconds; infinite where it is no number."""
    days, _, rest = text.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdigit() for part in parts):
        return float("inf") if text.lower() in ("infinite", "unlimited") else 0.0
    seconds = 0
    for part in parts:
        seconds = seconds * 60 + int(part)
    return float(int(days or 0) * 86400 + seconds)


def _gpus_of(resources: str) -> int:
    """How many GPUs `gpu:a100:4(S:0-1),shm:2` are."""
    total = 0
    for part in resources.split(","):
        kind, *rest = part.partition("(")[0].split(":")
        if kind == "gpu" and rest and rest[-1].isdigit():
            total += int(rest[-1])
    return total


def _run(command: Sequence[str], *, text: str | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, input=text, capture_output=True, text=True, check=False, timeout=_ANSWER_S
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(list(command), 1, "", f"{command[0]}: {error}")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it says nothing"])[-1]
