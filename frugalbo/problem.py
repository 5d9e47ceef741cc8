"""What is to be tuned: a space, a job, an objective, and perhaps a fidelity.

A `Problem` is a description, light and storable. It does not import or run its job.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

from frugalbo.budget.stated import CostPrior, StatedCost, read_cost
from frugalbo.constraint import OutcomeConstraint, read_constraints
from frugalbo.errors import FrugalError, ProblemError, SpaceError
from frugalbo.space import Params, Space


@dataclass(frozen=True, slots=True)
class Objective:
    """The metric that decides; use `Minimize` or `Maximize`.

    Args:
        metric: Its name.
        sem: The name of another metric, reported with it: its standard error. A model takes it for the noise as
            soon as all results have one, and learns the noise otherwise.
    """

    metric: str
    sem: str | None = None
    sign: ClassVar[int]

    def __post_init__(self) -> None:
        if not isinstance(self.metric, str) or not self.metric:
            raise ProblemError(f"an objective needs the name of a metric, got {self.metric!r}")
        if self.sem is not None and (not isinstance(self.sem, str) or self.sem in ("", self.metric)):
            raise ProblemError(f"expected sem to be the name of another metric than {self.metric!r}, got {self.sem!r}")

    def to_loss(self, value: float) -> float:
        """`value` turned so that smaller is better; its own inverse."""
        return self.sign * value


@dataclass(frozen=True, slots=True)
class Minimize(Objective):
    """Smaller is better."""

    sign: ClassVar[int] = 1


@dataclass(frozen=True, slots=True)
class Maximize(Objective):
    """Larger is better."""

    sign: ClassVar[int] = -1


MOST_SETTLE = 32  # reports after a resume that are looked at


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How long a trial trains, in whole steps.

    Args:
        name: What a step is: `"steps"`, `"epochs"`, `"updates"`.
        low: The fewest steps worth running.
        high: The steps at which configurations are compared.
        schedule: `"truncated"`: a run of n steps is the first n steps of the full run, so a
            paused trial continues on the same curve. `"replanned"`: the job plans its schedule
            for the steps it was promised, so a run of n steps is another run than the first n
            steps of a longer one; it can be paused and resumed only within its own plan.
        settle: How many reports after a resume do not tell of the trial yet, and are set aside where trials are
            compared short of their ends; None to learn it, see `frugalbo.settling`.
    """

    name: str
    low: int
    high: int
    schedule: Literal["truncated", "replanned"] = "truncated"
    settle: int | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.low, int) and isinstance(self.high, int) and 1 <= self.low <= self.high):
            raise ProblemError(f"a fidelity needs whole steps 1 <= low <= high, got {self.low!r} and {self.high!r}")
        if self.schedule not in ("truncated", "replanned"):
            raise ProblemError(f"a fidelity's schedule is 'truncated' or 'replanned', got {self.schedule!r}")
        is_count = isinstance(self.settle, int) and not isinstance(self.settle, bool)
        if self.settle is not None and not (is_count and 0 <= self.settle <= MOST_SETTLE):
            raise ProblemError(
                f"a fidelity's settle is a number of reports from 0 to {MOST_SETTLE}, or None to learn it, "
                f"got {self.settle!r}"
            )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types, for `Fidelity(**record)`."""
        record = {name: getattr(self, name) for name in ("name", "low", "high", "schedule")}
        return record if self.settle is None else {**record, "settle": self.settle}


Job = str | Sequence[str] | Callable[..., Any]


@dataclass(frozen=True)
class Problem:
    """Training jobs with knobs.

    Args:
        space: The knobs.
        job: `"module:function"`, `"file.py:function"` (from `root`), a function, or a command as a
            list of words with `{knob}` in them. A function takes one `JobContext`.
        objective: `Minimize(metric)` or `Maximize(metric)` of a metric that the job reports.
        fidelity: None where a trial is one indivisible evaluation (of one step).
        defaults: The known-good configuration; the first that is tried.
        root: The folder from which the job's file or module is found.
        cost: What is known of a trial's cost before anything has run, see `frugalbo.budget.stated`: a
            formula of device-seconds such as `"2 + 0.001 * width * steps"`, a function of params, start
            and until or its `"module:function"`, or a `CostPrior`, also as a text: `"like width *
            depth"`, `"grows with width"`. None lets it all be learned.
        constraints: Bounds on other metrics that the job reports together with the objective, such as
            `["peak_gib <= 8", "accuracy >= 0.9"]`. What is known of parameters belongs to the space.

    Raises:
        ProblemError: If these do not fit together.
    """

    name: str
    space: Space
    job: Job
    objective: Objective
    fidelity: Fidelity | None = None
    defaults: Params | None = None
    description: str = ""
    root: str = field(default_factory=lambda: str(Path.cwd()))
    cost: StatedCost | None = None
    constraints: Sequence[str | OutcomeConstraint] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.space, Space):
            object.__setattr__(self, "space", Space(self.space))
        if not self.name or not isinstance(self.name, str):
            raise ProblemError("a problem needs a name")
        if not isinstance(self.objective, Objective) or type(self.objective) is Objective:
            raise ProblemError(f"an objective is Minimize(metric) or Maximize(metric), got {self.objective!r}")
        if self.fidelity is not None and not isinstance(self.fidelity, Fidelity):
            raise ProblemError(f"a fidelity is Fidelity(name, low, high) or None, got {self.fidelity!r}")
        object.__setattr__(self, "constraints", read_constraints(self.constraints, self.objective.metric))
        if isinstance(self.job, list):
            object.__setattr__(self, "job", tuple(self.job))
        self._check_job()
        if self.defaults is not None:
            defaults = self.space.complete(self.defaults)
            try:
                self.space.check(defaults)
            except SpaceError as error:
                raise ProblemError(f"the defaults of {self.name!r} are not a point of its space: {error}") from None
            if not self.space.is_feasible(defaults):
                raise ProblemError(f"the defaults of {self.name!r} violate a known constraint")
            object.__setattr__(self, "defaults", defaults)
        if self.cost is not None:
            object.__setattr__(self, "cost", read_cost(self.cost, self.space, self.steps))

    def _check_job(self) -> None:
        job = self.job
        if isinstance(job, str) and job != IN_MEMORY and not all(job.rpartition(":")[::2]):
            raise ProblemError(f"a job is 'module:function' or 'file.py:function', got {job!r}")
        if not isinstance(job, (str, tuple)) and not callable(job):
            raise ProblemError(f"a job is 'module:function', a function, or a command as a list of words, got {job!r}")
        if isinstance(job, tuple) and (not job or not all(isinstance(word, str) for word in job)):
            raise ProblemError(f"a command is a list of words, got {job!r}")

    @property
    def steps(self) -> int:
        """The steps of a full trial."""
        return self.fidelity.high if self.fidelity else 1

    @property
    def bounds(self) -> tuple[OutcomeConstraint, ...]:
        """The constraints, as they were read."""
        return self.constraints  # type: ignore[return-value]

    def to_json(self) -> dict[str, Any]:
        """This problem as plain JSON types.

        Raises:
            ProblemError: If the cost is a function that no other process could find.
        """
        objective = self.objective
        return {
            "name": self.name,
            "space": self.space.to_json(),
            "job": list(job) if isinstance(job := job_address(self.job), tuple) else job,
            "objective": {"metric": objective.metric, "minimize": objective.sign > 0, "sem": objective.sem},
            "fidelity": self.fidelity and self.fidelity.to_json(),
            "defaults": self.defaults,
            "description": self.description,
            "root": self.root,
            "cost": self._stored_cost(),
            "constraints": [str(constraint) for constraint in self.bounds],
        }

    def _stored_cost(self) -> str | dict[str, Any] | None:
        if isinstance(self.cost, CostPrior):
            return self.cost.to_json()
        if not callable(self.cost):
            return self.cost
        address = job_address(self.cost)
        if address == IN_MEMORY:
            raise ProblemError(
                f"the cost of {self.name!r} is a function that only this process has, so a stored run could not go "
                f"on with it: state it as a formula or as 'module:function', or give no storage"
            )
        return str(address)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Problem:
        """The problem that `to_json` wrote."""
        try:
            stated = record["objective"]
            sense = Minimize if stated["minimize"] else Maximize
            objective = sense(stated["metric"], stated.get("sem"))  # runs of older versions have none
            fidelity = Fidelity(**record["fidelity"]) if record["fidelity"] else None
            rest = {k: record[k] for k in ("name", "job", "defaults", "description", "root")}
            cost = record.get("cost")  # runs of older versions have none
            rest["cost"] = CostPrior(**cost) if isinstance(cost, Mapping) else cost
            rest["constraints"] = record.get("constraints", ())  # runs stored before there were any have none
            return cls(space=Space.from_json(record["space"]), objective=objective, fidelity=fidelity, **rest)
        except (KeyError, TypeError, AttributeError) as error:
            raise ProblemError(f"expected a problem as written by to_json: {error!r} in {record!r}") from error


IN_MEMORY = "<function in memory>"
_FILE_MODULE = "_frugalbo_problem_"


def job_address(job: Job) -> str | tuple[str, ...]:
    """Where another process finds `job`; `IN_MEMORY` for a function that only this process has.

    A function of a problem's file, or of the script that is being run, is addressed by the file.
    """
    if isinstance(job, str):
        return job
    if not callable(job):
        return tuple(job)
    name, module = getattr(job, "__qualname__", "<"), getattr(job, "__module__", None) or ""
    if module == "__main__" or module.startswith(_FILE_MODULE):
        file = getattr(sys.modules.get(module), "__file__", None)
        return f"{Path(file).resolve()}:{name}" if file and name.isidentifier() else IN_MEMORY
    found = getattr(sys.modules.get(module), name, None)
    return f"{module}:{name}" if found is job else IN_MEMORY


def load_problem(where: str | Path, settings: Mapping[str, Any] | None = None) -> Problem:
    """The problem at a folder with a `problem.py`, in a file, or in a module.

    Args:
        where: `"problems/tiny_llama"`, `"my_problem.py"`, `"package.module"`, the last two also
            with `":name"`. Without a name, `problem` is looked for: a `Problem`, or a function
            that returns one.
        settings: Arguments for that function.

    Raises:
        ProblemError: If nothing is there, or what is there is not a problem.
    """
    text = str(where)
    path, _, name = text.partition(":") if not Path(text).exists() else (text, "", "")
    module, root = _load_module(path)
    name = name or "problem"
    found = getattr(module, name, None)
    if callable(found):
        found = _call_factory(found, text, settings or {})
    elif settings:
        raise ProblemError(f"{text}: {name!r} is not a function, so it takes no settings, got {', '.join(settings)}")
    if not isinstance(found, Problem):
        raise ProblemError(f"{text}: expected {name!r} to be a Problem or a function that returns one, got {found!r}")
    return replace(found, root=str(root))


def load_function(address: str, root: str) -> Callable[..., Any]:
    """The function at `"module:name"` or `"file.py:name"`, both as seen from `root`; code of the user's runs.

    Raises:
        ProblemError: If there is none.
    """
    where, _, name = address.rpartition(":")
    if where.endswith(".py"):
        module, _ = _load_module(str(Path(root) / where))
    else:
        sys.path.insert(0, root)
        try:
            module, _ = _load_module(where)
        finally:
            sys.path.remove(root)
    found = getattr(module, name, None)
    if not callable(found):
        raise ProblemError(f"expected a function at {address!r}, seen from {root}, got {found!r}")
    return found


def command_problem(command: str | Sequence[str], **fields: Any) -> Problem:  # noqa: ANN401 - fields of Problem
    """A problem whose job is a command; each `{knob}` must be a parameter of the space.

    Raises:
        ProblemError: If a knob is not in the space or the command cannot be split into words.
    """
    try:
        words = shlex.split(command) if isinstance(command, str) else list(command)
    except (TypeError, ValueError) as error:
        raise ProblemError(f"a command is words, and {command!r} cannot be split into some: {error}") from None
    problem = Problem(job=words, **fields)
    fill_command(words, dict.fromkeys(problem.space.parameters, ""))
    return problem


_KNOB = re.compile(r"\{([A-Za-z_]\w*)\}")
RESERVED = ("seed", "start", "until", "planned", "threads", "devices", "checkpoint_dir")


def fill_command(words: Sequence[str], values: Mapping[str, object]) -> list[str]:
    """The words with `{name}` replaced by values, but for those of `RESERVED`; braces around anything else stay.

    Raises:
        ProblemError: If a name is neither in `values` nor in `RESERVED`.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name in values:
            return str(values[name])
        if name in RESERVED:
            return match[0]
        raise ProblemError(f"the command has {{{name}}}, which is no parameter; known are {', '.join(values)}")

    return [_KNOB.sub(value, word) for word in words]


def active_words(words: Sequence[str], space: Space, params: Mapping[str, object]) -> list[str]:
    """The words without those that name a parameter which is inactive in `params`.

    So a conditional knob is passed as one word, `--momentum={momentum}`, which then comes and goes whole.
    """
    inactive = set(space.parameters) - set(params)
    return [word for word in words if not inactive & set(_KNOB.findall(word))]


def _load_module(path: str) -> tuple[ModuleType, Path]:
    file = Path(path) / "problem.py" if Path(path).is_dir() else Path(path)
    if file.suffix == ".py":
        if not file.is_file():
            raise ProblemError(f"no problem at {path!r}: expected a file {file}")
        file = file.resolve()
        # Named by the whole path, so that files of the same name do not replace each other.
        spec = importlib.util.spec_from_file_location(_FILE_MODULE + str(file).encode().hex(), file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        with _loading(str(file)):
            spec.loader.exec_module(module)
        return module, file.parent
    try:
        found = importlib.util.find_spec(path) if path.replace(".", "").isidentifier() else None
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise ProblemError(f"no problem at {path!r}: expected a folder with a problem.py, a file, or a module")
    with _loading(path):
        return importlib.import_module(path), Path.cwd()


@contextmanager
def _loading(what: str) -> Iterator[None]:
    """Turn whatever a user's file raises while it is loaded into one sentence with the line."""
    try:
        yield
    except FrugalError:
        raise
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == what]
        where = f" (line {lines[-1]})" if lines else ""
        reason = " ".join(str(error).split())
        raise ProblemError(f"cannot load {what}: {type(error).__name__}: {reason}{where}") from error


def _call_factory(factory: Callable[..., Any], where: str, settings: Mapping[str, Any]) -> Any:  # noqa: ANN401
    known = inspect.signature(factory).parameters
    takes_any = any(p.kind == p.VAR_KEYWORD for p in known.values())
    needed = [k for k, p in known.items() if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    if missing := set(needed) - set(settings):
        raise ProblemError(f"{where}: needs the setting {min(missing)!r}")
    if not takes_any and (unknown := set(settings) - set(known)):
        raise ProblemError(f"{where}: unknown setting {min(unknown)!r}; known are {', '.join(known) or 'none'}")
    return factory(**settings)
