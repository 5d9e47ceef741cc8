from dataclasses import replace

import pytest
from ladders import COST, Numbered, losses, make_problem, play, sent_to, simulate_with

from frugalbo.events import Failure
from frugalbo.scheduler.hyperband import HyperbandScheduler, SuccessiveHalvingScheduler


def reference(brackets, eta, rounds, seed=0):
    """Algorithm 1, written from the paper: by bracket and level, which configurations are run there."""
    found, fresh = [], 0
    for _ in range(rounds):
        for n, levels in brackets:
            alive, fresh, rungs = list(range(fresh, fresh + n)), fresh + n, []
            for i, level in enumerate(levels):
                rungs.append((level, sorted(alive)))
                ranked = sorted(alive, key=lambda c: (losses(c / 997, levels[-1], seed)[level - 1], c))
                alive = ranked[: n // eta ** (i + 1)]
            found.append(rungs)
    return found


# R = 9, eta = 3, s_max = 2: n = ceil(3 / 3 * 9), ceil(3 / 2 * 3), ceil(3 / 1 * 1).
NINE = [(9, (1, 3, 9)), (5, (3, 9)), (3, (9,))]


@pytest.mark.parametrize("n_slots", [1, 4, 13])
@pytest.mark.parametrize(("make", "brackets"), [(HyperbandScheduler, NINE), (SuccessiveHalvingScheduler, NINE[:1])])
def test_who_goes_on_is_whom_the_paper_lets_go_on_however_many_workers_there_are(make, brackets, n_slots):
    # A bracket of nine costs 9 + 3 * 2 + 6, one of five 15 + 6, one of three 27: three rounds cost 207 and less.
    expected = reference(brackets, 3, 3)
    study, _ = play(make(Numbered(), COST), make_problem(9), budget=700, n_slots=n_slots)
    granted = {}
    for trial in study.trials.values():
        for started in trial.starts:
            granted.setdefault(round(trial.params["x"] * 997), []).append(started.until)
    for rungs in expected:
        for j, (level, who) in enumerate(rungs):
            beyond = {c for c in rungs[0][1] if level in granted[c]}
            assert sorted(beyond) == who, (j, level)


def test_a_failure_does_not_keep_its_rung_waiting():
    def simulate(params, planned, seed):
        curve = simulate_all(params, planned, seed)
        return replace(curve, steps=[], seconds=[], metrics=[], failure=Failure.ERROR) if params["x"] < 0.002 else curve

    simulate_all = simulate_with()
    study, _ = play(SuccessiveHalvingScheduler(Numbered(), COST), make_problem(9), budget=200, simulate=simulate)
    levels = sent_to(study)
    assert [t.status for t in study.trials.values()][:2] == ["failed", "failed"]
    assert len(levels[9]) >= 200 // 21 - 1


def test_a_round_of_hyperband_ends_with_full_trials_only():
    study, _ = play(HyperbandScheduler(Numbered(), COST), make_problem(9), budget=69)
    # 21 + 21 + 27 = 69: 9 + 5 + 3 configurations, of which 1 + 1 + 3 run to the end.
    assert len(study.trials) == 17
    assert sum(study.value(trial) is not None for trial in study.trials.values()) == 5
