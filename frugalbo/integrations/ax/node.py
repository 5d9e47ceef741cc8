"""Our methods as a node of an Ax generation strategy.

    client.set_generation_strategy(generation_strategy(method="auto", budget="2 GPU-hours"))

The node keeps nothing between calls: for each suggestion it reads the experiment as a study (`convert.from_ax`) and
asks the proposer of that name. So what Ax's JSON and SQL stores keep of it is its arguments, and an experiment that
was saved and loaded goes on with the same suggestions. Pending points are running trials, as everywhere here.

With a budget it weighs improvements against costs, suggests nothing that the rest does not pay for, and ends the
strategy (`GenerationStrategyCompleted`, on which Ax's orchestrator ends too) when nothing is affordable, nothing is
worth its price, or the space is exhausted. Costs are those of the experiment's cost metric.

`get_next_trials(fixed_parameters=...)` chooses among some thousand configurations with these values, half of them
near the best known; what is learned is learned from all trials.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ax.adapter.base import Adapter
from ax.adapter.registry import Generators
from ax.core.arm import Arm
from ax.core.data import Data
from ax.core.experiment import Experiment
from ax.core.generator_run import GeneratorRun
from ax.core.observation import ObservationFeatures
from ax.core.trial import Trial as AxTrial
from ax.core.types import TParameterization
from ax.exceptions.generation_strategy import GenerationStrategyCompleted
from ax.generation_strategy.external_generation_node import ExternalGenerationNode
from ax.generation_strategy.generation_strategy import GenerationStrategy
from ax.generation_strategy.transition_criterion import TransitionCriterion
from ax.storage.json_store.decoder import object_from_json

from frugalbo.budget.afford import Quote, Refusal, quote
from frugalbo.budget.amounts import Budget, Cost
from frugalbo.budget.cost import cost_model
from frugalbo.budget.stated import StatedCost
from frugalbo.budget.worth import MinGain
from frugalbo.errors import BudgetError, SpaceError, StudyError
from frugalbo.events import Started
from frugalbo.integrations.ax.convert import COST_METRIC, check_counted, from_ax, problem_of
from frugalbo.integrations.ax.record import KEY, SLOT, recorded, rows_of
from frugalbo.propose import LIGHT, METHODS, MethodError, Proposer, make_proposer
from frugalbo.propose.bo import BayesianProposer
from frugalbo.propose.evidence import Evidence
from frugalbo.propose.listed import Listed
from frugalbo.propose.maximise import make_pool
from frugalbo.slot import Slot
from frugalbo.space import Params, Space, Value
from frugalbo.study import Study

_ANCHORS = 4  # the best known, near which half of the configurations with fixed parameters lie
_CONFIDENCE = 0.995  # as in `fb.tune`: a hold that is too high is given back a moment later


class FrugalNode(ExternalGenerationNode):
    """Suggests by a method of ours; see `generation_strategy` for the arguments.

    Args:
        budget: As plain JSON types.
        transition_criteria: For a strategy of more nodes than this one.
    """

    def __init__(
        self,
        name: str = KEY,
        *,
        method: str = "auto",
        budget: Mapping[str, float] | None = None,
        seed: int = 0,
        cost_metric: str = COST_METRIC,
        dollars_per_hour: float = 0.0,
        cost: str | None = None,
        min_gain: str | None = None,
        steps: int | None = None,
        transition_criteria: Sequence[TransitionCriterion] | None = None,
    ) -> None:
        super().__init__(name=name, should_deduplicate=False, transition_criteria=transition_criteria)
        self.method = method
        self.budget = None if budget is None else dict(budget)
        self.seed = seed
        self.cost_metric = cost_metric
        self.dollars_per_hour = dollars_per_hour
        self.cost = cost
        self.min_gain = min_gain
        self.steps = steps
        self._adapter: tuple[tuple[int, int], Adapter] | None = None  # with the trials and data that it is of

    def study_of(self, experiment: Experiment) -> Study:
        """The experiment as this node sees it."""
        return from_ax(
            experiment,
            budget=self.budget,
            cost_metric=self.cost_metric,
            dollars_per_hour=self.dollars_per_hour,
            cost=self.cost,
            steps=self.steps,
        )

    def affordable(self, study: Study, params: Params, *, sharers: int = 1) -> Quote | Refusal | None:
        """What a trial may take of the study's budget; None where there is none."""
        if study.ledger is None:
            return None
        balance = study.ledger.balance()
        if spent := [name for name, account in balance.limited.items() if account.free <= 0]:
            return Refusal(f"the budget of {spent[0].replace('_', ' ')} is spent", hopeless=True)
        slot = Slot(SLOT, "cpu", 0, dollars_per_hour=self.dollars_per_hour)
        predicted = cost_model(study.problem, _CONFIDENCE).predict(study, params, 0, study.problem.steps)
        return quote(balance, slot, predicted, sharers=sharers)

    @property
    def _fitted_adapter(self) -> Adapter | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Ax's own surrogate, if one of its analyses has had it fitted to the present data."""
        experiment = None if self._generation_strategy is None else self._generation_strategy._experiment
        if self._adapter is None or experiment is None or self._adapter[0] != _size(experiment):
            return None
        return self._adapter[1]

    def _fit(self, experiment: Experiment, data: Data | None = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Fit Ax's own surrogate: an analysis asked for it. Suggestions do not, see `gen`."""
        if not experiment.lookup_data().empty:
            self._adapter = _size(experiment), Generators.BOTORCH_MODULAR(experiment=experiment)

    def gen(self, *, skip_fit: bool = False, **more: Any) -> GeneratorRun | None:  # noqa: ANN401 - Ax's signature
        """Suggest, without a model of Ax's."""
        del skip_fit
        return super().gen(skip_fit=True, **more)

    def update_generator_state(self, experiment: Experiment, data: Data) -> None:
        """Nothing: the state is the experiment."""

    def get_next_candidate(self, pending_parameters: list[TParameterization]) -> TParameterization:
        """Not how this node is asked.

        Raises:
            StudyError: Always.
        """
        raise StudyError(f"a {type(self).__name__} is asked by its generation strategy, with the experiment")

    def _gen(
        self,
        experiment: Experiment,
        data: Data | None = None,
        n: int | None = None,
        pending_observations: dict[str, list[ObservationFeatures]] | None = None,
        fixed_features: ObservationFeatures | None = None,
        **generator_gen_kwargs: Any,  # noqa: ANN401 - Ax's signature
    ) -> GeneratorRun:
        if n is not None and n != 1:
            raise StudyError(f"expected one configuration a trial, got a batch of {n}: ask for {n} trials instead")
        began = time.monotonic()
        self._check_costs(experiment)
        study = self.study_of(experiment)
        _, translation = problem_of(experiment)
        for pending in _parameters(pending_observations):
            _add_running(study, translation.from_ax(pending))
        fixed = {} if fixed_features is None else translation.some_from_ax(fixed_features.parameters)
        suggestions = self._proposer(study, fixed).propose(study, 1)
        if not suggestions:
            there = f"with {fixed}" if fixed else "of the search space"
            raise GenerationStrategyCompleted(f"every configuration {there} has been tried")
        (suggestion,) = suggestions
        if suggestion.not_worth:
            raise GenerationStrategyCompleted(suggestion.not_worth)
        found = self.affordable(study, suggestion.params)
        if isinstance(found, Refusal):
            raise GenerationStrategyCompleted(found.reason)
        return GeneratorRun(
            arms=[Arm(parameters=translation.to_ax(suggestion.params))],
            gen_time=time.monotonic() - began,
            fit_time=0.0,
            gen_metadata={KEY: suggestion.why},
            generator_key=self.name,
        )

    def _check_costs(self, experiment: Experiment) -> None:
        """Refuse to go on while a trial has cost nobody knows what, and the budget is of that."""
        if not {"device_seconds", "dollars"} & set(self.budget or {}):
            return
        costs = {
            index: [metrics.get(self.cost_metric, math.nan) for metrics in steps.values()]
            for index, steps in rows_of(experiment.lookup_data()).items()
        }
        told = [index for index, found in costs.items() if any(0 <= cost < math.inf for cost in found)]
        done = [t for t in experiment.trials.values() if isinstance(t, AxTrial) and t.status.is_completed]
        if missing := [t.index for t in done if t.index not in told and not recorded(t)]:
            raise StudyError(
                f"completed without {self.cost_metric!r}, of which the budget is: trials {missing}; tell it by "
                f"client.attach_data({missing[0]}, {{{self.cost_metric!r}: ...}})"
            )

    def _proposer(self, study: Study, fixed: Params) -> Proposer:
        min_gain = None if self.min_gain is None else MinGain.of(self.min_gain)
        if not fixed:
            return make_proposer(self.method, study.problem, seed=self.seed, min_gain=min_gain)
        among = configurations_with(study, fixed, self.seed)
        if self.method in LIGHT:
            return Listed(among, seed=self.seed)
        return BayesianProposer(seed=self.seed, method=self.method, min_gain=min_gain, among=among)

    @classmethod
    def serialize_init_args(cls, obj: Any) -> dict[str, Any]:  # noqa: ANN401 - Ax's signature
        """The arguments that make the same node."""
        names = ("method", "budget", "seed", "cost_metric", "dollars_per_hour", "cost", "min_gain", "steps")
        found = {"name": obj.name, **{name: getattr(obj, name) for name in names}}
        return found | {"transition_criteria": list(obj.transition_criteria)}

    @classmethod
    def deserialize_init_args(
        cls,
        args: dict[str, Any],
        decoder_registry: Any = None,  # noqa: ANN401 - Ax's signature
        class_decoder_registry: Any = None,  # noqa: ANN401
    ) -> dict[str, Any]:
        """The arguments as they were."""
        registries = {"decoder_registry": decoder_registry, "class_decoder_registry": class_decoder_registry}
        given = {name: registry for name, registry in registries.items() if registry is not None}
        return {name: object_from_json(value, **given) for name, value in args.items()}


def generation_strategy(
    *,
    method: str = "auto",
    budget: Budget | str | float | Mapping[str, Any] | None = None,
    seed: int = 0,
    cost_metric: str = COST_METRIC,
    dollars_per_hour: float = 0.0,
    cost: StatedCost | None = None,
    min_gain: str | None = None,
    steps: int | None = None,
) -> GenerationStrategy:
    """Our methods for `client.set_generation_strategy`.

    Args:
        method: As for `fb.tune`.
        budget: Of device-seconds, dollars or trials, as for `fb.tune`; None where only results count.
        seed: Of all choices.
        cost_metric: The tracking metric with each trial's device-seconds.
        dollars_per_hour: The price of a device, for a budget of dollars.
        cost: What is known of a trial's cost, as a text: `"like width * depth"`.
        min_gain: What a trial must be expected to bring, as for `fb.tune`.
        steps: Of a full trial, where results are told with progressions; by default the largest of a completed one.

    Raises:
        MethodError: If there is no such method, or it cannot have a price.
        BudgetError: If the budget cannot be read, or is of something that Ax does not count.
    """
    if method not in METHODS:
        raise MethodError(f"unknown method {method!r}; expected one of {', '.join(METHODS)}")
    if cost is not None and not isinstance(cost, str):
        raise BudgetError(f"what is stated of costs is saved with the strategy, so it is a text, got {cost!r}")
    amount = None if budget is None else Budget.of(budget)
    if amount is not None:
        check_budget(amount, dollars_per_hour)
    if min_gain is not None:
        MinGain.of(min_gain)  # refuses what cannot be read
    node = FrugalNode(
        method=method,
        budget=None if amount is None else amount.to_json(),
        seed=seed,
        cost_metric=cost_metric,
        dollars_per_hour=dollars_per_hour,
        cost=cost,
        min_gain=min_gain,
        steps=steps,
    )
    return GenerationStrategy(name=f"{KEY}:{method}", nodes=[node])


def configurations_with(study: Study, fixed: Params, seed: int) -> list[Params]:
    """Configurations in which some parameters are given: all over the rest of the space, and near the best known ones.

    Raises:
        SpaceError: If a value is none of its parameter's, or none of the configurations is a point of the space.
    """
    space, evidence = study.problem.space, Evidence(study)
    points, rng = evidence.points, np.random.default_rng([seed, len(study.trials)])
    pool = make_pool(points, evidence.best(_ANCHORS), rng)
    for name, value in fixed.items():
        pool[:, space.names.index(name)] = _unit(space, name, value)
    pool = np.unique(points.snap(pool), axis=0)
    # A coordinate may decode to a number next to the given one, and conditions may leave a parameter out.
    found = [params | fixed for params in map(space.decode, pool) if fixed.keys() <= params.keys()]
    if not (found := [params for params in found if space.is_feasible(params)]):
        raise SpaceError(f"found no configuration with {fixed}: a condition or a known constraint is against it")
    return found


def _unit(space: Space, name: str, value: Value) -> float:
    try:
        return space.parameters[name].to_unit(value)  # type: ignore[union-attr]
    except SpaceError as error:
        raise SpaceError(f"fixed parameter {name!r}: {error}") from None


def check_budget(budget: Budget, dollars_per_hour: float) -> None:
    """Refuse a budget that cannot be kept here.

    Raises:
        BudgetError: If it limits what Ax does not count, or money without a price.
    """
    if budget.dollars is not None and not dollars_per_hour > 0:
        raise BudgetError(f"a budget of money needs dollars_per_hour above 0, got {dollars_per_hour!r}")
    check_counted(budget)


def _parameters(pending: Mapping[str, Sequence[ObservationFeatures]] | None) -> list[TParameterization]:
    """The configurations that were generated in this call, and are no trials yet."""
    found: list[TParameterization] = []
    for observations in (pending or {}).values():
        found += [o.parameters for o in observations if o.trial_index is None and o.parameters not in found]
    return found


def _add_running(study: Study, params: Params) -> None:
    number, steps = len(study.trials), study.problem.steps
    study.apply(Started(number, 0, params, 0, steps, steps, Cost(evaluations=1.0), SLOT, 0.0))


def _size(experiment: Experiment) -> tuple[int, int]:
    return len(experiment.trials), len(experiment.lookup_data().full_df)
