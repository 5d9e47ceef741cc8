"""Every scheduler keeps the contract, whatever fails or is taken away."""

import pytest

from frugalbo.scheduler import make_scheduler
from frugalbo.scheduler.rungs import rung_levels
from frugalbo.testing.schedulers import SchedulerConformance, Situation


class TestFixed(SchedulerConformance):
    def make(self, proposer, cost_model):
        return make_scheduler("fixed", proposer, cost_model)


class TestMedian(SchedulerConformance):
    def make(self, proposer, cost_model):
        return make_scheduler("median", proposer, cost_model)


class TestAshaStopping(SchedulerConformance):
    def make(self, proposer, cost_model):
        return make_scheduler("asha-stop", proposer, cost_model)


class TestAsha(SchedulerConformance):
    def make(self, proposer, cost_model):
        return make_scheduler("asha", proposer, cost_model)

    def first_steps(self, problem):
        return rung_levels(1, problem.steps, 3)[0]


class TestFreezeThaw(TestAsha):
    def make(self, proposer, cost_model):
        return make_scheduler("freeze-thaw", proposer, cost_model)


class TestAuto(SchedulerConformance):
    def make(self, proposer, cost_model):
        return make_scheduler("auto", proposer, cost_model)


class TestSuccessiveHalving(TestAsha):
    def make(self, proposer, cost_model):
        return make_scheduler("sh", proposer, cost_model)


class TestHyperband(SchedulerConformance):
    def make(self, proposer, cost_model):
        return make_scheduler("hyperband", proposer, cost_model)


def test_the_suite_notices_what_hangs():
    """A scheduler that never resumes what was interrupted, and one that starts nothing."""

    class Forgetful(TestAsha):
        def make(self, proposer, cost_model):
            scheduler = super().make(proposer, cost_model)
            follow = scheduler._standings.follow

            def forget(study):
                follow(study)
                scheduler._standings.interrupted = {}

            scheduler._standings.follow = forget
            return scheduler

    class Lazy(TestFixed):
        def make(self, proposer, cost_model):
            scheduler = super().make(proposer, cost_model)
            scheduler.decide = lambda study, balance, slots: []
            return scheduler

    with pytest.raises(AssertionError, match="was interrupted and left there"):
        Forgetful().check_run(Situation(preemptions=5, configurations=5))
    with pytest.raises(AssertionError, match="something could have begun"):
        Lazy().check_run(Situation())
