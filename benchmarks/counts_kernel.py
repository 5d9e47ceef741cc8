"""Does it help to see how often a value occurs among choices that are made more than once?

    python benchmarks/counts_kernel.py [--seeds 6] [--out benchmarks/results/counts_kernel.jsonl]

The model of `fit_objective` on `n` random cells of a table of NAS-Bench-201, with the kernel of counts
(`frugalbo.models.kernel`) and without it, and the rank correlation of its prediction with the truth at 1,500
other cells: the same cells for both. Settings were chosen on cifar10 and imagenet.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks.tables import SUITES, Table, load
from frugalbo.models.kernel import Group
from frugalbo.models.objective import fit_objective

OTHERS = 1500


def correlations(table: Table, n: int, seed: int) -> tuple[float, float]:
    """The rank correlation without and with the kernel of counts."""
    cells = np.argwhere(table.row_of >= 0)
    losses = table.mean_losses[table.row_of[tuple(cells.T)]]
    drawn = np.random.default_rng(seed).permutation(len(cells))
    known, others = drawn[:n], drawn[n : n + OTHERS]
    U = (cells + 0.5) / np.array(table.row_of.shape)
    space = table.space
    groups = [Group(dims, space.levels[dims[0]] or 0) for dims in space.repeated_dims]
    found = []
    for some in ([], groups):
        model = fit_objective(U[known], losses[known], space.categorical_dims, groups=some).model
        with torch.no_grad():
            predicted = model.posterior(torch.from_numpy(U[others]).unsqueeze(-2)).mean.reshape(-1).numpy()
        found.append(float(spearmanr(predicted, losses[others]).statistic))  # pyright: ignore[reportAttributeAccessIssue]
    return found[0], found[1]


def main() -> None:
    """Measure, print a table, append a record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print("| table | n | without | with | seeds in which it helps |\n|---|---|---|---|---|")
    for name in next(suite.tables for suite in SUITES if suite.name == "NAS-Bench-201"):
        for n in (10, 25, 50):
            found = np.array([correlations(load(name), n, seed) for seed in range(args.seeds)])
            rows.append({"table": name, "n": n, "without_with": found.round(4).tolist()})
            without, with_it = found.mean(axis=0)
            better = f"{int((found[:, 1] > found[:, 0]).sum())} of {args.seeds}"
            print(f"| {name} | {n} | {without:.2f} | {with_it:.2f} | {better} |", flush=True)
    if args.out:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        record = {
            "benchmark": "counts_kernel",
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": commit.stdout.strip(),
            "rows": rows,
        }
        with args.out.open("a") as file:
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
