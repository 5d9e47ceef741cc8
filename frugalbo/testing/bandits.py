"""Conformance of a bandit: the facts on which whoever asks it for the next arm relies.

Subclass `BanditConformance`, or `KnapsackConformance` for one with budgets, give it `make`, and pytest does the rest.
Needs pytest and hypothesis.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frugalbo.bandits.contract import Bandit, MixedBandit
from frugalbo.bandits.knapsack import KnapsackBandit
from frugalbo.errors import BanditError
from frugalbo.testing.bandit_games import Coins, Game, Shop, play

K = 3
MEANS = [0.1, 0.9, 0.2]
COSTS = [[0.3, 0.1], [0.2, 0.2], [0.1, 0.3]]


def stored(bandit: Bandit) -> str:
    """Settings and state as one text, to be compared."""
    return json.dumps(bandit.to_json(), allow_nan=False)


class BanditConformance:
    """What every bandit must do; a subclass says how to make one.

    Attributes:
        rounds: In which an easy game is to be learned.
        late_share: How often the best arm of it is to be taken in the last quarter of them, at least.
    """

    rounds: int = 1200
    late_share: float = 0.9

    def make(self, n_arms: int) -> Bandit:
        """A bandit that was told nothing, for `rounds` rounds of which none costs much; override it."""
        raise NotImplementedError

    def game(self, seed: int) -> Game:
        """An easy one: the arm 1 of three is the best by far."""
        return Coins(MEANS, self.rounds, seed)

    def cost_of(self, bandit: Bandit) -> list[float] | None:
        """A cost that can be told to `bandit`."""
        return [0.5] * len(bandit.budgets) if isinstance(bandit, KnapsackBandit) else None

    def tell(self, bandit: Bandit, arms: list[int], rewards: list[float]) -> Bandit:
        """The bandit, told of these pulls."""
        for arm, reward in zip(arms, rewards, strict=True):
            bandit.update(arm, reward, self.cost_of(bandit))
        return bandit

    @pytest.mark.parametrize("pulls", [0, 1, 7, 61])
    def test_selecting_changes_nothing(self, pulls: int) -> None:
        """Whoever asks twice, with the same generator, has the same answer, and the state is as it was."""
        bandit = self.make(K)
        play(bandit, self.game(0), pulls, 0)
        before = stored(bandit)
        answers = {bandit.select(np.random.default_rng(11)) for _ in range(5)}
        assert len(answers) == 1
        assert stored(bandit) == before

    def test_the_same_seed_makes_the_same_run(self) -> None:
        """And another one another: ties and draws are the generator's."""
        arms = [play(self.make(K), self.game(0), 100, seed).arms for seed in (5, 5, 6, 7, 8)]
        assert arms[0] == arms[1]
        assert any(other != arms[0] for other in arms[2:])

    @pytest.mark.parametrize("pulls", [0, 1, 2, 13, 100])
    def test_a_run_that_was_stored_goes_on_as_if_nothing_had_been(self, pulls: int) -> None:
        """Through text, in the middle of whatever it was doing."""
        bandit = self.make(K)
        play(bandit, self.game(1), pulls, 1)
        again = type(bandit).from_json(json.loads(stored(bandit)))
        assert stored(again) == stored(bandit)
        on, on_again = (play(b, self.game(2), 150, 3).arms for b in (bandit, again))
        assert on == on_again
        assert len(on) >= 50
        assert stored(again) == stored(bandit)

    @pytest.mark.parametrize("n_arms", [1, 2, 7])
    def test_probabilities_are_some(self, n_arms: int) -> None:
        """Of any number of arms, all along: none is negative, and they sum to one."""
        bandit = self.make(n_arms)
        rng = np.random.default_rng(3)
        for t in range(120):
            if bandit.is_over:
                break
            arm = bandit.select(rng)
            assert arm in range(n_arms)
            if isinstance(bandit, MixedBandit):
                p = bandit.probabilities()
                assert p.shape == (n_arms,)
                assert p[arm] > 0
                assert (p >= 0).all()
                assert p.sum() == pytest.approx(1, abs=1e-9)
            bandit.update(arm, float(t % 3 == 0), self.cost_of(bandit))

    @pytest.mark.parametrize("pulls", [0, 2, 40])
    def test_arms_are_selected_with_their_probabilities(self, pulls: int) -> None:
        """Within 5 standard errors in 1,500 draws: a false alarm in a million."""
        bandit = self.make(K)
        play(bandit, self.game(4), pulls, 4)
        if not isinstance(bandit, MixedBandit):
            pytest.skip("it does not say its probabilities")
        rng, p, n = np.random.default_rng(9), bandit.probabilities(), 1500
        shares = np.bincount([bandit.select(rng) for _ in range(n)], minlength=K) / n
        assert (abs(shares - p) <= 5 * np.sqrt(p * (1 - p) / n)).all()

    def test_no_arm_is_favoured_by_its_number(self) -> None:
        """Told of the same pulls under other numbers, it mixes the same arms under these numbers."""
        if not isinstance(self.make(K), MixedBandit):
            pytest.skip("it does not say its probabilities")
        rng = np.random.default_rng(12)
        for renamed in ([2, 0, 1], [1, 0, 2]):
            for pulls in (0, 1, 5, 60):
                arms = rng.integers(K, size=pulls).tolist()
                rewards = rng.random(pulls).tolist()
                one = self.tell(self.make(K), arms, rewards)
                other = self.tell(self.make(K), [renamed[arm] for arm in arms], rewards)
                if one.is_over:
                    continue
                assert isinstance(one, MixedBandit)
                assert isinstance(other, MixedBandit)
                np.testing.assert_allclose(other.probabilities()[renamed], one.probabilities(), rtol=1e-6, atol=1e-9)

    @pytest.mark.parametrize("arm", [-1, K, 0.5, 1.0, "1", None, True, math.nan])
    def test_an_arm_that_there_is_not_is_refused(self, arm: int) -> None:
        """With what was expected and what came, and nothing is learned."""
        self._is_refused(r"expected an arm in 0\.\.2, got", arm, 0.5)

    @pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf, "0.5", None, [0.5], -0.01, 1.01])
    def test_a_reward_out_of_range_is_refused(self, reward: float) -> None:
        """Where rewards have a range; what is not finite always."""
        low, high = self.make(K).lowest_reward, self.make(K).highest_reward
        if isinstance(reward, float) and math.isfinite(reward) and low <= reward <= high:
            pytest.skip("it is in range")
        self._is_refused("expected a reward in", 1, reward)

    def _is_refused(self, message: str, arm: int, reward: float) -> None:
        bandit = self.make(K)
        play(bandit, self.game(5), 20, 5)
        before = stored(bandit)
        with pytest.raises(BanditError, match=message):
            bandit.update(arm, reward, self.cost_of(bandit))
        assert stored(bandit) == before

    def test_a_state_that_does_not_fit_is_refused(self) -> None:
        """Of another kind, with something missing or too much, of another shape, or not a number."""
        bandit = self.make(K)
        data = bandit.to_json()
        arrays = [name for name, value in data.items() if isinstance(value, list) and len(value) == K]
        broken = [data | {"kind": "Other"}, data | {"more": 1}, {k: v for k, v in data.items() if k != "n_arms"}, {}]
        broken += [
            data | {name: value} for name in arrays for value in ([0] * (K + 1), ["a"] * K, [math.nan] * K, None)
        ]
        for one in broken:
            with pytest.raises(BanditError, match="expected"):
                type(bandit).from_json(one)

    @pytest.mark.parametrize("n_arms", [0, -1, 2.0, "3", True])
    def test_there_must_be_an_arm(self, n_arms: int) -> None:
        """One at least, and a whole number of them."""
        with pytest.raises(BanditError, match="expected at least one arm"):
            self.make(n_arms)

    def test_an_easy_game_is_learned(self) -> None:
        """The best arm by far has its share of the last quarter in each of 4 runs: regret is less than linear."""
        for seed in range(4):
            arms = play(self.make(K), self.game(seed), self.rounds, seed).arms
            late = arms[-len(arms) // 4 :]
            assert late.count(1) >= self.late_share * len(late), f"seed {seed}"


class KnapsackConformance(BanditConformance):
    """And with budgets: nothing that is not affordable is taken."""

    def make_with(
        self, n_arms: int, horizon: int, budgets: list[float], caps: list[list[float]] | list[float]
    ) -> KnapsackBandit:
        """A bandit with these budgets; override it."""
        raise NotImplementedError

    def make(self, n_arms: int) -> KnapsackBandit:
        """One that is rich enough for all rounds."""
        return self.make_with(n_arms, self.rounds, [1.0 * self.rounds, 2.0 * self.rounds], [1.0, 1.0])

    def game(self, seed: int) -> Game:
        """The easy one, at a price."""
        return Shop(MEANS, COSTS, seed)

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(
        budgets=st.lists(st.floats(0.01, 30), min_size=2, max_size=2),
        caps=st.lists(st.lists(st.floats(0.01, 3), min_size=2, max_size=2), min_size=K, max_size=K),
        slots=st.integers(1, 5),
        seed=st.integers(0, 99),
    )
    def test_nothing_is_overspent(self, budgets: list[float], caps: list[list[float]], slots: int, seed: int) -> None:
        """With several pulls at a time, each of which may cost its cap; it ends only where nothing is affordable."""
        bandit, rng = self.make_with(K, 50, budgets, caps), np.random.default_rng(seed)
        running: list[int] = []
        pulls = 0
        while True:
            while len(running) < slots and not bandit.is_over:
                arm = bandit.select(rng)
                assert bandit.affordable[arm]
                bandit.hold(arm)
                running.append(arm)
            if not running:
                break
            arm = running.pop(int(rng.integers(len(running))))
            used = np.array(caps[arm]) * rng.choice([0.0, 0.3, 1.0], size=2)
            bandit.update(arm, float(rng.random()), used.tolist())
            pulls += 1
            assert (bandit.spent <= np.array(budgets) * (1 + 1e-9)).all()
            assert (bandit.left >= -1e-9 * np.array(budgets)).all()
        assert not bandit.held.any()
        assert pulls == 50 or all(
            any(c > left - 1e-9 for c, left in zip(cap, bandit.left, strict=True)) for cap in caps
        )

    def test_what_is_over_cannot_be_selected_or_held(self) -> None:
        """The error says what is left."""
        bandit = self.make_with(2, 9, [1.0], [[0.6], [0.7]])
        bandit.update(0, 1.0, [0.5])
        assert bandit.is_over
        with pytest.raises(BanditError, match=r"nothing is affordable: \[0.5\] is left"):
            bandit.select(np.random.default_rng(0))
        with pytest.raises(BanditError, match=r"cannot hold \[0.7\] for arm 1, \[0.5\] is left"):
            bandit.hold(1)

    def test_a_cost_above_its_cap_is_charged_all_the_same(self) -> None:
        """The money is gone; what is left falls below 0 and no further pull is made."""
        bandit = self.make_with(2, 9, [1.0], [[0.6], [0.7]])
        bandit.update(0, 1.0, [1.5])
        assert bandit.left.tolist() == [-0.5]
        assert bandit.is_over

    @pytest.mark.parametrize("cost", [None, [], [0.1], [0.1, 0.1, 0.1], 0.1, [0.1, -0.1], [0.1, math.nan], [0.1, "a"]])
    def test_a_cost_that_does_not_fit_is_refused(self, cost: list[float]) -> None:
        """Nothing is learned, nothing is charged."""
        bandit = self.make(K)
        play(bandit, self.game(5), 20, 5)
        before = stored(bandit)
        with pytest.raises(BanditError, match="expected"):
            bandit.update(1, 0.5, cost)
        assert stored(bandit) == before

    @pytest.mark.parametrize(
        ("budgets", "caps"),
        [
            ([], []),
            ([0.0], [[1.0]] * 2),
            ([-1.0], [[1.0]] * 2),
            ([math.inf], [[1.0]] * 2),
            ([1.0], [[0.0]] * 2),
            ([1.0, 1.0], [[1.0]] * 2),
            ([1.0], [[1.0]] * 3),
            ([1.0], [[1.0], [-1.0]]),
            ([1.0], [[1.0], [1.0, 1.0]]),
            ("rich", [[1.0]] * 2),
        ],
    )
    def test_budgets_and_caps_must_fit(self, budgets: list[float], caps: list[list[float]]) -> None:
        """Refused with what was expected."""
        with pytest.raises(BanditError, match="expected"):
            self.make_with(2, 9, budgets, caps)
