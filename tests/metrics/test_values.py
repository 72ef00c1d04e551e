"""A metric is declared once, and says of itself all that its rows need."""

import dataclasses

import pytest
from every_metric import every_metric

from ldm.metrics.distribution import KERNEL, KINDS, NEIGHBOURHOOD_TITLES, metric_of
from ldm.metrics.neighbours import Neighbourhoods
from ldm.metrics.reconstruction import PSNR, perceptual_metric
from ldm.metrics.values import OTHER_CONDITIONS, REAL_IMAGES, SAMPLED_POSTERIOR, Metric, MetricValue, Variant, varied
from ldm.records import AT_N, GROUPS, POPULATION, TASK


def test_every_metric_says_what_it_is() -> None:
    """In words of its own, in a group of the tables, with an estimand; and no two share a title and a group."""
    metrics = every_metric()
    assert len(metrics) > 300
    for metric in metrics.values():
        assert metric.title, metric
        assert "_" not in metric.title, metric
        assert metric.group in GROUPS, metric
        assert metric.estimand in (POPULATION, AT_N), metric
        assert metric.higher_is_better in (True, False, None), metric
    titles = [(metric.title, metric.unit) for metric in metrics.values()]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize(
    ("name", "higher"),
    [
        ("kd_efficientnet_lite2", False),
        ("fid", False),
        ("is", True),
        ("coverage_inception", True),
        ("psnr", True),
        ("ssim", True),
        ("lpips_alex", False),
        ("rmse255", False),
        ("class_accuracy", True),
        ("semantic_miou", True),
        ("clip_score", True),
        ("rate_kl_fitted", False),
        ("coded_index", False),
        ("vlb_bits_per_dim", False),
        ("nearest_train_pixels", None),
        ("inpaint_fid_mask20_40", False),
        ("bicubic_superres_psnr", True),
    ],
)
def test_which_end_is_better(name: str, higher: bool | None) -> None:
    metrics = every_metric()
    found = metrics[name] if name in metrics else metrics["nearest_train"].seen_by(name.removeprefix("nearest_train_"))
    assert found.higher_is_better is higher


def test_the_shares_of_neighbourhoods_are_all_declared() -> None:
    assert tuple(NEIGHBOURHOOD_TITLES) == tuple(field.name for field in dataclasses.fields(Neighbourhoods))


@pytest.mark.parametrize("metric", [metric_of(KERNEL, "e"), PSNR, KINDS["is"]])
@pytest.mark.parametrize("variant", [REAL_IMAGES, SAMPLED_POSTERIOR, Variant("made up", "x_", "_y")])
def test_a_variant_keeps_all_but_name_and_title(metric: Metric, variant: Variant) -> None:
    found = varied(metric, variant)
    assert found.name == f"{variant.prefix}{metric.name}{variant.suffix}"
    assert found.title == f"{metric.title}, {variant.words}"
    assert (found.base, found.variant, found.kind) == (metric.name, variant.words, metric.kind or metric.name)
    kept = ("unit", "higher_is_better", "group", "estimand", "headline_from", "images", "array")
    assert [getattr(found, name) for name in kept] == [getattr(metric, name) for name in kept]


def test_a_variant_of_a_variant_has_the_innermost_base_and_the_last_prefix_first() -> None:
    found = varied(PSNR, OTHER_CONDITIONS, REAL_IMAGES)
    assert found.name == "real_shuffled_psnr"
    assert found.base == "psnr"
    assert found.variant == "conditions of other samples, real images"


def test_a_row_says_what_its_metric_says() -> None:
    metric = Metric("m", "a measure", True, TASK, "units", AT_N, headline_from=7)
    row = MetricValue(metric, 1.0, 3, 0.5, 2.0, ((1.0,),), 0.25).varied(REAL_IMAGES).row("how", 10, 4)
    assert (row.metric, row.value, row.n, row.protocol, row.ci_low, row.ci_high) == ("real_m", 1.0, 3, "how", 0.5, 2.0)
    assert (row.images_seen, row.seed, row.deviations, row.alone) == (10, 4, ((1.0,),), 0.25)
    assert (row.title, row.unit, row.higher_is_better) == ("a measure, real images", "units", True)
    assert (row.group, row.kind, row.base, row.variant) == (TASK, "m", "m", "real images")
    assert (row.estimand, row.headline_from) == (AT_N, 7)


def test_a_perceptual_distance_of_others_goes_by_its_name() -> None:
    assert perceptual_metric("lpips_alex").title == "LPIPS, AlexNet"
    assert perceptual_metric("mine").higher_is_better is False
    assert perceptual_metric("mine").title == "mine"
