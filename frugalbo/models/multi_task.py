"""A surrogate of one problem that learns from others: earlier data sets, earlier models, earlier studies.

    tasks = fit_multi_task(X, losses, task, target="this one")    # a label for each observation
    tasks.model.posterior(points)          # of the target alone, over points alone; smaller is better
    tasks.outcome, tasks.used              # the target's transform; the sources that were of use

BoTorch's `MultiTaskGP` (Bonilla, Chai, Williams 2007; Swersky, Snoek, Adams 2013) with our mixed
kernel, over outcomes that each task's own `Outcome` has transformed: what the tasks share is where
they are good, not what their losses are in. Task correlations are not negative (BoTorch's
`PositiveIndexKernel`).

A source that does not fit still shares lengthscales with the target, and so may mislead. The target's
observations decide, where there are three or more: the sources are used if, each left out in turn,
they are together e times as probable given all other data as given the target's alone (one nat; in
closed form). Otherwise the model is of the target alone, and `used` is empty.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import botorch
import numpy as np
import torch
from botorch.models import MultiTaskGP
from botorch.models.model import Model
from gpytorch.kernels import Kernel
from numpy.typing import ArrayLike
from torch import Tensor

from frugalbo.errors import FrugalWarning, ModelError
from frugalbo.models.dense import DenseGP, LogConstraint, checked, log_density, log_priors, maximise
from frugalbo.models.deviation import log_lengthscales, matern_plan
from frugalbo.models.kernel import MixedMatern, lengthscale_prior
from frugalbo.models.map_fit import NOISE_BOUNDS
from frugalbo.models.objective import ObjectiveGP, Transform, fit_objective
from frugalbo.models.outcome import Outcome
from frugalbo.models.view import LinearView

Label = TypeVar("Label", bound=Hashable)
_ENOUGH = 3  # observations of the target that can speak against the sources
_MARGIN = 1.0  # nats


@dataclass(frozen=True, slots=True)
class MultiTask:
    """The fitted model of the target, and what was derived from the data; smaller outcomes are better.

    Args:
        model: Of the target's outcomes, over points: ... x q x d. An `ObjectiveGP` where no source was of use.
        outcome: The transform of the target's losses.
        used: The sources that the model learned from.
        correlation: Of each source with the target as the fit has it, whether used or not.
        evidence: Mean leave-one-out log density of the target's observations, with and without the sources.
    """

    model: Model
    outcome: Transform
    used: tuple[Hashable, ...]
    correlation: dict[Hashable, float]
    evidence: tuple[float, float]


def fit_multi_task(
    X: ArrayLike,
    losses: ArrayLike,
    task: Sequence[Label],
    target: Label,
    categorical: Sequence[int] = (),
    searched: int | None = None,
) -> MultiTask:
    """A model of the target task, from its observations and from those of others in the same space.

    Time grows with the cube of all observations together: 1 s for 100, 10 s for 500.

    Args:
        X: Unit points, n x d.
        losses: Finite, n; each task in units of its own, heavy tails included.
        task: The task of each observation, n labels.
        target: The task that is modelled; at least one observation is of it.
        categorical: The dimensions along which only equality counts.
        searched: The dimensions that can vary; all by default.

    Raises:
        ModelError: If the observations cannot be used; it says which.

    Warns:
        FrugalWarning: If the fit of all tasks fails; then the model is of the target alone.
    """
    points, y = checked(X, losses, "a multi-task model")
    if len(task) != len(points):
        raise ModelError(f"expected a task for each of {len(points)} points, got {len(task)}")
    labels = [target, *(label for label in dict.fromkeys(task) if label != target)]
    if target not in task:
        raise ModelError(f"expected observations of the target task {target!r}, got some of {labels[1:]} only")
    index = np.array([labels.index(label) for label in task])
    ours = index == 0
    alone = fit_objective(points[ours], y[ours], categorical, searched)
    if len(labels) == 1:
        density = _alone_density(alone.model)
        return MultiTask(alone.model, alone.outcome, (), {}, (density, density))
    seen = np.empty_like(y)
    for i in range(len(labels)):
        seen[index == i] = Outcome.of(y[index == i])(y[index == i])
    dims = max(1, points.shape[1] if searched is None else searched)
    joint = None
    try:
        joint = _fit(points, index, seen, categorical, dims)
        density, correlation = _joint_density(joint, ours), _correlation(joint)
    except ModelError as error:
        warnings.warn(
            f"the model of all {len(labels)} tasks could not be fitted ({error}); the target is modelled alone",
            FrugalWarning,
            stacklevel=2,
        )
        density, correlation = -math.inf, torch.zeros(len(labels) - 1)
    correlations: dict[Hashable, float] = dict(zip(labels[1:], correlation.tolist(), strict=True))
    evidence = (density, _alone_density(alone.model))
    n = int(ours.sum())
    if joint is None or (n >= _ENOUGH and n * (evidence[0] - evidence[1]) < _MARGIN):
        return MultiTask(alone.model, alone.outcome, (), correlations, evidence)
    model = LinearView(TaskGP(joint), torch.zeros(1, 1, dtype=torch.float64))
    return MultiTask(model, alone.outcome, tuple(labels[1:]), correlations, evidence)


def _fit(
    points: np.ndarray, index: np.ndarray, seen: np.ndarray, categorical: Sequence[int], searched: int
) -> MultiTaskGP:
    d = points.shape[1]
    inputs = torch.from_numpy(np.hstack([points, index[:, None]]))
    kernel = log_lengthscales(MixedMatern(d, categorical, lengthscale_prior(searched)))
    kernel.lengthscale = math.exp(lengthscale_prior(searched)[0])  # type: ignore[misc]
    with botorch.settings.validate_input_scaling(False), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the task kernel begins at random factors
        model = MultiTaskGP(
            inputs,
            torch.from_numpy(seen).unsqueeze(-1),
            task_feature=d,
            covar_module=kernel,
            output_tasks=[0],
            outcome_transform=None,
        )
    _parts(model).noise.register_constraint("raw_noise", LogConstraint(NOISE_BOUNDS[0] / 2), replace=True)
    median, short = math.exp(lengthscale_prior(searched)[0]), 0.3 * math.sqrt(searched)
    value = _posterior_density(model)
    starts = [lambda: _begin(model, median, 0.02), lambda: _begin(model, short, 0.005)]
    _, problem = maximise(value, list(model.parameters()), starts, 100)
    if problem:
        raise ModelError(problem)
    model.requires_grad_(False)
    return model.eval()


def _begin(model: MultiTaskGP, lengthscale: float, noise: float) -> None:
    """Set all that is learned to where a fit may begin: unlike BoTorch's, the same each time."""
    parts = _parts(model)
    parts.points.lengthscale = lengthscale  # type: ignore[misc]
    parts.tasks.raw_var.data.fill_(0.0)
    parts.tasks.raw_covar_factor.data.copy_(0.5 * torch.eye(*parts.tasks.raw_covar_factor.shape))
    for mean in parts.means:
        mean.raw_constant.data.fill_(0.0)
    parts.noise.noise = torch.full_like(parts.noise.noise, noise)


class _Parts(NamedTuple):
    """The modules of a `MultiTaskGP` whose kernel is ours."""

    points: MixedMatern
    tasks: Any
    means: Any
    noise: Any
    X: Tensor
    y: Tensor

    def levels(self) -> Tensor:
        return torch.stack([mean.constant for mean in self.means])


def _parts(model: Any) -> _Parts:  # noqa: ANN401 - GPyTorch's attributes have no types
    kernel, tasks = model.covar_module.kernels
    means = model.mean_module.base_means
    return _Parts(kernel, tasks, means, model.likelihood.noise_covar, model.train_inputs[0], model.train_targets)


def _covariance(model: MultiTaskGP) -> Callable[[], tuple[Tensor, Tensor]]:
    """The covariance of the observations (n x n, noise included) and their residuals (n), as they presently are."""
    parts = _parts(model)
    index = parts.X[:, -1].long()
    points = matern_plan(parts.points, parts.X[:, :-1])

    def now() -> tuple[Tensor, Tensor]:
        B = parts.tasks.covar_matrix[index][:, index]
        noise = parts.noise.noise.reshape(-1)[index]
        return points() * B + torch.diag_embed(noise), parts.y - parts.levels()[index]

    return now


def _posterior_density(model: MultiTaskGP) -> Callable[[], tuple[Tensor, float]]:
    now = _covariance(model)

    def value() -> tuple[Tensor, float]:
        K, residual = now()
        return log_density(K, residual) + log_priors(model), 0.0

    return value


class TaskKernel(Kernel):
    """A kernel over points times the covariance of tasks, whose index is the last column.

    Args:
        points: Over the other columns.
        tasks: T x T.
    """

    tasks: Tensor

    def __init__(self, points: MixedMatern, tasks: Tensor) -> None:
        super().__init__()
        self.points = points
        self.register_buffer("tasks", tasks)

    def forward(
        self, x1: Tensor, x2: Tensor, diag: bool = False, last_dim_is_batch: bool = False, **params: object
    ) -> Tensor:
        """The covariance of `x1` (... x n x (d + 1)) and `x2` (... x m x (d + 1)): ... x n x m, or n if `diag`."""
        if last_dim_is_batch:
            raise NotImplementedError("TaskKernel has no batch of one-dimensional kernels")
        i, j = x1[..., -1].long(), x2[..., -1].long()
        if diag:
            return self.tasks[i, i]
        return self.points.forward(x1[..., :-1], x2[..., :-1]) * self.tasks[i.unsqueeze(-1), j.unsqueeze(-2)]


class TaskGP(DenseGP):
    """What a fitted `MultiTaskGP` says, by the dense algebra of `DenseGP` (a test compares them).

    GPyTorch's product with an index kernel takes several times as long, and goes by way of sparse tensors. The
    levels of the other tasks are taken off their outcomes, so that all have the target's.

    Args:
        fitted: Over points and the index of the task, the target's being 0.
    """

    task_noise: Tensor

    def __init__(self, fitted: MultiTaskGP) -> None:
        parts = _parts(fitted)
        levels = parts.levels().detach()
        y = parts.y - (levels - levels[0])[parts.X[:, -1].long()]
        kernel = TaskKernel(parts.points, parts.tasks.covar_matrix.detach())
        super().__init__(parts.X, y.unsqueeze(-1), kernel)
        self.register_buffer("task_noise", parts.noise.noise.detach().reshape(-1))
        self.likelihood.noise = self.task_noise[:1]
        self.level.data.copy_(levels[0])
        self.freeze()

    def noise_variance(self, X: Tensor) -> Tensor:
        """The variance of an observation's noise at `X` (... x q x (d + 1)), each task's own; ... x q."""
        return self.task_noise[X[..., -1].long()]

    def _same(self, X: Tensor, y: Tensor, level: float) -> DenseGP:
        raise NotImplementedError("condition the view of the target on further observations, or negate that")


def _joint_density(model: MultiTaskGP, ours: np.ndarray) -> float:
    """Mean leave-one-out log density of the target's observations, all others given."""
    with torch.no_grad():
        K, residual = _covariance(model)()
    return leave_one_out(K, residual)[torch.from_numpy(ours)].mean().item()


def _alone_density(model: ObjectiveGP) -> float:
    X = model.train_inputs[0]
    K = model.covar_module.forward(X, X) + model.likelihood.noise * torch.eye(len(X), dtype=X.dtype)
    return leave_one_out(K, model.train_targets - model.level).mean().item()


def leave_one_out(K: Tensor, residual: Tensor) -> Tensor:
    """The log density of each observation given the others: `K` n x n with noise, `residual` n; n.

    Source: Rasmussen and Williams (2006), eqs. 5.10 to 5.12.
    """
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(K))
    precision = torch.diagonal(inverse)
    error = (inverse @ residual) / precision
    return 0.5 * (precision.log() - math.log(2 * math.pi) - error**2 * precision)


def _correlation(model: MultiTaskGP) -> Tensor:
    """Of each source with the target."""
    B = _parts(model).tasks.covar_matrix.detach()
    scale = torch.diagonal(B).sqrt()
    return (B / scale / scale.unsqueeze(-1))[0, 1:]
