"""Slots: places where segments run. Known to those who decide and to those who execute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for one segment at a time.

    Args:
        name: Unique in its executor, such as `"cuda:0"` or `"cpu:1"`.
        devices: How many devices a segment holds here; device-seconds count them all.
        dollars_per_hour: The price of one device.
    """

    name: str
    kind: Literal["cuda", "cpu"]
    index: int
    threads: int = 1
    devices: int = 1
    dollars_per_hour: float = 0.0
