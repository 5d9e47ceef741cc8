"""The front door: `tune`, `resume` and `open_study`.

Everything here puts the parts together; the parts are in the modules of their names.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Thread
from typing import Any

from frugalbo.budget.amounts import Budget, Cost, parse_amount
from frugalbo.budget.cost import cost_model
from frugalbo.budget.stated import StatedCost
from frugalbo.budget.worth import MinGain
from frugalbo.errors import BudgetError, ProblemError
from frugalbo.executors.backends import read_backend
from frugalbo.executors.base import Executor
from frugalbo.pool import Pool, budgets_of, read_pools
from frugalbo.problem import IN_MEMORY, Problem, load_problem
from frugalbo.propose import LIGHT, preload
from frugalbo.report import Report
from frugalbo.run import Observer, RunLoop
from frugalbo.session import OpenStudy
from frugalbo.standby import await_lease
from frugalbo.store import Lease, Store
from frugalbo.stored import DEFAULT_STORAGE, Settings, folder_of, read_study, spec_of, stored_problem

# A hold that is too high is given back a moment later; one that is too low kills a good trial.
CONFIDENCE = 0.995


@dataclass(slots=True)
class Handle:
    """What a controller holds of a run: who may write, what was written, where files go."""

    problem: Problem
    budget: Budget
    seed: int
    settings: Settings
    folder: Path
    run_id: str | None = None
    lease: Lease | None = None
    events: list[Any] = field(default_factory=list)
    wall_before: float = 0.0
    new_spec: Mapping[str, Any] | None = None
    elsewhere: Cost = field(default_factory=Cost)  # what others have spent of the same budget


def tune(
    problem: Problem | str | Path,
    *,
    budget: Budget | str | float | Mapping[str, Any],
    seed: int = 0,
    method: str = "auto",
    scheduler: str = "auto",
    devices: str | None = None,
    dollars_per_hour: float = 0.0,
    pools: Sequence[Pool | Mapping[str, Any]] | str | Path | None = None,
    trial_cap: str | float | None = None,
    min_gain: str | None = None,
    stop_regret: float | None = None,
    cost: StatedCost | None = None,
    storage: str | Path | None = None,
    backend: str | Mapping[str, Any] = "local",
    executor: Executor | None = None,
    observe: Observer | None = None,
) -> Report:
    """Find the best configuration that a budget can buy.

    Args:
        problem: A `Problem`, or where one is: a folder, a file or a module.
        budget: Such as `"10min"`, `"2.5 GPU-hours"`, `"20 USD"`, `"50 trials"`, a number of
            device-seconds, or several limits at once; see `Budget.of`.
        seed: Of all choices that frugalbo makes, and of the jobs.
        method: How configurations are chosen: `"auto"`, `"pbgi"`, `"kg"` ... `"random"`; see `frugalbo.propose`.
        scheduler: How long each is run: `"fixed"` (to the end), `"asha"`, `"freeze-thaw"`, `"asha-stop"`,
            `"hyperband"`, `"sh"`, `"median"` or `"auto"`; see `frugalbo.scheduler`. They compare trials short of
            the end only where the problem has a fidelity.
        devices: Such as `"cuda:0,1"` or `"cpu:2x4"`; all that are found by default.
        dollars_per_hour: The price of one device, for a budget of money.
        pools: Devices of several prices and speeds, perhaps with budgets of their own, in the place of
            `devices`: `Pool`s, or a file of TOML; see `frugalbo.pool`.
        trial_cap: The most time for one trial, such as `"30s"`.
        min_gain: What must be expected to be gained for the run to go on, such as `"0.001 per 60s"`: as soon as
            no configuration is expected to improve the objective by 0.001 for each 60 device-seconds that
            it takes, nothing more is started. Also per GPU-hour, USD or trial; by default the budget is spent.
        stop_regret: Stop when the model is confident that no configuration is better than the best by more than this,
            in units of the objective; see `frugalbo.propose.regret`. By default the budget is spent.
        cost: What is known of a trial's cost, in the place of what the problem states; see `frugalbo.budget.stated`.
        storage: A database file or URL in which the run survives; by default it lives in memory.
        backend: The engine that runs trials: `"local"`, on this machine; `"ray"`, on a Ray cluster; with options,
            see `frugalbo.executors.backends`.
        executor: One of your own, in its place.
        observe: Called with the study and the balance after every change.

    Raises:
        FrugalError: If the problem, the budget or the devices do not make sense.
    """
    problem = _stating(problem, cost)
    read = None if pools is None else read_pools(pools)
    engine = None if backend == "local" else read_backend(backend)
    cap_s = seconds(trial_cap)
    settings = Settings(method, scheduler, devices, dollars_per_hour, cap_s, min_gain, read, stop_regret, engine)
    amount = Budget.of(budget)
    is_free = not settings.is_priced and executor is None
    if amount.dollars is not None and is_free:
        raise BudgetError("a budget of money needs the price of a device: expected dollars_per_hour above 0, got 0")
    if min_gain is not None and MinGain.of(min_gain).resource == "dollars" and is_free:
        raise BudgetError("a gain per USD needs the price of a device: expected dollars_per_hour above 0, got 0")
    executor = executor or executor_of(problem, settings)  # refuses impossible devices before anything is written
    with ExitStack() as stack:
        handle = _new(stack, problem, amount, seed, settings, storage)
        return _run(handle, executor, observe)


def resume(
    run: str | None = None,
    *,
    storage: str | Path = DEFAULT_STORAGE,
    problem: Problem | None = None,
    budget: Budget | str | float | Mapping[str, Any] | None = None,
    min_gain: str | None = None,
    stop_regret: float | str | None = None,
    pools: Sequence[Pool | Mapping[str, Any]] | str | Path | None = None,
    executor: Executor | None = None,
    observe: Observer | None = None,
    standby: bool = False,
) -> Report:
    """Go on with a stored run: after a crash, an interrupt, or with a larger budget.

    Args:
        run: Its name; the newest by default.
        storage: Where it is stored.
        problem: Needed if its job is a function that only lived in memory.
        budget: A new budget for the whole run, including what is already spent.
        min_gain: A new one, as for `tune`; `"none"` to spend all of the budget.
        stop_regret: The same.
        pools: New ones, such as with larger budgets; of a pool that keeps its name, what was spent there counts.
        executor: As for `tune`.
        observe: As for `tune`.
        standby: Wait while another controller is at work on it, and go on if that one dies; if it ends the run
            in order instead, return what came out.
    """
    with ExitStack() as stack:
        lease = None
        if standby:
            store = stack.enter_context(Store(storage))
            run = store.run(run).id
            lease = await_lease(store, run)
            if lease is None:
                return Report(read_study(store, run), run_id=run, stop_reason=store.stop_reason(run) or "")
            stack.enter_context(lease)
        handle = _stored(stack, run, storage, problem, budget, min_gain, pools, stop_regret, lease=lease)
        return _run(handle, executor or executor_of(handle.problem, handle.settings), observe)


def pause(run: str | None = None, *, storage: str | Path = DEFAULT_STORAGE) -> str:
    """Ask the controller of a run, wherever it is, to end with all trials paused; `resume` goes on with it.

    Within seconds it asks the running segments to save and end, and then ends itself.

    Args:
        run: Its name; the newest by default.
        storage: Where it is stored.

    Returns:
        The run's name.

    Raises:
        LeaseError: If no controller is at work on it.
    """
    with Store(storage) as store:
        return store.ask_to_pause(run)


def open_study(
    problem: Problem | str | Path | None = None,
    *,
    budget: Budget | str | float | Mapping[str, Any] | None = None,
    seed: int = 0,
    method: str = "auto",
    min_gain: str | None = None,
    stop_regret: float | str | None = None,
    cost: StatedCost | None = None,
    storage: str | Path | None = None,
    run: str | None = None,
) -> OpenStudy:
    """A study for those who own the loop: `ask` for trials, `tell` what came out, `close` at the end.

    Args:
        problem: What is tuned; None to go on with a stored run.
        budget: As for `tune`; needed with a problem.
        seed: Of all choices that frugalbo makes.
        method: As for `tune`.
        min_gain: As for `tune`; for a stored run as for `resume`. `ask` raises `BudgetError` when nothing is worth it.
        stop_regret: The same.
        cost: As for `tune`.
        storage: As for `tune`.
        run: The stored run to go on with; the newest by default.

    Raises:
        FrugalError: If there is neither a problem with a budget nor a stored run.
    """
    stack = ExitStack()
    try:
        if problem is None:
            handle = _stored(stack, run, storage or DEFAULT_STORAGE, None, budget, min_gain, None, stop_regret)
        elif budget is None:
            raise BudgetError("expected a budget, such as '10min' or '50 trials', got none")
        else:
            settings = Settings(method, min_gain=min_gain, stop_regret=stop_regret)  # type: ignore[arg-type]
            handle = _new(stack, _stating(problem, cost), Budget.of(budget), seed, settings, storage)
        study = _open(handle)
    except BaseException:
        stack.close()
        raise
    study.on_close(stack.close)
    return study


def seconds(amount: str | float | None) -> float | None:
    """A duration in seconds from a number or a text such as `"30s"`.

    Raises:
        BudgetError: If it is not a time.
    """
    if not isinstance(amount, str):
        return amount
    resource, number = parse_amount(amount)
    if resource not in ("device_seconds", "wall_seconds"):
        raise BudgetError(f"expected a time such as '30s', got {amount!r}")
    return number


def _stating(problem: Problem | str | Path, cost: StatedCost | None) -> Problem:
    """The problem with what is stated of its cost; refuses a cost function that cannot be loaded."""
    problem = problem if isinstance(problem, Problem) else load_problem(problem)
    if cost is not None:
        problem = replace(problem, cost=cost)
    cost_model(problem, CONFIDENCE)
    return problem


def _new(
    stack: ExitStack,
    problem: Problem,
    budget: Budget,
    seed: int,
    settings: Settings,
    storage: str | Path | None,
) -> Handle:
    settings.make_scheduler(settings.proposer(problem, seed), None)  # refuses unknown names before anything is written
    if storage is None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="frugalbo-", ignore_cleanup_errors=True)))
        return Handle(problem, budget, seed, settings, folder)
    store = stack.enter_context(Store(storage))
    run_id = store.create_run(spec_of(problem, budget, seed, settings), name=problem.name)
    lease = stack.enter_context(store.lease(run_id))
    return Handle(problem, budget, seed, settings, folder_of(storage, run_id), run_id, lease)


def take_turn(
    run: str,
    storage: str | Path,
    problem: Problem | None,
    budget: Budget,
    *,
    elsewhere: Cost,
    over: Callable[[OpenStudy], str | None],
    executor: Executor,
    observe: Observer | None,
) -> str:
    """Go on with one of the runs that share a budget, until its turn is over; returns why it ended.

    Args:
        run: Its id.
        storage: As for `tune`.
        problem: As for `resume`.
        budget: Of all of them.
        elsewhere: What the others have spent of it.
        over: Asked before anything starts: why nothing more does, None if something may.
        executor: Where its trials run.
        observe: As for `tune`.
    """
    with ExitStack() as stack:
        handle = _stored(stack, run, storage, problem, budget, None, is_shared=True)
        handle.elsewhere = elsewhere
        return _run(handle, executor, observe, over).stop_reason


def _stored(
    stack: ExitStack,
    run: str | None,
    storage: str | Path,
    problem: Problem | None,
    budget: Budget | str | float | Mapping[str, Any] | None,
    min_gain: str | None,
    pools: Sequence[Pool | Mapping[str, Any]] | str | Path | None = None,
    stop_regret: float | str | None = None,
    *,
    is_shared: bool = False,
    lease: Lease | None = None,
) -> Handle:
    store = stack.enter_context(Store(storage))
    record = store.run(run)
    if "together" in record.spec and not is_shared:
        how = "fb.resume_together or 'frugalbo together --resume'"
        raise BudgetError(f"{record.id} shares its budget with other problems: go on with {how}")
    if problem is None:
        problem = stored_problem(record)
        if problem.job == IN_MEMORY:
            raise ProblemError(
                f"the job of {record.id} was a function in memory: resume it from Python with problem=..., "
                f"or put the job in a file"
            )
    else:
        given, stored = problem.to_json(), {"constraints": [], **record.spec["problem"]}
        parts = ("job", "space", "objective", "fidelity", "constraints")
        if other := [part for part in parts if given[part] != stored[part]]:
            text = f"the problem {problem.name!r} is not the one that {record.id} was started with"
            raise ProblemError(f"{text}: another {other[0].removesuffix('s')}")
        problem = replace(problem, cost=stored_problem(record).cost)  # `tune` may have been given another
    lease = lease or stack.enter_context(store.lease(record.id))
    spec = dict(record.spec)
    if budget is not None:
        spec["budget"] = Budget.of(budget).to_json()
    if min_gain is not None:
        spec["settings"] = {**spec["settings"], "min_gain": None if min_gain == "none" else min_gain}
    if stop_regret is not None:
        spec["settings"] = {**spec["settings"], "stop_regret": None if stop_regret == "none" else stop_regret}
    if pools is not None:
        changed = {"pools": [pool.to_json() for pool in read_pools(pools)], "devices": None, "dollars_per_hour": 0.0}
        spec["settings"] = {**spec["settings"], **changed}
    settings = Settings(**spec["settings"])
    settings.proposer(problem, spec["seed"])  # refuses a price that makes no sense before anything is written
    events = [event for _, event in store.read(record.id)]
    return Handle(
        problem,
        Budget.of(spec["budget"]),
        spec["seed"],
        settings,
        folder_of(storage, record.id),
        record.id,
        lease,
        events,
        store.wall_seconds(record.id),
        spec if spec != record.spec else None,
    )


def _open(handle: Handle) -> OpenStudy:
    if handle.lease:
        handle.lease.keep_alive()
    proposer = handle.settings.proposer(handle.problem, handle.seed)
    study = OpenStudy(
        handle.problem, handle.budget, lease=handle.lease, proposer=proposer,
        wall_before=handle.wall_before + handle.elsewhere.wall_seconds, pools=budgets_of(handle.settings.pools),
    )  # fmt: skip
    try:
        study.replay(handle.events)
    except BudgetError as error:
        raise BudgetError(f"the budget does not cover what {handle.run_id} has already spent: {error}") from None
    study.ledger.hold("elsewhere", handle.elsewhere)
    study.ledger.settle("elsewhere", handle.elsewhere)
    if handle.lease and handle.new_spec is not None:
        handle.lease.amend(handle.new_spec)
    return study


def executor_of(problem: Problem, settings: Settings) -> Executor:
    """The engine and the devices that the settings name."""
    from frugalbo.executors.backends import make_executor

    backend = settings.backend or {"name": "local"}
    price = settings.dollars_per_hour
    return make_executor(problem, backend, devices=settings.devices, dollars_per_hour=price, pools=settings.pools)


def _run(
    handle: Handle,
    executor: Executor,
    observe: Observer | None,
    over: Callable[[OpenStudy], str | None] | None = None,
) -> Report:
    study = _open(handle)
    assert study.proposer is not None
    costs = cost_model(handle.problem, CONFIDENCE)
    loop = RunLoop(
        study=study,
        scheduler=handle.settings.make_scheduler(study.proposer, costs),
        executor=executor,
        cost_model=costs,
        folder=handle.folder,
        seed=handle.seed,
        trial_cap_s=handle.settings.trial_cap_s,
        observe=observe,
        over=over,
    )
    if handle.settings.method not in LIGHT:
        # Some seconds of imports, done while the first trials run.
        Thread(target=preload, name="frugalbo-preload", daemon=True).start()
    reason = loop.run()
    if handle.lease:
        handle.lease.note_end(reason)
    return Report(study, run_id=handle.run_id, stop_reason=reason)
