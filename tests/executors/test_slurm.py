"""On a real Slurm, of one node on this machine."""

from __future__ import annotations

import pytest
import slurm_cluster

from frugalbo.executors.slurm import SlurmExecutor
from frugalbo.problem import Problem
from frugalbo.testing.executors import ExecutorConformance

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("slurm"),
    pytest.mark.skipif(bool(slurm_cluster.missing()), reason=f"needs Slurm and munge: no {slurm_cluster.missing()}"),
]


class TestSlurm(ExecutorConformance):
    grace_s = 0.5  # above the cap: what a busy system takes to kill and to reap

    def make(self, problem: Problem) -> SlurmExecutor:
        return SlurmExecutor(problem, devices="cpu:2")
