"""What the scripts here have in common: records on file, the words that ask for them, and a training in this process.

A record is a line of JSON that is appended as soon as it is there, so that a script that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def read(path: Path) -> list[Record]:
    """All records on file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def keep(record: Record, path: Path) -> None:
    """Put a record on file, and show it."""
    line = json.dumps(record)
    with path.open("a") as file:
        file.write(line + "\n")
    print(line, flush=True)


def command_line(about: str | None, out: Path) -> argparse.ArgumentParser:
    """The words that all understand: `--table` and `--out`."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print the summary as Markdown, run nothing")
    parser.add_argument("--out", type=Path, default=out)
    return parser


def asked_of(parser: argparse.ArgumentParser, table: Callable[[list[Record]], str]) -> argparse.Namespace | None:
    """What is to be run, on one thread; None if `--table` was, which is printed."""
    asked = parser.parse_args()
    if asked.table:
        print(table(read(asked.out)))
        return None
    import torch

    torch.set_num_threads(1)
    return asked


def train_here(
    main: Callable[..., object], params: Record, seed: int, steps: int, objective: str
) -> tuple[list[Record], str | None]:
    """Run a job from its first step to its last in this process: what it reported, and why it diverged, if so."""
    from frugalbo.job import DivergedError, JobContext

    reports: list[Record] = []
    with tempfile.TemporaryDirectory() as folder:
        context = JobContext(
            params=params, start=0, until=steps, planned=steps, seed=seed, device="cpu", threads=1,
            checkpoint_dir=Path(folder), objective=objective, sink=reports.append,
        )  # fmt: skip
        try:
            main(context)
        except DivergedError as error:
            return reports, str(error)
    return reports, None
