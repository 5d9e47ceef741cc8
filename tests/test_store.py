import os
import subprocess
import sys
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from frugalbo.errors import StorageError
from frugalbo.events import Reported
from frugalbo.store import Store
from frugalbo.testing.stores import SPEC, StoreConformance


def report(step):
    return Reported(0, 0, step, {"loss": 1 / step}, at=float(step))


class TestSQLite(StoreConformance):
    @pytest.fixture
    def url(self, tmp_path):
        return f"sqlite:///{tmp_path}/runs.db"


class TestPostgreSQL(StoreConformance):
    @pytest.fixture
    def url(self, postgresql_url):
        return postgresql_url


@pytest.fixture
def path(tmp_path):
    """A journal with one run of two events."""
    path = tmp_path / "runs.db"
    with Store(path) as store, store.lease(store.create_run(SPEC)) as lease:
        lease.append(report(1), report(2))
    return path


def execute(path, statement, *values):
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.exec_driver_sql(statement, values)
    engine.dispose()


def steps(path):
    with Store(path) as store:
        return [event.step for _, event in store.read("toy-1")]


def test_the_first_write_makes_the_folders_and_reading_makes_nothing(tmp_path):
    path = tmp_path / "not" / "yet" / "runs.db"
    with Store(path) as store:
        assert store.runs() == []
        assert not path.parent.exists()
        store.create_run(SPEC)
    assert path.is_file()


def test_a_relative_path_and_its_url_are_the_same_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Store("runs.db") as store:
        store.create_run(SPEC)
    with Store("sqlite:///runs.db") as store:
        assert store.run().id == "toy-1"


def test_the_journal_is_in_wal_mode_so_that_readers_do_not_wait(path):
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    engine.dispose()


def test_every_connection_writes_through_to_the_disk_and_checks_keys(tmp_path):
    seen = []

    def note(connection, _record):
        seen.append([connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "foreign_keys")])

    with listening(note), Store(tmp_path / "runs.db") as store:
        store.create_run(SPEC)
        list(store.runs())
    assert seen
    assert all(pragmas == [2, 1] for pragmas in seen)  # 2 is FULL


@contextmanager
def listening(note):
    """Call `note` after each connection of any store made within."""

    def made(connection, record):
        note(connection, record)

    original = sa.create_engine

    def create_engine(*args, **kwargs):
        engine = original(*args, **kwargs)
        # Engines run their listeners in order; this one comes after the store's own.
        sa.event.listen(engine, "checkout", lambda connection, record, _proxy: made(connection, record))
        return engine

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sa, "create_engine", create_engine)
        yield


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://host/db", "a journal is kept in sqlite or postgresql, got 'mysql'"),
        ("://", "cannot read the journal's URL"),
        ("sqlite://", "a journal needs a file"),
        (":memory:", "a journal needs a file"),
        ("", "a journal needs a file"),
    ],
)
def test_an_address_that_is_none_is_refused(url, message):
    with pytest.raises(StorageError, match=message):
        Store(url)


def test_an_unreachable_server_is_one_sentence_without_the_password():
    pytest.importorskip("psycopg")
    with Store("postgresql://me:secret@127.0.0.1:9/none") as store, pytest.raises(StorageError) as caught:
        store.runs()
    assert "cannot use the journal postgresql+psycopg://me:***@127.0.0.1:9/none" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_driver_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StorageError, match=r"pip install 'frugalbo\[postgresql\]'"):
        Store("postgresql://host/db")


def every_use(path):
    return [lambda s: s.runs(), lambda s: s.run(), lambda s: s.create_run(SPEC), lambda s: list(s.read("toy-1"))]


@pytest.mark.parametrize("use", range(4))
@pytest.mark.parametrize("kind", ["folder", "text", "foreign", "newer", "under a file"])
def test_what_is_no_journal_is_refused_in_a_sentence_and_left_as_it_is(tmp_path, kind, use):
    path = tmp_path / "runs.db"
    match kind:
        case "folder":
            path.mkdir()
            message = "is a folder"
        case "text":
            path.write_text("Dear diary, today I wrote nothing that a database would understand.\n" * 50)
            message = "not a database"
        case "foreign":
            execute(path, "CREATE TABLE bookmarks (url TEXT)")
            message = "a database of another program, with the table 'bookmarks'"
        case "newer":
            with Store(path) as store:
                store.create_run(SPEC)
            execute(path, "UPDATE frugalbo_schema SET version = 3")
            message = r"was written by a newer frugalbo \(format 3\)"
        case _:
            (tmp_path / "file").write_text("")
            path = tmp_path / "file" / "runs.db"
            message = "Not a directory|File exists" if use == 2 else "there are no runs|unable to open"
            if use == 0:
                assert Store(path).runs() == []
                return
    before = path.read_bytes() if path.is_file() else None
    with Store(path) as store, pytest.raises(StorageError, match=message) as caught:
        every_use(path)[use](store)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (path.read_bytes() if path.is_file() else None) == before


@pytest.mark.parametrize("body", ["", "{", "3", "[1, 2]", '{"kind": "reported"}', '{"kind": "guessed", "trial": 0}'])
def test_a_damaged_event_is_named_and_those_before_it_stay_readable(path, body):
    execute(path, "UPDATE frugalbo_events SET body = ? WHERE sequence = 2", body)
    with Store(path) as store:
        events = store.read("toy-1")
        assert next(events) == (1, report(1))
        with pytest.raises(StorageError, match=r"event 2 of run toy-1 in .* is damaged"):
            next(events)


def test_a_missing_event_is_noticed(path):
    execute(path, "DELETE FROM frugalbo_events WHERE sequence = 1")
    with Store(path) as store, pytest.raises(StorageError, match="event 1 of run toy-1 is missing"):
        next(store.read("toy-1"))


def test_a_damaged_spec_is_named(path):
    execute(path, "UPDATE frugalbo_runs SET spec = 'x'")
    with Store(path) as store, pytest.raises(StorageError, match="the spec of run toy-1 is damaged"):
        store.run()


def test_bodies_are_strict_json(path):
    with Store(path) as store, store.lease("toy-1") as lease:
        lease.append(Reported(0, 0, 3, {"loss": float("nan"), "b": float("-inf")}, at=0.0))
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        body = connection.exec_driver_sql("SELECT body FROM frugalbo_events WHERE sequence = 3").scalar()
    engine.dispose()
    assert '"loss":"nan"' in body
    assert '"b":"-inf"' in body


def test_a_full_disk_refuses_the_append_whole_and_keeps_what_was_there(path):
    def shrink(connection, _record):
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 3}")

    with listening(shrink), Store(path) as store, store.lease("toy-1") as lease:
        with pytest.raises(StorageError, match=r"cannot use the journal .*: database or disk is full"):
            lease.append(*(report(step) for step in range(3, 3000)))
        lease.append(report(3))  # what fits goes on, without a gap
    assert steps(path) == [1, 2, 3]


@contextmanager
def as_nobody(folder):
    """Without root's rights, which see no permissions; `folder` stays reachable."""
    if os.geteuid() != 0:
        yield
        return
    for parent in (folder, *folder.parents):
        if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_that_may_not_be_written_can_still_be_read(path):
    path.chmod(0o444)
    path.parent.chmod(0o777)
    with as_nobody(path.parent), Store(path) as store:
        assert [event.step for _, event in store.read("toy-1")] == [1, 2]
        with pytest.raises(StorageError, match="readonly"):
            store.create_run(SPEC)
        with pytest.raises(StorageError, match="readonly"):
            store.lease("toy-1")
    assert steps(path) == [1, 2]


def test_a_file_that_may_not_be_read_is_refused(path):
    path.chmod(0o000)
    with as_nobody(path.parent), Store(path) as store, pytest.raises(StorageError, match="unable to open"):
        store.runs()
    path.chmod(0o644)
    assert steps(path) == [1, 2]


def test_a_folder_that_may_not_be_made_is_refused(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with (
            as_nobody(tmp_path),
            Store(tmp_path / "deep" / "runs.db") as store,
            pytest.raises(StorageError, match="Permission denied"),
        ):
            store.create_run(SPEC)
    finally:
        tmp_path.chmod(0o755)


def test_a_forked_child_neither_writes_nor_releases(path):
    code = f"""
import os
from frugalbo.errors import LeaseError
from frugalbo.store import Store
from frugalbo.events import Reported
with Store({str(path)!r}) as store, store.lease("toy-1") as lease:
    if (child := os.fork()) == 0:
        lease.release()
        try:
            lease.append(Reported(0, 0, 9, {{}}, 0.0))
        except LeaseError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    lease.append(Reported(0, 0, 3, {{}}, 0.0))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert steps(path) == [1, 2, 3]


def test_trouble_with_the_disk_does_not_hide_what_went_wrong_first(path):
    def fail(store):
        with store.lease("toy-1"):
            store.close()
            path.write_text("The journal is gone, and this is a text.")
            raise ZeroDivisionError

    with Store(path) as store, pytest.raises(ZeroDivisionError):
        fail(store)
