"""Schedulers that let every trial run on, and stop those that fall behind while they run.

They need no checkpoints: a trial is one segment, planned for and granted the full number of steps, and its
whole cost is held while it runs. What they stop is given up for good, even if it was interrupted before
it could be told. Where a fidelity is `"replanned"`, runs that are planned for the same steps are compared.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left, insort
from collections.abc import Sequence
from weakref import ref

from frugalbo.budget.cost import CostModel
from frugalbo.propose.base import Proposer
from frugalbo.scheduler.base import Stop
from frugalbo.scheduler.fixed import FixedScheduler
from frugalbo.scheduler.rungs import check_eta, levels_of
from frugalbo.study import Status, Study, Trial


class StoppingScheduler(FixedScheduler, ABC):
    """What stopping rules share; a subclass says who falls behind."""

    def __init__(
        self, proposer: Proposer, cost_model: CostModel | None = None, *, trial_cap_s: float | None = None
    ) -> None:
        super().__init__(proposer, cost_model, trial_cap_s=trial_cap_s)
        self._study: ref[Study] | None = None
        self._revision = 0
        self._set_aside = 0  # reports after a resume

    def watch(self, study: Study) -> Sequence[Stop]:
        """Give up what falls behind, by what it has reported."""
        self._follow(study)
        return [Stop(t.number) for t in study.with_status(Status.RUNNING) if self._falls_behind(study, t)]

    def _goes_on(self, study: Study, trial: Trial) -> bool:
        self._follow(study)
        return super()._goes_on(study, trial) and not self._falls_behind(study, trial)

    def _follow(self, study: Study) -> None:
        is_other = self._study is None or self._study() is not study or study.revision < self._revision
        if is_other or study.settling.reports != self._set_aside:
            self._study, self._revision, self._set_aside = ref(study), 0, study.settling.reports
            self._clear()
        for trial in study.changed(self._revision):
            self._note(study, trial)
        self._revision = study.revision

    @abstractmethod
    def _clear(self) -> None:
        """Forget all trials."""

    @abstractmethod
    def _note(self, study: Study, trial: Trial) -> None:
        """Take in what a trial has reported, in any order of trials."""

    @abstractmethod
    def _falls_behind(self, study: Study, trial: Trial) -> bool:
        """Whether a trial is to be given up; a function of the study alone."""


class AshaStoppingScheduler(StoppingScheduler):
    """ASHA in the form that stops: at each rung, whoever is not among the best of those that came there.

    Source: the stopping variant of Syne Tune (Klein et al. 2020, arXiv:2003.10865, section 2.2): when a trial
    arrives at a rung as the n-th, it goes on if n < eta or if it is in the top `floor(n / eta)` of these n.
    Those that arrive at the same instant count for each other, whatever the order in which they are told of. A
    trial arrives with its first report at or after the rung, with the value of its last one at or before
    it; one that has none does not count there.

    Args:
        eta: Of how many trials one goes on.

    Raises:
        SchedulerError: If `eta` is no whole number of at least 2.
    """

    def __init__(
        self, proposer: Proposer, cost_model: CostModel | None = None, *, trial_cap_s: float | None = None, eta: int = 3
    ) -> None:
        super().__init__(proposer, cost_model, trial_cap_s=trial_cap_s)
        self.eta = check_eta(eta)
        self._clear()

    def _clear(self) -> None:
        self._passed: dict[int, int] = {}  # by trial, how many rungs it has come to
        self._arrivals: dict[int, dict[int, tuple[float, float]]] = {}  # rung -> trial -> (when, loss)
        self._losses: dict[int, list[float]] = {}  # rung -> all losses, sorted
        self._latest: dict[int, float] = {}  # rung -> when the last one came
        self._behind: dict[tuple[int, int], bool] = {}

    def _note(self, study: Study, trial: Trial) -> None:
        levels = levels_of(study, self.eta)[:-1]
        for k in range(self._passed.get(trial.number, 0), len(levels)):
            if trial.last_step < levels[k]:
                return
            self._passed[trial.number] = k + 1
            value = study.value_by(trial, levels[k])
            if value is None:
                continue
            loss = study.problem.objective.to_loss(value)
            at = next(trial.times[step] for step in trial.reports if step >= levels[k])
            self._arrivals.setdefault(k, {})[trial.number] = at, loss
            insort(self._losses.setdefault(k, []), loss)
            self._latest[k] = max(self._latest.get(k, at), at)

    def _falls_behind(self, study: Study, trial: Trial) -> bool:
        for k in range(self._passed.get(trial.number, 0)):
            if (k, trial.number) not in self._behind:
                self._behind[k, trial.number] = self._is_behind(k, trial.number)
            if self._behind[k, trial.number]:
                return True
        return False

    def _is_behind(self, k: int, trial: int) -> bool:
        if trial not in self._arrivals.get(k, {}):
            return False
        at, loss = self._arrivals[k][trial]
        if at == self._latest[k]:
            n, better = len(self._losses[k]), bisect_left(self._losses[k], loss)
        else:
            earlier = [other for when, other in self._arrivals[k].values() if when <= at]
            n, better = len(earlier), sum(other < loss for other in earlier)
        return n >= self.eta and better >= n // self.eta


class MedianScheduler(StoppingScheduler):
    """The median stopping rule.

    Source: Golovin et al., Google Vizier, KDD 2017, section 3.2.2: a trial is stopped at step s if its best
    objective so far is strictly worse than the median of the running averages up to s of the completed trials.
    Completed are those that ran to the end, not those that were stopped. No trial is judged before
    the fidelity's `low`.
    """

    def __init__(
        self, proposer: Proposer, cost_model: CostModel | None = None, *, trial_cap_s: float | None = None
    ) -> None:
        super().__init__(proposer, cost_model, trial_cap_s=trial_cap_s)
        self._clear()

    def _clear(self) -> None:
        self._completed: dict[int, list[tuple[int, float]]] = {}  # trial -> (step, running average)
        self._by_step: dict[int, list[float]] = {}  # the averages of all of them up to a step, sorted

    def _note(self, study: Study, trial: Trial) -> None:
        if trial.status != Status.COMPLETED or trial.number in self._completed:
            return
        total, averages = 0.0, list[tuple[int, float]]()
        for n, (step, loss) in enumerate(_losses(study, trial), 1):
            total += loss
            averages.append((step, total / n))
        self._completed[trial.number] = averages
        for step, known in self._by_step.items():
            if (average := _up_to(averages, step)) is not None:
                insort(known, average)

    def _falls_behind(self, study: Study, trial: Trial) -> bool:
        fidelity, step = study.problem.fidelity, trial.last_step
        if fidelity is None or not fidelity.low <= step < trial.planned:
            return False
        if step not in self._by_step:
            found = (_up_to(averages, step) for averages in self._completed.values())
            self._by_step[step] = sorted(average for average in found if average is not None)
        averages, n = self._by_step[step], len(self._by_step[step])
        if not averages:
            return False
        median = (averages[(n - 1) // 2] + averages[n // 2]) / 2
        return min((loss for _, loss in _losses(study, trial)), default=math.inf) > median


def _losses(study: Study, trial: Trial) -> list[tuple[int, float]]:
    """By step, as far as they are finite and settled."""
    objective = study.problem.objective
    curve = trial.curve(objective.metric)
    return [
        (step, objective.to_loss(value)) for step, value in curve
        if math.isfinite(value) and study.is_settled(trial, step)
    ]  # fmt: skip


def _up_to(averages: list[tuple[int, float]], step: int) -> float | None:
    """The running average up to a step; None if there is no report by then."""
    place = bisect_left(averages, (step + 1,))
    return averages[place - 1][1] if place else None
