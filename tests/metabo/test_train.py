"""Training: it goes on where it was, it learns, and what it writes can be trusted."""

import json

import pytest
import torch

from frugalbo.errors import WeightsError
from frugalbo.metabo.priors import Prior
from frugalbo.metabo.settings import read_settings
from frugalbo.metabo.train import Training, loss_of, train
from frugalbo.metabo.universal import Universal, UniversalShape
from frugalbo.metabo.weights import load, save, write

SHAPE = UniversalShape(kernels=2, width=14, layers=1, dims_width=10, refinements=1, buckets=34, most_dims=5)
TRAINING = Training(
    steps=7, seed=3, warmup=2, every=3, network=SHAPE, prior=Prior(most_dims=5, most_seen=11, asked=6, batch=5)
)


class Interrupted(Exception):
    pass


def test_a_training_that_was_interrupted_makes_the_same_weights(tmp_path):
    train(TRAINING, tmp_path / "straight.pt")

    def interrupt(line):
        if line["step"] == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(TRAINING, tmp_path / "resumed.pt", interrupt)
    assert not (tmp_path / "resumed.pt").exists()
    lines = []
    train(TRAINING, tmp_path / "resumed.pt", lines.append)
    assert [line["step"] for line in lines] == [6, 7]
    a, b = (load(tmp_path / f"{name}.pt").network.state_dict() for name in ("straight", "resumed"))
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    train(TRAINING, tmp_path / "w.pt")
    other = Training.of({**TRAINING.to_json(), "lr": 0.5})
    with pytest.raises(WeightsError, match=r"another lr: expected 0\.5, got 0\.001"):
        train(other, tmp_path / "w.pt")


@pytest.mark.slow
def test_it_learns(tmp_path):
    """On tasks that it has not seen it predicts better after two hundred steps."""
    prior = Prior(most_dims=5, most_seen=16)
    tests = [prior.draw(999, i) for i in range(20)]

    def loss(network):
        with torch.no_grad():
            answers = [(network(t.X, t.y, t.categorical, t.Q, t.observed), t.truth.float()) for t in tests]
        return sum(loss_of(*answer).mean().item() for answer in answers) / len(answers)

    torch.manual_seed(0)
    before = loss(Universal(SHAPE))
    training = Training(steps=200, lr=2e-3, warmup=30, network=SHAPE, prior=prior)
    assert loss(train(training, tmp_path / "w.pt")) < before - 0.2


def test_a_training_survives_json_and_toml(tmp_path):
    assert Training.of(json.loads(json.dumps(TRAINING.to_json()))) == TRAINING
    file = tmp_path / "t.toml"
    file.write_text("steps = 7\nseed = 3\n[prior]\nbatch = 5\n")
    assert Training.of(read_settings(file)) == Training(steps=7, seed=3, prior=Prior(batch=5))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = 1", "expected steps"),
        ("steps = 0", "steps above 0, got 0"),
        ("steps = 3\nspeed = 2", "unknown setting 'speed'"),
        ("steps = 3\n[prior]\ndims = 2", "unknown setting 'dims'"),
        ("steps", "cannot read"),
    ],
)
def test_settings_that_make_no_weights_are_refused(tmp_path, text, message):
    (tmp_path / "t.toml").write_text(text)
    with pytest.raises(WeightsError, match=message):
        Training.of(read_settings(tmp_path / "t.toml"))


def test_weights_survive_the_disk_with_how_they_were_made(tmp_path):
    torch.manual_seed(1)
    network = Universal(SHAPE)
    torch.nn.init.normal_(network.predict.weight)
    save(tmp_path / "w.pt", network, {"seed": 5})
    found = load(tmp_path / "w.pt")
    loaded, made = found.network, found.made
    assert made == {"seed": 5}
    assert loaded.shape == SHAPE
    assert torch.equal(loaded.predict.weight, network.predict.weight)
    assert not any(p.requires_grad for p in loaded.parameters())


class _Foreign:
    pass


def _wrong_files(folder):
    (folder / "text.pt").write_text("these are not weights")
    (folder / "empty.pt").write_bytes(b"")
    torch.save({"state": {}}, folder / "foreign.pt")
    torch.save(torch.zeros(3), folder / "tensor.pt")
    torch.save(_Foreign(), folder / "object.pt")
    network = Universal(SHAPE)
    save(folder / "cut.pt", network, {})
    (folder / "cut.pt").write_bytes((folder / "cut.pt").read_bytes()[:2000])
    shape = '{"kernels": 2, "width": 22}'
    write(
        folder / "other_sizes.pt",
        {"format": "frugalbo.metabo.universal/1", "shape": shape, "made": "{}", "state": network.state_dict()},
    )
    torch.nn.init.constant_(network.step, float("nan"))
    save(folder / "nan.pt", network, {})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "cannot read weights"),
        ("text", "expected .*text.pt"),
        ("empty", "expected .*empty.pt"),
        ("foreign", "got None"),
        ("tensor", "got 'Tensor'"),
        ("object", "got something else"),
        ("cut", "expected .*cut.pt"),
        ("other_sizes", "do not fit their network"),
        ("nan", "not all numbers"),
    ],
)
def test_a_wrong_or_foreign_file_is_refused(tmp_path, name, message):
    _wrong_files(tmp_path)
    with pytest.raises(WeightsError, match=message):
        load(tmp_path / f"{name}.pt")
