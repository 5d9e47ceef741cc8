"""Small Ax experiments for the tests here."""

import math

from ax.api.client import Client
from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig

RANGES = [
    RangeParameterConfig("x", (0.0, 1.0), "float"),
    RangeParameterConfig("optimizer.lr", (1e-4, 1e-1), "float", scaling="log"),
    RangeParameterConfig("layers", (1, 7), "int"),
]
KIND = ChoiceParameterConfig("kind", ["a", "b", "c"], "str", is_ordered=False)


def client(name="demo", *, constraints=(), metric="loss", **storage):
    made = Client(**storage)
    made.configure_experiment([*RANGES, KIND], name=name)
    made.configure_optimization(f"-{metric}", list(constraints))
    return made


def loss(p):
    lr = math.log10(p["optimizer.lr"]) + 2
    return (p["x"] - 0.3) ** 2 + 0.3 * lr**2 + 0.02 * (p["layers"] - 3) ** 2 + {"a": 0, "b": 0.1, "c": 0.5}[p["kind"]]


def seconds(p):
    return 1.0 + 5 * p["x"] + p["layers"]


def run(made, count, *, at_once=1):
    """Trials of a client, told with their costs."""
    for _ in range(count // at_once):
        for index, p in made.get_next_trials(at_once).items():
            made.complete_trial(index, {"loss": loss(p), "device_seconds": seconds(p)})
    return made


def experiment(made):
    return made._experiment
