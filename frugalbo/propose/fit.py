"""The models that a suggestion rests on, fitted to what a study tells."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from frugalbo.acquisition.hard_budget import HardBudget
from frugalbo.acquisition.log_cost import regressed_cost
from frugalbo.acquisition.registry import Situation
from frugalbo.budget.afford import seconds_left
from frugalbo.budget.cost import CostModel, KnownCost, LearnedCost, cost_model, fit_cost
from frugalbo.budget.cost_mixture import FittedCost
from frugalbo.budget.price import Market
from frugalbo.budget.worth import MinGain
from frugalbo.constraint import OutcomeConstraint
from frugalbo.models.constraint import ConstraintModel, fit_constraint
from frugalbo.models.feasibility import FeasibilityGP
from frugalbo.models.kernel import Group
from frugalbo.models.map_fit import Hyperparameters
from frugalbo.models.objective import Objective, fit_objective
from frugalbo.models.outcome import Outcome
from frugalbo.propose.evidence import Evidence
from frugalbo.propose.local import CENTRES, nearest_and_spread, subset
from frugalbo.study import Study

Array = NDArray[np.float64]

CONFIDENCE = 0.995  # of what earlier suggestions of a batch will hold
COARSE = 80  # observations that the lengthscales for the choice of a subset are fitted to
_KEPT = 8  # fits of first observations
_LEAST_MEASURED = 2  # values of a metric before its constraint has a model
_LEAST_S = 1e-6
_PRICED = ("device_seconds", "dollars", "wall_seconds")


@dataclass(frozen=True, slots=True)
class Models:
    """What was fitted to a study.

    Args:
        cost: The cost model and the steps of a trial for it; None while nothing is known or it does not count.
        alpha: How much the cost counts, for the acquisitions that have such a power.
        besides_s: See `besides_s`.
    """

    objective: Objective
    feasibility: FeasibilityGP | None
    cost: tuple[FittedCost, float] | None
    alpha: float
    constraints: tuple[ConstraintModel, ...]
    besides_s: float

    def situation(
        self, pool: Array, pending: Array, left_s: float, seed: int, trials_left: float = math.inf
    ) -> Situation:
        """What an acquisition may look at, while `pending` have no value, and so much of the budget is left."""
        return Situation(
            self.objective.believing(pending) if len(pending) else self.objective,
            self.objective,
            torch.from_numpy(pending),
            torch.from_numpy(pool),
            self.cost,
            self.alpha,
            self.feasibility,
            HardBudget(*self.cost, max(_LEAST_S, left_s)) if self.cost and math.isfinite(left_s) else None,
            seed,
            trials_left,
            tuple(c.believing(pending) for c in self.constraints) if len(pending) else self.constraints,
            self.besides_s,
        )


@dataclass(frozen=True, slots=True)
class Fitter:
    """How models are fitted; see `frugalbo.propose.bo.BayesianProposer` for the settings."""

    method: str
    alpha: float | Literal["cooling"]
    cost: CostModel | None
    hard_budget: bool
    feasibility: bool
    min_gain: MinGain | None
    model_of: int
    seed: int

    def __call__(self, study: Study, evidence: Evidence, check: Callable[[], None]) -> Models:
        """The models of a study.

        Args:
            study: What they are of.
            evidence: What it tells; at least two losses.
            check: Called often; what it raises ends the fit.

        Raises:
            numpy.linalg.LinAlgError: If some model cannot be fitted.
        """
        space, searched = study.problem.space, evidence.points.searched
        categorical = space.categorical_dims
        groups = [Group(dims, space.levels[dims[0]] or 0) for dims in space.repeated_dims]
        rows, start = self._rows(evidence, categorical, check), None
        noise = None if evidence.noise is None else evidence.noise[rows]
        X, losses = evidence.X[rows], evidence.losses[rows]
        if COARSE < len(X) == len(evidence.X):  # of fewer, fixed starts are the surer way; a subset has no first ones
            start = _fit_of_first(_power_below(len(X)), X, losses, noise, categorical, searched, tuple(groups))
            check()
        ranked = Outcome.linear(losses) if evidence.is_ranked else None
        objective = fit_objective(
            X, losses, categorical, searched, groups,
            outcome=ranked, noise=noise, more_noise=evidence.is_ranked, start=start, check=check,
        )  # fmt: skip
        if objective.fit.problem:
            raise np.linalg.LinAlgError(objective.fit.problem)
        centres, feasibility = evidence.best(CENTRES), None
        if self.feasibility and not all(evidence.ran):
            near = nearest_and_spread(evidence.ran_at, centres, self.model_of)
            ran = [evidence.ran[i] for i in near]
            feasibility = FeasibilityGP(evidence.ran_at[near], ran, categorical, searched)
        constraints: list[ConstraintModel] = []
        for constraint, (X, values) in evidence.measured.items():
            check()
            other = _other_bound(constraint, evidence.measured)
            if len(values) >= _LEAST_MEASURED and (other is None or constraint.sense == "<="):
                near = nearest_and_spread(X, centres, self.model_of)
                constraints.append(
                    fit_constraint(constraint, X[near], values[near], categorical, searched, other=other)
                )
                if problem := constraints[-1].excess.fit.problem:
                    raise np.linalg.LinAlgError(f"{constraint}: {problem}")
        check()
        alpha = self._alpha(study)
        cost = self._cost(study, evidence, check) if self._needs_cost(study, alpha) else None
        return Models(objective, feasibility, cost, alpha, tuple(constraints), besides_s(study))

    def _rows(self, evidence: Evidence, categorical: tuple[int, ...], check: Callable[[], None]) -> NDArray[np.intp]:
        """The observations that the objective's model is of."""
        X, losses = evidence.X, evidence.losses
        if len(X) <= self.model_of:
            return np.arange(len(X))
        rows = subset(X, losses, np.ones(X.shape[1]), categorical, COARSE)
        coarse = fit_objective(X[rows], losses[rows], categorical, evidence.points.searched, check=check)
        return subset(X, losses, coarse.fit.lengthscales, categorical, self.model_of)

    def _alpha(self, study: Study) -> float:
        if self.method not in ("bo", "bmsei", "metabo"):
            return 0.0
        return share_left(study) if self.alpha == "cooling" else float(self.alpha)

    def _needs_cost(self, study: Study, alpha: float) -> bool:
        counts = alpha > 0 or self.method == "pbgi" or (self.method == "auto" and share_left(study) > 0)
        timed = self.min_gain is not None and self.min_gain.resource != "evaluations"
        return counts or timed or (self.hard_budget and math.isfinite(seconds_left(study)))

    def _cost(self, study: Study, evidence: Evidence, check: Callable[[], None]) -> tuple[FittedCost, float] | None:
        """The model of the seconds of a trial, and its steps for it; None while nothing is known."""
        space, steps = study.problem.space, evidence.steps
        cost = self.cost or cost_model(study.problem, CONFIDENCE)
        if isinstance(cost, LearnedCost):
            fitted = fit_cost(study)
            return None if fitted is None else (fitted, float(steps))
        if isinstance(cost, KnownCost) and (fitted := cost.fitted(study.problem)) is not None:
            return fitted, 1.0
        U = evidence.points.snap(np.random.default_rng(self.seed).random((128, space.dim)))
        predictions = []
        for u in U:
            check()
            predictions.append(cost.predict(study, space.decode(u), 0, steps))
        medians = [p.median_s for p in predictions if p is not None]
        if len(medians) < len(U):
            return None
        return regressed_cost(space, U, np.array(medians)), 1.0


def _other_bound(constraint: OutcomeConstraint, among: Iterable[OutcomeConstraint]) -> OutcomeConstraint | None:
    """The bound on the other side of the same metric, of which one model is to know; none of a metric that is fixed."""
    return next((c for c in among if c.metric == constraint.metric and c.bound != constraint.bound), None)


_firsts: dict[tuple[object, ...], Hyperparameters | None] = {}


def _fit_of_first(
    m: int,
    X: Array,
    losses: Array,
    noise: Array | None,
    categorical: tuple[int, ...],
    searched: int,
    groups: tuple[Group, ...],
) -> Hyperparameters | None:
    """What is fitted to the first `m` observations: a start for the fit of all that depends on nothing but them.

    The last few answers are kept: from one suggestion to the next, the first observations are the same.
    """
    X, losses, noise = X[:m], losses[:m], None if noise is None else noise[:m]
    key = (X.tobytes(), losses.tobytes(), None if noise is None else noise.tobytes(), categorical, searched, groups)
    if key not in _firsts:
        while len(_firsts) >= _KEPT:
            del _firsts[next(iter(_firsts))]
        found = fit_objective(X, losses, categorical, searched, groups, noise=noise).fit
        _firsts[key] = None if found.problem else found
    return _firsts[key]


def _power_below(n: int) -> int:
    return 1 << (n - 1).bit_length() - 1


def share_left(study: Study) -> float:
    """The least share that is left of any budget of time or money; 0 where there is none."""
    if study.ledger is None:
        return 0.0
    accounts = [a for name, a in study.ledger.balance().limited.items() if name in _PRICED]
    return min((max(0.0, 1 - a.spent / a.total) for a in accounts), default=0.0)


def besides_s(study: Study) -> float:
    """The device-seconds that a trial is charged beside its own: the price of a trial over that of a device-second.

    At the prices in force (`frugalbo.budget.price`), by which what binds is dear and what will be left over is cheap;
    so with fewer trials left than there is time for, it hardly matters what one of them takes. A device-second costs
    what went with the past ones in each limited resource. 0 where trials are not limited, or nothing has ended.
    """
    if study.ledger is None:
        return 0.0
    accounts = study.ledger.balance()
    prices = Market.of(accounts).whole
    used = accounts["device_seconds"].spent
    charged = sum(prices[name] * a.spent for name, a in accounts.limited.items() if name in _PRICED)
    return prices["evaluations"] * used / charged if used and 0 < charged < math.inf else 0.0
