"""Segments under a virtual clock: the same loop in no time, on tables, recorded curves or formulas.

Nothing sleeps and nothing is random: the same submissions give the same events. `wait` jumps to
the next instant at which something happens, and returns everything of that instant together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from frugalbo.budget.amounts import Cost
from frugalbo.errors import ExecutorError
from frugalbo.executors.base import Segment
from frugalbo.problem import Problem
from frugalbo.slot import Slot
from frugalbo.space import Params
from frugalbo.study import Ended, Event, Failure, Outcome, Reported, Started


@dataclass(frozen=True, slots=True)
class Curve:
    """What a trial would report if it ran alone and undisturbed.

    Args:
        steps: Steps at which it reports, increasing.
        seconds: Seconds from the first step to each of these reports, increasing.
        metrics: What it reports there.
        failure: What happens after the last report if that is not the end of the plan.
        message: And why.
    """

    steps: Sequence[int]
    seconds: Sequence[float]
    metrics: Sequence[Mapping[str, float]]
    failure: Failure | None = None
    message: str = ""


Simulate = Callable[[Params, int, int], Curve]


@dataclass(slots=True)
class _Running:
    segment: Segment
    began: float
    timeline: list[tuple[float, Reported | Ended]]
    reported: int


class SimulatedExecutor:
    """Runs segments in virtual time.

    Args:
        simulate: From parameters, planned steps and seed to the trial's `Curve`.
        start_up_s: What each segment costs before its first step.
        reload_s: What a resumed segment costs on top.
        now: Where the virtual clock starts.
    """

    def __init__(
        self,
        problem: Problem,
        slots: Sequence[Slot],
        simulate: Simulate,
        *,
        start_up_s: float = 0.0,
        reload_s: float = 0.0,
        now: float = 0.0,
    ) -> None:
        self.problem = problem
        self.slots = tuple(slots)
        self._simulate = simulate
        self._start_up_s = start_up_s
        self._reload_s = reload_s
        self._now = now
        self._running: dict[int, _Running] = {}

    def free_slots(self) -> Sequence[Slot]:
        """The slots on which nothing runs."""
        taken = {run.segment.slot.name for run in self._running.values()}
        return [slot for slot in self.slots if slot.name not in taken]

    def now(self) -> float:
        """The virtual clock."""
        return self._now

    def submit(self, segment: Segment) -> None:
        """Start a segment.

        Raises:
            ExecutorError: If its slot is not free.
        """
        if segment.slot not in self.free_slots():
            raise ExecutorError(f"slot {segment.slot.name} is not free")
        self._running[segment.trial] = _Running(segment, self._now, self._timeline(segment), segment.start)

    def cancel(self, trial: int, outcome: Outcome = Outcome.STOPPED) -> None:
        """End a running trial now."""
        run = self._running.get(trial)
        if run is not None and run.timeline[0][0] > self._now:
            run.timeline = [(self._now, self._end(run.segment, self._now - run.began, outcome, run.reported))]

    def wait(self, timeout_s: float = math.inf) -> Sequence[Reported | Ended]:
        """The events of the next instant at which there are any; the time-out is virtual and so ignored."""
        del timeout_s
        if not self._running:
            return []
        self._now = min(run.timeline[0][0] for run in self._running.values())
        events: list[Reported | Ended] = []
        for trial, run in list(self._running.items()):
            while run.timeline and run.timeline[0][0] <= self._now:
                event = run.timeline.pop(0)[1]
                events.append(event)
                if isinstance(event, Reported):
                    run.reported = event.step
                else:
                    del self._running[trial]
        return events

    def recover(self, started: Started, folder: Path) -> Sequence[Event]:
        """The segment died with its controller, which nothing can tell from: charged for the time since it started."""
        del folder
        held = started.held.device_seconds or math.inf
        used = Cost(
            device_seconds=min(held, max(0.0, self._now - started.at)),
            evaluations=1.0 if started.segment == 0 else 0.0,
        )
        return [Ended(started.trial, started.segment, Outcome.INTERRUPTED, used, self._now, message="controller died")]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._running.clear()

    def _timeline(self, segment: Segment) -> list[tuple[float, Reported | Ended]]:
        """What will happen, at which time, if nobody interferes."""
        curve = self._simulate(segment.params, segment.planned, segment.seed)
        points = zip(curve.steps, curve.seconds, strict=True)
        before = max((seconds for step, seconds in points if step <= segment.start), default=0.0)
        overhead = self._start_up_s + (self._reload_s if segment.start else 0.0) - before
        timeline: list[tuple[float, Reported | Ended]] = []

        def end(after: float, outcome: Outcome, step: int, failure: Failure | None = None, why: str = "") -> None:
            ended = self._end(segment, after, outcome, step, failure, why)
            timeline.append((self._now + after, ended))

        metric = self.problem.objective.metric
        reported, seconds, objective = segment.start, overhead + before, None
        for step, at, metrics in zip(curve.steps, curve.seconds, curve.metrics, strict=True):
            if not segment.start < step <= segment.until:
                continue
            if overhead + at > segment.cap_s:
                why = f"it was not done after the {segment.cap_s:.4g} s that it was granted"
                end(segment.cap_s, Outcome.FAILED, reported, Failure.TIMEOUT, why)
                return timeline
            reported, seconds = step, overhead + at
            event = Reported(segment.trial, segment.number, step, dict(metrics), self._now + seconds)
            timeline.append((event.at, event))
            objective = metrics.get(metric)
            if objective is not None and not math.isfinite(objective):
                end(seconds, Outcome.FAILED, reported, Failure.DIVERGED, f"{metric} is {objective} at step {step}")
                return timeline
        if reported < segment.until or objective is None:
            why = curve.message or f"it ended without a report of {metric} at step {segment.until}"
            end(seconds, Outcome.FAILED, reported, curve.failure or Failure.NO_RESULT, why)
        else:
            end(seconds, Outcome.COMPLETED if reported == segment.planned else Outcome.PAUSED, reported)
        return timeline

    def _end(
        self, segment: Segment, after: float, outcome: Outcome, step: int, failure: Failure | None = None, why: str = ""
    ) -> Ended:
        used = Cost(
            device_seconds=after * segment.slot.devices,
            dollars=after * segment.slot.devices * segment.slot.dollars_per_hour / 3600,
            evaluations=1.0 if segment.number == 0 else 0.0,
        )
        began = self._running[segment.trial].began if segment.trial in self._running else self._now
        return Ended(segment.trial, segment.number, outcome, used, began + after, step, failure, why)
