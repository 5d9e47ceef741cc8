"""The joint study again, of trainings that are emulated: many seeds in minutes, and the truth is known.

    python benchmarks/joint_emulated.py [--seeds 12] [--trials 20] [--methods frugalbo frugalbo-untold random ...]
    python benchmarks/joint_emulated.py --table

The function is the mean of a Gaussian process of all trainings of `mini` that `joint.py` has recorded; to it comes
normal noise, independent from trial to trial, of the standard deviation of what the process leaves of the better half
of them. Methods are those of `joint.py`, and `frugalbo` is told of the same standard error as there. What counts is the
regret of an answer: the function there less its least value. So this says how methods cope with such noise on such a
function, and nothing of GRPO.

Each study is a line of JSON; a study that is there is not done again.
"""

from __future__ import annotations

import json
import statistics
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks import joint
from benchmarks.joint_table import with_error
from benchmarks.records import Record, asked_of, command_line, keep, read
from frugalbo.space import Params, Space

UPDATES = 30
_POINTS = 20_000  # among which the least value is looked for
_OUT = Path(__file__).parent / "results" / "joint_emulated.jsonl"


@dataclass(frozen=True, slots=True)
class Emulator:
    """Trainings that take no time.

    Args:
        loss: The mean of a training's loss.
        noise: The standard deviation of its noise.
        least: The least mean.
        trainings: How many real ones are behind it.
    """

    loss: Callable[[Params], float]
    noise: float
    least: float
    trainings: int

    @classmethod
    def of(cls, records: Sequence[Record], space: Space) -> Emulator:
        """The emulator of these trainings."""
        import torch

        from frugalbo.models.objective import fit_objective

        X = np.array([space.encode(r["params"]) for r in records])
        losses = np.array([r["loss"] for r in records])
        found = fit_objective(X, losses, space.categorical_dims)

        def at(X: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                means = found.model.marginals(torch.from_numpy(X)).mean.numpy()
            return np.array([found.outcome.inverse(float(mean)) for mean in means])

        left, better = losses - at(X), losses <= np.median(losses)
        U = np.random.default_rng(0).random((_POINTS, space.dim))
        least = at(np.array([space.snap(u) for u in np.concatenate([U, X])])).min()
        return cls(lambda params: float(at(space.encode(params)[None])[0]), float(left[better].std()), least, len(X))

    def observe(self, params: Params, seed: int) -> float:
        """One training; another seed has other noise, everywhere. A share is at most 1."""
        key = zlib.crc32(json.dumps(params, sort_keys=True).encode())
        return min(1.0, self.loss(params) + self.noise * float(np.random.default_rng([seed, key]).standard_normal()))


def run_missing(seeds: Sequence[int], trials: int, methods: Sequence[str], path: Path) -> None:
    """Do the studies that are not on file."""
    space, defaults = joint.search_space("mini")
    real = joint.Trainings("mini", UPDATES, joint.OUT).of_kind("training")
    emulator = Emulator.of(real, space)
    sem = joint.standard_error("mini")
    done = {(r["method"], r["seed"], r["trials"], r["trainings"]) for r in read(path)}
    for seed in seeds:
        for method in methods:
            if (method, seed, trials, emulator.trainings) in done:
                continue

            def observe(params: Params, seed: int = seed) -> float:
                return emulator.observe(params, seed)

            tried = joint.search(method, observe, seed, trials, space, defaults, sem=sem)
            answer = min(tried, key=lambda trial: trial[1])[0]
            record = {
                "method": method,
                "seed": seed,
                "trials": trials,
                "trainings": emulator.trainings,
                "noise": round(emulator.noise, 5),
                "least": round(emulator.least, 5),
                "regret": round(emulator.loss(answer) - emulator.least, 5),
                "best_tried": round(min(emulator.loss(params) for params, _ in tried) - emulator.least, 5),
            }
            keep(record, path)


def table(records: Sequence[Record]) -> str:
    """Regret by method, of the answers and of the best that was tried."""
    lines: list[str] = []
    for trainings, trials in dict.fromkeys((r["trainings"], r["trials"]) for r in records):
        here = [r for r in records if (r["trainings"], r["trials"]) == (trainings, trials)]
        noise, least = here[0]["noise"], here[0]["least"]
        lines += [
            f"{trials} trials, emulated from {trainings} trainings; noise {noise}, least {least}:",
            "",
            "| method | studies | regret of its answer | of the best that it tried | less frugalbo's, by seed |",
            "|---|---|---|---|---|",
        ]
        ours = {r["seed"]: r["regret"] for r in here if r["method"] == "frugalbo"}
        for method in dict.fromkeys(r["method"] for r in here):
            mine = [r for r in here if r["method"] == method]
            more = [r["regret"] - ours[r["seed"]] for r in mine if r["seed"] in ours]
            against = with_error(more) if more and method != "frugalbo" else ""
            tried = statistics.fmean(r["best_tried"] for r in mine)
            regret = with_error([r["regret"] for r in mine])
            lines.append(f"| {method} | {len(mine)} | {regret} | {tried:.4f} | {against} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, or show the table."""
    parser = command_line(__doc__, _OUT)
    known = (*joint.METHODS, joint.UNTOLD)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--methods", nargs="+", choices=known, default=known)
    if (args := asked_of(parser, table)) is None:
        return
    run_missing(range(args.seeds), args.trials, args.methods, args.out)


if __name__ == "__main__":
    main()
