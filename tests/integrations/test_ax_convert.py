"""Experiments as studies, and studies as experiments."""

import math

import pytest
from clients import client, experiment, loss, run

import frugalbo as fb
import frugalbo.integrations.ax as fa
from frugalbo.errors import ProblemError, SpaceError, StudyError
from frugalbo.events import Ended, Failure, Outcome, Reported, Started
from frugalbo.integrations.ax.space import Translation, from_search_space, to_search_space
from frugalbo.study import Status, Study

SPACE = fb.Space(
    {
        "lr": fb.Float(1e-5, 1e-1, log=True),
        "x": fb.Float(-1, 1),
        "y": fb.Float(0, 3),
        "layers": fb.Int(1, 7),
        "width": fb.Choice([64, 128, 256], ordered=True),
        "optimizer": fb.Choice(["sgd", "adamw", "lion"]),
        "momentum": fb.Float(0.0, 0.99, only_if={"optimizer": ["sgd", "lion"]}),
        "amsgrad": fb.Choice([False, True], only_if={"optimizer": "adamw"}),
        "data": "/corpus",
    },
    constraints=["x + 2 * y <= 5", "layers * width <= 1000"],
)
PROBLEM = fb.Problem(
    "small",
    SPACE,
    "nowhere:train",
    fb.Maximize("accuracy"),
    fidelity=fb.Fidelity("epochs", 1, 5),
    constraints=["peak_gib <= 8", "speed >= 0.5"],
    cost="like width * layers",
)


def metrics(value, peak=3.0):
    return {"accuracy": value, "peak_gib": peak, "speed": 1.0}


def study_of_every_kind(budget="200s"):
    """A trial of each status; the stopped one had reached its last step and is the best."""
    study = fb.open_study(PROBLEM, budget=budget, method="sobol", seed=1)
    points = [s.params for s in study.proposer.propose(study, 7)]
    cost = fb.Cost(device_seconds=math.pi, evaluations=1)

    def start(number, segment=0, begin=0, at=100.0):
        why = {"method": "sobol", "value": 1 / 3}
        held = fb.Cost(device_seconds=7.0, evaluations=1 - segment)
        study.record(Started(number, segment, points[number], begin, 5, 5, held, "gpu:0", at + number, why))

    def end(number, outcome, segment=0, **more):
        study.record(Ended(number, segment, outcome, cost, 200.0 + number, **more))

    def report(number, steps, value, segment=0, peak=3.0):
        study.record(*(Reported(number, segment, s, metrics(value * s, peak), 150.0 + s) for s in steps))

    start(0), report(0, range(1, 6), math.pi * 1e-9), end(0, Outcome.COMPLETED)
    start(1), report(1, [1, 2], 0.1), end(1, Outcome.FAILED, failure=Failure.MEMORY, message="no memory", log_tail="…")
    start(2), report(2, [1, 2, 5], 0.3), end(2, Outcome.STOPPED)
    start(3), report(3, [1, 2, 3], 0.05), end(3, Outcome.INTERRUPTED, checkpoint=3)
    start(4), report(4, [2], 0.1), end(4, Outcome.INTERRUPTED, checkpoint=2)
    start(4, 1, 2), report(4, [3, 5], 0.1, segment=1, peak=9.5), end(4, Outcome.COMPLETED, 1)
    start(5), end(5, Outcome.STOPPED)
    start(6), report(6, [1], 0.2)
    study.close()
    return study


def assert_equal(one, other):
    assert one.problem.to_json() == other.problem.to_json()
    assert one.trials == other.trials
    assert one.ledger.balance() == other.ledger.balance()


@pytest.mark.parametrize("seed", range(7))
def test_a_space_comes_back(seed):
    import numpy as np

    search_space, lost = to_search_space(SPACE)
    assert [text.split(":")[0].split(" is not")[0] for text in lost] == [
        "the known constraint 'layers * width <= 1000'",
        "the condition of 'momentum'",
    ]
    back = from_search_space(search_space)
    ours = Translation(search_space, SPACE, back.names)
    rng = np.random.default_rng(seed)
    params = SPACE.sample(rng)
    theirs = ours.to_ax(params)
    assert ours.from_ax(theirs) == params
    search_space.check_membership(theirs, raise_error=True)
    inactive = {} if "momentum" in params else {"momentum": 0.495}
    assert back.from_ax(theirs) == params | inactive
    there, here = dict(back.space.parameters), dict(SPACE.parameters)
    assert there["amsgrad"].only_if == {"optimizer": ["adamw"]}
    assert there["momentum"].only_if is None
    for name, p in here.items():
        assert type(there[name]) is type(p)
        assert getattr(there[name], "log", None) == getattr(p, "log", None)
    assert back.space.encode(params | inactive) == pytest.approx(SPACE.encode(params))


def test_names_that_are_no_identifiers_are_translated():
    back = from_search_space(experiment(client()).search_space)
    assert back.names["optimizer_lr"] == "optimizer.lr"
    params = {"x": 0.5, "optimizer_lr": 1e-3, "layers": 3, "kind": "b"}
    assert back.to_ax(params) == {"x": 0.5, "optimizer.lr": 1e-3, "layers": 3, "kind": "b"}
    assert back.from_ax(back.to_ax(params)) == params


def test_derived_parameters_are_computed():
    from ax.api.client import Client
    from ax.api.configs import DerivedParameterConfig, RangeParameterConfig

    made = Client()
    ranges = [RangeParameterConfig("a", (0.0, 1.0), "float"), RangeParameterConfig("b", (0.0, 1.0), "float")]
    made.configure_experiment([*ranges, DerivedParameterConfig("c", "1.0 - a - b", "float")], ["a + b <= 1"])
    made.configure_optimization("-loss")
    made.set_generation_strategy(fa.generation_strategy(method="sobol"))
    for p in made.get_next_trials(5).values():
        assert p["c"] == pytest.approx(1 - p["a"] - p["b"])
        assert p["a"] + p["b"] <= 1


def test_a_study_comes_back_as_it_was():
    study = study_of_every_kind()
    assert_equal(fa.from_ax(fa.to_ax(study)), study)


@pytest.mark.parametrize("store", ["json", "sqlite"])
def test_a_study_comes_back_through_a_store(store, tmp_path):
    from ax.api.client import Client

    study = study_of_every_kind()
    if store == "sqlite":
        pytest.importorskip("tabulate")
        Client(storage_config=fa.sqlite(tmp_path / "ax.db")).set_experiment(fa.to_ax(study))
        back = fa.load_sqlite(tmp_path / "ax.db", "small")
    else:
        made = Client()
        made.set_experiment(fa.to_ax(study))
        fa.save(made, tmp_path / "ax.json")
        back = fa.load(tmp_path / "ax.json")
    assert_equal(fa.from_ax(back), study)


def test_ax_sees_what_it_has_a_place_for():
    study = study_of_every_kind()
    found = fa.to_ax(study)
    names = [trial.status.name for trial in found.trials.values()]
    assert names == ["COMPLETED", "FAILED", "EARLY_STOPPED", "STAGED", "COMPLETED", "ABANDONED", "RUNNING"]
    frame = found.lookup_data().full_df
    curve = frame[(frame["trial_index"] == 2) & (frame["metric_name"] == "accuracy")]
    assert list(zip(curve["step"], curve["mean"], strict=True)) == [(1, 0.3), (2, 0.6), (5, 1.5)]
    charged = frame[(frame["trial_index"] == 4) & (frame["metric_name"] == "device_seconds")]
    assert list(charged["mean"]) == [2 * math.pi]
    assert found.optimization_config.objective.expression == "accuracy"
    assert [str(c.expression) for c in found.optimization_config.outcome_constraints] == [
        "peak_gib <= 8",
        "speed >= 0.5",
    ]
    assert found.trials[0].time_run_started.timestamp() == 100.0
    assert found.trials[0].time_completed.timestamp() == 200.0


def test_losses_are_named():
    said = "\n".join(fa.losses(study_of_every_kind()))
    for part in (
        "'layers * width <= 1000' is not linear",
        "the condition of 'momentum'",
        "trial 3 is paused",
        "trial 5 is stopped without a report",
        "trial 2 is not completed but at the last step",
        "trial 4 is run in segments",
        "the budget",
    ):
        assert part in said
    plain = run(client(), 2)
    assert fa.losses(plain) == []
    ((index, _),) = plain.get_next_trials(1).items()
    plain.complete_trial(index, {"loss": (1.0, 0.1)}, progression=0)
    said = "\n".join(fa.losses(plain))
    assert "standard errors" in said
    assert "no whole steps" in said


def test_best_point_takes_what_was_stopped_at_its_last_step_and_says_so():
    """Ax's own takes trial 0, with pi 1e-9 times 5; trial 4 has more, but takes more memory than allowed."""
    found = fa.to_ax(study_of_every_kind())
    best = fa.best_point(found)
    assert (best.trial_index, best.value, best.is_feasible) == (2, 1.5, True)
    assert "trial 2 is stopped" in best.note
    assert "Ax's own best point looks at completed trials only and is trial 0" in best.note


def test_best_point_of_a_plain_experiment():
    made = client(constraints=["mem <= 5"])
    assert fa.best_point(made) is None
    for i, (value, mem) in enumerate([(1.0, 4.0), (0.5, 6.0), (0.7, 5.0)]):
        index = made.attach_trial({"x": 0.1 * i, "optimizer.lr": 1e-3, "layers": 1, "kind": "a"})
        made.complete_trial(index, {"loss": value, "mem": mem})
    best = fa.best_point(made)
    assert (best.trial_index, best.value, best.note) == (2, 0.7, "")
    assert best.parameters["x"] == 0.2


def test_statuses_of_a_plain_experiment():
    made = client()
    point = {"x": 0.5, "optimizer.lr": 1e-3, "layers": 1, "kind": "a"}
    for i in range(6):
        made.attach_trial(point | {"x": 0.1 * i})
    made.complete_trial(0, {"loss": 0.25})
    made.complete_trial(1, {"loss": float("nan")})
    made.mark_trial_failed(2)
    made.mark_trial_abandoned(3)
    made.attach_data(4, {"loss": 0.5})
    made.mark_trial_early_stopped(4)
    study = fa.from_ax(made, budget="9 trials")
    assert [t.status for t in study.trials.values()] == [
        Status.COMPLETED, Status.FAILED, Status.FAILED, Status.FAILED, Status.STOPPED, Status.RUNNING,
    ]  # fmt: skip
    assert study.trials[1].failure == Failure.NO_RESULT
    assert [study.value(t) for t in study.trials.values()] == [0.25, None, None, None, 0.5, None]
    account = study.ledger.balance()["evaluations"]
    assert (account.spent, account.held) == (5, 1)


def test_curves_of_a_plain_experiment():
    made = client()
    for i, last in enumerate((7, 5)):
        made.attach_trial({"x": 0.1 * i, "optimizer.lr": 1e-3, "layers": 1, "kind": "a"})
        for step in (1, 3, last):
            made.attach_data(i, {"loss": 1 / step, "device_seconds": 2.0 * step}, progression=step)
        made.complete_trial(i)
    study = fa.from_ax(made)
    assert study.problem.fidelity == fb.Fidelity("steps", 1, 7)
    assert study.trials[0].curve("loss") == [(1, 1.0), (3, pytest.approx(1 / 3)), (7, pytest.approx(1 / 7))]
    # Ax calls trial 1 completed, so what it reported last is its result.
    assert study.value(study.trials[1]) == 0.2
    assert [t.used("device_seconds") for t in study.trials.values()] == [14.0, 10.0]


@pytest.mark.parametrize(
    ("objective", "remedy"),
    [
        ("loss, -time", "bound the others by outcome constraints, 'time <= ...'"),
        ("loss + 2 * time", "report that sum as a metric of its own"),
    ],
)
def test_several_objectives_are_refused_with_what_to_do(objective, remedy):
    """By everything that needs the objective, in the same sentence."""
    made = client()
    made.configure_optimization(objective)
    with pytest.raises(ProblemError, match=f"not a single metric.*{remedy}"):
        fa.from_ax(made)
    made.set_generation_strategy(fa.generation_strategy())
    with pytest.raises(ProblemError, match=remedy):
        made.get_next_trials(1)
    with pytest.raises(ProblemError, match=remedy):
        fa.BudgetedClient(made, "10s")
    with pytest.raises(ProblemError, match=remedy):
        fa.problem_from_ax(made, job="nowhere:train")
    made.configure_optimization("-loss", ["time <= 5"])
    assert made.get_next_trials(1)


def test_a_batch_is_refused_with_what_to_do():
    from ax.core.arm import Arm

    made = client()
    batch = experiment(made).new_batch_trial()
    batch.add_arms_and_weights([Arm({"x": x, "optimizer.lr": 1e-3, "layers": 1, "kind": "a"}) for x in (0.1, 0.2)])
    for use in (fa.from_ax, fa.best_point, lambda made: fa.BudgetedClient(made, "10s")):
        with pytest.raises(StudyError, match=r"trial 0 of 'demo' is a batch.*give each of its arms a trial"):
            use(made)


def test_what_cannot_be_a_study_is_refused_in_a_sentence():
    from ax.api.client import Client
    from ax.core.parameter import ParameterType, RangeParameter
    from ax.core.search_space import SearchSpace

    with pytest.raises(StudyError, match="has no experiment yet"):
        fa.from_ax(Client())
    fidelity = RangeParameter("epochs", ParameterType.FLOAT, 0.0, 1.0, is_fidelity=True, target_value=1.0)
    with pytest.raises(SpaceError, match="'epochs' is a fidelity"):
        from_search_space(SearchSpace([fidelity]))
    no_objective = Client()
    no_objective.configure_experiment([*experiment_configs()])
    with pytest.raises(ProblemError, match="has no objective"):
        fa.from_ax(no_objective)
    relative = client(constraints=["mem <= 0.9 * baseline"])
    with pytest.raises(ProblemError, match="relative to a baseline"):
        fa.from_ax(relative)


def experiment_configs():
    from clients import KIND, RANGES

    return [*RANGES, KIND]


def test_ax_analyses_work_on_our_studies():
    from ax.api.client import Client

    study = fb.open_study(
        fb.Problem("bowl", fb.Space({"x": fb.Float(0, 1), "y": fb.Float(0, 1)}), "nowhere:train", fb.Minimize("loss")),
        budget="99s",
        method="sobol",
    )
    for _ in range(11):
        trial = study.ask()
        p = trial.params
        study.tell(trial, (p["x"] - 0.3) ** 2 + p["y"], cost=1 + p["x"])
    study.close()
    made = Client()
    made.set_experiment(fa.to_ax(study))
    made.configure_generation_strategy()
    summary = made.summarize()
    assert list(summary["device_seconds"]) == pytest.approx([t.used("device_seconds") for t in study.trials.values()])
    from ax.analysis.plotly import ParallelCoordinatesPlot, PlotlyAnalysisCard, ScatterPlot

    observed = ScatterPlot("device_seconds", "loss", use_model_predictions=False)
    cards = made.compute_analyses([observed, ParallelCoordinatesPlot("loss")])
    assert [type(card) for card in cards] == [PlotlyAnalysisCard] * 2
    # Ax's methods go on where ours left off.
    assert made.get_next_trials(1).keys() == {11}


def test_a_study_from_ax_can_be_reported_on():
    study = fa.from_ax(run(client(), 4), budget="90s")
    assert isinstance(study, Study)
    assert "device-seconds" in fb.Report(study, run_id="ax", stop_reason="").summary()
    assert study.best().number == min(study.trials, key=lambda i: loss_of(study, i))


def loss_of(study, i):
    p = study.trials[i].params
    return loss({"optimizer.lr": p["optimizer_lr"], **{k: v for k, v in p.items() if k != "optimizer_lr"}})
