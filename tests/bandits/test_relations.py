"""What each bandit is for, as a claim about one seeded run that holds in at least k of n, and a twin that fails it.

A twin is the bandit with its mechanism switched off. `rates` say how often the claim held, of the bandit and of its
twin, in 60 runs of other seeds (`python tests/bandits/test_relations.py` counts again), rounded towards each other;
with them k of n is wrong of either in fewer than one case in fifty.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from frugalbo.bandits import (
    KLUCB,
    UCB1,
    BatchedExp3,
    BetaThompson,
    EpsilonGreedy,
    Exp3,
    Exp3IX,
    GaussianThompson,
    LagrangeBwK,
    LogBarrier,
    SequentialHalving,
    ShrinkingDartboard,
    SuccessiveElimination,
    TsallisINF,
    UCBBwK,
    WarmupElimination,
)
from frugalbo.bandits.adversarial import entropy_weights
from frugalbo.testing.bandit_games import Coins, Shop, WarmingArms, play


def regrets(bandit, means, marks, seed):
    """The regret after each of `marks` rounds."""
    game = Coins(means, marks[-1], seed)
    arms = play(bandit, game, marks[-1], seed).arms
    return [game.regret(arms[:mark]) for mark in marks]


class Greedy(UCB1):
    def indices(self):
        return self.means


def the_regret_hardly_grows_any_more(kind, seed):
    """In the second half of T it is less than 0.7 of that of the first half; at a rate of log T, 0.09."""
    half, full = regrets(kind(5), [0.3, 0.1, 0.1, 0.1, 0.1], (2000, 4000), seed)
    return full - half < 0.7 * half


class Hoeffding(KLUCB):
    """The interval that Pinsker's inequality gives, and so Hoeffding's."""

    def indices(self):
        return self.means + np.sqrt(math.log(self.counts.sum()) / (2 * self.counts))


def rare_successes_cost_less_than_by_hoeffding(kind, seed):
    means = [0.12, 0.04, 0.04, 0.04, 0.04]
    return regrets(kind(5), means, [1000], seed) < regrets(Hoeffding(5), means, [1000], seed)


class BetaPrior(BetaThompson):
    def draws(self, rng):
        return rng.beta(1, 1, self.n_arms)


class GaussianPrior(GaussianThompson):
    def draws(self, rng):
        return rng.normal(self.prior_mean, self.prior_sd, self.n_arms)


def it_loses_less_than_ucb(kind, seed):
    means = [0.5, 0.5, 0.4, 0.4, 0.6]
    return regrets(kind(5), means, [1500], seed) < regrets(UCB1(5), means, [1500], seed)


class ConstantEpsilon(EpsilonGreedy):
    def probabilities(self):
        return 0.7 * super().probabilities() + 0.3 / self.n_arms


def the_regret_grows_by_two_thirds(kind, seed):
    """In eight times the rounds by 8^(2/3) = 4 and a logarithm, 4.4; at a linear rate, by 8."""
    early, late = regrets(kind(3), [0.2, 0.5, 0.8], (500, 4000), seed)
    return late < 5.4 * early


class Hasty(SuccessiveElimination):
    @property
    def remaining(self):
        return (self.counts == 0) | (self.means >= self.means[self.counts > 0].max(initial=0.0))


def only_the_best_arm_remains(kind, seed):
    bandit = kind(3, 5000)
    play(bandit, Coins([0.35, 0.65, 0.35], 5000, seed), 5000, seed)
    return bandit.remaining.tolist() == [False, True, False]


class Unhalved(SequentialHalving):
    """As many pulls of each arm."""

    def _learn(self, arm, reward):
        self.counts[arm] += 1
        self.sums[arm] += reward
        self.todo = np.full(self.n_arms, self.pulls // self.n_arms) - self.counts


def the_best_of_sixteen_is_found(kind, seed):
    means = np.random.default_rng([seed, 3]).permutation([0.7] + [0.5] * 8 + [0.3] * 7)
    bandit = kind(16, 320)
    assert len(play(bandit, Coins(means, 320, seed), 320, seed).arms) == 320  # the comparison is of equal pulls
    return bandit.recommend() == means.argmax()


def unweighted(kind):
    class Unweighted(kind):
        def estimate(self, reward, probability):
            return super().estimate(reward, 1.0)

    return Unweighted


def the_regret_is_below_its_bound(kind, seed):
    """2 sqrt(K T ln K), and so of the order of sqrt(T)."""
    T = 1000
    return regrets(kind(3), [0.2, 0.8, 0.2], [T], seed)[0] < 2 * math.sqrt(3 * T * math.log(3))


def made_against_ucb(T, seed):
    """A game in which UCB1 of this seed never gets anything, and all other arms 1."""
    rng, bandit, means = np.random.default_rng([seed, 2]), UCB1(3), np.ones((T, 3))
    for t in range(T):
        arm = bandit.select(rng)
        means[t, arm] = 0
        bandit.update(arm, 0.0)
    return means


def a_game_made_against_ucb_is_survived(kind, seed):
    """A quarter of the rounds may be lost; UCB1 loses two thirds of them."""
    return regrets(kind(3), made_against_ucb(800, seed), [800], seed)[0] < 200


class Entropy(LogBarrier):
    """The baseline, without the barrier."""

    def weights(self, losses, rate):
        return entropy_weights(losses, rate)


def the_best_arm_is_found_by_losses_below_zero(kind, seed):
    """Each reward r counts as a loss of -r, so estimates reach -1 / p."""
    arms = play(kind(10, baseline=0.0), Coins([0.5] * 9 + [0.9], 1500, seed), 1500, seed).arms
    return arms[-500:].count(9) > 250


class Redrawn(ShrinkingDartboard):
    def keep(self, arm):
        return 0.0


def changes_are_a_tenth_of_those_of_drawing_anew(kind, seed):
    T, B = 3000, 3000
    game = Coins([0.5, 0.5, 0.4, 0.6, 0.5], T, seed)
    played, redrawn = (play(k(5, T, observations=B), game, T, seed) for k in (kind, Redrawn))
    assert 5 * max(played.looks, redrawn.looks) <= B
    return 10 * played.switches < redrawn.switches


class Blindfolded(ShrinkingDartboard):
    def look(self, rewards):
        super().look([0.5] * self.n_arms)


def seeing_a_hundred_times_as_much_saves_half_the_regret(kind, seed):
    T = 5000
    few, many = (regrets(kind(5, T, observations=B), [0.4, 0.4, 0.2, 0.8, 0.4], [T], seed)[0] for B in (25, 2500))
    return many < few / 2


class Unbatched(BatchedExp3):
    batch = 1


def regret_and_changes_cost_half_of_those_of_exp3(kind, seed):
    T = 2000
    game = Coins([0.5, 0.5, 0.4, 0.6, 0.5], T, seed)
    runs = [play(bandit, game, T, seed) for bandit in (kind(5, T), Exp3(5))]
    batched, plain = (game.regret(run.arms) + run.switches for run in runs)
    return batched < plain / 2


class Cold(WarmupElimination):
    """Counts the first rewards after a change, too."""

    def __post_init__(self):
        super().__post_init__()
        self.warmup = 0


def warm_up_costs_less_than_two_thirds_of_ucb(kind, seed):
    """In complete policy regret, with a best arm that brings nothing when cold."""
    T, cold, warm = 6000, [0.0, 0.6, 0.5], [1.0, 0.6, 0.5]
    lost = []
    for bandit in (kind(3, 100, T), UCB1(3)):
        game = WarmingArms(cold, warm, 100, seed)
        play(bandit, game, T, seed)
        lost.append(game.lost)
    return lost[0] < lost[1] * 2 / 3


def blind(kind):
    class Blind(kind):
        def _learn_pull(self, arm, reward, cost):
            super()._learn_pull(arm, reward, 0 * cost)

    return Blind


def a_mixture_beats_the_best_arm_by_a_fifth(kind, seed):
    """Arm 0 takes both resources, and buys 0.45 T; the other two take one each, and buy 0.7 T if mixed evenly."""
    T = 1000
    bandit = kind(3, T, [T / 2, T / 2], [1.0, 1.0])
    played = play(bandit, Shop([0.9, 0.7, 0.7], [[1, 1], [1, 0], [0, 1]], seed), T, seed)
    assert (bandit.spent <= T / 2).all()
    return sum(played.rewards) > 1.2 * 0.45 * T


@dataclass(frozen=True)
class Relation:
    claim: Callable[[type, int], bool]
    kind: type
    twin: type
    k: int
    n: int
    rates: tuple[float, float]


RELATIONS = [
    Relation(the_regret_hardly_grows_any_more, UCB1, Greedy, 11, 12, (0.985, 0.59)),
    Relation(rare_successes_cost_less_than_by_hoeffding, KLUCB, Hoeffding, 4, 5, (0.97, 0.02)),
    Relation(it_loses_less_than_ucb, BetaThompson, BetaPrior, 8, 10, (0.98, 0.02)),
    Relation(it_loses_less_than_ucb, GaussianThompson, GaussianPrior, 8, 10, (0.97, 0.02)),
    Relation(the_regret_grows_by_two_thirds, EpsilonGreedy, ConstantEpsilon, 7, 8, (0.98, 0.02)),
    Relation(only_the_best_arm_remains, SuccessiveElimination, Hasty, 15, 16, (0.99, 0.67)),
    Relation(the_best_of_sixteen_is_found, SequentialHalving, Unhalved, 110, 150, (0.82, 0.63)),
    *(
        Relation(the_regret_is_below_its_bound, kind, unweighted(kind), 4, 5, (0.98, 0.02))
        for kind in (Exp3, Exp3IX, TsallisINF, LogBarrier)
    ),
    *(
        Relation(a_game_made_against_ucb_is_survived, kind, UCB1, 4, 5, (0.98, 0.02))
        for kind in (Exp3, Exp3IX, TsallisINF, LogBarrier)
    ),
    Relation(the_best_arm_is_found_by_losses_below_zero, LogBarrier, Entropy, 5, 6, (0.98, 0.07)),
    Relation(changes_are_a_tenth_of_those_of_drawing_anew, ShrinkingDartboard, Redrawn, 5, 6, (0.98, 0.02)),
    Relation(
        seeing_a_hundred_times_as_much_saves_half_the_regret, ShrinkingDartboard, Blindfolded, 6, 10, (0.86, 0.02)
    ),
    Relation(regret_and_changes_cost_half_of_those_of_exp3, BatchedExp3, Unbatched, 5, 6, (0.98, 0.02)),
    Relation(warm_up_costs_less_than_two_thirds_of_ucb, WarmupElimination, Cold, 4, 5, (0.98, 0.24)),
    Relation(a_mixture_beats_the_best_arm_by_a_fifth, UCBBwK, blind(UCBBwK), 4, 5, (0.98, 0.02)),
    Relation(a_mixture_beats_the_best_arm_by_a_fifth, LagrangeBwK, blind(LagrangeBwK), 4, 5, (0.98, 0.04)),
]
SLOW = {only_the_best_arm_remains}
NAMED = [
    pytest.param(
        one, id=f"{one.kind.__name__}-{one.claim.__name__}", marks=[pytest.mark.slow] if one.claim in SLOW else []
    )
    for one in RELATIONS
]


@pytest.mark.parametrize("relation", NAMED)
def test_the_relation_holds(relation):
    held = sum(relation.claim(relation.kind, seed) for seed in range(relation.n))
    assert held >= relation.k, f"{held} of {relation.n}"


@pytest.mark.parametrize("relation", NAMED)
def test_its_twin_fails(relation):
    held = sum(relation.claim(relation.twin, seed) for seed in range(relation.n))
    assert held < relation.k, f"{held} of {relation.n}"


def at_least(k, n, rate):
    """The chance that at least k of n hold."""
    return sum(math.comb(n, i) * rate**i * (1 - rate) ** (n - i) for i in range(k, n + 1))


@pytest.mark.parametrize("relation", NAMED)
def test_k_of_n_tells_them_apart(relation):
    of_bandit, of_twin = (at_least(relation.k, relation.n, rate) for rate in relation.rates)
    assert of_bandit > 0.98
    assert of_twin < 0.02


if __name__ == "__main__":
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    for one in RELATIONS:
        rates = [float(np.mean([one.claim(k, 1000 + seed) for seed in range(runs)])) for k in (one.kind, one.twin)]
        print(one.kind.__name__, one.claim.__name__, rates, one.rates, flush=True)
