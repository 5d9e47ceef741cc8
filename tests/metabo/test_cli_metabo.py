"""`frugalbo metabo` on the command line."""

import json

import numpy as np
import pytest

from frugalbo.cli import main
from frugalbo.metabo.nap import load_nap
from frugalbo.metabo.policy import digest, load_policy, proposing
from frugalbo.metabo.weights import load

CONFIG = """
steps = 3
every = 2
[network]
kernels = 2
width = 14
layers = 1
dims_width = 10
refinements = 1
buckets = 11
[prior]
most_dims = 3
most_seen = 7
asked = 4
batch = 3
"""


NAP = """
kind = "nap"
tables = "TABLES"
iterations = 2
episodes = 2
horizon = 3
candidates = 7
auxiliary = 0.5
[network]
width = 14
heads = 2
layers = 1
hidden = 18
buckets = 11
policy = 5
"""

POLICY = """
kind = "policy"
iterations = 2
rollouts = 2
candidates = 17
most_seen = 7
[prior]
batch = 2
"""


def test_weights_are_made_from_a_file_of_settings(tmp_path, capsys):
    (tmp_path / "t.toml").write_text(CONFIG)
    assert main(["metabo", "train", "--config", str(tmp_path / "t.toml"), "--out", str(tmp_path / "w.pt")]) == 0
    assert [json.loads(line)["step"] for line in capsys.readouterr().out.splitlines()] == [2, 3]
    assert load(tmp_path / "w.pt").made["training"]["steps"] == 3


def test_a_neural_acquisition_process_is_made_from_tables(tmp_path, capsys):
    X = np.random.default_rng(0).random((23, 2))
    np.savez(tmp_path / "t.npz", **{"a/X": X, "a/loss": X.sum(1)})
    (tmp_path / "t.toml").write_text(NAP.replace("TABLES", str(tmp_path / "t.npz")))
    assert main(["metabo", "train", "--config", str(tmp_path / "t.toml"), "--out", str(tmp_path / "w.pt")]) == 0
    assert [json.loads(line)["iteration"] for line in capsys.readouterr().out.splitlines()] == [2]
    held = load_nap(tmp_path / "w.pt")
    assert held.network.point.in_features == 2
    assert held.made["training"]["auxiliary"] == 0.5


def test_a_policy_is_made_on_the_network_that_ships(tmp_path, capsys):
    (tmp_path / "t.toml").write_text(POLICY)
    out = str(tmp_path / "p.pt")
    assert main(["metabo", "train", "--config", str(tmp_path / "t.toml"), "--out", out]) == 0
    assert [json.loads(line)["iteration"] for line in capsys.readouterr().out.splitlines()] == [2]
    held, policy = proposing(out)
    assert policy is not None
    assert load_policy(out).made["training"]["network"] == digest(held.network)
    assert load_policy(out).made["training"]["prior"]["most_dims"] == 10  # what is not said stays as it is


@pytest.mark.parametrize(
    ("text", "message"),
    [("kind = 'tnp'", "got 'tnp'"), ("speed = 3", "unknown setting 'speed'"), ("", "expected steps")],
)
def test_settings_that_make_no_sense_are_refused_in_a_sentence(tmp_path, capsys, text, message):
    (tmp_path / "t.toml").write_text(text)
    assert main(["metabo", "train", "--config", str(tmp_path / "t.toml"), "--out", str(tmp_path / "w.pt")]) == 2
    assert message in capsys.readouterr().err
