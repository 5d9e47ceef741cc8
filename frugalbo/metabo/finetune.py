"""Fine-tuning: the network's weights, trained a little further on one's own earlier results and on the prior.

Half of the batches are of the user's studies, half of the prior that the weights were made with, so that what the
network knew is not forgotten. Some of what is the user's is held out: each fourth study where there are at least four,
else the last fourth of each study's results, in an order drawn once. Each so many steps the loss on it is taken, always
on the same questions. The weights with the least are the answer, **to be kept only if they are better than those it
began with by more than a standard error of the difference**. As they are chosen on what is held out, their gain is a
little too good.

All begins with weights that were never fine-tuned, and depends on the studies that are given alone: a study that is
withdrawn has no influence. Batch `i` comes from a stream of its own, so a fine-tuning that was interrupted goes on as
if it had not been.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from frugalbo.errors import WeightsError
from frugalbo.metabo import checkpoint
from frugalbo.metabo.priors import Prior, Tasks
from frugalbo.metabo.settings import require_positive
from frugalbo.metabo.train import learn, loss_of
from frugalbo.metabo.universal import Universal
from frugalbo.models.outcome import Outcome

Array = NDArray[np.float64]
Rows = NDArray[np.intp]

LEAST = 8  # results of a study that is trained on: some to see, some to ask
_STUDIES = 4  # of which one is held out; of fewer, results are
_JUDGED = 24  # batches of questions on what is held out
_PRIOR = 777  # the stream of the prior's tasks on which forgetting is told


@dataclass(frozen=True, slots=True)
class Results:
    """What a study found.

    Args:
        name: Of the study.
        U: Points of the unit cube, n x d.
        losses: Smaller is better, n.
        categorical: The dimensions along which only equality counts.
    """

    name: str
    U: Array
    losses: Array
    categorical: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class FineTuning:
    """How it is done.

    Args:
        steps: Batches.
        seed: Of batches and of what is held out.
        lr: At the beginning; it falls to 0 along a cosine.
        every: Steps from one look at what is held out to the next, and between checkpoints.
        batch: Tasks at once.
        asked: Questions of each, at most.

    Raises:
        WeightsError: If a number is not above 0.
    """

    steps: int = 100
    seed: int = 0
    lr: float = 1e-4
    every: int = 20
    batch: int = 16
    asked: int = 16

    def __post_init__(self) -> None:
        require_positive(self, ("steps", "lr", "every", "batch", "asked"))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of it; losses are negative log densities.

    Args:
        kept: Whether the new weights are better, and so to be kept.
        before: The loss on what was held out.
        after: The same of the best new weights.
        error: The standard error of the difference.
        prior_before: The loss on tasks of the prior, to which nothing was fitted here.
        prior_after: The same of the best new weights.
        held_out: Studies that were not trained on; empty if some results of each were not.
        studies: That there were.
    """

    kept: bool
    before: float
    after: float
    error: float
    prior_before: float
    prior_after: float
    held_out: tuple[str, ...]
    studies: int

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        on = f"{len(self.held_out)} of {self.studies} studies" if self.held_out else "a fourth of the results"
        change = f"{self.before:.3f} to {self.after:.3f} (standard error {self.error:.3f})"
        prior = f"on the prior {self.prior_before:.3f} to {self.prior_after:.3f}"
        end = "the new weights are kept" if self.kept else "no better, the weights stay as they were"
        return f"fine-tuning: loss on {on} held out from {change}, {prior}: {end}"


def fine_tune(
    network: Universal,
    studies: Sequence[Results],
    tuning: FineTuning,
    path: Path,
    observe: Callable[[dict[str, Any]], None] = lambda _: None,
) -> tuple[Universal, Verdict]:
    """The best weights that were found, and whether they are to be kept; `network` itself stays as it is.

    Args:
        network: To begin with.
        studies: With `LEAST` results that differ, each; at most as many dimensions as the network knows.
        tuning: How.
        path: Of the checkpoint, from which an interrupted one goes on; at the end it is removed.
        observe: Told each `every` steps how it goes.

    Raises:
        WeightsError: If there is no such study, or the checkpoint is of something else.
    """
    own = _Own(studies, network.shape.most_dims, network.shape.most_seen, tuning)
    prior = Prior(batch=tuning.batch, most_dims=network.shape.most_dims, most_seen=network.shape.most_seen)
    judged = [own.held_out(i) for i in range(_JUDGED)]
    before = _losses(network, judged)
    new = copy.deepcopy(network).requires_grad_(True)
    both = nn.ModuleDict({"new": new, "best": copy.deepcopy(network).requires_grad_(True)})
    optimizer = torch.optim.AdamW(new.parameters(), lr=tuning.lr, weight_decay=0.0)
    settings = {**asdict(tuning), "digest": _digest(network, own.studies)}
    first = checkpoint.restore(path, settings, both, optimizer)[0] if path.exists() else 0
    # Of the first look, not of the weights that it began with: the verdict below tells whether it is any better.
    least = _losses(both["best"], judged).mean().item() if first else math.inf
    for i in range(first, tuning.steps):
        for group in optimizer.param_groups:
            group["lr"] = tuning.lr * 0.5 * (1 + math.cos(math.pi * i / tuning.steps))
        try:
            learn(new, optimizer, own.draw(i) if i % 2 else prior.draw(tuning.seed, i))
            if (i + 1) % tuning.every and i + 1 < tuning.steps:
                continue
            found = _losses(new, judged).mean().item()
        except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
            break  # weights that are lost: of these no kernel matrix can be solved
        else:
            if found < least:
                least = found
                both["best"].load_state_dict(new.state_dict())
            checkpoint.keep(path, settings, both, optimizer, i + 1, 0.0)
            observe({"step": i + 1, "held_out": found})
    best = both["best"]
    assert isinstance(best, Universal)
    after, apart = _losses(best, judged), [prior.draw(_PRIOR, i) for i in range(_JUDGED // 4)]
    error = float((after - before).std()) / math.sqrt(len(before))
    prior_before, prior_after = (_losses(n, apart).mean().item() for n in (network, best))
    kept = bool((before - after).mean() > error)  # false also for what is not a number
    path.unlink(missing_ok=True)
    verdict = Verdict(
        kept, before.mean().item(), after.mean().item(), error, prior_before, prior_after,
        tuple(study.name for study in own.apart), len(own.studies),
    )  # fmt: skip
    return best.eval().requires_grad_(False), verdict


class _Own:
    """Batches of the user's studies; which of them are asked what depends on their names and results alone."""

    def __init__(self, studies: Sequence[Results], most_dims: int, most_seen: int, tuning: FineTuning) -> None:
        fit = [s for s in studies if len(s.losses) >= LEAST and s.U.shape[1] <= most_dims and np.ptp(s.losses) > 0]
        if not fit:
            raise WeightsError(f"expected a study of at least {LEAST} results that differ to fine-tune on, got none")
        self.studies, self.most_seen, self.tuning = sorted(fit, key=lambda s: s.name), most_seen, tuning
        order = np.random.default_rng([tuning.seed, 11]).permutation(len(fit))
        whole = len(fit) >= _STUDIES
        self.apart = [self.studies[i] for i in sorted(order[: len(fit) // 4])] if whole else []
        self.learnt = [s for s in self.studies if s not in self.apart]

    def draw(self, i: int) -> Tasks:
        """Batch number `i` to learn from."""
        rng = np.random.default_rng([self.tuning.seed, i, 12])
        study = self.learnt[rng.integers(len(self.learnt))]
        rows = np.arange(len(study.losses)) if self.apart else self._split(study)[0]
        return self._batch(study, rows, None, rng)

    def held_out(self, i: int) -> Tasks:
        """Batch number `i` to be judged on: all of other studies, or of these what is not learnt, given what is."""
        rng = np.random.default_rng([self.tuning.seed, i, 13])
        among = self.apart or self.learnt
        study = among[i % len(among)]
        if self.apart:
            return self._batch(study, np.arange(len(study.losses)), None, rng)
        return self._batch(study, *self._split(study), rng)

    def _split(self, study: Results) -> tuple[Rows, Rows]:
        n = len(study.losses)
        order = np.random.default_rng([self.tuning.seed, 14]).permutation(n)
        return order[n // 4 :], order[: n // 4]

    def _batch(self, study: Results, seen: Rows, asked: Rows | None, rng: np.random.Generator) -> Tasks:
        """Histories of some of `seen`, and questions among `asked`, or else among the others of `seen`."""
        most = len(seen) - (2 if asked is None else 0)
        n = round(np.exp(rng.uniform(np.log(2), np.log(min(self.most_seen, most)))))
        m = min(self.tuning.asked, len(seen) - n if asked is None else len(asked))
        rows = np.stack([_rows(seen, asked, n, m, rng) for _ in range(self.tuning.batch)])
        losses = study.losses
        y = torch.from_numpy(np.stack([Outcome.of(losses[row[:n]])(losses[row]) for row in rows]))
        X, categorical = torch.from_numpy(study.U[rows]), torch.zeros(study.U.shape[1], dtype=torch.bool)
        categorical[list(study.categorical)] = True
        return Tasks(X[:, :n], y[:, :n], categorical, X[:, n:], y[:, n:], observed=True)


def _rows(seen: Rows, asked: Rows | None, n: int, m: int, rng: np.random.Generator) -> Rows:
    order = rng.permutation(seen)
    return np.concatenate([order[:n], order[n : n + m] if asked is None else rng.permutation(asked)[:m]])


def _losses(network: nn.Module, batches: Sequence[Tasks]) -> Tensor:
    """The loss on each batch."""
    found = []
    with torch.no_grad():
        for tasks in batches:
            prediction = network(tasks.X, tasks.y, tasks.categorical, tasks.Q, tasks.observed)
            found.append(loss_of(prediction, tasks.truth.to(prediction.logits)).mean().double())
    return torch.stack(found)


def _digest(network: Universal, studies: Sequence[Results]) -> str:
    """Of all that the weights depend on beside the settings."""
    sha = hashlib.sha256()
    for tensor in network.state_dict().values():
        sha.update(tensor.numpy().tobytes())
    for study in studies:
        sha.update(repr((study.name, study.U.shape, study.categorical)).encode())
        sha.update(study.U.tobytes() + study.losses.tobytes())
    return sha.hexdigest()
