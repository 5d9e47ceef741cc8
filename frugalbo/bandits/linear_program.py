"""The linear program of a knapsack of few resources, by the simplex method.

`scipy.optimize.linprog` solves it too, in about ten times the time: it is made for large programs, and this one is
solved before each pull.
"""

from __future__ import annotations

import numpy as np

from frugalbo.bandits.contract import Array


def best_mixture(values: Array, costs: Array, rates: Array) -> Array:
    """`argmax_p values . p` subject to `costs p <= rates`, `sum p <= 1`, `p >= 0`, a vertex of that.

    Bland's rule, so it ends whatever is degenerate.

    Args:
        values: Of each arm, shape `(K,)`.
        costs: Of each arm by resource, 0 or more, shape `(d, K)`.
        rates: What may be spent a round, 0 or more, shape `(d,)`.

    Returns:
        The probabilities, shape `(K,)`; at most `d + 1` are above 0.
    """
    rows, n = len(rates) + 1, len(values)
    table = np.zeros((rows + 1, n + rows + 1))  # constraints, then the negative of reduced values
    table[:-2, :n], table[-2, :n], table[-1, :n] = costs, 1.0, -values
    table[:rows, n:-1] = np.eye(rows)
    table[:-2, -1], table[-2, -1] = rates, 1.0
    basis = np.arange(n, n + rows)
    while (gains := np.flatnonzero(table[-1, :-1] < -1e-12)).size:
        column = table[:rows, gains[0]]
        ratios = np.full(rows, np.inf)
        is_limit = column > 1e-12
        ratios[is_limit] = table[:rows, -1][is_limit] / column[is_limit]
        tied = np.flatnonzero(ratios <= ratios.min())
        row = tied[basis[tied].argmin()]
        table[row] /= table[row, gains[0]]
        others = np.arange(rows + 1) != row
        table[others] -= np.outer(table[others, gains[0]], table[row])
        basis[row] = gains[0]
    p = np.zeros(n + rows)
    p[basis] = table[:rows, -1]
    return np.maximum(p[:n], 0.0)
