"""A seat as an actor of Ray."""

from __future__ import annotations

import json
from threading import Event

import ray

from frugalbo.executors.seat import Seat


class RaySeat(Seat):
    """A seat that says on which node it is, and is noticed when it dies while nothing runs."""

    def open(self, order: str) -> str:
        """As `Seat.open`, with the node's id."""
        record = json.loads(super().open(order))
        return json.dumps({**record, "node": ray.get_runtime_context().get_node_id()})

    def live(self) -> None:
        """Never return: who waits for this hears of the seat's death."""
        Event().wait()
