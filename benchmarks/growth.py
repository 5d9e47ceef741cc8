"""What a run grows by: memory of its controller, its journal, and the time to open that again, to 100,000 segments.

    python benchmarks/growth.py --out benchmarks/results/growth.jsonl
    python benchmarks/growth.py --postgresql --sizes 1000 10000 --out benchmarks/results/growth.jsonl
    python benchmarks/growth.py --table

The run of `scale.py` on a hundred simulated devices, but with its journal; a thousand events are written at once, as
how large it becomes is the question, not how fast. In two shapes: `short`, ASHA, whose trials have one or two
segments, and `long`, whole trials on devices that are taken away every minute, so that a trial has many. Memory is
what is resident at the end less what was at the beginning; both shapes together tell what a trial takes and what a
segment does. The journal lies in memory (`/dev/shm`). It is opened again by a process of its own, as `status` and
`resume` do.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from benchmarks.scale import PROBLEM, START_UP_S, _commit, curve, seconds
from frugalbo.budget.amounts import Budget
from frugalbo.budget.cost import KnownCost
from frugalbo.budget.ledger import Balance
from frugalbo.events import Event
from frugalbo.executors.devices import simulated_slots
from frugalbo.executors.simulated import Hazards, SimulatedExecutor
from frugalbo.pool import Pool
from frugalbo.propose import make_proposer
from frugalbo.run import RunLoop
from frugalbo.scheduler import make_scheduler
from frugalbo.session import OpenStudy
from frugalbo.store import Store
from frugalbo.stored import Settings, read_study, spec_of
from frugalbo.study import Study
from frugalbo.testing.postgres import PrivatePostgres

RESULTS = Path(__file__).parent / "results" / "growth.jsonl"
SIZES = (1_000, 3_000, 10_000, 30_000, 100_000)
DEVICES = 100
_AT_ONCE = 1000
# Of a segment: by the counts of promotions in ASHA; on devices that are taken away 60 times an hour, by trial.
_SEGMENT_S = {"short": 24.0, "long": 45.0}
_TAKEN_PER_HOUR = {"short": 2.0, "long": 60.0}


def measure(shape: str, segments: int, url: str) -> dict[str, Any]:
    """One run with its journal; returns the record."""
    budget = Budget(device_seconds=_SEGMENT_S[shape] * segments)
    settings = Settings("random", "asha" if shape == "short" else "fixed")
    costs = KnownCost(seconds)
    with Store(url) as store:
        run = store.create_run(spec_of(PROBLEM, budget, 0, settings))
        with store.lease(run) as lease:
            study = OpenStudy(PROBLEM, budget)
            scheduler = make_scheduler(settings.scheduler, make_proposer("random", PROBLEM, seed=0), costs)
            hazards = Hazards(failures_per_hour=0.5, preemptions_per_hour=_TAKEN_PER_HOUR[shape])
            slots = simulated_slots([Pool("spot", DEVICES, 1.0, preemptible=True)])
            executor = SimulatedExecutor(PROBLEM, slots, curve, start_up_s=START_UP_S, hazards=hazards)
            unwritten: list[Event] = []

            def write(_: Study, __: Balance, events: Sequence[Event]) -> None:
                unwritten.extend(events)
                if len(unwritten) >= _AT_ONCE:
                    lease.append(*unwritten)
                    unwritten.clear()

            loop = RunLoop(study, scheduler, executor, costs, Path("unused"), observe=write)
            gc.collect()
            before, began = _resident(), time.process_time()
            reason = loop.run()
            lease.append(*unwritten)
            cpu_s = time.process_time() - began
            gc.collect()
            grown = _resident() - before
    return {
        "shape": shape,
        "journal": url.partition(":")[0],
        "segments": len(study.settled),
        "trials": len(study.trials),
        "events": study.revision,
        "cpu_s": round(cpu_s, 2),
        "resident_bytes": grown,
        "most_resident_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before,
        "reason": reason,
    }


def reopen(url: str) -> dict[str, Any]:
    """What it takes to read the journal again."""
    gc.collect()
    before = _resident()
    with Store(url) as store:
        store.runs()
        began = time.process_time()
        study = read_study(store, "scale-1")
        cpu_s = time.process_time() - began
    assert study.ledger is not None
    return {"reopen_cpu_s": round(cpu_s, 2), "reopen_bytes": _resident() - before, "reopened": study.revision}


def journal_bytes(url: str) -> dict[str, int]:
    """The size of the journal, and of its write-ahead log beside it."""
    if url.startswith("sqlite"):
        path = Path(url.removeprefix("sqlite:///"))
        log = path.with_name(f"{path.name}-wal")
        return {"journal_bytes": path.stat().st_size, "log_bytes": log.stat().st_size if log.exists() else 0}
    engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))
    with engine.connect() as connection:
        size = connection.scalar(sa.text("SELECT pg_total_relation_size('frugalbo_events')"))
    engine.dispose()
    return {"journal_bytes": int(size or 0), "log_bytes": 0}


def per(records: list[dict[str, Any]], what: str) -> tuple[float, float, float]:
    """Least squares of `what` as a + b trials + c segments, each record weighted by 1 / its segments: a, b, c."""
    weights = np.array([1 / r["segments"] for r in records])
    columns = np.array([[1.0, r["trials"], r["segments"]] for r in records])
    values = np.array([float(r[what]) for r in records])
    a, b, c = np.linalg.lstsq(columns * weights[:, None], values * weights, rcond=None)[0]
    return float(a), float(b), float(c)


def table(records: list[dict[str, Any]]) -> str:
    """The newest records as a table of Markdown."""
    newest = {(r["journal"], r["shape"], r["asked"]): r for r in records}
    lines = [
        "| journal | shape | segments | trials | events | memory, MB | bytes per segment | journal, MB "
        "| bytes per event | opened again in, CPU s | us per event |",
        "|---" * 11 + "|",
    ]
    for key in sorted(newest):
        r, journal = newest[key], key[0].partition("+")[0]
        lines.append(
            f"| {journal} | {r['shape']} | {r['segments']} | {r['trials']} | {r['events']} "
            f"| {r['resident_bytes'] / 1e6:.1f} | {r['resident_bytes'] / r['segments']:.0f} "
            f"| {r['journal_bytes'] / 1e6:.1f} | {r['journal_bytes'] / r['events']:.0f} "
            f"| {r['reopen_cpu_s']:.2f} | {1e6 * r['reopen_cpu_s'] / r['events']:.0f} |"
        )
    kept = [r for (journal, _, _), r in newest.items() if journal == "sqlite"]
    a, b, c = per(kept, "resident_bytes")
    lines += ["", f"Memory: {a / 1e6:.1f} MB, {b:.0f} bytes a trial and {c:.0f} a segment."]
    return "\n".join(lines)


@contextmanager
def _journals(*, is_postgresql: bool) -> Iterator[Any]:
    """Yields what makes the URL of an empty journal."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        if is_postgresql:
            with PrivatePostgres() as server:
                yield server.schema
            return

        @contextmanager
        def fresh() -> Iterator[str]:
            path = Path(folder) / "runs.db"
            yield f"sqlite:///{path}"
            for file in Path(folder).iterdir():
                file.unlink()

        yield fresh


def _resident() -> int:
    """Bytes of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _alone(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What `work` says in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def main() -> None:
    """Measure, print and append records; or show those that there are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=list(SIZES))
    parser.add_argument("--shapes", nargs="*", choices=_SEGMENT_S, default=list(_SEGMENT_S))
    parser.add_argument("--postgresql", action="store_true", help="in a PostgreSQL of our own, in the place of SQLite")
    parser.add_argument("--out", type=Path, help="append the records to this file")
    parser.add_argument("--table", action="store_true", help="show the newest records instead of measuring")
    arguments = parser.parse_args()
    if arguments.table:
        print(table([json.loads(line) for line in RESULTS.read_text().splitlines()]))
        return
    machine = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
    }
    with _journals(is_postgresql=arguments.postgresql) as fresh:
        for shape, asked in ((shape, size) for shape in arguments.shapes for size in arguments.sizes):
            with fresh() as url:
                record = {**machine, "asked": asked}
                record |= _alone(measure, shape, asked, url) | journal_bytes(url) | _alone(reopen, url)
            assert record["reopened"] == record["events"]
            print(json.dumps(record), flush=True)
            if arguments.out:
                with arguments.out.open("a") as file:
                    file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
