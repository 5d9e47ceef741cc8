"""Hurt runs in every way that we know, at random moments, and see that they lose nothing and overspend nothing.

    python -m benchmarks.chaos [--places local postgresql ray slurm] [--faults NAME ...] [--seed 0]
    python -m benchmarks.chaos --table

A cell is one run of ASHA with real jobs on two slots, hurt by one kind of fault several times. A fault comes at a
random moment after the run has recovered from the one before; a controller that is dead is resumed at once. Then
the run is left to end, and audited (`audit`), by its journal and by a diary of its jobs, which knows nothing of
frugalbo. A fault is survived if the run went on within `PATIENCE_S` and nothing false was found in its cell. The time
to recover is from the fault until the segment that it hit has ended in the journal and a report of some job has
followed. A cell that is in the results for this commit and seed is not run again.

Faults are in `faults`, where they are done in `places`. Needs Linux; root for the full disk; else Ray, Slurm with munge
and PostgreSQL's server for the places of these names.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.chaos.audit import most_over_hold_s, read_diary, violations
from benchmarks.chaos.faults import FAULTS, LOSES_REPORTS, Hit, path_of
from benchmarks.chaos.places import PLACES, Place
from benchmarks.chaos.rig import ROOT, RUN, Plan, Rig
from frugalbo.events import Ended, Reported
from frugalbo.stored import read_study

RESULTS = ROOT / "benchmarks" / "results" / "chaos.jsonl"
PATIENCE_S = 120.0
END_S = 300.0
# How often each fault is done at each place.
CELLS: dict[str, dict[str, int]] = {
    "local": {
        "controller killed": 12, "everything killed": 10, "supervisor killed": 10, "supervisor stopped": 8,
        "job killed": 10, "job stopped": 8, "job never reports": 6, "template killed": 8, "disk full": 10,
        "clock jumps an hour": 10, "clock jumps, everything killed": 8, "report doubled": 6, "report cut": 6,
        "report lost": 6, "controller killed, receipts cut": 6, "second controller": 6,
        "controller killed, another stands by": 6, "controller stopped past its lease": 3,
    },
    "postgresql": {"database crashed": 12, "database and controller killed": 8, "controller killed": 6},
    "ray": {
        "controller killed": 5, "worker killed": 5, "node killed": 5, "supervisor killed": 4, "job killed": 4,
        "job stopped": 4,
    },
    "slurm": {
        "controller killed": 4, "worker killed": 4, "node killed": 3, "slurmd killed": 4, "slurmctld killed": 3,
        "job killed": 3, "job stopped": 3,
    },
}  # fmt: skip
_CAP_S = {"slurm": 8.0}
_STEP_S = {"slurm": 0.4}
_SECONDS = {"slurm": 10.0}  # of the budget, for each fault
_SECONDS_OF = {"second controller": 20.0, "controller killed, another stands by": 10.0}


def main() -> None:
    """Run what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--places", nargs="+", choices=PLACES, default=list(PLACES))
    parser.add_argument("--faults", nargs="+", choices=FAULTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--keep", type=Path, help="a folder for runs, which are deleted otherwise")
    args = parser.parse_args()
    records = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    if args.table:
        print(table(records))
        return
    commit = _commit()
    done = {(r["place"], r["fault"]) for r in records if (r["commit"], r["seed"]) == (commit, args.seed)}
    is_well = True
    for name in args.places:
        cells = [(f, n) for f, n in CELLS[name].items() if (args.faults is None or f in args.faults)]
        cells = [cell for cell in cells if (name, cell[0]) not in done]
        if not cells:
            continue
        with tempfile.TemporaryDirectory(prefix="fbchaos-", ignore_cleanup_errors=True) as folder:
            at = (args.keep or Path(folder)).resolve() / name
            at.mkdir(parents=True, exist_ok=True)
            with PLACES[name](at) as place:
                for fault, times in cells:
                    record = torment(place, name, [fault] * times, seed=args.seed)
                    record |= {"fault": fault, "commit": commit, "at": datetime.now(UTC).isoformat(timespec="seconds")}
                    is_well &= not record["violations"] and record["survived"] == record["tried"]
                    print(json.dumps(record), flush=True)
                    with args.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(record) + "\n")
    sys.exit(0 if is_well else 1)


def torment(place: Place, name: str, faults: Sequence[str], *, seed: int) -> dict[str, Any]:
    """One run, hurt by one fault after the other; returns the record."""
    rng = random.Random(f"{seed} {name} {faults}")
    home = place.folder / path_of(faults[0])
    home.mkdir(parents=True)
    if "disk full" in faults:
        place.mount(home)
    seconds = 10.0 + sum(_SECONDS_OF.get(fault, _SECONDS.get(place.backend, 5.0)) for fault in faults)
    # Half of the runs have a limit on trials as well, which is soon reached where most stop at the first rung.
    budget = {"device_seconds": seconds} | ({"evaluations": math.ceil(1.2 * seconds)} if rng.random() < 0.5 else {})
    plan = Plan(
        place.backend, place.storage(home), budget, seed, _CAP_S.get(place.backend, 4.0),
        _STEP_S.get(place.backend, 0.15),
    )  # fmt: skip
    rig = Rig(home, plan, place.environ)
    began, took, todo = time.monotonic(), [], list(faults)
    try:
        rig.prepare()
        rig.start("begin")
        while todo and rig.live_on(rng):
            hit = FAULTS[todo[0]](rig, place, rng)
            if hit is None:
                continue
            todo.pop(0)
            if rig.until(lambda news, hit=hit: _has_recovered(rig, hit), PATIENCE_S):
                took.append(round(time.monotonic() - hit.at, 2))
            rig.check_kept(f"after fault {len(faults) - len(todo)}")
        if not rig.until(lambda news: False, END_S):
            rig.violations.append(f"it was not over {END_S:.0f} s after the last fault")
        return _record(rig, may_lose=not LOSES_REPORTS.isdisjoint(faults)) | {
            "place": name, "seed": seed, "tried": len(faults) - len(todo), "recovered_s": took,
            "survived": 0 if rig.violations else len(took), "violations": rig.violations,
            "took_s": round(time.monotonic() - began, 1),
        }  # fmt: skip
    finally:
        rig.close()


def _has_recovered(rig: Rig, hit: Hit) -> bool:
    after = rig.kept[hit.before :]
    is_settled = hit.segment is None or any(
        isinstance(e, Ended) and (e.trial, e.segment) == hit.segment for e in rig.kept
    )
    return is_settled and any(isinstance(event, Reported) for event in after)


def _record(rig: Rig, *, may_lose: bool) -> dict[str, Any]:
    """What came of a run that is over; the audit's findings go to the rig's violations."""
    rig.look()
    rig.check_kept("at the end")
    study = read_study(rig.store, RUN)
    diary = read_diary(rig.home / "diary.jsonl")
    rig.violations += violations(study, rig.kept, diary, may_lose=may_lose)
    rig.violations += [f"alive at the end: {who}" for who in rig.orphans()]
    assert study.ledger is not None
    account = study.ledger.balance()["device_seconds"]
    return {
        "python": platform.python_version(),
        "resumes": rig.resumes,
        "segments": len(study.settled),
        "trials": len(study.trials),
        "completed": study.count("completed"),  # type: ignore[arg-type]
        "failed": study.count("failed"),  # type: ignore[arg-type]
        "budget_s": account.total,
        "spent_s": round(account.spent, 2),
        "over_hold_s": round(most_over_hold_s(rig.kept), 3),
        "ended": rig.store.stop_reason(RUN),
    }


def table(records: Sequence[dict[str, Any]]) -> str:
    """The latest cells by fault and place, as a table of Markdown."""
    latest = {(record["fault"], record["place"], record["seed"]): record for record in records}
    cells: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for (fault, place, _), record in latest.items():
        cells[fault, place].append(record)
        cells["all of these", place].append(record)
    order = {name: i for i, name in enumerate([*FAULTS, "all of these"])}
    lines = ["| fault | where | tried | survived | to recover, s: median | worst |", "|---|---|---|---|---|---|"]
    for fault, place in sorted(cells, key=lambda cell: (list(PLACES).index(cell[1]), order[cell[0]])):
        tried, survived = (sum(record[name] for record in cells[fault, place]) for name in ("tried", "survived"))
        took = [s for record in cells[fault, place] for s in record["recovered_s"]]
        middle, worst = (f"{statistics.median(took):.1f}", f"{max(took):.1f}") if took else ("", "")
        lines.append(f"| {fault} | {place} | {tried} | {survived} | {middle} | {worst} |")
    tried, survived = (sum(record[name] for record in latest.values()) for name in ("tried", "survived"))
    over = max(record["over_hold_s"] for record in latest.values())
    return "\n".join(
        [
            *lines,
            "",
            f"{survived} of {tried} survived; no segment outlived what was held for it by more than {over:.2f} s.",
        ]
    )


def _commit() -> str:
    """The commit, and a digest of what is not in it."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    diff = subprocess.run([*git, "diff", "HEAD", "--", "frugalbo"], capture_output=True, check=True).stdout
    return head.stdout.strip() + (f"+{zlib.crc32(diff):08x}" if diff else "")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
