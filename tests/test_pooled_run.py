"""The loop on several pools: their budgets, their speeds, what goes wrong there."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frugalbo.budget.amounts import Budget, Cost
from frugalbo.budget.cost import CostPrediction, LearnedCost
from frugalbo.budget.ledger import Ledger
from frugalbo.budget.price import Market, prices_over_time
from frugalbo.events import Ended, Outcome, Started
from frugalbo.executors.devices import simulated_slots
from frugalbo.executors.simulated import Curve, Hazards, SimulatedExecutor
from frugalbo.pool import Pool, budgets_of
from frugalbo.problem import Fidelity, Minimize, Problem
from frugalbo.propose import make_proposer
from frugalbo.run import RunLoop
from frugalbo.scheduler.base import Resume, Start
from frugalbo.scheduler.fixed import FixedScheduler
from frugalbo.session import OpenStudy
from frugalbo.space import Float, Int, Space
from frugalbo.store import Store
from frugalbo.study import Status, Study

STEPS = 7
PROBLEM = Problem(
    name="ridge",
    space=Space({"x": Float(0, 1), "width": Int(1, 13, log=True)}),
    job="nowhere:main",
    objective=Minimize("loss"),
    fidelity=Fidelity("steps", 1, STEPS),
)
EXACT = 1 + 1e-9


def curve(params, planned, seed):
    """Costs 1 to 13 seconds, in proportion to the width."""
    steps = range(1, planned + 1)
    losses = [(params["x"] - 0.3) ** 2 + 1 / params["width"] + 1 / step for step in steps]
    return Curve(steps, [params["width"] * step / planned for step in steps], [{"loss": loss} for loss in losses])


@dataclass
class WrongCost:
    """Says `factor` times the truth, or nothing."""

    factor: float | None

    def predict(self, study, params, start, until):
        if self.factor is None:
            return None
        seconds = self.factor * params["width"] * (until - start) / STEPS
        return CostPrediction(seconds, 1.5 * seconds, 9)


class StepByStep:
    """Takes paused trials up, one step further; starts new ones where there are slots left; quotes nothing."""

    def __init__(self, proposer):
        self.proposer = proposer

    def decide(self, study, balance, slots):
        paused = study.with_status(Status.PAUSED)[: len(slots)]
        resumed = [Resume(s, t.number, t.checkpoint + 1) for s, t in zip(slots, paused, strict=False)]
        rest = slots[len(paused) :]
        new = self.proposer.propose(study, len(rest)) if rest else []
        return resumed + [Start(s, n.params, 1, STEPS) for s, n in zip(rest, new, strict=False)]


def run(pools, budget, *, cost_model=None, hazards=None, scheduler=FixedScheduler, seed=0, lease=None, **overheads):
    study = OpenStudy(PROBLEM, budget, pools=budgets_of(pools), lease=lease)
    proposer = make_proposer("random", PROBLEM, seed=seed)
    loop = RunLoop(
        study=study,
        scheduler=scheduler(proposer),
        executor=SimulatedExecutor(PROBLEM, simulated_slots(pools), curve, hazards=hazards, **overheads),
        cost_model=cost_model or LearnedCost(),
        folder=Path("unused"),
        seed=seed,
    )
    return study, loop.run()


def segments(study):
    """Each segment's start with its end."""
    return [pair for trial in study.trials.values() for pair in zip(trial.starts, trial.ends, strict=True)]


POOLS = st.lists(
    st.builds(
        lambda devices, price, speed, preemptible, budget: (devices, price, speed, preemptible, budget),
        st.integers(1, 3),
        st.sampled_from([0.0, 36.0, 3600.0]),
        st.sampled_from([0.3, 1.0, 4.0]),
        st.booleans(),
        st.one_of(
            st.none(),
            st.builds(dict, device_seconds=st.floats(0.5, 60), evaluations=st.one_of(st.none(), st.integers(1, 9))),
            st.builds(dict, dollars=st.floats(0.1, 20)),
        ),
    ),
    min_size=1,
    max_size=3,
)


@settings(deadline=None, max_examples=60)
@given(
    pools=POOLS,
    budget=st.builds(Budget, device_seconds=st.floats(1, 150), dollars=st.one_of(st.none(), st.floats(0.1, 60))),
    factor=st.sampled_from([None, 0.1, 0.3, 1.0, 3.0, 10.0]),
    failures=st.sampled_from([0.0, 300.0]),
    preemptions=st.sampled_from([0.0, 900.0]),
    scheduler=st.sampled_from([FixedScheduler, StepByStep]),
    seed=st.integers(0, 99),
)
def test_no_pool_is_ever_overspent_whatever_goes_wrong(pools, budget, factor, failures, preemptions, scheduler, seed):
    found = []
    for index, (devices, price, speed, preemptible, own) in enumerate(pools):
        limit = None if own is None or ("dollars" in own and not price) else Budget(**own)
        found.append(Pool(f"p{index}", devices, price, speed, preemptible, limit))
    hazards = Hazards(failures, preemptions, away_s=3.0, checkpoint_every=2, seed=seed)
    study, reason = run(
        found, budget, cost_model=WrongCost(factor), hazards=hazards, scheduler=scheduler, seed=seed, start_up_s=0.2
    )
    assert reason
    balance = study.balance()
    for accounts in (balance, *balance.pools.values()):
        for account in accounts.accounts.values():
            assert account.held == 0
            assert account.spent <= account.total * EXACT
    for name in ("device_seconds", "dollars"):
        for pool, own in balance.pools.items():
            charged = sum(getattr(end.used, name) for start, end in segments(study) if start.pool == pool)
            assert own[name].spent == pytest.approx(charged)
        assert balance[name].spent == pytest.approx(sum(own[name].spent for own in balance.pools.values()))


def test_a_pool_whose_budget_is_spent_is_drained_while_others_go_on():
    pools = [Pool("small", 2, budget=Budget(device_seconds=30)), Pool("large", 2)]
    study, reason = run(pools, Budget(device_seconds=200))
    small = [(start, end) for start, end in segments(study) if start.pool == "small"]
    last = max(end.at for _, end in small)
    assert 20 < study.balance().pools["small"]["device_seconds"].spent <= 30 * EXACT
    assert all(end.outcome == Outcome.COMPLETED for _, end in small[1:])  # nothing was cut off
    assert any(start.at > last for start, _ in segments(study) if start.pool == "large")
    assert study.balance()["device_seconds"].spent > 180
    assert "pool" not in reason  # it is the whole budget that ended the run


def test_when_every_pool_is_spent_the_run_says_so():
    pools = [Pool("a", 1, budget=Budget(evaluations=3)), Pool("b", 2, budget=Budget(evaluations=2))]
    study, reason = run(pools, Budget(device_seconds=1000))
    assert reason == "the budget of evaluations in the pool 'a' is spent"
    assert len(study.trials) == 5


def test_a_trial_that_was_taken_away_goes_on_from_its_checkpoint_when_the_slot_is_back():
    hazards = Hazards(preemptions_per_hour=600.0, away_s=50.0)
    study, _ = run([Pool("spot", 1, preemptible=True)], Budget(device_seconds=120), hazards=hazards)
    taken = [end for _, end in segments(study) if end.outcome == Outcome.INTERRUPTED]
    assert taken
    assert not study.with_status(Status.RUNNING)
    for trial in study.trials.values():
        for end, after in zip(trial.ends, trial.starts[1:], strict=False):
            assert after.at == pytest.approx(end.at + 50.0)  # not before the slot is back
            assert after.start == end.checkpoint
    assert len(study.with_status(Status.COMPLETED)) > 5


def test_costs_learned_on_a_slow_pool_hold_on_a_fast_one():
    # Ten times the speed: if seconds were taken as they are, half of the caps would be ten times too long or short.
    pools = [Pool("slow", 2, speed=0.5), Pool("fast", 2, speed=5.0)]
    study, _ = run(pools, Budget(device_seconds=400))
    late = [(start, end) for start, end in segments(study) if start.trial > 10]
    assert {start.pool for start, _ in late} == {"slow", "fast"}
    assert {start.speed for start, _ in late} == {0.5, 5.0}
    for start, end in late:
        # Uncapped by what is left, a hold is the upper cost at the slot's speed: a few times the truth.
        assert end.used.device_seconds <= start.held.device_seconds
        if start.held.device_seconds < 40:
            assert start.held.device_seconds < 6 * end.used.device_seconds


def test_a_replayed_study_has_the_same_accounts_of_pools(tmp_path):
    pools = [Pool("a", 2, 36.0, 2.0, budget=Budget(dollars=0.5)), Pool("b", 1)]
    with Store(tmp_path / "runs.db") as store:
        run_id = store.create_run({"problem": PROBLEM.to_json()})
        with store.lease(run_id) as lease:
            study, _ = run(pools, Budget(device_seconds=100), lease=lease)
        events = [event for _, event in store.read(run_id)]
    again = OpenStudy(PROBLEM, Budget(device_seconds=100), pools=budgets_of(pools)).replay(events)
    assert again.ledger.balance().pools == study.ledger.balance().pools
    assert study.ledger.balance().pools["a"]["dollars"].spent > 0.2


def test_the_same_seed_gives_the_same_run_with_everything_that_goes_wrong():
    def events(seed):
        pools = [Pool("a", 2, speed=2.0, preemptible=True), Pool("b", 2)]
        study, reason = run(pools, Budget(device_seconds=80), hazards=Hazards(200, 900, 4.0, seed=seed), seed=3)
        return segments(study), reason

    assert events(1) == events(1)
    assert events(1) != events(2)
    assert all(isinstance(start, Started) and isinstance(end, Ended) for start, end in events(1)[0])


def test_the_prices_of_a_run_are_a_fold_of_its_journal(tmp_path):
    pools = [Pool("a", 2, 36.0, 2.0, budget=Budget(dollars=0.5)), Pool("b", 1)]
    budget = Budget(device_seconds=100, dollars=5)
    with Store(tmp_path / "runs.db") as store:
        run_id = store.create_run({"problem": PROBLEM.to_json()})
        with store.lease(run_id) as lease:
            study, _ = run(pools, budget, lease=lease)
        events = [event for _, event in store.read(run_id)]
    again = Study(PROBLEM, Ledger(budget, budgets_of(pools))).replay(events)
    points = prices_over_time(again)
    assert points == prices_over_time(study)
    assert len(points) == len({end.at for _, end in segments(study)})
    # The last are those of the accounts as they stand, relative to the first.
    market = Market.of(again.ledger.balance(), again.taken)
    assert points[-1].elapsed == market.whole.elapsed
    assert points[-1].prices == {
        "device_seconds": market.whole.relative("device_seconds"),
        "dollars": market.whole.relative("dollars"),
        "dollars of a": market.pools["a"]["dollars"],
    }
    # Twice as fast and the only one that costs money: its budget is spent ahead of the run, that of the run is not.
    middle = points[len(points) // 4].prices
    assert middle["dollars of a"] > 1 > middle["dollars"]
    assert prices_over_time(again, most=7)[-1] == points[-1]
    assert 1 < len(prices_over_time(again, most=7)) <= 7


def test_the_hours_between_two_sessions_are_not_part_of_the_plan():
    study = Study(PROBLEM, Ledger(Budget(wall_seconds=100, dollars=10)))
    for trial, (start, end) in enumerate([(0.0, 10.0), (5.0, 20.0), (7200.0, 7210.0)]):
        study.apply(Started(trial, 0, {"x": 0.5, "width": 1}, 0, 7, 7, Cost(), "cpu:0", start))
        study.apply(Ended(trial, 0, Outcome.COMPLETED, Cost(dollars=1), end))
    assert [(point.at, point.elapsed) for point in prices_over_time(study)] == [(10, 0.1), (20, 0.2), (7210, 0.3)]


def test_without_a_budget_there_are_no_prices():
    assert prices_over_time(Study(PROBLEM)) == []
    assert prices_over_time(Study(PROBLEM, Ledger(Budget(evaluations=3)))) == []
