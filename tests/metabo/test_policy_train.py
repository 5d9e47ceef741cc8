"""The training of the budget policy: it finds what pays, is resumed, and leaves the network alone."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from frugalbo.errors import WeightsError
from frugalbo.metabo.policy import BudgetPolicy, Outlook, PolicyShape, Purse, digest, load_policy
from frugalbo.metabo.policy_train import PolicyTraining, advantages, iterate, train_policy
from frugalbo.metabo.priors import Prior
from frugalbo.metabo.purchases import Purchases, States, spend
from frugalbo.metabo.universal import Universal, UniversalShape
from frugalbo.metabo.weights import known, save

SHAPE = UniversalShape(kernels=2, width=14, layers=1, dims_width=10, refinements=1, buckets=34, most_dims=7)
TRAINING = PolicyTraining(
    iterations=5, seed=3, rollouts=3, candidates=17, most_seen=9, minibatch=13, every=2, policy=PolicyShape(width=7),
    prior=Prior(most_dims=5, batch=2),
)  # fmt: skip


def network(seed=0):
    torch.manual_seed(seed)
    return Universal(SHAPE)


def dear_is_good(seed, count):
    """The budget pays for the dearest, which is the best, or for some of the cheaper ones, which are all alike."""
    rng = np.random.default_rng(seed)
    log_cost = torch.from_numpy(rng.uniform(-2, -0.1, (count, 11)))
    log_cost[:, 0] = 0
    y = torch.from_numpy(rng.uniform(1, 1.2, (count, 11)))
    y[:, 0] = 0
    order = torch.from_numpy(np.argsort(rng.random((count, 11)), axis=1))
    y, log_cost = y.gather(1, order), log_cost.gather(1, order)
    initial = y.argsort(1, descending=True)[:, :2]
    X = torch.from_numpy(rng.random((count, 11, 2)))
    return Purchases(X, y, log_cost, torch.zeros(2, dtype=torch.bool), initial, torch.ones(count, dtype=torch.float64))


def found(net, policy):
    """In how many of 40 tasks the best is bought."""
    return int((spend(net, policy, dear_is_good(99, 40), 9, 0.0, torch.Generator())[1] == 0).sum())


def test_policy_gradient_finds_what_pays():
    """Untrained it buys what is cheap. At random the first purchase is the best in 1 of 9: 28 of 40 are no chance."""
    net, policy = network().requires_grad_(False), BudgetPolicy(PolicyShape(width=7))
    optimizer = torch.optim.Adam(policy.parameters(), lr=5e-2)
    training = replace(TRAINING, rollouts=8, minibatch=512, temperature=0.5)
    assert found(net, policy) < 12
    for i in range(25):
        iterate(net, policy, optimizer, training, dear_is_good(i, 8), i)
    assert found(net, policy) >= 28


def test_the_network_learns_nothing():
    net, policy = network(), BudgetPolicy(PolicyShape(width=7))
    before = digest(net)
    assert all(p.requires_grad for p in net.parameters())
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    iterate(net, policy, optimizer, TRAINING, dear_is_good(0, 2), 0)
    assert digest(net) == before
    assert all(p.grad is None for p in net.parameters())
    assert not torch.equal(policy.correct.weight, torch.zeros(1, 7))


class Interrupted(Exception):
    pass


def test_a_training_that_was_interrupted_makes_the_same_weights(tmp_path):
    save(tmp_path / "net.pt", network(), {})
    training = replace(TRAINING, start=str(tmp_path / "net.pt"))
    train_policy(training, tmp_path / "straight.pt")

    def interrupt(line):
        if line["iteration"] == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        train_policy(training, tmp_path / "resumed.pt", interrupt)
    lines = []
    train_policy(training, tmp_path / "resumed.pt", lines.append)
    assert [line["iteration"] for line in lines] == [4, 5]
    a, b = (load_policy(tmp_path / f"{name}.pt").policy.state_dict() for name in ("straight", "resumed"))
    for name in a:
        assert torch.equal(a[name], b[name]), name
    assert a["correct.weight"].abs().max() > 0


def test_a_checkpoint_on_another_network_or_with_other_settings_is_refused(tmp_path):
    for seed in (0, 1):
        save(tmp_path / f"{seed}.pt", network(seed), {})
    training = replace(TRAINING, iterations=1, start=str(tmp_path / "0.pt"))
    train_policy(training, tmp_path / "p.pt")
    with pytest.raises(WeightsError, match=r"another lr: expected 0\.5, got 0\.003"):
        train_policy(replace(training, lr=0.5), tmp_path / "p.pt")
    (tmp_path / "1.pt").replace(tmp_path / "0.pt")
    known.cache_clear()
    with pytest.raises(WeightsError, match="another network"):
        train_policy(training, tmp_path / "p.pt")


def test_an_episode_counts_beside_the_others_on_its_task():
    """Both tasks end far apart, their two episodes hardly; only which of the two was the better is a gain."""
    returns = torch.tensor([1.0, 1.2, 5.0, 4.8], dtype=torch.float64)
    same = torch.full((4,), 0.5, dtype=torch.float64)
    nothing = torch.zeros(4, 3)
    purse = Purse(nothing, same, same, same)
    at = States(Outlook(nothing, nothing, nothing), purse, nothing > 0, same.long(), same, torch.arange(4), same)
    gained = advantages([at], returns, 2)
    assert (gained > 0).tolist() == [False, True, True, False]
    assert gained.mean().item() == pytest.approx(0, abs=1e-6)


def test_a_training_survives_json():
    assert PolicyTraining.of(json.loads(json.dumps(TRAINING.to_json()))) == TRAINING


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, "expected iterations"),
        ({"iterations": 0}, "iterations above 0, got 0"),
        ({"iterations": 3, "rollouts": 1}, "at least 2 rollouts of each task, got 1"),
        ({"iterations": 3, "speed": 2}, "unknown setting 'speed'"),
        ({"iterations": 3, "prior": {"dims": 2}}, "unknown setting 'dims'"),
        ({"iterations": 3, "temperature": 0.0}, r"temperature above 0, got 0\.0"),
    ],
)
def test_settings_that_make_no_policy_are_refused(record, message):
    with pytest.raises(WeightsError, match=message):
        PolicyTraining.of(record)
