"""The template: a process that has loaded what jobs need, and forks a supervisor for each segment.

It starts no threads and leaves CUDA alone, so that its copies may use both. It is the parent of
all supervisors, and adopts what one of them leaves behind if it is killed.

Its talk with the controller, over one socket: the controller sends what to load, a JSON line with
the wake pipe attached; the template answers `{"ready": true}` or `{"error": text}`. Then, for each
segment, the controller sends the path of its orders with one end of a socket attached, the template
passes both to a supervisor that it forked ahead, and answers with its pid.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import json
import operator
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from frugalbo.executors import processes, runner
from frugalbo.executors.processes import Identity
from frugalbo.executors.supervisor import supervise

# Set while the job's module is loaded: a script that starts a run when it is imported would start
# runs without end.
LOADING = "FRUGALBO_LOADING"
NAME = "frugalbo-warm"

_TRACEBACK_LINES = 12


class Template:
    """The template's own side.

    Args:
        control: To the controller.
        function: The job, if the controller's memory has it; it is loaded otherwise.
    """

    def __init__(self, control: socket.socket, function: Callable[..., Any] | None = None) -> None:
        self._control = control
        self._function = function
        self._wake = -1
        self._spare: tuple[int, socket.socket] | None = None
        self._supervisors: set[int] = set()
        self._own: set[int] = set()

    def run(self) -> None:
        """Serve until the controller is gone."""
        processes.set_name(NAME)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        processes.die_with_parent(signal.SIGKILL)  # while it loads it does not listen
        processes.adopt_orphans()
        line, fds, _, _ = socket.recv_fds(self._control, 2**20, 1)
        while line and not line.endswith(b"\n"):
            line += self._control.recv(2**20)
        if not line:
            return
        self._wake = fds[0]
        os.set_inheritable(self._wake, False)
        order = json.loads(line)
        try:
            if self._function is None:
                self._function = load(order)
            if self._function is not None:
                load_optimizers(self._function)
            check_cuda()
        except BaseException as error:  # noqa: BLE001 - whatever a module does on import, the controller is told
            self._say({"error": explain(error)})
            return
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # or every copy would print it
        gc.collect()
        gc.freeze()  # what is loaded stays in pages that the copies share
        self._own = processes.descendants(os.getpid())
        self._say({"ready": True, "own": sorted(self._own)})
        processes.die_with_parent(0)
        try:
            self._serve(Identity(**order["controller"]))
        finally:
            if self._spare is not None:
                self._supervisors.discard(self._spare[0])
            processes.kill_until_gone(self._strays, timeout_s=2)
            self._reap()

    def _serve(self, controller: Identity) -> None:
        self._signals, writer = socket.socketpair()
        for end in (self._signals, writer):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(self._signals, selectors.EVENT_READ)
            try:
                if (death := processes.death_of(controller)) is not None:
                    selector.register(death, selectors.EVENT_READ)
            except ProcessLookupError:
                return
            self._spare = self._fork()
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._signals:
                        with contextlib.suppress(BlockingIOError):
                            self._signals.recv(4096)
                        self._reap()
                    elif key.fileobj is not self._control or not self._start_segment():
                        return

    def _start_segment(self) -> bool:
        """Hand the orders to the spare supervisor; whether there were any."""
        path, fds, _, _ = socket.recv_fds(self._control, 2**16, 1)
        orders = repr(time.monotonic()).encode() + b" " + path
        if not path or not fds:
            return False
        pid, spare = self._spare or self._fork()
        try:
            socket.send_fds(spare, [orders], fds)
        except OSError:  # it was killed meanwhile
            spare.close()
            pid, spare = self._fork()
            socket.send_fds(spare, [orders], fds)
        spare.close()
        os.close(fds[0])
        self._say({"pid": pid})
        self._spare = self._fork()
        return True

    def _fork(self) -> tuple[int, socket.socket]:
        """Fork a supervisor, which waits for its orders; a start need not wait for the fork then."""
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(signal.set_wakeup_fd(-1))
                for end in (ours, self._signals, self._control):
                    end.close()
                supervise(self._function, theirs, self._wake)
            finally:
                os._exit(1)
        theirs.close()
        self._supervisors.add(pid)
        return pid, ours

    def _reap(self) -> None:
        """Take in which supervisors ended, and end what one left behind."""
        killed = False
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = found
                killed |= pid in self._supervisors and os.waitstatus_to_exitcode(status) != 0
                self._supervisors.discard(pid)
        if killed:
            processes.kill_until_gone(self._strays, timeout_s=2)

    def _strays(self) -> set[int]:
        return processes.descendants(os.getpid(), keep=self._supervisors | self._own)

    def _say(self, record: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self._control.sendall(json.dumps(record).encode() + b"\n")


def load(order: dict[str, Any]) -> Callable[..., Any] | None:
    """Load what the controller ordered; returns the job, None for a command."""
    sys.path[:] = order["path"]
    for name in order["preload"]:
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name)
    # A parallel operation of a module on import would start threads, which its copies would miss.
    runner.set_threads(1)
    runner.seed_globals(0)  # the first call imports what each copy would import again, for 30 ms
    if order["job"] is None:
        return None
    os.environ[LOADING] = order["job"]
    try:
        return load_function(order["job"], Path(order["root"]))
    finally:
        del os.environ[LOADING]


def load_optimizers(function: Callable[..., Any]) -> None:
    """Load what `torch.optim` loads at its first use, for over a second, if the job's module names anything of torch.

    Once here, then, and not in each copy, whose trial would pay for it.
    """
    named = getattr(function, "__globals__", {}).values()
    origins = [value.__name__ for value in named if isinstance(value, ModuleType)]
    origins += [value.__module__ for value in named if isinstance(value, type)]
    if any(origin.partition(".")[0] == "torch" for origin in origins):
        importlib.import_module("torch._dynamo")


def load_function(address: str, root: Path) -> Callable[..., Any]:
    """The function at `"module:name"` or `"file.py:name"`, both as seen from `root`.

    Raises:
        ImportError: If the file, the module or the name is not there.
        TypeError: If it is no function.
    """
    where, _, name = address.rpartition(":")
    module = _load_file(root / where) if where.endswith(".py") else _load_module(where, root)
    try:
        function = operator.attrgetter(name)(module)
    except AttributeError:
        raise ImportError(f"there is no {name!r} in {module.__file__ or where}") from None
    if not callable(function):
        raise TypeError(f"expected a function at {address}, got {type(function).__name__}")
    return function


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ImportError(f"there is no file {path}")
    path = path.resolve()
    sys.path.insert(0, str(path.parent))  # as if it were run
    sys.argv = [str(path)]
    name = path.stem if path.stem not in sys.modules else f"_frugalbo_job_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _load_module(name: str, root: Path) -> ModuleType:
    sys.path.insert(0, str(root))
    module = importlib.import_module(name)
    sys.argv = [module.__file__ or name]
    return module


def check_cuda() -> None:
    """Refuse to go on once CUDA has started: its copies could not use it.

    Raises:
        RuntimeError: If it has.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise RuntimeError("CUDA was started before the job was, so its processes cannot use it: start it in the job")


def explain(error: BaseException) -> str:
    """The end of a traceback, without our own lines in it."""
    own = {__file__, importlib.__file__}
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if f.filename not in own and "<frozen" not in f.filename
    ]
    lines = traceback.format_list(frames) + traceback.format_exception_only(error)
    return "\n".join("".join(lines).rstrip().splitlines()[-_TRACEBACK_LINES:])


def main(fd: int) -> NoReturn:
    """The template as a program of its own."""
    status = 1
    try:
        runner.line_buffer()
        Template(socket.socket(fileno=fd)).run()
        status = 0
    finally:
        os._exit(status)
