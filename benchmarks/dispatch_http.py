"""What it takes to hand out work to a worker over HTTP, beside the local backend in the same run.

    python benchmarks/dispatch_http.py --out benchmarks/results/dispatch_http.jsonl
    python benchmarks/dispatch_http.py --table benchmarks/results/dispatch_http.jsonl

The worker is on the same machine, so no network is in it. What is measured is as in `dispatch.py`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dispatch import PROBLEM, SLOTS, circumstances, measure_ours, run

from frugalbo.executors.devices import local_slots
from frugalbo.executors.http import HttpExecutor
from frugalbo.executors.local import LocalExecutor
from frugalbo.testing.hosts import free_port

NAMES = {"shared": "http, shared folders", "sent": "http, sent checkpoints"}


def measure(trials: int) -> dict[str, Any]:
    """One after the other on the same machine; returns the record."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        found = {"local": measure_ours(LocalExecutor(PROBLEM, local_slots(f"cpu:{SLOTS}")), trials, folder / "local")}
        words = ["--url", f"http://127.0.0.1:{port}", "--devices", f"cpu:{SLOTS}", "--folder", str(folder / "worker")]
        worker = subprocess.Popen([sys.executable, "-m", "frugalbo", "worker", *words], stdout=subprocess.DEVNULL)
        try:
            for folders, called in NAMES.items():
                executor = HttpExecutor(PROBLEM, listen=f"127.0.0.1:{port}", folders=folders)
                found[called] = measure_ours(executor, trials, folder / folders)
        finally:
            worker.terminate()
            worker.wait()
    return {**circumstances(trials), **found}


def table(records: Sequence[dict[str, Any]]) -> str:
    """The last record as a table."""
    record = records[-1]
    lines = [
        f"{record['at']}, {record['machine']}, load {record['load_1min']}",
        "",
        "| engine | latency, median (p90) | turnaround, median (p90) | once warm |",
        "|---|---|---|---|",
    ]
    for name in ("local", *NAMES.values()):
        found = record[name]
        cells = [f"{found[key]['median']:.0f} ms ({found[key]['p90']:.0f})" for key in ("latency_ms", "turnaround_ms")]
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | {found['per_second']:.2f} trials/s |")
    return "\n".join(lines)


if __name__ == "__main__":
    run(measure, table, __doc__, trials=30)
