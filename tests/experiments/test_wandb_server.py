"""W&B with a server, which is a stub on loopback: online runs, `wandb sync`, a store pushed and read back."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import wandb
from program import ROOT, copy_of, environment
from test_tracking import RECORD, settings, tracker
from tiny_plans import plan_of, stage_named
from wandb_stub import Held, server

from experiments.tracking import Tracker

pytestmark = pytest.mark.slow

KEY = "local-" + 40 * "k"


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Held]:
    """What the server was sent; W&B is logged in there, and writes nothing outside of the test's folder."""
    with server() as running:
        for name, value in {
            "WANDB_BASE_URL": running.base,
            "WANDB_API_KEY": KEY,
            "WANDB_DATA_DIR": str(tmp_path / "wandb_data"),
            "WANDB_CACHE_DIR": str(tmp_path / "wandb_cache"),
        }.items():
            monkeypatch.setenv(name, value)
        yield running
        wandb.teardown()  # its process keeps to the server that it found first


def killed_and_resumed(make: Mapping[str, Tracker]) -> str:
    """The run of a training that is killed after 32 images and goes on from 16; its id."""
    plan = plan_of("ae=kl", "ae.f=4")
    stage = plan.stages["diffusion"]

    def killed() -> None:
        with make["first"].stage_run(plan, stage, stage_named("diffusion").axes) as run:
            run.log(16, {"loss": 1.0})
            run.log(32, {"loss": 0.5})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        killed()
    make["first"].settle()
    with make["second"].stage_run(plan, stage, stage_named("diffusion").axes) as run:
        run.log(32, {"loss": 0.5})
        run.log(48, {"loss": 0.25})
        run.finish(RECORD)
    make["second"].settle()
    return f"diffusion-{stage.identity}"


def test_an_online_run_keeps_its_id_through_a_resume_and_holds_nothing_twice(held: Held, tmp_path: Path) -> None:
    name = killed_and_resumed({which: tracker(tmp_path, "online") for which in ("first", "second")})
    assert set(held.runs) == {("ldm-tradeoffs", name)}
    run = held.runs["ldm-tradeoffs", name]
    assert (run.column("images_seen"), run.column("loss")) == ([16, 32, 48], [1.0, 0.5, 0.25])
    assert json.loads(run.summary)["kd"] == 2.0
    assert run.config["repetition_of"].startswith("KL f=4")
    assert held.unknown == []


def test_offline_runs_of_one_stage_are_synced_into_one_run(held: Held, tmp_path: Path) -> None:
    """A killed run and the one that goes on from it are two folders of one id."""
    name = killed_and_resumed({which: Tracker(tmp_path, settings(), "sweep") for which in ("first", "second")})
    folders = sorted(str(path) for path in tmp_path.glob("wandb/offline-run-*"))
    assert len(folders) == 2
    done = subprocess.run(
        [str(Path(sys.executable).with_name("wandb")), "sync", "--yes", *folders],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert KEY not in done.stdout + done.stderr
    assert set(held.runs) == {("ldm-tradeoffs", name)}
    assert held.runs["ldm-tradeoffs", name].column("loss") == [1.0, 0.5, 0.25]


def test_the_key_is_in_no_file_of_the_store(held: Held, tmp_path: Path) -> None:
    killed_and_resumed({which: tracker(tmp_path / "store", "online") for which in ("first", "second")})
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert [run for run in held.runs.values() if KEY in str(run)] == []


def test_a_server_that_is_gone_costs_seconds_and_runs_stay_offline(
    held: Held, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said in one line, once, in which no key stands."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("experiments.tracking.wandb_runs.INIT_SECONDS", 5.0)
    tracked = tracker(tmp_path, "online")
    name = killed_and_resumed({"first": tracked, "second": tracked})
    said = capsys.readouterr().out
    assert said.count("W&B cannot be reached") == 1
    assert KEY not in said
    assert len(list(tmp_path.glob(f"wandb/offline-run-*-{name}"))) == 2


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """python -m experiments.tracking."""
    return subprocess.run(
        [sys.executable, "-m", "experiments.tracking", *arguments],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=ROOT,
    )


def test_a_store_is_pushed_once_into_any_project(held: Held, swept_store: Path, tmp_path: Path) -> None:
    """Every record is a run, a second push adds nothing, and the artifacts say what was made of what."""
    store = copy_of(swept_store, tmp_path)
    records = {path.parent.parent.name + "-" + path.parent.name for path in store.glob("*/*/record.json")}
    done = command("push", "--store", str(store), "--project", "one")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(records)} runs of 1 sweep written to one" in done.stdout
    names = {name for project, name in held.runs if project == "one"}
    assert records <= names
    assert {name.partition("-")[0] for name in names - records} == {"cell", "sweep"}
    assert held.unknown == []
    chain = {"diffusion": "latents", "latents": "first_stage", "samples": "diffusion"}
    for (_, name), run in held.runs.items():
        stage = name.partition("-")[0]
        if name in records:
            assert run.logged == [name]
        if stage in chain:
            assert chain[stage] in {used.partition("-")[0] for used in run.used}
    rows = {key: len(run.history) for key, run in held.runs.items()}
    again = command("push", "--store", str(store), "--project", "one")
    assert "0 runs of 1 sweep written to one" in again.stdout, again.stdout + again.stderr
    assert {key: len(run.history) for key, run in held.runs.items()} == rows
    for source in (("--store", str(store)), ("--source", "wandb", "--project", "one")):
        drawn = subprocess.run(
            [sys.executable, "analysis/plot_tradeoffs.py", *source, "--out", str(tmp_path / source[0])],
            capture_output=True,
            text=True,
            env=environment(),
            cwd=ROOT,
        )
        assert drawn.returncode == 0, drawn.stdout + drawn.stderr
    own, read_back = ((tmp_path / name / "results.csv").read_bytes() for name in ("--store", "--source"))
    assert read_back == own


def test_a_project_that_was_never_pushed_is_one_sentence(held: Held, tmp_path: Path) -> None:
    done = command("pull", "nothing", "--into", str(tmp_path / "store"))
    assert done.returncode == 2
    assert "error: the W&B project nothing holds 0 records and 0 sweeps" in done.stdout
    assert KEY not in done.stdout + done.stderr
