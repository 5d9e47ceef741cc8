"""A run that is hurt again and again loses nothing: a handful of what `benchmarks/chaos` does, on this machine."""

import random
import sys

import pytest

from benchmarks.chaos.__main__ import torment
from benchmarks.chaos.faults import FAULTS
from benchmarks.chaos.places import Place

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="kills processes by what /proc says of them"),
]

QUICK = [
    "controller killed", "everything killed", "supervisor killed", "supervisor stopped", "job killed", "job stopped",
    "template killed", "clock jumps an hour", "report doubled", "controller killed, another stands by",
]  # fmt: skip


def test_a_run_that_is_hurt_loses_nothing_and_overspends_nothing(tmp_path):
    faults = random.Random(3).sample(QUICK, 5)
    assert set(QUICK) <= FAULTS.keys()
    with Place(tmp_path) as place:
        record = torment(place, "local", faults, seed=3)
    assert record["violations"] == []
    assert (record["tried"], record["survived"]) == (5, 5), record
