"""Studies for the tests of proposers, made from results."""

from frugalbo.budget.amounts import Cost
from frugalbo.events import Ended, Failure, Outcome, Reported, Started


def start(study, params):
    """A trial that runs; returns its number."""
    number = len(study.trials)
    study.apply(Started(number, 0, params, 0, 1, 1, Cost(), "slot", 0.0))
    return number


def end(study, number, value=None, *, seconds=1.0, evaluations=0.0, failure=None, outcome=None):
    """The end of a running trial: completed with a value, or failed."""
    if value is not None:
        study.apply(Reported(number, 0, 1, {"loss": value}, 0.0))
    outcome = outcome or (Outcome.FAILED if failure else Outcome.COMPLETED)
    study.apply(Ended(number, 0, outcome, Cost(seconds, evaluations=evaluations), 0.0, failure=failure))


def tell(study, params, value=None, **fields):
    """A trial that has ended; without a value it failed."""
    if value is None:
        fields.setdefault("failure", Failure.ERROR)
    end(study, start(study, params), value, **fields)


def drive(study, proposer, function, trials):
    """Propose, evaluate and tell, one at a time; the function gives None for a failure."""
    for _ in range(trials):
        for suggestion in proposer.propose(study, 1):
            tell(study, suggestion.params, function(suggestion.params))
    return study
