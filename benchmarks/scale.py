"""What the loop costs as runs grow: from one simulated device to a thousand, a hundred segments for each.

    python benchmarks/scale.py --out benchmarks/results/scale.jsonl
    python benchmarks/scale.py --table --figure docs/scale.png

ASHA with random configurations on a closed-form problem, in two pools of which one is 1.5 times as fast and
may be taken away; devices fail too. Each size runs in a process of its own, on one core. Times are of the
processor, so that other work on the machine matters less; `decide` is one call of the scheduler, at one instant.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import resource
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from frugalbo.budget.amounts import Budget
from frugalbo.budget.cost import CostModel, KnownCost, LearnedCost
from frugalbo.budget.ledger import Balance
from frugalbo.executors.devices import simulated_slots
from frugalbo.executors.simulated import Curve, Hazards, SimulatedExecutor
from frugalbo.pool import Pool
from frugalbo.problem import Fidelity, Minimize, Problem
from frugalbo.propose import make_proposer
from frugalbo.run import RunLoop
from frugalbo.scheduler.asha import AshaScheduler
from frugalbo.scheduler.base import Decision
from frugalbo.session import OpenStudy
from frugalbo.slot import Slot
from frugalbo.space import Float, Params, Space
from frugalbo.study import Status, Study

RESULTS = Path(__file__).parent / "results" / "scale.jsonl"
SIZES = (1, 3, 10, 30, 100, 300, 1000)
SEGMENTS = 100  # for each device
STEP_S = 10.0
START_UP_S = 1.0
PROBLEM = Problem(
    name="scale",
    space=Space({"x": Float(0, 1), "width": Float(0.5, 2.0, log=True)}),
    job="nowhere:main",
    objective=Minimize("loss"),
    fidelity=Fidelity("epochs", 1, 27),
)
# A segment of ASHA takes 1 epoch or 2, 6, 18 more; by the counts of promotions this many device-seconds.
_SEGMENT_S = 24.0


def seconds(params: Params, start: int, until: int) -> float:
    """What a segment costs on a device of speed 1."""
    return START_UP_S + STEP_S * float(params["width"]) * (until - start)


def curve(params: Params, planned: int, seed: int) -> Curve:
    """A loss that falls to its end value, the faster the wider."""
    del seed
    steps = range(1, planned + 1)
    x, width = float(params["x"]), float(params["width"])
    losses = [abs(x - 0.3) + math.exp(-width * step / 5) for step in steps]
    return Curve(steps, [STEP_S * width * step for step in steps], [{"loss": loss} for loss in losses])


class Timed(AshaScheduler):
    """ASHA that notes how long each decision took."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.took_s: list[float] = []
        self.most_live = 0

    def decide(self, study: Study, balance: Balance, slots: Sequence[Slot]) -> Sequence[Decision]:
        """As ASHA does."""
        began = time.process_time()
        decisions = super().decide(study, balance, slots)
        self.took_s.append(time.process_time() - began)
        self.most_live = max(self.most_live, study.count(Status.RUNNING, Status.PAUSED))
        return decisions


def measure(devices: int, segments: int, is_learned: bool) -> dict[str, Any]:
    """One run of so many devices; returns the record."""
    half = devices // 2
    pools = [Pool("owned", devices - half, 1.0)] + ([Pool("spot", half, 0.5, 1.5, preemptible=True)] if half else [])
    study = OpenStudy(PROBLEM, Budget(device_seconds=_SEGMENT_S * segments))
    costs: CostModel = LearnedCost() if is_learned else KnownCost(seconds)
    scheduler = Timed(make_proposer("random", PROBLEM, seed=0), costs)
    hazards = Hazards(failures_per_hour=0.5, preemptions_per_hour=2.0)
    executor = SimulatedExecutor(PROBLEM, simulated_slots(pools), curve, start_up_s=START_UP_S, hazards=hazards)
    before = _resident()
    began = time.process_time()
    reason = RunLoop(study, scheduler, executor, costs, Path("unused")).run()
    cpu_s = time.process_time() - began
    grown = _resident() - before
    pairs = [pair for trial in study.trials.values() for pair in zip(trial.starts, trial.ends, strict=True)]
    decide_ms = 1000 * np.array(scheduler.took_s)
    return {
        "devices": devices,
        "costs": "learned" if is_learned else "known",
        "segments": len(pairs),
        "trials": len(study.trials),
        "most_live": scheduler.most_live,
        "events": study.revision,
        "cpu_s": round(cpu_s, 2),
        "us_per_event": round(1e6 * cpu_s / study.revision, 1),
        "decide_ms": {f"p{q}": round(float(np.percentile(decide_ms, q)), 3) for q in (50, 99, 100)},
        "busy": round(_busy(pairs, devices), 4),
        "bytes_per_trial": round(grown / len(study.trials)),
        "spent_share": round(study.balance()["device_seconds"].spent / (_SEGMENT_S * segments), 4),
        "reason": reason,
    }


def _busy(pairs: list[Any], devices: int) -> float:
    """The share of device time in segments, from the first start until nine tenths of the budget are spent."""
    total = sum(end.used.device_seconds for _, end in pairs)
    spent = until = 0.0
    for _, end in sorted(pairs, key=lambda pair: pair[1].at):
        spent += end.used.device_seconds
        if spent > 0.9 * total:
            until = end.at
            break
    first = min(start.at for start, _ in pairs)
    at_work = sum(min(until, end.at) - start.at for start, end in pairs if start.at < until)
    return at_work / devices / (until - first)


def _resident() -> int:
    """Bytes of this process, at its largest so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return done.stdout.strip() or "unknown"


def table(records: list[dict[str, Any]]) -> str:
    """The records as a table of Markdown."""
    lines = [
        "| devices | costs | segments | trials | live | CPU s | us per event | decide ms: median | p99 | most | busy "
        "| bytes per trial |",
        "|---" * 12 + "|",
    ]
    for r in records:
        ms = r["decide_ms"]
        lines.append(
            f"| {r['devices']} | {r['costs']} | {r['segments']} | {r['trials']} | {r['most_live']} | {r['cpu_s']:.1f} "
            f"| {r['us_per_event']:.0f} | {ms['p50']:.2f} | {ms['p99']:.1f} | {ms['p100']:.0f} "
            f"| {100 * r['busy']:.1f} % | {r['bytes_per_trial']} |"
        )
    return "\n".join(lines)


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """Cost against scale, as a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    devices = [r["devices"] for r in records]
    for label, key in (("99th percentile", "p99"), ("median", "p50")):
        axes[0].plot(devices, [r["decide_ms"][key] for r in records], marker="o", label=label)
    axes[0].axhline(20.0, color="0.6", linestyle="--", label="the aim, 20 ms")
    axes[0].set(xscale="log", yscale="log", xlabel="devices", title="One decision (CPU ms)")
    axes[0].legend(frameon=False)
    axes[1].plot(devices, [r["us_per_event"] for r in records], marker="o")
    axes[1].set(xscale="log", xlabel="devices", title="The whole loop, for an event (CPU us)")
    axes[2].plot(
        [r["trials"] for r in records], [r["trials"] * r["bytes_per_trial"] / 1e6 for r in records], marker="o"
    )
    axes[2].set(xscale="log", yscale="log", xlabel="trials", title="Memory of the study (MB)")
    axes[1].set_ylim(bottom=0)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print and append records; or show those that there are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, nargs="*", default=list(SIZES))
    parser.add_argument("--segments", type=int, help="of each run; by default a hundred for each device")
    parser.add_argument("--learned", action="store_true", help="learn the costs instead of knowing them")
    parser.add_argument("--out", type=Path, help="append the records to this file")
    parser.add_argument("--table", action="store_true", help="show the newest records instead of measuring")
    parser.add_argument("--figure", type=Path, help="draw them")
    arguments = parser.parse_args()
    if arguments.table:
        stored = [json.loads(line) for line in RESULTS.read_text().splitlines()]
        newest = {(r["costs"], r["devices"]): r for r in stored}
        records = [newest[key] for key in sorted(newest)]
        print(table(records))
        if arguments.figure:
            draw([r for r in records if r["costs"] == "known"], arguments.figure)
        return
    machine = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
    }
    context = multiprocessing.get_context("spawn")
    for devices in arguments.devices:
        segments = arguments.segments or SEGMENTS * max(10, devices)
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            record = {**machine, **pool.submit(measure, devices, segments, arguments.learned).result()}
        print(json.dumps(record), flush=True)
        if arguments.out:
            with arguments.out.open("a") as file:
                file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
