"""What a budget would buy, on recorded trials."""

import itertools
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from frugalbo.budget.amounts import Budget
from frugalbo.budget.cost import LearnedCost
from frugalbo.cli import main
from frugalbo.errors import ExecutorError, FrugalError, ProblemError
from frugalbo.events import Failure
from frugalbo.executors.simulated import Curve, Hazards, SimulatedExecutor
from frugalbo.pool import Pool
from frugalbo.problem import Fidelity, Minimize, Problem
from frugalbo.propose import make_proposer
from frugalbo.recording import Recording
from frugalbo.replay import Purchase, RecordedProposer, simulate
from frugalbo.run import RunLoop
from frugalbo.scheduler.asha import AshaScheduler
from frugalbo.scheduler.fixed import FixedScheduler
from frugalbo.session import OpenStudy
from frugalbo.slot import Slot
from frugalbo.space import Float, Space
from frugalbo.store import Store
from frugalbo.study import Status, Study

PROBLEM = Problem("ridge", Space({"x": Float(0, 1)}), "nowhere:main", Minimize("loss"), Fidelity("steps", 1, 9))


def curve(params, planned, seed):
    """A step takes 1 s; configurations above 0.9 break after 3 steps, 2 s later."""
    steps = range(1, 4 if params["x"] > 0.9 else planned + 1)
    metrics = [{"loss": params["x"] + 1 / step} for step in steps]
    if params["x"] > 0.9:
        return Curve(steps, list(steps), metrics, failure=Failure.ERROR, message="broken", failure_s=5.0)
    return Curve(steps, list(steps), metrics)


def table_of(n, seconds=10.0):
    """Trials of one step that cost the same, with the losses 0, 1, 2 .."""
    problem = Problem(
        "table", Space({"x": Float(0, n)}), "nowhere:main", Minimize("loss"), cost=lambda params, start, until: seconds
    )
    return Recording(problem, [({"x": float(i)}, Curve([1], [seconds], [{"loss": float(i)}])) for i in range(n)])


def recorded_run(path, scheduler=FixedScheduler, speed=1.0, seconds=120.0):
    with Store(path) as store:
        run_id = store.create_run({"problem": PROBLEM.to_json()})
        with store.lease(run_id) as lease:
            study = OpenStudy(PROBLEM, Budget(device_seconds=seconds), lease=lease)
            slots = [Slot("a", "cpu", 0, speed=speed), Slot("b", "cpu", 1, speed=speed)]
            executor = SimulatedExecutor(PROBLEM, slots, curve, start_up_s=0.5, now=1000.0)
            proposer = make_proposer("random", PROBLEM, seed=5)
            RunLoop(study, scheduler(proposer), executor, LearnedCost(), Path("unused")).run()
    return study


@pytest.mark.parametrize("speed", [1.0, 4.0])
def test_a_stored_run_is_replayed_as_it_was_recorded(tmp_path, speed):
    study = recorded_run(tmp_path / "runs.db", speed=speed)
    recording = Recording.of_run(storage=tmp_path / "runs.db")
    known = [t for t in study.trials.values() if t.status == Status.COMPLETED or t.failure == Failure.ERROR]
    assert [params for params, _ in recording.curves] == [trial.params for trial in known]
    assert recording.left_out == len(study.trials) - len(known)
    for params, found in recording.curves:
        truth = curve(params, 9, 0)
        assert list(found.steps) == list(truth.steps)
        assert found.metrics == truth.metrics
        assert found.seconds == pytest.approx([0.5 + second for second in truth.seconds])
        assert (found.failure, found.message) == (truth.failure, truth.message)
        if truth.failure:
            assert found.failure_s == pytest.approx(5.5)
    assert recording.best() == study.value(study.best())


def test_a_run_of_many_segments_gives_whole_curves_only(tmp_path):
    study = recorded_run(tmp_path / "runs.db", AshaScheduler)
    recording = Recording.of_run(storage=tmp_path / "runs.db")
    done = study.with_status(Status.COMPLETED)
    assert any(len(trial.starts) > 1 for trial in done)
    whole = [found for _, found in recording.curves if found.failure is None]
    assert len(whole) == len(done)
    assert recording.left_out > 0
    for found in whole:
        assert found.metrics == curve(dict(recording.curves[0][0]), 9, 0).metrics or list(found.steps) == list(
            range(1, 10)
        )
        assert list(found.seconds) == sorted(found.seconds)


def test_the_expected_best_of_random_draws_without_replacement():
    # k of the values 0 .. n - 1 without replacement: the least is (n - k) / (k + 1) on average.
    n, seeds = 19, 100
    bought = simulate(table_of(n), budget=Budget(evaluations=8), seeds=seeds, shares=[0.25, 0.5, 1.0])
    for found, k in zip(bought, (2, 4, 8), strict=True):
        assert found.trials == found.completed == k
        mean = (n - k) / (k + 1)
        assert found.expected == pytest.approx(mean, abs=4 * (mean + 1) / math.sqrt(seeds))
        low, high = found.interval
        assert low <= found.expected <= high
        assert found.exhausted == 0


def test_a_budget_buys_whole_trials_and_money_is_told_by_pool():
    pools = [Pool("slow", 1, 3.6), Pool("fast", 1, 36.0, speed=2.0, budget="0.21 USD")]  # 0.001 and 0.01 a second
    (bought,) = simulate(table_of(40), budget="101s", pools=pools, seeds=3, shares=[1.0])
    # A trial costs 10 s and a cent on the slow slot, 5 s and five cents on the fast one, which has 21.
    assert bought.spent["fast"].device_seconds == pytest.approx(20.0)
    assert bought.spent["fast"].dollars == pytest.approx(0.2)
    assert bought.spent["slow"].device_seconds == pytest.approx(80.0)
    assert bought.spent["slow"].dollars == pytest.approx(0.08)
    assert bought.completed == 12
    assert bought.wall_s == pytest.approx(80.0)


def test_an_exhausted_set_is_said():
    small, large = simulate(table_of(5), budget=Budget(evaluations=10), seeds=4, shares=[0.4, 1.0])
    assert (small.exhausted, large.exhausted) == (0.0, 1.0)
    assert large.values == (0.0,) * 4
    assert large.trials == 5


def test_nothing_is_bought_with_too_little():
    (bought,) = simulate(table_of(5), budget="3s", seeds=2, shares=[1.0])
    assert not bought.known
    assert math.isnan(bought.expected)


def curves_of(losses, steps=9):
    """Trials of so many steps of one second, with the losses at their last steps, and 1 / step above them before."""
    problem = Problem(
        "curves", Space({"x": Float(0, 99)}), "nowhere:main", Minimize("loss"), Fidelity("steps", 1, steps),
        cost=lambda params, start, until: float(until - start),
    )  # fmt: skip
    at = list(range(1, steps + 1))
    return Recording(problem, [
        ({"x": float(i)}, Curve(at, at, [{"loss": loss + 1 / step} for step in at])) for i, loss in enumerate(losses)
    ])  # fmt: skip


def test_where_no_trial_runs_to_its_end_the_best_on_the_way_is_told_with_its_step():
    # ASHA in 5 s: three trials to step 1, the best of them to step 3, and nothing is left; in 2.5 s two to step 1.
    small, large = simulate(
        curves_of([5.0, 6.0, 7.0]), budget="5s", scheduler="asha", seeds=2, shares=[0.5, 1.0]
    )  # fmt: skip
    assert not large.known
    assert large.partial == ((3, 5 + 1 / 3),) * 2
    assert large.short == (3, pytest.approx(5 + 1 / 3), 2)
    assert small.short[0] == 1
    assert small.short[1] in (6.0, 6.5, 7.0)


def test_the_step_that_most_seeds_came_to_is_told_and_none_where_there_is_an_end():
    bought = Purchase(
        Budget(evaluations=1), (math.nan,) * 5, 1, 0, 1, {}, 0, ((3, 1.0), (9, 5.0), (3, 2.0), None, (9, 6.0))
    )
    assert bought.short == (9, 5.5, 2)
    assert replace(bought, partial=(*bought.partial, (3, 6.0))).short == (3, 3.0, 3)
    (whole,) = simulate(curves_of([1.0, 2.0]), budget="40s", seeds=3, shares=[1.0])
    assert whole.partial == (None,) * 3
    assert whole.short is None


def test_the_command_tells_of_results_on_the_way(tmp_path, capsys):
    path = tmp_path / "runs.csv"
    lines = [f"{i},{step},{step},{i + 1 / step}\n" for i in range(1, 7) for step in (1, 2, 3)]
    path.write_text("x,step,seconds,loss\n" + "".join(lines))
    words = ["simulate", str(path), "--budget", "1.2s", "--minimize", "loss", "--seeds", "2", "--scheduler", "asha"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert re.search(r"^1\.2 s +\d(\.5)? at step 1 of 3 ", said, re.MULTILINE)
    assert "with 1.2 s, no trial ran to its end in 2 of 2 seeds, where 2 of 2 seeds came to step 1" in said
    assert re.search(r"^0\.3 s +none ", said, re.MULTILINE)
    assert main([*words, "--json"]) == 0
    last = json.loads(capsys.readouterr().out)["bought"][-1]
    assert [found["step"] for found in last["partial"]] == [1, 1]
    assert last["values"] == [None, None]


def test_the_same_seeds_give_the_same_and_more_hazards_less():
    recording = table_of(60)
    pools = [Pool("spot", 3, preemptible=True)]

    def values(**hazards):
        return simulate(recording, budget="200s", pools=pools, seeds=12, shares=[1.0], hazards=Hazards(**hazards))[0]

    calm, rough = values(), values(preemptions_per_hour=300.0)
    assert calm == values()
    assert rough.completed < 0.9 * calm.completed


def test_a_model_chooses_among_recorded_configurations_and_better_than_at_random():
    # x^2 on a fine grid: whoever looks finds the valley in 12 of 200.
    problem = Problem("bowl", Space({"x": Float(-1, 1)}), "nowhere:main", Minimize("loss"))
    grid = [0.01 * i - 0.995 for i in range(200)]
    recording = Recording(problem, [({"x": x}, Curve([1], [1.0], [{"loss": (x - 0.3) ** 2}])) for x in grid])
    study = Study(problem)
    found = RecordedProposer(recording, seed=0, inner=make_proposer("sobol", problem, seed=0)).propose(study, 50)
    chosen = [suggestion.params["x"] for suggestion in found]
    assert len(set(chosen)) == 50
    assert set(chosen) <= set(grid)
    assert max(b - a for a, b in itertools.pairwise(sorted(chosen))) < 0.1  # as even as Sobol points are


def test_what_was_not_recorded_is_not_made_up():
    problem = Problem(
        "ridge", PROBLEM.space, "nowhere:main", Minimize("loss"), Fidelity("steps", 1, 9, schedule="replanned")
    )
    recording = Recording(problem, [({"x": x}, curve({"x": x}, 9, 0)) for x in (0.1, 0.2, 0.3, 0.4)])
    assert simulate(recording, budget="50s", seeds=1)[-1].completed == 4
    with pytest.raises(ExecutorError, match="planned for 9 steps, so nothing is known of one that is planned for 1"):
        simulate(recording, budget="50s", seeds=1, scheduler="asha")


TABLE = """\
lr,kind,step,seconds,loss
0.1,a,1,2.0,3.0
0.1,a,2,4.5,1.5
0.001,b,1,1.0,2.0
0.001,b,2,2.0,0.5
0.01,b,1,1.0,2.5
"""


def test_a_table_is_read_with_its_parameters(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(TABLE)
    recording = Recording.of_table(path, Minimize("loss"))
    assert list(recording.problem.space.parameters) == ["lr", "kind"]
    assert recording.problem.space.parameters["lr"] == Float(0.001, 0.1, log=True)
    assert recording.problem.steps == 2
    assert recording.left_out == 1  # 0.01 has its first step only
    params, found = recording.curves[0]
    assert params == {"lr": 0.1, "kind": "a"}
    assert (found.steps, found.seconds, found.metrics) == ([1, 2], [2.0, 4.5], [{"loss": 3.0}, {"loss": 1.5}])
    assert recording.best() == 0.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected lines below the heading"),
        ("lr,loss\n1,2\n", "expected a column 'seconds', got lr, loss"),
        ("seconds,loss\n1,2\n", "expected columns of parameters"),
        ("lr,step,seconds,loss\n1,one,2,3\n", "whole numbers in the column 'step', got 'one'"),
        (
            "lr,step,seconds,loss\n1,1,2,3\n1,2,1,3\n2,1,1,3\n",
            "are no curve: expected the seconds of a curve never to go back",
        ),
        ("lr,seconds,loss\n1,soon,3\n2,1,3\n", "are no curve"),
        ("lr,seconds,loss\n1,2\n", "as CSV"),
    ],
)
def test_tables_that_cannot_be_read_are_refused(tmp_path, text, said):
    path = tmp_path / "runs.csv"
    path.write_text(text)
    with pytest.raises(ProblemError, match=said):
        Recording.of_table(path, Minimize("loss"))


def test_the_command_tells_what_a_budget_buys(tmp_path, capsys):
    path = tmp_path / "runs.csv"
    path.write_text("lr,seconds,accuracy\n" + "".join(f"{i},10,{i}\n" for i in range(1, 7)))
    words = ["simulate", str(path), "--budget", "16 trials", "--maximize", "accuracy", "--seeds", "2", "--price", "36"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "6 recorded configurations of runs, 2 seeds each" in said
    assert "the best of all that is recorded: 6" in said
    assert "100% of the seeds tried every recorded configuration" in said
    assert main([*words, "--json", "--scheduler", "fixed"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [row["budget"] for row in facts["bought"]] == [{"evaluations": n} for n in (2, 4, 8, 16)]
    assert facts["bought"][0]["pools"] == {"devices": {"device_seconds": 20.0, "dollars": pytest.approx(0.2)}}
    assert facts["bought"][-1]["values"] == [6.0] * 2


def test_the_command_replays_a_stored_run(tmp_path, capsys):
    recorded_run(tmp_path / "runs.db")
    (tmp_path / "pools.toml").write_text("[[pool]]\nname = 'spot'\ndevices = 2\nspeed = 2.0\npreemptible = true\n")
    words = ["simulate", "--storage", str(tmp_path / "runs.db"), "--budget", "40s", "--seeds", "3", "--json"]
    assert main([*words, "--pools", str(tmp_path / "pools.toml"), "--preemptions", "60", "--reload", "1s"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["problem"] == "ridge"
    assert [set(row["pools"]) for row in facts["bought"]] == [{"spot"}] * 4
    assert all(row["pools"]["spot"]["device_seconds"] <= row["budget"]["device_seconds"] for row in facts["bought"])


@pytest.mark.parametrize(
    "words",
    [
        ["runs.csv", "--budget", "1h"],  # no goal
        ["--budget", "1h", "--minimize", "loss"],  # a goal without a table
        ["nowhere.csv", "--budget", "1h", "--minimize", "loss"],
        ["--budget", "1h", "--storage", "nowhere.db"],
    ],
)
def test_the_command_refuses_what_makes_no_sense(words, capsys):
    assert main(["simulate", *words]) == 2
    assert capsys.readouterr().err.startswith("frugalbo: ")


def test_refusals():
    with pytest.raises(ProblemError, match="no trial of ridge was recorded to its end"):
        Recording(PROBLEM, [])
    with pytest.raises(ProblemError, match="at least one seed"):
        simulate(table_of(3), budget="9s", seeds=0)
    with pytest.raises(FrugalError, match="unknown scheduler"):
        simulate(table_of(3), budget="9s", scheduler="magic")
