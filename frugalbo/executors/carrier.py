"""Who carries the checkpoints of segments that run here, in folders that no other machine sees, to and from a depot."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from frugalbo.errors import FrugalError
from frugalbo.events import Ended
from frugalbo.executors.base import Segment
from frugalbo.executors.carried import Depot, newest
from frugalbo.executors.http_client import UnreachableError
from frugalbo.executors.http_registry import BusyError
from frugalbo.executors.segments import SegmentFolder
from frugalbo.job import checkpoints

LOOK_S = 1.0  # how often it is looked whether there are new checkpoints to carry
_AGAIN_S = 0.5  # until a depot that did not answer is asked again


class Carrier:
    """Carries one checkpoint after the other, in a thread of its own.

    Args:
        is_over: Whether nobody waits any more for what is carried.
    """

    def __init__(self, depot: Depot, *, is_over: Callable[[], bool] = lambda: False) -> None:
        self._depot, self._is_over = depot, is_over
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="frugalbo-carry")
        self._carried: dict[tuple[int, int], int] = {}  # the last step of a segment that is in the depot
        self._look_at = 0.0

    def fetch(self, segment: Segment) -> Future[None]:
        """Have the checkpoint here that a segment goes on from; the future may raise `FrugalError` or `OSError`."""
        return self._thread.submit(self._fetch, segment)

    def look(self, running: Iterable[Segment]) -> None:
        """Carry new checkpoints of what runs, so that no more is lost with this machine than what came after them.

        To be called often; it looks every `LOOK_S`.
        """
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOK_S
        for segment in running:
            # Not that of the last step: until its report is there as well, it may have to be done again.
            self._thread.submit(self._carry, segment, segment.until - 1)

    def end(self, segment: Segment, ended: Ended) -> Future[Ended]:
        """The end of a segment, with the checkpoint that is where others can get it."""
        return self._thread.submit(self._end, segment, ended)

    def close(self) -> None:
        """Carry nothing more than what is on its way; the futures of the rest are cancelled."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _fetch(self, segment: Segment) -> None:
        files = SegmentFolder(segment.folder, segment.number)
        files.checkpoint_dir.mkdir(parents=True, exist_ok=True)
        if segment.start not in dict(checkpoints(files.checkpoint_dir)):
            self._depot.get(segment, f"step-{segment.start}.ckpt")

    def _carry(self, segment: Segment, most: int) -> int:
        """Carry the newest checkpoint of a segment up to step `most`, if it was not carried yet; returns its step."""
        folder = SegmentFolder(segment.folder, segment.number).checkpoint_dir
        found = newest(folder, most)
        if found is not None and found[0] > self._last(segment):
            step, name = found
            try:
                self._depot.put(segment, name)
                self._carried[segment.trial, segment.number] = step
            except FileNotFoundError:
                if (folder / name).exists():  # else the job has saved a newer one meanwhile
                    raise
        return self._last(segment)

    def _end(self, segment: Segment, ended: Ended) -> Ended:
        while not self._is_over():
            try:
                return replace(ended, checkpoint=self._carry(segment, ended.checkpoint))
            except (UnreachableError, BusyError):
                time.sleep(_AGAIN_S)
            except (FrugalError, OSError) as error:
                message = f"{ended.message}; its checkpoint cannot be carried: {error}".lstrip("; ")
                return replace(ended, checkpoint=self._last(segment), message=message)
        return ended

    def _last(self, segment: Segment) -> int:
        return self._carried.get((segment.trial, segment.number), segment.start)
