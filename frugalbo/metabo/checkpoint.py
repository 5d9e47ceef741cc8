"""Checkpoints of trainings: they go on where they were, and are refused by another training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from frugalbo.errors import WeightsError
from frugalbo.metabo.weights import read, write

CHECKPOINT = "frugalbo.metabo.checkpoint/1"


def beside(out: Path) -> Path:
    """Where the checkpoint of the training that writes `out` lies."""
    return out.with_name(out.name + ".checkpoint")


def keep(
    path: Path,
    training: Mapping[str, Any],
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    seconds: float,
) -> None:
    """Write all that a training needs to go on.

    Args:
        path: Where to.
        training: Its settings, as JSON types.
        network: Its weights.
        optimizer: With its state.
        step: How many are done.
        seconds: That they took.
    """
    record = {"format": CHECKPOINT, "training": json.dumps(training), "step": step, "seconds": seconds}
    write(path, {**record, "network": network.state_dict(), "optimizer": optimizer.state_dict()})


def restore(
    path: Path, training: Mapping[str, Any], network: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, float]:
    """Put network and optimizer where they were; the steps that are done, and the seconds they took.

    Raises:
        WeightsError: If the file is no checkpoint, or one of another training.
    """
    record = read(path, CHECKPOINT)
    known, wanted = json.loads(record["training"]), json.loads(json.dumps(training))
    # How often to write, and on what device, does not make it another training.
    if other := [k for k in wanted if k not in ("every", "device") and known.get(k) != wanted[k]]:
        raise WeightsError(
            f"the checkpoint {str(path)!r} is of a training with another {other[0]}: expected {wanted[other[0]]!r}, "
            f"got {known.get(other[0])!r}; move it away to begin anew"
        )
    network.load_state_dict(record["network"])
    optimizer.load_state_dict(record["optimizer"])
    return record["step"], record["seconds"]
