"""`frugalbo metabo`: the weights of the network that proposes as `metabo`."""

from __future__ import annotations

import argparse
import json


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What the command can do."""
    tasks = command.add_subparsers(required=True, metavar="task")
    train = tasks.add_parser("train", help="make weights, or go on making them from the checkpoint beside them")
    train.add_argument("--config", required=True, metavar="FILE", help="settings of the training, in TOML")
    train.add_argument("--out", required=True, metavar="FILE", help="where the weights go")
    train.set_defaults(call=_train)


def _train(args: argparse.Namespace) -> int:
    """Print a line of JSON each so many steps; returns the exit code."""
    from frugalbo.metabo.train import read_training, train

    train(read_training(args.config), args.out, lambda line: print(json.dumps(line), flush=True))
    return 0
