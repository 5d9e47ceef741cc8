import json
import math
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frugalbo.budget.amounts import RESOURCES, Budget, Cost, parse_amount
from frugalbo.errors import BudgetError


@pytest.mark.parametrize(
    ("text", "resource", "amount"),
    [
        ("90s", "device_seconds", 90),
        ("90 seconds", "device_seconds", 90),
        ("10min", "device_seconds", 600),
        ("10 MIN", "device_seconds", 600),
        ("1.5 h", "device_seconds", 5400),
        ("1h 30min", "device_seconds", 5400),
        ("1h30m5s", "device_seconds", 5405),
        ("2d", "device_seconds", 172800),
        ("2.5 GPU-hours", "device_seconds", 9000),
        ("3 device hours", "device_seconds", 10800),
        ("1e3 s", "device_seconds", 1000),
        (".5h", "device_seconds", 1800),
        ("30 min wall", "wall_seconds", 1800),
        ("1h 30min wall", "wall_seconds", 5400),
        ("2 hours of wall-clock", "wall_seconds", 7200),
        ("20 USD", "dollars", 20),
        ("$20", "dollars", 20),
        ("$ 12.50", "dollars", 12.5),
        ("20$", "dollars", 20),
        ("$20 USD", "dollars", 20),
        ("7 dollars", "dollars", 7),
        ("50 trials", "evaluations", 50),
        ("1 evaluation", "evaluations", 1),
        ("4 GiB", "memory_bytes", 4 * 2**30),
        ("4 GB", "memory_bytes", 4e9),
        ("512 kib", "memory_bytes", 2**19),
        ("7 bytes", "memory_bytes", 7),
    ],
)
def test_an_amount_is_read_from_text(text, resource, amount):
    assert parse_amount(text) == (resource, pytest.approx(amount))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10 parsecs", "the unit 'parsecs' is not known; expected something like '10min'"),
        ("10", "the amount '10' has no unit"),
        ("1h 30", "the amount '1h 30' has no unit"),
        ("", "cannot read the amount ''"),
        ("   ", "cannot read the amount"),
        ("min", "cannot read the amount 'min'"),
        ("-5min", "cannot read the amount '-5min'"),
        ("--5", "cannot read the amount"),
        ("nan min", "cannot read the amount"),
        ("inf min", "cannot read the amount"),
        ("1.2.3 min", "cannot read|has no unit"),
        ("10 min 5 USD", "cannot read the amount"),
        ("5 USD 3 trials", "cannot read the amount"),
        ("10 min 4 GiB", "cannot read the amount"),
        ("10 wall", "the unit 'wall' is not known"),
        ("10 gpu", "the unit 'gpu' is not known"),
        ("10 USD wall", "the unit 'usd wall' is not known"),
        ("$20 min", "cannot read the amount"),
        ("10 min min", "the unit 'min min' is not known"),
        ("10mïn", "is not known|cannot read"),
    ],
)
def test_a_text_that_is_no_amount_is_refused(text, message):
    with pytest.raises(BudgetError, match=message):
        parse_amount(text)


@pytest.mark.parametrize(
    ("amount", "limits"),
    [
        ("10min", {"device_seconds": 600.0}),
        ("10min, 20 USD; 50 trials and 4 GiB", {
            "device_seconds": 600.0, "dollars": 20.0, "evaluations": 50.0, "memory_bytes": 2.0**32,
        }),
        ("1h wall and 2 GPU-hours", {"wall_seconds": 3600.0, "device_seconds": 7200.0}),
        (120, {"device_seconds": 120}),
        (0.5, {"device_seconds": 0.5}),
        ({"dollars": 3, "evaluations": 7}, {"dollars": 3, "evaluations": 7}),
    ],
)  # fmt: skip
def test_a_budget_is_read_from_what_people_write(amount, limits):
    assert Budget.of(amount).limits() == limits
    assert Budget.of(Budget.of(amount)) == Budget.of(amount)


@pytest.mark.parametrize(
    ("amount", "message"),
    [
        ("0 min", "must be finite and above 0, got device_seconds = 0"),
        ("1e999 s", "must be finite and above 0, got device_seconds = inf"),
        (0, "above 0"),
        (-3, "above 0, got device_seconds = -3"),
        (math.inf, "must be finite"),
        (math.nan, "must be finite"),
        (True, "must be finite and above 0, got device_seconds = True"),
        ([3], "must be finite"),
        (None, "needs a limit on time, money or evaluations"),
        ({}, "needs a limit"),
        ("4 GiB", "needs a limit on time, money or evaluations"),
        ("10 min and 3 min", "limits device seconds twice"),
        ("10 min,", "cannot read the amount ''"),
        ({"seconds": 3}, "unknown resource 'seconds'; expected device_seconds, dollars"),
        ({3: 3}, "unknown resource 3"),
        ({"dollars": "3"}, "must be finite and above 0, got dollars = '3'"),
        ({"dollars": -1, "evaluations": 3}, "got dollars = -1"),
    ],
)
def test_what_is_no_budget_is_refused(amount, message):
    with pytest.raises(BudgetError, match=message):
        Budget.of(amount)


def test_numpy_numbers_are_numbers():
    assert Budget.of(np.int64(7)) == Budget(device_seconds=7)
    assert Budget.of({"dollars": np.float32(0.5)}).to_json() == {"dollars": 0.5}
    assert json.dumps(Budget.of(np.int64(7)).to_json()) == '{"device_seconds": 7.0}'


@given(st.dictionaries(st.sampled_from(RESOURCES), st.floats(1e-9, 1e15)).filter(lambda d: set(d) - {"memory_bytes"}))
def test_a_budget_survives_json(limits):
    budget = Budget(**limits)
    assert Budget(**json.loads(json.dumps(budget.to_json()))) == budget
    assert budget.limits() == limits


@given(st.dictionaries(st.sampled_from(RESOURCES), st.floats(0, 1e15)))
def test_a_cost_survives_json(amounts):
    assert Cost(**json.loads(json.dumps(Cost(**amounts).to_json()))) == Cost(**amounts)


@pytest.mark.parametrize("amount", [-1, math.nan, math.inf, -math.inf, "3", None, True])
def test_a_cost_that_cannot_be_is_refused(amount):
    with pytest.raises(BudgetError, match="a cost must be finite and at least 0, got dollars = "):
        Cost(dollars=amount)


@given(st.text(alphabet="0123456789.e+-$ minhGPUsdUSDwalltr,;and", max_size=20))
def test_any_text_is_a_budget_or_a_budget_error(text):
    with suppress(BudgetError):
        assert all(0 < amount < math.inf for amount in Budget.of(text).limits().values())
