"""Bandits: which of a few arms next, when each pull tells only of the arm that was pulled.

All of them are `Bandit`s: `select(rng)` an arm, `update(arm, reward, cost)`, `to_json` and `from_json`.
docs/bandits.md says which one is for what. Needs numpy alone.
"""

from collections.abc import Mapping
from typing import Any

from frugalbo.bandits.adversarial import Exp3, Exp3IX, LogBarrier, TsallisINF
from frugalbo.bandits.contract import Bandit, MixedBandit
from frugalbo.bandits.knapsack import KnapsackBandit, LagrangeBwK, UCBBwK
from frugalbo.bandits.minimax import MinimaxSearch
from frugalbo.bandits.stochastic import KLUCB, UCB1, EpsilonGreedy, SequentialHalving, SuccessiveElimination
from frugalbo.bandits.switching import BatchedExp3, ShrinkingDartboard
from frugalbo.bandits.tallying import WarmupElimination
from frugalbo.bandits.thompson import BetaThompson, GaussianThompson
from frugalbo.errors import BanditError

KINDS: dict[str, type[Bandit]] = {
    kind.__name__: kind
    for kind in (
        UCB1,
        KLUCB,
        EpsilonGreedy,
        SuccessiveElimination,
        SequentialHalving,
        MinimaxSearch,
        BetaThompson,
        GaussianThompson,
        Exp3,
        Exp3IX,
        TsallisINF,
        LogBarrier,
        UCBBwK,
        LagrangeBwK,
        BatchedExp3,
        ShrinkingDartboard,
        WarmupElimination,
    )
}


def bandit_from_json(data: Mapping[str, Any]) -> Bandit:
    """The bandit that `to_json` told of, whatever its kind.

    Raises:
        BanditError: If there is no such kind, or its settings or state do not fit.
    """
    kind = KINDS.get(data.get("kind", ""))
    if kind is None:
        raise BanditError(f"expected a kind of {sorted(KINDS)}, got {data.get('kind')!r}")
    return kind.from_json(data)


__all__ = [
    "KINDS",
    "KLUCB",
    "UCB1",
    "Bandit",
    "BatchedExp3",
    "BetaThompson",
    "EpsilonGreedy",
    "Exp3",
    "Exp3IX",
    "GaussianThompson",
    "KnapsackBandit",
    "LagrangeBwK",
    "LogBarrier",
    "MinimaxSearch",
    "MixedBandit",
    "SequentialHalving",
    "ShrinkingDartboard",
    "SuccessiveElimination",
    "TsallisINF",
    "UCBBwK",
    "WarmupElimination",
    "bandit_from_json",
]
