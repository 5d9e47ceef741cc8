"""The training of the neural acquisition process: resumed, refused, and by likelihood alone."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from frugalbo.errors import ProblemError, WeightsError
from frugalbo.metabo.nap import NAPTraining, likelihood_loss, load_nap, log_improvement, train_nap, worths
from frugalbo.metabo.network import NAP, NAPShape
from frugalbo.metabo.ppo import roll_out
from frugalbo.metabo.sources import Episodes, Sources
from frugalbo.metabo.tables import Table
from frugalbo.metabo.universal import Universal
from frugalbo.metabo.weights import load, save

SHAPE = NAPShape(width=14, heads=2, layers=1, hidden=18, buckets=23, policy=7)
TRAINING = NAPTraining(
    iterations=5, seed=3, episodes=4, horizon=3, candidates=7, top=5, minibatch=5, accumulate=2, every=2, network=SHAPE
)


class Rising:
    """Tasks whose outcome is the first coordinate."""

    dims = 2

    def draw(self, seed, i, count):
        X = torch.rand(count, 7, 2, generator=torch.Generator().manual_seed(1000 * seed + i))
        X[:, 0, 0], X[:, 1, 0] = 0, 1
        return Episodes(X, X[..., 0].clone())


def table(seed, d=2, n=60):
    rng = np.random.default_rng(seed)
    X = rng.random((n, d))
    return Table.of(X, ((X - 0.3) ** 2).sum(1) + 0.05 * rng.standard_normal(n))


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("policy", ["learned", "improvement"])
def test_a_training_that_was_interrupted_makes_the_same_weights(tmp_path, policy):
    training = replace(TRAINING, policy=policy)
    train_nap(training, tmp_path / "straight.pt", tasks=Rising())

    def interrupt(line):
        if line["iteration"] == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        train_nap(training, tmp_path / "resumed.pt", interrupt, Rising())
    lines = []
    train_nap(training, tmp_path / "resumed.pt", lines.append, Rising())
    assert [line["iteration"] for line in lines] == [4, 5]
    a, b = (load_nap(tmp_path / f"{name}.pt") for name in ("straight", "resumed"))
    assert a.policy == policy
    for name, tensor in a.network.state_dict().items():
        assert torch.equal(tensor, b.network.state_dict()[name]), name


def test_each_iteration_of_each_seed_has_its_own_stream(tmp_path, monkeypatch):
    streams = []

    def gathered(network, tasks, horizon, top, g):
        streams.append(g.initial_seed())
        return roll_out(network, tasks, horizon, top, g)

    monkeypatch.setattr("frugalbo.metabo.nap.roll_out", gathered)
    for seed in (0, 1):
        train_nap(replace(TRAINING, seed=seed), tmp_path / f"{seed}.pt", tasks=Rising())
    assert len(set(streams)) == 2 * TRAINING.iterations


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    train_nap(TRAINING, tmp_path / "w.pt", tasks=Rising())
    with pytest.raises(WeightsError, match=r"another clip: expected 0\.3, got 0\.15"):
        train_nap(replace(TRAINING, clip=0.3), tmp_path / "w.pt", tasks=Rising())


def test_weights_of_the_other_network_are_refused_both_ways(tmp_path):
    train_nap(TRAINING, tmp_path / "nap.pt", tasks=Rising())
    save(tmp_path / "universal.pt", Universal(), {})
    with pytest.raises(WeightsError, match=r"expected .* to be a file of frugalbo.metabo.universal/1, got .*nap/1"):
        load(tmp_path / "nap.pt")
    with pytest.raises(WeightsError, match=r"expected .* to be a file of frugalbo.metabo.nap/1, got .*universal/1"):
        load_nap(tmp_path / "universal.pt")
    with pytest.raises(WeightsError, match=r"nap/1, got .*checkpoint/1"):
        load_nap(tmp_path / "nap.pt.checkpoint")


def test_without_reinforcement_the_policy_and_the_value_are_left_alone(tmp_path):
    network = train_nap(replace(TRAINING, policy="improvement"), tmp_path / "w.pt", tasks=Rising())
    torch.manual_seed(TRAINING.seed)
    new = NAP(2, SHAPE)
    for part in ("choose", "judge"):
        for a, b in zip(getattr(network, part).parameters(), getattr(new, part).parameters(), strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(network.predict[2].weight, new.predict[2].weight)


def test_the_likelihood_is_learned_where_it_counts_and_only_there(tmp_path):
    """On new tasks, beside the loss of a network that was not trained."""
    found = {}
    for auxiliary in (0.0, 1.0):
        training = replace(TRAINING, auxiliary=auxiliary, iterations=25, lr=1e-2, network=replace(SHAPE, initial=0.1))
        network = train_nap(training, tmp_path / f"{auxiliary}.pt", tasks=Rising())
        tasks, g = Rising().draw(9, 9, 50), torch.Generator().manual_seed(1)
        found[auxiliary] = likelihood_loss(network, tasks, torch.arange(50), 3, g).item()
    untrained = math.log(1.2)  # all buckets alike, on 1.2 units
    assert found[1.0] < untrained - 0.2
    assert found[0.0] > untrained - 0.05


def test_improvement_is_the_integral_above_the_best():
    torch.manual_seed(4)
    network = NAP(2, NAPShape(width=14, heads=2, layers=1, hidden=18, buckets=23, policy=7)).double()
    bars, best = torch.randn(1, 3, 23, dtype=torch.float64), torch.tensor([0.63], dtype=torch.float64)
    z = torch.linspace(-1, 2.5, 700_001, dtype=torch.float64)
    found = log_improvement(network, bars, best)[0].exp()
    for i in range(3):
        density = network.bars.log_density(bars[0, i].expand(len(z), -1), z).exp()
        expected = torch.trapezoid(density * (z - best).clamp_min(0), z)
        assert found[i].item() == pytest.approx(expected.item(), rel=1e-4)


def test_what_a_candidate_is_worth_is_the_policy_or_the_improvement():
    torch.manual_seed(5)
    network = NAP(2, SHAPE)
    X, y, Q = torch.rand(4, 2), torch.rand(4), torch.rand(6, 2)
    said = network(X[None], y[None], torch.ones(1, 4, dtype=torch.bool), Q[None], y.max()[None], torch.tensor([0.5]))
    torch.testing.assert_close(worths(network, "learned", X, y, Q, 0.5), said.policy[0])
    expected = log_improvement(network, said.bars, y.max()[None])[0]
    torch.testing.assert_close(worths(network, "improvement", X, y, Q, 0.5), expected)


def test_tasks_are_draws_of_the_processes_scaled_from_worst_to_best():
    sources = Sources([table(0), table(1)], 13, 40)
    tasks = sources.draw(7, 2, 5)
    again = sources.draw(7, 2, 5)
    assert torch.equal(tasks.X, again.X)
    assert torch.equal(tasks.y, again.y)
    assert not torch.equal(tasks.y, sources.draw(7, 3, 5).y)
    assert tasks.X.shape == (5, 13, 2)
    for ends, at in ((tasks.X.amin(1), 0), (tasks.X.amax(1), 1), (tasks.y.amin(1), 0), (tasks.y.amax(1), 1)):
        torch.testing.assert_close(ends, torch.full_like(ends, at))


def test_tasks_are_good_where_their_table_is():
    """Both tables are best at 0.3 in each dimension: over 40 draws, nearer candidates are better."""
    tasks = Sources([table(0), table(1)], 29, 60).draw(0, 0, 40)
    apart = ((tasks.X - 0.3) ** 2).sum(-1)
    correlations = [np.corrcoef(a, y)[0, 1] for a, y in zip(apart.numpy(), tasks.y.numpy(), strict=True)]
    assert np.mean(correlations) < -0.5


def test_tables_of_several_spaces_or_of_no_difference_are_refused():
    with pytest.raises(ProblemError, match=r"tables of one space, got 2 with columns \[2, 3\]"):
        Sources([table(0), table(1, d=3)], 7, 40)
    flat = Table.of(np.random.default_rng(0).random((9, 2)), 1e-5 * np.arange(9.0))
    with pytest.raises(ProblemError, match="got 0 with columns"):
        Sources([flat], 7, 40)


def test_a_training_survives_json():
    assert NAPTraining.of(json.loads(json.dumps(TRAINING.to_json()))) == TRAINING


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0}, "lr above 0, got 0"),
        ({"policy": "ei"}, "'learned' or 'improvement', got 'ei'"),
        ({"policy": "improvement", "auxiliary": 0.0}, "likelihood of at least 0, got 0.0"),
        ({"horizon": 300}, "horizon of 2 to 299, got 300"),
        ({"speed": 2}, "unknown setting 'speed'"),
        ({"network": {"depth": 2}}, "unknown setting 'depth'"),
    ],
)
def test_settings_that_make_no_weights_are_refused(settings, message):
    with pytest.raises(WeightsError, match=message):
        NAPTraining.of(settings)
