"""Pools as users write them."""

import json
import re

import pytest

from frugalbo.budget.amounts import Budget
from frugalbo.errors import ExecutorError, PoolError
from frugalbo.executors import devices
from frugalbo.executors.devices import pool_slots, simulated_slots
from frugalbo.executors.gpus import Gpu
from frugalbo.pool import Pool, budgets_of, read_pools

FILE = """\
[[pool]]
name = "fast"
devices = "cuda:0,1"
dollars_per_hour = 2.5
speed = 2
budget = "20 USD, 3h"

[[pool]]
name = "spot"
devices = 7
preemptible = true
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "pools.toml"
    path.write_text(FILE)
    return path


def test_a_file_of_pools_is_read_and_survives_json(file):
    pools = read_pools(file)
    assert pools == (
        Pool("fast", "cuda:0,1", 2.5, 2.0, budget=Budget(dollars=20, device_seconds=10800)),
        Pool("spot", 7, preemptible=True),
    )
    assert read_pools(json.loads(json.dumps([pool.to_json() for pool in pools]))) == pools
    assert budgets_of(pools) == {"fast": Budget(dollars=20, device_seconds=10800)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected at least one pool, got none"),
        ("[[pools]]\nname = 'a'", "expected tables [[pool]]"),
        ("[pool]\nname = 'a'", "expected tables [[pool]]"),
        ("[[pool]]\nname = 'a", "cannot read the pools"),
        ("[[pool]]\nname = 'a'", "pool 'a': expected 'devices', which is missing"),
        ("[[pool]]\ndevices = 3", "pool None: expected 'name', which is missing"),
        ("[[pool]]\nname = 'a'\ndevices = 1\nprize = 3", "pool 'a': unknown key 'prize'; known are name, devices"),
        ("[[pool]]\nname = 'a'\ndevices = 0", "pool 'a': expected at least one device, got 0"),
        ("[[pool]]\nname = 'a'\ndevices = ''", "pool 'a': expected at least one device, got ''"),
        ("[[pool]]\nname = 'a'\ndevices = true", "pool 'a': expected at least one device, got True"),
        ("[[pool]]\nname = 'a/b'\ndevices = 1", "expected the name of a pool to be a word, got 'a/b'"),
        ("[[pool]]\nname = 'a'\ndevices = 1\ndollars_per_hour = -1", "a price of at least 0, got -1"),
        ("[[pool]]\nname = 'a'\ndevices = 1\ndollars_per_hour = nan", "a price of at least 0, got nan"),
        ("[[pool]]\nname = 'a'\ndevices = 1\nspeed = 0", "a speed above 0, got 0"),
        ("[[pool]]\nname = 'a'\ndevices = 1\npreemptible = 1", "preemptible to be true or false, got 1"),
        ("[[pool]]\nname = 'a'\ndevices = 1\nbudget = '5 bananas'", "pool 'a': the unit 'bananas' is not known"),
        ("[[pool]]\nname = 'a'\ndevices = 1\nbudget = '1h wall'", "got one of wall seconds"),
        ("[[pool]]\nname = 'a'\ndevices = 1\nbudget = '1 USD'", "pool 'a': a budget of money needs a price"),
        ("[[pool]]\nname = 'a'\ndevices = 1\n" * 2, "expected pools of different names, got 'a' twice"),
    ],
)
def test_pools_that_cannot_be_are_refused(tmp_path, text, said):
    path = tmp_path / "pools.toml"
    path.write_text(text)
    with pytest.raises(PoolError, match=re.escape(said)):
        read_pools(path)


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(PoolError, match=r"cannot read the pools in .*nowhere\.toml: No such file"):
        read_pools(tmp_path / "nowhere.toml")


def test_pools_are_slots_of_this_machine(monkeypatch):
    monkeypatch.setattr(devices, "usable_cores", lambda: [0, 1, 2])
    pools = [Pool("slow", "cpu:1", speed=0.5), Pool("fast", "cpu:1x2", 3.0, preemptible=True)]
    slow, fast = pool_slots(pools)
    assert (slow.name, slow.pool, slow.threads, slow.speed, slow.preemptible) == ("slow/cpu:0", "slow", 1, 0.5, False)
    assert (fast.name, fast.pool, fast.threads, fast.dollars_per_hour) == ("fast/cpu:0", "fast", 2, 3.0)
    with pytest.raises(ExecutorError, match="at most 3 threads together, got 4"):
        pool_slots([Pool("slow", "cpu:2"), Pool("fast", "cpu:1x2")])
    with pytest.raises(PoolError, match="pool 'many': expected devices of this machine, such as 'cpu:2'"):
        pool_slots([Pool("many", 7)])


def test_a_gpu_is_in_one_pool(monkeypatch):
    monkeypatch.setattr(devices, "visible_gpus", lambda: [Gpu(str(i)) for i in range(3)])
    slots = pool_slots([Pool("a", "cuda:0*2"), Pool("b", "cuda:1,2")])
    assert [slot.name for slot in slots] == ["a/cuda:0/0", "a/cuda:0/1", "b/cuda:1", "b/cuda:2"]
    with pytest.raises(ExecutorError, match="each GPU in one pool, got cuda:1 in 'a' and 'b'"):
        pool_slots([Pool("a", "cuda:0,1"), Pool("b", "cuda:1")])


def test_pools_are_simulated_on_no_machine():
    pools = [Pool("n", 2, 1.5), Pool("gpus", "cuda:0,1*2+cuda:5"), Pool("cores", "cpu:3x64")]
    assert [slot.pool for slot in simulated_slots(pools)] == ["n"] * 2 + ["gpus"] * 4 + ["cores"] * 3
    assert len({slot.name for slot in simulated_slots(pools)}) == 9
    for text in ("cuda", "cpu", "gpu:3"):
        with pytest.raises(PoolError, match=f"expected how many devices to simulate, got '{text}'"):
            simulated_slots([Pool("all", text)])
    with pytest.raises(PoolError, match="at least one device"):
        simulated_slots([Pool("none", "cpu:0")])
