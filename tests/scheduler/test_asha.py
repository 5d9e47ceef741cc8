import pytest
from ladders import COST, Numbered, losses, make_problem, play, sent_to

from frugalbo.budget.amounts import Budget, Cost
from frugalbo.budget.ledger import Ledger
from frugalbo.events import Ended, Outcome, Reported, Started
from frugalbo.executors.simulated import Curve
from frugalbo.scheduler.asha import AshaScheduler
from frugalbo.scheduler.base import Resume, Start
from frugalbo.scheduler.rungs import Standings
from frugalbo.slot import Slot
from frugalbo.study import Study

SLOTS = [Slot(f"cpu:{i}", "cpu", i) for i in range(3)]


def reference(levels, eta, budget, seed=0):
    """Algorithm 2 on one worker, written from the paper: which configurations are run to which level, in order."""
    rungs = [{} for _ in levels]
    promoted = [set() for _ in levels]
    jobs, fresh, left = [], 0, budget
    while True:
        job = None
        for k in reversed(range(len(levels) - 1)):
            ranked = sorted(rungs[k], key=lambda i: (rungs[k][i], i))
            candidates = [i for i in ranked[: len(ranked) // eta] if i not in promoted[k]]
            if candidates:
                job = candidates[0], k + 1
                break
        if job is None:
            job, fresh = (fresh, 0), fresh + 1
        i, k = job
        cost = levels[k] - (levels[k - 1] if k else 0)
        if cost > left:
            return jobs
        left -= cost
        if k:
            promoted[k - 1].add(i)
        rungs[k][i] = losses(i / 997, levels[-1], seed)[levels[k] - 1]
        jobs.append((i, levels[k]))


@pytest.mark.parametrize(
    ("high", "eta", "levels"), [(27, 3, (1, 3, 9, 27)), (51, 3, (2, 6, 17, 51)), (64, 4, (1, 4, 16, 64))]
)
def test_one_worker_promotes_whom_the_paper_promotes(high, eta, levels):
    problem, budget = make_problem(high), 23 * high
    study, _ = play(AshaScheduler(Numbered(), COST, eta=eta), problem, budget=budget)
    jobs = sorted((s.at, round(t.params["x"] * 997), s.until) for t in study.trials.values() for s in t.starts)
    expected = reference(levels, eta, budget)
    # To the last decision that the reference can pay; what cannot be paid for is passed over for cheaper things.
    assert [(i, level) for _, i, level in jobs][: len(expected)] == expected
    assert len({level for _, level in expected}) == len(levels)


def _arrive(study, number, loss, level=1):
    segment = 0 if number not in study.trials else len(study.trials[number].starts)
    start = study.trials[number].checkpoint if segment else 0
    study.apply(Started(number, segment, {"x": number / 997}, start, level, 9, Cost(), "cpu:0", 0.0))
    study.apply(Reported(number, segment, level, {"loss": loss}, 1.0))
    study.apply(Ended(number, segment, Outcome.PAUSED, Cost(), 1.0, level))


def _decide(study, slots=SLOTS, scheduler=None):
    return (scheduler or AshaScheduler(Numbered(), eta=3)).decide(study, study.ledger.balance(), slots)


def _study():
    return Study(make_problem(9), Ledger(Budget(evaluations=997)))


def test_nobody_goes_on_before_eta_have_arrived():
    study = _study()
    for number in range(2):
        _arrive(study, number, number)
    assert all(isinstance(d, Start) and d.until == 1 for d in _decide(study))
    _arrive(study, 2, -1.0)
    first, *rest = _decide(study)
    assert first == Resume(SLOTS[0], 2, 3)  # the best of three; the others are new
    assert all(isinstance(d, Start) for d in rest)


def test_the_highest_rung_comes_first():
    study = _study()
    for number in range(9):
        _arrive(study, number, float(number))
    for number in range(3):
        _arrive(study, number, float(number), level=3)
    for number in range(9, 12):
        _arrive(study, number, number - 100.0)
    # At level 3, trial 0 leads three; at level 1, 12 arrived, the best four are 9, 10, 11 and 0.
    assert [(d.trial, d.until) for d in _decide(study)] == [(0, 9), (9, 3), (10, 3)]


def test_those_who_are_on_their_way_are_not_sent_on_twice():
    study = _study()
    for number in range(3):
        _arrive(study, number, float(number))
    study.apply(Started(0, 1, {"x": 0.0}, 1, 3, 9, Cost(), "cpu:0", 2.0))
    assert all(isinstance(d, Start) for d in _decide(study))


def test_ties_go_to_the_earlier_whoever_is_told_of_first():
    # Two that arrive at one instant are in the study before anybody decides; their order must not matter.
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        study = _study()
        for number in range(3):
            study.apply(Started(number, 0, {"x": number / 997}, 0, 1, 9, Cost(), f"cpu:{number}", 0.0))
        for number in order:
            study.apply(Reported(number, 0, 1, {"loss": 1.0}, 1.0))
            study.apply(Ended(number, 0, Outcome.PAUSED, Cost(), 1.0, 1))
        assert _decide(study)[0] == Resume(SLOTS[0], 0, 3)


def test_a_failed_configuration_counts_in_its_rung_and_never_goes_on():
    study = _study()
    for number in range(2):
        _arrive(study, number, float(number))
    study.apply(Started(2, 0, {"x": 2 / 997}, 0, 1, 9, Cost(), "cpu:0", 0.0))
    study.apply(Ended(2, 0, Outcome.FAILED, Cost(), 1.0))
    assert _decide(study)[0] == Resume(SLOTS[0], 0, 3)


def test_what_was_interrupted_goes_on_to_where_it_was_sent():
    study = _study()
    study.apply(Started(0, 0, {"x": 0.0}, 0, 3, 9, Cost(), "cpu:0", 0.0))
    study.apply(Reported(0, 0, 2, {"loss": 1.0}, 1.0))
    study.apply(Ended(0, 0, Outcome.INTERRUPTED, Cost(), 1.0, 1))
    assert _decide(study)[0] == Resume(SLOTS[0], 0, 3)


def test_an_exhausted_space_lets_the_best_go_on_rather_than_wait():
    problem = make_problem(9)
    study, reason = play(AshaScheduler(Numbered(5), COST), problem, budget=1000)
    assert reason == "the scheduler has nothing more to try"
    assert {trial.status for trial in study.trials.values()} == {"completed"}
    assert len(study.trials) == 5


def test_a_replanned_run_goes_on_as_a_new_one_that_is_planned_for_more():
    problem = make_problem(9, schedule="replanned")
    study, _ = play(AshaScheduler(Numbered(), COST), problem, budget=60)
    for trial in study.trials.values():
        assert [(s.start, s.until, s.planned) for s in trial.starts] == [(0, trial.planned, trial.planned)]
        before = trial.why.get("promoted_from")
        if before is None:
            assert trial.planned == 1
        else:
            assert study.trials[before].params == trial.params
            assert trial.planned == 3 * study.trials[before].planned
    levels = sent_to(study)
    assert levels[9]
    for level in (1, 3, 9):
        assert len(set(levels[level])) == len(levels[level])


def test_what_a_replanned_run_reports_on_its_way_does_not_change_the_rungs_below():
    def simulate(params, planned, seed):  # a run that is planned for longer begins better
        curve = losses(params["x"], 9) - planned
        steps = range(1, planned + 1)
        return Curve(steps, [float(i) for i in steps], [{"loss": float(loss)} for loss in curve[:planned]])

    problem, scheduler = make_problem(9, schedule="replanned"), AshaScheduler(Numbered(), COST)
    study, _ = play(scheduler, problem, budget=60, simulate=simulate)
    fresh = Standings(lambda _, i: (0, (1, 3, 9)))
    fresh.follow(study)  # all at once, the latest change first
    scheduler._standings.follow(study)
    assert fresh.brackets == scheduler._standings.brackets
    assert all(round(loss + 1, 6) >= 0 for loss, _ in fresh.brackets[0][0].arrived)


def test_when_all_trials_are_begun_those_that_are_held_still_go_on():
    study, reason = play(AshaScheduler(Numbered(), COST), make_problem(9), budget="9 trials")
    arrived = [len(sent_to(study)[level]) for level in (1, 3, 9)]
    # A third of nine goes on, and who went on before the better ones came.
    assert (arrived[0], arrived[2]) == (9, 1)
    assert arrived[1] >= 3
    assert "evaluations is spent" in reason
