"""What it takes to hand out work on Slurm, beside the local backend in the same run.

    python benchmarks/dispatch_slurm.py --out benchmarks/results/dispatch_slurm.jsonl
    python benchmarks/dispatch_slurm.py --table benchmarks/results/dispatch_slurm.jsonl

Needs a Slurm cluster; `python tests/executors/slurm_cluster.py COMMAND ...` runs a command beside one of its
own on this machine, which schedules at once what others let wait for their next round. What is measured is as
in `dispatch.py`.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dispatch import PROBLEM, SLOTS, circumstances, measure_ours, run

from frugalbo.executors.devices import local_slots
from frugalbo.executors.local import LocalExecutor
from frugalbo.executors.slurm import SlurmExecutor


def measure(trials: int) -> dict[str, Any]:
    """Both, one after the other on the same machine; returns the record."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        local = measure_ours(LocalExecutor(PROBLEM, local_slots(f"cpu:{SLOTS}")), trials, folder / "local")
        slurm = measure_ours(SlurmExecutor(PROBLEM, devices=f"cpu:{SLOTS}"), trials, folder / "slurm")
    version = subprocess.run(["sinfo", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return {**circumstances(trials), "slurm": version, "local": local, "frugalbo on Slurm": slurm}


def table(records: Sequence[dict[str, Any]]) -> str:
    """The last record as a table."""
    record = records[-1]
    lines = [
        f"{record['at']}, {record['machine']}, load {record['load_1min']}, {record['slurm']}",
        "",
        "| engine | latency, median (p90) | turnaround, median (p90) | once warm |",
        "|---|---|---|---|",
    ]
    for name in ("local", "frugalbo on Slurm"):
        found = record[name]
        cells = [f"{found[key]['median']:.0f} ms ({found[key]['p90']:.0f})" for key in ("latency_ms", "turnaround_ms")]
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | {found['per_second']:.2f} trials/s |")
    return "\n".join(lines)


if __name__ == "__main__":
    run(measure, table, __doc__, trials=12)
