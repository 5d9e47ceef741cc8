"""`frugalbo metabo`: the weights of the network that proposes as `metabo`, and what they are worth."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frugalbo.errors import ProblemError, WeightsError

if TYPE_CHECKING:
    from frugalbo.metabo.finetune import FineTuning

_AT = (0, 10, 25, 50, 100)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What the command can do."""
    tasks = command.add_subparsers(required=True, metavar="task")
    train = tasks.add_parser("train", help="make weights, or go on making them from the checkpoint beside them")
    train.add_argument("--config", required=True, metavar="FILE", help="settings of the training, in TOML")
    train.add_argument("--out", required=True, metavar="FILE", help="where the weights go")
    train.set_defaults(call=_train)
    evaluate = tasks.add_parser("evaluate", help="race the weights against the Gaussian process on recorded tables")
    evaluate.add_argument(
        "--tables", required=True, metavar="FILE", help="an .npz with <task>/X and <task>/accuracy or <task>/loss"
    )
    evaluate.add_argument("--seeds", type=int, default=5, help="races of each method on each table (5)")
    evaluate.add_argument("--initial", type=int, default=5, help="random rows at the beginning (5)")
    evaluate.add_argument("--steps", type=int, default=50, help="rows that a method chooses after these (50)")
    evaluate.add_argument("--methods", default="metabo,network,gp,random", help="some of metabo,network,nap,gp,random")
    evaluate.add_argument("--weights", default="", metavar="FILE", help="by default those that come with the package")
    evaluate.add_argument("--nap", default="", metavar="FILE", help="weights of a neural acquisition process, for nap")
    evaluate.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (one for each core)")
    evaluate.add_argument("--json", action="store_true", help="print JSON, with every race")
    evaluate.set_defaults(call=_evaluate)
    adapt = tasks.add_parser("adapt", help="make weights that know your earlier runs, for tune --weights")
    adapt.add_argument("runs", nargs="*", metavar="run", help="runs to know; all of the storage by default")
    adapt.add_argument("--storage", default=None, metavar="URL", help="database file or URL (.frugalbo/runs.db)")
    adapt.add_argument("--out", required=True, metavar="FILE", help="where the weights go")
    adapt.add_argument("--without", nargs="+", default=[], metavar="STUDY", help="studies to leave out or to withdraw")
    adapt.add_argument("--weights", default="", metavar="FILE", help="weights to begin with (those of the package)")
    adapt.add_argument(
        "--fine-tune", action="store_true", help="train the network further on these runs, where that is any better"
    )
    adapt.add_argument("--steps", type=int, help="of --fine-tune (100)")
    adapt.add_argument("--seed", type=int, help="of --fine-tune (0)")
    adapt.set_defaults(call=_adapt)


def method(args: argparse.Namespace) -> str:
    """The method of `tune` with its weights; the file is found again wherever the run is resumed."""
    if args.weights is None:
        return args.method
    if args.method not in ("auto", "metabo"):
        raise ProblemError(f"--weights belong to --method metabo, got {args.method!r}")
    return f"metabo:{Path(args.weights).resolve()}"


def _train(args: argparse.Namespace) -> int:
    """Print a line of JSON each so many steps; returns the exit code."""
    from frugalbo.metabo.minimax import MinimaxTraining, train_minimax
    from frugalbo.metabo.nap import NAPTraining, train_nap
    from frugalbo.metabo.policy_train import PolicyTraining, train_policy
    from frugalbo.metabo.settings import read_settings
    from frugalbo.metabo.train import Training, train

    def observe(line: dict[str, Any]) -> None:
        print(json.dumps(line), flush=True)

    settings = read_settings(args.config)
    kind = settings.pop("kind", "universal")
    if kind == "universal":
        train(Training.of(settings), args.out, observe)
    elif kind == "nap":
        train_nap(NAPTraining.of(settings), args.out, observe)
    elif kind == "minimax":
        train_minimax(MinimaxTraining.of(settings), args.out, observe)
    elif kind == "policy":
        train_policy(PolicyTraining.of(settings), args.out, observe)
    else:
        kinds = "'universal', 'nap', 'minimax' or 'policy'"
        raise WeightsError(f"expected a kind of {kinds} in {args.config!r}, got {kind!r}")
    return 0


def _adapt(args: argparse.Namespace) -> int:
    """Say which studies are known; returns the exit code."""
    from frugalbo.adaptation import adapt
    from frugalbo.stored import DEFAULT_STORAGE

    studies, left_out = adapt(
        args.storage or DEFAULT_STORAGE,
        args.out,
        runs=args.runs,
        without=args.without,
        weights=args.weights,
        fine_tuning=_fine_tuning(args),
        observe=print,
    )
    for run, reason in left_out.items():
        print(f"left out {run}: {reason}", file=sys.stderr)
    print(f"{args.out} knows {len(studies)} studies: {', '.join(studies)}")
    print(f"use it with: frugalbo tune ... --method metabo --weights {args.out}")
    return 0


def _fine_tuning(args: argparse.Namespace) -> FineTuning | None:
    """How the network is to be trained further, if it is."""
    given = {name: value for name in ("steps", "seed") if (value := getattr(args, name)) is not None}
    if not args.fine_tune:
        if given:
            raise WeightsError(f"--{min(given)} belongs to --fine-tune")
        return None
    from frugalbo.metabo.finetune import FineTuning

    return FineTuning(**given)


def _evaluate(args: argparse.Namespace) -> int:
    """Print a table of regrets; progress goes to stderr. Returns the exit code."""
    from frugalbo.metabo.evaluate import Setting, as_text, evaluate, to_json

    def observe(done: int, of: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{done} of {of} races", end="\n" if done == of else "", file=sys.stderr, flush=True)

    setting = Setting(args.initial, args.steps, args.weights, args.nap)
    races = evaluate(
        args.tables, setting, seeds=args.seeds, methods=args.methods.split(","), jobs=args.jobs, observe=observe
    )
    steps = [step for step in dict.fromkeys((*_AT, args.steps)) if step <= args.steps]
    if args.json:
        print(json.dumps(to_json(races, steps, setting), allow_nan=False))
    else:
        print(as_text(races, steps, setting))
    return 0
