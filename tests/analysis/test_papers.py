"""Published numbers: read as printed, drawn only beside the same metric, and never compared unwarned."""

import math
from dataclasses import replace

import pytest
from reading_figures import said
from synthetic_store import Recipe, build, distortion, frechet_distance, psnr

from analysis import overlays, papers
from analysis.checklist import entries, markdown
from analysis.collect import read_study
from analysis.figures import FIGURES
from analysis.literature import Measured
from analysis.plot_tradeoffs import main

LIKE_THE_PAPER = Recipe(
    regularisers=("kl", "vq"),
    factors=(1, 4, 8),
    steps=(10, 50),
    n=50_000,
    extractors=("inception",),
    data="imagenet",
    resolution=256,
    reference="train",
)


@pytest.fixture(scope="module")
def alike(tmp_path_factory):
    """A made-up study of ImageNet under the paper's protocol of Tables 1 and 10."""
    store = tmp_path_factory.mktemp("alike")
    build(store, LIKE_THE_PAPER)
    return read_study(store)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A made-up study of emoji, as most are."""
    store = tmp_path_factory.mktemp("other")
    build(store, Recipe(factors=(1, 4), steps=(10,)))
    return read_study(store)


def _number(where, metric, **axes):
    [found] = [
        item
        for item in papers.ldm()
        if item.where.endswith(where)
        and item.metric == metric
        and all(getattr(item, axis) == value for axis, value in axes.items())
    ]
    return found


def _entry(study, *where, **axes):
    wanted = _number(*where, **axes)
    [found] = [entry for entry in entries(study, papers.ldm()) if entry.number == wanted]
    return found


def _grey(axes):
    return {
        (round(float(line.get_xdata()[0]), 6), round(float(line.get_ydata()[0]), 6))
        for line in axes.get_lines()
        if line.get_marker() == "x"
    }


@pytest.mark.parametrize(
    ("where", "metric", "axes", "value"),
    [
        ("Table 8", "rfid", {"regulariser": "kl", "f": 8}, 0.90),
        ("Table 8", "psnr", {"regulariser": "vq", "f": 8, "codes": 256}, 22.35),
        ("Table 1", "fid", {"f": 8, "steps": 200, "eta": 0.0}, 4.02),
        ("Table 10", "fid", {"f": 4, "guidance_scale": 1.5}, 3.60),
        ("Table 10", "is", {"f": 4, "guidance_scale": 1.0}, 103.49),
        ("Table 2", "fid", {"guidance_scale": 1.5}, 12.63),
        ("Table 9", "fid", {"f": 8}, 42.06),
        ("Table 5", "fid", {"model": "LDM-4, big, against held-out images"}, 2.4),
        ("Table 5", "fid", {"model": "LDM-4, big, against training images"}, 4.3),
        ("Table 5", "superres_ssim", {"model": "LDM-4", "steps": 100}, 0.69),
        ("Table 11", "is", {"model": "LDM-4, +15 ep."}, 169.76),
        ("Table 7", "inpaint_fid", {"model": "LDM-4, big, w/ ft"}, 1.5),
        ("Table 7", "inpaint_lpips_mask40_50", {"model": "LDM-4, w/o attn"}, 0.259),
    ],
)
def test_tables_are_read_as_they_are_printed(where, metric, axes, value):
    assert _number(where, metric, **axes).value == value


def test_axes_follow_from_what_is_printed():
    guided = _number("Table 10", "fid", f=4, guidance_scale=1.5)
    assert (guided.steps, guided.images_seen) == (250, 178_000 * 1200)
    assert guided.measured == Measured("imagenet", 256, "class", 50_000, "train")
    # 16,384 codes are 14 bits for 8 x 8 pixels.
    assert _number("Table 8", "psnr", regulariser="vq", codes=16384, f=8).index_bits_per_pixel == 14 / 64
    assert _number("Table 8", "psnr", regulariser="kl", f=4).index_bits_per_pixel is None
    assert {item.regulariser for item in papers.ldm() if item.f == 1} == {"identity"}
    # Figure 6 counts steps; LDM-1 saw 7 images in each.
    assert max(i.images_seen for i in papers.ldm() if i.model == "LDM-1" and "Figure 6" in i.where) == 14_000_000


def test_ddpm_s_curve_ends_at_its_printed_rate():
    curve = papers.ddpm_rate_distortion()
    assert tuple(curve.loc[curve["steps"] == 1000, ["bits_per_dim", "rmse255"]].iloc[0]) == (1.77581, 0.95136)
    assert curve.sort_values("steps")["rmse255"].is_monotonic_decreasing


def test_every_row_names_its_source():
    files = sorted(papers.FOLDER.glob("*.csv"))
    assert len(files) > 20
    for path in files:
        rows = papers.read(path.stem)
        assert rows
        assert all(row["source"].strip() for row in rows), path.name


@pytest.mark.long
def test_numbers_measured_alike_are_compared(alike):
    [entry] = [
        e for e in entries(alike, papers.ldm()) if e.number == _number("Table 10", "fid", f=4, guidance_scale=1.0)
    ]
    assert entry.is_comparable
    # 50 steps are nearer to 250 than 10 are; what is printed of settings is that of the models.
    assert entry.row["steps"] == 50
    assert entry.difference == pytest.approx(frechet_distance("vq", 4, 50) - 10.56)
    assert "steps (250; 50)" in entry.settings
    line = next(item for item in markdown(alike, papers.ldm()).splitlines() if "LDM-4, 178K steps | FID" in item)
    assert f"{entry.difference:+.3g}" in line


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": "emoji"}, "data (imagenet; emoji)"),
        ({"resolution": 64}, "resolution (256; 64)"),
        ({"n": 10_000}, "n (50000; 10000)"),
        ({"reference": "heldout"}, "reference (train; heldout)"),
        ({"extractors": ("efficientnet_lite2",)}, "metric (FID; fd_efficientnet_lite2)"),
    ],
)
def test_a_difference_of_protocol_is_said_and_no_difference_of_values_given(tmp_path, change, said):
    build(tmp_path, replace(LIKE_THE_PAPER, factors=(4,), steps=(10,), **change))
    study = read_study(tmp_path)
    [entry] = [
        e for e in entries(study, papers.ldm()) if e.number == _number("Table 10", "fid", f=4, guidance_scale=1.0)
    ]
    assert entry.protocol == (said,)
    line = next(item for item in markdown(study, papers.ldm()).splitlines() if "LDM-4, 178K steps | FID" in item)
    assert said in line
    assert "| – |" in line


def test_what_a_paper_does_not_say_is_no_agreement(alike):
    entry = _entry(alike, "Figure 6", "fid", f=4, images_seen=80_000_000)
    assert "reference (not stated; train)" in entry.protocol


SUPERRES = replace(
    LIKE_THE_PAPER, regularisers=("vq",), factors=(4,), steps=(100,), conditioning="superres", task="bicubic, 4 times"
)
INPAINT = replace(SUPERRES, data="places", conditioning="inpaint", task="masks thin, medium", resolution=512, n=30_000)


def _protocols(study, table):
    """In what each number of a table was measured otherwise, by metric and model."""
    found = [entry for entry in entries(study, papers.ldm()) if entry.number.where.endswith(table)]
    return {(entry.number.metric, entry.number.model): (entry.row["metric"], entry.protocol) for entry in found}


RGB = "implementation (not stated; RGB, mean over images)"


def test_super_resolution_stands_beside_the_rows_of_its_task(tmp_path):
    build(tmp_path, SUPERRES)
    listed = _protocols(read_study(tmp_path), "Table 5")
    # Two models, those guided by another network left out; the made-up study has no IS.
    assert len(listed) == 8
    # Of brightness alone, or of all channels? The paper does not say.
    assert listed["superres_psnr", "LDM-4"] == ("superres_psnr", (RGB,))
    assert listed["superres_ssim", "LDM-4, big"] == (
        "superres_ssim",
        ("implementation (not stated; RGB, Gaussian window)",),
    )
    # Made-up conditions are "as held-out"; the split is what tells the two FIDs apart.
    unlike, asked = "n (not stated; 50000)", "class balance (as in the held-out images; as held-out)"
    assert listed["fid", "LDM-4, against training images"] == ("fid", (unlike, asked))
    assert listed["fid", "LDM-4, against held-out images"] == ("fid", (unlike, "reference (heldout; train)", asked))


@pytest.mark.parametrize("task", ["bicubic, 8 times", None])
def test_an_easier_or_harder_task_is_a_difference(tmp_path, task):
    build(tmp_path, replace(SUPERRES, task=task))
    [[_, protocol]] = [
        v for k, v in _protocols(read_study(tmp_path), "Table 5").items() if k == ("superres_psnr", "LDM-4")
    ]
    assert protocol == (RGB, f"task (bicubic, 4 times; {task or 'not stated'})")


@pytest.mark.parametrize(("extractor", "fid"), [("inception", "inpaint_fid"), ("efficientnet_lite2", None)])
def test_inpainting_s_bands_masks_and_networks_are_differences(tmp_path, extractor, fid):
    build(tmp_path, replace(INPAINT, extractors=(extractor,)))
    listed = _protocols(read_study(tmp_path), "Table 7")
    assert len(listed) == 16
    masks, own = "task (masks of Suvorov et al. 2022; masks thin, medium)", fid or "inpaint_fd_efficientnet_lite2"
    network = () if fid else (f"metric (FID; {own})",)
    assert listed["inpaint_fid", "LDM-4, w/ attn"] == (own, (*network, masks))
    assert listed["inpaint_fid_mask40_50", "LDM-4, w/ attn"] == (
        f"{own}_mask40_60",
        (f"metric (FID, 40-50 % masked; {own}_mask40_60)", "n (not stated; 30000)", masks),
    )
    for band, ours, words in (("", "", ""), ("_mask40_50", "_mask40_60", ", 40-50 % masked")):
        assert listed[f"inpaint_lpips{band}", "LDM-4, w/ attn"] == (
            f"inpaint_lpips_alex{ours}",
            (f"metric (LPIPS{words}, network not stated; inpaint_lpips_alex{ours})", masks),
        )


def test_numbers_of_models_that_start_from_images_stand_beside_no_others(alike):
    assert not _protocols(alike, "Table 5")
    assert not _protocols(alike, "Table 7")
    drawn = overlays.behind(replace(alike, published=papers.ldm()), "fid", "evaluation", "f", ("kl", "vq"))
    assert drawn
    assert all(number.measured.task is None for number in drawn)


@pytest.mark.long
def test_the_same_metric_is_drawn_in_grey_and_said_to_be_otherwise(alike):
    study = replace(alike, published=papers.ldm())
    figure = FIGURES["quality_vs_throughput"].draw(study)
    [axes] = figure.axes
    expected = {
        (round(item.sample_images_per_second, 6), round(item.value, 6), item.f)
        for item in papers.ldm()
        if item.where.endswith("Figure 7") and item.measured.data == "imagenet" and item.f in (1, 4, 8)
    }
    assert _grey(axes) == {(x, y) for x, y, _ in expected}
    text = said(figure)
    assert "NOT COMPARABLE" in text
    assert "n (5000; 50000)" in text
    assert "one A100" in text
    assert "Grey" not in said(FIGURES["quality_vs_throughput"].draw(alike))


def _curves(axes):
    """The grey lines through two or more numbers, as sets of (x, y)."""
    lines = [line for line in axes.get_lines() if line.get_color() == overlays.SHADE and line.get_marker() == "None"]
    curves = [set(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in lines]
    return [curve for curve in curves if len(curve) > 1]


@pytest.mark.long
@pytest.mark.parametrize("name", ["quality_vs_f", "quality_vs_throughput", "quality_vs_training"])
def test_a_grey_line_joins_numbers_of_one_table_measured_and_made_alike(alike, name):
    study = replace(alike, published=papers.ldm())
    x, stage = {
        "quality_vs_f": ("f", "evaluation"),
        "quality_vs_throughput": ("sample_images_per_second", "evaluation"),
        "quality_vs_training": ("images_seen", "progress"),
    }[name]
    numbers = overlays.behind(study, "fid", stage, x, ("kl", "vq", "identity"))
    curves = _curves(FIGURES[name].draw(study).axes[0])
    assert curves
    for curve in curves:
        made = {
            (item.where, item.measured, item.guidance_scale, None if x == "images_seen" else item.images_seen)
            for item in numbers
            if (getattr(item, x), item.value) in curve
        }
        assert len(made) == 1, made


@pytest.mark.long
def test_guidance_and_training_of_grey_numbers_are_said(alike):
    figure = FIGURES["quality_vs_f"].draw(replace(alike, published=papers.ldm()))
    labels = {text.get_text() for text in figure.axes[0].texts}
    assert {f"250 steps, imagenet, Table 10, guidance {scale}" for scale in ("1", "1.25", "1.5")} < labels
    assert {f"200 steps, imagenet, Table 10, {seen}M images seen" for seen in (186, 307)} < labels
    assert "200 steps, imagenet, Figure 7" in labels
    text = said(figure)
    assert "guidance scale (1.25 or 1.5; 1)" in text
    assert "images seen (" in text
    assert "steps (" not in text  # each line says its own


@pytest.mark.long
@pytest.mark.parametrize("name", ["quality_vs_f", "quality_vs_throughput", "quality_vs_training"])
@pytest.mark.parametrize("data", ["imagenet", pytest.param("emoji", marks=pytest.mark.slow)])
def test_no_label_of_a_published_number_is_cut(tmp_path, name, data):
    build(tmp_path, replace(LIKE_THE_PAPER, data=data, factors=(1, 4, 8, 32)))
    figure = FIGURES[name].draw(replace(read_study(tmp_path), published=papers.ldm()))
    renderer = figure.canvas.get_renderer()
    panels = figure.axes
    for axes in panels:
        for text in axes.texts:
            box = text.get_window_extent(renderer)
            assert figure.bbox.x0 <= box.x0
            assert box.x1 <= figure.bbox.x1, text.get_text()
            assert all(box.x1 <= other.bbox.x0 or box.x0 >= other.bbox.x0 for other in panels), text.get_text()
            assert not any(box.overlaps(other.get_window_extent(renderer)) for other in figure.texts), text.get_text()


@pytest.mark.long
def test_other_sides_are_matched_by_that_of_the_latent(tmp_path):
    """At 32 px f = 4 has latents of 8 x 8, as f = 32 has in the paper; f = 32 has no counterpart."""
    build(tmp_path, replace(LIKE_THE_PAPER, data="emoji", resolution=32, factors=(1, 4, 32)))
    study = replace(read_study(tmp_path), published=papers.ldm())
    numbers = overlays.behind(study, "fid", "progress", "images_seen", ("vq", "identity"))
    assert {(number.f, overlays.beside(number, study.frame)) for number in numbers} == {(8, 1), (32, 4)}
    figure = FIGURES["quality_vs_training"].draw(study)
    labels = {text.get_text() for text in figure.axes[0].texts}
    assert {"f = 32 (as f = 4 here), imagenet, Figure 6", "f = 8 (as f = 1 here), imagenet, Figure 6"} < labels
    assert "published f = 32 beside 4 here (8 x 8), 8 beside 1 here (32 x 32)" in said(figure)
    points = {(at, value) for axes in FIGURES["quality_vs_f"].draw(study).axes for at, value in _grey(axes)}
    assert {at for at, _ in points} == {1, 4}


@pytest.mark.long
def test_at_the_published_resolution_f_is_matched_as_it_is(alike):
    study = replace(alike, published=papers.ldm())
    assert {overlays.beside(n, alike.frame) for n in study.published if n.measured.resolution == 256} == {None, 1, 4, 8}
    assert "Matched by the side" not in said(FIGURES["quality_vs_training"].draw(study))


@pytest.mark.long
def test_another_metric_keeps_published_numbers_out_and_says_so(other):
    study = replace(other, published=papers.ldm())
    for name in ("quality_vs_f", "quality_vs_throughput", "quality_vs_training"):
        figure = FIGURES[name].draw(study)
        assert not any(_grey(axes) for axes in figure.axes)
        assert "No published numbers are drawn: none of kernel distance" in said(figure)


@pytest.mark.long
def test_psnr_of_any_data_is_drawn_at_its_rate_with_a_warning(other):
    figure = FIGURES["rate_distortion"].draw(replace(other, published=papers.ldm()))
    left, right = figure.axes
    assert not _grey(left)
    assert (round(math.log2(16384) / 64, 6), 23.07) in _grey(right)
    assert "NOT COMPARABLE with this study, (published; here): data (imagenet; emoji); resolution (256; 32)" in said(
        figure
    )


def test_numbers_measured_alike_are_drawn_without_a_warning(alike):
    rows = alike.frame[alike.frame["metric"] == "psnr"]
    psnrs = [item for item in papers.ldm() if item.metric == "psnr"]
    assert "Measured under this study's protocol" in overlays.note(psnrs, rows, alike.protocols, "PSNR")
    [entry] = [e for e in entries(alike, psnrs) if e.number.regulariser == "kl" and e.number.f == 8]
    assert entry.difference == pytest.approx(psnr(distortion("kl", 8)) - 24.19)


@pytest.mark.long
@pytest.mark.usefixtures("one_figure")
def test_the_command_line_writes_the_check_list_where_asked(tmp_path):
    build(tmp_path / "store", Recipe(regularisers=("kl",), factors=(4,), steps=(5,)))
    call = ["--store", str(tmp_path / "store"), "--out", str(tmp_path / "out")]
    assert main([*call, "--checklist", "--overlay"]) == 0
    text = (tmp_path / "out" / "checklist.md").read_text()
    assert "0 of 2 were measured in the same way" in text
    assert "27.53" in text


def test_a_point_over_training_stands_beside_the_longest_of_ours_and_its_prescribed_sampler(other):
    how = "ddim, 10 steps, eta 0.0, spacing trailing, final clean, clip none"
    protocols = {name: {**fields, "sampler": how} for name, fields in other.protocols.items()}
    listed = entries(replace(other, protocols=protocols), papers.ldm())
    found = [entry for entry in listed if entry.number.stage == "progress"]
    assert found
    longest = other.frame[other.frame["stage"] == "progress"]["images_seen"].max()
    assert {int(entry.row["images_seen"]) for entry in found} == {longest}
    assert {setting for entry in found for setting in entry.settings if setting.startswith(("steps", "eta"))} == {
        "steps (100; 10)"
    }
