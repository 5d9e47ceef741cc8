"""Acquisitions of ours in Ax's own modular BoTorch generator, by an input constructor.

    client.set_generation_strategy(modular_strategy("loss", minimize=True, method="pbgi"))

Ax 1.3.1 has input constructors for what it offers itself; for the Gittins index, improvement per cost, budgeted
lookahead, predictive entropy search and GIBBON's bound (`"mes"`) there is none. Here Ax does what it does: transforms,
deduplication, the search of its own optimizers. The surrogate and the acquisition are ours: the objective's and the
cost's model are fitted to the data that Ax has transformed, pending points are believed as everywhere here.

`generation_strategy` is the better way where it can be used: it also learns from failures and knows outcome
constraints and conditions. This one is for who needs another part of Ax's generator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from ax.adapter.registry import Generators, MBM_X_trans
from ax.generation_strategy.generation_node import GenerationNode
from ax.generation_strategy.generation_strategy import GenerationStrategy
from ax.generation_strategy.generator_spec import GeneratorSpec
from ax.generation_strategy.transition_criterion import MinTrials
from ax.generators.torch.botorch_modular.surrogate import SurrogateSpec
from ax.generators.torch.botorch_modular.utils import ModelConfig
from botorch.acquisition import AcquisitionFunction
from botorch.acquisition.input_constructors import acqf_input_constructor
from botorch.models.model import Model
from botorch.models.transforms.outcome import Standardize
from botorch.utils.datasets import SupervisedDataset
from botorch.utils.transforms import t_batch_mode_transform
from torch import Tensor

from frugalbo.acquisition.registry import ACQUISITIONS, SLATES, Situation, choose
from frugalbo.budget.amounts import Budget, Cost
from frugalbo.budget.ledger import Ledger
from frugalbo.errors import ModelError
from frugalbo.events import Ended, Outcome, Reported, Started
from frugalbo.integrations.ax.convert import COST_METRIC, NO_JOB
from frugalbo.metabo.acquisition import choose_metabo
from frugalbo.problem import Minimize, Problem
from frugalbo.propose import MethodError
from frugalbo.propose.evidence import Evidence
from frugalbo.propose.fit import Fitter
from frugalbo.propose.maximise import make_pool
from frugalbo.space import Float, Space
from frugalbo.study import Study

MODULAR = ("metabo", *(name for name in ACQUISITIONS if name not in SLATES))  # draws of `ts` live on a pool of ours
_MODEL_OF = 400
_METRIC = "loss"
_ANCHORS = 4


class FrugalAcquisition(AcquisitionFunction):
    """One of `MODULAR`, for one point at a time, over Ax's transformed parameters.

    Args:
        model: The objective's, ours; Ax's own is not used.
        situation: As `frugalbo.propose` would have it.
        method: One of `MODULAR`.
        bounds: Of the parameters, 2 x d.
    """

    def __init__(self, model: Model, situation: Situation, method: str, bounds: Tensor) -> None:
        super().__init__(model=model)
        self._value = (choose_metabo(situation) if method == "metabo" else choose(method, situation)).value
        self._low, self._span = bounds[0], bounds[1] - bounds[0]

    @t_batch_mode_transform(expected_q=1)  # type: ignore[arg-type]
    def forward(self, X: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Evaluate at points `X` of shape b x 1 x d; returns shape b."""
        return self._value((X - self._low) / self._span)


@acqf_input_constructor(FrugalAcquisition)
def construct_inputs(
    model: Model,
    training_data: SupervisedDataset | dict[Any, SupervisedDataset],
    bounds: list[tuple[float, float]],
    X_pending: Tensor | None = None,
    X_baseline: Tensor | None = None,
    objective: Any = None,  # noqa: ANN401 - Ax hands it on; the next ones too
    posterior_transform: Any = None,  # noqa: ANN401
    constraints: Any = None,  # noqa: ANN401
    constraints_tuple: Any = None,  # noqa: ANN401
    *,
    metric: str = _METRIC,
    minimize: bool = True,
    method: str = "pbgi",
    cost_metric: str = COST_METRIC,
    budget_s: float | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """What `FrugalAcquisition` is made of.

    Args:
        model: Ax's own, not used; nor are the next ones that say so.
        training_data: What Ax was told, untransformed values at transformed parameters.
        bounds: Of the parameters.
        X_pending: Points under way, m x d.
        X_baseline: Not used.
        objective: Not used.
        posterior_transform: Not used.
        constraints: Refused.
        constraints_tuple: Refused.
        metric: The objective's.
        minimize: Whether less of it is better.
        method: One of `MODULAR`.
        cost_metric: The metric of device-seconds; where it was not told, costs do not count.
        budget_s: Device-seconds in all, what the data cost included; None where they are not limited.
        seed: Of samples.

    Raises:
        ModelError: If there are outcome constraints, or no data of the metric.
    """
    del model, X_baseline, objective, posterior_transform
    refuse_constraints(constraints, constraints_tuple)
    data = by_metric(training_data, metric)
    box = torch.tensor(bounds, dtype=torch.float64).T
    study = _study(data, metric, minimize, cost_metric, box, budget_s)
    evidence = Evidence(study)
    fitter = Fitter(
        method, "cooling", None,
        hard_budget=budget_s is not None, feasibility=True, min_gain=None, model_of=_MODEL_OF, seed=seed,
    )  # fmt: skip
    fitted = fitter(study, evidence, lambda: None)
    pending = np.empty((0, box.shape[1])) if X_pending is None else _unit(X_pending, box)
    left_s = math.inf if study.ledger is None else study.ledger.balance()["device_seconds"].free
    number = len(study.trials) + len(pending)
    pool = make_pool(evidence.points, evidence.best(_ANCHORS), np.random.default_rng([seed, number]))
    situation = fitted.situation(pool, pending, left_s, seed + number)
    return {"model": fitted.objective.model, "situation": situation, "method": method, "bounds": box}


def modular_strategy(
    metric: str,
    *,
    minimize: bool,
    method: str = "pbgi",
    cost_metric: str = COST_METRIC,
    budget_s: float | None = None,
    seed: int = 0,
    initial: int = 5,
) -> GenerationStrategy:
    """A few Sobol points, then Ax's modular generator with an acquisition of ours; see `construct_inputs`.

    Raises:
        MethodError: If there is no such method here.
    """
    if method not in MODULAR:
        raise MethodError(f"unknown method {method!r}; expected one of {', '.join(MODULAR)}")
    options = {"metric": metric, "minimize": minimize, "method": method, "cost_metric": cost_metric}
    options |= {"budget_s": budget_s, "seed": seed}
    return sobol_then(FrugalAcquisition, options, f"frugalbo:modular:{method}", seed, initial)


def sobol_then(
    acquisition: type[AcquisitionFunction], options: Mapping[str, Any], name: str, seed: int, initial: int
) -> GenerationStrategy:
    """A few Sobol points, then Ax's modular generator with that acquisition and its input constructor's options."""
    sobol = GenerationNode(
        "sobol",
        [GeneratorSpec(Generators.SOBOL, generator_kwargs={"seed": seed})],
        transition_criteria=[MinTrials(threshold=initial, transition_to="frugalbo", use_all_trials_in_exp=True)],
    )
    spec = GeneratorSpec(
        Generators.BOTORCH_MODULAR,
        # Without Ax's transforms of outcomes: the logarithm of a cost is taken of the cost itself.
        generator_kwargs={
            "transforms": list(MBM_X_trans),
            "surrogate_spec": SurrogateSpec(model_configs=[ModelConfig(outcome_transform_classes=[Standardize])]),
            "botorch_acqf_class": acquisition,
            "botorch_acqf_options": dict(options),
        },
    )
    return GenerationStrategy(name=name, nodes=[sobol, GenerationNode("frugalbo", [spec])])


def refuse_constraints(*constraints: object) -> None:
    """Refuse what Ax hands on of outcome constraints.

    Raises:
        ModelError: If that is anything.
    """
    if any(constraint is not None for constraint in constraints):
        raise ModelError("outcome constraints are not known here: use frugalbo.integrations.ax.generation_strategy")


def by_metric(
    training_data: SupervisedDataset | dict[Any, SupervisedDataset], metric: str
) -> dict[Any, SupervisedDataset]:
    """What Ax was told, by metric.

    Raises:
        ModelError: If the metric is not among it.
    """
    data = (
        training_data if isinstance(training_data, dict) else dict.fromkeys(training_data.outcome_names, training_data)
    )
    if metric not in data:
        raise ModelError(f"expected data of {metric!r}, got data of {', '.join(map(str, data))}")
    return data


def values_of(dataset: SupervisedDataset, metric: str) -> tuple[Tensor, Tensor]:
    """Points as Ax has them, n x d, and what was told there, n."""
    return dataset.X, dataset.Y[:, list(dataset.outcome_names).index(metric)]


def _study(
    data: dict[Any, SupervisedDataset],
    metric: str,
    minimize: bool,
    cost_metric: str,
    box: Tensor,
    budget_s: float | None,
) -> Study:
    """The data as trials in the unit cube, whose parameters are Ax's transformed ones."""
    names = [f"x{i}" for i in range(box.shape[1])]
    problem = Problem("ax", Space({name: Float(0.0, 1.0) for name in names}), NO_JOB, Minimize(_METRIC))
    study = Study(problem, None if budget_s is None else Ledger(Budget(device_seconds=budget_s)))
    seconds: dict[tuple[float, ...], float] = {}
    if cost_metric in data:
        X, Y = values_of(data[cost_metric], cost_metric)
        seconds = {tuple(x): float(y) for x, y in zip(_unit(X, box).tolist(), Y, strict=True)}
    X, Y = values_of(data[metric], metric)
    for i, (u, y) in enumerate(zip(_unit(X, box).tolist(), Y, strict=True)):
        used = Cost(device_seconds=max(0.0, seconds.get(tuple(u), 0.0)))
        study.apply(Started(i, 0, dict(zip(names, u, strict=True)), 0, 1, 1, Cost(), "ax", 0.0))
        study.apply(Reported(i, 0, 1, {_METRIC: float(y) if minimize else -float(y)}, 0.0))
        study.apply(Ended(i, 0, Outcome.COMPLETED, used, 0.0))
    return study


def _unit(X: Tensor, box: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    return ((X.detach().double() - box[0]) / (box[1] - box[0])).clamp(0.0, 1.0).numpy()
