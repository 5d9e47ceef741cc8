"""A journal of the first schema that ever was, with the trials that it recorded, is brought up to date."""

import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from frugalbo.api import resume
from frugalbo.errors import StorageError
from frugalbo.executors.inline import InlineExecutor
from frugalbo.store import SCHEMA_VERSION, Store, migrations
from frugalbo.store.tables import TABLES
from frugalbo.stored import read_study

OLD = Path(__file__).with_name("journal_1.sql")
JOB = "def train(job):\n    loss = (job.params['x'] - 0.3) ** 2\n    job.report(1, loss=loss)\n"
LOSSES = [0.11354317872252155, 0.34779184193819473, 0.04803810180435645, 0.35399256228297254, 0.33997288209334386]


def execute(url, *statements):
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        results = [connection.exec_driver_sql(statement) for statement in statements]
        rows = results[-1].fetchall() if results[-1].returns_rows else None
    engine.dispose()
    return rows


def columns(url):
    """The tables of a journal with their columns and primary keys."""
    engine = sa.create_engine(url)
    see = sa.inspect(engine)
    found = {
        table: (
            [column["name"] for column in see.get_columns(table)],
            see.get_pk_constraint(table)["constrained_columns"],
        )
        for table in see.get_table_names()
    }
    engine.dispose()
    return found


@pytest.fixture(params=["sqlite", "postgresql"])
def old(request, tmp_path):
    """The URL of a journal of schema 1 with one run of five trials."""
    text = OLD.read_text().replace("{root}", str(tmp_path))
    (tmp_path / "parabola.py").write_text(JOB)
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/old.db"
    else:
        url = request.getfixturevalue("postgresql_url")
        text = text.replace(" WITHOUT ROWID", "").replace("DOUBLE", "DOUBLE PRECISION")
        text = text.replace("\tnumber INTEGER NOT NULL", "\tnumber SERIAL NOT NULL")
        text += "SELECT setval(pg_get_serial_sequence('frugalbo_runs', 'number'), 1);\n"
        text += "SELECT setval(pg_get_serial_sequence('frugalbo_sessions', 'number'), 1);\n"
    execute(url, *(statement for statement in text.split(";\n") if statement.strip()))
    return url


def test_recorded_trials_are_kept_and_the_run_goes_on(old, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Store(old) as store:
        before = list(store.read("parabola-1"))
        study = read_study(store, "parabola-1")
        assert len(before) == 15
        assert [next(iter(trial.reports.values()))["loss"] for trial in study.trials.values()] == LOSSES
        assert store.stop_reason("parabola-1") is None
        problem = study.problem
    assert execute(old, "SELECT version FROM frugalbo_schema") == [(SCHEMA_VERSION,)]
    report = resume(storage=old, budget="7 trials", executor=InlineExecutor(problem))
    assert report.study.count("completed") == 7
    with Store(old) as store:
        assert list(store.read("parabola-1"))[:15] == before
        assert store.stop_reason("parabola-1") == report.stop_reason


def test_a_migrated_journal_has_the_tables_of_a_new_one(old, tmp_path):
    with Store(old) as store:
        store.runs()
    new = f"sqlite:///{tmp_path}/new.db"
    with Store(new) as store:
        store.create_run({})
    assert columns(old) == columns(new)
    assert set(columns(old)) == set(TABLES.tables)


def test_tables_that_version_1_had_made_when_it_needed_them_keep_their_rows(old):
    execute(
        old,
        "CREATE TABLE frugalbo_endings (session INTEGER NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (session))",
        "INSERT INTO frugalbo_endings VALUES (1, 'it rained')",
    )
    with Store(old) as store:
        assert store.stop_reason("parabola-1") == "it rained"


def test_a_step_that_fails_leaves_the_journal_as_it_was(old, monkeypatch):
    def fail(op):
        raise sa.exc.SQLAlchemyError("the power went")

    monkeypatch.setattr(migrations, "_STEPS", (*migrations._STEPS, fail))
    before = columns(old)
    with Store(old) as store, pytest.raises(StorageError, match="the power went"):
        store.runs()
    assert columns(old) == before
    assert execute(old, "SELECT version FROM frugalbo_schema") == [(1,)]


def test_a_journal_that_an_older_controller_writes_to_waits_for_it(old):
    execute(old, f"UPDATE frugalbo_sessions SET released_at = NULL, renewed_at = {time.time()}")
    message = "is of the older format 1, in which process 14993 on elsewhere is writing; let that one end first"
    with Store(old) as store, pytest.raises(StorageError, match=message):
        store.runs()
    assert execute(old, "SELECT version FROM frugalbo_schema") == [(1,)]


def test_a_newer_one_is_refused(old):
    execute(old, f"UPDATE frugalbo_schema SET version = {SCHEMA_VERSION + 1}")
    with Store(old) as store, pytest.raises(StorageError, match=r"newer frugalbo \(format 3\); please upgrade"):
        store.runs()


def test_there_is_a_step_from_every_version_to_the_next():
    assert len(migrations._STEPS) == SCHEMA_VERSION - 1
