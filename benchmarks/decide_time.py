"""How long does freeze-thaw take to decide, with 200 and with 1,000 live trials?

    python benchmarks/decide_time.py --out benchmarks/results/decide_time.jsonl
    python benchmarks/decide_time.py --table

On the problem of `benchmarks/scale.py`, one simulated device, costs known. Until 50 trials before the number asked for,
configurations are random; then `random` goes on with these and `auto` asks the model, and the decisions of the next 100
trials are timed: those that start a trial, with the suggestion, and those that resume one. The space has two
dimensions. A trial is live as long as it runs or is held. Times are of the processor, on one thread.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from benchmarks import race, scale
from frugalbo.budget.amounts import Budget
from frugalbo.budget.cost import CostModel, KnownCost
from frugalbo.budget.ledger import Balance
from frugalbo.executors.simulated import SimulatedExecutor
from frugalbo.propose import Proposer, Suggestion, make_proposer
from frugalbo.run import RunLoop
from frugalbo.scheduler.base import Decision, Start
from frugalbo.scheduler.freeze_thaw import FreezeThawScheduler
from frugalbo.session import OpenStudy
from frugalbo.slot import Slot
from frugalbo.study import Status, Study

RESULTS = Path(__file__).parent / "results" / "decide_time.jsonl"
LIVE = (200, 1000)
AROUND = 50


class _Enough(Exception):
    """All that was to be timed has been."""


class _From:
    """Random configurations for the first trials, then those of another proposer."""

    def __init__(self, first: int, then: Proposer) -> None:
        self.first, self.then = first, then
        self.random = make_proposer("random", scale.PROBLEM, seed=0)

    def propose(self, study: Study, n: int) -> Sequence[Suggestion]:
        return (self.random if len(study.trials) < self.first else self.then).propose(study, n)


class _Timed(FreezeThawScheduler):
    """Freeze-thaw that notes how long each decision took, while so many trials are live."""

    def __init__(self, live: int, proposer: Proposer, costs: CostModel) -> None:
        super().__init__(proposer, costs)
        self.live = live
        self.took_s: dict[bool, list[float]] = {True: [], False: []}  # by whether a trial started

    def decide(self, study: Study, balance: Balance, slots: Sequence[Slot]) -> Sequence[Decision]:
        """As freeze-thaw does."""
        live = study.count(Status.RUNNING, Status.PAUSED)
        began = time.process_time()
        decisions = super().decide(study, balance, slots)
        if live > self.live + AROUND:
            raise _Enough
        if live >= self.live - AROUND:
            self.took_s[any(isinstance(d, Start) for d in decisions)].append(time.process_time() - began)
        return decisions


def measure(live: int, method: str) -> dict[str, Any]:
    """The decisions around so many live trials, as a record."""
    study = OpenStudy(scale.PROBLEM, Budget(device_seconds=1e9))
    costs = KnownCost(scale.seconds)
    proposer = _From(live - AROUND, make_proposer(method, scale.PROBLEM, seed=0))
    scheduler = _Timed(live, proposer, costs)
    executor = SimulatedExecutor(scale.PROBLEM, [Slot("sim:0", "cpu", 0)], scale.curve, start_up_s=scale.START_UP_S)
    with contextlib.suppress(_Enough):
        RunLoop(study, scheduler, executor, costs, Path("unused")).run()
    ms = {name: 1000 * np.array(scheduler.took_s[flag]) for name, flag in (("start", True), ("resume", False))}
    return {
        "live": live,
        "method": method,
        "version": race.version("ours"),
        "trials": len(study.trials),
        **{
            name: {"n": len(took)} | {f"p{q}_ms": round(float(np.percentile(took, q)), 2) for q in (50, 99)}
            for name, took in ms.items()
        },
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def markdown(records: Sequence[dict[str, Any]]) -> str:
    """The newest record of each case."""
    lines = [
        "| live | configurations | start, ms: median | p99 | resume, ms: median | p99 |",
        "|" + " --- |" * 6,
    ]
    for (live, method), r in sorted({(r["live"], r["method"]): r for r in records}.items()):
        cells = [r[name][key] for name in ("start", "resume") for key in ("p50_ms", "p99_ms")]
        lines.append(f"| {live} | {method} | " + " | ".join(f"{c:.1f}" for c in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure or tabulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--live", nargs="*", type=int, default=list(LIVE))
    parser.add_argument("--methods", nargs="*", default=["random", "auto"])
    parser.add_argument("--table", action="store_true", help="print the summary as Markdown, run nothing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    if asked.table:
        print(markdown([json.loads(line) for line in asked.out.read_text().splitlines()]))
        return
    with asked.out.open("a") as file:
        for live in asked.live:
            for method in asked.methods:
                file.write(json.dumps(measure(live, method)) + "\n")
                file.flush()


if __name__ == "__main__":
    main()
