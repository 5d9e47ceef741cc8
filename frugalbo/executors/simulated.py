"""Segments under a virtual clock: the same loop in no time, on tables, recorded curves or formulas.

Nothing sleeps: `wait` jumps to the next instant at which something happens, and returns everything of
that instant together. The same submissions give the same events, accidents included. A slot of speed 2
takes half the seconds for everything, and so costs half of them.
"""

from __future__ import annotations

import heapq
import itertools
import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from frugalbo.budget.amounts import Cost
from frugalbo.errors import ExecutorError
from frugalbo.events import Cause, Ended, Event, Failure, Outcome, Reported, Started
from frugalbo.executors.base import Segment
from frugalbo.executors.curve import Curve, Disturbance, Hazards, Simulate
from frugalbo.problem import Problem
from frugalbo.slot import Slot

__all__ = ["Curve", "Disturbance", "Hazards", "SimulatedExecutor"]


@dataclass(slots=True)
class _Running:
    segment: Segment
    began: float
    timeline: deque[Reported | Ended]
    reported: int
    away_s: float = 0.0  # how long the slot will be gone afterwards


class SimulatedExecutor:
    """Runs segments in virtual time.

    Args:
        simulate: From parameters, planned steps and seed to the trial's `Curve`.
        start_up_s: What each segment costs before its first step.
        reload_s: What a resumed segment costs on top.
        hazards: What goes wrong by itself; by default nothing.
        disturbance: What segments that go on report too much of; by default nothing.
        now: Where the virtual clock starts.

    Raises:
        ExecutorError: If two slots have the same name.
    """

    def __init__(
        self,
        problem: Problem,
        slots: Sequence[Slot],
        simulate: Simulate,
        *,
        start_up_s: float = 0.0,
        reload_s: float = 0.0,
        hazards: Hazards | None = None,
        disturbance: Disturbance | None = None,
        now: float = 0.0,
    ) -> None:
        self.problem = problem
        self.slots = tuple(slots)
        self._simulate = simulate
        self._start_up_s = start_up_s
        self._reload_s = reload_s
        self._hazards = hazards or Hazards()
        self._disturbance = disturbance or Disturbance(0.0, 1)
        self._now = now
        self._place = {slot.name: i for i, slot in enumerate(self.slots)}
        self._free = list(range(len(self.slots)))  # places, in order
        self._running: dict[int, _Running] = {}  # by trial
        # What happens next, by time and then by age: a segment's next event, or a slot that comes back.
        self._agenda: list[tuple[float, int, _Running | Slot]] = []
        self._ages = itertools.count()
        if len(self._place) < len(self.slots):
            raise ExecutorError(f"expected slots with different names, got {[slot.name for slot in self.slots]}")

    def free_slots(self) -> Sequence[Slot]:
        """The slots that are there and on which nothing runs, in a fixed order."""
        return [self.slots[place] for place in self._free]

    def now(self) -> float:
        """The virtual clock."""
        return self._now

    def submit(self, segment: Segment) -> None:
        """Start a segment.

        Raises:
            ExecutorError: If its slot is not free.
        """
        place = self._place.get(segment.slot.name, -1)
        at = bisect_left(self._free, place)
        if self._free[at : at + 1] != [place]:
            raise ExecutorError(f"slot {segment.slot.name} is not free")
        del self._free[at]
        timeline, is_taken = self._timeline(segment)
        away_s = self._hazards.away_s if is_taken else 0.0
        run = _Running(segment, self._now, timeline, segment.start, away_s)
        self._running[segment.trial] = run
        heapq.heappush(self._agenda, (timeline[0].at, next(self._ages), run))

    def cancel(self, trial: int, outcome: Outcome = Outcome.STOPPED) -> None:
        """End a running trial now."""
        run = self._running.get(trial)
        if run is not None and run.timeline[0].at > self._now:
            run.timeline = deque([self._end(run.segment, run.began, self._now - run.began, outcome, run.reported)])
            run.away_s = 0.0
            heapq.heappush(self._agenda, (self._now, next(self._ages), run))

    def wait(self, timeout_s: float = math.inf) -> Sequence[Reported | Ended]:
        """The events of the next instant at which there are any, however far off that is.

        None, where all that happens then is that a slot comes back; nor where nothing will happen: the time-out passes.
        """
        if not self._agenda and math.isfinite(timeout_s):
            self._now += timeout_s
        events: list[Reported | Ended] = []
        is_found = False
        while self._agenda and (not is_found or self._agenda[0][0] <= self._now):
            at, age, what = heapq.heappop(self._agenda)
            if isinstance(what, Slot):
                insort(self._free, self._place[what.name])
            elif what.timeline:  # of a cancelled segment an entry is left over
                self._happen(what, at, age, events)
            else:
                continue
            self._now, is_found = at, True
        return events

    def recover(self, started: Started, folder: Path) -> Sequence[Event]:
        """The segment died with its controller, which nothing can tell from: charged for the time since it started."""
        del folder
        slot = self.slots[self._place[started.slot]]
        rates = {"device_seconds": float(slot.devices), "dollars": slot.devices * slot.dollars_per_hour / 3600}
        most = [held / rate for name, rate in rates.items() if rate and (held := getattr(started.held, name))]
        seconds = min([max(0.0, self._now - started.at), *most])
        used = _cost(slot, seconds, is_first=started.segment == 0)
        return [
            Ended(
                started.trial, started.segment, Outcome.INTERRUPTED, used, self._now, message="controller died",
                cause=Cause.INFRASTRUCTURE,
            )
        ]  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._running.clear()
        self._agenda.clear()
        self._free = list(range(len(self.slots)))

    def _happen(self, run: _Running, at: float, age: int, events: list[Reported | Ended]) -> None:
        """Let what is due of a segment happen."""
        while run.timeline and run.timeline[0].at <= at:
            event = run.timeline.popleft()
            events.append(event)
            if isinstance(event, Reported):
                run.reported = event.step
        if run.timeline:
            heapq.heappush(self._agenda, (run.timeline[0].at, age, run))
            return
        slot = run.segment.slot
        del self._running[run.segment.trial]
        if run.away_s:
            heapq.heappush(self._agenda, (at + run.away_s, age, slot))
        else:
            insort(self._free, self._place[slot.name])

    def _timeline(self, segment: Segment) -> tuple[deque[Reported | Ended], bool]:
        """What will happen if nobody interferes, and whether the slot is taken away at its end."""
        reports, ended, needed_s = self._undisturbed(segment)
        failed_s, taken_s = self._hazards.strike(segment)
        cut_s = min(segment.cap_s, failed_s, taken_s)
        if needed_s <= cut_s:
            return deque([*reports, ended]), False
        seen = [event for event in reports if event.at <= self._now + cut_s]
        step = seen[-1].step if seen else segment.start
        if cut_s == taken_s:
            every = self._hazards.checkpoint_every
            saved = max((e.step for e in seen if e.step % every == 0), default=segment.start)
            why = "its slot was taken away"
            last = self._end(segment, self._now, cut_s, Outcome.INTERRUPTED, saved, None, why, Cause.PREEMPTED)
        elif cut_s == failed_s:
            why = "its device failed"
            blamed = Cause.INFRASTRUCTURE
            last = self._end(segment, self._now, cut_s, Outcome.FAILED, step, Failure.KILLED, why, blamed)
        else:
            why = f"it was not done after the {segment.cap_s:.4g} s that it was granted"
            last = self._end(segment, self._now, cut_s, Outcome.FAILED, step, Failure.TIMEOUT, why)
        return deque([*seen, last]), cut_s == taken_s

    def _undisturbed(self, segment: Segment) -> tuple[list[Reported], Ended, float]:
        """The reports of a segment that has all the time it wants, its end, and the seconds until then."""
        curve, speed = self._simulate(segment.params, segment.planned, segment.seed), segment.slot.speed
        first, last = bisect_right(curve.steps, segment.start), bisect_right(curve.steps, segment.until)
        overhead = self._start_up_s + (self._reload_s if segment.start else 0.0)
        skipped = curve.seconds[first - 1] if first else 0.0
        reports: list[Reported] = []
        objective, excess = self.problem.objective, self._disturbance.excess(segment)
        metric, value, step = objective.metric, None, segment.start
        seconds = overhead / speed
        outcome, failure, why = Outcome.PAUSED, None, ""
        for index in range(first, last):
            step, metrics = curve.steps[index], dict(curve.metrics[index])
            if metric in metrics and (more := excess(step)):
                metrics[metric] += objective.to_loss(more)
            seconds = (overhead + curve.seconds[index] - skipped) / speed
            reports.append(Reported(segment.trial, segment.number, step, metrics, self._now + seconds))
            value = metrics.get(metric)
            if value is not None and not math.isfinite(value):
                outcome, failure, why = Outcome.FAILED, Failure.DIVERGED, f"{metric} is {value} at step {step}"
                break
        else:
            if step < segment.until or value is None:
                outcome, failure = Outcome.FAILED, curve.failure or Failure.NO_RESULT
                seconds = max(seconds, (overhead + curve.failure_s - skipped) / speed)
                why = curve.message or f"it ended without a report of {metric} at step {segment.until}"
            elif step == segment.planned:
                outcome = Outcome.COMPLETED
        return reports, self._end(segment, self._now, seconds, outcome, step, failure, why), seconds

    def _end(
        self,
        segment: Segment,
        began: float,
        after: float,
        outcome: Outcome,
        step: int,
        failure: Failure | None = None,
        why: str = "",
        cause: Cause | None = None,
    ) -> Ended:
        used = _cost(segment.slot, after, is_first=segment.number == 0)
        return Ended(segment.trial, segment.number, outcome, used, began + after, step, failure, why, cause=cause)


def _cost(slot: Slot, seconds: float, *, is_first: bool) -> Cost:
    device_seconds = seconds * slot.devices
    return Cost(device_seconds, device_seconds * slot.dollars_per_hour / 3600, 1.0 if is_first else 0.0)
