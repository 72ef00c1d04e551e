"""A real Ray of two nodes: a sweep whose node is killed in the middle of a training ends with the same numbers."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from program import command, environment, records, rows, run

pytestmark = [pytest.mark.program, pytest.mark.slow]

PATIENCE = 1200.0
"""Seconds: a machine that does much else takes minutes for what else takes seconds."""

TRAINED = ("ae=vq", "until=first_stage", "precision=fp32", "ae.training.images=1600", "trainer.checkpoint_seconds=0")
"""Long enough for a node to die meanwhile."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    ray = pytest.importorskip("ray", reason="needs pip install -e '.[ray]'")
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield found
    found.shutdown()
    ray.shutdown()


def start(store: Path, address: str, *arguments: str) -> "subprocess.Popen[str]":
    launcher = ("hydra/launcher=ray", f"hydra.launcher.address={address}", "hydra.launcher.cpus_per_task=1")
    whole = command(store, "-m", *launcher, *arguments)
    pipe = subprocess.PIPE
    return subprocess.Popen(
        whole, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=environment(), cwd=store.parent
    )


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def below(ancestor: int, word: str) -> bool:
    """Whether a process whose command has this word in it descends from that one."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if word not in (folder / "cmdline").read_text():
                continue
            process = int(folder.name)
            while process > 1:
                process = parent_of(process)
                if process == ancestor:
                    return True
        except OSError:  # it has ended
            continue
    return False


def test_a_sweep_survives_the_death_of_a_node(cluster, tmp_path):
    store = tmp_path / "store"
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    process = start(store, cluster.address, "ae.f=16,32", *TRAINED)
    until = time.monotonic() + PATIENCE
    while not list(store.glob("first_stage/*/checkpoint.pt")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.2)
    [checkpoint, *_] = store.glob("first_stage/*/checkpoint.pt")
    identity = checkpoint.parent.name.partition(".")[0]
    [node] = [node for node in nodes if below(node.all_processes["raylet"][0].process.pid, identity)]
    cluster.remove_node(node, allow_graceful=False)
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    alone = tmp_path / "alone" / "store"
    alone.parent.mkdir()
    assert run(alone, "-m", "ae.f=16,32", *TRAINED).returncode == 0
    assert records(store) == records(alone)
    assert rows(store) == rows(alone)
    # Another process took up what the dead one had begun.
    assert max(int(path.stem) for path in store.glob(f"claims/first_stage-{identity}/*.json")) == 2
