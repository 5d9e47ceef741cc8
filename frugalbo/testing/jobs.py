"""Training jobs that behave, and some that do not, for the conformance suite of executors.

Each is addressed as `"frugalbo.testing.jobs:<name>"`; the problem's objective is `loss`.
"""

from __future__ import annotations

import time

from frugalbo.job import JobContext


def train(ctx: JobContext) -> None:
    """Report 1/step for each step granted, and keep a checkpoint of the last one."""
    total = 0.0
    if (path := ctx.resume()) is not None:
        total = float(path.read_text())
    for step in range(ctx.start + 1, ctx.until + 1):
        total += step
        if step == ctx.until:
            ctx.save(step, lambda path, total=total: path.write_text(str(total)))
        ctx.report(step, loss=1 / step, total=total)


def returns_a_number(ctx: JobContext) -> float:
    """Report nothing; the value is the result."""
    return 0.25 * ctx.params["x"]


def fails(ctx: JobContext) -> None:
    """Report a step, print, raise."""
    ctx.report(1, loss=1.0)
    print("so far so good")
    raise ValueError("the learning rate is cursed")


def diverges(ctx: JobContext) -> None:
    """Report a number that is none."""
    ctx.report(1, loss=float("nan"))


def says_nothing(ctx: JobContext) -> None:
    """End well, without a result."""


def sleeps(ctx: JobContext) -> None:
    """Report a step, then sleep on until asked to stop."""
    ctx.report(1, loss=1.0)
    while not ctx.should_stop:
        time.sleep(0.01)


def outlives_its_cap(ctx: JobContext) -> None:
    """Report a step every hundredth of a second, more steps than there is time for."""
    for step in range(1, ctx.until):
        time.sleep(0.01)
        ctx.report(step, loss=1.0)
