"""The least loss for at most so many bytes of optimizer state: is the limit ever exceeded, and who finds it?

    python benchmarks/memory_limit.py [--seeds 5] [--trials 20] [--steps 128] [--limit 450000] [--methods ...]
    python benchmarks/memory_limit.py --table

`problems/tiny_llama` at the size `mini`, its rate, density and phi, all else at its defaults. What the state takes at
its peak is a formula of the density, so the limit is a known constraint of the space. A trial costs the same tokens
whatever its knobs, and each method has those of `--trials` trials. Methods are those of `joint.py`: `frugalbo` is given
the constraint; of what the others suggest, that which violates it is not run: they are told that it has the loss of
knowing nothing (log 256), which costs them nothing, and are asked again. All begin with the defaults, at the largest
density of at most 0.25 that keeps to the limit. Answers are the best seen, trained again with fresh seeds.

It can be run in pieces, as `joint.py`. The records have the most bytes that any trial of a study allocated, measured.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import joint
from benchmarks.joint import CONFIRM, METHODS, Trainings
from benchmarks.joint_table import with_error
from benchmarks.records import Record, asked_of, command_line, train_here
from benchmarks.tiny_llama_reference import PROBLEM, job
from frugalbo.problem import load_problem
from frugalbo.space import Params, Space

KNOBS = ("lr", "density", "phi")
NOTHING = math.log(256)  # nats per byte of who knows nothing
_OUT = Path(__file__).parent / "results" / "memory_limit.jsonl"


def train(size: str, params: Params, seed: int, steps: int) -> Record:
    """One training: the loss at its end, and the most bytes of state that it reported."""
    began = time.process_time()
    reports, failed = train_here(job().main, {"size": size, **params}, seed, steps, "val_loss")
    loss = NOTHING if failed is not None else round(reports[-1]["metrics"]["val_loss"], 5)
    return {
        "loss": loss,
        "seconds": round(time.process_time() - began, 2),
        "state_bytes": int(max(r["metrics"]["state_bytes"] for r in reports)),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def search_space(limit: int) -> tuple[Space, Params]:
    """The knobs with the limit as a constraint, and where they begin."""
    problem = load_problem(PROBLEM, {"state_limit": limit})
    assert problem.defaults is not None
    space = Space({k: problem.space.parameters[k] for k in KNOBS}, problem.space.constraints)
    return space, {k: problem.defaults[k] for k in KNOBS}


def run_missing(trainings: Trainings, limit: int, seeds: Sequence[int], trials: int, methods: Sequence[str]) -> None:
    """Do the studies that are not on file, seed by seed, and train the defaults where answers are confirmed."""
    space, defaults = search_space(limit)
    for fresh in CONFIRM:
        trainings.of(defaults, fresh)
    done = {(r["method"], r["seed"], r["trials"], r["limit"]) for r in trainings.of_kind("study")}
    for seed in seeds:
        for method in methods:
            if (method, seed, trials, limit) not in done:
                found = joint.study(method, trainings, seed, trials, space, defaults, refused=NOTHING)
                most = max(trainings.of(params, seed)["state_bytes"] for params in found["tried"])
                trainings.append("study", {**found, "limit": limit, "most_bytes": most})


def table(records: Sequence[Record]) -> str:
    """Studies by method: trials, bytes, losses as seen and confirmed."""
    lines: list[str] = []
    studies = [r for r in records if r["kind"] == "study"]
    for limit, steps, trials in dict.fromkeys((r["limit"], r["updates"], r["trials"]) for r in studies):
        here = [r for r in studies if (r["limit"], r["updates"], r["trials"]) == (limit, steps, trials)]
        _, defaults = search_space(limit)
        begun = [
            r["loss"]
            for r in records
            if r["kind"] == "training" and (r["params"], r["updates"]) == (defaults, steps) and r["seed"] in CONFIRM
        ]
        lines += [
            f"At most {limit:,} bytes, {trials} trials of {steps} steps:",
            "",
            "| method | studies | most bytes of any trial | loss of its answer, as seen | confirmed |",
            "|---|---|---|---|---|",
            f"| the defaults | | | | {statistics.fmean(begun):.4f} |",
        ]
        for method in dict.fromkeys(r["method"] for r in here):
            mine = [r for r in here if r["method"] == method]
            most, seen = max(r["most_bytes"] for r in mine), [r["loss"] for r in mine]
            confirmed = with_error([statistics.fmean(r["confirmed"]) for r in mine])
            lines.append(f"| {method} | {len(mine)} | {most:,} | {statistics.fmean(seen):.4f} | {confirmed} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, or show the table."""
    parser = command_line(__doc__, _OUT)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--limit", type=int, default=450_000)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    if (args := asked_of(parser, table)) is None:
        return
    trainings = Trainings("mini", args.steps, args.out, train)
    run_missing(trainings, args.limit, range(args.seeds), args.trials, args.methods)


if __name__ == "__main__":
    main()
