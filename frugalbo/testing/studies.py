"""Made-up studies that look like real ones, for tests and for looking at reports.

A `Recipe` says what happened; `make_study` plays it on a virtual clock against a real `Ledger`
and returns the study. The same recipe gives the same events, bit for bit. Nothing is trained:
a trial's curve is a formula of its place in the unit cube.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from frugalbo.budget.amounts import Budget, Cost
from frugalbo.budget.ledger import Ledger
from frugalbo.errors import BudgetError
from frugalbo.events import Ended, Event, Failure, Outcome, Reported, Started
from frugalbo.problem import Fidelity, Maximize, Minimize, Problem
from frugalbo.space import Choice, Float, Int, Params, Space
from frugalbo.study import Status, Study, Trial

SpaceKind = Literal["float", "mixed", "conditional", "wide"]

_HOSTILE: Final = "<script>alert('x')</script> & <b>$x^2$</b> \x1b[31mred\x1b[0m \x00 \u2603 \U0001f600 "


@dataclass(frozen=True, slots=True)
class Recipe:
    """What happened in a made-up run.

    Args:
        trials: The most trials that start; the budget may end the run before.
        budget: Anything that `Budget.of` reads; None for a study without a ledger.
        space: `"float"`: two numbers; `"mixed"`: logarithmic, whole and categorical ones;
            `"conditional"`: with parameters that exist only for some; `"wide"`: twelve of all kinds.
        failing: The share of segments that fail, each in one of the six ways in turn.
        pausing: The share of segments that stop short of the full steps, to be resumed or given up.
        crashes: How often the controller dies: what runs is interrupted, and goes on after `pause_s`.
        left_running: How many segments are still running at the end.
        hostile: Messages, logs and categories that try to break whatever shows them.
        start: The time stamp of the first event.
    """

    seed: int = 0
    trials: int = 30
    slots: int = 2
    devices: int = 1
    budget: Any = None
    space: SpaceKind = "mixed"
    maximize: bool = False
    steps: int | None = 40
    defaults: bool = True
    failing: float = 0.1
    pausing: float = 0.25
    crashes: int = 0
    pause_s: float = 3600.0
    left_running: int = 0
    hostile: bool = False
    start: float = 1_790_000_000.0


RECIPES: Final[dict[str, Recipe]] = {
    "empty": Recipe(trials=0, budget=60),
    "one": Recipe(trials=1, failing=0, pausing=0, budget=60),
    "two": Recipe(trials=2, failing=0, pausing=0, space="float", budget=60),
    "typical": Recipe(trials=60, budget=120),
    "many": Recipe(trials=300, slots=4, budget=1800, space="conditional", seed=1),
    "all failed": Recipe(trials=12, failing=1, budget=120),
    "running": Recipe(trials=17, slots=3, left_running=3, budget=120, seed=2),
    "no defaults": Recipe(trials=25, defaults=False, budget=150, seed=3),
    "single step": Recipe(trials=40, steps=None, pausing=0, budget=150, space="float", seed=4),
    "dollars": Recipe(trials=50, slots=2, devices=8, budget="20 USD", seed=5),
    "evaluations": Recipe(trials=50, budget="30 trials", maximize=True, seed=6),
    "wall": Recipe(trials=50, budget="90 s wall, 4 GiB", seed=7),
    "resumed": Recipe(trials=60, slots=2, budget=240, crashes=2, pause_s=40_000, seed=8),
    "hostile": Recipe(trials=30, failing=0.4, budget="200 s and 9 USD", hostile=True, space="conditional", seed=9),
    "wide": Recipe(trials=90, slots=7, space="wide", maximize=True, budget="12 min", seed=10),
    "no ledger": Recipe(trials=14, space="conditional", seed=11),
}


def make_problem(recipe: Recipe) -> Problem:
    """The problem of a made-up run; its job is never called."""
    space = Space(_parameters(recipe))
    return Problem(
        name="fake <b>&</b> $x$" if recipe.hostile else "fake",
        space=space,
        job="nothing:here",
        objective=Maximize("accuracy") if recipe.maximize else Minimize("loss"),
        fidelity=Fidelity("steps", max(1, recipe.steps // 8), recipe.steps) if recipe.steps else None,
        defaults=space.decode(np.full(space.dim, 0.3)) if recipe.defaults else None,
        root=".",
    )


def make_study(recipe: Recipe) -> Study:
    """The study of a made-up run, with its ledger if there is a budget."""
    return _Play(recipe).run()[0]


def make_events(recipe: Recipe) -> list[Event]:
    """The events of a made-up run, in their order."""
    return _Play(recipe).run()[1]


class _Play:
    """One run on a virtual clock."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.problem = make_problem(recipe)
        ledger = None if recipe.budget is None else Ledger(Budget.of(recipe.budget))
        self.study = Study(self.problem, ledger)
        self.events: list[Event] = []
        self.now = recipe.start
        self.queue: list[tuple[float, int, Event]] = []
        self.free = [f"cuda:{i}" for i in range(recipe.slots)]
        self.started = 0
        self.failed = 0

    def run(self) -> tuple[Study, list[Event]]:
        crash_after = [(k + 1) * self.recipe.trials // (self.recipe.crashes + 1) for k in range(self.recipe.crashes)]
        for wanted in [*crash_after, None]:
            self._until_started(self.recipe.trials if wanted is None else wanted, drain=wanted is None)
            if wanted is not None:
                self._crash()
        while sum(isinstance(event, Ended) for _, _, event in self.queue) > self.recipe.left_running:
            self._next()
        return self.study, self.events

    def _until_started(self, wanted: int, *, drain: bool) -> None:
        while True:
            while self.free and self._begin(wanted):
                pass
            if not drain and len(self.study.trials) >= wanted:
                return
            running = sum(isinstance(event, Ended) for _, _, event in self.queue)
            done = len(self.study.trials) >= wanted and not self._paused()
            if not self.queue or (done and running <= self.recipe.left_running):
                return
            self._next()

    def _paused(self) -> list[Trial]:
        return [t for t in self.study.with_status(Status.PAUSED) if len(t.starts) < 4]

    def _begin(self, wanted: int) -> bool:
        rng = np.random.default_rng([self.recipe.seed, self.started])
        paused, fresh = self._paused(), len(self.study.trials) < wanted
        if not (paused or fresh):
            return False
        steps = self.problem.steps
        if paused and (not fresh or rng.random() < 0.4):
            trial = paused[int(rng.integers(len(paused)))]
            number, segment, params, start = trial.number, len(trial.starts), trial.params, trial.checkpoint
        else:
            number, segment, start = len(self.study.trials), 0, 0
            params = self.problem.space.sample(rng)
            if number == 0 and self.problem.defaults is not None:
                params = self.problem.defaults
        until = steps
        if steps > 1 and start < steps // 2 and rng.random() < self.recipe.pausing:
            until = steps // 2
        seconds = self._seconds(params, until - start, float(rng.lognormal(0, 0.1)))
        begun = Started(number, segment, params, start, until, steps, self._cost(3.0 * seconds), self.free[0], self.now)
        try:
            self._apply(begun)
        except BudgetError:
            return False
        self.free.pop(0)
        self.started += 1
        self._plan(begun, seconds, rng)
        return True

    def _seconds(self, params: Params, steps: int, noise: float) -> float:
        u = self.problem.space.encode(params)
        return (0.4 + 3.0 * steps / self.problem.steps * (0.5 + float(u[-1]))) * noise

    def _cost(self, seconds: float) -> Cost:
        device_seconds = seconds * self.recipe.devices
        return Cost(
            device_seconds=device_seconds,
            dollars=device_seconds / 3600 * 40.0,
            evaluations=1.0,
            wall_seconds=seconds,
            memory_bytes=2.0**30,
        )

    def _plan(self, begun: Started, seconds: float, rng: np.random.Generator) -> None:
        """Queue what will come of a segment: its reports, then its end."""
        n, fails = begun.until - begun.start, rng.random() < self.recipe.failing
        last = begun.until if not fails else begun.start + int(rng.integers(n))
        finish = self.now + seconds * max(0.1, (last - begun.start) / n)
        every = max(1, self.problem.steps // 10)
        for step in range(begun.start + 1, last + 1):
            if step % every == 0 or step == begun.until:
                at = self.now + (finish - self.now) * (step - begun.start) / (last - begun.start)
                metrics = {self.problem.objective.metric: self._value(begun.params, step, rng), "tokens": 512.0 * step}
                self._push(at, Reported(begun.trial, begun.segment, step, metrics, at))
        used = self._cost(finish - self.now)
        used = Cost(used.device_seconds, used.dollars, float(begun.segment == 0), used.wall_seconds, used.memory_bytes)
        if fails:
            self._push(finish, self._failed(begun, last, used, finish))
        elif begun.until < self.problem.steps:
            outcome = Outcome.STOPPED if rng.random() < 0.5 else Outcome.PAUSED
            self._push(finish, Ended(begun.trial, begun.segment, outcome, used, finish, begun.until))
        else:
            self._push(finish, Ended(begun.trial, begun.segment, Outcome.COMPLETED, used, finish, begun.until))

    def _failed(self, begun: Started, last: int, used: Cost, at: float) -> Ended:
        failure = list(Failure)[self.failed % len(Failure)]
        self.failed += 1
        if failure is Failure.DIVERGED:
            bad = {self.problem.objective.metric: math.nan}
            self._push(at, Reported(begun.trial, begun.segment, last + 1, bad, at))
        message, tail = _MESSAGES[failure], f"step {last}\n{_TAILS.get(failure, '')}"
        if self.recipe.hostile:
            message, tail = _HOSTILE + message, _HOSTILE * 3 + "A" * 100_000 + "\n" + "line\n" * 3000 + tail
        return Ended(begun.trial, begun.segment, Outcome.FAILED, used, at, 0, failure, message, tail)

    def _value(self, params: Params, step: int, rng: np.random.Generator) -> float:
        u = self.problem.space.encode(params)
        weights = 0.6 ** np.arange(u.size)
        gap = float(weights @ (u - 0.62) ** 2) + 0.1 * float(u[0] * u[-1])
        loss = 1.7 + 1.5 * gap + 2.0 / (1 + 3.0 * step / self.problem.steps) ** (1.5 - u[0])
        loss += 0.01 * float(rng.standard_normal())
        return float(1 / (1 + 0.2 * loss) if self.recipe.maximize else loss)

    def _crash(self) -> None:
        """Whatever runs is interrupted, between two events; the run goes on later."""
        if self.queue:
            self.now += 0.5 * (self.queue[0][0] - self.now)
        for start in [t.starts[-1] for t in self.study.with_status(Status.RUNNING)]:
            checkpoint = start.start if start.start + 1 >= start.until else start.start + 1
            seconds = max(0.0, self.now - start.at)
            used = self._cost(seconds)
            used = Cost(used.device_seconds, used.dollars, float(start.segment == 0), used.wall_seconds)
            message = "the controller died"
            self._apply(
                Ended(start.trial, start.segment, Outcome.INTERRUPTED, used, self.now, checkpoint, None, message)
            )
            self.free.append(start.slot)
        self.queue.clear()
        self.free.sort()
        self.now += self.recipe.pause_s

    def _push(self, at: float, event: Event) -> None:
        heapq.heappush(self.queue, (at, len(self.events) + len(self.queue) + self.started * 1000, event))

    def _next(self) -> None:
        self.now, _, event = heapq.heappop(self.queue)
        self._apply(event)
        if isinstance(event, Ended):
            self.free.append(self.study.trials[event.trial].starts[-1].slot)
            self.free.sort()
            if self.study.ledger:
                self.study.ledger.pass_time(self.now - self.recipe.start)

    def _apply(self, event: Event) -> None:
        self.study.apply(event)
        self.events.append(event)


_MESSAGES: Final = {
    Failure.ERROR: "ValueError: expected a batch of 32, got 0",
    Failure.KILLED: "killed by SIGSEGV",
    Failure.DIVERGED: "the objective is nan",
    Failure.NO_RESULT: "it ended without reporting the objective",
    Failure.TIMEOUT: "it reached its cap of 9.0 s",
    Failure.MEMORY: "it reached its cap of 2.0 GiB",
}
_TAILS: Final = {
    Failure.ERROR: 'Traceback (most recent call last):\n  File "train.py", line 41, in main\n    loss = step(batch)\n'
    "ValueError: expected a batch of 32, got 0",
    Failure.MEMORY: "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.21 GiB.",
}


def _parameters(recipe: Recipe) -> dict[str, Any]:
    optimizers = ("<script>alert(1)</script>", "$a$b$", "adam & co") if recipe.hostile else ("adamw", "frugal", "sgd")
    lr = Float(1e-5, 1e-1, log=True)
    if recipe.space == "float":
        return {"lr": lr, "dropout": Float(0.0, 0.5)}
    mixed = {
        "lr": lr,
        "optimizer": Choice(optimizers),
        "layers": Int(1, 6),
        "width": Int(16, 1024, log=True),
        "nesterov": Choice((False, True)),
        "batch": Choice((16, 32, 64, 128), ordered=True),
    }
    if recipe.space == "mixed":
        return mixed
    only = {"optimizer": [optimizers[1], optimizers[2]]}
    momentum = {
        "density": Float(0.01, 1.0, log=True, only_if={"optimizer": optimizers[1]}),
        "momentum": Float(0, 0.99, only_if=only),
    }
    if recipe.space == "conditional":
        return mixed | momentum | {"version": 3}
    more = {f"a_knob_with_a_long_name_{i}": Float(0.0, 10.0**i) for i in range(4)}
    return mixed | momentum | more
