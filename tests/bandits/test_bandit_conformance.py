import pytest

from frugalbo import bandits
from frugalbo.errors import BanditError
from frugalbo.testing.bandits import BanditConformance, KnapsackConformance


class TestUCB1(BanditConformance):
    def make(self, n_arms):
        return bandits.UCB1(n_arms)


class TestKLUCB(BanditConformance):
    def make(self, n_arms):
        return bandits.KLUCB(n_arms)


class TestEpsilonGreedy(BanditConformance):
    rounds = 2500
    late_share = 0.75  # it still explores in about a fifth of the rounds

    def make(self, n_arms):
        return bandits.EpsilonGreedy(n_arms)


class TestSuccessiveElimination(BanditConformance):
    def make(self, n_arms):
        return bandits.SuccessiveElimination(n_arms, self.rounds)


class TestSequentialHalving(BanditConformance):
    late_share = 0.5  # it ends with equal pulls of the best two

    def make(self, n_arms):
        return bandits.SequentialHalving(n_arms, self.rounds)


class TestMinimaxSearch(BanditConformance):
    late_share = 0.3  # it looks for the best, and is not paid on the way; it was trained for 20 pulls

    def make(self, n_arms):
        return bandits.MinimaxSearch(n_arms, self.rounds)


class TestBetaThompson(BanditConformance):
    def make(self, n_arms):
        return bandits.BetaThompson(n_arms)


class TestGaussianThompson(BanditConformance):
    def make(self, n_arms):
        return bandits.GaussianThompson(n_arms)


class TestExp3(BanditConformance):
    def make(self, n_arms):
        return bandits.Exp3(n_arms)


class TestExp3IX(BanditConformance):
    def make(self, n_arms):
        return bandits.Exp3IX(n_arms)


class TestTsallisINF(BanditConformance):
    def make(self, n_arms):
        return bandits.TsallisINF(n_arms)


class TestLogBarrier(BanditConformance):
    def make(self, n_arms):
        return bandits.LogBarrier(n_arms)


class TestLogBarrierOfDifferences(BanditConformance):
    def make(self, n_arms):
        return bandits.LogBarrier(n_arms, baseline=0.5)


class TestBatchedExp3(BanditConformance):
    rounds = 4000
    late_share = 0.8

    def make(self, n_arms):
        return bandits.BatchedExp3(n_arms, self.rounds)


class TestShrinkingDartboard(BanditConformance):
    def make(self, n_arms):
        return bandits.ShrinkingDartboard(n_arms, self.rounds, observations=600)


class TestWarmupElimination(BanditConformance):
    def make(self, n_arms):
        return bandits.WarmupElimination(n_arms, warmup=5, horizon=self.rounds)


class TestUCBBwK(KnapsackConformance):
    def make_with(self, n_arms, horizon, budgets, caps):
        return bandits.UCBBwK(n_arms, horizon, budgets, caps)


class TestLagrangeBwK(KnapsackConformance):
    def make_with(self, n_arms, horizon, budgets, caps):
        return bandits.LagrangeBwK(n_arms, horizon, budgets, caps)


def test_every_kind_is_tested_and_comes_back_by_its_name():
    suites = [suite() for name, suite in globals().items() if name.startswith("Test")]
    made = [suite.make(3) for suite in suites]
    assert {type(bandit).__name__ for bandit in made} == set(bandits.KINDS)
    for bandit in made:
        again = bandits.bandit_from_json(bandit.to_json())
        assert type(again) is type(bandit)
        assert again.to_json() == bandit.to_json()


@pytest.mark.parametrize("data", [{}, {"kind": "Guess"}, {"kind": None}])
def test_an_unknown_kind_is_refused(data):
    with pytest.raises(BanditError, match="expected a kind of"):
        bandits.bandit_from_json(data)
