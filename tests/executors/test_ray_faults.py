"""What dies under a run on Ray, and what is left of it: nothing lost, nothing counted twice, no overspend.

Several nodes of one cluster, all on this machine, by Ray's own `Cluster`.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from killed_controller import causes_of_interruption, finished, kill_at_work
from local_setup import a_segment, lived_between, local_problem

from benchmarks.chaos.places import patiently
from frugalbo.events import Cause, Ended, Outcome, Reported
from frugalbo.executors import processes
from frugalbo.executors.segments import SegmentFolder
from frugalbo.testing.executors import drain

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray"),
]

STEPS = 20_000  # minutes of work: a segment must not end before it is killed


@pytest.fixture
def cluster(tmp_path):
    """A head without cores, and two nodes of one core each, with a folder each in NODE_FOLDER; yields the nodes."""
    from ray.cluster_utils import Cluster

    from frugalbo.executors.ray_cluster import _OURS

    os.environ.update({name: value for name, value in _OURS.items() if name not in os.environ})
    import ray

    memory = 80 * 2**20
    head = {"num_cpus": 0, "object_store_memory": memory}
    cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
    try:
        folders = [{"NODE_FOLDER": str(tmp_path / f"node-{i}")} for i in range(2)]
        own = {"num_cpus": 1, "object_store_memory": memory, "wait": False}
        nodes = [patiently(partial(cluster.add_node, env_vars=env_vars, **own)) for env_vars in folders]
        cluster.wait_for_nodes(90)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield nodes
    finally:
        ray.shutdown()
        cluster.shutdown()


def raylet_of(node):
    return next(process.process.pid for process in node.all_processes["raylet"])


def submit_two(executor, folder):
    for trial, slot in enumerate(executor.slots):
        executor.submit(
            a_segment(folder / f"trial-{trial}", trial=trial, slot=slot, until=STEPS, planned=STEPS, cap_s=120.0)
        )


def end_of(executor, events, trial, seconds=60.0):
    give_up = time.monotonic() + seconds
    while not any(isinstance(event, Ended) and event.trial == trial for event in events):
        assert time.monotonic() < give_up
        events += executor.wait(1.0)
    return next(event for event in events if isinstance(event, Ended) and event.trial == trial)


def until_room(executor, seconds=60.0):
    give_up = time.monotonic() + seconds
    while not executor.free_slots() and time.monotonic() < give_up:
        executor.wait(0.5)
    [slot] = executor.free_slots()
    return slot


def go_on(executor, folder, slot, ended):
    """A trial goes on from its checkpoint to an end of its own."""
    until = ended.checkpoint + 3
    executor.submit(
        a_segment(
            folder / f"trial-{ended.trial}", trial=ended.trial, number=1, slot=slot, start=ended.checkpoint,
            until=until, planned=until,
        )
    )  # fmt: skip
    *reports, again = drain(executor, timeout_s=60)
    assert [report.step for report in reports] == list(range(ended.checkpoint + 1, until + 1))
    assert (again.outcome, again.checkpoint) == (Outcome.COMPLETED, until)


def until_both_report(executor):
    events = []
    while {event.trial for event in events if isinstance(event, Reported) and event.step > 5} != {0, 1}:
        events += executor.wait(1.0)
    return events


def watchers(folder, trial):
    """The supervisor and the job of a trial's segment."""
    supervisor, job, _ = SegmentFolder(folder / f"trial-{trial}", 0).read_processes()
    return supervisor, job


def gone_within(who, seconds):
    give_up = time.monotonic() + seconds
    while processes.is_alive(who) and time.monotonic() < give_up:
        time.sleep(0.02)
    return not processes.is_alive(who)


def check_lost(events, trial, folder):
    """Interrupted by infrastructure, with all that was reported, charged what was used, resumable."""
    [ended] = [event for event in events if isinstance(event, Ended) and event.trial == trial]
    assert (ended.outcome, ended.cause, ended.failure) == (Outcome.INTERRUPTED, Cause.INFRASTRUCTURE, None)
    steps = [event.step for event in events if isinstance(event, Reported) and event.trial == trial]
    assert steps == list(range(1, len(steps) + 1))
    assert ended.checkpoint >= steps[-1] - 1
    files = SegmentFolder(folder / f"trial-{trial}", 0)
    written = files.reports.read_text().count("\n")
    assert written == len(steps)
    least_s, most_s = lived_between(events, folder, trial)
    assert 0 < least_s <= ended.used.device_seconds <= most_s
    return ended


def test_a_lost_seat_and_a_lost_node_interrupt_their_segments_alone(cluster, tmp_path):
    from frugalbo.executors.ray import RayExecutor

    executor = RayExecutor(local_problem("steps_for_ever", steps=STEPS), devices="cpu:2", preload=(), grace_s=1.0)
    with executor:
        by_node = {node: slot for slot, node in executor.nodes.items()}
        assert len(by_node) == 2  # a slot on each
        submit_two(executor, tmp_path)
        events = until_both_report(executor)
        supervisors = [watchers(tmp_path, trial) for trial in (0, 1)]

        # A seat: kill -9 of the process that the first supervisor takes for its controller.
        seat = SegmentFolder(tmp_path / "trial-0", 0).read_orders().controller
        os.kill(seat.pid, signal.SIGKILL)
        events += drain(executor, timeout_s=60)
        check_lost(events, 0, tmp_path)
        assert all(gone_within(who, 5) for who in supervisors[0])
        assert not any(isinstance(event, Ended) and event.trial == 1 for event in events)

        # A node: kill -9 of its raylet. It is that of the other trial.
        node = executor.nodes[executor.slots[1].name]
        [raylet] = [raylet_of(n) for n in cluster if n.unique_id == node or n._node_id == node]
        os.kill(raylet, signal.SIGKILL)
        end_of(executor, events, 1)
        check_lost(events, 1, tmp_path)
        assert all(gone_within(who, 5) for who in supervisors[1])

        # The node that is left runs both, one after the other, each from its checkpoint.
        slot = until_room(executor)
        for trial in (0, 1):
            go_on(executor, tmp_path, slot, end_of(executor, events, trial))


def test_nodes_that_share_no_folder_carry_checkpoints_and_a_lost_one_costs_what_came_after_the_last(cluster, tmp_path):
    pytest.importorskip("fsspec")
    from frugalbo.executors.depots import ObjectDepot, carried_as
    from frugalbo.executors.ray import RayExecutor

    run, objects = tmp_path / "run", f"file://{tmp_path}/objects"
    problem = local_problem("steps_for_ever", steps=STEPS)
    with RayExecutor(
        problem, devices="cpu:2", preload=(), grace_s=1.0, folders=objects, folder="$NODE_FOLDER"
    ) as executor:
        nodes = [next(n for n in cluster if n.node_id == executor.nodes[slot.name]) for slot in executor.slots]
        own = [tmp_path / f"node-{cluster.index(node)}" / carried_as(run / "trial-0").parent for node in nodes]
        began = time.monotonic()
        submit_two(executor, run)
        events = until_both_report(executor)
        carried, give_up = 0, time.monotonic() + 30
        while not carried:
            assert time.monotonic() < give_up
            events += executor.wait(0.5)
            carried = ObjectDepot(objects).newest(carried_as(run / "trial-1"), STEPS)
        supervisors = [watchers(own[trial], trial) for trial in (0, 1)]
        assert not list(run.rglob("*.ckpt"))

        # A seat: its node is there, and says what became of the segment, up to the last step.
        seat = SegmentFolder(own[0] / "trial-0", 0).read_orders().controller
        os.kill(seat.pid, signal.SIGKILL)
        first = end_of(executor, events, 0)
        assert (first.outcome, first.cause) == (Outcome.INTERRUPTED, Cause.INFRASTRUCTURE)
        steps = [event.step for event in events if isinstance(event, Reported) and event.trial == 0]
        assert steps == list(range(1, len(steps) + 1))
        assert len(steps) == SegmentFolder(own[0] / "trial-0", 0).reports.read_text().count("\n")
        assert first.checkpoint >= steps[-1] - 1
        assert first.used == SegmentFolder(own[0] / "trial-0", 0).read_receipt().used
        noted = SegmentFolder(run / "trial-0", 0)  # here, for a controller that comes after this one
        assert noted.read_receipt() == first
        assert noted.reports.read_text().count("\n") == len(steps)
        assert all(gone_within(who, 5) for who in supervisors[0])
        assert not any(isinstance(event, Ended) and event.trial == 1 for event in events)

        # A node: nobody is left to say. The time until it was lost is charged; the depot has what was carried.
        os.kill(raylet_of(nodes[1]), signal.SIGKILL)
        os.waitpid(raylet_of(nodes[1]), 0)  # to a seat its raylet is there as long as it is a zombie of ours
        second = end_of(executor, events, 1)
        assert (second.outcome, second.cause) == (Outcome.INTERRUPTED, Cause.INFRASTRUCTURE)
        assert carried <= second.checkpoint
        steps = [event.step for event in events if isinstance(event, Reported) and event.trial == 1]
        assert steps == list(range(1, len(steps) + 1))
        assert all(gone_within(who, 5) for who in supervisors[1])
        lived = SegmentFolder(own[1] / "trial-1", 0).read_receipt().used.device_seconds
        assert lived <= second.used.device_seconds <= time.monotonic() - began

        # The other node goes on with it. It has never seen it.
        slot = until_room(executor)
        go_on(executor, run, slot, second)
        assert (own[0] / "trial-1" / "checkpoints" / f"step-{second.checkpoint + 3}.ckpt").exists()
        go_on(executor, run, slot, first)


@pytest.mark.parametrize("folders", ["shared", "objects"])
def test_a_run_whose_controller_is_killed_goes_on_as_if_it_had_paused(tmp_path, folders):
    """kill -9 of the controller takes the cluster with it, as that was its own; `resume` finishes the run."""
    script, storage = Path(__file__).parent / "ray_controller.py", tmp_path / "runs.db"
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command, engine = [sys.executable, str(script), str(tmp_path)], "ray"
    if folders == "objects":
        pytest.importorskip("fsspec")
        engine = str(tmp_path / "cluster.toml")
        text = f'name = "ray"\nfolders = "file://{tmp_path}/objects"\nfolder = "{tmp_path}/node"\n'
        Path(engine).write_text(text)
    controller = subprocess.Popen([*command, engine], env=env, start_new_session=True)
    before = kill_at_work(controller, storage, timeout_s=200)
    done = subprocess.run([*command, "resume"], env=env, capture_output=True, text=True, timeout=250, check=True)
    assert "budget of evaluations is spent" in done.stdout or "nothing" in done.stdout, done.stdout
    assert causes_of_interruption(finished(storage, before)) == [{Cause.INFRASTRUCTURE}] * 2
    left = list(tmp_path.rglob("processes.json"))
    assert len(left) >= 6
    assert all((tmp_path / "node" in path.parents) == (folders == "objects") for path in left)
    for orders in left:
        supervisor, job, _ = SegmentFolder(
            orders.parents[1], int(orders.parent.name.rpartition("-")[2])
        ).read_processes()
        assert not processes.is_alive(supervisor)
        assert not processes.is_alive(job)
