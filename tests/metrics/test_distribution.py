import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ldm.metrics.distribution import (
    KINDS,
    NEIGHBOURHOOD_TITLES,
    canonical_order,
    generation_metrics,
    metric_name,
    mixed_order,
    reconstruction_frechet,
    subset_distance,
)
from ldm.metrics.features import Features
from ldm.metrics.frechet import BLOCKS, frechet_distance
from ldm.metrics.intervals import block_jackknife, block_sizes, jackknife_spread, mean_interval, student_interval
from ldm.metrics.kernel import JACKKNIFE_BLOCKS, kernel_distance, kernel_subsets
from ldm.pretrained.torchvision_ops import ensure_torchvision


def features(n, seed, d=12, shift=0.0, classes=10):
    rng = np.random.default_rng(seed)
    return Features(
        (rng.normal(size=(n, d)) + shift).astype(np.float32), (3 * rng.normal(size=(n, classes))).astype(np.float32)
    )


def by_name(generated, reference, extractor="efficientnet_lite2", seed=0):
    values, left_out = generation_metrics(generated, reference, extractor, seed)
    return {value.metric: value for value in values}, {item.metric: item.reason for item in left_out}


@pytest.fixture(scope="module")
def fidelity():
    ensure_torchvision()
    from torch_fidelity import metric_isc, metric_kid, metric_prc

    return metric_isc, metric_kid, metric_prc


def kid(metric_kid, a, b, size, subsets, seed):
    a, b = (torch.from_numpy(x.features.astype(np.float64)) for x in (a, b))
    result = metric_kid.kid_features_to_metric(
        a, b, kid_subset_size=size, kid_subsets=subsets, rng_seed=seed, verbose=False
    )
    return result["kernel_inception_distance_mean"]


def test_kernel_distance_is_torch_fidelitys_with_one_subset_of_all(fidelity):
    a, b = features(60, 0), features(60, 1, shift=0.3)
    expected = kid(fidelity[1], a, b, 60, 1, 5)
    assert kernel_distance(a.features, b.features)[0] == pytest.approx(expected, rel=1e-10)
    assert by_name(a, b)[0]["kd_efficientnet_lite2"].value == pytest.approx(expected, rel=1e-10)


def naive_kernel_distance(a, b):
    def kernel(x, y):
        return (np.dot(x, y) / len(x) + 1) ** 3

    within = [np.mean([kernel(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j]) for s in (a, b)]
    return sum(within) - 2 * np.mean([kernel(x, y) for x in a for y in b])


def test_kernel_distance_of_sets_of_different_size_is_the_double_sum():
    a, b = (features(n, n, d=3).features.astype(np.float64) for n in (9, 14))
    assert kernel_distance(a, b)[0] == pytest.approx(naive_kernel_distance(a, b), rel=1e-10)


def test_kernel_jackknife_is_the_generic_one():
    a, b = (features(n, n, d=3, shift=n / 30).features.astype(np.float64) for n in (25, 33))
    value, spread = kernel_distance(a, b, blocks=5)
    fast = student_interval(value, spread.variance, spread.freedom)
    slow = block_jackknife([a, b], lambda x, y: kernel_distance(x, y)[0], blocks=5)
    assert (fast.low, fast.high) == pytest.approx((slow.low, slow.high), rel=1e-9)


@pytest.mark.long
def test_kernel_interval_covers_the_population_value():
    d, shift = 4, 0.5

    # E (x . y / d + 1)^3 with x . y = sum of products of independent normals: its first three moments in closed form.
    def expected_kernel(mean_x, mean_y):
        # given y, x . y ~ N(mean_x . y, |y|^2); then moments of y ~ N(mean_y, I)
        rng = np.random.default_rng(0)
        y = mean_y + rng.normal(size=(400_000, d))
        m, v = y @ mean_x / d + 1, np.square(y).sum(axis=1) / d**2
        return np.mean(m**3 + 3 * m * v)

    zero, moved = np.zeros(d), np.full(d, shift)
    truth = expected_kernel(zero, zero) + expected_kernel(moved, moved) - 2 * expected_kernel(zero, moved)
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        a, b = rng.normal(size=(100, d)), rng.normal(size=(100, d)) + shift
        value, spread = kernel_distance(a, b, blocks=25)
        interval = student_interval(value, spread.variance, spread.freedom)
        covered += interval.low <= truth <= interval.high
    assert 0.90 <= covered / 300 <= 0.98


@pytest.mark.long
def test_another_draw_of_subsets_moves_the_kernel_distance_as_far_as_its_interval_says():
    rng = np.random.default_rng(5)
    a, b = (Features(rng.normal(shift, size=(n, 8)).astype(np.float32), None) for n, shift in ((300, 0.2), (200, 0)))
    draws = [subset_distance(a, b, seed) for seed in range(100)]
    values, told = [value for value, _ in draws], [spread.variance for _, spread in draws]
    assert np.var(values, ddof=1) == pytest.approx(np.mean(told), rel=0.25)
    assert subset_distance(a[:200], b, 0)[1].variance == 0  # one subset of all


def test_rows_say_what_they_owe_to_the_reference_images():
    """Leaving out blocks of the reference alone gives the same part of the variance."""
    rng = np.random.default_rng(6)
    a, b = (Features(rng.normal(shift, size=(n, 8)).astype(np.float32), None) for n, shift in ((200, 0.3), (160, 0)))
    rows = {value.metric: value for value in generation_metrics(a, b, "net", 0)[0]}
    b_mixed = b.features[mixed_order(b.features, 0)].astype(np.float64)
    for metric, statistic, blocks in (
        ("kd_net", lambda x: kernel_distance(a.features, x)[0], JACKKNIFE_BLOCKS),
        ("fd_net", lambda x: frechet_distance(a.features, x), BLOCKS),
    ):
        sizes = block_sizes(len(b), blocks)
        ends = np.cumsum(sizes)
        without = [statistic(np.delete(b_mixed, np.s_[e - s : e], axis=0)) for s, e in zip(sizes, ends, strict=True)]
        expected = jackknife_spread(statistic(b_mixed), without, sizes).variance
        assert sum(d**2 for d in rows[metric].deviations[1]) == pytest.approx(expected, rel=1e-6), metric
    assert rows["precision_net"].deviations is None
    assert rows["fd_infinity_net"].deviations == rows["fd_net"].deviations


@pytest.mark.long
def test_numbered_samples_stand_in_the_blocks_of_their_numbers():
    """Two models that make the same of sample i, but for a little, owe the same to each block, in whatever order."""
    rng, other = np.random.default_rng(7), np.random.default_rng(8).permutation(300)
    a, b = features(300, 20), features(200, 21, shift=0.3)
    near = Features(a.features + rng.normal(scale=0.01, size=a.features.shape).astype(np.float32), a.logits)
    for kind in ("kd_net", "fd_net"):
        found = [
            {value.metric: value for value in generation_metrics(x, b, "net", 0, numbers)[0]}[kind]
            for x, numbers in ((a, range(300)), (near, range(300)), (near[other], other), (near, None))
        ]
        one, *rest = (np.array(value.deviations[0]) for value in found)
        alike = [np.corrcoef(one, deviations)[0, 1] for deviations in rest]
        assert min(alike[:2]) > 0.9 > 0.5 > abs(alike[2]), kind


@pytest.mark.parametrize(
    ("n_a", "n_b", "expected"),
    [(32, 32, (32, 1)), (1000, 1000, (1000, 1)), (500, 2000, (500, 10)), (5000, 5000, (1000, 100))],
)
def test_subsets_of_the_kernel_distance(n_a, n_b, expected):
    assert kernel_subsets(n_a, n_b) == expected


def test_sets_of_different_size_use_subsets_with_the_seed(fidelity):
    a, b = features(40, 2), features(70, 3, shift=0.5)
    ordered = [x[canonical_order(x.features, 4)] for x in (a, b)]
    found = by_name(a, b, seed=4)[0]["kd_efficientnet_lite2"]
    assert found.value == pytest.approx(kid(fidelity[1], *ordered, 40, 10, 4), rel=1e-12)
    full = kernel_distance(a.features, b.features)[0]
    assert found.ci_low < full < found.ci_high


def test_precision_and_recall_are_torch_fidelitys(fidelity):
    a, b = features(85, 4, d=3), features(90, 5, d=3, shift=0.7)
    expected = fidelity[2].prc_features_to_metric(
        torch.from_numpy(a.features), torch.from_numpy(b.features), prc_neighborhood=3, verbose=False
    )
    found, _ = by_name(a, b)
    assert 0 < expected["precision"] < 1
    # Theirs are means in float32.
    assert found["precision_efficientnet_lite2"].value == pytest.approx(expected["precision"], rel=1e-6)
    assert found["recall_efficientnet_lite2"].value == pytest.approx(expected["recall"], rel=1e-6)


def test_precision_is_of_the_generated_and_recall_of_the_reference():
    narrow, wide = features(200, 6, d=3), features(200, 7, d=3)
    narrow = Features(narrow.features * np.float32(0.2), narrow.logits)
    found, _ = by_name(narrow, wide)
    assert found["precision_efficientnet_lite2"].value > 0.9
    assert found["recall_efficientnet_lite2"].value < 0.2


@pytest.mark.parametrize(("n", "splits"), [(150, 1), (350, 3), (2500, 10)])
def test_inception_score_is_torch_fidelitys(fidelity, n, splits):
    a = features(n, 8)
    logits = torch.from_numpy(a.logits[canonical_order(a.features, 9)])
    expected = fidelity[0].isc_features_to_metric(logits, splits=splits, shuffle=False)["inception_score_mean"]
    found = by_name(a, features(20, 9), seed=9)[0]["is_efficientnet_lite2"]
    assert found.value == pytest.approx(expected, rel=1e-10)
    assert (found.ci_low is None) == (splits == 1)


def test_inception_score_interval_is_students_over_splits(fidelity):
    a = features(2500, 28)
    ordered = a[canonical_order(a.features, 0)].logits
    scores = [
        fidelity[0].isc_features_to_metric(torch.from_numpy(part), splits=1, shuffle=False)["inception_score_mean"]
        for part in np.split(ordered, 10)
    ]
    expected = mean_interval(scores)
    found = by_name(a, features(20, 29))[0]["is_efficientnet_lite2"]
    assert (found.ci_low, found.ci_high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_inception_score_of_certain_and_of_uncertain_classes():
    certain = features(200, 10)
    certain = Features(certain.features, 100 * np.eye(10, dtype=np.float32)[np.arange(200) % 10])
    same = Features(certain.features, np.ones((200, 10), dtype=np.float32))
    reference = features(20, 11)
    assert by_name(same, reference)[0]["is_efficientnet_lite2"].value == pytest.approx(1)
    assert by_name(certain, reference)[0]["is_efficientnet_lite2"].value == pytest.approx(10, rel=0.05)


@pytest.mark.parametrize("n_reference", [250, 300])
def test_the_order_of_the_images_changes_no_value(n_reference):
    a, b = features(250, 12), features(n_reference, 13, shift=0.2)
    rng = np.random.default_rng(14)
    assert by_name(a, b) == by_name(a[rng.permutation(250)], b[rng.permutation(n_reference)])


def test_the_order_is_random_and_the_seeds():
    a = features(500, 15)
    sums = a.features.sum(axis=1)
    first, second = (sums[canonical_order(a.features, seed)] for seed in (0, 1))
    assert not np.array_equal(first, second)
    assert abs(np.corrcoef(np.arange(500), first)[0, 1]) < 0.15


def test_blocks_have_nothing_to_do_with_ranks():
    """Rows of the same ranks in the same blocks of every data set would make every spread off by the same factor."""
    places = [np.argsort(mixed_order(x := np.sort(features(300, 40 + i).features, axis=0), 0)) for i in range(2)]
    assert abs(np.corrcoef(*places)[0, 1]) < 0.2
    assert not np.array_equal(mixed_order(x, 0), mixed_order(x, 1))


def test_inception_alone_has_the_standard_names():
    a, b = features(200, 16), features(200, 17)
    of_features = {f"{kind}_inception" for kind in NEIGHBOURHOOD_TITLES}
    assert set(by_name(a, b, "inception")[0]) == {"fid", "fid_infinity", "kid", "is", *of_features}
    ordinary = ("fd", "fd_infinity", "kd", "is", *NEIGHBOURHOOD_TITLES)
    assert set(by_name(a, b)[0]) == {f"{kind}_efficientnet_lite2" for kind in ordinary}
    assert metric_name("fd", "dinov2") == "fd_dinov2"
    assert metric_name("sfd", "inception") == "sfid"


def test_too_few_images_leave_a_metric_out_with_the_reason():
    values, reasons = by_name(features(19, 18), features(500, 19))
    assert set(values) == {"fd_efficientnet_lite2", "kd_efficientnet_lite2"}
    assert reasons["is_efficientnet_lite2"] == "It needs at least 100 images a side, here there are 19."
    # 8 parts of twice as many images as features
    assert reasons["fd_infinity_efficientnet_lite2"] == "It needs at least 96 images a side, here there are 19."
    assert reasons["coverage_efficientnet_lite2"] == "It needs at least 80 images a side, here there are 19."
    assert set(by_name(features(500, 20), features(15, 21))[0]) == {"is_efficientnet_lite2"}
    at_least = 100
    assert not {"fd", "kd", "is", *NEIGHBOURHOOD_TITLES} & set(
        by_name(features(at_least, 22), features(at_least, 23))[1]
    )


def test_what_an_extractor_does_not_give_is_refused_in_one_sentence():
    values, reasons = by_name(features(200, 30), features(200, 31))
    assert "cmmd_efficientnet_lite2" not in values
    assert reasons["cmmd_efficientnet_lite2"] == "It is defined on embeddings of clip, not of efficientnet_lite2."
    assert reasons["sfd_efficientnet_lite2"] == (
        "The extractor gives no spatial map, which the spatial Frechet distance needs."
    )
    assert "cmmd_clip" in by_name(features(200, 30), features(200, 31), "clip")[0]


def test_every_measure_comes_from_one_pass():
    """Features, logits and spatial map of one network are all that is read, for all kinds at once."""
    rng = np.random.default_rng(32)
    a, b = (
        Features(x.features, x.logits, rng.normal(size=(200, 9)).astype(np.float32))
        for x in (features(200, 33), features(200, 34))
    )
    values, reasons = by_name(a, b, "inception")
    assert {metric_name(kind, "inception") for kind in KINDS} - set(values) == {"cmmd_inception"} == set(reasons)
    assert values["sfid"].value == pytest.approx(frechet_distance(a.spatial, b.spatial), rel=1e-9)


def test_every_row_says_what_it_estimates_and_how_far_it_may_be_off():
    values, _ = by_name(features(500, 35), features(500, 36, shift=0.1))
    kinds = {name.removesuffix("_efficientnet_lite2"): value for name, value in values.items()}
    assert {kind for kind, value in kinds.items() if value.of.estimand == "population"} == {"kd", "fd_infinity"}
    assert {value.of.estimand for value in values.values()} == {"population", "expected at this n"}
    for kind, value in kinds.items():
        assert value.ci_low is not None, kind
        assert value.ci_low <= value.value <= value.ci_high, kind


def test_without_logits_there_is_no_inception_score():
    a = Features(features(200, 24).features, None)
    values, reasons = by_name(a, features(200, 25))
    assert "is_efficientnet_lite2" not in values
    assert reasons["is_efficientnet_lite2"] == "The extractor gives no logits, which the Inception-score formula needs."
    assert values["fd_efficientnet_lite2"].n == 200


def test_frechet_distance_of_reconstructions():
    a, b = features(50, 26), features(50, 27)
    found = reconstruction_frechet(a, b, "inception")
    assert (found.metric, found.n, found.of.estimand) == ("rfid", 50, "expected at this n")
    assert found.value == frechet_distance(a.features, b.features)
    assert found.ci_low < found.value < found.ci_high
    few = reconstruction_frechet(a[:3], b[:3], "efficientnet_lite2")
    assert few.metric == "rfd_efficientnet_lite2"
    assert "at least 16" in few.reason


def test_pairs_are_left_out_together():
    """Reconstructions that follow their images make a distance that varies far less than that of strangers."""
    a = features(200, 37)
    b = Features(a.features + 0.05 * features(200, 38).features, None)
    pairs = reconstruction_frechet(a, b, "inception")
    strangers = by_name(a, b, "inception")[0]["fid"]
    assert pairs.ci_high - pairs.ci_low < 0.2 * (strangers.ci_high - strangers.ci_low)


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak of memory as Linux tells it")
@pytest.mark.parametrize("sizes", [("2000", "2000", "1280"), ("4000", "4000", "768"), ("1500", "6000", "512")])
def test_the_memory_of_comparing_is_said_within_a_quarter(sizes):
    """In processes of their own, whose memory nothing else has grown."""
    script = Path(__file__).with_name("memory_of_comparing.py")
    run = subprocess.run([sys.executable, script, *sizes], capture_output=True, text=True, check=True)
    taken, said = map(int, run.stdout.split())
    assert said == pytest.approx(taken, rel=0.25)
