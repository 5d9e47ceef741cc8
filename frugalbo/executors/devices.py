"""The slots of this machine: its visible GPUs, or its CPU cores.

| text | slots |
|---|---|
| `cuda` | one for each visible GPU |
| `cuda:0,2` | one for each of these, as numbered by torch |
| `cuda:0*2` | two that share GPU 0 |
| `cpu` | one of one thread for each core that this process may use |
| `cpu:3` | three of one thread |
| `cpu:2x4` | two of four threads |

Parts are joined by `+`, as in `cuda:0+cpu:2`. GPUs are found without torch, as CUDA must not start here.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from frugalbo.errors import ExecutorError, PoolError
from frugalbo.pool import Pool
from frugalbo.slot import Slot

_EXPECTED = "expected slots such as 'cuda', 'cuda:0,1', 'cuda:0*2', 'cpu', 'cpu:2' or 'cpu:2x4'"
_CUDA = re.compile(r"cuda(?::(?P<which>\d+(?:\*\d+)?(?:,\d+(?:\*\d+)?)*))?")
_CPU = re.compile(r"cpu(?::(?P<slots>\d+)(?:x(?P<threads>\d+))?)?")
_NVIDIA_SMI_S = 20


def local_slots(spec: str | None = None, *, dollars_per_hour: float = 0.0) -> list[Slot]:
    """The slots that a text asks for; by default the visible GPUs, or else the cores.

    Args:
        spec: The text; see the table above.
        dollars_per_hour: The price of one device.

    Raises:
        ExecutorError: If the text cannot be read or the machine does not have that.
    """
    text = (spec or ("cuda" if visible_devices() else "cpu")).replace(" ", "").lower()
    slots: list[Slot] = []
    for part in text.split("+"):
        if match := _CUDA.fullmatch(part):
            slots += _cuda_slots(match["which"], text)
        elif match := _CPU.fullmatch(part):
            slots += _cpu_slots(match["slots"], match["threads"], text, first=sum(s.kind == "cpu" for s in slots))
        else:
            raise ExecutorError(f"{_EXPECTED}, got {spec!r}")
    if twice := [name for name, count in Counter(slot.name for slot in slots).items() if count > 1]:
        raise ExecutorError(f"expected each GPU once, or shared by 'cuda:0*2', got {twice[0]!r} twice in {text!r}")
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
        for index in {slot.index for slot in own if slot.kind == "cuda"}:
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
    found = _installed_gpus()
    wanted = environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None or not found:
        return [str(index) for index in range(len(found))]
    visible = []
    for name in (part.strip() for part in wanted.split(",")):
        known = name.isdigit() and int(name) < len(found)
        known |= any(uuid.startswith(name) for uuid in found if uuid and not name.isdigit() and name)
        if not (known or name.startswith("MIG-")):
            break  # as CUDA does: what follows the first unknown one is not seen
        visible.append(name)
    return visible


def _count(pool: Pool) -> int:
    """How many slots a pool has, without a look at this machine."""
    if not isinstance(pool.devices, str):
        return pool.devices
    total = 0
    for part in pool.devices.replace(" ", "").lower().split("+"):
        if (match := _CUDA.fullmatch(part)) and match["which"]:
            total += sum(int(entry.partition("*")[2] or 1) for entry in match["which"].split(","))
        elif (match := _CPU.fullmatch(part)) and match["slots"]:
            total += int(match["slots"])
        else:
            raise PoolError(f"pool {pool.name!r}: expected how many devices to simulate, got {pool.devices!r}")
    if not total:
        raise PoolError(f"pool {pool.name!r}: expected at least one device, got {pool.devices!r}")
    return total


def _cuda_slots(which: str | None, text: str) -> list[Slot]:
    count = len(visible_devices())
    if not count:
        raise ExecutorError(f"{text!r} asks for a GPU, and none is visible here; use 'cpu'")
    asked = [entry.partition("*") for entry in (which.split(",") if which else map(str, range(count)))]
    threads = max(1, len(usable_cores()) // max(count, sum(int(times or 1) for *_, times in asked)))
    slots = []
    for entry, _, times in asked:
        index, sharers = int(entry), int(times or 1)
        if index >= count or not sharers:
            raise ExecutorError(f"expected GPUs from 0 to {count - 1}, shared by at least one, got {text!r}")
        names = [f"cuda:{index}"] if sharers == 1 else [f"cuda:{index}/{i}" for i in range(sharers)]
        slots += [Slot(name, "cuda", index, threads) for name in names]
    return slots


def _cpu_slots(slots: str | None, threads: str | None, text: str, *, first: int) -> list[Slot]:
    count = len(usable_cores()) if slots is None else int(slots)
    each = int(threads or 1)
    if not count or not each:
        raise ExecutorError(f"expected at least one slot of at least one thread, got {text!r}")
    return [Slot(f"cpu:{index}", "cpu", index, each) for index in range(first, first + count)]


def _installed_gpus() -> list[str]:
    """The UUIDs of the GPUs of this machine; empty texts where they cannot be told."""
    drivers = Path("/proc/driver/nvidia/gpus")
    try:
        query = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=_NVIDIA_SMI_S, check=True)
        return [line.strip() for line in done.stdout.splitlines() if line.strip()]
    except (OSError, subprocess.SubprocessError):
        return [""] * len(list(drivers.iterdir())) if drivers.is_dir() else []


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
