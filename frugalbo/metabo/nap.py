"""The training of the neural acquisition process as published, for one search space, and what it takes next.

Source: Maraval et al., arXiv:2305.15930, with the settings of the authors' code: proximal policy optimisation
(`frugalbo.metabo.ppo`) and, with weight 1, the negative log density of all candidates' outcomes given some that
are drawn anew, independently of what the policy tried. `policy="improvement"` and `auxiliary=0` are the paper's
ablations: likelihood alone with expected improvement on the buckets (NP-EI), and reinforcement alone.

Outcomes of a task go from 0 to 1, its worst and its best candidate. A tuner does not know these beforehand: what
this network is worth on tables, which are scaled in this way too, is with that knowledge, as published.

Iteration `i` comes from streams of its own, and a checkpoint holds all else, as in `frugalbo.metabo.train`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from frugalbo.errors import WeightsError
from frugalbo.metabo import checkpoint
from frugalbo.metabo.network import NAP, NAPShape
from frugalbo.metabo.ppo import Rollout, advantages, clipped_loss, log_chances, roll_out
from frugalbo.metabo.settings import refuse_unknown, require_positive
from frugalbo.metabo.sources import Episodes, Sources, Tasks
from frugalbo.metabo.tables import read_tables
from frugalbo.metabo.weights import all_numbers, read, write

FORMAT = "frugalbo.metabo.nap/1"
_CLIP_NORM = 0.5
_TINY = 1e-8

Policy = Literal["learned", "improvement"]


@dataclass(frozen=True, slots=True)
class NAPTraining:
    """How weights are made; the defaults are as published.

    Args:
        tables: A file of tables (`frugalbo.metabo.tables`) of one search space.
        iterations: Of episodes and updates.
        seed: Of weights, tasks and episodes.
        policy: "learned" by reinforcement, or expected "improvement" on the buckets, which is likelihood alone.
        auxiliary: The weight of the likelihood beside reinforcement.
        episodes: In each iteration.
        horizon: Steps of an episode.
        candidates: Of a task, more than `horizon`.
        rows: Of a table that its Gaussian process is fitted to, at most.
        top: Candidates that an action is drawn from.
        discount: Of later rewards.
        decay: Of later surprises in an advantage.
        clip: Of the ratio of chances.
        lr: At its highest.
        warmup: Iterations up to there; from there it falls to 0 in a line.
        minibatch: States whose gradients are averaged.
        accumulate: Minibatches whose gradients are summed before a step.
        every: Iterations between checkpoints, and between lines of the log.
        device: `"cpu"` or `"cuda"`.
        network: Its sizes.

    Raises:
        WeightsError: If a number or a name is none of these.
    """

    tables: str = ""
    iterations: int = 2000
    seed: int = 0
    policy: Policy = "learned"
    auxiliary: float = 1.0
    episodes: int = 60
    horizon: int = 24
    candidates: int = 300
    rows: int = 300
    top: int = 5
    discount: float = 0.98
    decay: float = 0.98
    clip: float = 0.15
    lr: float = 3e-5
    warmup: int = 20
    minibatch: int = 8
    accumulate: int = 4
    every: int = 10
    device: str = "cpu"
    network: NAPShape = field(default_factory=NAPShape)

    def __post_init__(self) -> None:
        positive = ("iterations", "episodes", "candidates", "rows", "top", "lr", "warmup", "minibatch", "accumulate")
        require_positive(self, (*positive, "discount", "decay", "clip", "every"))
        if self.policy not in ("learned", "improvement"):
            raise WeightsError(f"expected a policy of 'learned' or 'improvement', got {self.policy!r}")
        if not 0 <= self.auxiliary < math.inf or (self.policy == "improvement" and not self.auxiliary):
            raise WeightsError(f"expected a weight of the likelihood of at least 0, got {self.auxiliary!r}")
        if not 2 <= self.horizon < self.candidates:
            raise WeightsError(f"expected a horizon of 2 to {self.candidates - 1}, got {self.horizon!r}")

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> NAPTraining:
        """From plain types, as `to_json` gives them, or a file of TOML.

        Raises:
            WeightsError: If it has settings that there are not.
        """
        network = dict(record.get("network", {}))
        refuse_unknown(cls, record)
        refuse_unknown(NAPShape, network)
        return cls(**{**record, "network": NAPShape(**network)})

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class NAPWeights:
    """What a file holds.

    Args:
        network: Ready to answer.
        policy: What it was trained for.
        made: How it was made, as JSON types.
    """

    network: NAP
    policy: Policy
    made: Mapping[str, Any]


def train_nap(
    training: NAPTraining,
    out: str | Path,
    observe: Callable[[dict[str, Any]], None] = lambda _: None,
    tasks: Tasks | None = None,
) -> NAP:
    """Train, or go on with a training that was interrupted, and write the weights to `out`.

    Args:
        training: How.
        out: Where to; its checkpoint lies beside.
        observe: Told each `every` iterations how it goes.
        tasks: What to learn from; by default the tables of the training.

    Raises:
        ProblemError: If these are no tables of one space.
        WeightsError: If the checkpoint is of another training.
    """
    out, device = Path(out), torch.device(training.device)
    if tasks is None:
        tasks = Sources(list(read_tables(training.tables).values()), training.candidates, training.rows)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        network = NAP(tasks.dims, training.network)
    network.to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=training.lr)
    beside, first, before_s, started = checkpoint.beside(out), 0, 0.0, time.monotonic()
    if beside.exists():
        first, before_s = checkpoint.restore(beside, training.to_json(), network, optimizer)
    for i in range(first, training.iterations):
        for group in optimizer.param_groups:
            group["lr"] = training.lr * _schedule(i, training)
        episodes = tasks.draw(training.seed, i, training.episodes)
        said = _iterate(network, optimizer, training, Episodes(episodes.X.to(device), episodes.y.to(device)), i)
        if (i + 1) % training.every == 0 or i + 1 == training.iterations:
            seconds = before_s + time.monotonic() - started
            checkpoint.keep(beside, training.to_json(), network, optimizer, i + 1, seconds)
            observe({"iteration": i + 1, **said, "seconds": round(seconds, 1)})
    seconds = before_s + time.monotonic() - started
    save_nap(out, network, {"training": training.to_json(), "seconds": round(seconds, 1), "torch": torch.__version__})
    return network


def worths(network: NAP, policy: Policy, X: Tensor, y: Tensor, candidates: Tensor, time: float) -> Tensor:
    """What each candidate is worth to the policy, of one task; the largest is taken.

    Args:
        network: That is asked.
        policy: What it was trained for.
        X: What was tried, n x d.
        y: Outcomes in [0, 1], n.
        candidates: N x d.
        time: The share of the steps that is done.
    """
    like = network.point.weight
    best = (y.max() if len(y) else y.new_zeros(())).to(like)
    filled = torch.ones(1, len(y), dtype=torch.bool, device=like.device)
    told = X.to(like)[None], y.to(like)[None], filled, candidates.to(like)[None], best[None], like.new_full((1,), time)
    with torch.no_grad():
        said = network(*told)
        return said.policy[0] if policy == "learned" else log_improvement(network, said.bars, best[None])[0]


def log_improvement(network: NAP, bars: Tensor, best: Tensor) -> Tensor:
    """`log E[max(0, y - best)]` on the buckets of candidates, B x m; `best` is B.

    The buckets are the same seen from the other end, so this is the improvement of `1 - y` on `1 - best`.
    """
    return network.bars.log_improvement(bars.flip(-1), (1 - best).unsqueeze(-1).expand(bars.shape[:-1]))


def save_nap(path: str | Path, network: NAP, made: Mapping[str, Any]) -> None:
    """Write weights, how they were made beside them."""
    state = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    shape = json.dumps({"dims": network.point.in_features, "network": asdict(network.shape)})
    write(path, {"format": FORMAT, "shape": shape, "made": json.dumps(made), "state": state})


def load_nap(path: str | Path) -> NAPWeights:
    """What a file of weights holds.

    Raises:
        WeightsError: If there is no such file, or it holds no weights of this network.
    """
    record = read(path, FORMAT)
    try:
        shape, made = json.loads(record["shape"]), json.loads(record["made"])
        network = NAP(shape["dims"], NAPShape(**shape["network"]))
        network.load_state_dict(record["state"])
        policy = NAPTraining.of(made["training"]).policy
    except (RuntimeError, TypeError, KeyError, ValueError) as error:
        raise WeightsError(f"the weights in {str(path)!r} do not fit their network: {error}") from error
    if not all_numbers(network):
        raise WeightsError(f"the weights in {str(path)!r} are not all numbers")
    return NAPWeights(network.eval().requires_grad_(False), policy, made)


def _iterate(
    network: NAP, optimizer: torch.optim.Optimizer, training: NAPTraining, tasks: Episodes, i: int
) -> dict[str, float]:
    """Gather episodes and learn from each of their states once; what to say of it."""
    g = torch.Generator().manual_seed(1_000_003 * training.seed + i)
    learned = training.policy == "learned"
    rollout = roll_out(network, tasks, training.horizon, training.top, g) if learned else None
    targets = None if rollout is None else advantages(rollout.reward, rollout.value, training.discount, training.decay)
    order = torch.randperm(training.episodes * training.horizon, generator=g)
    said, steps = {"likelihood": 0.0}, order.split(training.minibatch * training.accumulate)
    for states in steps:
        optimizer.zero_grad()
        for which in states.split(training.minibatch):
            loss = tasks.y.new_zeros(())
            if rollout is not None and targets is not None:
                loss = loss + reinforcement(network, rollout, targets, which.to(tasks.y.device), training.clip)
            if training.auxiliary:
                likelihood = likelihood_loss(network, tasks, which // training.horizon, training.horizon, g)
                said["likelihood"] += likelihood.item() * len(which) / len(order)
                loss = loss + training.auxiliary * likelihood
            loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), _CLIP_NORM)
        optimizer.step()
    if rollout is not None:
        said |= {
            "reward": rollout.reward.sum(1).mean().item(),
            "found": (rollout.reward[:, -1] > 19).float().mean().item(),
        }
    return {name: round(value, 4) for name, value in said.items()}


def reinforcement(network: NAP, rollout: Rollout, targets: tuple[Tensor, Tensor], which: Tensor, clip: float) -> Tensor:
    """The clipped loss of the policy and the squared error of the value at some states."""
    gained, returns = (t.flatten()[which] for t in targets)
    gained = (gained - gained.mean()) / (gained.std(correction=0) + _TINY)
    said = rollout.answers(network, which)
    log_p = log_chances(said.policy, rollout.allowed.flatten(0, 1)[which])
    log_p = log_p.gather(1, rollout.action.flatten()[which].unsqueeze(-1))[:, 0]
    before = rollout.log_p.flatten()[which]
    return clipped_loss(log_p, before, gained, clip) + torch.nn.functional.mse_loss(said.value, returns)


def likelihood_loss(network: NAP, tasks: Episodes, which: Tensor, horizon: int, g: torch.Generator) -> Tensor:
    """The mean negative log density of all candidates' outcomes, given some drawn at random.

    Args:
        network: That predicts.
        tasks: Of which.
        which: The tasks, S; each time with another history.
        horizon: Histories have 1 to `horizon - 1` results.
        g: On the processor, wherever the tasks are.
    """
    device = tasks.y.device
    seen = torch.randint(tasks.y.shape[1], (len(which), horizon), generator=g).to(device)
    filled = torch.arange(horizon) < torch.randint(1, horizon, (len(which), 1), generator=g)
    which = which.to(device)
    X, y, candidates, truth = tasks.X[which], tasks.y[which], tasks.X[which], tasks.y[which]
    X, y = X.gather(1, seen.unsqueeze(-1).expand(-1, -1, X.shape[-1])), y.gather(1, seen)
    nothing = truth.new_zeros(len(which))
    said = network(X, y, filled.to(device), candidates, nothing, nothing)
    return -network.bars.log_density(said.bars, truth).mean()


def _schedule(i: int, training: NAPTraining) -> float:
    if i < training.warmup:
        return (i + 1) / training.warmup
    return 1 - (i - training.warmup) / max(1, training.iterations - training.warmup)
