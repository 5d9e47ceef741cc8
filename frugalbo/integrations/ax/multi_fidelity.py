"""The knowledge gradient per learned cost in Ax's own generator: what to run next, and how long.

    epochs = RangeParameter("epochs", ParameterType.INT, 1, 81, log_scale=True, is_fidelity=True, target_value=81)
    client.set_experiment(Experiment(SearchSpace([..., epochs]), name="runs"))
    client.configure_optimization("-loss")
    client.set_generation_strategy(multi_fidelity_strategy(client))

Ax's `qMultiFidelityKnowledgeGradient` divides by a cost that is affine in the fidelity, with weights that the user
must know, whatever the other parameters are. Here the cost is learned from the tracked cost metric: of a run of the
share `s` of the full length at `x` it is `start-up + s exp(r(x))`, with `r` a Gaussian process
(`frugalbo.budget.cost_process`). The surrogate is `frugalbo.models.multi_fidelity`, the acquisition the closed form
of `frugalbo.acquisition.cross_kg`; Ax transforms, searches and stores, as in `frugalbo.integrations.ax.acquisition`.

Deviation from Ax's: the model is fitted to runs of every length, of which a fidelity of 0 is none, so its lower
bound must be above 0, and its target must be its upper bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ax.api.client import Client
from ax.core.experiment import Experiment
from ax.core.parameter import RangeParameter
from ax.generation_strategy.generation_strategy import GenerationStrategy
from botorch.acquisition import AcquisitionFunction
from botorch.acquisition.input_constructors import acqf_input_constructor
from botorch.models.model import Model
from botorch.utils.datasets import SupervisedDataset
from botorch.utils.transforms import t_batch_mode_transform
from torch import Tensor

from frugalbo.acquisition.cross_kg import CrossKnowledgeGradient
from frugalbo.acquisition.multi_fidelity import learned_log_cost_at, multi_fidelity_kg
from frugalbo.budget.cost_process import Segments, fit_process
from frugalbo.errors import SpaceError
from frugalbo.integrations.ax.acquisition import by_metric, refuse_constraints, sobol_then, values_of
from frugalbo.integrations.ax.convert import COST_METRIC, NO_JOB, experiment_of, single_metric
from frugalbo.models.multi_fidelity import fit_multi_fidelity
from frugalbo.problem import Minimize, Problem
from frugalbo.space import Float, Space

_CANDIDATES = 256  # of which those with the smallest means may be the best


@dataclass(frozen=True, slots=True)
class Looks:
    """Ax's transformed points as looks: unit points, then the share of a full run.

    Args:
        bounds: Of Ax's parameters, 2 x (d + 1).
        column: The fidelity's.
        target: The fidelity of a full run, as Ax has transformed it.
        is_log: Whether that is the logarithm to base 10.
    """

    bounds: Tensor
    column: int
    target: float
    is_log: bool

    def __call__(self, X: Tensor) -> Tensor:
        """From ... x (d + 1) to the same with the share last."""
        others = [i for i in range(X.shape[-1]) if i != self.column]
        low, high = self.bounds.to(X)[:, others]
        fidelity = X[..., [self.column]]
        share = 10 ** (fidelity - self.target) if self.is_log else fidelity / self.target
        return torch.cat([(X[..., others] - low) / (high - low), share], dim=-1)


class KnowledgeGradientPerCost(AcquisitionFunction):
    """`CrossKnowledgeGradient` over Ax's transformed parameters, one look at a time."""

    def __init__(self, model: Model, gradient: CrossKnowledgeGradient, looks: Looks) -> None:
        super().__init__(model=model)
        self.gradient, self.looks = gradient, looks

    @t_batch_mode_transform(expected_q=1)  # type: ignore[arg-type]
    def forward(self, X: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Evaluate at looks `X` of shape b x 1 x (d + 1); returns shape b."""
        return self.gradient(self.looks(X))


@acqf_input_constructor(KnowledgeGradientPerCost)
def construct_inputs(
    model: Model,
    training_data: SupervisedDataset | dict[Any, SupervisedDataset],
    bounds: list[tuple[float, float]],
    target_fidelities: dict[int, float],
    X_pending: Tensor | None = None,
    X_baseline: Tensor | None = None,
    objective: Any = None,  # noqa: ANN401 - Ax hands it on; the next ones too
    posterior_transform: Any = None,  # noqa: ANN401
    constraints: Any = None,  # noqa: ANN401
    constraints_tuple: Any = None,  # noqa: ANN401
    *,
    metric: str,
    minimize: bool,
    is_log: bool = False,
    cost_metric: str = COST_METRIC,
    seed: int = 0,
) -> dict[str, Any]:
    """What `KnowledgeGradientPerCost` is made of.

    Args:
        model: Ax's own, not used; nor are the next ones that say so.
        training_data: What Ax was told, untransformed values at transformed parameters.
        bounds: Of the parameters.
        target_fidelities: The fidelity's column, and what a full run has there.
        X_pending: Looks under way, m x (d + 1).
        X_baseline: Not used.
        objective: Not used.
        posterior_transform: Not used.
        constraints: Refused.
        constraints_tuple: Refused.
        metric: The objective's.
        minimize: Whether less of it is better.
        is_log: Whether the fidelity is on a log scale.
        cost_metric: The metric of device-seconds; where it was not told, all looks cost the same.
        seed: Of the points among which the best is sought.

    Raises:
        ModelError: If there are outcome constraints, or no data of the metric.
    """
    del model, X_baseline, objective, posterior_transform
    refuse_constraints(constraints, constraints_tuple)
    data = by_metric(training_data, metric)
    ((column, target),) = target_fidelities.items()
    looks = Looks(torch.tensor(bounds, dtype=torch.float64).T, column, target, is_log)
    X, Y = values_of(data[metric], metric)
    seen = looks(X.double()).numpy()
    runs = fit_multi_fidelity(seen[:, :-1].clip(0, 1), seen[:, -1], (Y if minimize else -Y).numpy())
    log_cost = _log_cost(looks, *values_of(data[cost_metric], cost_metric)) if cost_metric in data else None
    A = torch.quasirandom.SobolEngine(runs.d, scramble=True, seed=seed).draw(_CANDIDATES).double()
    pending = None if X_pending is None else looks(X_pending.double())
    return {"model": runs.model, "gradient": multi_fidelity_kg(runs, log_cost, A, pending), "looks": looks}


def multi_fidelity_strategy(
    experiment: Experiment | Client, *, cost_metric: str = COST_METRIC, seed: int = 0, initial: int = 5
) -> GenerationStrategy:
    """A few Sobol points of any fidelity, then the knowledge gradient per learned cost.

    Args:
        experiment: Or its client; with one fidelity parameter, and one metric as objective.
        cost_metric: The tracking metric with each run's device-seconds.
        seed: Of the Sobol points, and of those among which the best is sought.
        initial: Trials before the model is asked.

    Raises:
        SpaceError: If the fidelity is not one range above 0 up to its target.
        ProblemError: If the objective is not a single metric.
    """
    experiment = experiment_of(experiment)
    metric, minimize = single_metric(experiment)
    found = [p for p in experiment.search_space.parameters.values() if p.is_fidelity]
    fidelity = found[0] if len(found) == 1 else None
    if not isinstance(fidelity, RangeParameter):
        raise SpaceError(f"expected one fidelity, a range, got {[p.name for p in found] or 'none'}")
    if fidelity.lower <= 0 or fidelity.target_value != fidelity.upper:
        got = f"{fidelity.lower} to {fidelity.upper}, target {fidelity.target_value}"
        raise SpaceError(f"expected the fidelity {fidelity.name!r} above 0 and up to its target, got {got}")
    options = {"metric": metric, "minimize": minimize, "is_log": fidelity.log_scale, "cost_metric": cost_metric}
    return sobol_then(KnowledgeGradientPerCost, options | {"seed": seed}, "frugalbo:multi-fidelity", seed, initial)


def _log_cost(looks: Looks, X: Tensor, seconds: Tensor) -> Model | None:
    """The log of what a look costs, learned from those that were told; None where none was."""
    told = seconds > 0
    if not bool(told.any()):
        return None
    seen = looks(X[told].double()).numpy()
    U, share, d = seen[:, :-1].clip(0, 1), seen[:, -1], seen.shape[1] - 1
    no = np.zeros(len(seen), dtype=bool)
    problem = Problem("ax", Space({f"x{i}": Float(0.0, 1.0) for i in range(d)}), NO_JOB, Minimize("loss"))
    fitted = fit_process(problem, Segments(U, share, seconds[told].double().numpy(), no, no))
    return None if fitted is None else learned_log_cost_at(fitted, 1.0, d)
