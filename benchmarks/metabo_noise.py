"""Does it help the network of metabo to be told how noisy its results are?

    python benchmarks/metabo_noise.py [--tasks 40] [--out FILE]
    python benchmarks/metabo_noise.py --table

Draws of a Gaussian process (Matern 5/2) in `d` dimensions with `n` results, each with noise of its own: standard
deviations log-uniform from 0.03 to 1 of the function's. `exact` knows the hyperparameters and the noise; `network` has
the results alone; `told` has their variances too (`Universal.read(..., known)`), with the same weights, which ship. The
log density of the function at 40 further points, in units of the function; means over the same draws.
"""

from __future__ import annotations

import math
import os
import sys
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch
sys.path.insert(0, str(Path(__file__).parents[1]))

import frugalbo.models  # isort: skip  # noqa: F401 - first: it imports linear_operator without its warning

import numpy as np
import torch

from benchmarks.records import asked_of, command_line, keep
from frugalbo.metabo.nearness import matern
from frugalbo.metabo.weights import shipped

RESULTS = Path(__file__).parent / "results" / "metabo_noise.jsonl"
SIZES = ((2, 8), (2, 20), (4, 20), (8, 40))
_ASKED = 40


def run(d: int, n: int, tasks: int) -> dict[str, Any]:
    """All draws of a size as a record."""
    no, found = torch.zeros(d, dtype=torch.bool), defaultdict(list)
    for task in range(tasks):
        rng = np.random.default_rng([d, n, task])
        X = torch.from_numpy(rng.random((n + _ASKED, d)))
        relevance = torch.full((d,), 1 / (0.4 * math.sqrt(d)), dtype=torch.float64)
        K = matern(X, X, relevance, no)
        root = torch.linalg.cholesky(K + 1e-6 * torch.eye(len(X), dtype=torch.float64))
        f = root @ torch.from_numpy(rng.standard_normal(len(X)))
        variance = torch.from_numpy(np.exp(rng.uniform(np.log(0.03), 0, n))) ** 2
        seen = f[:n] + variance.sqrt() * torch.from_numpy(rng.standard_normal(n))
        half = torch.linalg.solve(K[:n, :n] + torch.diag(variance), K[:n, n:])
        mean, spread = half.T @ seen, (K[n:, n:] - half.T @ K[:n, n:]).diagonal().clamp_min(1e-9).sqrt()
        found["exact"].append(torch.distributions.Normal(mean, spread).log_prob(f[n:]).mean().item())
        level, scale = seen.mean(), seen.std()
        y, truth = (seen - level) / scale, ((f[n:] - level) / scale).float()[None]
        for name, known in (("network", None), ("told", (variance / scale**2)[None])):
            with torch.no_grad():
                said = shipped().answer(shipped().read(X[None, :n], y[None], no, known), X[None, n:], False)
            found[name].append(said.log_density(truth).mean().item() - math.log(scale))
    gain = np.subtract(found["told"], found["network"])
    means = {name: round(float(np.mean(values)), 4) for name, values in found.items()}
    error = round(float(gain.std(ddof=1) / math.sqrt(tasks)), 4)
    return {"d": d, "n": n, "tasks": tasks, **means, "gain": round(float(gain.mean()), 4), "standard_error": error}


def markdown(records: list[dict[str, Any]]) -> str:
    """The newest of each size."""
    lines = ["| d | n | exact | network | told | gain of told (standard error) |", "|" + "---|" * 6]
    for (d, n), r in {(r["d"], r["n"]): r for r in records}.items():
        values = " | ".join(f"{r[name]:.3f}" for name in ("exact", "network", "told"))
        lines.append(f"| {d} | {n} | {values} | {r['gain']:+.3f} ({r['standard_error']:.3f}) |")
    return "\n".join(lines)


def main() -> None:
    """Run, or tabulate."""
    parser = command_line(__doc__, RESULTS)
    parser.add_argument("--tasks", type=int, default=40)
    if (asked := asked_of(parser, markdown)) is None:
        return
    for d, n in SIZES:
        record = {**run(d, n, asked.tasks), "at": datetime.now(UTC).isoformat(timespec="seconds")}
        keep(record, asked.out)


if __name__ == "__main__":
    main()
