"""The training of the universal network as a predictor: log density of what it has not seen, of tasks of a prior.

Source: prior-data fitted networks, Mueller et al., arXiv:2112.10510. The loss is the negative log density of a
density that is, once in a thousand, a standard Cauchy: a proper score, under which the few tasks whose
outcomes are a thousand times what was seen do not drown all others (deviation).

Batch `i` comes from a stream of its own, and a checkpoint holds all else, so a training that was interrupted
and goes on makes the same weights as one that was not, on the same device.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frugalbo.errors import WeightsError
from frugalbo.metabo import checkpoint
from frugalbo.metabo.bars import Prediction
from frugalbo.metabo.priors import Prior, Tasks
from frugalbo.metabo.settings import refuse_unknown, require_positive
from frugalbo.metabo.tables import Recorded, read_tables
from frugalbo.metabo.universal import Universal, UniversalShape
from frugalbo.metabo.weights import load, save

_ODD = 1e-3  # the share of outcomes that come from anywhere
_CLIP = 1.0  # of the gradient's norm


@dataclass(frozen=True, slots=True)
class Training:
    """How weights are made.

    Args:
        steps: Batches.
        seed: Of weights and batches.
        lr: At its highest.
        warmup: Steps up to there; from there it falls to 0 along a cosine.
        every: Steps between checkpoints, and between lines of the log.
        device: `"cpu"` or `"cuda"`.
        network: Its sizes.
        prior: Of tasks.
        start: A file of weights to begin with; by default new ones.
        tables: A file of tables (`frugalbo.metabo.tables`) to learn from, too.
        recorded: The share of batches that come from them.

    Raises:
        WeightsError: If a number is not above 0.
    """

    steps: int
    seed: int = 0
    lr: float = 1e-3
    warmup: int = 100
    every: int = 100
    device: str = "cpu"
    network: UniversalShape = field(default_factory=UniversalShape)
    prior: Prior = field(default_factory=Prior)
    start: str = ""
    tables: str = ""
    recorded: float = 0.5

    def __post_init__(self) -> None:
        require_positive(self, ("steps", "lr", "warmup", "every"))
        if not 0 <= self.recorded <= 1:
            raise WeightsError(f"expected a share of recorded tasks in [0, 1], got {self.recorded!r}")

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Training:
        """From plain types, as `to_json` gives them, or a file of TOML.

        Raises:
            WeightsError: If it has settings that there are not, or lacks `steps`.
        """
        parts = {**record, **{k: dict(record.get(k, {})) for k in ("network", "prior")}}
        for kind, given in ((cls, parts), (UniversalShape, parts["network"]), (Prior, parts["prior"])):
            refuse_unknown(kind, given)
        if "steps" not in parts:
            raise WeightsError("expected steps, how many batches to train for, got none")
        parts |= {"network": UniversalShape(**parts["network"]), "prior": Prior(**parts["prior"])}
        return cls(**parts)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)


def train(training: Training, out: str | Path, observe: Callable[[dict[str, Any]], None] = lambda _: None) -> Universal:
    """Train, or go on with a training that was interrupted, and write the weights to `out`.

    Its checkpoint lies beside, as `out` with `.checkpoint` at its end, and stays there.

    Args:
        training: How.
        out: Where to.
        observe: Told each `every` steps how it goes.

    Raises:
        WeightsError: If the checkpoint is of another training.
    """
    out, device = Path(out), torch.device(training.device)
    beside = checkpoint.beside(out)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        network = Universal(training.network)
    if training.start:
        network.load_state_dict(_begin(training).state_dict())
    network.to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=training.lr, weight_decay=1e-3)
    first, before_s, started = 0, 0.0, time.monotonic()
    if beside.exists():
        first, before_s = checkpoint.restore(beside, training.to_json(), network, optimizer)
    tasks = _Source(training)
    losses: list[float] = []
    for i in range(first, training.steps):
        for group in optimizer.param_groups:
            group["lr"] = training.lr * _schedule(i, training)
        losses.append(learn(network, optimizer, tasks.draw(i)))
        if (i + 1) % training.every == 0 or i + 1 == training.steps:
            seconds = before_s + time.monotonic() - started
            checkpoint.keep(beside, training.to_json(), network, optimizer, i + 1, seconds)
            observe({"step": i + 1, "loss": sum(losses) / len(losses), "seconds": round(seconds, 1)})
            losses = []
    seconds = before_s + time.monotonic() - started
    save(out, network, {"training": training.to_json(), "seconds": round(seconds, 1), "torch": torch.__version__})
    return network


def loss_of(prediction: Prediction, truth: Tensor) -> Tensor:
    """The negative log density of `truth`, which once in a thousand comes from anywhere; of the shape of `truth`."""
    anywhere = -math.log(math.pi) - torch.log1p(truth * truth)
    return -torch.logaddexp(math.log1p(-_ODD) + prediction.log_density(truth), math.log(_ODD) + anywhere)


class _Source:
    """Where batches come from."""

    def __init__(self, training: Training) -> None:
        self.training, prior, self.recorded = training, training.prior, None
        if training.tables:
            tables = read_tables(training.tables)
            self.recorded = Recorded(tables, prior.most_dims, prior.most_seen, prior.asked, prior.batch)

    def draw(self, i: int) -> Tasks:
        training, device = self.training, torch.device(self.training.device)
        if self.recorded is not None and np.random.default_rng([training.seed, i, 2]).random() < training.recorded:
            return self.recorded.draw(training.seed, i, device)
        return training.prior.draw(training.seed, i, device)


def _begin(training: Training) -> Universal:
    network = load(training.start).network
    if network.shape != training.network:
        raise WeightsError(f"expected weights of {training.network} in {training.start!r}, got {network.shape}")
    return network


def learn(network: Universal, optimizer: torch.optim.Optimizer, tasks: Tasks) -> float:
    """One step on a batch; its loss."""
    prediction = network(tasks.X, tasks.y, tasks.categorical, tasks.Q, tasks.observed)
    loss = loss_of(prediction, tasks.truth.to(prediction.logits)).mean()
    optimizer.zero_grad()
    loss.backward()
    if math.isfinite(torch.nn.utils.clip_grad_norm_(network.parameters(), _CLIP).item()):
        optimizer.step()  # of a kernel matrix that is singular there is nothing to learn
    return loss.item()


def _schedule(i: int, training: Training) -> float:
    if i < training.warmup:
        return (i + 1) / training.warmup
    return 0.5 * (1 + math.cos(math.pi * (i - training.warmup) / max(1, training.steps - training.warmup)))
