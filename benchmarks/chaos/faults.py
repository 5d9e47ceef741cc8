"""What is done to a run. Each fault takes a `Rig` and a `Place`, hurts once, and returns what it hit.

It returns None if there was nothing to hit; otherwise a `Hit`, from which on the time to recover counts.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.chaos.places import Place
from benchmarks.chaos.rig import Live, Rig
from frugalbo.events import Ended
from frugalbo.executors import processes

_FIND_S = 20.0
_TAKE_OVER_S = 60.0


@dataclass(frozen=True, slots=True)
class Hit:
    """What was hit.

    Args:
        at: When, on the monotonic clock.
        segment: The trial and number of the segment that must end for the run to have recovered; None for none.
        before: The events that the journal held.
    """

    at: float
    before: int
    segment: tuple[int, int] | None = None


Fault = Callable[[Rig, Place, Random], Hit | None]


def _hit(rig: Rig, victim: Live | None = None) -> Hit:
    at = time.monotonic()
    rig.look()
    key = None if victim is None else (victim.started.trial, victim.started.segment)
    return Hit(at, len(rig.kept), key)


def _victim(rig: Rig, rng: Random) -> Live | None:
    """Some segment at work."""
    found: list[Live] = []

    def is_there(_: object) -> bool:
        found[:] = rig.live()
        return bool(found)

    rig.until(is_there, _FIND_S)
    return rng.choice(found) if found else None


def _kill(pid: int) -> None:
    processes.send(pid, signal.SIGKILL)


# --- processes -----------------------------------------------------------------------------------


def kill_controller(rig: Rig, _: Place, rng: Random) -> Hit | None:
    """SIGKILL of the controller; `resume` goes on."""
    if rig.controller is None or rig.controller.poll() is not None:
        return None
    rig.controller.kill()
    rig.controller.wait()
    hit = _hit(rig)
    time.sleep(rng.choice([0.0, 0.0, 0.7]))  # at once, or when all is quiet
    return hit


def kill_everything(rig: Rig, _: Place, __: Random) -> Hit | None:
    """SIGKILL of the controller and all that it started, as when the power fails."""
    if rig.controller is None:
        return None
    below = processes.descendants(rig.controller.pid)
    for pid in below:
        processes.send(pid, signal.SIGSTOP)
    for pid in (rig.controller.pid, *below):
        _kill(pid)
    rig.controller.wait()
    return _hit(rig)


def kill_job(rig: Rig, _: Place, rng: Random) -> Hit | None:
    """SIGKILL of a job."""
    if victim := _victim(rig, rng):
        _kill(victim.job.pid)
        return _hit(rig, victim)
    return None


def kill_supervisor(rig: Rig, _: Place, rng: Random) -> Hit | None:
    """SIGKILL of the process that watches a job."""
    if victim := _victim(rig, rng):
        _kill(victim.supervisor.pid)
        return _hit(rig, victim)
    return None


def stop_supervisor(rig: Rig, _: Place, rng: Random) -> Hit | None:
    """SIGSTOP of the process that watches a job."""
    if victim := _victim(rig, rng):
        processes.send(victim.supervisor.pid, signal.SIGSTOP)
        return _hit(rig, victim)
    return None


def stop_job(rig: Rig, _: Place, rng: Random) -> Hit | None:
    """SIGSTOP of a job: it hangs until its cap."""
    if victim := _victim(rig, rng):
        processes.send_group(victim.job.pid, signal.SIGSTOP)
        return _hit(rig, victim)
    return None


def kill_template(rig: Rig, _: Place, rng: Random) -> Hit | None:
    """SIGKILL of the process that segments are forked from."""
    if (victim := _victim(rig, rng)) and (orders := victim.files.read_orders()):
        _kill(orders.template.pid)
        return _hit(rig)
    return None


def kill_seat(rig: Rig, _: Place, rng: Random) -> Hit | None:
    """SIGKILL of the worker on a node: Ray's actor, or the batch job's own process."""
    if (victim := _victim(rig, rng)) and (orders := victim.files.read_orders()):
        _kill(orders.controller.pid)
        return _hit(rig, victim)
    return None


def mute(rig: Rig, _: Place, __: Random) -> Hit | None:
    """The next job never reports and does not end when it is asked to."""
    (rig.home / "mute").touch()
    rig.until(lambda news: not (rig.home / "mute").exists(), _FIND_S)
    if (rig.home / "mute").exists():
        (rig.home / "mute").unlink(missing_ok=True)
        return None
    muted = next((live for live in rig.live() if not live.files.reports.read_text()), None)
    return _hit(rig, muted)


# --- what it stands on ---------------------------------------------------------------------------


def kill_node(rig: Rig, place: Place, rng: Random) -> Hit | None:
    """SIGKILL of a node's daemon: a raylet, in whose place another node comes; slurmd and all of its jobs."""
    victim = _victim(rig, rng)
    if victim is None:
        return None
    hit = _hit(rig, victim)
    place.lose_node(victim)
    return hit


def kill_daemon(rig: Rig, place: Place, rng: Random) -> Hit | None:
    """SIGKILL of slurmd alone, and a new one: its jobs live on."""
    if _victim(rig, rng) is None:
        return None
    hit = _hit(rig)
    place.restart("slurmd")
    return hit


def kill_head(rig: Rig, place: Place, rng: Random) -> Hit | None:
    """SIGKILL of slurmctld, and a new one."""
    if _victim(rig, rng) is None:
        return None
    hit = _hit(rig)
    time.sleep(rng.uniform(0.0, 1.0))
    place.restart("slurmctld")
    return hit


def crash_database(rig: Rig, place: Place, rng: Random) -> Hit | None:
    """PostgreSQL crashes under load (SIGQUIT) and comes back some moments later."""
    hit = _hit(rig)
    place.crash_database(rng.uniform(0.0, 2.0))
    return hit


def crash_database_and_controller(rig: Rig, place: Place, rng: Random) -> Hit | None:
    """Both at once."""
    if rig.controller is None:
        return None
    at = time.monotonic()
    place.crash_database(rng.uniform(0.0, 1.0), meanwhile=rig.controller.kill)
    rig.controller.wait()
    rig.look()
    return Hit(at, len(rig.kept))


def fill_disk(rig: Rig, place: Place, rng: Random) -> Hit | None:
    """The disk of journal, checkpoints and logs is full for a while."""
    hit = _hit(rig)
    with place.full_disk(rig.home):
        time.sleep(rng.uniform(0.1, 2.0))
    return hit


# --- clocks --------------------------------------------------------------------------------------


def jump(rig: Rig, _: Place, rng: Random) -> Hit | None:
    """The wall clock of all processes jumps an hour, forward or back."""
    (rig.home / "clock").write_text(str(rng.choice([-3600.0, 3600.0]) + _clock(rig)))
    return _hit(rig)


def jump_and_kill(rig: Rig, place: Place, rng: Random) -> Hit | None:
    """The same, and everything is killed."""
    jump(rig, place, rng)
    return kill_everything(rig, place, rng)


def _clock(rig: Rig) -> float:
    try:
        return float((rig.home / "clock").read_text())
    except (OSError, ValueError):
        return 0.0


# --- messages ------------------------------------------------------------------------------------


def double_report(rig: Rig, _: Place, rng: Random) -> Hit | None:
    """A line of reports comes twice."""
    found = _with_reports(rig, rng)
    if found is None:
        return None
    victim, text = found
    with victim.files.reports.open("ab") as file:
        file.write(text.splitlines(keepends=True)[-1])
    return _hit(rig, victim)


def cut_report(rig: Rig, _: Place, rng: Random) -> Hit | None:
    """The last line of reports loses its end, so that the next one is joined to the rest of it."""
    found = _with_reports(rig, rng)
    if found is None:
        return None
    victim, text = found
    last = text.splitlines(keepends=True)[-1]
    os.truncate(victim.files.reports, len(text) - rng.randrange(1, len(last)))
    return _hit(rig, victim)


def lose_report(rig: Rig, _: Place, rng: Random) -> Hit | None:
    """The last line of reports is gone."""
    found = _with_reports(rig, rng)
    if found is None:
        return None
    victim, text = found
    os.truncate(victim.files.reports, len(text) - len(text.splitlines(keepends=True)[-1]))
    return _hit(rig, victim)


def _with_reports(rig: Rig, rng: Random) -> tuple[Live, bytes] | None:
    """A live segment that has reported, and its reports."""
    found: list[tuple[Live, bytes]] = []

    def is_there(_: object) -> bool:
        for live in rig.live():
            with suppress(OSError):
                if text := live.files.reports.read_bytes():
                    found.append((live, text))
        return bool(found)

    rig.until(is_there, _FIND_S)
    return rng.choice(found) if found else None


def cut_receipts(rig: Rig, _: Place, rng: Random) -> Hit | None:
    """SIGKILL of the controller; of the receipts that are written then, half is left."""
    if rig.controller is None:
        return None
    victims = rig.live()
    rig.controller.kill()
    rig.controller.wait()
    hit = _hit(rig)
    give_up = time.monotonic() + 3
    while any(processes.is_alive(v.supervisor) for v in victims) and time.monotonic() < give_up:
        time.sleep(0.02)
    for victim in victims:
        receipt = victim.files.path / "receipt.json"
        if receipt.exists():
            os.truncate(receipt, rng.randrange(receipt.stat().st_size))
    return hit


# --- controllers ---------------------------------------------------------------------------------


def second_controller(rig: Rig, _: Place, __: Random) -> Hit | None:
    """Another one goes for the same run: it must be refused."""
    if rig.controller is None or rig.controller.poll() is not None:
        return None
    first = rig.controller
    second = rig.start("resume")
    rig.controller = first
    said = rig.said(second)
    hit = _hit(rig)
    if not said.startswith("LeaseError") and first.poll() is None:
        rig.violations.append(f"a second controller was not refused, it said: {said}")
    return hit


def take_over(rig: Rig, _: Place, __: Random) -> Hit | None:
    """One that stands by goes on when the first is killed."""
    if rig.controller is None:
        return None
    standby = rig.start("standby")
    time.sleep(1.5)
    rig.controller.kill()
    rig.controller.wait()
    rig.controller = standby
    return _hit(rig)


def stop_controller(rig: Rig, _: Place, __: Random) -> Hit | None:
    """The first is stopped until its lease is over and another has the run; when it wakes up it must write nothing."""
    first = rig.controller
    if first is None or first.poll() is not None:
        return None
    standby = rig.start("standby")
    hit = _hit(rig)
    os.kill(first.pid, signal.SIGSTOP)
    rig.controller = standby
    took = rig.until(lambda news: any(isinstance(event, Ended) for event in news), _TAKE_OVER_S)
    os.kill(first.pid, signal.SIGCONT)
    try:
        first.wait(30)
    except subprocess.TimeoutExpired:
        first.kill()
        rig.violations.append("a controller that had lost its run did not end")
    if took and not (said := rig.said(first)).startswith("LeaseError"):
        rig.violations.append(f"a controller that had lost its run said: {said}")
    return hit


FAULTS: dict[str, Fault] = {
    "controller killed": kill_controller,
    "everything killed": kill_everything,
    "supervisor killed": kill_supervisor,
    "supervisor stopped": stop_supervisor,
    "job killed": kill_job,
    "job stopped": stop_job,
    "job never reports": mute,
    "template killed": kill_template,
    "worker killed": kill_seat,
    "node killed": kill_node,
    "slurmd killed": kill_daemon,
    "slurmctld killed": kill_head,
    "database crashed": crash_database,
    "database and controller killed": crash_database_and_controller,
    "disk full": fill_disk,
    "clock jumps an hour": jump,
    "clock jumps, everything killed": jump_and_kill,
    "report doubled": double_report,
    "report cut": cut_report,
    "report lost": lose_report,
    "controller killed, receipts cut": cut_receipts,
    "second controller": second_controller,
    "controller killed, another stands by": take_over,
    "controller stopped past its lease": stop_controller,
}
# Those after which what the job had reported need not be in the journal.
LOSES_REPORTS = frozenset({"report cut", "report lost", "disk full"})


def path_of(name: str) -> Path:
    """A folder's name from that of a fault."""
    return Path(name.replace(" ", "-").replace(",", ""))
