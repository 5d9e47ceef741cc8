"""Tasks of the prior: what they promise."""

import pytest
import torch

from frugalbo.metabo.priors import Prior, _Function
from frugalbo.models.outcome import Outcome

SMALL = Prior(most_dims=7, most_seen=13, asked=6, batch=5)


def test_a_batch_comes_from_a_stream_of_its_own():
    a, b, c = SMALL.draw(3, 5), SMALL.draw(3, 5), SMALL.draw(3, 6)
    assert torch.equal(a.X, b.X)
    assert torch.equal(a.truth, b.truth)
    assert a.X.shape != c.X.shape or not torch.equal(a.X, c.X)


@pytest.mark.parametrize("i", range(30))
def test_tasks_are_finite_points_of_the_cube_seen_through_their_own_outcomes(i):
    t = SMALL.draw(0, i)
    n, d = t.X.shape[1:]
    assert 2 <= n <= 13
    assert 1 <= d <= 7
    for U in (t.X, t.Q):
        assert 0 <= U.min() <= U.max() <= 1
    assert torch.isfinite(t.y).all()
    assert torch.isfinite(t.truth).all()
    torch.testing.assert_close(t.y.mean(1), torch.zeros(5, dtype=torch.float64))
    for column in t.categorical.nonzero().flatten().tolist():
        assert len(torch.cat([t.X, t.Q], dim=1)[..., column].unique()) <= 6


def test_further_points_do_not_change_what_was_seen():
    import numpy as np

    rng, g = np.random.default_rng(1), torch.Generator().manual_seed(2)
    function = _Function(5, 3, torch.tensor([False, True, False]), rng, g)
    X, z = function.points(11), torch.randn(5, 11, dtype=torch.float64, generator=g)
    torch.testing.assert_close(function.values(X, z)[:, :7], function.values(X[:, :7], z[:, :7]))


def test_the_results_are_standardised_as_the_engine_does():
    import numpy as np

    t = SMALL.draw(0, 3)
    again = Outcome.of(t.y[0].numpy())(t.y[0].numpy())
    assert again.std(ddof=1) == pytest.approx(1) or np.allclose(t.y[0], 0)
