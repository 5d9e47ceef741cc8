"""The adversarial policy for tiny budgets: its parts by hand, and the weights that ship beside sequential halving."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

import frugalbo.metabo
from frugalbo.bandits import MinimaxSearch, SequentialHalving
from frugalbo.bandits.minimax import FACTS, SHIPPED, chances, facts, logits, shipped
from frugalbo.cli import main
from frugalbo.errors import BanditError, WeightsError
from frugalbo.metabo.minimax import (
    MinimaxTraining,
    _Adversary,
    _episodes,
    _Network,
    difficulty,
    errors_of,
    train_minimax,
)

SMALL = MinimaxTraining(n_arms=3, pulls=5, classes=(7.0, 30.0), instances=4, episodes=5, updates=3, width=7)
CONFIG = Path(frugalbo.metabo.__file__).parent / "minimax.toml"


def indifferent():
    """A policy that takes each arm alike."""
    return tuple(np.zeros(shape) for shape in [(FACTS, 2), (2,), (4, 2), (2,), (2, 1), (1,)])


def test_arms_under_other_numbers_are_treated_alike():
    rng, order = np.random.default_rng(0), [3, 0, 4, 2, 1]
    counts = rng.integers(0, 5, 5)
    sums = counts * rng.random(5)
    p = chances(logits(shipped(), facts(sums, counts, 20)))
    np.testing.assert_allclose(chances(logits(shipped(), facts(sums[order], counts[order], 20))), p[order])


def test_what_is_trained_is_what_answers():
    torch.manual_seed(0)
    network, told = _Network(7), np.random.default_rng(1).random((2, 3, FACTS))
    found = network(torch.from_numpy(told).float()).detach().numpy()
    np.testing.assert_allclose(logits(network.weights(), told), found, atol=1e-6)


def test_facts_by_hand():
    # 4 of 10 pulls are done. Posterior means (1+1)/(3+2) = 0.4, (1+1)/(1+2) = 2/3, 1/2; deviations of Beta(2, 3),
    # Beta(2, 1), Beta(1, 1): sqrt(0.24/6) = 0.2, sqrt((2/9)/4) = 0.2357, sqrt(1/12) = 0.2887.
    told = facts([1, 1, 0], [3, 1, 0], 10)
    np.testing.assert_allclose(told[0], [0.4, 2 / 3 - 0.4, 0.8, 0.5, 0.9, 0.6])
    np.testing.assert_allclose(told[1], [2 / 3, 0, 4 * np.sqrt(1 / 18), np.sqrt(0.5), 0.3, 0.6])
    np.testing.assert_allclose(told[2], [0.5, 1 / 6, 4 / np.sqrt(12), 1, 0, 0.6])


def test_how_hard_an_instance_is_by_hand():
    assert difficulty(np.array([0.4, 0.9, 0.5])) == pytest.approx(1 / 0.25 + 1 / 0.16)
    assert difficulty(np.array([0.5, 0.5, 0.1])) == np.inf


def test_the_error_of_one_pull_is_the_closed_form():
    # Either arm is taken. If it is the best (0.8), it is not recommended if it failed; if it is the other (0.3), the
    # best is not if that did not fail: (0.2 + 0.3) / 2.
    theta = np.array([[0.8, 0.3]])
    assert errors_of(indifferent(), theta, 1, 40_000, 0)[0] == pytest.approx(
        0.25, abs=4 * np.sqrt(0.25 * 0.75 / 40_000)
    )


def test_the_adversary_goes_along_the_slope_of_the_error():
    """Of the closed form above, by the means: -1/2 and 1/2."""
    training = MinimaxTraining(n_arms=2, pulls=1, classes=(100.0,), instances=1, episodes=60_000)
    adversary = _Adversary(100.0, training, np.random.default_rng(0))
    adversary.theta = np.array([[0.8, 0.3]])
    adversary.ascend(_episodes(indifferent(), adversary.theta, 1, 60_000, np.random.default_rng(1)))
    step = 0.02 * np.tanh(0.5)
    np.testing.assert_allclose(adversary.theta, [[0.8 - step, 0.3 + step]], atol=0.0006)
    assert adversary.logit[0] == pytest.approx(2 * 0.25, abs=0.02)


def test_instances_never_leave_their_class():
    training, rng = (
        MinimaxTraining(n_arms=3, pulls=4, classes=(12.0,), instances=20, episodes=5),
        np.random.default_rng(2),
    )
    adversary = _Adversary(12.0, training, rng)
    before = adversary.theta.copy()
    for _ in range(60):
        adversary.ascend(_episodes(indifferent(), adversary.theta, 4, 5, rng))
    assert (difficulty(adversary.theta) <= 12).all()
    assert (adversary.theta.argmax(1) == before.argmax(1)).all()
    assert difficulty(adversary.theta).mean() > difficulty(before).mean()


def test_a_policy_is_made_by_the_command_the_same_each_time(tmp_path, capsys):
    fields = {"n_arms": 3, "pulls": 5, "classes": [7.0, 30.0], "instances": 4, "episodes": 5, "updates": 3, "width": 7}
    text = 'kind = "minimax"\n' + "\n".join(f"{name} = {value}" for name, value in fields.items())
    (tmp_path / "t.toml").write_text(text)
    assert main(["metabo", "train", "--config", str(tmp_path / "t.toml"), "--out", str(tmp_path / "w.npz")]) == 0
    said = [json.loads(line)["class"] for line in capsys.readouterr().out.splitlines()]
    assert said == [7.0, 30.0, "all"]
    again = train_minimax(SMALL, tmp_path / "again.npz")
    with np.load(tmp_path / "w.npz") as arrays:
        for i, array in enumerate(again):
            np.testing.assert_array_equal(arrays[f"w{i}"], array.astype(np.float32))


@pytest.mark.slow
def test_it_learns(tmp_path):
    """Three arms and six pulls: the largest of the errors falls below that of taking each arm alike."""
    training = MinimaxTraining(n_arms=3, pulls=6, classes=(8.0, 16.0), updates=120, width=14, lr=5e-3)
    weights = train_minimax(training, tmp_path / "w.npz")
    drawn = np.random.default_rng(3).uniform(0.02, 0.98, (4000, 3))
    theta = drawn[difficulty(drawn) <= 16][:200]
    trained, alike = (errors_of(w, theta, 6, 100, 4) for w in (weights, indifferent()))
    assert trained.mean() < alike.mean() - 0.02
    assert np.sort(trained)[-20:].mean() < np.sort(alike)[-20:].mean()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pulls": 0}, "pulls above 0, got 0"),
        ({"classes": [60.0, 20.0]}, "ascending classes"),
        ({"classes": [4.0]}, r"classes above 4, the least of any, got 4\.0"),
        ({"speed": 1}, "unknown setting 'speed'"),
    ],
)
def test_settings_that_make_no_policy_are_refused(settings, message):
    with pytest.raises(WeightsError, match=message):
        MinimaxTraining.of(settings)


def test_the_weights_that_ship_are_small_and_say_how_they_were_made():
    assert len(SHIPPED.read_bytes()) < 20_000
    with SHIPPED.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        made = json.loads(str(arrays["made"]))
    config = tomllib.loads(CONFIG.read_text())
    assert config.pop("kind") == "minimax"
    assert MinimaxTraining.of(made["training"]) == MinimaxTraining.of(config)


def halving_error(theta, pulls, episodes):
    """Its means are often equal, and of equals it keeps the first: so each arm is the best in turn."""
    wrong = 0
    for seed in range(episodes):
        theta = np.roll(theta, 1)
        rng, bandit = np.random.default_rng(seed), SequentialHalving(len(theta), pulls)
        while not bandit.is_over:
            arm = bandit.select(rng)
            bandit.update(arm, float(rng.random() < theta[arm]))
        wrong += bandit.recommend() != np.argmax(theta)
    return wrong / episodes


@pytest.mark.parametrize("best", [0.75, 0.9])
def test_where_halving_is_optimal_up_to_constants_the_policy_is_no_worse(best):
    """One good arm among equal others, where no search needs fewer pulls than halving but for logarithms.

    600 games of halving have a standard error of at most 0.021; four of it make a false alarm once in ten thousand.
    """
    theta = np.array([best, 0.4, 0.4, 0.4, 0.4])
    mine = errors_of(shipped(), theta[None], 20, 6000, 1)[0]
    assert mine <= halving_error(theta, 20, 600) + 4 * np.sqrt(0.25 / 600 + 0.25 / 6000)


def test_the_search_ends_with_its_pulls_and_recommends():
    search = MinimaxSearch(2, pulls=3)
    for arm, reward in ((0, 1.0), (1, 0.0), (0, 1.0)):
        assert not search.is_over
        search.update(arm, reward)
    assert search.is_over
    assert search.recommend() == 0
    with pytest.raises(BanditError, match="all 3 pulls are done"):
        search.probabilities()
