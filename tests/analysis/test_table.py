"""The summary page: lines that differ in what was measured differ in what they say of it."""

import dataclasses

import pytest
from synthetic_store import Recipe, build

from analysis.collect import read_study
from analysis.figures import FIGURES
from analysis.table import markdown

DENSITY = "density of latents, nats/dim"


def section(page, title):
    """Header and lines of a section's table, as cells."""
    body = next(part for part in page.split("\n## ") if part.startswith(title))
    lines = [line.strip("|").split(" | ") for line in body.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in (lines[0], *lines[2:])]


@pytest.fixture(scope="module")
def weighted(tmp_path_factory):
    """The page of first stages of two weights and two seeds."""
    path = tmp_path_factory.mktemp("weighted")
    build(path, Recipe(regularisers=("kl",), factors=(4, 8), steps=(5,), kl_weights=(1e-6, 100), ae_seeds=(0, 1)))
    return markdown(read_study(path))


@pytest.mark.long
def test_every_first_stage_says_what_it_is(weighted):
    header, *lines = section(weighted, "First stages, on held-out images")
    assert header[:5] == ["f", "regulariser", "channels", "ae settings", "ae seed"]
    assert len({tuple(line[:5]) for line in lines}) == len(lines) == 8
    assert ["4", "KL", "3", "ae.kl_weight=100", "1"] in [line[:5] for line in lines]


def test_every_floor_says_what_it_is(weighted):
    _, *lines = section(weighted, "Floors")
    named = [line[:3] for line in lines]
    assert len({tuple(line) for line in named}) == len(named) == 2 * (1 + 8)
    assert any(line[0] == "training images through KL f=4, ae seed 1, ae.kl_weight=100" for line in named)


@pytest.mark.long
@pytest.mark.parametrize(
    ("reference", "measured", "against"),
    [("heldout", "training images", "held-out images"), ("train", "held-out images", "training images")],
)
def test_floors_name_the_splits_that_were_compared(tmp_path, reference, measured, against):
    build(tmp_path, Recipe(regularisers=("kl",), factors=(4,), steps=(5,), reference=reference))
    study = read_study(tmp_path)
    _, *lines = section(markdown(study), "Floors")
    assert {tuple(line[:2]) for line in lines} == {(measured, against), (f"{measured} through KL f=4", against)}
    legend = {text.get_text() for text in FIGURES["quality_vs_f"].draw(study).legends[0].get_texts()}
    assert {f"floor: {measured} against {against}", f"floor: decoded {measured}"} < legend


@pytest.mark.long
@pytest.mark.parametrize("axis", ["budget", "extractor"])
def test_cells_of_two_budgets_or_judges_are_told_apart(tmp_path, axis):
    build(tmp_path, Recipe(regularisers=("kl",), factors=(4,), steps=(5,), kl_weights=(1, 2)))
    study = read_study(tmp_path)
    first, second = study.frame["ae_settings"].replace("", None).dropna().unique()
    frame = study.frame.assign(**{axis: study.frame["ae_settings"], "ae_settings": ""})
    for title in ("Cells", "First stages"):
        header, *lines = section(markdown(dataclasses.replace(study, frame=frame)), title)
        assert [line[header.index(axis)] for line in lines] == [first, second]


@pytest.fixture(scope="module")
def on_request(tmp_path_factory):
    """The page of a sweep with coded latents and likelihood."""
    path = tmp_path_factory.mktemp("on_request")
    build(path, Recipe(regularisers=("kl",), factors=(1, 4), steps=(5,), on_request=True))
    return markdown(read_study(path))


@pytest.mark.long
def test_every_measured_column_says_of_how_many_images(on_request):
    header, *_ = section(on_request, "Cells")
    measured = [name for name in header if name.startswith(("PSNR", "rate", "reconstruction", "kernel", "Fréchet"))]
    assert len(measured) == 5
    assert all("(n = " in name for name in measured)


def test_coded_latents_and_bounds_have_lines_of_their_own(on_request):
    header, *lines = section(on_request, "Coded latents")
    assert header == ["f", "regulariser", "channels", "coded latents, bits/px (n = 512)"]
    assert [line[:2] for line in lines] == [["4", "KL"]]
    header, *lines = section(on_request, "Likelihood")
    found = [dict(zip(header, line, strict=True)) for line in lines]
    bound, density = (f"bound on the {what} (n = 100)" for what in ("likelihood of images, bits/dim", DENSITY))
    assert [(line["f"], line[bound][:3]) for line in found] == [("1", "3.7"), ("4", "–")]
    assert [line[density][:3] for line in found] == ["–", "3.7"]
    assert all("[" in line["RMSE on 0–255 of the last guess, grey levels (n = 100)"] for line in found)
