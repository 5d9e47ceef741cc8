"""What is known of an Ax trial: our own events where we wrote them, else what Ax has.

Ax has no place for what a trial holds or has cost, nor for segments, failures and explanations; and its stores
keep ten digits after the point. So our events of a trial are written, exactly, into its `run_metadata` under
`"frugalbo"`, which both of Ax's stores keep. A trial that another hand has told Ax about is read from Ax:

| Ax's status | here |
|---|---|
| CANDIDATE, STAGED, RUNNING | running |
| COMPLETED | completed; failed where the objective is not a finite number |
| EARLY_STOPPED | stopped; it counts if it had reached its last step |
| FAILED, ABANDONED | failed |
| STALE | stopped, for nothing |

A completed trial's last values are those of its last step, whatever step they were told with. What a trial costs is
its cost metric; where that was not told, what it held.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from io import StringIO
from typing import Any

import pandas as pd
from ax.core.data import Data
from ax.core.trial import Trial
from ax.core.trial_status import TrialStatus

from frugalbo.budget.amounts import Cost
from frugalbo.errors import StudyError
from frugalbo.events import Ended, Event, Failure, Outcome, Reported, Started, event_from_json, event_to_json
from frugalbo.space import Params

KEY = "frugalbo"
SLOT = "ax"

# The outcome of our last segment to the statuses that Ax may give the trial.
_AGREE = {
    Outcome.COMPLETED: (TrialStatus.COMPLETED, TrialStatus.RUNNING),
    Outcome.STOPPED: (TrialStatus.EARLY_STOPPED, TrialStatus.ABANDONED, TrialStatus.RUNNING),
    Outcome.FAILED: (TrialStatus.FAILED, TrialStatus.ABANDONED, TrialStatus.RUNNING),
    Outcome.PAUSED: (TrialStatus.STAGED, TrialStatus.RUNNING),
    Outcome.INTERRUPTED: (TrialStatus.STAGED, TrialStatus.RUNNING),
}
_OPEN = (TrialStatus.CANDIDATE, TrialStatus.STAGED, TrialStatus.RUNNING)
_FAILED = (TrialStatus.FAILED, TrialStatus.ABANDONED)

Rows = Mapping[float | None, Mapping[str, float]]  # progression (None for none) -> metric -> value


@dataclass(frozen=True, slots=True)
class Terms:
    """What Ax does not say, and reading a trial needs.

    Args:
        steps: Of a full trial.
        metric: The objective's.
        cost_metric: The tracking metric of device-seconds.
        dollars_per_hour: The price of a device.
    """

    steps: int
    metric: str
    cost_metric: str
    dollars_per_hour: float = 0.0

    def cost(self, device_seconds: float) -> Cost:
        """What one trial that took so long is charged."""
        return Cost(
            device_seconds=device_seconds, dollars=device_seconds * self.dollars_per_hour / 3600, evaluations=1.0
        )


def record(trial: Trial, *events: Event) -> None:
    """Write events of a trial down in it; nothing is saved yet."""
    known = trial.run_metadata.get(KEY, {}).get("events", [])
    trial.update_run_metadata({KEY: {"events": [*known, *map(written, events)]}})


def written(event: Event) -> dict[str, Any]:
    """An event in the plainest of types; Ax's JSON store knows no others, not even a text with a class of its own."""
    return json.loads(json.dumps(event_to_json(event)))


def recorded(trial: Trial) -> list[Event]:
    """What we wrote of a trial.

    Raises:
        StudyError: If it cannot be read.
    """
    try:
        return [event_from_json(one) for one in trial.run_metadata.get(KEY, {}).get("events", [])]
    except (AttributeError, TypeError) as error:
        found = trial.run_metadata[KEY]
        raise StudyError(f"trial {trial.index}: expected events of ours in its run_metadata, got {found!r}") from error


def events_of(trial: Trial, params: Params, rows: Rows, terms: Terms) -> list[Event]:
    """The events of one trial, as numbered in Ax."""
    own = recorded(trial)
    if own and isinstance(own[0], Started) and own[0].params != params:
        own[0] = replace(own[0], params=params)  # of one that could not be started, in Ax's words
    last = own[-1] if own else None
    if isinstance(last, Ended) and trial.status in _AGREE[last.outcome]:
        return own
    if own and trial.status in _OPEN:
        return own
    return _read(trial, params, rows, terms, own)


def rows_of(data: Data) -> dict[int, dict[float | None, dict[str, float]]]:
    """All that Ax was told, by trial and progression; rounded as Ax's stores round it.

    Without that an experiment would not suggest the same after it was saved and loaded.
    """
    found: dict[int, dict[float | None, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    frame = data.full_df
    if frame.empty:
        return found
    steps = frame["step"] if "step" in frame else [None] * len(frame)
    means = pd.read_json(StringIO(frame["mean"].reset_index(drop=True).to_json()), typ="series").reindex(
        range(len(frame))
    )
    for trial, metric, step, mean in zip(frame["trial_index"], frame["metric_name"], steps, means, strict=True):
        key = None if step is None or math.isnan(step) else float(step)
        found[int(trial)][key][str(metric)] = float(f"{mean:.14g}")  # what reading adds to the last digits goes
    return found


def reports(rows: Rows, steps: int, *, is_completed: bool) -> dict[int, dict[str, float]]:
    """Metrics by step of a trial; what was told without a progression is of the last step."""
    found: dict[int, dict[str, float]] = {}
    for step in sorted(key for key in rows if key is not None and key >= 1):
        found.setdefault(min(steps, int(step)), {}).update(rows[step])
    final = dict(rows.get(None, {}))
    if is_completed:
        known: dict[str, float] = {}
        for metrics in found.values():
            known |= metrics
        final = known | final
    if final:
        found[steps] = found.get(steps, {}) | final
    return {step: {k: v for k, v in metrics.items() if math.isfinite(v)} for step, metrics in found.items()}


def _read(trial: Trial, params: Params, rows: Rows, terms: Terms, own: list[Event]) -> list[Event]:
    first = own[0] if own and isinstance(own[0], Started) else None
    began = (trial.time_run_started or trial.time_created).timestamp()
    status, steps = trial.status, terms.steps
    # A candidate has not been granted anything yet: whoever starts it asks what it may take.
    granted = Cost() if status == TrialStatus.CANDIDATE else Cost(evaluations=1.0)
    events: list[Event] = [
        first or Started(trial.index, 0, params, 0, steps, steps, granted, SLOT, began, explanation(trial))
    ]
    known = reports(rows, steps, is_completed=status == TrialStatus.COMPLETED)
    events += [Reported(trial.index, 0, step, metrics, began) for step, metrics in known.items() if metrics]
    if status in _OPEN:
        return events
    ended = max(began, (trial.time_completed or trial.time_created).timestamp())
    outcome, failure, message = Outcome.COMPLETED, None, ""
    if status == TrialStatus.STALE:
        return [*events, Ended(trial.index, 0, Outcome.STOPPED, Cost(), ended)]
    if status in _FAILED:
        outcome, failure, message = Outcome.FAILED, Failure.ERROR, trial.status_reason or status.name.lower()
    elif status == TrialStatus.EARLY_STOPPED:
        outcome = Outcome.STOPPED
    elif terms.metric not in known.get(steps, {}):
        outcome, failure = Outcome.FAILED, Failure.NO_RESULT
        message = f"completed without a finite value of {terms.metric}"
    told = [metrics[terms.cost_metric] for metrics in known.values() if terms.cost_metric in metrics]
    held = first.held if first else Cost(evaluations=1.0)
    used = terms.cost(told[-1]) if told and told[-1] >= 0 else held
    return [*events, Ended(trial.index, 0, outcome, used, ended, 0, failure, message)]


def explanation(trial: Trial) -> dict[str, Any]:
    """Why a trial's configuration was chosen, as far as its generator run says."""
    run = trial.generator_run
    if run is None:
        return {"method": "ax"}
    ours = (run.gen_metadata or {}).get(KEY)
    return dict(ours) if isinstance(ours, Mapping) else {"method": f"ax:{run._generation_node_name or 'own'}"}
