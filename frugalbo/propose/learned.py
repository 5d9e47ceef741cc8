"""What proposes as `metabo`: a file of weights, and what it knows of the space at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from frugalbo.space import Space

if TYPE_CHECKING:
    from frugalbo.acquisition.registry import Chosen, Situation
    from frugalbo.metabo.past import Past


class Learned:
    """A file of weights, read when it is first asked.

    Args:
        weights: Where it is; by default what comes with the package.
    """

    def __init__(self, weights: str = "") -> None:
        self._weights = weights
        self._seen: tuple[Space, Past | None] | None = None

    def past(self, space: Space) -> Past | None:
        """The earlier studies that are seen from a space; None if there are none."""
        from frugalbo.metabo.past import Past
        from frugalbo.metabo.policy import proposing

        if self._seen is None or self._seen[0] is not space:
            self._seen = space, Past.of(proposing(self._weights)[0].past, space)
        return self._seen[1]

    def choose(self, situation: Situation, space: Space) -> Chosen:
        """The acquisition, ready to be maximised."""
        from frugalbo.metabo.acquisition import choose_metabo
        from frugalbo.metabo.policy import proposing

        held, policy = proposing(self._weights)
        return choose_metabo(situation, held.network, self.past(space), policy)
