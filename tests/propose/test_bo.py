import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from studies import drive, end, start, tell

from frugalbo.budget.amounts import Budget
from frugalbo.budget.cost import KnownCost
from frugalbo.budget.ledger import Ledger
from frugalbo.errors import FrugalWarning
from frugalbo.events import Failure, Outcome
from frugalbo.models import map_fit
from frugalbo.problem import Maximize, Minimize, Problem
from frugalbo.propose import bo
from frugalbo.propose.bo import BayesianProposer
from frugalbo.propose.sobol import SobolProposer
from frugalbo.space import Choice, Float, Int, Space
from frugalbo.study import Study

SQUARE = Space({"x": Float(0, 1), "y": Float(0, 1)})
MIXED = Space(
    {
        "lr": Float(1e-5, 1, log=True),
        "depth": Int(1, 5),
        "optimizer": Choice(["adam", "sgd", "lion"]),
        "momentum": Float(0.5, 0.99, only_if={"optimizer": "sgd"}),
    },
    ["depth * lr <= 1"],
)


def _problem(space=SQUARE, objective=None):
    return Problem("p", space, "m:f", objective or Minimize("loss"))


def _bowl(params):
    return (params["x"] - 0.3) ** 2 + (params["y"] - 0.7) ** 2


def _branin(p):
    x, y = 15 * p["x"] - 5, 15 * p["y"]
    valley = (y - 5.1 / (4 * math.pi**2) * x * x + 5 / math.pi * x - 6) ** 2
    return valley + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10


def _mixed(params):
    loss = (math.log10(params["lr"]) + 3) ** 2 + 0.1 * params["depth"]
    return loss + {"adam": 0.3, "sgd": (params.get("momentum", 0) - 0.9) ** 2, "lion": 1.0}[params["optimizer"]]


def _study(space, function, n, seed=0):
    study, rng = Study(_problem(space)), np.random.default_rng(seed)
    while len(study.trials) < n:
        params = space.sample(rng)
        tell(study, params, function(params))
    return study


def _params(suggestions):
    return [s.params for s in suggestions]


@pytest.mark.parametrize(("space", "function"), [(SQUARE, _bowl), (MIXED, _mixed)])
def test_the_same_study_and_seed_give_the_same_suggestions(space, function):
    study = _study(space, function, 11)
    first = BayesianProposer(seed=5).propose(study, 2)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - nothing may look at the global generators
    second = BayesianProposer(seed=5).propose(study, 2)
    assert _params(first) == _params(second)
    assert [{**s.why, "seconds": 0} for s in first] == [{**s.why, "seconds": 0} for s in second]


def test_a_batch_is_one_suggestion_after_the_other():
    study = _study(SQUARE, _bowl, 7)
    proposer = BayesianProposer(seed=1)
    together = _params(proposer.propose(study, 2))
    (one,) = proposer.propose(study, 1)
    start(study, one.params)
    (two,) = proposer.propose(study, 1)
    assert together == [one.params, two.params]


def test_the_bottom_of_a_bowl_is_found():
    study = drive(Study(_problem()), BayesianProposer(seed=0), _bowl, 17)
    assert study.value(study.best()) < 1e-3


def test_maximising_is_minimising_the_negative():
    down = drive(Study(_problem()), BayesianProposer(seed=0), _bowl, 9)
    up = drive(Study(_problem(objective=Maximize("loss"))), BayesianProposer(seed=0), lambda p: -_bowl(p), 9)
    assert _params(down.trials.values()) == _params(up.trials.values())
    why = BayesianProposer(seed=0).propose(up, 1)[0].why
    assert why["predicted_95"][0] <= why["predicted"] <= why["predicted_95"][1]


def test_mixed_conditional_and_constrained_spaces_are_searched_well():
    study = drive(Study(_problem(MIXED)), BayesianProposer(seed=0), _mixed, 31)
    assert study.best().params["optimizer"] == "sgd"
    assert study.best().params["depth"] == 1
    assert study.value(study.best()) < 0.2  # the optimum is 0.1
    assert all(MIXED.is_feasible(t.params) for t in study.trials.values())


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 13), count=st.integers(1, 3), fails=st.floats(0, 0.7))
def test_suggestions_are_new_feasible_and_explained_whatever_happened(seed, n, count, fails):
    rng = np.random.default_rng(seed)
    study = Study(_problem(MIXED))
    for _ in range(n):
        params = MIXED.sample(rng)
        kind = rng.random()
        if kind < fails:
            tell(study, params, failure=rng.choice(list(Failure)))
        elif kind < fails + 0.1:
            start(study, params)
        else:
            tell(study, params, float(rng.standard_cauchy() * 10.0 ** rng.integers(-3, 20)))
    tried = {tuple(sorted(t.params.items())) for t in study.trials.values()}
    found = BayesianProposer(seed=seed, initial=2).propose(study, count)
    keys = {tuple(sorted(s.params.items())) for s in found}
    assert len(keys) == count
    assert not keys & tried
    for s in found:
        MIXED.check(s.params)
        assert MIXED.is_feasible(s.params)
        json.dumps(s.why, allow_nan=False)


def test_asynchronous_suggestions_keep_apart():
    # Eight workers ask one by one before any of them is done.
    study = _study(SQUARE, _bowl, 11)
    proposer = BayesianProposer(seed=3)
    for _ in range(8):
        (s,) = proposer.propose(study, 1)
        assert "predicted" in s.why
        assert "instead_of" not in s.why
        start(study, s.params)
    U = np.array([SQUARE.encode(t.params) for t in list(study.trials.values())[11:]])
    distance = np.abs(U[:, None] - U[None]).max(-1) + np.eye(8)
    assert distance.min() > 0.01


def test_workers_that_ask_together_look_in_different_places():
    # Four at once on a function with three valleys. Without belief in the pending points they stay
    # in a heap as wide as the least distance allows: medians of 0.04 to 0.06 in all of these six.
    def spread(seed):
        found = BayesianProposer(seed=seed).propose(_study(SQUARE, _branin, 9, seed), 4)
        U = np.array([SQUARE.encode(s.params) for s in found])
        return np.median(np.abs(U[:, None] - U[None]).max(-1)[np.triu_indices(4, 1)])

    assert sum(spread(seed) > 0.08 for seed in range(6)) >= 5


def test_a_paused_trial_is_pending_until_it_has_its_value():
    study = _study(SQUARE, _bowl, 7)
    (s,) = BayesianProposer(seed=3).propose(study, 1)
    number = start(study, s.params)
    end(study, number, outcome=Outcome.PAUSED)
    (t,) = BayesianProposer(seed=3).propose(study, 1)
    assert t.why["pending"] == 1
    assert t.why["observed"] == 7
    assert np.abs(SQUARE.encode(t.params) - SQUARE.encode(s.params)).max() > 0.01


def test_failures_hold_back_from_a_cliff_that_the_loss_falls_towards():
    # The loss falls with x, and beyond x = 0.6 everything fails. Who takes no notice of failures
    # goes to 0.69 and farther in 4 of these 6 studies, who does stays at the edge in all.
    def cliff(params):
        return None if params["x"] > 0.6 else -params["x"] + (params["y"] - 0.5) ** 2

    found = [BayesianProposer(seed=seed).propose(_study(SQUARE, cliff, 23, seed), 1)[0] for seed in range(6)]
    assert sum(s.params["x"] < 0.67 for s in found) >= 5
    assert all(s.why["success"] < 0.95 for s in found)


def test_a_time_out_is_no_failure_of_the_configuration():
    study = _study(SQUARE, _bowl, 7)
    tell(study, {"x": 0.5, "y": 0.5}, failure=Failure.TIMEOUT)
    (s,) = BayesianProposer(seed=0).propose(study, 1)
    assert s.why["success"] == 1.0
    tell(study, {"x": 0.55, "y": 0.5}, failure=Failure.MEMORY)
    (s,) = BayesianProposer(seed=0).propose(study, 1)
    assert s.why["success"] < 1.0


def test_while_all_trials_fail_sobol_goes_on_and_says_so():
    study = drive(Study(_problem()), BayesianProposer(seed=0), lambda _: None, 9)
    assert len({tuple(t.params.values()) for t in study.trials.values()}) == 9
    (s,) = BayesianProposer(seed=0).propose(study, 1)
    assert s.why["method"] == "sobol"
    assert "0 of 9 trials have a value" in s.why["reason"]


def test_values_that_are_not_finite_are_no_values():
    study = _study(SQUARE, _bowl, 5)
    for i, value in enumerate((math.inf, -math.inf, math.nan)):
        number = start(study, {"x": 0.1 * i, "y": 0.2})
        end(study, number, value, failure=Failure.DIVERGED)
    (s,) = BayesianProposer(seed=0).propose(study, 1)
    assert s.why["observed"] == 5
    assert math.isfinite(s.why["predicted"])


@pytest.mark.parametrize("function", [
    lambda _: 3.0,
    lambda p: 1e300 if p["x"] > 0.4 else p["x"],
    lambda p: 1e300 * (p["x"] - 0.5),
    lambda p: 1e-300 * p["x"],
], ids=["constant", "huge-above", "huge-both", "tiny"])  # fmt: skip
def test_odd_objectives_are_survived(function):
    study = _study(SQUARE, function, 9)
    found = BayesianProposer(seed=0).propose(study, 2)
    assert not any("instead_of" in s.why for s in found)
    assert all("predicted" in s.why for s in found)
    assert all(math.isfinite(s.why["predicted"]) for s in found)


def test_duplicated_points_are_survived():
    study = Study(_problem())
    rng = np.random.default_rng(0)
    for _ in range(11):
        tell(study, {"x": 0.25, "y": 0.5}, 1.0 + 0.1 * rng.standard_normal())
    (s,) = BayesianProposer(seed=0).propose(study, 1)
    assert "predicted" in s.why
    assert "instead_of" not in s.why
    assert s.params != {"x": 0.25, "y": 0.5}


@pytest.mark.parametrize("space", [
    Space({"x": Float(0, 1)}),
    Space({"x": Float(0, 1), "one": Int(3, 3), "same": Float(2, 2), "only": Choice(["a"])}),
    Space({"a": Choice(["p", "q", "r"]), "b": Choice(["p", "q", "r"]), "c": Choice([True, False])}),
    Space({f"x{i}": Float(0, 1) for i in range(20)}),
    Space({"n": Int(1, 10_000_000, log=True), "m": Int(-5, 5)}),
], ids=["1-d", "one-value", "categorical", "20-d", "wide-int"])  # fmt: skip
def test_spaces_of_every_shape_are_searched(space):
    def loss(params):
        u = space.encode(params)
        return float(((u - 0.3) ** 2).sum())

    study = _study(space, loss, 8, seed=2)
    found = BayesianProposer(seed=0).propose(study, 2)
    assert not any("instead_of" in s.why for s in found)
    assert all("predicted" in s.why for s in found)
    for s in found:
        space.check(s.params)


@pytest.mark.slow
def test_a_hundred_dimensions_work_in_seconds():
    space = Space({f"x{i}": Float(0, 1) for i in range(100)})
    study = _study(space, lambda p: (p["x0"] - 0.2) ** 2, 101)
    (s,) = BayesianProposer(seed=0).propose(study, 1)
    assert "predicted" in s.why
    assert "instead_of" not in s.why
    assert s.why["seconds"] < 10  # 0.5 s when alone


def test_a_fit_that_fails_says_so_and_names_what_took_its_place(monkeypatch):
    study = _study(SQUARE, _bowl, 7)
    monkeypatch.setattr(map_fit.lapack, "dpotrf", lambda K, **_: (K, 1))
    with pytest.warns(FrugalWarning, match="a Sobol point took its place"):
        (s,) = BayesianProposer(seed=0).propose(study, 1)
    assert s.why["method"] == "sobol"
    assert "likelihood" in s.why["reason"]
    assert s.params == SobolProposer(seed=0).propose(study, 1)[0].params


def test_cost_counts_by_the_share_of_the_budget_that_is_left():
    def alpha(budget, spent):
        study = Study(_problem(), Ledger(Budget.of(budget)) if budget else None)
        rng = np.random.default_rng(0)
        for _ in range(5):
            params = SQUARE.sample(rng)
            tell(study, params, _bowl(params), seconds=spent / 5)
        return BayesianProposer(seed=0, method="bo").propose(study, 1)[0].why["alpha"]

    assert alpha("100s", 25) == pytest.approx(0.75)
    assert alpha("100s", 100) == 0
    assert alpha("100 trials", 25) == 0
    assert alpha(None, 25) == 0


@pytest.mark.parametrize("cheap", [0.0, 1.0])
def test_the_cheaper_of_two_equals_is_tried(cheap):
    # The loss does not know x; the cost grows a thousandfold with the distance from the cheap end.
    study, rng = Study(_problem()), np.random.default_rng(0)
    for _ in range(9):
        params = SQUARE.sample(rng)
        tell(study, params, (params["y"] - 0.5) ** 2, seconds=1000 ** abs(params["x"] - cheap))
    (s,) = BayesianProposer(seed=0, method="bo", alpha=1.0).propose(study, 1)
    assert abs(s.params["x"] - cheap) < 0.2
    assert s.why["predicted_cost_s"] < 10


def test_a_known_cost_is_used():
    study = _study(SQUARE, lambda p: (p["y"] - 0.5) ** 2, 9)
    known = KnownCost(lambda params, start, until: 1000 ** params["x"])
    (s,) = BayesianProposer(seed=0, method="bo", alpha=1.0, cost=known).propose(study, 1)
    assert s.params["x"] < 0.2


@pytest.mark.parametrize("alpha", [-1, 2, math.nan])
def test_an_alpha_out_of_range_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha"):
        BayesianProposer(seed=0, alpha=alpha)


def test_the_users_threads_are_given_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        BayesianProposer(seed=0).propose(_study(SQUARE, _bowl, 5), 1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_study_is_not_changed_by_being_asked_about():
    study = _study(SQUARE, _bowl, 7)
    before = repr(study.trials)
    bo.BayesianProposer(seed=0).propose(study, 2)
    assert repr(study.trials) == before


@pytest.mark.slow
def test_it_beats_sobol_on_branin():
    # 20 evaluations, 8 seeds. If the two were equally good, each seed would be a fair coin, and 7 or
    # more wins of 8 would come with probability 9 / 256 = 3.5 %: that is the chance of passing for a
    # useless model. A working one wins every seed.
    wins = 0
    for seed in range(8):
        ours, theirs = (
            drive(Study(_problem()), proposer, _branin, 20)
            for proposer in (BayesianProposer(seed=seed), SobolProposer(seed=seed))
        )
        wins += ours.value(ours.best()) < theirs.value(theirs.best())
    assert wins >= 7
