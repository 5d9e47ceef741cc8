"""Checkpoints of what runs here, carried to a depot and back by a thread, and what is said where that fails."""

from __future__ import annotations

import pytest
from local_setup import a_segment

from frugalbo.budget.amounts import Cost
from frugalbo.events import Ended, Outcome
from frugalbo.executors import carrier as module
from frugalbo.executors.carried import CarryError
from frugalbo.executors.carrier import Carrier
from frugalbo.executors.depots import ObjectDepot
from frugalbo.executors.http_registry import BusyError

pytest.importorskip("fsspec")


class Watched(ObjectDepot):
    """Notes what it takes; refuses as often as it is told to."""

    def __init__(self, url, refusals=()):
        super().__init__(url)
        self.took, self.refusals = [], list(refusals)

    def put(self, segment, name):
        if self.refusals:
            raise self.refusals.pop(0)
        super().put(segment, name)
        self.took.append(name)


@pytest.fixture(params=["file", "memory"])
def url(request, tmp_path):
    return f"file://{tmp_path}/objects" if request.param == "file" else f"memory://{tmp_path.name}/run"


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(module, "LOOK_S", 0.0)
    monkeypatch.setattr(module, "_AGAIN_S", 0.0)


def a_trial(folder, **changes):
    segment = a_segment(folder / "run" / "trial-0", **{"until": 7, "planned": 11, **changes})
    (segment.folder / "checkpoints").mkdir(parents=True)
    return segment


def save(segment, step):
    (segment.folder / "checkpoints" / f"step-{step}.ckpt").write_text(f"state at {step}")


def an_end(checkpoint, outcome=Outcome.PAUSED):
    return Ended(0, 0, outcome, Cost(), 0.0, checkpoint)


def settle(carrier):
    """Until all that it was given so far is done."""
    carrier._thread.submit(lambda: None).result(5)


def test_new_checkpoints_are_carried_once_and_that_of_the_last_step_with_the_end_alone(tmp_path, url):
    depot, segment = Watched(url), a_trial(tmp_path)
    carrier = Carrier(depot)
    for step in (3, 5, 7):
        save(segment, step)
        carrier.look([segment])
        carrier.look([segment])
        settle(carrier)
    assert depot.took == ["step-3.ckpt", "step-5.ckpt"]
    assert depot.newest(segment.folder, 11) == 5
    assert carrier.end(segment, an_end(7)).result(5) == an_end(7)
    assert depot.took == ["step-3.ckpt", "step-5.ckpt", "step-7.ckpt"]
    assert carrier.end(segment, an_end(7)).result(5) == an_end(7)
    assert len(depot.took) == 3


def test_it_is_looked_for_new_checkpoints_at_most_every_so_often(tmp_path, url, monkeypatch):
    monkeypatch.setattr(module, "LOOK_S", 60.0)
    depot, segment = Watched(url), a_trial(tmp_path)
    carrier = Carrier(depot)
    for step in (3, 5):
        save(segment, step)
        carrier.look([segment])
        settle(carrier)
    assert depot.took == ["step-3.ckpt"]


def test_a_checkpoint_is_fetched_where_it_is_not(tmp_path, url):
    here, there = a_trial(tmp_path / "a"), a_trial(tmp_path / "b", start=5)
    save(here, 5)
    Carrier(ObjectDepot(url)).end(here, an_end(5)).result(5)
    Carrier(ObjectDepot(url)).fetch(there).result(5)
    assert (there.folder / "checkpoints" / "step-5.ckpt").read_text() == "state at 5"
    (there.folder / "checkpoints" / "step-5.ckpt").write_text("our own")
    Carrier(ObjectDepot(url)).fetch(there).result(5)
    assert (there.folder / "checkpoints" / "step-5.ckpt").read_text() == "our own"
    with pytest.raises(CarryError, match="no checkpoint step-3"):
        Carrier(ObjectDepot(url)).fetch(a_trial(tmp_path / "c", start=3)).result(5)


def test_what_cannot_be_carried_goes_on_from_the_last_one_that_was_and_the_end_says_so(tmp_path, url):
    depot, segment = Watched(url), a_trial(tmp_path, start=2)
    carrier = Carrier(depot)
    depot.refusals = [OSError(28, "no space left"), CarryError("the bucket is gone")]
    save(segment, 3)
    carrier.look([segment])
    settle(carrier)
    lost = carrier.end(segment, an_end(3)).result(5)
    assert lost.checkpoint == 2  # where it had begun: nothing was carried
    assert lost.message == "its checkpoint cannot be carried: the bucket is gone"
    carrier.look([segment])
    settle(carrier)
    save(segment, 7)
    depot.refusals = [OSError(28, "no space left")]
    assert carrier.end(segment, an_end(7)).result(5).checkpoint == 3


def test_a_depot_that_is_not_there_is_told_apart_from_a_checkpoint_that_is_gone(tmp_path, url):
    """The job saves a newer one and takes the old one away while that is on its way: no half of it is left there."""
    segment = a_trial(tmp_path)
    save(segment, 3)

    class Overtaken(Watched):
        def put(self, segment, name):
            (segment.folder / "checkpoints" / name).unlink()
            super().put(segment, name)

    assert Carrier(Overtaken(url)).end(segment, an_end(3)).result(5) == an_end(0)
    assert ObjectDepot(url).newest(segment.folder, 11) == 0
    save(segment, 3)
    missing = Watched(url, [FileNotFoundError("the bucket does not exist")])
    assert "the bucket does not exist" in Carrier(missing).end(segment, an_end(3)).result(5).message


def test_a_depot_that_does_not_answer_for_now_is_asked_again_while_anybody_waits(tmp_path, url):
    depot, segment = Watched(url, [BusyError("later"), BusyError("later")]), a_trial(tmp_path)
    save(segment, 7)
    assert Carrier(depot).end(segment, an_end(7)).result(5).checkpoint == 7
    assert depot.refusals == []
    depot = Watched(f"{url}-other", [BusyError("later")] * 100)
    calls = iter([False, False, True])
    assert Carrier(depot, is_over=lambda: next(calls)).end(segment, an_end(7)).result(5) == an_end(7)
    assert len(depot.refusals) == 98


def test_who_is_late_takes_nothing_away_that_has_come_since(tmp_path, url):
    """A machine that was given up for lost while it was carrying: its trial has gone on elsewhere."""
    depot, late, ahead = ObjectDepot(url), a_trial(tmp_path / "a"), a_trial(tmp_path / "b", number=1, start=3)
    for segment, step in ((late, 3), (ahead, 5), (late, 4)):
        save(segment, step)
        depot.put(segment, f"step-{step}.ckpt")
    assert [depot.newest(late.folder, until) for until in (3, 4, 7)] == [0, 4, 5]
    (late.folder / "checkpoints" / "step-5.ckpt").write_text("another")
    depot.put(late, "step-5.ckpt")  # one that is there whole stays as it is: somebody may be reading it
    again = a_trial(tmp_path / "c", start=5)
    depot.get(again, "step-5.ckpt")
    assert (again.folder / "checkpoints" / "step-5.ckpt").read_text() == "state at 5"
    assert depot.newest(late.folder, 4) == 0


def test_whatever_a_library_of_storage_raises_is_an_error_of_carrying(tmp_path, monkeypatch):
    depot, segment = ObjectDepot(f"file://{tmp_path}/objects"), a_trial(tmp_path)

    def refuse(*args, **options):
        raise RuntimeError("NoCredentialsError: unable to locate credentials")

    for name in ("ls", "find"):
        monkeypatch.setattr(depot._files, name, refuse)
    save(segment, 3)
    for call in (
        lambda: depot.put(segment, "step-3.ckpt"),
        lambda: depot.get(segment, "step-3.ckpt"),
        lambda: depot.newest(segment.folder, 7),
    ):
        with pytest.raises(CarryError, match="unable to locate credentials"):
            call()
