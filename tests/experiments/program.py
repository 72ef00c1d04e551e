"""Runs run.py as its user does, and reads what it left in the store."""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from warm_python import WarmPython

ROOT = Path(__file__).resolve().parents[2]
SHORT = ("trainer.milestones=[1.0]", "precision=fp32")
SWEEP = ("-m", "ae=kl,vq", "ae.f=1,4", *SHORT)
"""What the store holds that tests share (fixture `swept_store`): what a cell shares with it is not trained again."""


def command(store: Path, *arguments: str) -> list[str]:
    """The command line of a tiny run without W&B."""
    return [sys.executable, str(ROOT / "run.py"), *arguments, "scale=tiny", f"store={store}", "tracker.mode=disabled"]


def environment(with_gpu: bool = False) -> dict[str, str]:
    """One thread, so that tests that run beside each other do not wait for each other; no GPU unless asked for."""
    hidden = {} if with_gpu else {"CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, "OMP_NUM_THREADS": "1", **hidden}


@functools.cache
def _warm_python() -> WarmPython:
    return WarmPython(ROOT, environment())


def run(store: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Runs to the end, beginning where the imports are done."""
    return _warm_python().run(command(store, *arguments)[1:], store.parent)


def run_stopped(store: Path, number: int, seconds: float, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """As `run`, with a signal after so many seconds, if it runs that long."""
    script = str(ROOT / "tests" / "experiments" / "stopped_run.py")
    return _warm_python().run([script, str(int(number)), str(seconds), *command(store, *arguments)[1:]], store.parent)


def run_afresh(store: Path, *arguments: str, with_gpu: bool = False) -> "subprocess.CompletedProcess[str]":
    """Runs to the end in a process of its own, as a user does."""
    return subprocess.run(
        command(store, *arguments), capture_output=True, text=True, env=environment(with_gpu), cwd=store.parent
    )


def copy_of(store: Path, folder: Path) -> Path:
    """A store of one's own that holds the same."""
    return Path(shutil.copytree(store, folder / "store", ignore=shutil.ignore_patterns("claims")))


def latest_stages(store: Path) -> dict[str, str]:
    """The identity of each stage of the one cell of the store's latest sweep."""
    sweeps = [json.loads(path.read_text()) for path in store.glob("sweeps/*.json")]
    [cell] = max(sweeps, key=lambda sweep: sweep["created"])["cells"]
    return dict(cell["stages"])


def start(store: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    """Starts, and does not wait."""
    silent = subprocess.DEVNULL
    return subprocess.Popen(
        command(store, *arguments), stdout=silent, stderr=silent, env=environment(), cwd=store.parent
    )


def rows(store: Path) -> dict[tuple[str, str, str, int | None], float]:
    """Every value in the store's records by (stage, identity, metric, images seen)."""
    found = {}
    for path in sorted(store.glob("*/*/record.json")):
        record = json.loads(path.read_text())
        for row in record["rows"]:
            found[record["stage"], record["identity"], row["metric"], row["images_seen"]] = row["value"]
    return found


def results(store: Path) -> dict[tuple[str, str], tuple[Any, ...]]:
    """All that a store's records say but costs, dates and machines: rows, facts, and the hashes of files."""
    found = {}
    for path in sorted(store.glob("*/*/record.json")):
        record = json.loads(path.read_text())
        found[record["stage"], record["identity"]] = tuple(record[key] for key in ("rows", "facts", "files", "parents"))
    return found


def records(store: Path) -> set[tuple[str, str]]:
    """Stage and identity of every complete artifact."""
    return {(path.parent.parent.name, path.parent.name) for path in store.glob("*/*/record.json")}
