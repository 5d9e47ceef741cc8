"""Reference values of `problems/tiny_llama`: optimizers, schedules and knobs on the miniature.

    python benchmarks/tiny_llama_reference.py --jobs 2     # run what is not recorded yet
    python benchmarks/tiny_llama_reference.py --table      # write the README's tables and reference.json
    python benchmarks/tiny_llama_reference.py --verify     # has a change of code moved the defaults?

Each run is one process-wide thread on the CPU and one appended JSON line in
`benchmarks/results/tiny_llama_reference.jsonl`; a run that is there is not repeated. All cells of a
table get the same grid of learning rates and the same seeds; the rate with the lowest mean
validation loss over the seeds is the one shown.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

ROOT = Path(__file__).resolve().parents[1]
PROBLEM = ROOT / "problems" / "tiny_llama"
RESULTS = ROOT / "benchmarks" / "results" / "tiny_llama_reference.jsonl"

STEPS = 512
SEEDS = (0, 1, 2)
# How much slower the linear weights learn than embedding, head and norms, and the rates tried for each.
SCALED_RATES = {1.0: (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2), 0.25: (4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2, 0.128)}
METHODS: dict[str, dict[str, Any]] = {
    "AdamW": {"optimizer": "adamw"},
    "FRUGAL, density 1": {"density": 1.0},
    "FRUGAL, density 0.25": {"density": 0.25},
    "FRUGAL, density 0": {"density": 0.0},
    "GaLore-style, density 0.25": {
        "density": 0.25,
        "projection": "svd",
        "state_free": "none",
        "reset_state": False,
    },
    "BAdam-like, density 0.25": {"density": 0.25, "state_free": "none"},
}
SCHEDULE_RATES = (1e-3, 2e-3, 4e-3, 8e-3)
SCHEDULES: dict[str, dict[str, Any]] = {
    "UBA, phi 0.25": {"phi": 0.25},
    "UBA, phi 0.5": {"phi": 0.5},
    "UBA, phi 1": {"phi": 1.0},
    "UBA, phi 2 (cosine)": {"phi": 2.0},
    "UBA, phi 5": {"phi": 5.0},
    "UBA, phi 10": {"phi": 10.0},
    "linear": {"schedule": "linear"},
}
BUDGETS = (STEPS // 4, STEPS // 2, STEPS)
CENTRES = (1e-3, 4e-3)
KNOBS: dict[str, Sequence[float]] = {
    "density": (0.0, 0.25, 0.5, 1.0),
    "phi": (0.25, 1.0, 2.0, 5.0, 10.0),
    "warmup": (0.0, 0.1, 0.2, 0.4),
    "state_free_lr_scale": (0.03, 0.1, 0.3, 1.0, 3.0),
    "update_gap": (2, 5, 20, 60, 200),
    "weight_decay": (0.0, 0.1, 0.3, 1.0),
}

Cell = dict[str, Any]


@lru_cache(maxsize=1)
def job() -> ModuleType:
    """The problem's `train.py`."""
    spec = importlib.util.spec_from_file_location("tiny_llama_train", PROBLEM / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def cell(settings: Cell, steps: int, seed: int) -> Cell:
    """One run, with every setting spelled out, so that two tables share what they have in common."""
    from dataclasses import asdict

    return {"config": asdict(job().Config(**settings)), "steps": steps, "seed": seed}


def key(of: Cell) -> str:
    """What makes a run that run."""
    return json.dumps([of["config"], of["steps"], of["seed"]], sort_keys=True)


def cells() -> Iterator[Cell]:
    """All runs, the most telling first."""
    for seed in SEEDS:
        for method in METHODS.values():
            for scale, rates in SCALED_RATES.items():
                scaled = {**method, "projectable_lr_scale": scale}
                yield from (cell({**scaled, "lr": lr}, STEPS, seed) for lr in rates)
    for seed in SEEDS:
        for knob, values in KNOBS.items():
            yield from (cell({knob: value, "lr": CENTRES[0]}, STEPS, seed) for value in values)
    for seed in SEEDS:
        for steps in BUDGETS:
            for schedule in SCHEDULES.values():
                yield from (cell({**schedule, "lr": lr}, steps, seed) for lr in SCHEDULE_RATES)
    for seed in SEEDS:
        for knob, values in KNOBS.items():
            yield from (cell({knob: value, "lr": CENTRES[1]}, STEPS, seed) for value in values)


def run(of: Cell) -> Cell:
    """Train once; what came out, or why nothing did."""
    import torch

    from benchmarks.records import train_here

    torch.set_num_threads(1)
    job().preload()
    began = time.process_time()
    reports, failed = train_here(job().main, of["config"], of["seed"], of["steps"], "val_loss")
    metrics = reports[-1]["metrics"] if reports else {}
    return {
        **of,
        "val_loss": None if failed else metrics["val_loss"],
        "failed": failed,
        "curve": {r["step"]: r["metrics"]["val_loss"] for r in reports if "val_loss" in r["metrics"]},
        "state_bytes": metrics.get("state_bytes"),
        "cpu_s": round(time.process_time() - began, 3),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "commit": _commit(),
    }


def recorded() -> dict[str, Cell]:
    """The runs on file, by key."""
    if not RESULTS.exists():
        return {}
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    return {key(line): line for line in lines}


def run_missing(jobs: int) -> None:
    """Run what is not recorded, each result appended as soon as it is there."""
    done = recorded()
    missing = list({key(c): c for c in cells() if key(c) not in done}.values())
    print(f"{len(done)} runs recorded, {len(missing)} to go", flush=True)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a") as file, ProcessPoolExecutor(jobs) as pool:
        for count, future in enumerate(as_completed([pool.submit(run, c) for c in missing]), 1):
            result = future.result()
            file.write(json.dumps(result) + "\n")
            file.flush()
            os.fsync(file.fileno())
            print(f"{count}/{len(missing)}  {result['val_loss']}  {result['cpu_s']} s", flush=True)


def losses(done: dict[str, Cell], settings: Cell, steps: int = STEPS) -> list[float]:
    """Validation losses over the seeds; infinite where a run diverged.

    Raises:
        KeyError: If a run is missing.
    """
    found = [done[key(cell(settings, steps, seed))]["val_loss"] for seed in SEEDS]
    return [float("inf") if loss is None else loss for loss in found]


def shown(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    if float("inf") in values:
        return f"diverged ({values.count(float('inf'))} of {len(values)})"
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def best_rate(done: dict[str, Cell], settings: Cell, rates: Sequence[float], steps: int = STEPS) -> float:
    """The learning rate with the lowest mean loss."""
    return min(rates, key=lambda lr: statistics.mean(losses(done, {**settings, "lr": lr}, steps)))


def method_table(done: dict[str, Cell]) -> str:
    """Optimizers at equal steps, each at its best rate, for both scales."""
    heads = ["optimizer", "lr 1e-3, scale 1"]
    heads += [head for scale in SCALED_RATES for head in (f"best, scale {scale:g}", "lr")]
    lines = ["| " + " | ".join([*heads, "state bytes"]) + " |", "|---" * (len(heads) + 1) + "|"]
    for name, method in METHODS.items():
        row = [name, shown(losses(done, {**method, "lr": 1e-3}))]
        for scale, rates in SCALED_RATES.items():
            scaled = {**method, "projectable_lr_scale": scale}
            lr = best_rate(done, scaled, rates)
            row += [shown(losses(done, {**scaled, "lr": lr})), _rate(lr, rates)]
        state = max(done[key(cell({**method, "lr": 1e-3}, STEPS, seed))]["state_bytes"] for seed in SEEDS)
        lines.append("| " + " | ".join([*row, f"{int(state):,}"]) + " |")
    return "\n".join(lines)


def method_rate_table(done: dict[str, Cell]) -> str:
    """Optimizers at every learning rate of the grids, means only."""
    rates = sorted({lr for grid in SCALED_RATES.values() for lr in grid})
    lines = [
        "| optimizer | scale | " + " | ".join(f"{lr:g}" for lr in rates) + " |",
        "|---" * (len(rates) + 2) + "|",
    ]
    for scale, grid in SCALED_RATES.items():
        for name, method in METHODS.items():
            scaled = {**method, "projectable_lr_scale": scale}
            row = (f"{statistics.mean(losses(done, {**scaled, 'lr': lr})):.3f}" if lr in grid else "" for lr in rates)
            lines.append(f"| {name} | {scale:g} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def schedule_table(done: dict[str, Cell]) -> str:
    """Schedules planned for each budget, each at its best rate."""
    heads = [f"{steps} steps ({100 * steps // STEPS} %)" for steps in BUDGETS]
    lines = ["| schedule | " + " | ".join(heads) + " |", "|---" * (len(BUDGETS) + 1) + "|"]
    for name, schedule in SCHEDULES.items():
        row = []
        for steps in BUDGETS:
            lr = best_rate(done, schedule, SCHEDULE_RATES, steps)
            values = losses(done, {**schedule, "lr": lr}, steps)
            row.append(f"{shown(values)} @ {_rate(lr, SCHEDULE_RATES)}")
        lines.append(f"| {name} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def knob_table(done: dict[str, Cell]) -> str:
    """One knob at a time, the others at their defaults, at two learning rates."""
    lines = ["| knob | value | " + " | ".join(f"lr {lr:g}" for lr in CENTRES) + " |", "|---|---|---|---|"]
    for knob, values in KNOBS.items():
        for value in values:
            row = (shown(losses(done, {knob: value, "lr": lr})) for lr in CENTRES)
            lines.append(f"| {knob} | {value:g} | " + " | ".join(row) + " |")
    return "\n".join(lines)


TABLES = {
    "methods": method_table,
    "method-rates": method_rate_table,
    "schedules": schedule_table,
    "knobs": knob_table,
}


def write_tables() -> None:
    """Put every table that is complete into the README, and the reference values beside it."""
    done = recorded()
    readme = PROBLEM / "README.md"
    text = readme.read_text()
    for name, table in TABLES.items():
        start, end = f"<!-- table {name} -->\n", f"<!-- end {name} -->"
        before, rest = text.split(start)
        _, after = rest.split(end)
        try:
            text = before + start + "\n" + table(done) + "\n\n" + end + after
        except KeyError:
            print(f"table {name!r} is not complete yet; it stays as it is")
    readme.write_text(text)
    reference = PROBLEM / "reference.json"
    reference.write_text(json.dumps(reference_values(done), indent=2) + "\n")
    print(f"wrote {readme} and {reference}")


def reference_values(done: dict[str, Cell]) -> dict[str, Any]:
    """The measured values that a later run may be compared with, and where they come from."""
    of_defaults = [done[key(cell({}, STEPS, seed))] for seed in SEEDS]
    values: dict[str, dict[str, float]] = {"defaults": _summary(losses(done, {})) | {"lr": 1e-3}}
    for name, method in METHODS.items():
        for scale, rates in SCALED_RATES.items():
            scaled = {**method, "projectable_lr_scale": scale}
            lr = best_rate(done, scaled, rates)
            values[f"{name}, scale {scale:g}"] = _summary(losses(done, {**scaled, "lr": lr})) | {"lr": lr}
    return {
        "command": "python benchmarks/tiny_llama_reference.py --jobs 1 && "
        "python benchmarks/tiny_llama_reference.py --table",
        **{name: of_defaults[0][name] for name in ("commit", "python", "torch", "machine")},
        "metric": "val_loss (nats per byte)",
        "size": "mini",
        "steps": STEPS,
        "seeds": list(SEEDS),
        "cpu_s_per_trial": round(statistics.median(c["cpu_s"] for c in done.values() if c["steps"] == STEPS), 2),
        "values": values,
    }


def verify() -> None:
    """Run the defaults' recorded runs again, to see whether a change of code moved them."""
    done = recorded()
    for seed in SEEDS:
        of = cell({}, STEPS, seed)
        before, now = done[key(of)]["val_loss"], run(of)["val_loss"]
        print(f"seed {seed}: {before!r} recorded, {now!r} now: {'equal' if before == now else 'moved'}")


def _summary(values: Sequence[float]) -> dict[str, float]:
    return {"mean": round(statistics.mean(values), 4), "sd": round(statistics.stdev(values), 4)}


def _rate(lr: float, grid: Sequence[float]) -> str:
    """The rate, marked if the grid ended there."""
    return f"{lr:g}" + (" (end of the grid)" if lr in (grid[0], grid[-1]) else "")


@lru_cache(maxsize=1)
def _commit() -> str:
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip() or "unknown"


def main() -> None:
    """Run or tabulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time, one thread each")
    parser.add_argument("--table", action="store_true", help="write the tables from what is recorded, run nothing")
    parser.add_argument("--verify", action="store_true", help="run the defaults again and compare with the record")
    asked = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if asked.table:
        write_tables()
    elif asked.verify:
        verify()
    else:
        run_missing(asked.jobs)


if __name__ == "__main__":
    main()
