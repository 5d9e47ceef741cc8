"""What does it bring to ask prices where work should go, in the place of the order in line?

    python benchmarks/pools.py --out benchmarks/results/pools.jsonl
    python benchmarks/pools.py --table

Simulated runs on a closed-form problem, in several pools, each with the slots ranked by prices and with the slots in
line: the dear pool first, and the cheap one first. Everything else is the same. `usd_per_hour` is what an hour of work
(at speed 1, as far as it is in a checkpoint) cost in dollars, `hours` how much work that was, `wall_h` how long the
run took, `lost` the share of the work that was done twice, or to start.

| case | work | pools |
|---|---|---|
| `few` | 8 trials, run to the end, for 12 slots | slow 1 USD, fast (x2) 3 USD an hour |
| `rounds` | successive halving: near a round's end fewer trials than slots | the same |
| `busy` | random trials to the end: every slot always has work | the same |
| `spot` | 8 trials for 12 slots | own 1 USD, spot 0.6 USD, taken away every four hours |
| `hours 48` | as `busy`, and 48 hours on the clock are allowed | as `busy` |
| `hours 24` | the same, with 24 hours | the same |
| `hours 12` | the same, with 12 hours | the same |

In the last three a fourth rule, `impatient`, places by prices and leaves no slot idle.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from frugalbo.budget.amounts import Budget
from frugalbo.budget.cost import LearnedCost
from frugalbo.budget.price import Market
from frugalbo.executors.devices import simulated_slots
from frugalbo.executors.simulated import Curve, Hazards, SimulatedExecutor
from frugalbo.pool import Pool, budgets_of
from frugalbo.problem import Fidelity, Minimize, Problem
from frugalbo.propose import make_proposer
from frugalbo.run import RunLoop
from frugalbo.scheduler import make_scheduler, purse
from frugalbo.session import OpenStudy
from frugalbo.slot import Slot
from frugalbo.space import Float, Params, Space
from frugalbo.study import Status

RESULTS = Path(__file__).parent / "results" / "pools.jsonl"
PROBLEM = Problem(
    name="pools",
    space=Space({"x": Float(0, 1), "width": Float(0.5, 2.0, log=True)}),
    job="nowhere:main",
    objective=Minimize("loss"),
    fidelity=Fidelity("epochs", 1, 27),
)
SLOW, FAST = Pool("slow", 6, 1.0), Pool("fast", 6, 3.0, speed=2.0)
OWN, SPOT = Pool("own", 6, 1.0), Pool("spot", 6, 0.6, preemptible=True)
# The scheduler, the pools from dear to cheap, how often a spot slot is taken away in an hour, and the budget.
CASES: dict[str, tuple[str, Sequence[Pool], float, Budget]] = {
    "few": ("fixed", (FAST, SLOW), 0.0, Budget(dollars=200.0, evaluations=8)),
    "rounds": ("sh", (FAST, SLOW), 0.0, Budget(dollars=200.0)),
    "busy": ("fixed", (FAST, SLOW), 0.0, Budget(dollars=200.0)),
    "spot": ("fixed", (OWN, SPOT), 0.25, Budget(dollars=200.0, evaluations=8)),
    **{
        f"hours {hours}": ("fixed", (FAST, SLOW), 0.0, Budget(dollars=200.0, wall_seconds=3600.0 * hours))
        for hours in (48, 24, 12)
    },
}
STEP_S = 600.0  # of width 1
RULES = ("prices", "dear first", "cheap first", "impatient")


def measure(case: str, rule: str, seed: int) -> dict[str, Any]:
    """One run; returns the record."""
    scheduler, pools, taken, budget = CASES[case]
    pools = pools[::-1] if rule == "cheap first" else pools

    def curve(params: Params, planned: int, _seed: int) -> Curve:
        steps = range(1, planned + 1)
        x, width = float(params["x"]), float(params["width"])
        losses = [{"loss": abs(x - 0.3) + float(np.exp(-width * step / 5))} for step in steps]
        return Curve(steps, [STEP_S * width * step for step in steps], losses)

    study = OpenStudy(PROBLEM, budget, pools=budgets_of(pools))
    costs = LearnedCost()
    hazards = Hazards(preemptions_per_hour=taken, seed=seed)
    executor = SimulatedExecutor(PROBLEM, simulated_slots(pools), curve, start_up_s=10.0, hazards=hazards)
    proposer = make_proposer("random", PROBLEM, seed=seed)
    in_line = nullcontext() if rule in ("prices", "impatient") else patch.object(Market, "ranked", _in_line)
    hasty = patch.object(purse, "left_idle", lambda *_: set()) if rule != "prices" else nullcontext()
    with in_line, hasty:
        RunLoop(study, make_scheduler(scheduler, proposer, costs), executor, costs, Path("unused")).run()
    trials = study.trials.values()
    pairs = [pair for trial in trials for pair in zip(trial.starts, trial.ends, strict=True)]
    # What is in a checkpoint is done, whatever became of the segment.
    done = [(t.params, t.ends[-1].checkpoint or (t.last_step if t.status == Status.COMPLETED else 0)) for t in trials]
    work_h = sum(STEP_S * float(params["width"]) * steps for params, steps in done) / 3600
    spent = study.balance()["dollars"].spent
    assert spent <= 200.0 * (1 + 1e-9)
    used_h = sum(e.used.device_seconds * s.speed for s, e in pairs) / 3600
    return {
        "case": case,
        "rule": rule,
        "seed": seed,
        "usd_per_hour": round(spent / work_h, 4),
        "hours": round(work_h, 2),
        "wall_h": round(max(e.at for _, e in pairs) / 3600, 2),
        "lost": round(1 - work_h / used_h, 4),
        "spent": round(spent, 2),
    }


def _in_line(_market: Market, slots: Sequence[Slot], _work_s: float) -> list[Slot]:
    return list(slots)


def table(records: list[dict[str, Any]]) -> str:
    """The means over seeds as a table of Markdown."""
    lines = ["| case | rule | USD per hour of work | hours of work | hours on the clock | lost |", "|---" * 6 + "|"]
    for case in CASES:
        for rule in RULES:
            found = [r for r in records if (r["case"], r["rule"]) == (case, rule)]
            if not found:
                continue
            mean = {k: float(np.mean([r[k] for r in found])) for k in ("usd_per_hour", "hours", "wall_h", "lost")}
            lines.append(
                f"| `{case}` | {rule} | {mean['usd_per_hour']:.3f} | {mean['hours']:.1f} | {mean['wall_h']:.1f} "
                f"| {100 * mean['lost']:.0f} % |"
            )
    return "\n".join(lines)


def main() -> None:
    """Measure and append records, or show those that there are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--out", type=Path, help="append the records to this file")
    parser.add_argument("--table", action="store_true", help="show the newest records instead of measuring")
    arguments = parser.parse_args()
    if arguments.table:
        stored = [json.loads(line) for line in RESULTS.read_text().splitlines()]
        print(table(list({(r["case"], r["rule"], r["seed"]): r for r in stored}.values())))
        return
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    where = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": done.stdout.strip() or "unknown",
        "python": platform.python_version(),
    }
    for case in arguments.cases:
        for rule in RULES if case.startswith("hours") else RULES[:-1]:
            for seed in range(arguments.seeds):
                record = {**where, **measure(case, rule, seed)}
                print(json.dumps(record), flush=True)
                if arguments.out:
                    with arguments.out.open("a") as file:
                        file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
