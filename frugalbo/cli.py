"""The command line: `frugalbo tune | worker | pause | resume | together | simulate | metabo | status | best ...`.

Results go to stdout, refusals to stderr in one sentence with exit code 2. Exit code 1 says that
the run ended without a single successful trial, or without one that meets its constraints, 130 that
the user interrupted it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from frugalbo import cli_metabo, cli_problem, cli_report, cli_serve, cli_simulate, cli_together, cli_worker
from frugalbo.errors import FrugalError, ProblemError, StudyError
from frugalbo.table import FORMATS

if TYPE_CHECKING:
    from frugalbo.live import View
    from frugalbo.report import Report
    from frugalbo.store import Store
    from frugalbo.study import Study

_EXAMPLES = """\
examples:
  frugalbo tune problems/tiny_llama --budget 2min
  frugalbo tune my_problem.py --budget "8 GPU-hours" --devices cuda:0,1
  frugalbo tune --command "python train.py --lr {lr} --layers {layers}" \\
      --param lr=1e-5..1e-1:log --param layers=1..8 --minimize loss --budget "1h, 50 trials"
  frugalbo resume && frugalbo report
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        return args.call(args)
    except FrugalError as error:
        print(f"frugalbo: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader has gone (`frugalbo export | head`); nothing more can be said on stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="frugalbo",
        description="Find the best configuration that a budget can buy.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    storage = argparse.ArgumentParser(add_help=False)
    storage.add_argument("--storage", default=None, metavar="URL", help="database file or URL (.frugalbo/runs.db)")
    which = argparse.ArgumentParser(add_help=False, parents=[storage])
    which.add_argument("run", nargs="?", help="name of the run; the newest by default")
    view = argparse.ArgumentParser(add_help=False)
    view.add_argument("--json", action="store_true", help="print JSON, one event a line while running")
    out = argparse.ArgumentParser(add_help=False)
    out.add_argument("--report", metavar="FOLDER", help="where to write the report (beside the run)")
    out.add_argument("--no-report", action="store_true", help="write no report")

    tune = commands.add_parser("tune", parents=[storage, view, out], help="start a run")
    cli_problem.add_arguments(tune)
    tune.add_argument("--budget", required=True, help="such as 10min, '2.5 GPU-hours', '20 USD', '1h wall, 50 trials'")
    tune.add_argument("--devices", help="such as cuda, cuda:0,1, cpu:2, cpu:2x4; all that are found by default")
    tune.add_argument(
        "--backend", default="local", metavar="NAME",
        help="where trials run: local, http, http:ADDRESS, ray, ray:ADDRESS, slurm, slurm:PARTITION, or a file of TOML",
    )  # fmt: skip
    tune.add_argument("--price", type=float, default=0.0, metavar="USD", help="price of a device-hour")
    tune.add_argument("--pools", metavar="FILE", help="devices of several prices and speeds, in a file of TOML")
    tune.add_argument("--trial-cap", metavar="TIME", help="the most time that one trial may take")
    tune.add_argument(
        "--cost", metavar="TEXT",
        help="what is known of a trial's device-seconds: a formula such as '2 + 0.001 * width * steps', or some of "
        "'like width * depth', 'grows with width, depth', 'startup 20s', 'typical 10min', parted by ;",
    )  # fmt: skip
    tune.add_argument(
        "--method",
        default="auto",
        help="auto, bo, pbgi, bmsei, metabo, ei, qei, nei, ucb, kg, mes, jes, pes, ts, sobol, random",
    )
    tune.add_argument("--weights", metavar="FILE", help="for --method metabo: weights of your own, see metabo adapt")
    tune.add_argument(
        "--scheduler", default="auto", help="auto, fixed, sh, hyperband, asha, freeze-thaw, asha-stop, median"
    )
    tune.add_argument("--min-gain", metavar="GAIN", help="stop when less is to be expected, such as '0.001 per 60s'")
    tune.add_argument("--stop-regret", type=float, metavar="REGRET", help="stop when no more than this can be gained")
    tune.add_argument("--seed", type=int, default=0)
    tune.set_defaults(call=_tune)

    pause = commands.add_parser("pause", parents=[which], help="end a run that is at work, so that it can be resumed")
    pause.set_defaults(call=_pause)

    resume = commands.add_parser("resume", parents=[which, view, out], help="go on with a run")
    resume.add_argument("--budget", help="a new budget for the whole run, what is spent included")
    resume.add_argument("--min-gain", metavar="GAIN", help="a new one; none to spend all of the budget")
    resume.add_argument("--stop-regret", type=_none_or_number, metavar="REGRET", help="a new one; none to do without")
    resume.add_argument("--pools", metavar="FILE", help="new pools, such as with larger budgets")
    resume.add_argument(
        "--standby", action="store_true", help="wait while another controller is at work on it, go on if that dies"
    )
    resume.set_defaults(call=_resume)

    together = commands.add_parser(
        "together", parents=[storage, view, out], help="tune several problems with one budget"
    )
    cli_together.add_arguments(together)
    together.set_defaults(call=lambda args: cli_together.run(args, _storage(args), _view(args)))

    simulate = commands.add_parser("simulate", parents=[storage], help="what a budget would buy, on recorded trials")
    cli_simulate.add_arguments(simulate)
    simulate.set_defaults(call=lambda args: cli_simulate.run(args, _storage(args)))

    worker = commands.add_parser("worker", help="offer this machine's devices to a run with --backend http elsewhere")
    cli_worker.add_arguments(worker)
    worker.set_defaults(call=cli_worker.run)

    serve = commands.add_parser("serve", parents=[storage], help="show the runs of a storage in a browser")
    cli_serve.add_arguments(serve)
    serve.set_defaults(call=_serve)

    cli_metabo.add_arguments(commands.add_parser("metabo", help="train, judge or adapt what proposes as metabo"))

    for name, call, help_ in (
        ("status", _status, "where a run stands; --all lists every run"),
        ("best", _best, "the best configuration of a run"),
        ("explain", _explain, "why a configuration was chosen"),
        ("report", _report, "write the report of a run"),
        ("export", _export, "the trials of a run as CSV, JSON or Parquet"),
    ):
        command = commands.add_parser(name, parents=[which], help=help_)
        command.set_defaults(call=call)
        if name in ("status", "best"):
            command.add_argument("--json", action="store_true", help="print JSON")
        if name == "status":
            command.add_argument("--all", action="store_true", help="list all runs")
        if name == "explain":
            command.add_argument("--trial", type=int, metavar="N", help="its number; the best by default")
        if name == "report":
            cli_report.add_arguments(command)
        if name == "export":
            command.add_argument("--format", choices=FORMATS, help="what FILE ends with, else csv")
            command.add_argument("--out", metavar="FILE", help="where to (stdout); needed for parquet")
            command.add_argument("--reports", action="store_true", help="a row for each report, not for each trial")
    return parser


def _tune(args: argparse.Namespace) -> int:
    from frugalbo.api import tune

    problem = cli_problem.problem(args)
    with _view(args) as view:
        report = tune(
            problem,
            budget=args.budget,
            seed=args.seed,
            method=cli_metabo.method(args),
            scheduler=args.scheduler,
            backend=args.backend,
            devices=args.devices,
            dollars_per_hour=args.price,
            pools=args.pools,
            trial_cap=args.trial_cap,
            min_gain=args.min_gain,
            stop_regret=args.stop_regret,
            cost=args.cost,
            storage=_storage(args),
            observe=view,
        )
    return _finish(report, args)


def _pause(args: argparse.Namespace) -> int:
    from frugalbo.api import pause

    run = pause(args.run, storage=_existing(args))
    print(f"{run} is pausing; go on with: frugalbo resume {run}")
    return 0


def _resume(args: argparse.Namespace) -> int:
    from frugalbo.api import resume

    with _view(args) as view:
        report = resume(
            args.run,
            storage=_existing(args),
            budget=args.budget,
            min_gain=args.min_gain,
            stop_regret=args.stop_regret,
            pools=args.pools,
            observe=view,
            standby=args.standby,
        )
    return _finish(report, args)


def _finish(report: Report, args: argparse.Namespace) -> int:
    from frugalbo.report.wording import violation
    from frugalbo.run import INTERRUPTED, PAUSED, TOO_SMALL

    page = None
    if not args.no_report:
        page = report.write(_report_folder(args, args.report, str(report.run_id)))
    if args.json:
        print(json.dumps({"kind": "report", **report.to_json(leave_one_out=True)}, allow_nan=False))
    else:
        print(report.summary())
        if page:
            print(f"\nreport: {page}")
    if report.stop_reason == INTERRUPTED:
        print(f"go on with: frugalbo resume {report.run_id}", file=sys.stderr)
        return 130
    if report.stop_reason == PAUSED:
        print(f"go on with: frugalbo resume {report.run_id}", file=sys.stderr)
        return 0
    if report.best is None:
        print(f"frugalbo: {report.stop_reason}", file=sys.stderr)
        return 2 if report.stop_reason.startswith(TOO_SMALL) else 1
    if not report.is_feasible:
        print(f"frugalbo: no trial meets the constraints; trial {report.best.number}, the nearest, "
              f"{violation(report.study, report.best)}", file=sys.stderr)  # fmt: skip
        return 1
    return 0


def _status(args: argparse.Namespace) -> int:
    from frugalbo.live import render

    with _open(args) as store:
        if args.all:
            return _list(store, args)
        record = store.run(args.run)
        study = _study(store, record.id)
        if args.json:
            facts = cli_report.report_of(store, record.id).to_json()
            print(json.dumps({"run": record.id, "running": bool(record.holder), **facts}))
            return 0
        from rich.console import Console

        state = f"running ({record.holder})" if record.holder else "not running"
        print(f"{record.id}: {state}, started {_when(record.created_at)}")
        assert study.ledger is not None
        Console().print(render(study, study.ledger.balance()))
    return 0


def _list(store: Store, args: argparse.Namespace) -> int:
    rows = [
        {
            "run": run.id,
            "created": _when(run.created_at),
            "running": bool(run.holder),
            "events": run.events,
            "budget": run.spec["budget"],
        }
        for run in store.runs()
    ]
    if args.json:
        print(json.dumps(rows))
        return 0
    for row in rows:
        budget = ", ".join(f"{amount:g} {name.replace('_', ' ')}" for name, amount in row["budget"].items())
        state = "running" if row["running"] else ""
        print(f"{row['run']:24} {row['created']}  {row['events']:6} events  {budget}  {state}".rstrip())
    return 0


def _best(args: argparse.Namespace) -> int:
    from frugalbo.report import feasibility_json
    from frugalbo.report.wording import violation

    with _open(args) as store:
        record = store.run(args.run)
        study = _study(store, record.id)
    best = study.best()
    if best is None:
        print(f"frugalbo: no trial of {record.id} has succeeded yet", file=sys.stderr)
        return 1
    metric, value, step = study.problem.objective.metric, study.best_value(), study.compared_at()
    if args.json:
        facts = {"run": record.id, "trial": best.number, metric: value, "step": step, "params": best.params}
        print(json.dumps(facts | feasibility_json(study, best)))
    else:
        lacking = violation(study, best)
        short = "" if step == study.problem.steps else f" at step {step}, as no trial has run to the end"
        print(f"trial {best.number}: {metric} = {value:.6g}{short}" + (f", but it {lacking}" if lacking else ""))
        for name, setting in best.params.items():
            print(f"  {name} = {setting}")
    return 0


def _explain(args: argparse.Namespace) -> int:
    with _open(args) as store:
        record = store.run(args.run)
        study = _study(store, record.id)
    trial = study.best() if args.trial is None else args.trial
    if trial is None:
        raise StudyError(f"no trial of {record.id} has succeeded yet; say which one with --trial")
    print(study.explain(trial))
    return 0


def _report(args: argparse.Namespace) -> int:
    from frugalbo.stored import folder_of

    with _open(args) as store:
        return cli_report.run(args, store, folder_of(_storage(args), ""))


def _serve(args: argparse.Namespace) -> int:
    with _open(args) as store:
        return cli_serve.run(args, store)


def _export(args: argparse.Namespace) -> int:
    from frugalbo.table import as_text, report_table, trial_table, write_table

    with _open(args) as store:
        study = _study(store, store.run(args.run).id)
    rows = report_table(study) if args.reports else trial_table(study)
    form = args.format or (Path(args.out).suffix.removeprefix(".") if args.out else "csv")
    if args.out:
        write_table(rows, args.out, form)
    else:
        sys.stdout.write(as_text(rows, form))
        sys.stdout.flush()
    return 0


def _none_or_number(text: str) -> float | str:
    return "none" if text == "none" else float(text)


def _view(args: argparse.Namespace) -> View:
    from frugalbo.live import JsonView, LogView, TableView

    # A job scheduler that ends us politely is a user who presses Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    if args.json:
        return JsonView()
    return TableView() if sys.stdout.isatty() else LogView()


def _storage(args: argparse.Namespace) -> str:
    from frugalbo.stored import DEFAULT_STORAGE

    return args.storage or DEFAULT_STORAGE


def _existing(args: argparse.Namespace) -> str:
    """The storage of a command that only makes sense on one that is there."""
    where = _storage(args)
    if "://" not in where and not Path(where).exists():
        raise ProblemError(f"no runs are stored at {where!r} yet; start one with 'frugalbo tune', or give --storage")
    return where


def _open(args: argparse.Namespace) -> Store:
    from frugalbo.store import Store

    return Store(_existing(args))


def _study(store: Store, run_id: str) -> Study:
    from frugalbo.stored import read_study

    return read_study(store, run_id)


def _report_folder(args: argparse.Namespace, wanted: str | None, run_id: str) -> Path:
    from frugalbo.stored import folder_of

    return Path(wanted) if wanted else folder_of(_storage(args), run_id) / "report"


def _when(stamp: float) -> str:
    return datetime.fromtimestamp(stamp, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")


if __name__ == "__main__":
    sys.exit(main())
