from __future__ import annotations

import os
import stat

import pytest

from frugalbo.errors import ExecutorError
from frugalbo.executors import devices
from frugalbo.executors.devices import assign_cores, local_slots, usable_cores, visible_devices
from frugalbo.slot import Slot

GPUS = ("GPU-aaaa-1", "GPU-bbbb-2", "GPU-cccc-3")


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    """A machine with three GPUs and seven cores."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\n" + "".join(f"echo {uuid}\n" for uuid in GPUS))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "usable_cores", lambda: list(range(10, 17)))


def test_a_machine_with_gpus_has_a_slot_for_each(gpus):
    # seven cores for three GPUs: two threads each
    expected = [Slot(f"cuda:{i}", "cuda", i, threads=2, dollars_per_hour=1.5) for i in range(3)]
    assert local_slots(dollars_per_hour=1.5) == expected


def test_a_machine_without_gpus_has_a_slot_for_each_core(monkeypatch):
    monkeypatch.setattr(devices, "_installed_gpus", list)
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
