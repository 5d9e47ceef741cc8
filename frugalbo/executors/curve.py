"""What the simulated executor knows of a job and of its devices: a curve, how a resume disturbs it, what goes wrong."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from frugalbo.errors import ExecutorError
from frugalbo.events import Failure
from frugalbo.executors.base import Segment
from frugalbo.space import Params


@dataclass(frozen=True, slots=True)
class Curve:
    """What a trial would report if it ran alone and undisturbed, on one device of speed 1.

    Args:
        steps: Steps at which it reports, increasing.
        seconds: Seconds from the first step to each of these reports; they never go back.
        metrics: What it reports there.
        failure: What happens after the last report if that is not the end of the plan.
        message: And why.
        failure_s: And when, in seconds from the first step; at the last report if that is later.

    Raises:
        ExecutorError: If there are not as many of each, or they go backwards.
    """

    steps: Sequence[int]
    seconds: Sequence[float]
    metrics: Sequence[Mapping[str, float]]
    failure: Failure | None = None
    message: str = ""
    failure_s: float = 0.0

    def __post_init__(self) -> None:
        if not len(self.steps) == len(self.seconds) == len(self.metrics):
            counts = len(self.steps), len(self.seconds), len(self.metrics)
            raise ExecutorError(f"expected a curve's steps, seconds and metrics to be as many, got {counts}")
        if not all(map(operator.lt, (0, *self.steps), self.steps)):
            raise ExecutorError(f"expected the steps of a curve to increase from 1, got {list(self.steps)}")
        if not all(map(operator.le, (0.0, *self.seconds), (*self.seconds, math.inf))):
            raise ExecutorError(f"expected the seconds of a curve never to go back, got {list(self.seconds)}")


Simulate = Callable[[Params, int, int], Curve]


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What a job reports too much of right after a resume, until it has settled.

    The loss of the d-th step after the resume is raised by `size x E (1 - (d - 1) / steps)` for `d <= steps`, with E
    exponential of mean 1, from a random stream of each segment's own.

    Args:
        size: In units of the objective.
        steps: After which nothing is left of it.

    Raises:
        ExecutorError: If the size is negative, or there are no steps.
    """

    size: float
    steps: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.size < math.inf:
            raise ExecutorError(f"expected a disturbance of at least 0, got {self.size!r}")
        if self.steps < 1:
            raise ExecutorError(f"expected a disturbance to last a step at least, got {self.steps!r}")

    def excess(self, segment: Segment) -> Callable[[int], float]:
        """By how much the loss of each step is raised in a segment."""
        if segment.start == 0:
            return lambda _: 0.0
        size = self.size * np.random.default_rng([self.seed, segment.trial, segment.number, 1]).exponential()
        return lambda step: size * max(0.0, 1 - (step - segment.start - 1) / self.steps)


@dataclass(frozen=True, slots=True)
class Hazards:
    """What goes wrong by itself, at exponential times; each segment has a random stream of its own.

    Args:
        failures_per_hour: How often a device at work brings its job down: the trial has failed then.
        preemptions_per_hour: How often a preemptible slot is taken from its segment, which is interrupted.
        away_s: How long such a slot is gone.
        checkpoint_every: The steps between checkpoints; an interrupted segment falls back to the last.

    Raises:
        ExecutorError: If one is negative, or there are no steps between checkpoints.
    """

    failures_per_hour: float = 0.0
    preemptions_per_hour: float = 0.0
    away_s: float = 0.0
    checkpoint_every: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("failures_per_hour", "preemptions_per_hour", "away_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ExecutorError(f"expected {name} of at least 0, got {getattr(self, name)!r}")
        if self.checkpoint_every < 1:
            raise ExecutorError(f"expected at least one step between checkpoints, got {self.checkpoint_every!r}")

    def strike(self, segment: Segment) -> tuple[float, float]:
        """After how many seconds a segment fails, and is taken away from; infinite for never."""
        failures = self.failures_per_hour * segment.slot.devices
        preemptions = self.preemptions_per_hour * segment.slot.preemptible
        if not failures and not preemptions:
            return math.inf, math.inf
        rng = np.random.default_rng([self.seed, segment.trial, segment.number])
        first, second = rng.exponential(3600.0, 2)
        return first / failures if failures else math.inf, second / preemptions if preemptions else math.inf
