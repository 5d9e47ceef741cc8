import math

import numpy as np
import pytest

from frugalbo.bandits import BatchedExp3, Exp3, ShrinkingDartboard
from frugalbo.errors import BanditError
from frugalbo.testing.bandit_games import Coins, play


@pytest.mark.parametrize(
    ("n_arms", "horizon", "switch_cost", "batch"),
    [
        (4, 1000, 1.0, 10),  # (1000 * 2 / 2)^(2/3) = 100 batches
        (4, 8000, 1.0, 20),  # eight times the rounds, four times the batches
        (4, 1000, 8.0, 40),  # (1000 / 8)^(2/3) = 25 batches
        (4, 1000, 1e-6, 1),
        (4, 1000, 1e6, 1000),
    ],
)
def test_the_length_of_a_batch(n_arms, horizon, switch_cost, batch):
    assert BatchedExp3(n_arms, horizon, switch_cost=switch_cost).batch == batch


def test_a_batch_teaches_its_mean_once():
    bandit, plain = BatchedExp3(4, 1000), Exp3(4)
    for i in range(10):
        assert bandit.probabilities().tolist() == ([0.25] * 4 if i == 0 else [0, 0, 1, 0])
        bandit.update(2, i / 10)
    plain.update(2, 0.45)
    assert bandit.losses == pytest.approx(plain.losses)
    assert bandit.probabilities() == pytest.approx(plain.probabilities())


def test_an_arm_that_was_not_selected_begins_a_batch():
    bandit = BatchedExp3(4, 1000)
    for arm in [2] * 9 + [1] * 9:
        bandit.update(arm, 0.0)
    assert not bandit.losses.any()
    bandit.update(1, 0.0)
    assert np.flatnonzero(bandit.losses).tolist() == [1]


def test_the_dartboard_holds_each_arm_as_often_as_its_weights_say():
    """Exactly, over batches: the chain of its probabilities leads from weights to weights."""
    rng = np.random.default_rng(0)
    bandit = ShrinkingDartboard(4, horizon=60, observations=240)
    assert bandit.batch == 1
    marginal = bandit.probabilities()
    for _ in range(25):
        bandit.look(rng.random(4))
        bandit.update(0, 0.5)
        after = np.zeros(4)
        for arm in range(4):
            bandit.arm = arm
            after += marginal[arm] * bandit.probabilities()
        marginal = after
        assert marginal == pytest.approx(bandit.weights())
        assert max(bandit.keep(arm) for arm in range(4)) == 1  # the best arm of the look is never left
    assert np.ptp(marginal) > 0.1


def test_a_look_by_hand():
    # K = 2, N = 8: eta = sqrt(2 ln 2 / 8) = 0.41628. Losses 0.25 and 1: kept with exp(-0.41628 * 0.75) = 0.73182
    bandit = ShrinkingDartboard(2, horizon=8, observations=16)
    bandit.look([0.75, 0.0])
    bandit.update(1, 0.0)
    w = 0.73182 / 1.73182
    assert bandit.weights() == pytest.approx([1 - w, w], abs=1e-5)
    assert bandit.probabilities()[1] == pytest.approx(0.73182 + (1 - 0.73182) * w, abs=1e-5)


def test_looks_are_spread_evenly_over_a_batch_and_within_their_number():
    bandit, rng, at = ShrinkingDartboard(3, 600, observations=300), np.random.default_rng(1), []
    assert (bandit.batches, bandit.batch) == (100, 6)
    for t in range(600):
        arm = bandit.select(rng)
        if bandit.wants_look(rng):
            at.append(t)
            bandit.look([0.5] * 3)
        bandit.update(arm, 0.5)
    assert [t // 6 for t in at] == list(range(100))  # one in each batch
    counts = np.bincount([t % 6 for t in at], minlength=6)
    assert ((counts - 100 / 6) ** 2 / (100 / 6)).sum() < 20.5  # chi-square, 5 degrees: one in a thousand


def test_regret_falls_with_every_tenfold_of_observations():
    """The order of the means over 8 runs is that of `T sqrt(K / B)`; and changes stay few."""
    T, lost = 2500, []
    for B in (10, 100, 1000, 10000):
        games = [Coins([0.4, 0.4, 0.2, 0.8, 0.4], T, seed) for seed in range(8)]
        runs = [play(ShrinkingDartboard(5, T, observations=B), game, T, seed) for seed, game in enumerate(games)]
        lost.append(np.mean([game.regret(run.arms) for game, run in zip(games, runs, strict=True)]))
        assert max(run.switches for run in runs) <= 30
        assert max(run.looks for run in runs) * 5 <= B
    assert lost == sorted(lost, reverse=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BatchedExp3(3, 0), "expected horizon"),
        (lambda: BatchedExp3(3, 10, switch_cost=0.0), "expected switch_cost to be a number above 0"),
        (lambda: ShrinkingDartboard(3, 10, observations=2), "expected observations for a look at 3 arms, got 2"),
        (lambda: ShrinkingDartboard(3, 10, 9).look([0.5, 0.5]), "expected the rewards of 3 arms, got 2"),
        (lambda: ShrinkingDartboard(3, 10, 9).look([0.5, 0.5, math.nan]), "expected a reward in"),
    ],
)
def test_wrong_settings_and_looks_are_refused(make, message):
    with pytest.raises(BanditError, match=message):
        make()
