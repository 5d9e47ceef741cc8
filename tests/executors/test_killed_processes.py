"""kill -9 of each process of ours, and what a later controller makes of it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from local_setup import HERE, SLOTS, a_segment, is_alive, left_of, lived_between, local_problem, read_pids

import frugalbo as fb
from frugalbo.budget.amounts import Cost
from frugalbo.events import Ended, Outcome, Reported, Started
from frugalbo.executors import processes
from frugalbo.executors.local import LocalExecutor
from frugalbo.executors.segments import SegmentFolder
from frugalbo.testing.executors import drain

STEPS = 20_000  # minutes of work, as in `controller.py`


def wait_for(condition, timeout_s=10.0):
    give_up = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)


@pytest.fixture
def controller(tmp_path):
    """Start controllers in processes of their own; returns them once they have got so far."""
    running = []

    def start(job, *options, count=1, until="submitted"):
        command = [sys.executable, str(HERE / "controller.py"), job, str(tmp_path), str(count), *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=HERE, start_new_session=True)
        running.append(process)
        assert process.stdout is not None
        while until and process.stdout.readline().strip() != until:
            assert process.poll() is None
        return process

    yield start
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate()


def family(process):
    return processes.descendants(process.pid)


def started(trial=0, at=None, held=60.0):
    at = time.time() - 1 if at is None else at
    return Started(trial, 0, {"x": 1.0}, 0, STEPS, STEPS, Cost(device_seconds=held), f"cpu:{trial}", at)


def recover(folder, trial=0, **fields):
    with LocalExecutor(local_problem("quick", steps=STEPS), SLOTS, preload=()) as executor:
        return list(executor.recover(started(trial, **fields), folder / f"trial-{trial}"))


def kill_and_see_all_die(process, also=()):
    alive = family(process) | set(also)
    assert len(alive) >= 3
    process.kill()
    wait_for(lambda: not any(is_alive(pid) for pid in alive), timeout_s=2.0)


def test_a_killed_controller_leaves_nothing_alive_and_its_segments_can_go_on(controller, tmp_path):
    process = controller("steps_for_ever", count=2)
    for trial in (0, 1):
        wait_for(lambda t=trial: SegmentFolder(tmp_path / f"trial-{t}", 0).checkpoint(STEPS) >= 5)
    kill_and_see_all_die(process)
    for trial in (0, 1):
        *reports, ended = recover(tmp_path, trial)
        assert isinstance(ended, Ended)
        assert (ended.trial, ended.outcome, ended.failure) == (trial, Outcome.INTERRUPTED, None)
        steps = [report.step for report in reports if isinstance(report, Reported)]
        assert steps == list(range(1, ended.checkpoint + 1))  # it was asked, so it saved and reported its last step
        assert ended.checkpoint >= 5
        least_s, most_s = lived_between(reports, tmp_path, trial)
        assert 0.04 <= least_s <= ended.used.device_seconds <= most_s
        assert ended.used.evaluations == 1


def test_children_of_a_job_die_with_the_controller(controller, tmp_path):
    process = controller("leaves_children")
    names = ("plain", "setsid", "double", "program")
    wait_for(lambda: all((tmp_path / "trial-0" / "checkpoints" / name).exists() for name in names))
    kill_and_see_all_die(process, read_pids(tmp_path / "trial-0", *names).values())


def test_a_controller_killed_while_it_loads_leaves_nothing(controller, tmp_path):
    """A template that imports does not listen to its controller."""
    (tmp_path / "slow.py").write_text("import pathlib, time\npathlib.Path(__file__ + '.on').touch()\ntime.sleep(60)\n")
    process = controller(f"{tmp_path / 'slow.py'}:job", until=None)
    wait_for((tmp_path / "slow.py.on").exists)
    alive = family(process)
    assert len(alive) == 1
    process.kill()
    wait_for(lambda: not any(is_alive(pid) for pid in alive), timeout_s=2.0)


def test_a_controller_that_is_told_to_end_leaves_nothing(controller, tmp_path):
    process = controller("ignores_sigterm")
    wait_for((tmp_path / "trial-0" / "segment-0" / "reports.jsonl").exists)
    alive = family(process)
    process.terminate()
    wait_for(lambda: not any(is_alive(pid) for pid in alive), timeout_s=2.0)


@pytest.mark.parametrize("is_noted", [True, False])
def test_controller_template_and_supervisor_killed_at_once(controller, tmp_path, is_noted):
    """The job dies by the system, what it left by whoever recovers; charged from its orders until it was last seen."""
    process = controller("leaves_children")
    names = ("plain", "setsid", "double", "program")
    files = SegmentFolder(tmp_path / "trial-0", 0)
    # Of the program, whose environment is empty, only what its supervisor noted can tell.
    wait_for(lambda: len(files.read_processes()[2]) == 4)
    began, seen = (files.path / "orders.json").stat().st_mtime, files.last_beat()
    orders, supervisor = files.read_orders(), files.read_processes()[0]
    assert orders is not None
    assert supervisor is not None
    for pid in (process.pid, orders.template.pid, supervisor.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    if not is_noted:  # what was forked just before the end is known by its environment alone
        files.write_processes(supervisor, None, [])
        os.kill(read_pids(tmp_path / "trial-0", "program")["program"], signal.SIGKILL)
    ended = recover(tmp_path, at=began)[-1]
    pids = read_pids(tmp_path / "trial-0", *names)
    assert [name for name, pid in pids.items() if is_alive(pid)] == []
    assert isinstance(ended, Ended)
    assert ended.outcome == Outcome.INTERRUPTED
    assert seen - began <= ended.used.device_seconds <= time.time() - began


def test_controller_and_supervisor_killed_at_once(controller, tmp_path):
    """The template ends what it adopts, then itself."""
    process = controller("leaves_children")
    names = ("plain", "setsid", "double", "program")
    wait_for(lambda: all((tmp_path / "trial-0" / "checkpoints" / name).exists() for name in names))
    supervisor = SegmentFolder(tmp_path / "trial-0", 0).read_processes()[0]
    assert supervisor is not None
    alive = family(process)
    os.kill(supervisor.pid, signal.SIGKILL)
    process.kill()
    wait_for(lambda: not any(is_alive(pid) for pid in alive), timeout_s=2.0)


def test_template_and_supervisor_killed_at_once(tmp_path):
    """The controller ends what nobody adopts, noted by the supervisor or not."""
    with LocalExecutor(local_problem("leaves_children"), SLOTS, preload=()) as executor:
        executor.submit(a_segment(tmp_path, params={"x": 1.0}))
        files = SegmentFolder(tmp_path, 0)
        wait_for(lambda: len(files.read_processes()[2]) == 4)
        orders, supervisor = files.read_orders(), files.read_processes()[0]
        assert orders is not None
        assert supervisor is not None
        for pid in (orders.template.pid, supervisor.pid):
            os.kill(pid, signal.SIGKILL)
        assert isinstance(drain(executor)[-1], Ended)
        pids = read_pids(tmp_path, "plain", "setsid", "double", "program")
        assert [name for name, pid in pids.items() if is_alive(pid)] == []


def test_a_controller_whose_own_children_outlive_it_is_missed_all_the_same(controller, tmp_path):
    """They hold on to its sockets, so that no end of file tells of its death."""
    process = controller("ignores_sigterm", "--fork")
    [child] = (int(path.name) for path in (tmp_path / "children").iterdir())
    try:
        wait_for((tmp_path / "trial-0" / "segment-0" / "reports.jsonl").exists)
        alive = family(process) - {child}
        assert len(alive) >= 3
        process.kill()
        wait_for(lambda: not any(is_alive(pid) for pid in alive), timeout_s=2.0)
        assert is_alive(child)
    finally:
        os.kill(child, signal.SIGKILL)


def test_an_interrupt_in_the_terminal_is_for_the_controller_to_handle(controller, tmp_path):
    """It asks the jobs to end, which save and report first; they see no signal of the terminal."""
    process = controller("steps_for_ever")
    wait_for(lambda: SegmentFolder(tmp_path / "trial-0", 0).checkpoint(STEPS) >= 3)
    alive = family(process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(5) != 0
    assert not any(is_alive(pid) for pid in alive)
    *reports, ended = recover(tmp_path)
    assert isinstance(ended, Ended)
    assert (ended.outcome, ended.log_tail) == (Outcome.INTERRUPTED, "")
    assert ended.checkpoint == len(reports) >= 3


def test_a_job_dies_with_its_supervisor_though_nobody_looks(tmp_path):
    with LocalExecutor(local_problem("ignores_sigterm"), SLOTS, preload=()) as executor:
        executor.submit(a_segment(tmp_path))
        assert isinstance(executor.wait(10)[0], Reported)
        orders, (supervisor, job, _) = (files := SegmentFolder(tmp_path, 0)).read_orders(), files.read_processes()
        assert orders is not None
        assert supervisor is not None
        for pid in (orders.template.pid, supervisor.pid):
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not processes.is_alive(job), timeout_s=2.0)


def test_a_killed_job_has_failed(tmp_path):
    with LocalExecutor(local_problem("ignores_sigterm"), SLOTS, preload=()) as executor:
        executor.submit(a_segment(tmp_path))
        assert isinstance(executor.wait(10)[0], Reported)
        os.kill(SegmentFolder(tmp_path, 0).read_processes()[1].pid, signal.SIGKILL)
        ended = drain(executor)[-1]
        assert isinstance(ended, Ended)
        assert (ended.outcome, ended.failure) == (Outcome.FAILED, "killed")


def test_segments_outlive_the_template_and_a_new_one_starts_the_next(tmp_path):
    with LocalExecutor(local_problem("saves_when_asked"), SLOTS, preload=()) as executor:
        executor.submit(a_segment(tmp_path / "0"))
        orders = SegmentFolder(tmp_path / "0", 0).read_orders()
        assert orders is not None
        os.kill(orders.template.pid, signal.SIGKILL)
        executor.submit(a_segment(tmp_path / "1", trial=1, slot=SLOTS[1]))
        for trial in (0, 1):
            wait_for(lambda t=trial: (tmp_path / str(t) / "segment-0" / "reports.jsonl").exists())
            executor.cancel(trial)
        ends = [event for event in drain(executor, ends=2) if isinstance(event, Ended)]
        assert [(end.outcome, end.checkpoint) for end in ends] == [(Outcome.STOPPED, 1)] * 2
        assert left_of(executor) == set()


def test_a_supervisor_killed_beside_another_segment_does_not_disturb_it(tmp_path):
    with LocalExecutor(local_problem("saves_when_asked"), SLOTS, preload=()) as executor:
        for trial, slot in enumerate(SLOTS):
            executor.submit(a_segment(tmp_path / str(trial), trial=trial, slot=slot))
            wait_for(lambda t=trial: (tmp_path / str(t) / "segment-0" / "reports.jsonl").exists())
        os.kill(SegmentFolder(tmp_path / "0", 0).read_processes()[0].pid, signal.SIGKILL)
        ends = [event for event in drain(executor) if isinstance(event, Ended)]
        assert [(end.trial, end.outcome) for end in ends] == [(0, Outcome.INTERRUPTED)]
        executor.cancel(1)
        ended = drain(executor)[-1]
        assert isinstance(ended, Ended)
        assert (ended.trial, ended.outcome, ended.checkpoint) == (1, Outcome.STOPPED, 1)


def test_a_supervisor_killed_after_the_last_planned_step_loses_no_result(tmp_path):
    with LocalExecutor(local_problem("hangs_with_its_result"), SLOTS, preload=()) as executor:
        executor.submit(a_segment(tmp_path))
        assert isinstance(executor.wait(10)[0], Reported)
        os.kill(SegmentFolder(tmp_path, 0).read_processes()[0].pid, signal.SIGKILL)
        ended = drain(executor)[-1]
        assert isinstance(ended, Ended)
        assert ended.outcome == Outcome.COMPLETED


def finished_segment(folder, **changes):
    with LocalExecutor(local_problem("quick", steps=STEPS), SLOTS, preload=()) as executor:
        executor.submit(a_segment(folder, until=STEPS, planned=STEPS, **changes))
        return drain(executor)


def test_a_segment_that_had_ended_is_recovered_as_it_ended(tmp_path):
    events = finished_segment(tmp_path / "trial-0")
    assert recover(tmp_path) == events


def test_without_a_receipt_the_time_since_the_start_is_charged_up_to_what_was_held(tmp_path):
    finished_segment(tmp_path / "trial-0")
    folder = tmp_path / "trial-0" / "segment-0"
    (folder / "receipt.json").unlink()
    with (folder / "reports.jsonl").open("ab") as file:
        file.write(b'{"step": 20001, "metri')  # torn
    for ago, held in ((4.0, 60.0), (3600.0, 9.5)):
        at = (folder / "reports.jsonl").stat().st_mtime - ago
        os.utime(folder / "orders.json", (at, at))
        report, ended = recover(tmp_path, at=at, held=held)
        assert isinstance(report, Reported)
        assert isinstance(ended, Ended)
        assert ended.outcome == Outcome.COMPLETED  # the last planned step was reported: nothing is left to do
        assert min(ago, held) <= ended.used.device_seconds <= min(time.time() - at, held)


def test_a_segment_without_orders_is_charged_by_what_can_be_seen_of_it(tmp_path):
    """Of one that left no folder beside the others nothing ever ran; else it lived to its last sign of life."""
    began = time.time() - 40
    [never] = recover(tmp_path, at=began, held=60.0)
    assert never.used.device_seconds == 0
    segment = tmp_path / "trial-0" / "segment-0"
    segment.mkdir(parents=True)
    [unknown] = recover(tmp_path, at=began, held=60.0)
    assert 40 <= unknown.used.device_seconds <= time.time() - began
    (segment / "reports.jsonl").touch()
    os.utime(segment / "reports.jsonl", (began + 7, began + 7))
    [seen] = recover(tmp_path, at=began, held=60.0)
    assert seen.used.device_seconds == pytest.approx(7, abs=0.5)
    assert {end.outcome for end in (never, unknown, seen)} == {Outcome.INTERRUPTED}


def test_a_pid_that_went_to_another_process_is_not_killed(tmp_path):
    """Neither is one of another boot, whatever its pid."""
    finished_segment(tmp_path / "trial-0")
    folder = tmp_path / "trial-0" / "segment-0"
    (folder / "receipt.json").unlink()
    bystander = subprocess.Popen(["sleep", "60"])
    identity = processes.identify(bystander.pid)
    assert identity is not None
    noted = {name: {"pid": identity.pid, "started": identity.started - 1} for name in ("supervisor", "job")}
    (folder / "processes.json").write_text(json.dumps(noted))
    recover(tmp_path)
    assert bystander.poll() is None
    orders = json.loads((folder / "orders.json").read_text())
    (folder / "orders.json").write_text(json.dumps(orders | {"machine": "another boot"}))
    noted = {name: {"pid": identity.pid, "started": identity.started} for name in ("supervisor", "job")}
    (folder / "processes.json").write_text(json.dumps(noted))
    recover(tmp_path)
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


@pytest.mark.slow
def test_twenty_controllers_killed_at_random_leave_nothing(controller, tmp_path):
    rng = random.Random(5)
    executor = LocalExecutor(local_problem("quick", steps=STEPS), SLOTS, preload=())
    for _ in range(20):
        process = controller("steps_for_ever", count=2, until="warm")
        time.sleep(rng.uniform(0, 0.15))
        alive = family(process)
        process.kill()
        process.wait()
        for trial in (0, 1):
            folder = tmp_path / f"trial-{trial}"
            *reports, ended = executor.recover(started(trial), folder)
            assert isinstance(ended, Ended)
            assert ended.outcome == Outcome.INTERRUPTED
            assert len(reports) == ended.checkpoint  # asked to end, it saved and reported its last step
            if folder.exists():
                shutil.rmtree(folder)
        wait_for(lambda: not any(is_alive(pid) for pid in alive), timeout_s=2.0)  # noqa: B023


def test_time_in_which_nobody_was_alive_is_not_charged(tmp_path):
    """The machine lost power two seconds into the segment, and somebody resumed the run an hour later."""
    finished_segment(tmp_path / "trial-0")
    folder = tmp_path / "trial-0" / "segment-0"
    (folder / "receipt.json").unlink()
    (folder / "reports.jsonl").write_text("")
    began = time.time() - 3600
    for path in folder.iterdir():
        os.utime(path, (began + 2, began + 2))
    os.utime(folder / "orders.json", (began, began))
    [ended] = recover(tmp_path, at=began, held=60.0)
    assert isinstance(ended, Ended)
    assert ended.outcome == Outcome.INTERRUPTED
    assert 2.0 <= ended.used.device_seconds <= 2.5


@pytest.mark.parametrize("off_s", [-3600.0, 3600.0])
def test_a_clock_that_is_not_that_of_the_disk_changes_no_charge(tmp_path, off_s):
    finished_segment(tmp_path / "trial-0")
    folder = tmp_path / "trial-0" / "segment-0"
    (folder / "receipt.json").unlink()
    began = (folder / "reports.jsonl").stat().st_mtime - 2
    os.utime(folder / "orders.json", (began, began))
    ended = recover(tmp_path, at=began + off_s, held=60.0)[-1]
    assert isinstance(ended, Ended)
    assert 2.0 <= ended.used.device_seconds <= time.time() - began


def test_a_segment_that_was_never_given_orders_costs_nothing(tmp_path):
    [ended] = recover(tmp_path, at=time.time() - 3600, held=60.0)
    assert isinstance(ended, Ended)
    assert (ended.outcome, ended.used.device_seconds) == (Outcome.INTERRUPTED, 0.0)


@pytest.mark.parametrize("scheduler", ["asha", "fixed"])
def test_a_job_that_dies_between_saving_its_last_step_and_reporting_it_does_that_step_again(tmp_path, scheduler):
    problem = local_problem("dies_before_its_last_report", steps=9)
    executor = LocalExecutor(problem, SLOTS[:1], preload=(), grace_s=0.3)
    report = fb.tune(
        problem, budget="1 trial", method="random", scheduler=scheduler, storage=tmp_path / "runs.db", executor=executor
    )
    [trial] = report.study.trials.values()
    assert trial.ends[0].outcome == Outcome.INTERRUPTED
    assert trial.starts[1].start == trial.starts[0].until - 1
    assert trial.ends[1].outcome in (Outcome.PAUSED, Outcome.COMPLETED)
    assert list(trial.reports) == list(range(1, trial.starts[-1].until + 1))
