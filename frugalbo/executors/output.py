"""What a command prints, read as reports: each line of its standard output that is a JSON object.

An object with a `step` reports its numbers after that step. One without, that has the objective,
is the result: the last of these counts, for the last granted step, once the command has ended well.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping

from frugalbo.executors.segments import LINE_BYTES


class ReportParser:
    """Turns the output of a command into reports, piece by piece.

    Args:
        start: Steps already done.
        until: The last step granted.
        sink: Takes step and metrics of each report.
    """

    def __init__(
        self, objective: str, start: int, until: int, sink: Callable[[int, Mapping[str, float]], None]
    ) -> None:
        self._objective, self._start, self._until = objective, start, until
        self._sink = sink
        self._last = start
        self._line = bytearray()
        self._too_long = False
        self._result: dict[str, float] | None = None
        self.refused = ""
        self.diverged = False

    def feed(self, text: bytes) -> None:
        """Take in what was printed next."""
        *whole, rest = text.split(b"\n")
        for piece in whole:
            self._add(piece)
            if not self._too_long:
                self._parse(bytes(self._line))
            self._line.clear()
            self._too_long = False
        self._add(rest)

    def finish(self, *, well: bool) -> None:
        """The command has ended; a last line without its end still counts."""
        self.feed(b"\n")
        if well and self._result is not None and self._last < self._until:
            self._report(self._until, self._result)

    def _add(self, piece: bytes) -> None:
        if self._too_long or len(self._line) + len(piece) > LINE_BYTES:
            self._too_long = True
            self._line.clear()
        else:
            self._line += piece

    def _parse(self, line: bytes) -> None:
        line = line.strip()
        if not (line.startswith(b"{") and line.endswith(b"}")):
            return
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            return
        metrics = {name: value for name, raw in record.items() if (value := _number(raw)) is not None}
        if "step" not in record:
            if self._objective in metrics:
                self.diverged |= not math.isfinite(metrics[self._objective])
                self._result = metrics
                if self.diverged and self._last < self._until:
                    self._report(self._until, metrics)
            return
        step = metrics.pop("step", None)
        if step is None or not step.is_integer():
            self._refuse(f"a report needs a whole step, got {str(record['step'])[:50]!r}")
        elif not self._start < step <= self._until:
            self._refuse(f"it reported step {step:.0f}, granted were {self._start + 1} to {self._until}")
        elif step > self._last:
            self._report(int(step), metrics)

    def _report(self, step: int, metrics: Mapping[str, float]) -> None:
        self._last = step
        try:
            self._sink(step, metrics)
        except ValueError as error:  # it is too long
            self._refuse(str(error))
        self.diverged |= not math.isfinite(metrics.get(self._objective, 0.0))

    def _refuse(self, why: str) -> None:
        self.refused = self.refused or why


def _number(value: object) -> float | None:
    """A metric; texts such as "nan" too, as strict JSON cannot say it otherwise."""
    if isinstance(value, str) and value.strip().lower().lstrip("+-") in ("nan", "inf", "infinity"):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.copysign(math.inf, value)
