"""Slots: places where segments run. Known to those who decide and to those who execute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for one segment at a time.

    Args:
        name: Unique in its executor, such as `"cuda:0"` or `"cpu:1"`.
        devices: How many devices a segment holds here, perhaps a share of one; device-seconds count them all.
        dollars_per_hour: The price of one device.
        pool: The pool of like slots that it belongs to, which may have a budget of its own; `""` for none.
        speed: How many seconds' worth of work on a device of speed 1 it does in a second.
        preemptible: Whether its segments may be taken away at any moment.
    """

    name: str
    kind: Literal["cuda", "cpu"]
    index: int
    threads: int = 1
    devices: float = 1
    dollars_per_hour: float = 0.0
    pool: str = ""
    speed: float = 1.0
    preemptible: bool = False

    @property
    def likeness(self) -> tuple[str, float, float, float]:
        """What all slots have in common on which work costs the same and takes as long."""
        return self.pool, self.devices, self.dollars_per_hour, self.speed
