"""The knowledge gradient per learned cost in Ax's modular generator."""

import math

import pytest
import torch
from ax.api.client import Client
from ax.core.experiment import Experiment
from ax.core.parameter import ChoiceParameter, ParameterType, RangeParameter
from ax.core.search_space import SearchSpace
from botorch.utils.datasets import SupervisedDataset
from clients import experiment

import frugalbo.integrations.ax as fa
from frugalbo.errors import ModelError, ProblemError, SpaceError, StudyError
from frugalbo.integrations.ax.multi_fidelity import Looks, construct_inputs

EPOCHS = {"lower": 1, "upper": 81, "log_scale": True, "is_fidelity": True, "target_value": 81}
BOUNDS = [(-1.0, 3.0), (1.0, 81.0), (-3.0, 0.0)]  # x, epochs, log10 y


def client(fidelity=None):
    made = Client(random_seed=0)
    fidelity = fidelity or RangeParameter("epochs", ParameterType.INT, **EPOCHS)
    y = RangeParameter("y", ParameterType.FLOAT, 1e-3, 1.0, log_scale=True)
    space = SearchSpace([RangeParameter("x", ParameterType.FLOAT, -1.0, 3.0), y, fidelity])
    made.set_experiment(Experiment(space, name="runs"))
    made.configure_optimization("-loss")
    return made


def loss(p):
    missing = 1 - math.log(p["epochs"]) / math.log(81)
    return (p["x"] - 1) ** 2 + (math.log10(p["y"]) + 1) ** 2 + missing * (1 + 0.3 * p["x"])


def seconds(p):
    return 3 + p["epochs"] * (2 + p["x"])


def run(made, count):
    for _ in range(count):
        for index, p in made.get_next_trials(1).items():
            made.complete_trial(index, {"loss": loss(p), "device_seconds": seconds(p)})


def looks(n, seed=0):
    """Of Ax's transformed parameters: x, epochs, log10 y."""
    low, high = torch.tensor(BOUNDS, dtype=torch.float64).T
    return low + (high - low) * torch.rand(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def told(X):
    parameters = [{"x": float(x), "epochs": float(e), "y": 10 ** float(y)} for x, e, y in X]
    data = {"loss": [loss(p) for p in parameters], "device_seconds": [seconds(p) for p in parameters]}
    return {
        name: SupervisedDataset(
            X, torch.tensor(Y, dtype=torch.float64).unsqueeze(-1), feature_names=["x", "epochs", "y"],
            outcome_names=[name],
        )
        for name, Y in data.items()
    }  # fmt: skip


def made_of(data, **more):
    given = {"metric": "loss", "minimize": True, **more}
    return fa.KnowledgeGradientPerCost(**construct_inputs(None, data, BOUNDS, {1: 81.0}, **given))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Optimization failed")
def test_it_looks_at_short_runs_where_they_are_cheap_and_survives_json(tmp_path):
    made = client()
    made.set_generation_strategy(fa.multi_fidelity_strategy(made))
    run(made, 11)
    trials = experiment(made).trials
    assert {t.generator_run._generation_node_name for t in list(trials.values())[5:]} == {"frugalbo"}
    chosen = [t.arm.parameters for t in list(trials.values())[5:]]
    assert all(seconds(p) < seconds(p | {"epochs": 81}) / 4 for p in chosen)
    assert min(loss(p | {"epochs": 81}) for p in chosen) < 0.1  # what such a look leads to
    fa.save(made, tmp_path / "ax.json")
    again = fa.load(tmp_path / "ax.json")
    ((_, p),) = again.get_next_trials(1).items()
    assert experiment(again).search_space.check_membership(p, raise_error=True)


def test_the_cost_is_learned_from_what_was_told():
    """It depends on the length and on x, as Ax's own affine cost cannot; within a fifth at looks that were not told."""
    value = made_of(told(looks(17)))
    fresh = looks(23, seed=1)
    with torch.no_grad():
        log_cost = value.gradient.log_cost.posterior(value.looks(fresh).unsqueeze(-2)).mean.flatten()
    true = torch.tensor([seconds({"x": float(x), "epochs": float(e)}) for x, e, _ in fresh], dtype=torch.float64)
    assert float((log_cost - true.log()).abs().mean()) < math.log(1.2)


def test_the_value_is_the_gradient_per_learned_cost():
    """Without a cost metric, the gradient alone; the difference is the learned log cost, exactly."""
    data, X = told(looks(11)), looks(5, seed=1).unsqueeze(-2)
    whole, alone = made_of(data), made_of(data["loss"])
    assert alone.gradient.log_cost is None
    with torch.no_grad():
        log_cost = whole.gradient.log_cost.posterior(whole.looks(X)).mean.flatten()
        assert torch.allclose(whole(X), alone(X) - log_cost)


def test_a_gain_is_maximised():
    data, X = told(looks(11)), looks(5, seed=1).unsqueeze(-2)
    turned = SupervisedDataset(
        data["loss"].X, -data["loss"].Y, feature_names=["x", "epochs", "y"], outcome_names=["loss"]
    )
    assert torch.allclose(made_of(data["loss"])(X), made_of(turned, minimize=False)(X))


def test_a_pending_look_is_worth_less():
    data, X = told(looks(11)), looks(1, seed=1)
    free, pending = made_of(data), made_of(data, X_pending=X)
    with torch.no_grad():
        assert pending(X.unsqueeze(-2)) < free(X.unsqueeze(-2)) - 0.1


def test_the_fidelity_is_the_share_of_a_full_run_on_either_scale():
    """At the middle of x and log10 y, and 27 of 81 epochs."""
    for third, target, is_log in ((27.0, 81.0, False), (math.log10(27), math.log10(81), True)):
        found = Looks(torch.tensor(BOUNDS, dtype=torch.float64).T, 1, target, is_log)(
            torch.tensor([[1.0, third, -1.5]])
        )
        assert found.tolist()[0] == pytest.approx([0.5, 0.5, 1 / 3])


@pytest.mark.parametrize(
    ("fidelity", "message"),
    [
        (RangeParameter("epochs", ParameterType.FLOAT, 1.0, 81.0), "expected one fidelity, a range, got none"),
        (
            ChoiceParameter(
                "epochs", ParameterType.INT, [1, 9, 81], is_ordered=True, is_fidelity=True, target_value=81
            ),
            r"expected one fidelity, a range, got \['epochs'\]",
        ),
        (
            RangeParameter("epochs", ParameterType.FLOAT, 0.0, 81.0, is_fidelity=True, target_value=81.0),
            r"expected the fidelity 'epochs' above 0 and up to its target, got 0\.0 to 81\.0, target 81\.0",
        ),
        (
            RangeParameter("epochs", ParameterType.FLOAT, 1.0, 81.0, is_fidelity=True, target_value=27.0),
            r"above 0 and up to its target, got 1\.0 to 81\.0, target 27\.0",
        ),
    ],
)
def test_a_fidelity_of_another_kind_is_refused(fidelity, message):
    with pytest.raises(SpaceError, match=message):
        fa.multi_fidelity_strategy(client(fidelity))


def test_what_is_not_known_here_is_refused():
    with pytest.raises(StudyError, match="no experiment yet"):
        fa.multi_fidelity_strategy(Client())
    made = client()
    made.configure_optimization("-loss, -time")
    with pytest.raises(ProblemError, match="not a single metric"):
        fa.multi_fidelity_strategy(made)
    with pytest.raises(ModelError, match="outcome constraints are not known here"):
        made_of(told(looks(5)), constraints=[])
    with pytest.raises(ModelError, match="expected data of 'accuracy'"):
        made_of(told(looks(5)), metric="accuracy")
