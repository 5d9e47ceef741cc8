import json
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest

from frugalbo.errors import ProblemError, SpaceError
from frugalbo.problem import (
    IN_MEMORY,
    Fidelity,
    Maximize,
    Minimize,
    Objective,
    Problem,
    active_words,
    command_problem,
    fill_command,
    job_address,
    load_problem,
)
from frugalbo.space import Choice, Float, Int, Space

SPACE = Space({"lr": Float(1e-4, 1, log=True), "n": Int(1, 7), "batch": 32}, ["lr * n <= 3"])
FIELDS = {"name": "toy", "space": SPACE, "job": "m:f", "objective": Minimize("loss")}

FILE = """
from frugalbo.problem import Minimize, Problem
from frugalbo.space import Float
def train(job): job.report(1, loss=1.0)
problem = Problem("here", {"lr": Float(0, 1)}, "train.py:main", Minimize("loss"))
other = Problem("other", {"lr": Float(0, 1)}, train, Minimize("loss"))
def sized(size="small", seed=0): return Problem(size, {"lr": Float(0, 1)}, train, Minimize("loss"))
def needy(size): return sized(size)
def wrong(): return 3
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "problem.py").write_text(FILE)
    return tmp_path / "toy"


@pytest.mark.parametrize("objective", [Minimize("loss"), Maximize("accuracy")])
@pytest.mark.parametrize("fidelity", [None, Fidelity("epochs", 2, 7, "replanned")])
@pytest.mark.parametrize("job", ["m:f", "train.py:main", ["train", "--lr", "{lr}"]])
@pytest.mark.parametrize("defaults", [None, {"lr": 0.1, "n": 3}])
def test_a_problem_survives_json(objective, fidelity, job, defaults):
    problem = Problem("toy", SPACE, job, objective, fidelity, defaults, "what it is", "/somewhere")
    again = Problem.from_json(json.loads(json.dumps(problem.to_json(), allow_nan=False)))
    assert again == problem
    assert again.to_json() == problem.to_json()


def test_defaults_are_completed():
    problem = Problem(**FIELDS, defaults={"lr": 0.1, "n": 3})
    assert problem.defaults == {"lr": 0.1, "n": 3, "batch": 32}


def test_a_problem_of_one_evaluation_has_one_step():
    assert Problem(**FIELDS).steps == 1
    assert Problem(**FIELDS, fidelity=Fidelity("steps", 2, 7)).steps == 7


@pytest.mark.parametrize("value", [3.0, -1.0, 0.0])
def test_a_loss_is_its_own_inverse(value):
    assert Minimize("a").to_loss(value) == value
    assert Maximize("a").to_loss(value) == -value
    assert Maximize("a").to_loss(Maximize("a").to_loss(value)) == value


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"name": ""}, ProblemError, "needs a name"),
        ({"name": 3}, ProblemError, "needs a name"),
        ({"space": {}}, SpaceError, "at least one parameter"),
        ({"space": 3}, SpaceError, "expected a mapping"),
        ({"objective": "loss"}, ProblemError, "an objective is Minimize.metric. or Maximize.metric., got 'loss'"),
        ({"objective": Objective("loss")}, ProblemError, "an objective is Minimize"),
        ({"job": "train"}, ProblemError, "a job is 'module:function'"),
        ({"job": ":main"}, ProblemError, "a job is 'module:function'"),
        ({"job": "train:"}, ProblemError, "a job is 'module:function'"),
        ({"job": []}, ProblemError, "a command is a list of words"),
        ({"job": ["train", 3]}, ProblemError, "a command is a list of words"),
        ({"job": 3}, ProblemError, "a job is .* got 3"),
        ({"job": None}, ProblemError, "a job is .* got None"),
        ({"fidelity": 5}, ProblemError, "a fidelity is Fidelity.* got 5"),
        ({"defaults": {"lr": 9, "n": 1}}, ProblemError, "the defaults of 'toy' are not a point of its space.*'lr'"),
        ({"defaults": {"lr": 0.1}}, ProblemError, "'n' is missing"),
        ({"defaults": {"lr": 0.1, "n": 1, "m": 1}}, ProblemError, "unknown parameter 'm'"),
        ({"defaults": {"lr": 1.0, "n": 7}}, ProblemError, "violate a known constraint"),
    ],
)
def test_a_problem_that_does_not_fit_together_is_refused(fields, error, message):
    with pytest.raises(error, match=message):
        Problem(**FIELDS | fields)


@pytest.mark.parametrize(("low", "high"), [(0, 5), (5, 3), (-1, 3), (1.5, 3), (1, 2.5), ("1", 3)])
def test_a_fidelity_of_impossible_steps_is_refused(low, high):
    with pytest.raises(ProblemError, match="whole steps 1 <= low <= high"):
        Fidelity("steps", low, high)


def test_a_fidelity_of_an_unknown_schedule_is_refused():
    with pytest.raises(ProblemError, match="'truncated' or 'replanned', got 'cosine'"):
        Fidelity("steps", 1, 3, "cosine")  # type: ignore[arg-type]


@pytest.mark.parametrize("metric", ["", None, 3])
def test_an_objective_needs_a_metric(metric):
    with pytest.raises(ProblemError, match="needs the name of a metric"):
        Minimize(metric)


@pytest.mark.parametrize("record", [{}, None, 3, Problem(**FIELDS).to_json() | {"objective": "loss"}])
def test_a_record_that_is_no_problem_is_refused(record):
    with pytest.raises(ProblemError, match="expected a problem as written by to_json"):
        Problem.from_json(record)


def module_job(job):
    return job


def test_a_function_is_addressed_by_where_another_process_finds_it():
    assert job_address(module_job) == f"{__name__}:module_job"
    assert job_address(lambda job: job) == IN_MEMORY

    def local(job):
        return job

    assert job_address(local) == IN_MEMORY
    assert job_address("m:f") == "m:f"
    assert job_address(["a", "b"]) == ("a", "b")


def test_a_function_of_the_script_that_runs_is_addressed_by_its_file(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("from frugalbo.problem import job_address\ndef train(job): ...\nprint(job_address(train))")
    out = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    assert out.strip() == f"{script}:train"


def test_a_function_of_a_problem_file_is_addressed_by_its_file(folder):
    problem = load_problem(f"{folder}/problem.py:other")
    assert problem.to_json()["job"] == f"{folder}/problem.py:train"


def test_problems_of_two_files_do_not_get_in_each_others_way(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.py").write_text(FILE)
    one, two = load_problem(f"{tmp_path}/a.py:other"), load_problem(f"{tmp_path}/b.py:other")
    assert [p.to_json()["job"] for p in (one, two)] == [f"{tmp_path}/a.py:train", f"{tmp_path}/b.py:train"]


def test_a_problem_is_loaded_from_a_folder_a_file_a_module(folder, monkeypatch):
    assert load_problem(folder).name == "here"
    assert load_problem(f"{folder}/problem.py").root == str(folder)
    assert load_problem(f"{folder}/problem.py:other").name == "other"
    assert load_problem(f"{folder}:other").name == "other"
    monkeypatch.chdir(folder.parent)
    monkeypatch.syspath_prepend(str(folder.parent))
    assert load_problem("toy").name == "here"
    assert load_problem("toy.problem").root == str(folder.parent)
    assert load_problem("toy.problem:other").name == "other"


def test_a_factory_takes_settings(folder):
    where = f"{folder}/problem.py:sized"
    assert load_problem(where).name == "small"
    assert load_problem(where, {"size": "large"}).name == "large"


@pytest.mark.parametrize(
    ("where", "settings", "message"),
    [
        ("{}/nowhere", None, "no problem at"),
        ("{}/nowhere.py", None, "expected a file"),
        ("no.such.module", None, "no problem at 'no.such.module': expected a folder with a problem.py"),
        ("__main__", None, "no problem at|expected 'problem'"),
        ("", None, "no problem at ''"),
        ("{}/empty", None, "expected a file .*problem.py"),
        ("{}/toy/problem.py:missing", None, "expected 'missing' to be a Problem or a function that returns one"),
        ("{}/toy/problem.py:wrong", None, "returns one, got 3"),
        ("{}/toy/problem.py:needy", None, "needs the setting 'size'"),
        ("{}/toy/problem.py:sized", {"sise": 3}, "unknown setting 'sise'; known are size, seed"),
        ("{}/toy/problem.py", {"size": 3}, "'problem' is not a function, so it takes no settings, got size"),
        ("{}/syntax.py", None, "cannot load .*syntax.py: .*line 1"),
        ("{}/imports.py", None, "cannot load .*No module named 'surely_not_there'"),
        ("{}/raises.py", None, "cannot load .*raises.py: NameError: name 'undefined' is not defined .line 2"),
        ("{}/exits.py", None, "cannot load .*exits.py: SystemExit"),
        ("json", None, "expected 'problem' to be a Problem"),
    ],
)
def test_a_place_without_a_problem_is_refused(folder, where, settings, message):
    for name, code in {
        "syntax.py": "def",
        "imports.py": "import surely_not_there",
        "raises.py": "\nundefined",
        "exits.py": "raise SystemExit(3)",
    }.items():
        (folder.parent / name).write_text(code)
    (folder.parent / "empty").mkdir()
    with pytest.raises(ProblemError, match=message) as caught:
        load_problem(where.format(folder.parent), settings)
    assert "\n" not in str(caught.value)


def test_a_module_that_does_not_import_is_refused(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("import surely_not_there")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ProblemError, match=r"cannot load broken_module: .*surely_not_there"):
        load_problem("broken_module")


def test_a_mistake_in_a_problems_space_is_told_as_it_is(tmp_path):
    file = tmp_path / "p.py"
    file.write_text("from frugalbo.space import Float\nFloat(0, 1, log=True)")
    with pytest.raises(SpaceError, match="a log scale needs"):
        load_problem(file)


def test_loading_leaves_the_problem_file_out_of_the_way_of_a_job_of_its_name(folder):
    (folder / "train.py").write_text(textwrap.dedent("def main(job): ..."))
    assert load_problem(folder).job == "train.py:main"


COMMAND = {"name": "toy", "space": Space({"lr": Float(0, 1), "k": Choice(("a b", "c"))}), "objective": Minimize("loss")}


def test_a_command_is_split_and_filled():
    problem = command_problem("python 'my train.py' --lr={lr} --k {k} --seed {seed} '{\"a\": 1}'", **COMMAND)
    words = ["python", "my train.py", "--lr=0.5", "--k", "a b; rm", "--seed", "7", '{"a": 1}']
    assert fill_command(problem.job, {"lr": 0.5, "k": "a b; rm", "seed": 7}) == words
    assert command_problem(["train", "{lr}"], **COMMAND).job == ("train", "{lr}")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train {learning_rate}", "the command has {learning_rate}, which is no parameter; known are lr, k"),
        ("train 'oops", "cannot be split into some: No closing quotation"),
        ("", "a command is a list of words"),
        ([], "a command is a list of words"),
        (["train", 3], "a command is a list of words"),
        (3, "a command is"),
    ],
)
def test_a_command_that_cannot_run_is_refused(command, message):
    with pytest.raises(ProblemError, match=message):
        command_problem(command, **COMMAND)


def test_a_value_with_braces_is_not_filled_again():
    assert fill_command(["{k}"], {"k": "{lr}", "lr": 3}) == ["{lr}"]


def test_a_problem_is_a_value():
    assert Problem(**FIELDS) == Problem(**FIELDS)
    assert replace(Problem(**FIELDS), name="other") != Problem(**FIELDS)


def test_words_of_inactive_knobs_are_left_out():
    space = Space({"opt": Choice(["sgd", "adam"]), "momentum": Float(0, 1, only_if={"opt": "sgd"})})
    words = ["train", "--opt={opt}", "--momentum={momentum}", "--seed={seed}"]
    assert active_words(words, space, {"opt": "sgd", "momentum": 0.5}) == words
    assert active_words(words, space, {"opt": "adam"}) == ["train", "--opt={opt}", "--seed={seed}"]
