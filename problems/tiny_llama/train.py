"""Pre-train a LLaMA-style decoder on real text, with FRUGAL and UBA: a job, and a script.

Everything random is a pure function of the seed (weights), of seed and step (batches), or is kept
in the optimizer (subspaces). So a checkpoint holds no random state, and a run that was paused ends
as one that was not, bit for bit on a CPU. Weights and optimizer state are float32; on a GPU the
model computes in bfloat16 autocast.
"""

import math
import resource
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
import torch._dynamo  # torch.optim loads it when first used, for a second: once here, not in each forked trial
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from frugalbo.errors import ProblemError
from frugalbo.job import JobContext
from frugalbo.optim import UBA, Frugal, measure_state_bytes, param_groups
from frugalbo.script import by_hand

if str(Path(__file__).parent) not in sys.path:  # found by its path, this file brings its neighbours along
    sys.path.append(str(Path(__file__).parent))

from corpus import load_corpus, training_batch, validation_windows
from llama import SIZES, Llama, build


@dataclass(frozen=True, slots=True)
class Config:
    """One training run. The first seven are the knobs of `problem.py`; the rest select baselines.

    Args:
        warmup: Share of the steps in which the rate rises.
        size: A name in `SIZES`.
        data: `"stdlib"`, a folder or glob of text files, or `.npy` / `.bin` files of uint16 tokens.
        projectable_lr_scale: Of the rate of all linear weights but the head, state-full and state-free.
        floor: Where the schedule ends, as a share of `lr`.
    """

    lr: float = 1e-3
    density: float = 0.25
    phi: float = 2.0
    warmup: float = 0.1
    state_free_lr_scale: float = 1.0
    update_gap: int = 20
    weight_decay: float = 0.0
    size: str = "mini"
    data: str = "stdlib"
    optimizer: Literal["frugal", "adamw"] = "frugal"
    projection: Literal["blockwise", "columns", "rows", "randk", "svd", "random_orthogonal"] = "blockwise"
    state_free: Literal["signsgd", "sgd", "none"] = "signsgd"
    reset_state: bool = True
    projectable_lr_scale: float = 1.0
    schedule: Literal["uba", "linear"] = "uba"
    floor: float = 0.1

    def __post_init__(self) -> None:
        for field in fields(self):
            value, allowed = getattr(self, field.name), get_args(field.type)
            if allowed and value not in allowed:
                raise ProblemError(f"expected {field.name} to be one of {', '.join(allowed)}, got {value!r}")
        if self.size not in SIZES:
            raise ProblemError(f"expected size to be one of {', '.join(SIZES)}, got {self.size!r}")

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Self:
        """Return the run that a trial's parameters describe."""
        known = [field.name for field in fields(cls)]
        if unknown := set(params) - set(known):
            raise ProblemError(f"unknown parameter {min(unknown)!r}; known are {', '.join(known)}")
        return cls(**params)


REPORTS = 10  # in a full run; every second one with the validation loss


class Run:
    """A model in training: what a checkpoint holds, and what a step does."""

    def __init__(self, config: Config, seed: int, planned: int, device: str) -> None:
        self.config = config
        self.size = SIZES[config.size]
        self.seed = seed
        self.planned = planned
        self.device = device
        self.corpus = load_corpus(config.data, config.size)
        self.model = build(self.size, self.corpus.train.vocab, seed, device)
        self.optimizer = make_optimizer(self.model, config, seed)
        self.schedule = make_schedule(self.optimizer, config, planned)
        self.loss_sum = torch.zeros((), device=device)  # since the last report; read only then, as that waits
        self.loss_count = 0

    def step(self, step: int) -> None:
        """Train on the batch of step number `step`, from 1."""
        windows = training_batch(self.corpus.train, self.size, self.seed, step)
        micro_batches = windows.split(self.size.micro_batch)
        for micro_batch in micro_batches:
            with self._autocast():
                loss = self.model.loss(self._moved(micro_batch)) / len(micro_batches)
            loss.backward()
            self.loss_sum += loss.detach()
        self.loss_count += 1
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Return the mean loss of the validation windows, in nats per token."""
        windows = validation_windows(self.corpus.val, self.size)
        total = 0.0
        for part in windows.split(max(self.size.micro_batch, 32)):
            with self._autocast():
                total += self.model.loss(self._moved(part)).item() * len(part)
        return total / len(windows)

    def take_train_loss(self) -> float:
        """Return the mean training loss since the last time."""
        mean = self.loss_sum.item() / max(1, self.loss_count)
        self.loss_sum.zero_()
        self.loss_count = 0
        return mean

    def state(self) -> dict[str, Any]:
        """All that `load` needs to go on exactly."""
        return {
            "config": asdict(self.config),
            "seed": self.seed,
            "planned": self.planned,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "loss_sum": self.loss_sum,
            "loss_count": self.loss_count,
        }

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            ProblemError: If it is of another run; a schedule planned for other steps is another run.
        """
        saved = torch.load(path, map_location=self.device, weights_only=True)
        for name, mine in (("config", asdict(self.config)), ("seed", self.seed), ("planned", self.planned)):
            if saved[name] != mine:
                raise ProblemError(f"{path} is of another run: expected {name} {mine}, got {saved[name]}")
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        self.loss_sum.copy_(saved["loss_sum"])
        self.loss_count = saved["loss_count"]

    def _moved(self, windows: Tensor) -> Tensor:
        if self.device.startswith("cuda"):
            return windows.pin_memory().to(self.device, non_blocking=True)
        return windows.to(self.device)

    def _autocast(self) -> AbstractContextManager[object]:
        if self.device.startswith("cuda"):
            return torch.autocast("cuda", dtype=torch.bfloat16)
        return nullcontext()


def preload() -> None:
    """Read the default text, for every process that is forked from this one."""
    load_corpus("stdlib", "mini")


def make_optimizer(model: Llama, config: Config, seed: int) -> Optimizer:
    """Return FRUGAL, or torch's AdamW on the same groups at the same rates; norms are not decayed."""
    groups = param_groups(model, weight_decay=config.weight_decay)
    if config.optimizer == "adamw":
        for group in groups:
            group["lr"] = config.lr * (config.projectable_lr_scale if group.pop("projectable") else 1.0)
        return AdamW(groups, foreach=True)
    return Frugal(
        groups,
        lr=config.lr,
        density=config.density,
        update_gap=config.update_gap,
        projection=config.projection,
        block_order="descending",  # as in all published pre-training scripts; the README there says random
        state_free=config.state_free,
        state_free_lr_scale=config.state_free_lr_scale,
        projectable_lr_scale=config.projectable_lr_scale,
        reset_state=config.reset_state,
        seed=seed,
    )


def make_schedule(optimizer: Optimizer, config: Config, planned: int) -> LRScheduler:
    """Return the schedule of `planned` steps: a linear rise, then UBA or a line to the floor."""
    rise = min(planned - 1, round(config.warmup * planned))
    if config.schedule == "uba":
        return UBA(optimizer, planned, config.phi, warmup_steps=rise, floor_ratio=config.floor)

    def line(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        left = max(0.0, 1 - (step - rise + 0.5) / (planned - rise))  # at midpoints, as UBA
        return config.floor + (1 - config.floor) * left

    return LambdaLR(optimizer, line)


def main(job: JobContext) -> None:
    """Train from step `job.start` to `job.until`, report, and leave a checkpoint."""
    run = Run(Config.from_params(job.params), job.seed, job.planned, job.device)
    if path := job.resume():
        run.load(path)
    trained_s = 0.0
    began = time.perf_counter()
    for step in range(job.start + 1, job.until + 1):
        run.step(step)
        stop = job.should_stop
        last = step == job.until
        tenth = step * REPORTS // job.planned
        due = last or tenth > (step - 1) * REPORTS // job.planned
        if not (due or stop):
            continue
        trained_s += time.perf_counter() - began
        metrics = {"train_loss": run.take_train_loss()} if due else {}
        if last or stop:
            job.save(step, lambda path: torch.save(run.state(), path))
        if due and not math.isfinite(metrics["train_loss"]):
            metrics["val_loss"] = math.nan  # diverged: the report ends the trial
        elif last or (due and tenth % 2 == 0 and not stop):
            metrics["val_loss"] = run.validation_loss()
        if metrics:
            metrics["state_bytes"] = measure_state_bytes(run.optimizer).total
            metrics["tokens_per_s"] = (step - job.start) * run.size.batch * run.size.sequence / trained_s
            metrics["peak_memory_bytes"] = peak_memory_bytes(job.device)
            job.report(step, **metrics)
        if stop:
            return
        began = time.perf_counter()


def peak_memory_bytes(device: str) -> int:
    """Return the most memory held so far: on the GPU, or by this process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


if __name__ == "__main__":
    with by_hand(Config, objective="val_loss", steps=lambda config: SIZES[config.size].steps) as by_hand_job:
        main(by_hand_job)
