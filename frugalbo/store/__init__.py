"""The journal: runs and their events in a database, SQLite or PostgreSQL, through SQLAlchemy Core.

Events are only ever added; what changes is a session's heartbeat, and a run's spec when it is
amended. A run is written by the one controller that holds its `Lease`. Everybody may read at any
time. What runs and events mean is not known here: see `frugalbo.study`. The tables are in
`frugalbo.store.tables`.
"""

from frugalbo.store.lease import Lease
from frugalbo.store.runs import RunRecord, Store
from frugalbo.store.tables import SCHEMA_VERSION

__all__ = ["SCHEMA_VERSION", "Lease", "RunRecord", "Store"]
