"""`frugalbo together`: several problems, one budget, from the command line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from frugalbo.errors import ProblemError

if TYPE_CHECKING:
    from frugalbo.budget.ledger import Balance
    from frugalbo.events import Event
    from frugalbo.live import View
    from frugalbo.problem import Problem
    from frugalbo.run import Observer
    from frugalbo.study import Study
    from frugalbo.together import Together


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What the command can do."""
    command.add_argument("problems", nargs="*", metavar="[NAME=]PROBLEM", help="two or more, each as for tune")
    command.add_argument("--resume", action="store_true", help="go on with the newest that share a budget")
    command.add_argument("--budget", help="of all together, as for tune; with --resume a new one, if any")
    command.add_argument(
        "--worth", action="append", default=[], metavar="NAME=NUMBER",
        help="what a unit of its objective is worth, for each; by default each counts by how far it has come",
    )  # fmt: skip
    command.add_argument("--method", default="auto", help="as for tune")
    command.add_argument("--scheduler", default="auto", help="as for tune")
    command.add_argument("--devices", help="as for tune; those who have a turn have all of them")
    command.add_argument("--price", type=float, default=0.0, metavar="USD", help="price of a device-hour")
    command.add_argument("--trial-cap", metavar="TIME", help="the most time that one trial may take")
    command.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace, storage: str, view: View) -> int:
    """Tune or go on, write a report of each problem and print what came of all; returns the exit code.

    Raises:
        FrugalError: If the arguments do not fit together, or one of them makes no sense.
    """
    from frugalbo.stored import folder_of

    with view, _turns(view, as_json=args.json) as observe:
        done = _resumed(args, storage, observe) if args.resume else _tuned(args, storage, observe)
    pages = {}
    if not args.no_report:
        for name, report in done.reports.items():
            run_id = str(report.run_id)
            root = Path(args.report) / name if args.report else folder_of(storage, run_id) / "report"
            pages[name] = str(report.write(root))
    if args.json:
        each = {name: report.to_json(leave_one_out=True) for name, report in done.reports.items()}
        summary = {"kind": "together", "stop_reason": done.stop_reason, "problems": each}
        print(json.dumps(summary, allow_nan=False))
    else:
        print(done.summary())
        print("".join(f"\nreport of {name}: {page}" for name, page in pages.items()))
    return _exit_code(done)


def _tuned(args: argparse.Namespace, storage: str, observe: Observer) -> Together:
    from frugalbo.together import tune_together

    if args.budget is None:
        raise ProblemError("the budget is missing: expected --budget with what all problems may spend together")
    problems = _problems(args.problems)
    return tune_together(
        problems,
        budget=args.budget,
        worth=_worth(args.worth, problems) if args.worth else None,
        seed=args.seed,
        method=args.method,
        scheduler=args.scheduler,
        devices=args.devices,
        dollars_per_hour=args.price,
        trial_cap=args.trial_cap,
        storage=storage,
        observe=observe,
    )


def _resumed(args: argparse.Namespace, storage: str, observe: Observer) -> Together:
    from frugalbo.together import resume_together

    if args.problems:
        raise ProblemError(f"--resume goes on with what is stored, so it takes no problems, got {args.problems}")
    return resume_together(storage=storage, budget=args.budget, observe=observe)


def _problems(texts: Sequence[str]) -> dict[str, Problem]:
    from frugalbo.problem import load_problem

    found: dict[str, Problem] = {}
    for text in texts:
        name, is_named, path = text.partition("=")
        problem = load_problem(path if is_named else text)
        name = name if is_named else problem.name
        if name in found:
            raise ProblemError(f"two problems are called {name!r}; give them names, as in NAME={path or text}")
        found[name] = replace(problem, name=name)
    return found


def _worth(texts: Sequence[str], problems: dict[str, Problem]) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            found[name] = float(number)
        except ValueError:
            raise ProblemError(
                f"expected --worth NAME=NUMBER with one of {', '.join(problems)}, got {text!r}"
            ) from None
    return found


@contextmanager
def _turns(view: View, *, as_json: bool) -> Iterator[Observer]:
    """A view that says whose turn it is before it shows what comes."""
    from frugalbo.live import TableView

    last = ""

    def observe(study: Study, balance: Balance, events: Sequence[Event]) -> None:
        nonlocal last
        if events and study.problem.name != last and not isinstance(view, TableView):
            last = study.problem.name
            print(json.dumps({"kind": "turn", "problem": last}) if as_json else f"{last}:", flush=True)
        view(study, balance, events)

    yield observe


def _exit_code(done: Together) -> int:
    """As of `tune`: 130 if the user interrupted it, 1 if a problem has no answer that keeps its constraints."""
    from frugalbo.run import INTERRUPTED

    if done.stop_reason == INTERRUPTED:
        return 130
    return 0 if all(report.best is not None and report.is_feasible for report in done.reports.values()) else 1
