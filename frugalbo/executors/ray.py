"""Segments on a Ray cluster: each slot is a seat (`frugalbo.executors.seat`) in an actor of its own.

    controller -> actor (one a slot) -> template -> supervisor (one a segment) -> job

The actor holds the slot's resources, wherever Ray finds them; below it all is as on one machine, with the supervisor's
caps, cost and receipts. Trials' folders are shared (`folders="shared"`: all nodes see them under one path), or nodes
keep folders of their own and carry checkpoints to a URL of fsspec, such as `"s3://bucket/run"`.

| who is killed | what happens |
|---|---|
| the job, a supervisor, the template | as in `frugalbo.executors.local`; the seat says so |
| an actor | its supervisor ends the job as if the controller had died; its receipt is read, or its node asked for it |
| a node | the same; where nobody is left to say, it is charged up to its last sign of life, or until it was lost |
| the controller | Ray ends its actors; `recover` reads the receipts, or asks the nodes |

All of these but the first are infrastructure: the segment is interrupted, not failed.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from frugalbo.errors import ExecutorError, FrugalWarning
from frugalbo.events import Ended, Event, Outcome, Reported
from frugalbo.executors import seat
from frugalbo.executors.base import Segment
from frugalbo.executors.cluster_slots import cluster_pool_slots, cluster_slots
from frugalbo.executors.depots import refuse_folders
from frugalbo.executors.lost import Lost, Running
from frugalbo.executors.messages import confirm, events_from_text, segment_to_json
from frugalbo.executors.nodes import Nodes, back_off_s
from frugalbo.executors.ray_cluster import Cluster, requests, sent_along
from frugalbo.executors.ray_lost import Folders, what_became_of
from frugalbo.executors.ray_places import Place, reason, refuse_for_good, shares
from frugalbo.executors.remote import Remote
from frugalbo.executors.segments import absolute
from frugalbo.executors.unseen import handed_out, note
from frugalbo.pool import Pool
from frugalbo.problem import Problem
from frugalbo.slot import Slot

_POLL_S = 10.0  # how long a seat waits for something to happen before it says that nothing did
_LOOK_S = 0.05  # how often what is found out of lost segments is looked at, and whether a seat is due again
_CHOOSY_S = 20.0  # how long a seat is asked for on other nodes than those that failed
_GATHER_S = 10.0  # how long the first seat waits for the others before the run begins
_EXIT_S = 10.0  # what seats may need above the grace to end their jobs, when the executor is left
_PATIENCE_S = 60.0  # a seat that has said nothing so long after the cap hangs
_THREADS = 4  # of a seat: one runs, one lives, two to cancel and to look


class RayExecutor(Remote):
    """Runs the segments of one problem on slots of a Ray cluster.

    Args:
        devices: Which slots, as for `cluster_slots`; all GPUs of the cluster, or else cores, if not given.
        pools: In the place of `devices` and their price.
        address: As for `ray_cluster.Cluster`.
        folders: `"shared"`, or a URL of fsspec; see the module.
        folder: Where nodes keep trials' checkpoints and logs, where folders are not shared; `~` and variables of the
            node's environment stand for what they are there.
        labels: Of each pool, the labels that its nodes carry in Ray, such as `{"spot": {"market": "spot"}}`.
        runtime_env: As for `ray.init`; a job below its `working_dir` is run from the copy that Ray sends along.
        patience_s: How long to wait for a slot that the cluster does not have (it may grow), before going on without.
        grace_s: As for `LocalExecutor`.
        preload: As for `LocalExecutor`.

    Raises:
        ExecutorError: If checkpoints cannot be carried there; on entering, if there is no such cluster, the job cannot
            be loaded, or no slot is to be had.
        ProblemError: If the job is a function that only this process has.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        devices: str | None = None,
        dollars_per_hour: float = 0.0,
        pools: Sequence[Pool] | None = None,
        address: str | None = None,
        folders: str = "shared",
        folder: str = "~/.frugalbo/worker",
        labels: Mapping[str, Mapping[str, str]] | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        patience_s: float = 300.0,
        grace_s: float = 1.5,
        preload: Sequence[str] = ("torch",),
    ) -> None:
        super().__init__(problem, patience_s=patience_s, grace_s=grace_s, preload=preload)
        refuse_folders(folders, known=("shared",))
        self._folders = Folders(folders, folder)
        self._devices, self._dollars_per_hour, self._pools = devices, dollars_per_hour, pools
        self._address = address
        self._labels = dict(labels or {})
        self._runtime_env = dict(runtime_env or {})
        self._cluster: Cluster | None = None
        self._places: list[Place] = []
        self._nodes = Nodes()

    @property
    def slots(self) -> Sequence[Slot]:
        """The slots that there are, or that the cluster may still come up with."""
        now = time.monotonic()
        return [p.slot for p in self._places if p.is_ready or p.running or now < p.since + self._patience_s]

    @property
    def nodes(self) -> Mapping[str, str]:
        """The node of each slot that has one, by Ray's id."""
        return {place.slot.name: place.node for place in self._places if place.is_ready}

    def free_slots(self) -> Sequence[Slot]:
        """The slots that are there and on which nothing runs, in a fixed order."""
        return [place.slot for place in self._places if place.is_ready and place.running is None]

    def submit(self, segment: Segment) -> None:
        """Start a segment on its slot, which must be free.

        Raises:
            ExecutorError: If the slot is not free or its node does not see the trial's folder.
        """
        self._admit(segment)
        assert self._cluster is not None
        place = next((place for place in self._places if place.slot == segment.slot), None)
        if place is None or not place.is_ready:
            raise ExecutorError(f"slot {segment.slot.name!r} is not free: it has no node now")
        segment = absolute(segment)
        own = segment if self._folders.is_shared else handed_out(segment)
        is_lost = self._folders.is_shared and not shares(self._cluster.ray, place, segment.folder.parent, self._run)
        place.running = Running(segment, time.monotonic(), self.now(), segment.start)
        if is_lost:
            self._lose(place, "its node was lost before it began")
        else:
            place.poll = place.actor.begin.remote(json.dumps(segment_to_json(own)), _POLL_S)

    def cancel(self, trial: int, outcome: Outcome = Outcome.STOPPED) -> None:
        """Ask a running trial to end; one that reached its end meanwhile is still `COMPLETED` or `PAUSED`."""
        for place in self._places:
            if place.running is not None and place.running.segment.trial == trial:
                self._ask(place, outcome)

    def _begin(self) -> None:
        self._cluster = cluster = Cluster(self._address, runtime_env=self._runtime_env)
        there = {"cpus": cluster.total("CPU"), "gpus": cluster.total("GPU")}
        if self._pools is not None:
            slots = cluster_pool_slots(self._pools, **there)
        else:
            slots = cluster_slots(self._devices, **there, dollars_per_hour=self._dollars_per_hour)
        self._places = [Place(slot, since=time.monotonic()) for slot in slots]

    def _end(self) -> None:
        for place in self._places:
            if place.running is not None:
                self._ask(place, Outcome.INTERRUPTED)
        self._drain(self._grace_s + _EXIT_S + self._folders.carry_s)
        for place in self._places:
            if place.running is not None:
                self._lose(place, "its seat did not answer")
        self._drain(self._grace_s + _EXIT_S)

    def _drain(self, timeout_s: float) -> None:
        give_up = time.monotonic() + timeout_s
        while any(place.running for place in self._places) and time.monotonic() < give_up:
            self._collect(0.5)

    def _find_out(self, lost: Lost) -> list[Event]:
        assert self._cluster is not None
        return what_became_of(lost, self._cluster, self._folders, now=self.now)

    def _none_left(self) -> str:
        return f"the cluster had no node for any slot for {self._patience_s:.0f} s"

    def _known(self) -> list[Slot]:
        return [place.slot for place in self._places]

    def _segments(self) -> dict[str, Segment]:
        return {place.slot.name: place.running.segment for place in self._places if place.running is not None}

    # Seats

    def _gather(self) -> None:
        """Wait for the seats: all of them, or, a while after the first, those that there are."""
        began, first = time.monotonic(), None
        while not all(place.is_ready for place in self._places):
            now = time.monotonic()
            if any(place.is_ready for place in self._places):
                first = now if first is None else first
                if now > first + _GATHER_S:
                    there = f"{len(self.free_slots())} of {len(self._places)} slots"
                    message = f"the run begins with {there}; the others join it when the cluster has room for them"
                    warnings.warn(message, FrugalWarning, stacklevel=3)
                    return
            elif now > began + self._patience_s:
                assert self._cluster is not None
                has = f"{self._cluster.total('CPU'):g} cores and {self._cluster.total('GPU'):g} GPUs"
                wanted = self._places[0].slot
                asked = f"{wanted.threads} cores" + (f" and {wanted.devices:g} GPUs" if wanted.kind == "cuda" else "")
                raise ExecutorError(f"no slot of {asked} was to be had in {self._patience_s:.0f} s; it has {has}")
            self._collect(0.5)

    def _open(self, place: Place, *, anywhere: bool = False) -> None:
        """Ask for a seat, for a while on nodes that are not avoided alone: the others may be full."""
        assert self._cluster is not None
        from frugalbo.executors.ray_seat import RaySeat

        ray = self._cluster.ray
        avoided = [] if anywhere else self._nodes.avoided(self._cluster.alive_nodes())
        place.choosy_until = time.monotonic() + _CHOOSY_S if avoided else math.inf
        asked = requests(place.slot, self._labels.get(place.slot.pool, {}), avoided)
        place.actor = ray.remote(RaySeat).options(max_concurrency=_THREADS, max_restarts=0, **asked).remote()
        order = seat.order(
            self._problem, place.slot, grace_s=self._grace_s, preload=self._preload,
            sent=sent_along(self._runtime_env), depot=self._folders.depot,
        )  # fmt: skip
        place.opening = place.actor.open.remote(json.dumps(order))

    def _opened(self, place: Place, said: str) -> None:
        record = json.loads(said)
        if "error" in record:
            raise ExecutorError(record["error"])
        place.opening, place.node = None, record["node"]
        place.life = place.actor.live.remote()

    def _lose(self, place: Place, why: str, *, preempted: bool = False) -> None:
        """The seat is gone: find out what became of its segment, and ask for another one."""
        assert self._cluster is not None
        if place.actor is not None:
            self._cluster.ray.kill(place.actor)
        running, node = place.running, place.node
        if node:
            self._nodes.note(node, well=False)
        place.failures += 1
        place.actor = place.opening = place.life = place.poll = None
        place.node, place.seen = "", set()
        place.since = time.monotonic()
        place.due = place.since + back_off_s(place.failures)
        if running is not None and running.finding_out is None:
            objective = self._problem.objective.metric
            lost = running.lost(objective, self._grace_s, why=why, node=node, preempted=preempted)
            running.finding_out = self._finders.submit(
                what_became_of, lost, self._cluster, self._folders, now=self.now, submitted=running.submitted
            )

    # Segments

    def _ask(self, place: Place, outcome: Outcome) -> None:
        running = place.running
        if running is not None and running.asked is None:
            running.asked = outcome
            if place.is_ready and running.finding_out is None:
                place.actor.cancel.remote(running.segment.trial, running.segment.number, str(outcome))

    def _collect(self, timeout_s: float) -> None:
        """Take in what seats say, at most one instant's worth; waits for the first word."""
        assert self._cluster is not None
        ray = self._cluster.ray
        now = time.monotonic()
        for place in self._places:
            running = place.running
            is_heard = place.is_ready and running and running.finding_out is None
            patience_s = _PATIENCE_S + self._folders.carry_s
            if running and is_heard and now > running.submitted + running.segment.cap_s + patience_s:
                self._lose(place, "its seat said nothing long after the cap")
            if place.actor is None and now >= place.due:
                self._open(place)
            elif place.opening is not None and now > place.choosy_until:
                ray.kill(place.actor)
                self._open(place, anywhere=True)
        waiting = {
            ref: place for place in self._places for ref in (place.opening, place.life, place.poll) if ref is not None
        }
        if any(place.actor is None or (place.running and place.running.finding_out) for place in self._places):
            timeout_s = min(timeout_s, _LOOK_S)
        if waiting:
            refs = list(waiting)
            ready, _ = ray.wait(refs, num_returns=1, timeout=max(0.0, timeout_s), fetch_local=False)
            if ready:
                ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)
            for ref in sorted(ready, key=lambda ref: ref == waiting[ref].life):  # what it said before it died
                self._hear(waiting[ref], ref)
        elif timeout_s > 0:
            time.sleep(timeout_s)
        for place in self._places:
            if place.running and (found := place.running.finding_out) and found.done():
                self._take(place, found.result(), is_lost=True)

    def _hear(self, place: Place, ref: Any) -> None:  # noqa: ANN401 - a reference of Ray's
        assert self._cluster is not None
        errors = self._cluster.ray.exceptions
        if ref not in (place.opening, place.poll, place.life):
            return None  # of a seat that was lost a moment ago
        try:
            said = self._cluster.ray.get(ref)
        except errors.RayActorError as error:
            refuse_for_good(error, is_opening=ref == place.opening)
            return self._lose(place, f"its node or its seat there was lost: {reason(error)}", preempted=error.preempted)
        except errors.RayError as error:  # something in the seat, such as a full disk
            return self._lose(place, f"its seat could not go on: {reason(error)}")
        if ref == place.opening:
            return self._opened(place, said)
        place.poll = None
        self._take(place, events_from_text(said), is_lost=False)
        if place.running is not None:
            place.poll = place.actor.events.remote(_POLL_S)
        return None

    def _take(self, place: Place, events: Sequence[Event], *, is_lost: bool) -> None:
        """Hand on the events of a segment; stamps are put between its start and now, whatever the node's clock says."""
        running = place.running
        assert running is not None
        for event in events:
            event = replace(event, at=min(max(event.at, running.at), self.now()))
            if isinstance(event, Reported) and event.step > running.last:
                running.last = event.step
            elif isinstance(event, Ended):
                event = confirm(event, running.segment, time.monotonic() - running.submitted)
                place.running = None
                if not is_lost:
                    place.failures = 0
                    self._nodes.note(place.node, well=True)
            else:
                continue
            if not self._folders.is_shared:
                note(running.segment, event)
            self._events.append(event)

    def _close(self) -> None:
        """Leave nothing."""
        if self._cluster is None:
            return
        ray = self._cluster.ray
        closing = [place.actor.close.remote() for place in self._places if place.actor is not None and place.is_ready]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=self._grace_s + _EXIT_S)
        for place in self._places:
            if place.actor is not None:
                ray.kill(place.actor)
            place.running = None
            place.actor = place.opening = place.life = place.poll = None
        self._places = []
        self._cluster.close()
        self._cluster = None
