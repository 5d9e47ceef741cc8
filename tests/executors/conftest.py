import tempfile
from pathlib import Path

import pytest
from local_setup import SLOTS, a_segment, left_of, local_problem
from slurm_cluster import SlurmCluster

from frugalbo.events import Ended
from frugalbo.executors.local import LocalExecutor
from frugalbo.testing.executors import drain


@pytest.fixture(scope="session")
def slurm_cluster_of_ours():
    with tempfile.TemporaryDirectory(prefix="fbslurm-") as folder:
        cluster = SlurmCluster(Path(folder) / "cluster")
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture
def slurm(slurm_cluster_of_ours, monkeypatch):
    """A Slurm of one node that Slurm's programs find; without jobs afterwards."""
    monkeypatch.setenv("SLURM_CONF", str(slurm_cluster_of_ours.conf))
    yield slurm_cluster_of_ours
    slurm_cluster_of_ours.end_jobs()


@pytest.fixture
def run(tmp_path):
    """Run one segment of a job to its end; returns its reports and its end."""

    def run(job, *, grace_s=0.3, preload=(), **changes):
        problem = local_problem(job) if isinstance(job, str) or callable(job) else job
        with LocalExecutor(problem, SLOTS, grace_s=grace_s, preload=preload) as executor:
            executor.submit(a_segment(**({"folder": tmp_path} | changes)))
            *reports, ended = drain(executor)
            assert isinstance(ended, Ended)
            assert left_of(executor) == set()
            return reports, ended

    return run
