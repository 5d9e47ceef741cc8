"""Time of an optimizer step and bytes of state: FRUGAL beside torch's foreach AdamW.

All optimizers work on tensors of the same shapes, in one process, in interleaved rounds, so that what
disturbs the machine disturbs all of them; the figure to read is the median over rounds of the ratio
to AdamW's step in the same round. A refresh of the subspace (its draw, or SVD) is timed apart and given
per step, spread over the `update_gap` steps that it serves.

    python benchmarks/optim_step.py --out benchmarks/results/optim_step.jsonl
    python benchmarks/optim_step.py --device cuda --out benchmarks/results/optim_step.jsonl
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch.optim import AdamW, Optimizer

from frugalbo.optim import LLAMA, Frugal, measure_state_bytes, paper_state_bytes, predict_state_bytes

UPDATE_GAP = 200
BASELINE = "adamw foreach"

Groups = list[dict[str, Any]]


def contestants() -> dict[str, Callable[[Groups], Optimizer]]:
    """Return makers of all optimizers to compare; the first is the baseline."""

    def frugal(**options: Any) -> Callable[[Groups], Optimizer]:
        return lambda groups: Frugal(groups, lr=1e-3, update_gap=UPDATE_GAP, **options)

    def adamw(**options: Any) -> Callable[[Groups], Optimizer]:
        return lambda groups: AdamW([p for g in groups for p in g["params"]], 1e-3, weight_decay=0.0, **options)

    return {
        BASELINE: adamw(foreach=True),
        "adamw fused": adamw(fused=True),
        "frugal blockwise rho=0.25": frugal(block_order="descending"),
        "frugal blockwise rho=0.25, no state-free update": frugal(block_order="descending", state_free="none"),
        "frugal columns rho=0.25": frugal(projection="columns"),
        "frugal rows rho=0.25": frugal(projection="rows"),
        "frugal randk rho=0.25": frugal(projection="randk"),
        "frugal svd rho=0.25": frugal(projection="svd"),
        "frugal random_orthogonal rho=0.25": frugal(projection="random_orthogonal"),
        "galore (svd, no state-free update) rho=0.25": frugal(projection="svd", state_free="none", reset_state=False),
        "frugal rho=0": frugal(density=0.0),
        "frugal rho=1": frugal(density=1.0),
    }


def make_groups(model: str, device: str) -> Groups:
    """Return the model's parameters with gradients of a plausible size, from a fixed stream."""
    stream = torch.Generator().manual_seed(0)

    def parameter(shape: tuple[int, ...]) -> torch.nn.Parameter:
        param = torch.nn.Parameter((0.02 * torch.randn(shape, generator=stream)).to(device))
        param.grad = (1e-3 * torch.randn(shape, generator=stream)).to(device)
        return param

    llama = LLAMA[model]
    return [
        {"params": [parameter(shape) for shape in llama.projectable], "projectable": True},
        {"params": [parameter(shape) for shape in llama.regular], "projectable": False},
    ]


def timed(step: Callable[[], object], device: str) -> float:
    """Return the seconds that `step` takes, the device's work included."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def timed_refresh(optimizer: Optimizer, device: str) -> float:
    """Return the seconds of a step that ends a gap, and so draws new subspaces."""
    for group in optimizer.param_groups:
        if "update_gap" in group:
            group["step"] = group["update_gap"]
    return timed(optimizer.step, device)


def measure(model: str, device: str, rounds: int) -> dict[str, Any]:
    """Return the figures of one run."""
    # One set of weights for all: an optimizer's speed does not depend on the values, and memory
    # then holds the states of all contestants but only one model.
    groups = make_groups(model, device)
    optimizers = {name: make([dict(group) for group in groups]) for name, make in contestants().items()}
    for optimizer in optimizers.values():
        optimizer.step()
    refresh_s = {name: timed_refresh(optimizer, device) for name, optimizer in optimizers.items()}
    for optimizer in optimizers.values():
        optimizer.step()  # neither the first step nor a refresh is in the rounds
    times: dict[str, list[float]] = {name: [] for name in optimizers}
    for _ in range(rounds):
        for name, optimizer in optimizers.items():
            times[name].append(timed(optimizer.step, device))
    figures: dict[str, Any] = {}
    for name, optimizer in optimizers.items():
        ratios = [t / base for t, base in zip(times[name], times[BASELINE], strict=True)]
        step_s = statistics.median(times[name])
        measured = measure_state_bytes(optimizer)
        figure = {
            "step_s": step_s,
            "ratio": statistics.median(ratios),
            "ratio_least": min(ratios),
            "ratio_most": max(ratios),
            "moment_bytes": measured.moments,
            "projector_bytes": measured.projectors,
        }
        if isinstance(optimizer, Frugal):
            predicted = predict_state_bytes(optimizer, draw=optimizer.param_groups[0]["draw"])
            density = optimizer.param_groups[0]["density"]
            figure["refresh_s_per_step"] = max(0.0, refresh_s[name] - step_s) / UPDATE_GAP
            figure["predicted_moment_bytes"] = predicted.moments
            figure["predicted_projector_bytes"] = predicted.projectors
            figure["paper_formula_bytes"] = paper_state_bytes(LLAMA[model], density)
        figures[name] = figure
    return figures


def device_name(device: str) -> str:
    """Return the accelerator's or the processor's name."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    """Run, print a table, and append the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(LLAMA), default="60M")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="file of JSON lines to append the record to")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    figures = measure(args.model, args.device, args.rounds)
    print(f"{'':<50}{'ms':>8}{'ratio':>7}{'range':>13}{'refresh':>9}{'moments':>10}{'predicted':>10}{'proj.':>7}")
    for name, f in figures.items():
        span = f"{f['ratio_least']:.2f}-{f['ratio_most']:.2f}"
        print(
            f"{name:<50}{1e3 * f['step_s']:>8.2f}{f['ratio']:>7.3f}{span:>13}"
            f"{1e3 * f.get('refresh_s_per_step', 0):>9.2f}{f['moment_bytes'] / 2**20:>10.2f}"
            f"{f.get('predicted_moment_bytes', f['moment_bytes']) / 2**20:>10.2f}"
            f"{f['projector_bytes'] / 2**20:>7.2f}"
        )
    if args.out:
        record = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "torch": torch.__version__,
            "device": args.device,
            "device_name": device_name(args.device),
            "threads": args.threads,
            "model": args.model,
            "rounds": args.rounds,
            "update_gap": UPDATE_GAP,
            "figures": figures,
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with args.out.open("a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())


if __name__ == "__main__":
    main()
