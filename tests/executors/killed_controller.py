"""A run of six trials (`ray_controller.py`) whose controller is killed, and that is to be whole once it was resumed.

Its third and fourth trial stay at their middle, so that they are surely at work when it is killed.
"""

from __future__ import annotations

import time

import frugalbo as fb
from frugalbo.events import Outcome
from frugalbo.store import Store
from frugalbo.stored import read_study


def kill_at_work(controller, storage, *, timeout_s):
    """Kill a controller once its third and fourth trial have reported; the ends that each trial has had."""
    study, give_up = None, time.monotonic() + timeout_s
    while time.monotonic() < give_up and controller.poll() is None:
        time.sleep(0.2)
        if storage.exists():
            with Store(storage) as store:
                if not store.runs():
                    continue
                study = read_study(store, store.run(None).id)
            if len(study.trials) == 4 and study.trials[2].reports and study.trials[3].reports:
                break
    controller.kill()
    controller.wait()
    assert study is not None
    assert {trial.number for trial in study.with_status(fb.Status.RUNNING)} == {2, 3}
    return {n: list(trial.ends) for n, trial in study.trials.items()}


def finished(storage, before):
    """The study, in which nothing was lost and nothing counts twice; `before` is what `kill_at_work` gave."""
    with Store(storage) as store:
        study = read_study(store, store.run(None).id)
    assert len(study.trials) == 6
    for number, trial in study.trials.items():
        assert trial.status == fb.Status.COMPLETED
        assert list(trial.reports) == list(range(1, 151))
        assert trial.ends[: len(before.get(number, []))] == before.get(number, [])
        assert trial.used("evaluations") == 1
    assert study.ledger is not None
    account = study.ledger.balance()["evaluations"]
    assert (account.spent, account.held) == (6, 0)
    return study


def causes_of_interruption(study):
    """Of the trials that were at work."""
    return [{end.cause for end in study.trials[n].ends if end.outcome == Outcome.INTERRUPTED} for n in (2, 3)]
