"""Made-up stores with known limits: each is found and named, alone or with others, in table, figures and verdicts."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.colors import to_hex
from synthetic_store import JUDGE, Recipe, build, decoded_kernel_distance, kernel_distance

from analysis.collect import Finished, Study, read_study
from analysis.compare import Comparison, comparisons_frame, means_frame, tables
from analysis.figures import FIGURES
from analysis.limits import LIMITS, Curve, budget, by_cell_id, known
from analysis.page.document import document
from analysis.plot_tradeoffs import main
from analysis.table import FIRST_OF_LIMITED, NO_VERDICTS_OF_TINY, markdown
from ldm.records import Cell, ResultRow, StageRecord, read_record, write_json

KERNEL = f"kd_{JUDGE}"
FREE = Recipe(regularisers=("kl",), factors=(4, 8, 16), steps=(20,), nearer=0.5)
"""Three cells that nothing limits, f = 4 the best."""


def made(store: Path, recipe: Recipe = FREE, **changes) -> Study:
    """The study of a recipe with changes."""
    build(store, dataclasses.replace(recipe, **changes))
    return read_study(store)


def amended(store: Path, stage: str, change, f: int | None = 4) -> Study:
    """The study after the records of a stage were changed, those of the cell of this f (None: all)."""
    wanted = {
        one.record.identity
        for one in read_study(store).finished
        if one.record.stage == stage and f in (None, one.cell.axes["f"])
    }
    assert wanted
    for identity in wanted:
        folder = store / stage / identity
        record = read_record(folder)
        assert record is not None
        write_json(folder / "record.json", change(record).to_json())
    return read_study(store)


def with_facts(**facts):
    """A change: these facts besides."""
    return lambda record: dataclasses.replace(record, facts={**record.facts, **facts})


def with_value(metric, value, half=0.03):
    """A change: this value in place of what was measured."""

    def changed(row: ResultRow) -> ResultRow:
        if row.metric != metric:
            return row
        return dataclasses.replace(row, value=value, ci_low=value - half, ci_high=value + half)

    return lambda record: dataclasses.replace(record, rows=tuple(map(changed, record.rows)))


def with_milestones(values):
    """A change: these values by images seen in place of what was measured over a training."""

    def changed(record):
        rows = [
            dataclasses.replace(row, value=v, ci_low=v - 0.002, ci_high=v + 0.002) if row.metric == KERNEL else row
            for row in record.rows
            for v in [values[row.images_seen]]
        ]
        return dataclasses.replace(record, rows=tuple(rows))

    return changed


def with_overrides(study, *overrides):
    """The study as if its cells had been made with these overrides besides."""
    cells = {
        one.cell.cell: dataclasses.replace(one.cell, overrides=(*one.cell.overrides, *overrides))
        for one in study.finished
    }
    finished = tuple(dataclasses.replace(one, cell=cells[one.cell.cell]) for one in study.finished)
    return dataclasses.replace(study, finished=finished)


def names(study):
    """By f what limits the cell."""
    found = {}
    for one in known(study):
        f = one.name.partition(",")[0].removeprefix("KL f = ")
        found[f] = tuple(limit.name for limit in one.limits)
    return found


def sentence(study, name, f="4"):
    """What is said of a limit of a cell."""
    [one] = [one for one in known(study) if one.name.startswith(f"KL f = {f},")]
    return next(limit.sentence for limit in one.limits if limit.name == name)


def verdicts(study, against=None):
    """By f the last cell of its line in the table of verdicts."""
    body = markdown(study, against).split("\n## Which cells are better")[1].split("\n## ")[0]
    lines = [line.split(" | ") for line in body.splitlines() if line.startswith("| KL f = ")]
    return {line[0].removeprefix("| KL f = ").partition(",")[0]: line[-1].removesuffix(" |") for line in lines}


def compared(study):
    """The table of the headline metric."""
    found = tables(study.frame, study.axes, limits=by_cell_id(known(study)))
    [table] = [table for table in found if table.metric == KERNEL]
    return table


def first_stage(store):
    value = kernel_distance("kl", 4, 20) - 0.0005
    build(store, FREE)
    return amended(store, "reconstruction", with_value(f"decoded_{KERNEL}", value, 0.0009))


def training(store):
    build(store, FREE)
    change = {seen: 0.02 * (1 + 0.4 * (48_000 / seen - 1)) for seen in (3_000, 6_000, 12_000, 24_000, 48_000)}
    return amended(store, "progress", with_milestones(change))


def sampler(store):
    study = made(store)
    [cell] = {one.cell.cell for one in study.finished if one.record.stage == "evaluation" and one.cell.axes["f"] == 4}
    row = ResultRow("sampler_check_kd_e", -0.07, 200, "p", -0.09, -0.05)
    facts = {"steps": 20, "twice": 40, "n": 200, "limited": True}
    check = Finished("KL f=4", Cell(cell, {}, (), {}), StageRecord("sampler_check", "i", {}, {}, facts, (row,)))
    return dataclasses.replace(study, finished=(*study.finished, check))


def memorisation(store):
    build(store, FREE)
    return amended(store, "memorisation", with_value(f"nearer_train_{JUDGE}", 0.8))


def at_chance(store):
    build(store, FREE)
    return amended(store, "evaluation", with_value("class_accuracy", 0.14))


def gaussian(store):
    beaten, unbeaten = (0.08, 0.06), (0.08, 0.01)
    return made(store, gaussian={4: unbeaten, 8: beaten, 16: beaten})


def suffices(store):
    value = kernel_distance("kl", 4, 20)
    made(store, gaussian={4: (0.08, value), 8: (0.08, 0.06), 16: (0.08, 0.06)})
    return amended(store, "gaussian", with_value(f"gaussian_class_{KERNEL}", value, 0.05))


def out_of_scale(store):
    build(store, FREE)
    amended(store, "samples", with_facts(latent_std=1.02, saturated=0.05), None)
    return amended(store, "samples", with_facts(latent_std=10.0, saturated=0.63))


def too_few_images(store):
    build(store, FREE)

    def fewer(record):
        rows = tuple(dataclasses.replace(row, n=150) if row.metric == KERNEL else row for row in record.rows)
        return dataclasses.replace(record, rows=rows)

    return amended(store, "evaluation", fewer)


STORES = {
    "first stage": (first_stage, "less that of decoded images is 0.0005"),
    "training": (training, "From 24,000 to 48,000 images seen the kernel distance changed by -0.008"),
    "sampler": (sampler, "With 40 steps the kernel distance changes by -0.07 [-0.09, -0.05]"),
    "memorisation": (memorisation, "with probability 0.8 [0.77, 0.83]"),
    "at chance": (at_chance, "0.14 [0.11, 0.17], with conditions of other samples 0.12 [0.09, 0.15]"),
    "a Gaussian suffices": (suffices, "and decoded images are no better"),
    "no better than the Gaussian": (gaussian, "less that of the Gaussian is 0.00"),
    "out of scale": (out_of_scale, "standard deviation of 10, of 1 in training. 63 % of the pixel values are 0 or 255"),
    "too few images": (too_few_images, "150 samples against 512 reference images"),
}
"""By limit a store whose cell at f = 4 has that one alone, and what is said of it."""

TAKEN = ("at chance", "no better than the Gaussian", "out of scale", "too few images")


def test_every_limit_is_tried():
    assert set(STORES) == set(LIMITS)
    assert tuple(name for name, kind in LIMITS.items() if kind.takes_verdict) == TAKEN


@pytest.mark.long
def test_a_cell_that_nothing_limits_says_so(tmp_path):
    study = made(tmp_path)
    assert names(study) == {"4": (), "8": (), "16": ()}
    text = markdown(study)
    assert text.count("| nothing found | – | sampler, no better than the Gaussian, out of scale |") == 3
    assert "limited by |" not in text.split("## Which cells are better")[1]
    assert "limited" not in str(verdicts(study))
    assert verdicts(study)["4"] == "best mean"


@pytest.mark.long
@pytest.mark.parametrize("name", STORES)
def test_each_limit_alone_is_named_with_its_numbers_and_in_the_verdicts(tmp_path, name):
    make, said = STORES[name]
    study = make(tmp_path)
    assert names(study) == {"4": (name,), "8": (), "16": ()}
    assert said in sentence(study, name)
    text = markdown(study)
    assert text.index("## What limits each cell") < text.index("## Which cells are better")
    assert f"| KL f = 4, 3 channels, 20 steps | {name} | {sentence(study, name)} |" in text
    told, table = verdicts(study), compared(study)
    others = {item.cell.partition(",")[0] for item in table.comparisons}
    if name in TAKEN:
        assert ("KL f = 4" in str(table.comparisons)) is False
        assert told["8"].startswith("best mean")
        assert others == {"KL f = 16"}
        assert told["4"].startswith(name if name == "no better than the Gaussian" else f"no verdict: {name}")
        assert not any(word in told["4"].replace(name, "") for word in ("best", "better", "worse"))
    else:
        assert told["4"] == f"best mean (limited by {name})"
        assert others == {"KL f = 8", "KL f = 16"}
    means, pairs = means_frame([table]).set_index("cell"), comparisons_frame([table])
    assert means["limits"].tolist() == [name if "f = 4" in cell else "" for cell in means.index]
    assert set(pairs["limits"][~pairs["cell"].str.contains("f = 4")]) == {""}


@pytest.mark.long
@pytest.mark.parametrize("name", ["training", "sampler", "memorisation", "first stage"])
def test_a_cell_that_keeps_its_verdict_has_the_words_behind_it(tmp_path, name):
    text = verdicts(STORES[name][0](tmp_path), "KL f = 16")["4"]
    assert text == f"better, training variance unknown, provisional order (limited by {name})"


@pytest.mark.parametrize(
    ("facts", "real", "limited"),
    [
        ({"latent_std": 1.29}, None, False),
        ({"latent_std": 1.31}, None, True),
        ({"latent_std": 0.69}, None, True),
        ({"saturated": 0.21}, None, True),
        ({"saturated": 0.19}, None, False),
        ({"saturated": 0.69}, 0.5, False),
        ({"saturated": 0.71}, 0.5, True),
    ],
)
def test_saturation_is_measured_against_real_images_where_they_are_known(tmp_path, facts, real, limited):
    build(tmp_path, FREE)
    if real is not None:
        amended(tmp_path, "reference", with_facts(saturated=real))
    assert names(amended(tmp_path, "samples", with_facts(**facts)))["4"] == (("out of scale",) if limited else ())


@pytest.mark.long
def test_seeds_are_one_cell(tmp_path):
    """Three seeds of f = 4 of which all are at chance; the facts of all count by their mean."""
    study = made(tmp_path, seeds=(0, 1, 2))
    assert names(study) == {"4": (), "8": (), "16": ()}
    study = amended(tmp_path, "evaluation", with_value("class_accuracy", 0.12))
    assert names(study) == {"4": ("at chance",), "8": (), "16": ()}
    assert "provisional order" in verdicts(study)["16"]  # first stages were trained once


@pytest.mark.long
def test_two_seeds_of_both_stages_are_no_longer_provisional(tmp_path):
    study = made(tmp_path, seeds=(0, 1), ae_seeds=(0, 1))
    assert verdicts(study)["16"] == "worse"
    assert "provisional" not in markdown(study)


@pytest.mark.long
def test_several_limits_stand_in_their_order(tmp_path):
    build(tmp_path, FREE)
    amended(tmp_path, "samples", with_facts(latent_std=5.0))
    amended(tmp_path, "memorisation", with_value(f"nearer_train_{JUDGE}", 0.9))
    study = amended(tmp_path, "evaluation", with_value("class_accuracy", 0.1))
    assert names(study)["4"] == ("memorisation", "at chance", "out of scale")
    assert verdicts(study)["4"] == "no verdict: at chance, out of scale (limited by memorisation)"


@pytest.mark.long
def test_where_all_are_limited_none_is_best_and_a_budget_is_extrapolated(tmp_path):
    study = made(tmp_path, still_gains=0.4)
    assert set(names(study).values()) == {("training",)}
    text, told = markdown(study), verdicts(study)
    assert "best mean" not in text
    assert told["4"] == f"{FIRST_OF_LIMITED} (limited by training)"
    assert told["16"] == "worse, training variance unknown, provisional order (limited by training)"
    assert "No cell is best, since something limits each of them. Extrapolated, as if" in text
    # Gains halve from doubling to doubling: 0.009, 0.005, 0.002 at f = 4, where the interval is 0.0028.
    assert "KL f = 4, 3 channels, 20 steps: 192,000" in budget(study)
    assert "`trainer.length=8`" in budget(study)


def test_where_nothing_can_be_extrapolated_the_advice_is_to_train_longer(tmp_path):
    study = made(tmp_path, still_gains=0.4)
    frame = study.frame[~study.frame["images_seen"].isin([3_000, 6_000, 12_000])]
    study = dataclasses.replace(study, frame=frame)
    assert "Nothing can be extrapolated: train twice as long (`trainer.length=2`, where it was 1)." in markdown(study)


@pytest.mark.long
def test_all_limited_by_something_else_asks_for_no_more_images(tmp_path):
    build(tmp_path, FREE)
    study = amended(tmp_path, "samples", with_facts(latent_std=5.0), None)
    assert compared(study).comparisons == []
    text = markdown(study)
    assert "best mean" not in text
    assert text.count("no verdict: out of scale |") == 3
    assert "By the curves over training longer training would not help." in text


@pytest.mark.parametrize(("before", "gain", "images"), [(0.02, 0.01, 400), (0.01, 0.01, None), (None, 0.01, None)])
def test_a_curve_is_extrapolated_where_its_gains_shrink(before, gain, images):
    """Gains of 0.02 and 0.01 go on as 0.005 and 0.0025, the second below an interval of 0.004."""
    change = Comparison("a", "b", -gain, -gain - 0.004, -gain + 0.004, 0.0, "better", 1, 1, "", 200)
    assert Curve("", 50, 100, change, gain, before).enough == images


@pytest.mark.long
def test_training_that_makes_it_worse_is_a_limit_too(tmp_path):
    study = made(tmp_path, still_gains=-0.4)
    assert set(names(study).values()) == {("training",)}
    assert sentence(study, "training").endswith("getting worse.")
    said = "longer training would not help. The last doubling of the images seen made each of the 3 trainings worse"
    assert said in markdown(study)


@pytest.mark.parametrize(("half", "nothing_left"), [(0.0005, True), (0.004, False)])
def test_nothing_is_left_to_gain_only_where_the_interval_says_so(tmp_path, half, nothing_left):
    build(tmp_path, FREE)
    value = kernel_distance("kl", 4, 20)
    amended(tmp_path, "reconstruction", with_value(f"decoded_{KERNEL}", value - 0.0001, half))
    said = sentence(amended(tmp_path, "evaluation", with_value(KERNEL, value, half)), "first stage")
    assert ("nothing left for diffusion to gain" in said) == nothing_left
    assert ("not told apart from decoded images (at most 0.005" in said) == (not nothing_left)


def test_advice_to_train_longer_is_longer_than_what_the_cells_had(tmp_path):
    study = made(tmp_path, still_gains=0.4)
    assert "(`trainer.length=22`, where it was 2.75)" in budget(with_overrides(study, "trainer.length=2.75"))
    assert "(`trainer.images=8000`, where it was 1000)" in budget(with_overrides(study, "trainer.images=1000"))
    for unknown in ("+experiment=f_study", "trainer.budget=paper"):
        assert "(8 times the `trainer.length` of each cell" in budget(with_overrides(study, unknown))


@pytest.mark.long
def test_tiny_gives_no_verdict_at_all(tmp_path):
    study = made(tmp_path, scale="tiny", gaussian=dict.fromkeys((4, 8, 16), (0.08, 0.06)))
    table = compared(study)
    assert (table.comparisons, table.gaussian) == ([], {})
    assert comparisons_frame(tables(study.frame, study.axes, "KL f = 4")).empty
    text = markdown(study)
    assert text.split("## Which cells are better\n\n")[1].partition("\n")[0] == NO_VERDICTS_OF_TINY
    assert not any(word in text for word in ("best mean", "| worse", "| better", "provisional"))


@pytest.mark.long
def test_a_tiny_cell_among_others_gets_no_verdict(tmp_path):
    study = made(tmp_path)
    frame = study.frame.copy()
    frame.loc[frame["f"] == 4, "scale"] = "tiny"
    told = verdicts(dataclasses.replace(study, frame=frame))
    assert told["4"] == "no verdict: scale=tiny"
    assert told["8"].startswith("best mean")


def test_pixels_have_no_first_stage_that_could_limit_them(tmp_path):
    build(tmp_path, dataclasses.replace(FREE, factors=(1,)))
    value = decoded_kernel_distance("identity", 1)
    study = amended(tmp_path, "evaluation", with_value(KERNEL, value, 0.0015), 1)
    [one] = known(study)
    assert "first stage" not in [limit.name for limit in one.limits]


def faces(figure):
    """The faces of the marks of the points by the colour of their f."""
    marks = [line for axes in figure.axes for line in axes.get_lines() if line.get_marker() == "o"]
    marks = [line for line in marks if len(line.get_xdata()) == 1 and line.get_zorder() == 4]
    return {(to_hex(line.get_color()), to_hex(line.get_markerfacecolor()) == "#ffffff") for line in marks}


FIGURES_OF_QUALITY = ("quality_vs_f", "quality_vs_throughput", "quality_vs_compute", "quality_vs_training")


@pytest.mark.long
@pytest.mark.parametrize("figure", FIGURES_OF_QUALITY)
def test_marks_of_limited_cells_are_hollow_and_the_key_says_so(tmp_path, figure):
    from analysis.style import COLOUR_OF_F

    for name, study in (("none", made(tmp_path / "none")), ("one", at_chance(tmp_path / "one"))):
        drawn = FIGURES[figure].draw(study)
        wanted = {(COLOUR_OF_F[f], f == 4 and name == "one") for f in (4, 8, 16)}
        assert faces(drawn) == wanted
        keys = [text.get_text() for text in drawn.legends[0].get_texts()]
        assert keys.count("limited (see table.md)") == (name == "one")


@pytest.mark.long
@pytest.mark.usefixtures("one_figure")
def test_the_files_carry_limits_and_the_report_shows_the_section(tmp_path):
    training(tmp_path / "store")
    assert main(["--store", str(tmp_path / "store"), "--out", str(tmp_path / "out")]) == 0
    for name in ("means.csv", "comparisons.csv"):
        read = pd.read_csv(tmp_path / "out" / name)
        assert "limits" in read.columns
    shown = document("Report", [(tmp_path / "out" / "table.md").read_text()], [], [], {})
    assert "<h2>What limits each cell</h2>" in shown
    assert "still getting better." in shown
