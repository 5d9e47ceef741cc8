from __future__ import annotations

import os
import stat

import pytest
from local_setup import a_segment, local_problem

from frugalbo.errors import ExecutorError
from frugalbo.events import Ended
from frugalbo.executors import devices
from frugalbo.executors import gpus as gpus_of_machine
from frugalbo.executors.devices import assign_cores, gpus_of, local_slots, usable_cores, visible_devices
from frugalbo.executors.gpus import visible_gpus
from frugalbo.slot import Slot
from frugalbo.testing.executors import drain

GPUS = ("GPU-aaaa-1", "GPU-bbbb-2", "GPU-cccc-3")


# As `nvidia-smi -L` writes it where the first GPU is cut into slices.
SLICED = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 3g.20gb     Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 1c.2g.10gb  Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-71086eb5-6ec1-4a2a-9f6f-8b7f7b3b1c11)
"""
SLICES = ["MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", "MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb"]
WHOLE = "GPU-71086eb5-6ec1-4a2a-9f6f-8b7f7b3b1c11"


def answer(program, listed, memory):
    """Have a program answer as nvidia-smi does."""
    program.write_text(f'#!/bin/sh\nif [ "$1" = -L ]; then cat <<.\n{listed}.\nelse cat <<.\n{memory}.\nfi\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def sliced(gpus, tmp_path):
    """A machine with one GPU that is cut into two slices, and one whole one."""
    answer(tmp_path / "nvidia-smi", SLICED, f"GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77, 40960\n{WHOLE}, 40960\n")


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    """A machine with three GPUs and seven cores."""
    program = tmp_path / "nvidia-smi"
    listed = "".join(f"GPU {i}: NVIDIA A100-SXM4-40GB (UUID: {uuid})\n" for i, uuid in enumerate(GPUS))
    answer(program, listed, "".join(f"{uuid}, 40960\n" for uuid in GPUS))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "usable_cores", lambda: list(range(10, 17)))


def test_a_machine_with_gpus_has_a_slot_for_each(gpus):
    # seven cores for three GPUs: two threads each
    expected = [Slot(f"cuda:{i}", "cuda", i, threads=2, dollars_per_hour=1.5) for i in range(3)]
    assert local_slots(dollars_per_hour=1.5) == expected


def test_a_machine_without_gpus_has_a_slot_for_each_core(monkeypatch):
    monkeypatch.setattr(gpus_of_machine, "installed_gpus", list)
    assert local_slots() == [Slot(f"cpu:{i}", "cpu", i) for i in range(len(usable_cores()))]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("", []), ("-1", []), ("2,0", ["2", "0"]), ("0,7,1", ["0"]), ("GPU-bbbb-2", ["GPU-bbbb-2"]),
        ("GPU-c,GPU-a", ["GPU-c", "GPU-a"]), ("GPU-dddd", []), (" 1 , 2", ["1", "2"]),
    ],
)  # fmt: skip
def test_gpus_are_seen_as_cuda_sees_them(gpus, visible, expected):
    assert visible_devices({"CUDA_VISIBLE_DEVICES": visible}) == expected
    assert visible_devices({}) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("text", "names", "threads"),
    [
        ("cuda", ["cuda:0", "cuda:1", "cuda:2"], 2),
        ("cuda:0,2", ["cuda:0", "cuda:2"], 2),
        ("CUDA: 1*2", ["cuda:1/0", "cuda:1/1"], 2),
        ("cpu", [f"cpu:{i}" for i in range(7)], 1),
        ("cpu:3", ["cpu:0", "cpu:1", "cpu:2"], 1),
        ("cpu:2x3", ["cpu:0", "cpu:1"], 3),
    ],
)
def test_a_text_says_which_slots(gpus, text, names, threads):
    slots = local_slots(text)
    assert [slot.name for slot in slots] == names
    assert {slot.threads for slot in slots} == {threads}


def test_parts_are_joined(gpus):
    slots = local_slots("cuda:2+cpu:1x4+cpu:3")
    assert [(s.name, s.index, s.threads) for s in slots] == [
        ("cuda:2", 2, 2), ("cpu:0", 0, 4), ("cpu:1", 1, 1), ("cpu:2", 2, 1), ("cpu:3", 3, 1),
    ]  # fmt: skip
    assert assign_cores(slots) == {
        "cuda:2": None, "cpu:0": (10, 11, 12, 13), "cpu:1": (14,), "cpu:2": (15,), "cpu:3": (16,),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("tpu", "expected slots such as"), ("cpu:x2", "expected slots such as"), ("cpu:0", "at least one slot"),
        ("cpu:1x0", "at least one slot"), ("cpu:8", "at most 7 threads together, got 8"),
        ("cpu:2x4", "at most 7 threads together, got 8"), ("cuda:3", "expected GPUs from 0 to 2"),
        ("cuda:0*0", "shared by at least one"), ("cuda:0,0", "'cuda:0' twice"), ("", None),
    ],
)  # fmt: skip
def test_slots_that_cannot_be_are_refused(gpus, text, reason):
    if reason is None:  # nothing said is the default
        assert len(local_slots(text)) == 3
        return
    with pytest.raises(ExecutorError, match=reason):
        local_slots(text)


def test_asking_for_a_gpu_where_none_is_visible_is_refused(gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ExecutorError, match="none is visible here"):
        local_slots("cuda:0")
    assert {slot.kind for slot in local_slots()} == {"cpu"}


def test_slices_are_devices_like_others_and_named_by_uuid(sliced):
    assert visible_devices({}) == [*SLICES, WHOLE]
    assert [gpu.memory_bytes for gpu in visible_gpus({})] == [20 * 10**9, 10 * 10**9, 40960 * 2**20]
    assert [(slot.name, slot.devices) for slot in local_slots()] == [("cuda:0", 1), ("cuda:1", 1), ("cuda:2", 1)]
    assert visible_devices({"CUDA_VISIBLE_DEVICES": SLICES[1]}) == [SLICES[1]]
    assert visible_devices({"CUDA_VISIBLE_DEVICES": f"{WHOLE[:8]},{SLICES[0]}"}) == [WHOLE[:8], SLICES[0]]
    assert visible_devices({"CUDA_VISIBLE_DEVICES": "1"}) == ["1"]


def test_a_job_on_a_slice_sees_that_one_alone(sliced, tmp_path):
    from frugalbo.executors.local import LocalExecutor

    slots = local_slots("cuda:1,2*10GiB")
    problem = local_problem("sees_devices")
    with LocalExecutor(problem, slots, preload=()) as executor:
        for trial, slot in enumerate(slots):
            executor.submit(a_segment(tmp_path / str(trial), trial=trial, slot=slot))
        events = drain(executor, ends=len(slots), timeout_s=60)
    logs = {event.trial: event.log_tail.strip() for event in events if isinstance(event, Ended)}
    assert logs == {0: SLICES[1], 1: WHOLE, 2: WHOLE, 3: WHOLE, 4: WHOLE}


def test_as_many_jobs_share_a_gpu_as_fit_by_what_they_declare_and_each_is_charged_its_share(gpus):
    # 40960 MiB: three of 13 GiB (39), four of 10 GiB exactly, one of 21 GiB; what declares nothing has it alone
    slots = local_slots("cuda:0*13GiB,1*10GiB,2*21GiB")
    assert [(slot.name, slot.index, slot.devices) for slot in slots] == [
        *((f"cuda:0/{i}", 0, 1 / 3) for i in range(3)),
        *((f"cuda:1/{i}", 1, 1 / 4) for i in range(4)),
        ("cuda:2/0", 2, 1),
    ]  # fmt: skip
    for slot in slots:
        assert list(gpus_of(slot)) == [slot.index]
    assert [slot.devices for slot in local_slots("cuda:0")] == [1]
    for text, reason in (
        ("cuda:0*41GiB", "does not fit"), ("cuda:0*0GiB", "what a job takes"),
        ("cuda:0*13", None), ("cuda:0*1.5", "what a job takes"),
    ):  # fmt: skip
        if reason is None:
            assert len(local_slots(text)) == 13
            continue
        with pytest.raises(ExecutorError, match=reason):
            local_slots(text)


def test_a_gpu_whose_memory_cannot_be_told_is_not_shared_by_memory(gpus, tmp_path):
    answer(tmp_path / "nvidia-smi", f"GPU 0: NVIDIA GeForce (UUID: {GPUS[0]})\n", f"{GPUS[0]}, [N/A]\n")
    with pytest.raises(ExecutorError, match="cannot be told"):
        local_slots("cuda:0*1GiB")


def test_a_trial_may_have_several_gpus(gpus):
    slots = local_slots("cuda:0-1,2")
    assert [(slot.name, slot.devices, slot.threads) for slot in slots] == [("cuda:0-1", 2, 4), ("cuda:2", 1, 2)]
    assert [list(gpus_of(slot)) for slot in slots] == [[0, 1], [2]]


def test_slices_cannot_be_joined(sliced):
    with pytest.raises(ExecutorError, match="only one slice"):
        local_slots("cuda:0-1")


@pytest.mark.parametrize(
    "text", ["cuda:0-1,1-2", "cuda:0-1,1", "cuda:0+cuda:0", "cuda:0,0*2", "cuda:0*1GiB,0", "cuda:2-3", "cuda:1-0"]
)
def test_gpus_are_named_once_and_in_order(gpus, text):
    with pytest.raises(ExecutorError, match=r"twice|from 0 to 2"):
        local_slots(text)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "250000 100000"}, 2.5),
        ({"cpu.max": "max 100000"}, None),
        ({"a/cpu.max": "max 100000", "a/b/cpu.max": "100000 100000"}, 1.0),
        ({"a/cpu.max": "100000 100000", "a/b/cpu.max": "300000 100000"}, 1.0),
        ({"cpu/a/b/cpu.cfs_quota_us": "150000", "cpu/a/b/cpu.cfs_period_us": "100000"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_control_groups_of_both_versions_limit_the_cores(tmp_path, files, cores):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    membership = tmp_path / "membership"
    membership.write_text("4:cpu,cpuacct:/a/b\n3:memory:/elsewhere\n0::/a/b\n")
    assert devices._cgroup_cores(tmp_path, membership) == cores
