"""The learning-rate rule at points where its value is known."""

import pytest

from ldm.training.rate import learning_rate_factor


@pytest.mark.parametrize(
    ("images_seen", "factor"),
    [(0, 0.01), (24, 0.25), (49, 0.5), (99, 1.0), (100, 1.0), (5_000, 1.0), (20_000, 1.0)],
)
def test_warm_up_is_linear_and_then_constant(images_seen, factor):
    assert learning_rate_factor(images_seen, 10_000, 100) == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize(
    ("images_seen", "factor"),
    [(0, 1.0), (2_500, 0.01 + 0.99 * 0.5 * (1 + 0.5**0.5)), (5_000, 0.505), (10_000, 0.01), (20_000, 0.01)],
)
def test_the_cosine_falls_to_a_hundredth_at_the_end(images_seen, factor):
    assert learning_rate_factor(images_seen, 10_000, 0, "cosine") == pytest.approx(factor, rel=1e-12)


def test_warm_up_and_cosine_multiply():
    both = learning_rate_factor(49, 1_000, 100, "cosine")
    assert both == pytest.approx(0.5 * learning_rate_factor(49, 1_000, 0, "cosine"), rel=1e-12)


def test_an_unknown_decay_is_refused():
    with pytest.raises(ValueError, match="learning-rate decay 'linear' is none of constant, cosine"):
        learning_rate_factor(0, 1, 1, "linear")
