"""On a real Ray, of this machine alone; what dies under a run is in `test_ray_faults.py`."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from local_setup import local_problem

import frugalbo as fb
from frugalbo.errors import ExecutorError
from frugalbo.executors import processes
from frugalbo.executors.ray import RayExecutor
from frugalbo.executors.seat import Seat
from frugalbo.problem import Problem
from frugalbo.testing.executors import ExecutorConformance

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray"),
]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    from frugalbo.executors.ray_cluster import Cluster

    cluster = Cluster(cpus=2)
    yield cluster
    cluster.close()


class TestRay(ExecutorConformance):
    grace_s = 0.5  # above the cap: what a busy system takes to kill and to reap

    def make(self, problem: Problem) -> RayExecutor:
        return RayExecutor(problem, devices="cpu:2", preload=())


class TestRayWithoutSharedFolders(TestRay):
    @pytest.fixture(autouse=True)
    def where(self, tmp_path):
        pytest.importorskip("fsspec")
        self.folders, self.folder = f"file://{tmp_path}/objects", str(tmp_path / "node")

    def make(self, problem: Problem) -> RayExecutor:
        return RayExecutor(problem, devices="cpu:2", preload=(), folders=self.folders, folder=self.folder)


def test_a_cluster_of_our_own_listens_on_the_loopback_alone(cluster):
    own = {process.pid for process in processes.everyone() if process.name.startswith(("raylet", "gcs_server"))}
    own = {pid for pid in own if str(cluster.folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()}
    assert len(own) == 2
    inodes = {link.readlink().name for pid in own for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    listening = []
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            local, state, inode = (line.split()[i] for i in (1, 3, 9))
            if state == "0A" and f"socket:[{inode}]" in inodes:
                listening.append(local.partition(":")[0])
    # 127.0.0.1 in the kernel's notation, as such and as an address of IPv6
    assert listening
    assert set(listening) <= {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def test_one_argument_takes_a_run_to_ray(tmp_path):
    report = fb.tune(
        replace(local_problem("finds_out"), fidelity=None), budget="3 trials", method="random", backend="ray",
        devices="cpu:2", storage=tmp_path / "runs.db",
    )  # fmt: skip
    assert [trial.status for trial in report.study.trials.values()] == [fb.Status.COMPLETED] * 3
    assert {trial.starts[0].slot for trial in report.study.trials.values()} == {"cpu:0", "cpu:1"}


def test_a_job_that_cannot_be_loaded_is_refused_with_the_reason():
    with (
        pytest.raises(ExecutorError, match="there is no 'nothing'"),
        RayExecutor(local_problem("nothing"), devices="cpu:1", preload=()),
    ):
        pass


def test_what_the_cluster_does_not_have_is_refused_with_what_it_has():
    executor = RayExecutor(local_problem("quick"), devices="cpu:1x64", preload=(), patience_s=2.0)
    with pytest.raises(ExecutorError, match="no slot of 64 cores was to be had in 2 s; it has 2 cores"), executor:
        pass


_SENDER = """
import sys
from pathlib import Path
from local_setup import a_segment, local_problem
from frugalbo.executors.ray import RayExecutor
from frugalbo.testing.executors import drain

address, sent, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
problem = local_problem("train.py:main", root=sent + "/jobs")
with RayExecutor(problem, devices="cpu:1", preload=(), address=address, runtime_env={"working_dir": sent}) as executor:
    executor.submit(a_segment(folder, slot=executor.slots[0]))
    print(drain(executor, timeout_s=60)[-1].log_tail)
"""


def test_a_job_is_run_from_the_folder_that_was_sent_along(cluster, tmp_path):
    sent = tmp_path / "sent"
    (sent / "jobs").mkdir(parents=True)
    (sent / "jobs" / "train.py").write_text("def main(ctx):\n    print('this is', __file__)\n    return 0.5\n")
    address = cluster.ray.get_runtime_context().gcs_address
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", _SENDER, address, str(sent), str(tmp_path / "trial-0")],
        env={**os.environ, "RAY_AUTH_MODE": "token", "PYTHONPATH": path},
        capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert "this is" in done.stdout, done.stderr
    assert done.stdout.strip().endswith("jobs/train.py")
    assert str(sent) not in done.stdout


def test_an_environment_cannot_be_changed_where_ray_is_connected_already():
    executor = RayExecutor(local_problem("quick"), devices="cpu:1", runtime_env={"env_vars": {"A": "1"}})
    with pytest.raises(ExecutorError, match="connected to Ray already"), executor:
        pass


def test_an_address_where_nobody_answers_is_refused_at_once():
    from frugalbo.executors.ray_cluster import _check_there

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(ExecutorError, match="expected a Ray cluster at"):
            _check_there(f"127.0.0.1:{free.getsockname()[1]}")


def test_a_seat_tells_whether_a_folder_is_shared(tmp_path):
    (tmp_path / "probe").write_text("mark")
    assert Seat().sees(str(tmp_path / "probe"), "mark")
    assert not Seat().sees(str(tmp_path / "probe"), "other")
