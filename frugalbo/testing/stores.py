"""Conformance of a store: the facts on which runs rely, whatever the database.

Subclass `StoreConformance`, give it a `url` fixture, and pytest does the rest. Needs pytest and
hypothesis. `histories` generates event sequences that a study accepts.
"""

from __future__ import annotations

import math
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frugalbo.budget.amounts import Budget, Cost
from frugalbo.budget.ledger import Ledger
from frugalbo.errors import LeaseError, StorageError
from frugalbo.events import Ended, Event, Failure, Outcome, Reported, Started
from frugalbo.problem import Fidelity, Minimize, Problem
from frugalbo.space import Choice, Float, Int, Space
from frugalbo.store import Store
from frugalbo.study import Status, Study

PROBLEM = Problem(
    name="toy",
    space=Space({"lr": Float(1e-4, 1e-1, log=True), "width": Int(1, 64), "kind": Choice(("a", "b"))}),
    job="nowhere:job",
    objective=Minimize("loss"),
    fidelity=Fidelity("steps", 1, 5),
)
SPEC = {"problem": PROBLEM.to_json(), "budget": {"device_seconds": 1000.0}}

_METRICS = st.fixed_dictionaries(
    {"loss": st.floats()}, optional={"accuracy": st.floats(0, 1), "tokens per second": st.floats(allow_nan=False)}
)
# One store serves all examples of a test, and each subclass runs the test anew.
_CHECKS = (HealthCheck.function_scoped_fixture, HealthCheck.differing_executors, HealthCheck.too_slow)
_TEXT = st.text(max_size=20)  # any: NUL, quotes, halves of surrogate pairs


@st.composite
def histories(draw: st.DrawFn, *, max_events: int = 25) -> list[Event]:
    """Events that a study of `PROBLEM`, with a budget of 1000 device-seconds, accepts in this order."""
    study, events = Study(PROBLEM), []

    def add(event: Event) -> None:
        study.apply(event)
        events.append(event)

    for at in range(draw(st.integers(0, max_events))):
        running = study.with_status(Status.RUNNING)
        paused = [t for t in study.with_status(Status.PAUSED) if t.checkpoint < t.planned]
        trial = draw(st.sampled_from([None, *running, *paused]))
        if trial is None or trial.status == Status.PAUSED:
            number, segment, start = len(study.trials), 0, 0
            params = PROBLEM.space.decode([draw(st.floats(0, 1)) for _ in range(3)])
            if trial is not None:
                number, segment, start, params = trial.number, len(trial.starts), trial.checkpoint, trial.params
            until = draw(st.integers(start + 1, 5))
            why = draw(st.dictionaries(_TEXT, st.one_of(_TEXT, st.integers(), st.floats(allow_nan=False)), max_size=2))
            why = {k: v for k, v in why.items() if not isinstance(v, float) or math.isfinite(v)}
            held = Cost(device_seconds=draw(st.floats(0, 40)), evaluations=float(segment == 0))
            add(Started(number, segment, params, start, until, 5, held, "cpu:0", float(at), why))
        elif draw(st.booleans()):
            granted = trial.starts[-1]
            step = draw(st.integers(granted.start + 1, granted.until))
            add(Reported(trial.number, len(trial.starts) - 1, step, draw(_METRICS), float(at)))
        else:
            granted, outcome = trial.starts[-1], draw(st.sampled_from(Outcome))
            failure = draw(st.sampled_from(Failure)) if outcome == Outcome.FAILED else None
            checkpoint = draw(st.integers(granted.start, granted.until))
            used = Cost(device_seconds=draw(st.floats(0, granted.held.device_seconds)))
            add(Ended(trial.number, len(trial.starts) - 1, outcome, used, float(at), checkpoint, failure, draw(_TEXT)))
    return events


class Clock:
    """The clocks of this process, which stand still until they are told how much time passes."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._passed, wall, monotonic = 0.0, time.time(), time.monotonic()
        patch.setattr(time, "time", lambda: wall + self._passed)
        patch.setattr(time, "monotonic", lambda: monotonic + self._passed)

    def passes(self, seconds: float) -> None:
        """Let so much time pass."""
        self._passed += seconds


class StoreConformance:
    """What every database of the journal must do; a subclass says where a fresh one is."""

    @pytest.fixture
    def url(self) -> str:
        """The URL of a database without a journal; override it."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        """A fresh store."""
        with Store(url) as store:
            yield store

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> Clock:
        """A clock of our own: a lease runs out when the test says so, however busy the machine is."""
        return Clock(monkeypatch)

    def test_a_fresh_store_is_empty(self, store: Store) -> None:
        """Reading makes nothing and finds nothing."""
        assert store.runs() == []
        with pytest.raises(StorageError, match="there are no runs in"):
            store.run()

    def test_the_reason_is_that_of_the_last_controller(self, store: Store) -> None:
        """What each says last counts; one that says nothing leaves none."""
        run, other = store.create_run(SPEC), store.create_run(SPEC)
        assert store.stop_reason(run) is None
        for said in (["it rained", "enough"], ["spent"]):
            with store.lease(run) as lease:
                for reason in said:
                    lease.note_end(reason)
            assert store.stop_reason(run) == said[-1]
        assert store.stop_reason(other) is None
        with store.lease(run):
            assert store.stop_reason(run) is None
        with pytest.raises(LeaseError):
            lease.note_end("too late")

    def test_runs_are_found_as_they_were_created(self, store: Store) -> None:
        """Ids are readable, numbered by name, and the newest comes last."""
        before = time.time()
        ids = [store.create_run(SPEC), store.create_run(SPEC), store.create_run({}, name="A b/c")]
        assert ids == ["toy-1", "toy-2", "A-b-c-1"]
        assert [run.id for run in store.runs()] == ids
        assert store.run().id == "A-b-c-1"
        found = store.run("toy-1")
        assert (found.name, found.spec, found.events, found.holder) == ("toy", SPEC, 0, None)
        assert before <= found.created_at <= time.time()

    def test_an_unknown_run_is_refused_with_the_known_ones(self, store: Store) -> None:
        """A typing error is answered with what there is."""
        store.create_run(SPEC)
        for question in (store.run, store.read, store.lease, store.wall_seconds):
            with pytest.raises(StorageError, match=r"no run 'toy-9' in .*; the newest are toy-1"):
                question("toy-9")

    def test_events_are_read_in_the_order_of_appending(self, store: Store, url: str) -> None:
        """Numbered 1, 2, 3.. per run, whoever reads, over several leases."""
        one, two = store.create_run(SPEC), store.create_run(SPEC)
        expected = [_report(step) for step in range(1, 2004)]  # more than two pages
        with store.lease(one) as lease, store.lease(two) as other:
            lease.append(*expected[:3])
            other.append(_report(7))
            lease.append()
            lease.append(*expected[3:2001])
        with store.lease(one) as lease:
            assert lease.last == 2001
            lease.append(*expected[2001:])
        with Store(url) as reader:
            assert list(reader.read(one)) == list(enumerate(expected, 1))
            assert list(reader.read(two)) == [(1, _report(7))]
            assert (reader.run(one).events, reader.run(two).events) == (2003, 1)

    def test_a_follower_sees_what_is_new(self, store: Store, url: str) -> None:
        """`after` the last number seen, there is what came since, while the writer goes on."""
        run = store.create_run(SPEC)
        with store.lease(run) as lease, Store(url) as follower:
            lease.append(_report(1), _report(2))
            assert [n for n, _ in follower.read(run)] == [1, 2]
            assert list(follower.read(run, after=2)) == []
            half_read = follower.read(run)
            next(half_read)
            lease.append(_report(3))  # a reader that stands still holds nobody up
            assert list(follower.read(run, after=2)) == [(3, _report(3))]
            assert follower.run(run).holder is not None

    @settings(max_examples=25, deadline=None, suppress_health_check=_CHECKS)
    @given(events=histories(), cuts=st.lists(st.integers(0, 25), max_size=3))
    def test_a_replayed_study_is_the_live_one(self, store: Store, events: list[Event], cuts: list[int]) -> None:
        """The fold of what was stored is the fold of what happened, accounts included."""
        run = store.create_run(SPEC)
        live, replayed = (Study(PROBLEM, Ledger(Budget(device_seconds=1000.0))) for _ in range(2))
        with store.lease(run) as lease:
            for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(events)], strict=True):
                lease.append(*live_batch(live, events[begin:end]))
        replayed.replay(event for _, event in store.read(run))
        assert repr(replayed.trials) == repr(live.trials)  # the text, as NaN differs from itself
        assert live.ledger is not None
        assert replayed.ledger is not None
        assert replayed.ledger.balance() == live.ledger.balance()

    def test_a_second_writer_is_refused(self, store: Store, url: str) -> None:
        """While one holds the lease, nobody else does; another run is free."""
        run, free = store.create_run(SPEC), store.create_run(SPEC)
        with Store(url) as other:
            with store.lease(run) as lease:
                with pytest.raises(LeaseError, match=f"run {run} is being written by process"):
                    other.lease(run)
                other.lease(free).release()
                lease.append(_report(1))
            with other.lease(run) as lease:
                lease.append(_report(2))
        assert [n for n, _ in store.read(run)] == [1, 2]

    def test_a_released_lease_writes_no_more(self, store: Store) -> None:
        """Released is released; twice is the same as once."""
        run = store.create_run(SPEC)
        with store.lease(run) as lease:
            lease.release()
            with pytest.raises(LeaseError, match="no longer holds"):
                lease.append(_report(1))
            with store.lease(run) as successor:
                lease.release()  # not the successor's
                successor.append(_report(1))

    def test_a_lost_lease_writes_nothing(self, store: Store, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
        """A controller elsewhere that fell silent is replaced, and refused when it wakes up."""
        run = store.create_run(SPEC)
        with monkeypatch.context() as patch:
            patch.setattr(platform, "node", lambda: "elsewhere")
            silent = store.lease(run, ttl_s=15.0)
        silent.append(_report(1))
        clock.passes(14.9)
        with pytest.raises(LeaseError, match="on elsewhere"):
            store.lease(run)
        clock.passes(0.2)
        assert store.run(run).holder is None
        with store.lease(run) as successor:
            successor.append(_report(2))
            with pytest.raises(LeaseError, match="no longer holds"):
                silent.append(_report(9), _report(10))
            silent.release()
            successor.append(_report(3))
        assert list(store.read(run)) == [(n, _report(n)) for n in (1, 2, 3)]

    def test_renewing_keeps_a_lease_and_tells_when_it_is_lost(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, clock: Clock
    ) -> None:
        """A heartbeat counts as well as an append."""
        run = store.create_run(SPEC)
        with monkeypatch.context() as patch:
            patch.setattr(platform, "node", lambda: "elsewhere")
            lease = store.lease(run, ttl_s=1.5)
        for _ in range(2):
            clock.passes(1.05)
            lease.renew()
        clock.passes(1.4)
        with pytest.raises(LeaseError, match="on elsewhere"):  # 3.5 s old, renewed 1.4 s ago
            store.lease(run)
        clock.passes(0.2)
        store.lease(run).release()
        with pytest.raises(LeaseError, match="no longer holds"):
            lease.renew()

    def test_wall_time_adds_up_over_sessions(self, store: Store, clock: Clock) -> None:
        """From each lease's beginning to its end; what lies between does not count."""
        run = store.create_run(SPEC)
        assert store.wall_seconds(run) == 0
        for _ in range(2):
            with store.lease(run):
                clock.passes(0.2)
            clock.passes(0.3)
        assert store.wall_seconds(run) == pytest.approx(0.4)

    def test_a_spec_is_amended_by_the_holder_of_the_lease(self, store: Store) -> None:
        """A run gets more money; its id, name and events stay."""
        run, other = store.create_run(SPEC), store.create_run(SPEC)
        with store.lease(run) as lease:
            lease.append(_report(1))
            lease.amend({"budget": 2})
            with pytest.raises(StorageError, match="must be JSON"):
                lease.amend({"budget": math.inf})
        with pytest.raises(LeaseError, match="no longer holds"):
            lease.amend({"budget": 3})
        found = store.run(run)
        assert (found.id, found.name, found.spec, found.events) == (run, "toy", {"budget": 2}, 1)
        assert store.run(other).spec == SPEC

    def test_what_cannot_be_stored_is_refused_whole(self, store: Store) -> None:
        """Neither a spec nor an event that is not JSON leaves a trace."""
        with pytest.raises(StorageError, match="the spec of a run must be JSON"):
            store.create_run({"seed": float("nan")})
        run = store.create_run(SPEC)
        bad = Started(0, 0, {}, 0, 1, 1, Cost(), "cpu:0", 0.0, {"what": object()})
        with store.lease(run) as lease:
            with pytest.raises((TypeError, ValueError)):
                lease.append(_report(1), bad)
            lease.append(_report(2))
        assert list(store.read(run)) == [(1, _report(2))]

    def test_events_survive_kill_9_right_after_append(self, store: Store, url: str) -> None:
        """And the lease of the dead is taken over at once, its time counted up to its last sign of life."""
        run = store.create_run(SPEC)
        with _python(_APPEND_AND_HANG, url, run) as (process, output):
            assert output.readline() == "appended\n"
            process.kill()
            process.wait()
        assert [n for n, _ in store.read(run)] == [1, 2]
        assert store.run(run).holder is None
        with store.lease(run) as lease:
            lease.append(_report(3))
        assert [n for n, _ in store.read(run)] == [1, 2, 3]
        assert 0 < store.wall_seconds(run) < 30

    def test_a_dead_process_that_nobody_has_buried_is_dead(self, store: Store, url: str) -> None:
        """A zombie still has its number; it writes nothing."""
        run = store.create_run(SPEC)
        with _python(_APPEND_AND_HANG, url, run) as (process, output):
            output.readline()
            process.kill()
            deadline = time.monotonic() + 10
            while store.run(run).holder and time.monotonic() < deadline:
                time.sleep(0.01)
            store.lease(run).release()

    @pytest.mark.slow
    def test_append_is_all_or_none_when_killed_at_any_moment(self, store: Store, url: str) -> None:
        """Batches of 97 events, killed in the midst: whole batches are there, and all that were confirmed."""
        for tenth in range(5):
            run = store.create_run(SPEC)
            with _python(_APPEND_BATCHES, url, run) as (process, output):
                output.readline()
                threading.Timer(0.02 + tenth / 43, process.kill).start()
                confirmed = sum(1 for _ in output)
                process.wait()
            stored = [n for n, _ in store.read(run)]
            assert stored == list(range(1, len(stored) + 1))
            assert len(stored) % 97 == 0
            assert 0 <= len(stored) / 97 - confirmed <= 1

    @pytest.mark.slow
    def test_of_controllers_that_race_for_a_lease_one_gets_it(self, store: Store, url: str) -> None:
        """Fresh runs, and runs whose controller was killed; every run ends up with one of three."""
        runs = [store.create_run(SPEC) for _ in range(23)]
        with _python(_LEASE_ALL, url, *runs[::2]) as (process, output):
            assert len(output.readline().split()) == 12
            process.kill()
            process.wait()
        with (
            _python(_LEASE_ALL, url, *runs) as first,
            _python(_LEASE_ALL, url, *runs) as second,
            _python(_LEASE_ALL, url, *runs) as third,
        ):
            got = [run for _, output in (first, second, third) for run in output.readline().split()]
            assert sorted(got) == sorted(runs)

    @pytest.mark.slow
    def test_a_fresh_database_may_be_opened_by_several_at_once(self, url: str) -> None:
        """The tables are made once, and nobody fails for it."""
        with _python(_CREATE, url) as one, _python(_CREATE, url) as two, _python(_CREATE, url) as three:
            ids = [output.readline().strip() for _, output in (one, two, three)]
        assert sorted(ids) == ["toy-1", "toy-2", "toy-3"]

    @pytest.mark.slow
    def test_appending_stays_linear(self, store: Store) -> None:
        """The last 20,000 of 100,000 events take at most 4 times as long as the first; so does reading them."""
        run = store.create_run(SPEC)
        events = [_report(step) for step in range(1, 501)]
        times = []
        with store.lease(run) as lease:
            for _ in range(5):
                begin = time.process_time()
                for _ in range(40):
                    lease.append(*events)
                times.append(time.process_time() - begin)
        assert times[-1] < 4 * times[0]
        count = sum(1 for _ in store.read(run))
        assert count == 100_000


def live_batch(study: Study, events: list[Event]) -> list[Event]:
    """Apply the events; returns them."""
    study.replay(events)
    return events


def _report(step: int) -> Reported:
    return Reported(0, 0, step, {"loss": 1 / step}, at=float(step))


_IMPORTS = """
import sys, time
from frugalbo.errors import LeaseError
from frugalbo.store import Store
from frugalbo.events import Reported
store, runs = Store(sys.argv[1]), sys.argv[2:]
def report(step): return Reported(0, 0, step, {"loss": 1 / step}, float(step))
"""
_APPEND_AND_HANG = """
lease = store.lease(runs[0])
lease.append(report(1), report(2))
print("appended", flush=True)
time.sleep(600)
"""
_APPEND_BATCHES = """
lease = store.lease(runs[0])
print("begin", flush=True)
while True:
    lease.append(*(report(step) for step in range(1, 98)))
    print("confirmed", flush=True)
"""
_LEASE_ALL = """
mine = []
time.sleep(max(0, 0.8 - time.time() % 1))  # begin together
for run in runs:
    try:
        mine.append(store.lease(run))
    except LeaseError:
        pass
print(*(lease.run_id for lease in mine), flush=True)
sys.stdin.read()
"""
_CREATE = """
time.sleep(max(0, 0.8 - time.time() % 1))
print(store.create_run({}, name="toy"), flush=True)
"""


@contextmanager
def _python(code: str, *args: str) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """A process that runs `code`, with its output; killed at the end."""
    process: subprocess.Popen[Any] = subprocess.Popen(
        [sys.executable, "-c", _IMPORTS + code, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        with process:
            try:
                yield process, process.stdout
            finally:
                process.kill()
    finally:
        process.wait()
