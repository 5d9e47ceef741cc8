"""What a controller and a seat on another machine say to each other: JSON, never pickles."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from frugalbo.events import Ended, Event, event_from_json, event_to_json
from frugalbo.executors.base import Segment
from frugalbo.slot import Slot

# What clocks and rounding may differ by before a node's word on seconds is doubted.
_TOLERANCE_S = 0.05


def segment_to_json(segment: Segment) -> dict[str, Any]:
    """A segment as plain JSON types."""
    return {**asdict(segment), "folder": str(segment.folder)}


def segment_from_json(record: Mapping[str, Any]) -> Segment:
    """The segment that `segment_to_json` wrote."""
    fields = dict(record)
    fields.update(slot=Slot(**record["slot"]), folder=Path(record["folder"]))
    return Segment(**fields)


def events_to_text(events: Sequence[Event]) -> str:
    """Events as one text."""
    return json.dumps([event_to_json(event) for event in events])


def events_from_text(text: str) -> list[Event]:
    """The events that `events_to_text` wrote.

    Raises:
        StudyError: If one is none.
    """
    return [event_from_json(record) for record in json.loads(text)]


def confirm(ended: Ended, segment: Segment, elapsed_s: float) -> Ended:
    """An end as it is charged: a node that says it used more time than has passed here is not believed.

    That is `elapsed_s`, between submitting the segment and hearing of its end, by the controller's clock.
    """
    most = elapsed_s * segment.slot.devices
    used = ended.used
    if used.device_seconds <= most + _TOLERANCE_S * segment.slot.devices:
        return ended
    share = most / used.device_seconds
    charged = replace(used, device_seconds=most, dollars=used.dollars * share)
    doubt = f"its node measured {used.device_seconds:.4g} device-seconds in {elapsed_s:.4g} s"
    return replace(ended, used=charged, message=f"{ended.message}; {doubt}".lstrip("; "))
