"""What HTTP workers and their controller say to each other, without jobs: leases, numbers, tokens, bounds, files."""

from __future__ import annotations

import http.client
import io
import json
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from local_setup import SLOTS, a_segment

import frugalbo
from frugalbo.errors import ExecutorError
from frugalbo.executors.carried import Arrivals, CarryError
from frugalbo.executors.depots import HttpDepot, ObjectDepot, carried_as
from frugalbo.executors.http_client import Caller, UnreachableError
from frugalbo.executors.http_desk import Desk
from frugalbo.executors.http_registry import BusyError, GoneError, Registry
from frugalbo.executors.http_server import JSON_BYTES
from frugalbo.executors.http_token import is_token, read_token
from frugalbo.pool import Pool

TOKEN = "a secret of more than sixteen characters"
LEASE_S, MARGIN_S = 5.0, 3.0


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def registry(clock):
    return Registry(lease_s=LEASE_S, margin_s=MARGIN_S, named=lambda name, pool, own: tuple(own), clock=clock)


def hello(worker="w", name="host", **changes):
    slots = [asdict(slot) for slot in SLOTS]
    who = {"version": frugalbo.__version__, "worker": worker, "name": name, "machine": "m"}
    return {**who, "pool": "", "slots": slots, **changes}


# Leases and numbers


def test_a_worker_that_is_silent_beyond_its_lease_and_the_margin_is_gone_and_what_it_says_then_does_not_count(
    registry, clock
):
    worker = registry.register(hello())
    clock.now += LEASE_S + MARGIN_S
    registry.end_expired()
    assert registry.hear(worker.session, 1, [{"a": 1}]) == 1  # the last moment; the lease begins anew
    clock.now += LEASE_S + MARGIN_S + 0.1
    registry.end_expired()
    with pytest.raises(GoneError):
        registry.hear(worker.session, 2, [{"a": 2}])
    with pytest.raises(GoneError):
        registry.commands(worker.session, 0, 0.0)
    assert [message for _, message in registry.take(0.0)] == [{"a": 1}, {"gone": "nothing was heard of it for 8.1 s"}]


def test_a_worker_that_comes_back_has_a_new_session_and_its_old_one_is_over(registry):
    old = registry.register(hello())
    new = registry.register(hello())
    assert new.session != old.session
    with pytest.raises(GoneError):
        registry.hear(old.session, 1, [{"event": "late"}])
    assert [(worker.session, list(message)) for worker, message in registry.take(0.0)] == [(old.session, ["gone"])]


def test_a_name_is_one_workers_as_long_as_that_is_there(registry, clock):
    registry.register(hello())
    with pytest.raises(BusyError, match="another --name"):
        registry.register(hello(worker="other"))
    clock.now += LEASE_S + MARGIN_S + 1
    registry.end_expired()
    registry.register(hello(worker="other"))


@pytest.mark.parametrize("changes", [{"version": "0.0"}, {"name": "a/b"}, {"name": ""}, {"name": "x" * 65}])
def test_a_worker_that_will_never_do_is_refused(registry, changes):
    with pytest.raises(ExecutorError, match="expected"):
        registry.register(hello(**changes))


@settings(deadline=None)
@given(st.data())
def test_whatever_is_lost_or_doubled_on_the_way_each_message_counts_once_and_in_order(data):
    """A worker that repeats from the last number that it knows was counted, over a network that loses answers."""
    registry = Registry(lease_s=LEASE_S, margin_s=MARGIN_S, named=lambda name, pool, own: tuple(own), clock=Clock())
    session = registry.register(hello()).session
    total, known = data.draw(st.integers(1, 7)), 0
    while known < total:
        until = data.draw(st.integers(known + 1, total))
        said = [{"n": number} for number in range(known + 1, until + 1)]
        counted = known
        for _ in range(data.draw(st.sampled_from([1, 0, 2, 3]))):  # it arrives, never arrives, arrives doubled
            counted = registry.hear(session, known + 1, said)
        if not data.draw(st.booleans()):  # the answer arrives
            known = counted
    assert [message["n"] for _, message in registry.take(0.0)] == list(range(1, total + 1))


@settings(deadline=None)
@given(st.data())
def test_whatever_is_lost_on_the_way_each_command_is_told_until_the_worker_has_it(data):
    registry = Registry(lease_s=LEASE_S, margin_s=MARGIN_S, named=lambda name, pool, own: tuple(own), clock=Clock())
    worker = registry.register(hello())
    total, told, done, had = data.draw(st.integers(1, 7)), 0, 0, []
    while done < total:
        if told < total and not data.draw(st.booleans()):
            told += 1
            registry.tell(worker, {"n": told})
        answer = registry.commands(worker.session, done, 0.0)
        if not data.draw(st.booleans()):  # it arrives
            had += [command["n"] for number, command in answer if number > done]
            done = max([done, *(number for number, _ in answer)])
    assert had == list(range(1, total + 1))
    assert registry.commands(worker.session, total, 0.0) == []


def test_a_question_to_a_worker_that_is_lost_has_no_answer(registry):
    worker = registry.register(hello())
    answer = registry.ask(worker, {"sees": []})
    [(_, command)] = registry.commands(worker.session, 0, 0.0)
    again = registry.ask(worker, {"sees": []})
    registry.hear(worker.session, 1, [{"answer": command["answer"], "said": "yes"}, {"answer": "unknown"}])
    assert answer.result(0) == "yes"
    registry.end(worker, "lost")
    assert again.result(0) is None
    assert registry.ask(worker, {"sees": []}).result(0) is None


# Who may come, and with how much


@pytest.fixture
def desk(tmp_path, monkeypatch):
    monkeypatch.setattr("frugalbo.executors.http_desk._OVER_S", 0.0)  # nobody listens for the end of the run
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    desk = Desk(
        listen="127.0.0.1:0", token_file=str(token), folders="sent", lease_s=LEASE_S, margin_s=MARGIN_S,
        most_bytes=5000, dollars_per_hour=0.0, pools=[Pool("spot", 3, dollars_per_hour=1.5)],
    )  # fmt: skip
    desk.open({"what": "to run"})
    yield desk
    desk.close()


@pytest.fixture
def call(desk):
    """Makes callers."""
    callers = []

    def call(token=TOKEN):
        callers.append(Caller(desk.url, token, timeout_s=10.0))
        return callers[-1]

    yield call
    for caller in callers:
        caller.close()


def test_who_does_not_know_the_token_is_refused_before_anything_is_read(desk, call):
    for token in (None, "", "another secret of more characters", TOKEN + "x", TOKEN[:-1]):
        with pytest.raises(ExecutorError, match="expected the token"):
            call(token).post("/register", hello(pool="spot"))
    assert call().post("/register", hello(pool="spot"))["order"] == {"what": "to run"}


def test_tokens_are_compared_whole():
    assert is_token(f"Bearer {TOKEN}", TOKEN)
    assert is_token(None, None)
    assert not any(
        is_token(said, TOKEN) for said in (None, "", TOKEN, f"bearer {TOKEN}", "Bearer ", f"Bearer {TOKEN} ")
    )
    assert not is_token("Bearer \xff", TOKEN)


def request(desk, method, path, body=b"", headers=()):
    connection = http.client.HTTPConnection("127.0.0.1", int(desk.url.rpartition(":")[2]), timeout=10)
    connection.putrequest(method, path)
    for name, value in {"Authorization": f"Bearer {TOKEN}", **dict(headers)}.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    status, _ = answer.status, answer.read()
    connection.close()
    return status


def test_what_is_too_large_or_makes_no_sense_is_refused(desk, call):
    json_type = {"Content-Type": "application/json"}
    assert request(desk, "POST", "/register", headers={**json_type, "Content-Length": str(JSON_BYTES + 1)}) == 413
    assert request(desk, "POST", "/register", headers={**json_type, "Transfer-Encoding": "chunked"}) == 411
    assert request(desk, "POST", "/register", headers=json_type) == 411
    assert request(desk, "POST", "/register", b"{}", {"Content-Type": "text/plain", "Content-Length": "2"}) == 415
    no_slot = json.dumps(hello(slots=[{"x": 1}])).encode()
    for body in (b"", b"{}", b"[]", b"\x80\x04.", b'{"version":', b"[" * 100_000, no_slot):
        assert request(desk, "POST", "/register", body, {**json_type, "Content-Length": str(len(body))}) == 400
    assert request(desk, "POST", "/nowhere", b"{}", {**json_type, "Content-Length": "2"}) == 404
    assert request(desk, "DELETE", "/register") == 501
    assert request(desk, "GET", "/") == 400
    assert call().post("/register", hello(pool="spot"))  # it goes on


def test_a_pool_takes_as_many_slots_as_it_says_at_its_price(desk, call):
    terms = call().post("/register", hello(pool="spot"))
    assert [slot["name"] for slot in terms["slots"]] == ["spot/host/cpu:0", "spot/host/cpu:1"]
    assert {(slot["pool"], slot["dollars_per_hour"]) for slot in terms["slots"]} == {("spot", 1.5)}
    with pytest.raises(BusyError, match="full"):
        call().post("/register", hello("other", "other", pool="spot"))
    with pytest.raises(ExecutorError, match="one of the pools"):
        call().post("/register", hello("third", "third"))


def test_a_token_file_is_made_for_its_owner_alone_and_others_are_refused(tmp_path):
    token = read_token(tmp_path / "new" / "token", make=True)
    assert len(token) == 64
    assert (tmp_path / "new" / "token").stat().st_mode & 0o777 == 0o600
    assert read_token(tmp_path / "new" / "token", make=True) == token
    (tmp_path / "new" / "token").chmod(0o640)
    with pytest.raises(ExecutorError, match="chmod 600"):
        read_token(tmp_path / "new" / "token")
    (tmp_path / "short").write_text("abc")
    (tmp_path / "short").chmod(0o600)
    with pytest.raises(ExecutorError, match="at least 16"):
        read_token(tmp_path / "short")
    with pytest.raises(ExecutorError, match="expected a file with a token"):
        read_token(tmp_path / "none")


def test_nobody_at_home_is_told_apart_from_a_refusal(desk, call):
    gone = call()
    desk.close()
    with pytest.raises(UnreachableError):
        gone.post("/register", {})
    for url in ("ftp://host", "host:80", "http://host/path", "http://"):
        with pytest.raises(ExecutorError, match="expected the URL"):
            Caller(url, None, timeout_s=1.0)


# Checkpoints


@pytest.fixture
def carried(desk, call, tmp_path):
    """A worker's segment and the depot that its session may carry to; and the controller's folder of the trial."""
    session = call().post("/register", hello(pool="spot"))["session"]
    there = tmp_path / "runs" / "trial-00000"
    desk.granted[session, 0, 0] = there
    here = a_segment(tmp_path / "worker" / "run" / "trial-00000", start=5)
    (here.folder / "checkpoints").mkdir(parents=True)
    return here, HttpDepot(call(), session, 5000), there / "checkpoints"


def depots(carried, tmp_path):
    yield carried[1]
    yield ObjectDepot(f"memory://{tmp_path.name}/run")
    yield ObjectDepot(f"file://{tmp_path}/objects")


def test_a_checkpoint_comes_back_as_it_was_sent_and_replaces_older_ones(carried, tmp_path):
    pytest.importorskip("fsspec")
    segment = carried[0]
    own = segment.folder / "checkpoints"
    for depot in depots(carried, tmp_path):
        (own / "step-3.ckpt").write_bytes(b"three")
        depot.put(segment, "step-3.ckpt")
        (own / "step-5.ckpt" / "shards").mkdir(parents=True, exist_ok=True)
        (own / "step-5.ckpt" / "shards" / "a b%2f").write_bytes(bytes(range(256)) * 13)
        (own / "step-5.ckpt" / "empty").write_bytes(b"")
        depot.put(segment, "step-5.ckpt")
        elsewhere = a_segment(tmp_path / "elsewhere" / "run" / "trial-00000", start=5)
        depot.get(elsewhere, "step-5.ckpt")
        found = elsewhere.folder / "checkpoints" / "step-5.ckpt"
        assert {path.name: path.read_bytes() for path in found.rglob("*") if path.is_file()} == {
            "a b%2f": bytes(range(256)) * 13, "empty": b"",
        }  # fmt: skip
        assert [path.name for path in found.parent.iterdir()] == ["step-5.ckpt"]
        with pytest.raises(CarryError, match="no checkpoint"):
            depot.get(elsewhere, "step-3.ckpt")
        if isinstance(depot, ObjectDepot):
            assert [depot.newest(elsewhere.folder, until) for until in (4, 5, 9)] == [0, 5, 5]
    assert [path.name for path in carried[2].iterdir()] == ["step-5.ckpt"]


def test_a_checkpoint_that_is_too_large_is_refused_by_both_ends(carried, desk):
    segment, depot, there = carried
    (segment.folder / "checkpoints" / "step-7.ckpt").write_bytes(b"x" * 5001)
    with pytest.raises(CarryError, match="at most 5000"):
        depot.put(segment, "step-7.ckpt")
    assert request(desk, "PUT", depot._path(segment, "step-7.ckpt"), headers={"Content-Length": "5001"}) == 413
    assert not there.exists()


@pytest.mark.parametrize("name", ["../step-5.ckpt", "step-5.ckpt/../../x", "/etc/passwd", "x", "step-5.ckpt/..", ""])
def test_no_path_leaves_the_trials_folder(carried, tmp_path, name):
    arrivals = Arrivals(tmp_path / "a" / "checkpoints", "mark", 5000)
    for call in (lambda: arrivals.receive(name, io.BytesIO(b"x"), 1), lambda: arrivals.keep(name, [(name, 1)])):
        with pytest.raises(ValueError, match="expected a file of a checkpoint"):
            call()
    with pytest.raises(ValueError, match="expected a file of a checkpoint"), arrivals.open(name):
        pass
    assert not (tmp_path / "a").exists()


def test_what_did_not_come_whole_is_not_kept(carried, desk, tmp_path):
    arrivals = Arrivals(tmp_path / "a", "mark", 5000)
    with pytest.raises(CarryError, match="3 bytes early"):
        arrivals.receive("step-5.ckpt", io.BytesIO(b"four"), 7)
    with pytest.raises(CarryError, match="whole"):
        arrivals.keep("step-5.ckpt", [("step-5.ckpt", 7)])
    with pytest.raises(CarryError, match="whole"):
        arrivals.keep("step-6.ckpt", [])
    assert not (tmp_path / "a" / "step-5.ckpt").exists()


def test_a_session_carries_its_own_segments_and_only_as_long_as_it_lasts(carried, desk):
    segment, depot, _ = carried
    (segment.folder / "checkpoints" / "step-5.ckpt").write_bytes(b"x")
    with pytest.raises(GoneError, match="not this session's"):
        depot.put(a_segment(segment.folder, trial=3), "step-5.ckpt")
    desk.registry.end(desk.registry.workers()[0], "lost")
    with pytest.raises(GoneError):
        depot.put(segment, "step-5.ckpt")


def test_runs_do_not_share_names_where_folders_are_not_shared(tmp_path):
    a, b = tmp_path / "a" / "run-1" / "trial-00000", tmp_path / "b" / "run-1" / "trial-00000"
    assert carried_as(a) != carried_as(b)
    assert len(carried_as(a).parts) == 2
