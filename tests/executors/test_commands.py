from __future__ import annotations

import json
import sys
import textwrap

import pytest
from local_setup import SLOTS, a_segment

from frugalbo.errors import ExecutorError
from frugalbo.events import Failure, Outcome
from frugalbo.executors.local import LocalExecutor
from frugalbo.executors.output import ReportParser
from frugalbo.problem import Fidelity, Minimize, command_problem
from frugalbo.space import Choice, Float, Space
from frugalbo.testing.executors import drain


@pytest.fixture
def problem_of(tmp_path):
    """The problem whose job is a Python program, with these arguments; it may use `say`."""

    def problem_of(program, *arguments):
        start = "import json, os, sys, time\ndef say(**record): print(json.dumps(record), flush=True)\n"
        (tmp_path / "program.py").write_text(start + textwrap.dedent(program))
        return command_problem(
            [sys.executable, "program.py", *arguments],
            name="command",
            space=Space({"x": Float(0.0, 1.0), "act": Choice(("relu", "a b"))}),
            objective=Minimize("loss"),
            fidelity=Fidelity("steps", 1, 5),
            root=str(tmp_path),
        )

    return problem_of


@pytest.fixture
def command(run, problem_of, tmp_path):
    """Run a Python program as a command."""

    def command(program, *arguments, **changes):
        return run(
            problem_of(program, *arguments),
            **({"params": {"x": 0.5, "act": "a b"}, "folder": tmp_path / "trial"} | changes),
        )

    return command


def test_json_lines_are_reports(command):
    reports, ended = command(
        """
        print("epoch 1")
        say(step=1, loss=3.0, note="text", ok=True)
        say(step=3, loss=2.0, acc=0.5)
        say(step=3, loss=7.0)
        say(step=2, loss=7.0)
        print("[1, 2]", "{not json}", sep="\\n")
        print('{"loss": 0.5, "step": 5}', end="")
        """
    )
    assert [(report.step, report.metrics) for report in reports] == [
        (1, {"loss": 3.0}),
        (3, {"loss": 2.0, "acc": 0.5}),
        (5, {"loss": 0.5}),
    ]
    assert (ended.outcome, ended.message) == (Outcome.COMPLETED, "")
    assert "epoch 1" in ended.log_tail


def test_the_last_objective_without_a_step_is_the_result(command):
    reports, ended = command("for loss in (3, 2, 1): say(loss=loss)")
    assert [(report.step, report.metrics) for report in reports] == [(5, {"loss": 1.0})]
    assert ended.outcome == Outcome.COMPLETED


def test_a_result_does_not_count_if_the_command_fails(command):
    reports, ended = command("say(loss=1); sys.exit(4)")
    assert reports == []
    assert (ended.outcome, ended.failure, ended.message) == (Outcome.FAILED, Failure.ERROR, "it exited with status 4")


def test_knobs_and_what_was_granted_reach_the_command(command, tmp_path):
    _, ended = command(
        """
        names = "PARAMS SEED START UNTIL PLANNED THREADS CHECKPOINT_DIR OBJECTIVE DEVICE".split()
        print(json.dumps([sys.argv[1:], os.getcwd(), [os.environ["FRUGALBO_" + name] for name in names]]))
        say(loss=1)
        """,
        "--lr={x}", "{act}", "{seed}-{until}", "{unknown }", "$HOME; exit 1",
        seed=11, start=2,
    )  # fmt: skip
    assert ended.outcome == Outcome.COMPLETED
    arguments, folder, environment = json.loads(ended.log_tail.splitlines()[0])
    assert arguments == ["--lr=0.5", "a b", "11-5", "{unknown }", "$HOME; exit 1"]
    assert folder == str(tmp_path)
    params = json.dumps({"x": 0.5, "act": "a b"})
    checkpoints = str(tmp_path / "trial" / "checkpoints")
    assert environment == [params, "11", "2", "5", "5", "1", checkpoints, "loss", "cpu"]


@pytest.mark.parametrize("line", ["say(step=1, loss=float('nan'))", "say(loss='NaN')", "say(step=2, loss=1e999)"])
def test_a_command_that_diverges_is_ended_at_that_report(command, line):
    _, ended = command(f"{line}\ntime.sleep(60)")
    assert (ended.outcome, ended.failure) == (Outcome.FAILED, Failure.DIVERGED)
    assert ended.used.device_seconds < 5


def test_a_command_without_a_result_says_what_was_wrong_with_its_reports(command):
    _, ended = command("say(step=100, loss=1.0)")
    assert (ended.outcome, ended.failure) == (Outcome.FAILED, Failure.NO_RESULT)
    assert "it reported step 100, granted were 1 to 5" in ended.message


def test_a_shell_script_and_what_it_started_end_at_the_cap(run, tmp_path):
    script = tmp_path / "train.sh"
    script.write_text("#!/bin/sh\nsleep 60 &\nsleep 60\n")
    script.chmod(0o755)
    problem = command_problem("./train.sh", name="sh", space=Space({"x": Float(0, 1)}), objective=Minimize("loss"),
                              root=str(tmp_path))  # fmt: skip
    _, ended = run(problem, cap_s=1.0, until=1, planned=1)
    assert (ended.outcome, ended.failure) == (Outcome.FAILED, Failure.TIMEOUT)
    assert 0.9 <= ended.used.device_seconds < 1.0  # at SIGTERM


def test_what_a_command_started_can_save_before_its_end(problem_of, tmp_path):
    """The command itself may be a launcher that passes no signal on."""
    problem = problem_of(
        """
        import signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, lambda *_: (open("saved", "w").close(), os._exit(0)))
            say(step=1, loss=1.0)
            time.sleep(60)
        os.wait()
        """
    )
    with LocalExecutor(problem, SLOTS, preload=(), grace_s=20.0) as executor:
        executor.submit(a_segment(tmp_path / "trial"))
        while not executor.wait(5):
            pass
        executor.cancel(0)
        assert drain(executor)[-1].outcome == Outcome.STOPPED
    assert (tmp_path / "saved").exists()


def test_a_program_that_is_not_there_is_refused_before_anything_starts(tmp_path):
    problem = command_problem("no-such-program --x {x}", name="c", space=Space({"x": Float(0, 1)}),
                              objective=Minimize("loss"), root=str(tmp_path))  # fmt: skip
    with pytest.raises(ExecutorError, match="no-such-program"), LocalExecutor(problem, SLOTS):
        pass


def test_a_program_that_goes_away_fails_its_segments(run, tmp_path):
    problem = command_problem(["{program}"], name="c", space=Space({"program": Choice(("./gone", "./there"))}),
                              objective=Minimize("loss"), root=str(tmp_path))  # fmt: skip
    _, ended = run(problem, params={"program": "./gone"})
    assert (ended.outcome, ended.failure) == (Outcome.FAILED, Failure.ERROR)
    assert "cannot start './gone'" in ended.message


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_reports_are_found_however_the_output_is_cut(size):
    text = b'{"step": 1, "loss": 1}\r\n' + b"x" * 10**5 + b'\n{"step": 2, "loss": ' + b"9" * 10**5 + b"}\n"
    text += b'{"step": 3.5, "loss": 1}\n{"step": 4, "loss": 2}\n' + b'{"a":' * 20000 + b"}\n" + b"\xff\x00{}\n"
    found = []
    parser = ReportParser("loss", 0, 5, lambda step, metrics: found.append((step, metrics)))
    for i in range(0, len(text), size):
        parser.feed(text[i : i + size])
    parser.finish(well=True)
    assert found == [(1, {"loss": 1.0}), (4, {"loss": 2.0})]
    assert "whole step" in parser.refused
    assert not parser.diverged
