"""The rule by which a run stops: what is expected to be gained for what it costs."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from studies import start, tell

from frugalbo.acquisition.gittins import GittinsIndex, should_stop
from frugalbo.acquisition.log_cost import learned_log_mean_cost
from frugalbo.acquisition.registry import Situation
from frugalbo.budget.cost import fit_cost
from frugalbo.budget.worth import MinGain
from frugalbo.models.objective import fit_objective
from frugalbo.problem import Minimize, Problem
from frugalbo.propose.bo import BayesianProposer
from frugalbo.propose.evidence import Evidence
from frugalbo.propose.maximise import maximise
from frugalbo.propose.worth import Worth
from frugalbo.scheduler.base import Finish, Start
from frugalbo.scheduler.fixed import FixedScheduler
from frugalbo.slot import Slot
from frugalbo.space import Float, Space
from frugalbo.study import Study

SQUARE = Space({"x": Float(0, 1), "y": Float(0, 1)})


def _study(n=11, seed=0, scale=1.0, shift=0.0):
    study, rng = Study(Problem("p", SQUARE, "m:f", Minimize("loss"))), np.random.default_rng(seed)
    for _ in range(n):
        params = SQUARE.sample(rng)
        loss = (params["x"] - 0.3) ** 2 + (params["y"] - 0.7) ** 2
        tell(study, params, shift + scale * loss, seconds=2.0 + 5 * params["x"])
    return study


def _situation(study, m=64):
    evidence = Evidence(study)
    objective = fit_objective(evidence.X, evidence.losses, ())
    pool = torch.from_numpy(np.random.default_rng(1).random((m, 2)))
    cost = (fit_cost(study), 1.0)
    return Situation(objective, objective, pool[:0], pool, cost, 0.0, None, None, 0), evidence


def _ratio(study, text, m=64):
    situation, evidence = _situation(study, m)
    worth = Worth.of(MinGain.of(text), study, evidence.losses, 1)
    return worth.log_ratio(situation, situation.objective.best())(situation.pool.unsqueeze(-2)), situation


def test_the_gain_is_that_of_draws_in_the_objectives_own_units():
    # Monte Carlo: 100,000 draws at each of 5 points, put back into losses, over the best mean; the best
    # point's cost in expectation is exp(mu + sd^2 / 2), as the cost model has it.
    study = _study(scale=40.0, shift=7.0)
    value, situation = _ratio(study, "1 per 1s", m=5)
    objective = situation.objective
    posterior = objective.model.posterior(situation.pool.unsqueeze(-2))
    z = torch.randn(100_000, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    draws = posterior.mean.reshape(-1) + posterior.variance.sqrt().reshape(-1) * z
    best = objective.best()
    losses = np.vectorize(objective.outcome.inverse)(torch.minimum(draws, torch.tensor(best)).numpy())
    gain = (objective.outcome.inverse(best) - losses).mean(0)
    cost = learned_log_mean_cost(*situation.cost).posterior(situation.pool.unsqueeze(-2)).mean.reshape(-1).exp()
    assert gain.max() > 0.1
    assert (value.exp() * cost).tolist() == pytest.approx(gain.tolist(), rel=0.05, abs=1e-3 * gain.max())


@settings(deadline=None, max_examples=20)
@given(scale=st.sampled_from([1e-6, 0.1, 1.0, 1e6]), shift=st.sampled_from([0.0, -3.0]))
def test_gains_are_measured_in_the_units_of_the_objective(scale, shift):
    ones, _ = _ratio(_study(), "1 per 1s")
    scaled, _ = _ratio(_study(scale=scale, shift=shift * scale), "1 per 1s")
    assert torch.allclose(scaled, ones + math.log(scale), atol=1e-5)


def test_it_stops_where_no_gittins_index_exceeds_the_best():
    study = _study()
    value, situation = _ratio(study, "1 per 1s")
    objective, X = situation.objective, situation.pool.unsqueeze(-2)
    unit = objective.outcome.inverse(objective.best()) - objective.outcome.inverse(objective.best() - 1)
    cost = learned_log_mean_cost(*situation.cost)
    for log_price in (value.max() + torch.tensor([-2.0, -1e-6, 1e-6, 2.0])).tolist():
        index = GittinsIndex(objective.model, cost, math.exp(log_price) / unit, maximize=False)(X).max()
        assert should_stop(float(index), objective.best(), maximize=False) == (float(value.max()) <= log_price)


def test_a_trial_a_second_and_a_dollar_have_their_own_prices():
    study = _study()
    seconds, situation = _ratio(study, "1 per 1s")
    trials, _ = _ratio(study, "1 per trial")
    log_cost = learned_log_mean_cost(*situation.cost).posterior(situation.pool.unsqueeze(-2)).mean.reshape(-1)
    assert torch.allclose(trials - seconds, log_cost)
    evidence = Evidence(study)
    # 7 device-seconds for a dollar.
    rule = Worth(MinGain.of("1 per USD"), "loss", 7.0, True)
    dollars = rule.log_ratio(situation, situation.objective.best())(situation.pool.unsqueeze(-2))
    assert torch.allclose(dollars - seconds, torch.tensor(math.log(7.0), dtype=torch.float64))
    # Nobody was charged any.
    assert Worth.of(MinGain.of("1 per USD"), study, evidence.losses, 1).unit_s == math.inf


def test_it_is_not_asked_of_few_results():
    price = MinGain.of("1 per 1s")
    assert Worth.of(price, _study(7), np.arange(7.0), 4) is None
    assert Worth.of(price, _study(8), np.arange(8.0), 4) is not None
    assert Worth.of(None, _study(8), np.arange(8.0), 4) is None


def test_a_price_changes_no_suggestion_but_what_it_says_of_it():
    study = _study()
    plain = BayesianProposer(seed=0, method="ei").propose(study, 3)
    dear = BayesianProposer(seed=0, method="ei", min_gain=MinGain.of("1e9 per 1s")).propose(study, 3)
    cheap = BayesianProposer(seed=0, method="ei", min_gain=MinGain.of("1e-9 per 1h")).propose(study, 3)
    assert [s.params for s in plain] == [s.params for s in dear] == [s.params for s in cheap]
    assert all("1e+09 was asked for" in s.not_worth for s in dear)
    assert not any(s.not_worth for s in [*plain, *cheap])


def test_the_scheduler_starts_nothing_that_is_not_worth_it_and_says_why():
    slots = [Slot(f"cpu:{i}", "cpu", i) for i in range(2)]
    dear = FixedScheduler(BayesianProposer(seed=0, min_gain=MinGain.of("1e9 per trial")))
    (decision,) = dear.decide(_study(), None, slots)
    assert isinstance(decision, Finish)
    assert decision.reason.startswith("nothing left is expected to be worth its price")
    cheap = FixedScheduler(BayesianProposer(seed=0, min_gain=MinGain.of("1e-30 per trial")))
    assert [type(d) for d in cheap.decide(_study(), None, slots)] == [Start, Start]


def test_what_is_under_way_counts_as_known():
    # At a price between the first's gain and the second's, given the first, the first is worth a look,
    # and while it is under way nothing else is.
    study = _study()
    objective = _situation(study)[0].objective
    unit = objective.outcome.inverse(objective.best()) - objective.outcome.inverse(objective.best() - 1)
    first, second = BayesianProposer(seed=0, method="ei").propose(study, 2)
    assert second.why["value"] < first.why["value"] - 0.1
    price = unit * math.exp(0.5 * (first.why["value"] + second.why["value"]))
    proposer = BayesianProposer(seed=0, method="ei", min_gain=MinGain.of(f"{price} per trial"))
    assert [bool(s.not_worth) for s in proposer.propose(study, 3)] == [False, True, True]
    start(study, first.params)
    assert proposer.propose(study, 1)[0].not_worth


def test_what_only_a_search_finds_counts():
    study = _study()
    situation, evidence = _situation(study)
    worth = Worth.of(MinGain.of("1 per trial"), study, evidence.losses, 1)
    value = worth.log_ratio(situation, situation.objective.best())
    poor = replace(situation, pool=situation.pool[value(situation.pool.unsqueeze(-2)).argsort()[:5]])
    known, distance = evidence.tried, np.full(len(evidence.tried), 1e-3)
    found = maximise(value, evidence.points, poor.pool.numpy(), known, distance)
    assert found.value > float(value(poor.pool.unsqueeze(-2)).max()) + 1
    for share, text in ((0.9, ""), (1.1, "nothing left is expected to be worth its price: at most ")):
        dear = replace(worth, min_gain=MinGain.of(f"{share * math.exp(found.value)} per trial"))
        said = dear.missing(poor, evidence.points, known, distance)
        assert said.startswith(text)
        assert bool(said) == bool(text)
    assert f"{math.exp(found.value):.2g} of loss for 1 trial," in said
