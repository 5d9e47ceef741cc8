"""`frugalbo worker`: offer the devices of this machine to a run that is led on another one."""

from __future__ import annotations

import argparse
import signal
import socket
from typing import Final

_FOLDER: Final = ".frugalbo/worker"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What the command can do."""
    command.add_argument("--url", required=True, help="of the controller, such as http://10.0.0.1:8765")
    command.add_argument("--token-file", metavar="FILE", help="the secret that the controller was started with")
    command.add_argument("--devices", help="such as cuda, cuda:0,1, cpu:2, cpu:2x4; all that are found by default")
    command.add_argument(
        "--pool", default="", metavar="NAME", help="the pool that they belong to, if the run has pools"
    )
    command.add_argument("--name", help="of this worker (that of the machine)")
    command.add_argument("--root", metavar="FOLDER", help="where the job's files are here, if not as at the controller")
    command.add_argument("--folder", default=_FOLDER, metavar="FOLDER", help=f"for trials, if not shared ({_FOLDER})")
    command.add_argument("--once", action="store_true", help="end with the run, do not wait for another one")


def run(args: argparse.Namespace) -> int:
    """Work until Ctrl-C or SIGTERM; returns the exit code.

    Raises:
        FrugalError: If the controller refuses this worker, or the job cannot be run here.
    """
    from frugalbo.executors.devices import local_slots
    from frugalbo.executors.http_token import read_token
    from frugalbo.executors.http_worker import HttpWorker

    worker = HttpWorker(
        args.url,
        local_slots(args.devices),
        token=read_token(args.token_file) if args.token_file else None,
        name=args.name or socket.gethostname(),
        pool=args.pool,
        root=args.root,
        folder=args.folder,
        say=lambda text: print(text, flush=True),
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: worker.stop())
    worker.run(once=args.once)
    return 0
