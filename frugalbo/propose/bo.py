"""Bayesian optimisation: the configuration with the best chance of improving, at its price.

After the defaults and a few Sobol points, each suggestion maximises

    log EI(x) - alpha log c(x) + log P(success | x)

* EI is that of a Gaussian process on the losses at the full number of steps. Trials without such a
  value that run, are paused or were stopped are believed to come out at the posterior mean, so
  that nobody looks there again.
* `c` is the predicted cost of the whole trial. `alpha` is the share of the budget that is left, as
  far as it limits time or money: at first a cheap answer is worth more, at the end only the answer
  counts. Without such a limit it is 0.
* P(success) enters as soon as something has failed. A failed trial has no objective value, and
  none is invented; one that ran into its cap on time is a matter of cost, not of failure.

`why` says what was predicted; all of it but `seconds` is a function of study and seed.
"""

from __future__ import annotations

import frugalbo.models  # isort: skip  # noqa: F401 - first: it imports linear_operator without its warning

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from botorch.models.model import Model
from linear_operator.utils.errors import NanError
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from frugalbo.acquisition.log_cost import learned_log_cost, regressed_log_cost
from frugalbo.acquisition.log_ei_per_cost import LogEIPerCost
from frugalbo.budget.cost import CostModel, LearnedCost, fit_cost
from frugalbo.errors import FrugalWarning
from frugalbo.models.feasibility import FeasibilityGP
from frugalbo.models.objective import Objective, fit_objective
from frugalbo.propose import initial_trials
from frugalbo.propose.base import Suggestion
from frugalbo.propose.maximise import Found, maximise
from frugalbo.propose.points import Points
from frugalbo.propose.sobol import SobolProposer
from frugalbo.study import Failure, Status, Study, Trial

Array = NDArray[np.float64]

_ANCHORS = 4
# A knob that moves by less than a thousandth of its range is not another configuration; while
# the first is still running, a fiftieth: its result may tell which way to go.
_DISTANCE = 1e-3
_DISTANCE_PENDING = 2e-2
_PRICED = ("device_seconds", "dollars", "wall_seconds")


class BayesianProposer:
    """Log expected improvement per predicted cost, after a Sobol start.

    Args:
        alpha: How much cost counts, in [0, 1]; `"cooling"` is the share of the budget that is left.
        cost: What is known of costs.
        initial: Trials before the model is asked; by default `initial_trials(problem)`.
    """

    def __init__(
        self,
        *,
        seed: int,
        alpha: float | Literal["cooling"] = "cooling",
        cost: CostModel | None = None,
        initial: int | None = None,
    ) -> None:
        if alpha != "cooling" and not 0 <= alpha <= 1:
            raise ValueError(f"expected alpha in [0, 1] or 'cooling', got {alpha!r}")
        self.seed = seed
        self.alpha = alpha
        self.cost: CostModel = cost or LearnedCost()
        self.initial = initial
        self._sobol = SobolProposer(seed=seed)

    def propose(self, study: Study, n: int) -> Sequence[Suggestion]:
        """The next `n` configurations, one after the other; fewer if the space is exhausted."""
        started = time.perf_counter()
        initial = initial_trials(study.problem) if self.initial is None else self.initial
        sobol = min(n, max(0, initial - len(study.trials)))
        found = list(self._sobol.propose(study, sobol))
        if len(found) < sobol or len(found) == n:
            return found
        evidence = _Evidence(study, [s.params for s in found])
        if len(evidence.losses) < 2:
            reason = f"{len(evidence.losses)} of {len(study.trials)} trials have a value, the model needs 2"
            return self._instead(study, n, reason)
        with _one_thread():
            try:
                found += self._suggest(study, evidence, n - len(found), len(study.trials) + len(found), started)
            except (torch.linalg.LinAlgError, np.linalg.LinAlgError, NanError) as error:  # type: ignore[attr-defined]
                return self._instead(study, n, f"the model could not be fitted: {error}", warn=True)
        return found

    def _instead(self, study: Study, n: int, reason: str, *, warn: bool = False) -> Sequence[Suggestion]:
        if warn:
            text = f"{reason}; a Sobol point took its place (method='sobol' avoids the model)"
            warnings.warn(text, FrugalWarning, stacklevel=3)
        return [
            Suggestion(s.params, {**s.why, "instead_of": "bo", "reason": reason}) for s in self._sobol.propose(study, n)
        ]

    def _suggest(self, study: Study, evidence: _Evidence, n: int, number: int, started: float) -> list[Suggestion]:
        points, space = evidence.points, study.problem.space
        objective = fit_objective(evidence.X, evidence.losses, space.categorical_dims, points.searched)
        if objective.fit.problem:
            raise np.linalg.LinAlgError(objective.fit.problem)
        feasibility = evidence.feasibility()
        alpha = _share_left(study) if self.alpha == "cooling" else float(self.alpha)
        log_cost = self._log_cost(study, points) if alpha > 0 else None
        anchors = evidence.X[np.argsort(evidence.losses, kind="stable")[:_ANCHORS]]
        pending, tried = evidence.pending, evidence.tried
        suggestions = []
        for i in range(number, number + n):
            model = objective.believing(pending) if len(pending) else objective
            acquisition = LogEIPerCost(
                model.model, model.best(), log_cost, alpha, feasibility=feasibility, maximize=False
            )
            rng = np.random.default_rng([self.seed, i])
            known = np.concatenate([tried, pending])
            distance = np.repeat([_DISTANCE, _DISTANCE_PENDING], [len(tried), len(pending)])
            best = maximise(acquisition, points, anchors, known, distance, rng)
            if best is None:
                # The pool holds nothing new: Sobol's walk lists what is left, or knows that nothing is.
                rest = self._sobol.propose(_with_pending(study, suggestions), n - len(suggestions))
                return suggestions + [
                    Suggestion(s.params, {**s.why, "instead_of": "bo", "reason": "no new point in the pool"})
                    for s in rest
                ]
            if best.problem:
                warnings.warn(f"the search for the best suggestion: {best.problem}", FrugalWarning, stacklevel=4)
            params = space.decode(best.u)
            why = _explain(study, objective, acquisition, best, i)
            why |= {"observed": len(evidence.losses), "pending": len(pending), "alpha": round(alpha, 4)}
            why["seconds"] = round(time.perf_counter() - started, 4)
            started = time.perf_counter()
            suggestions.append(Suggestion(params, why))
            u = space.encode(params)[None]
            pending, tried = np.concatenate([pending, u]), np.concatenate([tried, u])
        return suggestions

    def _log_cost(self, study: Study, points: Points) -> Model | None:
        """The model of log seconds of a whole trial; None while nothing is known."""
        space, steps = study.problem.space, study.problem.steps
        if isinstance(self.cost, LearnedCost):
            fitted = fit_cost(study)
            return None if fitted is None else learned_log_cost(fitted, steps)
        U = points.snap(np.random.default_rng(self.seed).random((128, space.dim)))
        predictions = [self.cost.predict(study, space.decode(u), 0, steps) for u in U]
        medians = [p.median_s for p in predictions if p is not None]
        if len(medians) < len(U):
            return None
        return regressed_log_cost(space, U, lambda _: np.array(medians))


class _Evidence:
    """What a study says: losses and where they are, failures, and points whose value is not known yet."""

    def __init__(self, study: Study, also_pending: Sequence[dict[str, Any]] = ()) -> None:
        space, objective = study.problem.space, study.problem.objective
        self.points = Points(space)
        self._categorical = space.categorical_dims
        rows = [(trial, space.encode(trial.params), study.value(trial)) for trial in study.trials.values()]
        empty = np.empty((0, space.dim))
        self.losses = np.array([objective.to_loss(v) for _, _, v in rows if v is not None])
        self.X = np.array([u for _, u, v in rows if v is not None]).reshape(-1, space.dim)
        waiting = [u for t, u, v in rows if v is None and t.status != Status.FAILED]
        waiting += [space.encode(params) for params in also_pending]
        self.pending = np.array(waiting) if waiting else empty
        tried = [u for _, u, _ in rows] + [space.encode(params) for params in also_pending]
        self.tried = np.array(tried) if tried else empty
        self._ran = [(u, ran) for t, u, v in rows if (ran := _ran(t, v)) is not None]

    def feasibility(self) -> FeasibilityGP | None:
        """The classifier of failures; None where nothing has failed."""
        success = [ran for _, ran in self._ran]
        if all(success):
            return None
        X = np.array([u for u, _ in self._ran])
        return FeasibilityGP(X, success, self._categorical, self.points.searched)


def _ran(trial: Trial, value: float | None) -> bool | None:
    """Whether a trial speaks for success (True), for failure (False), or for neither."""
    if trial.status == Status.FAILED:
        failure = trial.ends[-1].failure
        # A cap on time is the cost model's business.
        return None if failure == Failure.TIMEOUT else False
    return True if value is not None or (trial.reports and trial.status != Status.RUNNING) else None


def _share_left(study: Study) -> float:
    """The least share that is left of any budget of time or money; 0 where there is none."""
    if study.ledger is None:
        return 0.0
    accounts = [a for name, a in study.ledger.balance().limited.items() if name in _PRICED]
    return min((max(0.0, 1 - a.spent / a.total) for a in accounts), default=0.0)


@dataclass(slots=True)
class _More:
    """A study with some trials added, as far as `SobolProposer` looks at it."""

    problem: Any
    trials: dict[int, Any]


def _with_pending(study: Study, suggestions: list[Suggestion]) -> Any:  # noqa: ANN401 - see `_More`
    trials = dict(study.trials)
    for s in suggestions:
        trials[len(trials)] = Trial(len(trials), s.params, study.problem.steps, s.why)
    return _More(study.problem, trials)


def _explain(study: Study, objective: Objective, acquisition: LogEIPerCost, best: Found, number: int) -> dict[str, Any]:
    """What was predicted at the chosen point, in the objective's own units."""
    sense, outcome = study.problem.objective, objective.outcome
    X = torch.from_numpy(best.u).reshape(1, 1, -1)
    with torch.no_grad():
        posterior = objective.model.posterior(X)
        mean, sd = float(posterior.mean), float(posterior.variance.sqrt())
        log_p = 0.0 if acquisition.feasibility is None else float(acquisition.feasibility.log_probability(X))
        log_c = None if acquisition.log_cost is None else float(acquisition.log_cost.posterior(X).mean)  # type: ignore[attr-defined]
    log_ei = best.value - log_p + (acquisition.alpha * log_c if log_c is not None else 0.0)
    ends = sorted(sense.to_loss(outcome.inverse(t)) for t in (mean - 2 * sd, mean + 2 * sd))
    return {
        "method": "bo",
        "trial": number,
        "predicted": sense.to_loss(outcome.inverse(mean)),
        "predicted_95": ends,
        "log_ei": log_ei,
        "success": float(np.exp(log_p)),
        "predicted_cost_s": None if log_c is None else float(np.exp(log_c)),
    }


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Many small matrices: threads that wait for each other cost up to a hundred times what they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _controller().limit(limits=1):
            yield
    finally:
        torch.set_num_threads(threads)
