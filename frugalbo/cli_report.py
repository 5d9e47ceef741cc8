"""`frugalbo report`: the report of a run as a page, once or again and again while it is at work."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from frugalbo.errors import FrugalError

if TYPE_CHECKING:
    from frugalbo.report import Report
    from frugalbo.store import Store

_EVERY_S: Final = 10.0
_LEAST_S: Final = 1.0


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What the command can do."""
    command.add_argument("--out", metavar="FOLDER", help="where to (beside the run)")
    command.add_argument(
        "--watch", nargs="?", const=_EVERY_S, type=float, metavar="SECONDS",
        help=f"write the page anew every so often ({_EVERY_S:g} s) until the run ends; open in a browser, it keeps up",
    )  # fmt: skip


def run(args: argparse.Namespace, store: Store, folder: Path) -> int:
    """Write the page of the run `args.run`, and watch it if that is asked for; returns the exit code.

    Raises:
        FrugalError: If there is no such run, or the time makes no sense.
    """
    if args.watch is not None and not _LEAST_S <= args.watch < float("inf"):
        raise FrugalError(f"expected --watch to be {_LEAST_S:g} second or more, got {args.watch:g}")
    run_id = store.run(args.run).id
    where = Path(args.out) if args.out else folder / run_id / "report"
    if args.watch is not None:
        _watch(store, run_id, where, args.watch)
    report = report_of(store, run_id)
    page = report.write(where)
    print(report.summary())
    print(f"\nreport: {page}")
    return 0


def report_of(store: Store, run_id: str) -> Report:
    """The report of a run as it stands."""
    from frugalbo.report import Report
    from frugalbo.stored import read_study

    record = store.run(run_id)
    reason = "still running" if record.holder else store.stop_reason(run_id) or "not running"
    return Report(read_study(store, run_id), run_id=run_id, stop_reason=reason)


def _watch(store: Store, run_id: str, folder: Path, every_s: float) -> None:
    """Write the live page while a controller is at work, or until Ctrl-C; at most half of the time goes into it."""
    said = False
    try:
        while store.run(run_id).holder:
            began = time.monotonic()
            page = report_of(store, run_id).write_live(folder, refresh_s=every_s)
            if not said:
                print(f"live: {page}", flush=True)
            said = True
            time.sleep(max(every_s, 2 * (time.monotonic() - began)) - (time.monotonic() - began))
    except KeyboardInterrupt:
        return
