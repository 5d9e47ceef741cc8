"""Makes what the package knows of XGBoost from NAP's study: tasks 0 to 19, distilled, as the file that ships.

    python benchmarks/metabo_past.py --out frugalbo/metabo/xgboost.pt

The tables are in `../shared/data` or `FRUGALBO_DATA`. Of each task, 512 weights of a kernel at points of a Sobol
sequence, the same for all, are fitted to its 1,000 accuracies, as the model sees them (`frugalbo.models.outcome`), by
least squares with a ridge of 0.1 (a Gaussian process by subset of regressors). The lengthscales are the medians of what
our engine fits to 200 rows of each task. No row of the tables is in the file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch
sys.path.insert(0, str(Path(__file__).parents[1]))

import frugalbo.models  # isort: skip  # noqa: F401 - first: it imports linear_operator without its warning

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.curve_tables import data_folder
from frugalbo.metabo.nearness import matern
from frugalbo.metabo.past import PastStudies
from frugalbo.metabo.weights import PAST_FORMAT, write
from frugalbo.models.objective import fit_objective
from frugalbo.models.outcome import Outcome
from frugalbo.parameter import Float
from frugalbo.space import Space

LEARNT = tuple(range(20))
SPACE = Space(
    {
        "x1": Float(0.05, 1.0),
        "x2": Float(0.05, 1.0),
        "x3": Float(1e-5, 1.0, log=True),
        "x4": Float(0.05, 10.0, log=True),
        "x5": Float(1e-5, 2.0, log=True),
        "x6": Float(1e-5, 2.0, log=True),
    }
)
CENTRES = 512
RIDGE = 0.1
ROWS = 200

Array = NDArray[np.float64]


def xgboost(tasks: tuple[int, ...] = LEARNT) -> PastStudies:
    """What these tasks of the study say."""
    tables = np.load(data_folder() / "nap_xgb" / "xgb_tables.npz")
    points = [unit(tables[f"{i}/X"].astype(float)) for i in tasks]
    losses = [-tables[f"{i}/accuracy"].astype(float) for i in tasks]
    rows = [np.random.default_rng(i).permutation(len(U))[:ROWS] for i, U in zip(tasks, points, strict=True)]
    fits = [fit_objective(U[r], y[r], ()).fit.lengthscales for U, y, r in zip(points, losses, rows, strict=True)]
    lengthscales = torch.from_numpy(np.median(fits, axis=0))
    Z = torch.quasirandom.SobolEngine(SPACE.dim, scramble=True, seed=0).draw(CENTRES, dtype=torch.float64)
    none, weights = torch.zeros(SPACE.dim, dtype=torch.bool), []
    among = RIDGE * matern(Z, Z, 1 / lengthscales, none) + 1e-6 * torch.eye(CENTRES)
    for U, y in zip(points, losses, strict=True):
        K = matern(torch.from_numpy(U), Z, 1 / lengthscales, none)
        weights.append(torch.linalg.solve(K.T @ K + among, K.T @ torch.from_numpy(Outcome.of(y)(y))))
    names = tuple(f"xgboost-{i}" for i in tasks)
    levels, held = torch.zeros(len(tasks), dtype=torch.float64), torch.full((SPACE.dim,), 0.5, dtype=torch.float64)
    return PastStudies(names, SPACE, Z, lengthscales, torch.stack(weights, dim=1), levels, held, is_named=False)


def unit(X: Array) -> Array:
    """Points of the study in the unit cube of its space."""
    ends = [(p.lower, p.upper, p.log) for p in SPACE.parameters.values() if isinstance(p, Float)]
    low, high, log = (np.array(part) for part in zip(*ends, strict=True))
    X, low, high = (np.where(log, np.log(bound), bound) for bound in (X, low, high))
    return (X - low) / (high - low)


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    asked, started = parser.parse_args(), time.process_time()
    past = xgboost().to_record()
    made = {"data": "NAP's XGBoost study, tasks 0 to 19", "rows": ROWS, "centres": CENTRES, "ridge": RIDGE, "seed": 0}
    made |= {"command": "python benchmarks/metabo_past.py", "seconds": round(time.process_time() - started, 1)}
    write(asked.out, {"format": PAST_FORMAT, "made": json.dumps(made), "past": [past]})
    print(f"{asked.out}: {Path(asked.out).stat().st_size} bytes")


if __name__ == "__main__":
    main()
