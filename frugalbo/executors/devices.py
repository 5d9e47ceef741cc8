"""The slots of this machine: its visible GPUs, or its CPU cores.

| text | slots |
|---|---|
| `cuda` | one for each visible GPU, or slice of one (MIG) |
| `cuda:0,2` | one for each of these, as numbered by torch; slices count like GPUs |
| `cuda:0-3` | one of four GPUs, for trials that use several |
| `cuda:0*6GiB` | as many as fit on GPU 0, if a job declares that it takes 6 GiB there; each is charged its share |
| `cuda:0*2` | two that share GPU 0, whatever they take there |
| `cpu` | one of one thread for each core that this process may use |
| `cpu:3` | three of one thread |
| `cpu:2x4` | two of four threads |

Parts are joined by `+`, as in `cuda:0+cpu:2`. GPUs are found without torch, as CUDA must not start here.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from frugalbo.budget.amounts import parse_amount
from frugalbo.errors import BudgetError, ExecutorError, PoolError
from frugalbo.executors.gpus import Gpu, visible_gpus
from frugalbo.pool import Pool
from frugalbo.slot import Slot

_EXPECTED = "expected slots such as 'cuda', 'cuda:0,1', 'cuda:0-3', 'cuda:0*6GiB', 'cpu', 'cpu:2' or 'cpu:2x4'"
_ENTRY = r"\d+(?:-\d+|\*\d+(?:\.\d+)?(?:[kmgt]i?b)?)?"
_CUDA = re.compile(rf"cuda(?::(?P<which>{_ENTRY}(?:,{_ENTRY})*))?")
_CPU = re.compile(r"cpu(?::(?P<slots>\d+)(?:x(?P<threads>\d+))?)?")


def local_slots(spec: str | None = None, *, dollars_per_hour: float = 0.0) -> list[Slot]:
    """The slots that a text asks for; by default the visible GPUs, or else the cores.

    Args:
        spec: The text; see the table above.
        dollars_per_hour: The price of one device.

    Raises:
        ExecutorError: If the text cannot be read or the machine does not have that.
    """
    text = (spec or ("cuda" if visible_devices() else "cpu")).replace(" ", "").lower()
    entries: list[list[Slot]] = []  # the slots of each GPU that is named, or of each text of cores
    cores = 0
    for part in text.split("+"):
        if match := _CUDA.fullmatch(part):
            entries += _cuda_slots(match["which"], text)
        elif match := _CPU.fullmatch(part):
            entries.append(_cpu_slots(match["slots"], match["threads"], text, first=cores))
            cores += len(entries[-1])
        else:
            raise ExecutorError(f"{_EXPECTED}, got {spec!r}")
    named = Counter(gpu for entry in entries if entry[0].kind == "cuda" for gpu in gpus_of(entry[0]))
    if twice := [gpu for gpu, count in named.items() if count > 1]:
        raise ExecutorError(f"expected each GPU once, or shared by 'cuda:0*2', got 'cuda:{twice[0]}' twice in {text!r}")
    slots = [slot for entry in entries for slot in entry]
    assign_cores(slots)
    return [replace(slot, dollars_per_hour=dollars_per_hour) for slot in slots]


def pool_slots(pools: Sequence[Pool]) -> list[Slot]:
    """The slots of this machine that make up `pools`.

    Raises:
        PoolError: If the devices of one are a number, or this machine does not have them.
        ExecutorError: If a GPU is in two pools, or there are too few cores for all.
    """
    slots: list[Slot] = []
    owner: dict[int, str] = {}
    for pool in pools:
        if not isinstance(pool.devices, str):
            expected = "expected devices of this machine, such as 'cpu:2' or 'cuda:0,1'"
            raise PoolError(f"pool {pool.name!r}: {expected}, got {pool.devices!r}")
        try:
            own = local_slots(pool.devices)
        except ExecutorError as error:
            raise PoolError(f"pool {pool.name!r}: {error}") from None
        for index in {index for slot in own if slot.kind == "cuda" for index in gpus_of(slot)}:
            if (other := owner.setdefault(index, pool.name)) != pool.name:
                raise ExecutorError(f"expected each GPU in one pool, got cuda:{index} in {other!r} and {pool.name!r}")
        slots += [pool.holding(slot) for slot in own]
    assign_cores(slots)
    return slots


def simulated_slots(pools: Sequence[Pool]) -> list[Slot]:
    """As many slots as `pools` have devices, on no machine.

    Raises:
        PoolError: If the devices of one are a text that does not say how many.
    """
    return [pool.holding(Slot(str(index), "cpu", index)) for pool in pools for index in range(_count(pool))]


def usable_cores() -> list[int]:
    """The cores that this process may use, as many as its control group grants in full."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    quota = _cgroup_cores(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))
    return cores if quota is None else cores[: max(1, int(quota))]


def assign_cores(slots: Sequence[Slot]) -> dict[str, tuple[int, ...] | None]:
    """Cores of its own for each CPU slot, by its name; None for a GPU slot, which may use all.

    Raises:
        ExecutorError: If there are not enough of them.
    """
    cores = usable_cores()
    wanted = sum(slot.threads for slot in slots if slot.kind == "cpu")
    if wanted > len(cores):
        raise ExecutorError(f"expected CPU slots with at most {len(cores)} threads together, got {wanted}")
    assigned: dict[str, tuple[int, ...] | None] = {}
    for slot in slots:
        if slot.kind == "cpu":
            assigned[slot.name], cores = tuple(cores[: slot.threads]), cores[slot.threads :]
        else:
            assigned[slot.name] = None
    return assigned


def visible_devices(environ: Mapping[str, str] = os.environ) -> list[str]:
    """The GPUs that CUDA would see, in its order, as `CUDA_VISIBLE_DEVICES` names them."""
    return [gpu.name for gpu in visible_gpus(environ)]


def gpus_of(slot: Slot) -> range:
    """The GPUs of a slot of this machine, among the visible ones."""
    return range(slot.index, slot.index + math.ceil(slot.devices))


def _count(pool: Pool) -> int:
    """How many slots a pool has, without a look at this machine."""
    if not isinstance(pool.devices, str):
        return pool.devices
    total = 0
    for part in pool.devices.replace(" ", "").lower().split("+"):
        if (match := _CUDA.fullmatch(part)) and match["which"]:
            total += sum(_sharers_said(entry, pool) for entry in match["which"].split(","))
        elif (match := _CPU.fullmatch(part)) and match["slots"]:
            total += int(match["slots"])
        else:
            raise PoolError(f"pool {pool.name!r}: expected how many devices to simulate, got {pool.devices!r}")
    if not total:
        raise PoolError(f"pool {pool.name!r}: expected at least one device, got {pool.devices!r}")
    return total


def _sharers_said(entry: str, pool: Pool) -> int:
    shared = entry.partition("*")[2] or "1"
    if not shared.isdigit():
        raise PoolError(f"pool {pool.name!r}: expected how many devices to simulate, got {pool.devices!r}")
    return int(shared)


def _cuda_slots(which: str | None, text: str) -> list[list[Slot]]:
    gpus = visible_gpus()
    if not gpus:
        raise ExecutorError(f"{text!r} asks for a GPU, and none is visible here; use 'cpu'")
    asked = [_cuda_entry(entry, gpus, text) for entry in (which.split(",") if which else map(str, range(len(gpus))))]
    threads = max(1, len(usable_cores()) // max(len(gpus), sum(map(len, asked))))
    return [[replace(slot, threads=threads * math.ceil(slot.devices)) for slot in entry] for entry in asked]


def _cuda_entry(entry: str, gpus: Sequence[Gpu], text: str) -> list[Slot]:
    """The slots of one GPU that is shared or not, or of several."""
    first, _, last = entry.partition("-")
    number, _, shared = first.partition("*")
    index, until = int(number), int(last or number)
    if not index <= until < len(gpus) or shared == "0":
        raise ExecutorError(f"expected GPUs from 0 to {len(gpus) - 1}, shared by at least one, got {text!r}")
    if last:
        if any(gpu.is_slice for gpu in gpus[index : until + 1]) and until > index:
            raise ExecutorError(f"a process can use only one slice of a GPU, got {text!r}")
        return [Slot(f"cuda:{entry}", "cuda", index, devices=until + 1 - index)]
    if shared and not shared.isdigit():
        sharers = _sharers(gpus[index], shared, text)
        return [Slot(f"cuda:{index}/{i}", "cuda", index, devices=1 / sharers) for i in range(sharers)]
    names = [f"cuda:{index}/{i}" for i in range(int(shared))] if shared not in ("", "1") else [f"cuda:{index}"]
    return [Slot(name, "cuda", index) for name in names]


def _sharers(gpu: Gpu, declared: str, text: str) -> int:
    """How many jobs that take so much memory fit on a GPU: never more, whatever they may take in the end."""
    if not gpu.memory_bytes:
        raise ExecutorError(f"{text!r} shares a GPU by memory, and how much {gpu.name} has cannot be told")
    try:
        resource, size = parse_amount(declared)
    except BudgetError as error:
        raise ExecutorError(f"expected what a job takes of a GPU's memory in {text!r}: {error}") from None
    if resource != "memory_bytes" or not size:
        raise ExecutorError(f"expected what a job takes of a GPU's memory, such as 6GiB, got {declared!r} in {text!r}")
    sharers = int(gpu.memory_bytes // size)
    if not sharers:
        raise ExecutorError(f"{declared} of a job does not fit on GPU {gpu.name}, which has {gpu.memory_bytes} bytes")
    return sharers


def _cpu_slots(slots: str | None, threads: str | None, text: str, *, first: int) -> list[Slot]:
    count = len(usable_cores()) if slots is None else int(slots)
    each = int(threads or 1)
    if not count or not each:
        raise ExecutorError(f"expected at least one slot of at least one thread, got {text!r}")
    return [Slot(f"cpu:{index}", "cpu", index, each) for index in range(first, first + count)]


def _cgroup_cores(root: Path, membership: Path) -> float | None:
    """The cores that the control groups grant, of either version; None if they grant all."""
    folders = {root, root / "cpu"}
    try:
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            base = root / "cpu" if "cpu" in controllers.split(",") else root
            if not controllers or base != root:
                own = base / path.lstrip("/")
                folders |= {own, *(parent for parent in own.parents if parent.is_relative_to(base))}
    except (OSError, ValueError):
        pass
    quotas = [quota for folder in folders if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def _quota(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if quota.strip() != "max" and int(quota) > 0 else None
    except (OSError, ValueError):
        return None
