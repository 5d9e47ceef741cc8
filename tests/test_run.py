"""The loop, on the simulated executor: money, crashes, resumption."""

import contextlib
import itertools
import math
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frugalbo import run
from frugalbo.budget.amounts import Budget, Cost
from frugalbo.budget.cost import CostPrediction, LearnedCost
from frugalbo.events import Cause, Ended, Failure, Outcome, Reported, Started
from frugalbo.executors.simulated import Curve, SimulatedExecutor
from frugalbo.problem import Fidelity, Minimize, Problem
from frugalbo.propose import make_proposer
from frugalbo.propose.sobol import SobolProposer
from frugalbo.run import RunLoop
from frugalbo.scheduler.fixed import FixedScheduler
from frugalbo.session import OpenStudy
from frugalbo.slot import Slot
from frugalbo.space import Float, Int, Space
from frugalbo.store import Store
from frugalbo.study import Status

STEPS = 7
PROBLEM = Problem(
    name="ridge",
    space=Space({"x": Float(0, 1), "width": Int(1, 13, log=True)}),
    job="nowhere:main",
    objective=Minimize("loss"),
    fidelity=Fidelity("steps", 1, STEPS),
    defaults={"x": 0.9, "width": 3},
)


def curve(params, planned, seed):
    """Costs 1 to 13 seconds, in proportion to the width."""
    steps = range(1, planned + 1)
    losses = [(params["x"] - 0.3) ** 2 + 1 / params["width"] + 1 / step for step in steps]
    return Curve(steps, [params["width"] * step / planned for step in steps], [{"loss": loss} for loss in losses])


def slots(n):
    return [Slot(f"cpu:{i}", "cpu", i) for i in range(n)]


@dataclass
class WrongCost:
    """Says `factor` times the truth, or nothing."""

    factor: float | None

    def predict(self, study, params, start, until):
        if self.factor is None:
            return None
        seconds = self.factor * params["width"] * (until - start) / STEPS
        return CostPrediction(seconds, 1.5 * seconds, 1)


def loop_over(study, *, n_slots=2, simulate=curve, cost_model=None, seed=0, now=0.0, start_up_s=0.0, problem=PROBLEM):
    return RunLoop(
        study=study,
        scheduler=FixedScheduler(make_proposer("sobol", problem, seed=seed)),
        executor=SimulatedExecutor(problem, slots(n_slots), simulate, now=now, start_up_s=start_up_s),
        cost_model=cost_model or LearnedCost(),
        folder=Path("unused"),
        seed=seed,
    )


@settings(deadline=None, max_examples=60)
@given(
    budget=st.floats(0.5, 150),
    n_slots=st.integers(1, 5),
    factor=st.sampled_from([None, 0.1, 0.3, 1.0, 3.0, 10.0]),
    start_up_s=st.sampled_from([0.0, 0.7]),
)
def test_a_run_never_overspends_whatever_the_cost_model_says(budget, n_slots, factor, start_up_s):
    study = OpenStudy(PROBLEM, Budget(device_seconds=budget))
    loop_over(study, n_slots=n_slots, cost_model=WrongCost(factor), start_up_s=start_up_s).run()
    account = study.balance()["device_seconds"]
    assert account.held == 0
    assert account.spent <= budget * (1 + 1e-9)
    assert account.spent == pytest.approx(sum(t.used("device_seconds") for t in study.trials.values()))


@pytest.mark.parametrize(
    ("budget", "resource", "most"),
    [
        (Budget(evaluations=11), "evaluations", 11),
        (Budget(dollars=0.5), "dollars", 0.5),
        (Budget(wall_seconds=40), "wall_seconds", 40),
    ],
)
def test_every_resource_ends_a_run(budget, resource, most):
    study = OpenStudy(PROBLEM, budget)
    loop = loop_over(study)
    loop.executor.slots = tuple(Slot(s.name, s.kind, s.index, dollars_per_hour=36.0) for s in loop.executor.slots)
    reason = loop.run()
    assert resource.split("_")[0] in reason
    assert 0.6 * most <= study.balance()[resource].spent <= most * (1 + 1e-9)


def test_memory_is_shared_out_evenly_and_returned():
    study = OpenStudy(PROBLEM, Budget(evaluations=3, memory_bytes=3e9))
    loop_over(study, n_slots=3).run()
    held = {start.held.memory_bytes for trial in study.trials.values() for start in trial.starts}
    assert held == {1e9}
    assert study.balance()["memory_bytes"].held == study.balance()["memory_bytes"].spent == 0


def test_the_first_trial_is_the_defaults_and_the_best_is_no_worse():
    study = OpenStudy(PROBLEM, Budget(device_seconds=100))
    loop_over(study).run()
    assert study.trials[0].params == PROBLEM.defaults
    assert study.value(study.best()) <= study.value(study.trials[0])


def test_the_same_arguments_give_the_same_events():
    def events():
        seen = []
        study = OpenStudy(PROBLEM, Budget(device_seconds=60))
        loop = loop_over(study)
        loop.observe = lambda study, balance, fresh: seen.extend(fresh)
        loop.run()
        return seen

    first = events()
    assert len(first) > 20
    assert first == events()


def test_a_job_that_always_raises_ends_the_run_after_five_trials():
    def broken(params, planned, seed):
        return Curve([], [], [], failure=Failure.ERROR)

    study = OpenStudy(PROBLEM, Budget(device_seconds=1e6))
    reason = loop_over(study, n_slots=1, simulate=broken, start_up_s=1.0).run()
    assert "last 5 trials all failed" in reason
    assert study.balance()["device_seconds"].spent == 5.0


def test_a_run_whose_job_was_mended_goes_on():
    def broken(params, planned, seed):
        return Curve([], [], [], failure=Failure.ERROR)

    study = OpenStudy(PROBLEM, Budget(device_seconds=60))
    loop_over(study, n_slots=1, simulate=broken, start_up_s=1.0).run()
    loop_over(study, n_slots=1, now=100.0).run()
    assert len(study.with_status(Status.FAILED)) == 5
    assert len(study.with_status(Status.COMPLETED)) >= 5


def test_diverging_trials_are_given_more_patience_and_successes_too():
    def mostly_diverging(params, planned, seed):
        good = params == PROBLEM.defaults
        return Curve([STEPS], [1.0], [{"loss": 1.0 if good else math.nan}])

    study = OpenStudy(PROBLEM, Budget(device_seconds=1e6))
    reason = loop_over(study, n_slots=1, simulate=mostly_diverging).run()
    assert "last 10 trials all failed" in reason
    assert len(study.trials) == 11


def test_a_budget_smaller_than_any_trial_says_so():
    study = OpenStudy(PROBLEM, Budget(device_seconds=2.0))
    reason = loop_over(study, n_slots=1).run()
    assert study.best() is None
    assert study.trials[0].failure == Failure.TIMEOUT
    assert reason.startswith("the budget is smaller than one trial: none was done within what it was granted, 2 dev")


def test_an_exhausted_space_ends_the_run():
    problem = Problem("few", Space({"n": Int(1, 3)}), "nowhere:main", Minimize("loss"))

    def simulate(params, planned, seed):
        return Curve([1], [1.0], [{"loss": params["n"]}])

    study = OpenStudy(problem, Budget(device_seconds=100))
    reason = loop_over(study, simulate=simulate, problem=problem).run()
    assert len(study.trials) == 3
    assert "nothing more to try" in reason


@dataclass
class KnownCost:
    """Says the same of all trials."""

    seconds: float

    def predict(self, study, params, start, until):
        return CostPrediction(self.seconds, 1.5 * self.seconds, 1)


@pytest.mark.parametrize(("seconds", "failures"), [(9.0, 3), (14.0, 2), (1.0, 5)])
def test_a_job_that_crashes_on_and_on_is_stopped_by_what_that_costs(seconds, failures):
    # Of 100 s two crashes of 9 s are less than a quarter and three are more; two of 14 s are more;
    # where they are cheap five are enough.
    def simulate(params, planned, seed):
        return Curve([], [], [], failure=Failure.ERROR, failure_s=seconds, message="no such file")

    study = OpenStudy(PROBLEM, Budget(device_seconds=100))
    reason = loop_over(study, n_slots=1, simulate=simulate, cost_model=KnownCost(14.0)).run()
    assert len(study.trials) == failures
    assert f"the last {failures} trials all failed" in reason


def test_a_trial_whose_node_dies_on_and_on_is_given_up_and_the_others_go_on():
    class Broken(SimulatedExecutor):
        """Whatever runs the first configuration dies at its end, and nothing of it is left."""

        def wait(self, timeout_s=math.inf):
            return [
                replace(event, outcome=Outcome.INTERRUPTED, checkpoint=0, cause=Cause.INFRASTRUCTURE)
                if isinstance(event, Ended) and event.trial == 0
                else event
                for event in super().wait(timeout_s)
                if isinstance(event, Ended) or event.trial
            ]

    study = OpenStudy(PROBLEM, Budget(evaluations=6, device_seconds=500))
    loop = loop_over(study, n_slots=2, cost_model=WrongCost(1.0))
    loop.executor = Broken(PROBLEM, slots(2), curve)
    loop.run()
    bad = study.trials[0]
    assert bad.status == Status.STOPPED
    # Each attempt costs 3 s; 4.5 to 5 s are held for one, so that the second is one too many.
    assert [end.used.device_seconds for end in bad.ends] == [3.0, 3.0]
    assert "given up" in bad.ends[-1].message
    assert [trial.status for number, trial in study.trials.items() if number] == [Status.COMPLETED] * 5
    assert study.balance()["device_seconds"].spent == pytest.approx(
        sum(trial.used("device_seconds") for trial in study.trials.values())
    )


@pytest.mark.parametrize("n_slots", [1, 2])
def test_a_trial_that_loses_its_device_again_and_again_waits_longer_each_time(n_slots):
    """Also where nothing else is left to do, so that the run must wait as well."""

    class Taken(SimulatedExecutor):
        """The first four attempts at the first trial are taken from it, and nothing of them is left."""

        def wait(self, timeout_s=math.inf):
            return [
                replace(event, outcome=Outcome.INTERRUPTED, checkpoint=0, cause=Cause.PREEMPTED)
                if isinstance(event, Ended) and self.is_bad(event)
                else event
                for event in super().wait(timeout_s)
                if isinstance(event, Ended) or not self.is_bad(event)
            ]

        def is_bad(self, event):
            return event.trial == 0 and event.segment < 4

    study = OpenStudy(PROBLEM, Budget(evaluations=3))
    loop = loop_over(study, n_slots=n_slots)
    loop.executor = Taken(PROBLEM, slots(n_slots), curve)
    loop.run()
    first = study.trials[0]
    assert [trial.status for trial in study.trials.values()] == [Status.COMPLETED] * 3
    waits = [began.at - end.at for end, began in zip(first.ends, first.starts[1:], strict=False)]
    assert [wait >= least for wait, least in zip(waits, (0, 2, 4, 8), strict=True)] == [True] * 4
    assert waits[0] == 0
    # What else there is to do is not kept waiting: a slot is free only while the first trial alone is left.
    others = [trial.ends[-1].at for trial in study.trials.values() if trial.number]
    assert max(others) < first.starts[-1].at


def test_an_interrupt_pauses_what_runs_and_a_second_loop_goes_on_with_it():
    study = OpenStudy(PROBLEM, Budget(device_seconds=60))
    loop = loop_over(study)
    ticks = itertools.count()

    def interrupt(study, balance, events):
        if next(ticks) == 9:
            raise KeyboardInterrupt

    loop.observe = interrupt
    assert loop.run() == "interrupted by the user"
    paused = study.with_status(Status.PAUSED)
    assert paused
    assert not study.with_status(Status.RUNNING)
    assert study.balance()["device_seconds"].held == 0
    checkpoints = {trial.number: trial.checkpoint for trial in paused}
    loop_over(study, now=100.0).run()
    for trial in paused:
        assert trial.status == Status.COMPLETED
        assert trial.starts[1].start == checkpoints[trial.number]


def test_a_segment_that_died_unseen_says_nothing_of_what_trials_cost():
    # Charged 12 of 30 s because nobody saw it die; a trial takes 3 s. The rest must still be spent.
    study = OpenStudy(PROBLEM, Budget(device_seconds=30))
    params = {"x": 0.9, "width": 3}
    study.record(Started(0, 0, params, 0, STEPS, STEPS, Cost(device_seconds=12.0), "cpu:0", 0.0))
    study.record(Ended(0, 0, Outcome.INTERRUPTED, Cost(device_seconds=12.0), 12.0))
    assert LearnedCost().predict(study, params, 0, STEPS) is None
    loop_over(study, now=12.0).run()
    assert len(study.with_status(Status.COMPLETED)) >= 3


def test_a_resumed_trial_tells_of_its_cost_by_each_segment():
    # A step takes 0.2 s. The first segment was cut after its second step, at 0.5 s: 2.5 steps.
    study = OpenStudy(PROBLEM, Budget(device_seconds=30))
    params = {"x": 0.9, "width": 3}
    study.record(Started(0, 0, params, 0, STEPS, STEPS, Cost(), "cpu:0", 0.0))
    study.record(Reported(0, 0, 2, {"loss": 1.0}, 0.4))
    study.record(Ended(0, 0, Outcome.INTERRUPTED, Cost(device_seconds=0.5), 0.5, checkpoint=1))
    study.record(Started(0, 1, params, 1, STEPS, STEPS, Cost(), "cpu:0", 1.0))
    study.record(Reported(0, 1, 2, {"loss": 9.0}, 1.2), Reported(0, 1, STEPS, {"loss": 0.5}, 2.2))
    study.record(Ended(0, 1, Outcome.COMPLETED, Cost(device_seconds=1.2), 2.2))
    assert study.trials[0].reached == [2, STEPS]
    assert study.trials[0].reports == {2: {"loss": 1.0}, STEPS: {"loss": 0.5}}
    predicted = LearnedCost().predict(study, params, 0, STEPS)
    assert predicted.median_s == pytest.approx(0.2 * STEPS, rel=0.1)
    assert predicted.upper_s < 0.4 * STEPS


class Killed(BaseException):
    """The controller is gone between two instructions."""


class MortalLease:
    """Dies at its `deaths`-th write: before it, or just after it was durable."""

    is_asked_to_pause = False

    def __init__(self, lease, at, after):
        self._lease, self._left, self._after = lease, at, after

    def append(self, *events):
        self._left -= 1
        if self._left == 0 and not self._after:
            raise Killed
        self._lease.append(*events)
        if self._left == 0:
            raise Killed

    def renew(self):
        self._lease.renew()

    def release(self):
        self._lease.release()


@settings(deadline=None, max_examples=10)
@given(
    deaths=st.lists(st.tuples(st.integers(1, 25), st.booleans()), min_size=1, max_size=8),
    n_slots=st.integers(1, 3),
    seed=st.integers(0, 3),
)
def test_killed_at_any_write_nothing_is_lost_counted_twice_or_overspent(tmp_path_factory, deaths, n_slots, seed):
    path = tmp_path_factory.mktemp("runs") / "runs.db"
    budget = Budget(device_seconds=60.0)
    with Store(path) as store:
        run_id = store.create_run({"problem": PROBLEM.to_json()})
        now, seen = 0.0, []
        for at, after in [*deaths, (10**9, False)]:
            with store.lease(run_id) as lease:
                study = OpenStudy(PROBLEM, budget, lease=MortalLease(lease, at, after))
                events = [event for _, event in store.read(run_id)]
                assert events[: len(seen)] == seen  # what was durable stays, in order
                study.replay(events)
                loop = loop_over(study, n_slots=n_slots, seed=seed, now=now)
                with contextlib.suppress(Killed):
                    loop.run()
                now = loop.executor.now() + 1.0
                seen = [event for _, event in store.read(run_id)]
    ends = [event for event in seen if isinstance(event, Ended)]
    account = study.balance()["device_seconds"]
    assert not study.with_status(Status.RUNNING)
    assert account.held == 0
    assert account.spent == pytest.approx(sum(end.used.device_seconds for end in ends))
    # A crash may charge a segment that was cut off for the second until somebody looked, at most.
    assert account.spent <= budget.device_seconds * (1 + 1e-9)
    assert len({(end.trial, end.segment) for end in ends}) == len(ends)
    completed = [end.trial for end in ends if end.outcome == Outcome.COMPLETED]
    assert len(set(completed)) == len(completed)
    # The decisions are those of an uninterrupted run, until the money gets short.
    fresh = make_proposer("sobol", PROBLEM, seed=seed).propose(OpenStudy(PROBLEM, budget), 5)
    assert [trial.params for trial in study.trials.values()][:5] == [suggestion.params for suggestion in fresh]


def test_a_journal_that_cannot_be_written_ends_the_run_and_loses_nothing(tmp_path):
    from frugalbo.errors import StorageError

    class FullDisk(MortalLease):
        def append(self, *events):
            self._left -= 1
            if self._left <= 0:
                raise StorageError("the disk is full")
            self._lease.append(*events)

    with Store(tmp_path / "runs.db") as store:
        run_id = store.create_run({"problem": PROBLEM.to_json()})
        with store.lease(run_id) as lease:
            study = OpenStudy(PROBLEM, Budget(device_seconds=60), lease=FullDisk(lease, 9, False))
            loop = loop_over(study)
            with pytest.raises(StorageError, match="disk is full"):
                loop.run()
        with store.lease(run_id) as lease:
            study = OpenStudy(PROBLEM, Budget(device_seconds=60), lease=lease)
            study.replay(event for _, event in store.read(run_id))
            done = {t.number for t in study.with_status(Status.COMPLETED)}
            loop_over(study, now=loop.executor.now() + 1).run()
            assert done <= {t.number for t in study.with_status(Status.COMPLETED)}
            assert len(study.with_status(Status.COMPLETED)) > 5


def test_reports_that_reached_the_journal_before_a_crash_are_not_written_again():
    class Recovering(SimulatedExecutor):
        def recover(self, started, folder):
            reports = [Reported(started.trial, started.segment, step, {"loss": 1.0}, 9.0) for step in (1, 2, 3)]
            return [*reports, *super().recover(started, folder)]

    study = OpenStudy(PROBLEM, Budget(device_seconds=5))
    params = {"x": 0.9, "width": 3}
    study.record(Started(0, 0, params, 0, STEPS, STEPS, Cost(device_seconds=5.0), "cpu:0", 0.0))
    study.record(Reported(0, 0, 1, {"loss": 2.0}, 1.0), Reported(0, 0, 2, {"loss": 2.0}, 2.0))
    seen = []
    loop = loop_over(study, now=9.0)
    loop.executor = Recovering(PROBLEM, slots(1), curve, now=9.0)
    loop.observe = lambda study, balance, fresh: seen.extend(fresh)
    loop.run()
    assert [event.step for event in seen if isinstance(event, Reported)] == [3]


class Unhurried(SimulatedExecutor):
    """Says that nothing has happened before it says what has."""

    said = False

    def wait(self, timeout_s):
        self.said = not self.said
        return [] if self.said else super().wait(timeout_s)


@pytest.mark.parametrize("calm_s", [0.0, 60.0])
def test_the_scheduler_gets_ready_while_all_slots_are_busy_and_no_event_is_lost(monkeypatch, calm_s):
    monkeypatch.setattr(run, "_CALM_S", calm_s)
    monkeypatch.setattr(run, "_LOOK_S", -1.0)
    seen = []

    class Ready(FixedScheduler):
        def prepare(self, study, is_over):
            running = len(study.with_status(Status.RUNNING))
            looks = 0
            while not is_over():
                looks += 1
                assert looks < 99
            # The study stays as it is until preparing is over.
            assert len(study.with_status(Status.RUNNING)) == running
            seen.append((len(study.trials), running))

    def events(scheduler):
        study = OpenStudy(PROBLEM, Budget.of("11 trials"))
        executor = Unhurried(PROBLEM, slots(2), curve)
        RunLoop(study, scheduler, executor, LearnedCost(), Path(), 0).run()
        return [(t.number, t.params, t.reports, t.ends) for t in study.trials.values()]

    plain = events(FixedScheduler(SobolProposer(seed=0)))
    assert events(Ready(SobolProposer(seed=0))) == plain
    assert len(plain) == 11
    assert bool(seen) == (calm_s == 0.0)
    # Once after each decision, while something runs.
    assert len(seen) == len(set(seen))
    assert all(running for _, running in seen)


class Skewed(SimulatedExecutor):
    """Its nodes' clocks are off, and its jobs print."""

    off_s = 0.0

    def wait(self, timeout_s):
        events = [replace(event, at=event.at + self.off_s) for event in super().wait(timeout_s)]
        return [replace(e, log_tail="printed") if isinstance(e, Ended) else e for e in events]


@pytest.mark.parametrize("off_s", [-3600.0, 3600.0])
def test_stamps_are_between_a_segments_start_and_its_end_whatever_its_clock_says(off_s):
    study, executor = OpenStudy(PROBLEM, Budget.of("11 trials")), Skewed(PROBLEM, slots(2), curve)
    executor.off_s = off_s
    RunLoop(study, FixedScheduler(SobolProposer(seed=0)), executor, LearnedCost(), Path(), 0).run()
    for trial in study.trials.values():
        [started], [ended] = trial.starts, trial.ends
        assert all(started.at <= at <= ended.at for at in trial.times.values())
        assert ended.at <= started.at + ended.used.device_seconds + 1e-9


def test_what_a_job_printed_is_in_the_journal_only_if_it_failed():
    study, executor = OpenStudy(PROBLEM, Budget.of("11 trials")), Skewed(PROBLEM, slots(2), curve)
    RunLoop(study, FixedScheduler(SobolProposer(seed=0)), executor, LearnedCost(), Path(), 0, trial_cap_s=5.0).run()
    printed = {(trial.status, trial.ends[-1].log_tail) for trial in study.trials.values()}
    assert printed == {(Status.COMPLETED, ""), (Status.FAILED, "printed")}


@pytest.mark.parametrize(
    ("pool", "budget", "reason"),
    [
        ("", "30.5s", "what is left does not pay for another trial"),
        ("other", "11 trials", "the budget of evaluations is spent"),
        ("other", "30.5s", None),  # what is too dear here may not be so there
    ],
)
def test_a_slot_that_is_away_is_not_waited_for_where_nothing_would_come_of_it(pool, budget, reason):
    class Away(SimulatedExecutor):
        """Its last slot never comes, and after a while it does not even say so."""

        waits = 0

        def free_slots(self):
            return [slot for slot in super().free_slots() if slot is not self.slots[-1]]

        def wait(self, timeout_s):
            self.waits += not self._running
            if self.waits > 50:
                raise TimeoutError
            return super().wait(timeout_s)

    places = [*slots(2), replace(Slot("x", "cpu", 2), pool=pool)]
    loop = RunLoop(
        OpenStudy(PROBLEM, Budget.of(budget)), FixedScheduler(SobolProposer(seed=0)),
        Away(PROBLEM, places, curve), WrongCost(1.0), Path(), 0,
    )  # fmt: skip
    if reason is None:
        with pytest.raises(TimeoutError):
            loop.run()
    else:
        assert loop.run().startswith(reason)
