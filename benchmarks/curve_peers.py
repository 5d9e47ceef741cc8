"""Other tools' early stopping on recorded curves, each behind one small contract, and the loop that pays for it.

| name | what it is |
|---|---|
| `syne-tune-asha` | Syne Tune's `AsynchronousSuccessiveHalving`, which stops; `reduction_factor` 3 |
| `optuna-hyperband` | Optuna's `HyperbandPruner`; `reduction_factor` 3 |
| `neps-asha`, `neps-hyperband` | NePS's, which pause and go on: see `curve_neps` |

The first two decide after each report whether a running trial goes on. They are used as they come, but for the
configurations: all who race take those of the table in the same random order. The answer is picked by the
same rule for all: the best of those that ran to the end, else the best of those that got furthest.
"""

from __future__ import annotations

import heapq
import importlib.metadata
import importlib.util
import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from benchmarks import curve_neps
from benchmarks.curve_tables import CurveTable
from frugalbo.space import Params

PACKAGES = {
    "syne-tune-asha": "syne-tune",
    "optuna-hyperband": "optuna",
    **dict.fromkeys(curve_neps.NAMES, "neural-pipeline-search"),
}
REVISION = 1  # another number where adapters or loop change what comes out
_MODULES = {"syne-tune": "syne_tune", "optuna": "optuna", "neural-pipeline-search": "neps"}


class Stopper(Protocol):
    """Says after each report whether a trial goes on; losses are to be minimised."""

    def begin(self, trial: int) -> None:
        """A trial starts; they are numbered from 0."""
        ...

    def goes_on(self, trial: int, step: int, loss: float) -> bool:
        """Whether a trial goes on after what it reported; also called with its last report."""
        ...

    def end(self, trial: int, *, step: int, loss: float, failed: bool, full: bool) -> None:
        """A trial is over, stopped or not; with its last report."""
        ...


@dataclass(slots=True)
class Ran:
    """A trial as far as it was paid for; the loss is that of its last report."""

    row: int
    step: int = 0
    loss: float = math.inf
    failed: bool = False


def is_installed(name: str) -> bool:
    """Whether a peer can race."""
    return importlib.util.find_spec(_MODULES[PACKAGES[name]]) is not None


def version(name: str) -> str:
    """What a record of a peer is valid for."""
    return f"{PACKAGES[name]} {importlib.metadata.version(PACKAGES[name])}, r{REVISION}"


def race(name: str, table: CurveTable, order: Sequence[int], *, budget_s: float, workers: int, seed: int) -> list[Ran]:
    """The trials of a peer, by number."""
    if name in curve_neps.NAMES:
        return curve_neps.drive(name, table, order, budget_s=budget_s, workers=workers, seed=seed)
    return drive(make_stopper(name, table, seed), table, order, budget_s=budget_s, workers=workers)


def drive(stopper: Stopper, table: CurveTable, order: Sequence[int], *, budget_s: float, workers: int) -> list[Ran]:
    """Spend `budget_s` device-seconds of all workers on a virtual clock; the trials by number.

    A step is begun only if all steps that run can be paid to their ends, as each costs what the table says.
    """
    now, left = 0.0, budget_s
    trials: list[Ran] = []
    running: list[tuple[float, int]] = []  # when the next step ends, and whose it is

    def step_on(number: int) -> bool:
        nonlocal left
        ran = trials[number]
        if ran.step >= table.lengths[ran.row]:
            return False
        before = table.seconds[ran.row, ran.step - 1] if ran.step else 0.0
        seconds = float(table.seconds[ran.row, ran.step] - before)
        if seconds > left * (1 + 1e-9):
            return False
        left -= seconds
        heapq.heappush(running, (now + seconds, number))
        return True

    waiting = list(order)[::-1]
    while True:
        while waiting and len(running) < workers and left > 0:
            number = len(trials)
            trials.append(Ran(int(waiting.pop())))
            stopper.begin(number)
            if not step_on(number):
                trials[number].failed = True
                stopper.end(number, step=0, loss=math.inf, failed=True, full=False)
                if table.lengths[trials[number].row]:
                    waiting.clear()  # it could not be paid for
        if not running:
            return trials
        now, number = heapq.heappop(running)
        ran = trials[number]
        ran.step += 1
        loss = float(table.losses[ran.row, ran.step - 1])
        ran.failed = not math.isfinite(loss) or ran.step == table.lengths[ran.row] < table.steps
        if not ran.failed:
            ran.loss = loss
        full = ran.step == table.steps
        goes_on = not ran.failed and stopper.goes_on(number, ran.step, loss) and not full and step_on(number)
        if not goes_on:
            stopper.end(number, step=ran.step, loss=ran.loss, failed=ran.failed, full=full and not ran.failed)


def answer(table: CurveTable, trials: Sequence[Ran]) -> Params | None:
    """The best of those that ran furthest; None if all failed."""
    whole = [ran for ran in trials if not ran.failed and ran.step]
    furthest = max((ran.step for ran in whole), default=0)
    best = min((ran for ran in whole if ran.step == furthest), key=lambda ran: ran.loss, default=None)
    return None if best is None else table.configurations[best.row]


def make_stopper(name: str, table: CurveTable, seed: int) -> Stopper:
    """The peer of that name that stops trials."""
    return SyneTuneAsha(table, seed) if name == "syne-tune-asha" else OptunaHyperband(table, seed)


class SyneTuneAsha:
    """Syne Tune's ASHA."""

    def __init__(self, table: CurveTable, seed: int) -> None:
        from syne_tune.backend.trial_status import Trial  # pyright: ignore[reportMissingImports]
        from syne_tune.config_space import uniform  # pyright: ignore[reportMissingImports]
        from syne_tune.optimizer.schedulers.asha import AsynchronousSuccessiveHalving  # pyright: ignore[reportMissingImports]

        logging.getLogger("syne_tune").setLevel(logging.ERROR)
        self._trial: Any = Trial
        self._asha: Any = AsynchronousSuccessiveHalving(
            {"x": uniform(0, 1)}, "loss", time_attr="step", max_t=table.steps, random_seed=seed
        )
        self._trials: dict[int, Any] = {}

    def begin(self, trial: int) -> None:
        """Its own suggestion only stands for one of the table's configurations."""
        config = self._asha.suggest().config
        self._trials[trial] = self._trial(trial, config, datetime.now(UTC))
        self._asha.on_trial_add(self._trials[trial])

    def goes_on(self, trial: int, step: int, loss: float) -> bool:
        """What the scheduler decides."""
        return str(self._asha.on_trial_result(self._trials[trial], {"loss": loss, "step": step})) == "CONTINUE"

    def end(self, trial: int, *, step: int, loss: float, failed: bool, full: bool) -> None:
        """Told of failures alone: the rest it knows."""
        if failed:
            self._asha.on_trial_error(self._trials[trial])


class OptunaHyperband:
    """Optuna's Hyperband pruner."""

    def __init__(self, table: CurveTable, seed: int) -> None:
        import optuna  # pyright: ignore[reportMissingImports]

        warnings.filterwarnings("ignore", module=r"optuna\b.*")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna: Any = optuna
        pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=table.steps, reduction_factor=3)
        sampler = optuna.samplers.RandomSampler(seed=seed)
        # Its brackets are drawn from the study's name and the trial's number.
        self._study = optuna.create_study(study_name=f"{table.name}-{seed}", sampler=sampler, pruner=pruner)
        self._trials: dict[int, Any] = {}

    def begin(self, trial: int) -> None:
        """A trial without parameters."""
        self._trials[trial] = self._study.ask()

    def goes_on(self, trial: int, step: int, loss: float) -> bool:
        """What the pruner decides."""
        self._trials[trial].report(loss, step)
        return not self._trials[trial].should_prune()

    def end(self, trial: int, *, step: int, loss: float, failed: bool, full: bool) -> None:
        """Complete, pruned or failed."""
        states = self._optuna.trial.TrialState
        state = states.COMPLETE if full else states.FAIL if failed else states.PRUNED
        self._study.tell(self._trials[trial], loss if full else None, state=state)
