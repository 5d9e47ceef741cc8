"""Races on tables, their summary, and the command."""

import itertools
import json

import numpy as np
import pytest
import torch

import frugalbo as fb
from frugalbo.cli import main
from frugalbo.errors import ProblemError, WeightsError
from frugalbo.metabo.evaluate import Race, Setting, as_text, evaluate, summary, to_json
from frugalbo.metabo.nap import NAPTraining, load_nap, train_nap, worths
from frugalbo.metabo.network import NAPShape
from frugalbo.metabo.past import PastStudies
from frugalbo.metabo.sources import Episodes
from frugalbo.metabo.tables import read_tables
from frugalbo.metabo.universal import Universal, UniversalShape
from frugalbo.metabo.weights import known, load, save

SHAPE = UniversalShape(kernels=2, width=14, layers=1, dims_width=10, refinements=1, buckets=34)


@pytest.fixture
def tables(tmp_path):
    """Two bowls of 41 rows."""
    arrays = {}
    for i, centre in enumerate((0.2, 0.6)):
        X = np.random.default_rng(i).random((41, 2))
        arrays |= {f"{i}/X": X, f"{i}/accuracy": -((X - centre) ** 2).sum(1)}
    np.savez(tmp_path / "tables.npz", **arrays)
    return tmp_path / "tables.npz"


def test_every_method_starts_at_the_same_rows_and_finds_the_best_when_all_are_tried(tables):
    races = evaluate(tables, Setting(initial=3, steps=60), seeds=1, methods=("gp", "random"))
    for task in ("0", "1"):
        mine = [r.regret for r in races if r.task == task]
        assert len({len(curve) for curve in mine}) == 1
        assert len(mine[0]) == 41 - 3 + 1
        assert mine[0][0] == pytest.approx(mine[1][0], abs=1e-6)
        for curve in mine:
            assert curve[-1] == 0
            assert all(b <= a + 1e-12 for a, b in itertools.pairwise(curve))


def test_several_processes_say_what_one_says(tables):
    one = evaluate(tables, Setting(initial=3, steps=2), seeds=1, methods=("gp", "random"))
    assert evaluate(tables, Setting(initial=3, steps=2), seeds=1, methods=("gp", "random"), jobs=2) == one


class Anything:
    """Tasks of `dims` dimensions in which nothing is to be learned."""

    def __init__(self, dims):
        self.dims = dims

    def draw(self, seed, i, count):
        y = torch.linspace(0, 1, 7).expand(count, -1)
        return Episodes(torch.rand(count, 7, self.dims, generator=torch.Generator().manual_seed(i)), y)


def nap(folder, dims):
    shape = NAPShape(width=14, heads=2, layers=1, hidden=18, buckets=23, policy=7)
    training = NAPTraining(iterations=1, episodes=3, horizon=2, candidates=7, network=shape)
    train_nap(training, folder / "nap.pt", tasks=Anything(dims))
    return Setting(initial=3, steps=5, nap=str(folder / "nap.pt"))


def test_a_race_of_a_neural_acquisition_process_takes_what_it_says(tables, tmp_path):
    setting = nap(tmp_path, 2)
    (race,) = evaluate(tables, setting, seeds=1, methods=("nap",))[:1]
    table, held = read_tables(tables)["0"], load_nap(setting.nap)
    outcomes, points = torch.from_numpy(1 - table.regret(table.losses)), torch.from_numpy(table.U)
    tried = list(np.random.default_rng([0, 99]).permutation(41)[:3])
    for step in range(5):
        left = np.setdiff1d(np.arange(41), tried)
        said = worths(held.network, "learned", points[tried], outcomes[tried], points[left], step / 5)
        tried.append(int(left[int(said.argmax())]))
    assert race.regret[-1] == pytest.approx(1 - outcomes[tried].max().item(), abs=1e-6)


def test_a_neural_acquisition_process_of_another_space_is_refused(tables, tmp_path):
    with pytest.raises(WeightsError, match="tables of 3 columns for 'nap', got 2 in '0'"):
        evaluate(tables, nap(tmp_path, 3), seeds=1, methods=("nap",))


def test_the_past_of_such_columns_is_used_and_counted(tables, tmp_path):
    torch.manual_seed(0)
    space = fb.Space({"x1": fb.Float(0, 1), "x2": fb.Float(0, 1)})
    Z = torch.rand(29, 2, dtype=torch.float64)
    zeros = torch.zeros(1, dtype=torch.float64)
    past = PastStudies(
        ("p",), space, Z, torch.ones(2).double(), torch.randn(29, 1).double(), zeros, Z[0], is_named=False
    )
    save(tmp_path / "w.pt", Universal(SHAPE), {}, [past])
    races = evaluate(tables, Setting(3, 4, str(tmp_path / "w.pt")), seeds=1, methods=("metabo", "gp"))
    for race in races:
        assert len(race.past) == (4 if race.method == "metabo" else 0)
        assert all(0 < w < 1 for w in race.past)
    assert "are known for 2 tables" in as_text(races, [0, 4], Setting(3, 4))


def test_the_summary_by_hand():
    # Means over seeds and tasks: a (0.1 + 0.3 + 0.2 + 0.4) / 4 = 0.25, gp 0.5, gain 0.25.
    regrets = {"metabo": (0.1, 0.3, 0.2, 0.4), "gp": (0.2, 0.3, 0.9, 0.6)}
    races = [
        Race(task, method, seed, (1.0, regrets[method][2 * i + seed]))
        for method in regrets
        for i, task in enumerate("ab")
        for seed in (0, 1)
    ]
    mine, gp = summary(races, [1])
    assert mine.regret == pytest.approx(0.25)
    assert gp.regret == pytest.approx(0.5)
    assert mine.gain == pytest.approx(0.25)
    assert (mine.better, mine.worse) == (3, 0)
    # Two tasks have the means 0.2 and 0.3: a resample is 0.2, 0.25 or 0.3.
    assert (mine.low, mine.high) == (pytest.approx(0.2), pytest.approx(0.3))
    assert summary(races, [7])[0].regret == pytest.approx(0.25)  # it had ended


def test_without_the_process_nothing_is_compared():
    record = to_json([Race("a", "random", 0, (0.5, 0.2))], [1], Setting())
    assert record["summary"][0]["gain"] is None
    json.dumps(record, allow_nan=False)


@pytest.mark.slow
def test_the_command_prints_a_table_or_json(tables, capsys):
    options = ["metabo", "evaluate", "--tables", str(tables), "--seeds", "1", "--steps", "3", "--jobs", "1"]
    assert main(options) == 0
    printed = capsys.readouterr().out
    assert "2 tables, 1 seeds, 5 random rows first" in printed
    assert {line.split()[0] for line in printed.splitlines()[4:12]} == {"metabo", "network", "gp", "random"}
    assert main([*options, "--json", "--methods", "gp,random"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["setting"] == {"initial": 5, "steps": 3, "weights": "", "nap": ""}
    assert len(record["races"]) == 4
    assert {line["step"] for line in record["summary"]} == {0, 3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tables", "none.npz"], "cannot read tables from 'none.npz'"),
        (["--tables", "TABLES", "--weights", "none.pt"], "cannot read weights"),
        (["--tables", "TABLES", "--weights", "TABLES"], "to be a file of frugalbo.metabo.universal/1"),
        (["--tables", "TABLES", "--methods", "nap"], "weights for the method 'nap', got none"),
        (["--tables", "TABLES", "--methods", "nap", "--nap", "TABLES"], "to be a file of frugalbo.metabo.nap/1"),
        (["--tables", "TABLES", "--initial", "41"], "at least 42 rows for '0', got 41"),
        (["--tables", "TABLES", "--initial", "1"], "initial of at least 2, got 1"),
        (["--tables", "TABLES", "--steps", "0"], "steps of at least 1, got 0"),
        (["--tables", "TABLES", "--seeds", "0"], "at least one seed"),
        (["--tables", "TABLES", "--methods", "gp,magic"], "got 'magic'"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_in_a_sentence(tables, capsys, options, message):
    options = [str(tables) if option == "TABLES" else option for option in options]
    assert main(["metabo", "evaluate", *options]) == 2
    assert message in capsys.readouterr().err


def test_files_of_weights_are_read_once(tmp_path):
    save(tmp_path / "w.pt", Universal(SHAPE), {"seed": 1})
    assert known(str(tmp_path / "w.pt")) is known(str(tmp_path / "w.pt"))
    assert load(tmp_path / "w.pt").made == {"seed": 1}


def test_a_setting_of_nothing_is_refused():
    with pytest.raises(ProblemError, match="initial"):
        Setting(initial=0)
