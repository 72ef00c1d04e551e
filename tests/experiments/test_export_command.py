"""The command `python -m ldm.interop.export` on a trained store."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from compvis_models import PIXELS, made_of, write
from program import ROOT, environment, python, run
from safetensors.torch import load_file
from tiny_plans import plan_of

from experiments.cli import assigned
from experiments.commands.export import _overrides_of, main
from experiments.commands.model_card import sampled_instead
from experiments.compose import composed
from experiments.main import plan_of as plan_of_run
from experiments.store import Store
from ldm.interop import load, sample
from ldm.pretrained.torchvision_ops import ensure_torchvision
from ldm.records import Cell, StageRecord, Sweep, read_record

CELL = ("ae=vq", "ae.f=16")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one class-conditional cell, evaluated."""
    store = tmp_path_factory.mktemp("export") / "store"
    done = run(store, *CELL)
    assert done.returncode == 0, done.stdout + done.stderr
    return store


def export(store: Path, out: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return python("-m", "ldm.interop.export", out, *arguments, f"store={store}")


def record_of(store: Path, stage: str) -> StageRecord:
    [folder] = (store / stage).iterdir()
    record = read_record(folder)
    assert record is not None
    return record


@pytest.mark.long
def test_what_the_pipeline_does_otherwise_is_told():
    unlike = {"sampler.spacing": "trailing", "sampler.clip": "none"}
    guided = {"guidance.interval": "[0.0,1.0]"}
    cases = {
        (): unlike | guided,
        ("guidance.scale=1",): unlike,
        ("sampler=heun", "sampler.shift=2"): {"sampler": "ddim", "sampler.shift": "null"} | unlike | guided,
        ("sampler.eta=0.5", "guidance.rescale=0.7"): {"sampler.eta": "0.0", "guidance.rescale": "0.0"}
        | unlike
        | guided,
        ("guidance.guide=milestone", "guidance.scale=2"): {"guidance.guide": "unconditional"} | unlike,
        ("sampler.spacing=trailing", "sampler.clip=none", "guidance.interval=[0,1]"): {},
    }
    for overrides, told in cases.items():
        assert sampled_instead(plan_of(*overrides, scale="cpu").config, "trailing") == told


@pytest.mark.slow
def test_a_cell_goes_out_with_its_card_and_samples_alike(store, tmp_path):
    out = tmp_path / "out"
    done = export(store, out, "scale=tiny", *CELL)
    assert done.returncode == 0, done.stdout + done.stderr
    said = " ".join(done.stdout.split())
    assert "does not sample as the cell does, but under sampler.spacing=trailing; to measure that" in said
    assert f"python run.py scale=tiny {' '.join(CELL)} store={store} sampler.spacing=trailing" in said
    model = load(out)
    [weights] = (store / "diffusion").glob("*/weights.safetensors")
    trained = load_file(weights)
    own = {f"denoiser.{name}": value for name, value in model.network.state_dict().items()}
    own |= {f"conditioning.{name}": value for name, value in model.conditioning.named.state_dict().items()}
    assert own.keys() == trained.keys()
    assert all(torch.equal(own[name], value) for name, value in trained.items())
    [weights] = (store / "first_stage").glob("*/weights.safetensors")
    trained = {name: value for name, value in load_file(weights).items() if "usage" not in name}
    assert all(torch.equal(model.first_stage.state_dict()[name], value) for name, value in trained.items())
    latents = record_of(store, "latents").facts
    assert model.latent_scale().std.tolist() == pytest.approx(latents["std"], rel=1e-14)

    ensure_torchvision()
    diffusers = pytest.importorskip("diffusers")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(out, trust_remote_code=True)
    x_T, labels = torch.randn(2, *latents["shape"], generator=torch.Generator().manual_seed(1)), torch.tensor([0, 2])
    z = sample(model, x_T, 10, spacing="trailing", final="clean", condition=labels)
    theirs = pipeline(class_labels=labels, latents=x_T, num_inference_steps=10, output_type="latent").images
    assert (z - theirs).abs().max() < 1e-4 * theirs.abs().max()

    card = (out / "README.md").read_text()
    evaluation = record_of(store, "evaluation")
    assert evaluation.rows
    for row in evaluation.rows:
        assert f"| {row.metric} | {row.value:.6g} |" in card
        assert f'"{row.protocol}"' in card
    diffusion = record_of(store, "diffusion")
    assert f"| diffusion | {diffusion.identity} | {diffusion.facts['images_seen']:,} |" in card
    assert "trust_remote_code=True" in card
    assert "are those of this program under\n`sampler.spacing=trailing`." in card


@pytest.mark.slow
def test_a_cell_by_its_id_and_what_is_not_trained(store, tmp_path, capsys):
    [sweep] = Store(store).sweeps()
    [cell] = sweep.cells
    place, out = f"store={store}", str(tmp_path / "out")
    assert main([out, "--cell", cell.cell[:6], place]) == 0
    assert (tmp_path / "out" / "model_index.json").exists()
    other = str(tmp_path / "other")
    for arguments, told in (
        ((out, "scale=tiny", *CELL), "is there already"),
        ((other, "--cell", "nosuch"), "knows no cell nosuch"),
        ((other, "--cell", cell.cell, "ae.f=4"), "nothing else"),
        ((other, "scale=tiny", "ae=vq", "ae.f=4"), "no first_stage of this cell: train it first with python run.py"),
    ):
        capsys.readouterr()
        assert main([*arguments, place]) == 2
        assert told in " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / "other").exists()


def test_a_store_that_is_not_there_is_not_made(tmp_path, capsys):
    missing = tmp_path / "nowhere"
    for arguments in (("--cell", "0"), ("scale=tiny",)):
        assert main([str(tmp_path / "out"), *arguments, f"store={missing}"]) == 2
        assert "there is no store at" in " ".join(capsys.readouterr().out.split())
    assert list(tmp_path.iterdir()) == []


def test_a_cell_is_found_in_a_store_of_any_name(tmp_path):
    store = Store(tmp_path / "results (2), [x]={y} 'z' #1")
    cell = Cell("abc", {}, ("scale=tiny", "store=elsewhere"), {})
    store.write_sweep(Sweep("20260101-a", "2026-01-01", "", (cell,)))
    given = assigned("store", str(store.root))
    assert _overrides_of("abc", [given]) == ["scale=tiny", given]


@pytest.mark.long
def test_an_average_that_was_asked_for_and_not_made_is_missed(tmp_path, capsys):
    store, overrides = Store(tmp_path / "store"), ("scale=tiny", "trainer.ema_length=0.1")
    (tmp_path / "store" / "sweeps").mkdir()
    plan = plan_of_run(composed(overrides), store)
    for name in ("first_stage", "latents", "diffusion"):
        store.finish(StageRecord(name, plan.stages[name].identity, {}, {}))
    assert main([str(tmp_path / "out"), *overrides, "until=diffusion", f"store={store.root}"]) == 2
    said = " ".join(capsys.readouterr().out.split())
    assert "has no averaging of this cell: train it first with python run.py scale=tiny" in said
    assert "until=diffusion" not in said  # which would not make it


def test_a_given_denoiser_is_refused_in_one_sentence(tmp_path, capsys):
    write(tmp_path / "given", *made_of(PIXELS))
    (tmp_path / "store" / "sweeps").mkdir(parents=True)
    given = ("scale=tiny", "ae=pretrained", "denoiser=pretrained", f"denoiser.path={tmp_path / 'given'}")
    assert main([str(tmp_path / "out"), *given, f"store={tmp_path / 'store'}"]) == 2
    assert "denoiser=pretrained was not trained here" in " ".join(capsys.readouterr().out.split())


@pytest.mark.long
def test_the_public_name_of_the_command():
    # A process of its own, in which nothing is imported yet.
    command = [sys.executable, "-m", "ldm.interop.export", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=ROOT)
    assert done.returncode == 0
    assert "python -m ldm.interop.export" in done.stdout
