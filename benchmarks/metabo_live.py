"""Ten trials of a job that is really trained: the network that has seen tuning before, our Gaussian process, or random?

    python benchmarks/metabo_live.py [--seeds 10] [--trials 10] [--steps 128] [--methods metabo bo random]
    python benchmarks/metabo_live.py --table

`problems/tiny_llama` at the size `mini`, all its seven knobs. A trial reads the same tokens whatever its knobs, and
these are what it costs (its seconds hang on what else the machine does), so each method has those of `--trials`
trials. All begin with the defaults and pay for them; `metabo` and `bo` of one seed have the next two in common, their
initial design. A study's trials share one seed of training; its answer, the best of what it has seen, is trained again
with `CONFIRM` seeds that no study has seen, and the mean of these is the result.

It can be run in pieces, as `joint.py`: a training that is on file is not done again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from numpy.typing import NDArray

from benchmarks import joint
from benchmarks.grpo import read
from benchmarks.joint import CONFIRM, Record, Trainings
from benchmarks.joint_table import with_error
from benchmarks.memory_limit import NOTHING, train
from benchmarks.tiny_llama_reference import PROBLEM, job
from frugalbo.problem import load_problem
from frugalbo.space import Fixed, Params, Space

METHODS = ("metabo", "bo", "random")
AT = (1, 3, 5, 7, 10)  # trials
OUT = Path(__file__).parent / "results" / "metabo_live.jsonl"


def search_space() -> tuple[Space, Params]:
    """The knobs, and where they begin."""
    problem = load_problem(PROBLEM, {"size": "mini"})
    assert problem.defaults is not None
    knobs = {name: p for name, p in problem.space.parameters.items() if not isinstance(p, Fixed)}
    return Space(knobs), {name: problem.defaults[name] for name in knobs}


def run_missing(trainings: Trainings, seeds: Sequence[int], trials: int, methods: Sequence[str]) -> None:
    """Do the studies that are not on file, seed by seed, and train the defaults where answers are confirmed."""
    space, defaults = search_space()
    for fresh in CONFIRM:
        trainings.of(defaults, fresh)
    done = {(r["method"], r["seed"], r["trials"]) for r in trainings.of_kind("study")}
    for seed in seeds:
        for method in methods:
            if (method, seed, trials) not in done:
                found = joint.study(method, trainings, seed, trials, space, defaults, refused=NOTHING)
                trainings.append("study", found)


def table(records: Sequence[Record]) -> str:
    """The best loss so far by method, what the answers are worth, and studies ahead of `bo` and behind it."""
    lines: list[str] = []
    studies = [r for r in records if r["kind"] == "study"]
    for steps, trials in dict.fromkeys((r["updates"], r["trials"]) for r in studies):
        here = {(r["method"], r["seed"]): r for r in studies if (r["updates"], r["trials"]) == (steps, trials)}
        methods = [m for m in METHODS if any(m == method for method, _ in here)]
        seeds = sorted({s for _, s in here if all((m, s) in here for m in methods)})
        at = [t for t in AT if t <= trials]
        size = job().SIZES["mini"]
        tokens = trials * steps * size.batch * size.sequence
        lines += [f"{trials} trials of {steps} steps, {tokens / 1e6:.1f} million tokens, {len(seeds)} seeds:", ""]
        heads = " | ".join(f"best of {t}" for t in at)
        lines.append(f"| method | {heads} | answer, confirmed | less than bo's | ahead, behind |")
        lines.append("|" + "---|" * (len(at) + 4))
        for method in methods:
            best = np.array([np.minimum.accumulate(here[method, s]["path"])[[t - 1 for t in at]] for s in seeds])
            worth = _worth(here, method, seeds)
            apart = _worth(here, "bo", seeds) - worth if "bo" in methods else np.zeros(0)
            versus = " | " if method == "bo" or not len(apart) else f"{with_error(apart.tolist())} | {_counts(apart)}"
            means = " | ".join(f"{x:.4f}" for x in best.mean(0))
            lines.append(f"| {method} | {means} | {with_error(worth.tolist())} | {versus} |")
        lines.append("")
    return "\n".join(lines)


def _worth(here: dict[tuple[str, int], Record], method: str, seeds: Sequence[int]) -> NDArray[np.float64]:
    return np.array([np.mean(here[method, s]["confirmed"]) for s in seeds])


def _counts(gains: NDArray[np.float64]) -> str:
    return f"{(gains > 0).sum()}, {(gains < 0).sum()}"


def main() -> None:
    """Run what is missing, or show the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        print(table(read(args.out)))
        return
    import torch

    torch.set_num_threads(1)
    run_missing(Trainings("mini", args.steps, args.out, train), range(args.seeds), args.trials, args.methods)


if __name__ == "__main__":
    main()
