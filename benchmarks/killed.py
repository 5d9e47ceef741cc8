"""Kill a run again and again, resume it, and see that nothing was lost and nothing paid twice.

    python benchmarks/killed.py --cycles 50 --out benchmarks/results/killed.jsonl

Each cycle starts or resumes the same study by the command line, waits a random while, and ends it
with SIGKILL: the controller, or the controller and everything that it had started, or a job. After
each kill the journal must hold all that it held before, and within five seconds no process of
the run may be alive. After the last cycle the run is left to finish and its accounts are audited.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil

from frugalbo.events import Ended, Event, Outcome, Reported, Started
from frugalbo.store import Store

JOB = """\
import time

import frugalbo as fb

STEPS = 5


def train(job):
    for step in range(job.start + 1, job.until + 1):
        time.sleep(job.params["seconds"] / STEPS)
        job.save(step, lambda path: path.write_text(str(step)))
        job.report(step, loss=(job.params["x"] - 0.3) ** 2 + 1 / step)
        if job.should_stop:
            return


problem = fb.Problem(
    name="killed",
    space=fb.Space({"x": fb.Float(0, 1), "seconds": fb.Float(0.2, 0.8)}),
    job="problem.py:train",
    objective=fb.Minimize("loss"),
    fidelity=fb.Fidelity("steps", 1, STEPS),
)
"""
# A second in which a job may save, one for the supervisor's last words, and a loaded machine.
PATIENCE_S = 5.0


@dataclass
class Tally:
    """What happened to one study."""

    kills: dict[str, int] = field(default_factory=dict)
    slowest_death_s: float = 0.0
    problems: list[str] = field(default_factory=list)


def main() -> None:
    """Kill, resume, audit, and append a record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="frugalbo-killed-") as folder:
        record = torment(Path(folder), cycles=args.cycles, seed=args.seed)
    print(json.dumps(record, indent=1))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with args.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
    sys.exit(1 if record["problems"] else 0)


def torment(folder: Path, *, cycles: int, seed: int) -> dict[str, object]:
    """Run one study through `cycles` kills; returns the record."""
    (folder / "problem.py").write_text(JOB)
    rng, tally = random.Random(seed), Tally()
    budget_s = 2.0 * cycles + 20
    began, seen = time.monotonic(), []
    for cycle in range(cycles):
        first = not _runs(folder)
        controller = _start(folder, budget_s, first=first)
        _live(folder, len(seen), rng)
        _kill(controller, rng.choice(["controller", "everything", "job"]), tally)
        _await_death(folder, controller, tally)
        events = _events(folder)
        if events[: len(seen)] != seen:
            tally.problems.append(f"cycle {cycle}: the journal lost or changed events")
        seen = events
    _start(folder, budget_s, first=not _runs(folder)).wait(timeout=600)
    _audit(_events(folder), budget_s, cycles, tally)
    ends = [event for event in _events(folder) if isinstance(event, Ended)]
    return {
        "benchmark": "killed",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "cycles": cycles,
        "seed": seed,
        "kills": tally.kills,
        "budget_s": budget_s,
        "charged_s": sum(end.used.device_seconds for end in ends),
        "completed": sum(end.outcome == Outcome.COMPLETED for end in ends),
        "interrupted": sum(end.outcome == Outcome.INTERRUPTED for end in ends),
        "failed": sum(end.outcome == Outcome.FAILED for end in ends),
        "slowest_death_s": tally.slowest_death_s,
        "took_s": time.monotonic() - began,
        "problems": tally.problems,
    }


def _runs(folder: Path) -> list[str]:
    with Store(folder / "runs.db") as store:
        return [run.id for run in store.runs()]


def _start(folder: Path, budget_s: float, *, first: bool) -> subprocess.Popen[bytes]:
    frugalbo = [sys.executable, "-m", "frugalbo.cli"]
    words = (
        ["tune", str(folder), "--budget", f"{budget_s}s", "--method", "sobol", "--devices", "cpu:2"]
        if first
        else ["resume"]
    )
    log = (folder / "controller.log").open("ab")
    with log:
        return subprocess.Popen(
            [*frugalbo, *words, "--storage", str(folder / "runs.db"), "--no-report"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
        )


def _live(folder: Path, seen: int, rng: random.Random) -> None:
    """Let the run live for a while: one life in five ends at any moment of its start, the others among its jobs."""
    if rng.random() < 0.2:
        time.sleep(rng.uniform(0.1, 3.0))
        return
    give_up = time.monotonic() + 30.0
    while len(_events(folder)) <= seen and time.monotonic() < give_up:
        time.sleep(0.05)
    time.sleep(rng.uniform(0.0, 1.5))


def _kill(controller: subprocess.Popen[bytes], victim: str, tally: Tally) -> None:
    try:
        family = psutil.Process(controller.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    victims = {"controller": [], "everything": family, "job": family[-1:]}[victim]
    tally.kills[victim] = tally.kills.get(victim, 0) + 1
    for process in victims:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    if victim == "job":
        time.sleep(0.3)
    controller.send_signal(signal.SIGKILL)
    controller.wait()


def _await_death(folder: Path, controller: subprocess.Popen[bytes], tally: Tally) -> None:
    """Wait until no process of the run is alive: none works in its folder or names it."""
    began = time.monotonic()
    while alive := _alive(folder):
        if time.monotonic() - began > PATIENCE_S:
            tally.problems.append(f"alive {PATIENCE_S} s after {controller.pid} was killed: {alive}")
            return
        time.sleep(0.02)
    tally.slowest_death_s = max(tally.slowest_death_s, time.monotonic() - began)


def _alive(folder: Path) -> list[str]:
    found = []
    for process in psutil.process_iter(["pid", "cwd", "cmdline", "status"]):
        facts = process.info
        text = " ".join(facts["cmdline"] or []) + " " + (facts["cwd"] or "")
        if str(folder) in text and facts["pid"] != os.getpid() and facts["status"] != psutil.STATUS_ZOMBIE:
            found.append(f"{facts['pid']}: {text}")
    return found


def _events(folder: Path) -> list[Event]:
    with Store(folder / "runs.db") as store:
        runs = store.runs()
        return [event for _, event in store.read(runs[-1].id)] if runs else []


def _audit(events: list[Event], budget_s: float, cycles: int, tally: Tally) -> None:
    started = {(e.trial, e.segment) for e in events if isinstance(e, Started)}
    ends = [e for e in events if isinstance(e, Ended)]
    ended = [(e.trial, e.segment) for e in ends]
    completed = [e.trial for e in ends if e.outcome == Outcome.COMPLETED]
    reports = [(e.trial, e.segment, e.step) for e in events if isinstance(e, Reported)]
    charged = sum(e.used.device_seconds for e in ends)
    claims = {
        "each segment that started has ended exactly once": sorted(ended) == sorted(started),
        "no trial was completed twice": len(set(completed)) == len(completed),
        "no report was counted twice": len(set(reports)) == len(reports),
        f"at most {budget_s} s and the graces of {cycles} kills were charged, not {charged}": charged
        <= budget_s + 0.1 * cycles,
        "something was completed": bool(completed),
    }
    tally.problems += [f"false: {claim}" for claim, holds in claims.items() if not holds]


if __name__ == "__main__":
    main()
