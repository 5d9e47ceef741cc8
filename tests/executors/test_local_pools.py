"""Two real pools: slots of this machine, made faster and slower by their numbers of threads."""

import pytest

from frugalbo.api import tune
from frugalbo.events import Outcome
from frugalbo.executors import devices
from frugalbo.pool import Pool
from frugalbo.problem import load_problem
from frugalbo.store import Store
from frugalbo.stored import read_study
from frugalbo.study import Status

# A step is 0.1 s of work that any number of threads share out evenly.
PROBLEM = """\
import time

import frugalbo as fb


def train(job):
    for step in range(job.start + 1, job.until + 1):
        time.sleep(0.1 / job.threads)
        job.report(step, loss=(job.params["x"] - 0.3) ** 2 + 1 / step, threads=job.threads)


problem = fb.Problem(
    name="shared",
    space=fb.Space({"x": fb.Float(0, 1)}),
    job="shared.py:train",
    objective=fb.Minimize("loss"),
    fidelity=fb.Fidelity("steps", 1, 5),
)
"""


@pytest.mark.slow
def test_two_pools_keep_to_their_budgets_and_the_exhausted_one_is_drained(tmp_path, monkeypatch):
    # On a machine of two cores, the two threads of the fast slot share the second: they sleep.
    monkeypatch.setattr(devices, "usable_cores", lambda: [0, 1, 1])
    (tmp_path / "shared.py").write_text(PROBLEM)
    pools = [
        Pool("slow", "cpu:1", 1.0),
        Pool("fast", "cpu:1x2", 3600.0, speed=2.0, budget="2.5 USD"),  # a dollar is a second
    ]
    storage = tmp_path / "runs.db"
    report = tune(
        load_problem(tmp_path / "shared.py"), budget="12s", pools=pools, method="random", storage=storage, seed=1
    )
    study, balance = report.study, report.study.ledger.balance()
    segments = [pair for trial in study.trials.values() for pair in zip(trial.starts, trial.ends, strict=True)]
    in_fast = [(start, end) for start, end in segments if start.pool == "fast"]
    in_slow = [(start, end) for start, end in segments if start.pool == "slow"]
    for trial in study.trials.values():
        threads = 2 if trial.starts[0].pool == "fast" else 1
        assert {metrics["threads"] for metrics in trial.reports.values()} <= {threads}

    # The budgets are kept, and spent as far as whole trials go (0.25 s and 0.5 s, and what starting takes).
    fast = balance.pools["fast"]
    assert fast["dollars"].spent == pytest.approx(fast["device_seconds"].spent)
    assert 1.5 < fast["dollars"].spent <= 2.5 + 0.25  # an executor may let one job outlive its cap by that
    assert balance["device_seconds"].spent <= 12.0
    assert balance["device_seconds"].spent == pytest.approx(
        sum(balance.pools[name]["device_seconds"].spent for name in ("slow", "fast"))
    )
    # It is drained: what ran there ended by itself, and the other pool went on alone.
    done = [end for _, end in in_fast if end.outcome in (Outcome.COMPLETED, Outcome.PAUSED)]
    assert len(done) >= len(in_fast) - 1
    last = max(end.at for _, end in in_fast)
    assert sum(start.at > last for start, _ in in_slow) >= 3
    assert not study.with_status(Status.RUNNING)
    # Half the seconds a trial, where there are twice the threads.
    seconds = [sorted(e.used.device_seconds for _, e in pairs)[len(pairs) // 2] for pairs in (in_fast, in_slow)]
    assert seconds[0] < 0.75 * seconds[1]

    with Store(storage) as store:
        again = read_study(store, report.run_id)
    assert again.ledger.balance().pools == balance.pools


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dollars_per_hour", "budget", "preferred"),
    [(1.5, "1 USD, 6 trials", "fast"), (3.0, "1 USD, 6 trials", "slow"), (3.0, "1h, 6 trials", "fast")],
)
def test_the_pool_that_is_faster_per_dollar_is_preferred(tmp_path, monkeypatch, dollars_per_hour, budget, preferred):
    # Twice the speed at 1.5 or 3 times the price; where time is what is limited, speed alone counts.
    monkeypatch.setattr(devices, "usable_cores", lambda: [0, 0, 1, 1, 1, 1])
    (tmp_path / "shared.py").write_text(PROBLEM)
    pools = [
        Pool("slow", "cpu:2", 1.0),
        Pool("fast", "cpu:2x2", dollars_per_hour, speed=2.0),
    ]
    for order in (pools, pools[::-1]):
        report = tune(load_problem(tmp_path / "shared.py"), budget=budget, pools=order, method="random", seed=1)
        at_first = [trial.starts[0].pool for trial in report.study.trials.values()][:4]
        other = {"fast": "slow", "slow": "fast"}[preferred]
        assert at_first == [preferred] * 2 + [other] * 2
