"""Tasks to learn from: random functions, looked at as a tuner looks at a job.

A function is a draw of Gaussian processes over warped inputs, some with a random neural network beside, and what
jobs have beside that: dimensions that do
not matter, categories, integers, valleys that end in a cliff (a learning rate that is too high), trends,
noise, and outcomes that are bent. Its results are those of a tuner: some points of no particular place, then
some near the best of them, so that networks learn from histories such as they will see.

| drawn | how |
|---|---|
| dimensions | 1 to `most_dims`, small numbers more often |
| matter | each dimension with a chance drawn per batch, the others have a lengthscale of a thousand |
| lengthscales | log-normal about 0.3 sqrt(d of those that matter), spread e^0.8 |
| kernel | Matern 1/2, 3/2, 5/2 or squared exponential; to one task in two, a second with half the lengthscales |
| inputs | one task in two: u^a with log a ~ N(0, 0.5), each dimension |
| valley | one task in three: a parabola in one dimension, which grows e-fold beyond its cliff |
| trend | one task in three: linear |
| network | a share of tasks, `networks`: two layers of 16 random tanh units, up to three times the process |
| outcomes | one task in two: exp(c f), the good end being flat; one in eight the other way round |
| levels | a share of tasks, `levels`: outcomes on a grid of 0.05 to 1 of their standard deviations, as accuracies are |
| noise | one task in two, its standard deviation log-uniform from 0.003 to 0.3 of that of the function |
| results | `n` in 2 to `most_seen`, log-uniform; up to two thirds of them near the best of the others |

A batch has one number of dimensions, of results and the same categorical dimensions, so nothing is padded.
Everything of batch `i` is drawn from a stream of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from frugalbo.models.outcome import Outcome

_JITTER = 1e-6
_NEVER = 1e3  # the lengthscale of what does not matter
_UNITS = 16  # of a layer of a random network
_CENTRES = 3  # of the best results, about which later ones lie


@dataclass(frozen=True, slots=True)
class Tasks:
    """A batch of tasks, in float64.

    Args:
        X: Where there are results, B x n x d.
        y: What they are, seen through the outcomes' transform that they give, B x n.
        categorical: d.
        Q: Where to predict, B x m x d.
        truth: What to predict: the function, or the result if `observed`; B x m.
        observed: Whether noise is in `truth`.
    """

    X: Tensor
    y: Tensor
    categorical: Tensor
    Q: Tensor
    truth: Tensor
    observed: bool


@dataclass(frozen=True, slots=True)
class Prior:
    """What tasks are drawn from.

    Args:
        most_dims: The most dimensions.
        most_seen: The most results.
        asked: Points to predict in each task.
        batch: Tasks at once.
        networks: The share of tasks with a random neural network beside the process.
        levels: The share of tasks whose outcomes lie on a grid.
    """

    most_dims: int = 20
    most_seen: int = 64
    asked: int = 24
    batch: int = 32
    networks: float = 0.0
    levels: float = 0.0

    def draw(self, seed: int, i: int, device: torch.device | None = None) -> Tasks:
        """Batch number `i`."""
        rng = np.random.default_rng([seed, i])
        g = torch.Generator().manual_seed(int(rng.integers(2**62)))
        d = min(self.most_dims, 1 + int(rng.gamma(1.5, 3.5)))
        n = round(math.exp(rng.uniform(math.log(2), math.log(self.most_seen))))
        categorical = torch.from_numpy(rng.random(d) < rng.choice([0.0, 0.0, 0.4]))
        function = _Function(self.batch, d, categorical, rng, g, self.networks)
        X, Q, values = _look(function, n, self.asked, rng, g)
        noise = torch.from_numpy(np.exp(rng.uniform(np.log(0.003), np.log(0.3), self.batch)))
        noise = noise * torch.from_numpy(rng.random(self.batch) < 0.5)
        shown = values + (noise * values.std(1)).unsqueeze(-1) * _normal(g, *values.shape)
        observed = bool(rng.random() < 0.5)
        y = torch.cat([shown[:, :n], (shown if observed else values)[:, n:]], dim=1)
        if self.levels:
            grid = values.std(1) * torch.from_numpy(np.exp(rng.uniform(np.log(0.05), 0, self.batch)))
            y = _on_grid(y, (grid * torch.from_numpy(rng.random(self.batch) < self.levels)).unsqueeze(-1))
        y = torch.from_numpy(np.stack([Outcome.of(row[:n])(row) for row in y.numpy()]))
        X, y, Q, truth, categorical = (t.to(device) for t in (X, y[:, :n], Q, y[:, n:], categorical))
        return Tasks(X, y, categorical, Q, truth, observed)

    def finite(self, seed: int, i: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Batch number `i` of finite sets: points B x count x d, values without noise B x count, categorical d.

        One batch in two has points of no particular place alone, the other as many near the best of them, as the pools
        of a proposer have.
        """
        rng = np.random.default_rng([seed, i, 3])
        g = torch.Generator().manual_seed(int(rng.integers(2**62)))
        d = min(self.most_dims, 1 + int(rng.gamma(1.5, 3.5)))
        categorical = torch.from_numpy(rng.random(d) < rng.choice([0.0, 0.0, 0.4]))
        function = _Function(self.batch, d, categorical, rng, g, self.networks)
        z, near = _normal(g, self.batch, count), count // 2 if rng.random() < 0.5 else 0
        X = function.points(count - near)
        if near:
            X = torch.cat([X, _near_best(function, X, z, near, g)], dim=1)
        return X, function.values(X, z), categorical


class _Function:
    """A batch of random functions; values of further points are drawn given those of earlier ones."""

    def __init__(
        self,
        batch: int,
        d: int,
        categorical: Tensor,
        rng: np.random.Generator,
        g: torch.Generator,
        networks: float = 0.0,
    ) -> None:
        self.batch, self.d, self.categorical, self.g = batch, d, categorical, g
        matters = rng.random((batch, d)) < rng.uniform(0.3, 1.0)
        matters[np.arange(batch), rng.integers(d, size=batch)] = True
        typical = 0.3 * np.sqrt(matters.sum(1, keepdims=True))
        lengths = np.where(matters, typical * np.exp(0.8 * rng.standard_normal((batch, d))), _NEVER)
        self.lengths = torch.from_numpy(lengths)
        self.kinds = torch.from_numpy(rng.integers(4, size=batch))
        self.second = torch.from_numpy(np.where(rng.random(batch) < 0.5, rng.uniform(0.05, 0.5, batch), 0.0))
        bends = np.exp(0.5 * rng.standard_normal((batch, d))) ** (rng.random((batch, 1)) < 0.5)
        self.bends = torch.where(categorical, 1.0, torch.from_numpy(bends))
        # Of each dimension as many steps as integers or categories have; 0 for a continuum.
        steps = np.where(rng.random(d) < 0.3, rng.integers(2, 12, d), 0)
        self.steps = torch.from_numpy(np.where(categorical.numpy(), rng.integers(3, 7, d), steps))
        self.valley = self._valley(rng)
        slopes = matters * rng.standard_normal((batch, d)) * (rng.random((batch, 1)) < 0.33)
        self.slopes = torch.where(categorical, 0.0, torch.from_numpy(slopes))
        bent = rng.uniform(0.3, 2.0, batch) * (rng.random(batch) < 0.5) * np.where(rng.random(batch) < 0.25, -1, 1)
        self.bent = torch.from_numpy(bent)
        self.loud, self.layers = torch.zeros(batch, dtype=torch.float64), []
        if networks:
            sizes = (d, _UNITS), (1, _UNITS), (_UNITS, _UNITS), (_UNITS, 1)
            self.layers = [torch.from_numpy(rng.standard_normal((batch, *size))) for size in sizes]
            reach = matters[..., None] * np.exp(rng.uniform(-0.5, 1.5, (batch, 1, 1)))
            self.layers[0] = self.layers[0] * torch.from_numpy(reach)
            self.loud = torch.from_numpy(rng.uniform(0, 3, batch) * (rng.random(batch) < networks))

    def points(self, n: int) -> Tensor:
        """Anywhere, B x n x d."""
        return self.settle(torch.rand(self.batch, n, self.d, generator=self.g, dtype=torch.float64))

    def settle(self, U: Tensor) -> Tensor:
        """Within the cube, integers and categories at the centre of their share of it."""
        U = U.clamp(0, 1)
        levels = self.steps.clamp_min(1)
        return torch.where(self.steps > 0, ((U * levels).floor().clamp_max(levels - 1) + 0.5) / levels, U)

    def values(self, X: Tensor, z: Tensor) -> Tensor:
        """At points B x n x d, by standard normals B x n; the first values depend on the first points alone."""
        V = torch.where(self.categorical, X, X ** self.bends.unsqueeze(1))
        K = _JITTER * torch.eye(X.shape[1], dtype=X.dtype) + self._kernel(V, 1.0)
        weak = self.second.reshape(-1, 1, 1)
        L = torch.linalg.cholesky((1 - weak) * K + weak * self._kernel(V, 0.5))
        f = (L @ z.unsqueeze(-1)).squeeze(-1) + (V @ self.slopes.unsqueeze(-1)).squeeze(-1)
        if self.layers:
            f = f + self.loud.unsqueeze(-1) * self._network(V)
        at, centre, steep, cliff = self.valley
        x = V.gather(2, at.reshape(-1, 1, 1).expand(-1, X.shape[1], 1)).squeeze(-1) - centre.unsqueeze(-1)
        f = f + steep.unsqueeze(-1) * (x * x + torch.expm1(12 * (x - cliff.unsqueeze(-1)).clamp_min(0)))
        bent = self.bent.unsqueeze(-1)
        return torch.where(bent == 0, f, torch.expm1((bent * f).clamp_max(30)) / torch.where(bent == 0, 1.0, bent))

    def _network(self, V: Tensor) -> Tensor:
        """Of random weights, at points B x n x d; B x n."""
        first, shift, second, last = self.layers
        hidden = torch.tanh((2 * V - 1) @ first + shift)
        return (torch.tanh(hidden @ second / math.sqrt(_UNITS / 4)) @ last / math.sqrt(_UNITS)).squeeze(-1)

    def _valley(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Which dimension, where its bottom is, how steep it is (0: no valley), and how far off its cliff begins."""
        numbers = np.flatnonzero(~self.categorical.numpy())
        at = rng.choice(numbers, self.batch) if len(numbers) else np.zeros(self.batch, dtype=int)
        steep = np.exp(rng.uniform(0, 3, self.batch)) * (rng.random(self.batch) < 0.33) * (len(numbers) > 0)
        centre, cliff = rng.uniform(0.1, 0.9, self.batch), rng.uniform(0, 0.4, self.batch)
        return torch.from_numpy(at), torch.from_numpy(centre), torch.from_numpy(steep), torch.from_numpy(cliff)

    def _kernel(self, V: Tensor, factor: float) -> Tensor:
        apart = V.unsqueeze(2) - V.unsqueeze(1)
        apart = torch.where(self.categorical, (apart.abs() > 1e-9).to(V), apart)
        square = ((apart / (factor * self.lengths)[:, None, None]) ** 2).sum(-1)
        r, kinds = (square + 1e-16).sqrt(), self.kinds.reshape(-1, 1, 1)
        a, b = math.sqrt(3) * r, math.sqrt(5) * r
        kernels = [(-r).exp(), (1 + a) * (-a).exp(), (1 + b + b * b / 3) * (-b).exp(), (-square / 2).exp()]
        return torch.stack([torch.where(kinds == i, k, 0.0) for i, k in enumerate(kernels)]).sum(0)


def _look(
    function: _Function, n: int, m: int, rng: np.random.Generator, g: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Results and questions (B x n x d, B x m x d), and the values at both, B x (n + m)."""
    z = _normal(g, function.batch, n + m)
    near = int(rng.uniform(0, 0.67) * n) if n > 4 else 0
    X = function.points(n - near)
    parts = [X]
    if near:
        parts.append(_near_best(function, X, z, near, g))
    X = torch.cat(parts, dim=1)
    close = m // 2
    Q = torch.cat([function.points(m - close), _near_best(function, X, z, close, g)], dim=1)
    return X, Q, function.values(torch.cat([X, Q], dim=1), z)


def _near_best(function: _Function, X: Tensor, z: Tensor, count: int, g: torch.Generator) -> Tensor:
    """`count` points near the best few of `X`, at distances from 0.3 down to 0.01, half of them in some dimensions."""
    f = function.values(X, z[:, : X.shape[1]])
    best = f.argsort(dim=1)[:, :_CENTRES]
    pick = torch.randint(best.shape[1], (len(X), count), generator=g)
    centres = X.gather(1, best.gather(1, pick).unsqueeze(-1).expand(-1, -1, X.shape[2]))
    reach = 10 ** (-0.5 - 1.5 * torch.rand(len(X), count, 1, generator=g, dtype=X.dtype))
    moved = torch.rand(centres.shape, generator=g) < torch.where(
        torch.rand(len(X), count, 1, generator=g) < 0.5, 1.0, 0.3
    )
    anywhere = torch.where(function.categorical, torch.rand(centres.shape, generator=g, dtype=X.dtype), 0.0)
    step = torch.where(function.categorical, anywhere - centres, reach * _normal(g, *centres.shape))
    return function.settle(centres + torch.where(moved, step, 0.0))


def _on_grid(y: Tensor, grid: Tensor) -> Tensor:
    """Rounded to multiples of `grid`, as they are where it is 0."""
    return torch.where(grid > 0, (y / torch.where(grid > 0, grid, 1.0)).round() * grid, y)


def _normal(g: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=g, dtype=torch.float64)
