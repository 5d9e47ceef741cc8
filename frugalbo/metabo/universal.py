"""One network for any space of up to 20 dimensions: what it says of points, given what was seen.

A network that reads coordinates must learn that their order, direction and number mean nothing. Here that
is so by construction, as points are never read but through their distances in each dimension:

1. *Dimensions.* Each is told by its empirical variogram (Matheron, Principles of geostatistics, 1963: how
   much outcomes differ at which distance) and its linear and quadratic correlation; a transformer
   over dimensions turns that into a relevance of each dimension and a noise, for each of a few *kernels*.
2. *Refinement.* A few times, the gradient of each kernel's marginal likelihood (Rasmussen and Williams, Gaussian
   Processes for Machine Learning, 2006, eq. 5.9) is read and the relevances are moved: a fit whose steps are
   learned. A Matern-5/2 kernel per head, its level and amplitude by closed forms.
3. *Points.* What each kernel's Gaussian process says of a point, for a result without itself (leave-one-out,
   eq. 5.12), is its token. The layers of `frugalbo.metabo.network` work on these, each head of attention
   nearest to what its kernel holds for near.
4. *Outcome.* Buckets, in units of the location and scale that the kernels agree on. New weights say what a mixture of
   Gaussian processes says; training adds what that cannot: tails, plateaus, which kernel to believe.

So the answer does not change with the order of the results or of the dimensions, or if a dimension is
mirrored, and a candidate does not see the others: all exactly. Between the values of a categorical dimension the
distance is 1.

| symbol | meaning | shape |
|---|---|---|
| `X`, `y` | what was seen: unit points, standardised outcomes | B x n x d, B x n |
| `Q` | what is asked | B x m x d |
| `S` | squared distances in each dimension, of each pair once | B x d x P |
| `w` | log relevances: inverse lengthscales | B x d x H |
| `noise` | log variances, in units of the amplitude | B x H |
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, softplus

from frugalbo.errors import ModelError
from frugalbo.metabo.bars import Bars, Prediction
from frugalbo.metabo.nearness import Pairs, matern, matern_of
from frugalbo.metabo.network import Block

_DISTANCES = (0.05, 0.15, 0.4)  # of the variogram
_PSEUDO = 1.0  # pairs with the variance of all, at each distance
_LEVEL = 1.0  # results that say the level is 0
_AMPLITUDE = 3.0  # results that say the amplitude is 1
_REACH = 4.0  # of the buckets, in scales
_FARTHEST = -8.0  # of the logarithm of a kernel, as attention sees it


@dataclass(frozen=True, slots=True)
class UniversalShape:
    """Sizes.

    Args:
        kernels: Heads, of Gaussian processes and of attention alike.
        width: Of the tokens of points; a multiple of `kernels`.
        layers: Over points.
        dims_width: Of the tokens of dimensions; a multiple of `kernels`.
        refinements: Steps of the learned fit.
        buckets: Of the outcome.
        most_dims: Dimensions that the weights are trained for.
        most_seen: Results that they are trained for.
    """

    kernels: int = 4
    width: int = 64
    layers: int = 2
    dims_width: int = 32
    refinements: int = 3
    buckets: int = 66
    most_dims: int = 20
    most_seen: int = 64


@dataclass(frozen=True, slots=True)
class Fit:
    """What was made of the history.

    Args:
        X: B x n x d.
        categorical: d.
        w: B x d x H.
        noise: B x H.
        inverse: Of the kernel matrices with noise, B x H x n x n.
        alpha: That times the residuals, B x H x n.
        level: B x H.
        amplitude: Variances, B x H.
        weight: How much each kernel counts, B x H.
        best: The best outcome, B.
        task: What is known of all points, B x dims_width.
        layers: The tokens of the results before each layer, each B x n x W.
    """

    X: Tensor
    categorical: Tensor
    w: Tensor
    noise: Tensor
    inverse: Tensor
    alpha: Tensor
    level: Tensor
    amplitude: Tensor
    weight: Tensor
    best: Tensor
    task: Tensor
    layers: tuple[Tensor, ...]


class Universal(nn.Module):
    """The network: `read` what was seen, then `answer` what is asked.

    Algebra of kernels is in float64 whatever the weights are in.
    """

    def __init__(self, shape: UniversalShape | None = None) -> None:
        super().__init__()
        self.shape = s = shape or UniversalShape()
        width, kernels = s.dims_width, s.kernels
        self.dimension = nn.Linear(2 * len(_DISTANCES) + 5, width)
        self.among_dims = Block(width, kernels, 2 * width)
        self.first = _silent(width, kernels)
        self.first_noise = _silent(width, kernels)
        told = width + 2 * kernels
        self.move = nn.Sequential(nn.Linear(told, width), nn.GELU(), _silent(width, kernels))
        self.move_noise = nn.Sequential(nn.Linear(told, width), nn.GELU(), _silent(width, kernels))
        self.step = nn.Parameter(torch.full((2,), -1.0))
        self.trust = _silent(width, kernels)
        self.sharpness = nn.Parameter(torch.tensor(-1.0))
        self.result = nn.Linear(2 * kernels + 2 + width, s.width)
        self.candidate = nn.Linear(3 * kernels + 3 + width, s.width)
        self.blocks = nn.ModuleList(Block(s.width, kernels, 2 * s.width) for _ in range(s.layers))
        self.hidden = nn.Linear(s.width, s.width)
        self.predict = _silent(s.width, s.buckets)
        edge = _REACH + 0.6745
        inner = torch.linspace(-_REACH, _REACH, s.buckets - 1)
        self.bars = Bars(torch.cat([torch.tensor([-edge]), inner, torch.tensor([edge])]))
        with torch.no_grad():
            # From short to long and from noisy to exact, so that kernels begin by differing.
            self.first.bias.copy_(torch.linspace(0.7, -0.7, kernels))
            self.first_noise.bias.copy_(torch.linspace(1.0, -3.0, kernels))
            self.predict.bias.copy_(self.bars.normal_logits())

    def forward(self, X: Tensor, y: Tensor, categorical: Tensor, Q: Tensor, observed: bool) -> Prediction:
        """`read` and `answer`."""
        return self.answer(self.read(X, y, categorical), Q, observed)

    def read(self, X: Tensor, y: Tensor, categorical: Tensor, known: Tensor | None = None) -> Fit:
        """What to make of a history.

        Args:
            X: B x n x d.
            y: Standardised within each task, smaller is better, B x n.
            categorical: Which dimensions are, d.
            known: The variance of each result's noise, if it is known, in units of those of `y`; B x n. It stands on
                the diagonal of each kernel matrix, beside the noise that is inferred, as if amplitudes were 1. No
                weights are trained for it, and without it they say what they said.

        Raises:
            ModelError: If there are less than two results, or more dimensions than the network was made for.
        """
        if X.shape[1] < 2 or X.shape[2] > self.shape.most_dims:
            most = self.shape.most_dims
            raise ModelError(f"expected at least 2 results of at most {most} dimensions, got {tuple(X.shape[1:])}")
        X, y = X.double(), y.double()
        extra = torch.zeros_like(y) if known is None else known.double()
        pairs = Pairs.of(X, categorical)
        dims = self.among_dims.read(gelu(self.dimension(_facts(X, y, pairs, categorical).to(self.step))))
        pooled = dims.mean(1)
        w = (self.first(dims) - math.log(0.5) - 0.5 * math.log(X.shape[2])).double()
        noise = (self.first_noise(pooled) + math.log(1e-3)).double()
        start, start_noise = w, noise
        for _ in range(self.shape.refinements):
            slope, slope_noise = _slopes(pairs, y, w, noise, extra)
            told = torch.cat([dims, *_as(dims, slope, w - start)], dim=-1)
            w = w + (softplus(self.step[0]) * slope + 0.5 * self.move(told))
            told = torch.cat([pooled, *_as(dims, slope_noise, noise - start_noise)], dim=-1)
            noise = noise + (softplus(self.step[1]) * slope_noise + 0.5 * self.move_noise(told))
        K = _kernel(pairs, w.clamp(-6, 6))
        return self._fit(X, y, categorical, K, w.clamp(-6, 6), noise.clamp(-12, 1), pooled, extra)

    def _fit(
        self, X: Tensor, y: Tensor, categorical: Tensor, K: Tensor, w: Tensor, noise: Tensor, pooled: Tensor,
        extra: Tensor,
    ) -> Fit:  # fmt: skip
        inverse, alpha, level, amplitude = _solve(K, y, noise, extra)
        diagonal = inverse.diagonal(dim1=-2, dim2=-1)
        variance = amplitude.unsqueeze(-1) / diagonal  # leave-one-out, B x H x n
        error = alpha / diagonal
        evidence = -0.5 * (error**2 / variance + variance.log()).sum(-1)
        weight = (softplus(self.sharpness.double()) * evidence + self.trust(pooled).double()).softmax(-1)
        facts = torch.stack([y, y - y.amin(1, keepdim=True)], dim=-1)
        by_kernel = torch.cat([error / variance.sqrt(), 0.5 * variance.log()], dim=1).transpose(1, 2)
        token = torch.cat([*_as(pooled, facts, by_kernel), _each(pooled, y.shape[1])], dim=-1)
        seen, bias, layers = self.result(token), _nearness(K.to(pooled)), []
        for block in self.blocks:
            layers.append(seen)
            seen = block.read(seen, bias)  # type: ignore[operator]
        best = y.amin(1)
        return Fit(X, categorical, w, noise, inverse, alpha, level, amplitude, weight, best, pooled, tuple(layers))

    def answer(self, fit: Fit, Q: Tensor, observed: bool, known: Tensor | None = None) -> Prediction:
        """The distribution of the outcome at `Q`, point by point, B x m each.

        Args:
            fit: Of `read`.
            Q: B x m x d.
            observed: Whether of what a trial would show, noise and all, or of the function.
            known: The variance of the noise there beside what is inferred, B x m; of what a trial would show.
        """
        K, mean, variance = self.kernels_say(fit, Q.double())
        bias = _nearness(K.to(fit.task))
        del K  # the largest there is
        if observed:
            variance = variance + (fit.amplitude * fit.noise.exp()).unsqueeze(-1)
            variance = variance if known is None else variance + known.double().unsqueeze(1)
        weight = fit.weight.unsqueeze(-1)
        location = (weight * mean).sum(1)  # B x m
        apart = mean - location.unsqueeze(1)
        scale = (weight * (variance + apart**2)).sum(1).sqrt()
        facts = [scale.log(), ((fit.best.unsqueeze(-1) - location) / scale).clamp(-8, 8), scale * 0 + float(observed)]
        spread = (0.5 * variance.log() - scale.log().unsqueeze(1)).transpose(1, 2)
        by_kernel = [(apart / scale.unsqueeze(1)).transpose(1, 2), spread, _each(fit.weight, Q.shape[1])]
        token = _as(fit.task, torch.stack(facts, dim=-1), *by_kernel)
        asked = self.candidate(torch.cat([*token, _each(fit.task, Q.shape[1])], dim=-1))
        for block, seen in zip(self.blocks, fit.layers, strict=True):
            asked = block.answer(asked, seen, bias)  # type: ignore[operator]
        logits = self.predict(gelu(self.hidden(asked)))
        return Prediction(self.bars, logits, location.to(logits), scale.to(logits))

    def kernels_say(self, fit: Fit, Q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of each kernel: nearness to the results (B x H x m x n), mean and variance (B x H x m)."""
        K = _between(fit, Q, fit.X)
        mean = fit.level.unsqueeze(-1) + (K @ fit.alpha.unsqueeze(-1)).squeeze(-1)
        left = 1 - (K @ fit.inverse).mul_(K).sum(-1)
        return K, mean, fit.amplitude.unsqueeze(-1) * left.clamp_min(1e-8)


def correlations(fit: Fit, Q: Tensor) -> Tensor:
    """How the kernels' mixture says the outcomes at `Q` (B x q x d) go together; B x q x q."""
    Q = Q.double()
    K = _between(fit, Q, fit.X)
    C = _between(fit, Q, Q) - K @ fit.inverse @ K.transpose(-1, -2)
    C = ((fit.weight * fit.amplitude)[..., None, None] * C).sum(1)
    sd = C.diagonal(dim1=-2, dim2=-1).clamp_min(1e-12).sqrt()
    C = C / (sd.unsqueeze(-1) * sd.unsqueeze(-2))
    return C.clamp(-1, 1) * (1 - 1e-6) + 1e-6 * torch.eye(Q.shape[1]).to(C)


def _between(fit: Fit, A: Tensor, B: Tensor) -> Tensor:
    """Each kernel between points B x a x d and B x b x d; B x H x a x b."""
    relevance = fit.w.exp().transpose(1, 2)  # B x H x d
    return matern(A.unsqueeze(1), B.unsqueeze(1), relevance, fit.categorical)


def _silent(inputs: int, outputs: int) -> nn.Linear:
    """A layer that says nothing before it is trained."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _kernel(pairs: Pairs, w: Tensor) -> Tensor:
    """Matern 5/2 of each head, B x H x n x n."""
    r = _radius(pairs, w)
    return pairs.matrix(matern_of(r, torch.neg(r).exp_()))


def _radius(pairs: Pairs, w: Tensor) -> Tensor:
    """The scaled distances times sqrt(5), B x H x P."""
    return (5 * (2 * w.transpose(1, 2)).exp() @ pairs.S + 1e-12).sqrt()


def _solve(K: Tensor, y: Tensor, noise: Tensor, extra: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The inverse with noise (B x H x n x n), that times the residuals (B x H x n), level and amplitude (B x H).

    Of noise there is `noise` for all (B x H) and `extra` for each (B x n).
    """
    n = K.shape[-1]
    A = K + torch.diag_embed((noise.exp() + 1e-6).unsqueeze(-1) + extra.unsqueeze(1))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(A))
    rows = inverse.sum(-1)  # B x H x n
    level = (rows * y.unsqueeze(1)).sum(-1) / (rows.sum(-1) + _LEVEL)
    residual = y.unsqueeze(1) - level.unsqueeze(-1)
    alpha = (inverse @ residual.unsqueeze(-1)).squeeze(-1)
    amplitude = (_AMPLITUDE + (residual * alpha).sum(-1)) / (_AMPLITUDE + n)
    return inverse, alpha, level, amplitude


def _slopes(pairs: Pairs, y: Tensor, w: Tensor, noise: Tensor, extra: Tensor) -> tuple[Tensor, Tensor]:
    """The squashed gradients of the log marginal likelihoods by `w` (B x d x H) and `noise` (B x H)."""
    r = _radius(pairs, w)
    decay = torch.neg(r).exp_()
    inverse, alpha, _, amplitude = _solve(pairs.matrix(matern_of(r, decay)), y, noise, extra)
    outer = alpha.unsqueeze(-1) * (alpha / amplitude.unsqueeze(-1)).unsqueeze(-2)
    M = outer - inverse
    # With r = sqrt(5) times the distance, dK / d(distance^2) = -5/6 (1 + r) exp(-r); d(distance^2) / dw = 2 e^2w S.
    along = pairs.values(M) * torch.addcmul(decay, r, decay)  # half of M, but each pair counts twice
    by_w = (pairs.S @ along.transpose(1, 2)) * (-5 / 3) * (2 * w).exp()
    by_noise = 0.5 * M.diagonal(dim1=-2, dim2=-1).sum(-1) * noise.exp()
    return torch.tanh(by_w), torch.tanh(by_noise)


def _facts(X: Tensor, y: Tensor, pairs: Pairs, categorical: Tensor) -> Tensor:
    """What is told of each dimension, B x d x facts."""
    n, d = X.shape[1:]
    apart = (y[:, pairs.first] - y[:, pairs.second]) ** 2  # half of it, but each pair counts twice
    told = []
    for distance in _DISTANCES:
        near = torch.exp(pairs.S * (-1 / (2 * distance**2)))
        mass = 2 * near.sum(-1)
        told += [((near @ apart.unsqueeze(-1)).squeeze(-1) + _PSEUDO) / (mass + _PSEUDO), mass / (n * (n - 1))]
    centred = X - X.mean(1, keepdim=True)
    # The linear correlation squared, so that a mirrored dimension is the same.
    told += [_correlation(centred, y) ** 2, _correlation(centred**2, y)]
    told = [(t + 1e-3).log() if i < 2 * len(_DISTANCES) else t for i, t in enumerate(told)]
    told[-2:] = [torch.where(categorical.to(X.device), 0.0, t) for t in told[-2:]]
    size = [X.new_full((len(X), d), math.log(n) / 4), X.new_full((len(X), d), d / 20)]
    return torch.stack([*told, categorical.to(X).expand(len(X), d), *size], dim=-1)


def _correlation(A: Tensor, y: Tensor) -> Tensor:
    A, y = A - A.mean(1, keepdim=True), (y - y.mean(1, keepdim=True)).unsqueeze(-1)
    return (A * y).sum(1) / ((A * A).sum(1) * (y * y).sum(1) + 1e-9).sqrt()


def _nearness(K: Tensor) -> Tensor:
    """What attention adds to its logits."""
    return (K + math.exp(_FARTHEST)).log_()


def _each(task: Tensor, count: int) -> Tensor:
    return task.unsqueeze(1).expand(-1, count, -1)


def _as(like: Tensor, *parts: Tensor) -> list[Tensor]:
    return [part.to(like) for part in parts]
