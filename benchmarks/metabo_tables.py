"""Gathers the recorded tables that the weights that ship were trained on, into one file.

    python benchmarks/metabo_tables.py --bocode FOLDER --out training.npz [--held-out held_out.npz]

| from | tables |
|---|---|
| NAP's XGBoost study (`../shared/data` or `FRUGALBO_DATA`) | tasks 0 to 19, as in the study |
| HPO-B-v3 pools in the wheel of `bocode` 1.0.1 | all but the five spaces that are judged (`JUDGED`) |
| LCBench's final accuracies in that wheel | all data sets |

`FOLDER` is where that wheel was unpacked; nothing of it needs to be installed. Of each table at most 2,000 rows, drawn
with the seed 0. Spaces 5891, 5970 and 7609, and every seventh data set of LCBench, go to the file that is held out:
what is chosen for the weights may be chosen on it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.curve_tables import data_folder

JUDGED = ("4796", "5527", "5859", "5889", "5906")
HELD_OUT = ("5891", "5970", "7609")
MOST_ROWS = 2000
POOLS = Path("bocode", "opt_problems", "hpo", "data")

Array = NDArray[np.float64]


def tables(bocode: Path) -> Iterator[tuple[str, Array, Array, bool]]:
    """Name, points, accuracies, and whether it is held out."""
    xgboost = np.load(data_folder() / "nap_xgb" / "xgb_tables.npz")
    for i in range(20):
        yield f"xgboost-{i}", xgboost[f"{i}/X"], xgboost[f"{i}/accuracy"], False
    pools = np.load(bocode / POOLS / "hpob_data.npz")
    for key in sorted(pools.files):
        space = key.partition("_")[0]
        if space not in JUDGED:
            yield f"hpob-{key}", pools[key][:, :-1], pools[key][:, -1], space in HELD_OUT
    lcbench = np.load(bocode / POOLS / "lcbench_data.npz")
    for i, key in enumerate(sorted(lcbench.files)):
        yield f"lcbench-{key}", lcbench[key][:, :-1], lcbench[key][:, -1], i % 7 == 6


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bocode", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--held-out", type=Path)
    asked = parser.parse_args()
    rng, found = np.random.default_rng(0), ({}, {})
    for name, X, accuracy, is_held_out in tables(asked.bocode):
        rows = np.sort(rng.permutation(len(X))[:MOST_ROWS])
        found[is_held_out][f"{name}/X"] = X[rows].astype(np.float32)
        found[is_held_out][f"{name}/accuracy"] = accuracy[rows].astype(np.float32)
    np.savez_compressed(asked.out, **found[0])
    if asked.held_out:
        np.savez_compressed(asked.held_out, **found[1])
    print(f"{len(found[0]) // 2} tables to learn from, {len(found[1]) // 2} held out")


if __name__ == "__main__":
    main()
