"""What rollouts of a prompt are worth to a group-relative policy gradient (GRPO).

| symbol | meaning |
|---|---|
| p | success rate of the prompt, rewards being 0 or 1; `q = 1 - p` |
| n | rollouts in the prompt's group |
| a, b | p is not known: `p ~ Beta(a, b)` |

A group whose rewards are all equal has no gradient. Source: Knapsack RL, arXiv:2509.25849:

    value(n, p) = (1 - p^n - q^n) * p q^2

the chance of a gradient times the first-order gain in p of a step: a success moves the logit of p in
proportion to q, and `dp = p q dlogit`. It peaks at p = 1/3. For n >= 1 it is concave in n,

    value(n, p) - value(n - 1, p) = p^n q^3 + p^2 q^(n+1)

From no rollout to one it does not change either (a group of one has no gradient), and from one to two it
does, so that it is *not* concave from zero: lower bounds must be at least 1.

Where p is not known, the expectation over it takes its place (the source puts the estimate in). The
moments of a Beta distribution are ratios of Beta functions, so it is as closed:

    E[p^i q^j] = B(a + i, b + j) / B(a, b)

A prompt that failed eight times may still succeed, and the expectation says what looking further is
worth, where the plug-in of p = 0 says nothing.

That value counts a group once, however large it is: right for a loss that is the mean over groups. Where
the loss is the mean over tokens (DAPO, verl), a group pulls in proportion to n, and what more rollouts
give is less noise. Ours for that case, with the signal-to-noise ratio of a mean of n:

    signal(n) = E[p q^2] sqrt(n)

It is concave from zero, and without bounds the best n is in proportion to `E[p q^2]^2`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaln, gammaln

from frugalbo.budget.knapsack import Gain

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def chance_of_gradient(n: ArrayLike, p: ArrayLike) -> Floats:
    """The chance that n rollouts are neither all successes nor all failures; 0 for none."""
    n, p = np.asarray(n), np.asarray(p, dtype=np.float64)
    return np.where(n > 0, 1.0 - p**n - (1.0 - p) ** n, 0.0)


def information_gain(p: ArrayLike) -> Floats:
    """`p (1 - p)^2`, the first-order gain in p of a step; at most 4/27, at p = 1/3."""
    p = np.asarray(p, dtype=np.float64)
    return p * (1.0 - p) ** 2


def value(n: ArrayLike, p: ArrayLike) -> Floats:
    """The value of n rollouts at a known p."""
    return chance_of_gradient(n, p) * information_gain(p)


def expected_value(n: ArrayLike, a: ArrayLike, b: ArrayLike) -> Floats:
    """The value of n rollouts, expected over `p ~ Beta(a, b)`."""
    n, a, b = np.asarray(n), np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    none, all_of_them, not_one = (
        np.exp(betaln(a + i, b + j) - betaln(a, b)) for i, j in ((1, 2), (n + 1, 2), (1, n + 2))
    )
    return np.where(n > 0, none - all_of_them - not_one, 0.0)


def expected_chance_of_gradient(n: ArrayLike, a: ArrayLike, b: ArrayLike) -> Floats:
    """The chance that n rollouts are neither all successes nor all failures, expected over `p ~ Beta(a, b)`."""
    n, a, b = np.asarray(n), np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    all_of_them, not_one = (np.exp(betaln(a + i, b + j) - betaln(a, b)) for i, j in ((n, 0), (0, n)))
    return np.where(n > 0, 1.0 - all_of_them - not_one, 0.0)


def expected_information_gain(a: ArrayLike, b: ArrayLike) -> Floats:
    """`p (1 - p)^2`, expected over `p ~ Beta(a, b)`."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return a * b * (b + 1) / ((a + b) * (a + b + 1) * (a + b + 2))


def gains(p: ArrayLike) -> Gain:
    """The gains of rollouts at known success rates `p` of shape m, for `frugalbo.budget.knapsack.allocate`."""
    p = np.asarray(p, dtype=np.float64)
    q = 1.0 - p

    def gain(items: Ints, n: Ints) -> Floats:
        p_i, q_i = p[items], q[items]
        return p_i**n * q_i**3 + p_i**2 * q_i ** (n + 1)

    return gain


def published_gains(p: ArrayLike, lower: int) -> Gain:
    """The gains that the published recurrence maximises: what a prompt has at its lower bound counts as nothing.

    So the first unit above `lower` brings the whole `value(lower + 1, p)`, and is over-valued. The
    gains fall all the same, and the price finds what the published dynamic programme finds.
    """
    p = np.asarray(p, dtype=np.float64)
    true_gain = gains(p)

    def gain(items: Ints, n: Ints) -> Floats:
        return np.where(n == lower + 1, value(n, p[items]), true_gain(items, n))

    return gain


def expected_gains(a: ArrayLike, b: ArrayLike) -> Gain:
    """The gains of rollouts expected over `p ~ Beta(a, b)`, both of shape m, for `allocate`."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    scale = gammaln(a + b) - gammaln(a) - gammaln(b)
    of_failures, of_successes = scale + gammaln(b + 3), scale + gammaln(a + 2)

    def gain(items: Ints, n: Ints) -> Floats:
        # E[p^n q^3] + E[p^2 q^(n+1)], with the Beta functions written out so that they share one term.
        a_i, b_i = a[items], b[items]
        shared = gammaln(a_i + b_i + n + 3)
        return np.exp(gammaln(a_i + n) + of_failures[items] - shared) + np.exp(
            gammaln(b_i + n + 1) + of_successes[items] - shared
        )

    return gain


def signal_gains(a: ArrayLike, b: ArrayLike) -> Gain:
    """The gains of `E[p q^2] sqrt(n)` over `p ~ Beta(a, b)`, both of shape m, for `allocate`."""
    weight = expected_information_gain(a, b)

    def gain(items: Ints, n: Ints) -> Floats:
        return weight[items] * (np.sqrt(n) - np.sqrt(n - 1))

    return gain
