"""The GPUs of this machine as `nvidia-smi` lists them, slices of them (MIG) as devices of their own.

CUDA itself must not start here, so it is not asked.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_GPU = re.compile(r"GPU (?P<index>\d+): .*\(UUID: (?P<uuid>GPU-[^)\s]+)\)")
_SLICE = re.compile(r"\s+MIG (?P<profile>\S+)\s+Device\s+\d+: \(UUID: (?P<uuid>MIG-[^)\s]+)\)")
_GIGABYTES = re.compile(r"\.(\d+)gb")
_NVIDIA_SMI_S = 20


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU, or a slice of one.

    Args:
        name: As `CUDA_VISIBLE_DEVICES` names it.
        uuid: Empty where it cannot be told.
        memory_bytes: What it has; 0 where it cannot be told.
        is_slice: Whether it is one of MIG, of which a process can use only one.
    """

    name: str
    uuid: str = ""
    memory_bytes: int = 0
    is_slice: bool = False


def visible_gpus(environ: Mapping[str, str] = os.environ) -> list[Gpu]:
    """The GPUs that CUDA would see, in its order; of one that is sliced, its slices."""
    found = installed_gpus()
    wanted = environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None or not found:
        return [gpu for own in found for gpu in own]
    slices = {gpu.name: gpu for own in found for gpu in own if gpu.is_slice}
    visible = []
    for name in (part.strip() for part in wanted.split(",")):
        if name.isdigit():
            known = next(iter(found[int(name)]), None) if int(name) < len(found) else None
        elif name.startswith("MIG-"):
            known = slices.get(name, Gpu(name, is_slice=True))
        else:
            known = next((own[0] for own in found if name and own[0].uuid.startswith(name)), None)
        if known is None:
            break  # as CUDA does: what follows the first unknown one is not seen
        visible.append(Gpu(name, known.uuid, known.memory_bytes, known.is_slice))
    return visible


def installed_gpus() -> list[list[Gpu]]:
    """For each GPU of this machine its slices, or, if it has none, itself."""
    listed = _ask("-L")
    if listed is None:
        drivers = Path("/proc/driver/nvidia/gpus")
        return [[Gpu(str(i))] for i in range(len(list(drivers.iterdir())) if drivers.is_dir() else 0)]
    return read_list(listed, _memories(_ask("--query-gpu=uuid,memory.total", "--format=csv,noheader,nounits") or ""))


def read_list(listed: str, memory_bytes: Mapping[str, int]) -> list[list[Gpu]]:
    """What `nvidia-smi -L` says; `memory_bytes` are those of whole GPUs, by UUID.

    Where one is sliced, all are named by UUID: the numbers of the others depend on CUDA's mind.
    """
    gpus: list[tuple[str, list[Gpu]]] = []
    for line in listed.splitlines():
        if match := _GPU.match(line):
            gpus.append((match["uuid"], []))
        elif (match := _SLICE.match(line)) and gpus:
            size = _GIGABYTES.search(match["profile"])  # nominal, and a little less than what it has
            gpus[-1][1].append(Gpu(match["uuid"], match["uuid"], int(size[1]) * 10**9 if size else 0, is_slice=True))
    by_uuid = any(slices for _, slices in gpus)
    return [
        slices or [Gpu(uuid if by_uuid else str(index), uuid, memory_bytes.get(uuid, 0))]
        for index, (uuid, slices) in enumerate(gpus)
    ]


def _memories(text: str) -> dict[str, int]:
    rows: Sequence[Sequence[str]] = [[part.strip() for part in line.split(",")] for line in text.splitlines()]
    return {row[0]: int(row[1]) * 2**20 for row in rows if len(row) == 2 and row[1].isdigit()}


def _ask(*words: str) -> str | None:
    try:
        done = subprocess.run(["nvidia-smi", *words], capture_output=True, text=True, timeout=_NVIDIA_SMI_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
