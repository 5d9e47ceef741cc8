"""What the records of `race.py` say: regrets by suite and by table, ranks with intervals, speed.

Of each method and number of workers the newest version on file counts, and of that every cell
(table, method, workers, seed, and whether trials saw means or single runs) once. Methods may have
different numbers of seeds; ranks compare them on the cells that all of them have, and say how many
these are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from benchmarks.records import Record
from benchmarks.records import read as read
from benchmarks.tables import CHOSEN_ON, SUITES

Array = NDArray[np.float64]
Cell = tuple[str, str, int, int, str]

SHARES = (0.1, 0.3, 1.0)
_RESAMPLES = 2000


def cell(record: Record) -> Cell:
    """What a record is a record of."""
    return record["table"], record["method"], record["workers"], record["seed"], over(record)


def over(record: Record) -> str:
    """Whether its trials saw "means" or single "runs"; the oldest records do not say, and are over runs."""
    return record.get("over", "runs")


def current(records: Sequence[Record]) -> dict[Cell, Record]:
    """The records of each method's newest version, for each number of workers."""
    newest = {_kind(r): r["version"] for r in records}  # the file is in the order of time
    return {cell(r): r for r in records if r["version"] == newest[_kind(r)]}


def markdown(records: Sequence[Record], methods: Sequence[str] | None = None) -> str:
    """All tables, for each number of workers."""
    kept = [r for r in current(records).values() if methods is None or r["method"] in methods]
    named = sorted({r["method"] for r in kept}, key=list(methods or ()).index if methods else _order)
    parts = []
    for workers in sorted({r["workers"] for r in kept}):
        some = [r for r in kept if r["workers"] == workers]
        here = [m for m in named if any(r["method"] == m for r in some)]
        title = "sequential" if workers == 1 else f"{workers} asynchronous workers"
        parts += [f"### {title[0].upper()}{title[1:]}", by_suite(some, here), ranks(some, here), by_table(some, here)]
    parts.append(speed(kept, named))
    return "\n\n".join(parts)


def by_suite(records: Sequence[Record], methods: Sequence[str]) -> str:
    """Median and mean regret at each share of the budget, over tables and seeds."""
    heads = [f"{kind} {share:.0%}" for kind in ("median", "mean") for share in SHARES]
    lines = [_line(["suite", "method", "races", *heads, "median 100%, tables not chosen on"])]
    lines.append(_line(["---"] * (len(heads) + 4)))
    for suite in SUITES:
        for method in methods:
            some = [r for r in records if r["suite"] == suite.name and r["method"] == method]
            if not some:
                continue
            found = np.array([r["regret"] for r in some])
            apart = [r["regret"][-1] for r in some if r["table"] not in CHOSEN_ON]
            values = [*np.median(found, axis=0), *found.mean(axis=0), np.median(apart) if apart else np.nan]
            lines.append(_line([suite.name, method, str(len(some)), *(f"{v:.3f}" for v in values)]))
    return "\n".join(lines)


def ranks(records: Sequence[Record], methods: Sequence[str]) -> str:
    """Mean ranks (1 is best) with 95 % bootstrap intervals, on the cells that all methods have."""
    by_cell: dict[tuple[str, int], dict[str, list[float]]] = {}
    for r in records:
        by_cell.setdefault((r["table"], r["seed"]), {})[r["method"]] = r["regret"]
    shared = {key: found for key, found in by_cell.items() if set(methods) <= set(found)}
    if len(methods) < 2 or not shared:
        return "No cells that all methods share, so no ranks."
    tables = sorted({table for table, _ in shared})
    ranked = {
        table: np.array([_ranks(found, methods) for key, found in shared.items() if key[0] == table])
        for table in tables
    }  # each: seeds x shares x methods
    mean = np.mean([ranked[t].mean(axis=0) for t in tables], axis=0)  # shares x methods
    low, high = bootstrap(ranked)
    lines = [
        f"Mean rank of {len(methods)} on the {len(shared)} cells of {len(tables)} tables that all of them have:",
        "",
        _line(["method", *(f"rank {share:.0%}" for share in SHARES)]),
        _line(["---"] * (1 + len(SHARES))),
    ]
    for j in np.argsort(mean[-1], kind="stable"):
        shown = (f"{mean[i, j]:.2f} [{low[i, j]:.2f}, {high[i, j]:.2f}]" for i in range(len(SHARES)))
        lines.append(_line([methods[int(j)], *shown]))
    return "\n".join(lines)


def bootstrap(ranked: dict[str, Array], seed: int = 0) -> tuple[Array, Array]:
    """95 % intervals of the mean over tables: tables drawn again, then the seeds within each.

    Args:
        ranked: For each table an array whose first axis is its seeds.
        seed: Of the draws.
    """
    rng, tables = np.random.default_rng(seed), list(ranked)
    means = []
    for _ in range(_RESAMPLES):
        drawn = [ranked[tables[i]] for i in rng.integers(len(tables), size=len(tables))]
        means.append(np.mean([rows[rng.integers(len(rows), size=len(rows))].mean(axis=0) for rows in drawn], axis=0))
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return low, high


def _ranks(found: dict[str, list[float]], methods: Sequence[str]) -> Array:
    return np.array([rankdata([found[m][i] for m in methods]) for i in range(len(SHARES))])


def by_table(records: Sequence[Record], methods: Sequence[str]) -> str:
    """Median regret at the end on each table; the best in bold."""
    lines = [_line(["table (* settings may be chosen here)", *methods]), _line(["---"] * (1 + len(methods)))]
    for table in [name for suite in SUITES for name in suite.tables]:
        at_end = [[r["regret"][-1] for r in records if r["table"] == table and r["method"] == m] for m in methods]
        if not any(at_end):
            continue
        medians = [float(np.median(v)) if v else np.nan for v in at_end]
        best = np.nanmin(medians)
        shown = ["" if np.isnan(m) else f"**{m:.3f}**" if m == best else f"{m:.3f}" for m in medians]
        lines.append(_line([table + ("*" if table in CHOSEN_ON else ""), *shown]))
    return "\n".join(lines)


def speed(records: Sequence[Record], methods: Sequence[str]) -> str:
    """Trials a race, jobs without a result, and what a trial took besides training."""
    heads = ["method", "version", "races", "trials", "no result", "wall s a trial", "CPU s a trial"]
    lines = ["### Beside the races", "", _line(heads), _line(["---"] * len(heads))]
    for method in methods:
        some = [r for r in records if r["method"] == method]
        trials = sum(r["trials"] for r in some)
        lines.append(
            _line(
                [
                    method,
                    " / ".join(sorted({r["version"] for r in some})),
                    str(len(some)),
                    f"{trials / len(some):.1f}",
                    f"{sum(r['cut'] for r in some) / len(some):.2f}",
                    f"{sum(r['wall_s'] for r in some) / trials:.3f}",
                    f"{sum(r['cpu_s'] for r in some) / trials:.3f}",
                ]
            )
        )
    return "\n".join(lines)


def _kind(record: Record) -> tuple[str, int, str]:
    return record["method"], record["workers"], over(record)


def _order(method: str) -> tuple[bool, str]:
    return (method.startswith("ours"), method)


def _line(entries: Sequence[str]) -> str:
    return "| " + " | ".join(entries) + " |"
