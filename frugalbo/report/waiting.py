"""Who was set aside, at which step, how long and why; pure functions over a `Study`.

A trial is *set aside* where a segment of it ends short of the full number of steps and has not failed: paused at a
rung, stopped for good, interrupted, or done with a run that was planned shorter. What a scheduler thought is
not in the journal, but what it could see is: where the trial stood among all that had come to this step by then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from frugalbo.events import Ended, Outcome, Started
from frugalbo.study import Status, Study, Trial

_MOST_RUNGS: Final = 12  # with more of them trials are set aside anywhere, and no step is special
_PROMOTED_FROM: Final = "promoted_from"  # in the `why` of a longer run of the same configuration, from scratch
_GRANTED: Final = (Outcome.PAUSED, Outcome.COMPLETED)


@dataclass(frozen=True, slots=True)
class Standing:
    """A trial's place among all that had come to its step by then; 1 is the best, and equals share a place."""

    place: int
    of: int


@dataclass(frozen=True, slots=True)
class Wait:
    """A segment after which a trial was set aside, and what came of it.

    Args:
        step: The last that it was granted, or, where it was stopped or interrupted, that it reported.
        outcome: How it ended; `COMPLETED` where the trial was planned for fewer steps than a full one.
        from_s: When it ended.
        until_s: When the trial went on; None if it has not.
        went_on_as: The trial that went on: itself, or a longer run of the same configuration.
        went_on_to: The step up to which that was granted.
        standing: At `from_s`; None where it had no value, or was interrupted and not judged.
        then: As `standing`, at `until_s`, or after all that is known.
        reason: What the journal says of the end, and of going on.
    """

    trial: int
    segment: int
    step: int
    outcome: Outcome
    from_s: float
    until_s: float | None
    went_on_as: int | None
    went_on_to: int | None
    standing: Standing | None
    then: Standing | None
    reason: str

    @property
    def waited_s(self) -> float | None:
        """How long it waited; None if it has not gone on."""
        return None if self.until_s is None else self.until_s - self.from_s


@dataclass(frozen=True, slots=True)
class Spared:
    """What was not spent because trials did not run to their end.

    Args:
        trials: That reported something, were paused or stopped, and have not gone on.
        steps: What they lack of the full number of steps.
        device_seconds: What these would have cost at each trial's own pace, its start-ups included; an estimate.
    """

    trials: int
    steps: int
    device_seconds: float


def waits(study: Study) -> list[Wait]:
    """All of them, in the order in which segments ended; those of one instant by trial."""
    promoted, arrivals = _promoted(study), _Arrivals(study)
    found = []
    for trial in study.trials.values():
        for i, end in enumerate(trial.ends):
            if end.outcome == Outcome.FAILED or (end.outcome == Outcome.COMPLETED and _is_full(study, trial)):
                continue
            went_on = trial.starts[i + 1] if i + 1 < len(trial.starts) else None
            if end.outcome == Outcome.COMPLETED and trial.number in promoted:
                went_on = promoted[trial.number].starts[0]
            found.append(_wait(trial, i, went_on, arrivals))
    return sorted(found, key=lambda wait: (wait.from_s, wait.trial, wait.segment))


def rungs(study: Study) -> list[int]:
    """The steps short of the full at which trials were paused, stopped or planned to end; none if they are many."""
    found = {
        _step(trial, i)
        for trial in study.trials.values()
        for i, end in enumerate(trial.ends)
        if end.outcome in (*_GRANTED, Outcome.STOPPED)
    } - {0, study.problem.steps}
    return sorted(found) if len(found) <= _MOST_RUNGS else []


def spared(study: Study) -> Spared:
    """What setting trials aside has spared so far."""
    promoted, steps, seconds, n = _promoted(study), 0, [], 0
    for trial in study.with_status(Status.PAUSED, Status.STOPPED, Status.COMPLETED):
        done = trial.last_step
        if 0 < done < study.problem.steps and trial.number not in promoted:
            left = study.problem.steps - done
            n, steps = n + 1, steps + left
            seconds.append(trial.used("device_seconds") / done * left)
    return Spared(n, steps, math.fsum(seconds))


def _promoted(study: Study) -> dict[int, Trial]:
    """By trial, the longer run of the same configuration."""
    return {t.why[_PROMOTED_FROM]: t for t in study.trials.values() if _PROMOTED_FROM in t.why}


def _is_full(study: Study, trial: Trial) -> bool:
    return trial.planned >= study.problem.steps


def _step(trial: Trial, segment: int) -> int:
    return trial.starts[segment].until if trial.ends[segment].outcome in _GRANTED else trial.reached[segment]


def _wait(trial: Trial, segment: int, went_on: Started | None, arrivals: _Arrivals) -> Wait:
    end, step = trial.ends[segment], _step(trial, segment)
    judged = end.outcome != Outcome.INTERRUPTED
    return Wait(
        trial=trial.number,
        segment=segment,
        step=step,
        outcome=end.outcome,
        from_s=end.at,
        until_s=went_on.at if went_on else None,
        went_on_as=went_on.trial if went_on else None,
        went_on_to=went_on.until if went_on else None,
        standing=arrivals.standing(trial, step, end.at) if judged else None,
        then=arrivals.standing(trial, step, went_on.at if went_on else math.inf) if judged else None,
        reason=_reason(end, went_on.why if went_on else {}),
    )


def _reason(end: Ended, why: Mapping[str, Any]) -> str:
    because = f"went on because {why['because']}" if why.get("because") else ""
    return "; ".join(part for part in (end.message, because) if part)


class _Arrivals:
    """When trials came to a step, and with what loss; gathered for each step once."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._by_step: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # times and losses, each of shape (n,)

    def standing(self, trial: Trial, step: int, at: float) -> Standing | None:
        """The place of a trial at a step among those that had come there by a moment."""
        value = self._study.value_by(trial, step)
        if value is None:
            return None
        if step not in self._by_step:
            self._by_step[step] = self._gather(step)
        times, losses = self._by_step[step]
        known = losses[times <= at]
        return Standing(1 + int((known < self._study.problem.objective.to_loss(value)).sum()), len(known))

    def _gather(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        to_loss, found = self._study.problem.objective.to_loss, []
        for trial in self._study.trials.values():
            value = self._study.value_by(trial, step)
            if value is not None:
                found.append((_came_at(trial, step), to_loss(value)))
        times, losses = np.array(found).T
        return times, losses


def _came_at(trial: Trial, step: int) -> float:
    """When a trial came to a step: its report of it or a later one, or the end of the segment that was granted it."""
    reported = next((trial.times[s] for s in trial.reports if s >= step), math.inf)
    granted = (
        e.at for s, e in zip(trial.starts, trial.ends, strict=False) if s.until >= step and e.outcome in _GRANTED
    )
    return min(reported, next(granted, math.inf))
