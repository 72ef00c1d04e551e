"""experiments.timing: parts apart, one machine's speeds, refused where others use the machine."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from program import SHORT, copy_of, run
from tiny_plans import identities, planned

from experiments.commands import timing
from experiments.commands.timing import Machine, Speed, finished_job, foreign_load, this_machine, timing_identity
from experiments.compose import FROM_ENVIRONMENT, REDACTED, composed, settings_only, without_environment
from experiments.images import Images
from experiments.store import Store
from ldm.errors import UserError
from ldm.records import Cell, StageRecord


@pytest.fixture(scope="module")
def store(swept_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample set at two step counts."""
    found = copy_of(swept_store, tmp_path_factory.mktemp("timed"))
    done = run(found, "-m", "ae.f=4", "sampler.steps=2,12", *SHORT, "until=samples")
    assert done.returncode == 0, done.stdout + done.stderr
    return found


def _records(store: Path) -> dict[int, dict]:
    """By number of sampler steps."""
    found = [json.loads(path.read_text()) for path in store.glob("timing/*/record.json")]
    return {record["config"]["sampler"]["steps"]: record for record in found}


def _time(store: Path, *options: str) -> int:
    return timing.main(["--store", str(store), "--device", "cpu", *options])


@pytest.mark.long
def test_each_part_is_measured_apart_after_a_warm_up(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every condition stands in the record; a second call finds nothing to do."""
    assert _time(store, "--allow-busy", "--batch", "8", "--repeats", "2") == 0
    records = _records(store)
    assert set(records) == {2, 12}
    for record in records.values():
        facts, config = record["facts"], record["config"]
        assert [len(facts[part]) for part in ("encode", "denoise", "decode")] == [2, 2, 2]
        assert min(facts["encode"] + facts["denoise"] + facts["decode"]) > 0
        assert (config["batch"], config["precision"], config["guidance"]["scale"]) == (8, "fp32", 1.0)
        assert config["machine"]["device"] == "cpu"
        assert record["cost"]["seconds"] == record["cost"]["parts"]["denoise"] + record["cost"]["parts"]["decode"]
    assert "2 of 2 sample sets timed now" in capsys.readouterr().out
    assert _time(store, "--allow-busy", "--batch", "8", "--repeats", "2") == 0
    assert "0 of 2 sample sets timed now" in capsys.readouterr().out


def test_a_busy_machine_is_refused_or_marked(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence, exit code 2, and nothing kept; with leave, a mark in the record."""
    before = set(store.glob("timing/*"))
    speed = Speed((0.1,), (1.0,), (0.2,), foreign_cores=1.4)
    monkeypatch.setattr(timing, "measure", lambda job, batch, repeats: speed)
    assert _time(store, "--batch", "5") == 2
    assert "other processes used 1.4 cores while 'samples f=4 kl ddim" in capsys.readouterr().out
    assert set(store.glob("timing/*")) == before
    assert _time(store, "--batch", "5", "--allow-busy") == 0
    added = [json.loads((path / "record.json").read_text()) for path in set(store.glob("timing/*")) - before]
    assert {record["facts"]["is_alone"] for record in added} == {False}
    monkeypatch.setattr(timing, "measure", lambda job, batch, repeats: Speed((0.1,), (1.0,), (0.2,), 0.02))
    assert _time(store, "--batch", "6") == 0
    quiet = [r for r in store.glob("timing/*/record.json") if json.loads(r.read_text())["config"]["batch"] == 6]
    assert {json.loads(path.read_text())["facts"]["is_alone"] for path in quiet} == {True}


def test_a_busy_timing_gives_way_to_a_quiet_one(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a quiet one stays."""
    options = ("--batch", "7", "--allow-busy")
    for cores in (1.4, 0.02):
        monkeypatch.setattr(timing, "measure", lambda *_, cores=cores: Speed((0.1,), (1.0,), (0.2,), cores))
        assert _time(store, *(options if cores > 1 else options[:2])) == 0
        assert "2 of 2 sample sets timed now" in capsys.readouterr().out
    assert _time(store, *options) == 0
    assert "0 of 2 sample sets timed now" in capsys.readouterr().out
    records = [json.loads(path.read_text()) for path in store.glob("timing/*/record.json")]
    assert {r["facts"]["is_alone"] for r in records if r["config"]["batch"] == 7} == {True}


def test_a_gpu_that_others_compute_on_is_refused_or_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a processor is."""
    monkeypatch.setattr(timing, "_gpu_users", lambda: ["4711"])
    with pytest.raises(UserError, match="other processes compute on this GPU"), timing.alone("cuda"):
        pass
    with timing.alone("cuda", allow_busy=True) as shared:
        assert shared
        assert not Speed((0.1,), (1.0,), (0.2,), 0.0, shared).is_alone
    monkeypatch.setattr(timing, "_gpu_users", list)
    with timing.alone("cuda") as shared:
        assert Speed((0.1,), (1.0,), (0.2,), 0.0, shared).is_alone


@pytest.mark.long
def test_the_work_of_others_is_seen() -> None:
    """A process that spins uses about a core; our own work is not theirs."""
    spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        with foreign_load("cpu") as busy:
            time.sleep(1.0)
    finally:
        spinning.kill()
        spinning.wait()
    # The waited-for child's time counts as ours from here on; other processes may come and go, never below zero.
    assert busy.cores is not None
    assert busy.cores > timing.MOST_FOREIGN_CORES


def test_every_machine_and_batch_has_a_timing_of_its_own() -> None:
    """And a machine's name says what its speed hangs on."""
    one, other = Machine("cpu", "Some CPU", 2), Machine("cpu", "Some CPU", 4)
    assert len({timing_identity("s", m, b, 3) for m in (one, other) for b in (8, 16)}) == 4
    assert one.name == "Some CPU, 2 threads"
    assert Machine("cuda", "Some GPU", 8).name == "Some GPU"


def finished(store: Store, overrides: Sequence[str]) -> tuple[Cell, StageRecord]:
    """A cell whose stages are finished, as far as their records say, and the record of its samples."""
    values = composed(overrides)
    plan = planned(settings_only(values))
    shown = without_environment({**plan.config, FROM_ENVIRONMENT: values[FROM_ENVIRONMENT]})
    for stage in plan.stages.values():
        store.finish(
            StageRecord(stage.name, stage.identity, stage.settings, stage.parents, environment={"config": shown})
        )
    samples = store.record("samples", plan.stages["samples"].identity)
    assert samples is not None
    return Cell(plan.cell, plan.axes, tuple(overrides), identities(plan)), samples


def test_an_artifact_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    store = Store(tmp_path)
    cell, samples = finished(store, ("scale=tiny", "device=cpu"))
    assert "first_stage" in finished_job(store, cell, samples, this_machine("cpu")).parents
    shutil.rmtree(store.folder("first_stage", cell.stages["first_stage"]))
    with pytest.raises(UserError, match=r"the first_stage that samples .* was made of is gone"):
        finished_job(store, cell, samples, this_machine("cpu"))


def test_a_setting_from_the_environment_is_taken_from_there_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHOTOS", "/photos")
    store = Store(tmp_path)
    cell, samples = finished(store, ("scale=tiny", "device=cpu", "data=folder", "data.path=${oc.env:PHOTOS}"))
    assert samples.environment["config"]["data"]["path"] == REDACTED
    images = finished_job(store, cell, samples, this_machine("cpu")).image_sets
    assert isinstance(images, Images)
    assert images.data["path"] == "/photos"
    monkeypatch.delenv("PHOTOS")
    with pytest.raises(UserError, match=r"^data\.path came from the environment, .*PHOTOS"):
        finished_job(store, cell, samples, this_machine("cpu"))


def test_a_store_without_sweeps_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2."""
    assert timing.main(["--store", str(tmp_path / "none")]) == 2
    assert "there is no store" in capsys.readouterr().out
