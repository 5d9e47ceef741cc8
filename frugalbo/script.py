"""A job as a script of its own, with its knobs as options: to try it before money is spent on it.

@dataclass(frozen=True)
class Config:
lr: float = 1e-3
kind: Literal["adamw", "sgd"] = "adamw"

if __name__ == "__main__":
with by_hand(Config, objective="loss", steps=lambda config: 100) as job:
main(job)

python train.py --lr 3e-3 --steps 20      # prints each report as a line of JSON
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from frugalbo.errors import ProblemError
from frugalbo.job import JobContext


@contextmanager
def by_hand(
    config: Callable[..., Any],
    *,
    objective: str,
    steps: Callable[[Any], int],
    arguments: Sequence[str] | None = None,
) -> Iterator[JobContext]:
    """A whole trial, from the words of the command line; its reports are printed, its checkpoints go with it.

    The options are the fields of `config`, and `--steps`, `--seed`, `--device` and `--threads`. Where torch is loaded,
    a GPU is the default device, and the threads are set for it. A `ProblemError` of the job is told in one line.

    Args:
        config: A dataclass of knobs, with defaults: numbers, words, booleans, and `Literal`s, which become choices.
        objective: The metric that must stay finite.
        steps: How many a whole run of this configuration has.
        arguments: The words; by default those of the process.

    Raises:
        SystemExit: If the words cannot be understood, or the configuration is refused.
    """
    torch = sys.modules.get("torch")
    words = vars(_parser(config).parse_args(arguments))
    asked, seed, device, threads = (words.pop(name) for name in ("steps", "seed", "device", "threads"))
    if torch is not None and threads is not None:
        torch.set_num_threads(threads)
    try:
        chosen = config(**words)
        until = steps(chosen) if asked is None else asked
        with tempfile.TemporaryDirectory() as folder:
            yield JobContext(
                params=asdict(chosen),
                start=0,
                until=until,
                planned=until,
                seed=seed,
                device=device or ("cuda" if torch is not None and torch.cuda.is_available() else "cpu"),
                threads=threads or (1 if torch is None else torch.get_num_threads()),
                checkpoint_dir=Path(folder),
                objective=objective,
                sink=lambda record: print(json.dumps(record), flush=True),
            )
    except ProblemError as error:
        sys.exit(f"error: {error}")


def _parser(config: Callable[..., Any]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="run this job once, by hand")
    hints = get_type_hints(config)
    for knob in fields(config):  # pyright: ignore[reportArgumentType] - a dataclass
        option, hint = "--" + knob.name.replace("_", "-"), hints[knob.name]
        if hint is bool:
            parser.add_argument(option, action=argparse.BooleanOptionalAction, default=knob.default)
        elif get_origin(hint) is Literal:
            parser.add_argument(option, type=type(knob.default), choices=get_args(hint), default=knob.default)
        else:
            parser.add_argument(option, type=type(knob.default), default=knob.default)
    parser.add_argument("--steps", type=int, help="of a whole run, if not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="cpu, cuda or another of torch")
    parser.add_argument("--threads", type=int)
    return parser
