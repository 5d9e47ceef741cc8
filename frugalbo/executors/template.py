"""The controller's end of the template: start it, ask it for segments, end it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import frugalbo
from frugalbo.errors import ExecutorError
from frugalbo.executors import processes
from frugalbo.executors.processes import Identity
from frugalbo.executors.supervisor import SPARE
from frugalbo.executors.warm import NAME, Template
from frugalbo.problem import IN_MEMORY, Problem, job_address

RUN = "FRUGALBO_RUN"  # in the environment of every process of an executor: the names of its runs

_LOAD_S = 300.0  # importing torch from a cold network disk takes a minute
_FORK_S = 30.0
_LOG_BYTES = 2000


class WarmProcess:
    """A running template.

    Args:
        run: The executor's name in the environment of its processes.
        wake: The end of the wake pipe to write to.
        preload: Modules to load before the job's own, where they are installed.
        threads: The most threads that any slot grants.
        own_fds: What a forked copy of this process must not hold on to.

    Raises:
        ExecutorError: If the job cannot be loaded; has the end of the traceback.
    """

    def __init__(
        self,
        problem: Problem,
        run: str,
        wake: int,
        *,
        preload: Sequence[str],
        threads: int,
        own_fds: Sequence[int] = (),
    ) -> None:
        self._address = address = job_address(problem.job)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._popen: subprocess.Popen[bytes] | None = None
        self._own: set[int] = set()
        self._socket, theirs = socket.socketpair()
        order = {
            "job": address if isinstance(address, str) and address != IN_MEMORY else None,
            "root": problem.root,
            "path": [entry or str(Path.cwd()) for entry in sys.path],
            "preload": list(preload) if isinstance(address, str) and address != IN_MEMORY else [],
        }
        try:
            if address == IN_MEMORY:
                assert callable(problem.job)
                self.pid = self._fork(problem.job, theirs, own_fds)
            else:
                self.pid = self._start(theirs, environment(run, threads))
        finally:
            theirs.close()
        self.identity = processes.identify(self.pid) or Identity(self.pid, -1)
        try:
            self._load(order, wake)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """For select: readable once the process is gone."""
        return self._socket.fileno()

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return processes.is_alive(self.identity)

    def start_segment(self, orders: Path, control: socket.socket) -> int:
        """Fork a supervisor for these orders; returns its pid.

        Raises:
            ConnectionError: If the template is gone.
        """
        socket.send_fds(self._socket, [os.fsencode(orders)], [control.fileno()])
        return int(self._answer(_FORK_S)["pid"])

    def strays(self, supervisors: set[int]) -> set[int]:
        """What it adopted from supervisors that were killed, with all below."""
        if not self.is_alive:
            return set()
        below = {pid: process for pid in processes.descendants(self.pid) if (process := processes.look(pid))}
        spares = {pid for pid, process in below.items() if process.name in (SPARE, NAME) and process.parent == self.pid}
        return processes.descendants(self.pid, keep=supervisors | self._own | spares)

    def close(self) -> None:
        """End it, and everything that it is still the parent of."""
        self._socket.close()  # it hears the end, and ends
        give_up = time.monotonic() + 2
        while self._is_running() and time.monotonic() < give_up:
            time.sleep(0.002)
        if self._is_running():
            processes.kill_all(lambda: processes.descendants(self.pid))
            processes.send(self.pid, signal.SIGKILL)
        while self._is_running():
            time.sleep(0.002)
        self._log.close()

    def _is_running(self) -> bool:
        if self._popen is not None:
            return self._popen.poll() is None
        try:
            return os.waitpid(self.pid, os.WNOHANG)[0] == 0
        except ChildProcessError:
            return False

    def _start(self, theirs: socket.socket, environ: Mapping[str, str]) -> int:
        # Not -m, which would load the module twice; and it must find this very frugalbo.
        package = str(Path(frugalbo.__file__).resolve().parent.parent)
        program = (
            f"import sys; sys.path.insert(0, {package!r}); "
            "from frugalbo.executors.warm import main; main(int(sys.argv[1]))"
        )
        self._popen = subprocess.Popen(
            [sys.executable, "-c", program, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=dict(environ),
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C in the terminal is for the controller
        )
        return self._popen.pid

    def _fork(self, function: Callable[..., Any], theirs: socket.socket, own_fds: Sequence[int]) -> int:
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            raise ExecutorError(
                "expected a job in a file, got a function that only this process has, and this process has started "
                "CUDA, which its copies cannot use: move the function to a module"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads; a file has none of these
            pid = os.fork()
        if pid == 0:
            self._be_template(function, theirs, own_fds)
        return pid

    def _be_template(self, function: Callable[..., Any], theirs: socket.socket, own_fds: Sequence[int]) -> NoReturn:
        status = 1
        try:
            os.setsid()
            for fd in (1, 2):
                os.dup2(self._log.fileno(), fd)
            self._socket.close()
            for fd in own_fds:
                with contextlib.suppress(OSError):
                    os.close(fd)
            Template(theirs, function).run()
            status = 0
        except BaseException:  # noqa: BLE001 - never into the controller's code
            traceback.print_exc()
        finally:
            os._exit(status)

    def _load(self, order: dict[str, Any], wake: int) -> None:
        order["controller"] = {"pid": os.getpid(), "started": getattr(processes.identify(os.getpid()), "started", -1)}
        line = json.dumps(order).encode() + b"\n"
        try:
            sent = socket.send_fds(self._socket, [line], [wake])
            self._socket.sendall(line[sent:])
            answer = self._answer(_LOAD_S)
        except ConnectionError:
            raise ExecutorError(
                f"cannot load the job {self._address!r}: the process that loads it died\n{self._log_tail()}".rstrip()
            ) from None
        if "error" in answer:
            raise ExecutorError(f"cannot load the job {self._address!r}:\n{answer['error']}")
        self._own = set(answer["own"])

    def _answer(self, timeout_s: float) -> dict[str, Any]:
        line = b""
        give_up = time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while not line.endswith(b"\n"):
            if not poll.poll(1000 * max(0.0, give_up - time.monotonic())):
                raise ExecutorError(f"cannot load the job {self._address!r}: no answer after {timeout_s:.0f} s")
            piece = self._socket.recv(2**16)
            if not piece:
                raise ConnectionError("the template is gone")
            line += piece
        return json.loads(line)

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            size = self._log.seek(0, os.SEEK_END)
            self._log.seek(max(0, size - _LOG_BYTES))
            return self._log.read().decode("utf-8", "replace")
        return ""


def environment(run: str, threads: int) -> dict[str, str]:
    """What the template starts with."""
    return dict(os.environ) | {
        RUN: f"{os.environ.get(RUN, '')} {run}".strip(),  # of a run within a job of a run: both
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": str(threads),  # it cannot have more later
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # so that asking whether there is a GPU does not start CUDA
    }
