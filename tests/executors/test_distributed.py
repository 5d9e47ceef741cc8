"""A trial on several devices: torchrun within one segment."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest
from local_setup import a_segment, is_alive, left_of, read_pids

from frugalbo.events import Ended, Outcome, Reported
from frugalbo.executors.devices import local_slots
from frugalbo.executors.local import LocalExecutor
from frugalbo.problem import Fidelity, Minimize, command_problem
from frugalbo.space import Float, Space
from frugalbo.testing.executors import drain

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
WORDS = ["--standalone", "--nproc-per-node={devices}", "distributed_job.py", "--lr", "{lr}"]


def problem(*more):
    return command_problem(
        [sys.executable, "-m", "torch.distributed.run", *WORDS, *more],
        name="distributed",
        space=Space({"lr": Float(0.0, 0.1)}),
        objective=Minimize("loss"),
        fidelity=Fidelity("steps", 1, 1000),
        root=str(HERE),
    )


@pytest.fixture
def slot(tmp_path, monkeypatch):
    """Two GPUs, as far as anybody asks."""
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\nfor i in 0 1 2; do echo "GPU $i: A (UUID: GPU-$i)"; done\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    [slot] = local_slots("cuda:1-2")
    return slot


def expected_losses(lr, steps):
    """Rank r has x = (r+1)(1, 1, 1), so a loss of ((r+1) s - 1)^2, s the sum of the weights; ranks are averaged."""
    import torch

    torch.manual_seed(0)
    s, losses = torch.nn.Linear(3, 1, bias=False).weight.sum().item(), []
    for _ in range(steps):
        errors = [(rank + 1) * s - 1 for rank in range(2)]
        losses.append(sum(error**2 for error in errors) / 2)
        s -= 3 * lr * sum(2 * error * (rank + 1) for rank, error in enumerate(errors)) / 2  # three weights
    return losses


@pytest.mark.timeout(600)
def test_a_trial_of_two_processes_sees_both_devices_and_pauses_and_goes_on_as_one(tmp_path, slot):
    reports = []
    with LocalExecutor(problem(), [slot], preload=()) as executor:
        for number, (start, until) in enumerate([(0, 2), (2, 4)]):
            executor.submit(
                a_segment(
                    tmp_path / "trial", params={"lr": 0.01}, slot=slot, number=number, start=start, until=until,
                    planned=4, cap_s=250.0,
                )
            )  # fmt: skip
            *more, ended = drain(executor, timeout_s=250)
            reports += more
            assert ended.outcome in (Outcome.PAUSED, Outcome.COMPLETED), ended.log_tail
            assert number or "sees 1,2" in ended.log_tail
        assert ended.outcome == Outcome.COMPLETED
        assert left_of(executor) == set()
    assert [report.step for report in reports] == [1, 2, 3, 4]
    assert [report.metrics["loss"] for report in reports] == pytest.approx(expected_losses(0.01, 4), rel=1e-5)
    assert {report.metrics["world"] for report in reports} == {2}


@pytest.mark.timeout(600)
def test_all_processes_of_a_trial_end_when_it_is_stopped(tmp_path, slot):
    with LocalExecutor(problem("--nap", "0.05"), [slot], preload=(), grace_s=5.0) as executor:
        executor.submit(a_segment(tmp_path, params={"lr": 0.01}, slot=slot, until=1000, planned=1000, cap_s=200.0))
        events = []
        while not any(isinstance(event, Reported) for event in events):
            events += executor.wait(1.0)
        pids = read_pids(tmp_path, "pid-0", "pid-1")
        assert all(is_alive(pid) for pid in pids.values())
        executor.cancel(0, Outcome.INTERRUPTED)
        events += drain(executor, timeout_s=120)
        ended = next(event for event in events if isinstance(event, Ended))
        assert ended.outcome == Outcome.INTERRUPTED
        assert ended.checkpoint > 0  # both had stopped at the same step, and saved
        assert not any(is_alive(pid) for pid in pids.values())
        assert left_of(executor) == set()
