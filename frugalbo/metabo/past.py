"""What earlier studies say of a new one: a model whose prior is made of them, and which doubts each by evidence.

Source: the idea of pre-trained Gaussian processes (Wang et al., Pre-trained Gaussian processes for Bayesian
optimization, arXiv:2109.08215) and of weighing earlier studies by how they rank the new results (RGPE, Feurer et al.,
arXiv:1802.02219). Ours is one Gaussian process in closed form: with `g_t` what study `t` says,

    y(x) = level + rho m(x) + sum over t of b_t sqrt(p_t) (g_t(x) - m(x)) + r(x),   m = sum over t of p_t g_t

with normal `level`, `rho`, `b_t` and a Matern-5/2 process `r`. The weights `p_t` of studies are by evidence: the
marginal likelihood of the results if study `t` were the only one. It is a mixture over two settings of how close the
past is taken to be (`_TRUSTS`), by their marginal likelihoods; the amplitude of all is integrated out, which makes
these Student's t. Deviation: the predictions are normals with that amplitude's mean.

A parameter of the new space is the same as one of an old space if it has the same name and kind; ranges may differ, as
what an old study says is moved to where its values are. A parameter that an old study does not know does not
count for it; one that is gone is held at its best value of then. Where too few are the same the study does not count at
all.

| symbol | meaning | shape |
|---|---|---|
| `G` | what each study says of points, standardised over the space | m x T |
| `p` | weights of the studies | T |
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from frugalbo.acquisition.log_ei_per_cost import log_h
from frugalbo.errors import WeightsError
from frugalbo.metabo.nearness import matern
from frugalbo.models.objective import Objective
from frugalbo.parameter import Choice, Float, Int
from frugalbo.space import Space

_LEAST_SHARED = 0.5  # of the parameters of both spaces
_SIMILAR = 0.1  # of a range, by which the ends of unnamed columns may differ
_GRID = 256  # points over which what a study says is standardised
_FLAT = 1e-6
_OWN = 0.3  # times sqrt(d): the lengthscale of a parameter that no study knew
_AMPLITUDE = 3.0  # results that say the amplitude is 1
_ALONE = (0.7, 0.8, 0.05)  # rho, deviation of r and noise for the evidence of a single study


@dataclass(frozen=True, slots=True)
class _Trust:
    """How close the past is taken to be.

    Args:
        rho: The mean of the factor of what the studies agree on; its deviation is 0.3.
        apart: The deviation of what each says beside that.
        own: The deviation of the new study's own process.
    """

    rho: float
    apart: float
    own: float


_TRUSTS = (_Trust(1.0, 1.0, 0.4), _Trust(0.7, 1.0, 0.8))
_RHO_SD = 0.3
_NOISE = 0.02


@dataclass(frozen=True, slots=True)
class PastStudies:
    """Studies of one space that share the centres of their kernels; often a single study.

    Args:
        names: Of the studies, T.
        space: In whose unit cube they are.
        centres: n x d.
        lengthscales: d.
        weights: Of the centres, n x T.
        levels: T.
        held: Where a parameter is held that a new space does not have, d.
        is_named: Whether the names of the parameters mean something; else all columns must be there with like ranges.
    """

    names: tuple[str, ...]
    space: Space
    centres: Tensor
    lengthscales: Tensor
    weights: Tensor
    levels: Tensor
    held: Tensor
    is_named: bool = True

    @classmethod
    def of_model(cls, name: str, space: Space, fitted: Objective) -> PastStudies:
        """A single study, as the model that was fitted to it says; of repeated choices the counts do not count."""
        X, y = fitted.model.train_inputs[0], fitted.model.train_targets
        lengthscales = torch.as_tensor(fitted.fit.lengthscales, dtype=torch.float64)
        K = matern(X, X, 1 / lengthscales, _categorical(space)) + fitted.fit.noise * torch.eye(len(y)).to(y)
        weights = torch.linalg.solve(K, y - fitted.fit.mean).unsqueeze(-1)
        level = torch.tensor([fitted.fit.mean], dtype=torch.float64)
        return cls((name,), space, X, lengthscales, weights, level, X[int(y.argmin())])

    def say(self, V: Tensor) -> Tensor:
        """The losses that each expects at points of its own cube (m x d), standardised within it; m x T."""
        flags = _categorical(self.space)
        return self.levels + matern(V, self.centres, 1 / self.lengthscales, flags) @ self.weights

    def without(self, names: Sequence[str]) -> PastStudies | None:
        """These, less some; none if none is left."""
        kept = [i for i, name in enumerate(self.names) if name not in names]
        if not kept:
            return None
        fewer = tuple(self.names[i] for i in kept)
        return PastStudies(
            fewer, self.space, self.centres, self.lengthscales, self.weights[:, kept], self.levels[kept],
            self.held, self.is_named,
        )  # fmt: skip

    def to_record(self) -> dict[str, Any]:
        """As tensors and text, for a file of weights."""
        told = {"names": self.names, "space": self.space.to_json(), "is_named": self.is_named}
        tensors = {name: getattr(self, name).float().contiguous() for name in _TENSORS}
        return {"told": json.dumps(told), **tensors}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> PastStudies:
        """What `to_record` gave.

        Raises:
            WeightsError: If it is not that.
        """
        try:
            told = json.loads(record["told"])
            tensors = {name: record[name].double() for name in _TENSORS}
            studies = cls(tuple(told["names"]), Space.from_json(told["space"]), is_named=told["is_named"], **tensors)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise WeightsError(f"expected past studies in a file of weights, got something else: {error}") from error
        n, d = studies.centres.shape
        if d != studies.space.dim or studies.weights.shape != (n, len(studies.names)):
            raise WeightsError(
                f"expected past studies of {studies.space.dim} dimensions, got {tuple(studies.centres.shape)}"
            )
        return studies


_TENSORS = ("centres", "lengthscales", "weights", "levels", "held")


@dataclass(frozen=True, slots=True)
class Seen:
    """Past studies from within a new space.

    Args:
        studies: What was done then.
        source: The new dimension that each old one comes from, -1 where it is gone; d_old.
        slope: From new unit coordinates to old ones, d_old.
        offset: Likewise; where a dimension is gone, where it is held.
    """

    studies: PastStudies
    source: Tensor
    slope: Tensor
    offset: Tensor

    @classmethod
    def of(cls, studies: PastStudies, space: Space) -> Seen | None:
        """None where too few parameters are the same."""
        old, names = studies.space, space.names
        moves = [
            _move(old.parameters[name], space.parameters[name], alike=not studies.is_named) if name in names else None
            for name in old.names
        ]
        shared, least = sum(m is not None for m in moves), _LEAST_SHARED if studies.is_named else 1.0
        if shared < least * max(old.dim, space.dim) or not shared:
            return None
        source = [-1 if m is None else names.index(n) for n, m in zip(old.names, moves, strict=True)]
        slope = torch.tensor([0.0 if m is None else m[0] for m in moves], dtype=torch.float64)
        given = torch.tensor([0.0 if m is None else m[1] for m in moves], dtype=torch.float64)
        gone = torch.tensor([s < 0 for s in source])
        return cls(studies, torch.tensor(source), slope, torch.where(gone, studies.held, given))

    def say(self, U: Tensor) -> Tensor:
        """Of points of the new cube, m x d; m x T."""
        return self.studies.say(U[:, self.source.clamp_min(0)] * self.slope + self.offset)

    def lengthscales(self, d: int) -> Tensor:
        """In the new cube, d; NaN for what was not known then."""
        found = torch.full((d,), math.nan, dtype=torch.float64)
        here = self.source >= 0
        found[self.source[here]] = self.studies.lengthscales[here] / self.slope[here]
        return found


@dataclass(frozen=True, slots=True)
class Past:
    """All earlier studies that are seen from a space.

    Args:
        seen: At least one.
        categorical: The dimensions of the space along which only equality counts, d.
    """

    seen: tuple[Seen, ...]
    categorical: Tensor

    @classmethod
    def of(cls, known: Sequence[PastStudies], space: Space) -> Past | None:
        """What is known of a space; None if nothing is."""
        seen = tuple(s for studies in known if (s := Seen.of(studies, space)) is not None)
        return cls(seen, _categorical(space)) if seen else None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the studies."""
        return tuple(name for s in self.seen for name in s.studies.names)

    def say(self, U: Tensor) -> Tensor:
        """What all of them say of points of the new cube; m x T."""
        return torch.cat([s.say(U) for s in self.seen], dim=1)


class PastModel:
    """What the past and some results say of further points.

    Args:
        past: Of this space.
        X: Where there are results, n x d.
        y: Standardised, smaller is better, n.
    """

    def __init__(self, past: Past, X: Tensor, y: Tensor) -> None:
        self.past, self.X, self.y = past, X, y
        d = X.shape[1]
        grid = torch.quasirandom.SobolEngine(d, scramble=True, seed=0).draw(_GRID, dtype=torch.float64)
        said = past.say(grid)
        self._mean, sd = said.mean(0), said.std(0)
        self._sd = torch.where(sd > _FLAT, sd, torch.inf)  # a study that saw no difference says nothing
        known = torch.stack([s.lengthscales(d).log() for s in past.seen]).nanmean(0).exp()
        self.relevance = 1 / torch.where(known.isnan(), _OWN * math.sqrt(d), known)
        self.G = self._features(X)
        self.R = self._own(X, X)
        self.weights = self._evidence().softmax(0)
        self.parts = [_Part(self, trust) for trust in _TRUSTS]
        self.chance = torch.stack([part.evidence for part in self.parts]).softmax(0)

    def log_improvement(self, Q: Tensor, best: float) -> Tensor:
        """The log expected improvement of points m x d on `best`; m."""
        G, R = self.at(Q)
        said = [part.say(G, R) for part in self.parts]
        each = [log_h((best - mean) / sd) + sd.log() for mean, sd in said]
        return torch.logsumexp(torch.stack(each) + self.chance.log().unsqueeze(-1), dim=0)

    def moments(self, Q: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the function at points m x d; m each."""
        G, R = self.at(Q)
        said = [part.say(G, R) for part in self.parts]
        mean, sd = (torch.stack(parts, dim=-1) for parts in zip(*said, strict=True))
        level = mean @ self.chance
        return level, (sd**2 + (mean - level.unsqueeze(-1)) ** 2) @ self.chance

    def chances(self, left_out: Tensor, within: float) -> Tensor:
        """The probability of each of some results, give or take `within`, to who knows the others; by closed forms."""
        found = torch.stack([part.chances(left_out, within) for part in self.parts], dim=-1)
        return found @ self.chance

    def counted(self) -> dict[str, float]:
        """The three studies that count most, and how much."""
        order = self.weights.argsort(descending=True).tolist()[:3]
        return {self.past.names[i]: round(float(self.weights[i]), 4) for i in order}

    def at(self, Q: Tensor) -> tuple[Tensor, Tensor]:
        """What the studies say of points m x d, standardised (m x T), and how near these are to the results (m x n)."""
        return self._features(Q), self._own(Q, self.X)

    def _features(self, U: Tensor) -> Tensor:
        return (self.past.say(U) - self._mean) / self._sd

    def _own(self, A: Tensor, B: Tensor) -> Tensor:
        return matern(A, B, self.relevance, self.past.categorical)

    def _evidence(self) -> Tensor:
        """The log marginal likelihood of each study as the only one, T, but for what they share."""
        rho, own, noise = _ALONE
        A = 1 + own**2 * self.R + noise * torch.eye(len(self.y)).to(self.y)
        rest = self.y.unsqueeze(-1) - rho * self.G  # n x T
        square = (rest * torch.cholesky_solve(rest, torch.linalg.cholesky(A))).sum(0)
        return -0.5 * (_AMPLITUDE + len(self.y)) * torch.log1p(square / _AMPLITUDE)


class _Part:
    """The process of one setting."""

    def __init__(self, model: PastModel, trust: _Trust) -> None:
        self.trust, self.p, self.G = trust, model.weights, model.G
        n, y = len(model.y), model.y
        A = self._covariance(self.G, self.G, model.R) + _NOISE * torch.eye(n).to(y)
        self.L = torch.linalg.cholesky(A)
        self.inverse = torch.cholesky_inverse(self.L)
        rest = y - trust.rho * self.G @ self.p
        self.solved = self.inverse @ rest
        square = rest @ self.solved
        self.amplitude = (_AMPLITUDE + square) / (_AMPLITUDE + n)
        log_det = 2 * self.L.diagonal().log().sum()
        self.evidence = -0.5 * (log_det + (_AMPLITUDE + n) * torch.log1p(square / _AMPLITUDE))

    def say(self, G: Tensor, R: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation at points with features m x T and own covariances with the results m x n; m each."""
        K = self._covariance(G, self.G, R)
        agreed = G @ self.p
        before = 1 + (_RHO_SD * agreed) ** 2 + self.trust.own**2
        before = before + self.trust.apart**2 * ((G - agreed.unsqueeze(-1)) ** 2 @ self.p)
        left = before - ((K @ self.inverse) * K).sum(-1)
        return self.trust.rho * agreed + K @ self.solved, (self.amplitude * left.clamp_min(1e-8)).sqrt()

    def chances(self, left_out: Tensor, within: float) -> Tensor:
        """Leave-one-out: the error is solved / diagonal, its variance 1 / diagonal."""
        diagonal = self.inverse.diagonal()[left_out]
        error, sd = self.solved[left_out] / diagonal, (self.amplitude / diagonal).sqrt()
        normal = torch.distributions.Normal(torch.zeros_like(sd), sd)
        return normal.cdf(error + within) - normal.cdf(error - within)

    def _covariance(self, G: Tensor, H: Tensor, R: Tensor) -> Tensor:
        a, b = G @ self.p, H @ self.p
        apart = ((G - a.unsqueeze(-1)) * self.p) @ (H - b.unsqueeze(-1)).T
        return 1 + _RHO_SD**2 * torch.outer(a, b) + self.trust.apart**2 * apart + self.trust.own**2 * R


def _categorical(space: Space) -> Tensor:
    flags = torch.zeros(space.dim, dtype=torch.bool)
    flags[list(space.categorical_dims)] = True
    return flags


def _move(old: object, new: object, *, alike: bool) -> tuple[float, float] | None:
    """Slope and offset from the new unit coordinate to the old one; None where they are not the same parameter."""
    if isinstance(old, Choice) or isinstance(new, Choice):
        same = isinstance(old, Choice) and isinstance(new, Choice) and list(old.values) == list(new.values)
        return (1.0, 0.0) if same else None
    if not isinstance(old, (Float, Int)) or not isinstance(new, (Float, Int)) or old.log != new.log:
        return None
    (a, b), (c, d) = _ends(old), _ends(new)
    if b <= a or d <= c or min(b, d) <= max(a, c):
        return None  # constant, or ranges that have nothing in common
    if alike and max(abs(a - c), abs(b - d)) > _SIMILAR * (b - a):
        return None
    return (d - c) / (b - a), (c - a) / (b - a)


def _ends(p: Float | Int) -> tuple[float, float]:
    half = 0.5 if isinstance(p, Int) else 0.0
    low, high = p.lower - half, p.upper + half
    return (math.log(low), math.log(high)) if p.log else (low, high)
