"""How the tables of an older journal become those of this version, in the transaction of who opens it.

| from | to | what changes |
|---|---|---|
| 1 | 2 | pauses and endings get their tables, which some journals of version 1 have already |

A step is written in Alembic's operations, which know what SQLite cannot alter. The version is kept in
`frugalbo_schema`, which is also the lock, and not in a table of Alembic's. A step names its tables and columns
itself and is never changed: those in `frugalbo.store.tables` are of today.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from frugalbo.store.tables import SCHEMA

if TYPE_CHECKING:
    from alembic.operations import Operations


def migrate(connection: sa.Connection, version: int) -> None:
    """Go from `version` to the last, step by step; commits nothing."""
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    operations = Operations(MigrationContext.configure(connection))
    for step in _STEPS[version - 1 :]:
        step(operations)
        version += 1
    connection.execute(SCHEMA.update().values(version=version))


def _to_2(op: Operations) -> None:
    def session() -> sa.Column[int]:
        return sa.Column("session", sa.Integer, primary_key=True, autoincrement=False)

    op.create_table("frugalbo_pauses", session(), if_not_exists=True)
    op.create_table("frugalbo_endings", session(), sa.Column("reason", sa.Text, nullable=False), if_not_exists=True)


_STEPS: Final[tuple[Callable[[Operations], None], ...]] = (_to_2,)  # the first is from version 1
