"""W&B offline: silent, inside the store, ended even when the stage fails."""

from pathlib import Path

import pytest
from tiny_plans import plan_of

from experiments.tracking import Tracker
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
    with tracker(tmp_path).stage_run(plan, stage) as run:
        run.log(16, {"loss": 1.0})
        run.finish(
            StageRecord("first_stage", stage.identity, {}, {}, rows=(ResultRow("psnr", 20.0, 4),), cost=Cost(1.0, 4))
        )
    [folder] = (tmp_path / "wandb").glob(f"offline-run-*-first_stage-{stage.identity}")
    assert list(folder.glob("*.wandb"))
    assert "".join(capfd.readouterr()) == ""


def test_a_run_ends_when_its_stage_fails(tmp_path: Path) -> None:
    """The error goes on, and W&B keeps no open run."""
    import wandb

    plan = plan_of()
    opened = []

    def failing_stage() -> None:
        with tracker(tmp_path).stage_run(plan, plan.stages["diffusion"]) as run:
            opened.append(run)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing_stage()
    assert opened[0].run._is_finished
    assert wandb.run is None


def test_disabled_leaves_nothing_behind(tmp_path: Path) -> None:
    """No folder, no import needed."""
    plan = plan_of()
    with tracker(tmp_path, "disabled").stage_run(plan, plan.stages["latents"]) as run:
        run.log(1, {"loss": 0.0})
    assert list(tmp_path.iterdir()) == []
