"""What must lie above what among images that models made, of made-up distances."""

import pytest

from ldm.metrics.intervals import Interval
from ldm.metrics.ladder import HELD, OPEN, REVERSED
from ldm.metrics.model_ladder import (
    DECODED,
    GAUSSIAN,
    GAUSSIAN_ABOVE,
    MILESTONE,
    RISES,
    SAMPLES,
    SAMPLES_ABOVE,
    SATURATED_ABOVE,
    Made,
    checked,
    series,
    tau_of,
)


def made(kind: str, f: int, value: float, name: str = "kl", saturated: float | None = 0.02, seen: int | None = None):
    """A distance known to 0.1 to either side, of the first stage of that f."""
    return Made(kind, name, f, f"first stage {f}", 100, Interval(value, value - 0.1, value + 0.1), saturated, seen)


def found(*sets: Made) -> list[tuple[str, str, str, str]]:
    return [(one.check, one.worse.title, one.better.title, one.found) for one in checked(sets)]


def test_what_no_first_stage_made_lies_above_what_it_decoded():
    sets = [made(DECODED, 4, 1.0), made(GAUSSIAN, 4, 2.0), made(SAMPLES, 4, 1.05), made(SAMPLES, 4, 0.8, "vq")]
    decoded = "decoded kl f = 4"
    assert found(*sets) == [
        (GAUSSIAN_ABOVE, "Gaussian kl f = 4", decoded, HELD),
        (SAMPLES_ABOVE, "samples kl f = 4", decoded, OPEN),
        (SAMPLES_ABOVE, "samples vq f = 4", decoded, REVERSED),
    ]


def test_sets_of_other_first_stages_and_milestones_are_not_held_against_it():
    assert found(made(DECODED, 4, 1.0), made(SAMPLES, 8, 0.1), made(MILESTONE, 4, 0.1, seen=10)) == []


@pytest.mark.parametrize(("value", "verdict"), [(1.3, HELD), (1.1, OPEN), (0.7, REVERSED)])
def test_decoded_images_rise_with_f_step_by_step(value: float, verdict: str):
    sets = [made(DECODED, 16, 2.0), made(DECODED, 8, value), made(DECODED, 4, 1.0), made(DECODED, 8, 9.0, "vq")]
    assert found(*sets) == [
        (RISES, "decoded kl f = 8", "decoded kl f = 4", verdict),
        (RISES, "decoded kl f = 16", "decoded kl f = 8", HELD),
    ]
    rows = series(sets, DECODED)
    assert [[one.f for one in row] for row in rows] == [[4, 8, 16], [8]]
    assert tau_of(rows[0]) == pytest.approx(1 / 3 if verdict is REVERSED else 1)
    assert tau_of(rows[1]) is None


def test_saturated_samples_must_not_be_preferred_to_others_of_their_first_stage():
    soft, loud = made(SAMPLES, 4, 2.0, "v", 0.05), made(SAMPLES, 4, 1.0, "eps", 0.3)
    gaussian, elsewhere = made(GAUSSIAN, 4, 0.5, saturated=0.0), made(SAMPLES, 8, 3.0, "v", 0.0)
    assert found(soft, loud, gaussian, elsewhere) == [
        (SATURATED_ABOVE, "samples eps f = 4", "samples v f = 4", REVERSED),
        (SATURATED_ABOVE, "samples eps f = 4", "Gaussian kl f = 4", HELD),
    ]
    assert found(soft, made(SAMPLES, 4, 1.0, "eps", 0.14)) == []
    assert found(soft, made(SAMPLES, 4, 1.0, "eps", None)) == []


def test_milestones_are_a_series_for_each_training():
    sets = [made(MILESTONE, f, 1 / seen, seen=seen) for f in (8, 4) for seen in (20, 10)]
    rows = series(sets, MILESTONE)
    assert [[(one.f, one.images_seen) for one in row] for row in rows] == [[(8, 10), (8, 20)], [(4, 10), (4, 20)]]
    assert tau_of(rows[0]) == -1
    assert rows[0][0].title == "milestone kl f = 8 after 10 images"
