"""Reinforcement: advantages and losses by hand, and a policy that finds an optimum that is known."""

import math
from dataclasses import replace

import pytest
import torch

from frugalbo.metabo.nap import NAPTraining, train_nap, worths
from frugalbo.metabo.network import NAP, NAPShape
from frugalbo.metabo.ppo import advantages, clipped_loss, log_chances, roll_out
from frugalbo.metabo.sources import Episodes

SHAPE = NAPShape(width=22, heads=2, layers=2, hidden=26, buckets=17, policy=19)
B, N, D, T = 3, 11, 2, 5


class Peak:
    """Tasks in one dimension whose best candidate is always the one nearest to `at`."""

    dims = 1

    def __init__(self, at, candidates=N):
        self.at, self.candidates = at, candidates

    def draw(self, seed, i, count):
        g = torch.Generator().manual_seed(1000 * seed + i)
        X = torch.rand(count, self.candidates, 1, generator=g)
        y = -(X[..., 0] - self.at).abs()
        low, high = y.amin(1, keepdim=True), y.amax(1, keepdim=True)
        return Episodes(X, (y - low) / (high - low))


def played(top=N):
    torch.manual_seed(2)
    network = NAP(D, SHAPE)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    g = torch.Generator().manual_seed(5)
    X, y = torch.rand(B, N, D, generator=g), torch.rand(B, N, generator=g)
    y = (y - y.amin(1, keepdim=True)) / (y.amax(1, keepdim=True) - y.amin(1, keepdim=True))
    return network, roll_out(network, Episodes(X, y), T, top, g)


def test_advantages_and_returns_by_hand():
    # discount 0.5, decay 0.5, rewards (1, 2, 4), values (3, 1, 2), nothing after the end:
    # surprises: 4 - 2 = 2;  2 + 0.5 * 2 - 1 = 2;  1 + 0.5 * 1 - 3 = -1.5
    # advantages: 2;  2 + 0.25 * 2 = 2.5;  -1.5 + 0.25 * 2.5 = -0.875;  returns: + values.
    gained, returns = advantages(torch.tensor([[1.0, 2, 4]]), torch.tensor([[3.0, 1, 2]]), 0.5, 0.5)
    torch.testing.assert_close(gained, torch.tensor([[-0.875, 2.5, 2]]))
    torch.testing.assert_close(returns, torch.tensor([[2.125, 3.5, 4]]))


def test_with_decay_one_the_returns_are_the_discounted_sums():
    reward, value = torch.rand(B, T, dtype=torch.float64), torch.rand(B, T, dtype=torch.float64)
    _, returns = advantages(reward, value, 0.9, 1.0)
    for t in range(T):
        expected = sum(0.9 ** (k - t) * reward[:, k] for k in range(t, T))
        torch.testing.assert_close(returns[:, t], expected)


def test_the_clipped_loss_by_hand():
    # Ratios 1.5, 1.5, 0.5, 0.5 with advantages 2, -2, 2, -2 and clip 0.2:
    # min(3, 2.4), min(-3, -2.4), min(1, 1.6), min(-1, -1.6) = 2.4, -3, 1, -1.6; less their mean is 0.3.
    log_p = torch.tensor([1.5, 1.5, 0.5, 0.5]).log()
    loss = clipped_loss(log_p, torch.zeros(4), torch.tensor([2.0, -2, 2, -2]), 0.2)
    assert loss.item() == pytest.approx(0.3)


def test_beyond_the_clip_there_is_nothing_more_to_gain():
    log_p = torch.tensor([1.5, 0.5, 1.1]).log().requires_grad_()
    clipped_loss(log_p, torch.zeros(3), torch.tensor([1.0, -1, 1]), 0.2).backward()
    assert log_p.grad.tolist() == [0, 0, pytest.approx(-1.1 / 3)]


@pytest.mark.parametrize("top", [N, 3])
def test_an_episode_takes_no_candidate_twice_and_is_rewarded_for_the_best_so_far(top):
    _, rollout = played(top)
    y = rollout.tasks.y
    for b in range(B):
        taken = rollout.action[b].tolist()
        assert len(set(taken)) == T
        for t in range(T):
            best = y[b, taken[: t + 1]].max().item()
            assert rollout.reward[b, t].item() == pytest.approx(-math.log10(max(1e-20, 1 - best)), abs=1e-5)
            assert rollout.best[b, t].item() == (y[b, taken[:t]].max().item() if t else 0)
            assert not rollout.allowed[b, t, taken[:t]].any()
            assert rollout.allowed[b, t].sum() == min(top, N - t)
            assert rollout.allowed[b, t, taken[t]]


def test_a_network_that_did_not_change_gives_the_chances_that_it_gave():
    """So the first ratio of each update is one, whatever is padded."""
    network, rollout = played(top=3)
    which = torch.randperm(B * T)
    said = rollout.answers(network, which)
    log_p = log_chances(said.policy, rollout.allowed.flatten(0, 1)[which])
    log_p = log_p.gather(1, rollout.action.flatten()[which].unsqueeze(-1))[:, 0]
    torch.testing.assert_close(log_p, rollout.log_p.flatten()[which], rtol=0, atol=1e-4)
    torch.testing.assert_close(said.value, rollout.value.flatten()[which])


TRAINING = NAPTraining(
    iterations=60, episodes=48, horizon=2, candidates=N, lr=1e-2, warmup=3, minibatch=24, accumulate=1, auxiliary=0.0,
    top=N, network=replace(SHAPE, initial=0.1), every=60, discount=0.9,
)  # fmt: skip


def firsts(network, policy, peak, count=60):
    """How often the first candidate that is taken, with nothing known, is the best of all."""
    tasks = peak.draw(99, 0, count)
    none = torch.zeros(0, 1), torch.zeros(0)
    found = [
        worths(network, policy, *none, X, 0.0).argmax() == y.argmax() for X, y in zip(tasks.X, tasks.y, strict=True)
    ]
    return sum(map(bool, found))


def test_reinforcement_alone_learns_where_the_optimum_always_is(tmp_path):
    """Of 60 new tasks a guess hits 1 in 11: 12 or more by chance once in two hundred; 40 never."""
    peak = Peak(0.8)
    network = train_nap(TRAINING, tmp_path / "w.pt", tasks=peak)
    assert firsts(network, "learned", peak) >= 40


def test_reinforcement_of_the_opposite_does_not(tmp_path, monkeypatch):
    """The twin of the test above: with the sign of the advantages turned it is not learned."""

    def turned(*told):
        gained, returns = advantages(*told)
        return -gained, returns

    monkeypatch.setattr("frugalbo.metabo.nap.advantages", turned)
    network = train_nap(TRAINING, tmp_path / "w.pt", tasks=Peak(0.8))
    assert firsts(network, "learned", Peak(0.8)) < 12
