"""Seats on machines that share no folder, here with a folder each: checkpoints go from one to the other by a depot."""

from __future__ import annotations

import json
import threading
import time

import pytest
from local_setup import SLOTS, a_segment, local_problem

from frugalbo.errors import ExecutorError
from frugalbo.events import Cause, Ended, Outcome, Reported
from frugalbo.executors import carrier, seat
from frugalbo.executors.backends import make_executor, read_backend
from frugalbo.executors.depots import carried_as
from frugalbo.executors.lost import Lost
from frugalbo.executors.messages import events_from_text, segment_to_json
from frugalbo.executors.seat import Seat
from frugalbo.executors.segments import SegmentFolder
from frugalbo.executors.unseen import find_out_unseen, handed_out, note

pytest.importorskip("fsspec")


class Machine:
    """One with a folder of its own; `begin` and `until_end` are what its controller does."""

    def __init__(self, folder, url, job="steps_for_ever"):
        self.folder, self.url, self.job, self.seat = folder, url, job, Seat()

    def begin(self, segment):
        if self.seat._executor is None:
            problem = local_problem(self.job, steps=20_000)
            order = seat.order(problem, SLOTS[0], grace_s=0.5, preload=(), depot=(self.url, str(self.folder)))
            assert "error" not in json.loads(self.seat.open(json.dumps(order)))
        return events_from_text(self.seat.begin(json.dumps(segment_to_json(handed_out(segment))), 5.0))

    def until_end(self, events):
        while not isinstance(events[-1], Ended):
            events = events + events_from_text(self.seat.events(5.0))
        return events

    def run(self, segment):
        return self.until_end(self.begin(segment))


@pytest.fixture
def url(tmp_path):
    return f"file://{tmp_path}/objects"


@pytest.fixture
def machines(tmp_path, url):
    machines = [Machine(tmp_path / name, url) for name in ("a", "b")]
    yield machines
    for machine in machines:
        machine.seat.close()


def steps_of(events):
    return [event.step for event in events if isinstance(event, Reported)]


def test_a_paused_trial_goes_on_at_a_machine_that_never_had_its_checkpoint(machines, tmp_path):
    trial = a_segment(tmp_path / "run" / "trial-0", until=3, planned=7)
    *reports, paused = machines[0].run(trial)
    assert (paused.outcome, paused.checkpoint, steps_of(reports)) == (Outcome.PAUSED, 3, [1, 2, 3])
    assert not (tmp_path / "run" / "trial-0" / "checkpoints" / "step-3.ckpt").exists()
    assert not list((tmp_path / "b").rglob("*.ckpt"))
    *reports, ended = machines[1].run(a_segment(trial.folder, number=1, start=3, until=7, planned=7))
    assert (ended.outcome, ended.checkpoint, steps_of(reports)) == (Outcome.COMPLETED, 7, [4, 5, 6, 7])


def test_reports_are_told_before_the_checkpoint_of_the_end_is_carried(machines, tmp_path, monkeypatch):
    may_be_carried = threading.Event()

    class Held(seat.Carrier):
        def _end(self, segment, ended):
            assert may_be_carried.wait(60)
            return super()._end(segment, ended)

    monkeypatch.setattr(seat, "Carrier", Held)
    events = machines[0].begin(a_segment(tmp_path / "run" / "trial-0", until=3, planned=7))
    time.sleep(0.7)  # the rest of the reports and the end are there at once
    while 3 not in steps_of(events):
        events += events_from_text(machines[0].seat.events(5.0))
    assert not any(isinstance(event, Ended) for event in events)
    may_be_carried.set()
    assert isinstance(machines[0].until_end(events)[-1], Ended)


def test_what_runs_has_its_checkpoints_carried_while_somebody_asks_for_events(machines, tmp_path, monkeypatch, url):
    monkeypatch.setattr(carrier, "LOOK_S", 0.1)
    monkeypatch.setattr(seat, "LOOK_S", 0.1)
    trial = a_segment(tmp_path / "run" / "trial-0", until=20_000, planned=20_000)
    events, depot = machines[0].begin(trial), seat.ObjectDepot(url)
    while not (first := depot.newest(carried_as(trial.folder), 20_000)):
        events += events_from_text(machines[0].seat.events(0.2))
    machines[0].seat._carrier._thread.submit(int).result(60)  # what was on its way is there
    settled = depot.newest(carried_as(trial.folder), 20_000)
    own, give_up = SegmentFolder(tmp_path / "a" / carried_as(trial.folder), 0), time.monotonic() + 60
    while own.checkpoint(20_000) < settled + 20:  # nobody asks meanwhile
        assert time.monotonic() < give_up
        time.sleep(0.05)
    assert depot.newest(carried_as(trial.folder), 20_000) == settled >= first
    machines[0].seat.cancel(0, 0, "interrupted")
    *_, ended = machines[0].until_end(events)
    assert ended.outcome == Outcome.INTERRUPTED
    assert depot.newest(carried_as(trial.folder), 20_000) == ended.checkpoint > settled


def test_a_depot_that_cannot_be_written_is_said_and_the_trial_goes_on_from_the_last_one_there(machines, tmp_path):
    trial = a_segment(tmp_path / "run" / "trial-0", until=3, planned=7)
    machines[0].run(trial)
    objects = next((tmp_path / "objects").rglob("step-3.ckpt")).parent
    again = a_segment(trial.folder, number=1, start=3, until=7, planned=7)
    (objects / "step-7.ckpt").mkdir()  # in the way of a file; a folder without rights would not stop root
    (objects / "step-6.ckpt").mkdir()
    *_, ended = machines[1].run(again)
    assert ended.outcome == Outcome.COMPLETED
    assert ended.checkpoint == 3
    assert ended.message.startswith("its checkpoint cannot be carried: ")


def test_a_seat_that_died_is_asked_for_by_whoever_comes_to_its_machine(machines, tmp_path, url):
    """What it had carried, and what it had not: its folder has the rest."""
    trial = a_segment(tmp_path / "run" / "trial-0", until=20_000, planned=20_000)
    events = machines[0].begin(trial)
    while not any(step > 5 for step in steps_of(events)):
        events += events_from_text(machines[0].seat.events(0.2))
    machines[0].seat._executor.__exit__(None, None, None)  # as a supervisor whose seat died: it ends the job
    lost = Lost.of(trial, "loss", 0.5, at=events[0].at, last=steps_of(events)[-1], asked=None, why="x", preempted=False,
                   node="")  # fmt: skip
    question = lost.question(time.time())
    assert seat.recover_carried(*question, url, str(tmp_path / "b")) is None
    *late, ended = events_from_text(seat.recover_carried(*question, url, str(tmp_path / "a")))
    assert ended.outcome == Outcome.INTERRUPTED
    own = SegmentFolder(tmp_path / "a" / carried_as(trial.folder), 0)
    assert ended.checkpoint == own.checkpoint(20_000) >= steps_of(events)[-1] - 1
    assert seat.ObjectDepot(url).newest(carried_as(trial.folder), 20_000) == ended.checkpoint
    again = events_from_text(seat.recover_carried(*question, url, str(tmp_path / "a")))
    assert again == [*late, ended]


def test_another_machine_that_sees_the_folder_too_leaves_it_alone(machines, tmp_path, url, monkeypatch):
    trial = a_segment(tmp_path / "run" / "trial-0", until=3, planned=7)
    machines[0].run(trial)
    question = Lost.of(trial, "loss", 0.5, at=0.0, last=0, asked=None, why="x", preempted=False, node="").question(1.0)
    assert events_from_text(seat.recover_carried(*question, url, str(tmp_path / "a")))[-1].checkpoint == 3
    monkeypatch.setattr(seat.processes, "machine", lambda: "another")
    assert seat.recover_carried(*question, url, str(tmp_path / "a")) is None


@pytest.mark.parametrize("folder", ["$NOWHERE_AT_ALL/x", "relative"])
def test_a_folder_that_is_none_on_the_machine_is_refused(folder, url):
    order = seat.order(local_problem("quick"), SLOTS[0], grace_s=0.5, preload=(), depot=(url, folder))
    assert "expected a folder on" in json.loads(Seat().open(json.dumps(order)))["error"]


def test_a_folder_may_name_variables_of_the_machine(tmp_path, url, monkeypatch):
    monkeypatch.setenv("SCRATCH", str(tmp_path / "scratch"))
    machine = Machine("$SCRATCH/frugalbo", url, job="quick")
    machine.run(a_segment(tmp_path / "run" / "trial-0"))
    machine.seat.close()
    assert (tmp_path / "scratch" / "frugalbo" / carried_as(tmp_path / "run" / "trial-0") / "segment-0").is_dir()


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        ("sent", "expected folders to be 'shared' or a URL of fsspec, got 'sent'"),  # of HTTP workers alone
        ("nothing://bucket", "cannot use 'nothing://bucket'"),
    ],
)
def test_ray_refuses_folders_that_it_cannot_use_before_it_looks_for_a_cluster(folders, expected):
    backend = read_backend({"name": "ray", "folders": folders, "folder": "/nvme"})
    with pytest.raises(ExecutorError, match=expected):
        make_executor(local_problem("quick"), backend, devices="cpu:2", dollars_per_hour=0.0, pools=None)


# What the controller makes of it


@pytest.fixture
def begun(tmp_path):
    """A segment that was handed out 13 s ago, and has reported twice; and what is known of its loss."""
    segment = a_segment(tmp_path / "run" / "trial-0", until=5, planned=7)
    handed_out(segment)
    for step in (1, 2):
        note(segment, Reported(0, 0, step, {"loss": 1 / step}, 100.0 + step))
    lost = Lost.of(segment, "loss", 0.5, at=100.0, last=1, asked=None, why="its node was lost", preempted=False,
                   node="node")  # fmt: skip
    return segment, lost, time.monotonic() - 13.0


def put(url, segment, step):
    folder = segment.folder / "checkpoints"
    (folder / f"step-{step}.ckpt").write_text("state")
    own = a_segment(segment.folder.parent.parent / carried_as(segment.folder), until=5)
    (own.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    (folder / f"step-{step}.ckpt").rename(own.folder / "checkpoints" / f"step-{step}.ckpt")
    seat.ObjectDepot(url).put(own, f"step-{step}.ckpt")


def test_where_nobody_can_say_it_is_charged_until_it_was_lost_and_goes_on_from_what_was_carried(begun, url):
    segment, lost, submitted = begun
    put(url, segment, 2)
    late, ended = find_out_unseen(lost, url, ask=lambda: None, now=lambda: 113.0, submitted=submitted)
    assert late.step == 2  # that it had not handed on yet
    assert (ended.outcome, ended.cause, ended.checkpoint) == (Outcome.INTERRUPTED, Cause.INFRASTRUCTURE, 2)
    assert 13.0 <= ended.used.device_seconds <= time.monotonic() - submitted
    assert ended.message == "its node was lost (node node)"


def test_no_more_is_charged_than_was_held(begun, url):
    _, lost, submitted = begun
    *_, ended = find_out_unseen(lost, url, ask=lambda: None, now=lambda: 113.0, submitted=submitted - 1000)
    assert ended.used.device_seconds == 30.0
    assert ended.checkpoint == 0  # nothing was carried


def test_a_last_step_that_was_saved_and_never_heard_of_is_done_again(begun, url):
    segment, lost, submitted = begun
    put(url, segment, 5)
    *_, ended = find_out_unseen(lost, url, ask=lambda: None, now=lambda: 113.0, submitted=submitted)
    assert (ended.outcome, ended.checkpoint) == (Outcome.INTERRUPTED, 0)
    note(segment, Reported(0, 0, 5, {"loss": 0.2}, 105.0))
    *_, ended = find_out_unseen(lost, url, ask=lambda: None, now=lambda: 113.0, submitted=submitted)
    assert (ended.outcome, ended.checkpoint) == (Outcome.PAUSED, 5)


def test_what_was_heard_of_its_end_before_the_controller_died_counts_and_nobody_is_asked(begun, url):
    segment, lost, _ = begun
    ended = Ended(0, 0, Outcome.PAUSED, lost.started.held, 105.0, 5)
    note(segment, ended)
    *reports, found = find_out_unseen(lost, url, ask=lambda: pytest.fail("asked"), now=lambda: 113.0, submitted=None)
    assert (steps_of(reports), found) == ([1, 2], ended)
