"""ASHA: whoever is among the best of a rung goes on, and nobody waits for the rest of it.

Source: Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020 (arXiv:1810.05934),
algorithm 2, with its `s = 0`: for each free worker, from the highest rung but one down, send on the best of those
who are in the top `floor(n / eta)` of the n that have arrived at the rung and were not sent on yet; if
there is none, start a new configuration at the lowest rung. Deviations: those of `PromotingScheduler`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from frugalbo.budget.cost import CostModel
from frugalbo.propose.base import Proposer
from frugalbo.scheduler.promoting import PromotingScheduler, climb
from frugalbo.scheduler.rungs import Standings, check_eta


class AshaScheduler(PromotingScheduler):
    """Asynchronous successive halving, in the form that promotes.

    Args:
        keep: Of how many that arrived at a rung one goes on; by default, and as published, `eta`: the factor
            between rungs.

    Raises:
        SchedulerError: If `eta` or `keep` is no whole number of at least 2.
    """

    def __init__(
        self,
        proposer: Proposer,
        cost_model: CostModel | None = None,
        *,
        trial_cap_s: float | None = None,
        eta: int = 3,
        keep: int | None = None,
    ) -> None:
        super().__init__(proposer, cost_model, trial_cap_s=trial_cap_s, eta=eta)
        self.keep = self.eta if keep is None else check_eta(keep, "keep")

    def _bracket_of(self, levels: Sequence[int], index: int) -> tuple[int, Sequence[int]]:
        del index
        return 0, levels

    def _earned(self, standings: Standings) -> Iterable[tuple[int, int]]:
        for rungs in standings.brackets.values():
            for _, rung, to in climb(rungs):
                yield from ((entrant, to) for entrant in rung.best_waiting(len(rung.arrived) // self.keep))
