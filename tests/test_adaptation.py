"""Weights that know one's own runs: what they know, and what a new run makes of it."""

import numpy as np
import pytest

import frugalbo as fb
from frugalbo.adaptation import adapt, past_study
from frugalbo.cli import main
from frugalbo.errors import StudyError
from frugalbo.metabo.past import Past
from frugalbo.metabo.weights import load
from frugalbo.propose import MethodError, make_proposer
from frugalbo.store import Store
from frugalbo.stored import read_study

SPACE = {"lr": fb.Float(1e-5, 1, log=True), "depth": fb.Int(1, 5), "kind": fb.Choice(["a", "b", "c"])}


def loss(params, best=-3.0):
    return (np.log10(params["lr"]) - best) ** 2 + 0.1 * params["depth"] + {"a": 0.0, "b": 0.5, "c": 1.0}[params["kind"]]


def tune(problem, function, trials, storage, method="random", seed=0):
    with fb.open_study(problem, budget=f"{trials} trials", method=method, seed=seed, storage=storage) as study:
        for _ in range(trials):
            trial = study.ask()
            study.tell(trial, function(trial.params))
        return list(study.trials.values()), study.best_value()


def problem(space=None, name="p"):
    return fb.Problem(name, fb.Space(space or SPACE), "nowhere:train", fb.Minimize("loss"))


@pytest.fixture
def stored(tmp_path):
    """Two runs of 17 random trials, the second of the opposite, and one of three."""
    storage = tmp_path / "runs.db"
    tune(problem(), loss, 17, storage)
    tune(problem(), lambda p: -loss(p), 17, storage, seed=1)
    tune(problem(), loss, 3, storage, seed=2)
    return storage


def names_of(path):
    return {name for studies in load(path).past for name in studies.names}


def test_weights_know_the_runs_and_forget_what_is_withdrawn(stored, tmp_path):
    mine, left_out = adapt(stored, tmp_path / "w.pt")
    runs = [name for name in mine if not name.startswith("xgboost")]
    assert len(runs) == 2
    assert len(left_out) == 1  # it has three results
    assert "less than 5 results" in next(iter(left_out.values()))
    assert names_of(tmp_path / "w.pt") == set(mine)
    again, _ = adapt(stored, tmp_path / "v.pt", without=[runs[0]], weights=str(tmp_path / "w.pt"))
    assert set(mine) - set(again) == {runs[0]}
    assert names_of(tmp_path / "v.pt") == set(again)
    twice, _ = adapt(stored, tmp_path / "u.pt", weights=str(tmp_path / "w.pt"))
    assert sorted(twice) == sorted(mine)  # not known twice
    with pytest.raises(StudyError, match="got 'nobody'"):
        adapt(stored, tmp_path / "x.pt", without=["nobody"])


def test_what_a_study_says_goes_with_its_results(stored):
    with Store(stored) as store:
        studies = [read_study(store, record.id) for record in store.runs()]
    assert sorted(len(study.trials) for study in studies) == [3, 17, 17]
    for study in studies:
        known = past_study(study, "a")
        if len(study.trials) == 3:
            assert known is None
            continue
        losses = [study.value(trial) for trial in study.trials.values()]
        assert np.corrcoef(known.say(known.centres)[:, 0], losses)[0, 1] > 0.9


@pytest.mark.slow
def test_a_new_run_begins_where_the_earlier_one_was_good_and_says_so(stored, tmp_path):
    mine, _ = adapt(stored, tmp_path / "w.pt")
    right, wrong = sorted(
        (n for n in mine if not n.startswith("xgboost")), key=lambda n: _at_best(tmp_path / "w.pt", n)
    )
    trials, best = tune(problem(), loss, 7, tmp_path / "new.db", method=f"metabo:{tmp_path / 'w.pt'}", seed=5)
    assert best < 0.6  # 0.1 is the least; of 7 random points the median best is 1.9
    first = trials[2].why
    assert first["method"] == "metabo"  # two trials in the place of the usual first ones
    assert set(first["past_studies"]) == {right, wrong}
    last = trials[-1].why
    assert last["past_studies"][right] > last["past_studies"][wrong]


def _at_best(path, name):
    """What a study says of the best configuration."""
    import torch

    studies = next(s for s in load(path).past if name in s.names)
    u = studies.space.encode({"lr": 1e-3, "depth": 1, "kind": "a"})
    return float(studies.say(torch.from_numpy(u)[None])[0, studies.names.index(name)])


def test_the_command_adapts_and_weights_that_are_none_are_refused(stored, tmp_path, capsys):
    out = str(tmp_path / "w.pt")
    assert main(["metabo", "adapt", "--storage", str(stored), "--out", out]) == 0
    printed = capsys.readouterr()
    assert "knows 22 studies" in printed.out  # those of XGBoost that come with the package, and two
    assert "left out" in printed.err
    assert main(["metabo", "adapt", "--storage", str(stored), "--out", out, "--without", "nobody"]) == 2
    assert "got 'nobody'" in capsys.readouterr().err
    options = ["tune", "--command", "true {x}", "--param", "x=0..1", "--minimize", "loss", "--budget", "1 trial"]
    assert main([*options, "--method", "bo", "--weights", out]) == 2
    assert "--weights belong to --method metabo" in capsys.readouterr().err
    assert main([*options, "--weights", str(tmp_path / "none.pt")]) == 2
    assert "expected a file of weights" in capsys.readouterr().err
    with pytest.raises(MethodError, match="expected a file of weights"):
        make_proposer("metabo:none.pt", problem(), seed=0)
    with pytest.raises(MethodError, match="unknown method"):
        make_proposer("bo:none.pt", problem(), seed=0)


def test_what_ships_knows_xgboost_and_nothing_of_other_spaces():
    from frugalbo.metabo.weights import known

    past = known().past
    assert [len(studies.names) for studies in past] == [20]
    assert Past.of(past, past[0].space) is not None
    assert Past.of(past, fb.Space(SPACE)) is None
    assert Past.of(past, fb.Space({f"x{i}": fb.Float(0, 1) for i in range(1, 7)})) is None


def test_a_network_that_fine_tuning_made_worse_is_not_kept(stored, tmp_path):
    import torch

    from frugalbo.metabo.finetune import FineTuning
    from frugalbo.metabo.weights import shipped

    verdicts, bad = [], FineTuning(steps=2, every=1, batch=2, asked=4, lr=3.0)
    adapt(stored, tmp_path / "w.pt", fine_tuning=bad, observe=verdicts.append)
    assert [verdict.kept for verdict in verdicts] == [False]
    held = load(tmp_path / "w.pt")
    pairs = zip(held.network.state_dict().values(), shipped().state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert held.base is None
    assert "fine_tuning" not in held.made


def test_a_study_that_is_withdrawn_leaves_nothing_in_the_weights(stored, tmp_path, monkeypatch, capsys):
    """Bit for bit the network of whom never had it; where nothing is trained again, the one from before."""
    import torch

    from frugalbo.metabo import finetune
    from frugalbo.metabo.weights import shipped

    losses, looks = finetune._losses, []

    def falling(network, batches):  # any weights are better than those before
        looks.append(1)
        return losses(network, batches[:2]) - len(looks)

    monkeypatch.setattr(finetune, "_losses", falling)
    few = finetune.FineTuning(steps=2, every=2, batch=2, asked=4)

    def network_of(name, **given):
        adapt(stored, tmp_path / name, **given)
        return load(tmp_path / name)

    both = network_of("both.pt", fine_tuning=few)
    first, second = sorted(both.made["fine_tuning"]["names"])
    never = network_of("never.pt", runs=[first], fine_tuning=few).network
    again = network_of("again.pt", weights=str(tmp_path / "both.pt"), without=[second], fine_tuning=few).network
    given_up = network_of("given_up.pt", weights=str(tmp_path / "both.pt"), without=[second])
    for a, b, are_same in (
        (never, again, True), (never, both.network, False), (given_up.network, shipped(), True),
    ):  # fmt: skip
        pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
        assert all(torch.equal(x, y) for x, y in pairs) == are_same
    assert "fine_tuning" not in given_up.made
    out = str(tmp_path / "w.pt")
    assert main(["metabo", "adapt", "--storage", str(stored), "--out", out, "--fine-tune", "--steps", "1"]) == 0
    assert "fine-tuning: loss on a fourth of the results held out from" in capsys.readouterr().out
    assert main(["metabo", "adapt", "--storage", str(stored), "--out", out, "--steps", "1"]) == 2
    assert "--steps belongs to --fine-tune" in capsys.readouterr().err
