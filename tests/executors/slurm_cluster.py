"""A Slurm of our own, of one node on the loopback, with its files in one folder; ends what it has started."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from frugalbo.testing.hosts import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo")
_CORES = 2

_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=10
SlurmdTimeout=5
MessageTimeout=5
BatchStartTimeout=2
InactiveLimit=0
TreeWidth=50
NodeName=node0 NodeHostname={host} NodeAddr=127.0.0.1 Port={slurmd_port} CPUs={cores} RealMemory=1000
PartitionName=main Nodes=node0 Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=spot Nodes=node0 MaxTime=60 State=UP PriorityTier=1
PartitionName=short Nodes=node0 MaxTime=1 State=UP PriorityTier=1
PartitionName=urgent Nodes=node0 MaxTime=INFINITE State=UP PriorityTier=10
"""


def missing() -> str:
    """Which program is not installed; empty if all are."""
    return next((name for name in PROGRAMS if _which(name) is None), "")


class SlurmCluster:
    """Munge, a controller and a node daemon; `SLURM_CONF` says where they are to whom it is given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.conf = folder / "slurm.conf"
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        self.folder.mkdir(mode=0o755, exist_ok=True)
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        host = socket.gethostname().partition(".")[0]
        ports = [free_port() for _ in range(2)]
        self.conf.write_text(
            _CONF.format(
                host=host, folder=self.folder, user=getpass.getuser(), cores=_CORES,
                ctld_port=ports[0], slurmd_port=ports[1],
            )
        )  # fmt: skip
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        files = {"socket": "munge.socket", "pid-file": "munged.pid", "log-file": "munged.log", "seed-file": "seed"}
        options = [f"--{name}={self.folder / file}" for name, file in files.items()]
        self._spawn("munged", "--foreground", "--force", f"--key-file={key}", *options)
        self._until(lambda: (self.folder / "munge.socket").exists(), "munged did not start")
        self._spawn("slurmctld", "-D", "-c")
        self.start_node()
        self._until(lambda: self.call("sinfo", "-h", "-o", "%T").split()[:1] == ["idle"], "the node did not come up")

    def start_node(self) -> None:
        """Start the node's daemon."""
        self._spawn("slurmd", "-D", "-N", "node0")

    def kill_node(self) -> None:
        """kill -9 of the node's daemon and of all that it runs, as if the power had failed."""
        from frugalbo.executors import processes

        slurmd = self._started.pop("slurmd")
        below = processes.descendants(slurmd.pid) | self._steps()
        below |= {child for pid in below for child in processes.descendants(pid)}
        slurmd.kill()
        for pid in below:
            processes.send(pid, signal.SIGKILL)
        slurmd.wait()

    def restart(self, name: str) -> None:
        """kill -9 of `slurmd`, whose jobs live on, or of `slurmctld`, and a new one."""
        process = self._started.pop(name)
        process.kill()
        process.wait()
        if name == "slurmd":
            self.start_node()
        else:
            self._spawn(name, "-D")

    def call(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environ(), capture_output=True, text=True, check=False, timeout=30)
        return done.stdout

    def environ(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self.conf)}

    def stop(self) -> None:
        from frugalbo.executors import processes

        self.end_jobs()
        for name in ("slurmd", "slurmctld", "munged"):
            process = self._started.pop(name, None)
            if process is None:
                continue
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pid in self._steps():
            processes.send(pid, signal.SIGKILL)

    def end_jobs(self) -> None:
        """Cancel what there is, and wait until nothing of it runs."""
        if not self._started:
            return
        self.call("scancel", "--user", getpass.getuser())
        give_up = time.monotonic() + 15
        while (self._steps() or self.call("squeue", "-h").strip()) and time.monotonic() < give_up:
            time.sleep(0.1)

    def _steps(self) -> set[int]:
        """The daemons of steps: slurmd does not stay their parent."""
        from frugalbo.executors import processes

        steps = {process.pid for process in processes.everyone() if process.name.startswith("slurmstepd")}
        own = str(self.conf).encode()
        return {pid for pid in steps if own in _read(pid, "environ") or own in _read(pid, "cmdline")}

    def _spawn(self, name: str, *options: str) -> None:
        program = _which(name)
        assert program is not None
        with (self.folder / f"{name}.out").open("ab") as out:
            self._started[name] = subprocess.Popen(
                [program, *options], env=self.environ(), stdout=out, stderr=out, start_new_session=True
            )

    def _until(self, is_so, message: str) -> None:
        give_up = time.monotonic() + 30
        while not is_so():
            if time.monotonic() > give_up:
                logs = [path.read_text(errors="replace")[-1500:] for path in sorted(self.folder.glob("*.log"))]
                raise TimeoutError("\n".join([message, *logs]))
            time.sleep(0.1)


def _which(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


if __name__ == "__main__":  # slurm_cluster.py COMMAND ...: run a command beside a cluster of its own
    with tempfile.TemporaryDirectory(prefix="fbslurm-") as name:
        cluster = SlurmCluster(Path(name) / "cluster")
        try:
            cluster.start()
            status = subprocess.run(sys.argv[1:], env=cluster.environ(), check=False).returncode
        finally:
            cluster.stop()
    sys.exit(status)
