"""Machines of our own, as far as a run can tell: workers behind a network that can be cut. For tests and benchmarks."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Event, Thread

from frugalbo.executors import processes

_CHUNK = 2**16


def free_port() -> int:
    """A port of the loopback on which nobody listens now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Relay:
    """Passes on connections to a port of the loopback; cut, it passes on nothing, and tells neither end.

    What was on its way is delivered when it is whole again, late, as TCP does.
    """

    def __init__(self, to: int) -> None:
        self._to, self._whole, self._sockets = to, Event(), list[socket.socket]()
        self._whole.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
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


class Host:
    """A worker in processes of its own, behind a `Relay`.

    Args:
        port: Of the controller.
        folder: For the worker's log and the trials that are not shared.
        options: More of `frugalbo worker`.
    """

    def __init__(
        self, name: str, port: int, folder: Path, *, devices: str = "cpu:1", options: Sequence[str] = ()
    ) -> None:
        self.name, self.folder = name, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.relay = Relay(port)
        command = [sys.executable, "-m", "frugalbo", "worker", "--url", f"http://127.0.0.1:{self.relay.port}"]
        command += ["--name", name, "--devices", devices, "--folder", str(folder / "trials"), *options]
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

    def kill(self) -> None:
        """Kill -9 of the worker alone."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        """End the worker, as its user does, and the network."""
        self.thaw()
        self.relay.mend()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        self.relay.close()
