"""What dies, is cut off or comes back under a run of HTTP workers: nothing lost, nothing counted twice."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from killed_controller import causes_of_interruption, finished, kill_at_work
from local_setup import a_segment, local_problem

from frugalbo.events import Cause, Ended, Outcome, Reported
from frugalbo.executors.depots import ObjectDepot, carried_as
from frugalbo.executors.http import HttpExecutor
from frugalbo.executors.segments import SegmentFolder
from frugalbo.testing.hosts import Host, Relay, free_port

pytestmark = pytest.mark.slow

STEPS = 20_000  # minutes of work: a segment must not end before it is interrupted
LEASE_S, GRACE_S = 3.0, 1.0


@pytest.fixture
def port():
    return free_port()


@pytest.fixture
def hosts(port, tmp_path):
    """Two machines of one slot."""
    hosts = [Host(name, Relay(port), tmp_path / name) for name in ("a", "b")]
    yield hosts
    for host in hosts:
        host.close()
        assert "Traceback" not in host.log


@pytest.fixture(params=["shared", "sent"])
def executor(request, hosts, port, tmp_path):
    if request.param == "objects":
        pytest.importorskip("fsspec")
    folders = f"file://{tmp_path}/objects" if request.param == "objects" else request.param
    with HttpExecutor(
        local_problem("steps_for_ever", steps=STEPS), listen=f"127.0.0.1:{port}", folders=folders, workers=2,
        lease_s=LEASE_S, grace_s=GRACE_S, preload=(), patience_s=60.0,
    ) as executor:  # fmt: skip
        yield executor


def begin(executor, tmp_path):
    """A trial on each host, both of which have reported."""
    for trial, slot in enumerate(executor.slots):
        assert slot.name == f"{'ab'[trial]}/cpu:0"
        executor.submit(
            a_segment(tmp_path / f"run/trial-{trial}", trial=trial, slot=slot, until=STEPS, planned=STEPS, cap_s=120.0)
        )
    events = []
    while {event.trial for event in events if isinstance(event, Reported) and event.step > 5} != {0, 1}:
        events += executor.wait(1.0)
    give_up = time.monotonic() + 60
    while not all(kept(tmp_path, trial) >= 5 for trial in (0, 1)):
        assert time.monotonic() < give_up
        events += executor.wait(0.2)
    return events


def kept(tmp_path, trial):
    """The last checkpoint of a trial where its controller can see it."""
    folder, objects = tmp_path / f"run/trial-{trial}", tmp_path / "objects"
    depot = ObjectDepot(f"file://{objects}").newest(carried_as(folder), STEPS) if objects.exists() else 0
    return depot or SegmentFolder(folder, 0).checkpoint(STEPS)


def until_ended(executor, trial, events, seconds=60.0):
    give_up = time.monotonic() + seconds
    while not any(isinstance(event, Ended) and event.trial == trial for event in events):
        assert time.monotonic() < give_up
        events += executor.wait(0.5)
    return next(event for event in events if isinstance(event, Ended) and event.trial == trial)


def check_lost(events, trial, began):
    """Interrupted by infrastructure, all that was said of it in order, charged between what it reported and now."""
    [ended] = [event for event in events if isinstance(event, Ended) and event.trial == trial]
    assert (ended.outcome, ended.cause, ended.failure) == (Outcome.INTERRUPTED, Cause.INFRASTRUCTURE, None)
    reports = [event for event in events if isinstance(event, Reported) and event.trial == trial]
    steps = [report.step for report in reports]
    assert steps == sorted(set(steps))
    assert ended.checkpoint >= 5
    assert 0.05 < reports[-1].at - reports[0].at <= ended.used.device_seconds <= time.monotonic() - began
    return ended


def go_on(executor, tmp_path, trial, ended, slot):
    """The trial goes on elsewhere from its checkpoint, to an end of its own."""
    until = ended.checkpoint + 3
    executor.submit(
        a_segment(
            tmp_path / f"run/trial-{trial}", trial=trial, number=1, slot=slot, start=ended.checkpoint, until=until,
            planned=until,
        )
    )  # fmt: skip
    own = []
    while not any(isinstance(event, Ended) for event in own):
        own += [event for event in executor.wait(1.0) if event.trial == trial]
    *reports, again = own
    assert [report.step for report in reports] == list(range(ended.checkpoint + 1, until + 1))
    assert (again.segment, again.outcome) == (1, Outcome.COMPLETED)


def until_back(executor, name, seconds=60.0):
    give_up = time.monotonic() + seconds
    events = []
    while name not in [slot.name for slot in executor.free_slots()]:
        assert time.monotonic() < give_up
        events += executor.wait(0.5)
    return events


def test_a_host_that_is_cut_off_ends_its_work_which_goes_on_elsewhere_and_nothing_is_counted_when_it_is_back(
    executor, hosts, tmp_path
):
    began = time.monotonic()
    events = begin(executor, tmp_path)
    hosts[0].network.cut()
    cut = time.monotonic()
    while hosts[0].jobs():  # its worker ends them, when it could not renew its lease
        assert time.monotonic() < cut + 20
        events += executor.wait(0.1)
    ended = until_ended(executor, 0, events, seconds=30)
    assert time.monotonic() - cut > LEASE_S
    check_lost(events, 0, began)
    assert "a/cpu:0" in [slot.name for slot in executor.slots]
    assert "a/cpu:0" not in [slot.name for slot in executor.free_slots()]

    executor.cancel(1, Outcome.INTERRUPTED)  # make room on the other
    other = until_ended(executor, 1, events)
    go_on(executor, tmp_path, 0, ended, executor.slots[1])

    hosts[0].network.mend()  # what it had said late is delivered now
    late = until_back(executor, "a/cpu:0") + list(executor.wait(2.0))
    assert late == []
    go_on(executor, tmp_path, 1, other, executor.slots[0])


@pytest.mark.parametrize("executor", ["sent"], indirect=True)
def test_a_host_that_was_frozen_is_told_to_stop_what_it_still_runs(executor, hosts, tmp_path):
    began = time.monotonic()
    events = begin(executor, tmp_path)
    hosts[0].freeze()
    ended = until_ended(executor, 0, events)
    check_lost(events, 0, began)
    assert ended.used.device_seconds == pytest.approx(time.monotonic() - began, abs=4.0)  # an upper bound: to the end
    assert ended.used.device_seconds > time.monotonic() - began - LEASE_S  # and not to its last word
    assert hosts[0].jobs()
    hosts[0].thaw()
    events = until_back(executor, "a/cpu:0") + list(executor.wait(1.0))
    assert [event for event in events if event.trial == 0] == []
    assert not hosts[0].jobs()
    go_on(executor, tmp_path, 0, ended, executor.slots[0])


def test_a_short_cut_is_not_noticed(executor, hosts, tmp_path):
    events = begin(executor, tmp_path)
    hosts[0].network.cut()
    time.sleep(LEASE_S / 3)
    hosts[0].network.mend()
    before = len(events)
    while sum(event.trial == 0 for event in events[before:]) < 100:
        events += executor.wait(1.0)
    executor.cancel(0, Outcome.STOPPED)
    ended = until_ended(executor, 0, events)
    assert ended.outcome == Outcome.STOPPED
    steps = [event.step for event in events if isinstance(event, Reported) and event.trial == 0]
    assert steps == list(range(1, len(steps) + 1))  # those while it was cut off, too


@pytest.mark.parametrize("executor", ["shared", "sent", "objects"], indirect=True)
def test_a_worker_that_is_killed_takes_its_jobs_with_it(executor, hosts, tmp_path):
    began = time.monotonic()
    events = begin(executor, tmp_path)
    jobs = hosts[0].jobs()
    hosts[0].kill()
    ended = until_ended(executor, 0, events)
    check_lost(events, 0, began)
    assert jobs
    assert not any(Path(f"/proc/{pid}").exists() for pid in jobs)
    executor.cancel(1, Outcome.INTERRUPTED)
    until_ended(executor, 1, events)
    go_on(executor, tmp_path, 0, ended, executor.slots[1])


def test_a_worker_that_its_user_stops_lets_its_segments_save_and_go_on_elsewhere(executor, hosts, tmp_path):
    events = begin(executor, tmp_path)
    stopped = time.monotonic()
    hosts[0].stop()
    ended = until_ended(executor, 0, events)
    assert time.monotonic() - stopped < LEASE_S + 2
    assert "nothing was heard" not in ended.message  # it said so, and need not be waited for
    assert (ended.outcome, ended.cause) == (Outcome.INTERRUPTED, Cause.INFRASTRUCTURE)
    last = max(event.step for event in events if event.trial == 0 and isinstance(event, Reported))
    assert ended.checkpoint >= last - 1
    assert hosts[0].process.wait(20) == 0


@pytest.mark.parametrize("folders", ["shared", "sent"])
def test_a_run_whose_controller_is_killed_goes_on_with_the_same_workers(hosts, port, tmp_path, folders):
    """kill -9 of the controller; its workers end what they run, and tell the next one what became of it."""
    script, storage = Path(__file__).parent / "ray_controller.py", tmp_path / "runs.db"
    options = tmp_path / "cluster.toml"
    options.write_text(
        f'name = "http"\nlisten = "127.0.0.1:{port}"\nlease_s = {LEASE_S}\nworkers = 2\nfolders = "{folders}"\n'
    )
    command = [sys.executable, str(script), str(tmp_path)]
    controller = subprocess.Popen([*command, str(options)], start_new_session=True)
    before = kill_at_work(controller, storage, timeout_s=120)
    done = subprocess.run([*command, "resume"], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert causes_of_interruption(finished(storage, before)) == [{Cause.INFRASTRUCTURE}] * 2


def test_leaving_the_executor_ends_what_the_workers_run(executor, hosts, tmp_path):
    begin(executor, tmp_path)
    executor.__exit__(None, None, None)
    events = []
    while more := executor.wait(0.1):
        events += more
    assert sorted(event.trial for event in events if isinstance(event, Ended)) == [0, 1]
    assert {event.outcome for event in events if isinstance(event, Ended)} == {Outcome.INTERRUPTED}
    give_up = time.monotonic() + 10
    while hosts[0].jobs() | hosts[1].jobs():
        assert time.monotonic() < give_up
        time.sleep(0.1)
