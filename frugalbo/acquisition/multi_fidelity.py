"""Acquisitions over points and fidelities, with costs that were learned: what to run next, and how long.

    kg = multi_fidelity_kg(runs, log_cost, A=points)       # closed form, for any search; the default
    kg = one_shot_kg(runs, log_cost)                       # BoTorch's qMultiFidelityKnowledgeGradient, q >= 1
    mes = multi_fidelity_mes(runs, log_cost, candidates=points)   # BoTorch's GIBBON over fidelities

All are to be maximised over (x, s), x in the unit cube and s as in the model (`runs.project` says
which columns). `log_cost` is any model of the log of the cost over the same inputs; from our cost
model: `learned_log_cost_at(fitted, full_steps)`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from botorch.acquisition.cost_aware import InverseCostWeightedUtility
from botorch.acquisition.knowledge_gradient import qMultiFidelityKnowledgeGradient
from botorch.acquisition.max_value_entropy_search import qMultiFidelityLowerBoundMaxValueEntropy
from botorch.acquisition.objective import GenericMCObjective
from botorch.models.deterministic import GenericDeterministicModel
from botorch.models.model import Model
from botorch.sampling.normal import SobolQMCNormalSampler
from torch import Tensor

from frugalbo.acquisition.cross_kg import CrossKnowledgeGradient
from frugalbo.acquisition.log_cost import feature_tensor, mixture
from frugalbo.budget.cost_mixture import FittedCost
from frugalbo.models.multi_fidelity import MultiFidelity
from frugalbo.models.view import LinearView

_FANTASIES = 8
_MOST_FANTASIES = 16
_MAX_VALUES = 10
_CANDIDATES = 256
_TARGETS = 100


def multi_fidelity_kg(
    runs: MultiFidelity, log_cost: Model | None = None, A: Tensor | None = None, pending: Tensor | None = None
) -> CrossKnowledgeGradient:
    """The log of the knowledge gradient per cost, in closed form, for one look at a time.

    Args:
        runs: The fitted model of losses.
        log_cost: The log of what a look at (x, s) costs; None where all cost the same.
        A: Further points that may be best (m x d), beside those seen. Of all, the 100 with the smallest mean count.
        pending: Looks under way, m x (d + k), believed to come out at their means.
    """
    target = _believing(runs, pending)
    seen = runs.model.train_inputs[0][:, : runs.d].unique(dim=0)
    points = seen if A is None else torch.cat([seen, A.to(seen)])
    with torch.no_grad():
        order = target.moments(points.unsqueeze(-2))[0].squeeze(-1).argsort()
    return CrossKnowledgeGradient(target, points[order[:_TARGETS]], log_cost, maximize=False)


def one_shot_kg(
    runs: MultiFidelity,
    log_cost: Model | None = None,
    pending: Tensor | None = None,
    *,
    fantasies: int = _FANTASIES,
    seed: int = 0,
) -> qMultiFidelityKnowledgeGradient:
    """BoTorch's knowledge gradient over fidelities, with a current value so that dividing by the cost is right.

    Its `forward` is one-shot: maximise it with `botorch.optim.optimize_acqf`.

    Args:
        runs: The fitted model of losses.
        log_cost: The log of what a look costs; None where all cost the same.
        pending: Looks under way, m x (d + k).
        fantasies: How many; time and memory are proportional to it.
        seed: Of the fantasies.

    Raises:
        ValueError: If `fantasies` is not in 1 to 16.
    """
    if not 1 <= fantasies <= _MOST_FANTASIES:
        raise ValueError(f"expected 1 to {_MOST_FANTASIES} fantasies, got {fantasies}")
    sampler = SobolQMCNormalSampler(torch.Size([fantasies]), seed=seed)
    return qMultiFidelityKnowledgeGradient(
        model=runs.model.negated(),
        num_fantasies=fantasies,
        sampler=sampler,
        X_pending=pending,
        current_value=torch.tensor(-runs.best(), dtype=torch.float64),
        cost_aware_utility=per_cost(log_cost),
        project=runs.project,
    )


def multi_fidelity_mes(
    runs: MultiFidelity,
    log_cost: Model | None = None,
    candidates: Tensor | None = None,
    pending: Tensor | None = None,
    *,
    seed: int = 0,
) -> qMultiFidelityLowerBoundMaxValueEntropy:
    """BoTorch's max-value entropy search over fidelities, by GIBBON's bound: information on the best value per cost.

    Args:
        runs: The fitted model of losses.
        log_cost: The log of what a look costs; None where all cost the same.
        candidates: Points among which the best value is sampled, m x d; by default 256 Sobol points of the cube.
        pending: Looks under way, m x (d + k).
        seed: Of the samples of the best value.
    """
    if candidates is None:
        candidates = torch.quasirandom.SobolEngine(runs.d, scramble=True, seed=seed).draw(_CANDIDATES)
    if pending is not None and len(pending) == 0:
        pending = None
    full = torch.cat([candidates.double(), torch.ones(len(candidates), len(runs.target_features))], dim=-1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        value = qMultiFidelityLowerBoundMaxValueEntropy(
            runs.model.negated(),
            runs.project(full),
            num_mv_samples=_MAX_VALUES,
            cost_aware_utility=per_cost(log_cost),
            project=runs.project,
        )
    # BoTorch 0.18.1 drops the pending points that its constructor is given.
    value.set_X_pending(pending)
    return value


def per_cost(log_cost: Model | None) -> InverseCostWeightedUtility:
    """BoTorch's utility per cost, for a model of the logarithm of the cost; None where all cost the same."""
    model: Any = log_cost if log_cost is not None else GenericDeterministicModel(lambda X: torch.zeros_like(X[..., :1]))
    # The utility adds up over q itself; the objective takes ... x q x 1 to ... x q.
    return InverseCostWeightedUtility(model, cost_objective=GenericMCObjective(lambda Y, X=None: Y.squeeze(-1).exp()))


def learned_log_cost_at(fitted: FittedCost, full_steps: float, d: int) -> GenericDeterministicModel:
    """The log of the median seconds of a run of `s * full_steps` steps, over (x, s).

    Start-up is paid whole however short the run: that is what makes very short runs dear for what they tell.

    Args:
        fitted: The cost model of `frugalbo.budget.cost`.
        full_steps: The steps of a full run.
        d: The dimensions of x; the fidelity is the column after them, and any others are of no account.
    """
    weight, log_startup = mixture(fitted)

    def log_seconds(X: Tensor) -> Tensor:
        steps = math.log(full_steps) + X[..., d : d + 1].log()
        rest = fitted.log_rest(feature_tensor(fitted.features, X[..., :d]), torch) + steps  # ... x C
        return (torch.logaddexp(rest, log_startup) @ weight).unsqueeze(-1)

    return GenericDeterministicModel(log_seconds)


def _believing(runs: MultiFidelity, pending: Tensor | None) -> LinearView:
    """The target with pending looks at their means: more data, the same hyperparameters."""
    if pending is None or len(pending) == 0:
        return runs.target
    model = runs.model
    with torch.no_grad():
        believed = model.mean(pending)
    return LinearView(model.with_data(pending, believed), runs.target.features)
