"""`frugalbo serve`: pages of runs, for who knows the token."""

from __future__ import annotations

import base64
import http.client
import json
from threading import Thread

import pytest

import frugalbo as fb
from frugalbo.cli_serve import Pages, make_server
from frugalbo.store import Store

TOKEN = "a secret of more than sixteen characters"


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    storage = tmp_path_factory.mktemp("served") / "runs.db"
    (storage.parent / "job.py").write_text("def train(ctx):\n    return ctx.params['x'] ** 2\n")
    problem = fb.Problem(
        name="quadratic", space=fb.Space({"x": fb.Float(0.0, 1.0)}), job="job.py:train", root=str(storage.parent),
        objective=fb.Minimize("loss"), description="<script>alert(1)</script>",
    )  # fmt: skip
    fb.tune(problem, budget="2 trials", method="random", devices="cpu:1", storage=storage)
    return storage


@pytest.fixture(params=[None, TOKEN])
def ask(request, storage, tmp_path):
    """Asks for a path; returns status and body."""
    with Store(storage) as store, make_server(("127.0.0.1", 0), Pages(store, tmp_path), request.param) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        password = base64.b64encode(f"anybody:{request.param}".encode()).decode()

        def ask(path, *, method="GET", **headers):
            connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
            headers = {"Authorization": f"Basic {password}"} | {k.replace("_", "-"): v for k, v in headers.items()}
            connection.request(method, path, headers={name: value for name, value in headers.items() if value})
            answer = connection.getresponse()
            body = answer.read()
            connection.close()
            return answer.status, body

        ask.token = request.param
        yield ask
        server.shutdown()


def test_runs_are_shown_as_they_stand(ask):
    status, page = ask("/")
    assert (status, b'href="/quadratic-1/"' in page) == (200, True)
    status, page = ask("/quadratic-1/")
    assert status == 200
    assert b"quadratic" in page
    assert b"<script>alert" not in page
    status, figures = ask("/quadratic-1.json")
    assert status == 200
    assert len(json.loads(figures)["trials"]) == 2


def test_nothing_else_is_there_and_nothing_can_be_written(ask):
    for path in ("/nothing/", "/../runs.db", "/quadratic-1/../../etc/passwd", "//quadratic-1", "/%2e%2e/runs.db"):
        assert ask(path)[0] in (404, 200 if path == "//quadratic-1" else 404)
    for method in ("POST", "PUT", "DELETE"):
        assert ask("/quadratic-1/", method=method)[0] == 501


def test_who_does_not_know_the_token_sees_nothing(ask):
    if ask.token is None:
        assert ask("/", Host="localhost:80")[0] == 200
        assert ask("/", Host="evil.example:80")[0] == 403  # a name of another site that was made to lead here
        return
    for said in (None, "Basic", "Basic !", "Basic " + base64.b64encode(b"anybody:wrong").decode(), "Bearer wrong"):
        assert ask("/", Authorization=said)[0] == 401
    assert ask("/", Authorization=f"Bearer {TOKEN}")[0] == 200
