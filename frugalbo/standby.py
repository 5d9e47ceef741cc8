"""Waiting for a run whose controller may die.

Any number of controllers may stand by. The database gives the lease to one of them; the others go on waiting
for that one to die.
"""

from __future__ import annotations

import time
from typing import Final

from frugalbo.errors import LeaseError, OutageError
from frugalbo.store import Lease, Store
from frugalbo.store.lease import PATIENCE_S

_LOOK_S: Final = 1.0


def await_lease(store: Store, run_id: str) -> Lease | None:
    """The lease of a run once its controller has died; None once one has ended the run in order.

    A run that never had a controller, or whose last one is dead already, is there to be taken at once. While the
    database is out of reach this waits too, up to the patience of a lease.

    Raises:
        OutageError: If the database did not come back.
    """
    seen = time.monotonic()
    while True:
        try:
            if store.run(run_id).holder is None:
                if store.stop_reason(run_id) is not None:
                    return None
                return store.lease(run_id)
            seen = time.monotonic()
        except LeaseError:
            seen = time.monotonic()  # another was faster
        except OutageError:
            if time.monotonic() - seen > PATIENCE_S:
                raise
        time.sleep(_LOOK_S)
