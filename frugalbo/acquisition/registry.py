"""Acquisitions by name, each with safe defaults.

| name | what it is | knows costs | pending points |
|---|---|---|---|
| `bo` | log EI per cost, cooled as the budget runs out | yes | believed |
| `pbgi` | the Pandora's-box Gittins index | yes | believed |
| `bmsei` | budgeted multi-step lookahead: this trial and up to two more that the budget pays for | yes | believed |
| `ei`, `logei` | expected improvement, by its logarithm | | believed |
| `qei` | what a point adds to the expected improvement of the batch (q-EI) | | averaged over |
| `nei` | noisy expected improvement: over the best of the noisy points, jointly | | averaged over |
| `ucb` | the upper confidence bound | | believed |
| `kg` | the knowledge gradient, over a set of good points | | believed |
| `mes` | max-value entropy search (GIBBON's bound for one point; CMES-IBO under constraints) | | believed |
| `jes` | joint entropy search | | believed |
| `pes` | predictive entropy search | | believed |
| `ts` | Thompson sampling, on the pool; a batch in-slate | | believed |

Batches are chosen one after the other, the earlier members being pending; so a batch and asynchronous
workers are the same case. That is the greedy maximisation of an acquisition of all `q` points (Wilson,
Hutter, Deisenroth, arXiv:1805.10196); only `ts` chooses all members together, as `SLATES` says.

* *Averaged over*: the value is what the new point adds to the pending ones, over joint samples of what
  they may show.
* *Believed* (the Kriging believer of Ginsbourger et al., 2010): as if they had come out at the posterior
  mean. The variance is then what it will be, whatever comes out, which is all that entropies and the
  knowledge gradient take from the pending points but for the unknown shift of the mean; and
  for `ucb` it is GP-BUCB (Desautels, Krause, Burdick, arXiv:1206.6402). For improvement it forgets that a
  pending point may itself become the best, so `ei`, `bo` and `pbgi` in large batches stay nearer to the
  pending points than `qei` and `nei`. A draw of `ts` needs no belief, as draws differ by themselves; it has
  one so that points that are known to be pending are not drawn for what is unknown there.

In all of them failures count by the chance of success, outcome constraints by the chance to meet them,
and a hard budget by the chance that it lasts: added where the value is a logarithm or an index, multiplied
where it is positive. The best to improve upon, and the points among which optima are sampled or means
compared, are those that are likely to meet the constraints. Where no point that is known is, no
improvement is defined, and the value of every method is the chance alone (Gelbart et al., arXiv:1403.5607).

Nothing here is limited by a clock, so that the same study gives the same suggestion; instead the work
is bounded: by the number of samples and of candidates, which do not depend on the number of observations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from botorch.acquisition.analytic import UpperConfidenceBound
from botorch.acquisition.logei import qLogNoisyExpectedImprovement
from botorch.acquisition.max_value_entropy_search import qLowerBoundMaxValueEntropy
from botorch.models.deterministic import GenericDeterministicModel
from botorch.sampling.normal import SobolQMCNormalSampler
from torch import Tensor

from frugalbo.acquisition.budgeted_lookahead import plan
from frugalbo.acquisition.chances import Chance, log_chances
from frugalbo.acquisition.constrained_max_value import ConstrainedMaxValueEntropy
from frugalbo.acquisition.gittins import GittinsIndex, decayed_lambda
from frugalbo.acquisition.hard_budget import HardBudget
from frugalbo.acquisition.in_slate import priorities
from frugalbo.acquisition.joint_entropy import JointEntropySearch
from frugalbo.acquisition.joint_improvement import LogImprovementAdded
from frugalbo.acquisition.knowledge_gradient import DiscreteKnowledgeGradient
from frugalbo.acquisition.log_cost import learned_log_cost, learned_log_mean_cost
from frugalbo.acquisition.log_ei_per_cost import LogEIPerCost
from frugalbo.acquisition.predictive_entropy import PredictiveEntropySearch
from frugalbo.budget.cost_mixture import FittedCost
from frugalbo.models.constraint import ConstraintModel
from frugalbo.models.feasibility import FeasibilityGP
from frugalbo.models.objective import Objective
from frugalbo.models.target import PointModel, Target

Acquisition = Callable[[Tensor], Tensor]

_SAMPLES = 64  # of the posterior, for noisy expected improvement
_OPTIMA = 8  # sampled optima or maximal values, for the entropies
_BASELINE = 24  # the best points known, over which noisy expected improvement takes the maximum
_NOISY_BLOCK = 128
_TARGETS = 64  # the points whose means count for the knowledge gradient
_CANDIDATES = 512  # on which optima are sampled
_THOMPSON = 2048
_RIVALS = 8  # the best points known, which an optimum must exceed, for predictive entropy


@dataclass(frozen=True, slots=True)
class Situation:
    """What an acquisition may look at.

    Args:
        objective: Of losses, in which the pending points are believed.
        unbelieving: The same without them.
        pending: Points whose value is not known, m x d.
        pool: Points of the space that may be tried, k x d.
        cost: The cost model and the steps of a trial for it; None while nothing is known.
        alpha: How much the cost counts, for `bo`, and in what `bmsei` expects to do later.
        seed: Of samples.
        trials_left: How many trials the budget still has.
        constraints: Models of the outcome constraints of which something is known, believing as `objective` does.
        besides_s: The device-seconds that a trial is charged beside its own, as it is one of a limited number.
    """

    objective: Objective | Target
    unbelieving: Objective | Target
    pending: Tensor
    pool: Tensor
    cost: tuple[FittedCost, float] | None = None
    alpha: float = 1.0
    feasibility: FeasibilityGP | None = None
    hard_budget: HardBudget | None = None
    seed: int = 0
    trials_left: float = math.inf
    constraints: tuple[ConstraintModel, ...] = ()
    besides_s: float = 0.0

    @property
    def log_charge(self) -> GenericDeterministicModel | None:
        """The log of what a trial is charged, by the median of its own seconds; None while these are unknown."""
        return None if self.cost is None else learned_log_cost(*self.cost, self.besides_s)

    @property
    def chances(self) -> tuple[Chance, ...]:
        """What must come true for a trial to count."""
        return (*self.constraints, *self.chances_to_end)

    @property
    def chances_to_end(self) -> tuple[Chance, ...]:
        """What must come true for a trial to have a result, whether that meets the constraints or not."""
        return tuple(chance for chance in (self.feasibility, self.hard_budget) if chance is not None)

    def log_chances(self, X: Tensor) -> Tensor:
        """The log of the probability that all of `chances` come true, at b x 1 x d; shape b."""
        return log_chances(self.chances, X)

    def is_likely(self, X: Tensor) -> Tensor:
        """Which of the points `X` (m x d) are as likely as not to meet each outcome constraint; shape m."""
        likely = torch.ones(X.shape[0], dtype=torch.bool)
        with torch.no_grad():
            for constraint in self.constraints:
                likely &= constraint.is_likely(X.unsqueeze(-2))
        return likely

    def best(self) -> float | None:
        """The smallest posterior mean at any known point likely to meet the constraints; None if none is."""
        model = self.objective.model
        known = model.seen[self.is_likely(model.seen)]
        if not len(known):
            return None
        with torch.no_grad():
            return float(model.marginals(known).mean.min())


@dataclass(frozen=True, slots=True)
class Chosen:
    """An acquisition that is ready to be maximised.

    Args:
        value: From points one by one, b x 1 x d, to b.
        why: What there is to say of its settings.
        on_pool: The values on the situation's pool, if there are none elsewhere.
    """

    value: Acquisition
    why: dict[str, Any]
    on_pool: Tensor | None = None


def choose(name: str, situation: Situation) -> Chosen:
    """The acquisition of that name; what it samples is a function of the situation's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(situation.seed)
        if situation.best() is None:
            return _chance_alone(situation)
        return ACQUISITIONS[name](situation)


def choose_slate(name: str, situation: Situation, count: int) -> Chosen:
    """The order in which the pool fills a batch of `count`, as values on it; for the names in `SLATES`.

    Suggestions of a batch are then the best new points of the pool by these values, one after the other.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(situation.seed)
        if situation.best() is None:
            with torch.no_grad():
                values = situation.log_chances(situation.pool.unsqueeze(-2))
            return Chosen(situation.log_chances, {"stage": "feasibility"}, values)
        return SLATES[name](situation, count)


def _log_ei_per_cost(s: Situation) -> Chosen:
    return _priced(s, s.alpha)


def _log_ei(s: Situation) -> Chosen:
    return _priced(s, 0.0)


def _priced(s: Situation, alpha: float) -> Chosen:
    value = LogEIPerCost(
        s.objective.model,
        _best(s),
        s.log_charge,
        alpha,
        chances=s.chances,
        maximize=False,
    )
    return Chosen(value, {"alpha": round(alpha, 4)})


def _gittins(s: Situation) -> Chosen:
    """Costs are in units of the pool's typical one, improvements in standard deviations of what was seen."""
    X, model, best = s.pool.unsqueeze(-2), s.objective.model, _best(s)
    log_cost, level = None, 0.0
    if s.cost is not None and s.log_charge is not None:
        level = float(s.log_charge(X).median())
        log_cost = learned_log_mean_cost(*s.cost, s.besides_s, level=level)
    with torch.no_grad():
        probe = GittinsIndex(model, log_cost, chances=s.chances, maximize=False)
        log_ratio = LogEIPerCost(model, best, maximize=False)(X) - probe.log_expected_cost(X)
    price = decayed_lambda(math.exp(min(700.0, float(log_ratio.max()))))
    return Chosen(GittinsIndex(model, log_cost, price, chances=s.chances, maximize=False), {"lambda": price})


def _budgeted_lookahead(s: Situation) -> Chosen:
    found = plan(
        s.objective.model.negated(),
        -_best(s),
        s.pool,
        cost=s.cost,
        left_s=math.inf if s.hard_budget is None else s.hard_budget.left_s,
        left_trials=s.trials_left,
        alpha=s.alpha,
        chances=(*s.constraints, *(() if s.feasibility is None else (s.feasibility,))),
    )
    horizon = {"horizon_s": found.horizon} if math.isfinite(found.horizon) else {}
    return Chosen(found.value, {"depth": found.depth, **horizon})


def _noisy_ei(s: Situation) -> Chosen:
    model = s.unbelieving.model
    X = _likely(s, model.seen)
    if not len(X):
        return _chance_alone(s)  # only a pending point is likely to meet the constraints
    with torch.no_grad():
        best = model.marginals(X).mean.argsort()[:_BASELINE]
    value = qLogNoisyExpectedImprovement(
        model=model.negated(),
        X_baseline=X[best],
        sampler=SobolQMCNormalSampler(torch.Size([_SAMPLES]), seed=s.seed),
        X_pending=s.pending if len(s.pending) else None,
        prune_baseline=False,
    )

    def blocks(X: Tensor) -> Tensor:
        # Each point keeps its joint covariance with the baseline: 1 GB for a pool of a thousand at once.
        return torch.cat([value(block) for block in X.split(_NOISY_BLOCK)])

    return Chosen(lambda X: blocks(X) + s.log_chances(X), {})


def _joint_ei(s: Situation) -> Chosen:
    """Over the best mean of what is known; the pending points come in by what they may show."""
    model = s.unbelieving.model.negated()
    X = _likely(s, model.seen)
    if not len(X):
        return _chance_alone(s)  # only a pending point is likely to meet the constraints
    with torch.no_grad():
        best = float(model.marginals(X).mean.max())
    value = LogImprovementAdded(model, best, s.pending, draws=_SAMPLES, seed=s.seed)
    return Chosen(lambda X: value(X) + s.log_chances(X), {})


def _upper_confidence_bound(s: Situation) -> Chosen:
    """Beta as in Kandasamy, Schneider, Poczos, arXiv:1503.01673: 0.2 d log 2n."""
    n, d = s.objective.model.seen.shape
    beta = max(1.0, 0.2 * d * math.log(2 * n))
    value = UpperConfidenceBound(s.objective.model.negated(), beta=beta)
    return Chosen(lambda X: value(X) + s.log_chances(X), {"beta": round(beta, 4)})


def _knowledge_gradient(s: Situation) -> Chosen:
    model = s.objective.model.negated()
    with torch.no_grad():
        P = _likely(s, torch.cat([model.seen, s.pool]))
        best = model.marginals(P).mean.argsort(descending=True)
    return _positive(DiscreteKnowledgeGradient(model, P[best[:_TARGETS]]), s.chances)


def _max_value_entropy(s: Situation) -> Chosen:
    model = s.objective.model.negated()
    candidates = _candidates(s, model)
    if not s.constraints:
        value = qLowerBoundMaxValueEntropy(model, candidates, num_mv_samples=_OPTIMA)
        return _positive(value, s.chances)
    with torch.no_grad():
        values = _draws(model, candidates, _OPTIMA)
        for constraint in s.constraints:
            drawn = _draws(constraint.excess.model, candidates, _OPTIMA)
            values = torch.where(constraint.holds(drawn), values, -math.inf)
    best = values.max(dim=-1).values
    return _positive(ConstrainedMaxValueEntropy(model, s.constraints, best), s.chances_to_end)


def _joint_entropy(s: Situation) -> Chosen:
    model = s.objective.model.negated()
    candidates = _candidates(s, model)
    with torch.no_grad():
        best, where = _draws(model, candidates, _OPTIMA).max(dim=-1)
    return _positive(JointEntropySearch(model, candidates[where], best), s.chances)


def _predictive_entropy(s: Situation) -> Chosen:
    """The rivals of a sampled optimum are the other ones and the best points known."""
    model = s.objective.model.negated()
    X, candidates = _likely(s, model.seen), _candidates(s, model)
    with torch.no_grad():
        optima = candidates[_draws(model, candidates, _OPTIMA).argmax(dim=-1)]
        best = model.marginals(X).mean.argsort(descending=True)[:_RIVALS]
    rivals = torch.unique(torch.cat([optima, X[best]]), dim=0)
    return _positive(PredictiveEntropySearch(model, optima, rivals), s.chances)


def _thompson(s: Situation) -> Chosen:
    model, values = _chanced_draws(s, 1)
    return Chosen(lambda X: model.marginals(X.squeeze(-2)).mean, {}, values[0])


def _in_slate(s: Situation, count: int) -> Chosen:
    """The value is the place in the list of priorities, negated."""
    model, values = _chanced_draws(s, count)
    places = torch.empty(values.shape[-1], dtype=values.dtype)
    places[priorities(values)] = torch.arange(len(places), dtype=values.dtype)
    return Chosen(lambda X: model.marginals(X.squeeze(-2)).mean, {"draws": count}, 0.0 - places)


def _chanced_draws(s: Situation, count: int) -> tuple[PointModel, Tensor]:
    model, pool = s.objective.model.negated(), s.pool[:_THOMPSON]
    with torch.no_grad():
        return model, _draws(model, pool, count) + s.log_chances(pool.unsqueeze(-2))


ACQUISITIONS: dict[str, Callable[[Situation], Chosen]] = {
    "bo": _log_ei_per_cost,
    "pbgi": _gittins,
    "bmsei": _budgeted_lookahead,
    "ei": _log_ei,
    "logei": _log_ei,
    "qei": _joint_ei,
    "nei": _noisy_ei,
    "ucb": _upper_confidence_bound,
    "kg": _knowledge_gradient,
    "mes": _max_value_entropy,
    "jes": _joint_entropy,
    "pes": _predictive_entropy,
    "ts": _thompson,
}
# Those that choose all members of a batch together.
SLATES: dict[str, Callable[[Situation, int], Chosen]] = {"ts": _in_slate}


def _chance_alone(s: Situation) -> Chosen:
    return Chosen(s.log_chances, {"stage": "feasibility"})


def _best(s: Situation) -> float:
    best = s.best()
    assert best is not None  # `choose` asks for the chance alone where nothing is there to improve upon
    return best


def _likely(s: Situation, X: Tensor) -> Tensor:
    """Those of the points `X` (m x d) that are likely to meet the constraints."""
    return X[s.is_likely(X)]


def _candidates(s: Situation, model: PointModel) -> Tensor:
    """Of the likely points of the pool, which may be large, those likeliest to be a sampled optimum.

    Where the pool has no likely point, those that are known stand for it; `choose` has seen that there are some.
    """
    pool = _likely(s, s.pool)
    if not len(pool):
        pool = _likely(s, model.seen)
    with torch.no_grad():
        at = model.marginals(pool)
        bound = at.mean + 2 * at.variance.sqrt()
    return pool[bound.argsort(descending=True, stable=True)[:_CANDIDATES]]


def _positive(value: Acquisition, chances: tuple[Chance, ...]) -> Chosen:
    def chanced(X: Tensor) -> Tensor:
        v = value(X)
        # Estimates of what is positive may be slightly negative; those are left alone.
        return torch.where(v > 0, v * log_chances(chances, X).exp(), v)

    return Chosen(chanced, {})


def _draws(model: PointModel, X: Tensor, count: int) -> Tensor:
    """Joint samples of the function at `X` (m x d); count x m."""
    at = model.marginals(X)
    values, vectors = torch.linalg.eigh(model.covariance(at, at))
    # One after the other, so that the first draws are the same for any number of them.
    normal = torch.stack([torch.randn(X.shape[0], dtype=X.dtype) for _ in range(count)])
    # By the symmetric root, which hangs on the covariance continuously; the vectors' signs do not.
    return at.mean + ((normal @ vectors) * values.clamp_min(0).sqrt()) @ vectors.T
