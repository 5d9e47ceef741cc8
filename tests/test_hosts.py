"""`benchmarks/hosts.py` in small: a host is cut off, or frozen, and comes back."""

from __future__ import annotations

import pytest

from benchmarks.hosts import measure

LEASE_S = 3.0


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cut", "freeze"])
def test_a_host_that_goes_and_comes_back_loses_nothing_and_is_counted_once(how):
    found = measure(
        hosts=3, slots=1, trials=12, steps=50, how=how, for_s=12.0, lease_s=LEASE_S, after_s=2.0, namespaces=False
    )
    assert (found["completed"], found["whole_curves"], found["trials_charged"]) == (12, 12, 12)
    assert (found["interrupted"], found["elsewhere"]) == (1, 1)
    assert (found["reports_counted_twice"], found["ends_counted_twice"]) == (0, 0)
    if how == "cut":  # the supervisor of a frozen host counts the time for which it was frozen
        assert found["most_undercharged_s"] <= 0.1
    # Lease, grace and margin, and what a busy machine takes to look; a frozen host is charged to the end of its lease.
    assert found["most_overcharged_s"] <= LEASE_S + 4.5 + 5
