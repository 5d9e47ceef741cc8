"""How long does a suggestion take, and how much memory, beside the other tools?

    python benchmarks/speed.py [--methods ...] [--observations 20 100 300 2000] [--dims 7] [--rounds 20] [--out FILE]
    python benchmarks/speed.py --table [FILE]
    python benchmarks/speed.py --quality [--seeds 8] [--out FILE]
    python benchmarks/speed.py --gap [--out FILE]

Each method runs in a fresh process on one thread. It is given `n` observations at random points of
the unit cube, makes one suggestion that is not counted, and then 20 that are; before each it is told
a fresh result, that of its last suggestion. The methods take turns, one suggestion each, so that
whatever else the machine does hits all of them. What is timed is the asking. The budget is one of
seconds, so that ours also fits its cost model.

* wall and CPU: medians over the rounds, in seconds. CPU is that of all threads of the process.
* memory: the most that was resident at any time, less what was resident after the imports and
  before the first observation.
* A method whose first suggestion takes longer than `PATIENCE_S` is ended and has no figures.

`--quality` asks what the model of a subset costs in quality: 600 random observations of Hartmann's
function in 6 dimensions, then 20 suggestions, each told, by the model of a subset and by that of all.

`--gap` measures how long a slot stands idle between two jobs: 2 slots of the local executor, 100
results known before, jobs that sleep for half a second and for three; in the second the loop has time
to prepare, but for `unprepared`, which is `auto` without that. From the last line of a job to the
first of the next on the same slot: noticing, the journal, the suggestion, and starting a process.

A record is a JSON object in a line: settings, versions, load, and for each number of observations
and method the seconds of every round. `--table` prints the newest such record as tables.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import math
import os
import platform
import resource
import select
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy and torch
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from benchmarks.peers import PEERS, is_installed, make_peer
from frugalbo.budget.amounts import Budget, Cost
from frugalbo.budget.ledger import Ledger
from frugalbo.events import Ended, Outcome, Reported, Started
from frugalbo.job import JobContext
from frugalbo.problem import Minimize, Problem
from frugalbo.propose import make_proposer, preload
from frugalbo.space import Float, Params, Space
from frugalbo.study import Study

OURS = ("auto", "pbgi", "kg", "mes", "jes", "ts", "nei")
METHODS = (*OURS, "ax", "optuna-gp", "optuna-tpe")
OBSERVATIONS = (20, 100, 300, 2000)
PATIENCE_S = 30.0
_SETUP_S = 600.0
RESULTS = Path(__file__).parent / "results" / "speed.jsonl"


def space_of(dims: int) -> Space:
    """The unit cube."""
    return Space({f"x{i}": Float(0, 1) for i in range(dims)})


def observe(params: Params) -> tuple[float, float]:
    """Loss and seconds of a configuration: a bowl with a ripple, dearer with the third coordinate."""
    x = np.array(list(params.values()), dtype=float)
    return float(((x - 0.4) ** 2).sum() + 0.3 * np.sin(9 * x[0] * x[1])), 1.0 + float(x[2])


def record(study: Study, params: Params, loss: float, seconds: float, why: dict[str, Any] | None = None) -> None:
    """A trial that has ended."""
    number = len(study.trials)
    study.apply(Started(number, 0, params, 0, 1, 1, Cost(evaluations=1.0), "bench", 0.0, why or {}))
    study.apply(Reported(number, 0, 1, {"loss": loss}, 0.0))
    study.apply(Ended(number, 0, Outcome.COMPLETED, Cost(evaluations=1.0, device_seconds=seconds), 0.0))


def known(n: int, dims: int) -> Study:
    """A study of `n` observations at random points, with most of its budget left."""
    space, rng = space_of(dims), np.random.default_rng(0)
    problem = Problem("speed", space, "benchmarks.speed:observe", Minimize("loss"))
    study = Study(problem, Ledger(Budget(device_seconds=10.0 * (n + 100))))
    for _ in range(n):
        params = space.sample(rng)
        record(study, params, *observe(params))
    return study


def asker(method: str, n: int, dims: int) -> Callable[[], Callable[[], None]]:
    """Asks for the next configuration; what that returns tells the method what came of it."""
    study = known(n, dims)
    if method not in PEERS:
        proposer = make_proposer(method, study.problem, seed=0)

        def ask() -> Callable[[], None]:
            (found,) = proposer.propose(study, 1)
            assert "instead_of" not in found.why, found.why
            return lambda: record(study, found.params, *observe(found.params), dict(found.why))

        return ask
    peer: Any = make_peer(method, study.problem.space, 0)
    for trial in study.trials.values():
        peer.attach(trial.params, observe(trial.params)[0])

    def ask_peer() -> Callable[[], None]:
        asked = peer.ask()
        assert asked is not None
        return lambda: peer.tell(asked[0], observe(asked[1])[0])

    return ask_peer


# --- one process for each method -----------------------------------------------------------------


def work(method: str, n: int, dims: int) -> None:
    """Answer each line of the input with the time that one suggestion takes, as a line of JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what others print is not an answer
    warnings.simplefilter("ignore")
    import torch

    preload()
    torch.set_num_threads(1)
    if method in PEERS:
        make_peer(method, space_of(dims), 0)  # imports
    before = _resident_bytes()
    ask = asker(method, n, dims)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        tell = ask()
        answer = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        tell()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({**answer, "memory_bytes": peak - before}), file=answers, flush=True)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@dataclass
class Worker:
    """A method in a process of its own."""

    method: str
    n: int
    dims: int
    process: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        command = [sys.executable, __file__, "--worker", self.method, "--observations", str(self.n)]
        command += ["--dims", str(self.dims)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def answer(self, patience_s: float) -> dict[str, Any] | None:
        """The next answer; None if there is none in time, or the process has died."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], patience_s)[0]:
            return None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def ask(self, patience_s: float) -> dict[str, Any] | None:
        """What the next suggestion takes."""
        assert self.process.stdin is not None
        print(file=self.process.stdin, flush=True)
        return self.answer(patience_s)

    def end(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def compare(methods: list[str], n: int, dims: int, rounds: int) -> dict[str, Any]:
    """The methods in turns, at `n` observations."""
    found: dict[str, Any] = {}
    workers: list[Worker] = []
    try:
        for method in methods:
            worker = Worker(method, n, dims)
            workers.append(worker)
            if worker.answer(_SETUP_S) is None:
                found[method] = {"failed": f"not ready in {_SETUP_S:.0f} s"}
            elif worker.ask(PATIENCE_S) is None:
                found[method] = {"failed": f"no first suggestion in {PATIENCE_S:.0f} s"}
            else:
                found[method] = {"wall_s": [], "cpu_s": []}
            if "failed" in found[method]:
                worker.end()
        for _ in range(rounds):
            for worker in workers:
                figures = found[worker.method]
                if "failed" in figures:
                    continue
                if (answer := worker.ask(2 * PATIENCE_S)) is None:
                    found[worker.method] = {"failed": "a suggestion failed or took too long"}
                    worker.end()
                    continue
                for name in ("wall_s", "cpu_s"):
                    figures[name].append(round(answer[name], 4))
                figures["memory_bytes"] = answer["memory_bytes"]
    finally:
        for worker in workers:
            worker.end()
    return found


# --- quality -------------------------------------------------------------------------------------


def quality(seeds: int, n: int = 600, suggestions: int = 20) -> dict[str, list[list[float]]]:
    """Regret after each of some suggestions that follow `n` random observations, for each seed.

    The regret is Hartmann's function less its optimum of -3.32; a random point has 3.1, in the median.
    """
    from benchmarks.engine import functions
    from frugalbo.propose.bo import MODEL_OF, BayesianProposer

    race = next(race for race in functions() if race.name == "hartmann6")
    found: dict[str, list[list[float]]] = {"subset": [], "all": []}
    for seed in range(seeds):
        for name, model_of in (("subset", MODEL_OF), ("all", 10 * n)):
            study, rng = Study(race.problem()), np.random.default_rng([seed, 1])
            for _ in range(n):
                params = race.space.sample(rng)
                record(study, params, race.f(params), 1.0)
            proposer = BayesianProposer(seed=seed, method="ei", model_of=model_of)
            regrets = []
            for _ in range(suggestions):
                (suggestion,) = proposer.propose(study, 1)
                record(study, suggestion.params, race.f(suggestion.params), 1.0, dict(suggestion.why))
                best = study.best()
                assert best is not None
                regrets.append(round((study.value(best) or 0.0) - race.best, 6))
            found[name].append(regrets)
            print(f"seed {seed} {name:7} regret after 1, 5, 20: {regrets[0]} {regrets[4]} {regrets[-1]}", flush=True)
    return found


# --- gaps ----------------------------------------------------------------------------------------


def sleeper(ctx: JobContext) -> None:
    """Does nothing for as long as its context says, and reports when it began and ended."""
    began = time.time()
    time.sleep(float(ctx.params["sleep_s"]))
    loss, _ = observe({k: v for k, v in ctx.params.items() if k != "sleep_s"})
    ctx.report(1, loss=loss, began=began, ended=time.time())


def gaps(sleep_s: float, methods: list[str], jobs: int, folder: Path) -> dict[str, dict[str, list[float]]]:
    """Seconds that slots stood idle between their jobs, and that suggestions took, by method."""
    from frugalbo import run
    from frugalbo.budget.cost import LearnedCost
    from frugalbo.executors.devices import local_slots
    from frugalbo.executors.local import LocalExecutor
    from frugalbo.scheduler.fixed import FixedScheduler
    from frugalbo.session import OpenStudy

    preload()
    calm_s = run._CALM_S
    found: dict[str, dict[str, list[float]]] = {}
    for method in methods:
        knobs: dict[str, Any] = {**space_of(7).parameters, "sleep_s": sleep_s}
        space = Space(knobs)
        problem = Problem("gap", space, f"{Path(__file__).resolve()}:sleeper", Minimize("loss"))
        study = OpenStudy(problem, Budget(evaluations=100 + jobs, device_seconds=1e6))
        rng = np.random.default_rng(0)
        for _ in range(100):
            params = space.sample(rng)
            loss, _ = observe({k: v for k, v in params.items() if k != "sleep_s"})
            record(study, params, loss, sleep_s)
        name = "auto" if method == "unprepared" else method
        scheduler = FixedScheduler(make_proposer(name, problem, seed=0), LearnedCost())
        run._CALM_S = math.inf if method == "unprepared" else calm_s
        executor = LocalExecutor(problem, local_slots("cpu:2"))
        run.RunLoop(study, scheduler, executor, LearnedCost(), folder / f"{method}-{sleep_s}").run()
        trials = [t for t in study.trials.values() if t.number >= 100 and t.reports]
        slots: dict[str, list[Any]] = {}
        for trial in trials:
            slots.setdefault(trial.starts[0].slot, []).append(trial.reports[1])
        idle = [b["began"] - a["ended"] for runs in slots.values() for a, b in itertools.pairwise(runs)]
        # The first of each slot comes after imports and a start of its own.
        thinking = [t.why["seconds"] for t in trials[2:] if "seconds" in t.why]
        found[method] = {"idle_s": [round(g, 4) for g in idle], "suggestion_s": thinking}
        print(
            f"{sleep_s:3} s jobs, {method:10} {len(idle)} gaps, median {1000 * np.median(idle):.0f} ms, "
            f"of which suggesting {1000 * np.median(thinking or [0]):.0f} ms",
            flush=True,
        )
    return found


# --- tables --------------------------------------------------------------------------------------


def medians(figures: dict[str, Any]) -> tuple[float, float, float] | None:
    """Median wall and CPU seconds, and MB; None where there are no figures."""
    if "failed" in figures:
        return None
    return float(np.median(figures["wall_s"])), float(np.median(figures["cpu_s"])), figures["memory_bytes"] / 1e6


def table(found: dict[str, dict[str, Any]]) -> str:
    """Medians by method and number of observations, and the ratios to the peers."""
    numbers = list(found)
    methods = list(found[numbers[0]])
    lines = ["| method | " + " | ".join(f"n = {n}: wall s, CPU s, MB" for n in numbers) + " |"]
    lines.append("| --- |" + " --- |" * len(numbers))
    for method in methods:
        cells = []
        for n in numbers:
            figures = medians(found[n].get(method, {"failed": ""}))
            cells.append("no answer" if figures is None else "{:.3f}, {:.3f}, {:.0f}".format(*figures))
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    for peer in ("ax", "optuna-gp"):
        lines += ["", f"CPU seconds as a multiple of {peer}'s:", "", "| method | " + " | ".join(numbers) + " |"]
        lines.append("| --- |" + " --- |" * len(numbers))
        for method in methods:
            if method in PEERS:
                continue
            cells = []
            for n in numbers:
                ours, theirs = (medians(found[n].get(m, {"failed": ""})) for m in (method, peer))
                cells.append("" if ours is None or theirs is None else f"{ours[1] / theirs[1]:.2f}")
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Time the methods, print tables, append a record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--observations", nargs="*", type=int, default=list(OBSERVATIONS))
    parser.add_argument("--dims", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", nargs="?", type=Path, const=RESULTS, help="print the newest record, run nothing")
    parser.add_argument(
        "--quality", action="store_true", help="compare suggestions of the models of a subset and of all"
    )
    parser.add_argument("--gap", action="store_true", help="measure how long slots stand idle between jobs")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return work(args.worker, args.observations[0], args.dims)
    if args.table:
        records = [json.loads(line) for line in args.table.read_text().splitlines()]
        return print(table([r for r in records if "seconds" in r][-1]["seconds"]))
    methods = [m for m in args.methods if m not in PEERS or is_installed(m)]
    packages = ("frugalbo", "torch", "botorch", "ax-platform", *(["optuna"] if is_installed("optuna-gp") else []))
    load = os.getloadavg()[0]
    if args.quality:
        found = {"regret": quality(args.seeds)}
    elif args.gap:
        with tempfile.TemporaryDirectory() as folder:
            jobs = {"0.5": 24, "3": 12}
            found = {
                "gaps": {s: gaps(float(s), ["auto", "unprepared", "sobol"], n, Path(folder)) for s, n in jobs.items()}
            }
    else:
        found = {"seconds": {str(n): compare(methods, n, args.dims, args.rounds) for n in args.observations}}
        print(table(found["seconds"]))
    if args.out:
        line = {
            "benchmark": "speed",
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "versions": {k: importlib.metadata.version(k) for k in packages},
            "dims": 6 if args.quality else args.dims,
            "load": [round(load, 2), round(os.getloadavg()[0], 2)],
            **found,
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with args.out.open("a") as file:
            file.write(json.dumps(line) + "\n")
    return None


if __name__ == "__main__":
    main()
