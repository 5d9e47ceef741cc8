"""Segments in folders that only the machine which runs them sees: what their controller notes, and what became of one.

It keeps reports and ends in the trial's folder of its own, as supervisors do where folders are shared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from frugalbo.events import Ended, Event, Outcome, Reported
from frugalbo.executors.base import Segment
from frugalbo.executors.depots import carried_as, newest_step
from frugalbo.executors.lost import Lost, explained
from frugalbo.executors.messages import events_from_text
from frugalbo.executors.recovery import charge, end_unseen, segment_of
from frugalbo.executors.segments import ReportReader, ReportWriter, SegmentFolder, reached


def handed_out(segment: Segment) -> Segment:
    """A segment as it is told to the machine that runs it, once its folder here is ready for what is noted of it."""
    SegmentFolder(segment.folder, segment.number).create()
    return replace(segment, folder=carried_as(segment.folder))


def note(segment: Segment, event: Reported | Ended) -> None:
    """Keep what was heard of a segment."""
    files = SegmentFolder(segment.folder, segment.number)
    if isinstance(event, Ended):
        files.write_receipt(event)
        return
    writer = ReportWriter(files.reports)
    writer.write(event.step, event.metrics, event.at)
    writer.close()


def find_out_unseen(
    lost: Lost, folders: str, *, ask: Callable[[], str | None], now: Callable[[], float], submitted: float | None
) -> list[Event]:
    """The late reports of a lost segment and its `Ended`.

    `ask` gives what the machine that ran it says, as `seat.recover_own` does, or None if nobody can say. Then the trial
    goes on from the newest checkpoint of `folders` (as for `HttpExecutor`), and the segment is charged until now, when
    it must have ended, at most what was held. It began when it was `submitted`, by the monotonic clock, if this
    controller has done so, else when its `Started` says.

    Raises:
        OSError: If there is storage of objects that does not answer.
    """
    started, files = lost.started, SegmentFolder(lost.folder, lost.started.segment)
    reports = ReportReader(files, started.trial, started.start, started.until).read()
    if (receipt := files.read_receipt()) is not None:
        return [*reports, receipt]
    if (said := ask()) is not None:
        *reports, ended = events_from_text(said)
        assert isinstance(ended, Ended)
    else:
        # A last step that was saved and not reported is done again, as in `segments.goes_on_from`.
        most = started.until if reached(reports, lost.objective, started.until) else started.until - 1
        segment = segment_of(started, lost.folder, [lost.slot])
        lived_s = max(0.0, now() - started.at) if submitted is None else time.monotonic() - submitted
        ended = end_unseen(
            segment,
            files,
            lost.objective,
            used=charge(started, segment, lived_s),
            at=now(),
            cancelled=lost.asked == Outcome.STOPPED,
            checkpoint=newest_step(folders, lost.folder, most),
        )
        ended = replace(ended, log_tail="")
    return [*(late for late in reports if isinstance(late, Reported) and late.step > lost.last), explained(lost, ended)]
