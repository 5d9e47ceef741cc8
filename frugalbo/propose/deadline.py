"""Time that is up: how a search that takes too long is left, from within.

Whoever works in steps calls `check` between them. That needs no second thread and leaves nothing
half done behind it; what a single step takes (some milliseconds here) is what a deadline is late by.
"""

from __future__ import annotations

import time
from collections.abc import Callable

Check = Callable[[], None]


class OutOfTime(Exception):
    """Raised by `Deadline.check`; caught where something else can take the place of what was being computed."""


class Deadline:
    """A moment after which `check` raises.

    Args:
        seconds: From now.
        is_over: Asked at every check as well: whether to stop although there is time left.
    """

    def __init__(self, seconds: float, is_over: Callable[[], bool] | None = None) -> None:
        self.seconds = seconds
        self._at = time.monotonic() + seconds
        self._is_over = is_over

    def check(self) -> None:
        """Raise `OutOfTime` if it is time to stop."""
        if time.monotonic() >= self._at or (self._is_over is not None and self._is_over()):
            raise OutOfTime


def unlimited() -> None:
    """The check of a search that has all the time it wants."""
