"""What runs in a Slurm job: one segment, on a seat, with everything said in files.

    python -m frugalbo.executors.slurm_job SEGMENT_FOLDER

| file in the segment's folder | written by | holds |
|---|---|---|
| `slurm.json` | the controller | what `Seat.open` and `Seat.begin` are told |
| `asked` | the controller | the outcome that it was asked to end as |
| `refused` | here | why no segment can run here at all |
| those of `frugalbo.executors.segments` | the supervisor | reports, signs of life, the receipt |

SIGUSR1 and SIGTERM mean that it is to end: because the controller asks it to, Slurm takes the node away, or
its time limit is near. The job is given its grace to save, as on one machine.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from frugalbo.events import Ended, Outcome
from frugalbo.executors.messages import events_from_text
from frugalbo.executors.seat import Seat
from frugalbo.executors.segments import SegmentFolder

ASKED, REFUSED, ORDER = "asked", "refused", "slurm.json"
_LOOK_S = 0.2  # how often it is looked whether the job is to end


def read_asked(folder: Path) -> Outcome | None:
    """What a segment was asked to end as; None if it was not."""
    try:
        return Outcome((folder / ASKED).read_text())
    except (OSError, ValueError):
        return None


def run(folder: Path) -> None:
    """Run the segment of a folder to its end, unless it was given up before it could begin."""
    signals: list[int] = []
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, lambda number, _: signals.append(number))
    order: dict[str, Any] = json.loads((folder / ORDER).read_text())
    segment = order["segment"]
    files = SegmentFolder(folder.parent, segment["number"])
    if read_asked(folder) is not None or files.read_receipt() is not None or "SLURM_RESTART_COUNT" in os.environ:
        return
    seat = Seat()
    said = json.loads(seat.open(json.dumps(order["seat"])))
    if "error" in said:
        partial = folder / f"{REFUSED}.partial"
        partial.write_text(said["error"])
        partial.replace(folder / REFUSED)
        return
    try:
        events = seat.begin(json.dumps(segment), _LOOK_S)
        is_asked = False
        while not any(isinstance(event, Ended) for event in events_from_text(events)):
            asked = read_asked(folder) or (Outcome.INTERRUPTED if signals else None)
            if asked is not None and not is_asked:
                seat.cancel(segment["trial"], segment["number"], asked)
                is_asked = True
            events = seat.events(_LOOK_S)
    finally:
        seat.close()


if __name__ == "__main__":
    run(Path(sys.argv[1]))
