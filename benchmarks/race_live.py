"""Which scheduler gives the best answer for a budget, where the job is really trained?

    python benchmarks/race_live.py --out benchmarks/results/race_live.jsonl
        [--methods fixed asha freeze-thaw] [--seeds 3] [--budget 8] [--steps 256]
    python benchmarks/race_live.py --table

The miniature of `problems/tiny_llama`, trained for each configuration that a scheduler starts. What is charged is not
the seconds that it takes, which hang on what else the machine does, but a second for each step, on a virtual clock with
two slots. The budget is so many full runs. All schedulers draw configurations at random, trial number for trial number
the same.

The job's fidelity is `"replanned"`: a run of fewer steps has a schedule of its own, and going on means to start again.
So `"auto"` is `fixed` here, and `freeze-thaw` is ASHA that sends one in four on, without a last part.

`loss` is the validation loss of the answer after a full run, which is trained for the record where the tool did not;
that is not charged. Each race is a line of JSON; one that is there for the same version is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks import race, tiny_llama_reference
from benchmarks.records import read, train_here
from frugalbo.budget.amounts import Budget
from frugalbo.budget.cost import KnownCost
from frugalbo.events import Failure
from frugalbo.executors.simulated import Curve, SimulatedExecutor
from frugalbo.problem import Problem, load_problem
from frugalbo.propose.random import RandomProposer
from frugalbo.run import RunLoop
from frugalbo.scheduler import make_scheduler
from frugalbo.session import OpenStudy
from frugalbo.slot import Slot
from frugalbo.space import Params

RESULTS = Path(__file__).parent / "results" / "race_live.jsonl"
METHODS = ("fixed", "asha", "freeze-thaw")
SLOTS = 2
COST = KnownCost(lambda params, start, until: float(until - start))


def trained(params: Params, planned: int, seed: int) -> Curve:
    """The reports of a training of so many steps, a second for each step."""
    return _trained(tuple(params.items()), planned, seed)


@cache  # schedulers start many configurations in common
def _trained(params: tuple[tuple[str, Any], ...], planned: int, seed: int) -> Curve:
    reports, why = train_here(tiny_llama_reference.job().main, dict(params), seed, planned, "val_loss")
    failure = None if why is None else Failure.DIVERGED
    steps = [report["step"] for report in reports]
    return Curve(steps, [float(s) for s in steps], [dict(report["metrics"]) for report in reports], failure)


def run_cell(problem: Problem, method: str, budget: float, seed: int) -> dict[str, Any]:
    """One race as a record."""
    study = OpenStudy(problem, Budget(device_seconds=budget * problem.steps))
    slots = [Slot(f"sim:{i}", "cpu", i) for i in range(SLOTS)]
    executor = SimulatedExecutor(problem, slots, lambda params, planned, _: trained(params, planned, seed))
    scheduler = make_scheduler(method, RandomProposer(seed=seed), COST)
    RunLoop(study, scheduler, executor, COST, Path("unused"), seed).run()
    best = study.best()
    loss = None if best is None else trained(best.params, problem.steps, seed).metrics[-1].get("val_loss")
    return {
        "method": method,
        "budget": budget,
        "steps": problem.steps,
        "seed": seed,
        "version": race.version("ours"),
        "loss": loss,
        "at_step": study.compared_at(),
        "trials": len(study.trials),
        "full": sum(study.value(trial) is not None for trial in study.trials.values()),
        "torch": torch.__version__,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def markdown(records: list[dict[str, Any]]) -> str:
    """Validation losses of the answers by method, over the seeds."""
    grouped: dict[tuple[float, int, str], dict[int, dict[str, Any]]] = defaultdict(dict)
    for r in records:
        grouped[r["budget"], r["steps"], r["method"]][r["seed"]] = r
    lines = ["| full runs | steps | method | loss by seed | mean | trials | full |", "|" + " --- |" * 7]
    for (budget, steps, method), by_seed in sorted(grouped.items()):
        losses = [r["loss"] for _, r in sorted(by_seed.items())]
        cells = [
            f"{budget:g}", steps, method, " ".join(f"{x:.3f}" for x in losses), f"{fmean(losses):.3f}",
            f"{fmean(r['trials'] for r in by_seed.values()):.1f}", f"{fmean(r['full'] for r in by_seed.values()):.1f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run or tabulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=float, default=8, help="in full runs")
    parser.add_argument("--steps", type=int, default=256, help="of a full run")
    parser.add_argument("--table", action="store_true", help="print the summary as Markdown, run nothing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    if asked.table:
        print(markdown(read(asked.out)))
        return
    torch.set_num_threads(1)
    problem = load_problem("problems/tiny_llama", {"steps": asked.steps})
    done = {(r["method"], r["budget"], r["steps"], r["seed"], r["version"]) for r in read(asked.out)}
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    with asked.out.open("a") as file:
        for seed in range(asked.seeds):
            for method in asked.methods:
                if (method, asked.budget, asked.steps, seed, race.version("ours")) not in done:
                    file.write(json.dumps(run_cell(problem, method, asked.budget, seed)) + "\n")
                    file.flush()


if __name__ == "__main__":
    main()
