"""Slots of a Ray cluster and the seats that have them now; and what Ray says when it cannot give one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from frugalbo.errors import ExecutorError
from frugalbo.executors.admission import not_shared, probing
from frugalbo.executors.lost import Running
from frugalbo.slot import Slot


@dataclass(slots=True)
class Place:
    """A slot and the seat that has it now, if one has.

    Args:
        since: When a seat was asked for, after the last one was lost.
        due: When to ask for one, if none was.
        failures: How many seats were lost in a row.
        opening: Ray's reference to the seat's answer that it is ready.
        choosy_until: When to take any node, if a seat is asked for on some alone.
        life: One that resolves when the seat dies.
        poll: One to the next events.
        seen: Folders that the seat's node shares with us.
    """

    slot: Slot
    since: float = 0.0
    due: float = 0.0
    failures: int = 0
    actor: Any = None
    opening: Any = None
    choosy_until: float = math.inf
    life: Any = None
    poll: Any = None
    node: str = ""
    seen: set[Path] = field(default_factory=set)
    running: Running | None = None

    @property
    def is_ready(self) -> bool:
        """Whether it has a seat that can take a segment."""
        return self.life is not None


def shares(ray: ModuleType, place: Place, folder: Path, mark: str) -> bool:
    """Make sure that a folder is the same at the seat as it is here; False if the seat is lost.

    Raises:
        ExecutorError: If it is not.
        OSError: If it cannot be made.
    """
    if folder in place.seen:
        return True
    with probing(folder, mark) as probe:
        try:
            is_shared = ray.get(place.actor.sees.remote(str(probe), mark))
        except ray.exceptions.RayError:
            return False
    if not is_shared:
        raise not_shared(folder, f"the node of slot {place.slot.name!r}")
    place.seen.add(folder)
    return True


def refuse_for_good(error: Exception, *, is_opening: bool) -> None:
    """What another seat would not do better: one that cannot even be made.

    Raises:
        ExecutorError: If it is that.
    """
    text = str(error)
    if is_opening and ("ModuleNotFoundError" in text or "ImportError" in text):
        remedy = "install it there, or name it in the runtime_env"
        raise ExecutorError(f"a node of the cluster cannot import frugalbo; {remedy}: {reason(error)}")
    if is_opening and "RuntimeEnvSetupError" in type(error).__name__:
        raise ExecutorError(f"the cluster cannot set up the runtime_env: {reason(error)}")


def reason(error: Exception) -> str:
    """The end of what Ray says, which is long."""
    return " ".join(str(error).split())[-300:]
