"""What is the end of a curve, from its beginning?

    python benchmarks/curves.py --suite taskset --seeds 3 --out benchmarks/results/curves.jsonl
    python benchmarks/curves.py --kronecker --out benchmarks/results/curves.jsonl   # BoTorch's LatentKroneckerGP
    python benchmarks/curves.py --schedules --out benchmarks/results/curves.jsonl   # known learning-rate schedules
    python benchmarks/curves.py --speed --out benchmarks/results/curves.jsonl
    python benchmarks/curves.py --table

Real curves (`benchmarks/curve_data.py`) of `n` random configurations, all cut at the same share of their length,
or as a scheduler leaves them (`mixed`: a tenth are complete, the others are cut at 2 % to 80 %, evenly on a
logarithmic scale). Each method foretells the final values of those that are neither complete nor diverged, before or
after; a curve of fewer than two reports has two.

| method | what it is |
|---|---|
| `frugalbo` | `CurveModel` |
| `last` | the last value |
| `drift` | the last value and the median change of all curves over the same factor of steps |
| `power` | `a + b t^-c` by least squares for each curve, in tempered losses, a and b bounded |
| `kronecker` | BoTorch's `LatentKroneckerGP`, in tempered losses; slow, so on one small case |

The intervals of `last`, `drift` and `power` are a Student t fitted to how each foretold the last reports from a
quarter, half and three quarters of the curves, wider with the square root of the logarithm of the factor of
steps: as good as these methods can be made without another model.

`rank`: mean absolute error of the rank among all final values of the task (0 to 1); `error`: of tempered losses, in
standard deviations of the task's final values; `rho`: rank correlation with the truth; `nlpd`: negative log
density of the truth, in the same units as `error`; `cover`: share of truths in the central 90 %.
`new`: rank correlation at 200 other configurations, of which no curve is known.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pandas as pd
import torch
from scipy import stats
from scipy.optimize import least_squares, minimize

from benchmarks.curve_data import ROOT, SUITES, Array, Run, load
from frugalbo.models.curves import CurveModel, PartialCurve, schedule_progress
from frugalbo.models.curves.curve import Temper

HORIZON = 1000.0
STATES = ("0.05", "0.1", "0.2", "0.5", "mixed")
SIZES = (20, 50, 200)
_CUTS = (0.25, 0.5, 0.75)
Predicted = tuple[Array, Array, float]  # location, scale and degrees of freedom, tempered
Ends = Callable[[list[PartialCurve], Array, Temper], Array]  # curves, steps to foretell -> tempered values


# --- the other methods ---------------------------------------------------------------------------


def last_value(curves: list[PartialCurve], steps: Array, temper: Temper) -> Array:
    """The last value, whatever the step."""
    return temper([curve.losses[-1] for curve in curves])


def with_drift(curves: list[PartialCurve], steps: Array, temper: Temper) -> Array:
    """And the median change over the same factor of steps, as far back as the curves go."""
    last = last_value(curves, steps, temper)
    factors = np.array([step / curve.steps[-1] for step, curve in zip(steps, curves, strict=True)])
    rates = []
    for curve in curves:
        z, log_step = temper(curve.losses), np.log(curve.steps)
        if len(z) > 1:
            half = int(np.searchsorted(log_step, log_step[-1] - math.log(2)))
            half = min(half, len(z) - 2)
            rates.append((z[-1] - z[half]) / (log_step[-1] - log_step[half]))
    return last + np.log(factors) * (float(np.median(rates)) if rates else 0.0)


def power_law(curves: list[PartialCurve], steps: Array, temper: Temper) -> Array:
    """`a + b t^-c` for each curve; the last value of fewer than four reports."""
    found = last_value(curves, steps, temper)
    for i, (curve, step) in enumerate(zip(curves, steps, strict=True)):
        z, t = temper(curve.losses), curve.steps / HORIZON
        if len(z) < 4:
            continue
        chosen = np.unique(np.linspace(0, len(z) - 1, 25).astype(int))
        z, t = z[chosen], t[chosen]
        wide = float(np.ptp(z)) + 1e-9

        def residual(p: Array, z: Array = z, t: Array = t) -> Array:
            return p[0] + p[1] * (t / t[-1]) ** -p[2] - z

        low, high = [z.min() - 2 * wide, -5 * wide, 0.01], [z.max() + 2 * wide, 5 * wide, 3.0]
        fit = least_squares(residual, [z[-1], 0.1 * wide, 0.5], bounds=(low, high), max_nfev=100)
        found[i] = fit.x[0] + fit.x[1] * (step / HORIZON / t[-1]) ** -fit.x[2]
    return found


def calibrated(ends: Ends, curves: list[PartialCurve], temper: Temper) -> Predicted:
    """A method's final values, with a Student t that is fitted to its errors on what is known."""
    residuals, widths = [], []
    long = [curve for curve in curves if len(curve.steps) >= 3]
    for share in _CUTS if long else ():
        cut = [PartialCurve(c.x, c.steps[:k], c.losses[:k]) for c in long if (k := max(1, int(share * len(c.steps))))]
        steps = np.array([curve.steps[-1] for curve in long])
        residuals.append(temper([c.losses[-1] for c in long]) - ends(cut, steps, temper))
        widths.append(np.sqrt(np.log(steps / np.array([c.steps[-1] for c in cut]))))
    freedom, scale = 4.0, 0.3
    if residuals:
        u = np.concatenate(residuals) / np.concatenate(widths)

        def cost(p: Array) -> float:
            prior = 0.5 * ((p[0] - 1.4) / 0.7) ** 2 + 0.5 * ((p[1] + 1) / 3) ** 2
            return prior - float(stats.t.logpdf(u, 1.5 + math.exp(p[0]), scale=math.exp(p[1])).sum()) * 2 / 3

        p = minimize(cost, [1.4, -1.0], method="Nelder-Mead").x
        freedom, scale = 1.5 + math.exp(p[0]), math.exp(p[1])
    steps = np.full(len(curves), HORIZON)
    gap = np.array([math.sqrt(math.log(HORIZON / curve.steps[-1])) for curve in curves])
    return ends(curves, steps, temper), scale * np.maximum(gap, 1e-6), freedom


def kronecker(curves: list[PartialCurve], temper: Temper) -> Predicted:
    """BoTorch's LatentKroneckerGP, of as many joint samples as give a mean and a deviation."""
    from botorch.fit import fit_gpytorch_mll
    from botorch.models.latent_kronecker_gp import LatentKroneckerGP
    from gpytorch.mlls import ExactMarginalLogLikelihood

    steps = np.unique(np.concatenate([*(curve.steps for curve in curves), [HORIZON]]))
    Y = np.full((len(curves), len(steps)), np.nan)
    for i, curve in enumerate(curves):
        Y[i, np.searchsorted(steps, curve.steps)] = temper(curve.losses)
    X, T = torch.tensor(np.stack([c.x for c in curves])), torch.tensor(np.log(steps / HORIZON))[:, None] / 4 + 1
    model = LatentKroneckerGP(X, T, torch.tensor(Y))
    with model.use_iterative_methods():
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        samples = model.posterior(X, T[-1:]).rsample(torch.Size([256])).reshape(256, -1).detach().numpy()
    likelihood: Any = model.likelihood  # its posterior has no option for noise
    return samples.mean(axis=0), np.sqrt(samples.var(axis=0) + float(likelihood.noise)), 1e6


# --- the cases -----------------------------------------------------------------------------------


def state_of(runs: list[Run], state: str, rng: np.random.Generator) -> list[PartialCurve]:
    """The runs as far as they are known."""
    cuts = []
    for run in runs:
        step = float(state) if state != "mixed" else 1.0
        if state == "mixed" and rng.random() > 0.1:
            step = math.exp(rng.uniform(math.log(0.02), math.log(0.8)))
        second = run.steps[1] if len(run.steps) > 1 else HORIZON
        cuts.append(run.cut(max(step * HORIZON, second)))
    return cuts


def slope(temper: Temper, losses: Array) -> Array:
    """The derivative of a tempered loss by the loss, up to a constant that scores do not see."""
    u = np.maximum((losses - temper.pivot) / temper.spread, 0)
    v = np.log1p(u)
    return 1 / (1 + u) / np.where(v > 3, 1 + v - 3, 1.0) / temper.unit


def score(predicted: Predicted, truth: Array, finals: Array, own: Temper) -> dict[str, float]:
    """All scores of one method on one case."""
    location, scale, freedom = predicted
    reference, ordered = Temper.of(finals), np.sort(finals)

    def rank(y: Array) -> Array:
        return (np.searchsorted(ordered, y, "left") + np.searchsorted(ordered, y, "right")) / 2 / len(ordered)

    losses = own.untempered(own.tempered(location))
    z = own(truth)
    density = stats.t.logpdf(z, freedom, location, np.maximum(scale, 1e-6))
    density += np.log(slope(own, truth)) - np.log(slope(reference, truth))
    half = stats.t.ppf(0.95, freedom) * scale
    rho = stats.spearmanr(losses, truth).statistic if len(truth) > 2 else math.nan  # pyright: ignore[reportAttributeAccessIssue]
    return {
        "rank": float(np.abs(rank(losses) - rank(truth)).mean()),
        "error": float(np.abs(reference(losses) - reference(truth)).mean()),
        "rho": float(rho),
        "nlpd": float(-density.mean()),
        "cover": float((np.abs(z - location) <= half).mean()),
    }


def case(runs: list[Run], n: int, state: str, seed: int, *, slow: bool = False) -> dict[str, dict[str, float]]:
    """Every method on one draw."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(runs))
    some, others = [runs[i] for i in order[:n]], [runs[i] for i in order[n : n + 200]]
    curves = state_of(some, state, rng)
    live = [i for i, c in enumerate(curves) if not c.failed and len(c.steps)]
    asked = [i for i in live if not some[i].failed and curves[i].steps[-1] < HORIZON]
    truth = np.array([some[i].losses[-1] for i in asked])
    finals = np.array([run.losses[-1] for run in runs if not run.failed])
    known = [curves[i] for i in live]
    positions = np.array([live.index(i) for i in asked])
    temper = Temper.of([curve.losses[-1] for curve in known])
    found = {}
    for name, ends in (("last", last_value), ("drift", with_drift), ("power", power_law)):
        began = time.process_time()
        location, scale, freedom = calibrated(ends, known, temper)
        found[name] = score((location[positions], scale[positions], freedom), truth, finals, temper)
        found[name]["cpu_s"] = time.process_time() - began
    began = time.process_time()
    posterior = CurveModel().fit(curves, HORIZON)
    mean, _ = posterior.final(asked)
    freedom = float(posterior.hyper.freedom)
    scale = (posterior.quantile(asked, 0.95) - mean) / float(stats.t.ppf(0.95, freedom))
    unit, centre = posterior.temper.unit, posterior.temper.tempered(0.0)
    own = score(((mean - centre) / unit, scale / unit, freedom), truth, finals, posterior.temper)
    own["cpu_s"] = time.process_time() - began
    new = [run for run in others if not run.failed]
    if len(new) > 20:
        predicted, _ = posterior.final([run.x for run in new])
        own["new"] = float(stats.spearmanr(predicted, [run.losses[-1] for run in new]).statistic)  # pyright: ignore[reportAttributeAccessIssue]
    p = posterior.p_diverge(live)
    diverged = np.array([some[i].failed for i in live])
    own["brier"] = float(((p - diverged) ** 2).mean())
    own["brier_rate"] = float(((diverged.mean() - diverged) ** 2).mean())
    found["frugalbo"] = own
    if slow:
        began = time.process_time()
        location, scale, freedom = kronecker(known, temper)
        found["kronecker"] = score((location[positions], scale[positions], freedom), truth, finals, temper)
        found["kronecker"]["cpu_s"] = time.process_time() - began
    return found


# --- known schedules -----------------------------------------------------------------------------


def schedules(shares: tuple[float, ...] = (0.5,)) -> list[dict[str, Any]]:
    """The loss at the end of runs with a decaying rate, with the schedule and without; each run by itself."""
    table: Any = pd.read_csv(ROOT / "multipowerlaw" / "loss_curves.csv.gz")
    rows = []
    for (size, name), run in table.groupby(["million_params", "schedule"]):
        run = run.sort_values("step")
        steps, losses = run["step"].to_numpy(np.float64), run["loss"].to_numpy(np.float64)
        horizon = float(steps[-1])
        truth = float(losses[-1])
        progress = schedule_progress(np.interp(np.arange(1, horizon + 1), steps, run["lr"].to_numpy(np.float64)))
        for share in shares:
            k = int(np.searchsorted(steps, share * horizon, side="right"))
            curve = PartialCurve(np.array([0.5]), steps[:k], losses[:k])
            row: dict[str, Any] = {"million": int(size), "schedule": str(name), "share": share}
            row["last"] = float(losses[k - 1]) - truth
            plain = Temper(1e3, 1.0, 0.0, 1.0)  # changes nothing but the origin
            scaled = PartialCurve(curve.x, curve.steps * HORIZON / horizon, curve.losses)
            end = plain.tempered(power_law([scaled], np.array([HORIZON]), plain))
            row["power"] = float(end[0]) - truth
            for method, known in (("without", None), ("with", progress)):
                posterior = CurveModel().fit([curve], horizon, progress=known)
                mean, sd = posterior.final()
                row[method] = float(mean[0]) - truth
                row[f"{method}_z"] = (truth - float(mean[0])) / float(sd[0])
            rows.append(row)
    return rows


# --- speed ---------------------------------------------------------------------------------------


def speed() -> list[dict[str, Any]]:
    """CPU seconds of one thread, medians of five."""
    runs = next(iter(load("taskset").values()))
    rows = []
    for n in (20, 50, 100, 200, 400):
        rng = np.random.default_rng(n)
        chosen = rng.permutation(len(runs))
        some = [runs[i] for i in chosen[:n]]
        row: dict[str, Any] = {"n": n}
        for state in ("mixed", "whole"):
            curves = state_of(some, state, rng) if state == "mixed" else [run.cut(HORIZON * 0.99) for run in some]
            took: dict[str, list[float]] = defaultdict(list)
            for _ in range(5):
                began = time.process_time()
                posterior = CurveModel().fit(curves, HORIZON)
                took["fit"].append(time.process_time() - began)
                for what, call in (
                    ("update", lambda p=posterior, c=curves: p.updated(c).final()),
                    ("sample64", lambda p=posterior: p.sample(None, 64, 0)),
                    ("final_after", lambda p=posterior: p.final_after(None, HORIZON)),
                ):
                    began = time.process_time()
                    call()
                    took[what].append(time.process_time() - began)
            row |= {f"{state}_{what}_ms": round(1000 * float(np.median(s)), 1) for what, s in took.items()}
        rows.append(row)
        print(row, flush=True)
    return rows


# --- records -------------------------------------------------------------------------------------


def table(path: Path) -> None:
    """Means over tasks and seeds of the latest record of each suite."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    latest = {(r["kind"], r.get("suite")): r for r in records}
    for (kind, suite), record in latest.items():
        if kind in ("curves", "kronecker"):
            print(f"\n{kind}, {suite or ''} (commit {record['commit']}):\n")
            ragged = suite == "lcdb"  # as many learners as a data set has
            _print_cases([row | {"n": "all"} if ragged else row for row in record["rows"]])
        elif kind == "schedules":
            print(f"\nschedules (commit {record['commit']}): mean absolute error of the final loss\n")
            frame: Any = pd.DataFrame(record["rows"])
            decays = frame[~frame["schedule"].str.startswith("constant")]
            for group, rows in (("decaying", decays), ("constant", frame.drop(decays.index))):
                print(group)
                columns = ["last", "power", "without", "with"]
                print(
                    rows.assign(**rows[columns].abs())
                    .groupby(["million", "share"])[columns]
                    .mean()
                    .round(4)
                    .to_string()
                )
        else:
            print(f"\nspeed (commit {record['commit']}):\n")
            print(pd.DataFrame(record["rows"]).to_string(index=False))


def _print_cases(rows: list[dict[str, Any]]) -> None:
    columns = ["rank", "error", "rho", "nlpd", "cover", "cpu_s", "new"]
    frame: Any = pd.DataFrame(rows)
    means = frame.groupby(["state", "n", "method"])[[c for c in columns if c in frame]].mean()
    print("| state | n | method | " + " | ".join(means.columns) + " |\n|" + "---|" * (3 + len(means.columns)))
    for (state, n, method), row in means.iterrows():
        values = " | ".join("" if math.isnan(v) else f"{v:.3f}" if abs(v) < 100 else f"{v:.0f}" for v in row)
        print(f"| {state} | {n} | {method} | {values} |")


def main() -> None:
    """Measure, print, append a record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=SUITES)
    parser.add_argument("--kronecker", action="store_true")
    parser.add_argument("--schedules", action="store_true")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--states", nargs="+", default=STATES)
    parser.add_argument("--tasks", type=int, help="only so many of the suite")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.table:
        table(args.out or Path(__file__).parent / "results" / "curves.jsonl")
        return
    kind, rows = "curves", []
    if args.schedules:
        kind, rows = "schedules", schedules()
    elif args.speed:
        kind, rows = "speed", speed()
    else:
        suite, sizes, states = args.suite or "taskset", args.sizes, args.states
        if args.kronecker:
            kind, sizes, states = "kronecker", [20], ["mixed"]
        for name, runs in list(load(suite).items())[: args.tasks]:
            for n in dict.fromkeys(min(n, len(runs)) for n in sizes):
                for state in states:
                    for seed in range(args.seeds):
                        for method, scores in case(runs, n, state, seed, slow=args.kronecker).items():
                            rounded = {k: round(v, 4) for k, v in scores.items()}
                            rows.append(
                                {"task": name, "n": n, "state": state, "seed": seed, "method": method, **rounded}
                            )
            print(name, file=sys.stderr, flush=True)
        _print_cases(rows)
    if args.out:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        record = {
            "benchmark": "curves",
            "kind": kind,
            "suite": None if kind in ("schedules", "speed") else args.suite or "taskset",
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": commit.stdout.strip(),
            "rows": rows,
        }
        with args.out.open("a") as file:
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
