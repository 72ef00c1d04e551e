"""experiments.api: the same samples, reconstructions and table as the program's own, and one sentence for mistakes."""

import ast
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from program import ROOT, SHORT, SWEEP, copy_of

from analysis.plot_tradeoffs import draw
from experiments import api
from experiments.api import Cell, Results, UserError, as_pixels, figure, load, run
from experiments.saved_samples import IMAGES
from experiments.stages.samples import first_images

NOTEBOOK = ROOT / "docs" / "notebooks" / "own_images.ipynb"


@pytest.fixture(scope="module")
def results(swept_store: Path) -> Results:
    """Pixels, KL and VQ at f = 4."""
    return load(swept_store, device="cpu")


@pytest.fixture(scope="module")
def cell(results: Results) -> Cell:
    """A class-conditional cell."""
    return results.cell("KL f=4")


def artifact(cell: Cell, stage: str, name: str) -> Path:
    """A file of an artifact of a cell."""
    return cell.store.folder(stage, cell.record.stages[stage]) / name


@pytest.mark.long
def test_cells_are_named_by_what_sets_them_apart(results: Results) -> None:
    names = [cell.name for cell in results.cells]
    assert len(set(names)) == 3
    assert {name[:6] for name in names} > {"KL f=4", "VQ f=4"}
    assert results.cell(results.cells[1].id) is results.cells[1]


@pytest.mark.long
def test_a_cell_samples_what_it_was_measured_by(cell: Cell) -> None:
    """Bit for bit, from networks, seeds and conditions alone; fewer are the first of them; another seed, others."""
    record = cell.store.record("samples", cell.record.stages["samples"])
    assert record is not None
    n = record.config["n_samples"]
    side = record.facts["size"][0]
    saved = first_images(lambda name: artifact(cell, "samples", name), n, side, side)
    assert not artifact(cell, "samples", IMAGES).exists()
    drawn = as_pixels(cell.sample(n))
    assert np.array_equal(drawn, saved.permute(0, 2, 3, 1).numpy())
    assert np.abs(as_pixels(cell.sample(3)).astype(int) - drawn[:3]).max() <= 1
    assert np.abs(as_pixels(cell.sample(3, seed=7)).astype(int) - drawn[:3]).max() > 10


@pytest.mark.long
def test_a_class_is_asked_for_by_its_name_or_by_an_image_of_it(cell: Cell) -> None:
    images = cell._job("samples").image_sets.open("train")
    one, two = images.classes[2], images.classes[0]
    positions = [int(np.flatnonzero(images.labels == images.classes.index(name))[0]) for name in (one, two)]
    by_name, by_image = cell.sample(3, 1, [one, two]), cell.sample(3, 1, positions)
    assert torch.equal(by_name, by_image)
    of_numpy = cell.sample(1, 1, np.int64(positions[0]))  # type: ignore[arg-type]
    assert torch.equal(of_numpy, cell.sample(1, 1, positions[0]))
    assert not torch.equal(by_name[:1], cell.sample(1, 1, two))
    assert torch.equal(cell.sample(2, 1, one)[0], by_name[0])


@pytest.mark.parametrize("name", ["KL f=4", "VQ f=4"])
def test_encoding_and_decoding_lose_what_was_measured(results: Results, name: str) -> None:
    """The errors of each image that the stage wrote, from images, first stage and decoder put together here."""
    cell = results.cell(name)
    with np.load(artifact(cell, "reconstruction", "images.npz")) as measured:
        indices, errors = measured["index"], measured["mse"]
    images = cell.images(max(indices) + 1)[indices.tolist()]
    latents = cell.encode(images)
    assert latents.shape == (len(images), cell.first_stage.channels, 8, 8)
    difference = as_pixels(images).astype(float) - as_pixels(cell.decode(latents))
    np.testing.assert_allclose((difference**2).mean(axis=(1, 2, 3)), errors, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_floats_of_any_width_are_taken(cell: Cell, dtype: torch.dtype) -> None:
    latents = cell.encode(cell.images(2).to(dtype))
    assert latents.dtype == torch.float32
    assert cell.decode(latents.to(dtype)).dtype == torch.float32


@pytest.mark.long
def test_the_frame_is_the_table_of_results(results: Results, one_figure: None, tmp_path: Path) -> None:
    draw(results.store, tmp_path, results.sweep, allow_mixed=False)
    written = pd.read_csv(tmp_path / "results.csv")
    assert list(results.frame.columns) == list(written.columns)
    np.testing.assert_allclose(results.frame["value"].astype(float), written["value"])


@pytest.fixture
def one_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all else."""
    monkeypatch.setattr("analysis.figures.FIGURES", {})


def test_mistakes_are_one_sentence(results: Results, cell: Cell, tmp_path: Path) -> None:
    pixels = torch.zeros(1, 3, 30, 32)
    for sentence, call in {
        "no cell begins with 'KL f=5': there are": lambda: results.cell("KL f=5"),
        "several cells begin with ''": lambda: results.cell(""),
        "n=0 is no number of images": lambda: cell.sample(0),
        "n=-1 is no number of images": lambda: cell.images(-1),
        "'test' is no split (there are train, heldout)": lambda: cell.images(4, "test"),  # type: ignore[arg-type]
        "these are of type ndarray (torch.as_tensor makes": lambda: cell.encode(pixels.numpy()),  # type: ignore[arg-type]
        "condition=0.5 is none: give texts": lambda: cell.sample(2, condition=0.5),  # type: ignore[arg-type]
        "'cart' is no class of these images (there are": lambda: cell.sample(1, condition="cart"),
        "condition=[] is none: give texts": lambda: cell.sample(1, condition=[]),
        "condition=[1, 'car'] is none": lambda: cell.sample(2, condition=[1, "car"]),  # type: ignore[list-item]
        "positions of images from 0 to": lambda: cell.sample(1, condition=10**6),
        "these are (1, 3, 30, 32) of uint8: bytes become such": lambda: cell.encode(pixels.byte()),
        "are no multiples of f=4": lambda: cell.encode(pixels),
        "latents are float tensors (N, 3, h, w) here": lambda: cell.decode(torch.zeros(1, 9, 2, 2)),
        "did you mean 'quality_vs_f'?": lambda: figure(results, "qualty_vs_f"),
        "nothing was measured for the figure 'quality_vs_nfe'": lambda: figure(results, "quality_vs_nfe"),
        "metric 'fidd' is none of": lambda: figure(results, "quality_vs_f", metric="fidd"),
        "There is no store at": lambda: load(tmp_path / "none"),
        "overrides are a list of texts, such as ['ae.f=4']": lambda: run("ae.f=4"),
        "'-m' is no override": lambda: run(["-m", "ae.f=4"]),
    }.items():
        with pytest.raises(UserError) as raised:
            call()
        assert sentence in str(raised.value)


def test_a_store_that_cannot_be_written_is_read(
    swept_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = copy_of(swept_store, tmp_path)  # without claims
    monkeypatch.setattr("os.access", lambda *_: False)
    found = load(store, device="cpu").cell("KL f=4")
    assert found.sample(1).shape == (1, 3, 32, 32)
    assert not (store / "claims").exists()
    shutil.rmtree(store / "data")
    with pytest.raises(UserError, match="the heldout images are not decoded yet in"):
        found.images(1)


def test_a_cell_without_samples_says_what_is_missing(swept_store: Path, tmp_path: Path) -> None:
    store = copy_of(swept_store, tmp_path)
    found = load(store, device="cpu").cell("KL f=4")
    artifact(found, "samples", "record.json").unlink()
    with pytest.raises(UserError, match="KL f=4, 2 steps has no finished samples in"):
        found.sample(1)
    assert found.images(2).shape == (2, 3, 32, 32)


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("print('note'); print('error: ae.f=5 is no factor'); sys.exit(2)", "ae.f=5 is no factor"),
        ("print('out of memory'); sys.exit(3)", "out of memory"),
        ("os.kill(os.getpid(), 9)", "run.py was ended by signal 9: the same call goes on"),
    ],
)
def test_what_a_run_says_last_is_what_is_raised(
    script: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.py").write_text(f"import os, sys\n{script}\n")
    monkeypatch.setattr(api, "ROOT", tmp_path)
    with pytest.raises(UserError) as raised:
        run(["ae.f=5"], tmp_path / "store")
    assert str(raised.value).startswith(sentence)


SAVES_LATE = """
import os, pathlib, signal, sys, time
def save(*_):
    time.sleep(1.0)
    print("saving", flush=True)
    pathlib.Path(__file__).with_name("saved").touch()
    sys.exit()
signal.signal(signal.SIGTERM, save)
os.kill(os.getppid(), signal.SIGINT)
time.sleep(60)
"""


@pytest.mark.long
def test_an_interrupted_run_saves_before_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.py").write_text(SAVES_LATE)
    monkeypatch.setattr(api, "ROOT", tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(["ae.f=4"], tmp_path / "store")
    assert (tmp_path / "saved").exists()


@pytest.mark.slow
def test_a_run_is_that_of_the_command_line(
    swept_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder with a blank in its name; what is there is not computed again, and settings that fail say why."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (tmp_path / "my results").mkdir()
    store = copy_of(swept_store, tmp_path / "my results")
    again = run([*SWEEP[1:], "scale=tiny", "tracker.mode=disabled"], store)
    assert "0 computed now" in capsys.readouterr().out
    assert [one.id for one in again.cells] == [one.id for one in load(swept_store).cells]
    with pytest.raises(UserError, match=r"ae\.f"):
        run(["ae.f=5", *SHORT, "scale=tiny"], store)


def code_cells() -> list[str]:
    """The code of the notebook."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_the_notebook_compiles_and_uses_public_names_alone() -> None:
    """Names that it imports, and attributes of results, cells and answers."""
    trees = [ast.parse(code) for code in code_cells()]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    imports = {node.module: [alias.name for alias in node.names] for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {module for module in imports if module not in sys.stdlib_module_names} == {"PIL", "experiments.api"}
    assert set(imports["experiments.api"]) <= set(api.__all__)
    used: dict[str, set[str]] = {}
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used.setdefault(node.value.id, set()).add(node.attr)
    for name, cls in (("results", Results), ("cell", Cell), ("answer", api.Recommendation)):
        known = {*dir(cls), *cls.__dataclass_fields__}
        assert used[name]
        assert {attribute for attribute in used[name] if attribute.startswith("_") or attribute not in known} == set()


def test_the_notebook_holds_no_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []


@pytest.mark.slow
def test_the_notebook_goes_from_a_folder_to_a_recommendation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Executed as it stands, but for shorter trainings, in an empty folder."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    text = NOTEBOOK.read_text(encoding="utf-8")
    for long, short in {
        "ae.training.images=2000": "ae.training.images=400",
        "trainer.images=2000": "trainer.images=400",
    }.items():
        assert text.count(long) == 1
        text = text.replace(long, short)
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    said = "".join(output.get("text", "") for output in outputs)
    assert "Take " in said or "No recommendation" in said
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 3
