"""Where runs are tormented: this machine, with SQLite or PostgreSQL; a Ray of two nodes; a Slurm of one.

| place | journal | runs' files |
|---|---|---|
| `local` | SQLite | a folder; where it is to be full, a tmpfs of 64 MiB of its own |
| `postgresql` | a private PostgreSQL | a folder; segments run here |
| `ray` | SQLite | a folder; nodes are processes of this machine, by Ray's own `Cluster` |
| `slurm` | SQLite | a folder; munge, slurmctld and slurmd of our own |
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from benchmarks.chaos.rig import ROOT, Live
from frugalbo.executors import processes
from frugalbo.testing.hosts import free_port
from frugalbo.testing.postgres import PrivatePostgres

_DISK = "64m"


class Place:
    """This machine; the others add to it."""

    backend = "local"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @property
    def environ(self) -> Mapping[str, str]:
        """What controllers need to know."""
        return {}

    def storage(self, home: Path) -> str:
        """Where a run of this home keeps its journal."""
        return str(home / "disk" / "runs.db")

    def mount(self, home: Path) -> None:
        """Give a home a small disk of its own, which takes root on Linux."""
        disk = home / "disk"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", str(disk)], check=True)
        self._stack.callback(subprocess.run, ["umount", "-l", str(disk)], check=False)

    @contextmanager
    def full_disk(self, home: Path) -> Iterator[None]:
        """Nothing more fits onto the disk of a home."""
        ballast = home / "disk" / "ballast"
        try:
            with ballast.open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(2**12))
                except OSError:
                    pass
            yield
        finally:
            ballast.unlink()

    def lose_node(self, victim: Live) -> None:
        """Kill the node of a segment, and give another one."""
        raise NotImplementedError

    def restart(self, daemon: str) -> None:
        """Kill a daemon and start it again."""
        raise NotImplementedError

    def crash_database(self, down_s: float, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Crash it, and start it again."""
        raise NotImplementedError


class PostgresPlace(Place):
    """This machine, with the journal in PostgreSQL."""

    def __enter__(self) -> Self:
        self._server = self._stack.enter_context(PrivatePostgres())
        return self

    def storage(self, home: Path) -> str:
        """As `Place`."""
        return self._stack.enter_context(self._server.schema())

    def crash_database(self, down_s: float, meanwhile: Callable[[], object] = lambda: None) -> None:
        """As `Place`."""
        self._server.stop(how=signal.SIGQUIT)
        meanwhile()
        time.sleep(down_s)
        self._server.start()


class RayPlace(Place):
    """A head without cores and two nodes of one core each."""

    backend = "ray"

    def __enter__(self) -> Self:
        from ray.cluster_utils import Cluster

        from frugalbo.executors.ray_cluster import _OURS

        os.environ.update({name: value for name, value in _OURS.items() if name not in os.environ})
        os.environ["PYTHONPATH"] = str(ROOT)  # of the nodes
        self._memory = 80 * 2**20
        self._cluster: Any = patiently(
            lambda: Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **self._node(cpus=0)})
        )
        self._stack.callback(self._cluster.shutdown)
        self._nodes = [self._add() for _ in range(2)]
        self._cluster.wait_for_nodes(90)
        return self

    @property
    def environ(self) -> Mapping[str, str]:
        """As `Place`."""
        return {"RAY_ADDRESS": self._cluster.address}

    def storage(self, home: Path) -> str:
        """As `Place`."""
        return str(home / "runs.db")

    def lose_node(self, victim: Live) -> None:
        """As `Place`."""
        orders = victim.files.read_orders()
        seat = orders.controller.pid if orders else 0
        node = next((node for node in self._nodes if seat in self._below(node)), self._nodes[0])
        self._nodes.remove(node)
        processes.send(self._raylet(node), signal.SIGKILL)
        self._nodes.append(self._add())

    def _add(self) -> Any:
        return patiently(lambda: self._cluster.add_node(wait=False, **self._node(cpus=1)))

    def _node(self, *, cpus: int) -> dict[str, int]:
        """What to ask for. A node need not wait for its agent to find ports that are given."""
        names = ("dashboard_agent_listen_port", "metrics_agent_port", "metrics_export_port", "runtime_env_agent_port")
        return {"num_cpus": cpus, "object_store_memory": self._memory, **{name: free_port() for name in names}}

    def _raylet(self, node: Any) -> int:
        return next(process.process.pid for process in node.all_processes["raylet"])

    def _below(self, node: Any) -> set[int]:
        return processes.descendants(self._raylet(node))


class SlurmPlace(Place):
    """One node of two cores."""

    backend = "slurm"

    def __enter__(self) -> Self:
        from tests.executors.slurm_cluster import SlurmCluster

        self._cluster = SlurmCluster(self.folder / "cluster")
        self._stack.callback(self._cluster.stop)
        self._cluster.start()
        return self

    @property
    def environ(self) -> Mapping[str, str]:
        """As `Place`."""
        return {"SLURM_CONF": str(self._cluster.conf)}

    def storage(self, home: Path) -> str:
        """As `Place`."""
        return str(home / "runs.db")

    def lose_node(self, victim: Live) -> None:
        """As `Place`."""
        self._cluster.kill_node()
        time.sleep(1.0)
        self._cluster.start_node()

    def restart(self, daemon: str) -> None:
        """As `Place`."""
        self._cluster.restart(daemon)


def patiently(start: Callable[[], Any]) -> Any:
    """Start a node of Ray; on a busy machine it is not always up in the 30 s that Ray gives it."""
    for is_last in (False, False, False, True):
        before = processes.descendants(os.getpid())
        try:
            return start()
        except Exception as error:  # Ray raises just that
            processes.kill_all(lambda: processes.descendants(os.getpid()) - before)  # noqa: B023
            if is_last:
                raise
            print(f"again, as Ray did not start: {error}", file=sys.stderr)
    return None


PLACES: dict[str, type[Place]] = {"local": Place, "postgresql": PostgresPlace, "ray": RayPlace, "slurm": SlurmPlace}
