"""Which engine runs the segments: one word, or a few lines of TOML.

    frugalbo tune my_problem.py --budget "8 GPU-hours" --backend ray

| text | engine |
|---|---|
| `local` | processes on this machine's devices |
| `http` | workers of other machines that register here (`frugalbo worker`); it listens on the loopback |
| `http:10.0.0.1:8765` | the same, on that address: needs `token_file`, so give a file |
| `ray` | the Ray cluster that `RAY_ADDRESS` names, or else one of its own on this machine |
| `ray:auto`, `ray:10.0.0.1:6379` | the Ray cluster that runs on this machine, or at that address |
| `slurm`, `slurm:gpu` | jobs of the Slurm cluster that this machine belongs to, in its default partition or that one |
| `cluster.toml` | a file with `name = "http"`, and options of `HttpExecutor`, such as `listen` and `token_file` |
| | or with `name = "ray"`, and `address`, `folders`, `labels` and other options of `RayExecutor` |
| | or with `name = "slurm"`, and `partition`, `partitions`, `sbatch` or `python` of `SlurmExecutor` |
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from frugalbo.errors import ExecutorError
from frugalbo.executors.base import Executor
from frugalbo.executors.devices import local_slots, pool_slots
from frugalbo.executors.local import LocalExecutor
from frugalbo.pool import Pool
from frugalbo.problem import Problem

BACKENDS = ("local", "http", "ray", "slurm")
_OPTIONS = {
    "local": (),
    "http": ("listen", "token_file", "folders", "workers", "lease_s", "patience_s", "most_bytes"),
    "ray": ("address", "folders", "folder", "labels", "runtime_env", "patience_s"),
    "slurm": ("partition", "partitions", "sbatch", "python"),
}


def read_backend(backend: str | Mapping[str, Any]) -> dict[str, Any]:
    """The name of an engine and its options, as plain JSON types.

    Raises:
        ExecutorError: If there is no such engine, or it has no such option.
    """
    if isinstance(backend, Mapping):
        record = dict(backend)
    elif backend.endswith(".toml"):
        record = _from_file(Path(backend))
    else:
        name, _, address = backend.partition(":")
        where = {"slurm": "partition", "http": "listen"}.get(name, "address")
        record = {"name": name} | ({where: address} if address else {})
    if record.get("name") not in BACKENDS:
        raise ExecutorError(f"expected one of the backends {', '.join(BACKENDS)}, got {record.get('name')!r}")
    known = _OPTIONS[record["name"]]
    if unknown := set(record) - {"name", *known}:
        raise ExecutorError(f"the backend {record['name']!r} has no option {min(unknown)!r}; known are {list(known)}")
    return record


def make_executor(
    problem: Problem,
    backend: Mapping[str, Any],
    *,
    devices: str | None,
    dollars_per_hour: float,
    pools: Sequence[Pool] | None,
) -> Executor:
    """The engine that `read_backend` has read.

    Raises:
        FrugalError: If it cannot run this problem, or does not have these devices.
    """
    options = {name: value for name, value in backend.items() if name != "name"}
    if backend["name"] == "http":
        from frugalbo.executors.http import HttpExecutor

        if devices is not None:
            raise ExecutorError(f"workers bring their devices: give {devices!r} to 'frugalbo worker --devices'")
        return HttpExecutor(problem, dollars_per_hour=dollars_per_hour, pools=pools, **options)
    if backend["name"] == "ray":
        from frugalbo.executors.ray import RayExecutor

        return RayExecutor(problem, devices=devices, dollars_per_hour=dollars_per_hour, pools=pools, **options)
    if backend["name"] == "slurm":
        from frugalbo.executors.slurm import SlurmExecutor

        return SlurmExecutor(problem, devices=devices, dollars_per_hour=dollars_per_hour, pools=pools, **options)
    if pools is not None:
        return LocalExecutor(problem, pool_slots(pools))
    return LocalExecutor(problem, local_slots(devices, dollars_per_hour=dollars_per_hour))


def _from_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExecutorError(f"cannot read the backend in {path}: {error.strerror}") from None
    except ValueError as error:
        raise ExecutorError(f"cannot read the backend in {path}: {error}") from None
