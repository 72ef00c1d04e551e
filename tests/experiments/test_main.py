"""What run.py does with composed configs: the points of a grid, and its jobs."""

from pathlib import Path

import pytest
from tiny_plans import plan_of, settings_of

from experiments import main
from experiments.store import Store
from ldm.errors import UserError


@pytest.mark.parametrize("given", [("ae.f=4",), ("device=auto", "ae.f=4"), ("ae.f=4", "precision=auto", "device=cpu")])
def test_what_the_machine_decided_stands_once_in_the_overrides_of_a_job(given, tmp_path, monkeypatch) -> None:
    """Given twice, a key is refused: by every job, and by every command that is to repeat one."""
    monkeypatch.setattr(main, "plan_of", lambda values, store: plan_of())
    point = main.planned_point(given, settings_of(), Store(tmp_path))
    keys = [override.partition("=")[0] for override in point.overrides]
    assert sorted(keys) == ["ae.f", "device", "precision"]
    assert {"ae.f=4", "device=cpu", "precision=fp32"} == set(point.overrides)


def test_a_job_that_cannot_be_planned_is_no_killed_one(tmp_path: Path, monkeypatch) -> None:
    def gone(values, store):
        raise UserError("the folder is gone")

    monkeypatch.setattr(main, "plan_of", gone)
    sweep = {"target": "latents", "identity": "0123456789abcdef", "id": None}
    values = {**settings_of(), "store": str(tmp_path), "sweep": sweep, "command": "python run.py"}
    with pytest.raises(UserError, match="the folder is gone"):
        main._run_job(values)
    failure = Store(tmp_path).failure("latents", "0123456789abcdef")
    assert failure is not None
    assert "the folder is gone" in failure.error
