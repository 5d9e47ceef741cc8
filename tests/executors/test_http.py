"""Workers over HTTP, on this machine; what dies or is cut off under a run is in `test_http_faults.py`."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from local_setup import local_problem

import frugalbo as fb
from frugalbo.errors import ExecutorError, PoolError
from frugalbo.executors.backends import make_executor, read_backend
from frugalbo.executors.http import HttpExecutor
from frugalbo.pool import Pool
from frugalbo.problem import Problem
from frugalbo.testing.executors import ExecutorConformance
from frugalbo.testing.hosts import free_port

TOKEN = "a secret of more than sixteen characters"


@pytest.fixture(scope="module")
def at(tmp_path_factory):
    """A port, a token, and a worker of two slots that serves one controller after the other there."""
    folder = tmp_path_factory.mktemp("worker")
    token = folder / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    port = free_port()
    with (folder / "log").open("w") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "frugalbo", "worker", "--url", f"http://127.0.0.1:{port}", "--name", "host",
             "--token-file", str(token), "--devices", "cpu:2", "--folder", str(folder / "trials")],
            stdout=log, stderr=log,
        )  # fmt: skip
    yield {"listen": f"127.0.0.1:{port}", "token_file": str(token)}
    worker.send_signal(signal.SIGTERM)
    said = (folder / "log").read_text()
    assert worker.wait(20) == 0, said
    assert "Traceback" not in said


@pytest.mark.slow
class TestSharedFolders(ExecutorConformance):
    grace_s = 0.5  # above the cap: what a busy system takes to kill and to reap

    @pytest.fixture(autouse=True)
    def where(self, at):
        self.at = at

    def make(self, problem: Problem) -> HttpExecutor:
        return HttpExecutor(problem, preload=(), patience_s=60.0, **self.at)


@pytest.mark.slow
class TestSentCheckpoints(TestSharedFolders):
    def make(self, problem: Problem) -> HttpExecutor:
        return HttpExecutor(problem, preload=(), patience_s=60.0, folders="sent", lease_s=3.0, **self.at)


@pytest.mark.slow
def test_one_argument_takes_a_run_to_workers(at, tmp_path):
    report = fb.tune(
        replace(local_problem("finds_out"), fidelity=None), budget="3 trials", method="random",
        backend={"name": "http", **at}, dollars_per_hour=3600.0, storage=tmp_path / "runs.db",
    )  # fmt: skip
    assert [trial.status for trial in report.study.trials.values()] == [fb.Status.COMPLETED] * 3
    assert {trial.starts[0].slot for trial in report.study.trials.values()} == {"host/cpu:0", "host/cpu:1"}
    for trial in report.study.trials.values():
        assert trial.used("dollars") == pytest.approx(trial.used("device_seconds"))


@pytest.mark.slow
def test_a_job_that_cannot_be_loaded_is_refused_with_the_reason(tmp_path):
    port = free_port()
    command = [sys.executable, "-m", "frugalbo", "worker", "--url", f"http://127.0.0.1:{port}", "--devices", "cpu:1"]
    worker = subprocess.Popen([*command, "--name", "host"], stderr=subprocess.PIPE, text=True)
    executor = HttpExecutor(local_problem("nothing"), listen=f"127.0.0.1:{port}", preload=(), patience_s=60.0)
    with pytest.raises(ExecutorError, match=r"(?s)worker 'host' cannot run this: .*there is no 'nothing'"), executor:
        pass
    assert "there is no 'nothing'" in worker.communicate(timeout=20)[1]
    assert worker.returncode == 2


def test_without_a_worker_a_run_says_how_to_start_one():
    executor = HttpExecutor(local_problem("quick"), listen="127.0.0.1:0", preload=(), patience_s=0.3)
    expected = "no worker came in 0 s; start some with: frugalbo worker --url http://127.0.0.1:"
    with pytest.raises(ExecutorError, match=expected), executor:
        pass


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"listen": "0.0.0.0:8765"}, "other machines can reach .* token"),
        ({"listen": "10.1.2.3:8765"}, "other machines can reach .* token"),
        ({"listen": ":8765"}, "other machines can reach .* token"),
        ({"listen": "8765"}, "an address and a port"),
        ({"listen": "127.0.0.1:70000"}, "an address and a port"),
        ({"folders": "somewhere"}, "'shared', 'sent' or a URL"),
        ({"folders": "nothing://bucket"}, "cannot use 'nothing://bucket'"),
        ({"lease_s": 0.0}, "a lease above 0 s"),
    ],
)
def test_what_cannot_be_listened_to_is_refused(options, expected):
    with pytest.raises(ExecutorError, match=expected):
        HttpExecutor(local_problem("quick"), **options)


def test_a_backend_of_workers_is_read_and_takes_no_devices_of_its_own():
    assert read_backend("http:10.0.0.1:80") == {"name": "http", "listen": "10.0.0.1:80"}
    options = {"devices": "cpu:2", "dollars_per_hour": 0.0, "pools": None}
    with pytest.raises(ExecutorError, match="workers bring their devices"):
        make_executor(local_problem("quick"), read_backend("http"), **options)
    with pytest.raises(PoolError, match="how many at most"):
        HttpExecutor(local_problem("quick"), pools=[Pool("spot", "cpu:2")])
