"""Does it help to train the network further on one's own earlier studies, beside being conditioned on them?

    python benchmarks/metabo_finetune.py [--seeds 2] [--steps 100] [--tasks 14]
    python benchmarks/metabo_finetune.py --table

The past is of `ROWS` random rows of each of tasks 0 to 19 of NAP's XGBoost study (`../shared/data` or `FRUGALBO_DATA`),
as a user might have them; what the package knows of that study is not used. New are tasks 20 to 33.

* **Likelihood**: the loss of the network before and after on batches of tasks 20 to 33 (`tables.Recorded`), as
  `race_metabo.py --likelihood`, and on the prior.
* **Races**: five random rows, then twenty that a method takes; regret `(reached - best) / (worst - best)`, as in
  `metabo evaluate`. `tuned` is the network that came out of the fine-tuning, whether it would have been kept or not.

| method | network | the past conditions |
|---|---|---|
| `none` | that ships | no |
| `conditioned` | that ships | yes |
| `tuned` | fine-tuned | no |
| `both` | fine-tuned | yes |

Each is a line of JSON; what is there is not done again.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch
sys.path.insert(0, str(Path(__file__).parents[1]))

import frugalbo.models  # isort: skip  # noqa: F401 - first: it imports linear_operator without its warning

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.curve_tables import data_folder
from benchmarks.metabo_past import SPACE, unit
from benchmarks.records import Record, asked_of, command_line, keep, read
from frugalbo.acquisition.registry import Situation
from frugalbo.metabo import finetune
from frugalbo.metabo.acquisition import choose_metabo
from frugalbo.metabo.finetune import FineTuning, Results
from frugalbo.metabo.past import Past, PastStudies
from frugalbo.metabo.priors import Prior
from frugalbo.metabo.tables import Recorded, Table
from frugalbo.metabo.train import loss_of
from frugalbo.metabo.universal import Universal
from frugalbo.metabo.weights import shipped
from frugalbo.models.objective import fit_objective

Array = NDArray[np.float64]

RESULTS = Path(__file__).parent / "results" / "metabo_finetune.jsonl"
METHODS = ("none", "conditioned", "tuned", "both")
EARLIER, NEW = range(20), range(20, 34)
ROWS, INITIAL, CHOSEN = 30, 5, 20


def task(i: int) -> tuple[Array, Array]:
    """Unit points and losses of a task."""
    tables = np.load(data_folder() / "nap_xgb" / "xgb_tables.npz")
    return unit(tables[f"{i}/X"].astype(float)), -tables[f"{i}/accuracy"].astype(float)


def past_results() -> list[Results]:
    """What the user has."""
    found = []
    for i in EARLIER:
        U, losses = task(i)
        rows = np.random.default_rng([i, 21]).permutation(len(U))[:ROWS]
        found.append(Results(f"task-{i}", U[rows], losses[rows]))
    return found


def tune(steps: int, seed: int) -> tuple[Universal, Record]:
    """The fine-tuned network, kept or not, and what is said of it."""
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "checkpoint")
        best, verdict = finetune.fine_tune(shipped(), past_results(), FineTuning(steps=steps, seed=seed), path)
    record = {"kind": "fine-tuning", "steps": steps, "seed": seed, "cpu_s": round(time.process_time() - began, 1)}
    return best, {**record, **verdict.to_json(), "held_out": len(verdict.held_out)}


def likelihoods(tuned: Universal) -> list[Record]:
    """Losses before and after on tasks that are new, and on the prior."""
    tables = {str(i): Table.of(*task(i)) for i in NEW}
    sources = {"tasks 20 to 33": Recorded(tables, 20, 40, 24, 32), "prior": Prior(most_seen=40)}
    found = []
    for name, source in sources.items():
        drawn = [source.draw(777, i) for i in range(25)]
        with torch.no_grad():
            losses = [[_loss(net, tasks) for tasks in drawn] for net in (shipped(), tuned)]
        gain = np.subtract(losses[0], losses[1])
        record = {"kind": "likelihood", "of": name, "before": np.mean(losses[0]), "after": np.mean(losses[1])}
        found.append({**record, "gain": gain.mean(), "se": gain.std(ddof=1) / 5})
    return [{k: round(float(v), 4) if isinstance(v, float) else v for k, v in r.items()} for r in found]


def _loss(network: Universal, tasks: Any) -> float:
    said = network(tasks.X, tasks.y, tasks.categorical, tasks.Q, tasks.observed)
    return loss_of(said, tasks.truth.float()).mean().item()


def race(i: int, seed: int, network: Universal, past: Past | None) -> list[float]:
    """Regret after the initial rows and after each further one."""
    U, losses = task(i)
    order = np.random.default_rng([seed, i, 22]).permutation(len(U))
    tried = [int(row) for row in order[:INITIAL]]
    while len(tried) < INITIAL + CHOSEN:
        objective = fit_objective(U[tried], losses[tried], ())
        left = np.setdiff1d(np.arange(len(U)), tried)
        pool = torch.from_numpy(U[left])
        with torch.no_grad():
            situation = Situation(objective, objective, pool[:0], pool, None, 0.0, None, None, seed)
            values = choose_metabo(situation, network=network, past=past).value(pool.unsqueeze(-2))
        tried.append(int(left[int(values.argmax())]))
    reached = np.minimum.accumulate(losses[tried])[INITIAL - 1 :]
    return ((reached - losses.min()) / (losses.max() - losses.min())).round(6).tolist()


def markdown(records: Sequence[Record]) -> str:
    """What came of the fine-tuning, then regrets over the races that all methods have."""
    lines = ["| loss on | before | after | gain (standard error) |", "|---|---|---|---|"]
    for r in [r for r in records if r["kind"] == "fine-tuning"]:
        verdict = "kept" if r["kept"] else "refused"
        on = f"{r['held_out']} of the user's studies, held out ({verdict}; {r['cpu_s']} CPU s)"
        gain = r["before"] - r["after"]
        lines.append(f"| {on} | {r['before']:.3f} | {r['after']:.3f} | {gain:+.3f} ({r['error']:.3f}) |")
    lines += [
        f"| {r['of']} | {r['before']:.3f} | {r['after']:.3f} | {r['gain']:+.3f} ({r['se']:.3f}) |"
        for r in records
        if r["kind"] == "likelihood"
    ]
    cells = {(r["task"], r["seed"], r["method"]): r["regret"] for r in records if r["kind"] == "race"}
    whole = sorted({c[:2] for c in cells if all((*c[:2], m) in cells for m in METHODS)})
    lines += ["", "| method | races | 5 trials | 10 | 25 | less conditioned's at 10 | at 25 |", "|---|" + "---|" * 6]
    for method in METHODS if whole else ():
        curves, against = (np.array([cells[(*c, m)] for c in whole]) for m in (method, "conditioned"))
        at = " | ".join(f"{curves[:, t - INITIAL].mean():.3f}" for t in (5, 10, 25))
        apart = curves - against
        error = apart.std(axis=0, ddof=1) / np.sqrt(len(whole)) if len(whole) > 1 else apart[0] * np.nan
        less = [f"{apart[:, t - INITIAL].mean():+.3f} ({error[t - INITIAL]:.3f})" for t in (10, 25)]
        lines.append(f"| {method} | {len(whole)} | {at} | {' | '.join(less)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, or tabulate."""
    parser = command_line(__doc__, RESULTS)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=100, help="of the fine-tuning")
    parser.add_argument("--tasks", type=int, default=len(NEW), help="how many of tasks 20 to 33")
    if (asked := asked_of(parser, markdown)) is None:
        return
    done = read(asked.out)
    tuned, said = tune(asked.steps, 0)
    if not any(r["kind"] == "fine-tuning" for r in done):
        for record in (said, *likelihoods(tuned)):
            keep({**record, "at": _now()}, asked.out)
    studies = [PastStudies.of_model(r.name, SPACE, fit_objective(r.U, r.losses, ())) for r in past_results()]
    past = Past.of(studies, SPACE)
    cells = {(r["task"], r["seed"], r["method"]) for r in done if r["kind"] == "race"}
    for seed in range(asked.seeds):
        for i in NEW[: asked.tasks]:
            for method in METHODS:
                if (i, seed, method) not in cells:
                    network = tuned if method in ("tuned", "both") else shipped()
                    regret = race(i, seed, network, past if method in ("conditioned", "both") else None)
                    record = {"kind": "race", "task": i, "seed": seed, "method": method, "regret": regret}
                    keep({**record, "at": _now()}, asked.out)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    main()
