"""The ledger: the state of every stage, and a retry that makes each artifact once."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from tiny_plans import ON_REQUEST

from experiments.cli import assigned
from experiments.commands import ledger
from experiments.commands.ledger import State, chosen_sweeps, entries, existing_store, retry
from experiments.stages import STAGES
from experiments.store import Store
from ldm.errors import UserError
from ldm.records import Cell, StageRecord, Sweep


def cell(steps: int, f: int = 4) -> Cell:
    """A cell whose model is shared by all steps."""
    names = {stage.name: f"{stage.name}-{f}" for stage in STAGES if stage.name not in ON_REQUEST} | {
        "reference": "reference"
    }
    names |= {name: f"{name}-{f}-{steps}" for name in ("samples", "evaluation")}
    axes = {"f": f, "regulariser": "kl", "steps": steps, "seed": 0, "scale": "tiny", "guidance_scale": 1.0}
    return Cell(f"c{f}-{steps}", axes, (f"ae.f={f}", f"sampler.steps={steps}", "store=elsewhere"), names)


SHAPES = {stage.name: stage.shape for stage in STAGES}
CELLS = (cell(2), cell(3), cell(2, 8))
SWEEP = Sweep("20260101-a", "2026-01-01T10:00:00", "python run.py -m", CELLS, stages=SHAPES)


AWKWARD = "results (2), [x]={y} 'z' #1"
"""A name whose characters have a meaning of their own for Hydra, for shells, or for what prints."""


@pytest.fixture
def store(tmp_path):
    found = Store(tmp_path / AWKWARD)
    found.write_sweep(SWEEP)
    return found


def complete(store: Store, stages: dict[str, str]) -> None:
    for name, identity in stages.items():
        store.finish(StageRecord(name, identity, {}, {}))


class Launcher:
    """Completes what a cell lacks up to the target, in the order of stages; stops where it is told to fail."""

    def __init__(self, store, fails=()):
        self.store, self.fails, self.jobs = store, fails, []

    def __call__(self, overrides):
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        values = {override.key_or_group: str(override.value()) for override in parsed}
        assert values["store"] == str(self.store.root)
        assert "store=elsewhere" not in overrides
        asked = cell(int(values["sampler.steps"]), int(values["ae.f"]))
        stages, [entry] = asked.stages, entries_of(asked)
        target = values["sweep.target"]
        self.jobs.append((target, stages[target]))
        for name in ledger._ancestry(entry, target):
            if self.store.is_complete(name, stages[name]):
                continue
            if stages[name] in self.fails:
                self.store.fail(name, stages[name], ValueError("no luck"), "")
                return 0
            complete(self.store, {name: stages[name]})
        return 0


def test_every_state_is_told_apart(store):
    first = SWEEP.cells[0].stages
    complete(store, {"reference": first["reference"], "latents": first["latents"]})
    store.fail("latents", first["latents"], ValueError("an old one"), "")  # complete all the same
    store.fail("diffusion", first["diffusion"], ValueError("no luck"), "")
    with store.claim(f"first_stage/{first['first_stage']}", lambda: None):
        store.fail("first_stage", first["first_stage"], ValueError("an old one"), "")  # tried again right now
        states = {name: stage.state for name, stage in entries(store, [SWEEP])[0].stages.items()}
    missing = dict.fromkeys(SWEEP.cells[0].stages, State.MISSING)
    known = {"reference": State.DONE, "latents": State.DONE, "diffusion": State.FAILED, "first_stage": State.RUNNING}
    assert states == missing | known


def test_a_failure_is_said_once_with_its_command_and_its_traceback(store, capsys):
    store.fail("diffusion", "diffusion-4", ValueError("no luck\nat all"), "")
    assert ledger.main(["--store", str(store.root)]) == 0
    said = capsys.readouterr().out
    assert said.count("failed: diffusion diffusion-4") == 1
    assert "ValueError: no luck\n" in said
    [command] = [line.partition("repeat it with: ")[2] for line in said.splitlines() if "repeat it with: " in line]
    given = shlex.split(command)[2:]
    assert given == ["ae.f=4", "sampler.steps=2", assigned("store", str(store.root))]  # where it lies now
    assert str(store.root / "diffusion" / "diffusion-4" / "failure.json") in said
    assert "0 of 3 cells done; stages: 1 failed, 22 missing" in said


def test_a_retry_makes_every_artifact_once(store):
    launch = Launcher(store)
    retry(store, entries(store, [SWEEP]), launch)
    assert all(entry.is_done for entry in entries(store, [SWEEP]))
    # Two models' reconstruction, rate curve, Gaussian and progress, and three cells.
    assert len(launch.jobs) == len(set(launch.jobs)) == 2 * 4 + 3
    again = Launcher(store)
    retry(store, entries(store, [SWEEP]), again)
    assert again.jobs == []


def test_a_retry_of_a_sweep_that_names_no_stages_makes_every_artifact_too(store):
    """Those of older programs."""
    older = Sweep("20250101-a", "2025-01-01T10:00:00", "python run.py -m", CELLS)
    launch = Launcher(store)
    retry(store, entries(store, [older]), launch)
    assert all(entry.is_done for entry in entries(store, [older]))
    assert len(launch.jobs) == len(set(launch.jobs)) == 11


def test_a_retry_leaves_alone_what_hangs_on_a_stage_that_fails_again(store):
    launch = Launcher(store, fails={"latents-4"})
    retry(store, entries(store, [SWEEP]), launch)
    tried_at_4 = [target for target, identity in launch.jobs if "-4" in identity]
    # Neither the progress nor the two evaluations, whose latents are lost.
    assert tried_at_4 == ["reconstruction", "rate_curve", "gaussian"]
    assert [entry.is_done for entry in entries(store, [SWEEP])] == [False, False, True]


@pytest.mark.parametrize(("fails", "code"), [((), 0), (("diffusion-8",), 1)])
def test_the_exit_code_of_a_retry_says_whether_all_is_done(store, monkeypatch, capsys, fails, code):
    monkeypatch.setattr(ledger, "run_py", Launcher(store, fails))
    assert ledger.main(["--store", str(store.root), "--retry"]) == code
    assert f"{3 - code} of 3 cells done" in capsys.readouterr().out


SAVES_LATE = """
import os, pathlib, signal, sys, time
def save(*_):
    time.sleep(1.0)
    pathlib.Path(__file__).with_name("saved").touch()
    sys.exit()
signal.signal(signal.SIGTERM, save)
os.kill(os.getppid(), signal.SIGINT)
time.sleep(60)
"""


@pytest.mark.long
def test_what_is_run_again_saves_before_an_interruption_ends_it(tmp_path, monkeypatch):
    (tmp_path / "run.py").write_text(SAVES_LATE)
    monkeypatch.setattr(ledger, "ROOT", tmp_path)
    with pytest.raises(KeyboardInterrupt):
        ledger.run_py([])
    assert (tmp_path / "saved").exists()


def test_a_retry_that_makes_nothing_says_so(store, monkeypatch, capsys):
    monkeypatch.setattr(ledger, "run_py", lambda overrides: 1)
    assert ledger.main(["--store", str(store.root), "--retry"]) == 1
    assert capsys.readouterr().out.count("not made: cell") == 3


def test_the_latest_sweep_all_or_one_are_shown(store):
    later = Sweep("20260201-b", "2026-02-01T10:00:00", "python run.py", (cell(2), cell(9)), stages=SHAPES)
    store.write_sweep(later)
    assert chosen_sweeps(store, None) == [later]
    assert chosen_sweeps(store, "20260101-a") == [SWEEP]
    assert chosen_sweeps(store, "all") == [SWEEP, later]
    shown = [(entry.sweep.sweep, entry.cell.cell) for entry in entries(store, [SWEEP, later])]
    assert shown == [("20260201-b", "c4-2"), ("20260101-a", "c4-3"), ("20260101-a", "c8-2"), ("20260201-b", "c4-9")]


def test_an_unknown_sweep_is_answered_with_the_nearest(store, capsys):
    assert ledger.main(["--store", str(store.root), "--sweep", "20260101-b"]) == 2
    assert "did you mean '20260101-a'?" in capsys.readouterr().out


def test_a_store_that_is_none_is_said_and_not_made(tmp_path, capsys):
    assert ledger.main(["--store", str(tmp_path / "typo")]) == 2
    assert "there is no store at" in capsys.readouterr().out
    assert not (tmp_path / "typo").exists()
    (tmp_path / "file").write_text("text")
    for place in (tmp_path, tmp_path / "file"):
        with pytest.raises(UserError, match="holds no sweeps"):
            existing_store(place)


def test_looking_leaves_nothing_behind(tmp_path, capsys):
    Store(tmp_path, is_read_only=True).write_sweep(SWEEP)
    for options in ((), ("--verify",)):
        assert ledger.main(["--store", str(tmp_path), *options]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["sweeps"]


def test_a_sweep_that_cannot_be_read_is_said(store, capsys):
    (store.root / "sweeps" / "20260101-a.json").write_text("{")
    assert ledger.main(["--store", str(store.root)]) == 2
    assert "cannot be read" in capsys.readouterr().out


def test_axes_that_differ_are_shown_and_equal_ones_are_not():
    columns = [column.header for column in ledger.table(entries_of(cell(2), cell(3))).columns]
    assert "steps" in columns
    assert "scale" not in columns
    guided = Cell("g", {**cell(2).axes, "guidance_scale": 2.0}, (), {"samples": "g"})
    assert "guidance scale" in [column.header for column in ledger.table(entries_of(cell(2), guided)).columns]


def entries_of(*cells):
    return [ledger.Entry(SWEEP, one, {}) for one in cells]
