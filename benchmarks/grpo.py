"""Where do rollouts go in a real GRPO, and does it matter? Rules of allocation at equal tokens, on a language model.

    python benchmarks/grpo.py [--seeds 5] [--rates 1e-3] [--rules uniform ...] [--size mini] [--out FILE]
    python benchmarks/grpo.py --table [--out FILE]

`problems/knapsack_grpo` at its defaults but for the rule and the learning rate: every run begins with the same warm
start, and has the same tokens, which no rule exceeds. Compared are the effective gradient ratio (the share of rollouts
in groups with both outcomes) and pass@1 on held-out exercises at the end. A seed is one order of prompts and one
stream of samples; rules of one seed see the same first epoch's prompts.

Each run is one thread on the CPU and one appended JSON line; a run that is there is not repeated.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.records import Record, asked_of, command_line, keep, read, train_here

RULES = ("uniform", "filtering", "knapsack", "posterior", "signal")
PROBLEM = Path(__file__).resolve().parents[1] / "problems" / "knapsack_grpo"
_OUT = Path(__file__).parent / "results" / "grpo.jsonl"


@lru_cache(maxsize=1)
def job() -> ModuleType:
    """The problem's `train.py`."""
    spec = importlib.util.spec_from_file_location("knapsack_grpo_train", PROBLEM / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def run(settings: Record, seed: int, updates: int | None = None) -> Record:
    """Train once in this process, for all the updates of the size by default; what came out, or why nothing did."""
    config = job().Config(**settings)
    n_updates: int = updates or job().SIZES[config.size].updates
    before = warm(config.size)  # outside the time that is taken
    began = time.process_time()
    reports, failed = train_here(job().main, settings, seed, n_updates, "pass_at_1")
    cpu_s = time.process_time() - began
    curves = {
        name: [round(r["metrics"][name], 5) for r in reports if name in r["metrics"]]
        for name in ("pass_at_1", "effective_ratio", "train_reward")
    }
    return {
        **settings,
        "seed": seed,
        "updates": n_updates,
        "before": round(before, 5),
        **curves,
        "tokens": int(reports[-1]["metrics"]["tokens"]),
        "state_bytes": int(max(r["metrics"]["state_bytes"] for r in reports)),
        "token_budget": n_updates * job().SIZES[config.size].tokens,
        "failed": failed,
        "cpu_s": round(cpu_s, 2),
        "python": platform.python_version(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@lru_cache
def warm(size: str) -> float:
    """The pass@1 with which all runs of a size begin; makes the warm start if it is not there."""
    return job().Run(job().Config(size=size), 0, 1, "cpu").evaluate()


def key(record: Record) -> tuple[Any, ...]:
    """What makes a run that run."""
    return tuple(record[name] for name in ("size", "lr", "allocation", "seed"))


def run_missing(size: str, seeds: Iterable[int], rates: Sequence[float], rules: Sequence[str], path: Path) -> None:
    """Run what is not recorded, each result appended as soon as it is there."""
    done = {key(record) for record in read(path)}
    for seed, lr, rule in itertools.product(seeds, rates, rules):
        settings = {"size": size, "lr": lr, "allocation": rule}
        if key({**settings, "seed": seed}) in done:
            continue
        keep(run(settings, seed), path)


def table(records: Sequence[Record]) -> str:
    """The records as tables, one for each size and learning rate."""
    lines: list[str] = []
    for size, lr in dict.fromkeys((r["size"], r["lr"]) for r in records):
        cell = [r for r in records if (r["size"], r["lr"]) == (size, lr)]
        by_seed = {r["seed"]: r["pass_at_1"][-1] for r in cell if r["allocation"] == "uniform"}
        lines += [
            "",
            f"{size}, learning rate {lr:g}, pass@1 of {cell[0]['before']:.3f} before:",
            "",
            "| rule | seeds | effective ratio: mean, last tenth | mean reward in training, last tenth "
            "| held-out pass@1 | less uniform's, seed by seed | better than uniform in | tokens | CPU s |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for rule in dict.fromkeys(r["allocation"] for r in cell):
            mine = [r for r in cell if r["allocation"] == rule]
            last = [r["pass_at_1"][-1] for r in mine]
            gains = [r["pass_at_1"][-1] - by_seed[r["seed"]] for r in mine if r["seed"] in by_seed]
            ratio = _mean(statistics.fmean(r["effective_ratio"]) for r in mine)
            columns = [
                rule,
                str(len(mine)),
                f"{ratio:.3f}, {_mean(r['effective_ratio'][-1] for r in mine):.3f}",
                f"{_mean(r['train_reward'][-1] for r in mine):.3f}",
                _spread(last),
                _spread(gains, sign="+"),
                f"{sum(g > 0 for g in gains)} of {len(gains)}",
                f"{_mean(r['tokens'] / r['token_budget'] for r in mine):.1%}",
                f"{_mean(r['cpu_s'] for r in mine):.1f}",
            ]
            lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines[1:])


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)


def _spread(values: Sequence[float], sign: str = "") -> str:
    """Mean and standard deviation over seeds."""
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.fmean(values):{sign}.3f} ± {deviation:.3f}"


def main() -> None:
    """Run what is missing, or show the table."""
    parser = command_line(__doc__, _OUT)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3])
    parser.add_argument("--rules", nargs="+", choices=RULES, default=RULES)
    parser.add_argument("--size", default="mini")
    if (args := asked_of(parser, table)) is None:
        return
    run_missing(args.size, range(args.seeds), args.rates, args.rules, args.out)


if __name__ == "__main__":
    main()
