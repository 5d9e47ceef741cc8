"""Which configuration next? `make_proposer` gives what answers; nothing here imports torch.

| method | what it does |
|---|---|
| `auto` | one of `pbgi`, `ei`, `nei`, `qei` and `bmsei`, by what is at stake; `why["because"]` says which and why |
| `bo` | the defaults and a few Sobol points, then expected improvement per cost, cooled |
| `pbgi` | the same with the Pandora's-box Gittins index, which knows costs too |
| `bmsei` | the same with budgeted multi-step lookahead: as many trials ahead as the budget pays for, up to two |
| `metabo` | the same with a network that has seen tuning before, weighed against the Gaussian process by evidence |
| `metabo:FILE` | the same with weights of one's own, which may know earlier studies |
| `ei`, `logei` | the same with expected improvement, whatever it costs |
| `qei` | the same over a batch and what is pending, jointly |
| `nei` | noisy expected improvement |
| `ucb` | the upper confidence bound |
| `kg` | the knowledge gradient |
| `mes`, `jes`, `pes` | max-value, joint and predictive entropy search |
| `ts` | Thompson sampling, of batches in-slate |
| `sobol` | the defaults, then scrambled Sobol points |
| `random` | uniformly random points |
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from frugalbo.budget.worth import MinGain
from frugalbo.errors import FrugalError
from frugalbo.problem import Problem
from frugalbo.propose.base import Preparing, Proposer, Suggestion
from frugalbo.propose.initial import InitialDesign, initial_trials
from frugalbo.propose.random import RandomProposer
from frugalbo.propose.sobol import SobolProposer
from frugalbo.study import Study

if TYPE_CHECKING:
    from frugalbo.propose.bo import BayesianProposer

__all__ = [
    "LIGHT",
    "METHODS",
    "MethodError",
    "Preparing",
    "Proposer",
    "Suggestion",
    "initial_trials",
    "make_proposer",
    "preload",
]

_loaded = Event()

LIGHT = ("sobol", "random")  # without a model
METHODS = (
    *("auto", "bo", "pbgi", "bmsei", "metabo", "ei", "logei", "qei", "nei", "ucb", "kg", "mes", "jes", "pes", "ts"),
    *LIGHT,
)


class MethodError(FrugalError, ValueError):
    """A method of proposing that does not exist."""


def make_proposer(
    method: str, problem: Problem, *, seed: int, min_gain: MinGain | None = None, stop_regret: float | None = None
) -> Proposer:
    """The proposer of that name; with `min_gain` or `stop_regret`, it says when nothing is worth suggesting any more.

    Raises:
        MethodError: If there is none, and says which there are; or it expects nothing, but is to stop by that.
    """
    if min_gain is not None and method in LIGHT:
        raise MethodError(f"min_gain needs a method that predicts gains, such as 'auto'; {method!r} does not")
    if stop_regret is not None and method in LIGHT:
        raise MethodError(f"stop_regret needs a method with a model, such as 'auto'; {method!r} has none")
    if method == "random":
        return RandomProposer(seed=seed)
    if method == "sobol":
        return SobolProposer(seed=seed)
    base, _, weights = method.partition(":")
    if weights and base == "metabo" and not Path(weights).is_file():
        raise MethodError(f"expected a file of weights for method 'metabo', got {weights!r}, which is none")
    if base in METHODS and (base == method or (base == "metabo" and weights)):
        return _LateBO(problem, seed, base, min_gain, stop_regret, weights)
    raise MethodError(f"unknown method {method!r}; expected one of {', '.join(METHODS)}")


def preload() -> None:
    """Import what the first Bayesian suggestion will need (some seconds); may be called in a thread."""
    importlib.import_module("frugalbo.propose.bo")
    _loaded.set()


class _LateBO:
    """Bayesian optimisation that imports torch when its model is first asked, not before."""

    def __init__(
        self,
        problem: Problem,
        seed: int,
        method: str,
        min_gain: MinGain | None,
        stop_regret: float | None,
        weights: str,
    ) -> None:
        self._method = method
        self._weights = weights
        self._min_gain = min_gain
        self._stop_regret = stop_regret
        self._initial = initial_trials(problem)
        self._seed = seed
        self._design = InitialDesign(seed=seed)
        self._bo: BayesianProposer | None = None

    def propose(self, study: Study, n: int) -> Sequence[Suggestion]:
        """The next `n` configurations; fewer if the space is exhausted."""
        if len(study.trials) + n <= self._initial and not self._weights:
            return self._design.propose(study, n)
        return self._model_based().propose(study, n)

    def prepare(self, study: Study, is_over: Callable[[], bool]) -> None:
        """As `BayesianProposer.prepare`; nothing while its imports are under way."""
        if _loaded.is_set():
            self._model_based().prepare(study, is_over)

    def _model_based(self) -> BayesianProposer:
        if self._bo is None:
            from frugalbo.propose.bo import BayesianProposer

            self._bo = BayesianProposer(
                seed=self._seed, method=self._method, min_gain=self._min_gain, stop_regret=self._stop_regret,
                weights=self._weights,
            )  # fmt: skip
        return self._bo
