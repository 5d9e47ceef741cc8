import pytest

from frugalbo.errors import ExecutorError
from frugalbo.executors.inline import InlineExecutor
from frugalbo.problem import Problem, command_problem
from frugalbo.slot import Slot
from frugalbo.testing.executors import ExecutorConformance, a_problem


class TestInline(ExecutorConformance):
    stops_running_jobs = False
    keeps_logs = False

    def make(self, problem: Problem) -> InlineExecutor:
        return InlineExecutor(problem, [Slot("cpu:0", "cpu", 0), Slot("cpu:1", "cpu", 1)])


def test_a_command_is_refused():
    problem = a_problem("train")
    command = command_problem("true", name="c", space=problem.space, objective=problem.objective)
    with pytest.raises(ExecutorError, match="got a command"):
        InlineExecutor(command)


def test_a_job_that_cannot_be_loaded_is_refused():
    with pytest.raises(ExecutorError, match="there is no 'nothing'"), InlineExecutor(a_problem("nothing")):
        pass
