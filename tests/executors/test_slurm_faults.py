"""What is taken away or dies under a segment on Slurm, and what is left of it: charged once, and able to go on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import slurm_cluster
from killed_controller import finished, kill_at_work
from local_setup import HERE, a_segment, lived_between, local_problem

import frugalbo as fb
from frugalbo.budget.amounts import Cost
from frugalbo.errors import ExecutorError
from frugalbo.events import Cause, Ended, Outcome, Reported, Started
from frugalbo.executors import processes
from frugalbo.executors.segments import BEAT_S, SegmentFolder
from frugalbo.executors.slurm import SlurmExecutor
from frugalbo.executors.slurm_commands import Slurm
from frugalbo.pool import Pool
from frugalbo.testing.executors import drain

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(slurm_cluster.missing()), reason=f"needs Slurm and munge: no {slurm_cluster.missing()}"),
    pytest.mark.usefixtures("slurm"),
]

STEPS = 20_000  # minutes of work: a segment must not end before it is killed


@pytest.fixture
def executor():
    with SlurmExecutor(local_problem("steps_for_ever", steps=STEPS), devices="cpu:2", grace_s=1.0) as executor:
        yield executor


def submit(executor, folder, **changes):
    fields = {"slot": executor.slots[0], "until": STEPS, "planned": STEPS, "cap_s": 120.0}
    segment = a_segment(folder / "trial-0", **(fields | changes))
    executor.submit(segment)
    return segment


def until_it_reports(executor, *, timeout_s=30):
    events, give_up = [], time.monotonic() + timeout_s
    while not any(isinstance(event, Reported) and event.step > 5 for event in events):
        assert time.monotonic() < give_up, events
        events += executor.wait(1.0)
    return events


def until_state(executor, job, *states):
    give_up = time.monotonic() + 30
    while (state := Slurm().states([job])[job].state) not in states:
        assert time.monotonic() < give_up, state
        time.sleep(0.2)


def is_gone(folder):
    """Whether nothing of the trial's segment is alive a moment later."""
    supervisor, job, _ = SegmentFolder(folder / "trial-0", 0).read_processes()
    give_up = time.monotonic() + 5
    while any(map(processes.is_alive, (supervisor, job))) and time.monotonic() < give_up:
        time.sleep(0.05)
    return job is not None and not processes.is_alive(supervisor) and not processes.is_alive(job)


def check_interrupted(events, cause, folder):
    """All that was reported came once, it was charged, and the trial can go on where it was."""
    ended = events[-1]
    assert isinstance(ended, Ended)
    assert (ended.outcome, ended.cause, ended.failure) == (Outcome.INTERRUPTED, cause, None), ended
    steps = [event.step for event in events if isinstance(event, Reported)]
    assert steps == list(range(1, len(steps) + 1))
    assert ended.checkpoint >= steps[-1] - 1
    least_s, most_s = lived_between(events, folder)
    assert 0 < least_s <= ended.used.device_seconds <= most_s
    assert is_gone(folder)
    return ended


def test_a_job_that_makes_way_for_another_one_is_preempted_and_goes_on(slurm, executor, tmp_path):
    submit(executor, tmp_path)
    events = until_it_reports(executor)
    urgent = slurm.call(
        "sbatch", "--parsable", "--partition=urgent", "--cpus-per-task=2", "--output=/dev/null", "--wrap", "sleep 2"
    ).strip()
    events += drain(executor, timeout_s=60)
    ended = check_interrupted(events, Cause.PREEMPTED, tmp_path)
    assert "another job" in ended.message
    until = ended.checkpoint + 3
    submit(executor, tmp_path, number=1, start=ended.checkpoint, until=until, planned=until)
    *reports, again = drain(executor, timeout_s=60)
    assert urgent
    assert [report.step for report in reports] == list(range(ended.checkpoint + 1, until + 1))
    assert again.outcome == Outcome.COMPLETED


def test_a_job_that_somebody_cancels_is_killed_by_user(slurm, executor, tmp_path):
    submit(executor, tmp_path)
    events = until_it_reports(executor)
    slurm.call("scancel", executor.jobs[0])
    events += drain(executor, timeout_s=60)
    check_interrupted(events, Cause.USER, tmp_path)


def test_a_time_limit_of_the_partition_ends_a_segment_as_a_pause(slurm, tmp_path):
    # The limit is a minute, and Slurm may send the warning up to a minute early: it comes some time within.
    steps = 20_000
    problem = local_problem("steps_for_ever", steps=steps)
    with SlurmExecutor(problem, devices="cpu:1", partition="short", grace_s=1.0) as executor:
        submit(executor, tmp_path, until=steps, planned=steps)
        events = drain(executor, timeout_s=100)
    check_interrupted(events, Cause.PREEMPTED, tmp_path)


def test_a_killed_seat_is_infrastructure(executor, tmp_path):
    submit(executor, tmp_path)
    events = until_it_reports(executor)
    os.kill(SegmentFolder(tmp_path / "trial-0", 0).read_orders().controller.pid, signal.SIGKILL)
    events += drain(executor, timeout_s=60)
    check_interrupted(events, Cause.INFRASTRUCTURE, tmp_path)


@pytest.fixture
def absent(tmp_path, monkeypatch):
    """Slurm's controller does not answer `sbatch` as often as a file says; it may have heard it all the same."""
    program, real, times = tmp_path / "bin" / "sbatch", shutil.which("sbatch"), tmp_path / "absent"
    program.parent.mkdir()
    program.write_text(
        f"""#!/bin/sh
read n heard < {times}
[ "$n" = 0 ] && exec {real} "$@"
echo $((n - 1)) $heard > {times}
[ "$heard" ] && {real} "$@" > /dev/null
echo "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)" >&2
exit 1
"""
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr("frugalbo.executors.slurm._AGAIN_S", 0.5)
    return times


@pytest.mark.parametrize("absence", ["2", "1 heard"])
def test_a_segment_is_handed_over_once_slurm_answers_again_and_only_once(absent, slurm, tmp_path, absence):
    absent.write_text(absence + "\n")
    with SlurmExecutor(local_problem("steps_for_ever", steps=30), devices="cpu:1") as executor:
        submit(executor, tmp_path, slot=executor.slots[0], until=30, planned=30)
        assert executor.jobs == {0: ""}
        assert executor.free_slots() == []
        *reports, ended = drain(executor, timeout_s=60)
        assert absent.read_text().split()[0] == "0"
    assert [report.step for report in reports] == list(range(1, 31))
    assert ended.outcome == Outcome.COMPLETED


def test_a_segment_that_could_not_be_handed_over_can_be_given_up_and_costs_nothing(absent, slurm, executor, tmp_path):
    absent.write_text("2\n")
    submit(executor, tmp_path)
    executor.cancel(0, Outcome.INTERRUPTED)
    [ended] = drain(executor, timeout_s=60)
    assert isinstance(ended, Ended)
    assert (ended.outcome, ended.cause, ended.used.device_seconds) == (Outcome.INTERRUPTED, Cause.USER, 0.0)
    assert executor.free_slots() == list(executor.slots)


def test_a_lost_node_is_infrastructure_and_takes_segments_again_when_it_is_back(slurm, executor, tmp_path):
    submit(executor, tmp_path)
    events = until_it_reports(executor)
    slurm.kill_node()
    began = (SegmentFolder(tmp_path / "trial-0", 0).path / "orders.json").stat().st_mtime
    died_s = time.time() - began
    time.sleep(BEAT_S + 1.0)
    slurm.start_node()  # it comes back without its jobs, which Slurm notices
    events += drain(executor, timeout_s=100)
    ended = check_interrupted(events, Cause.INFRASTRUCTURE, tmp_path)
    assert ended.used.device_seconds <= died_s + BEAT_S  # to the last sign of life, not to when it was noticed
    submit(executor, tmp_path, number=1, start=ended.checkpoint, until=ended.checkpoint + 1, planned=STEPS)
    assert drain(executor, timeout_s=60)[-1].outcome == Outcome.PAUSED


def test_a_segment_that_is_cancelled_in_the_queue_costs_nothing(slurm, executor, tmp_path):
    slurm.call("sbatch", "--partition=urgent", "--cpus-per-task=2", "--output=/dev/null", "--wrap", "sleep 60")
    submit(executor, tmp_path)
    assert executor.wait(2.0) == []
    executor.cancel(0, Outcome.STOPPED)
    [ended] = drain(executor, timeout_s=30)
    assert (ended.outcome, ended.cause, ended.used.device_seconds) == (Outcome.STOPPED, None, 0.0)
    assert list(executor.free_slots()) == list(executor.slots)


def test_what_a_dead_controller_left_is_ended_and_charged_once(executor, tmp_path):
    began = executor.now()
    segment = submit(executor, tmp_path)
    until_it_reports(executor)
    held = Cost(device_seconds=120.0, evaluations=1)
    started = Started(0, 0, segment.params, 0, STEPS, STEPS, held, segment.slot.name, began)
    with pytest.raises(ExecutorError, match="runs here"):
        executor.recover(started, tmp_path / "trial-0")
    with SlurmExecutor(local_problem("steps_for_ever", steps=STEPS), devices="cpu:2") as later:
        events = later.recover(started, tmp_path / "trial-0")
        ended = check_interrupted(events, Cause.INFRASTRUCTURE, tmp_path)
        assert later.recover(started, tmp_path / "trial-0")[-1].used == ended.used
    drain(executor)  # it hears the same


def test_what_a_dead_controller_left_in_the_queue_never_begins_and_costs_nothing(slurm, executor, tmp_path):
    slurm.call("sbatch", "--partition=urgent", "--cpus-per-task=2", "--output=/dev/null", "--wrap", "sleep 60")
    segment = submit(executor, tmp_path)
    held = Cost(device_seconds=120.0, evaluations=1)
    started = Started(0, 0, segment.params, 0, STEPS, STEPS, held, segment.slot.name, executor.now() - 60)
    with SlurmExecutor(local_problem("steps_for_ever", steps=STEPS), devices="cpu:2") as later:
        [ended] = later.recover(started, tmp_path / "trial-0")
    assert (ended.outcome, ended.used.device_seconds) == (Outcome.INTERRUPTED, 0.0)
    drain(executor, timeout_s=30)


def test_a_job_that_cannot_be_loaded_is_refused_with_the_reason(tmp_path):
    with SlurmExecutor(local_problem("nothing"), devices="cpu:1") as executor:
        submit(executor, tmp_path)
        with pytest.raises(ExecutorError, match="there is no 'nothing'"):
            drain(executor)


def test_what_the_cluster_does_not_have_is_refused():
    with pytest.raises(ExecutorError, match="partition"), SlurmExecutor(
        local_problem("quick"), devices="cpu:1", partition="nowhere"
    ):  # fmt: skip
        pass


def test_pools_are_partitions_with_prices(tmp_path):
    pools = [Pool("main", "cpu:1", 3.6), Pool("cheap", "cpu:1", 0.36, preemptible=True)]
    report = fb.tune(
        replace(local_problem("finds_out"), fidelity=None), budget="4 trials", method="random",
        backend={"name": "slurm", "partitions": {"cheap": "spot"}}, pools=pools, storage=tmp_path / "runs.db",
    )  # fmt: skip
    trials = report.study.trials.values()
    assert {trial.status for trial in trials} == {fb.Status.COMPLETED}
    assert {trial.starts[0].slot for trial in trials} <= {"main/cpu:0", "cheap/cpu:0"}
    for trial in trials:
        price = 3.6 if trial.starts[0].slot.startswith("main") else 0.36
        assert trial.used("dollars") == pytest.approx(trial.used("device_seconds") * price / 3600)


def test_a_run_whose_controller_is_killed_goes_on_as_if_it_had_paused(tmp_path):
    """kill -9 of the controller; its jobs are still there when `resume` comes."""
    storage = tmp_path / "runs.db"
    command = [sys.executable, str(HERE / "ray_controller.py"), str(tmp_path), "slurm"]
    controller = subprocess.Popen(command, start_new_session=True)
    before = kill_at_work(controller, storage, timeout_s=100)
    subprocess.run([*command[:3], "resume"], capture_output=True, text=True, timeout=200, check=True)
    finished(storage, before)


def test_the_commands_read_what_slurm_prints(tmp_path, monkeypatch):
    """Once `squeue` has forgotten a job the accounts are asked; by a stand-in for `sacct`, as there are none here."""
    fake = tmp_path / "sacct"
    fake.write_text("#!/bin/sh\necho '990001|CANCELLED by 0|node7|61'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    states = Slurm().states(["990001", "990002"])
    assert (states["990001"].state, states["990001"].node, states["990001"].elapsed_s) == ("CANCELLED", "node7", 61.0)
    assert states["990002"].state == "FORGOTTEN"
    assert states["990002"].is_over
