"""Which nodes to keep away from, by what happened there. Pure: no cluster, no clocks."""

from __future__ import annotations

from collections.abc import Collection

_STRIKES = 2
_FIRST_S, _MOST_S = 1.0, 60.0


class Nodes:
    """Counts, for each node, how often in a row the infrastructure failed there."""

    def __init__(self) -> None:
        self._strikes: dict[str, int] = {}

    def note(self, node: str, *, well: bool) -> None:
        """Something ended on a node: well, or by the node's fault. What a job did wrong is not told here."""
        self._strikes[node] = 0 if well else self._strikes.get(node, 0) + 1

    @property
    def struck(self) -> list[str]:
        """Those that failed twice in a row."""
        return sorted(node for node, strikes in self._strikes.items() if strikes >= _STRIKES)

    def avoided(self, alive: Collection[str]) -> list[str]:
        """Those of `alive` that failed twice in a row, unless they are all there is."""
        bad = [node for node in self.struck if node in alive]
        return bad if len(bad) < len(alive) else []


def back_off_s(failures: int) -> float:
    """How long to wait after so many failures in a row: not after the first, then 1, 2, 4 ... s, at most a minute."""
    return 0.0 if failures <= 1 else min(_MOST_S, _FIRST_S * 2.0 ** (failures - 2))
