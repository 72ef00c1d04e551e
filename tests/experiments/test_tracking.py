"""W&B offline: silent, inside the store, ended even when the stage fails."""

import os
import threading
import time
from pathlib import Path

import pytest
from tiny_plans import plan_of, stage_named

from experiments.compose import without_environment
from experiments.tracking import Tracker, check_tracking, mode_of
from ldm.errors import UserError
from ldm.records import Cost, ResultRow, StageRecord


def tracker(store: Path, mode: str = "offline") -> Tracker:
    """A tracker of one sweep."""
    return Tracker(store, mode, "ldm-tradeoffs", None, "sweep")


def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    """One sentence, before anything is opened."""
    with pytest.raises(UserError, match=r"tracker\.mode=of is none of offline, online, disabled"):
        tracker(tmp_path, "of")


def test_an_offline_run_lies_in_the_store_and_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its id is that of the stage, so a later run of the same stage is the same run."""
    plan = plan_of()
    stage = plan.stages["first_stage"]
    found = tracker(tmp_path)
    with found.stage_run(plan, stage, ()) as run:
        run.log(16, {"loss": 1.0})
        run.finish(
            StageRecord("first_stage", stage.identity, {}, {}, rows=(ResultRow("psnr", 20.0, 4),), cost=Cost(1.0, 4))
        )
    found.settle()
    [folder] = (tmp_path / "wandb").glob(f"offline-run-*-first_stage-{stage.identity}")
    assert list(folder.glob("*.wandb"))
    assert "".join(capfd.readouterr()) == ""


def test_a_run_ends_when_its_stage_fails(tmp_path: Path) -> None:
    """The error goes on, and W&B keeps no open run."""
    import wandb

    plan = plan_of()
    opened, found = [], tracker(tmp_path)

    def failing_stage() -> None:
        with found.stage_run(plan, plan.stages["diffusion"], ()) as run:
            opened.append(run)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing_stage()
    found.settle()
    assert opened[0].run._is_finished
    assert wandb.run is None


def test_disabled_leaves_nothing_behind(tmp_path: Path) -> None:
    """No folder, no import needed."""
    plan = plan_of()
    with tracker(tmp_path, "disabled").stage_run(plan, plan.stages["latents"], ()) as run:
        run.log(1, {"loss": 0.0})
    assert list(tmp_path.iterdir()) == []


def test_runs_have_names_that_a_person_reads(tmp_path: Path) -> None:
    found = tracker(tmp_path)
    plan = plan_of("ae=kl", "ae.f=4", "sampler.steps=20")
    for stage, name in {"first_stage": "first_stage of KL f=4", "samples": "samples of KL f=4, ddim 20 steps"}.items():
        with found.stage_run(plan, plan.stages[stage], stage_named(stage).axes) as run:
            assert (run.run.name, run.run.group) == (name, "sweep")
    found.settle()


@pytest.mark.parametrize(
    ("variables", "mode"),
    [
        ({}, "offline"),
        ({"WANDB_MODE": "disabled"}, "disabled"),
        ({"WANDB_MODE": "dryrun"}, "offline"),
        ({"WANDB_DISABLED": "true"}, "disabled"),
        ({"WANDB_MODE": "nonsense"}, "offline"),
    ],
)
def test_variables_of_wandb_are_obeyed_and_that_is_said(
    variables: dict[str, str], mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert mode_of("offline") == mode
    notes = check_tracking("offline", tmp_path)
    assert [mode in note for note in notes] == ([True] if mode != "offline" else [])


def test_online_without_login_is_one_sentence_when_planning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(UserError, match="nobody has logged in"):
        check_tracking("online", tmp_path)
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password " + 40 * "a")
    (tmp_path / "netrc").chmod(0o600)
    assert check_tracking("online", tmp_path) == []


def test_empty_runs_of_a_kill_are_removed_and_others_stay(tmp_path: Path) -> None:
    """Seven bytes of header are all that a run holds that was killed at its start."""
    long_ago = time.time() - 1000
    for name, content, age in (("a", b"x" * 7, 0), ("b", b"", 0), ("c", b"x" * 7, None), ("d", b"x" * 9, 0)):
        file = tmp_path / "wandb" / f"offline-run-{name}" / f"run-{name}.wandb"
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
        if age is not None:
            os.utime(file, (long_ago, long_ago))
    check_tracking("offline", tmp_path)
    assert sorted(path.name for path in (tmp_path / "wandb").iterdir()) == ["offline-run-c", "offline-run-d"]


class Stuck:
    """A run whose server does not answer."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def finish(self, exit_code: int) -> None:
        self.released.wait(30)


def test_a_server_that_does_not_answer_holds_up_a_sweep_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("experiments.tracking.FINISH_SECONDS", 0.1)
    found, stuck = tracker(tmp_path, "online"), Stuck()
    found._ended.append((stuck, 0))
    found.settle()
    stuck.released.set()
    assert found.mode == "offline"
    assert "runs are kept offline from here on" in " ".join(capsys.readouterr().out.split())


def test_what_the_environment_gave_is_in_no_record() -> None:
    config = {"store": "s", "tracker": {"entity": "secret", "mode": "x"}, "from_environment": ["tracker.entity"]}
    assert without_environment(config)["tracker"] == {"entity": "(from the environment)", "mode": "x"}
    assert config["tracker"]["entity"] == "secret"  # type: ignore[index]
