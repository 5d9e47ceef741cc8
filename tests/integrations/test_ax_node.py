"""Our methods as a node of Ax's."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ax.adapter.registry import Generators
from clients import client, experiment, loss, run, seconds

import frugalbo as fb
import frugalbo.integrations.ax as fa
from frugalbo.errors import BudgetError, SpaceError, StudyError
from frugalbo.integrations.ax.node import FrugalNode, configurations_with
from frugalbo.propose import METHODS, MethodError
from frugalbo.study import Study

ORIGINAL = type(Generators.SOBOL).__call__
ROOT = Path(__file__).parents[2]


def with_ours(made, **arguments):
    made.set_generation_strategy(fa.generation_strategy(**arguments))
    return made


def test_importing_frugalbo_does_not_import_ax():
    code = "import sys, frugalbo, frugalbo.api, frugalbo.cli; print('ax' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert out.strip() == "False"


def test_the_strategy_suggests_what_our_own_loop_does():
    """Up to the ten digits that Ax's stores keep of a value."""
    made = with_ours(client(), method="pbgi", budget="9 trials", seed=3)
    space = fb.Space(
        {
            "x": fb.Float(0, 1),
            "lr": fb.Float(1e-4, 1e-1, log=True),
            "layers": fb.Int(1, 7),
            "kind": fb.Choice(["a", "b", "c"]),
        }
    )
    problem = fb.Problem("own", space, "nowhere:train", fb.Minimize("loss"))
    with fb.open_study(problem, budget="9 trials", method="pbgi", seed=3) as study:
        for _ in range(6):
            ((index, theirs),) = made.get_next_trials(1).items()
            trial = study.ask()
            ours = {("optimizer.lr" if k == "lr" else k): v for k, v in trial.params.items()}
            assert {k: v for k, v in theirs.items() if k != "optimizer.lr"} == pytest.approx(
                {k: v for k, v in ours.items() if k != "optimizer.lr"}, abs=1e-3
            )
            assert theirs["optimizer.lr"] == pytest.approx(ours["optimizer.lr"], rel=1e-2)
            made.complete_trial(index, {"loss": loss(theirs)})
            study.tell(trial, loss(ours))


@pytest.mark.parametrize("method", ["auto", "bmsei", "pes", "ts", "sobol"])
def test_every_method_suggests_points_of_the_space(method):
    made = with_ours(client(), method=method, budget="200s")
    run(made, 5)
    for p in made.get_next_trials(2).values():
        assert experiment(made).search_space.check_membership(p, raise_error=True)


def test_pending_trials_are_not_suggested_again():
    made = with_ours(client(), method="ei")
    run(made, 4)
    pending = list(made.get_next_trials(3).values())
    pending += list(made.get_next_trials(2).values())
    for i, one in enumerate(pending):
        for other in pending[:i]:
            apart = [abs(one["x"] - other["x"]) > 1e-3, one["layers"] != other["layers"], one["kind"] != other["kind"]]
            apart.append(abs(np.log(one["optimizer.lr"] / other["optimizer.lr"])) > 1e-3)
            assert any(apart)


def test_a_failed_trial_is_not_suggested_again_and_has_no_value():
    made = with_ours(client(), method="ei")
    run(made, 4)
    ((index, p),) = made.get_next_trials(1).items()
    made.mark_trial_failed(index, "out of memory")
    study = fa.from_ax(made)
    assert study.trials[index].status == fb.Status.FAILED
    assert study.trials[index].ends[-1].message == "out of memory"
    assert study.value(study.trials[index]) is None
    assert next(iter(made.get_next_trials(1).values())) != p


def test_the_strategy_ends_when_the_budget_does():
    from ax.exceptions.generation_strategy import GenerationStrategyCompleted

    made = run(with_ours(client(), budget="4 trials"), 4)
    with pytest.raises(GenerationStrategyCompleted, match="the budget of evaluations is spent"):
        made.get_next_trials(1)
    assert len(experiment(made).trials) == 4


def test_costs_count():
    """All that the last 9 of 40 s pay for is cheap."""
    from ax.exceptions.generation_strategy import GenerationStrategyCompleted

    made = with_ours(client(), method="pbgi", budget="60s")
    spent = []
    try:
        for _ in range(40):
            ((index, p),) = made.get_next_trials(1).items()
            spent.append(seconds(p))
            made.complete_trial(index, {"loss": loss(p), "device_seconds": seconds(p)})
    except GenerationStrategyCompleted:
        pass
    balance = fa.from_ax(made, budget="60s").ledger.balance()["device_seconds"]
    assert balance.spent == pytest.approx(sum(spent), abs=1e-8)
    assert 40 < sum(spent) < 70  # nothing is held here: the last trial may exceed what was predicted
    assert max(spent[-3:]) < max(spent[:3])


def test_a_cost_that_was_not_told_is_asked_for_once_and_can_be_told():
    """The budget would never be spent; a trial that failed may have cost nothing."""
    made = with_ours(client(), method="sobol", budget="60s")
    for index, p in made.get_next_trials(3).items():
        if index < 2:
            made.complete_trial(index, {"loss": loss(p)} | ({"device_seconds": 7.0} if index else {}))
    made.mark_trial_failed(2)
    with pytest.raises(StudyError, match=r"without 'device_seconds'.*trials \[0\]; tell it by client\.attach_data\(0"):
        made.get_next_trials(1)
    assert len(experiment(made).trials) == 3
    made.attach_data(0, {"device_seconds": 9.0})
    assert made.get_next_trials(1).keys() == {3}
    assert fa.from_ax(made, budget="60s").ledger.balance()["device_seconds"].spent == 16.0


def test_a_node_can_follow_another_and_survives_json():
    from ax.generation_strategy.generation_node import GenerationNode
    from ax.generation_strategy.generation_strategy import GenerationStrategy
    from ax.generation_strategy.generator_spec import GeneratorSpec
    from ax.generation_strategy.transition_criterion import MinTrials
    from ax.storage.json_store.decoder import object_from_json
    from ax.storage.json_store.encoder import object_to_json

    criteria = [MinTrials(threshold=3, transition_to="frugalbo", use_all_trials_in_exp=True)]
    sobol = GenerationNode("sobol", [GeneratorSpec(Generators.SOBOL, {"seed": 0})], transition_criteria=criteria)
    made = client()
    made.set_generation_strategy(GenerationStrategy(nodes=[sobol, FrugalNode(method="ei")]))
    run(made, 5)
    names = [t.generator_run._generation_node_name for t in experiment(made).trials.values()]
    assert names == ["sobol"] * 3 + ["frugalbo"] * 2

    node = FrugalNode(
        "mine", method="kg", budget={"evaluations": 7.0}, min_gain="1 per trial", transition_criteria=criteria
    )
    again = object_from_json(object_to_json(node))
    assert FrugalNode.serialize_init_args(again) == FrugalNode.serialize_init_args(node)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"method": "magic"}, MethodError, "unknown method 'magic'"),
        ({"budget": "3 parsecs"}, BudgetError, "parsecs"),
        ({"budget": "1h wall"}, BudgetError, "does not count wall seconds"),
        ({"budget": "3 USD"}, BudgetError, "needs dollars_per_hour"),
        ({"cost": len}, BudgetError, "is a text"),
        ({"min_gain": "much"}, ValueError, "much"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        fa.generation_strategy(**arguments)


@pytest.mark.parametrize("method", ["auto", "metabo", "ts", "sobol", "random"])
def test_fixed_parameters_are_kept_and_the_others_are_chosen(method):
    made = run(with_ours(client(), method=method, budget="200s"), 4)
    fixed = {"optimizer.lr": 3e-3, "kind": "b"}
    first, second = made.get_next_trials(2, fixed_parameters=fixed).values()
    assert {k: first[k] for k in fixed} == {k: second[k] for k in fixed} == fixed
    assert (first["x"], first["layers"]) != (second["x"], second["layers"])
    assert next(iter(made.get_next_trials(1).values()))["optimizer.lr"] != 3e-3  # free again


def test_fixed_parameters_do_not_keep_the_optimum_from_being_found():
    """With kind 'a' and 5 layers the least loss is 0.08, that of lr 0.01 and x 0.3."""
    made, found = with_ours(client(), method="ei"), []
    for _ in range(17):
        for index, p in made.get_next_trials(1, fixed_parameters={"layers": 5, "kind": "a"}).items():
            made.complete_trial(index, {"loss": loss(p)})
            found.append(loss(p))
    assert 0.08 <= min(found) < 0.085


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        ({"x": 3.0}, r"fixed parameter 'x': expected a number in \[0.0, 1.0\], got 3.0"),
        ({"layers": 2.5}, "fixed parameter 'layers': expected a whole number"),
        ({"kind": "q"}, "fixed parameter 'kind': expected one of"),
        ({"z": 1}, r"expected fixed parameters out of .*'optimizer.lr'.*, got \['z'\]"),
    ],
)
def test_wrong_fixed_parameters_are_one_error_and_nothing_is_lost(fixed, message):
    made = run(with_ours(client()), 2)
    with pytest.raises(SpaceError, match=message):
        made.get_next_trials(1, fixed_parameters=fixed)
    assert len(experiment(made).trials) == 2
    assert made.get_next_trials(1)


def test_a_configuration_that_is_fixed_whole_is_suggested_once():
    from ax.exceptions.generation_strategy import GenerationStrategyCompleted

    made = with_ours(client(), method="sobol")
    whole = {"x": 0.1, "optimizer.lr": 0.01, "layers": 2, "kind": "a"}
    assert list(made.get_next_trials(1, fixed_parameters=whole).values()) == [whole]
    with pytest.raises(GenerationStrategyCompleted, match=r"every configuration with .* has been tried"):
        made.get_next_trials(1, fixed_parameters=whole)


def test_fixed_parameters_that_a_condition_or_a_constraint_forbids_are_refused():
    study = Study(
        fb.Problem(
            "small",
            fb.Space(
                {
                    "optimizer": fb.Choice(["sgd", "adamw"]),
                    "momentum": fb.Float(0, 1, only_if={"optimizer": "sgd"}),
                    "x": fb.Float(0, 1),
                },
                constraints=["momentum + x <= 1.5"],
            ),
            "nowhere:train",
            fb.Minimize("loss"),
        )
    )
    for params in configurations_with(study, {"momentum": 0.9}, seed=0):
        assert params["optimizer"] == "sgd"
        assert params["momentum"] == 0.9
        assert params["x"] <= 0.6
    with pytest.raises(SpaceError, match="a condition or a known constraint is against it"):
        configurations_with(study, {"momentum": 0.9, "x": 0.8}, seed=0)
    with pytest.raises(SpaceError, match="a condition or a known constraint is against it"):
        configurations_with(study, {"momentum": 0.9, "optimizer": "adamw"}, seed=0)


def test_what_the_space_fixes_stays_and_may_be_named():
    from ax.core.parameter import FixedParameter, ParameterType

    made = client()
    experiment(made).search_space.add_parameter(FixedParameter("data", ParameterType.STRING, "/corpus"))
    run(with_ours(made, method="ei"), 4)
    ((_, p),) = made.get_next_trials(1, fixed_parameters={"data": "/corpus", "kind": "c"}).items()
    assert (p["data"], p["kind"]) == ("/corpus", "c")
    with pytest.raises(SpaceError, match="'data' is fixed to '/corpus' in the space, got '/tmp'"):
        made.get_next_trials(1, fixed_parameters={"data": "/tmp"})


def test_a_batch_is_refused_before_there_is_one():
    made = run(with_ours(client()), 2)
    with pytest.raises(StudyError, match="expected one configuration a trial, got a batch of 3"):
        made._generation_strategy.gen_single_trial(experiment(made), n=3)
    assert len(made.get_next_trials(3)) == 3


@pytest.mark.parametrize("store", ["json", "sqlite"])
def test_the_meta_trained_network_is_a_node_that_survives_a_store(store, tmp_path):
    """It says how much the network counted, and goes on with the same suggestion."""
    if store == "sqlite":
        pytest.importorskip("tabulate")
    storage = {"storage_config": fa.sqlite(tmp_path / "ax.db")} if store == "sqlite" else {}
    made = run(with_ours(client(**storage), method="metabo", budget="200s", seed=5), 6)
    if store == "json":
        fa.save(made, tmp_path / "ax.json")
        again = fa.load(tmp_path / "ax.json")
    else:
        again = fa.load_sqlite(tmp_path / "ax.db", "demo")
    assert again.get_next_trials(1) == made.get_next_trials(1)
    why = experiment(made).trials[6].generator_run.gen_metadata["frugalbo"]
    assert why["method"] == "metabo"
    assert 0 < why["network"] < 1


def test_all_methods_have_a_strategy():
    for method in METHODS:
        assert fa.generation_strategy(method=method).name == f"frugalbo:{method}"


def test_ax_analyses_have_a_model_of_their_own_and_suggestions_do_not_wait_for_it(monkeypatch):
    from ax.analysis.plotly import CrossValidationPlot, PlotlyAnalysisCard, ScatterPlot, SlicePlot

    fitted = []
    monkeypatch.setattr(
        type(Generators.SOBOL), "__call__", lambda self, **more: fitted.append(self) or ORIGINAL(self, **more)
    )
    made = run(with_ours(client(), method="ei"), 7)
    made._to_json_snapshot()
    assert fitted == []
    cards = made.compute_analyses(
        [ScatterPlot("device_seconds", "loss"), SlicePlot("x", "loss"), CrossValidationPlot(["loss"])]
    )
    assert len(fitted) == 1
    for card in cards:
        assert {type(leaf) for leaf in card.flatten()} == {PlotlyAnalysisCard}
    mean, _ = made.predict([{"x": 0.3, "optimizer.lr": 0.01, "layers": 3, "kind": "a"}])[0]["loss"]
    assert abs(mean) < 1
