"""`frugalbo simulate`: what a budget would buy, on recorded trials."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frugalbo.errors import ProblemError

if TYPE_CHECKING:
    from frugalbo.budget.amounts import Cost
    from frugalbo.recording import Recording
    from frugalbo.replay import Purchase


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The options of the command."""
    command.add_argument("run", nargs="?", help="a stored run (the newest by default), or a table: a file of CSV")
    command.add_argument("--budget", required=True, help="as for tune")
    command.add_argument("--scheduler", default="auto", help="as for tune")
    command.add_argument("--method", default="random", help="as for tune; the nearest recorded configuration is taken")
    command.add_argument("--pools", metavar="FILE", help="as for tune; their devices may be numbers")
    command.add_argument("--devices", type=int, default=1, metavar="N", help="how many, if there are no pools")
    command.add_argument(
        "--price", type=float, default=0.0, metavar="USD", help="price of a device-hour, without pools"
    )
    command.add_argument("--seeds", type=int, default=20, metavar="N", help="how many times each budget is played (20)")
    command.add_argument("--start-up", default="0s", metavar="TIME", help="what each segment costs beside its steps")
    command.add_argument("--reload", default="0s", metavar="TIME", help="what a resumed segment costs on top")
    command.add_argument("--failures", type=float, default=0.0, metavar="N", help="failures per device-hour")
    command.add_argument("--preemptions", type=float, default=0.0, metavar="N", help="pre-emptions per hour of a slot")
    goal = command.add_mutually_exclusive_group()
    goal.add_argument("--minimize", metavar="METRIC", help="for a table: the column to make small")
    goal.add_argument("--maximize", metavar="METRIC", help="for a table: the column to make large")
    command.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace, storage: str) -> int:
    """Play, and say what came out; returns the exit code."""
    from frugalbo.api import seconds
    from frugalbo.executors.simulated import Hazards
    from frugalbo.replay import simulate

    recording = _recording(args, storage)
    bought = simulate(
        recording,
        budget=args.budget,
        scheduler=args.scheduler,
        method=args.method,
        pools=args.pools,
        devices=args.devices,
        dollars_per_hour=args.price,
        seeds=args.seeds,
        start_up_s=seconds(args.start_up) or 0.0,
        reload_s=seconds(args.reload) or 0.0,
        hazards=Hazards(args.failures, args.preemptions),
    )
    if args.json:
        print(json.dumps(_facts(recording, bought), allow_nan=False))
    else:
        print("\n".join(_lines(recording, bought)))
    return 0


def _recording(args: argparse.Namespace, storage: str) -> Recording:
    from frugalbo.problem import Maximize, Minimize
    from frugalbo.recording import Recording

    metric = args.minimize or args.maximize
    if args.run is None or Path(args.run).suffix != ".csv":
        if metric:
            raise ProblemError("--minimize and --maximize belong to a table; a stored run knows its objective")
        return Recording.of_run(args.run, storage=storage)
    if not metric:
        raise ProblemError("a table needs --minimize METRIC or --maximize METRIC")
    return Recording.of_table(args.run, (Minimize if args.minimize else Maximize)(metric))


def _lines(recording: Recording, bought: Sequence[Purchase]) -> list[str]:
    metric, seeds = recording.problem.objective.metric, len(bought[0].values)
    said = [f"{len(recording.curves)} recorded configurations of {recording.problem.name}, {seeds} seeds each"]
    if recording.left_out:
        said.append(f"{recording.left_out} trials that had not gone to their end are left out")
    rows = [["budget", f"best {metric}", "4 seeds in 5", "trials", "done", "wall", "spent"]]
    for b in bought:
        value = f"{b.expected:.5g}" if b.known else _short(b, recording) or "none"
        low, high = b.interval
        interval = f"{low:.5g} .. {high:.5g}" if b.known else ""
        spent = "; ".join(_spent(name, used) for name, used in b.spent.items())
        rows.append([_budget(b), value, interval, f"{b.trials:.1f}", f"{b.completed:.1f}", f"{b.wall_s:.4g} s", spent])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    said += ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    said.append(f"the best of all that is recorded: {recording.best():.5g}")
    for b in bought:
        if missing := seeds - len(b.known):
            of = "" if not b.known else "; the mean is of the others"
            at = f", where {b.short[2]} of {seeds} seeds came to step {b.short[0]}" if b.short and not b.known else ""
            said.append(f"with {_budget(b)}, no trial ran to its end in {missing} of {seeds} seeds{of}{at}")
        if b.exhausted:
            text = f"with {_budget(b)}, {b.exhausted:.0%} of the seeds tried every recorded configuration"
            said.append(f"{text}: a real run could go on to others")
    return said


def _short(bought: Purchase, recording: Recording) -> str | None:
    """The best result short of the end, with its step; None if there is none."""
    if bought.short is None:
        return None
    step, value, _ = bought.short
    return f"{value:.5g} at step {step} of {recording.problem.steps}"


def _budget(bought: Purchase) -> str:
    from frugalbo.report.wording import amount

    return ", ".join(amount(name, total) for name, total in bought.budget.limits().items())


def _spent(pool: str, used: Cost) -> str:
    from frugalbo.report.wording import amount

    money = f", {amount('dollars', used.dollars)}" if used.dollars else ""
    return f"{pool} {amount('device_seconds', used.device_seconds)}{money}"


def _facts(recording: Recording, bought: Sequence[Purchase]) -> dict[str, Any]:
    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        "problem": recording.problem.name,
        "metric": recording.problem.objective.metric,
        "configurations": len(recording.curves),
        "left_out": recording.left_out,
        "best_recorded": finite(recording.best()),
        "bought": [
            {
                "budget": b.budget.to_json(),
                "expected": finite(b.expected),
                "interval": [finite(value) for value in b.interval],
                "values": [finite(value) for value in b.values],
                "partial": [found and {"step": found[0], "value": found[1]} for found in b.partial],
                "trials": b.trials,
                "completed": b.completed,
                "wall_s": b.wall_s,
                "exhausted": b.exhausted,
                "pools": {name: used.to_json() for name, used in b.spent.items()},
            }
            for b in bought
        ],
    }
