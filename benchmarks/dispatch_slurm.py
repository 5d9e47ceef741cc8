"""What it takes to hand out work on Slurm, beside the local backend in the same run.

    python benchmarks/dispatch_slurm.py --out benchmarks/results/dispatch_slurm.jsonl
    python benchmarks/dispatch_slurm.py --table benchmarks/results/dispatch_slurm.jsonl

Needs a Slurm cluster; `python tests/executors/slurm_cluster.py COMMAND ...` runs a command beside one of its
own on this machine, which schedules at once what others let wait for their next round. What is measured is as
in `dispatch.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dispatch import PROBLEM, SLOTS, _commit, measure_ours

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
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "slurm": version,
        "load_1min": round(os.getloadavg()[0], 2),
        "trials": trials,
        "local": local,
        "frugalbo on Slurm": slurm,
    }


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


def main() -> None:
    """Measure, print and append a record; or show the last one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="append the record to this file")
    parser.add_argument("--table", type=Path, help="show the last record of this file")
    parser.add_argument("--trials", type=int, default=12)
    arguments = parser.parse_args()
    if arguments.table:
        print(table([json.loads(line) for line in arguments.table.read_text().splitlines()]))
        return
    record = measure(arguments.trials)
    print(table([record]))
    if arguments.out:
        with arguments.out.open("a") as file:
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
