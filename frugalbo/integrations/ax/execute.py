"""Our devices under Ax's orchestrator: an `IRunner` on any executor of ours, and the `IMetric` that reads its reports.

    problem = problem_from_ax(client, job=train)
    with ExecutorRunner(LocalExecutor(problem), problem) as runner:
        client.configure_runner(runner)
        client.configure_metrics([ReportedMetric("loss"), ReportedMetric("device_seconds")])
        client.run_trials(max_trials=20, parallelism=len(runner.executor.slots))

A segment that cannot be started, raises, dies, diverges or reports nothing fails its own trial with a reason; the run
goes on. What happened is written into the trial (`record`), where the metric, the strategy's node and `from_ax` find
it, before and after a save. With a budget each trial runs under a cap that is held for it, as in `fb.tune`.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pandas as pd
from ax.api.client import Client
from ax.api.protocols import IMetric, IRunner
from ax.api.types import TParameterization
from ax.core.base_trial import BaseTrial
from ax.core.data import Data
from ax.core.metric import MetricFetchE, MetricFetchResult
from ax.core.trial import Trial as AxTrial
from ax.core.trial_status import TrialStatus
from ax.utils.common.result import Err, Ok

from frugalbo.budget.afford import Refusal
from frugalbo.budget.amounts import Budget, Cost
from frugalbo.errors import ExecutorError, StudyError
from frugalbo.events import Ended, Event, Failure, Outcome, Reported, Started, event_from_json
from frugalbo.executors.base import Executor, Segment
from frugalbo.integrations.ax.convert import COST_METRIC, experiment_of, problem_of
from frugalbo.integrations.ax.node import FrugalNode
from frugalbo.integrations.ax.record import KEY, explanation, record, recorded, written
from frugalbo.problem import Job, Problem
from frugalbo.run import trial_folder

_STATUS = {
    Outcome.COMPLETED: TrialStatus.COMPLETED,
    Outcome.STOPPED: TrialStatus.EARLY_STOPPED,
    Outcome.PAUSED: TrialStatus.RUNNING,
    Outcome.INTERRUPTED: TrialStatus.FAILED,  # Ax cannot resume; what it calls failed it may try again
    Outcome.FAILED: TrialStatus.FAILED,
}
_STOPPING_S = 10.0
_NEVER_S = 30 * 86400.0


def problem_from_ax(client: Client, *, job: Job, steps: int = 1) -> Problem:
    """What a client's experiment tunes, with a job for an executor of ours.

    Args:
        client: With an experiment and an objective.
        job: As in `fb.Problem`.
        steps: Of a full trial.
    """
    return replace(problem_of(experiment_of(client), steps)[0], job=job)


class ExecutorRunner(IRunner):
    """Runs an Ax experiment's trials on an executor of ours.

    Args:
        executor: Entered and left with the runner. None in a runner that was loaded: configure a new one.
        problem: The executor's.
        budget: What the experiment may spend; trials run under a cap that fits. None for no caps.
        folder: Where trials keep checkpoints and logs; a temporary one by default.
        seed: Of the jobs.
        trial_cap_s: The most seconds of a trial on its slot.
    """

    def __init__(
        self,
        executor: Executor | None = None,
        problem: Problem | None = None,
        *,
        budget: Budget | str | float | Mapping[str, Any] | None = None,
        folder: str | Path | None = None,
        seed: int = 0,
        trial_cap_s: float | None = None,
    ) -> None:
        super().__init__()
        self._executor = executor
        self._problem = problem
        self._node = None if budget is None else FrugalNode(budget=Budget.of(budget).to_json())
        self._folder = None if folder is None else Path(folder)
        self._stack = ExitStack()
        self._seed = seed
        self._trial_cap_s = trial_cap_s
        self._fresh: dict[int, list[Reported | Ended]] = defaultdict(list)
        self._mine: set[int] = set()

    @property
    def executor(self) -> Executor:
        """Where trials run.

        Raises:
            ExecutorError: If there is none, as in a runner that was loaded with its experiment.
        """
        if self._executor is None:
            raise ExecutorError("this runner was loaded without its executor: configure_runner(ExecutorRunner(...))")
        return self._executor

    def __enter__(self) -> Self:
        if self._folder is None:
            temporary = tempfile.TemporaryDirectory(prefix="frugalbo-ax-", ignore_cleanup_errors=True)
            self._folder = Path(self._stack.enter_context(temporary))
        self._stack.enter_context(self.executor)
        return self

    def __exit__(self, *exc: object) -> None:
        """End all that runs."""
        self._stack.close()

    def _folder_of(self, trial: AxTrial) -> Path:
        if self._folder is None:
            raise ExecutorError("a runner runs trials in a with statement only")
        return trial_folder(self._folder, trial.index)

    def run(self, trial: BaseTrial) -> dict[str, Any]:
        """Start a trial; one that cannot be started has failed, and the reason stands in what is returned.

        Raises:
            StudyError: If it is a batch.
        """
        if not isinstance(trial, AxTrial):
            raise StudyError(f"trial {trial.index} is a batch; this runner runs one configuration a trial")
        events: list[Event]
        try:
            events = self._start(trial)
        except Exception as error:  # noqa: BLE001 - the trial's failure, which must not end the others
            events = self._not_started(trial, f"{type(error).__name__}: {error}")
        return {KEY: {"events": [written(event) for event in events]}}

    def run_trial(self, trial_index: int, parameterization: TParameterization) -> dict[str, Any]:
        """Not how this runner is asked.

        Raises:
            StudyError: Always: a trial is started with its experiment, see `run`.
        """
        raise StudyError(f"trial {trial_index}: this runner is asked by Ax's orchestrator, with the trial")

    def poll_available_capacity(self) -> int:
        """The slots that are free."""
        return len(self.executor.free_slots())

    def poll_trial_status(self, trials: Iterable[BaseTrial]) -> dict[TrialStatus, set[int]]:
        """Take in what happened, and say where each of the trials stands."""
        self._collect(0.0)
        found: dict[TrialStatus, set[int]] = defaultdict(set)
        for trial in trials:
            assert isinstance(trial, AxTrial)
            self._take_in(trial)
            found[self.poll_trial(trial.index, trial.run_metadata)].add(trial.index)
        return found

    def poll_trial(self, trial_index: int, trial_metadata: Mapping[str, Any]) -> TrialStatus:
        """Where a trial stands, by its record."""
        events = _events(trial_metadata)
        last = events[-1] if events else None
        return _STATUS[last.outcome] if isinstance(last, Ended) else TrialStatus.RUNNING

    def poll_exception(self, trial: BaseTrial) -> str:
        """Why a trial failed."""
        events = _events(trial.run_metadata)
        last = events[-1] if events else None
        if not isinstance(last, Ended):
            return ""
        return " ".join(part for part in (str(last.failure or last.outcome), last.message) if part)

    def stop(self, trial: BaseTrial, reason: str | None = None) -> dict[str, Any]:
        """End a running trial, and wait until it has ended."""
        assert isinstance(trial, AxTrial)
        self.executor.cancel(trial.index)
        patience = time.monotonic() + _STOPPING_S
        while time.monotonic() < patience:
            self._take_in(trial)
            if self.poll_trial(trial.index, trial.run_metadata) != TrialStatus.RUNNING:
                break
            self._collect(0.1)
        return {} if reason is None else {"reason": reason}

    def stop_trial(self, trial_index: int, trial_metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Ask a running trial to end."""
        self.executor.cancel(trial_index)
        return {}

    @classmethod
    def serialize_init_args(cls, obj: Any) -> dict[str, Any]:  # noqa: ANN401 - Ax's signature
        """Nothing: processes and devices are not stored."""
        return {}

    def _start(self, trial: AxTrial) -> list[Event]:
        if self._problem is None:
            raise ExecutorError(
                "this runner has no problem: ExecutorRunner(executor, problem_from_ax(client, job=...))"
            )
        assert trial.arm is not None
        steps = self._problem.steps
        _, translation = problem_of(trial.experiment, steps)
        params = translation.from_ax(trial.arm.parameters)
        slots = self.executor.free_slots()
        if not slots:
            raise ExecutorError("no slot is free: give run_trials a parallelism of at most the number of slots")
        slot, cap_s, held = slots[0], self._trial_cap_s or _NEVER_S, Cost(evaluations=1.0)
        if self._node is not None:
            self._node.dollars_per_hour = slot.dollars_per_hour
            found = self._node.affordable(self._node.study_of(trial.experiment), params, sharers=len(slots))
            if isinstance(found, Refusal):
                return self._not_started(trial, found.reason)
            if found is not None:
                cap_s, held = min(cap_s, found.cap_s), found.held
        started = Started(
            trial.index, 0, params, 0, steps, steps, held, slot.name, self.executor.now(), explanation(trial)
        )
        self.executor.submit(
            Segment(
                trial.index, 0, params, self._seed, 0, steps, steps, slot, cap_s, None,
                self._folder_of(trial),
            )
        )  # fmt: skip
        self._mine.add(trial.index)
        return [started]

    def _not_started(self, trial: AxTrial, reason: str) -> list[Event]:
        steps = 1 if self._problem is None else self._problem.steps
        now = time.time()
        params: dict[str, Any] = dict(trial.arms[0].parameters)
        return [
            Started(trial.index, 0, params, 0, steps, steps, Cost(), "none", now, explanation(trial)),
            Ended(trial.index, 0, Outcome.FAILED, Cost(), now, 0, Failure.ERROR, reason),
        ]

    def _collect(self, timeout_s: float) -> None:
        for event in self.executor.wait(timeout_s):
            self._fresh[event.trial].append(event)

    def _take_in(self, trial: AxTrial) -> None:
        """Write down what became of a trial; of one whose process has died with another controller, what is left."""
        events: list[Event] = list(self._fresh.pop(trial.index, []))
        own = recorded(trial)
        if trial.index not in self._mine and own and not isinstance(own[-1], Ended) and isinstance(own[0], Started):
            last = max((e.step for e in own if isinstance(e, Reported)), default=0)
            left = self.executor.recover(own[0], self._folder_of(trial))
            events += [e for e in left if not isinstance(e, Reported) or e.step > last]
            self._mine.add(trial.index)
        if events:
            record(trial, *events)


class ReportedMetric(IMetric):
    """A metric that the job reports, at every step that it did; or `"device_seconds"`, what the trial was charged."""

    def fetch(self, trial_index: int, trial_metadata: Mapping[str, Any]) -> tuple[int, float | tuple[float, float]]:
        """The last step at which it was reported, and the value.

        Raises:
            StudyError: If it was not reported.
        """
        curve = self._curve(trial_metadata)
        if not curve:
            raise StudyError(f"trial {trial_index} has not reported {self.name!r}")
        return curve[-1]

    def fetch_trial_data(self, trial: BaseTrial, **kwargs: Any) -> MetricFetchResult:  # noqa: ANN401 - Ax's signature
        """The whole curve; of a running trial that has not reported yet, nothing, which is no error."""
        curve = self._curve(trial.run_metadata)
        if not curve:
            if trial.status.is_running:
                return Ok(Data())
            error = StudyError(f"trial {trial.index} ended without {self.name!r}")
            return Err(MetricFetchE(message=str(error), exception=error))
        common = {"trial_index": trial.index, "arm_name": trial.arms[0].name, "sem": float("nan")}
        named = common | {"metric_name": self.name, "metric_signature": self.signature}
        return Ok(Data(df=pd.DataFrame([named | {"step": float(step), "mean": value} for step, value in curve])))

    def _curve(self, trial_metadata: Mapping[str, Any]) -> list[tuple[int, float]]:
        events = _events(trial_metadata)
        reports = {event.step: event.metrics for event in events if isinstance(event, Reported)}
        if self.name == COST_METRIC and not any(self.name in metrics for metrics in reports.values()):
            ends = [event for event in events if isinstance(event, Ended)]
            return [(max(reports, default=1), sum(e.used.device_seconds for e in ends))] if ends else []
        return [(step, metrics[self.name]) for step, metrics in sorted(reports.items()) if self.name in metrics]


def _events(trial_metadata: Mapping[str, Any]) -> list[Event]:
    return [event_from_json(one) for one in trial_metadata.get(KEY, {}).get("events", [])]
