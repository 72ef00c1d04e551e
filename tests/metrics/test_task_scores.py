"""Task scores against plain loops, closed forms and scipy; intervals against repeated draws."""

import numpy as np
import pytest
from scipy.stats import binomtest

from ldm.metrics.task import MINIMUM, TASK_METRICS, shuffled_partners, task_score
from ldm.metrics.values import OTHER_CONDITIONS, REAL_IMAGES
from ldm.records import LeftOut


def test_a_partner_is_another_sample_and_every_sample_is_one_partner():
    for n in (2, 3, 50):
        partners = shuffled_partners(n, seed=1)
        assert sorted(partners.tolist()) == list(range(n))
        assert (partners != np.arange(n)).all()
    assert (shuffled_partners(50, 1) == shuffled_partners(50, 1)).all()
    assert (shuffled_partners(50, 1) != shuffled_partners(50, 2)).any()


def test_class_accuracy_has_the_interval_of_wilson_and_does_not_count_images_without_a_question():
    counts = np.zeros((60, 2), int)
    counts[:40, 1] = 1
    counts[:31, 0] = 1
    score = task_score("class_accuracy", counts)
    expected = binomtest(31, 40).proportion_ci(method="wilson")
    assert (score.value, score.n) == (31 / 40, 40)
    assert (score.ci_low, score.ci_high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert task_score("class_accuracy", counts, OTHER_CONDITIONS).metric == "shuffled_class_accuracy"
    every = np.ones((40, 2), int)
    assert task_score("class_accuracy", every).ci_low < 0.95


def test_layout_accuracy_is_the_share_of_boxes_not_of_images():
    counts = np.array([[1, 4], [1, 1], [0, 0], [3, 3]] * 10)
    score = task_score("layout_accuracy", counts)
    assert (score.value, score.n) == (pytest.approx(5 / 8), 30)


def test_mean_intersection_over_union_is_that_of_plain_loops():
    draw = np.random.default_rng(0)
    true = draw.integers(0, 3, (20, 8, 8))
    found = np.where(draw.random((20, 8, 8)) < 0.6, true, draw.integers(0, 5, (20, 8, 8)))
    counts = np.zeros((20, 3, 5), int)
    for image in range(20):
        for c in range(5):
            counts[image, :, c] = (
                ((found[image] == c) & (true[image] == c)).sum(),
                (found[image] == c).sum(),
                (true[image] == c).sum(),
            )
    ious = [((found == c) & (true == c)).sum() / ((found == c) | (true == c)).sum() for c in range(3)]
    score = task_score("semantic_miou", counts)
    assert score.value == pytest.approx(np.mean(ious), rel=1e-12)  # classes 3 and 4 are never asked for
    assert score.n == 20


def test_balanced_accuracy_is_that_of_plain_loops_and_leaves_out_what_too_few_name():
    draw = np.random.default_rng(1)
    named = draw.random((200, 3)) < (0.3, 0.1, 0.01)
    named[:, 2] = False
    named[:4, 2] = True
    found = draw.random((200, 3)) < np.where(named, 0.7, 0.2)
    rates = [(found[named[:, a], a].mean() + (~found[~named[:, a], a]).mean()) / 2 for a in (0, 1)]
    score = task_score("text_balanced_accuracy", np.stack([named, found], axis=1))
    assert score.value == pytest.approx(np.mean(rates), rel=1e-12)


@pytest.mark.parametrize("metric", TASK_METRICS)
def test_too_few_images_are_left_out_with_the_reason(metric):
    shape = {"semantic_miou": (MINIMUM - 1, 3, 2), "text_balanced_accuracy": (MINIMUM - 1, 2, 2)}
    left_out = task_score(metric, np.ones(shape.get(metric, (MINIMUM - 1, 2)), int), REAL_IMAGES)
    assert isinstance(left_out, LeftOut)
    assert left_out.metric == f"real_{metric}"
    assert f"at least {MINIMUM}" in left_out.reason


@pytest.mark.long
def test_the_jackknife_covers_the_expected_value_where_answers_within_an_image_agree():
    """Binomial intervals over boxes would cover it far less often: five boxes of an image share one fate."""
    draw = np.random.default_rng(2)
    covered = narrow = 0
    for _ in range(300):
        right = 5 * (draw.random(100) < 0.6)
        score = task_score("layout_accuracy", np.stack([right, np.full(100, 5)], axis=1))
        covered += score.ci_low <= 0.6 <= score.ci_high
        low, high = binomtest(int(right.sum()), 500).proportion_ci(method="wilson")
        narrow += low <= 0.6 <= high
    assert 0.91 <= covered / 300 <= 0.98
    assert narrow / 300 < 0.75


def test_the_order_of_the_images_hardly_moves_the_interval():
    """Images sorted by class, as a folder gives them: blocks are mixed before they are left out."""
    draw = np.random.default_rng(3)
    right = draw.random(500) < 0.5
    widths = []
    for order in (np.arange(500), np.argsort(right)):
        score = task_score("layout_accuracy", np.stack([right[order], np.ones(500)], axis=1))
        widths.append(score.ci_high - score.ci_low)
    assert widths[1] == pytest.approx(widths[0], rel=0.35)
    assert widths[0] == pytest.approx(2 * 1.96 * (0.25 / 500) ** 0.5, rel=0.35)
