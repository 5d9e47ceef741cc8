"""What became of a segment whose seat on Ray was lost, or whose controller."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from frugalbo.events import Event
from frugalbo.executors import seat
from frugalbo.executors.lost import Lost, find_out
from frugalbo.executors.ray_cluster import Cluster
from frugalbo.executors.unseen import find_out_unseen

_RECOVER_S = 60.0  # what a node may need above the grace to say what became of a segment
_NOTICE_S = 2.0  # what a seat needs to notice that its node's raylet is gone: Ray looks every second
_CARRY_S = 600.0  # longer, where it carries a checkpoint first


@dataclass(frozen=True, slots=True)
class Folders:
    """Where trials keep their checkpoints; see `RayExecutor`, whose `folders` and `folder` these are."""

    folders: str
    folder: str

    @property
    def is_shared(self) -> bool:
        """Whether all nodes see them under one path."""
        return self.folders == "shared"

    @property
    def depot(self) -> tuple[str, str] | None:
        """What `seat.order` is to be told."""
        return None if self.is_shared else (self.folders, self.folder)

    @property
    def carry_s(self) -> float:
        """How long checkpoints may be on their way."""
        return 0.0 if self.is_shared else _CARRY_S


def what_became_of(
    lost: Lost, cluster: Cluster, folders: Folders, *, now: Callable[[], float], submitted: float | None = None
) -> list[Event]:
    """Its late reports and its end.

    With shared folders, the machine that ran it is asked, or they tell, once it leaves no sign of life there any more.
    Without, its node is asked if that is there, or all are if it is the controller that died. Where nobody can say, it
    is charged from when it was `submitted` until its supervisor must have ended it, at most its cap.
    """
    patience_s = lost.grace_s + _RECOVER_S + folders.carry_s
    depot = folders.depot
    if depot is None:

        def ask_machine(machine: str) -> str | None:
            return cluster.call_on(machine, seat.recover, *lost.question(now()), timeout_s=patience_s)

        elapsed_s = None if submitted is None else time.monotonic() - submitted
        return find_out(lost, ask=ask_machine, now=now, elapsed_s=elapsed_s)

    def ask() -> str | None:
        nodes = [lost.node] if lost.node else None
        said = cluster.ask(seat.recover_carried, *lost.question(now()), *depot, nodes=nodes, timeout_s=patience_s)
        if said is None and submitted is not None:
            time.sleep(lost.grace_s + _NOTICE_S)  # its seat may still be there
        return said

    return find_out_unseen(lost, folders.folders, ask=ask, now=now, submitted=submitted)
