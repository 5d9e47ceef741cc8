"""PostgreSQL is restarted under a controller at work: it waits, goes on, and loses nothing."""

import signal
import time
from threading import Thread

import pytest
import sqlalchemy as sa

from frugalbo.api import tune
from frugalbo.budget.amounts import Budget
from frugalbo.budget.ledger import Ledger
from frugalbo.errors import FrugalWarning, LeaseError, OutageError
from frugalbo.events import Reported
from frugalbo.executors.inline import InlineExecutor
from frugalbo.problem import Minimize, Problem
from frugalbo.space import Float, Space
from frugalbo.store import Store
from frugalbo.study import Study
from frugalbo.testing.postgres import PrivatePostgres, find_programs
from frugalbo.testing.stores import SPEC

pytest.importorskip("psycopg")
pytestmark = pytest.mark.skipif(find_programs() is None, reason="PostgreSQL's server is not installed")


def renewed_at(store):
    with store._database.begin() as connection:
        [(at,)] = connection.exec_driver_sql("SELECT renewed_at FROM frugalbo_sessions")
    return at


def report(step):
    return Reported(0, 0, step, {"loss": 1 / step}, at=float(step))


@pytest.fixture(scope="module")
def server():
    """One that may be stopped, unlike that of the other tests."""
    with PrivatePostgres() as server:
        yield server


@pytest.fixture
def url(server):
    with server.schema() as url:
        yield url


@pytest.fixture(params=[signal.SIGINT, signal.SIGQUIT], ids=["restarted", "crashed"])
def how(request):
    return request.param


def test_an_append_waits_for_the_server(server, url, how):
    with Store(url) as store, store.lease(store.create_run(SPEC)) as lease:
        lease.append(report(1))
        server.stop(how=how)
        starting = Thread(target=lambda: (time.sleep(1), server.start()))
        starting.start()
        with pytest.warns(FrugalWarning, match="cannot use the journal .*; waiting up to 600 s for it"):
            lease.append(report(2), report(3))
        starting.join()
        lease.append(report(4))
        assert list(store.read("toy-1")) == [(n, report(n)) for n in (1, 2, 3, 4)]


def test_patience_has_an_end_and_what_was_written_is_there_afterwards(server, url):
    with Store(url) as store:
        lease = store.lease(store.create_run(SPEC), patience_s=0.7)
        lease.append(report(1))
        server.stop()
        with pytest.warns(FrugalWarning, match="waiting up to 0.7 s"), pytest.raises(OutageError):
            lease.append(report(2))
        server.start()
        lease.append(report(2))
        assert list(store.read("toy-1")) == [(n, report(n)) for n in (1, 2)]
        lease.release()


def test_a_commit_whose_answer_is_lost_is_not_written_twice(postgresql_url):
    """The server says yes and the line is cut: the same rows are not added again."""
    cut = []

    def lose(connection):
        if not cut:
            cut.append(True)
            connection.connection.dbapi_connection.commit()
            connection.connection.dbapi_connection.close()

    with Store(postgresql_url) as store, store.lease(store.create_run(SPEC)) as lease:
        lease.append(report(1))
        sa.event.listen(sa.Engine, "commit", lose)
        try:
            with pytest.warns(FrugalWarning, match="waiting up to"):
                lease.append(report(2), report(3))
        finally:
            sa.event.remove(sa.Engine, "commit", lose)
        lease.append(report(4))
        assert cut
        assert list(store.read("toy-1")) == [(n, report(n)) for n in (1, 2, 3, 4)]


def test_who_lost_its_lease_during_the_outage_is_told_so(server, url, monkeypatch):
    with Store(url) as store, Store(url) as other:
        run = store.create_run(SPEC)
        with monkeypatch.context() as patch:
            patch.setattr("platform.node", lambda: "elsewhere")
            lease = store.lease(run, ttl_s=0.5)
        server.stop()
        time.sleep(0.6)
        server.start()
        with other.lease(run) as successor:
            successor.append(report(1))
            with pytest.raises(LeaseError, match="no longer holds"):
                lease.append(report(9))
        assert list(store.read(run)) == [(1, report(1))]


@pytest.mark.slow
def test_a_run_goes_on_over_restarts_and_counts_everything_once(server, url, how):
    def slow(context):
        time.sleep(0.05)
        return context.params["x"]

    problem = Problem("slow", Space({"x": Float(0.0, 1.0)}), slow, Minimize("loss"))
    seen, restarts = [], []

    def restart(study, balance, events):
        seen.extend(events)
        if len(study.trials) in (5, 11, 17) and len(study.trials) not in restarts:
            restarts.append(len(study.trials))
            server.stop(how=how)
            Thread(target=lambda: (time.sleep(0.5), server.start())).start()

    with pytest.warns(FrugalWarning, match="waiting up to"):
        result = tune(
            problem, budget="23 trials", method="random", storage=url,
            executor=InlineExecutor(problem), observe=restart,
        )  # fmt: skip
    assert restarts == [5, 11, 17]
    assert result.study.count("completed") == 23
    with Store(url) as store:
        assert [event for _, event in store.read("slow-1")] == seen
        stored = Study(problem, Ledger(Budget(evaluations=23.0))).replay(event for _, event in store.read("slow-1"))
    assert repr(stored.trials) == repr(result.study.trials)
    assert stored.ledger.balance()["evaluations"].spent == 23


def test_a_thread_keeps_the_lease_of_a_controller_that_thinks(postgresql_url, monkeypatch):
    with Store(postgresql_url) as store, Store(postgresql_url) as other:
        run = store.create_run(SPEC)
        with monkeypatch.context() as patch:
            patch.setattr("platform.node", lambda: "elsewhere")
            lease = store.lease(run, ttl_s=1.5)
        with lease:
            leased = renewed = renewed_at(store)
            lease.keep_alive()
            give_up = time.monotonic() + 60
            while renewed == leased:
                assert time.monotonic() < give_up
                time.sleep(0.05)
                renewed = renewed_at(store)
            assert renewed > leased + 0.4  # every third of what it lasts
            with monkeypatch.context() as patch:
                patch.setattr(time, "time", lambda: renewed + 1.4)  # when the lease as it began is over
                with pytest.raises(LeaseError, match="on elsewhere"):
                    other.lease(run)
            lease.append(report(1))
        other.lease(run).release()
