"""Several problems that share one budget."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import frugalbo as fb
from frugalbo import together
from frugalbo.budget.price import Market
from frugalbo.errors import BudgetError, ProblemError, StorageError
from frugalbo.together import expected_gain, following, index, resume_together, tune_together

SLOT = fb.Slot("cpu:0", "cpu", 0, dollars_per_hour=36.0)
SPACE = fb.Space({"x": fb.Float(0, 1)})


def problem(name, fidelity=None):
    return fb.Problem(name, SPACE, "nowhere:train", fb.Minimize("loss"), fidelity)


def executor(of, function, seconds=10.0, slots=1, **kwargs):
    def simulate(params, planned, seed):
        steps = range(1, planned + 1)
        return fb.Curve(
            steps, [seconds * i / planned for i in steps], [{"loss": function(params["x"]) / i} for i in steps]
        )

    return fb.SimulatedExecutor(of, [replace(SLOT, name=f"cpu:{i}") for i in range(slots)], simulate, **kwargs)


PROBLEMS = {"flat": problem("flat"), "steep": problem("steep")}


def run(budget, tmp_path=None, *, worth=None, seconds=(10.0, 10.0), steep=lambda x: x, slots=1, **kwargs):
    executors = {
        "flat": executor(PROBLEMS["flat"], lambda x: 5 + 1e-3 * x, seconds[0], slots),
        "steep": executor(PROBLEMS["steep"], steep, seconds[1], slots),
    }
    where = {} if tmp_path is None else {"storage": tmp_path / "runs.db"}
    return tune_together(PROBLEMS, budget=budget, worth=worth, method="random", executors=executors, **where, **kwargs)


def test_the_scale_of_an_exponential_tail_is_what_is_expected():
    # Of losses -Exp(1), whose tail is on the side of the best, the next is a record with chance 1 / (n + 1), and then,
    # as exponentials have no memory, by 1 on average.
    rng, n = np.random.default_rng(3), 37
    found = [expected_gain((-rng.exponential(size=n)).tolist()) for _ in range(2000)]
    assert np.mean(found) == pytest.approx(1 / (n + 1), rel=0.05)


def test_by_hand():
    # The best two of 5 are 1 and 2, the next is 4: (4 - 1.5) / 6.
    assert expected_gain([9.0, 4.0, 1.0, 2.0, 8.0]) == pytest.approx(2.5 / 6)
    assert expected_gain([1.0, 1.0, 1.0]) == 0.0


def test_the_index_is_gain_by_worth_over_the_share_of_the_budget(tmp_path):
    shared = run("100s", tmp_path)
    study = shared.reports["steep"].study
    losses = [study.value(trial) for trial in study.trials.values()]
    # 10 of 100 s a result, at the prices of the beginning.
    before = Market.of(together.joint([fb.Study(study.problem, fb.Ledger(shared.budget))], shared.budget))
    assert index(study, before, 3.0) == pytest.approx(3 * expected_gain(losses) / 0.1)


def test_the_budget_goes_where_it_brings_more():
    shared = run("205s", worth={"flat": 1.0, "steep": 1.0})
    assert shared.spent("device_seconds") == {"flat": 10.0 * together.LEAST, "steep": 160.0}  # one looked at, and left
    assert "flat: what is left does not pay for another trial" in shared.stop_reason


def test_worth_turns_it_around_and_so_does_cost():
    assert run("205s", worth={"flat": 1e6, "steep": 1.0}).spent("device_seconds")["steep"] == 40.0
    alike = {"worth": {"flat": 1000.0, "steep": 1.0}}  # then they are the same but for what they cost
    spent = run("605s", seconds=(90.0, 10.0), **alike).reports
    assert len(spent["steep"].study.trials) > 2 * len(spent["flat"].study.trials)


def test_where_no_worth_is_stated_each_counts_by_how_far_it_has_come():
    shared = run("205s")  # the one is the other times a thousandth, so they are alike
    spent = shared.spent("device_seconds")
    assert min(spent.values()) >= 60.0


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    budget=st.floats(1.0, 100.0), seconds=st.tuples(st.floats(3.0, 60.0), st.floats(3.0, 60.0)),
    slots=st.sampled_from([1, 3]), seed=st.integers(0, 9), dollars=st.booleans(),
)  # fmt: skip
def test_together_they_never_overspend(budget, seconds, slots, seed, dollars):
    # A slot costs 0.01 USD a second.
    limit = {"dollars": budget / 100} if dollars else {"device_seconds": budget}
    shared = run(limit, seconds=seconds, slots=slots, seed=seed)
    for resource, total in shared.budget.limits().items():
        assert math.fsum(shared.spent(resource).values()) <= total * (1 + 1e-9)
    assert all(report.study.ledger.balance()["device_seconds"].held == 0 for report in shared.reports.values())


class _Killed(BaseException):
    pass


def test_what_is_killed_goes_on_as_if_nothing_had_been(tmp_path):
    (tmp_path / "whole").mkdir()
    whole = run("205s", tmp_path / "whole")
    (tmp_path / "cut").mkdir()
    left = iter(range(25))

    def kill(study, balance, events):
        if events and next(left, None) is None:
            raise _Killed

    with pytest.raises(_Killed):
        run("205s", tmp_path / "cut", observe=kill)
    executors = {name: executor(of, (lambda x: 5 + 1e-3 * x) if name == "flat" else (lambda x: x), now=1000.0)
                 for name, of in PROBLEMS.items()}  # fmt: skip
    resumed = resume_together(storage=tmp_path / "cut" / "runs.db", problems=PROBLEMS, executors=executors)
    assert math.fsum(resumed.spent("device_seconds").values()) <= 205.0 * (1 + 1e-9)
    for name, report in resumed.reports.items():
        mine = [t.params for t in report.study.trials.values()]
        theirs = [t.params for t in whole.reports[name].study.trials.values()]
        n = min(len(mine), len(theirs))
        assert mine[:n] == theirs[:n]
        assert n >= len(theirs) - 1  # a crash is charged for what it lost
    more = resume_together(storage=tmp_path / "cut" / "runs.db", problems=PROBLEMS, budget="255s", executors=executors)
    assert math.fsum(more.spent("device_seconds").values()) > 220.0


def test_one_of_them_cannot_go_on_alone(tmp_path):
    shared = run("100s", tmp_path)
    with pytest.raises(
        BudgetError, match=r"flat-1 shares its budget with other problems: go on with fb\.resume_together"
    ):
        fb.resume(shared.reports["flat"].run_id, storage=tmp_path / "runs.db")


def test_a_problem_whose_jobs_all_fail_leaves_the_rest_to_the_others():
    shared = run("205s", steep=lambda x: math.nan)
    assert "all failed" in shared.reports["steep"].stop_reason
    assert shared.spent("device_seconds")["flat"] > 80.0


def test_trials_that_are_held_share_too():
    fidelity = fb.Fidelity("steps", 1, 9)
    problems = {name: problem(name, fidelity) for name in ("a", "b")}
    executors = {name: executor(of, lambda x: 1 + x, slots=2) for name, of in problems.items()}
    shared = tune_together(problems, budget="100s", method="random", scheduler="asha", executors=executors)
    spent = shared.spent("device_seconds")
    assert math.fsum(spent.values()) <= 100.0 * (1 + 1e-9)
    assert min(spent.values()) > 15.0


def test_the_report_says_how_the_budget_was_shared_out():
    shared = run("105s", worth={"flat": 1.0, "steep": 1.0})
    text = shared.summary()
    assert "flat (flat-1): Best loss" in text
    assert "shared out: flat 40 s (38 %), steep 60 s (57 %), 4.8 % left" in text
    turns = shared.turns()
    assert {turn.name for turn in turns} == {"flat", "steep"}
    assert sum(turn.segments for turn in turns) == 10
    assert all(turn.until_s > turn.from_s for turn in turns)


@pytest.mark.parametrize(
    ("kwargs", "error", "said"),
    [
        ({"problems": {"a": PROBLEMS["flat"]}}, ProblemError, "expected two problems or more to share a budget, got 1"),
        ({"worth": {"flat": 1.0}}, ProblemError, r"the worth of a unit of each of \['flat', 'steep'\], got \['flat'\]"),
        ({"worth": {"flat": 1.0, "steep": -1.0}}, ProblemError, "worth of a unit of 'steep' above 0, got -1.0"),
        ({"budget": "3 USD"}, BudgetError, "a budget of money needs the price of a device"),
        ({"executors": {}}, ProblemError, r"an executor for each of \['flat', 'steep'\], got \[\]"),
    ],
)
def test_what_makes_no_sense_is_refused(kwargs, error, said):
    with pytest.raises(error, match=said):
        tune_together(**{"problems": PROBLEMS, "budget": "100s", **kwargs})


def test_where_none_share_a_budget_there_is_nothing_to_resume(tmp_path):
    with pytest.raises(StorageError, match=r"there are no runs in .* that share a budget"):
        resume_together(storage=tmp_path / "runs.db")


def test_the_next_is_the_first_of_those_that_are_equal():
    studies = {name: fb.Study(of, fb.Ledger(fb.Budget.of("10s"))) for name, of in PROBLEMS.items()}
    balance = together.joint(studies.values(), fb.Budget.of("10s"))
    assert following(studies, balance, None) == "flat"
    assert following(studies, balance, None, {"flat"}) == "steep"
    assert following(studies, balance, None, PROBLEMS) is None
