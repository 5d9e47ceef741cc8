"""What the model says of trials and of configurations that have not begun."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.stats import t as student

from frugalbo.errors import ModelError
from frugalbo.models.curves.curve import Array, PartialCurve, Progress, Temper, dimension
from frugalbo.models.curves.divergence import Divergence
from frugalbo.models.curves.process import DTYPE, Batch, Hyperparameters, Levels

MOST_REPORTS = 64  # of one curve that are looked at
_Z95 = 1.644854  # a 90 % interval's half width, in standard deviations
# Cuts at a quarter to three quarters foretell over a factor of about 2; where more is asked, the scale grows.
_FORETOLD = 0.7
_LOOKS = 3  # reports that a segment is taken to bring

Which = int | ArrayLike  # a trial's index, or the configuration (d,) of one that has not begun


def shares(curves: Sequence[PartialCurve], horizon: float, progress: Progress | None) -> Array:
    """Progress at all reports, the curves' one after the other, as a share of the horizon's.

    Raises:
        ModelError: If it does not increase from above 0 to the horizon.
    """
    steps = np.concatenate([*(curve.steps for curve in curves), [horizon]])
    u = steps if progress is None else np.asarray(progress(steps), dtype=np.float64)
    order = np.argsort(steps, kind="stable")
    if u.shape != steps.shape or not np.isfinite(u).all() or (u <= 0).any() or (np.diff(u[order]) < 0).any():
        raise ModelError("expected progress above 0 that never falls from step to step")
    return (u / u[-1])[:-1]


class CurvePosterior:
    """Beliefs about final values and whole curves, given that trials do not diverge, and about that.

    All values are *tempered losses* (`temper`): the losses themselves up to the median of what was last reported,
    and in ever smaller print above it, so that means and variances exist and expected improvement on a good
    incumbent is what it is in losses. `loss` turns values and quantiles back.

    A trial that has failed has the mean infinity and the standard deviation 0. One that has reported at the horizon
    has its report and 0.

    Args:
        curves: All trials, n; their positions are the indices that methods take.
        horizon: The step of the final value.
        progress: As in `CurveModel.fit`.
        temper: Of losses.
        hyper: The fitted hyperparameters.
    """

    def __init__(
        self,
        curves: Sequence[PartialCurve],
        horizon: float,
        progress: Progress | None,
        temper: Temper,
        hyper: Hyperparameters,
    ) -> None:
        d = dimension(curves, horizon)
        if d != len(hyper.lengthscales):
            raise ModelError(f"expected configurations of {len(hyper.lengthscales)} dimensions, got {d}")
        self.curves, self.horizon, self.progress = tuple(curves), horizon, progress
        self.temper, self.hyper = temper, hyper
        reports = shares(curves, horizon, progress)
        self._reports = np.split(reports, np.cumsum([len(curve.steps) for curve in curves])[:-1])
        self._ends = np.array([own[-1] if len(own) else 0.0 for own in self._reports])
        self._failed = np.array([curve.failed for curve in curves])
        self._known = np.array([bool(len(c.steps)) and c.steps[-1] == horizon and not c.failed for c in curves])
        self._X = torch.from_numpy(np.stack([curve.x for curve in curves]))
        with torch.no_grad():
            self._levels = Levels(Batch.of(curves, reports, temper, MOST_REPORTS), self._X, hyper)

    def updated(self, curves: Sequence[PartialCurve]) -> CurvePosterior:
        """The posterior of these curves with the same hyperparameters and temper: nothing is fitted.

        Raises:
            ModelError: As `CurveModel.fit`.
        """
        return CurvePosterior(curves, self.horizon, self.progress, self.temper, self.hyper)

    def final(self, which: Sequence[Which] | None = None) -> tuple[Array, Array]:
        """Mean and standard deviation of each final value (all trials by default); m each.

        The standard deviation is that of the normal distribution with the same central 90 %.
        """
        return self.at(which, self.horizon)

    def at(self, which: Sequence[Which] | None, step: float) -> tuple[Array, Array]:
        """Mean and standard deviation of what each will report at a later step; m each.

        Of a step that is not later than a trial's last report, the report before it, and 0.
        """
        asked = self._ask(which, np.array([step], dtype=np.float64))
        return asked.mean[:, 0], asked.sd[:, 0] * self._normal

    def quantile(self, which: Sequence[Which] | None, q: float) -> Array:
        """The q-quantile of each final value; (m,)."""
        asked = self._ask(which, np.array([self.horizon]))
        return asked.mean[:, 0] + asked.sd[:, 0] * float(student.ppf(q, self._freedom))

    def sample(self, which: Sequence[Which] | None, n: int, seed: int, steps: ArrayLike | None = None) -> Array:
        """Joint samples, correlated over configurations and steps; n x m at the horizon, or n x m x k at `steps`.

        The correlations are Gaussian; each trial's samples are spread by a Student t scale of its own.
        """
        asked = self._ask(which, np.atleast_1d(np.asarray(self.horizon if steps is None else steps, np.float64)))
        m, k = asked.mean.shape
        rng = np.random.default_rng(seed)
        deviation = rng.standard_normal((n, m * k)) @ _root(asked.correlation(), m * k).T
        heavy = np.sqrt(self._freedom / rng.chisquare(self._freedom, (n, m, 1)))
        with np.errstate(invalid="ignore"):
            found = asked.mean + np.where(asked.sd > 0, asked.sd * heavy * deviation.reshape(n, m, k), 0.0)
        return found[:, :, 0] if steps is None else found

    def final_after(self, which: Sequence[Which] | None, until: float | ArrayLike) -> Array:
        """How much the mean of each final value is expected to move if its trial runs to `until`: its sd; (m,).

        If s is the standard deviation of `final` now, that after the segment is `sqrt(s^2 - this^2)`, whatever it
        reports. All trials run to the same step, or each to its own. The segment is taken to bring a few reports.
        """
        items = self._items(which)
        untils = np.broadcast_to(np.asarray(until, dtype=np.float64), len(items))
        moved = np.zeros(len(items))
        for step in np.unique(untils):
            chosen = np.flatnonzero(untils == step)
            some = [items[i] for i in chosen]
            # Where along the segment it reports: evenly on the logarithm of progress, the last at its end.
            ends = np.array([self._ends[i] if isinstance(i, int) else 0.0 for i in some])
            goal = float(self._share(np.array([step]))[0])
            looks = np.exp(np.linspace(np.log(np.maximum(ends, goal / 10)), math.log(goal), _LOOKS + 1))[1:].T
            asked = self._ask_at(some, np.hstack([looks, np.ones((len(some), 1))]))
            S, cross, now = asked.own[:, :-1, :-1], asked.own[:, :-1, -1], asked.own[:, -1, -1]
            ridge = 1e-9 * np.eye(_LOOKS) * np.maximum(1e-12, now)[:, None, None]
            gain = (cross * np.linalg.solve(S + ridge, cross[..., None])[..., 0]).sum(-1)
            share = np.where(now > 0, np.sqrt(np.clip(gain / np.where(now > 0, now, 1.0), 0, 1)), 0.0)
            if step >= self.horizon:
                share = np.ones(len(some))
            share[ends >= goal] = 0.0
            moved[chosen] = asked.sd[:, -1] * self._normal * share
        return moved

    def p_diverge(self, which: Sequence[Which] | None = None) -> Array:
        """The probability that each diverges before the horizon: 1 if it has, 0 if it has got there; (m,)."""
        items = self._items(which)
        X = np.stack([self.curves[i].x if isinstance(i, int) else i for i in items])
        trials = np.array([i if isinstance(i, int) else -1 for i in items])
        begun = trials >= 0
        ends = np.where(begun, self._ends[trials], 0.0)
        p = self._divergence.probability(X, ends)
        return np.where(begun & self._failed[trials], 1.0, np.where(begun & self._known[trials], 0.0, p))

    def loss(self, tempered: ArrayLike) -> Array:
        """Losses of tempered losses: of values, samples and quantiles, not of means or standard deviations."""
        return self.temper.untempered(tempered)

    @cached_property
    def _divergence(self) -> Divergence:
        return Divergence(self.curves, self._ends, self.hyper)

    @property
    def _freedom(self) -> float:
        return float(self.hyper.freedom)

    @property
    def _normal(self) -> float:
        """The standard deviations of a normal distribution with the 90 % interval of the unit Student t."""
        return float(student.ppf(0.95, self._freedom)) / _Z95

    def _share(self, steps: Array) -> Array:
        both = np.append(steps, self.horizon)
        u = both if self.progress is None else self.progress(both)
        return (u / u[-1])[:-1]

    def _items(self, which: Sequence[Which] | None) -> list[int | Array]:
        n, d = self._X.shape
        if which is None:
            return list(range(n))
        items = [int(i) if isinstance(i, int | np.integer) else np.asarray(i, dtype=np.float64) for i in which]
        for i in items:
            if not (0 <= i < n if isinstance(i, int) else i.shape == (d,)):
                raise ModelError(
                    f"expected the index of one of {n} trials, or a configuration of {d} numbers, got {i!r}"
                )
        return items

    def _ask(self, which: Sequence[Which] | None, steps: Array) -> _Asked:
        if not len(steps) or not ((steps > 0) & (steps <= self.horizon)).all():
            raise ModelError(f"expected steps above 0 and up to the horizon {self.horizon}, got {steps.tolist()[:8]}")
        items = self._items(which)
        return self._ask_at(items, np.broadcast_to(self._share(steps), (len(items), len(steps))))

    @torch.no_grad()
    def _ask_at(self, items: list[int | Array], t: Array) -> _Asked:
        """The joint law at progress `t` (m x k)."""
        levels, hyper = self._levels, self.hyper
        trials = np.array([i if isinstance(i, int) else -1 for i in items])
        begun = trials >= 0
        X = torch.from_numpy(np.stack([self.curves[i].x if isinstance(i, int) else i for i in items]))
        indices = torch.from_numpy(np.maximum(trials, 0))
        same = torch.from_numpy((np.arange(len(self.curves))[:, None] == trials) & begun).to(DTYPE)
        fresh = torch.from_numpy(np.where(begun, 0.0, 1.0))
        cross = hyper.kernel(self._X, X) + levels.own2[:, None] * same
        new = hyper.own2 + hyper.kappa * hyper.volatility
        twins = torch.from_numpy((trials[:, None] == trials) & begun[:, None]).to(DTYPE)
        twins = twins + torch.diag(fresh)
        own2 = torch.where(fresh > 0, new, levels.own2[indices])
        mean, covariance = levels.given(cross, hyper.kernel(X, X) + own2[:, None] * twins)
        T = torch.tensor(t)
        G, c, E = levels.rest(indices, T)
        q = hyper.clock(T)
        unbegun = hyper.motion(q[:, :, None], q[:, None, :]) + hyper.noise * torch.eye(t.shape[1], dtype=DTYPE)
        empty = fresh[:, None] > 0
        G, c = torch.where(empty, 1.0, G), torch.where(empty, 0.0, c)
        E = torch.where(empty[:, :, None], hyper.volatility * unbegun, E)
        ends = np.where(begun, self._ends[trials], 1.0)  # of one that has not begun, the fit has seen the like
        longer = np.maximum(1.0, np.log(t / np.maximum(ends, 1e-12)[:, None]) / _FORETOLD)
        longer[ends == 0] = 1.0
        unit = self.temper.unit
        inflation = float(hyper.scale) * longer * unit
        values = self.temper.tempered((G * mean[:, None] + c).numpy())
        for row, i in enumerate(trials):
            if i >= 0 and self._failed[i]:
                values[row], inflation[row] = math.inf, 0.0
            elif i >= 0 and (past := t[row] <= self._ends[i]).any():
                curve, own = self.curves[i], self._reports[i]
                before = np.searchsorted(own, t[row][past], side="right") - 1
                values[row, past] = self.temper.tempered(self.temper(curve.losses[np.maximum(before, 0)]))
                inflation[row, past] = 0.0
        return _Asked(values, inflation, covariance.numpy(), G.numpy(), E.numpy())


class _Asked:
    """The joint law of m trials at k steps each; before the Student t's spread.

    Args:
        mean: m x k, in tempered losses.
        inflation: m x k, what the process's standard deviations are to be multiplied by.
        levels: Covariance of levels, m x m.
        G: What of the level is in each value, m x k.
        E: Covariance of the rest, m x k x k.
    """

    def __init__(self, mean: Array, inflation: Array, levels: Array, G: Array, E: Array) -> None:
        self.mean, self._inflation, self._levels, self._G, self._E = mean, inflation, levels, G, E

    @cached_property
    def own(self) -> Array:
        """Covariance of each trial's values, m x k x k, in units of the process."""
        variance = np.diagonal(self._levels).clip(0)[:, None, None]
        return variance * self._G[:, :, None] * self._G[:, None, :] + self._E

    @property
    def sd(self) -> Array:
        """Standard deviations, m x k, in tempered losses."""
        return np.sqrt(np.diagonal(self.own, axis1=1, axis2=2).clip(1e-18)) * self._inflation

    def correlation(self) -> Array:
        """Of all values: m x k x m x k."""
        m, k = self.mean.shape
        joint = self._G[:, :, None, None] * self._levels[:, None, :, None] * self._G[None, None]
        i = np.arange(m)
        joint[i, :, i, :] = self.own
        sd = np.sqrt(np.diagonal(self.own, axis1=1, axis2=2).clip(1e-18))
        return (joint / sd[:, :, None, None] / sd).reshape(m, k, m, k)


def _root(correlation: Array, size: int) -> Array:
    values, vectors = np.linalg.eigh(correlation.reshape(size, size))
    return vectors * np.sqrt(values.clip(0))
