"""The slots that a text or pools ask for, on a cluster that says only how much it has in all."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from frugalbo.errors import ExecutorError, PoolError
from frugalbo.pool import Pool
from frugalbo.slot import Slot

_GPU = re.compile(r"gpu(?::(?P<slots>\d+)(?:(?P<how>[x*])(?P<each>\d+(?:\.\d+)?))?)?")
_CPU = re.compile(r"cpu(?::(?P<slots>\d+)(?:x(?P<threads>\d+))?)?")
_EXPECTED = "expected devices of a cluster such as 'gpu', 'gpu:8', 'gpu:2x4', 'gpu:8*0.25', 'cpu', 'cpu:8', 'cpu:2x4'"


def cluster_slots(spec: str | None, *, cpus: float, gpus: float, dollars_per_hour: float = 0.0) -> list[Slot]:
    """The slots that a text asks for, on any nodes; by default one for each GPU there is, or else each core.

    | text | slots |
    |---|---|
    | `gpu`, `cpu` | one for each GPU, or each core, of the cluster |
    | `gpu:8` | eight of one GPU |
    | `gpu:2x4` | two of four GPUs, each on one node |
    | `gpu:8*0.25` | eight of a quarter of a GPU, and charged so |
    | `cpu:8`, `cpu:2x4` | eight of one core; two of four cores |

    Parts are joined by `+`. A cluster may grow to what is asked for, so that is not compared with what it has.

    Raises:
        ExecutorError: If the text cannot be read, or asks for all of what there is none of.
    """
    text = (spec or ("gpu" if gpus else "cpu")).replace(" ", "").lower()
    slots: list[Slot] = []
    for part in text.split("+"):
        first = len(slots)
        if match := _GPU.fullmatch(part):
            count, devices = _gpus(match, gpus, spec or text)
            threads = max(1, int(cpus / gpus * min(devices, 1.0))) if gpus else 1
            found = [Slot(f"gpu:{first + i}", "cuda", 0, threads, devices) for i in range(count)]
        elif match := _CPU.fullmatch(part):
            count = int(match["slots"] or cpus)
            found = [Slot(f"cpu:{first + i}", "cpu", 0, int(match["threads"] or 1)) for i in range(count)]
        else:
            raise ExecutorError(f"{_EXPECTED}, got {spec!r}")
        if not found or not all(slot.threads and slot.devices for slot in found):
            raise ExecutorError(f"{_EXPECTED}, got {part!r}, which is none here")
        slots += found
    return [replace(slot, dollars_per_hour=dollars_per_hour) for slot in slots]


def cluster_pool_slots(pools: Sequence[Pool], *, cpus: float, gpus: float) -> list[Slot]:
    """The slots that make up `pools`; a number of devices is one of GPUs, or of cores where there are none.

    Raises:
        PoolError: If the devices of one cannot be read.
    """
    slots: list[Slot] = []
    for pool in pools:
        spec = f"{'gpu' if gpus else 'cpu'}:{pool.devices}" if isinstance(pool.devices, int) else pool.devices
        try:
            slots += [pool.holding(slot) for slot in cluster_slots(spec, cpus=cpus, gpus=gpus)]
        except ExecutorError as error:
            raise PoolError(f"pool {pool.name!r}: {error}") from None
    return slots


def _gpus(match: re.Match[str], gpus: float, text: str) -> tuple[int, float]:
    """How many slots, of how many GPUs each."""
    each = float(match["each"] or 1)
    is_share = match["how"] == "*"
    if (is_share and each > 1) or (not is_share and each != math.floor(each)):
        raise ExecutorError(f"expected a share of a GPU after '*' and whole GPUs after 'x', got {text!r}")
    return int(match["slots"] or gpus), each if is_share else int(each)
