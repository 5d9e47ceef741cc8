"""What the network would try next, weighed against the Gaussian process by evidence on the task at hand.

Value of a point: `log(p EI_network + (1 - p) EI_process) - alpha log cost + log P(it counts)`. That is the log
expected improvement of the mixture of both models, the network's in closed form on its buckets; cost, failures,
constraints and the hard budget are as for `bo` (`frugalbo.acquisition.log_ei_per_cost`). Both see the same
outcomes, with the pending points believed at the process's mean.

The weight `p` of the network has the log odds

    sum over i of clip(log P_network(|y - y_i| < 0.05 | others) - log P_process(|y - y_i| < 0.05 | others), +-3)

the pseudo-likelihood ratio of leave-one-out predictions (Geisser and Eddy, A predictive approach to model
selection, 1979), in standard deviations of the outcomes. Each counts for 3 at most, so that no single outlier decides,
and a hit is one within 0.05, so that results that are equal (plateaus) do not reward whoever believes in no
noise at all without bound. So where the task is outside what the network has seen, the process takes over after a few
results. The process is fitted anew without each: with the hyperparameters of all results it would be
flattered while there are few. Deviation: of more than `_LEFT_OUT` results, so many are left out, evenly spread, and
the others do not count.

Where earlier studies of the same or a similar space are known (`frugalbo.metabo.past`), their model is the third of
the mixture, weighed against the process in the same way, with the odds `_PAST_ODDS` before anything is seen: who keeps
studies expects them to be alike.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood
from numpy.typing import NDArray
from torch import Tensor

from frugalbo.acquisition.log_ei_per_cost import LogEIPerCost
from frugalbo.acquisition.registry import Chosen, Situation, choose
from frugalbo.errors import FrugalWarning, ModelError
from frugalbo.metabo.bars import Prediction
from frugalbo.metabo.past import Past, PastModel
from frugalbo.metabo.policy import BudgetPolicy, Spending
from frugalbo.metabo.universal import Fit, Universal
from frugalbo.metabo.weights import shipped
from frugalbo.models.kernel import lengthscale_prior
from frugalbo.models.map_fit import fit_map
from frugalbo.models.objective import Objective, ObjectiveGP

_LEFT_OUT = 12
_CLIP = 3.0
_HIT = 0.05
_PAST_ODDS = 3.0  # that the past holds, against the process
_LEAST_CHANCE = 1e-6  # what single precision tells from 0
_LEAST = 3  # results before one can be left out


def choose_metabo(
    situation: Situation,
    network: Universal | None = None,
    past: Past | None = None,
    policy: BudgetPolicy | None = None,
) -> Chosen:
    """The acquisition that is `metabo`, ready to be maximised; that of `bo` where the network cannot be asked.

    Args:
        situation: What it may look at.
        network: By default the one that comes with the package.
        past: Earlier studies, as seen from this space.
        policy: What weighs improvements and costs where a budget of seconds or money is limited; `alpha` is then the
            share of it that is left. By default, and as long as nothing is known of costs, `alpha log cost` does.
    """
    best = situation.best()
    if best is None:
        return choose("bo", situation)  # the chance to meet the constraints alone
    objective, unbelieving = situation.objective, situation.unbelieving
    if not isinstance(objective, Objective) or not isinstance(unbelieving, Objective):
        raise ModelError("expected a model of points alone for metabo, got one of several conditions")
    network = network or shipped()
    varies = _varying(situation)
    problem = _cannot_answer(network, len(varies), len(objective.model.train_targets))
    if problem and past is None:
        chosen = choose("bo", situation)
        return Chosen(chosen.value, {**chosen.why, "network": 0.0, "network_because": problem})
    asked = None if problem else network
    earlier = None if past is None else _past_model(past, objective)
    p = weights(asked, unbelieving, varies, None if past is None else _past_model(past, unbelieving))
    fit = None if asked is None else _read(asked, objective, varies)
    process = LogEIPerCost(objective.model, best, maximize=False)

    def improvement(X: Tensor) -> tuple[Tensor, Prediction | None]:
        said, answer = [p[0].log() + process(X)], None
        if fit is not None:
            answer = network.answer(fit, X[:, 0, varies].unsqueeze(0), observed=False)  # 1 x b
            said.append(p[1].log() + answer.log_improvement(best)[0].to(X))
        if earlier is not None:
            said.append(p[2].log() + earlier.log_improvement(X[:, 0], best))
        return torch.logsumexp(torch.stack(said), dim=0), answer

    spending = None if policy is None else _spending(policy, situation, best, improvement)
    priced = _pricing(situation, spending)

    def value(X: Tensor) -> Tensor:
        return priced(X, *improvement(X)) + situation.log_chances(X)

    why: dict[str, Any] = {"alpha": round(situation.alpha, 4), "network": round(float(p[1]), 4)}
    if spending is not None:
        why["policy"] = "budget"
    if problem:
        why["network_because"] = problem
    if earlier is not None:
        why |= {"past": round(float(p[2]), 4), "past_studies": earlier.counted()}
    return Chosen(value, why)


def _pricing(situation: Situation, spending: Spending | None) -> Callable[[Tensor, Tensor, Prediction | None], Tensor]:
    """What points (b x 1 x d) are worth at their price, with their log improvement and the network's answer."""
    log_cost = situation.log_charge

    def priced(X: Tensor, log_improvement: Tensor, answer: Prediction | None) -> Tensor:
        if log_cost is not None and spending is not None and answer is not None:
            return spending(answer, log_improvement, log_cost(X)[..., 0, 0])
        if log_cost is not None and situation.alpha > 0:
            return log_improvement - situation.alpha * log_cost(X)[..., 0, 0]
        return log_improvement

    return priced


def _spending(
    policy: BudgetPolicy,
    situation: Situation,
    best: float,
    improvement: Callable[[Tensor], tuple[Tensor, Prediction | None]],
) -> Spending | None:
    """The policy among the points of the pool; None where no budget or no cost is known, or no network is asked."""
    budget, log_cost, pool = situation.hard_budget, situation.log_charge, situation.pool
    if budget is None or log_cost is None:
        return None
    X = pool.unsqueeze(-2)
    with torch.no_grad():
        mixed, answer = improvement(X)
        if answer is None:
            return None
        seen = len(situation.objective.model.seen)
        allowed = torch.from_numpy(budget.allows(pool.numpy()))
        spending = Spending(policy, math.log(budget.left_s), situation.alpha, seen, best)
        return spending.beside(answer, mixed, log_cost(X)[..., 0, 0], allowed)


def weights(network: Universal | None, objective: Objective, varies: Tensor, past: PastModel | None) -> Tensor:
    """How much the process, the network and the past count on this task; what is not there counts for nothing."""
    n = len(objective.model.train_targets)
    odds = torch.tensor([0.0, -math.inf if network is None else 0.0, -math.inf], dtype=torch.float64)
    if past is not None:
        odds[2] = math.log(_PAST_ODDS)
    if n >= _LEAST:
        left_out = torch.linspace(0, n - 1, min(n, _LEFT_OUT)).round().long()
        theirs = _log(process_chances(objective, len(varies), left_out))
        if network is not None:
            mine = _log(network_chances(network, objective, varies, left_out))
            odds[1] += (mine - theirs).clamp(-_CLIP, _CLIP).sum()
        if past is not None:
            odds[2] += (_log(past.chances(left_out, _HIT)) - theirs).clamp(-_CLIP, _CLIP).sum()
    there = odds > -math.inf
    p = odds.softmax(0)
    # None is ever out of the question, and a logarithm of 0 has no gradient.
    p = torch.where(there, p.clamp_min(_LEAST_CHANCE), 0.0)
    return p / p.sum()


def weight(network: Universal, objective: Objective, varies: Tensor) -> Tensor:
    """How much the network counts where nothing is known of the past, in (0, 1); without dimensions."""
    return weights(network, objective, varies, None)[1]


def _log(chances: Tensor) -> Tensor:
    return chances.clamp_min(_LEAST_CHANCE).log()


def _past_model(past: Past, objective: Objective) -> PastModel:
    with torch.no_grad():
        return PastModel(past, objective.model.seen, objective.model.train_targets)


def network_chances(network: Universal, objective: Objective, varies: Tensor, left_out: Tensor) -> Tensor:
    """The network's probability of a hit for each of some results, given all others; in float64."""
    X, y = objective.model.train_inputs[0][:, varies], objective.model.train_targets
    n = len(y)
    others = torch.arange(n - 1).expand(len(left_out), -1)
    others = others + (others >= left_out.unsqueeze(-1))
    with torch.no_grad():
        known = _known_noise(objective)
        told, there = (None, None) if known is None else (known[others], known[left_out].unsqueeze(1))
        fit = network.read(X[others], y[others], _categorical(objective, varies), told)
        prediction = network.answer(fit, X[left_out].unsqueeze(1), observed=True, known=there)
        at = y[left_out].unsqueeze(-1).to(prediction.logits)
        return (prediction.cdf(at + _HIT) - prediction.cdf(at - _HIT))[:, 0].double()


def process_chances(objective: Objective, searched: int, left_out: Tensor) -> Tensor:
    """The same of the Gaussian process, fitted to the others each time."""
    model, found = objective.model, []
    X, y, kernel = model.train_inputs[0], model.train_targets, model.covar_module
    given = _known_noise(objective)
    categorical = tuple(int(i) for i in kernel.categorical.nonzero().flatten())
    for i in left_out.tolist():
        rest = torch.arange(len(y)) != i
        noise = None if given is None else given[rest].numpy()
        fitted = fit_map(
            X[rest].numpy(), y[rest].numpy(), categorical, lengthscale_prior(max(1, searched)), kernel.groups,
            kernel=kernel.family, noise=noise, start=objective.fit,
        )  # fmt: skip
        without = ObjectiveGP(X[rest], y[rest, None], categorical, 1, kernel.groups, kernel.family, _as_tensor(noise))
        without.set_hyperparameters(fitted)
        at = without.marginals(X[i : i + 1])
        normal = torch.distributions.Normal(
            at.mean, (at.variance + (without.noise if given is None else given[i])).sqrt()
        )
        found.append(normal.cdf(y[i] + _HIT) - normal.cdf(y[i] - _HIT))
    return torch.cat(found)


def _as_tensor(noise: NDArray[np.float64] | None) -> Tensor | None:
    return None if noise is None else torch.from_numpy(noise)


def _read(network: Universal, objective: Objective, varies: Tensor) -> Fit:
    model, known = objective.model, _known_noise(objective)
    X, y = model.train_inputs[0][None][..., varies], model.train_targets[None]
    with torch.no_grad():
        return network.read(X, y, _categorical(objective, varies), None if known is None else known[None])


def _known_noise(objective: Objective) -> Tensor | None:
    """The variance of each result's noise as the model sees it, n; None where it is not known."""
    likelihood = objective.model.likelihood
    return likelihood.noise if isinstance(likelihood, FixedNoiseGaussianLikelihood) else None


def _categorical(objective: Objective, varies: Tensor) -> Tensor:
    return objective.model.covar_module.categorical.bool()[varies]


def _varying(situation: Situation) -> Tensor:
    """The dimensions in which points differ at all."""
    X = torch.cat([situation.pool, situation.objective.model.seen])
    return (X.amax(0) > X.amin(0)).nonzero().flatten()


def _cannot_answer(network: Universal, dims: int, seen: int) -> str:
    """Why the process alone is asked, if so."""
    if dims > network.shape.most_dims:
        problem = f"the network of metabo knows at most {network.shape.most_dims} dimensions, the space has {dims}"
        warnings.warn(
            f"{problem}; the Gaussian process alone was asked, as with method='bo'", FrugalWarning, stacklevel=5
        )
        return problem
    if dims == 0 or seen > network.shape.most_seen:
        return f"the network was trained for at most {network.shape.most_seen} results"
    return ""
