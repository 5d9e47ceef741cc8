from __future__ import annotations

import json
import math
import os
import subprocess
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from local_setup import a_segment

from frugalbo.events import Failure, Outcome, Reported
from frugalbo.executors import processes
from frugalbo.executors.processes import Identity
from frugalbo.executors.segments import (
    LINE_BYTES,
    BoundedLog,
    Orders,
    ReportReader,
    ReportWriter,
    SegmentFolder,
    clean,
    goes_on_from,
)
from frugalbo.executors.verdict import Seen, judge, judge_silent


@pytest.fixture
def files(tmp_path):
    files = SegmentFolder(tmp_path, 0)
    files.create()
    return files


@pytest.mark.parametrize(
    ("now", "lived_s"),
    [(107.1, 7.1), (107.25, 7.25), (900.0, 7.25), (107.0, 7.0), (50.0, 7.0), (-math.inf, 7.0)],
    ids=["at once", "a beat later", "long after", "at the last sign", "clock set back", "no clock"],
)
def test_a_segment_lived_to_a_beat_after_its_last_sign_of_life_but_not_past_now(files, now, lived_s):
    assert files.lived_s(now) is None
    for name, at in (("orders.json", 100.0), ("processes.json", 107.0), ("reports.jsonl", 103.0)):
        (files.path / name).touch()
        os.utime(files.path / name, (at, at))
    assert files.lived_s(now) == pytest.approx(lived_s)


def test_orders_survive_json(tmp_path):
    segment = a_segment(tmp_path, cap_s=math.inf, memory_bytes=17)
    orders = Orders(segment, "run", "boot", Identity(2, 3), Identity(5, 7), "loss", ("a", "b"), "/", (1,), "0", 1.5)
    for one in (orders, replace(orders, words=None, cores=None)):
        assert Orders.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_a_torn_line_is_left_for_later_and_garbage_is_passed_over(files):
    reader = ReportReader(files, 3, 0, 5)
    assert reader.read() == []
    first = json.dumps({"step": 1, "metrics": {"loss": math.inf}, "at": 2.0}).encode()
    second = json.dumps({"step": 2, "metrics": {"loss": 0.5}, "at": 3.0}).encode()
    with files.reports.open("ab", buffering=0) as file:
        file.write(first + b"\n" + second[:9])
        assert reader.read() == [Reported(3, 0, 1, {"loss": math.inf}, 2.0)]
        assert reader.read() == []
        file.write(second[9:] + b"\n")
        assert reader.read() == [Reported(3, 0, 2, {"loss": 0.5}, 3.0)]
        file.write(b'\xff\x00\n[]\n{"step": 3}\n\n' + first + b'\n{"step": 6, "metrics": {}, "at": 1}\n')
        assert reader.read() == []  # no report, a repeated step, a step that was not granted
        file.write(b'{"step": 4, "metrics": {"a": 1}, "at": 1}\n')
        assert reader.read() == [Reported(3, 0, 4, {"a": 1.0}, 1.0)]


@pytest.mark.parametrize(
    "odd",
    [
        b'{"step": Infinity, "metrics": {"a": 1}, "at": 1}',
        b'{"step": 1e999, "metrics": {"a": 1}, "at": 1}',
        b'{"step": 1, "metrics": {"a": %s}, "at": 1}' % (b"9" * 400),
        b'{"step": 1, "metrics": {"a": "much"}, "at": 1}',
        b'{"step": 1, "metrics": [1], "at": 1}',
        b'{"step": 1, "metrics": {"a": 1}, "at": NaN}',
        b"[" * 50_000,
        b'{"step": 1, "metrics": {"%s": 1}, "at": 1}' % (b"a" * LINE_BYTES),
        b'{"step": 1, "metrics": {"a": 1}, "at": 1, "more": "%s"}' % (b"a" * 3_000_017),
    ],
    ids=range(9),
)
def test_no_line_stops_the_reader(files, odd):
    good = b'{"step": 2, "metrics": {"a": 1}, "at": 1}\n'
    reader = ReportReader(files, 3, 0, 5)
    with files.reports.open("ab", buffering=0) as file:
        file.write(odd[:1000])
        assert reader.read() == []
        file.write(odd[1000:] + b"\n" + good)
    assert reader.read() == [Reported(3, 0, 2, {"a": 1.0}, 1.0)]


def test_a_message_is_short_and_harmless_whatever_a_job_calls_its_metrics(tmp_path):
    report = Reported(0, 0, 1, {"\x1b[2J" + "a" * 60_000: 1.0}, 1.0)
    _, failure, message = judge(a_segment(tmp_path), "loss", [report], Seen(0))
    assert failure == Failure.NO_RESULT
    assert len(message) <= 1000
    assert "\x1b" not in message


def test_reports_that_lost_their_end_are_read_again(files):
    lines = [b'{"step": %d, "metrics": {"a": 1}, "at": 1}\n' % step for step in (1, 2, 3, 4)]
    files.reports.write_bytes(lines[0] + lines[1])
    reader = ReportReader(files, 3, 0, 5)
    assert [report.step for report in reader.read()] == [1, 2]
    os.truncate(files.reports, len(lines[0]))
    assert reader.read() == []
    with files.reports.open("ab", buffering=0) as file:
        file.write(lines[2])
        assert [report.step for report in reader.read()] == [3]
        file.write(lines[3])
        assert [report.step for report in reader.read()] == [4]


def test_a_report_is_no_longer_than_can_be_read(files):
    writer = ReportWriter(files.reports)
    with pytest.raises(ValueError, match=r"a report may take 65536 bytes, this one of 7000 metrics takes \d+"):
        writer.write(1, {f"metric {n}": 0.5 for n in range(7000)}, 1.0)
    writer.write(2, {"a": 1.0}, 1.0)
    writer.close()
    assert [report.step for report in ReportReader(files, 3, 0, 5).read()] == [2]


@given(pieces=st.lists(st.binary(max_size=40).map(lambda b: b * 7), max_size=12), kept=st.integers(1, 60))
def test_a_log_keeps_head_and_tail_and_counts_the_rest(tmp_path_factory, pieces, kept):
    path = tmp_path_factory.mktemp("log") / "log.txt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("frugalbo.executors.segments._HEAD_KEPT", kept)
        patch.setattr("frugalbo.executors.segments._TAIL_KEPT", kept)
        log = BoundedLog(path)
        for piece in pieces:
            log.write(piece)
        log.close()
    text = b"".join(pieces)
    if len(text) <= 2 * kept:
        assert path.read_bytes() == text
    else:
        note = f"\n[... {len(text) - 2 * kept} bytes left out ...]\n".encode()
        assert path.read_bytes() == text[:kept] + note + text[-kept:]


def test_a_full_disk_fails_a_report_and_shortens_a_log(files):
    if not os.path.exists("/dev/full"):  # noqa: PTH110
        pytest.skip("needs /dev/full")
    files.reports.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        ReportWriter(files.reports).write(1, {"loss": 1.0}, 0.0)
    files.log.symlink_to("/dev/full")
    log = BoundedLog(files.log)
    log.write(b"text")
    log.close()


@given(st.text() | st.binary())
def test_clean_text_can_be_stored(text):
    assert "\x00" not in clean(text)
    clean(text).encode()


def _reports(*steps, loss=0.5):
    return [Reported(0, 0, step, {"loss": loss}, 0.0) for step in steps]


@pytest.mark.parametrize("asked", [None, "cancel", "interrupt", "timeout", "memory"])
@pytest.mark.parametrize("result", [None, {"ok": True}, {"failure": "error", "message": "no"}])
@pytest.mark.parametrize("code", [0, 1, -9, None])
def test_a_segment_is_done_if_it_returned_and_reported_its_last_step_and_only_then(tmp_path, asked, result, code):
    segment = a_segment(tmp_path, until=5, planned=7)
    seen = Seen(exit_code=code, asked=asked, result=result)
    returned = (result or {}).get("ok", False) or (code == 0 and not (result or {}).get("failure"))
    outcome, failure, _ = judge(segment, "loss", _reports(1, 5), seen)
    assert (outcome == Outcome.PAUSED) == returned
    assert (failure is not None) == (outcome == Outcome.FAILED)
    # On its way a job may report at steps of its own; what was asked to end early has not got there.
    assert (judge(segment, "loss", _reports(1, 4), seen)[0] == Outcome.PAUSED) == (returned and asked is None)
    whole = a_segment(tmp_path, until=7, planned=7)
    assert judge(whole, "loss", _reports(1, 6), seen)[0] not in (Outcome.PAUSED, Outcome.COMPLETED)
    assert judge(segment, "loss", _reports(1, 5, loss=math.nan), seen)[1] == Failure.DIVERGED
    assert (judge(replace(segment, planned=5), "loss", _reports(5), seen)[0] == Outcome.COMPLETED) == returned


@pytest.mark.parametrize(
    ("seen", "failure"),
    [
        (Seen(-9, "memory"), Failure.MEMORY),
        (Seen(1, None, {"failure": "out of memory", "message": "m"}), Failure.MEMORY),
        (Seen(1, "timeout", {"failure": "error", "message": "m"}), Failure.TIMEOUT),
        (Seen(1, None, {"failure": "error", "message": "m"}), Failure.ERROR),
        (Seen(-9, None, oom=True), Failure.MEMORY),
        (Seen(-9, None), Failure.KILLED),
        (Seen(-64, None), Failure.KILLED),
        (Seen(-9, None, {"ok": True}), Failure.NO_RESULT),
        (Seen(3, None), Failure.ERROR),
        (Seen(0, None), Failure.NO_RESULT),
    ],
)
def test_the_reason_of_a_failure_is_the_first_cause(tmp_path, seen, failure):
    assert judge(a_segment(tmp_path), "loss", _reports(1), seen)[:2] == (Outcome.FAILED, failure)


@pytest.mark.parametrize(
    ("steps", "planned", "checkpoint", "cancelled", "outcome"),
    [
        ((1, 5), 5, 0, False, Outcome.COMPLETED),
        ((1, 5), 7, 5, False, Outcome.PAUSED),
        ((1, 5), 7, 4, False, Outcome.INTERRUPTED),
        ((1, 4), 5, 5, False, Outcome.INTERRUPTED),
        ((1, 4), 5, 0, True, Outcome.STOPPED),
    ],
)
def test_what_nobody_saw_end_is_judged_by_what_it_left(tmp_path, steps, planned, checkpoint, cancelled, outcome):
    segment = a_segment(tmp_path, planned=planned)
    assert judge_silent(segment, "loss", _reports(*steps), checkpoint, cancelled=cancelled)[0] == outcome


@pytest.mark.parametrize(
    ("outcome", "steps", "saved", "expected"),
    [
        (Outcome.INTERRUPTED, (1, 4), (4, 5), 4),  # the last granted step has to be done again
        (Outcome.INTERRUPTED, (1, 4), (5,), 0),
        (Outcome.INTERRUPTED, (1, 5), (4, 5), 5),
        (Outcome.INTERRUPTED, (1, 4), (3,), 3),
        (Outcome.PAUSED, (1, 4), (4, 5), 5),  # it reports at steps of its own
    ],
)
def test_what_goes_on_has_something_left_to_do(tmp_path, outcome, steps, saved, expected):
    segment, files = a_segment(tmp_path, planned=7), SegmentFolder(tmp_path, 0)
    files.create()
    for step in saved:
        (files.checkpoint_dir / f"step-{step}.ckpt").touch()
    assert goes_on_from(files, segment, outcome, _reports(*steps), "loss") == expected


def test_processes_are_read_as_they_are():
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        found = processes.look(child.pid)
        assert found is not None
        while found.name != "sleep":  # between fork and exec
            time.sleep(0.001)
            found = processes.look(child.pid)
            assert found is not None
        assert (found.parent, found.group, found.session) == (os.getpid(), child.pid, child.pid)
        identity = processes.identify(child.pid)
        assert identity is not None
        assert processes.is_alive(identity)
        assert not processes.is_alive(Identity(child.pid, identity.started - 1))
        assert child.pid in processes.descendants(os.getpid())
        assert child.pid not in processes.descendants(os.getpid(), keep={child.pid})
        assert 0 < processes.proportional_bytes([child.pid]) <= processes.resident_bytes([child.pid]) + 2**20
        death = processes.death_of(identity)
        assert death is not None
        assert processes.kill_until_gone(lambda: {child.pid} & processes.descendants(os.getpid()), timeout_s=5) == set()
        assert not processes.is_alive(identity)  # a zombie, until it is waited for
        os.close(death)
        with pytest.raises(ProcessLookupError):
            processes.death_of(identity)
    finally:
        child.kill()
        child.wait()
    assert processes.look(child.pid) is None
