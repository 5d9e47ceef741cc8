from __future__ import annotations

import os
import time
from contextlib import nullcontext

import pytest
from local_setup import SLOTS, a_segment, left_of, local_problem

from frugalbo.errors import ExecutorError, FrugalWarning
from frugalbo.events import Ended, Outcome, Reported
from frugalbo.executors import processes
from frugalbo.executors.devices import usable_cores
from frugalbo.executors.local import LocalExecutor
from frugalbo.executors.segments import SegmentFolder
from frugalbo.executors.supervisor import SPARE
from frugalbo.problem import Problem
from frugalbo.slot import Slot
from frugalbo.testing.executors import ExecutorConformance, drain


class TestLocal(ExecutorConformance):
    grace_s = 0.25  # above the cap: what the system takes to kill and to reap

    def make(self, problem: Problem) -> LocalExecutor:
        return LocalExecutor(problem, SLOTS, preload=())


def test_a_job_gets_its_core_its_threads_and_no_gpu(tmp_path):
    with LocalExecutor(local_problem("finds_out"), SLOTS, preload=()) as executor:
        for trial, slot in enumerate(SLOTS):
            executor.submit(a_segment(tmp_path / str(trial), trial=trial, slot=slot))
        events = drain(executor, ends=2)
    logs = {event.trial: event.log_tail.splitlines() for event in events if isinstance(event, Ended)}
    cores = [logs[trial][0].partition("]")[0] for trial in (0, 1)]
    assert cores[0] != cores[1]
    for trial in (0, 1):
        assert logs[trial][0].endswith("] ['', '1'] cpu 1 7 True")
    # Forked from one process they would draw the same numbers; only ctx.seed is to be the same.
    assert logs[0][1] != logs[1][1]


def test_global_random_streams_depend_on_the_segment_alone(run, tmp_path):
    logs = [run("finds_out", folder=tmp_path / name)[1].log_tail.splitlines()[1] for name in ("a", "b")]
    assert logs[0] == logs[1]


def test_a_function_in_memory_can_be_a_job(run):
    threshold = 0.125
    reports, ended = run(lambda ctx: ctx.params["x"] * threshold)
    assert ended.outcome == Outcome.COMPLETED
    assert [report.metrics for report in reports] == [{"loss": 0.0625}]


def test_an_executor_in_memory_leaves_the_files_of_its_parent_alone(run, tmp_path):
    """Exit handlers of the parent, such as those of temporary folders, must not run in the job."""
    import tempfile

    folder = tempfile.TemporaryDirectory(dir=tmp_path)
    _, ended = run(lambda ctx: 1.0, folder=tmp_path / "trial")
    assert ended.outcome == Outcome.COMPLETED
    assert os.path.isdir(folder.name)  # noqa: PTH112
    folder.cleanup()


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        ("local_jobs.py:nothing", "there is no 'nothing'"),
        ("nowhere.py:job", "there is no file"),
        ("no_such_module:job", "No module named 'no_such_module'"),
        ("local_jobs.py:not_a_function", "expected a function"),
        ("broken.py:job", "ZeroDivisionError: division by zero"),
        ("dies.py:job", "the process that loads it died"),
        ("starts_a_run.py:job", "if __name__ == '__main__'"),
    ],
)
def test_a_job_that_cannot_be_loaded_is_refused_with_the_reason(tmp_path, job, reason):
    (tmp_path / "broken.py").write_text("def job(ctx): pass\n\n1 / 0\n")
    (tmp_path / "dies.py").write_text("import os\nprint('the end', flush=True)\nos._exit(1)\n")
    (tmp_path / "starts_a_run.py").write_text(
        "from frugalbo.executors.local import LocalExecutor\n"
        "from local_setup import local_problem\n"
        "with LocalExecutor(local_problem('quick'), preload=()):\n    pass\n"
    )
    root = tmp_path if (tmp_path / job.partition(":")[0]).exists() else local_problem("quick").root
    with pytest.raises(ExecutorError, match=reason), LocalExecutor(local_problem(job, root=root), preload=()):
        pass


def test_a_job_is_imported_with_its_folder_at_hand(run, tmp_path):
    (tmp_path / "neighbour.py").write_text("VALUE = 0.5\n")
    (tmp_path / "train.py").write_text("import neighbour\n\ndef main(ctx):\n    return neighbour.VALUE\n")
    reports, _ = run(local_problem("train.py:main", root=tmp_path))
    assert reports[0].metrics == {"loss": 0.5}


def test_leaving_by_an_error_ends_all_that_runs(tmp_path):
    executor = LocalExecutor(local_problem("ignores_sigterm"), SLOTS, grace_s=0.2, preload=())
    with pytest.raises(KeyError), executor:  # noqa: PT012
        for trial, slot in enumerate(SLOTS):
            executor.submit(a_segment(tmp_path / str(trial), trial=trial, slot=slot))
        while not executor.wait(5):
            pass
        raise KeyError
    assert left_of(executor) == set()
    ends = [event for event in executor.wait(0) if isinstance(event, Ended)]
    assert [(end.outcome, end.used.device_seconds < 2) for end in ends] == [(Outcome.INTERRUPTED, True)] * 2


def test_an_executor_can_be_entered_again(tmp_path):
    executor = LocalExecutor(local_problem("quick"), SLOTS, preload=())
    for trial in range(2):
        with executor:
            executor.submit(a_segment(tmp_path / str(trial), trial=trial))
            assert isinstance(drain(executor)[-1], Ended)
    with pytest.raises(ExecutorError, match="with statement"):
        executor.submit(a_segment(tmp_path / "2"))


def test_prices_and_devices_count(tmp_path):
    # 7200 dollars per device-hour are 2 per device-second; two devices hold it.
    slot = Slot("cpu:0", "cpu", 0, devices=2, dollars_per_hour=7200.0)
    with LocalExecutor(local_problem("quick"), [slot], preload=()) as executor:
        began = time.monotonic()
        executor.submit(a_segment(tmp_path, slot=slot))
        ended = drain(executor)[-1]
        wall = time.monotonic() - began
    assert isinstance(ended, Ended)
    assert ended.used.dollars == pytest.approx(2 * ended.used.device_seconds)
    assert 0 < ended.used.device_seconds <= 2 * wall
    assert ended.used.memory_bytes >= 0


@pytest.mark.parametrize(
    ("slots", "reason"),
    [
        ([SLOTS[0], SLOTS[0]], "different names"),
        ([Slot("cpu:0", "cpu", 0, threads=4096)], "at most"),
        ([], "different names"),
    ],
)
def test_slots_that_cannot_be_are_refused(slots, reason):
    with pytest.raises(ExecutorError, match=reason):
        LocalExecutor(local_problem("quick"), slots)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with LocalExecutor(local_problem("quick"), SLOTS, preload=()) as executor:
        with pytest.raises(ExecutorError, match="cannot write"):
            executor.submit(a_segment(tmp_path / "file" / "trial"))
        assert len(executor.free_slots()) == 2
        executor.submit(a_segment(tmp_path / "trial"))
        assert isinstance(drain(executor)[-1], Ended)


@pytest.mark.slow
def test_a_function_in_memory_does_not_wait_for_the_threads_of_its_parent(tmp_path):
    """An OpenMP pool does not survive a fork: with two threads this job would hang."""
    torch = pytest.importorskip("torch")
    threads, matrix = torch.get_num_threads(), torch.ones(1511, 1511)
    torch.set_num_threads(2)
    try:
        matrix @ matrix + 1
        slot = Slot("cpu:0", "cpu", 0, threads=min(2, len(usable_cores())))
        executor = LocalExecutor(local_problem(lambda ctx: float((matrix @ matrix).sum() > 0)), [slot])
        expected = pytest.warns(FrugalWarning, match="one thread") if slot.threads > 1 else nullcontext()
        with expected, executor:
            executor.submit(a_segment(tmp_path, slot=slot, cap_s=10.0))
            ended = drain(executor)[-1]
    finally:
        torch.set_num_threads(threads)
    assert isinstance(ended, Ended)
    assert ended.outcome == Outcome.COMPLETED


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "uses_torch"),
    [("from torch import nn", True), ("from torch.optim import SGD", True), ("import math", False)],
)
def test_what_an_optimizer_loads_at_first_use_is_loaded_once_for_jobs_that_use_torch(run, tmp_path, line, uses_torch):
    pytest.importorskip("torch")
    (tmp_path / "job.py").write_text(
        f"import sys\n{line}\n\ndef train(job):\n    return 'torch._dynamo' in sys.modules\n"
    )
    reports, _ = run(local_problem("job.py:train", root=tmp_path), preload=("torch",))
    assert reports[-1].metrics["loss"] == uses_torch


@pytest.mark.slow
def test_torch_is_warm_and_uses_the_threads_of_its_slot(run):
    reports, ended = run("stops_in_torch", preload=("torch",))
    assert ended.outcome == Outcome.COMPLETED
    assert reports[-1].metrics["loss"] == 1.0


def test_a_segment_starts_in_processes_that_waited_for_it(tmp_path):
    with LocalExecutor(local_problem("quick"), SLOTS, preload=()) as executor:
        for trial in range(3):
            give_up = time.monotonic() + 60
            while len(waiting := spares(executor)) < 2:
                assert time.monotonic() < give_up
            executor.submit(a_segment(tmp_path / str(trial), trial=trial))
            drain(executor)
            supervisor, job, _ = SegmentFolder(tmp_path / str(trial), 0).read_processes()
            assert {supervisor.pid, job.pid} == waiting


def test_a_warm_segment_starts_at_once(tmp_path):
    """Some tens of milliseconds; a fresh interpreter with numpy takes several hundred."""
    with LocalExecutor(local_problem("quick"), SLOTS, preload=()) as executor:
        waits = []
        for trial in range(9):
            began = time.time()
            executor.submit(a_segment(tmp_path / str(trial), trial=trial))
            waits += [e.metrics["loss"] - began for e in drain(executor) if isinstance(e, Reported)]
    assert sorted(waits)[4] < 0.2


def spares(executor):
    """The supervisor that waits for orders, and its job."""
    alive = (processes.look(pid) for pid in processes.marked(executor._run))
    return {process.pid for process in alive if process is not None and process.name == SPARE}


def test_a_trial_is_not_run_twice_at_once(tmp_path):
    with LocalExecutor(local_problem("saves_when_asked"), SLOTS, preload=()) as executor:
        executor.submit(a_segment(tmp_path))
        with pytest.raises(ExecutorError, match="running already"):
            executor.submit(a_segment(tmp_path, slot=SLOTS[1]))
        executor.cancel(0)
        ended = drain(executor)[-1]
    assert isinstance(ended, Ended)
    assert (ended.outcome, ended.failure) == (Outcome.STOPPED, None)
