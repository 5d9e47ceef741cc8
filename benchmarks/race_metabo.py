"""Does a network that has seen tuning before propose better than the Gaussian process?

    python benchmarks/race_metabo.py [--seeds 5] [--trials 25] [--only nap|function|taskset ...] [--out FILE]
    python benchmarks/race_metabo.py --only hpob --trials 30|105 --bocode FOLDER --methods past metabo ei random
    python benchmarks/race_metabo.py --calibration
    python benchmarks/race_metabo.py --latency
    python benchmarks/race_metabo.py --likelihood FILE ... --against WEIGHTS
    python benchmarks/race_metabo.py --table

**The race** is on pools (`metabo_pools.py`): five random points, the same for all, then the pool's untried point that a
method values most. All points of a pool cost the same. Of more than 5,000 points that are left, so many are drawn anew
each step. A race that is on file for fewer trials goes on from there.

* `nap`: NAP's XGBoost study, validation tasks 20 to 33 (1,000 configurations of 6 knobs; `../shared/data` or
  `FRUGALBO_DATA`). The weights have seen no table at all, so this is zero-shot. Knobs whose values span more than three
  decades are taken by their logarithm.
* `function`: 500 points of functions that are not draws of the prior: Branin, Hartmann, Rosenbrock's valley, an easy
  slope in two dimensions (where the published network is worse than random), and a needle in a flat plain.
* `taskset`: the last losses of 1,000 settings of an optimizer on 8 text models of TaskSet; one of them is new, and for
  `past` the other seven are known.
* `hpob`: five of the six HPO-B-v3 spaces on which NAP is published, with its data sets; pools from the wheel of
  `bocode` 1.0.1 unpacked in FOLDER. The published curves are in `../shared/data`, with their own initial points.
* `hpob-others`: two data sets of each of the ten other spaces there.

| method | what it is |
|---|---|
| `metabo` | as in `fb.tune`: network and process, weighed by evidence; of the task's space it knows nothing |
| `past` | `hpob` and `taskset` alone: the same with what 150 rows of each other task of the space say |
| `network` | the network alone |
| `ei` | our Gaussian process with log expected improvement |
| `botorch` | `SingleTaskGP` with log expected improvement, all by BoTorch's defaults |
| `random` | the mean regret of 2,000 random orders; its audit is of 20 |

**Calibration** is on draws of a Gaussian process (Matern 5/2, known hyperparameters): log density and coverage of
central intervals, for the process with the hyperparameters that the draw is of, for the one that our engine fits, and
for the network. **Latency** is CPU time on one thread for 100 results and 1,000 candidates: medians, and the least of
both together, beside the digest of the code of `frugalbo.metabo`. In a fresh process a part of it is memory that is
given back to the system and fetched anew; with `MALLOC_TRIM_THRESHOLD_=1000000000 MALLOC_MMAP_THRESHOLD_=1000000000`
it is kept.

**Likelihood** compares the weights that ship with others on tables that neither has seen (`metabo_tables.py
--held-out`): the loss of training, over 25 batches of each kind of table and of the prior, the same for both.

Each cell is a line of JSON with the digest of the weights.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch
sys.path.insert(0, str(Path(__file__).parents[1]))

import frugalbo.models  # isort: skip  # noqa: F401 - first: it imports linear_operator without its warning

import numpy as np
import torch
from botorch.acquisition import LogExpectedImprovement
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.transforms import Standardize
from gpytorch.mlls import ExactMarginalLogLikelihood
from numpy.typing import NDArray
from torch import Tensor

from benchmarks import curve_tables, hpob, metabo_race_table, standings
from benchmarks.metabo_pools import FUNCTIONS, NAP, TASKSET, past_of, pool_of, regret_of
from benchmarks.metabo_race_table import INITIAL, METHODS, audit
from frugalbo.acquisition.registry import Situation, choose
from frugalbo.metabo.acquisition import choose_metabo
from frugalbo.metabo.priors import Prior
from frugalbo.metabo.tables import Recorded, read_tables
from frugalbo.metabo.train import loss_of
from frugalbo.metabo.weights import SHIPPED, load, shipped
from frugalbo.models.objective import ObjectiveGP, fit_objective

Array = NDArray[np.float64]

RESULTS = Path(__file__).parent / "results" / "race_metabo.jsonl"
SUITES = ("function", "nap", "taskset", "hpob", "hpob-others")
CANDIDATES = 5000
PLAIN = "botorch"
_SHUFFLES = 2000
_AUDITED_SHUFFLES = 20


def run_cell(
    name: str, method: str, seed: int, trials: int, begun: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """One race as a record; `regret` after each trial from the last of the initial ones on.

    Args:
        name: Of the pool.
        method: One of those that the module names.
        seed: Of the initial points, and of candidates.
        trials: The initial ones among them.
        begun: The record of a shorter one; the race goes on from there.
    """
    if method == "random":
        return _random(name, seed, trials)
    X, losses = pool_of(name)
    tried, weights = list(begun.get("tried", _initial(len(X), seed))), list(begun.get("network", ()))
    while len(tried) < trials:
        left = np.setdiff1d(np.arange(len(X)), tried)
        if len(left) > CANDIDATES:
            left = np.random.default_rng([seed, len(tried), 98]).choice(left, CANDIDATES, replace=False)
        pool, seen = torch.from_numpy(X[left]), (X[tried], losses[tried])
        values, why = (_plain(*seen, pool), {}) if method == PLAIN else _values(method, *seen, pool, name, seed)
        weights += [why["network"]] if "network" in why else []
        tried.append(int(left[int(values.argmax())]))
    reached = regret_of(name, losses, np.minimum.accumulate(losses[tried])[INITIAL - 1 :])
    found = {"regret": reached.round(6).tolist(), "tried": tried, "network": weights, "audit": audit(X, losses, tried)}
    return {**_about(name, method, seed), **found, "at": _now()}


def _random(name: str, seed: int, trials: int) -> dict[str, Any]:
    """The mean over random orders after the same initial points."""
    X, losses = pool_of(name)
    first = _initial(len(X), seed)
    rest, rng = np.setdiff1d(np.arange(len(X)), first), np.random.default_rng(0)
    drawn = np.stack([rng.choice(rest, trials - INITIAL, replace=False) for _ in range(_SHUFFLES)])
    start = np.full((_SHUFFLES, 1), losses[first].min())
    best = np.minimum.accumulate(np.concatenate([start, losses[drawn]], axis=1), axis=1)
    regret = regret_of(name, losses, best).mean(0).round(6).tolist()
    audits = [audit(X, losses, [*first, *order]) for order in drawn[:_AUDITED_SHUFFLES].tolist()]
    means = {key: round(float(np.mean([a[key] for a in audits])), 4) for key in audits[0]}
    return {**_about(name, "random", seed), "regret": regret, "audit": means, "at": _now()}


def _initial(rows: int, seed: int) -> list[int]:
    return [int(i) for i in np.random.default_rng([seed, 99]).permutation(rows)[:INITIAL]]


def _about(name: str, method: str, seed: int) -> dict[str, Any]:
    return {"kind": "race", "task": name, "method": method, "seed": seed, "weights": digest()}


def _plain(X: Array, losses: Array, pool: Tensor) -> Tensor:
    """Log expected improvement of BoTorch's own process with its defaults."""
    outcomes = -torch.from_numpy(losses).unsqueeze(-1)
    model = SingleTaskGP(torch.from_numpy(X), outcomes, outcome_transform=Standardize(1))
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    with torch.no_grad():
        return LogExpectedImprovement(model, outcomes.max())(pool.unsqueeze(-2))


@torch.no_grad()
def _values(
    method: str, seen: Array, losses: Array, pool: Tensor, name: str, seed: int
) -> tuple[Tensor, dict[str, Any]]:
    with torch.enable_grad():
        objective = fit_objective(seen, losses, ())
    situation = Situation(objective, objective, pool[:0], pool, None, 0.0, None, None, seed)
    X = pool.unsqueeze(-2)
    if method == "network":
        model, best = situation.unbelieving.model, situation.best()
        assert isinstance(model, ObjectiveGP)
        assert best is not None
        no = torch.zeros(situation.pool.shape[1], dtype=torch.bool)
        said = shipped()(model.seen[None], model.train_targets[None], no, situation.pool[None], False)
        return said.log_improvement(best)[0], {}
    if method in ("metabo", "past"):
        chosen = choose_metabo(situation, past=past_of(name) if method == "past" else None)
    else:
        chosen = choose(method, situation)
    return chosen.value(X), chosen.why


def calibrate(tasks: int = 40) -> Iterator[dict[str, Any]]:
    """For some numbers of results and dimensions: what each model says of 40 further points of each of some draws."""
    for d, n in ((2, 5), (2, 15), (4, 10), (4, 30), (8, 30)):
        found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
        for task in range(tasks):
            rng = np.random.default_rng([d, n, task])
            X = torch.from_numpy(rng.random((n + 40, d)))
            truth = ObjectiveGP(X[:2], torch.zeros(2, 1, dtype=torch.float64), (), d)
            kernel = truth.covar_module
            kernel.lengthscale = torch.full((1, d), 0.4 * math.sqrt(d), dtype=torch.float64)
            with torch.no_grad():
                K = kernel.forward(X, X) + 1e-6 * torch.eye(n + 40)
                f = torch.linalg.cholesky(K) @ torch.from_numpy(rng.standard_normal(n + 40))
                half = torch.linalg.solve(K[:n, :n], K[:n, n:])
                mean, variance = half.T @ f[:n], (K[n:, n:] - half.T @ K[:n, n:]).diagonal().clamp_min(1e-9)
                found["exact"].append(_scores(f[n:], mean, variance.sqrt()))
                # The others see the outcomes standardised, as there is no other transform of such.
                level, scale = f[:n].mean(), f[:n].std()
                y = (f - level) / scale
            said = fit_objective(X[:n].numpy(), y[:n].numpy(), (), outcome=_Plain())
            with torch.no_grad():
                at = said.model.marginals(X[n:])
                scores = _scores(y[n:], at.mean, at.variance.sqrt())
                found["fitted"].append((scores[0] - float(scale.log()), *scores[1:]))
                said = shipped()(X[None, :n], y[None, :n], torch.zeros(d, dtype=torch.bool), X[None, n:], False)
                z = y[n:].float()[None]
                log_p, below = said.log_density(z).mean().item() - float(scale.log()), said.cdf(z)
            found["network"].append((log_p, _inside(below, 0.5), _inside(below, 0.9)))
        for model, rows in found.items():
            log_p, half, most = np.mean(rows, axis=0).round(4).tolist()
            record = {"kind": "calibration", "model": model, "d": d, "n": n, "tasks": tasks, "weights": digest()}
            yield {**record, "log_density": log_p, "inside_50": half, "inside_90": most, "at": _now()}


class _Plain:
    """No transform: outcomes are standardised already."""

    def __call__(self, losses: Any, /) -> Array:
        return np.asarray(losses, dtype=np.float64)

    def inverse(self, t: float) -> float:
        return t


def _scores(y: Tensor, mean: Tensor, sd: Tensor) -> tuple[float, float, float]:
    normal = torch.distributions.Normal(mean, sd)
    below = normal.cdf(y)
    return normal.log_prob(y).mean().item(), _inside(below, 0.5), _inside(below, 0.9)


def _inside(below: Tensor, share: float) -> float:
    return ((below - 0.5).abs() < share / 2).double().mean().item()


def latency(d: int, repeats: int = 41) -> dict[str, Any]:
    """CPU milliseconds of one thread: medians, and the least of both together."""
    g = torch.Generator().manual_seed(0)
    X, y, Q = (torch.rand(*s, generator=g, dtype=torch.float64) for s in ((1, 100, d), (1, 100), (1, 1000, d)))
    no, read, answer = torch.zeros(d, dtype=torch.bool), [], []
    with torch.no_grad():
        for _ in range(repeats):
            started = time.process_time()
            fit = shipped().read(X, y, no)
            between = time.process_time()
            shipped().answer(fit, Q, False).log_improvement(0.0)
            read.append(between - started)
            answer.append(time.process_time() - between)
    both = np.add(read, answer)
    ms = {
        "read_ms": np.median(read),
        "answer_ms": np.median(answer),
        "both_ms": np.median(both),
        "least_ms": both.min(),
    }
    record = {"kind": "latency", "d": d, "weights": digest(), "code": _code()}
    record["kept"] = "MALLOC_TRIM_THRESHOLD_" in os.environ
    return {**record, **{k: round(1e3 * float(v), 1) for k, v in ms.items()}, "at": _now()}


def likelihoods(files: list[Path], against: str) -> Iterator[dict[str, Any]]:
    """For each kind of table (what its name begins with), and for the prior."""
    tables = {k: v for file in files for k, v in read_tables(file).items()}
    sources: dict[str, Recorded | Prior] = {"prior": Prior(most_seen=40)}
    for kind in dict.fromkeys(name.partition("-")[0] for name in tables):
        some = {k: v for k, v in tables.items() if k.startswith(kind)}
        sources[kind] = Recorded(some, most_dims=20, most_seen=40, asked=24, batch=32)
    other = load(against)
    for kind, source in sources.items():
        drawn, losses = [source.draw(777, i) for i in range(25)], []
        with torch.no_grad():
            for network in (shipped(), other.network):
                said = [network(t.X, t.y, t.categorical, t.Q, t.observed) for t in drawn]
                losses.append([loss_of(p, t.truth.float()).mean().item() for p, t in zip(said, drawn, strict=True)])
        gain = np.subtract(*losses)
        record = {"kind": "likelihood", "tables": kind, "weights": digest(), "training": other.made["training"]}
        record |= {"shipped": round(float(np.mean(losses[0])), 4), "other": round(float(np.mean(losses[1])), 4)}
        yield {**record, "se": round(float(gain.std(ddof=1) / 5), 4), "at": _now()}


def digest() -> str:
    """Of the weights that come with the package."""
    return hashlib.sha256(SHIPPED.read_bytes()).hexdigest()[:12]


def _code() -> str:
    """Of the modules of the network."""
    modules = sorted(Path(str(SHIPPED)).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in modules)).hexdigest()[:8]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def markdown(records: list[dict[str, Any]]) -> str:
    """All that is recorded for the newest weights."""
    records = [r for r in records if r["weights"] == records[-1]["weights"]]
    parts = (metabo_race_table.table, hpob.table, _beside_plain, _others, metabo_race_table.audits, _other_tables)
    return "\n\n".join(part(records) for part in parts)


def _beside_plain(records: list[dict[str, Any]]) -> str:
    return hpob.table(records, among=(PLAIN, "ei")) if any(r.get("method") == PLAIN for r in records) else ""


def _others(records: list[dict[str, Any]]) -> str:
    return hpob.table(records, hpob.OTHERS)


def _other_tables(records: list[dict[str, Any]]) -> str:
    lines = ["| d | n | model | log density | inside 50 % | inside 90 % |", "|" + "---|" * 6]
    newest = {(r["d"], r["n"], r["model"]): r for r in records if r["kind"] == "calibration"}
    for (d, n, model), r in newest.items():
        lines.append(f"| {d} | {n} | {model} | {r['log_density']:.3f} | {r['inside_50']:.2f} | {r['inside_90']:.2f} |")
    lines += ["", "| code | memory kept | d | read 100 results, ms | answer 1,000 candidates | both | least |"]
    lines.append("|" + "---|" * 7)
    latest = {(r["code"], r["kept"], r["d"]): r for r in records if r["kind"] == "latency" and "code" in r}
    for (code, kept, d), r in latest.items():
        times = " | ".join(str(r[name]) for name in ("read_ms", "answer_ms", "both_ms", "least_ms"))
        lines.append(f"| {code} | {'yes' if kept else 'no'} | {d} | {times} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, or tabulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=25)
    parser.add_argument("--only", nargs="*", default=["function", "nap"], choices=SUITES)
    parser.add_argument("--methods", nargs="*", choices=(*METHODS, PLAIN), help="by default all but botorch")
    parser.add_argument("--bocode", type=Path, help="where the wheel of bocode was unpacked")
    parser.add_argument("--calibration", action="store_true")
    parser.add_argument("--latency", action="store_true")
    parser.add_argument("--likelihood", nargs="*", type=Path, metavar="FILE", help="tables that were held out")
    parser.add_argument("--against", metavar="WEIGHTS", help="for --likelihood: the other weights")
    parser.add_argument("--table", action="store_true", help="print the summary as Markdown, run nothing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    if asked.table:
        print(markdown(standings.read(asked.out)))
        return
    torch.set_num_threads(1)

    def keep(record: dict[str, Any]) -> None:
        with asked.out.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(json.dumps(record), flush=True)

    if asked.calibration:
        for record in calibrate():
            keep(record)
    if asked.latency:
        for d in (4, 8, 20):
            keep(latency(d))
    if asked.likelihood:
        for record in likelihoods(asked.likelihood, asked.against):
            keep(record)
    if not (asked.calibration or asked.latency or asked.likelihood):
        _race(asked, keep)


def _race(asked: argparse.Namespace, keep: Callable[[dict[str, Any]], None]) -> None:
    """The races that are missing, and the rest of those that were shorter."""
    if asked.bocode:
        os.environ["BOCODE"] = str(asked.bocode)
    races = [r for r in standings.read(asked.out) if r["kind"] == "race" and r["weights"] == digest()]
    known = {(r["task"], r["method"], r["seed"]): r for r in races}
    suites = {"function": FUNCTIONS, "nap": NAP, "taskset": TASKSET, "hpob": hpob.TASKS, "hpob-others": hpob.OTHERS}
    names = [name for suite in asked.only if _is_there(suite) for name in suites[suite]]
    for seed in range(asked.seeds):
        for name in names:
            for method in asked.methods or METHODS:
                if method == "past" and past_of(name) is None:
                    continue
                begun = known.get((name, method, seed), {})
                if len(begun.get("regret", ())) <= asked.trials - INITIAL:
                    keep(run_cell(name, method, seed, asked.trials, begun))


def _is_there(suite: str) -> bool:
    """Whether the data of a suite are."""
    if suite.startswith("hpob"):
        return "BOCODE" in os.environ
    return suite == "function" or curve_tables.is_there({"nap": "nap_xgb"}.get(suite, suite))


if __name__ == "__main__":
    main()
