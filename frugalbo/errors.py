"""What frugalbo raises and warns of.

Every error is also the built-in that a caller would expect, and its message says what was
expected and what came. The command line prints the message alone and exits with 2.
"""


class FrugalError(Exception):
    """Something frugalbo refused, in one sentence that the user can act on."""


class SpaceError(FrugalError, ValueError):
    """A search space or a point of it that cannot be."""


class BudgetError(FrugalError, ValueError):
    """An amount that cannot be read, held or paid."""


class PoolError(FrugalError, ValueError):
    """A pool of devices that cannot be."""


class ProblemError(FrugalError, ValueError):
    """A problem that cannot be found or does not fit together."""


class StudyError(FrugalError, ValueError):
    """An event or a question that does not fit the study's state."""


class ModelError(FrugalError, ValueError):
    """Observations that a surrogate cannot be fitted to, or a question it has no answer for."""


class WeightsError(FrugalError, ValueError):
    """A file of weights that is none, or not for this, or settings that make none."""


class BanditError(FrugalError, ValueError):
    """An arm, reward, cost or state that a bandit cannot be told, or a choice that is over."""


class MissingExtra(FrugalError, ImportError):
    """Something that needs a package which is not installed; the message names it."""


class StorageError(FrugalError, OSError):
    """A journal that cannot be opened, read or written."""


class OutageError(StorageError):
    """A journal whose database is out of reach for now: a server that restarts, a network that is cut."""


class LeaseError(StorageError):
    """Another controller writes to this run, or took it over."""


class ExecutorError(FrugalError, RuntimeError):
    """A device or a worker process that cannot do what was asked."""


class FrugalWarning(UserWarning):
    """We went on, and you may not like how; the message names the remedy."""
