"""The tables of the journal.

| table | one row is |
|---|---|
| `frugalbo_schema` | the version of these tables; also the lock behind which leases are given |
| `frugalbo_runs` | a run, with its spec as JSON |
| `frugalbo_events` | an event of a run, numbered 1, 2, 3.. without gaps, as JSON |
| `frugalbo_sessions` | the time during which one controller held the lease of a run |
| `frugalbo_pauses` | a session whose controller was asked to end with all trials paused |
| `frugalbo_endings` | why a session's controller ended its run, in a sentence |
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

SCHEMA_VERSION: Final = 2  # a change of the tables raises it, with a step in `migrations`

TABLES = sa.MetaData()
SCHEMA = sa.Table("frugalbo_schema", TABLES, sa.Column("version", sa.Integer, nullable=False))
RUNS = sa.Table(
    "frugalbo_runs",
    TABLES,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("spec", sa.Text, nullable=False),
)
EVENTS = sa.Table(
    "frugalbo_events",
    TABLES,
    sa.Column("run", sa.ForeignKey(RUNS.c.number), primary_key=True),
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("body", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)
SESSIONS = sa.Table(
    "frugalbo_sessions",
    TABLES,
    sa.Column("number", sa.Integer, primary_key=True),  # never used twice, so it is the fencing token
    sa.Column("run", sa.ForeignKey(RUNS.c.number), nullable=False, index=True),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("process", sa.Text, nullable=False),
    sa.Column("ttl_s", sa.Double, nullable=False),
    sa.Column("acquired_at", sa.Double, nullable=False),
    sa.Column("renewed_at", sa.Double, nullable=False),
    sa.Column("released_at", sa.Double),
    sa.Column("seconds", sa.Double, nullable=False),
)
PAUSES = sa.Table(
    "frugalbo_pauses",
    TABLES,
    sa.Column("session", sa.Integer, primary_key=True, autoincrement=False),
)
ENDINGS = sa.Table(
    "frugalbo_endings",
    TABLES,
    sa.Column("session", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("reason", sa.Text, nullable=False),
)
