"""What happens next: start a configuration, resume a paused one, stop a running one.

| scheduler | what it does |
|---|---|
| `auto` | `freeze-thaw` where trials can be held and resumed, else `fixed`; the rule is in `automatic` |
| `fixed` | every trial to its full number of steps |
| `sh` | successive halving, one bracket after the other |
| `hyperband` | all of Hyperband's brackets, round after round |
| `asha` | asynchronous successive halving: pauses every trial at each rung, and sends the best on |
| `freeze-thaw` | the same, but keeps fewer, and spends the end of the budget on those that can still finish |
| `asha-stop` | the same, but stops at each rung who is not among the best; needs no checkpoints |
| `median` | stops who is worse than the median of the completed trials was on average |
"""

from __future__ import annotations

from frugalbo.budget.cost import CostModel
from frugalbo.propose.base import Proposer
from frugalbo.scheduler.asha import AshaScheduler
from frugalbo.scheduler.automatic import AutoScheduler
from frugalbo.scheduler.base import Scheduler
from frugalbo.scheduler.fixed import FixedScheduler
from frugalbo.scheduler.freeze_thaw import FreezeThawScheduler
from frugalbo.scheduler.hyperband import HyperbandScheduler, SuccessiveHalvingScheduler
from frugalbo.scheduler.rungs import SchedulerError
from frugalbo.scheduler.stopping import AshaStoppingScheduler, MedianScheduler

__all__ = ["SCHEDULERS", "Scheduler", "SchedulerError", "make_scheduler"]

_BY_NAME: dict[str, type[FixedScheduler]] = {
    "auto": AutoScheduler,
    "fixed": FixedScheduler,
    "sh": SuccessiveHalvingScheduler,
    "hyperband": HyperbandScheduler,
    "asha": AshaScheduler,
    "freeze-thaw": FreezeThawScheduler,
    "asha-stop": AshaStoppingScheduler,
    "median": MedianScheduler,
}
SCHEDULERS = tuple(_BY_NAME)


def make_scheduler(
    name: str, proposer: Proposer, cost_model: CostModel | None = None, *, trial_cap_s: float | None = None
) -> Scheduler:
    """The scheduler of that name, with its published settings.

    Raises:
        SchedulerError: If there is none, and says which there are.
    """
    if name not in _BY_NAME:
        raise SchedulerError(f"unknown scheduler {name!r}; expected one of {', '.join(SCHEDULERS)}")
    return _BY_NAME[name](proposer, cost_model, trial_cap_s=trial_cap_s)
