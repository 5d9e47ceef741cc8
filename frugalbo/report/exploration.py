"""Whether a policy explores: how often it goes where it knows the best to be, and whether it gives that up for ever.

Sources: Chen et al., When Greedy Wins, arXiv:2509.24923, for the greedy frequency, the suffix failure (from some
moment on, the best arm is never taken again), the least share and the frequency of the best arm; Rentschler and
Roberts, arXiv:2508.01287, who measure the exploration of greedy learners in the same way. A policy that was learned
is often greedier than those that were derived, and gains by it on average while it gives up good arms for ever, which
its average does not show.

`of_pulls` is for arms that can be taken again. `of_points` is for configurations, which are not: a choice takes the
*region* of the earlier result that it is nearest to, and ties count in parts (deviation: the sources have arms alone).
Both take any record, whatever policy made it; `exploration` takes a study. Beside each number of these is what chance
alone would give.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from frugalbo.study import Study, Trial

Array = NDArray[np.float64]

FEWEST: Final = 5  # choices; of fewer nothing can be said


@dataclass(frozen=True, slots=True)
class Pulls:
    """What runs of a bandit were like; means over runs.

    Args:
        greedy: The share of choices that took the arm with the best mean so far, from the second on.
        suffix_failure: The share of runs that never took the best arm in their second half.
        least_share: The arms times the share of the one taken least: 1 if all are taken alike.
        best_share: The share of choices that took the best arm.
        runs: How many there were.
    """

    greedy: float
    suffix_failure: float
    least_share: float
    best_share: float
    runs: int


@dataclass(frozen=True, slots=True)
class Exploration:
    """What the choices of a run were like.

    Args:
        choices: Those that are judged.
        greedy: How many took the region of the best known then; ties count in parts.
        greedy_by_chance: How many would have, had each region been as likely as any other.
        gave_up: Whether in the second half no choice took the region of the best of the first half.
        gave_up_by_chance: How likely that would have been.
        is_learned: Whether a network that was trained on other tasks had a say.
        reason: Why nothing can be said; empty if something can.
    """

    choices: int
    greedy: float = 0.0
    greedy_by_chance: float = 0.0
    gave_up: bool = False
    gave_up_by_chance: float = 0.0
    is_learned: bool = False
    reason: str = ""

    @property
    def greedy_frequency(self) -> float:
        """The share of greedy choices."""
        return self.greedy / self.choices if self.choices else math.nan

    def in_words(self) -> str:
        """Two sentences."""
        if self.reason:
            return self.reason
        share, chance = (100 * n / self.choices for n in (self.greedy, self.greedy_by_chance))
        came_back = "never came back" if self.gave_up else "came back"
        failure = "a suffix failure, by chance" if self.gave_up else "not to, by chance:"
        return (
            f"Of {self.choices} configurations that a model chose, {share:.0f} % lay nearest to the best known then "
            f"(by chance {chance:.0f} %). The second half {came_back} to the region of the best of the first "
            f"({failure} {100 * self.gave_up_by_chance:.0f} %)."
        )

    def to_json(self) -> dict[str, Any]:
        """Strict JSON types."""
        if self.reason:
            return {"choices": self.choices, "reason": self.reason}
        return {
            "choices": self.choices,
            "greedy_frequency": self.greedy_frequency,
            "greedy_by_chance": self.greedy_by_chance / self.choices,
            "gave_up": self.gave_up,
            "gave_up_by_chance": self.gave_up_by_chance,
            "is_learned": self.is_learned,
        }


def of_pulls(arms: ArrayLike, rewards: ArrayLike, n_arms: int, best: ArrayLike) -> Pulls:
    """The audit of some runs of a bandit.

    Args:
        arms: Which was taken, R x T with T of at least 2.
        rewards: What it brought, R x T; more is better.
        n_arms: How many there are.
        best: The arm that is truly best in each run, R.
    """
    taken, brought, truly = np.asarray(arms), np.asarray(rewards, dtype=np.float64), np.asarray(best)[:, None]
    runs, horizon = taken.shape
    sums, counts, greedy, every = np.zeros((runs, n_arms)), np.zeros((runs, n_arms)), [], np.arange(runs)
    for t in range(horizon):
        arm = taken[:, t]
        if t:
            means = np.where(counts > 0, sums / np.maximum(counts, 1), -np.inf)
            greedy.append(means[every, arm] >= means.max(1))
        sums[every, arm] += brought[:, t]
        counts[every, arm] += 1
    is_best = taken == truly
    gave_up = ~is_best[:, horizon // 2 :].any(1)
    least = n_arms * counts.min(1) / horizon
    means = (float(part.mean()) for part in (np.array(greedy), gave_up, least, is_best))
    return Pulls(*means, runs=runs)


def of_points(
    U: ArrayLike,
    losses: ArrayLike,
    judged: Sequence[int],
    known: Sequence[NDArray[np.bool_]] | None = None,
    categorical: Sequence[int] = (),
) -> Exploration:
    """The audit of one run.

    Args:
        U: Unit points in the order in which they were chosen, n x d.
        losses: Their results, undefined where there is none; less is better, n.
        judged: Which choices to judge, ascending.
        known: For each of these, which results were known then, each of shape n; by default all earlier ones.
        categorical: The dimensions in which only equality counts.
    """
    points, y = np.asarray(U, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    if known is None:
        known = [np.arange(len(y)) < i for i in judged]
    told = [(i, there & np.isfinite(y)) for i, there in zip(judged, known, strict=True)]
    told = [(i, there) for i, there in told if there.any()]
    if len(told) < FEWEST:
        return Exploration(len(told), reason=f"Too few to say: {len(told)} choices by a model, {FEWEST} are needed.")
    regions = _Regions(points, y, categorical)
    parts = [regions.greedy(i, there) for i, there in told]
    half = len(told) // 2
    later, there = told[half:], told[half][1]
    best, of = regions.best(there)
    gave_up = not any(np.isin(regions.nearest(i, there), best).any() for i, _ in later)
    greedy, chance = (math.fsum(column) for column in zip(*parts, strict=True))
    return Exploration(len(told), greedy, chance, gave_up, float((1 - len(best) / of) ** len(later)))


def exploration(study: Study) -> Exploration:
    """The audit of a study: of the configurations that a model chose, by the results that were known by then."""
    space, trials = study.problem.space, [t for t in study.trials.values() if t.starts]
    trials.sort(key=lambda t: (t.starts[0].at, t.number))
    chosen = [i for i, trial in enumerate(trials) if "predicted" in trial.why]
    if not chosen:
        return Exploration(0, reason="No model took part in this run.")
    values = [study.value(trial) for trial in trials]
    losses = [math.nan if value is None else study.problem.objective.to_loss(value) for value in values]
    ends = np.array([trial.ends[-1].at if trial.ends else math.inf for trial in trials])
    known = [(ends <= trials[i].starts[0].at) & (np.arange(len(trials)) != i) for i in chosen]
    U = np.stack([space.encode(trial.params) for trial in trials])
    found = of_points(U, losses, chosen, known, space.categorical_dims)
    if found.reason:
        return found
    return Exploration(
        found.choices, found.greedy, found.greedy_by_chance, found.gave_up, found.gave_up_by_chance,
        is_learned=any(_is_learned(trials[i]) for i in chosen),
    )  # fmt: skip


def _is_learned(trial: Trial) -> bool:
    return bool(trial.why.get("network") or trial.why.get("past"))


class _Regions:
    """The regions of results: a place, however many results it has, and all that is nearest to it."""

    def __init__(self, points: Array, y: Array, categorical: Sequence[int]) -> None:
        self.points, self.y = points, y
        self.free = np.setdiff1d(np.arange(points.shape[1]), categorical)
        self.place = np.unique(points, axis=0, return_inverse=True)[1].ravel()

    def greedy(self, i: int, there: NDArray[np.bool_]) -> tuple[float, float]:
        """How much of choice `i` is greedy, given which results are known, and how much would be by chance."""
        best, of = self.best(there)
        return float(np.isin(self.nearest(i, there), best).mean()), len(best) / of

    def best(self, there: NDArray[np.bool_]) -> tuple[NDArray[np.intp], int]:
        """The places of the best results, and how many places there are."""
        is_best = there & (self.y == self.y[there].min())
        return np.unique(self.place[is_best]), len(np.unique(self.place[there]))

    def nearest(self, i: int, there: NDArray[np.bool_]) -> NDArray[np.intp]:
        """The places nearest to point `i`."""
        apart = (self.points != self.points[i]).astype(np.float64)
        apart[:, self.free] = self.points[:, self.free] - self.points[i, self.free]
        distance = np.where(there, (apart * apart).sum(1), np.inf)
        return np.unique(self.place[distance <= distance.min() * (1 + 1e-12)])
