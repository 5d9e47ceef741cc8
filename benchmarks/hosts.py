"""Hosts that run trials over HTTP, one of which is cut off: what is lost, counted twice, or charged too much.

    python benchmarks/hosts.py --out benchmarks/results/hosts.jsonl
    python benchmarks/hosts.py --how freeze --out benchmarks/results/hosts.jsonl
    python benchmarks/hosts.py --table benchmarks/results/hosts.jsonl

Each host is a `frugalbo worker` with slots of its own, in a network and with process ids of its own where that is
permitted (root and `ip`), else behind a relay. In the middle of the run one is cut off (its interface is taken
down), or frozen (all its processes are stopped), for a while, and comes back. Trials sleep, and save at each step;
hosts share no folder, so checkpoints are sent to the controller.

- *Lost*: from the cut until the controller has interrupted the segments of that host; *elsewhere*: until the last of
  them has begun again on another host; *back*: from the mending until its slots have been given work again.
- *Counted twice*: reports of one step of one segment above one, as the journal has them, and segments that ended
  twice. *Steps done again* are those since the last checkpoint that had come to the controller.
- *Charged* are the device-seconds of the journal; *measured* what the supervisors of all hosts wrote into their
  receipts, of all segments, also of those whose word came too late to count.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import frugalbo as fb
from frugalbo.budget.ledger import Balance
from frugalbo.events import Ended, Event, Outcome, Reported, Started
from frugalbo.job import JobContext
from frugalbo.store import Store
from frugalbo.study import Study
from frugalbo.testing.hosts import Host, Namespace, Relay, free_port


def train(ctx: JobContext) -> None:
    """Sleep a tenth of a second a step, save and report."""
    for step in range(ctx.start + 1, ctx.until + 1):
        time.sleep(0.1)
        ctx.save(step, lambda path, step=step: path.write_text(str(step)))
        ctx.report(step, loss=(ctx.params["x"] - 0.3) ** 2 + 1 / step)
        if ctx.should_stop:
            return


@dataclass(slots=True)
class Fault:
    """What is done to a host, by the run loop's own observer: `after_s` from the first trial, for `for_s`."""

    host: Host
    how: str
    after_s: float
    for_s: float
    began: float | None = None
    cut: float | None = None
    mended: float | None = None
    ended: dict[int, float] = field(default_factory=dict)  # segments of the host that were interrupted, by trial
    again: dict[int, float] = field(default_factory=dict)  # when those trials went on elsewhere
    back: float | None = None

    def __call__(self, study: Study, balance: Balance, events: Sequence[Event]) -> None:
        """Look at the clock, and at what has happened."""
        now = time.monotonic()
        self.began = now if self.began is None and study.trials else self.began
        if self.cut is None and self.began is not None and now > self.began + self.after_s:
            self.host.freeze() if self.how == "freeze" else self.host.network.cut()
            self.cut = time.monotonic()
        elif self.mended is None and self.cut is not None and now > self.cut + self.for_s:
            self.host.thaw() if self.how == "freeze" else self.host.network.mend()
            self.mended = time.monotonic()
        for event in events:
            if isinstance(event, Started) and event.slot.startswith(self.host.name + "/"):
                self.back = self.back or (now if self.mended else None)
            elif isinstance(event, Started) and event.trial in self.ended:
                self.again.setdefault(event.trial, now)
            elif isinstance(event, Ended) and event.outcome == Outcome.INTERRUPTED:
                self.ended.setdefault(event.trial, now)


def measure(
    *,
    hosts: int = 8,
    slots: int = 2,
    trials: int = 128,
    steps: int = 150,
    how: str = "cut",
    for_s: float = 60.0,
    lease_s: float = 15.0,
    after_s: float = 20.0,
    namespaces: bool,
) -> dict[str, Any]:
    """One run, with one fault."""
    folder = Path(tempfile.mkdtemp(prefix="fbhosts-"))
    port, token = free_port(), folder / "token"
    token.write_text("no secret, as these hosts are of one machine")
    token.chmod(0o600)
    options = ["--token-file", str(token)]
    own: list[Host] = []
    try:
        for index in range(hosts):
            network = Namespace(index, port) if namespaces else Relay(port)
            own.append(Host(f"host{index}", network, folder / f"host{index}", devices=f"cpu:{slots}", options=options))
        fault = Fault(own[hosts // 2], how, after_s, for_s)
        problem = fb.Problem(
            name="hosts",
            space=fb.Space({"x": fb.Float(0.0, 1.0)}),
            job=f"{Path(__file__).resolve()}:train",
            objective=fb.Minimize("loss"),
            fidelity=fb.Fidelity("steps", 1, steps),
        )
        listen = f"{'0.0.0.0' if namespaces else '127.0.0.1'}:{port}"
        began = time.monotonic()
        report = fb.tune(
            problem,
            budget=f"{trials} trials",
            method="random",
            scheduler="fixed",
            backend={
                "name": "http", "listen": listen, "token_file": str(token), "folders": "sent", "workers": hosts,
                "lease_s": lease_s,
            },
            storage=folder / "runs.db",
            observe=fault,
        )  # fmt: skip
        run_s = time.monotonic() - began
        facts = _count(report.study, folder, own, fault, steps)
        return {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": _commit(),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "load_1min": round(os.getloadavg()[0], 2),
            "hosts": hosts,
            "slots": slots,
            "network": "namespaces" if namespaces else "relays",
            "how": how,
            "for_s": for_s,
            "lease_s": lease_s,
            "run_s": round(run_s, 1),
            **facts,
        }
    finally:
        for host in own:
            host.close()
        shutil.rmtree(folder, ignore_errors=True)


def _count(study: Study, folder: Path, hosts: Sequence[Host], fault: Fault, steps: int) -> dict[str, Any]:
    with Store(folder / "runs.db") as store:
        events = [event for _, event in store.read(store.run(None).id)]
    reported = Counter((e.trial, e.segment, e.step) for e in events if isinstance(e, Reported))
    steps_of = {(e.trial, e.step) for e in events if isinstance(e, Reported)}
    ended = Counter((event.trial, event.segment) for event in events if isinstance(event, Ended))
    trials = len(study.trials)
    receipts = [json.loads(path.read_text()) for host in hosts for path in host.folder.rglob("receipt.json")]
    measured = {(receipt["trial"], receipt["segment"]): receipt["used"]["device_seconds"] for receipt in receipts}
    charged = {(event.trial, event.segment): event.used.device_seconds for event in events if isinstance(event, Ended)}
    known = set(measured) & set(charged)
    assert study.ledger is not None
    account = study.ledger.balance()["evaluations"]
    assert fault.cut is not None
    return {
        "trials": trials,
        "completed": sum(trial.status == fb.Status.COMPLETED for trial in study.trials.values()),
        "whole_curves": sum(sorted(trial.reports) == list(range(1, steps + 1)) for trial in study.trials.values()),
        "interrupted": len(fault.ended),
        "elsewhere": len(fault.again),
        "reports_counted_twice": sum(count - 1 for count in reported.values()),
        "steps_done_again": len(reported) - len(steps_of),
        "ends_counted_twice": sum(count - 1 for count in ended.values()),
        "trials_charged": account.spent,
        "charged_s": round(sum(charged.values()), 1),
        "measured_s": round(sum(measured.values()), 1),
        "segments": len(charged),
        "without_receipt": len(set(charged) - set(measured)),
        "most_undercharged_s": round(max(measured[key] - charged[key] for key in known), 3),
        "most_overcharged_s": round(max(charged[key] - measured[key] for key in known), 1),
        "lost_after_s": round(max(fault.ended.values()) - fault.cut, 1) if fault.ended else None,
        "elsewhere_after_s": round(max(fault.again.values()) - fault.cut, 1) if fault.again else None,
        "back_after_s": round(fault.back - fault.mended, 1) if fault.back and fault.mended else None,
    }


def table(records: Sequence[dict[str, Any]]) -> str:
    """Rows of Markdown."""
    head = (
        "| hosts x slots | what happened to one | completed | interrupted, resumed elsewhere "
        "| counted twice (steps done again) | charged (measured), device-s | most over, under a segment "
        "| lost, elsewhere, back after |"
    )
    return "\n".join([head, "|---|---|---|---|---|---|---|---|", *map(_row, records)])


def _row(r: dict[str, Any]) -> str:
    return (
        f"| {r['hosts']} x {r['slots']}, {r['network']} | {r['how']} for {r['for_s']:g} s, lease {r['lease_s']:g} s "
        f"| {r['completed']} of {r['trials']} | {r['interrupted']}, {r['elsewhere']} "
        f"| {r['reports_counted_twice'] + r['ends_counted_twice']} ({r['steps_done_again']}) "
        f"| {r['charged_s']} ({r['measured_s']}) "
        f"| {r['most_overcharged_s']} s, {max(0.0, r['most_undercharged_s'])} s "
        f"| {r['lost_after_s']} s, {r['elsewhere_after_s']} s, {r['back_after_s']} s |"
    )


def can_have_namespaces() -> bool:
    """Whether this process may make networks of its own."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        return False
    try:
        Namespace(250, 0).close()
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="append the record to this file")
    parser.add_argument("--table", type=Path, help="show the records of this file")
    parser.add_argument("--how", choices=["cut", "freeze"], default="cut")
    parser.add_argument("--for-s", type=float, default=60.0)
    parser.add_argument("--lease-s", type=float, default=15.0)
    parser.add_argument("--trials", type=int, default=128)
    arguments = parser.parse_args()
    if arguments.table:
        print(table([json.loads(line) for line in arguments.table.read_text().splitlines()]))
    else:
        record = measure(
            how=arguments.how, for_s=arguments.for_s, lease_s=arguments.lease_s, trials=arguments.trials,
            namespaces=can_have_namespaces(),
        )  # fmt: skip
        print(table([record]))
        if arguments.out:
            with arguments.out.open("a") as file:
                file.write(json.dumps(record) + "\n")
