"""Where every trial begins: a model that was taught some arithmetic, made once and kept; and the sizes of all.

Supervised steps on exercises with their working, the easier ones more often, with slips of the pen, and stopped
early. So success rates range from high (one digit) to nearly 0 (the longest), and a part of what is missing is
there already: a model that errs at random can learn from its own successes to err less.

The weights are kept in `$XDG_CACHE_HOME/frugalbo` (or `~/.cache/frugalbo`) under a hash of the settings, of the
sources that made them, of torch's version and of the kind of device. Whoever comes first makes them; others wait.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from arithmetic import ALPHABET, ZERO, draw, encode, kinds, prompt_width
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR
from transformer import Shape, Transformer, build

_SOURCES = ("arithmetic.py", "transformer.py", "warm_start.py")
_EASIER = 0.7  # an exercise of d digits is drawn in proportion to d to the minus this


@dataclass(frozen=True, slots=True)
class Warm:
    """What the warm start depends on.

    Args:
        max_digits: Of the longest exercises, in the warm start as afterwards.
        batch: Exercises in a supervised step.
        slips: The chance that a digit of a response is replaced by a random one, independently of all others.
    """

    max_digits: int
    hidden: int
    layers: int
    heads: int
    steps: int
    batch: int
    lr: float
    slips: float

    @property
    def shape(self) -> Shape:
        """The model's."""
        length = prompt_width(self.max_digits) + 3 * self.max_digits + 3
        return Shape(self.hidden, self.layers, self.heads, length, len(ALPHABET))


@dataclass(frozen=True, slots=True)
class Size:
    """A warm start, and the reinforcement learning after it.

    Args:
        prompts: Exercises to learn from, visited in turn.
        held_out: Exercises of the evaluation, with `samples` responses each.
        tokens: What an update may generate; times the updates, the token budget of a trial.
        updates: Of a full trial.
        micro_batch: Responses that are in the memory of a backward pass at once.
    """

    warm: Warm
    prompts: int
    held_out: int
    samples: int
    tokens: int
    updates: int
    micro_batch: int


SIZES = {
    "toy": Size(Warm(3, 48, 2, 4, 500, 48, 6e-3, 0.05), 180, 180, 4, 2304, 24, 512),
    "mini": Size(Warm(5, 64, 2, 4, 1000, 64, 4e-3, 0.05), 960, 450, 4, 6144, 60, 512),
    "85M": Size(Warm(12, 768, 12, 12, 4000, 512, 6e-4, 0.05), 16_384, 3600, 4, 98_304, 1000, 512),
}


def warm_start(warm: Warm, device: str) -> dict[str, Tensor]:
    """Return the weights that a trial begins with: from the cache, or made now and put there."""
    path = cache_folder() / f"{cache_key(warm, device)}.pt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed
            if not path.exists():
                partial = path.with_suffix(".partial")
                torch.save(teach(warm, device).state_dict(), partial)
                partial.rename(path)
    return torch.load(path, map_location=device, weights_only=True)


def cache_folder() -> Path:
    """Where warm starts are kept."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "frugalbo" / "knapsack_grpo"


def cache_key(warm: Warm, device: str) -> str:
    """What makes these weights these weights."""
    found = hashlib.blake2b(json.dumps([asdict(warm), torch.__version__, torch.device(device).type]).encode())
    for name in _SOURCES:
        found.update((Path(__file__).parent / name).read_bytes())
    return found.hexdigest()[:24]


def teach(warm: Warm, device: str) -> Transformer:
    """Return a model after the supervised steps; the same for every trial, whatever its seed."""
    model = build(warm.shape, 0, device)
    optimizer = AdamW(model.parameters(), lr=warm.lr, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = OneCycleLR(optimizer, warm.lr, warm.steps, pct_start=0.05)
    rng = np.random.default_rng(0)
    every = kinds(warm.max_digits)
    weights = np.array([digits**-_EASIER for _, digits in every])
    width = prompt_width(warm.max_digits)
    for _ in range(warm.steps):
        drawn = rng.choice(len(every), warm.batch, p=weights / weights.sum())
        exercises = [draw(rng, *every[i], held_out=False) for i in drawn]
        limits = torch.tensor([exercise.limit for exercise in exercises])
        longest = int(limits.max())
        prompts = encode([exercise.prompt for exercise in exercises], width)
        responses = encode([exercise.response for exercise in exercises], longest, right=True)
        responses = with_slips(responses, warm.slips, rng)
        targets = responses.masked_fill(torch.arange(longest) >= limits[:, None], -100).to(device)
        with autocast(device):
            logits = model(torch.cat([prompts, responses], 1)[:, :-1].to(device))[:, width - 1 :]
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model


def with_slips(responses: Tensor, slips: float, rng: np.random.Generator) -> Tensor:
    """Responses (b x t) in which each digit has, with the chance `slips`, become a random one."""
    slipped = torch.from_numpy(rng.random(responses.shape) < slips)
    digits = torch.from_numpy(rng.integers(ZERO, ZERO + 10, responses.shape))
    return torch.where(slipped & (responses >= ZERO) & (responses < ZERO + 10), digits, responses)


def autocast(device: str) -> AbstractContextManager[object]:
    """On a GPU the models compute in bfloat16; weights and optimizer state are float32 everywhere."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if device.startswith("cuda") else nullcontext()
