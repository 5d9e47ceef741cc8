"""How many reports after a resume are set aside, because the job has not settled yet.

A job that goes on from a checkpoint may need a while until its metric tells of it again: statistics of normalisation,
averages of the optimizer, a learning rate that warms up. Until then its reports are no ground for comparing it with
others. A `Fidelity` may say how many of them; else the journal tells.

The k-th report after a resume of a trial counts as disturbed there if its loss is above both of the last two from
before (or above what the same step had shown, if it is repeated), and above the last one of its segment: a jump that
decays. Where resuming changes nothing, and the curve does not turn just there, that happens less than half of the
times: of a curve that falls the first is unlikely, of one that rises the second. So a gambler who bets two thirds of
what he has on "disturbed", for each k apart and each resume, does not get rich,

    wealth_k <- wealth_k (1 + 2/3) where disturbed, wealth_k (1 - 2/3) where not;    P(wealth_k is ever 100) <= 1/100

which is Ville's inequality, and holds at whatever moment one looks. Once he is, the k-th is taken for disturbed for
good, if all before it are: ten resumes in a row are enough. Both of the last two reports before, and not the last
alone, as who is sent on was chosen for how low that was.

Source: Malik et al., Weighted Tallying Bandits, arXiv:2305.02955: discard what comes before the memory of an arm is
filled. Deviations: theirs is stated and not learned; and a disturbance that is smaller than the progress from report to
report is not found out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from frugalbo.problem import MOST_SETTLE, Problem

_BET = 2 / 3
_RICH = 100.0


class Settling:
    """What the resumes of one study have shown so far.

    Attributes:
        reports: How many reports after a resume are set aside now; never fewer than before.
        resumes: How many segments have gone on so far that reported twice or more.
        is_stated: Whether the problem says it, and nothing is learned.
    """

    def __init__(self, problem: Problem) -> None:
        stated = None if problem.fidelity is None else problem.fidelity.settle
        self._objective = problem.objective
        self.is_stated = stated is not None
        self.reports = stated or 0
        self.resumes = 0
        self._wealth = [1.0] * MOST_SETTLE
        self._going: dict[int, _Segment] = {}  # by trial, segments that go on

    def begin(self, trial: int, reports: Mapping[int, Mapping[str, float]]) -> None:
        """A trial goes on after these reports."""
        latest = list(reports.items())[-MOST_SETTLE:]
        if before := {step: loss for step, metrics in latest if (loss := self._loss(metrics)) is not None}:
            self._going[trial] = _Segment(before)

    def note(self, trial: int, step: int, metrics: Mapping[str, float]) -> int | None:
        """The place of a report among those after the resume, from 1; None where there was none, or long ago."""
        if (segment := self._going.get(trial)) is None or (loss := self._loss(metrics)) is None:
            return None
        segment.last = loss
        segment.n += 1
        if segment.n > MOST_SETTLE:
            return None
        segment.jumps.append((loss, segment.bar(step)))
        return segment.n

    def end(self, trial: int) -> None:
        """Learn from a segment that has ended."""
        segment = self._going.pop(trial, None)
        if segment is None or segment.n < 2:
            return
        self.resumes += 1
        if self.is_stated:
            return
        for k, (loss, before) in enumerate(segment.jumps[: segment.n - 1]):
            if math.isfinite(before) and self._wealth[k] < _RICH:
                self._wealth[k] *= 1 + _BET if loss > before and loss > segment.last else 1 - _BET
        while self.reports < MOST_SETTLE and self._wealth[self.reports] >= _RICH:
            self.reports += 1

    def _loss(self, metrics: Mapping[str, float]) -> float | None:
        value = metrics.get(self._objective.metric)
        return self._objective.to_loss(value) if value is not None and math.isfinite(value) else None


class _Segment:
    """A segment that goes on: losses by step from before it, and (loss, what it is held against) since."""

    def __init__(self, before: dict[int, float]) -> None:
        self.before = before
        self.jumps: list[tuple[float, float]] = []
        self.n = 0
        self.last = math.nan

    def bar(self, step: int) -> float:
        """The loss above which the report of a step may be disturbed; infinite where that cannot be told."""
        if step <= next(reversed(self.before)):
            return self.before.get(step, math.inf)
        last_two = list(self.before.values())[-2:]
        return max(last_two) if len(last_two) == 2 else math.inf
