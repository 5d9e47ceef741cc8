"""Budgeted multi-step lookahead: what a trial now and the trials after it improve before the budget ends.

With `b` left, best value `f*`, and `N` further trials in view (maximising),

    Q_0(x; b) = E[(f(x) - f*)^+ 1{c(x) <= b}]
    Q_N(x; b) = Q_0(x; b) + E[1{c(x) <= b} max_a Q_{N-1}(a; b - c(x))]

where the inner value is that of the posterior after `f(x)` and `c(x)` are known. A cheap trial is
worth more than its improvement as it leaves room for others, and a dear one as much as it improves.
Source: Astudillo, Jiang, Balandat, Bakshy, Frazier, Multi-Step Budgeted Bayesian Optimization with
Unknown Evaluation Costs, arXiv:2111.06537 (B-MS-EI).

| symbol | meaning | shape |
|---|---|---|
| A | candidates for later trials | m x d |
| z, w | nodes and weights of the outcome, Gauss-Hermite | y |
| u, v | nodes and weights of the cost, Gauss-Legendre in its distribution up to `b` | c |
| slope | change of the means at A for each standard deviation of the outcome at x | b x m |

Deviations. Theirs optimises the whole tree at once, with one outcome for each step, its mean; here
later trials are chosen from a set and each step changes the posterior by a term of rank one, so that there is
a value at any single point, whatever the space, with several outcomes and costs for each step. The
costs are independent of the outcomes, as theirs. A look is as noisy as the likelihood says; after it `f*` is
the posterior mean there if that is higher, as in `Objective.best`. Where trials may fail, the chance of
success is a factor of each step; a failure ends the tree. `plan` sets the depth and the budget in view.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from botorch.acquisition import AcquisitionFunction
from botorch.acquisition.analytic import _log_ei_helper
from botorch.models.deterministic import DeterministicModel
from botorch.models.model import Model
from botorch.utils.transforms import t_batch_mode_transform
from torch import Tensor
from torch.special import log_ndtr, ndtr, ndtri

from frugalbo.acquisition.chances import Chance, log_chances
from frugalbo.acquisition.hard_budget import HardBudget
from frugalbo.acquisition.log_cost import JointLogCost
from frugalbo.budget.cost_mixture import FittedCost
from frugalbo.models.objective import LEAST_VARIANCE
from frugalbo.models.target import PointModel

DEEPEST = 2
_NODES = {1: ((12, 4),), 2: ((5, 2), (3, 2))}  # of outcome and cost for each step, by depth
_BLOCK = 64  # points at once
_EXPANDED = 4  # trials of the second step whose own future is looked at
_LEAST_COST_VARIANCE = 1e-8
_TINY = 1e-300
_CANDIDATES = 40
_DRAWN_FROM = 256


class BudgetedLookahead(AcquisitionFunction):
    """The logarithm of the value above, for one point at a time, when maximising.

    Args:
        model: The objective's model.
        best_f: The value to improve upon.
        A: Where later trials may be, m x d.
        depth: How many later trials are in view. At 0 this is log EI plus the log of the chance that
            the budget lasts.
        log_cost: A model of the log of the cost, whose joint posterior is normal, or a deterministic
            one. None where trials cost nothing.
        left: What the trials in view may cost together, in the unit of the cost.
        hard_budget: `P(cost <= left)` of the present trial, where more is known of it than `log_cost` tells.
        chances: What else must come true for a trial to count, such as that it runs.

    Raises:
        ValueError: If `depth` is not from 0 to 2, `left` not above 0, or `hard_budget` is for another budget.
    """

    def __init__(
        self,
        model: PointModel,
        best_f: float,
        A: Tensor,
        *,
        depth: int = 1,
        log_cost: Model | None = None,
        left: float = math.inf,
        hard_budget: HardBudget | None = None,
        chances: Sequence[Chance] = (),
    ) -> None:
        if depth not in range(DEEPEST + 1):
            raise ValueError(f"expected a depth from 0 to {DEEPEST}, got {depth!r}")
        if not left > 0:
            raise ValueError(f"expected a budget above 0, got {left!r}")
        if hard_budget is not None and hard_budget.left_s != left:
            raise ValueError(f"expected a hard budget of {left!r}, got one of {hard_budget.left_s!r}")
        super().__init__(model=model)
        self.best_f, self.depth, self.left = best_f, depth, left
        self.log_cost = log_cost if math.isfinite(left) else None
        self.hard_budget, self.chances = hard_budget, tuple(chances)
        self.A = A
        with torch.no_grad():
            self._at_A = model.marginals(A)
            self._K_A = model.covariance(self._at_A, self._at_A)  # m x m
            self._success_A = log_chances(self.chances, A.unsqueeze(-2)).exp()

    @t_batch_mode_transform(expected_q=1)  # type: ignore[arg-type]
    def forward(self, X: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Evaluate at points `X` of shape b x 1 x d; returns shape b."""
        x = X.squeeze(-2)
        value = torch.cat([self._log_value(block) for block in x.split(_BLOCK)])
        return value + log_chances(self.chances, X)

    def _log_value(self, x: Tensor) -> Tensor:
        """Without the chance of success; x is b x d, the result b."""
        model: PointModel = self.model  # type: ignore[assignment]
        at = model.marginals(x)
        sigma = at.variance.sqrt()
        log_ei = _log_ei_helper((at.mean - self.best_f) / sigma) + sigma.log()
        cost = None if self.log_cost is None else self._cost(self.log_cost, x)
        log_chance = self._log_chance(x, cost)
        if self.depth == 0:
            return log_ei + log_chance
        look = _Look.of(at.mean, at.variance, model.covariance(at, self._at_A), model.noise)
        future = self._future(look, cost)
        return torch.logaddexp(log_ei, future.clamp_min(_TINY).log()) + log_chance

    def _cost(self, log_cost: Model, x: Tensor) -> _Cost:
        m = len(self.A)
        posterior = log_cost.posterior(torch.cat([self.A, x]), observation_noise=not _is_known(log_cost))
        mean: Tensor = posterior.mean.squeeze(-1)  # type: ignore[attr-defined]
        if _is_known(log_cost):
            covariance = torch.zeros(len(mean), len(mean), dtype=mean.dtype)
        else:
            covariance = posterior.distribution.covariance_matrix  # type: ignore[attr-defined]
        floor = _LEAST_COST_VARIANCE * torch.eye(m, dtype=mean.dtype)
        variance = covariance.diagonal()[m:] + _LEAST_COST_VARIANCE
        return _Cost(mean[:m], covariance[:m, :m] + floor, mean[m:], variance, covariance[m:, :m])

    def _log_chance(self, x: Tensor, cost: _Cost | None) -> Tensor:
        if self.hard_budget is not None:
            return self.hard_budget.log_probability(x.unsqueeze(-2))
        if cost is None:
            return torch.zeros_like(x[:, 0])
        return log_ndtr((math.log(self.left) - cost.mean) / cost.variance.sqrt())

    def _future(self, look: _Look, cost: _Cost | None) -> Tensor:
        """What later trials improve, given that the budget lasts for the present one; shape b."""
        b, dtype = len(look.mean), self.A.dtype
        first = _NODES[self.depth][0]
        z, w = _hermite(first[0], dtype)
        means = self._at_A.mean + look.slope.unsqueeze(1) * z[:, None]  # b x y x m
        sigma = (self._K_A.diagonal() - look.slope**2).clamp_min(LEAST_VARIANCE).sqrt()  # b x m
        best = (look.mean.unsqueeze(-1) + look.gain.unsqueeze(-1) * z).clamp_min(self.best_f)  # b x y
        ei = _ei(means, sigma.unsqueeze(1), best.unsqueeze(-1))  # b x y x m
        spent = _Spent.nothing(b, self._success_A) if cost is None else self._spend(cost, first[1])
        now = ei.unsqueeze(2) * spent.chance.unsqueeze(1)  # b x y x c x m
        last = now.max(dim=-1).values  # b x y x c
        later = last if self.depth == 1 else self._last(look, cost, spent, means, best, now)
        return torch.einsum("byc,y,c->b", later, w, spent.weight)

    def _spend(self, cost: _Cost, nodes: int) -> _Spent:
        """What is left after the present trial, and what is then known of costs at A."""
        u, v = _legendre(nodes, self.A.dtype)
        sigma = cost.variance.sqrt().unsqueeze(-1)  # b x 1
        t = _up_to((math.log(self.left) - cost.mean.unsqueeze(-1)) / sigma, u)  # b x c
        left = (self.left - (cost.mean.unsqueeze(-1) + sigma * t).exp()).clamp_min(_TINY)  # b x c
        slope = cost.cross / sigma  # b x m
        mean = cost.mean_A + slope.unsqueeze(1) * t.unsqueeze(-1)  # b x c x m
        variance = (cost.K_A.diagonal() - slope**2).clamp_min(_LEAST_COST_VARIANCE)  # b x m
        chance = ndtr((left.log().unsqueeze(-1) - mean) / variance.sqrt().unsqueeze(1)) * self._success_A
        return _Spent(v, left, mean, slope, chance)

    def _last(self, look: _Look, cost: _Cost | None, spent: _Spent, means: Tensor, best: Tensor, now: Tensor) -> Tensor:
        """The best of two more trials; b x y x c. Only the most promising of A are followed up.

        Shapes below are b x y x c x k x y' x c' x m: k of the followed up, primes of the second step.
        """
        model: PointModel = self.model  # type: ignore[assignment]
        (_, _), (y2, c2) = _NODES[2]
        z, w = _hermite(y2, self.A.dtype)
        rows = torch.arange(len(look.mean))[:, None, None, None]  # b
        ys = torch.arange(means.shape[1])[:, None, None]  # y
        cs = torch.arange(len(spent.weight))[:, None]  # c
        k = self._followed_up(now, spent)  # b x y x c x k

        K = self._K_A - look.slope.unsqueeze(-1) * look.slope.unsqueeze(-2)  # b x m x m
        variance = K.diagonal(dim1=-2, dim2=-1).clamp_min(LEAST_VARIANCE)  # b x m
        scale = (variance + model.noise).sqrt()  # b x m
        slope = K / scale.unsqueeze(-1)  # b x m x m
        sigma = (variance.unsqueeze(-2) - slope**2).clamp_min(LEAST_VARIANCE).sqrt()  # b x m x m
        moved = means[:, :, None, None, None] + slope[rows, k].unsqueeze(-2) * z[:, None]  # b y c k y' m
        there = means[rows, ys, k].unsqueeze(-1) + (variance / scale)[rows, k].unsqueeze(-1) * z
        raised = torch.maximum(best[:, :, None, None, None], there)  # b y c k y'
        ei = _ei(moved, sigma[rows, k].unsqueeze(-2), raised.unsqueeze(-1))  # b y c k y' m

        if cost is None:
            v, chance = spent.weight, self._success_A
        else:
            u, v = _legendre(c2, self.A.dtype)
            K = cost.K_A - spent.slope.unsqueeze(-1) * spent.slope.unsqueeze(-2)  # b x m x m
            variance = K.diagonal(dim1=-2, dim2=-1).clamp_min(_LEAST_COST_VARIANCE)  # b x m
            slope = K / variance.sqrt().unsqueeze(-1)  # b x m x m
            sigma = (variance.unsqueeze(-2) - slope**2).clamp_min(_LEAST_COST_VARIANCE).sqrt()  # b x m x m
            mean, sd = spent.mean[rows, cs, k], variance.sqrt()[rows, k]  # b y c k
            left = spent.left[:, None, :, None]  # b 1 c 1
            t = _up_to(((left.log() - mean) / sd).unsqueeze(-1), u)  # b y c k c'
            left = (left.unsqueeze(-1) - (mean.unsqueeze(-1) + sd.unsqueeze(-1) * t).exp()).clamp_min(_TINY)
            mean = spent.mean[:, None, :, None, None] + slope[rows, k].unsqueeze(-2) * t.unsqueeze(-1)  # b y c k c' m
            chance = ndtr((left.log().unsqueeze(-1) - mean) / sigma[rows, k].unsqueeze(-2)) * self._success_A
            chance = chance.unsqueeze(-3)  # b y c k 1 c' m
        later = (ei.unsqueeze(-2) * chance).max(dim=-1).values  # b y c k y' c'
        later = torch.einsum("...yc,y,c->...", later, w, v)  # b y c k
        followed = now.gather(-1, k) + spent.chance[rows, cs, k] * later
        return torch.maximum(followed.max(dim=-1).values, now.max(dim=-1).values)

    def _followed_up(self, now: Tensor, spent: _Spent) -> Tensor:
        """Half of them are best by what they improve, half by that at their price."""
        half = min(_EXPANDED // 2, now.shape[-1])
        with torch.no_grad():
            most = now.topk(half, dim=-1).indices
            price = spent.mean.unsqueeze(1)  # b x 1 x c x m
            dear = (price - price.min(dim=-1, keepdim=True).values).exp()
            return torch.cat([most, (now / dear).topk(half, dim=-1).indices], dim=-1)


@dataclass(frozen=True, slots=True)
class Plan:
    """A lookahead that is ready to be maximised, with the later trials and the budget that it has in view."""

    value: BudgetedLookahead
    depth: int
    horizon: float


def plan(
    model: PointModel,
    best_f: float,
    pool: Tensor,
    *,
    cost: tuple[FittedCost, float] | None = None,
    left_s: float = math.inf,
    left_trials: float = math.inf,
    alpha: float = 1.0,
    chances: Sequence[Chance] = (),
) -> Plan:
    """The lookahead that what is left of a budget justifies.

    A policy that always takes the largest `EI P(success) / c^alpha`, believing every outcome to be its mean, is
    followed for `1 + DEEPEST` trials. With `alpha = 1`, as many of these are in view as can be paid for.
    With the given alpha, the budget in view is what that many cost, or all that is left if that is less: so cost
    counts from the beginning, not only where the end is near. Source: the paper's appendix on the choice of the
    budget. Deviations: costs are medians, not draws; and the budget is set anew for each suggestion, so that a
    suggestion depends on earlier ones by their results alone.

    Args:
        model: The objective's model, when maximising.
        best_f: The value to improve upon.
        pool: Points that may be tried, k x d; later trials are chosen among them.
        cost: The cost model and the steps of a trial for it; None while nothing is known.
        left_s: Device-seconds.
        left_trials: Trials that may still be started.
        alpha: How much the cost counts in what the budget in view is for; lower is more of a budget.
        chances: What else must come true for a trial to count, such as that it runs.
    """
    log_cost = JointLogCost(*cost) if cost is not None and math.isfinite(left_s) else None
    with torch.no_grad():
        X = pool.unsqueeze(-2)
        at = model.marginals(pool)
        sigma = at.variance.sqrt()
        log_ei = _log_ei_helper((at.mean - best_f) / sigma) + sigma.log()
        log_success = log_chances(chances, X)
        log_ei = log_ei + log_success
        log_price = torch.zeros_like(log_ei)
        if log_cost is not None:
            log_price = log_cost.posterior(X).mean.reshape(-1)  # type: ignore[attr-defined]
            affordable = log_price <= math.log(left_s)
            log_ei = torch.where(affordable, log_ei, log_ei - 50.0)  # last, but there if nothing else is
        chosen = _candidates(model, pool, log_ei, log_price)
    A = pool[chosen]
    depth, horizon = int(max(0, min(left_trials - 1, DEEPEST))), left_s
    if log_cost is not None:
        cheap, dear = (_greedy_costs(model, best_f, A, log_price[chosen], log_success[chosen], a) for a in (1.0, alpha))
        depth = min(depth, max(0, int((cheap.cumsum(0) <= left_s).sum()) - 1))
        if depth > 0:
            horizon = min(left_s, float(dear[: depth + 1].sum()))
    hard_budget = HardBudget(*cost, horizon) if cost is not None and log_cost is not None else None
    value = BudgetedLookahead(
        model,
        best_f,
        A,
        depth=depth,
        log_cost=log_cost,
        left=horizon,
        hard_budget=hard_budget,
        chances=chances,
    )
    return Plan(value, depth, horizon)


def _candidates(model: PointModel, pool: Tensor, log_ei: Tensor, log_price: Tensor) -> Tensor:
    """Where later trials may be: the best by improvement, by that at its price, and the best of draws; indices."""
    share = max(1, _CANDIDATES // 4)
    parts = [score.argsort(descending=True)[:share] for score in (log_ei, log_ei - log_price)]
    some = torch.randperm(len(pool))[:_DRAWN_FROM]
    at = model.marginals(pool[some])
    values, vectors = torch.linalg.eigh(model.covariance(at, at))
    root = vectors * values.clamp_min(0).sqrt()
    draws = at.mean + torch.randn(2 * share, len(some), dtype=pool.dtype) @ root.T
    parts.append(some[draws.argmax(dim=-1)])
    return torch.cat(parts).unique()


def _greedy_costs(
    model: PointModel, best_f: float, A: Tensor, log_price: Tensor, log_success: Tensor, alpha: float
) -> Tensor:
    """What `1 + DEEPEST` trials of the policy of `plan` cost, each looked at once."""
    with torch.no_grad():
        at = model.marginals(A)
        mean, K = at.mean, model.covariance(at, at)
        costs = []
        for _ in range(1 + DEEPEST):
            sigma = K.diagonal().clamp_min(LEAST_VARIANCE).sqrt()
            log_ei = _log_ei_helper((mean - best_f) / sigma) + sigma.log()
            i = int((log_ei + log_success - alpha * log_price).argmax())
            costs.append(log_price[i].exp())
            K = K - torch.outer(K[i], K[i]) / (K[i, i] + model.noise)
        return torch.stack(costs)


@dataclass(frozen=True, slots=True)
class _Look:
    """What a look at x tells.

    Args:
        mean: Of x, b.
        gain: Change of the posterior mean at x itself for each standard deviation of the outcome, b.
        slope: The same at A, b x m.
    """

    mean: Tensor
    gain: Tensor
    slope: Tensor

    @classmethod
    def of(cls, mean: Tensor, variance: Tensor, cross: Tensor, noise: Tensor) -> _Look:
        scale = (variance + noise).sqrt()
        return cls(mean, variance / scale, cross / scale.unsqueeze(-1))


@dataclass(frozen=True, slots=True)
class _Cost:
    """The joint distribution of the log of the cost: at A (m, m x m), at x (b, b), and between them (b x m)."""

    mean_A: Tensor
    K_A: Tensor
    mean: Tensor
    variance: Tensor
    cross: Tensor


@dataclass(frozen=True, slots=True)
class _Spent:
    """After the present trial, for each node of its cost.

    Args:
        weight: Of the nodes, c.
        left: Of the budget, b x c.
        mean: Of the log of the cost at A, b x c x m.
        slope: Its change for each standard deviation of the log of the cost at x, b x m.
        chance: That what is left pays for a trial at A, and that it succeeds, b x c x m.
    """

    weight: Tensor
    left: Tensor
    mean: Tensor
    slope: Tensor
    chance: Tensor

    @classmethod
    def nothing(cls, b: int, success_A: Tensor) -> _Spent:
        one, zero = torch.ones(1, dtype=success_A.dtype), torch.zeros(b, 1, len(success_A), dtype=success_A.dtype)
        return cls(one, one.expand(b, 1), zero, zero[:, 0], success_A.expand_as(zero))


def _ei(mean: Tensor, sigma: Tensor, best: Tensor) -> Tensor:
    """Expected improvement when maximising; not in logarithms, as it is summed."""
    u = (mean - best) / sigma
    return sigma * ((-0.5 * u * u).exp() / math.sqrt(2 * math.pi) + u * ndtr(u)).clamp_min(0.0)


def _up_to(bound: Tensor, u: Tensor) -> Tensor:
    """The quantiles `u` (c) of a standard normal variable that is known to be below `bound` (... x 1); ... x c."""
    return ndtri((u * ndtr(bound)).clamp_min(_TINY))


@cache
def _hermite(count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Nodes and weights for the expectation over a standard normal variable."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return torch.as_tensor(nodes, dtype=dtype), torch.as_tensor(weights / weights.sum(), dtype=dtype)


@cache
def _legendre(count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Nodes and weights for the mean over [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return torch.as_tensor(0.5 * (nodes + 1), dtype=dtype), torch.as_tensor(0.5 * weights, dtype=dtype)


def _is_known(log_cost: Model) -> bool:
    return isinstance(log_cost, DeterministicModel)
