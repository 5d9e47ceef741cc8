"""A Ray cluster to run on: the one at an address, or a small one of our own on this machine.

One of our own listens on the loopback alone, has no dashboard, sends no statistics, keeps its files
in a folder of its own, and ends with us. A cluster that this process is connected to already is used
as it is, and left alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

from frugalbo.errors import ExecutorError, MissingExtra
from frugalbo.executors import processes
from frugalbo.slot import Slot

_OBJECT_STORE_BYTES = 80 * 2**20  # our messages are small; this is about the least that Ray takes
_ANSWER_S = 10.0
_OURS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_agent_register_timeout_ms": "120000",  # on a busy machine its helpers take long to start
    "RAY_memory_monitor_refresh_ms": "0",  # it would kill seats for what jobs keep, which have caps of their own
}
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}


class Cluster:
    """A connection to a Ray cluster.

    Args:
        address: Such as `"10.0.0.1:6379"`, or `"auto"` for the one that was started on this machine. By
            default what `RAY_ADDRESS` says, else a cluster of our own.
        cpus: The cores that one of our own is to have; all of this machine, if not given.
        runtime_env: As for `ray.init`.

    Raises:
        MissingExtra: If Ray is not installed.
        ExecutorError: If there is no cluster at the address, or one is connected to already, with another environment.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        cpus: int | None = None,
        runtime_env: Mapping[str, Any] | None = None,
    ) -> None:
        address = address or os.environ.get("RAY_ADDRESS") or None
        self.folder: Path | None = None
        loaded = sys.modules.get("ray")
        self._was_there = loaded is not None and loaded.is_initialized()
        if address is not None and not self._was_there:
            _check_there(address)
        self.ray = _import_ray()
        if self._was_there:
            if runtime_env:
                raise ExecutorError("this process is connected to Ray already: give the runtime_env to ray.init")
            return
        options = _QUIET | ({"runtime_env": dict(runtime_env)} if runtime_env else {})
        if address is None:
            self._start(cpus, options)
            return
        try:
            with _on_loopback() if address.startswith(("127.", "localhost")) else nullcontext():
                self.ray.init(address=address, **options)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            hint = "; if it wants a token, set RAY_AUTH_MODE=token" if "RAY_AUTH_MODE" not in os.environ else ""
            reason = " ".join(str(error).split())
            raise ExecutorError(f"expected a Ray cluster at {address!r}: {reason}{hint}") from error

    def _start(self, cpus: int | None, options: Mapping[str, Any]) -> None:
        for name, value in _OURS.items():
            os.environ.setdefault(name, value)
        # A socket's path has at most 107 bytes, and Ray adds some 70.
        where = tempfile.gettempdir() if len(tempfile.gettempdir()) < 20 else "/tmp"
        for is_last in (False, False, True):
            self.folder = Path(tempfile.mkdtemp(prefix="fbray-", dir=where))
            try:
                with _on_loopback():
                    self.ray.init(
                        address="local", num_cpus=cpus, include_dashboard=False, _node_ip_address="127.0.0.1",
                        object_store_memory=_OBJECT_STORE_BYTES, _temp_dir=str(self.folder),
                        _system_config={"prestart_worker_first_driver": False}, **options,
                    )  # fmt: skip
                return
            except Exception as error:  # Ray raises just that when its processes are not up in 30 s
                self.close()
                if is_last:
                    raise ExecutorError(f"cannot start Ray here: {' '.join(str(error).split())}") from error

    def close(self) -> None:
        """Disconnect; ends a cluster of our own."""
        if not self._was_there:
            self.ray.shutdown()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def alive_nodes(self) -> list[str]:
        """The nodes that are there, by Ray's id."""
        return [node["NodeID"] for node in self.ray.nodes() if node["Alive"]]

    def call_on(self, machine: str, function: Callable[..., str], *args: object, timeout_s: float) -> str | None:
        """What a function of ours says on a node of a machine (as `processes.machine` says); None if none is there."""
        for node in self.alive_nodes():
            if self.ask(_machine, nodes=[node], timeout_s=timeout_s) == machine:
                return self.ask(function, *args, nodes=[node], timeout_s=timeout_s)
        return None

    def ask(
        self, function: Callable[..., str | None], *args: object, nodes: Collection[str] | None = None, timeout_s: float
    ) -> str | None:
        """What a function of ours says on the first of `nodes` on which it says anything; of all nodes, if not given.

        They are asked at once. None if none of those that are there says anything in time.
        """
        alive = self.alive_nodes()
        waiting = [self._call(node, function, args) for node in alive if nodes is None or node in nodes]
        give_up = time.monotonic() + timeout_s
        while waiting and (left := give_up - time.monotonic()) > 0:
            ready, waiting = self.ray.wait(waiting, timeout=left)
            for answer in ready:
                with contextlib.suppress(self.ray.exceptions.RayError):
                    if (said := self.ray.get(answer)) is not None:
                        return said
        return None

    def _call(self, node: str, function: Callable[..., str | None], args: Sequence[object]) -> Any:  # noqa: ANN401
        where = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
        task = self.ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=where)
        return task.remote(*args)

    def total(self, resource: str) -> float:
        """How much of `"CPU"` or `"GPU"` there is in the whole cluster."""
        return float(self.ray.cluster_resources().get(resource, 0.0))


def requests(slot: Slot, labels: Mapping[str, str], avoided: Sequence[str]) -> dict[str, Any]:
    """What to ask Ray for to have this slot, on nodes that carry `labels` and are none of `avoided`."""
    selector = dict(labels)
    if avoided:
        selector["ray.io/node-id"] = f"!in({','.join(avoided)})"
    asked: dict[str, Any] = {"num_cpus": slot.threads, "num_gpus": slot.devices if slot.kind == "cuda" else 0}
    return asked | ({"label_selector": selector} if selector else {})


def sent_along(runtime_env: Mapping[str, Any]) -> str | None:
    """The folder of the controller that Ray copies to where its work runs, if it does."""
    folder = runtime_env.get("working_dir")
    return str(Path(folder).resolve()) if folder and "://" not in folder else None


def _machine() -> str:
    return processes.machine()


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Have Ray take 127.0.0.1 as it is said: it would put the machine's outer address in its place."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _check_there(address: str) -> None:
    """Refuse an address at which nothing answers: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return  # "auto", or something of Ray's
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except OSError as error:
        raise ExecutorError(f"expected a Ray cluster at {address!r}: {error}") from None


def _import_ray() -> ModuleType:
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError:
        raise MissingExtra("the backend 'ray' needs Ray: pip install 'frugalbo[ray]'") from None
    return ray
