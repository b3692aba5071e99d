"""A SLURM of one node on this machine, for tests: daemons of their own, on loopback, in a folder of their own."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}
# A requeued job starts again once its old credentials have expired, which takes two minutes by default.
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=15
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort={controller_port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=sched_interval=1,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
JobRequeue=1
KillWait=30
MinJobAge=3600
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=4000 State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class SlurmCluster:
    """A running cluster.

    Args:
        folder: Where its configuration, state and logs are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # A job's own variables, if the tests are run in one, would be taken for those of the new job.
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_"))}
        self.environment = {**inherited, "SLURM_CONF": str(folder / "slurm.conf"), "GLOO_SOCKET_IFNAME": "lo"}

    def run(self, *command: str | Path, cwd: Path | None = None, **environment: str) -> str:
        """Runs a command of SLURM and returns what it prints."""
        done = subprocess.run(
            command, cwd=cwd, env=self.environment | environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def submit(self, *arguments: str | Path, cwd: Path, **environment: str) -> str:
        """Submits a batch job from a folder and returns its number."""
        return self.run("sbatch", "--parsable", *arguments, cwd=cwd, **environment)

    def describe(self, job: str) -> dict[str, str]:
        """What the cluster says of a job: ``JobState``, ``Restarts``, ``ExitCode``, ..."""
        words = self.run("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, job: str, seconds: float = 360) -> str:
        """Waits until a job has ended, through any requeues, and returns its last state."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            state = self.describe(job)["JobState"]
            if state in ENDED:
                return state
            time.sleep(0.3)
        raise AssertionError(f"job {job} has not ended after {seconds} s: {self.describe(job)}")


@contextlib.contextmanager
def running_cluster() -> Iterator[SlurmCluster]:
    """Starts a cluster and stops it, with whatever runs on it."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # pytest's own folders are too long for the name of a socket
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    ports = [_free_port(), _free_port()]
    facts = {"folder": folder, "host": socket.gethostname().split(".")[0], "user": getpass.getuser()}
    text = CONFIGURATION.format(controller_port=ports[0], node_port=ports[1], **facts)
    (folder / "slurm.conf").write_text(text)
    cluster, daemons = SlurmCluster(folder), []
    munge_files = [f"--{name}={folder}/munge.{end}" for name, end in (("key-file", "key"), ("socket", "socket"))]
    munge_files += [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed")]
    try:
        for command in (
            ["munged", "--foreground", "--force", *munge_files],
            ["slurmctld", "-D", "-c"],
            ["slurmd", "-D"],
        ):
            with (folder / f"{command[0]}.out").open("w") as output:
                daemons.append(
                    subprocess.Popen(command, env=cluster.environment, stdout=output, stderr=output, cwd=folder)
                )
            if command[0] == "munged":
                _wait_until(lambda: (folder / "munge.socket").exists(), folder)
        _wait_until(lambda: "idle" in _quietly(cluster, "sinfo", "--noheader", "--format=%T"), folder)
        yield cluster
        _quietly(cluster, "scancel", "--signal=KILL", "--full", "--state=RUNNING")
        _quietly(cluster, "scancel", "--state=PENDING")
        _wait_until(lambda: not _quietly(cluster, "squeue", "--noheader", "--states=RUNNING,COMPLETING"), folder)
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(20)
            daemon.kill()
            daemon.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def slurm() -> Iterator[SlurmCluster]:
    """A cluster for the whole session; where SLURM is not installed the test is skipped."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not found: apt-get install slurm-wlm munge")
    with running_cluster() as cluster:
        yield cluster


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _quietly(cluster: SlurmCluster, *command: str) -> str:
    done = subprocess.run(command, env=cluster.environment, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _wait_until(condition: Callable[[], object], folder: Path, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            files = [*folder.glob("*.log"), *folder.glob("*.out")]
            logs = "\n".join(f"{file.name}: {file.read_text()[-2000:]}" for file in files)
            raise RuntimeError(f"SLURM does not come up:\n{logs}")
        time.sleep(0.1)
