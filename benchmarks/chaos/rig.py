"""A run under torment: its controllers, its journal, and who of its processes is alive.

A `Rig` starts controllers as a user would, reads what they wrote, and knows nothing of faults.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from frugalbo.errors import StorageError
from frugalbo.events import Ended, Event, Reported, Started
from frugalbo.executors import processes
from frugalbo.executors.processes import Identity
from frugalbo.executors.segments import SegmentFolder
from frugalbo.run import trial_folder
from frugalbo.store import Store
from frugalbo.stored import folder_of

ROOT = Path(__file__).parents[2]
RUN = "chaos-1"
_LOOK_S = 0.03
_DEATH_S = 6.0  # a grace, a supervisor's last words, and a busy machine


@dataclass(frozen=True, slots=True)
class Plan:
    """How a run is set up.

    Args:
        storage: As for `tune`.
        budget: As for `tune`.
        cap_s: The most seconds of a segment.
        step_s: How long a step of the job takes.
    """

    backend: str
    storage: str
    budget: Mapping[str, float]
    seed: int
    cap_s: float
    step_s: float


@dataclass(frozen=True, slots=True)
class Live:
    """A segment at work."""

    started: Started
    files: SegmentFolder
    supervisor: Identity
    job: Identity


@dataclass(slots=True)
class Rig:
    """One run.

    Args:
        home: Where the job and its diary lie; the journal may be elsewhere.
        environ: What its controllers have in their environment beside our own.
    """

    home: Path
    plan: Plan
    environ: Mapping[str, str] = field(default_factory=dict)
    controller: subprocess.Popen[bytes] | None = None
    resumes: int = 0
    violations: list[str] = field(default_factory=list)
    kept: list[Event] = field(default_factory=list)  # what the journal was seen to hold
    _store: Store | None = None

    def prepare(self) -> None:
        """Lay out the job and the plan."""
        self.home.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(__file__).with_name("job.py"), self.home / "job.py")
        (self.home / "plan.json").write_text(json.dumps(asdict(self.plan)))
        self._store = Store(self.plan.storage)

    @property
    def store(self) -> Store:
        """The journal."""
        assert self._store is not None
        return self._store

    @property
    def folder(self) -> Path:
        """Where trials keep their files."""
        is_file = "://" not in self.plan.storage
        return folder_of(self.plan.storage, RUN) if is_file else self.home / ".frugalbo" / RUN

    def start(self, how: str) -> subprocess.Popen[bytes]:
        """A controller; by `begin` and `resume` it is the run's from now on."""
        environ = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent / "clock"), str(ROOT)]),
            "CHAOS_CLOCK": str(self.home / "clock"),
            "CHAOS_HOME": str(self.home),
            "OMP_NUM_THREADS": "1",
            **self.environ,
        }
        words = [sys.executable, "-m", "benchmarks.chaos.controller", str(self.home), how]
        with (self.home / "controllers.log").open("ab") as log:
            process = subprocess.Popen(words, env=environ, cwd=self.home, stdout=subprocess.PIPE, stderr=log)
        if how != "standby":
            self.controller = process
        return process

    def said(self, process: subprocess.Popen[bytes]) -> str:
        """The last line of a controller that has ended."""
        process.wait()
        assert process.stdout is not None
        with process.stdout:
            lines = process.stdout.read().decode(errors="replace").strip().splitlines()
        last = lines[-1] if lines else f"nothing, status {process.returncode}"
        with (self.home / "controllers.log").open("a") as log:
            log.write(f"{last}\n")
        return last

    def look(self) -> list[Event]:
        """What was written since the last look; nothing where the journal is out of reach."""
        try:
            news = [event for _, event in self.store.read(RUN, after=len(self.kept))]
        except StorageError:
            return []
        self.kept += news
        return news

    def check_kept(self, when: str) -> None:
        """Note as a violation if something that the journal held is not there any more."""
        before = list(self.kept)
        events = [event for _, event in self.store.read(RUN)]
        if events[: len(before)] != before:
            self.violations.append(f"{when}: the journal lost or changed events")

    def live(self) -> list[Live]:
        """The segments at work whose processes are known and alive."""
        self.look()
        running: dict[int, Started] = {}
        for event in self.kept:
            if isinstance(event, Started):
                running[event.trial] = event
            elif isinstance(event, Ended):
                running.pop(event.trial, None)
        return list(self._at_work(running.values()))

    def _at_work(self, running: Any) -> Iterator[Live]:
        for started in running:
            files = SegmentFolder(trial_folder(self.folder, started.trial), started.segment)
            supervisor, job, _ = files.read_processes()
            if supervisor and job and processes.is_alive(supervisor) and processes.is_alive(job):
                yield Live(started, files, supervisor, job)

    def is_over(self) -> bool:
        """Whether a controller has said that the run is at its end."""
        return self.controller is None

    def heed(self) -> None:
        """Take in the end of the controller, and have the run resumed if it did not end in order."""
        if self.controller is None or self.controller.poll() is None:
            return
        said = self.said(self.controller)
        if said.startswith("ended: ") and "all failed" not in said:
            self.controller = None
            self.look()
            return
        self.resumes += 1
        if self.resumes > 100:
            raise RuntimeError(f"resumed 100 times and not over; the last one: {said}")
        self.start("resume")

    def until(self, is_so: Any, timeout_s: float) -> bool:
        """Look and heed until something is so or the run is over; whether it came in time."""
        give_up = time.monotonic() + timeout_s
        while not is_so(self.look()):
            self.heed()
            if self.is_over():
                return True
            if time.monotonic() > give_up:
                return False
            time.sleep(_LOOK_S)
        return True

    def live_on(self, rng: Random) -> bool:
        """Let it work for a random while; whether it goes on still."""
        self.until(lambda news: any(isinstance(event, Reported) for event in news), 60.0)
        time.sleep(rng.uniform(0.0, 1.0))
        self.heed()
        return not self.is_over()

    def orphans(self) -> list[str]:
        """The processes of the run that are alive, with some patience for those that are about to end."""
        give_up = time.monotonic() + _DEATH_S
        while (alive := self._alive()) and time.monotonic() < give_up:
            time.sleep(0.05)
        return alive

    def _alive(self) -> list[str]:
        found = processes.marked(f"CHAOS_HOME={self.home}\0") - {os.getpid()}
        for path in self.folder.rglob("processes.json"):
            supervisor, job, others = SegmentFolder(path.parents[1], int(path.parent.name[8:])).read_processes()
            found |= {who.pid for who in (supervisor, job, *others) if who and processes.is_alive(who)}
        return [f"{who.pid} {who.name}" for pid in found if (who := processes.look(pid)) and not who.is_zombie]

    def close(self) -> None:
        """End what is left."""
        if self.controller is not None:
            self.controller.kill()
            self.said(self.controller)
        for pid in processes.marked(f"CHAOS_HOME={self.home}\0") - {os.getpid()}:
            processes.send(pid, 9)
        self.store.close()
