"""FRUGAL's density, UBA's phi, the rollouts and the learning rate: tuned together, or one after the other?

    python benchmarks/joint.py [--seeds 5] [--trials 20] [--size mini] [--methods frugalbo one-at-a-time ...]
    python benchmarks/joint.py --table

`problems/knapsack_grpo` under the published knapsack, all other knobs at their defaults. Each method has the same
device-seconds: `--trials` times what the defaults take, measured in seconds of one thread's processor. All begin with
the defaults, and pay for them. A study's trials share one seed of training; its answer, the best of what it has seen,
is trained again with `CONFIRM` seeds that no study has seen, and the mean of these is the result.

| method | what it is |
|---|---|
| `frugalbo` | `tune` with its defaults |
| `one-at-a-time` | a fifth of the trials for each of `KNOBS` in turn, the others at the best so far; then again |
| `random`, `optuna-tpe`, `ax` | see `peers.py` |

It can be run in pieces: each training is a line of JSON as soon as it has ended, and is not done again; a study that
was interrupted gets the same answers to the same questions when it is started once more. Finished studies are lines
too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import grpo
from benchmarks.peers import Job, Peer, drive, make_peer
from frugalbo.api import tune
from frugalbo.budget.amounts import Budget
from frugalbo.executors.curve import Curve
from frugalbo.executors.simulated import SimulatedExecutor
from frugalbo.problem import Fidelity, Minimize, Problem, load_problem
from frugalbo.slot import Slot
from frugalbo.space import Params, Space

METHODS = ("frugalbo", "one-at-a-time", "random", "optuna-tpe", "ax")
KNOBS = ("lr", "density", "phi", "rollouts")
CONFIRM = (1000, 1001)
_OUT = Path(__file__).parent / "results" / "joint.jsonl"

Record = dict[str, Any]


@dataclass(slots=True)
class Trainings:
    """Trainings of one size, each done once: on file, or now."""

    size: str
    path: Path
    train: Callable[[Record, int], Record] = grpo.run
    _done: dict[str, Record] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._done = {_key(r["params"], r["seed"]): r for r in self.of_kind("training")}

    def of_kind(self, kind: str) -> list[Record]:
        """The records of this size."""
        return [r for r in grpo.read(self.path) if r["kind"] == kind and r["size"] == self.size]

    def append(self, record: Record) -> None:
        """Puts a record on file."""
        with self.path.open("a") as out:
            out.write(json.dumps(record) + "\n")

    def of(self, params: Params, seed: int) -> Record:
        """The training with these knobs; its loss is 1 - pass@1, and 1 where it diverged."""
        key = _key(params, seed)
        if key not in self._done:
            found = self.train({"size": self.size, "allocation": "knapsack", **params}, seed)
            record = {
                "kind": "training",
                "size": self.size,
                "params": params,
                "seed": seed,
                "loss": 1.0 if found["failed"] else round(1 - found["pass_at_1"][-1], 5),
                "seconds": found["cpu_s"],
                "state_bytes": found["state_bytes"],
                "at": found["at"],
            }
            self.append(record)
            print(json.dumps(record), flush=True)
            self._done[key] = record
        return self._done[key]


class OneAtATime:
    """Tunes a knob with the others at the best so far, then the next; `each` values for a knob.

    The values of a knob are van der Corput's points in its unit interval: 1/2, 1/4, 3/4, 1/8, ..., and when its turn
    comes again, the next ones.
    """

    def __init__(self, space: Space, start: Params, each: int) -> None:
        self._space, self._each = space, each
        self._best, self._loss = start, float("inf")
        self._asked = 0

    def ask(self) -> tuple[Hashable, Params]:
        """The best so far with one knob elsewhere."""
        turn, within = divmod(self._asked, self._each)
        lap, knob = divmod(turn, len(KNOBS))
        self._asked += 1
        name = KNOBS[knob]
        value = self._space.parameters[name].from_unit(_van_der_corput(lap * self._each + within + 1))  # type: ignore[union-attr]
        params = {**self._best, name: value}
        return json.dumps(params), params

    def tell(self, key: Any, loss: float) -> None:
        """Moves to what is better; the rest of a turn goes on from there, on the same knob."""
        self.attach(json.loads(key), loss)

    def attach(self, params: Params, loss: float) -> None:
        """A result that it did not ask for."""
        if loss < self._loss:
            self._best, self._loss = params, loss


class FromDefaults:
    """A peer that is asked after the defaults were tried, and is told of them if it can be."""

    def __init__(self, peer: Peer, defaults: Params) -> None:
        self._peer, self._defaults = peer, defaults
        self._is_first = True

    def ask(self) -> tuple[Hashable, Params] | None:
        """The defaults, then what the peer suggests."""
        if self._is_first:
            self._is_first = False
            return "defaults", self._defaults
        return self._peer.ask()

    def tell(self, key: Any, loss: float) -> None:
        """Pass a result on."""
        if key != "defaults":
            self._peer.tell(key, loss)
        elif attach := getattr(self._peer, "attach", None):
            attach(self._defaults, loss)


def search_space(size: str) -> tuple[Space, Params]:
    """The knobs that are tuned, and where they begin."""
    problem = load_problem(grpo.PROBLEM, {"size": size})
    assert problem.defaults is not None
    return Space({k: problem.space.parameters[k] for k in KNOBS}), {k: problem.defaults[k] for k in KNOBS}


def study(method: str, trainings: Trainings, seed: int, trials: int) -> Record:
    """One method's search, and what its answer is worth."""
    space, defaults = search_space(trainings.size)
    budget_s = trials * trainings.of(defaults, seed)["seconds"]

    def observe(params: Params) -> tuple[float, float]:
        found = trainings.of(params, seed)
        return found["loss"], found["seconds"]

    if method == "frugalbo":
        jobs = ours(space, defaults, observe, seed, budget_s)
    else:
        each = max(1, trials // (len(KNOBS) + 1))
        peer = OneAtATime(space, defaults, each) if method == "one-at-a-time" else make_peer(method, space, seed)
        jobs = drive(FromDefaults(peer, defaults), observe, budget_s=budget_s, workers=1)
    done = [job for job in jobs if job.loss is not None]
    answer = min(done, key=lambda job: job.loss or 0.0)
    confirmed = [trainings.of(answer.params, fresh) for fresh in CONFIRM]
    return {
        "kind": "study",
        "size": trainings.size,
        "method": method,
        "seed": seed,
        "trials": trials,
        "ran": len(done),
        "budget_s": budget_s,
        "path": [[round(job.ended, 2), job.loss] for job in done],
        "answer": answer.params,
        "loss": answer.loss,
        "confirmed": [found["loss"] for found in confirmed],
        "state_bytes": confirmed[0]["state_bytes"],
    }


def ours(
    space: Space, defaults: Params, observe: Callable[[Params], tuple[float, float]], seed: int, budget_s: float
) -> list[Job]:
    """What `tune` does with these trainings, on a virtual clock."""
    problem = Problem(
        "joint", space, "nowhere:train", Minimize("loss"), fidelity=Fidelity("runs", 1, 1), defaults=defaults
    )

    def simulate(params: Params, planned: int, seed: int) -> Curve:
        loss, seconds = observe(params)
        return Curve([planned], [seconds], [{"loss": loss}])

    executor = SimulatedExecutor(problem, [Slot("cpu:0", "cpu", 0)], simulate)
    found = tune(problem, budget=Budget(device_seconds=budget_s), seed=seed, executor=executor).study
    jobs, now = list[Job](), 0.0
    for trial in found.trials.values():
        began, now = now, now + trial.used("device_seconds")
        jobs.append(Job(trial.params, began, now, found.value(trial)))
    return jobs


def run_missing(size: str, seeds: Sequence[int], trials: int, methods: Sequence[str], path: Path) -> None:
    """Do the studies that are not on file, seed by seed."""
    trainings = Trainings(size, path)
    done = {(r["method"], r["seed"], r["trials"]) for r in trainings.of_kind("study")}
    for seed in seeds:
        for method in methods:
            if (method, seed, trials) not in done:
                record = study(method, trainings, seed, trials)
                trainings.append(record)
                print(json.dumps(record), flush=True)


def table(records: Sequence[Record]) -> str:
    """Studies by method, and the least loss for the bytes of optimizer state, over all trainings."""
    lines: list[str] = []
    for size in dict.fromkeys(r["size"] for r in records):
        studies = [r for r in records if r["kind"] == "study" and r["size"] == size]
        for trials in dict.fromkeys(r["trials"] for r in studies):
            lines += [
                f"{size}, {trials} times the seconds of the defaults:",
                "",
                "| method | studies | trials | 1 - pass@1 of its answer, as seen | confirmed |",
                "|---|---|---|---|---|",
            ]
            for method in dict.fromkeys(r["method"] for r in studies):
                mine = [r for r in studies if r["method"] == method and r["trials"] == trials]
                if mine:
                    ran, seen, confirmed = (
                        statistics.fmean(values)
                        for values in (
                            [r["ran"] for r in mine],
                            [r["loss"] for r in mine],
                            [statistics.fmean(r["confirmed"]) for r in mine],
                        )
                    )
                    lines.append(f"| {method} | {len(mine)} | {ran:.1f} | {seen:.4f} | {confirmed:.4f} |")
            lines.append("")
        trainings = [r for r in records if r["kind"] == "training" and r["size"] == size]
        lines += ["| bytes of state, at most | best loss | at |", "|---|---|---|"]
        best = float("inf")
        for record in sorted(trainings, key=lambda r: (r["state_bytes"], r["loss"])):
            if record["loss"] < best:
                best = record["loss"]
                knobs = ", ".join(f"{k} {v:.3g}" for k, v in record["params"].items())
                lines.append(f"| {record['state_bytes']:,} | {best:.4f} | {knobs} |")
        lines.append("")
    return "\n".join(lines)


def _key(params: Params, seed: int) -> str:
    return json.dumps([params, seed], sort_keys=True)


def _van_der_corput(n: int) -> float:
    value, scale = 0.0, 0.5
    while n:
        value += scale * (n % 2)
        n, scale = n // 2, scale / 2
    return value


def main() -> None:
    """Run what is missing, or show the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--size", default="mini")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--out", type=Path, default=_OUT)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        print(table(grpo.read(args.out)))
        return
    import torch

    torch.set_num_threads(1)
    run_missing(args.size, range(args.seeds), args.trials, args.methods, args.out)


if __name__ == "__main__":
    main()
