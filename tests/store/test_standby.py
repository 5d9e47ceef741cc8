"""Several controllers watch a run, one leads: it is killed, or stopped and woken up, and another goes on."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest

from frugalbo.api import resume
from frugalbo.budget.amounts import Budget
from frugalbo.cli import main
from frugalbo.events import Ended, Started
from frugalbo.standby import await_lease
from frugalbo.store import Store
from frugalbo.stored import read_study
from frugalbo.testing.stores import SPEC
from tests.store.controller import TRIALS

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/runs.db"
    return request.getfixturevalue("postgresql_url")


@contextmanager
def controller(url, folder, how):
    """One in a process of its own; killed at the end."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "store" / "controller.py"), url, str(folder), how],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        with process:
            assert process.stdout.readline().strip() == str(process.pid)
            yield process
            process.kill()
    finally:
        process.kill()


def wait_for(is_so, timeout_s=60):
    give_up = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < give_up, "it took too long"
        time.sleep(0.05)


def events_of(store):
    return [event for _, event in store.read("stood-1")] if store.runs() else []


def ended(store):
    return sum(isinstance(event, Ended) for event in events_of(store))


def check(store, before):
    """Nothing is lost, nothing counts twice, nothing is overspent."""
    events = events_of(store)
    assert events[: len(before)] == before
    study = read_study(store, "stood-1")
    assert study.count("completed") == len(study.trials) == TRIALS
    started = [(e.trial, e.segment) for e in events if isinstance(e, Started)]
    over = [(e.trial, e.segment) for e in events if isinstance(e, Ended)]
    assert sorted(started) == sorted(over)
    assert set(Counter(started).values()) == set(Counter(over).values()) == {1}
    account = study.ledger.balance()["evaluations"]
    assert (account.spent, account.held) == (TRIALS, 0)


@pytest.mark.slow
def test_the_leader_is_killed_and_exactly_one_of_two_goes_on(url, tmp_path):
    with Store(url) as store, controller(url, tmp_path, "begin") as leader:
        wait_for(lambda: ended(store) >= 3)
        with controller(url, tmp_path, "standby") as one, controller(url, tmp_path, "standby") as two:
            time.sleep(1.5)
            assert store.run().holder.startswith(f"process {leader.pid} ")
            os.kill(leader.pid, signal.SIGKILL)
            leader.wait()
            before = events_of(store)
            wait_for(lambda: store.run().holder is not None)
            (tmp_path / "go").touch()
            winner = store.run().holder
            assert winner.split()[1] in (str(one.pid), str(two.pid))
            said = [process.stdout.readline() for process in (one, two)]
        # The other waited to the end, and says what came out.
        assert said[0] == said[1] == f"ended: {store.stop_reason('stood-1')}\n"
        check(store, before)
        assert sessions(store) == [leader.pid, int(winner.split()[1])]


@pytest.mark.slow
def test_a_leader_that_was_stopped_past_its_lease_wakes_up_and_writes_nothing(url, tmp_path, monkeypatch):
    with Store(url) as store, controller(url, tmp_path, "begin") as leader:
        wait_for(lambda: ended(store) >= 3)
        os.kill(leader.pid, signal.SIGSTOP)
        time.sleep(0.5)
        before = events_of(store)
        shorten(store)  # the lease is of 15 s
        with controller(url, tmp_path, "standby") as other:
            wait_for(lambda: (store.run().holder or "").startswith(f"process {other.pid} "))
            (tmp_path / "go").touch()
            wait_for(lambda: ended(store) > 5)
            os.kill(leader.pid, signal.SIGCONT)
            assert leader.stdout.readline().startswith("LeaseError: this controller no longer holds run stood-1")
            assert other.stdout.readline().startswith("ended: ")
        check(store, before)
        assert sessions(store) == [leader.pid, other.pid]


def sessions(store):
    """The pids of those who have held the run, in order."""
    with store._database.begin() as connection:
        return [pid for (pid,) in connection.exec_driver_sql("SELECT pid FROM frugalbo_sessions ORDER BY number")]


def shorten(store):
    with store._database.begin(write=True) as connection:
        connection.exec_driver_sql("UPDATE frugalbo_sessions SET ttl_s = 2")


def test_a_stopped_process_holds_its_run_only_as_long_as_its_lease(url):
    code = "import sys, time; from frugalbo.store import Store; s = Store(sys.argv[1]); s.create_run({}, name='toy')\n"
    code += "lease = s.lease('toy-1', ttl_s=1.0); print('leased', flush=True); sys.stdin.readline()\n"
    code += "try: lease.note_end('late')\nexcept OSError as e: print(type(e).__name__, flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", code, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process, Store(url) as store:  # fmt: skip
        assert process.stdout.readline() == "leased\n"
        time.sleep(1.2)
        assert store.run().holder  # it only thinks
        os.kill(process.pid, signal.SIGSTOP)
        wait_for(lambda: store.run().holder is None, 5)
        with store.lease("toy-1"):
            os.kill(process.pid, signal.SIGCONT)
            print(file=process.stdin, flush=True)
            assert process.stdout.readline() == "LeaseError\n"
        assert store.stop_reason("toy-1") is None


def test_of_two_that_stand_by_one_gets_the_lease(url):
    with Store(url) as store, Store(url) as another:
        run, got = store.create_run(SPEC), []
        leader = store.lease(run)
        threads = [threading.Thread(target=lambda s=s: got.append(await_lease(s, run))) for s in (store, another)]
        for thread in threads:
            thread.start()
        time.sleep(1.2)
        assert got == []
        leader.release()
        wait_for(lambda: got, 10)
        time.sleep(1.2)
        assert len(got) == 1
        got[0].note_end("done")
        got[0].release()
        for thread in threads:
            thread.join()
        assert got[1] is None


def test_a_run_that_has_ended_in_order_is_reported_not_resumed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.py").write_text("def train(job):\n    return job.params['x']\n")
    with Store(tmp_path / "runs.db") as store:
        from frugalbo.problem import Minimize, Problem
        from frugalbo.space import Float, Space

        problem = Problem("toy", Space({"x": Float(0.0, 1.0)}), f"{tmp_path}/job.py:train", Minimize("loss"))
        settings = {"method": "random"}
        run = store.create_run(
            {"problem": problem.to_json(), "budget": Budget.of("3 trials").to_json(), "seed": 0, "settings": settings}
        )
        with store.lease(run) as lease:
            lease.note_end("it rained")
        report = resume(run, storage=tmp_path / "runs.db", standby=True)
        assert report.stop_reason == "it rained"
        assert not report.study.trials
        assert main(["resume", "--standby", "--no-report", "--storage", str(tmp_path / "runs.db")]) == 1
        assert "it rained" in capsys.readouterr().err
