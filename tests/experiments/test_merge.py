"""Stores that join: what is copied, what is refused, what stays, and that a stop at any moment costs nothing."""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from all_plans import CELLS
from tiny_plans import plan_of

from analysis.collect import collect
from analysis.store import Records
from experiments.commands import ledger, merge, timing
from experiments.identity import follows
from experiments.stage import Plan
from experiments.stages import STAGES
from experiments.store import Store
from ldm.joined import differences
from ldm.records import Cell, Cost, ResultRow, Shortlist, StageRecord, Sweep, read_record

ROWS = (ResultRow("kd", 0.25, 32, "p", 0.2, 0.3),)


@pytest.fixture(scope="module")
def plan() -> Plan:
    """The stages of one cell."""
    return plan_of("ae=kl", "ae.f=4")


def made(plan: Plan, name: str, **fields: Any) -> StageRecord:
    """A record of a planned stage, with made-up results."""
    planned = plan.stages[name]
    known: dict[str, Any] = {"created": "2026-01-01T10:00", "environment": {"host": "one", "processor": "fast"}}
    return StageRecord(name, planned.identity, planned.settings, planned.parents, **{**known, "rows": ROWS, **fields})


def finish(store: Store, record: StageRecord, weights: str = "numbers") -> None:
    """Writes an artifact with a file in a folder, as a stage does."""
    folder = store.folder(record.stage, record.identity)
    (folder / "milestones").mkdir(parents=True)
    (folder / "milestones" / "64.safetensors").write_text(weights)
    store.finish(record)


def store_of(root: Path, plan: Plan, names: tuple[str, ...], sweep: str = "s", **fields: Any) -> Store:
    """A store with these stages of a plan, and a sweep of one cell."""
    store = Store(root)
    for name in names:
        finish(store, made(plan, name, **fields))
    store.write_sweep(sweep_of(plan, sweep))
    return store


def sweep_of(plan: Plan, name: str, command: str = "python run.py") -> Sweep:
    """A sweep of the plan's cell."""
    stages = {stage: planned.identity for stage, planned in plan.stages.items()}
    return Sweep(name, "2026-01-01", command, (Cell(plan.cell, {"f": 4}, ("ae.f=4",), stages),))


def held(root: Path) -> set[str]:
    """The stages of which a store holds an artifact."""
    return {path.parent.parent.name for path in root.glob("*/*/record.json")}


def everything(root: Path) -> dict[str, bytes]:
    """Every file below a folder but claims, by its path."""
    paths = (path for path in root.rglob("*") if path.is_file() and "claims" not in path.parts)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def run(*arguments: object) -> int:
    return merge.main([str(argument) for argument in arguments])


def test_each_artifact_is_copied_once_with_its_files_and_whose_it_is(plan, tmp_path, capsys):
    a = store_of(tmp_path / "a", plan, ("reference", "first_stage"), "monday")
    b = store_of(tmp_path / "b", plan, ("first_stage", "latents"), "tuesday")
    before = everything(a.root) | everything(b.root)
    assert run(a.root, b.root, "--into", tmp_path / "c") == 0
    said = capsys.readouterr().out
    assert f"{a.root}: 2 artifacts copied, 0 already there, 0 with other results, 0 refused; 1 sweeps copied" in said
    assert f"{b.root}: 1 artifacts copied, 1 already there" in said
    assert everything(tmp_path / "c") == before
    assert ledger.verify(Store(tmp_path / "c")) == 0
    assert run(a.root, b.root, "--into", tmp_path / "c") == 0
    assert f"{b.root}: 0 artifacts copied, 2 already there" in capsys.readouterr().out
    assert everything(tmp_path / "c") == before


def test_a_dry_run_counts_the_same_and_writes_nothing(plan, tmp_path, capsys):
    a = store_of(tmp_path / "a", plan, ("reference", "first_stage"), "monday")
    b = store_of(tmp_path / "b", plan, ("first_stage", "latents"), "tuesday")
    shutil.rmtree(a.root / "claims")  # as on a medium that nobody writes to
    assert run(a.root, b.root, "--into", tmp_path / "c", "--dry-run") == 0
    dry = capsys.readouterr().out
    assert not (tmp_path / "c").exists()
    assert not (a.root / "claims").exists()
    assert run(a.root, b.root, "--into", tmp_path / "c") == 0
    assert dry.replace("would be copied", "copied") == capsys.readouterr().out


def test_failures_logs_checkpoints_and_caches_stay_behind(plan, tmp_path):
    a = store_of(tmp_path / "a", plan, ("reference",))
    (a.root / "data" / "train-1").mkdir(parents=True)
    (a.root / "data" / "train-1" / "meta.json").write_text("{}")
    a.fail("latents", "abc", ValueError("no luck"), "")
    folder = a.folder("reference", plan.stages["reference"].identity)
    (folder / "notes.txt").write_text("of a person")
    assert run(a.root, "--into", tmp_path / "c") == 0
    assert {path.split("/")[0] for path in everything(tmp_path / "c")} == {"reference", "sweeps", ".ldm-store"}
    assert not list((tmp_path / "c").rglob("notes.txt"))


class Stopped(BaseException):
    """A process that ends in the middle."""


def stopped_at(monkeypatch: pytest.MonkeyPatch, moment: int) -> list[int]:
    """Lets the program stop before or behind one of the calls that change the disk; holds how many were made."""
    calls = [0]

    def wrapped(function):
        def call(*arguments, **options):
            for is_behind in (False, True):
                calls[0] += 1
                if calls[0] == moment:
                    raise Stopped
                if not is_behind:
                    result = function(*arguments, **options)
            return result

        return call

    for module, name in ((shutil, "copyfile"), (os, "rename"), (shutil, "rmtree")):
        monkeypatch.setattr(module, name, wrapped(getattr(module, name)))
    return calls


def moments(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Iterator[Path]:
    """A target for each moment at which its merge was stopped, and has been run again."""
    later = store_of(tmp_path / "a", plan, ("reference", "first_stage"), created="2026-02-01", rows=())
    for moment in range(1, 100):
        target = Store(tmp_path / str(moment))
        finish(target, made(plan, "reference"), "older numbers")
        target.begin("first_stage", plan.stages["first_stage"].identity)
        (target.folder("first_stage", plan.stages["first_stage"].identity) / "checkpoint.pt").write_text("half")
        with monkeypatch.context() as patched:
            calls = stopped_at(patched, moment)
            with contextlib.suppress(Stopped):
                run(later.root, "--into", target.root, *arguments)
        assert ledger.verify(target) == 0
        assert run(later.root, "--into", target.root, *arguments) == 0
        yield target.root
        if calls[0] < moment:
            return


@pytest.mark.long
def test_a_stop_at_any_moment_leaves_a_whole_store_that_a_second_run_completes(plan, tmp_path, monkeypatch):
    targets = list(moments(plan, tmp_path, monkeypatch, "--keep", "newest"))
    assert len(targets) > 15
    expected = everything(tmp_path / "a")
    for target in targets:
        assert everything(target) == expected
        assert not (target / ".merging").exists()


def test_the_kept_artifact_survives_every_stop(plan, tmp_path, monkeypatch):
    for target in moments(plan, tmp_path, monkeypatch, "--keep", "target"):
        folder = target / "reference" / plan.stages["reference"].identity
        assert (folder / "milestones" / "64.safetensors").read_text() == "older numbers"


def test_a_damaged_file_is_refused_and_the_rest_is_copied(plan, tmp_path, capsys):
    a = store_of(tmp_path / "a", plan, ("reference", "first_stage"))
    path = a.folder("reference", plan.stages["reference"].identity) / "milestones" / "64.safetensors"
    path.write_text("numberz")
    for extra in (("--dry-run",), ()):
        assert run(a.root, "--into", tmp_path / "c", *extra) == 1
        assert f"refused: {path} is damaged" in " ".join(capsys.readouterr().out.split())
    assert held(tmp_path / "c") == {"first_stage"}


def rewritten(store: Store, plan: Plan, name: str, **fields: Any) -> Path:
    """The record of an artifact with other content, sealed as the program does."""
    folder = store.folder(name, plan.stages[name].identity)
    record = read_record(folder)
    assert record is not None
    store.finish(dataclasses.replace(record, **fields))
    return folder


def test_settings_that_give_another_identity_are_refused(plan, tmp_path, capsys):
    a = store_of(tmp_path / "a", plan, ("reference", "latents"))
    folder = rewritten(a, plan, "latents", config={**plan.stages["latents"].settings, "scale": "none"})
    assert run(a.root, "--into", tmp_path / "c") == 1
    assert f"the identity of {folder} does not follow from the settings" in capsys.readouterr().out
    assert held(tmp_path / "c") == {"reference"}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"schema": 99}, "newer version"),
        ({"files": {"../../../escaped": "0"}}, "names files outside"),
    ],
)
def test_records_that_this_program_cannot_judge_are_refused(plan, tmp_path, capsys, fields, reason):
    a = store_of(tmp_path / "a", plan, ("latents",))
    folder = a.folder("latents", plan.stages["latents"].identity)
    record = dataclasses.replace(made(plan, "latents"), **fields)
    (folder / "record.json").write_text(json.dumps(record.to_json()))
    assert run(a.root, "--into", tmp_path / "c") == 1
    assert reason in capsys.readouterr().out
    assert held(tmp_path / "c") == set()


def test_folders_that_were_renamed_and_stages_that_nobody_knows_are_refused(plan, tmp_path, capsys):
    a = store_of(tmp_path / "a", plan, ("latents",))
    shutil.copytree(a.folder("latents", plan.stages["latents"].identity), a.root / "latents" / "other")
    a.finish(StageRecord("dreams", "abc", {}, {}))
    assert run(a.root, "--into", tmp_path / "c") == 1
    said = capsys.readouterr().out
    assert "it was moved there" in said
    assert "a stage that this program does not have" in said
    assert held(tmp_path / "c") == {"latents"}


@pytest.mark.parametrize("cell", ["default", "everything measured", "tuned guidance", "larger samples", "f=1"])
def test_every_planned_identity_follows_from_its_record(tmp_path, cell):
    plan, store = plan_of(*CELLS[cell]), Store(tmp_path)
    stages = {stage.name: stage for stage in STAGES}
    for name, planned in plan.stages.items():
        store.finish(made(plan, name))
        record = store.record(name, planned.identity)
        assert record is not None
        assert follows(stages[name], record), name
        assert follows(stages[name], dataclasses.replace(record, parents={"reference": "other"})) is False, name


def test_an_identity_of_an_older_version_of_the_code_follows_too(plan):
    record = made(plan, "evaluation")
    [stage] = [stage for stage in STAGES if stage.name == "evaluation"]
    assert follows(dataclasses.replace(stage, version=stage.version + 2), record)
    assert not follows(dataclasses.replace(stage, version=stage.version - 1), record)


def test_settings_that_name_files_elsewhere_are_copied_and_that_is_said(plan, tmp_path, capsys):
    a = store_of(tmp_path / "a", plan, ())
    config = {**plan.stages["first_stage"].settings, "path": str(tmp_path / "moved")}
    a.finish(StageRecord("first_stage", "fromafile", config, {}))
    assert run(a.root, "--into", tmp_path / "c") == 0
    assert "1 were made with files of weights that are not here" in capsys.readouterr().out
    assert held(tmp_path / "c") == {"first_stage"}


def test_results_that_differ_are_both_told_and_the_targets_stay(plan, tmp_path, capsys):
    theirs = (dataclasses.replace(ROWS[0], value=0.26),)
    a = store_of(tmp_path / "a", plan, ("evaluation",))
    b = store_of(tmp_path / "b", plan, ("evaluation",), rows=theirs, environment={"host": "two"}, created="2026-03-01")
    identity = plan.stages["evaluation"].identity
    for extra in (("--dry-run",), ()):
        assert run(b.root, "--into", a.root, *extra) == 2
        said = " ".join(capsys.readouterr().out.split())
        assert f"evaluation {identity} differs between {a.root} (one, fast, 2026-01-01 10:00 UTC)" in said
        assert f"and {b.root} (two, 2026-03-01 UTC) in kd 0.25 and 0.26; that of {a.root} is kept" in said
        assert "--keep target or --keep newest" in said
    assert a.record("evaluation", identity).rows == ROWS
    assert run(b.root, "--into", a.root, "--keep", "target") == 0
    assert a.record("evaluation", identity).rows == ROWS
    assert run(b.root, "--into", a.root, "--keep", "newest") == 0
    assert a.record("evaluation", identity).rows == theirs
    assert run(b.root, "--into", a.root) == 0


def test_costs_machines_dates_and_rounding_are_no_difference(plan, tmp_path):
    a = store_of(tmp_path / "a", plan, ("samples",), facts={"nfe": 2, "batch": 8})
    rounded = (dataclasses.replace(ROWS[0], value=ROWS[0].value * (1 + 1e-6)),)
    other = {"cost": Cost(9.0, 32), "created": "2027", "environment": {"host": "two"}}
    b = store_of(tmp_path / "b", plan, ("samples",), rows=rounded, facts={"nfe": 2, "batch": 16}, **other)
    assert run(b.root, "--into", a.root) == 0
    c = store_of(tmp_path / "c", plan, ("samples",), facts={"nfe": 3, "batch": 8})
    assert run(c.root, "--into", a.root) == 2


def test_no_number_beside_a_number_is_a_difference_and_a_fact_that_is_younger_is_none():
    record = StageRecord("diffusion", "i", {}, {}, {"nfe": 3}, (ResultRow("kd", 1.0, 8, "p", 0.5, 1.5),))
    for none in (float("nan"), float("inf")):
        lost = dataclasses.replace(record, rows=(dataclasses.replace(record.rows[0], value=none),))
        assert differences(record, lost) != []
        assert differences(lost, record) != []
        assert differences(lost, lost) == []
    told = dataclasses.replace(record, facts={"nfe": 3.0000000001, "learning_rate": 1e-3})
    assert differences(record, told) == differences(told, record) == []
    assert differences(record, dataclasses.replace(told, facts={"nfe": 4})) == ["facts nfe"]


def test_a_try_that_was_stopped_at_its_end_is_nowhere_taken_for_an_artifact(plan, tmp_path):
    store = store_of(tmp_path / "a", plan, ("samples",))
    identity = plan.stages["samples"].identity
    shutil.copytree(store.folder("samples", identity), store.folder("samples", f"{identity}.7"))
    shutil.rmtree(store.folder("samples", identity))
    assert store.records("samples") == store.records() == []
    assert list(Records([store.root]).all_of("samples")) == []


def test_files_that_differ_are_a_difference_and_pictures_are_none(plan, tmp_path, capsys):
    a, b = store_of(tmp_path / "a", plan, ()), store_of(tmp_path / "b", plan, ())
    for store in (a, b):
        folder = store.folder("first_stage", plan.stages["first_stage"].identity)
        folder.mkdir(parents=True)
        (folder / "grid.png").write_text(store.root.name)
        finish(store, made(plan, "first_stage"))
    assert run(b.root, "--into", a.root) == 0
    (folder / "milestones" / "64.safetensors").write_text("other numbers")
    b.finish(made(plan, "first_stage"))
    assert run(b.root, "--into", a.root) == 2
    assert "in files milestones/64.safetensors" in capsys.readouterr().out


def test_what_was_made_of_an_artifact_that_is_not_kept_is_counted(plan, tmp_path, capsys):
    a = store_of(tmp_path / "a", plan, ("diffusion",))
    b = store_of(tmp_path / "b", plan, ("diffusion", "samples", "evaluation", "reference"), rows=())
    assert run(b.root, "--into", a.root, "--keep", "target") == 0
    said = capsys.readouterr().out
    assert "3 artifacts copied, 0 already there, 1 with other results" in said
    assert "2 of them were made of artifacts whose other version stands here" in said


def test_what_stays_and_was_made_of_an_artifact_that_is_replaced_is_told(plan, tmp_path, capsys):
    stages = ("first_stage", "latents", "diffusion", "samples")
    a = store_of(tmp_path / "a", plan, stages)
    b = store_of(tmp_path / "b", plan, ("first_stage",), facts={"steps": 9}, created="2026-03-01")
    for extra in (("--dry-run",), ()):
        assert run(b.root, "--into", a.root, "--keep", "newest", *extra) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert f"3 artifacts that stay in {a.root} were made of such as are replaced" in said
        assert f"the first is latents {plan.stages['latents'].identity}" in said
    assert run(b.root, "--into", a.root, "--keep", "newest") == 0
    assert "that stay" not in capsys.readouterr().out


def test_a_file_that_is_missing_is_refused_and_the_rest_is_copied(plan, tmp_path, capsys):
    a = store_of(tmp_path / "a", plan, ("first_stage", "samples"))
    folder = a.folder("first_stage", plan.stages["first_stage"].identity)
    next(path for path in folder.rglob("*.safetensors")).unlink()
    for extra in (("--dry-run",), ()):
        assert run(a.root, "--into", tmp_path / "b", *extra) == 1
        assert "1 artifacts" in (said := " ".join(capsys.readouterr().out.split()))
        assert "refused" in said
    assert held(tmp_path / "b") == {"samples"}


def test_sweeps_of_one_name_stand_side_by_side(plan, tmp_path, capsys):
    a = store_of(tmp_path / "a", plan, ("reference",))
    b = store_of(tmp_path / "b", plan, ("reference",))
    b.write_sweep(sweep_of(plan, "s", "python run.py on another day"))
    for times in range(2):
        assert run(b.root, "--into", a.root) == 0
        assert f"{1 - times} sweeps copied, {times} already there" in capsys.readouterr().out
        assert sorted(sweep.command for sweep in a.sweeps()) == ["python run.py", "python run.py on another day"]
    assert all((a.root / "sweeps" / f"{sweep.sweep}.json").exists() for sweep in a.sweeps())


def test_shortlists_come_along_and_of_two_choices_that_of_the_target_stays(plan, tmp_path, capsys):
    a, b = (store_of(tmp_path / name, plan, ("first_stage",)) for name in "ab")
    choice = Shortlist("grid", "2026-01-01", "latent_roughness", True, 0, {"x": 0.5, "y": 1.0}, ("x",), ("y",))
    other = dataclasses.replace(choice, kept=("y",), controls=("x",))
    a.write_shortlist(choice)
    assert run(a.root, "--into", b.root, "--dry-run") == 0
    assert b.shortlist("grid") is None
    assert run(a.root, "--into", b.root) == run(a.root, "--into", b.root) == 0
    assert b.shortlist("grid") == choice
    assert "chose other" not in capsys.readouterr().out
    a.write_shortlist(other)
    assert run(a.root, "--into", b.root) == 0
    assert b.shortlist("grid") == choice
    assert f"the choice of {b.root} is kept" in " ".join(capsys.readouterr().out.split())


def test_timings_come_along_and_are_never_a_difference(plan, tmp_path, capsys):
    samples = made(plan, "samples")
    machine = timing.Machine("cpu", "fast", 1)
    key = timing.timing_identity(samples.identity, machine, 8, 1)
    stores = []
    for name, seconds in (("a", 1.0), ("b", 2.0)):
        stores.append(store_of(tmp_path / name, plan, ()))
        speed = timing.Speed((seconds,), (seconds,), (seconds,), 0.0)
        stores[-1].finish(timing.timing_record(key, samples, machine, 8, speed))
    assert run(*(store.root for store in stores), "--into", tmp_path / "c") == 0
    found = Store(tmp_path / "c").record("timing", key)
    assert found is not None
    assert found.cost.seconds == 2.0
    rewritten_record = dataclasses.replace(found, config={**found.config, "batch": 9})
    stores[0].finish(rewritten_record)
    assert run(stores[0].root, "--into", tmp_path / "d") == 1
    assert "does not follow" in capsys.readouterr().out


def test_stores_of_before_hashes_are_copied_whole(tmp_path, capsys):
    old = Path(__file__).parents[1] / "analysis" / "old_store" / "store"
    assert run(old, "--into", tmp_path / "c") == 0
    assert "84 were written before files had hashes" in capsys.readouterr().out
    copied = everything(tmp_path / "c")
    assert {name: copied[name] for name in everything(old) if name.endswith("record.json")} == {
        name: content for name, content in everything(old).items() if name.endswith("record.json")
    }


def test_places_that_are_no_stores_are_refused_before_anything_is_copied(plan, tmp_path, capsys):
    a = store_of(tmp_path / "a", plan, ("reference",))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    assert run(a.root, tmp_path / "typo", "--into", tmp_path / "c") == 2
    assert run(a.root, "--into", a.root) == 2
    assert run(a.root, "--into", tmp_path / "other") == 2
    said = capsys.readouterr().out
    for sentence in ("there is no store at", "leave it out", "a folder of other things"):
        assert sentence in said
    assert not (tmp_path / "c").exists()
    assert os.listdir(tmp_path / "other") == ["letter.txt"]


@pytest.mark.long
def test_stores_read_together_give_the_table_of_the_merged_store(swept_store, tmp_path):
    """Two machines made half of a sweep each, and both its beginning."""
    a, b = (Path(shutil.copytree(swept_store, tmp_path / name)) for name in "ab")
    halves: dict[str, list[Path]] = {}
    for path in sorted(swept_store.glob("*/*/record.json")):
        halves.setdefault(path.parent.parent.name, []).append(path.parent)
    for stage, folders in halves.items():
        for number, folder in enumerate(folders[1:]):
            shutil.rmtree((a, b)[number % 2] / stage / folder.name)
    [sweep] = Store(b).sweeps()
    Store(b).write_sweep(dataclasses.replace(sweep, command="python run.py on another day"))
    assert run(a, b, "--into", tmp_path / "c") == 0
    for which in (None, "all"):
        merged = collect(tmp_path / "c", which).to_csv()
        assert merged == collect([a, b], which).to_csv()
    assert len(collect(tmp_path / "c")) == len(collect(swept_store)) > len(collect(a))
