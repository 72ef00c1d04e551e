"""W&B with a server, which is a stub on loopback: online runs, `wandb sync`, a store pushed and read back."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import wandb
from program import ROOT, SHORT, copy_of, environment
from test_tracking import RECORD, settings, tracker
from tiny_plans import plan_of, stage_named
from wandb_stub import Held, server

from analysis.collect import collect
from analysis.tracked import pulled
from experiments.stages import STAGES
from experiments.store import Store
from experiments.sweep import Point, as_sweep
from experiments.tracking import Tracker
from experiments.tracking.__main__ import main
from experiments.tracking.wandb_runs import check_login, without_key
from ldm.errors import UserError
from ldm.records import Cost, Protocol, ResultRow, Shortlist, StageRecord

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
        wandb.teardown()  # its process keeps to the server that it found first
        yield running
        wandb.teardown()


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


def files_with_the_key(folder: Path) -> list[Path]:
    """The files in which the key stands."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [path for path in files if KEY.encode() in path.read_bytes()]


@pytest.mark.long
def test_an_online_run_keeps_its_id_through_a_resume_and_holds_nothing_twice(
    held: Held, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The key is in no file of the store, in nothing that was said, and in nothing that the server holds."""
    store = tmp_path / "store"
    store.mkdir()
    name = killed_and_resumed({which: tracker(store, "online") for which in ("first", "second")})
    assert set(held.runs) == {("ldm-tradeoffs", name)}
    run = held.runs["ldm-tradeoffs", name]
    assert run.column("loss") == [1.0, 0.5, 0.25]
    assert run.column("images_seen") == [16, 32, 48, 16]  # the last is of the milestone
    assert run.column("progress/kd") == [2.0]
    assert json.loads(run.summary)["progress/kd"] == 2.0
    assert run.config["repetition_of"].startswith("KL f=4")
    assert held.unknown == []
    assert files_with_the_key(store) == []
    assert KEY not in str(run) + "".join(capsys.readouterr())


def ran(*command: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """A command run to its end, with the server and the key in its environment."""
    return subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=folder)


@pytest.mark.slow
def test_offline_runs_of_one_stage_are_synced_into_one_run(held: Held, tmp_path: Path) -> None:
    """A killed run and the one that goes on from it are two folders of one id."""
    name = killed_and_resumed({which: Tracker(tmp_path, settings(), "sweep") for which in ("first", "second")})
    folders = sorted(str(path) for path in tmp_path.glob("wandb/offline-run-*"))
    assert len(folders) == 2
    done = ran(str(Path(sys.executable).with_name("wandb")), "sync", "--yes", *folders, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert KEY not in done.stdout + done.stderr
    assert set(held.runs) == {("ldm-tradeoffs", name)}
    assert held.runs["ldm-tradeoffs", name].column("loss") == [1.0, 0.5, 0.25]


@pytest.mark.slow
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
    assert len(list(tmp_path.glob(f"wandb/offline-run-*-{name}*"))) == 2


def test_a_server_that_repeats_the_key_does_not_bring_it_into_a_record(
    held: Held, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Errors of W&B end in sentences and in `failure.json` without the key, and without W&B's own traceback."""

    def refused(*arguments: object, **options: object) -> None:
        raise wandb.errors.CommError(f"permission denied for {KEY}")

    monkeypatch.setattr(wandb, "init", refused)
    plan, store = plan_of("ae=kl", "ae.f=4"), Store(tmp_path)
    stage = plan.stages["diffusion"]
    run = tracker(tmp_path, "online").stage_run(plan, stage, stage_named("diffusion").axes)
    with pytest.raises(UserError, match=r"permission denied for \(the API key\)") as raised, run:
        pass
    failure = store.fail("diffusion", stage.identity, raised.value, "python run.py")
    assert KEY not in failure.traceback + "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("machine", "server"),
    [("api.wandb.ai", None), ("api.forge.coreweave.com", None), ("here:8080", "http://here:8080")],
)
def test_the_login_of_netrc_is_a_key_too(
    machine: str, server: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text(f"machine {machine} login user password {KEY}")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    if server is not None:
        monkeypatch.setenv("WANDB_BASE_URL", server)
    check_login("this")
    assert without_key(ValueError(f"{KEY}\nis no key")) == "(the API key) is no key"


PROTOCOL = Protocol("generation", 64, "heldout", "a", 40, 32, "none", "e", 64, "w", "float32", "as held-out", 0)


def small_store(root: Path) -> tuple[Store, set[str]]:
    """A store of one cell whose stages from first stage to evaluation are finished; the ids of their runs."""
    store, plan = Store(root), plan_of("ae=kl", "ae.f=4")
    row = ResultRow("kd", 2.0, 64, PROTOCOL.id, 1.5, 2.5, images_seen=48, title="distance", group="generation")
    row = replace(row, headline_from=0, higher_is_better=False)
    small = replace(row, metric="fd", headline_from=5000)  # which no figure shows of 64 images
    psnr = ResultRow("psnr", 20.0, 64, PROTOCOL.id, title="PSNR", unit="dB", group="reconstruction", headline_from=0)
    rate = replace(psnr, metric="rate", value=0.5, title="rate", unit="bits/px", group="rate")
    rows = {
        "reconstruction": (psnr, rate, replace(psnr, metric="psnr_sample", variant="a posterior sample")),
        "progress": (replace(row, images_seen=16), row),
        "evaluation": (row, small),
    }
    made = ("first_stage", "reconstruction", "latents", "diffusion", "progress", "samples", "evaluation")
    for planned in (plan.stages[name] for name in made):
        store.begin(planned.name, planned.identity)
        if planned.name == "samples":
            picture = ROOT / "docs" / "pictures"
            source = next(picture.glob("*.png"))
            (store.folder("samples", planned.identity) / "grid.png").write_bytes(source.read_bytes())
        store.finish(
            StageRecord(
                planned.name,
                planned.identity,
                planned.settings,
                planned.parents,
                rows=rows.get(planned.name, ()),
                protocols={PROTOCOL.id: PROTOCOL.__dict__} if planned.name in rows else {},
                cost=Cost(3.0, 64, 1e9, 1024),
                environment={"host": "secret-host", "config": plan.config},
                created="2026-01-01T00:00:00",
                axes={axis: plan.axes[axis] for axis in stage_named(planned.name).axes if axis in plan.axes},
            )
        )
    point = Point(("ae=kl", "ae.f=4"), plan)
    store.write_sweep(as_sweep("one", "2026-01-01T00:00:00", "python run.py", [point], "evaluation", STAGES))
    return store, {f"{name}-{plan.stages[name].identity}" for name in made}


@pytest.mark.long
def test_a_store_is_pushed_once_into_any_project_and_read_back(
    held: Held, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every record is a run; a second push adds nothing; artifacts say what was made of what; results are the same."""
    store, stages = small_store(tmp_path / "store")
    store.write_shortlist(choice := Shortlist("abc", "2026-01-01", "psnr", False, 0, {"one": 20.0}, ("one",), ()))
    given = ["push", "--store", str(store.root), "--project", "other"]
    assert main(given) == 0
    said = capsys.readouterr().out
    assert "8 runs written to other" in said
    runs = {name: run for (project, name), run in held.runs.items() if project == "other"}
    assert stages < set(runs)
    assert {name.partition("-")[0] for name in set(runs) - stages} == {"cell", "sweep", "shortlist"}
    assert held.unknown == []
    made_of = {"latents": "first_stage", "diffusion": "latents", "samples": "diffusion", "evaluation": "samples"}
    made_of |= {"reconstruction": "first_stage", "progress": "diffusion"}
    for name in stages:
        stage = name.partition("-")[0]
        assert runs[name].logged == [name]
        used = {used.partition("-")[0] for used in runs[name].used}
        assert used == ({made_of[stage]} if stage in made_of else set())
    [progress] = [run for name, run in runs.items() if name.startswith("progress")]
    assert progress.column("progress/kd") == [2.0, 2.0]
    [cell] = [run for name, run in runs.items() if name.startswith("cell")]
    assert json.loads(cell.summary)["evaluation/kd"] == 2.0
    assert json.loads(cell.summary)["samples/images_per_second"] == pytest.approx(64 / 3)
    assert (cell.config["f"], cell.config["regulariser"]) == (4, "kl")
    assert any(name.endswith(".png") for name in cell.files)
    assert not any(b"secret-host" in content for run in runs.values() for content in run.files.values())

    lines = {key: len(run.history) for key, run in held.runs.items()}
    assert main(given) == 0
    assert "0 runs written to other" in capsys.readouterr().out
    assert {key: len(run.history) for key, run in held.runs.items()} == lines

    [sweep] = store.sweeps()
    store.write_sweep(replace(sweep, command="python run.py --again"))  # as a shortlist does, under its id
    assert main(given) == 0
    assert json.loads(held.runs["other", f"sweep-{sweep.sweep}"].files["sweep.json"])["command"].endswith("--again")

    back = tmp_path / "back"
    assert main(["pull", "other", "--into", str(back)]) == 0
    assert collect(back).to_csv() == collect(store.root).to_csv()
    assert Store(back).shortlist("abc") == choice
    assert main(["pull", "other", "--into", str(back)]) == 2
    assert "is a store already" in capsys.readouterr().out
    assert files_with_the_key(tmp_path) == []


@pytest.mark.long
def test_a_pushed_cell_has_what_all_its_sweeps_measured(held: Held, tmp_path: Path) -> None:
    """A second sweep adds the likelihood, and a third does not ask for it."""
    store, _ = small_store(tmp_path / "store")
    [sweep] = store.sweeps()
    overrides = ("ae=kl", "ae.f=4", "metrics.likelihood=true")
    plan = plan_of(*overrides)
    likelihood = plan.stages["likelihood"]
    store.begin("likelihood", likelihood.identity)
    rows = (ResultRow("bits_per_dim", 3.0, 64),)
    store.finish(StageRecord("likelihood", likelihood.identity, likelihood.settings, likelihood.parents, rows=rows))
    point = Point(overrides, plan)
    store.write_sweep(as_sweep("two", "2026-01-02T00:00:00", "python run.py", [point], "evaluation", STAGES))
    store.write_sweep(replace(sweep, sweep="three", created="2026-01-03T00:00:00"))
    assert main(["push", "--store", str(store.root)]) == 0
    [cell] = [run for (_, name), run in held.runs.items() if name.startswith("cell")]
    shown = json.loads(cell.summary)
    assert (shown["likelihood/bits_per_dim"], shown["evaluation/kd"]) == (3.0, 2.0)


@pytest.mark.long
def test_a_project_that_is_not_there_is_one_sentence(
    held: Held, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pull", "nothing", "--into", str(tmp_path / "back")]) == 2
    said = " ".join(capsys.readouterr().out.split())
    assert "the W&B project nothing cannot be read (Could not find project nothing)" in said
    assert KEY not in said


@pytest.mark.long
@pytest.mark.parametrize("content", [b'{"loss": 1}', b"[1]"])
def test_a_record_of_another_program_is_one_sentence(
    content: bytes, held: Held, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = held.run({"project": "foreign", "name": "theirs"})
    run.files["record.json"] = content
    assert main(["pull", "foreign", "--into", str(tmp_path / "back")]) == 2
    said = " ".join(capsys.readouterr().out.split())
    assert "cannot be read (record.json of its run theirs is none of this program's)" in said


def test_the_sentence_of_a_pull_is_found_among_what_packages_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = subprocess.CompletedProcess([], 2, "error: there is none\n", "warning: old\n")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: ended)
    with pytest.raises(UserError, match=r"^there is none$"):
        pulled("one", tmp_path)
    ended.stdout = ""
    with pytest.raises(UserError, match=r"^warning: old$"):
        pulled("one", tmp_path)


@pytest.mark.slow
def test_a_sweep_that_was_tracked_online_needs_no_push(
    held: Held, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its runs are those that a push would write, whose project holds the sweep then, and gives the same results."""
    store = tmp_path / "store"
    done = ran(
        sys.executable, "run.py", "scale=tiny", "ae.f=1", f"store={store}", "tracker.mode=online", *SHORT, folder=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert held.unknown == []
    [training] = [run for (_, name), run in held.runs.items() if name.startswith("diffusion")]
    losses = training.column("loss")
    assert losses
    before = set(held.runs)
    assert main(["push", "--store", str(store)]) == 0
    assert "0 runs written to ldm-tradeoffs" in capsys.readouterr().out
    [key] = set(held.runs) - before
    sweep = held.runs[key]
    assert "sweep.json" in sweep.files
    sweep.summary, sweep.files = "{}", {}  # as a push leaves it that was killed there
    assert main(["push", "--store", str(store)]) == 0
    assert "sweep.json" in sweep.files
    assert training.column("loss") == losses
    assert main(["pull", "ldm-tradeoffs", "--into", str(tmp_path / "back")]) == 0
    assert collect(tmp_path / "back").to_csv() == collect(store).to_csv()
    assert KEY not in done.stdout + done.stderr
    assert files_with_the_key(tmp_path) == []


@pytest.mark.slow
def test_figures_of_a_pushed_sweep_have_the_table_of_its_store(held: Held, swept_store: Path, tmp_path: Path) -> None:
    """Of a sweep that was really run, by the command lines that are documented."""
    store = copy_of(swept_store, tmp_path)
    assert main(["push", "--store", str(store), "--project", "one"]) == 0
    for source in (("--store", str(store)), ("--source", "wandb", "--project", "one")):
        drawn = ran(
            sys.executable, "analysis/plot_tradeoffs.py", *source, "--out", str(tmp_path / source[0]), folder=ROOT
        )
        assert drawn.returncode == 0, drawn.stdout + drawn.stderr
        assert KEY not in drawn.stdout + drawn.stderr
    missing = ran(
        sys.executable, "analysis/plot_tradeoffs.py", "--source", "wandb", "--project", "nothing", folder=ROOT
    )
    assert missing.returncode == 2
    assert missing.stderr == "the W&B project nothing cannot be read (Could not find project nothing)\n"
    own, read_back = ((tmp_path / name / "results.csv").read_bytes() for name in ("--store", "--source"))
    assert read_back == own


def panels_of(held: Held, kind: str) -> str:
    """What was saved of the one workspace or report."""
    [view] = [view for view in held.views.values() if view["type"] == kind]
    assert view["displayName"] == "Latent spaces compared"
    return str(view["spec"])


@pytest.mark.long
@pytest.mark.parametrize(("command", "kind"), [("workspace", "project-view"), ("report", "runs")])
def test_dashboards_show_each_view_of_the_cells_and_are_saved_once(
    held: Held, tmp_path: Path, command: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Saved twice, there is one; its runs are grouped over seeds alone."""
    store, _ = small_store(tmp_path / "store")
    held.run({"project": "one", "name": "any"})
    for _ in range(2):
        assert main([command, "--store", str(store.root), "--project", "one"]) == 0
        assert f"{command} saved: http://127.0.0.1" in " ".join(capsys.readouterr().out.split())
    spec = json.loads(panels_of(held, kind))
    assert held.unknown == []
    assert set(of_key(spec, "viewType")) == {
        *("Scatter Plot", "Bar Chart", "Run History Line Plot", "Parallel Coordinates Plot", "Media Browser")
    }
    assert set(of_key(spec, "groupBy")) == {"repetition_of.value"}
    assert {key["name"] for keys in of_key(spec, "grouping") for key in keys} == {"repetition_of.value"}
    axes = {(axes["xAxis"], axes["yAxis"]) for axes in of_key(spec, "config") if "yAxis" in axes}
    assert axes == {
        ("config:f.value", "summary:evaluation/kd"),
        ("summary:samples/images_per_second", "summary:evaluation/kd"),
        ("summary:reconstruction/rate", "summary:reconstruction/psnr"),
    }
    assert ["progress/kd"] in list(of_key(spec, "metrics"))
    assert KEY not in json.dumps(spec)


@pytest.mark.parametrize(("raised", "passes"), [("Workspace `x` not found in project `p`", True), ("old", False)])
def test_only_that_there_is_no_workspace_yet_lets_a_new_one_be_made(
    raised: str, passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else is wrong with the saved one, a second beside it would be no remedy."""
    from experiments.tracking import dashboard

    def from_url(url: str) -> None:
        raise ValueError(raised)

    monkeypatch.setattr(dashboard.ws.Workspace, "from_url", from_url)
    made = dashboard.ws.Workspace(entity="e", project="p")
    with contextlib.nullcontext() if passes else pytest.raises(ValueError, match=raised):
        dashboard._take_place(made)
    assert made._internal_id == ""


def test_dashboards_without_their_package_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "experiments.tracking.dashboard", raising=False)
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert main(["report", "--store", str(tmp_path)]) == 2
    assert "report needs a package: pip install -e '.[dashboard]'" in capsys.readouterr().out


def of_key(value: object, key: str) -> Iterator[object]:
    """All values under a key, however deep."""
    if isinstance(value, dict):
        yield from ([value[key]] if key in value else [])
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from of_key(inner, key)
