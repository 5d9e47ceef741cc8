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
from frugalbo.acquisition.registry import ACQUISITIONS, SLATES, Chosen, Situation, choose, choose_slate
from frugalbo.budget.afford import seconds_left
from frugalbo.budget.cost import CostModel
from frugalbo.budget.worth import MinGain
from frugalbo.errors import FrugalWarning
from frugalbo.propose.base import Suggestion, Tried
from frugalbo.propose.deadline import Check, Deadline, OutOfTime
from frugalbo.propose.evidence import Evidence
from frugalbo.propose.fit import COARSE, CONFIDENCE, Fitter
from frugalbo.propose.initial import InitialDesign, initial_trials
from frugalbo.propose.learned import Learned
from frugalbo.propose.listed import Listed
from frugalbo.propose.maximise import Allowed, Found, best_new, evaluate, make_pool, maximise
from frugalbo.propose.points import Points
from frugalbo.propose.prediction import predicted
from frugalbo.propose.regret import RegretBound
from frugalbo.propose.sobol import SobolProposer
from frugalbo.propose.worth import Worth
from frugalbo.space import Params, Space
from frugalbo.study import Study, Trial

Array = NDArray[np.float64]

_LOG = logging.getLogger(__name__)
_ANCHORS = 4
_LEAST_OF_MODEL = 2  # results that a model can be of
# A knob that moves by less than a thousandth of its range is not another configuration; while
# the first is still running, a fiftieth: its result may tell which way to go.
_DISTANCE = 1e-3
_DISTANCE_PENDING = 2e-2
MODEL_OF = 400
TIME_LIMIT_S = 30.0  # a hundred times what a suggestion takes
# Arithmetic that a study can make fail; anything else is a mistake of ours and not caught.
_FAILURES = (torch.linalg.LinAlgError, np.linalg.LinAlgError, NanError, NotPSDError)  # type: ignore[attr-defined]


class BayesianProposer:
    """The best point of an acquisition, after a Sobol start.

    Args:
        method: An acquisition of `frugalbo.acquisition.registry`; `"auto"`, see `frugalbo.acquisition.automatic`; or
            `"metabo"`, see `frugalbo.metabo.acquisition`.
        alpha: How much cost counts for `"bo"` and `"metabo"`, in [0, 1]; `"cooling"` is the share of the budget that is
            left.
        cost: What is known of costs; by default what the problem states, else learned.
        initial: Trials before the model is asked; by default `initial_trials(problem)`.
        hard_budget: Whether what is left of the budget counts.
        feasibility: Whether it counts how likely a configuration is to run at all.
        min_gain: The price at which nothing is worth suggesting any more; suggestions say so.
        stop_regret: The bound on regret at which it is not, either; see `frugalbo.propose.regret`.
        model_of: The most observations that a model is of; of more, a subset is chosen.
        time_limit_s: What one call of `propose` may take, give or take a step of the arithmetic.
        among: The only configurations there are, as on recorded trials; by default all of the space.
        weights: A file of weights for `"metabo"`; by default what comes with the package.
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
        feasibility: bool = True,
        min_gain: MinGain | None = None,
        stop_regret: float | None = None,
        model_of: int = MODEL_OF,
        time_limit_s: float = TIME_LIMIT_S,
        among: Sequence[Params] | None = None,
        weights: str = "",
    ) -> None:
        if method not in ("auto", "metabo", *ACQUISITIONS):
            known = ", ".join(ACQUISITIONS)
            raise ValueError(f"expected 'auto', 'metabo' or an acquisition, one of {known}; got {method!r}")
        if alpha != "cooling" and not 0 <= alpha <= 1:
            raise ValueError(f"expected alpha in [0, 1] or 'cooling', got {alpha!r}")
        if model_of < COARSE:
            raise ValueError(f"expected a model of at least {COARSE} observations, got {model_of!r}")
        if not time_limit_s > 0:
            raise ValueError(f"expected a time limit above 0 s, got {time_limit_s!r}")
        self.seed = seed
        self.method = method
        self.alpha = alpha
        self.cost = cost
        self.initial = initial
        self.hard_budget = hard_budget
        self.feasibility = feasibility
        self.min_gain = min_gain
        self.stop_regret = stop_regret
        self.model_of = model_of
        self.time_limit_s = time_limit_s
        self._fit = Fitter(method, alpha, cost, hard_budget, feasibility, min_gain, model_of, seed)
        self._among = None if among is None else Listed(among, seed=seed)
        self._design = self._among or InitialDesign(seed=seed, cost=cost)
        self._sobol = self._among or SobolProposer(seed=seed)
        self._learned = Learned(weights) if method == "metabo" else None
        self._prepared: tuple[Space, Suggestion] | None = None

    def propose(self, study: Study, n: int) -> Sequence[Suggestion]:
        """The next `n` configurations, one after the other; fewer if the space is exhausted."""
        sobol = min(n, max(0, self._initial(study) - len(study.trials)))
        found = list(self._design.propose(study, sobol))
        if len(found) < sobol or len(found) == n:
            return found
        evidence = Evidence(study, [s.params for s in found], ranked=self._is_ranked)
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
        evidence = Evidence(study, ranked=self._is_ranked)
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
        space, learned = study.problem.space, self._learned
        models = self._fit(study, evidence, deadline.check)
        left_s = seconds_left(study) if self.hard_budget else math.inf
        trials_left = math.inf if study.ledger is None else study.ledger.balance()["evaluations"].free
        stated, not_worth = (study, evidence.losses, self._initial(study)), ""
        rules = [Worth.of(self.min_gain, *stated), RegretBound.of(self.stop_regret, *stated)]
        pending, tried = evidence.pending, evidence.tried
        suggestions: list[Suggestion] = []
        pool, slate = self._pool(study, evidence, number), None
        for i in range(number, number + n):
            if slate is None and i > number:
                pool = self._pool(study, evidence, i)
            if not len(pool):
                yield from self._rest(study, suggestions, n, "no point of the pool meets the known constraints")
                return
            distance = np.repeat([_DISTANCE, _DISTANCE_PENDING], [len(tried), len(pending)])
            known = np.concatenate([tried, pending])
            search = _Search(evidence.points, pool, known, distance, is_listed=self._among is not None)
            situation = models.situation(pool, pending, left_s, self.seed + i, trials_left - (i - number))
            if slate is None and n > 1 and self.method in SLATES:
                slate = choose_slate(self.method, situation, n)
            method, because = self._picked(situation, evidence)
            chosen = slate or (choose(method, situation) if learned is None else learned.choose(situation, space))
            best, affordable = search.best(chosen, situation.hard_budget, deadline.check)
            if best is None:
                # The pool holds nothing new: Sobol's walk lists what is left, or knows that nothing is.
                yield from self._rest(study, suggestions, n, "no new point in the pool")
                return
            if best.problem:
                warnings.warn(f"the search for the best suggestion: {best.problem}", FrugalWarning, stacklevel=4)
            for rule in rules:
                if rule is not None and not not_worth:
                    # What is not worth it now is not, either, once more is believed.
                    not_worth = rule.missing(situation, search.points, search.known, search.distance)
            why = {
                "method": method,
                "because": because,
                "trial": i,
                **predicted(study, situation, best.u, ranked=evidence.is_ranked),
                **chosen.why,
                "value": best.value,
                "observed": len(evidence.losses),
                "held": evidence.held,
                "model_of": len(models.objective.model.train_targets),
                "pending": len(pending),
                "problem": best.problem,
                "seconds": round(time.perf_counter() - started, 4),
            }
            if because:
                _LOG.info("trial %d is chosen by %s, because %s", i, method, because)
            params = space.decode(best.u) if self._among is None else self._among.at(study, best.u)
            suggestions.append(Suggestion(params, _said(why), not_worth))
            yield suggestions[-1]
            if not affordable:
                yield from self._rest(study, suggestions, n, "what is left pays for no other trial")
                return
            started = time.perf_counter()
            if situation.hard_budget is not None and models.cost is not None:
                left_s -= models.cost[0].quantile(best.u[None], models.cost[1], CONFIDENCE)
            u = space.encode(suggestions[-1].params)[None]
            pending, tried = np.concatenate([pending, u]), np.concatenate([tried, u])

    def _picked(self, situation: Situation, evidence: Evidence) -> tuple[str, str]:
        if self.method != "auto":
            return self.method, ""
        method, because = pick(situation)
        if evidence.is_ranked and method != "pbgi":
            return "ei", "trials are held on their way, so results are ranks, and costs hardly differ"
        return method, because

    @property
    def _is_ranked(self) -> bool:
        """Whether ranks may take the place of values: not where something is said in the objective's units."""
        return self.min_gain is None and self.stop_regret is None

    def _initial(self, study: Study) -> int:
        if self.initial is not None:
            return self.initial
        if self._learned is not None and self._learned.past(study.problem.space) is not None:
            return min(_LEAST_OF_MODEL, initial_trials(study.problem))
        return initial_trials(study.problem)

    def _pool(self, study: Study, evidence: Evidence, number: int) -> Array:
        if self._among is not None:
            return self._among.left(study)
        return make_pool(evidence.points, evidence.best(_ANCHORS), np.random.default_rng([self.seed, number]))

    def _rest(self, study: Study, suggestions: list[Suggestion], n: int, reason: str) -> list[Suggestion]:
        """Sobol points for what is lacking of `n` suggestions."""
        rest = self._sobol.propose(_with_pending(study, suggestions), n - len(suggestions))
        return [Suggestion(s.params, {**s.why, "instead_of": self.method, "reason": reason}) for s in rest]


@dataclass(frozen=True, slots=True)
class _Search:
    """Where to look, and what is too near to what is known to be new."""

    points: Points
    pool: Array
    known: Array
    distance: Array
    is_listed: bool = False  # whether the pool is all that there is

    def best(self, chosen: Chosen, budget: HardBudget | None, check: Check) -> tuple[Found | None, bool]:
        """The best point that is new, and whether it is affordable; none that is not, if any is."""
        found = self._best(chosen, None if budget is None else budget.allows, check)
        if found is not None or budget is None:
            return found, True
        # Nothing in the pool is affordable: where it is likeliest to be is found by its gradient.
        found = self._best(Chosen(budget.log_probability, {}), None, check)
        return found, found is not None and bool(budget.allows(found.u[None])[0])

    def _best(self, chosen: Chosen, allowed: Allowed | None, check: Check) -> Found | None:
        if chosen.on_pool is None and self.is_listed:
            values = evaluate(chosen.value, self.pool)
            return best_new(self.points, self.pool, values, self.known, self.distance, allowed)
        if chosen.on_pool is None:
            return maximise(chosen.value, self.points, self.pool, self.known, self.distance, allowed, check)
        values = chosen.on_pool.numpy()
        return best_new(self.points, self.pool[: len(values)], values, self.known, self.distance, allowed)


def _said(why: dict[str, Any]) -> dict[str, Any]:
    """Without what there is nothing to say of: no reason, no problem, no subset."""
    unsaid = {key for key in ("because", "problem", "held") if not why[key]}
    if why["model_of"] == why["observed"]:
        unsaid.add("model_of")
    return {key: value for key, value in why.items() if key not in unsaid}


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
