"""A run of six trials (`ray_controller.py`) whose controller is killed, and that is to be whole once it was resumed."""

from __future__ import annotations

import time

import frugalbo as fb
from frugalbo.events import Outcome
from frugalbo.store import Store
from frugalbo.stored import read_study


def kill_at_work(controller, storage, is_at_work, *, timeout_s):
    """Kill a controller once four trials have begun and the study is as is asked; the ends that each trial has had."""
    study, give_up = None, time.monotonic() + timeout_s
    while time.monotonic() < give_up and controller.poll() is None:
        time.sleep(0.2)
        if storage.exists():
            with Store(storage) as store:
                if not store.runs():
                    continue
                study = read_study(store, store.run(None).id)
            if len(study.trials) >= 4 and is_at_work(study.with_status(fb.Status.RUNNING)):
                break
    controller.kill()
    controller.wait()
    assert study is not None
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
    ends = [end for trial in study.trials.values() for end in trial.ends]
    return {end.cause for end in ends if end.outcome == Outcome.INTERRUPTED}
