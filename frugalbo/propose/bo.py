"""Bayesian optimisation: after the defaults and a few Sobol points, the best point of an acquisition.

Which acquisition (`frugalbo.acquisition.registry`) is the method's name, or picked by what is at stake
(`"auto"`, `frugalbo.acquisition.automatic`). All of them look at

* a Gaussian process on the losses at the full number of steps. Trials without such a value that run,
  are paused or were stopped are believed to come out at the posterior mean, so that nobody looks
  there again.
* `c`, the predicted cost of the whole trial, where the budget limits time or money. For `"bo"` it
  counts with the power `alpha`, the share of the budget that is left: at first a cheap answer is worth
  more, at the end only the answer counts.
* `P(success)`, as soon as something has failed. A failed trial has no objective value, and
  none is invented; one that ran into its cap on time is a matter of cost, not of failure.
* `P(constraints hold)`: outcome constraints have a model each (`frugalbo.models.constraint`). An improvement is
  one over the best of what is likely to meet them; as long as nothing is, the value is the chance to
  meet them alone.
* `P(c <= left)`, where `left` is what the budget of time or money leaves for one more trial. Of what is
  more likely than not to cost more, nothing is suggested, unless there is nothing else.

The model is of all observations up to `MODEL_OF`, and of a subset of more (`frugalbo.propose.local`);
`why` then says of how many, as `model_of`.

`why` says what was predicted; all of it but `seconds` is a function of study and seed. Only where a
fit or a search takes longer than `time_limit_s` does a clock decide: then what was prepared while
devices were busy, or a Sobol point, takes its place, with a warning, and `why` says which and when.
"""

from __future__ import annotations

import frugalbo.models  # isort: skip  # noqa: F401 - first: it imports linear_operator without its warning

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from linear_operator.utils.errors import NanError, NotPSDError
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from frugalbo.acquisition.automatic import pick
from frugalbo.acquisition.hard_budget import HardBudget
from frugalbo.acquisition.log_cost import learned_log_cost, regressed_cost
from frugalbo.acquisition.registry import ACQUISITIONS, SLATES, Chosen, Situation, choose, choose_slate
from frugalbo.budget.afford import seconds_left
from frugalbo.budget.cost import CostModel, FittedCost, KnownCost, LearnedCost, cost_model, fit_cost
from frugalbo.budget.worth import MinGain
from frugalbo.errors import FrugalWarning
from frugalbo.models.constraint import ConstraintModel, fit_constraint
from frugalbo.models.feasibility import FeasibilityGP
from frugalbo.models.kernel import Group
from frugalbo.models.objective import Objective, fit_objective
from frugalbo.propose import initial_trials
from frugalbo.propose.base import Suggestion, Tried
from frugalbo.propose.deadline import Check, Deadline, OutOfTime
from frugalbo.propose.evidence import Evidence
from frugalbo.propose.local import CENTRES, nearest_and_spread, subset
from frugalbo.propose.maximise import Allowed, Found, best_new, make_pool, maximise
from frugalbo.propose.points import Points
from frugalbo.propose.sobol import SobolProposer
from frugalbo.propose.worth import Worth
from frugalbo.space import Space
from frugalbo.study import Study, Trial

Array = NDArray[np.float64]

_LOG = logging.getLogger(__name__)
_ANCHORS = 4
# A knob that moves by less than a thousandth of its range is not another configuration; while
# the first is still running, a fiftieth: its result may tell which way to go.
_DISTANCE = 1e-3
_DISTANCE_PENDING = 2e-2
_CONFIDENCE = 0.995  # of what earlier suggestions of a batch will hold
_LEAST_S = 1e-6
MODEL_OF = 400
TIME_LIMIT_S = 30.0  # a hundred times what a suggestion takes
_COARSE = 80  # observations that the lengthscales for the choice of a subset are fitted to
_LEAST_MEASURED = 2  # values of a metric before its constraint has a model
_Z95 = 1.959964
_PRICED = ("device_seconds", "dollars", "wall_seconds")
# Arithmetic that a study can make fail; anything else is a mistake of ours and not caught.
_FAILURES = (torch.linalg.LinAlgError, np.linalg.LinAlgError, NanError, NotPSDError)  # type: ignore[attr-defined]


class BayesianProposer:
    """The best point of an acquisition, after a Sobol start.

    Args:
        method: An acquisition of `frugalbo.acquisition.registry`; or `"auto"`, see `frugalbo.acquisition.automatic`.
        alpha: How much cost counts for `"bo"`, in [0, 1]; `"cooling"` is the share of the budget that is left.
        cost: What is known of costs; by default what the problem states, else learned.
        initial: Trials before the model is asked; by default `initial_trials(problem)`.
        hard_budget: Whether what is left of the budget counts.
        min_gain: The price at which nothing is worth suggesting any more; suggestions say so.
        model_of: The most observations that a model is of; of more, a subset is chosen.
        time_limit_s: What one call of `propose` may take, give or take a step of the arithmetic.
    """

    def __init__(
        self,
        *,
        seed: int,
        method: str = "auto",
        alpha: float | Literal["cooling"] = "cooling",
        cost: CostModel | None = None,
        initial: int | None = None,
        hard_budget: bool = True,
        min_gain: MinGain | None = None,
        model_of: int = MODEL_OF,
        time_limit_s: float = TIME_LIMIT_S,
    ) -> None:
        if method != "auto" and method not in ACQUISITIONS:
            raise ValueError(f"expected 'auto' or an acquisition, one of {', '.join(ACQUISITIONS)}; got {method!r}")
        if alpha != "cooling" and not 0 <= alpha <= 1:
            raise ValueError(f"expected alpha in [0, 1] or 'cooling', got {alpha!r}")
        if model_of < _COARSE:
            raise ValueError(f"expected a model of at least {_COARSE} observations, got {model_of!r}")
        if not time_limit_s > 0:
            raise ValueError(f"expected a time limit above 0 s, got {time_limit_s!r}")
        self.seed = seed
        self.method = method
        self.alpha = alpha
        self.cost = cost
        self.initial = initial
        self.hard_budget = hard_budget
        self.min_gain = min_gain
        self.model_of = model_of
        self.time_limit_s = time_limit_s
        self._sobol = SobolProposer(seed=seed)
        self._prepared: tuple[Space, Suggestion] | None = None

    def propose(self, study: Study, n: int) -> Sequence[Suggestion]:
        """The next `n` configurations, one after the other; fewer if the space is exhausted."""
        initial = initial_trials(study.problem) if self.initial is None else self.initial
        sobol = min(n, max(0, initial - len(study.trials)))
        found = list(self._sobol.propose(study, sobol))
        if len(found) < sobol or len(found) == n:
            return found
        evidence = Evidence(study, [s.params for s in found])
        if len(evidence.losses) < 2:
            reason = f"{len(evidence.losses)} of {len(study.trials)} trials have a value, the model needs 2"
            return self._instead(study, n, reason)
        deadline = Deadline(self.time_limit_s)
        with _one_thread():
            try:
                for suggestion in self._suggest(
                    study, evidence, n - len(found), len(study.trials) + len(found), deadline
                ):
                    found.append(suggestion)  # noqa: PERF402 - those that were in time stay
            except _FAILURES as error:
                return self._instead(study, n, f"the model could not be fitted: {error}", warn=True)
            except OutOfTime:
                return found + self._late(study, found, n)
        return found

    def prepare(self, study: Study, is_over: Callable[[], bool]) -> None:
        """Use the time in which nothing can start: find what to suggest if a suggestion is late one day.

        It warms what the next suggestion needs, too, and never changes it: a suggestion that is in
        time knows more than what was prepared.

        Args:
            study: As it stands; what runs has no value yet.
            is_over: Asked every few milliseconds whether to leave off.
        """
        evidence = Evidence(study)
        if len(evidence.losses) < 2:
            return
        with _one_thread(), suppress(OutOfTime, *_FAILURES):
            warnings.simplefilter("ignore", FrugalWarning)  # until the end of this block
            for found in self._suggest(study, evidence, 1, len(study.trials), Deadline(self.time_limit_s, is_over)):
                self._prepared = study.problem.space, found

    def _late(self, study: Study, found: list[Suggestion], n: int) -> list[Suggestion]:
        """What takes the place of the suggestions that are lacking when the time is up."""
        reason = f"no suggestion within {self.time_limit_s:g} s"
        late: list[Suggestion] = []
        tried = Tried(_with_pending(study, found))
        if self._prepared is not None and self._prepared[0] == study.problem.space:
            ready = self._prepared[1]
            if ready.params not in tried:
                knew = f"this one was prepared before, from {ready.why['observed']} results"
                late.append(
                    Suggestion(ready.params, {**ready.why, "instead_of": self.method, "reason": f"{reason}; {knew}"})
                )
        what = "one that was prepared before" if late else "a Sobol point"
        text = f"{reason}; {what} took its place (time_limit_s is the limit; method='sobol' avoids the model)"
        warnings.warn(text, FrugalWarning, stacklevel=3)
        return late + self._rest(study, [*found, *late], n, reason)

    def _instead(self, study: Study, n: int, reason: str, *, warn: bool = False) -> Sequence[Suggestion]:
        if warn:
            text = f"{reason}; a Sobol point took its place (method='sobol' avoids the model)"
            warnings.warn(text, FrugalWarning, stacklevel=3)
        why = {"instead_of": self.method, "reason": reason}
        return [Suggestion(s.params, {**s.why, **why}) for s in self._sobol.propose(study, n)]

    def _suggest(
        self, study: Study, evidence: Evidence, n: int, number: int, deadline: Deadline
    ) -> Iterator[Suggestion]:
        """The suggestions for the next `n` trials, of which the first has that number, as they are found."""
        started = time.perf_counter()
        space = study.problem.space
        model = self._fit(study, evidence, deadline.check)
        left_s = seconds_left(study) if self.hard_budget else math.inf
        pending, tried = evidence.pending, evidence.tried
        initial = initial_trials(study.problem) if self.initial is None else self.initial
        worth, not_worth = Worth.of(self.min_gain, study, evidence.losses, initial), ""
        suggestions: list[Suggestion] = []
        pool, slate = np.empty((0, space.dim)), None
        for i in range(number, number + n):
            if slate is None:
                pool = make_pool(evidence.points, evidence.best(_ANCHORS), np.random.default_rng([self.seed, i]))
            if not len(pool):
                yield from self._rest(study, suggestions, n, "no point of the pool meets the known constraints")
                return
            distance = np.repeat([_DISTANCE, _DISTANCE_PENDING], [len(tried), len(pending)])
            search = _Search(evidence.points, pool, np.concatenate([tried, pending]), distance)
            trials_left = math.inf if study.ledger is None else study.ledger.balance()["evaluations"].free
            situation = model.situation(pool, pending, left_s, self.seed + i, trials_left - (i - number))
            if slate is None and n > 1 and self.method in SLATES:
                slate = choose_slate(self.method, situation, n)
            method, because = pick(situation) if self.method == "auto" else (self.method, "")
            chosen = slate or choose(method, situation)
            best, affordable = search.best(chosen, situation.hard_budget, deadline.check)
            if best is None:
                # The pool holds nothing new: Sobol's walk lists what is left, or knows that nothing is.
                yield from self._rest(study, suggestions, n, "no new point in the pool")
                return
            if best.problem:
                warnings.warn(f"the search for the best suggestion: {best.problem}", FrugalWarning, stacklevel=4)
            params = space.decode(best.u)
            why = {"method": method, "trial": i, **_explain(study, situation, best.u), **chosen.why}
            if because:
                _LOG.info("trial %d is chosen by %s, because %s", i, method, because)
                why["because"] = because
            why |= {"value": best.value, "observed": len(evidence.losses), "pending": len(pending)}
            if (model_of := len(model.objective.model.train_targets)) < len(evidence.losses):
                why["model_of"] = model_of
            if best.problem:
                why["problem"] = best.problem
            why["seconds"] = round(time.perf_counter() - started, 4)
            started = time.perf_counter()
            if worth is not None and not not_worth:
                # What is not worth it now is not, either, once more is believed.
                not_worth = worth.missing(situation, search.points, search.known, search.distance)
            suggestions.append(Suggestion(params, why, not_worth))
            yield suggestions[-1]
            if not affordable:
                yield from self._rest(study, suggestions, n, "what is left pays for no other trial")
                return
            if situation.hard_budget is not None and model.cost is not None:
                left_s -= model.cost[0].quantile(best.u[None], model.cost[1], _CONFIDENCE)
            u = space.encode(params)[None]
            pending, tried = np.concatenate([pending, u]), np.concatenate([tried, u])

    def _rest(self, study: Study, suggestions: list[Suggestion], n: int, reason: str) -> list[Suggestion]:
        """Sobol points for what is lacking of `n` suggestions."""
        rest = self._sobol.propose(_with_pending(study, suggestions), n - len(suggestions))
        return [Suggestion(s.params, {**s.why, "instead_of": self.method, "reason": reason}) for s in rest]

    def _fit(self, study: Study, evidence: Evidence, check: Check) -> _Fitted:
        space, points = study.problem.space, evidence.points
        groups = [Group(dims, space.levels[dims[0]] or 0) for dims in space.repeated_dims]
        categorical, searched = space.categorical_dims, points.searched
        rows = self._rows(evidence, categorical, check)
        objective = fit_objective(evidence.X[rows], evidence.losses[rows], categorical, searched, groups, check=check)
        if objective.fit.problem:
            raise np.linalg.LinAlgError(objective.fit.problem)
        feasibility = None
        if not all(evidence.ran):
            near = nearest_and_spread(evidence.ran_at, evidence.best(CENTRES), self.model_of)
            ran = [evidence.ran[i] for i in near]
            feasibility = FeasibilityGP(evidence.ran_at[near], ran, categorical, searched)
        constraints = tuple(
            fit_constraint(constraint, X, values, categorical, searched)
            for constraint, (X, values) in evidence.measured.items()
            if len(values) >= _LEAST_MEASURED
        )
        for model in constraints:
            if model.excess.fit.problem:
                raise np.linalg.LinAlgError(f"{model.constraint}: {model.excess.fit.problem}")
        check()
        alpha = _share_left(study) if self.alpha == "cooling" else float(self.alpha)
        if self.method not in ("bo", "bmsei"):
            alpha = 0.0
        counts = alpha > 0 or self.method == "pbgi" or (self.method == "auto" and _share_left(study) > 0)
        timed = self.min_gain is not None and self.min_gain.resource != "evaluations"
        limited = self.hard_budget and math.isfinite(seconds_left(study))
        cost = self._cost(study, points, check) if counts or timed or limited else None
        return _Fitted(objective, feasibility, cost, alpha, constraints)

    def _rows(self, evidence: Evidence, categorical: tuple[int, ...], check: Check) -> NDArray[np.intp]:
        """The observations that the model is of."""
        X, losses = evidence.X, evidence.losses
        if len(X) <= self.model_of:
            return np.arange(len(X))
        rows = subset(X, losses, np.ones(X.shape[1]), categorical, _COARSE)
        coarse = fit_objective(X[rows], losses[rows], categorical, evidence.points.searched, check=check)
        return subset(X, losses, coarse.fit.lengthscales, categorical, self.model_of)

    def _cost(self, study: Study, points: Points, check: Check) -> tuple[FittedCost, float] | None:
        """The model of the seconds of a trial, and its steps for it; None while nothing is known."""
        space, steps = study.problem.space, study.problem.steps
        cost = self.cost or cost_model(study.problem, _CONFIDENCE)
        if isinstance(cost, LearnedCost):
            fitted = fit_cost(study)
            return None if fitted is None else (fitted, float(steps))
        if isinstance(cost, KnownCost) and (fitted := cost.fitted(study.problem)) is not None:
            return fitted, 1.0
        U = points.snap(np.random.default_rng(self.seed).random((128, space.dim)))
        predictions = []
        for u in U:
            check()
            predictions.append(cost.predict(study, space.decode(u), 0, steps))
        medians = [p.median_s for p in predictions if p is not None]
        if len(medians) < len(U):
            return None
        return regressed_cost(space, U, np.array(medians)), 1.0


@dataclass(frozen=True, slots=True)
class _Fitted:
    """The models that were fitted to a study."""

    objective: Objective
    feasibility: FeasibilityGP | None
    cost: tuple[FittedCost, float] | None
    alpha: float
    constraints: tuple[ConstraintModel, ...]

    def situation(self, pool: Array, pending: Array, left_s: float, seed: int, trials_left: float) -> Situation:
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
        )


@dataclass(frozen=True, slots=True)
class _Search:
    """Where to look, and what is too near to what is known to be new."""

    points: Points
    pool: Array
    known: Array
    distance: Array

    def best(self, chosen: Chosen, budget: HardBudget | None, check: Check) -> tuple[Found | None, bool]:
        """The best point that is new, and whether it is affordable; none that is not, if any is."""
        found = self._best(chosen, None if budget is None else budget.allows, check)
        if found is not None or budget is None:
            return found, True
        # Nothing in the pool is affordable: where it is likeliest to be is found by its gradient.
        found = self._best(Chosen(budget.log_probability, {}), None, check)
        return found, found is not None and bool(budget.allows(found.u[None])[0])

    def _best(self, chosen: Chosen, allowed: Allowed | None, check: Check) -> Found | None:
        if chosen.on_pool is None:
            return maximise(chosen.value, self.points, self.pool, self.known, self.distance, allowed, check)
        values = chosen.on_pool.numpy()
        return best_new(self.points, self.pool[: len(values)], values, self.known, self.distance, allowed)


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


def _explain(study: Study, situation: Situation, u: Array) -> dict[str, Any]:
    """What was predicted at the chosen point, in the objective's own units."""
    sense, outcome = study.problem.objective, situation.objective.outcome
    X = torch.from_numpy(u).reshape(1, 1, -1)
    with torch.no_grad():
        posterior = situation.objective.model.posterior(X)
        # Of an observation: the function's own uncertainty and the noise of a trial.
        mean, sd = (
            float(posterior.mean),
            float((posterior.variance + situation.objective.model.likelihood.noise).sqrt()),
        )
        chances = [
            1.0 if chance is None else math.exp(float(chance.log_probability(X)))
            for chance in (situation.feasibility, situation.hard_budget)
        ]
        log_c = None if situation.cost is None else float(learned_log_cost(*situation.cost)(X))
        constraints = {
            str(c.constraint): {"predicted": c.predicted(X), "probability": math.exp(float(c.log_probability(X)))}
            for c in situation.constraints
        }
        best = situation.best()
    why: dict[str, Any] = {
        "predicted": sense.to_loss(outcome.inverse(mean)),
        "predicted_95": sorted(sense.to_loss(outcome.inverse(t)) for t in (mean - _Z95 * sd, mean + _Z95 * sd)),
        "success": chances[0],
        "predicted_cost_s": None if log_c is None else math.exp(log_c),
        **_cost_interval(situation, u),
        "within_budget": chances[1],
    }
    if best is not None:
        why["best"] = sense.to_loss(outcome.inverse(best))
    if study.problem.bounds:
        why["constraints"] = constraints
        why["unmeasured"] = [str(c) for c in study.problem.bounds if str(c) not in constraints]
    return why


def _cost_interval(situation: Situation, u: Array) -> dict[str, list[float]]:
    """The 95 % interval of a trial's seconds; none for a formula that is taken as it is."""
    if situation.cost is None or situation.cost[0].n == 0:
        return {}
    fitted, steps = situation.cost
    return {"predicted_cost_95": [fitted.quantile(u[None], steps, q) for q in (0.025, 0.975)]}


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Many small matrices: threads that wait for each other cost up to a hundred times what they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _controller().limit(limits=1), warnings.catch_warnings():
            # The joint covariance of a point and its neighbours among the best is singular in the
            # last digits; the jitter is a ten-thousandth of the least noise.
            warnings.filterwarnings("ignore", message="A not p.d., added jitter of 1.0e-08")
            yield
    finally:
        torch.set_num_threads(threads)
