import math

import numpy as np
import pytest

from frugalbo.errors import StorageError
from frugalbo.job import DivergedError, JobContext, checkpoints


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "trial-0"


@pytest.fixture
def sent():
    return []


@pytest.fixture
def job(folder, sent):
    """A segment from step 3 up to step 7, of 11 planned."""
    return context(folder, sent)


def context(folder, sent, start=3, until=7):
    return JobContext(
        params={"lr": 0.1}, start=start, until=until, planned=11, seed=0, device="cpu", threads=1,
        checkpoint_dir=folder, objective="loss", sink=sent.append,
    )  # fmt: skip


def test_reports_arrive_in_order(job, sent):
    job.report(4, loss=0.5)
    job.report(7, loss=np.float32(0.25), accuracy=1)
    assert sent == [{"step": 4, "metrics": {"loss": 0.5}}, {"step": 7, "metrics": {"loss": 0.25, "accuracy": 1.0}}]
    assert [type(v) for v in sent[1]["metrics"].values()] == [float, float]


@pytest.mark.parametrize("step", [0, 3, 5, 4, 8, -1, 6.5, math.nan, "7", None])
def test_a_step_that_is_not_next_is_refused(job, sent, step):
    job.report(5, loss=1.0)
    with pytest.raises(ValueError, match="expected a report for a step from 6 to 7, got step"):
        job.report(step, loss=1.0)
    assert len(sent) == 1
    job.report(6, loss=1.0)


def test_after_the_last_granted_step_there_is_nothing_to_report(job):
    job.report(7, loss=1.0)
    with pytest.raises(ValueError, match="the last granted step, 7, was reported"):
        job.report(8, loss=1.0)


@pytest.mark.parametrize("value", ["0.5x", None, [1.0, 2.0], 1j])
def test_a_metric_that_is_no_number_is_refused_and_not_sent(job, sent, value):
    with pytest.raises(ValueError, match="metric 'loss' must be a number"):
        job.report(4, loss=value)
    assert sent == []
    job.report(4, loss=1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_objective_that_diverged_is_sent_and_ends_the_job(job, sent, value):
    with pytest.raises(DivergedError, match=f"loss is {value} at step 4"):
        job.report(4, loss=value)
    assert repr(sent) == repr([{"step": 4, "metrics": {"loss": value}}])


def test_another_metric_may_be_anything(job, sent):
    job.report(4, loss=1.0, gradient=math.inf)
    assert sent[0]["metrics"]["gradient"] == math.inf


def test_a_checkpoint_is_found_by_the_segment_that_begins_there(folder, sent):
    first, second = context(folder, sent, 0, 3), context(folder, sent, 3, 7)
    assert first.resume() is None
    first.save(3, lambda path: path.write_text("at three"))
    assert second.resume().read_text() == "at three"
    second.save(5, lambda path: path.write_text("at five"))
    assert checkpoints(folder) == [(5, folder / "step-5.ckpt")]
    second.report(7, loss=0.1)
    second.save(7, lambda path: path.write_text("at seven"))
    assert checkpoints(folder) == [(7, folder / "step-7.ckpt")]


def test_what_the_last_granted_step_is_done_from_is_kept_until_that_is_reported(folder, sent):
    job = context(folder, sent, 3, 7)
    for step in (3, 6, 7):
        job.save(step, lambda path, step=step: path.write_text(str(step)))
        job.save(step, lambda path, step=step: path.write_text(str(step)))
    assert [step for step, _ in checkpoints(folder)] == [6, 7]
    job.report(7, loss=0.1)
    assert [step for step, _ in checkpoints(folder)] == [7]


def test_a_write_that_raises_leaves_the_previous_checkpoint(folder, sent):
    job = context(folder, sent, 3, 7)
    job.save(3, lambda path: path.write_text("whole"))

    def half(path):
        path.write_text("half of a sta")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        job.save(7, half)
    assert checkpoints(folder) == [(3, folder / "step-3.ckpt")]
    assert job.resume().read_text() == "whole"
    job.save(7, lambda path: path.write_text("whole again"))
    assert [step for step, _ in checkpoints(folder)] == [3, 7]


def test_a_write_to_elsewhere_is_noticed_and_leaves_the_previous_checkpoint(folder, sent):
    job = context(folder, sent, 3, 7)
    job.save(3, lambda path: path.write_text("whole"))
    with pytest.raises(StorageError, match=r"wrote nothing to .*step-7.partial"):
        job.save(7, lambda path: path.with_suffix(".npy").write_text("x"))
    assert [step for step, _ in checkpoints(folder)] == [3]


def test_saving_the_same_step_again_replaces_it(folder, sent):
    job = context(folder, sent)
    for content in ("one", "two"):
        job.save(3, lambda path, content=content: path.write_text(content))
    assert job.resume().read_text() == "two"
    assert list(folder.iterdir()) == [folder / "step-3.ckpt"]  # renamed, not copied: a copy can be cut short


def test_a_job_without_its_checkpoint_does_not_start_from_nothing(job):
    with pytest.raises(StorageError, match="the checkpoint of step 3 is gone from"):
        job.resume()


def test_checkpoints_are_the_whole_ones_by_number_of_steps(folder):
    folder.mkdir()
    names = ("step-10.ckpt", "step-9.ckpt", "step-11.partial", "step-x.ckpt", "xstep-3.ckpt", "step-3.ckpt.old", "log")
    for name in names:
        (folder / name).write_text("")
    assert [step for step, _ in checkpoints(folder)] == [9, 10]
    assert checkpoints(folder / "none") == []


def test_a_job_is_asked_to_stop(job):
    assert not job.should_stop
    job.stop_requested = True
    assert job.should_stop
