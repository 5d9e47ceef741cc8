"""Machines of our own, as far as a run can tell: workers behind a network that can be cut. For tests and benchmarks."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from threading import Event, Thread

from frugalbo.executors import processes

_CHUNK = 2**16
_PORTS = range(20_000, 32_000)  # Linux gives those from 32768 on to outgoing connections


def free_port() -> int:
    """A port of the loopback on which nobody listens now, below those that the system gives to outgoing connections.

    One of those could be taken between now and when somebody listens; even by who calls it before, which would then be
    connected to itself.
    """
    for port in _ports():
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port
    raise OSError(f"no free port from {_PORTS[0]} to {_PORTS[-1]}")


@cache
def _ports() -> Iterator[int]:
    """Each once, in an order that other processes do not share."""
    return iter(random.SystemRandom().sample(_PORTS, len(_PORTS)))


class Relay:
    """Passes on connections to a port of the loopback; cut, it passes on nothing, and tells neither end.

    What was on its way is delivered when it is whole again, late, as TCP does.
    """

    within: Sequence[str] = ()

    def __init__(self, to: int) -> None:
        self._to, self._whole, self._sockets = to, Event(), list[socket.socket]()
        self._whole.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        Thread(target=self._accept, name="relay", daemon=True).start()

    def cut(self) -> None:
        """Pass on nothing."""
        self._whole.clear()

    def mend(self) -> None:
        """Pass on what there is, and what comes."""
        self._whole.set()

    def close(self) -> None:
        """Accept nothing more, and end all connections."""
        self._whole.set()
        for end in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self._whole.wait()
            try:
                far = socket.create_connection(("127.0.0.1", self._to), timeout=5)
            except OSError:  # nobody listens there now
                near.close()
                continue
            far.settimeout(None)
            self._sockets += [near, far]
            for source, target in ((near, far), (far, near)):
                Thread(target=self._pump, args=(source, target), name="relay", daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while piece := source.recv(_CHUNK):
                self._whole.wait()
                target.sendall(piece)
        except OSError:
            pass
        finally:
            self._whole.wait()
            for end in (source, target):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()


class Namespace:
    """A network and process ids of its own, joined to this machine by a pair of interfaces. Needs root and `ip`.

    Args:
        index: From 0 to 250, of this one among those that there are.
        to: The port of the controller, which must listen on all addresses.
    """

    def __init__(self, index: int, to: int) -> None:
        who = f"{os.getpid()}-{index}"
        self._name, self._near, far = f"frugalbo-{who}", f"fb{who}", f"fbh{who}"
        near_ip, far_ip = f"10.213.{index}.1", f"10.213.{index}.2"
        self.url = f"http://{near_ip}:{to}"
        own = ["ip", "netns", "exec", self._name]
        self.within = [*own, "unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        for command in (
            ["ip", "netns", "add", self._name],
            ["ip", "link", "add", self._near, "type", "veth", "peer", "name", far],
            ["ip", "link", "set", far, "netns", self._name],
            ["ip", "addr", "add", f"{near_ip}/30", "dev", self._near],
            ["ip", "link", "set", self._near, "up"],
            [*own, "ip", "addr", "add", f"{far_ip}/30", "dev", far],
            [*own, "ip", "link", "set", far, "up"],
            [*own, "ip", "link", "set", "lo", "up"],
        ):
            subprocess.run(command, check=True, capture_output=True)

    def cut(self) -> None:
        """Take the interface down."""
        subprocess.run(["ip", "link", "set", self._near, "down"], check=True)

    def mend(self) -> None:
        """Take it up."""
        subprocess.run(["ip", "link", "set", self._near, "up"], check=True)

    def close(self) -> None:
        """Take all of it away."""
        subprocess.run(["ip", "link", "del", self._near], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", self._name], check=False, capture_output=True)


class Host:
    """A worker in processes of its own, behind a network that can be cut.

    Args:
        network: Between it and the controller.
        folder: For the worker's log and the trials that are not shared.
        options: More of `frugalbo worker`.
    """

    def __init__(
        self,
        name: str,
        network: Relay | Namespace,
        folder: Path,
        *,
        devices: str = "cpu:1",
        options: Sequence[str] = (),
    ) -> None:
        self.name, self.network, self.folder = name, network, folder
        folder.mkdir(parents=True, exist_ok=True)
        command = [*network.within, sys.executable, "-m", "frugalbo", "worker", "--url", network.url, "--name", name]
        command += ["--devices", devices, "--folder", str(folder / "trials"), *options]
        with (folder / "log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    @property
    def log(self) -> str:
        """What the worker said."""
        return (self.folder / "log").read_text()

    def everyone(self) -> set[int]:
        """The worker's process and all below it."""
        return {self.process.pid, *processes.descendants(self.process.pid)}

    def jobs(self) -> set[int]:
        """The processes of jobs that are at work."""
        named = (processes.look(pid) for pid in self.everyone())
        return {process.pid for process in named if process is not None and process.name == "frugalbo-job"}

    def freeze(self) -> None:
        """Stop all of its processes where they are, as a machine that is suspended."""
        for pid in self.everyone():
            processes.send(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on."""
        for pid in self.everyone():
            processes.send(pid, signal.SIGCONT)

    def stop(self) -> None:
        """End the worker as its user does."""
        own = self.process.pid
        for process in (processes.look(pid) for pid in sorted(self.everyone())):
            if process and process.name not in ("ip", "unshare") and (process.pid == own or process.parent == own):
                processes.send(process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kill -9 of the worker alone, or of all in its namespace."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        """End the worker and the network."""
        self.thaw()
        self.network.mend()
        self.stop()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()
        self.network.close()
