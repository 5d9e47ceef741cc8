"""Whether a trial that was interrupted deserves another attempt, and when. Pure: the study alone decides.

| why an attempt ended (`Cause`) | what follows |
|---|---|
| out of memory, diverged, timeout, bug in the job | the trial has failed; the same would happen again |
| killed by user | if the run goes on, the trial does at once |
| pre-empted | it goes on from its checkpoint, after a while if it got nowhere several times |
| infrastructure | the same, as long as attempts that got nowhere have cost no more than the segment was to cost |

Each attempt is charged what it used. An attempt got nowhere if no later checkpoint came of it.
"""

from __future__ import annotations

from dataclasses import replace

from frugalbo.events import Cause, Ended, Outcome, Started
from frugalbo.study import Study, Trial

_RETRIED = (Cause.PREEMPTED, Cause.INFRASTRUCTURE)
_FIRST_S, _MOST_S = 2.0, 300.0
_MOST_ATTEMPTS = 8  # of those that cost next to nothing


def fruitless(trial: Trial) -> list[tuple[Started, Ended]]:
    """The latest attempts in a row that were taken from the trial and got nowhere."""
    found: list[tuple[Started, Ended]] = []
    for started, ended in zip(reversed(trial.starts[: len(trial.ends)]), reversed(trial.ends), strict=True):
        if ended.outcome != Outcome.INTERRUPTED or ended.cause not in _RETRIED or ended.checkpoint > started.start:
            break
        found.append((started, ended))
    return found[::-1]


def due_at(trial: Trial, now: float) -> float:
    """When the trial may go on: at once after the first fruitless attempt, then after 2, 4, 8 ... s, at most 300.

    At once, too, where the last attempt has ended later than `now`: the clock was set back since.
    """
    attempts = fruitless(trial)
    if len(attempts) < 2 or attempts[-1][1].at > now:
        return 0.0
    return attempts[-1][1].at + min(_MOST_S, _FIRST_S * 2.0 ** (len(attempts) - 2))


def judged(study: Study, ended: Ended) -> Ended:
    """The end of an attempt as it is to be recorded: one too many by infrastructure gives the trial up.

    That is a matter of price: what such attempts have cost may not exceed what was held for the last of them.
    Where they cost nothing, or nothing was held, eight are too many.
    """
    trial = study.trials[ended.trial]
    started = trial.starts[-1]
    got_nowhere = ended.outcome == Outcome.INTERRUPTED and ended.checkpoint <= started.start
    if not got_nowhere or ended.cause != Cause.INFRASTRUCTURE:
        return ended
    attempts = [*fruitless(trial), (started, ended)]
    spent = sum(end.used.device_seconds for _, end in attempts if end.cause == Cause.INFRASTRUCTURE)
    dollars = sum(end.used.dollars for _, end in attempts if end.cause == Cause.INFRASTRUCTURE)
    held = started.held
    is_too_dear = 0 < held.device_seconds < spent or 0 < held.dollars < dollars
    if not is_too_dear and len(attempts) < _MOST_ATTEMPTS:
        return ended
    why = f"given up after {len(attempts)} attempts that got nowhere and cost {spent:.4g} device-seconds"
    return replace(ended, outcome=Outcome.STOPPED, message=f"{why}; the last one: {ended.message}")
