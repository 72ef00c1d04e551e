"""A Slurm of one node, started by the test itself from the system's packages: slurmctld, slurmd, munge."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
PATIENCE = 60.0

CONFIGURATION = """
ClusterName=test
SlurmctldHost=localhost
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
ReturnToService=2
KillWait=20
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
NodeName=localhost CPUs=4 State=UNKNOWN
PartitionName=low Nodes=localhost Default=YES PriorityTier=1 MaxTime=INFINITE State=UP
PartitionName=high Nodes=localhost PriorityTier=2 MaxTime=INFINITE State=UP PreemptMode=OFF
"""


def why_not() -> str:
    """Why it cannot be started here; "" where it can."""
    lacking = [name for name in NEEDED if shutil.which(name) is None]
    if lacking:
        return f"{', '.join(lacking)} not found: apt-get install slurmctld slurmd slurm-client munge"
    return "" if os.geteuid() == 0 else "slurmd starts jobs as root alone"


@contextmanager
def one_node_slurm(folder: Path) -> Iterator[None]:
    """Runs it until the context is left, found by SLURM_CONF; what jobs it has then is cancelled."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    configuration, key = folder / "slurm.conf", folder / "munge.key"
    configuration.write_text(CONFIGURATION.format(folder=folder, ports=_free_ports(2)))
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    # Lest anything asks for accounting, which this cluster has not.
    sacct = folder / "bin" / "sacct"
    sacct.parent.mkdir()
    sacct.write_text(f"#!/bin/sh\necho asked >> {folder}/sacct.asked\nexit 1\n")
    sacct.chmod(0o755)
    before = {name: os.environ.get(name) for name in ("SLURM_CONF", "PATH")}
    os.environ |= {"SLURM_CONF": str(configuration), "PATH": f"{sacct.parent}:{os.environ['PATH']}"}
    munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    daemons = []
    try:
        for name, *arguments in (
            ("munged", "-F", "--force", f"--socket={folder}/munge.socket", *munge),
            ("slurmctld", "-D", "-f", str(configuration)),
            ("slurmd", "-D", "-N", "localhost", "-f", str(configuration)),
        ):
            with open(folder / f"{name}.log", "w") as log:
                daemons.append(subprocess.Popen([name, *arguments], stdout=log, stderr=log))
            time.sleep(1.0)
        wait_until(lambda: "idle" in said("sinfo", "--noheader", "--format=%T"))
        yield
    finally:
        said("scancel", "--user=root", "--signal=KILL", "--full")
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(PATIENCE)
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def said(*command: str) -> str:
    """What a command says, whatever its exit code."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def wait_until(condition, patience: float = PATIENCE) -> None:
    """Raises: TimeoutError where it does not come true in time."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"it did not come true in {patience:g} s")
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()
