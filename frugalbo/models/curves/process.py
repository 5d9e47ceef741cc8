"""The Gaussian process of learning curves, jointly over configurations.

| symbol | meaning | shape |
|---|---|---|
| t | progress as a share of the horizon's, in (0, 1] | n x k |
| q(t) | the clock, `(1 - t^p) / p`: 0 at the horizon; `-log t` for p = 0 | n x k |
| z | tempered losses: `z = a + motion(q) + noise` | n x k |
| a | the level of each trial: its loss at the horizon but for the noise; `a = g(x) + e` | n |
| g | what configurations have in common: a Matern-5/2 process over x, and a constant | |
| e | a trial's own level, of variance `own^2 + kappa sigma_i^2` | n |
| motion | how a curve comes to its level: runs backwards from 0 at the horizon, `sigma_i^2 W(q, q')` | |
| W | `w min(q, q') + (1 - w) (integrated Ornstein-Uhlenbeck of memory lambda)` | |
| sigma_i^2 | how much a trial moves: inverse gamma around `b` with `a_0` degrees of freedom | n |
| noise | of variance `nu sigma_i^2`, one for each report | |
| R | covariance of motion and noise over `sigma_i^2` | n x k x k |
| H, h | what a curve says of its level: `1'R^-1 1 / sigma_i^2` and `1'R^-1 z / sigma_i^2` | n |

After freeze-thaw (Swersky, Snoek, Adams 2014, arXiv:1406.3896): given the levels the curves are independent, so
all of a curve enters as one observation `h / H` of its level with variance `1 / H`, and the cost is
n^3 + n k^3. Deviations: the curve's part is not a mixture of exponential decays from the start but a motion that
ends at the horizon: Brownian, of which the prediction is the last value, plus one whose velocity persists
for a while, of which it is the last value and a damped trend. Each trial has a scale of its own, because a
curve that lies flat at chance and one that moves differ by orders of magnitude; it is taken at its
posterior mean. The same scale widens the prior of its level, else those that move were drawn towards those that do not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from frugalbo.models.curves.curve import Array, PartialCurve, Temper, thin

DTYPE = torch.float64
_JITTER = 1e-7
_CONSTANT_VARIANCE = 4.0

# name: where its fit starts, and how far its prior lets it go. Logarithms, but for `power`, and `rough`, a logit.
_SCALARS: dict[str, tuple[float, float]] = {
    "shared": (0.0, 0.7),  # standard deviation of g
    "own": (-0.5, 0.5),  # of e
    "kappa": (3.0, 0.7),
    "power": (-0.3, 0.125),  # p
    "noise": (-3.0, 2.0),  # nu
    "volatility": (-3.0, 3.0),  # b
    "alike": (0.7, 0.7),  # a_0
    "rough": (-2.0, 2.0),  # w
    "memory": (1.0, 1.5),  # lambda
    "freedom": (1.4, 0.7),  # of the predictions' Student t, less 1.5
    "scale": (0.0, 0.5),  # and its scale, in standard deviations
}


class Hyperparameters:
    """Views of one vector: d log lengthscales, and then the scalars."""

    def __init__(self, vector: Tensor) -> None:
        self.vector = vector
        self.lengthscales = vector[: len(vector) - len(_SCALARS)].exp()
        scalars = dict(zip(_SCALARS, vector[len(self.lengthscales) :], strict=True))
        self.shared2 = (2 * scalars["shared"]).exp()
        self.own2 = (2 * scalars["own"]).exp()
        self.kappa = scalars["kappa"].exp()
        # Away from 0, where the clock's formula is 0 / 0.
        self.power = torch.where(scalars["power"].abs() < 1e-3, 1e-3, scalars["power"])
        self.noise = scalars["noise"].exp()
        self.volatility = scalars["volatility"].exp()
        self.alike = scalars["alike"].exp()
        self.rough = torch.sigmoid(scalars["rough"])
        self.memory = scalars["memory"].exp()
        self.freedom = 1.5 + scalars["freedom"].exp()
        self.scale = scalars["scale"].exp()

    @staticmethod
    def prior(d: int) -> tuple[Array, Array]:
        """Mean and standard deviation of the vector; shapes (d + scalars,)."""
        scalars = np.array(list(_SCALARS.values()))
        lengthscale = math.log(0.5) + 0.5 * math.log(d)
        return np.append(np.full(d, lengthscale), scalars[:, 0]), np.append(np.ones(d), scalars[:, 1])

    def clock(self, t: Tensor) -> Tensor:
        """`q(t)`."""
        return -torch.expm1(self.power * torch.log(t)) / self.power

    def motion(self, a: Tensor, b: Tensor) -> Tensor:
        """`W(a, b)` of two clocks, broadcast."""
        low, memory = torch.minimum(a, b), self.memory
        decays = 1 - torch.exp(-a / memory) - torch.exp(-b / memory) + torch.exp(-(a - b).abs() / memory)
        return low - (1 - self.rough) * 0.5 * memory * decays

    def correlation(self, A: Tensor, B: Tensor) -> Tensor:
        """Matern-5/2, between rows."""
        a, b = A / self.lengthscales, B / self.lengthscales
        square = a.square().sum(-1)[:, None] + b.square().sum(-1)[None] - 2 * a @ b.T
        r = (5 * square.clamp_min(1e-10)).sqrt()
        return (1 + r + r * r / 3) * torch.exp(-r)

    def kernel(self, A: Tensor, B: Tensor) -> Tensor:
        """The covariance of g, and of the constant."""
        return self.shared2 * self.correlation(A, B) + _CONSTANT_VARIANCE


@dataclass(frozen=True, slots=True)
class Batch:
    """Curves as padded arrays."""

    t: Tensor  # n x k, padded with 1
    z: Tensor  # n x k, padded with 0
    seen: Tensor  # n x k

    @classmethod
    def of(cls, curves: Sequence[PartialCurve], progress: Array, temper: Temper, most: int, share: float = 1) -> Batch:
        """The first `share` of the reports of each curve, thinned to `most`; none of a curve that failed.

        Args:
            curves: The curves, n.
            progress: Their progress at each report, as a share; the curves' one after the other.
            temper: For their losses.
            most: Reports of a curve that are looked at.
            share: One report is always among them where there are two or more.
        """
        ends = np.cumsum([len(curve.steps) for curve in curves])
        rows: list[tuple[Array, Array]] = []
        for curve, end in zip(curves, ends, strict=True):
            k = len(curve.steps)
            t = progress[end - k : end]
            kept = k if share == 1 else (max(1, int(share * k)) if k > 1 else 0)
            chosen = thin(curve.steps[: 0 if curve.failed else kept], most)
            rows.append((t[chosen], curve.losses[chosen]))
        width = max(1, *(len(t) for t, _ in rows))
        T, Z, seen = np.ones((len(rows), width)), np.zeros((len(rows), width)), np.zeros((len(rows), width), bool)
        for i, (t, losses) in enumerate(rows):
            T[i, : len(t)], Z[i, : len(t)], seen[i, : len(t)] = t, temper(losses), True
        return cls(torch.from_numpy(T), torch.from_numpy(Z), torch.from_numpy(seen))


class Levels:
    """The posterior of the levels, given hyperparameters.

    Args:
        batch: What is known of n curves.
        X: Their configurations, n x d.
        hyper: The hyperparameters.
    """

    def __init__(self, batch: Batch, X: Tensor, hyper: Hyperparameters) -> None:
        self.batch, self.X, self.hyper = batch, X, hyper
        n, seen = len(X), batch.seen
        self.q = hyper.clock(batch.t)
        both = seen[:, :, None] & seen[:, None, :]
        R = torch.where(both, hyper.motion(self.q[:, :, None], self.q[:, None, :]), 0.0)
        self.chol_R = torch.linalg.cholesky(R + torch.diag_embed(torch.where(seen, hyper.noise + _JITTER, 1.0)))
        white = torch.linalg.solve_triangular(self.chol_R, torch.stack([seen.to(DTYPE), batch.z], -1), upper=False)
        one, z = white.unbind(-1)
        H, h, count = one.square().sum(-1), (one * z).sum(-1), seen.sum(-1)
        residual = torch.where(count > 1, z.square().sum(-1) - h.square() / H.clamp_min(1e-12), 0.0).clamp_min(0)
        prior = hyper.alike * hyper.volatility
        self.sigma2 = (prior + residual) / (hyper.alike + (count - 1).clamp_min(0))
        self.H, self.h = H / self.sigma2, h / self.sigma2
        self.own2 = hyper.own2 + hyper.kappa * self.sigma2
        self.root = torch.where(self.H > 0, self.H.clamp_min(1e-300).sqrt(), 0.0)
        self.prior = hyper.kernel(X, X) + torch.diag(self.own2)
        self.chol = torch.linalg.cholesky(torch.eye(n, dtype=DTYPE) + self.root[:, None] * self.prior * self.root)
        scaled = torch.where(self.H > 0, self.h / self.root.clamp_min(1e-150), 0.0)
        self.weights = torch.linalg.solve_triangular(self.chol, scaled[:, None], upper=False)[:, 0]

    def given(self, cross: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (m) and covariance (m x m) of levels with prior covariances `cross` (n x m) to ours and `prior`."""
        half = torch.linalg.solve_triangular(self.chol, self.root[:, None] * cross, upper=False)
        return half.T @ self.weights, prior - half.T @ half

    def marginal(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of each level; n each."""
        half = torch.linalg.solve_triangular(self.chol, self.root[:, None] * self.prior, upper=False)
        variance = torch.diagonal(self.prior) - half.square().sum(0)
        return half.T @ self.weights, variance.clamp_min(1e-12)

    def rest(self, which: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reports of trials `which` (m) at progress `t` (m x s), given their curves and levels.

        They are `G a + c` and a Gaussian of covariance E: returns G (m x s), c (m x s) and E (m x s x s).
        A report that is already known is not treated as such: it is one more at the same step.
        """
        hyper, seen, q = self.hyper, self.batch.seen[which], self.hyper.clock(t)
        k = torch.where(seen[:, None, :], hyper.motion(q[:, :, None], self.q[which][:, None, :]), 0.0)
        r = torch.cholesky_solve(k.transpose(-1, -2), self.chol_R[which]).transpose(-1, -2)  # m x s x k
        noise = torch.diag_embed(torch.full_like(q, 1.0) * (hyper.noise + _JITTER))
        E = hyper.motion(q[:, :, None], q[:, None, :]) - r @ k.transpose(-1, -2) + noise
        c = (r @ self.batch.z[which][:, :, None])[..., 0]
        return 1 - (r * seen[:, None, :]).sum(-1), c, self.sigma2[which][:, None, None] * E
