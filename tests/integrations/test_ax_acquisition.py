"""Acquisitions of ours in Ax's modular generator."""

import pytest
import torch
from ax.api.client import Client
from ax.api.configs import RangeParameterConfig
from botorch.utils.datasets import SupervisedDataset
from clients import experiment

import frugalbo.integrations.ax as fa
from frugalbo.errors import ModelError
from frugalbo.integrations.ax.acquisition import construct_inputs
from frugalbo.propose import MethodError


def client(**arguments):
    made = Client()
    ranges = [
        RangeParameterConfig("x", (-1.0, 3.0), "float"),
        RangeParameterConfig("y", (1e-3, 1.0), "float", scaling="log"),
    ]
    made.configure_experiment(ranges, name="bowl")
    made.configure_optimization("-loss")
    made.set_generation_strategy(fa.modular_strategy("loss", minimize=True, **arguments))
    return made


def run(made, count):
    for _ in range(count):
        for index, p in made.get_next_trials(1).items():
            made.complete_trial(index, {"loss": loss(p), "device_seconds": 1 + 20 * (p["x"] + 1)})


def loss(p):
    import math

    return (p["x"] - 1) ** 2 + (math.log10(p["y"]) + 1) ** 2


def dataset(metric, values, X):
    Y = torch.tensor(values, dtype=torch.float64).unsqueeze(-1)
    return SupervisedDataset(X, Y, feature_names=["x", "y"], outcome_names=[metric])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Optimization failed")  # Ax's search tries again, as ours has kinks
@pytest.mark.parametrize("method", ["pbgi", "bo", "bmsei", "pes", "mes", "metabo"])
def test_what_ax_lacks_suggests_and_survives_json(method, tmp_path):
    made = client(method=method, budget_s=400.0)
    run(made, 6)
    fa.save(made, tmp_path / "ax.json")
    again = fa.load(tmp_path / "ax.json")
    first, second = made.get_next_trials(2).values()
    assert max(abs(first["x"] - second["x"]) / 4, abs(first["y"] - second["y"])) > 1e-3  # the pending one is believed
    ((_, other),) = again.get_next_trials(1).items()
    experiment(again).search_space.check_membership(other, raise_error=True)  # Ax's own search is random
    assert experiment(made).trials[6].generator_run._generation_node_name == "frugalbo"


@pytest.mark.slow
def test_it_finds_the_minimum():
    made = client(method="ei")
    run(made, 14)
    assert fa.best_point(made).value < 0.05


def test_the_value_is_that_of_our_own_acquisition():
    """With bounds other than the unit cube's; a loss of +-y is minimised or maximised."""
    X = torch.tensor([[-1.0, 0.2], [0.0, 0.9], [2.0, 0.4], [3.0, 0.1]], dtype=torch.float64)
    values = [1.0, 0.5, 2.0, 3.0]
    bounds = [(-1.0, 3.0), (0.0, 1.0)]
    points = torch.tensor([[[0.5, 0.5]], [[2.5, 0.2]]], dtype=torch.float64)

    def value(data, **more):
        inputs = construct_inputs(None, data, bounds, **{"method": "ei", **more})
        return fa.FrugalAcquisition(**inputs)(points)

    own = value(dataset("loss", values, X))
    scaled = construct_inputs(None, dataset("loss", values, (X + torch.tensor([1.0, 0.0])) / torch.tensor([4.0, 1.0])),
                              [(0.0, 1.0), (0.0, 1.0)], method="ei")  # fmt: skip
    unit = (points + torch.tensor([1.0, 0.0])) / torch.tensor([4.0, 1.0])
    assert torch.allclose(own, fa.FrugalAcquisition(**scaled)(unit))
    turned = value(dataset("loss", [-v for v in values], X), minimize=False)
    assert torch.allclose(own, turned)
    # A cost that grows with x makes the dear point worth less per cost.
    both = {"loss": dataset("loss", values, X), "device_seconds": dataset("device_seconds", [1.0, 4.0, 60.0, 250.0], X)}
    cheap, dear = value(both, method="bo", budget_s=1000.0) - value(both, method="ei", budget_s=1000.0)
    assert cheap > dear


def test_what_is_not_known_here_is_refused():
    data = dataset("loss", [1.0, 2.0], torch.rand(2, 2, dtype=torch.float64))
    with pytest.raises(ModelError, match="outcome constraints are not known here"):
        construct_inputs(None, data, [(0, 1), (0, 1)], constraints_tuple=(torch.ones(1, 1), torch.ones(1, 1)))
    with pytest.raises(ModelError, match="expected data of 'accuracy', got data of loss"):
        construct_inputs(None, data, [(0, 1), (0, 1)], metric="accuracy")
    with pytest.raises(MethodError, match="unknown method 'ts'"):
        fa.modular_strategy("loss", minimize=True, method="ts")
