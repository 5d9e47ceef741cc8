"""The weights that come with the package, and the method that uses them."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

import frugalbo as fb
import frugalbo.metabo
from frugalbo.errors import FrugalWarning
from frugalbo.metabo.priors import Prior
from frugalbo.metabo.train import Training, loss_of
from frugalbo.metabo.universal import Universal
from frugalbo.metabo.weights import SHIPPED, load, shipped

CONFIG = Path(frugalbo.metabo.__file__).parent / "universal.toml"


def test_they_are_small_and_say_how_they_were_made():
    made = load(str(SHIPPED)).made
    assert Path(str(SHIPPED)).stat().st_size < 1_000_000
    assert Training.of(made["training"]) == Training.of(tomllib.loads(CONFIG.read_text()))
    assert made["seconds"] > 0


def test_they_predict_better_than_new_weights():
    """On tasks of the prior that training did not see; in 19 of 20 batches at least."""
    better = 0
    torch.manual_seed(0)
    new = Universal()
    for i in range(20):
        t = Prior(batch=8).draw(12345, i)
        with torch.no_grad():
            losses = [
                loss_of(net(t.X, t.y, t.categorical, t.Q, t.observed), t.truth.float()).mean()
                for net in (shipped(), new)
            ]
        better += bool(losses[0] < losses[1])
    assert better >= 19


@pytest.mark.parametrize("n", [5, 20, 60])
def test_their_intervals_hold_on_tasks_of_the_prior(n):
    """90 % intervals hold 78 to 96 % over 8 batches of 32 tasks with 24 points each; of few results the least."""
    found = []
    for i in range(8):
        prior = Prior(most_seen=n)
        t = prior.draw(777 + n, i)
        with torch.no_grad():
            below = shipped()(t.X, t.y, t.categorical, t.Q, t.observed).cdf(t.truth.float())
        found.append(((below - 0.5).abs() < 0.45).double().mean().item())
    assert 0.78 < np.mean(found) < 0.96


def _problem(space, name="p"):
    return fb.Problem(name, fb.Space(space), "nowhere:train", fb.Minimize("loss"))


def _tune(problem, function, trials, seed=0):
    with fb.open_study(problem, budget=f"{trials} trials", method="metabo", seed=seed) as study:
        for _ in range(trials):
            trial = study.ask()
            study.tell(trial, function(trial.params))
        return [t.why for t in study.trials.values()], study.best_value()


MIXED = {
    "lr": fb.Float(1e-5, 1, log=True),
    "depth": fb.Int(1, 5),
    "optimizer": fb.Choice(["adam", "sgd", "lion"]),
}


def _loss(params):
    return (
        (np.log10(params["lr"]) + 3) ** 2
        + 0.1 * params["depth"]
        + {"adam": 0.0, "sgd": 0.5, "lion": 1.0}[params["optimizer"]]
    )


@pytest.mark.slow
def test_metabo_tunes_a_mixed_space_the_same_way_each_time():
    whys, best = _tune(_problem(MIXED), _loss, 15)
    again, _ = _tune(_problem(MIXED), _loss, 15)
    assert best < 0.4  # 0.1 is the least; of 15 random points the median best is 1.1
    assert all(0 <= w["network"] <= 1 for w in whys if w["method"] == "metabo")
    assert sum(w["method"] == "metabo" for w in whys) >= 10
    strip = [{k: v for k, v in w.items() if k != "seconds"} for w in whys]
    assert json.dumps(strip) == json.dumps([{k: v for k, v in w.items() if k != "seconds"} for w in again])


def test_above_twenty_dimensions_the_engine_takes_over_and_says_so():
    problem = _problem({f"x{i}": fb.Float(0, 1) for i in range(21)})
    with pytest.warns(FrugalWarning, match="at most 20 dimensions, the space has 21"):
        whys, _ = _tune(problem, lambda p: sum(p.values()), 6)
    assert whys[-1]["network"] == 0
