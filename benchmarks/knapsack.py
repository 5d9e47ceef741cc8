"""What does it bring to share out rollouts, and what does it cost to compute?

    python benchmarks/knapsack.py --speed [--out FILE]
    python benchmarks/knapsack.py [--seeds 5] [--out FILE]
    python benchmarks/knapsack.py --table [--out FILE]

`--speed`: CPU seconds of one allocation on one thread, medians of five, of each rule and of a plain
implementation of the published one: the same steps, with its dynamic programme over the budget in
numpy (the released code has it in numba).

Otherwise: a simulated training with GRPO, whose success rates drift because the policy learns. A prompt i
needs a mixture x_i of 32 skills, x_i ~ Dirichlet(0.1), and succeeds with the chance sigmoid(w . x_i + c_i),
c_i ~ N(-1.5, 3^2); w is the policy, trained by the exact policy gradient of its rollouts, with group-relative
advantages:

    loss "tokens": w += 32 lr sum_i S_i x_i / sum_i n_i            (the mean over all rollouts, as in DAPO and verl)
    loss "groups": w += 32 lr sum_i (S_i / n_i) x_i / 256          (the mean over groups of means, as first published)

with S_i = sum_j A_ij r_ij = sqrt(k (n - k)) for k successes among n, not clipped. 2,048 prompts, 8 epochs of 8
steps of 256 prompts and 2,048 rollouts; learning rates 0.1, 0.3 and 1: slow, medium and fast drift. What is
measured: the effective gradient ratio (the share of rollouts in groups with both outcomes), the share of prompts
with such a group, and the mean success on 1,000 held-out prompts.

Allocation also changes how long the gradient is, and so the learning rate. To part that from its direction, there are
steps of `unit` length (w moves by lr in all), with lr = 1, without and with noise: what a policy's other
parameters add, (10 / sqrt(32)) sqrt(sum_j A_ij^2) N(0, I) within the sums above, which outweighs the signal.

Beside the rules of `frugalbo.rollouts`: `knapsack, known` and `signal, known` are told the true success rates;
`resampling` is dynamic sampling as in DAPO: 8 rollouts each, groups that are all alike are thrown away, and a
step is made when 256 others have come together. All spend the same rollouts.

A record is a line of JSON for each loss, learning rate, rule and seed, or for each size and rule.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from numpy.typing import NDArray

from frugalbo.budget.knapsack import allocate_exactly, spread
from frugalbo.rollouts import RULES, RolloutAllocator, rules
from frugalbo.rollouts.value import signal_gains, value

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PROMPTS, BATCH, ROLLOUTS, EPOCHS, SKILLS = 2048, 256, 2048, 8, 32
LOWER, UPPER = 2, 128
STEPS = (("gradient", 0.1), ("gradient", 0.3), ("gradient", 1.0), ("unit", 1.0), ("unit, noisy", 1.0))
NOISE = 10.0
LOSSES = ("tokens", "groups")
OTHERS = ("knapsack, known", "signal, known", "resampling")
_KNOWN = 1e6  # rollouts' worth of certainty
_OUT = Path(__file__).parent / "results" / "knapsack.jsonl"


def sigmoid(x: Floats) -> Floats:
    """The logistic function."""
    return 1.0 / (1.0 + np.exp(-x))


def train(rule: str, loss: str, length: str, rate: float, seed: int) -> dict[str, list[float]]:
    """One training; means over each epoch."""
    rng, noise = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    x, held_x = (rng.dirichlet(np.full(SKILLS, 0.1), n) for n in (PROMPTS, 1000))
    c, held_c = (rng.normal(-1.5, 3.0, n) for n in (PROMPTS, 1000))
    w = np.zeros(SKILLS)
    allocator = RolloutAllocator(PROMPTS, rule=rule if rule in RULES else "uniform", lower=LOWER, upper=UPPER)  # type: ignore[arg-type]

    def move(ids: Ints, n: Ints, k: Ints) -> Floats:
        change = step(x, loss, rate, ids, n, k)
        if length == "gradient":
            return change
        if length == "unit, noisy":
            change = change + SKILLS * rate * noise_sd(loss, n, k) * noise.standard_normal(SKILLS)
        norm = float(np.linalg.norm(change))
        return rate * change / norm if norm else change

    steps: list[list[float]] = []
    waiting: list[tuple[Ints, Ints, Ints]] = []  # for `resampling`: prompts, rollouts, successes
    for _ in range(EPOCHS):
        order = rng.permutation(PROMPTS)
        for ids in order.reshape(-1, BATCH):
            p = sigmoid(x[ids] @ w + c[ids])
            n = known_allocation(rule, p) if rule.endswith("known") else allocator.allocate(ids, ROLLOUTS)
            k = rng.binomial(n, p)
            outcomes = np.concatenate([np.arange(size) < won for size, won in zip(n, k, strict=True)])
            allocator.update(np.repeat(ids, n), outcomes)
            mixed = (k > 0) & (k < n)
            if rule == "resampling":
                waiting.append((ids[mixed], n[mixed], k[mixed]))
                gathered = tuple(np.concatenate(part) for part in zip(*waiting, strict=True))
                if gathered[0].size >= BATCH:
                    w = w + move(*(part[:BATCH] for part in gathered))
                    waiting = [tuple(part[BATCH:] for part in gathered)]  # type: ignore[list-item]
            else:
                w = w + move(ids, n, k)
            held_out = float(sigmoid(held_x @ w + held_c).mean())
            steps.append([float(n[mixed].sum() / n.sum()), float(mixed.mean()), held_out])
    means = np.array(steps).reshape(EPOCHS, -1, 3).mean(axis=1)
    return {"ratio": means[:, 0].tolist(), "prompts": means[:, 1].tolist(), "held_out": means[:, 2].tolist()}


def known_allocation(rule: str, p: Floats) -> Ints:
    """What a rule would do if it knew the success rates."""
    if rule.startswith("knapsack"):
        return rules.knapsack(p, np.ones(p.size, dtype=np.bool_), ROLLOUTS, LOWER, UPPER)
    return rules.by_value(signal_gains(_KNOWN * p, _KNOWN * (1 - p)), p.size, ROLLOUTS, LOWER, UPPER)


def step(x: Floats, loss: str, rate: float, ids: Ints, n: Ints, k: Ints) -> Floats:
    """The change of the policy by groups of `n` rollouts with `k` successes, at prompts `ids`."""
    signal = np.sqrt(k * (n - k).astype(np.float64))
    weights = signal / n.sum() if loss == "tokens" else signal / n / ids.size
    return SKILLS * rate * (weights @ x[ids])


def noise_sd(loss: str, n: Ints, k: Ints) -> float:
    """The standard deviation of what other parameters add to each of the skills' gradients."""
    mixed = (k > 0) & (k < n)  # where sum_j A_ij^2 = n, and 0 elsewhere
    squares = mixed * n / n.sum() ** 2 if loss == "tokens" else mixed / n / n.size**2
    return NOISE * float(np.sqrt(squares.sum() / SKILLS))


def trainings(seeds: int) -> Iterable[dict[str, Any]]:
    """All records of the simulated training."""
    for loss, (length, rate), seed, rule in itertools.product(LOSSES, STEPS, range(seeds), (*RULES, *OTHERS)):
        found = train(rule, loss, length, rate, seed)
        rounded = {name: [round(v, 5) for v in values] for name, values in found.items()}
        setting = {"loss": loss, "step": length, "rate": rate, "rule": rule, "seed": seed}
        yield {"kind": "training", **setting, **rounded}


def timings() -> Iterable[dict[str, Any]]:
    """All records of the speed."""
    for m, budget in ((256, 2048), (100_000, 1_000_000)):
        rng = np.random.default_rng(0)
        ids, p = np.arange(m), rng.uniform(0.1, 0.9, m)
        seen = np.repeat(ids, 8)
        outcomes = rng.random(seen.size) < p[seen]
        allocators = {rule: RolloutAllocator(m, rule=rule, lower=LOWER, upper=UPPER) for rule in RULES}
        for allocator in allocators.values():
            allocator.update(seen, outcomes)
        calls = {rule: partial(allocator.allocate, ids, budget) for rule, allocator in allocators.items()}
        if m == 256:
            calls["plain"] = partial(plain, allocators["knapsack"].recent.of(ids)[0], budget)
        for rule, call in calls.items():
            assert call().sum() == budget
            taken = []
            for _ in range(5):
                start = time.process_time()
                call()
                taken.append(time.process_time() - start)
            yield {"kind": "speed", "prompts": m, "rollouts": budget, "rule": rule, "cpu_s": float(np.median(taken))}


def plain(rate: Floats, budget: int) -> Ints:
    """The published allocation with its dynamic programme, for prompts that are all known, some of them effective."""
    units = np.full(rate.size, LOWER)
    p = rate[(rate > 0) & (rate < 1)]
    left = budget - int(units.sum())
    useful = int(np.minimum(UPPER, math.log(0.1) / np.log(np.maximum(p, 1 - p))).astype(np.int64).sum())
    if useful < left:
        failing = np.flatnonzero(rate == 0)
        units[failing] += spread(left - useful, failing.size)
        left = useful
    extra = np.arange(UPPER - LOWER + 1)
    table = np.where(extra == 0, 0.0, value(LOWER + extra, p[:, None]))
    units[(rate > 0) & (rate < 1)] += allocate_exactly(table, left)
    return units


def table(path: Path) -> str:
    """The records as tables."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    lines = ["| prompts | rollouts | rule | CPU ms |", "|---|---|---|---|"]
    lines += [
        f"| {row['prompts']:,} | {row['rollouts']:,} | {row['rule']} | {1e3 * row['cpu_s']:.1f} |"
        for row in rows
        if row["kind"] == "speed"
    ]
    rows = [row for row in rows if row["kind"] == "training"]
    for setting in dict.fromkeys((row["loss"], row["step"], row["rate"]) for row in rows):
        lines += [
            "",
            f"Loss over {setting[0]}, step {setting[1]}, learning rate {setting[2]:g}:",
            "",
            "| rule | effective ratio: epoch 2, epochs 2 to 8, last | prompts with a gradient, epochs 2 to 8 "
            "| held-out success: mean of epochs, last | better than uniform in |",
            "|---|---|---|---|---|",
        ]
        cell = [row for row in rows if (row["loss"], row["step"], row["rate"]) == setting]
        by_seed = {row["seed"]: np.mean(row["held_out"]) for row in cell if row["rule"] == "uniform"}
        for rule in dict.fromkeys(row["rule"] for row in cell):
            mine = [row for row in cell if row["rule"] == rule]
            ratio, prompts, held_out = (
                np.mean([row[name] for row in mine], axis=0) for name in ("ratio", "prompts", "held_out")
            )
            better = sum(np.mean(row["held_out"]) > by_seed[row["seed"]] for row in mine)
            lines.append(
                f"| {rule} | {ratio[1]:.3f}, {ratio[1:].mean():.3f}, {ratio[-1]:.3f} | {prompts[1:].mean():.3f} "
                f"| {held_out.mean():.3f}, {held_out[-1]:.3f} | {better} of {len(mine)} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--out", type=Path, default=_OUT)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        print(table(args.out))
        return
    for record in timings() if args.speed else trainings(args.seeds):
        record = {**record, "at": datetime.now(UTC).isoformat(timespec="seconds")}
        with args.out.open("a") as out:
            out.write(json.dumps(record) + "\n")
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
