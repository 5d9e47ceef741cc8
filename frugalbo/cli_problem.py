"""What `frugalbo tune` is to tune: a problem of a folder, a file or a module, or a command with its parameters."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frugalbo.errors import ProblemError

if TYPE_CHECKING:
    from frugalbo.problem import Problem
    from frugalbo.space import Parameter


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What describes a problem."""
    command.add_argument("problem", nargs="?", help="a folder with a problem.py, a file, or a module")
    command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the problem")
    command.add_argument("--command", help="a command to tune, with {name} where a parameter goes")
    command.add_argument(
        "--param", action="append", default=[], metavar="NAME=SPEC",
        help="for --command: LOW..HIGH, LOW..HIGH:log, A,B,C or one value",
    )  # fmt: skip
    goal = command.add_mutually_exclusive_group()
    goal.add_argument("--minimize", metavar="METRIC", help="for --command: the metric to make small")
    goal.add_argument("--maximize", metavar="METRIC", help="for --command: the metric to make large")
    command.add_argument(
        "--constraint", action="append", default=[], metavar="FORMULA",
        help="for --command: a bound on another metric, such as 'peak_gib <= 8'",
    )  # fmt: skip
    command.add_argument("--steps", type=int, help="for --command: the steps of a full trial, if it reports by step")


def problem(args: argparse.Namespace) -> Problem:
    """The problem that a command line describes.

    Raises:
        ProblemError: If it describes none, or two.
    """
    from frugalbo.problem import Fidelity, Maximize, Minimize, command_problem, load_problem
    from frugalbo.space import Space

    if (args.problem is None) == (args.command is None):
        raise ProblemError("expected either a problem or --command, see 'frugalbo tune --help'")
    if args.command is None:
        if args.param or args.minimize or args.maximize or args.steps or args.constraint:
            raise ProblemError("--param, --minimize, --maximize, --constraint and --steps belong to --command")
        return load_problem(args.problem, dict(_pairs(args.set, "--set")))
    if not (args.minimize or args.maximize):
        raise ProblemError("--command needs --minimize METRIC or --maximize METRIC")
    return command_problem(
        args.command,
        name=Path(args.command.split()[-1 if len(args.command.split()) == 1 else 1]).stem or "command",
        space=Space({name: _parameter(name, str(spec)) for name, spec in _pairs(args.param, "--param", literal=False)}),
        objective=Minimize(args.minimize) if args.minimize else Maximize(args.maximize),
        fidelity=Fidelity("steps", 1, args.steps) if args.steps else None,
        constraints=args.constraint,
    )


def _pairs(texts: Iterable[str], option: str, *, literal: bool = True) -> list[tuple[str, Any]]:
    pairs = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise ProblemError(f"{option} expects NAME=VALUE, got {text!r}")
        pairs.append((name.strip(), _literal(value) if literal else value))
    return pairs


def _literal(text: str) -> Any:  # noqa: ANN401 - a number, a truth or a text
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return {"true": True, "false": False, "none": None}.get(text.strip().lower(), text.strip())


def _parameter(name: str, spec: str) -> Parameter:
    from frugalbo.space import Choice, Fixed, Float, Int

    bounds, _, scale = spec.partition(":")
    low, dots, high = bounds.partition("..")
    if not dots:
        values = [_literal(value) for value in spec.split(",")]
        return Choice(values) if len(values) > 1 else Fixed(values[0])
    lower, upper = _literal(low), _literal(high)
    numbers = all(isinstance(bound, (int, float)) and not isinstance(bound, bool) for bound in (lower, upper))
    if not numbers or scale not in ("", "log"):
        raise ProblemError(f"--param {name}: expected LOW..HIGH, LOW..HIGH:log, A,B,C or a value, got {spec!r}")
    kind = Int if isinstance(lower, int) and isinstance(upper, int) else Float
    return kind(lower, upper, log=scale == "log")
