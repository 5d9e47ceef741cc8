"""Any acquisition by name where a point can be looked at under several conditions: which point, and how.

    looks = at_fidelities(runs, (1 / 9, 1 / 3, 1.0))            # shorter runs and other sources
    looks = over_environments(env, risk="cvar")                 # seeds, data sets, machines
    look = choose_at("ei", looks, pool, pending=[(x, 1 / 3)])   # look.x, look.at, look.why

What counts is a function of points alone: the target, or the mean or the risk over environments. Its
model (`frugalbo.models.target`) takes the place of the objective's, and so every name of
`frugalbo.acquisition.registry` chooses the point, with its chances, its constraints and what is pending. Then the
condition is that under which a look tells most of what counts there for its price,

    max over s of -1/2 log(1 - r(x, s)^2) / c(x, s),     r(x, s) = Corr(g(x), f(x, s) + noise)

the mutual information of the look and `g(x)` per unit of cost. Sources: to choose the point at the target first and
the fidelity then, Kandasamy, Dasarathy, Schneider, Poczos, Multi-fidelity Bayesian Optimisation with Continuous
Approximations, arXiv:1703.06240 (BOCA; there by a threshold on what a fidelity leaves unknown, which needs constants
that nobody knows); the information, Song, Chen, Yue, A General Framework for Multi-fidelity Bayesian Optimization with
Gaussian Processes, arXiv:1811.00755. Two names value the look itself, point and condition together, where there is a
choice (`why["jointly"]`): `kg` (`frugalbo.acquisition.cross_kg`), and `mes` over fidelities without constraints.

Where only one condition is offered, and it is what counts, all of this is `registry.choose`, exactly. Looks that
were made or are under way are not chosen again.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from frugalbo.acquisition.automatic import pick
from frugalbo.acquisition.cross_kg import CrossKnowledgeGradient
from frugalbo.acquisition.hard_budget import HardBudget
from frugalbo.acquisition.multi_fidelity import learned_log_cost_at, multi_fidelity_mes
from frugalbo.acquisition.registry import ACQUISITIONS, Situation, choose
from frugalbo.budget.cost_mixture import FittedCost
from frugalbo.errors import ModelError
from frugalbo.models.constraint import ConstraintModel
from frugalbo.models.environments import Environments, Risk
from frugalbo.models.feasibility import FeasibilityGP
from frugalbo.models.multi_fidelity import MultiFidelity
from frugalbo.models.target import Target, TargetGP

Condition = Hashable  # a fidelity (or several, as a tuple), a source's name, an environment's label

_SAME = 1e-9
_TARGETS = 100  # the points whose means count for the knowledge gradient
_BLOCK = 512  # points at once
_LEAST_LEFT = 1e-12  # of the share of a variance that a look may leave


@dataclass(frozen=True, slots=True)
class Conditions:
    """What looks there are, what they cost, and what counts; `at_fidelities` and `over_environments` make it.

    Args:
        target: The model of what counts, of losses.
        features: Of each condition that may be chosen, its columns in the model of looks.
        prices: Of a look under each, in any unit, where that is the same at all points.
        cost: The cost model of a full look, and its steps; None where nothing is known of it.
        shares: What part of these steps a look under each condition takes.
        runs: The model of fidelities, for those that value a look whole; None of environments.
    """

    target: Target
    features: Mapping[Condition, tuple[float, ...]]
    prices: Mapping[Condition, float]
    cost: tuple[FittedCost, float] | None
    shares: Mapping[Condition, float]
    runs: MultiFidelity | None = None

    def looks(self, X: Tensor) -> Tensor:
        """The looks at `X` (b x d) under all conditions, b x s x (d + k)."""
        rows = torch.tensor(list(self.features.values()), dtype=X.dtype)  # s x k
        shape = (len(X), len(rows))
        return torch.cat([X.unsqueeze(1).expand(*shape, -1), rows.expand(*shape, -1)], dim=-1)

    def log_price(self, X: Tensor) -> Tensor:
        """The log of what looks at `X` (b x d) cost, b x s."""
        log_prices = torch.tensor([math.log(p) for p in self.prices.values()], dtype=X.dtype)
        if self.cost is None:
            return log_prices.expand(len(X), -1)
        Z = torch.cat([X.unsqueeze(1).expand(-1, len(self.shares), -1), self._shares(X)], dim=-1)
        return learned_log_cost_at(*self.cost, X.shape[-1])(Z).squeeze(-1) + log_prices

    def _shares(self, X: Tensor) -> Tensor:
        shares = torch.tensor(list(self.shares.values()), dtype=X.dtype)
        return shares.expand(len(X), -1).unsqueeze(-1)


@dataclass(frozen=True, slots=True)
class Look:
    """What to look at next.

    Args:
        x: The point, d.
        at: The condition: a fidelity, a source or an environment.
        value: Of the acquisition.
        why: What it was chosen for; `predicted` is what counts there, as a loss.
    """

    x: Tensor
    at: Condition
    value: float
    why: dict[str, Any] = field(default_factory=dict)


def at_fidelities(
    runs: MultiFidelity,
    at: Sequence[Condition],
    *,
    cost: tuple[FittedCost, float] | None = None,
    prices: Mapping[Condition, float] | None = None,
) -> Conditions:
    """The looks at a target through shorter runs, or other sources.

    Args:
        runs: The fitted model.
        at: The fidelities that may be chosen: shares in (0, 1], tuples of them where there are several, or the names
            of sources.
        cost: The cost model of a full run and its steps, where a fidelity is a share of these steps.
        prices: Of a look at each, in any unit. By default a share's price is the share (with `cost`, what that says),
            and sources cost the same.

    Raises:
        ModelError: If there is no such fidelity or source, or no positive price for one.
    """
    k, features, shares = len(runs.target_features), dict[Condition, tuple[float, ...]](), dict[Condition, float]()
    for condition in at:
        if runs.labels:
            features[condition], shares[condition] = (runs.source(condition),), 1.0
            continue
        values = tuple(float(v) for v in np.atleast_1d(np.asarray(condition, dtype=np.float64)))
        if len(values) != k or not all(0 < v <= 1 for v in values):
            raise ModelError(f"expected fidelities of {k} shares in (0, 1], got {condition!r}")
        features[condition], shares[condition] = values, math.prod(values)
    default = dict.fromkeys(shares, 1.0) if cost is not None else shares
    target = TargetGP(runs.model, torch.tensor([runs.target_features], dtype=torch.float64))
    return Conditions(
        Target(target, runs.outcome), _some(features), _prices(features, prices or default), cost, shares, runs
    )


def over_environments(
    env: Environments,
    at: Sequence[Condition] | None = None,
    *,
    risk: Risk = "mean",
    alpha: float = 0.8,
    aversion: float = 1.0,
    cost: tuple[FittedCost, float] | None = None,
    prices: Mapping[Condition, float] | None = None,
) -> Conditions:
    """The looks at a mean or a risk over environments, each under one of them.

    Args:
        env: The fitted model.
        at: The environments that may be chosen; all that it knows by default.
        risk: What counts; see `Environments.risk`.
        alpha: The level of "value-at-risk" and "cvar".
        aversion: The weight of the variance in "mean-variance".
        cost: The cost model of a look, and its steps.
        prices: Of a look under each, in any unit (with `cost`, a factor of it); the same for all by default.

    Raises:
        ModelError: If there is no such environment or risk, or no positive price for one.
    """
    labels = list(env.features) if at is None else list(at)
    for label in labels:
        if label not in env.features:
            raise ModelError(f"expected an environment out of {list(env.features)}, got {label!r}")
    features = {label: env.features[label] for label in labels}
    measure = None if risk == "mean" else env.risk(risk, alpha, aversion)
    target = TargetGP(env.model, env.mean.features, env.mean.weights, measure)
    shares: dict[Condition, float] = dict.fromkeys(labels, 1.0)
    return Conditions(
        Target(target, env.outcome), _some(features), _prices(features, prices or shares), cost, shares, None
    )


def choose_at(
    name: str,
    looks: Conditions,
    pool: ArrayLike,
    pending: Sequence[tuple[ArrayLike, Condition]] = (),
    *,
    alpha: float = 1.0,
    feasibility: FeasibilityGP | None = None,
    constraints: Sequence[ConstraintModel] = (),
    left_s: float = math.inf,
    trials_left: float = math.inf,
    seed: int = 0,
) -> Look:
    """The next look, by an acquisition's name or `"auto"`.

    A batch is chosen by calling this again with the looks so far as pending.

    Args:
        name: One of `frugalbo.acquisition.registry`, or "auto".
        looks: What may be looked at, and what counts.
        pool: The points that may be tried, m x d; those seen under any condition are among them, too.
        pending: Looks under way, points with conditions. The models believe them to come out at their means; names
            that average over what is pending average over what counts there.
        alpha: How much cost counts for `bo`.
        feasibility: The chance that a look at a point has a result, whatever the condition.
        constraints: Models of outcome constraints, of points alone.
        left_s: Device-seconds that are left; with a cost model, looks that likely cost more are not chosen.
        trials_left: Looks that are left.
        seed: Of what is sampled; another for each look.

    Raises:
        ModelError: If there is no such name, or each look that the pool offers was made, is under way, or costs more
            than what is left.
    """
    if name != "auto" and name not in ACQUISITIONS:
        raise ModelError(f"expected 'auto' or an acquisition out of {', '.join(ACQUISITIONS)}, got {name!r}")
    target = looks.target.model
    points = torch.as_tensor(np.atleast_2d(np.asarray(pool, dtype=np.float64)))
    points = torch.cat([points, target.seen])
    under_way = _pending(looks, pending, points.shape[-1])
    at = under_way[:, : points.shape[-1]]
    with torch.no_grad():
        believed = target if not len(at) else target.with_looks(under_way, target.base.mean(under_way))
    allowed = _allowed(looks, points, torch.cat([target.base.train_inputs[0], under_way]), left_s)
    if not bool(allowed.any()):
        raise ModelError(
            f"expected a look that is new and within what is left ({left_s:g} s), got a pool of {len(points)} points"
            f" under {len(looks.features)} conditions that has none; give more points"
        )
    situation = Situation(
        Target(believed, looks.target.outcome),
        looks.target,
        at,
        points,
        looks.cost,
        alpha,
        feasibility,
        _hard_budget(looks, left_s),
        seed,
        trials_left,
        tuple(c.believing(at) for c in constraints) if len(at) else tuple(constraints),
    )
    method, because = pick(situation) if name == "auto" else (name, "")
    if because and len(looks.features) > 1:
        because += f"; of {len(looks.features)} conditions it is the one that tells most of this point for its price"
    told = {"method": method, "because": because} if because else {"method": method}
    values = _jointly(method, looks, situation, under_way)
    if values is not None:
        values = torch.where(allowed, values, -math.inf)
        i, j = divmod(int(values.argmax()), values.shape[1])
        return _look(looks, situation, i, j, float(values[i, j]), {**told, "jointly": True})
    chosen = choose(method, situation)
    value = chosen.on_pool if chosen.on_pool is not None else _by_blocks(chosen.value, points)
    value = torch.where(allowed[: len(value)].any(-1) & value.isfinite(), value, -math.inf)
    i = int(value.argmax())
    if not math.isfinite(float(value[i])):
        raise ModelError(f"expected a finite value of {method} at some new point of the pool, got none")
    score = torch.where(allowed[i], information_per_price(looks, believed, points[i]), -math.inf)
    return _look(looks, situation, i, int(score.argmax()), float(value[i]), {**told, **chosen.why})


def information_per_price(looks: Conditions, target: TargetGP, x: Tensor) -> Tensor:
    """The formula of the module at `x` (d) for each condition, s.

    Args:
        looks: The conditions.
        target: What counts, given what is known and believed.
        x: A point.
    """
    Z = looks.looks(x.unsqueeze(0))[0]  # s x (d + k)
    with torch.no_grad():
        cross = target.covariance_with(x.unsqueeze(0), Z)[0]  # s
        noisy = target.base.variance(Z) + target.base.noise_variance(Z)
        left = 1 - cross**2 / (noisy * target.marginals(x.unsqueeze(0)).variance)
        return -0.5 * left.clamp(_LEAST_LEFT, 1.0).log() / looks.log_price(x.unsqueeze(0))[0].exp()


def _jointly(name: str, looks: Conditions, s: Situation, pending: Tensor) -> Tensor | None:
    """The values of looks at the pool under all conditions, b x s; None where the point is chosen first."""
    knows = name == "kg" or (name == "mes" and looks.runs is not None and not s.constraints)
    if len(looks.features) == 1 or not knows or s.best() is None:
        return None
    target = s.objective.model
    assert isinstance(target, TargetGP)
    if name == "kg":
        with torch.no_grad():
            likely = s.pool[s.is_likely(s.pool)]
            best = likely[target.marginals(likely).mean.argsort()[:_TARGETS]]
        log_value = CrossKnowledgeGradient(target, best, maximize=False)
    else:
        assert looks.runs is not None
        entropy = multi_fidelity_mes(looks.runs, None, s.pool, pending, seed=s.seed)

        def log_value(Z: Tensor) -> Tensor:
            return entropy(Z).clamp_min(1e-300).log()

    Z = looks.looks(s.pool)  # b x s x (d + k)
    values = _by_blocks(log_value, Z.flatten(0, 1)).reshape(Z.shape[:2])
    with torch.no_grad():
        return values - looks.log_price(s.pool) + s.log_chances(s.pool.unsqueeze(-2)).unsqueeze(-1)


def _by_blocks(value: Any, X: Tensor) -> Tensor:  # noqa: ANN401 - a function of points one by one
    with torch.no_grad():
        return torch.cat([value(block.unsqueeze(-2)) for block in X.split(_BLOCK)])


def _look(looks: Conditions, s: Situation, i: int, j: int, value: float, why: dict[str, Any]) -> Look:
    x = s.pool[i]
    with torch.no_grad():
        mean = float(s.objective.model.marginals(x.unsqueeze(0)).mean)
    return Look(x, list(looks.features)[j], value, {**why, "predicted": looks.target.outcome.inverse(mean)})


def _pending(looks: Conditions, pending: Sequence[tuple[ArrayLike, Condition]], d: int) -> Tensor:
    """The looks under way, m x (d + k)."""
    rows = []
    for x, condition in pending:
        if condition not in looks.features:
            raise ModelError(f"expected pending looks under one of {list(looks.features)}, got {condition!r}")
        rows.append([*np.asarray(x, dtype=np.float64).reshape(d), *looks.features[condition]])
    width = looks.target.model.base.train_inputs[0].shape[-1]
    return torch.tensor(np.array(rows).reshape(-1, width), dtype=torch.float64)


def _allowed(looks: Conditions, points: Tensor, known: Tensor, left_s: float) -> Tensor:
    """Which looks at the points are new and likely within what is left, b x s."""
    Z = looks.looks(points)
    near = torch.cdist(Z.flatten(0, 1), known, p=math.inf) <= _SAME
    allowed = ~near.any(-1).reshape(Z.shape[:2])
    if looks.cost is None or math.isinf(left_s):
        return allowed
    fitted, steps = looks.cost
    for j, share in enumerate(looks.shares.values()):
        allowed[:, j] &= torch.from_numpy(HardBudget(fitted, steps * share, left_s).allows(points.numpy()))
    return allowed


def _hard_budget(looks: Conditions, left_s: float) -> HardBudget | None:
    """Of the cheapest look: a point counts as long as something can be learned of it."""
    if looks.cost is None or math.isinf(left_s):
        return None
    fitted, steps = looks.cost
    return HardBudget(fitted, steps * min(looks.shares.values()), left_s)


def _some(features: dict[Condition, tuple[float, ...]]) -> dict[Condition, tuple[float, ...]]:
    if not features:
        raise ModelError("expected at least one condition to look under, got none")
    return features


def _prices(features: Mapping[Condition, Any], prices: Mapping[Condition, float]) -> dict[Condition, float]:
    wrong = [c for c in features if not 0 < prices.get(c, 0.0) < math.inf]
    if wrong:
        raise ModelError(f"expected a positive price for each condition, got none for {wrong}")
    return {c: float(prices[c]) for c in features}
