"""How trials that stopped short of the end compare: scores from their ranks on each rung.

A scheduler that pauses and stops leaves few trials with a value at the full number of steps. What the others
say is where they stood among those that were run as far. With levels r_1 < ... < r_K = R, the steps up to which
segments were granted, a configuration has at each a latent score, standard normal over configurations, of which

    corr(z(r), z(r')) = (min(r, r') / max(r, r'))^(1 / 5)

is assumed: over a factor of 30 in steps, one half. On the first rung a score is the normal score of the rank. On a
later one only those stand that were sent on, so the ranks are matched to the quantiles of what their scores before
made of them, `mean_i Phi((z - rho z_i) / sqrt(1 - rho^2))`. A model of final scores may take a trial's last score as
observed with the variance `1 - corr(z(r), z(R))^2`.

Only ranks count, so scores do not hang on the units of the loss, on heavy tails, or on how far losses fall from rung
to rung. The exponent was set by hand, from how well early and late ranks of good configurations agree on TaskSet.
Configurations chosen so are better there than random ones on seven of eight tasks, and far worse on one
(`benchmarks/README.md`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata

from frugalbo.events import Failure, Outcome, Started
from frugalbo.study import Status, Study, Trial

Array = NDArray[np.float64]

_LOG_MEMORY = 5.0
_GRID = np.linspace(-6, 6, 601)
_LEAST_VARIANCE = 0.1  # of a final score: another seed would rank a little otherwise


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a trial stands.

    Args:
        step: The last rung that it got to.
        score: Normal over all configurations, the smaller the better.
        variance: Of the final score around it.
    """

    step: int
    score: float
    variance: float

    @property
    def final_mean(self) -> float:
        """The mean of the final score; with the variance, that of a normal distribution."""
        return math.sqrt(1 - self.variance) * self.score


def standings(study: Study) -> dict[int, Standing] | None:
    """By trial, of those that got to a rung or failed; None if no trial was held on its way.

    A trial that failed stands last on every rung that it did not get to, and its score is that of the last rung: where
    there is failure, it is not worth looking again. One that ran into its cap on time has no score, as that says more
    of the cap, nor has one that was planned for fewer steps than a full trial and so is on a curve of its own.
    """
    steps = study.problem.steps
    trials = [trial for trial in study.trials.values() if trial.planned == steps]
    levels = sorted({started.until for trial in trials for started in _held(trial)} | {steps})
    if len(levels) == 1:
        return None
    found: dict[int, Standing] = {}
    scores: dict[int, float] = {}
    before = levels[0]
    for level in levels:
        losses = {t.number: loss for t in trials if (loss := _loss(study, t, level)) is not None}
        if not any(map(math.isfinite, losses.values())):
            break
        shares = (rankdata(list(losses.values())) - 0.5) / len(losses)
        correlation = _correlation(before, level)
        earlier = np.array([scores.get(number, 0.0) for number in losses])
        new = _matched(shares, correlation * earlier, math.sqrt(1 - correlation**2)) if found else ndtri(shares)
        scores = dict(zip(losses, map(float, new), strict=True))
        variance = max(_LEAST_VARIANCE, 1 - _correlation(level, steps) ** 2)
        found |= {
            n: Standing(level, z, variance if math.isfinite(losses[n]) else _LEAST_VARIANCE) for n, z in scores.items()
        }
        before = level
    return {n: s for n, s in found.items() if study.trials[n].failure != Failure.TIMEOUT}


def _held(trial: Trial) -> list[Started]:
    """The segments after which the trial was held."""
    return [s for s, e in zip(trial.starts, trial.ends, strict=False) if e.outcome == Outcome.PAUSED]


def _loss(study: Study, trial: Trial, level: int) -> float | None:
    """At a rung: infinite for a trial that failed before, None for one that was not run as far."""
    value = study.value_by(trial, level)
    if value is not None:
        return study.problem.objective.to_loss(value)
    return math.inf if trial.status == Status.FAILED else None


def _correlation(a: int, b: int) -> float:
    return (min(a, b) / max(a, b)) ** (1 / _LOG_MEMORY)


def _matched(shares: Array, means: Array, sd: float) -> Array:
    """The quantiles of an even mixture of normals; n shares of n components."""
    mixture = ndtr((_GRID[:, None] - means) / sd).mean(axis=1)
    return np.interp(shares, mixture, _GRID)
