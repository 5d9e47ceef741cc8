"""What needs no cluster of what runs on one: messages, who is kept away from, and which slots a text asks for."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from local_setup import a_segment, local_problem

from frugalbo.budget.amounts import Cost
from frugalbo.errors import ExecutorError, PoolError, ProblemError
from frugalbo.events import Ended, Outcome
from frugalbo.executors.backends import make_executor, read_backend
from frugalbo.executors.cluster_slots import cluster_pool_slots, cluster_slots
from frugalbo.executors.local import LocalExecutor
from frugalbo.executors.messages import confirm, segment_from_json, segment_to_json
from frugalbo.executors.nodes import Nodes, back_off_s
from frugalbo.executors.ray import RayExecutor
from frugalbo.executors.ray_cluster import requests
from frugalbo.executors.slurm import SlurmExecutor
from frugalbo.pool import Pool
from frugalbo.slot import Slot


def test_a_segment_survives_the_way(tmp_path):
    segment = a_segment(tmp_path, slot=Slot("gpu:0", "cuda", 0, 3, 0.25, 1.5, "spot", 2.0, preemptible=True))
    assert segment_from_json(segment_to_json(segment)) == segment


def test_no_node_is_charged_more_than_the_time_that_has_passed(tmp_path):
    segment = a_segment(tmp_path, slot=Slot("gpu:0", "cuda", 0, devices=2, dollars_per_hour=3600.0))
    ended = Ended(0, 0, Outcome.COMPLETED, Cost(device_seconds=14.0, dollars=14.0, evaluations=1), 9.0)
    assert confirm(ended, segment, 7.0) == ended
    charged = confirm(ended, segment, 5.0)  # two devices for 5 s are 10
    assert (charged.used.device_seconds, charged.used.dollars, charged.used.evaluations) == (10.0, 10.0, 1)
    assert "measured 14 device-seconds in 5 s" in charged.message
    assert replace(charged, used=ended.used, message="") == ended


def test_a_node_that_fails_twice_in_a_row_is_avoided_unless_it_is_the_last_one():
    nodes = Nodes()
    for well in (False, True, False):
        nodes.note("a", well=well)
    assert nodes.avoided(["a", "b"]) == []
    nodes.note("a", well=False)
    assert nodes.avoided(["a", "b"]) == ["a"]
    assert nodes.avoided(["a"]) == []
    for _ in range(2):
        nodes.note("b", well=False)
    assert nodes.avoided(["a", "b"]) == []
    assert nodes.avoided(["a", "b", "c"]) == ["a", "b"]


def test_seats_are_asked_for_again_after_longer_and_longer_waits():
    assert [back_off_s(n) for n in (0, 1, 2, 3, 4, 50)] == [0, 0, 1, 2, 4, 60]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, [("gpu:0", 4, 1), ("gpu:1", 4, 1), ("gpu:2", 4, 1)]),
        ("gpu:1x2", [("gpu:0", 4, 2)]),
        ("gpu:2*0.25", [("gpu:0", 1, 0.25), ("gpu:1", 1, 0.25)]),
        ("cpu:2x5", [("cpu:0", 5, 1), ("cpu:1", 5, 1)]),
        ("gpu:1 + cpu:1", [("gpu:0", 4, 1), ("cpu:1", 1, 1)]),
    ],
)
def test_slots_of_a_cluster_by_what_a_text_asks_for(text, expected):
    slots = cluster_slots(text, cpus=13, gpus=3, dollars_per_hour=2.0)
    assert [(slot.name, slot.threads, slot.devices) for slot in slots] == expected
    assert {slot.dollars_per_hour for slot in slots} == {2.0}


@pytest.mark.parametrize("text", ["gpu:0", "cuda:0", "gpu:2*1.5", "gpu:2x0.5", "cpu:0", "cpu:2x0", "", "gpu:1+tpu"])
def test_texts_that_ask_for_no_slots_are_refused(text):
    with pytest.raises(ExecutorError, match="expected"):
        cluster_slots(text or "+", cpus=3, gpus=2)
    with pytest.raises(PoolError, match="pool 'a'"):
        cluster_pool_slots([Pool("a", text or "+")], cpus=3, gpus=2)


def test_pools_are_told_apart_by_the_labels_of_their_nodes():
    slots = cluster_pool_slots([Pool("spot", 2, dollars_per_hour=1.0), Pool("own", "cpu:1")], cpus=3, gpus=2)
    assert [(slot.name, slot.kind, slot.pool) for slot in slots] == [
        ("spot/gpu:0", "cuda", "spot"), ("spot/gpu:1", "cuda", "spot"), ("own/cpu:0", "cpu", "own"),
    ]  # fmt: skip
    asked = requests(slots[0], {"market": "spot"}, ["a", "b"])
    assert asked == {"num_cpus": 1, "num_gpus": 1, "label_selector": {"market": "spot", "ray.io/node-id": "!in(a,b)"}}
    assert requests(slots[2], {}, []) == {"num_cpus": 1, "num_gpus": 0}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("local", {"name": "local"}),
        ("ray", {"name": "ray"}),
        ("ray:10.0.0.1:6379", {"name": "ray", "address": "10.0.0.1:6379"}),
        ({"name": "ray", "labels": {}}, {"name": "ray", "labels": {}}),
        ("slurm", {"name": "slurm"}),
        ("slurm:gpu-long", {"name": "slurm", "partition": "gpu-long"}),
    ],
)
def test_a_backend_is_one_word_or_a_few_options(text, expected):
    assert read_backend(text) == expected


def test_a_backend_can_be_a_file(tmp_path):
    (tmp_path / "cluster.toml").write_text('name = "ray"\naddress = "auto"\n[labels.spot]\nmarket = "spot"\n')
    backend = read_backend(str(tmp_path / "cluster.toml"))
    assert backend == {"name": "ray", "address": "auto", "labels": {"spot": {"market": "spot"}}}
    executor = make_executor(local_problem("quick"), backend, devices="cpu:1", dollars_per_hour=0.0, pools=None)
    assert isinstance(executor, RayExecutor)
    executor = make_executor(
        local_problem("quick"), {"name": "local"}, devices="cpu:1", dollars_per_hour=0.0, pools=None
    )
    assert isinstance(executor, LocalExecutor)


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        ("sun-grid", "expected one of the backends local, http, ray, slurm"),
        ({"name": "ray", "adress": "auto"}, "no option 'adress'"),
        ({"name": "slurm", "labels": {}}, "no option 'labels'"),
        ("local:10.0.0.1", "no option 'address'"),
        ("nowhere.toml", "cannot read"),
    ],
)
def test_backends_that_cannot_be_are_refused(backend, reason):
    with pytest.raises(ExecutorError, match=reason):
        read_backend(backend)


def test_a_function_that_only_this_process_has_is_refused_before_anything_is_started():
    with pytest.raises(ProblemError, match="move it to a file"):
        RayExecutor(local_problem(lambda ctx: 1.0))


SINFO = """#!/bin/sh
case "$*" in
  *%c*) printf 'a|2|(null)\\nb|2|(null)\\nc|2|(null)\\n' ;;
  *%l*) printf 'main*|infinite\\nother|infinite\\n' ;;
  *--partition=other*) printf 'c|idle|other\\n' ;;
  *%t*) printf 'a|mix|main*\\nb|%s|main*\\nc|idle|other\\n' "$(cat {state})" ;;
esac
"""


@pytest.mark.parametrize(
    ("partition", "struck", "state", "excluded"),
    [
        (None, "a", "idle", "--exclude=a"),
        (None, "a", "idle*", None),  # the other one does not answer
        (None, "a", "drain", None),
        (None, "ab", "alloc", None),
        ("other", "c", "idle", None),  # that there are nodes in other partitions is no help
        (None, "", "idle", None),
    ],
)
def test_slurm_keeps_away_from_a_node_as_long_as_another_of_the_partition_is_up(
    tmp_path, monkeypatch, partition, struck, state, excluded
):
    (tmp_path / "state").write_text(state)
    sbatch = f'#!/bin/sh\necho "$@" > {tmp_path}/asked\necho 7\n'
    programs = {"sinfo": SINFO.format(state=tmp_path / "state"), "sbatch": sbatch, "squeue": "#!/bin/sh\n"}
    for name, text in (programs | {"scancel": "#!/bin/sh\n"}).items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    executor = SlurmExecutor(local_problem("quick"), devices="cpu:1", partition=partition, grace_s=0.0)
    with executor:
        for node in struck * 2:
            executor._nodes.note(node, well=False)
        executor.submit(a_segment(tmp_path / "trial-0", slot=executor.slots[0]))
        executor._running.clear()  # nothing ever runs there
    asked = (tmp_path / "asked").read_text().split()
    assert [word for word in asked if word.startswith("--exclude")] == ([excluded] if excluded else [])
