"""What happens to trials, as it is stored: a segment was granted, a job reported, a segment ended, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from frugalbo.budget.amounts import Cost
from frugalbo.errors import StudyError
from frugalbo.space import Params


class Outcome(StrEnum):
    """How a segment ended."""

    COMPLETED = "completed"  # the planned steps are done
    PAUSED = "paused"  # the granted steps are done, more are planned
    STOPPED = "stopped"  # the scheduler gave it up
    INTERRUPTED = "interrupted"  # through no fault of the job; it may go on from its checkpoint
    FAILED = "failed"  # through the job's fault; it is not tried again


class Failure(StrEnum):
    """Why a segment failed."""

    ERROR = "error"  # it raised, or exited with a status other than 0
    KILLED = "killed"  # a signal that was not ours
    DIVERGED = "diverged"  # the objective was not finite
    NO_RESULT = "no result"  # it ended without reporting the objective
    TIMEOUT = "timeout"  # it reached its cap on time
    MEMORY = "out of memory"  # it reached its cap on memory


class Cause(StrEnum):
    """What is to blame for an attempt that did not bring what it was granted for.

    A `Failure` is what was seen of the job; this tells whether another attempt deserves its price (`frugalbo.retry`).
    """

    MEMORY = "out of memory"
    DIVERGED = "diverged"
    PREEMPTED = "pre-empted"  # its device was taken away, as was agreed
    INFRASTRUCTURE = "infrastructure"  # a node, a supervisor or the controller died under it
    TIMEOUT = "timeout"
    BUG = "bug in the job"
    USER = "killed by user"  # also by who ends the run


_BLAME = {
    Failure.ERROR: Cause.BUG,
    Failure.KILLED: Cause.USER,
    Failure.DIVERGED: Cause.DIVERGED,
    Failure.NO_RESULT: Cause.BUG,
    Failure.TIMEOUT: Cause.TIMEOUT,
    Failure.MEMORY: Cause.MEMORY,
}


@dataclass(frozen=True, slots=True)
class Started:
    """A segment was granted; `held` is set aside for it.

    Args:
        why: The proposer's explanation.
        pool: The pool of its slot, which is charged for it too; `""` for none.
        speed: Of its slot: seconds there times this are seconds on a device of speed 1.
    """

    trial: int
    segment: int
    params: Params
    start: int
    until: int
    planned: int
    held: Cost
    slot: str
    at: float
    why: Mapping[str, Any] = field(default_factory=dict)
    pool: str = ""
    speed: float = 1.0


@dataclass(frozen=True, slots=True)
class Reported:
    """The job reported metrics after `step` steps."""

    trial: int
    segment: int
    step: int
    metrics: Mapping[str, float]
    at: float


@dataclass(frozen=True, slots=True)
class Ended:
    """A segment is over and everything it started is gone.

    Args:
        used: What it is charged.
        checkpoint: The step from which the trial could go on; 0 if only from scratch.
        message: The reason in a sentence, for people.
        log_tail: The end of what the job printed.
        cause: What is to blame; where it is not said, as in older journals, what the failure suggests.
    """

    trial: int
    segment: int
    outcome: Outcome
    used: Cost
    at: float
    checkpoint: int = 0
    failure: Failure | None = None
    message: str = ""
    log_tail: str = ""
    cause: Cause | None = None

    def __post_init__(self) -> None:
        if self.cause is None and self.failure is not None:
            object.__setattr__(self, "cause", _BLAME[self.failure])


Event = Started | Reported | Ended
_EVENTS: dict[str, type[Event]] = {"started": Started, "reported": Reported, "ended": Ended}
_WHOLE = ("trial", "segment", "start", "until", "planned", "step", "checkpoint")


def event_to_json(event: Event) -> dict[str, Any]:
    """An event as strict JSON types; numbers that are not finite become texts.

    Raises:
        StudyError: If it holds something that JSON has no place for.
    """
    record = {f.name: getattr(event, f.name) for f in fields(event)}
    for name in ("held", "used"):
        if name in record:
            record[name] = record[name].to_json()
    return {"kind": type(event).__name__.lower(), **_plain(record)}


def _plain(value: Any) -> Any:  # noqa: ANN401 - anything in, JSON out
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):  # numpy's and torch's numbers and arrays
        return _plain(value.tolist())
    raise StudyError(f"an event with {value!r} in it cannot be stored")


def event_from_json(record: Mapping[str, Any]) -> Event:
    """The event that `event_to_json` wrote.

    Raises:
        StudyError: If the record is not such an event.
    """
    try:
        found = dict(record)
        cls = _EVENTS[found.pop("kind")]
        found["at"] = float(found["at"])
        if any(not isinstance(found[name], int) for name in _WHOLE if name in found):
            raise TypeError("expected whole numbers")
        for name in ("held", "used"):
            if name in found:
                found[name] = Cost(**found[name])
        if cls is Started and not isinstance(found["params"], dict):
            raise TypeError("expected params")
        if cls is Reported:
            found["metrics"] = {k: float(v) for k, v in found["metrics"].items()}
        if cls is Ended:
            found["outcome"] = Outcome(found["outcome"])
            found["failure"] = Failure(found["failure"]) if found["failure"] else None
            found["cause"] = Cause(found["cause"]) if found.get("cause") else None  # older journals have none
        return cls(**found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StudyError(f"expected an event as written by event_to_json: {error!r} in {record!r}") from error
