"""Recorded curves are read right, and their races are paid and judged right."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import curve_neps, curve_peers, curve_tables, race_curves
from benchmarks.curve_tables import CurveTable, Pool
from frugalbo.errors import ProblemError
from frugalbo.problem import Fidelity, Maximize, Problem
from frugalbo.space import Choice, Space
from frugalbo.study import Study

recorded = pytest.mark.skipif(
    not all(map(curve_tables.is_there, ("taskset", "algoperf"))), reason="the recorded curves are not there"
)
lcdb = pytest.mark.skipif(not curve_tables.is_there("lcdb"), reason="lcdb is not installed")

# Accuracies of five runs over three steps: one diverges at its second, one crashes after its first.
ACCURACY = np.array([[0.1, 0.5, 0.9], [0.3, 0.4, 0.5], [0.2, np.nan, np.nan], [0.4, 0.2, 0.1], [0.6, np.nan, np.nan]])


@pytest.fixture
def table():
    problem = Problem(
        "tiny",
        Space({"arm": Choice(list("abcde"))}),
        "m:f",
        Maximize("accuracy"),
        Fidelity("steps", 1, 3),
        cost=lambda params, start, until: 2.0 * (until - start),
    )
    return CurveTable(
        name="made/tiny",
        problem=problem,
        configurations=tuple({"arm": name} for name in "abcde"),
        losses=-ACCURACY,
        seconds=np.tile([2.0, 4.0, 6.0], (5, 1)),
        lengths=np.array([3, 3, 3, 3, 1]),
        step_s=2.0,
    )


def test_regret_is_that_of_the_end_whatever_the_beginning_promised(table):
    # The ends are .9, .5, nothing, .1, nothing: as losses -.9, -.5, inf, -.1, inf, whose median is -.1.
    assert [table.regret({"arm": name}) for name in "abcde"] == pytest.approx([0, 0.5, 1, 1, 1])
    assert table.regret(None) == 1
    assert table.full_cost_s == 6


def test_a_trial_reports_the_recorded_run(table):
    curve = table.simulate({"arm": "a"}, 3, 0)
    assert list(curve.steps) == [1, 2, 3]
    assert list(curve.seconds) == [2, 4, 6]
    assert [m["accuracy"] for m in curve.metrics] == [0.1, 0.5, 0.9]
    assert math.isnan(table.simulate({"arm": "c"}, 3, 0).metrics[1]["accuracy"])
    assert table.simulate({"arm": "e"}, 3, 0).failure == "error"


def test_the_pool_proposes_each_configuration_once_in_an_order_of_its_seed(table):
    study = Study(table.problem)
    orders = {tuple(s.params["arm"] for s in Pool(table, seed).propose(study, 9)) for seed in range(20)}
    assert all(sorted(order) == list("abcde") for order in orders)
    assert len(orders) > 10


@pytest.mark.parametrize("scheduler", sorted(race_curves.OURS.values()))
def test_a_race_spends_what_it_has_and_answers_with_the_best_that_it_saw(table, scheduler):
    study = race_curves.run_ours(table, scheduler, 100.0, workers=2, seed=0)
    assert len(study.trials) == 5
    # At its first step, a is the worst: whom a rule stops there, it cannot know.
    assert study.best().params["arm"] in ("d" if scheduler == "asha-stop" else "a")
    study = race_curves.run_ours(table, scheduler, 9.0, workers=2, seed=0)
    assert study.balance()["device_seconds"].spent <= 9


def test_a_table_that_is_not_there_is_refused():
    with pytest.raises(ProblemError, match="no table 'taskset/nothing'"):
        curve_tables.load("taskset/nothing")


@recorded
@pytest.mark.parametrize(("name", "n", "steps"), [(curve_tables.names()[0], 1000, 51), ("algoperf/wmt", 65, 58)])
def test_a_recorded_table_has_its_size_and_a_best_of_regret_zero(name, n, steps):
    table = curve_tables.load(name)
    assert table.losses.shape == (n, steps)
    assert min(table.regret(params) for params in table.configurations) == 0
    assert all(table.problem.space.check(params) is None for params in table.configurations)
    assert (np.diff(table.seconds, axis=1)[table.lengths == steps] > 0).all()


@recorded
def test_only_what_reached_its_target_or_the_end_counts_as_a_full_run():
    table = curve_tables.load("algoperf/imagenet_resnet", seed=2)
    full = table.lengths == table.steps
    assert 0 < full.sum() < len(full)
    assert np.isfinite(table.losses[full, -1]).all()


@recorded
def test_other_seeds_see_other_studies_of_a_workload():
    first, second = (curve_tables.load("algoperf/ogbg", seed) for seed in (0, 1))
    assert first.configurations == second.configurations
    assert not np.array_equal(first.finals, second.finals)
    assert curve_tables.load("algoperf/ogbg", 5) is first


# --- peers ------------------------------------------------------------------------------------------


class Patient:
    """Stops the trials that it was told to at the step that it was told, and remembers what it saw."""

    def __init__(self, **stops):
        self.stops, self.seen = stops, []

    def begin(self, trial):
        self.seen.append(("begin", trial))

    def goes_on(self, trial, step, loss):
        self.seen.append((trial, step, loss))
        return step < self.stops.get(f"t{trial}", 99)

    def end(self, trial, *, step, loss, failed, full):
        self.seen.append(("end", trial, step, failed, full))


def test_a_peer_sees_each_step_and_pays_for_each(table):
    # Steps take 2 s. One worker, 14 s: c diverges at its second step, a runs to its third, b is stopped at
    # its first, and d gets one step.
    stopper = Patient(t2=1)
    trials = curve_peers.drive(stopper, table, [2, 0, 1, 3], budget_s=14.0, workers=1)
    assert [(r.row, r.step, r.failed) for r in trials] == [(2, 2, True), (0, 3, False), (1, 1, False), (3, 1, False)]
    ends = [seen[1:] for seen in stopper.seen if seen[0] == "end"]
    assert ends == [(0, 2, True, False), (1, 3, False, True), (2, 1, False, False), (3, 1, False, False)]
    assert curve_peers.answer(table, trials) == {"arm": "a"}


def test_two_workers_burn_one_purse(table):
    trials = curve_peers.drive(Patient(), table, [0, 1, 3], budget_s=10.0, workers=2)
    assert sum(2 * ran.step for ran in trials) == 10
    assert [ran.step for ran in trials] == [3, 2]


def test_a_crash_is_a_failure_and_no_answer(table):
    trials = curve_peers.drive(Patient(), table, [4], budget_s=100.0, workers=1)
    assert [(ran.step, ran.failed) for ran in trials] == [(1, True)]
    assert curve_peers.answer(table, trials) is None


class Climbing:
    """Asks for one configuration after the other, each to step 1 and then to step 3; stands for NePS."""

    def __init__(self):
        self.asked, self.told = 0, {}

    def ask(self):
        config, rung = divmod(self.asked, 2)
        self.asked += 1
        return SimpleNamespace(id=f"{config}_rung_{rung}", config={"step": (1, 3)[rung]})

    def tell(self, name, result):
        self.told[name] = result


def test_a_tool_that_goes_on_pays_for_what_is_new(table, monkeypatch):
    tool = Climbing()
    monkeypatch.setattr(curve_neps, "_tool", lambda *_: tool)
    # Steps take 2 s. a runs to its end in 6 s; c diverges at its second step and e after its first.
    trials = curve_neps.drive("neps-asha", table, [0, 2, 4, 1], budget_s=13.0, workers=1, seed=0)
    assert [(r.row, r.step, r.failed) for r in trials] == [(0, 3, False), (2, 2, True), (4, 1, True)]
    told = {name: getattr(result, "args", result) for name, result in tool.told.items()}
    broke = ("the run broke down",)
    assert told == {
        "0_rung_0": {"objective_to_minimize": -0.1},
        "0_rung_1": {"objective_to_minimize": -0.9},
        "1_rung_0": {"objective_to_minimize": -0.2},
        "1_rung_1": broke,
        "2_rung_0": {"objective_to_minimize": -0.6},
        "2_rung_1": broke,
    }


@pytest.mark.parametrize("name", sorted(curve_peers.PACKAGES))
def test_a_peer_stops_some_and_runs_some_to_the_end(name):
    if not curve_peers.is_installed(name):
        pytest.skip(f"{curve_peers.PACKAGES[name]} is not installed")
    rng = np.random.default_rng(0)
    losses = np.sort(rng.random((60, 9)), axis=1)[:, ::-1]
    many = CurveTable(
        name="made/many",
        problem=Problem("many", Space({"arm": Choice(range(60))}), "m:f", Maximize("m"), Fidelity("steps", 1, 9)),
        configurations=tuple({"arm": i} for i in range(60)),
        losses=losses,
        seconds=np.tile(np.arange(1.0, 10.0), (60, 1)),
        lengths=np.full(60, 9),
        step_s=1.0,
    )
    trials = curve_peers.race(name, many, range(60), budget_s=1e4, workers=2, seed=0)
    assert len(trials) == 60
    assert 0 < sum(ran.step == 9 for ran in trials) < 60


@lcdb
def test_a_learner_is_trained_on_one_size_after_the_other_at_known_costs():
    table = curve_tables.load("lcdb/901", seed=6)
    assert table.losses.shape == (20, 24)
    assert (np.diff(table.seconds) >= 0).all()
    assert np.isfinite(table.losses).all()
    # From the file: MLPClassifier, outer split 1, inner split 0, at the smallest and at the largest size.
    curve = table.simulate({"learner": "sklearn.neural_network.MLPClassifier"}, 24, 0)
    assert curve.metrics[0]["log_loss"] == pytest.approx(0.5824)
    assert curve.metrics[-1]["log_loss"] == pytest.approx(0.1297)
