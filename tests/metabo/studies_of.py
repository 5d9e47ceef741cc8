"""Situations of a function, as a proposer makes them."""

import numpy as np
import torch

from frugalbo.acquisition.registry import Situation
from frugalbo.models.objective import fit_objective


def situation(function, n, d, points=lambda U: U, seed=0):
    """After `n` results at random points of `d` dimensions, which `points` may extend."""
    rng = np.random.default_rng(seed)
    U = rng.random((n, d))
    objective = fit_objective(points(U), function(U), ())
    pool = torch.from_numpy(points(rng.random((64, d))))
    return Situation(objective, objective, pool[:0], pool, None, 0.0, None, None, seed)
