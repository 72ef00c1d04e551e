"""The doctor: what it says of machines, weights, stores and images that are made for it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_plans import settings_of

from experiments import claims
from experiments.commands import doctor
from experiments.commands.doctor import Verdict
from ldm.errors import UserError


def of(findings, topic):
    """The one finding of that topic."""
    [found] = [finding for finding in findings if finding.topic == topic]
    return found


def photographs(folder: Path, count: int) -> Path:
    """Images of noise, each another."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:03d}.png")
    return folder


def of_folder(folder: Path, *overrides: str):
    return settings_of("data=folder", f"data.path={folder}", *overrides)


def test_memory_is_read_and_little_of_it_is_noted(tmp_path):
    info = tmp_path / "meminfo"
    info.write_text(f"MemTotal: {16 * 2**20} kB\nMemAvailable: {12 * 2**20} kB\n")
    assert doctor._memory(info) == doctor.Finding("memory", Verdict.WORKS, "12.0 of 16.0 GiB free")
    info.write_text(f"MemTotal: {16 * 2**20} kB\nMemAvailable: {1 * 2**20} kB\n")
    assert doctor._memory(info).verdict is Verdict.NOTE


@pytest.mark.parametrize(
    ("policy", "is_there", "verdict", "text"),
    [
        ("auto", True, Verdict.WORKS, "compile=auto; Triton is here"),
        ("never", False, Verdict.WORKS, "compile=never; Triton is not here"),
        ("auto", False, Verdict.NOTE, "torch finds no Triton, so denoisers are called as they are"),
        ("always", False, Verdict.NOTE, "torch finds no Triton, so compile=always cannot be done"),
    ],
)
def test_whether_denoisers_can_be_compiled_for_a_gpu_is_said(monkeypatch, policy, is_there, verdict, text):
    monkeypatch.setattr(doctor, "has_compiler", lambda: is_there)
    found = doctor._compiler(policy)
    assert (found.verdict, found.text) == (verdict, text)
    assert bool(found.remedy) == (verdict is Verdict.NOTE)


def test_the_version_of_torch_is_compared_with_the_tested_one(tmp_path):
    here, constraints = torch.__version__.partition("+")[0], tmp_path / "constraints.txt"
    constraints.write_text(f"numpy==1\ntorch=={here}\n")
    assert doctor._versions(constraints).text.endswith("the tested one")
    constraints.write_text("torchvision==9\ntorch==1.0.0\n")
    other = doctor._versions(constraints)
    assert (other.verdict, other.text.rpartition("; ")[2]) == (Verdict.NOTE, "tested is torch 1.0.0")
    assert "not here" in doctor._versions(tmp_path / "none").text


@pytest.mark.parametrize(
    ("mode", "variable", "verdict", "words"),
    [
        ("offline", None, Verdict.WORKS, "offline: runs lie under"),
        ("online", None, Verdict.BROKEN, "tracker.mode=online, but nobody has logged in"),
        ("offline", "online", Verdict.BROKEN, "WANDB_MODE=online, but nobody has logged in"),
        ("of", None, Verdict.BROKEN, "tracker.mode=of is none of offline, online, disabled"),
    ],
)
def test_tracking_is_judged_as_a_run_would(mode, variable, verdict, words, tmp_path, monkeypatch):
    """Without a login; a variable of W&B overrules the setting."""
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    if variable is not None:
        monkeypatch.setenv("WANDB_MODE", variable)
    tracker = {"name": "wandb", "mode": mode, "project": "p", "entity": None}
    [found] = doctor.examine_tracking({"tracker": tracker, "store": str(tmp_path)})
    assert found.verdict is verdict
    assert words in found.text


def test_a_login_and_a_variable_that_overrules_the_setting_are_told(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", 40 * "a")
    monkeypatch.setenv("WANDB_MODE", "online")
    tracker = {"name": "wandb", "mode": "offline", "project": "p", "entity": None}
    note, found = doctor.examine_tracking({"tracker": tracker, "store": str(tmp_path)})
    assert (note.verdict, found.verdict) == (Verdict.NOTE, Verdict.WORKS)
    assert note.text == "W&B is online, as WANDB_MODE or WANDB_DISABLED says, not tracker.mode=offline"
    assert found.text.startswith("online")


def test_weights_matter_only_where_the_settings_name_them(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(doctor, "_is_reachable", lambda url: False)
    by_default = list(doctor.examine_weights(settings_of()))
    assert [f.verdict for f in by_default if f.topic.startswith(("Inception", "LPIPS"))] == [Verdict.NOTE] * 3
    wanting = settings_of("metrics.extractor=inception", "ae.loss.perceptual=lpips_vgg")
    chosen = list(doctor.examine_weights(wanting))
    assert of(chosen, "Inception").verdict is Verdict.BROKEN
    assert of(chosen, "LPIPS vgg").verdict is Verdict.BROKEN
    assert of(chosen, "LPIPS alex").verdict is Verdict.NOTE
    assert str(tmp_path) in of(chosen, "Inception").remedy
    monkeypatch.setattr(doctor, "_is_reachable", lambda url: True)
    assert of(list(doctor.examine_weights(wanting)), "Inception").verdict is Verdict.NOTE


def test_weights_at_a_given_path_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_is_reachable", lambda url: False)
    weights = tmp_path / "alex.pth"
    settings = settings_of("ae.loss.perceptual=lpips_alex", f"ae.loss.perceptual_path={weights}")
    assert f" at {weights}," in of(list(doctor.examine_weights(settings)), "LPIPS alex").remedy
    weights.write_bytes(b"0" * 3_000_000)
    found = of(list(doctor.examine_weights(settings)), "LPIPS alex")
    assert (found.verdict, found.text) == (Verdict.WORKS, "alex.pth, 3 MB")


def test_a_store_is_tried_without_leaving_anything_behind(tmp_path):
    [found] = doctor.examine_store(tmp_path / "not" / "yet")
    assert found.verdict is Verdict.WORKS
    assert "will be made" in found.text
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_a_file_or_holds_no_claims_is_broken(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("text")
    [found] = doctor.examine_store(tmp_path / "file")
    assert found.verdict is Verdict.BROKEN

    def open_again(path, how, **rest):
        return open(path, how.replace("x", "w"), **rest)

    monkeypatch.setattr(claims, "open", open_again, raising=False)
    [found] = doctor.examine_store(tmp_path / "store")
    assert found.verdict is Verdict.BROKEN
    assert "creates a file twice" in found.text


def test_images_that_cannot_be_used_are_named(tmp_path):
    folder = photographs(tmp_path / "photos", 30)
    (folder / "torn.png").write_bytes((folder / "000.png").read_bytes()[:60])
    findings = list(doctor.examine_data(of_folder(folder, "data.max_skipped_fraction=0.5"), tmp_path / "store"))
    torn = [finding for finding in findings if "torn.png" in finding.text]
    assert [finding.verdict for finding in torn] == [Verdict.NOTE]
    assert "1 will be skipped" in torn[0].text
    findings = list(doctor.examine_data(of_folder(folder, "data.max_skipped_fraction=0.001"), tmp_path / "store"))
    assert [f.verdict for f in findings if "torn.png" in f.text] == [Verdict.BROKEN]


def test_too_few_images_leave_out_the_metrics_that_need_more(tmp_path):
    folder = photographs(tmp_path / "photos", 30)
    findings = list(doctor.examine_data(of_folder(folder, "metrics.n_samples=200"), tmp_path / "store"))
    n_heldout = int(of(findings, "data=folder").text.split(" training and ")[1].split(" ")[0])
    assert n_heldout < 16
    metrics = of(findings, "metrics")
    assert f"kd_efficientnet_lite2_colour (needs 16, there are {n_heldout})" in metrics.text
    assert "is_efficientnet_lite2_colour" not in metrics.text  # it needs no reference
    findings = list(doctor.examine_data(settings_of("metrics.n_samples=100", "data.n_heldout=100"), tmp_path / "store"))
    assert of(findings, "metrics").verdict is Verdict.WORKS


def test_a_folder_that_is_no_store_is_not_made_one(tmp_path):
    (tmp_path / "plain").mkdir()
    found = list(doctor.examine_data(settings_of(), tmp_path / "plain"))
    assert Verdict.BROKEN not in [one.verdict for one in found]
    assert list((tmp_path / "plain").iterdir()) == []


def test_images_without_classes_and_settings_that_cannot_work_are_said(tmp_path):
    folder = photographs(tmp_path / "photos", 30)
    findings = list(doctor.examine_data(of_folder(folder), tmp_path / "store"))
    assert "no classes" in of(findings, "data=folder").text
    findings = list(doctor.examine_data(of_folder(folder, "ae.f=64"), tmp_path / "store"))
    assert of(findings, "plan").verdict is Verdict.BROKEN


@pytest.mark.long
def test_annotations_and_the_conditionings_they_allow(tmp_path):
    folder = photographs(tmp_path / "photos", 30)
    said = of(list(doctor.examine_data(of_folder(folder), tmp_path / "store")), "conditioning").text
    assert said.startswith("possible: none, superres, inpaint; class needs classes; text needs a caption")
    for image in folder.glob("*.png"):
        image.with_suffix(".txt").write_text("a photograph")
    (folder / "boxes.json").write_text("{}")
    findings = list(doctor.examine_data(of_folder(folder), tmp_path / "store"))
    assert of(findings, "captions").verdict is Verdict.WORKS
    assert of(findings, "boxes").verdict is Verdict.NOTE
    assert "boxes.json has no list 'images'" in of(findings, "boxes").text
    assert of(findings, "conditioning").text.startswith("possible: none, text, superres, inpaint; ")
    asked = list(doctor.examine_data(of_folder(folder, "conditioning=layout"), tmp_path / "store"))
    assert of(asked, "boxes").verdict is of(asked, "plan").verdict is Verdict.BROKEN
    scenes = list(doctor.examine_data(settings_of(), tmp_path / "store"))
    assert of(scenes, "label maps").text == "10 classes: " + of(scenes, "label maps").text.partition(": ")[2]
    assert "needs" not in of(scenes, "conditioning").text


def test_the_store_is_given_as_an_option_or_as_an_override():
    assert doctor._with_store(["a=1", "--store", "x", "store=y"]) == ["a=1", 'store="x"']
    assert doctor._with_store(["--store=x (1)", "a=1"]) == ["a=1", 'store="x (1)"']
    assert doctor._with_store(["a=1", "store=y"]) == ["a=1", "store=y"]
    with pytest.raises(UserError, match="--store"):
        doctor._with_store(["--store"])


@pytest.mark.long
def test_the_exit_code_says_whether_the_main_job_can_run(tmp_path, capsys):
    store = ["--store", str(tmp_path / "store")]
    assert doctor.main([*store, "scale=tiny"]) == 0
    assert "the main job can run: python run.py" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert doctor.main([*store, "scale=tiny", "data=folder", f"data.path={tmp_path / 'empty'}"]) == 1
    assert "data=folder must be mended first" in capsys.readouterr().out
    assert doctor.main([*store, "scale=tiny", "data.n_trains=3"]) == 2
    assert "did you mean 'data.n_train'?" in capsys.readouterr().out
    assert not (tmp_path / "store").exists()
