"""FRUGAL's density, UBA's phi, the rollouts and the learning rate: tuned together, or one after the other?

    python benchmarks/joint.py [--seeds 5] [--trials 20] [--size mini] [--updates 30] [--methods frugalbo ...]
    python benchmarks/joint.py --updates 30 --by-model
    python benchmarks/joint.py --updates 30 --confirm-front
    python benchmarks/joint.py --updates 30 --picture docs/joint.png
    python benchmarks/joint.py --table

`problems/knapsack_grpo` under the published knapsack, all other knobs at their defaults. A trial generates the same
tokens whatever its knobs, and these are what it costs; each method has those of `--trials` trials. (Seconds differ by a
tenth between configurations here, and by more between a quiet machine and a busy one.) All begin with the defaults, and
pay for them. A study's trials share one seed of training; its answer, the best of what it has seen, is trained again
with `CONFIRM` seeds that no study has seen, and the mean of these is the result.

| method | what it is |
|---|---|
| `frugalbo` | `tune` with its defaults, told of each result's standard error, as the problem states it |
| `frugalbo-untold` | the same, not told |
| `one-at-a-time` | a fifth of the trials for each of `KNOBS` in turn, the others at the best so far; then again |
| `random`, `optuna-tpe`, `ax` | see `peers.py` |

It can be run in pieces: each training is a line of JSON as soon as it has ended, and is not done again; a study that
was interrupted gets the same answers to the same questions when it is started once more. Finished studies are lines
too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks import grpo, records
from benchmarks.peers import Peer, drive, make_peer
from frugalbo.api import tune
from frugalbo.budget.amounts import Budget
from frugalbo.executors.curve import Curve
from frugalbo.executors.simulated import SimulatedExecutor
from frugalbo.problem import Fidelity, Minimize, Problem, load_problem
from frugalbo.slot import Slot
from frugalbo.space import Params, Space

METHODS = ("frugalbo", "one-at-a-time", "random", "optuna-tpe", "ax")
UNTOLD = "frugalbo-untold"
OURS = {"frugalbo": "auto", UNTOLD: "auto", "metabo": "metabo", "bo": "bo"}  # what `tune` is told
KNOBS = ("lr", "density", "phi", "rollouts")
CONFIRM = (1000, 1001)
FULL = {"toy": 24, "mini": 60}  # updates
OUT = Path(__file__).parent / "results" / "joint.jsonl"

Record = dict[str, Any]


def train(size: str, params: Params, seed: int, updates: int) -> Record:
    """One training; its loss is 1 - pass@1, and 1 where it diverged."""
    grpo.job().REPORTS = 2  # type: ignore[attr-defined]  # of which the second one alone has pass@1
    found = grpo.run({"size": size, "allocation": "knapsack", **params}, seed, updates)
    return {
        "loss": 1.0 if found["failed"] else round(1 - found["pass_at_1"][-1], 5),
        "seconds": found["cpu_s"],
        "state_bytes": found["state_bytes"],
        "at": found["at"],
    }


@dataclass(slots=True)
class Trainings:
    """Trainings of one size and length, each done once: on file, or now."""

    size: str
    updates: int
    path: Path
    train: Callable[[str, Params, int, int], Record] = train
    _done: dict[str, Record] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._done = {_key(r["params"], r["seed"]): r for r in self.of_kind("training")}

    def of_kind(self, kind: str) -> list[Record]:
        """The records of this size and length."""
        mine = (kind, self.size, self.updates)
        return [r for r in read(self.path) if (r["kind"], r["size"], r["updates"]) == mine]

    def append(self, kind: str, record: Record) -> Record:
        """Puts a record on file; returns it whole."""
        record = {"kind": kind, "size": self.size, "updates": self.updates, **record}
        records.keep(record, self.path)
        return record

    def of(self, params: Params, seed: int) -> Record:
        """The training with these knobs."""
        key = _key(params, seed)
        if key not in self._done:
            found = self.train(self.size, params, seed, self.updates)
            self._done[key] = self.append("training", {"params": params, "seed": seed, **found})
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
        lap, knob = divmod(turn, self._space.dim)
        self._asked += 1
        name = self._space.names[knob]
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
    """A peer that is asked after the defaults were tried, and is told of them if it can be.

    What violates the constraints of the space is not run: the peer is told of the loss `refused`, and asked again.
    """

    def __init__(self, peer: Peer, space: Space, defaults: Params, refused: float) -> None:
        self._peer, self._space, self._defaults, self._refused = peer, space, defaults, refused
        self._is_first = True

    def ask(self) -> tuple[Hashable, Params] | None:
        """The defaults, then what the peer suggests."""
        if self._is_first:
            self._is_first = False
            return "defaults", self._defaults
        while (asked := self._peer.ask()) is not None and not self._space.is_feasible(asked[1]):
            self._peer.tell(asked[0], self._refused)
        return asked

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


def study(
    method: str,
    trainings: Trainings,
    seed: int,
    trials: int,
    space: Space,
    defaults: Params,
    *,
    sem: Callable[[float], float] | None = None,
    refused: float = 1.0,
) -> Record:
    """One method's search, and what its answer is worth; for the last two see `search`."""

    def observe(params: Params) -> float:
        return trainings.of(params, seed)["loss"]

    done = search(method, observe, seed, trials, space, defaults, sem=sem, refused=refused)
    params, loss = min(done, key=lambda trial: trial[1])
    return {
        "method": method,
        "seed": seed,
        "trials": trials,
        "ran": len(done),
        "path": [loss for _, loss in done],
        "tried": [params for params, _ in done],
        "answer": params,
        "loss": loss,
        "confirmed": [trainings.of(params, fresh)["loss"] for fresh in CONFIRM],
    }


def search(
    method: str,
    observe: Callable[[Params], float],
    seed: int,
    trials: int,
    space: Space,
    defaults: Params,
    *,
    sem: Callable[[float], float] | None = None,
    refused: float = 1.0,
) -> list[tuple[Params, float]]:
    """One method's trials and their losses, the defaults first.

    Args:
        method: One of `METHODS` or of `OURS`.
        observe: From parameters to the loss.
        seed: Of the method.
        trials: How many there may be.
        space: Perhaps with constraints.
        defaults: Meet these.
        sem: The standard error of a loss, where it is known; of use to ours alone.
        refused: What a peer is told of a configuration that violates a constraint.
    """
    if method in OURS:
        told = None if method == UNTOLD else sem
        return ours(space, defaults, observe, seed, trials, told, OURS[method])
    each = max(1, trials // (space.dim + 1))
    peer = OneAtATime(space, defaults, each) if method == "one-at-a-time" else make_peer(method, space, seed)
    begun = FromDefaults(peer, space, defaults, refused)
    jobs = drive(begun, lambda params: (observe(params), 1.0), budget_s=trials, workers=1)
    return [(job.params, job.loss) for job in jobs if job.loss is not None]


def answer_by_model(found: Record, trainings: Trainings, space: Space) -> Record:
    """What a study would have answered by the least mean of a model of what it saw, and what that is worth.

    The model is frugalbo's, whatever the method: it takes what looks like luck for noise.
    """
    import torch

    from frugalbo.models.objective import fit_objective

    X = np.array([space.encode(params) for params in found["tried"]])
    model = fit_objective(X, found["path"], space.categorical_dims).model
    answer = found["tried"][int(model.marginals(torch.from_numpy(X)).mean.argmin())]
    confirmed = [trainings.of(answer, fresh)["loss"] for fresh in CONFIRM]
    return {**{k: found[k] for k in ("method", "seed", "trials")}, "answer": answer, "confirmed": confirmed}


def ours(
    space: Space,
    defaults: Params,
    observe: Callable[[Params], float],
    seed: int,
    trials: int,
    sem: Callable[[float], float] | None,
    method: str = "auto",
) -> list[tuple[Params, float]]:
    """What `tune` does with these trainings, on a virtual clock."""
    objective = Minimize("loss", sem=None if sem is None else "sem")
    problem = Problem("joint", space, "nowhere:train", objective, fidelity=Fidelity("runs", 1, 1), defaults=defaults)

    def simulate(params: Params, planned: int, seed: int) -> Curve:
        loss = observe(params)
        return Curve([planned], [1.0], [{"loss": loss} | ({} if sem is None else {"sem": sem(loss)})])

    executor = SimulatedExecutor(problem, [Slot("cpu:0", "cpu", 0)], simulate)
    found = tune(problem, budget=Budget(evaluations=trials), seed=seed, method=method, executor=executor).study
    return [(trial.params, loss) for trial in found.trials.values() if (loss := found.value(trial)) is not None]


def run_missing(trainings: Trainings, seeds: Sequence[int], trials: int, methods: Sequence[str]) -> None:
    """Do the studies that are not on file, seed by seed, and train the defaults where answers are confirmed."""
    space, defaults = search_space(trainings.size)
    sem = standard_error(trainings.size)
    for fresh in CONFIRM:
        trainings.of(defaults, fresh)
    done = {(r["method"], r["seed"], r["trials"]) for r in trainings.of_kind("study")}
    for seed in seeds:
        for method in methods:
            if (method, seed, trials) not in done:
                trainings.append("study", study(method, trainings, seed, trials, space, defaults, sem=sem))


def standard_error(size: str) -> Callable[[float], float]:
    """Of 1 - pass@1, as the problem reports it."""
    shape = grpo.job().SIZES[size]
    return lambda loss: grpo.job().standard_error(1 - loss, shape.held_out * shape.samples)


def read(path: Path) -> list[Record]:
    """The records on file; those without their updates have all of their size."""
    return [{"updates": FULL[record["size"]], **record} for record in records.read(path)]


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
    from benchmarks import joint_table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--size", default="mini")
    parser.add_argument("--updates", type=int, help="of a full trial; by default those of the size")
    parser.add_argument("--methods", nargs="+", choices=(*METHODS, UNTOLD), default=METHODS)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--by-model", action="store_true", help="confirm what a model takes for the best of each study")
    parser.add_argument("--confirm-front", action="store_true", help="train what has the best for its bytes again")
    parser.add_argument("--picture", type=Path, help="where to draw what memory buys, as PNG")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    updates = args.updates or FULL[args.size]
    if args.table:
        print(joint_table.table(read(args.out)))
        return
    if args.picture:
        from frugalbo.report import pictures, plots

        of_size = Trainings(args.size, updates, args.out).of_kind("training")
        seen = [r for r in of_size if r["seed"] not in CONFIRM]
        args.picture.write_bytes(pictures.png(plots.pareto(joint_table.pooled(seen))))
        return
    import torch

    torch.set_num_threads(1)
    trainings = Trainings(args.size, updates, args.out)
    if args.by_model:
        space, _ = search_space(args.size)
        done = {(r["method"], r["seed"], r["trials"]) for r in trainings.of_kind("by model")}
        for found in trainings.of_kind("study"):
            if (found["method"], found["seed"], found["trials"]) not in done:
                trainings.append("by model", answer_by_model(found, trainings, space))
        return
    if args.confirm_front:
        for record in joint_table.front(trainings.of_kind("training")):
            for fresh in CONFIRM:
                trainings.of(record["params"], fresh)
        return
    run_missing(trainings, range(args.seeds), args.trials, args.methods)


if __name__ == "__main__":
    main()
