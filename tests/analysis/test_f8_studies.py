"""Pages of experiments at f = 8 whose records are published apart say what these hold, a column of a table a cell."""

from pathlib import Path

import pandas as pd
import pytest

from analysis import compare, limits
from analysis.collect import read_study

ROOT = Path(__file__).parents[2]
KERNEL = "kd_efficientnet_lite2_colour"
FAMILY = "ae.architecture.family="
STUDIES = {
    "averages": ("ema_length", ["0.03", "0.06", "0.12", "0.2", "auto"]),
    "coders": ("ae_settings", [f"{FAMILY}reference", f"{FAMILY}dc"]),
    "denoiser_training": ("times", ["", "logit-normal(0, 1)"]),
}
"""By page: the column that tells its cells apart, and its values in the order of the table."""


def text_of(page: str) -> str:
    return (ROOT / "docs" / "experiments" / f"{page}.md").read_text().replace("**", "")


def row(values: list[str]) -> str:
    return f" | {' | '.join(values)} |"


def of_name(found: dict[str, pd.Series], value: str) -> pd.Series:
    """That of the cell whose name ends with the value; of none, where it is the one that is usual."""
    [name] = [name for name in found if name.endswith("steps" if value == "" else f" {value}")]
    return found[name]


@pytest.fixture(scope="module", params=STUDIES)
def page(request):
    return request.param


@pytest.fixture(scope="module")
def study(page):
    return read_study(ROOT / "results" / f"f8_{page}", "all")


@pytest.fixture(scope="module")
def samples(page, study) -> pd.DataFrame:
    """Rows of the final samples, with the column that tells cells apart as text."""
    column, _ = STUDIES[page]
    rows = study.frame[study.frame["stage"] == "evaluation"]
    return rows.assign(cell_of=rows[column].fillna("").astype(str))


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_seed_has_the_distances_of_its_records(page, samples, seed):
    own = samples[(samples["metric"] == KERNEL) & (samples["seed"] == seed)].set_index("cell_of")["value"]
    assert row([f"{own[cell]:.2f}" for cell in STUDIES[page][1]]) in text_of(page)


@pytest.mark.long
def test_class_accuracies_are_means_over_the_seeds(page, samples):
    own = samples[samples["metric"] == "class_accuracy"].groupby("cell_of")["value"]
    assert set(own.count()) == {3}
    assert row([f"{own.mean()[cell]:.2f}" for cell in STUDIES[page][1]]) in text_of(page)


@pytest.mark.long
def test_means_and_the_difference_in_words_are_those_of_the_records(page, study):
    compared = limits.compared(study, None)
    means = compare.means_frame(compared)
    own = {r["cell"]: r for _, r in means[means["metric"] == KERNEL].iterrows()}
    assert all((r["training_seeds"], r["n"], r["protocol"]) == (3, 500, "4bade4973d") for r in own.values())
    cells = [of_name(own, value) for value in STUDIES[page][1]]
    assert row([f"{r['value']:.2f} [{r['ci_low']:.2f}, {r['ci_high']:.2f}]" for r in cells]) in text_of(page)
    differences = compare.comparisons_frame(compared)
    differences = differences[(differences["metric"] == KERNEL) & ~differences["other"].str.contains("Gaussian")]
    largest = differences.loc[differences["difference"].abs().idxmax()]
    assert f"{largest['difference']:.2f} [{largest['ci_low']:.2f}, {largest['ci_high']:.2f}]" in text_of(page)


@pytest.mark.long
def test_the_straight_path_is_compared_with_the_default():
    stores = [ROOT / "results" / name for name in ("f8_coders", "f8_denoiser_training")]
    compared = compare.comparisons_frame(limits.compared(read_study(stores, "all"), None))
    own = compared[(compared["metric"] == KERNEL) & compared["cell"].str.contains("reference")]
    [(_, best)] = own[own["other"].str.contains("logit-normal")].iterrows()
    said = f"{best['difference']:.2f} [{best['ci_low']:.2f}, {best['ci_high']:.2f}], p = {best['p']:.3f}"
    assert said in text_of("denoiser_training")


@pytest.mark.long
@pytest.mark.parametrize(("metric", "digits"), [("psnr", 2), ("rfd_efficientnet_lite2_colour", 0)])
def test_coders_decode_as_their_records_say(metric, digits):
    def of(store: str, cell: str) -> str:
        rows = read_study(ROOT / "results" / store, "all").frame
        rows = rows[(rows["metric"] == metric) & rows["ae_settings"].fillna("").str.contains(cell)]
        return ", ".join(f"{value:.{digits}f}" for value in rows.sort_values("ae_seed")["value"])

    reference, dc = (of("f8_coders", f"{FAMILY}{family}") for family in ("reference", "dc"))
    assert row([reference, dc]) in text_of("coders")
    assert row([of("f8_coders_start", ""), dc]) in text_of("coders")
