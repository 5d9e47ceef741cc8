"""What the parts of the neural acquisition process are worth, on the XGBoost tables of its study.

    python benchmarks/nap.py --folder FOLDER [--seeds 3] [--out FILE]
    python benchmarks/nap.py --table

Trains on tasks 0 to 19 and races on tasks 20 to 33 (`../shared/data` or `FRUGALBO_DATA`), as the study has it; the
folder keeps weights and checkpoints, so that what was interrupted goes on. A race is five random rows, the same for
all methods, and 25 rows that a method chooses.

| method | what it is |
|---|---|
| `nap` | reinforcement with the likelihood beside it, as published |
| `no-aux` | reinforcement alone |
| `np-ei` | likelihood alone, expected improvement on the buckets |
| `network`, `metabo` | the network that ships, alone and as in `fb.tune` (with what tasks 0 to 19 say); audited alone |
| `gp` | our Gaussian process with log expected improvement |
| `random` | the mean of random orders |

The first three are far smaller than published, and are trained for minutes (`TRAINING`); they are told the best and the
worst outcome of each table, as published, the others are not. Each race is a line of JSON, with the audit of its
exploration (`frugalbo.report.exploration`).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch
sys.path.insert(0, str(Path(__file__).parents[1]))

import frugalbo.models  # isort: skip  # noqa: F401 - first: it imports linear_operator without its warning

import numpy as np
import torch

from benchmarks.curve_tables import data_folder
from benchmarks.records import read
from frugalbo.metabo.evaluate import Setting, run
from frugalbo.metabo.nap import NAPTraining, train_nap
from frugalbo.metabo.network import NAPShape
from frugalbo.metabo.sources import Sources
from frugalbo.metabo.tables import Table, read_tables
from frugalbo.report.exploration import of_points

RESULTS = Path(__file__).parent / "results" / "nap.jsonl"
SMALL = NAPShape(width=64, heads=4, layers=3, hidden=128, buckets=100, policy=64, initial=0.05)
TRAINING: dict[str, Any] = {
    "iterations": 60, "episodes": 24, "horizon": 12, "candidates": 64, "rows": 200, "lr": 1e-3, "warmup": 5,
    "minibatch": 32, "accumulate": 1, "every": 10, "network": SMALL,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {"nap": {}, "no-aux": {"auxiliary": 0.0}, "np-ei": {"policy": "improvement"}}
METHODS = (*VARIANTS, "gp", "random")
AUDITED = {"network": 1, "metabo": 1}  # with how many seeds
STEPS = 25
AT = (0, 5, 10, 25)


def trained(folder: Path, variant: str, seed: int, tables: dict[str, Table]) -> Path:
    """The weights of a variant, made if they are not there."""
    out = folder / f"{variant}-{seed}.pt"
    if not out.exists():
        training = NAPTraining(seed=seed, **TRAINING, **VARIANTS[variant])
        started = time.process_time()
        tasks = Sources([tables[str(i)] for i in range(20)], training.candidates, training.rows)
        train_nap(training, out, lambda line: print(variant, seed, line, flush=True), tasks)
        print(f"{variant} {seed}: {time.process_time() - started:.0f} s of one core", flush=True)
    return out


def markdown(records: list[dict[str, Any]]) -> str:
    """Mean regrets, and the difference to `gp` with its standard error over tasks."""
    cells = {(r["task"], r["seed"], r["method"]): r["regret"] for r in records}
    whole = sorted({c[:2] for c in cells if all((*c[:2], m) in cells for m in METHODS)})
    tasks = sorted({task for task, _ in whole})
    heads = " | ".join(f"{s} steps" for s in AT)
    lines = [
        f"{len(tasks)} tasks, {len(whole)} races of each method.",
        "",
        f"| method | {heads} | gp less that, at 10 |",
    ]
    lines.append("|" + "---|" * (2 + len(AT)))
    reached = {m: {c: np.array(cells[*c, m])[list(AT)] for c in whole} for m in METHODS}
    for method in METHODS:
        mean = np.mean(list(reached[method].values()), axis=0)
        gain = np.array([
            np.mean([(reached["gp"][c] - reached[method][c])[2] for c in whole if c[0] == task]) for task in tasks
        ])  # fmt: skip
        error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else float("nan")
        apart = "" if method == "gp" else f"{gain.mean():+.3f} ({error:.3f})"
        lines.append(f"| {method} | {' | '.join(f'{x:.3f}' for x in mean)} | {apart} |")
    return "\n".join([*lines, "", *_audit(records)])


def _audit(records: list[dict[str, Any]]) -> list[str]:
    """Means over all races of a method; giving up is in parts of the races."""
    lines = ["| method | races | greedy | by chance | gave the best up | by chance |", "|" + "---|" * 6]
    for method in dict.fromkeys(r["method"] for r in records if "exploration" in r):
        found = [r["exploration"] for r in records if r["method"] == method]
        keys = ("greedy_frequency", "greedy_by_chance", "gave_up", "gave_up_by_chance")
        cells = " | ".join(f"{np.mean([f[key] for f in found]):.2f}" for key in keys)
        lines.append(f"| {method} | {len(found)} | {cells} |")
    return lines


def main() -> None:
    """Train and race what is missing, or tabulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="for weights")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="print the summary as Markdown, run nothing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    if asked.table:
        print(markdown(read(asked.out)))
        return
    if asked.folder is None:
        parser.error("expected --folder, where weights are kept")
    torch.set_num_threads(1)
    asked.folder.mkdir(parents=True, exist_ok=True)
    tables = read_tables(data_folder() / "nap_xgb" / "xgb_tables.npz")
    done = {(r["task"], r["seed"], r["method"]) for r in read(asked.out)}
    for seed in range(asked.seeds):
        for method in (*METHODS, *(m for m, seeds in AUDITED.items() if seed < seeds)):
            missing = [task for task in map(str, range(20, 34)) if (task, seed, method) not in done]
            weights = str(trained(asked.folder, method, seed, tables)) if method in VARIANTS and missing else ""
            for task in missing:
                race = run(task, tables[task], "nap" if weights else method, seed, Setting(5, STEPS, nap=weights))
                record = {"task": task, "seed": seed, "method": method, "regret": race.regret}
                if race.tried:
                    table = tables[task]
                    record["exploration"] = of_points(
                        table.U[list(race.tried)], table.losses[list(race.tried)], range(5, 5 + STEPS)
                    ).to_json()
                with asked.out.open("a") as file:
                    file.write(json.dumps({**record, "at": datetime.now(UTC).isoformat(timespec="seconds")}) + "\n")


if __name__ == "__main__":
    main()
