"""GRPO on arithmetic from a warm start, with FRUGAL and UBA, its rollouts shared out by a rule: a job, and a script.

An update generates responses for some prompts, at most as many tokens as it is due, scores them, and takes a step
of the optimizer for each `group_batch` groups. Everything random is a pure function of the seed and the update, or
is kept in the optimizer. So a checkpoint holds no random state, and a run that was paused ends as one that was not, bit
for bit on a CPU.
"""

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
import torch._dynamo  # torch.optim loads it when first used, for a second: once here, not in each forked trial
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import AdamW, Optimizer

from frugalbo.errors import ProblemError
from frugalbo.job import JobContext
from frugalbo.optim import UBA, Frugal, measure_state_bytes, param_groups
from frugalbo.rollouts import RolloutAllocator, group_advantages
from frugalbo.script import by_hand

if str(Path(__file__).parent) not in sys.path:  # found by its path, this file brings its neighbours along
    sys.path.append(str(Path(__file__).parent))

from arithmetic import END, Exercise, data_set, decode, encode, is_right, prompt_width
from policy_gradient import grpo_loss, log_probs, response_weights
from transformer import Transformer, build, generate, lengths
from warm_start import SIZES, autocast, warm_start

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Config:
    """One run. The first ten are the knobs of `problem.py`; the rest select variants and baselines.

    Args:
        density: Share of the linear weights (whole tensors) with Adam's state.
        rollouts: Of a prompt, on average over an update.
        lower: The fewest, but for the uniform rule and where tokens run out.
        upper: The most, but for the uniform rule and the published rule's fallback.
        allocation: A rule of `frugalbo.rollouts`.
        group_batch: Groups in a step of the optimizer; an update takes as many steps as it has such batches.
        kl: Weight of the divergence from the warm start.
        size: A name in `SIZES`.
        advantage: The reward less its group's mean; `"std"`: over the group's standard deviation, as in GRPO;
            `"mean"`: as it is, as in Dr. GRPO.
        loss: The mean over what; see `policy_gradient`.
        warmup: Share of the updates in which the rate rises.
        floor: Where the schedule ends, as a share of `lr`.
    """

    lr: float = 3e-4
    density: float = 0.25
    phi: float = 2.0
    rollouts: int = 8
    lower: int = 2
    upper: int = 64
    allocation: Literal["uniform", "filtering", "knapsack", "posterior", "signal"] = "uniform"
    group_batch: int = 32
    kl: float = 0.0
    temperature: float = 1.0
    size: str = "mini"
    optimizer: Literal["frugal", "adamw"] = "frugal"
    advantage: Literal["std", "mean"] = "std"
    loss: Literal["tokens", "groups"] = "tokens"
    clip_low: float = 0.2
    clip_high: float = 0.28
    state_free_lr_scale: float = 0.1
    update_gap: int = 20
    weight_decay: float = 0.0
    warmup: float = 0.05
    floor: float = 0.1

    def __post_init__(self) -> None:
        for field in fields(self):
            value, allowed = getattr(self, field.name), get_args(field.type)
            if allowed and value not in allowed:
                raise ProblemError(f"expected {field.name} to be one of {', '.join(allowed)}, got {value!r}")
        if self.size not in SIZES:
            raise ProblemError(f"expected size to be one of {', '.join(SIZES)}, got {self.size!r}")
        if not 1 <= self.lower <= self.rollouts <= self.upper:
            raise ProblemError(
                f"expected 1 <= lower <= rollouts <= upper, got {self.lower}, {self.rollouts} and {self.upper}"
            )
        if not (self.temperature > 0 and self.kl >= 0 and self.group_batch >= 1):
            raise ProblemError(
                "expected a temperature above 0, a kl of at least 0 and a group_batch of at least 1, "
                f"got {self.temperature!r}, {self.kl!r} and {self.group_batch!r}"
            )
        size = SIZES[self.size]
        if self.rollouts * (dearest := 3 * size.warm.max_digits + 3) > size.tokens:
            raise ProblemError(
                f"expected at most {size.tokens // dearest} rollouts, as an update has {size.tokens} tokens "
                f"and a response takes up to {dearest}; got {self.rollouts}"
            )

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Self:
        """Return the run that a trial's parameters describe."""
        known = [field.name for field in fields(cls)]
        if unknown := set(params) - set(known):
            raise ProblemError(f"unknown parameter {min(unknown)!r}; known are {', '.join(known)}")
        return cls(**params)


REPORTS = 10  # in a full run; every second one with the evaluation


@dataclass(frozen=True, slots=True)
class Rollouts:
    """What an update generated, in the order of prompts.

    Args:
        prompts: The prompts of the update, shape m.
        counts: The rollouts of each, shape m.
        rewards: 0 or 1 for each rollout, shape b.
        lengths: Its tokens, shape b.
        tokens: The responses, shape b x t.
    """

    prompts: Ints
    counts: Ints
    rewards: NDArray[np.float64]
    lengths: Tensor
    tokens: Tensor

    @property
    def ids(self) -> Ints:
        """The prompt of each rollout, shape b."""
        return np.repeat(self.prompts, self.counts)

    @property
    def effective(self) -> int:
        """How many rollouts are in a group with both outcomes."""
        n = self.counts
        won = np.add.reduceat(self.rewards, np.cumsum(n) - n)
        return int(n[(won > 0) & (won < n)].sum())


class Run:
    """A policy in training: what a checkpoint holds, and what an update does."""

    def __init__(self, config: Config, seed: int, planned: int, device: str) -> None:
        self.config = config
        self.size = SIZES[config.size]
        self.seed = seed
        self.planned = planned
        self.device = device
        digits = self.size.warm.max_digits
        self.width = prompt_width(digits)
        self.exercises = data_set(self.size.prompts, digits, 0, held_out=False)
        self.limits = np.array([exercise.limit for exercise in self.exercises])
        weights = warm_start(self.size.warm, device)
        self.model = build(self.size.warm.shape, 0, device)
        self.model.load_state_dict(weights)
        self.reference = None
        if config.kl:
            self.reference = build(self.size.warm.shape, 0, device).requires_grad_(requires_grad=False)
            self.reference.load_state_dict(weights)
        self.optimizer = make_optimizer(self.model, config, seed)
        rise = min(planned - 1, round(config.warmup * planned))
        self.schedule = UBA(self.optimizer, planned, config.phi, warmup_steps=rise, floor_ratio=config.floor)
        self.allocator = RolloutAllocator(
            self.size.prompts, rule=config.allocation, lower=config.lower, upper=config.upper
        )
        self.cursor = 0  # how many prompts were visited
        self.spent = 0  # tokens generated
        self.sums: dict[str, int] = {"rollouts": 0, "right": 0, "effective": 0}  # since the last report

    def update(self, update: int) -> Rollouts:
        """Do update number `update`, from 1: generate, score, learn."""
        made = self.roll_out(update)
        self.learn(made)
        self.schedule.step()
        self.spent += int(made.lengths.sum())
        self.sums["rollouts"] += made.rewards.size
        self.sums["right"] += int(made.rewards.sum())
        self.sums["effective"] += made.effective
        return made

    def roll_out(self, update: int) -> Rollouts:
        """Generate and score at most the tokens that are due by `update` and were not spent."""
        config = self.config
        due = update * self.size.tokens - self.spent
        prompts = self.next_prompts(due // config.rollouts)
        limits = self.limits[prompts]
        if config.allocation in ("posterior", "signal"):  # these share out tokens
            counts = self.allocator.allocate(prompts, config.rollouts * int(limits.sum()), limits)
        else:
            counts = self.allocator.allocate(prompts, config.rollouts * prompts.size)
        counts = trimmed(counts, limits, due)
        ids = np.repeat(prompts, counts)
        exercises = [self.exercises[i] for i in ids]
        stream = torch.Generator().manual_seed(_seed(self.seed, update))
        tokens, took = respond(self.model, exercises, self.width, config.temperature, stream, self.device)
        rewards = score(exercises, tokens, took)
        self.allocator.update(ids, rewards)
        return Rollouts(prompts, counts, rewards, took, tokens)

    def next_prompts(self, tokens: int) -> Ints:
        """The next prompts whose responses, one each, fit into so many tokens; each epoch has an order of its own."""
        chosen: list[int] = []
        total = 0
        while True:
            epoch, place = divmod(self.cursor, self.size.prompts)
            prompt = int(np.random.default_rng([self.seed, 1, epoch]).permutation(self.size.prompts)[place])
            total += int(self.limits[prompt])
            if prompt in chosen or total > tokens:  # an epoch's end may meet the next one's beginning
                return np.array(chosen, dtype=np.int64)
            chosen.append(prompt)
            self.cursor += 1

    def learn(self, made: Rollouts) -> None:
        """Take a step for each `group_batch` groups; one without a gradient changes nothing."""
        config = self.config
        ids = made.ids
        advantages = group_advantages(ids, made.rewards, by_std=config.advantage == "std")
        prompts = encode([self.exercises[i].prompt for i in ids], self.width).to(self.device)
        batches = np.repeat(np.arange(made.prompts.size) // config.group_batch, made.counts)
        # Where all advantages are 0 and nothing holds the policy to the reference, a response has no gradient.
        counts = (advantages != 0) | (config.kl > 0)
        old = None
        if batches[-1] > 0:
            old = torch.zeros(made.tokens.shape, device=self.device)
            with torch.no_grad():
                for rows in self._parts(np.flatnonzero(counts)):
                    old[rows] = self._log_probs(self.model, prompts[rows], made.tokens[rows])
        for batch in range(int(batches[-1]) + 1):
            members = torch.from_numpy(np.flatnonzero(batches == batch))
            weights = torch.zeros(ids.size)
            weights[members] = response_weights(torch.from_numpy(ids)[members], made.lengths[members], config.loss)
            for rows in self._parts(np.flatnonzero((batches == batch) & counts)):
                took = made.lengths[rows]
                tokens = made.tokens[rows][:, : int(took.max())]
                new = self._log_probs(self.model, prompts[rows], tokens)
                reference = None
                if self.reference is not None:
                    with torch.no_grad():
                        reference = self._log_probs(self.reference, prompts[rows], tokens)
                loss = grpo_loss(
                    new,
                    new.detach() if old is None else old[rows][:, : tokens.shape[1]],
                    torch.from_numpy(advantages)[rows].float().to(self.device),
                    weights[rows].to(self.device),
                    (torch.arange(tokens.shape[1]) < took[:, None]).to(self.device),
                    clip_low=config.clip_low,
                    clip_high=config.clip_high,
                    reference=reference,
                    kl=config.kl,
                )
                loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()  # without gradients it leaves weights and moments as they are
            self.optimizer.zero_grad(set_to_none=True)

    def evaluate(self) -> float:
        """Return pass@1 on the held-out exercises: the share of right responses at temperature 1."""
        size = self.size
        exercises = data_set(size.held_out, size.warm.max_digits, 0, held_out=True) * size.samples
        stream = torch.Generator().manual_seed(0)
        right = 0
        for start in range(0, len(exercises), 4096):
            part = exercises[start : start + 4096]
            tokens, took = respond(self.model, part, self.width, 1.0, stream, self.device)
            right += int(score(part, tokens, took).sum())
        return right / len(exercises)

    def take_means(self) -> dict[str, float]:
        """Return the mean reward and the effective gradient ratio since the last time."""
        n = max(1, self.sums["rollouts"])
        means = {"train_reward": self.sums["right"] / n, "effective_ratio": self.sums["effective"] / n}
        self.sums = dict.fromkeys(self.sums, 0)
        return means

    def state(self) -> dict[str, Any]:
        """All that `load` needs to go on exactly."""
        return {
            "config": asdict(self.config),
            "seed": self.seed,
            "planned": self.planned,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "allocator": {name: torch.from_numpy(a) for name, a in self.allocator.state_dict().items()},
            "cursor": self.cursor,
            "spent": self.spent,
            "sums": dict(self.sums),
        }

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            ProblemError: If it is of another run; a schedule planned for other updates is another run.
        """
        saved = torch.load(path, map_location=self.device, weights_only=True)
        for name, mine in (("config", asdict(self.config)), ("seed", self.seed), ("planned", self.planned)):
            if saved[name] != mine:
                raise ProblemError(f"{path} is of another run: expected {name} {mine}, got {saved[name]}")
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        self.allocator.load_state_dict({name: a.cpu().numpy() for name, a in saved["allocator"].items()})
        self.cursor, self.spent, self.sums = saved["cursor"], saved["spent"], saved["sums"]

    def _parts(self, rows: Ints) -> Sequence[Tensor]:
        return torch.from_numpy(rows).split(self.size.micro_batch) if rows.size else ()

    def _log_probs(self, model: Transformer, prompts: Tensor, responses: Tensor) -> Tensor:
        with autocast(self.device):
            return log_probs(model, prompts, responses, self.config.temperature)


def respond(
    model: Transformer,
    exercises: Sequence[Exercise],
    width: int,
    temperature: float,
    stream: torch.Generator,
    device: str,
) -> tuple[Tensor, Tensor]:
    """Sample a response for each exercise; returns tokens (b x t, on the device) and their numbers (b, on the CPU)."""
    prompts = encode([exercise.prompt for exercise in exercises], width).to(device)
    limits = torch.tensor([exercise.limit for exercise in exercises], device=device)
    with autocast(device):
        tokens = generate(model, prompts, limits, temperature, END, stream)
    return tokens, lengths(tokens, limits, END).cpu()


def score(exercises: Sequence[Exercise], tokens: Tensor, took: Tensor) -> NDArray[np.float64]:
    """The reward of each response: 1 if it is right, else 0; what is behind its length is not looked at."""
    texts = zip(exercises, decode(tokens), took.tolist(), strict=True)
    return np.array([float(is_right(exercise, text[:n])) for exercise, text, n in texts])


def trimmed(counts: Ints, limits: Ints, tokens: int) -> Ints:
    """Fewer rollouts, until they cannot take more than so many tokens: one at a time off the largest group."""
    counts = counts.copy()
    over = int(counts @ limits) - tokens
    while over > 0:
        largest = int(counts.argmax())
        counts[largest] -= 1
        over -= int(limits[largest])
    return counts


def make_optimizer(model: Transformer, config: Config, seed: int) -> Optimizer:
    """Return FRUGAL, or torch's AdamW on the same groups; norms are not decayed."""
    groups = param_groups(model, weight_decay=config.weight_decay)
    if config.optimizer == "adamw":
        for group in groups:
            del group["projectable"]
        return AdamW(groups, lr=config.lr, foreach=True)
    return Frugal(
        groups,
        lr=config.lr,
        density=config.density,
        update_gap=config.update_gap,
        state_free_lr_scale=config.state_free_lr_scale,
        seed=seed,
    )


def main(job: JobContext) -> None:
    """Train from update `job.start` to `job.until`, report, and leave a checkpoint."""
    run = Run(Config.from_params(job.params), job.seed, job.planned, job.device)
    if path := job.resume():
        run.load(path)
    trained_s = 0.0
    before = run.spent
    began = time.perf_counter()
    for update in range(job.start + 1, job.until + 1):
        run.update(update)
        stop = job.should_stop
        last = update == job.until
        tenth = update * REPORTS // job.planned
        due = last or tenth > (update - 1) * REPORTS // job.planned
        if not (due or stop):
            continue
        trained_s += time.perf_counter() - began
        metrics = run.take_means() if due else {}
        if last or stop:
            job.save(update, lambda path: torch.save(run.state(), path))
        if metrics:
            finite = all(bool(p.isfinite().all()) for p in run.model.parameters())
            if not finite or last or (tenth % 2 == 0 and not stop):
                metrics["pass_at_1"] = run.evaluate() if finite else math.nan  # diverged: the report ends the trial
                metrics["pass_at_1_sem"] = standard_error(metrics["pass_at_1"], run.size.held_out * run.size.samples)
            metrics["tokens"] = run.spent
            metrics["state_bytes"] = measure_state_bytes(run.optimizer).total
            metrics["tokens_per_s"] = (run.spent - before) / trained_s
            job.report(update, **metrics)
        if stop:
            return
        began = time.perf_counter()


def standard_error(share: float, n: int) -> float:
    """Return that of a share of `n` responses, as if one more was right and one more was wrong: never 0."""
    p = (share * n + 1) / (n + 2)
    return math.sqrt(p * (1 - p) / n)


def _seed(*words: int) -> int:
    return int(np.random.SeedSequence([2, *words]).generate_state(1, np.uint64)[0] >> np.uint64(1))


if __name__ == "__main__":
    with by_hand(Config, objective="pass_at_1", steps=lambda config: SIZES[config.size].updates) as by_hand_job:
        if by_hand_job.until == 0:  # the warm start alone, and what it can do
            begin = Run(Config.from_params(by_hand_job.params), by_hand_job.seed, 1, by_hand_job.device)
            print(json.dumps({"step": 0, "metrics": {"pass_at_1": begin.evaluate()}}))
        else:
            main(by_hand_job)
