"""The conformance suite catches what it is for: each check fails on a bandit that breaks its promise."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from frugalbo.bandits import UCB1, Exp3
from frugalbo.testing.bandits import BanditConformance


class Impure(UCB1):
    def select(self, rng):
        arm = super().select(rng)
        self.counts[arm] += 1
        return arm


class OfItsOwn(UCB1):
    def select(self, rng):
        return super().select(np.random.default_rng(0))


class Global(UCB1):
    def select(self, rng):
        return int(rng.integers(self.n_arms)) if not self.counts.any() else int(np.random.default_rng().integers(3))


class Forgetful(Exp3):
    """Has state that is no field."""

    bonus = 0.0

    def _learn(self, arm, reward, probability=None):
        super()._learn(arm, reward, probability)
        self.bonus = self.bonus + reward

    def rate(self):
        return super().rate() / (1 + self.bonus)


class Unnormalised(UCB1):
    def probabilities(self):
        return super().probabilities() * 0.9


class Says(Exp3):
    """Says one thing and does another."""

    def select(self, rng):
        return int(rng.integers(self.n_arms))


class FirstOfEquals(UCB1):
    def probabilities(self):
        return np.eye(self.n_arms)[super().probabilities().argmax()]


class Trusting(UCB1):
    def update(self, arm, reward, cost=None):
        self._learn(arm, reward)


class Early(UCB1):
    """Learns, and then looks at what it was told."""

    def update(self, arm, reward, cost=None):
        self.counts[0] += 1
        self._checked(arm, reward)


@dataclass(eq=False)
class Credulous(UCB1):
    def __post_init__(self):
        self.counts, self.sums = np.zeros(3, np.int64), np.zeros(3)


@dataclass(eq=False)
class Careless(UCB1):
    more: int = field(default=0)

    @classmethod
    def from_json(cls, data):
        bandit = cls(data.get("n_arms", 3))
        bandit.counts = np.array(data.get("counts"))
        return bandit


class Uniform(UCB1):
    def indices(self):
        return np.zeros(self.n_arms)


@pytest.mark.parametrize(
    ("kind", "check", "args"),
    [
        (Impure, "test_selecting_changes_nothing", (7,)),
        (OfItsOwn, "test_the_same_seed_makes_the_same_run", ()),
        (Global, "test_the_same_seed_makes_the_same_run", ()),
        (Forgetful, "test_a_run_that_was_stored_goes_on_as_if_nothing_had_been", (13,)),
        (Unnormalised, "test_probabilities_are_some", (2,)),
        (Says, "test_arms_are_selected_with_their_probabilities", (40,)),
        (FirstOfEquals, "test_no_arm_is_favoured_by_its_number", ()),
        (Trusting, "test_an_arm_that_there_is_not_is_refused", (-1,)),
        (Trusting, "test_a_reward_out_of_range_is_refused", (1.01,)),
        (Early, "test_an_arm_that_there_is_not_is_refused", (-1,)),
        (Credulous, "test_there_must_be_an_arm", (0,)),
        (Careless, "test_a_state_that_does_not_fit_is_refused", ()),
        (Uniform, "test_an_easy_game_is_learned", ()),
    ],
)
def test_a_broken_promise_is_found(kind, check, args):
    class Suite(BanditConformance):
        def make(self, n_arms):
            return kind(n_arms)

    with pytest.raises((AssertionError, pytest.fail.Exception)):
        getattr(Suite(), check)(*args)
