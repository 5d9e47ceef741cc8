"""Each job does one thing wrong; it fails with a reason, and leaves nothing behind (checked by `run`)."""

from __future__ import annotations

import time

import pytest
from local_setup import SLOTS, a_segment, is_alive, left_of, local_problem, read_pids

from frugalbo.events import Ended, Failure, Outcome, Reported
from frugalbo.executors.local import LocalExecutor
from frugalbo.testing.executors import drain

MIB = 2**20


@pytest.mark.parametrize("job", ["infinite", "swallows_divergence"])
def test_a_result_that_is_not_finite_has_diverged(run, job):
    _, ended = run(job)
    assert (ended.outcome, ended.failure) == (Outcome.FAILED, Failure.DIVERGED)
    assert ended.message.startswith("loss was ")


def test_a_job_that_ignores_its_end_is_killed_at_its_cap(run):
    _, ended = run("ignores_sigterm", cap_s=0.4)
    assert (ended.outcome, ended.failure) == (Outcome.FAILED, Failure.TIMEOUT)
    assert "0.4 s" in ended.message
    assert 0.4 <= ended.used.device_seconds < 0.6


def test_a_job_that_ignores_its_cancellation_is_killed_after_the_grace(tmp_path):
    with LocalExecutor(local_problem("ignores_sigterm"), SLOTS, grace_s=0.2, preload=()) as executor:
        executor.submit(a_segment(tmp_path))
        assert isinstance(executor.wait(10)[0], Reported)
        asked = time.monotonic()
        executor.cancel(0)
        ended = drain(executor)[-1]
        assert 0.2 <= time.monotonic() - asked < 1
        assert isinstance(ended, Ended)
        assert ended.outcome == Outcome.STOPPED


def test_a_job_can_save_before_its_cap(run):
    _, ended = run("saves_when_asked", cap_s=1.0)
    assert (ended.outcome, ended.failure, ended.checkpoint) == (Outcome.FAILED, Failure.TIMEOUT, 1)
    assert 0.9 <= ended.used.device_seconds < 1.0  # it ended by itself, within the last tenth


def test_an_allocation_above_the_cap_fails_in_the_job(run):
    _, ended = run("allocates_at_once", memory_bytes=100 * MIB)
    assert (ended.outcome, ended.failure) == (Outcome.FAILED, Failure.MEMORY)
    assert "MemoryError" in ended.message


@pytest.mark.parametrize("job", ["allocates_in_steps", "children_allocate"])
def test_what_all_processes_keep_is_capped(run, job):
    _, ended = run(job, memory_bytes=150 * MIB)
    assert (ended.outcome, ended.failure) == (Outcome.FAILED, Failure.MEMORY)
    assert "150 MiB" in ended.message
    assert 150 * MIB < ended.used.memory_bytes < 400 * MIB


def test_pages_shared_with_the_template_are_not_counted_for_each_process(run, tmp_path):
    # Six processes with a resident set of some 30 MB each, nearly all of it shared.
    _, ended = run("forks_six", memory_bytes=60 * MIB)
    assert ended.outcome == Outcome.COMPLETED


@pytest.mark.parametrize(
    ("job", "failure", "words"),
    [
        ("exits_at_once", Failure.ERROR, "status 5"),
        ("exits_by_sys", Failure.ERROR, "status 3"),
        ("segfaults", Failure.KILLED, "SIGSEGV"),
        ("kills_itself", Failure.KILLED, "SIGKILL, which frugalbo did not send"),
    ],
)
def test_a_job_that_ends_abruptly_has_failed_and_says_how(run, job, failure, words):
    _, ended = run(job)
    assert (ended.outcome, ended.failure) == (Outcome.FAILED, failure)
    assert words in ended.message


def test_an_abrupt_end_with_status_0_is_no_result(run):
    _, ended = run("exits_at_once", params={"x": 0.0})
    assert (ended.outcome, ended.failure) == (Outcome.FAILED, Failure.NO_RESULT)


def test_an_abrupt_end_after_the_result_is_fine(run):
    _, ended = run("reports_then_exits")
    assert ended.outcome == Outcome.COMPLETED


def test_a_segmentation_fault_shows_where(run):
    _, ended = run("segfaults")
    assert "in segfaults" in ended.log_tail


def test_garbage_in_the_output_becomes_text(run):
    _, ended = run("prints_garbage")
    assert (ended.outcome, ended.failure) == (Outcome.FAILED, Failure.ERROR)
    for text in (ended.message, ended.log_tail):
        assert "\x00" not in text
        assert text.encode("utf-8")
    assert "ValueError: bad" in ended.message
    assert "end" in ended.log_tail


def test_what_a_terminal_would_obey_is_left_out(run):
    _, ended = run("prints_for_terminals")
    assert ended.message.startswith("ValueError: [2Jit is red (")
    assert "]0;title[31mred\n 10 %\n 100 %2J\n" in ended.log_tail


def test_a_report_of_50_mb_is_refused_and_says_so(run):
    reports, ended = run("reports_far_too_much")
    assert reports == []
    assert (ended.outcome, ended.failure) == (Outcome.FAILED, Failure.ERROR)
    assert "a report may take 65536 bytes, this one of 1 metrics takes 500000" in ended.message
    assert len(ended.log_tail) <= 2000


@pytest.mark.slow
def test_of_a_gigabyte_two_mebibytes_are_kept(run, tmp_path):
    _, ended = run("prints_a_gigabyte")
    assert ended.outcome == Outcome.COMPLETED
    assert 2 * MIB < (tmp_path / "segment-0" / "log.txt").stat().st_size < 2.1 * MIB


def test_of_a_huge_output_head_and_tail_are_kept(run, tmp_path):
    _, ended = run("prints_far_too_much")
    assert ended.outcome == Outcome.COMPLETED
    assert ended.log_tail.endswith("x\nthe last line\n")
    log = (tmp_path / "segment-0" / "log.txt").read_bytes()
    assert log.startswith(b"x" * 99 + b"\n")
    assert len(log) < 2.2 * MIB
    # 10,000,000 bytes and the last line, without the mebibyte of the head and that of the tail
    assert f"[... {10_000_000 + 14 - 2 * MIB} bytes left out ...]".encode() in log


@pytest.mark.parametrize("x", [0.5, 0.6])
def test_children_end_with_their_job(run, tmp_path, x):
    """Whether it returns or reaches its cap; the children ignore SIGTERM."""
    _, ended = run("leaves_children", params={"x": x}, cap_s=1.2)
    assert ended.outcome == (Outcome.COMPLETED if x == 0.5 else Outcome.FAILED)
    pids = read_pids(tmp_path, "plain", "setsid", "double", "program")
    assert [name for name, pid in pids.items() if is_alive(pid)] == []


def test_a_chain_of_forks_does_not_escape(run, tmp_path):
    _, ended = run("forks_without_end", cap_s=0.5)
    assert ended.outcome == Outcome.FAILED
    assert ended.used.device_seconds < 1.5


def test_a_job_that_kills_its_supervisor_dies_with_it(tmp_path):
    with LocalExecutor(local_problem("kills_its_supervisor"), SLOTS, preload=()) as executor:
        executor.submit(a_segment(tmp_path))
        ended = drain(executor)[-1]
        assert isinstance(ended, Ended)
        assert ended.outcome == Outcome.INTERRUPTED
        assert 0 < ended.used.device_seconds < 5
        assert left_of(executor) == set()
        assert not is_alive(read_pids(tmp_path, "orphan")["orphan"])


def test_a_function_in_memory_that_kills_its_supervisor_dies_with_it(tmp_path):
    """Its processes carry no mark in their environment, as they were never executed."""
    import local_jobs

    job = local_jobs.kills_its_supervisor
    with LocalExecutor(local_problem(lambda ctx: job(ctx)), SLOTS, preload=()) as executor:
        executor.submit(a_segment(tmp_path))
        ended = drain(executor)[-1]
        assert isinstance(ended, Ended)
        assert ended.outcome == Outcome.INTERRUPTED
        assert not is_alive(read_pids(tmp_path, "orphan")["orphan"])


def test_a_job_that_stops_its_supervisor_is_found_out(tmp_path):
    with LocalExecutor(local_problem("stops_its_supervisor"), SLOTS, preload=()) as executor:
        executor.submit(a_segment(tmp_path))
        ended = drain(executor, timeout_s=10)[-1]
        assert isinstance(ended, Ended)
        assert ended.outcome == Outcome.INTERRUPTED
        assert left_of(executor) == set()


def test_what_a_job_does_after_its_result_is_bounded(run):
    _, ended = run("hangs_when_done")
    assert ended.outcome == Outcome.COMPLETED
    assert 0.3 <= ended.used.device_seconds < 1  # the grace of `run`


def test_exit_handlers_of_a_job_are_called(run, tmp_path):
    _, ended = run("tidies_up_when_done")
    assert ended.outcome == Outcome.COMPLETED
    assert (tmp_path / "checkpoints" / "tidy").exists()
