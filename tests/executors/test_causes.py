"""What is to blame for the end of an attempt, on real processes."""

from __future__ import annotations

import os
import signal

import pytest
from local_setup import SLOTS, a_segment, local_problem

from frugalbo.events import Cause, Ended, Outcome
from frugalbo.executors.local import LocalExecutor
from frugalbo.executors.segments import SegmentFolder
from frugalbo.testing.executors import drain


@pytest.mark.parametrize(
    ("job", "cause"),
    [
        ("segfaults", Cause.BUG),  # its own doing, though a signal ended it
        ("kills_itself", Cause.USER),  # nobody can tell who sent it
        ("exits_by_sys", Cause.BUG),
        ("infinite", Cause.DIVERGED),
        ("quick", None),
    ],
)
def test_a_job_that_ends_by_itself(run, tmp_path, job, cause):
    assert run(job, folder=tmp_path)[1].cause == cause


@pytest.mark.parametrize(
    ("outcome", "cause"), [(Outcome.INTERRUPTED, Cause.USER), (Outcome.STOPPED, None)]
)  # what the scheduler gives up, nobody is to blame for
def test_a_job_that_was_asked_to_end(tmp_path, outcome, cause):
    with LocalExecutor(local_problem("saves_when_asked"), SLOTS, preload=()) as executor:
        executor.submit(a_segment(tmp_path))
        executor.cancel(0, outcome)
        ended = drain(executor)[-1]
    assert isinstance(ended, Ended)
    assert (ended.outcome, ended.cause) == (outcome, cause)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_job_whose_supervisor_was_ended_from_outside_is_not_to_blame(tmp_path, number):
    """Whether it could still write its receipt or not."""
    with LocalExecutor(local_problem("saves_when_asked"), SLOTS, preload=()) as executor:
        executor.submit(a_segment(tmp_path))
        while not executor.wait(5.0):
            pass
        supervisor, _, _ = SegmentFolder(tmp_path, 0).read_processes()
        assert supervisor is not None
        os.kill(supervisor.pid, number)
        ended = drain(executor)[-1]
    assert isinstance(ended, Ended)
    assert (ended.outcome, ended.cause) == (Outcome.INTERRUPTED, Cause.INFRASTRUCTURE)
