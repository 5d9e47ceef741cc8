import numpy as np
import pytest
from test_standings import ladder

from frugalbo.propose.base import key_of
from frugalbo.propose.bo import BayesianProposer
from frugalbo.propose.listed import Listed
from frugalbo.space import Float, Space

SPACE = Space({"x": Float(0, 1), "y": Float(1e-3, 1, log=True)})
LIST = [{"x": float(x), "y": float(y)} for x, y in np.random.default_rng(1).uniform([0, 1e-3], [1, 1], (31, 2))]


def study_of(n, proposer=None):
    proposer = proposer or Listed(LIST, seed=0)
    study = ladder(space=SPACE)
    from frugalbo.budget.amounts import Cost
    from frugalbo.events import Ended, Outcome, Reported, Started

    for i in range(n):
        (suggestion,) = proposer.propose(study, 1)
        params = suggestion.params
        study.apply(Started(i, 0, params, 0, 2, 32, Cost(), "cpu:0", float(i)))
        study.apply(Reported(i, 0, 2, {"loss": abs(params["x"] - 0.6)}, float(i)))
        study.apply(Ended(i, 0, Outcome.PAUSED, Cost(), float(i), 2))
    return study


def test_each_comes_once_and_none_is_forgotten():
    proposer = Listed(LIST, seed=0)
    study = study_of(31, proposer)
    assert sorted(key_of(t.params) for t in study.trials.values()) == sorted(map(key_of, LIST))
    assert proposer.propose(study, 1) == []
    assert len(proposer.left(study)) == 0
    assert len(proposer.left(study_of(7))) == 24


def test_a_point_is_the_configuration_that_was_listed_to_the_last_digit():
    proposer, study = Listed(LIST, seed=0), study_of(0)
    for u in proposer.left(study):
        assert proposer.at(study, u) in LIST


@pytest.mark.parametrize("method", ["auto", "ei", "ts"])
def test_a_model_chooses_among_them_and_finds_the_best(method):
    proposer = BayesianProposer(seed=0, method=method, among=LIST)
    study = study_of(13, proposer)
    tried = [trial.params for trial in study.trials.values()]
    assert all(params in LIST for params in tried)
    assert any("observed" in s.why for s in proposer.propose(study, 2))
    assert min(LIST, key=lambda p: abs(p["x"] - 0.6)) in tried
    assert len(proposer.propose(study_of(31), 1)) == 0
