"""Trackers: silent, inside the store, ended even when the stage fails, told nothing twice."""

import contextlib
import importlib.util
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tiny_plans import plan_of, stage_named

from experiments.compose import without_environment
from experiments.main import Grid, _run_planned
from experiments.store import Store
from experiments.sweep import Due, Launch, Point
from experiments.tracking import Tracker, check_tracking, mode_of
from experiments.tracking.runs import About, Once
from experiments.tracking.tracker import about_stage
from experiments.tracking.trackio_runs import _trackio_in
from experiments.tracking.wandb_runs import WandbMirror, WandbRun, without_key
from ldm.errors import UserError
from ldm.records import Cost, LeftOut, ResultRow, StageRecord


def settings(mode: str = "offline", name: str = "wandb") -> dict[str, Any]:
    """The group `tracker`."""
    return {"name": name, "mode": mode, "project": "ldm-tradeoffs", "entity": None}


def tracker(store: Path, mode: str = "offline", name: str = "wandb") -> Tracker:
    """A tracker of one sweep."""
    return Tracker(store, settings(mode, name), "sweep")


def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    """One sentence, before anything is opened."""
    with pytest.raises(UserError, match=r"tracker\.mode=of is none of offline, online, disabled"):
        tracker(tmp_path, "of")


@pytest.mark.long
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
    assert opened[0].run.run._is_finished
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
            assert (run.run.run.name, run.run.run.group) == (name, "sweep")
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
    assert mode_of(settings()) == mode
    notes = check_tracking(settings(), tmp_path)
    assert [mode in note for note in notes] == ([True] if mode != "offline" else [])


def test_online_without_login_is_one_sentence_when_planning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(UserError, match="nobody has logged in"):
        check_tracking(settings("online"), tmp_path)
    with monkeypatch.context() as variable:  # which overrules the setting
        variable.setenv("WANDB_MODE", "run")
        for mode in ("offline", "online"):
            with pytest.raises(UserError, match=r"^WANDB_MODE=run, but nobody .* or use WANDB_MODE=offline"):
                check_tracking(settings(mode), tmp_path)
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password " + 40 * "a")
    (tmp_path / "netrc").chmod(0o600)
    assert check_tracking(settings("online"), tmp_path) == []


def test_empty_runs_of_a_kill_are_removed_and_others_stay(tmp_path: Path) -> None:
    """Seven bytes of header are all that a run holds that was killed at its start."""
    long_ago = time.time() - 1000
    for name, content, age in (("a", b"x" * 7, 0), ("b", b"", 0), ("c", b"x" * 7, None), ("d", b"x" * 9, 0)):
        file = tmp_path / "wandb" / f"offline-run-{name}" / f"run-{name}.wandb"
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
        if age is not None:
            os.utime(file, (long_ago, long_ago))
    check_tracking(settings(), tmp_path)
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
    monkeypatch.setattr("experiments.tracking.wandb_runs.FINISH_SECONDS", 0.1)
    found, stuck = WandbMirror(tmp_path, "online", "ldm-tradeoffs", None), Stuck()
    found._ended.append((stuck, 0))
    found.settle()
    stuck.released.set()
    assert found.mode == "offline"
    assert "runs are kept offline from here on" in " ".join(capsys.readouterr().out.split())


class Failing:
    """A run that cannot be ended."""

    def finish(self, exit_code: int) -> None:
        raise OSError(f"no upload with {40 * 'c'}")


@pytest.mark.parametrize(("mode", "said"), [("online", "has not taken a run"), ("offline", "could not end a run")])
@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_run_that_cannot_be_ended_is_said_without_the_key(
    mode: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", 40 * "c")
    found = WandbMirror(tmp_path, mode, "ldm-tradeoffs", None)
    found._ended.append((Failing(), 0))
    found.settle()
    told = capfd.readouterr()
    assert f"W&B {said} (no upload with (the API key))" in " ".join(told.out.split())
    assert told.err == ""
    assert found.mode == "offline"


class Summarised:
    """A run of W&B that notes in which order it is told what."""

    def __init__(self, folder: Path) -> None:
        self.dir, self.resumed, self.offline, self.told = folder, False, True, list[str]()
        self.summary = SimpleNamespace(update=self.told.extend)

    def save(self, path: str, **options: object) -> None:
        self.told.append(Path(path).name)


def test_a_run_says_last_what_it_shows(tmp_path: Path) -> None:
    """A push that is killed before leaves a run that the next one writes anew."""
    run = Summarised(tmp_path)
    WandbRun(run, About("progress-abc", "", "progress", "sweep", {})).finish(RECORD)
    assert run.told[0] == "record.json"
    assert run.told[-1] == "made"
    assert "progress/kd" in run.told


def test_what_the_environment_gave_is_in_no_record() -> None:
    config = {"store": "s", "tracker": {"entity": "secret", "mode": "x"}, "from_environment": ["tracker.entity"]}
    assert without_environment(config)["tracker"] == {"entity": "(from the environment)", "mode": "x"}
    assert config["tracker"]["entity"] == "secret"  # type: ignore[index]


RECORD = StageRecord(
    "progress", "abc", {}, {}, rows=(ResultRow("kd", 2.0, 4, images_seen=16),), left_out=(LeftOut("fd", "too few"),)
)


def tracked(found: Tracker) -> None:
    """A stage that is killed after 32 images, goes on from 16, and is killed again before its record stands."""
    plan = plan_of("ae=kl", "ae.f=4", "trainer.learning_rate_factor=0.5")
    stage = plan.stages["diffusion"]

    def killed() -> None:
        with found.stage_run(plan, stage, stage_named("diffusion").axes) as run:
            run.log(16, {"loss": 1.0})
            run.log(32, {"loss": 0.5})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        killed()
    found.settle()

    def ended(error: type[Exception] | None = None) -> None:
        with found.stage_run(plan, stage, stage_named("diffusion").axes) as run:
            run.log(32, {"loss": 0.5})
            run.log(48, {"loss": 0.25})
            run.finish(RECORD)
            if error is not None:
                raise error

    with pytest.raises(ZeroDivisionError):
        ended(ZeroDivisionError)
    found.settle()
    ended()
    found.settle()
    assert list(found.store.glob("tracking/*/*")) == []


@pytest.mark.long
def test_tensorboard_holds_each_value_once_and_what_the_run_is_of(tmp_path: Path) -> None:
    """Read back by TensorBoard itself."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tracked(tracker(tmp_path, name="tensorboard"))
    [folder] = (tmp_path / "tensorboard").iterdir()
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(16, 1.0), (32, 0.5), (48, 0.25)]
    assert [(event.step, event.value) for event in events.Scalars("progress/kd")] == [(16, 2.0)]
    about = events.Tensors("about/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| trainer/learning_rate_factor | 0.5 |" in about
    assert "| f | 4 |" in about


def test_tensorboard_has_results_at_the_end_of_a_training_that_goes_on(tmp_path: Path) -> None:
    """A stage that is killed behind its last logged value logs none when it goes on."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    plan, found = plan_of("ae=kl", "ae.f=4"), tracker(tmp_path, name="tensorboard")
    stage = plan.stages["first_stage"]

    def killed() -> None:
        with found.stage_run(plan, stage, ()) as run:
            run.log(64, {"loss": 1.0})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        killed()
    with found.stage_run(plan, stage, ()) as run:
        run.finish(StageRecord("first_stage", stage.identity, {}, {}, rows=(ResultRow("psnr", 20.0, 4),)))
    [folder] = (tmp_path / "tensorboard").iterdir()
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("first_stage/psnr")] == [(64, 20.0)]


def test_trackio_holds_each_value_once_and_what_the_run_is_of(tmp_path: Path) -> None:
    """Read back from its database by SQL."""
    if importlib.util.find_spec("trackio") is None:  # which is not imported here: it reads its folder then
        pytest.skip("trackio is not installed")
    tracked(tracker(tmp_path, name="trackio"))
    [file] = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(file) as database:
        told = [str(row) for row in database.execute("select * from metrics order by id")]
        configs = [str(row) for row in database.execute("select * from configs")]
    assert [sum(f'"loss":{loss}' in row.replace(" ", "") for row in told) for loss in ("1.0", "0.5", "0.25")] == [
        1,
        1,
        1,
    ]
    assert len(configs) == 1
    assert "trainer/learning_rate_factor" in configs[0]


def test_another_tracker_is_told_what_the_first_one_was(tmp_path: Path) -> None:
    """How far a run was told is known of each tracker and project."""
    stage = plan_of().stages["diffusion"]
    places = [
        Tracker(tmp_path, {**settings(name=name), "project": project}, "sweep").told
        for name, project in (("wandb", "one"), ("wandb", "two"), ("tensorboard", "one"))
    ]
    assert len(set(places)) == 3
    runs = [Remembering() for _ in places]
    for place, run in zip(places, runs, strict=True):
        Once(run, place / f"diffusion-{stage.identity}").log(16, {})
    assert [run.told for run in runs] == [[16], [16], [16]]
    tracker(tmp_path).forget(stage)
    assert list(tmp_path.glob("tracking/*/*")) == []


def test_a_second_store_is_not_written_into_the_trackio_folder_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trackio reads its folder once a process."""
    monkeypatch.setitem(sys.modules, "trackio", ModuleType("trackio"))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "one" / "trackio"))
    assert _trackio_in(tmp_path / "one" / "trackio") is sys.modules["trackio"]
    with pytest.raises(UserError, match="two/trackio too: run the second store in a process of its own"):
        _trackio_in(tmp_path / "two" / "trackio")


def test_a_finished_cell_is_shown_once_also_after_a_sweep_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once where there is time, else by the next call; anew where it was measured anew."""
    pytest.importorskip("tensorboard")
    plan = plan_of()

    def finish(store: Store, created: str) -> None:
        for stage in plan.stages.values():
            store.begin(stage.name, stage.identity)
            store.finish(StageRecord(stage.name, stage.identity, {}, stage.parents, created=created))

    def sweep(root: Path, launch: Launch) -> int:
        """The runs that the cell has when the call has ended."""
        values = {"tracker": settings(name="tensorboard"), "report": False, "until": "evaluation", "store": root}
        points = [Point((), plan)]
        with contextlib.suppress(KeyboardInterrupt):
            _run_planned(Grid("sweep", points, points, values, Store(root)), launch, None)
        return len(list(root.glob(f"tensorboard/cell-{plan.stages['evaluation'].identity}/*")))

    def stopped(root: Path) -> Launch:
        def launch(jobs: Sequence[Due]) -> None:
            finish(Store(root), "2026-01-01")
            raise KeyboardInterrupt

        return launch

    assert sweep(tmp_path / "one", stopped(tmp_path / "one")) == 1
    assert sweep(tmp_path / "one", pytest.fail) == 1
    monkeypatch.setattr("experiments.main.STOPPED_SECONDS", -1.0)
    assert sweep(tmp_path / "two", stopped(tmp_path / "two")) == 0
    assert sweep(tmp_path / "two", pytest.fail) == 1
    finish(Store(tmp_path / "two"), "2026-01-02")
    assert sweep(tmp_path / "two", pytest.fail) == 2


def test_no_tracker_leaves_nothing_behind(tmp_path: Path) -> None:
    tracked(tracker(tmp_path, name="none"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        (settings(name="mlflow"), "tracker.name=mlflow is none of wandb, trackio, tensorboard, none"),
        (settings("online", "tensorboard"), "tracker=tensorboard writes into the store alone"),
        (settings(name="trackio"), "tracker=trackio needs a package: pip install -e '.[trackio]'"),
    ],
)
def test_trackers_that_cannot_work_are_one_sentence(
    chosen: dict[str, Any], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError) as raised:
        check_tracking(chosen, tmp_path)
    assert str(raised.value).startswith(sentence)


class Remembering:
    """A run that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def go_on_from(self, images_seen: int) -> None:
        pass

    def log(self, images_seen: int, values: Mapping[str, float]) -> None:
        self.told.append(images_seen)

    def image(self, path: Path) -> None:
        pass

    def finish(self, *records: StageRecord) -> None:
        pass


def test_a_run_that_goes_on_is_told_nothing_twice_until_it_has_finished(tmp_path: Path) -> None:
    """What was half-written by a kill counts as nothing."""
    place, inner = tmp_path / "tracking" / "run", Remembering()
    for _ in range(2):
        for images in (16, 32):
            Once(inner, place).log(images, {})
    assert inner.told == [16, 32]
    place.write_text("")
    Once(inner, place).log(16, {})
    for _ in range(2):  # the first is killed before its record stands in the store
        Once(inner, place).finish(RECORD)
    assert inner.told == [16, 32, 16, 16]
    Once(inner, place).forget()
    assert list(place.parent.iterdir()) == []
    Once(inner, place).log(16, {})
    assert inner.told == [16, 32, 16, 16, 16]


def test_config_is_flat_and_seeds_alone_tell_repetitions_apart() -> None:
    """Every value stands under a key of its own, and one text is shared by what differs in seeds alone."""
    plans = [plan_of(*overrides) for overrides in (("seed=0",), ("seed=1",), ("sampler.seed=3",), ("ae.f=8",))]
    axes = stage_named("samples").axes
    configs = [about_stage(plan.stages["samples"], plan.axes, plan.config, axes, "sweep").config for plan in plans]
    assert not any(isinstance(value, Mapping) for config in configs for value in config.values())
    assert [config["seed"] for config in configs] == [0, 1, 0, 0]
    one, *others = (config["repetition_of"] for config in configs)
    assert one.startswith("KL f=4, ddim 2 steps (")
    assert [other == one for other in others] == [True, True, False]
    assert configs[0]["sampler/steps"] == configs[0]["steps"] == 2


def test_the_key_stands_in_no_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", 40 * "c")
    assert without_key(ValueError(f"denied:\n {40 * 'c'} is no key")) == "denied: (the API key) is no key"


def test_the_key_in_a_url_and_the_identity_token_stand_in_no_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "local/" + 40 * "c" + "=")
    monkeypatch.setenv("WANDB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    (tmp_path / "token").write_text(f"{40 * 't'}+/\n")
    told = f"http://user:local%2F{40 * 'c'}%3D@here/local/{40 * 'c'}%3D: {40 * 't'}+/ {40 * 't'}%2B%2F"
    shown = "http://user:(the API key)@here/(the API key): (the identity token) (the identity token)"
    assert without_key(ValueError(told)) == shown
    monkeypatch.setenv("WANDB_IDENTITY_TOKEN_FILE", str(tmp_path / "none"))
    assert without_key(ValueError("a token")) == "a token"
