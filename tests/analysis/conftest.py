"""Fixtures of the tests of analysis."""

import pytest

from analysis import figures


@pytest.fixture
def one_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only quality_vs_f is drawn, for tests of what else a command writes: drawing takes longer than all of that."""
    monkeypatch.setattr(figures, "FIGURES", {"quality_vs_f": figures.FIGURES["quality_vs_f"]})
