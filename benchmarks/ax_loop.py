"""What does it change for an Ax user: Ax's own methods, Ax with our generation strategy, or our loop?

    python benchmarks/ax_loop.py [--seeds 10] [--trials 30] [--out FILE]
    python benchmarks/ax_loop.py --table [--out FILE]

Hartmann's function in six dimensions, the example of Ax's own tutorial, one trial at a time:

* `ax`: `Client`, nothing configured but the seed of its initial points;
* `strategy`: the same client with `generation_strategy(method="auto")`;
* `loop`: `fb.open_study`, `ask` and `tell`, without Ax.

A record is a line of JSON for each way and seed: the regret (best value seen, less the minimum, -3.32237) after each
trial, and of each suggestion the seconds of the processor and of the clock, on one thread. A suggestion is
`get_next_trials(1)` or `ask()`. The three ways of a seed run one after the other.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

import frugalbo as fb
from benchmarks.engine import functions
from frugalbo.propose import preload

BEST = -3.32237
WAYS = ("ax", "strategy", "loop")
_OUT = Path(__file__).parent / "results" / "ax_loop.jsonl"
_HARTMANN = next(race for race in functions() if race.name == "hartmann6")

Suggest = Callable[[], tuple[int, Mapping[str, Any]]]
Tell = Callable[[int, float], None]


def with_ax(seed: int, *, ours: bool) -> tuple[Suggest, Tell]:
    """A client of Ax, with its own methods or with ours."""
    from ax.api.client import Client
    from ax.api.configs import RangeParameterConfig

    from frugalbo.integrations.ax import generation_strategy

    _quiet()
    client = Client(random_seed=seed)
    names = _HARTMANN.space.names
    client.configure_experiment([RangeParameterConfig(name, (0.0, 1.0), "float") for name in names], name="hartmann6")
    client.configure_optimization("-loss")
    if ours:
        client.set_generation_strategy(generation_strategy(method="auto", seed=seed))
    else:
        client.configure_generation_strategy(initialization_random_seed=seed)

    def tell(index: int, loss: float) -> None:
        client.complete_trial(index, {"loss": loss})

    return lambda: next(iter(client.get_next_trials(1).items())), tell


def own_loop(seed: int, trials: int) -> tuple[Suggest, Tell]:
    """A study of ours."""
    preload()
    problem = fb.Problem("hartmann6", _HARTMANN.space, "nowhere:train", fb.Minimize("loss"))
    study = fb.open_study(problem, budget=f"{trials} trials", seed=seed)

    def suggest() -> tuple[int, Mapping[str, Any]]:
        trial = study.ask()
        return trial.number, trial.params

    return suggest, study.tell


def run(way: str, seed: int, trials: int) -> dict[str, Any]:
    """One run to its end."""
    suggest, tell = own_loop(seed, trials) if way == "loop" else with_ax(seed, ours=way == "strategy")
    best, regret, cpu_s, wall_s = np.inf, [], [], []
    for _ in range(trials):
        cpu, wall = time.process_time(), time.perf_counter()
        index, params = suggest()
        cpu_s.append(round(time.process_time() - cpu, 4))
        wall_s.append(round(time.perf_counter() - wall, 4))
        loss = _HARTMANN.f(dict(params))
        tell(index, loss)
        best = min(best, loss)
        regret.append(best - BEST)
    return {"way": way, "seed": seed, "trials": trials, "regret": regret, "cpu_s": cpu_s, "wall_s": wall_s}


def table(path: Path) -> str:
    """The records as a table: quartiles of regret over seeds, medians of seconds over the suggestions of a model."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [
        "| way | seeds | regret after 10 | 20 | 30: median (quartiles) | CPU s a suggestion | wall s |",
        "|" + "---|" * 7,
    ]
    for way in WAYS:
        cell = [row for row in rows if row["way"] == way]
        if not cell:
            continue
        regret = np.array([row["regret"] for row in cell])
        low, middle, high = np.percentile(regret[:, -1], [25, 50, 75])
        # The first suggestions are blind points; the first of a model pays for its imports' warming up.
        cpu, wall = (np.median([row[name][10:] for row in cell]) for name in ("cpu_s", "wall_s"))
        at = [np.median(regret[:, n - 1]) for n in (10, 20)]
        lines.append(
            f"| {way} | {len(cell)} | {at[0]:.3f} | {at[1]:.3f} | {middle:.4f} ({low:.4f} to {high:.4f}) "
            f"| {cpu:.3f} | {wall:.3f} |"
        )
    return "\n".join(lines)


def _quiet() -> None:
    """Without Ax's log of every trial, and its warnings of its own internals."""
    for name in list(logging.Logger.manager.loggerDict):
        if name.startswith("ax"):
            logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--out", type=Path, default=_OUT)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        print(table(args.out))
        return
    import torch

    torch.set_num_threads(1)
    stamp = {"ax": version("ax-platform"), "botorch": version("botorch")}
    for seed in range(args.seeds):
        for way in WAYS:
            record = {**run(way, seed, args.trials), **stamp, "at": datetime.now(UTC).isoformat(timespec="seconds")}
            with args.out.open("a") as out:
                out.write(json.dumps(record) + "\n")
            print(way, seed, round(record["regret"][-1], 4), np.median(record["cpu_s"]), flush=True)


if __name__ == "__main__":
    main()
